//! How slowly a body may come.
//!
//! A body has a credit of time. Waiting for its bytes spends it, and each byte earns what it takes at the least rate.
//! So no more than the credit is ever waited in vain, neither at the beginning nor after a burst. Time in which the
//! server has something else to do is not the client's and is not counted.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::MethodRouter;
use axum::{BoxError, Router};
use http_body::{Body as _, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};
use tributary_api::manifest::IngestSpec;
use tributary_api::problem::Problem;

/// An update's credit beyond one silence.
const GRACE: Duration = Duration::from_secs(5);
/// How a request with anything but an update must come.
const CONTROL: Pace = Pace {
    idle: Duration::from_secs(10),
    credit: Duration::from_secs(10),
    bytes_per_second: 64 << 10,
};

/// What is asked of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The longest silence.
    pub idle: Duration,
    pub credit: Duration,
    pub bytes_per_second: u64,
}

impl From<&IngestSpec> for Pace {
    fn from(ingest: &IngestSpec) -> Self {
        let idle = ingest.idle_timeout.duration();
        Self {
            idle,
            credit: idle + GRACE,
            bytes_per_second: ingest.min_rate.bytes(),
        }
    }
}

/// What a body may still wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credit {
    pace: Pace,
    left: Duration,
    /// The time in which bytes were waited for.
    pub waited: Duration,
}

impl Credit {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            left: pace.credit,
            waited: Duration::ZERO,
        }
    }

    /// How long the next bytes may take.
    pub(super) fn next(&self) -> Duration {
        self.left.min(self.pace.idle)
    }

    /// True if the next bytes have less time than a client may be silent.
    pub(super) fn is_low(&self) -> bool {
        self.left < self.pace.idle
    }

    /// So many bytes have come, after that time.
    pub(super) fn book(&mut self, waited: Duration, bytes: u64) {
        self.waited += waited;
        let earned = bytes as f64 / self.pace.bytes_per_second.max(1) as f64;
        // A longer time than the credit does not count.
        let earned = Duration::from_secs_f64(earned.min(self.pace.credit.as_secs_f64()));
        self.left = (self.left.saturating_sub(waited) + earned).min(self.pace.credit);
    }
}

/// The same routes; the bodies of their requests have to come within the time.
pub(super) fn bounded(routes: Router) -> Router {
    routes.layer(from_fn(bound))
}

/// As [`bounded`], for one path.
pub(super) fn bounded_method<S: Clone + Send + Sync + 'static>(
    route: MethodRouter<S, Infallible>,
) -> MethodRouter<S, Infallible> {
    route.layer(from_fn(bound))
}

async fn bound(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let late = Arc::new(AtomicBool::new(false));
    let request = request.map(|body| {
        Body::new(Bounded {
            body,
            credit: Credit::new(CONTROL),
            waiting: None,
            late: late.clone(),
        })
    });
    let response = next.run(request).await;
    if !late.load(Ordering::Relaxed) {
        return response;
    }
    let Pace {
        credit,
        bytes_per_second,
        ..
    } = CONTROL;
    let detail = format!(
        "the request's body came too slowly: it has {} s, and a second more for each {bytes_per_second} bytes",
        credit.as_secs()
    );
    super::routes::problem(&Problem::new(408, "slow-request", "Slow request", detail))
}

/// A body that fails when it comes too slowly.
struct Bounded {
    body: Body,
    credit: Credit,
    /// Since when its next bytes are waited for, and until when.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    late: Arc<AtomicBool>,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            let waited = this.waiting.take().map(|(since, _)| since.elapsed());
            let data = frame
                .as_ref()
                .and_then(|frame| frame.as_ref().ok()?.data_ref());
            let bytes = data.map_or(0, Bytes::len);
            this.credit.book(waited.unwrap_or_default(), bytes as u64);
            return Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)));
        }
        let time = this.credit.next();
        let (_, until) = this
            .waiting
            .get_or_insert_with(|| (Instant::now(), Box::pin(sleep(time))));
        ready!(until.as_mut().poll(context));
        this.late.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err("the body comes too slowly".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credit() -> Credit {
        Credit::new(Pace {
            idle: Duration::from_secs(4),
            credit: Duration::from_secs(10),
            bytes_per_second: 1000,
        })
    }

    #[test]
    fn a_body_that_keeps_the_rate_lasts_for_ever() {
        let mut credit = credit();
        for _ in 0..1000 {
            credit.book(Duration::from_secs(3), 3000);
            assert!(!credit.is_low());
        }
    }

    #[test]
    fn a_trickle_ends_with_the_credit() {
        let mut credit = credit();
        let mut bytes = 0;
        while credit.next() >= Duration::from_secs(1) {
            credit.book(Duration::from_secs(1), 1);
            bytes += 1;
        }
        assert!((10..12).contains(&bytes), "{bytes}");
        assert!(credit.is_low());
    }

    #[test]
    fn a_burst_earns_no_more_than_the_credit() {
        let mut credit = credit();
        credit.book(Duration::from_millis(1), u64::MAX);
        assert_eq!(credit.left, Duration::from_secs(10));
        credit.book(Duration::from_secs(60), 0);
        assert_eq!(credit.next(), Duration::ZERO);
    }
}
