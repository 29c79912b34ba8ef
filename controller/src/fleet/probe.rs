//! Whether a node answers by itself: one that has lost its way to NATS lives, and its rounds go on.

use std::time::Duration;

use axum::http::{Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// A node that lives answers within this time; one whose process stands still, or whose link is cut, never does.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whether the gateway at `url` says that it lives.
pub(super) async fn answers(url: &str) -> bool {
    matches!(timeout(PATIENCE, ask(url)).await, Ok(Some(StatusCode::OK)))
}

async fn ask(url: &str) -> Option<StatusCode> {
    let url: Uri = url.parse().ok()?;
    let host = url
        .authority()
        .filter(|_| url.scheme_str() == Some("http"))?;
    let address = (host.host(), host.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get("/live").header(header::HOST, host.as_str());
    let request = request.body(Empty::<Bytes>::new()).ok()?;
    let asked = async move { sender.send_request(request).await.ok() };
    // The connection carries the request, and ends when its answer is there and nobody has another one.
    let (answer, _) = tokio::join!(asked, connection);
    answer.map(|answer| answer.status())
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use tokio::net::TcpListener;

    use super::*;

    async fn serve(routes: Router) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn who_serves_answers() {
        let url = serve(Router::new().route("/live", get(async || "live\n"))).await;
        assert!(answers(&url).await);
        assert!(answers(&format!("{url}/")).await);
    }

    #[tokio::test]
    async fn others_do_not() {
        assert!(!answers(&serve(Router::new()).await).await);
        for url in ["", "http://", "https://127.0.0.1:1", "http://127.0.0.1:1"] {
            assert!(!answers(url).await, "{url:?}");
        }
    }

    #[tokio::test]
    async fn who_stands_still_does_not() {
        // Connections come into being without the process.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        assert!(!answers(&url).await);
    }
}
