//! The door: lets connections in, as many as there is room for.

use super::answer::Refused;
use super::connection;
use super::guests::{Guests, Place};
use super::hosts::Hosts;
use super::{Gateway, pace};
use axum::Router;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::warn;
use tributary_api::problem::Problem;

/// Connections that are told at a time that there is no room for them; more are closed without a word.
const REFUSING_MAX: usize = 16;
/// How long that may take.
const REFUSING: Duration = Duration::from_secs(1);
/// The time between two lines of the log about connections that were not taken.
const COMPLAINT: Duration = Duration::from_secs(60);

/// What is behind the door.
pub(crate) struct Door {
    /// Reads updates and partials itself; a server without one has its routes alone.
    pub gateway: Option<Gateway>,
    pub routes: Router,
    pub hosts: Hosts,
}

/// What a listener tells of its connections.
#[derive(Clone, Debug)]
pub struct DoorMetrics {
    connections: IntGauge,
    refused: IntCounterVec,
}

impl DoorMetrics {
    /// Registers the families.
    ///
    /// # Errors
    /// They are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let connections = IntGauge::new("tributary_connections", "Connections that are open.")?;
        let refused = Opts::new(
            "tributary_connections_refused_total",
            "Connections that were not taken: `limit`, because too many were open, or `system`, which had no descriptor \
             for one.",
        );
        let refused = IntCounterVec::new(refused, &["reason"])?;
        for reason in ["limit", "system"] {
            refused.with_label_values(&[reason]).reset();
        }
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self {
            connections,
            refused,
        })
    }
}

/// Serves routes alone, until `stop` says so.
pub async fn serve_routes(
    listener: TcpListener,
    hosts: Hosts,
    others: Router,
    metrics: DoorMetrics,
    stop: watch::Receiver<bool>,
) {
    let door = Door {
        gateway: None,
        routes: pace::bounded(others),
        hosts,
    };
    serve(listener, door, metrics, stop).await;
}

/// Serves connections until `stop` says so.
pub(crate) async fn serve(
    listener: TcpListener,
    door: Door,
    metrics: DoorMetrics,
    mut stop: watch::Receiver<bool>,
) {
    let mut entrance = Entrance {
        door: Arc::new(door),
        metrics,
        guests: Guests::new(),
        refusing: Arc::new(Semaphore::new(REFUSING_MAX)),
        connections: JoinSet::new(),
        full: Complaint::default(),
        failed: Complaint::default(),
    };
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => entrance.take(stream, peer.ip()).await,
                Err(error) => entrance.failed(&error).await,
            },
            Some(_) = entrance.connections.join_next(), if !entrance.connections.is_empty() => {}
            _ = stop.changed() => break,
        }
    }
    entrance.connections.shutdown().await;
}

struct Entrance {
    door: Arc<Door>,
    metrics: DoorMetrics,
    guests: Arc<Guests>,
    refusing: Arc<Semaphore>,
    connections: JoinSet<()>,
    full: Complaint,
    failed: Complaint,
}

impl Entrance {
    async fn take(&mut self, stream: TcpStream, peer: IpAddr) {
        // Answers are small and must not wait for more.
        let _ = stream.set_nodelay(true);
        match self.guests.place().await {
            Some(place) => {
                let (door, open) = (self.door.clone(), self.metrics.connections.clone());
                self.connections
                    .spawn(serve_one(stream, peer, door, place, open));
            }
            None => self.refuse(stream),
        }
    }

    fn refuse(&mut self, mut stream: TcpStream) {
        let most = self.guests.most();
        self.metrics.refused.with_label_values(&["limit"]).inc();
        if let Some(count) = self.full.another() {
            warn!(
                count,
                most, "connections were refused: as many are open as may be, and all have requests"
            );
        }
        let Ok(turn) = self.refusing.clone().try_acquire_owned() else {
            return;
        };
        let detail =
            format!("{most} connections are open, as many as may be; try again in a second");
        let problem = Problem::new(503, "too-many-connections", "Too many connections", detail);
        self.connections.spawn(async move {
            // The client may be gone.
            let refused = Refused::for_a_moment(problem);
            let _ = timeout(REFUSING, connection::refuse(&mut stream, refused)).await;
            drop(turn);
        });
    }

    /// No connection could be taken from the system.
    async fn failed(&mut self, error: &std::io::Error) {
        self.metrics.refused.with_label_values(&["system"]).inc();
        if let Some(count) = self.failed.another() {
            warn!(%error, count, "connections could not be accepted");
        }
        // Out of descriptors, most likely: let some connections end.
        self.guests.send_one_away();
        sleep(Duration::from_millis(50)).await;
    }
}

async fn serve_one(stream: TcpStream, peer: IpAddr, door: Arc<Door>, place: Place, open: IntGauge) {
    open.inc();
    let _count = Counted(open);
    connection::serve(stream, peer, &door, &place.guest).await;
}

/// One connection less, when it is dropped.
struct Counted(IntGauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Something that is worth a line in the log, but not each time.
#[derive(Default)]
struct Complaint {
    told: Option<Instant>,
    untold: u64,
}

impl Complaint {
    /// It has happened again; how often since the last line, if it is time for one.
    fn another(&mut self) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| told.elapsed() < COMPLAINT) {
            return None;
        }
        self.told = Some(Instant::now());
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_again_and_again_is_said_once_with_its_count() {
        let mut complaint = Complaint::default();
        assert_eq!(complaint.another(), Some(1));
        assert_eq!(complaint.another(), None);
        assert_eq!(complaint.another(), None);
        complaint.told = complaint.told.map(|told| told - COMPLAINT);
        assert_eq!(complaint.another(), Some(3));
    }
}
