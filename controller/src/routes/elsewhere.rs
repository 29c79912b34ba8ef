//! What a process cannot answer itself, and who can: the controller that leads, or a job's node.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, Request, State},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use tributary_api::problem::Problem;
use tributary_store::Leadership;

use super::{Api, routes};
use crate::{Controller, Error, problem_response};

/// What a controller that is no node serves: its own routes, health, metrics, and the way to the nodes.
pub fn controller_routes(controller: Arc<Controller>) -> Router {
    let own = Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/jobs/{job}/updates/{client}", any(to_node))
        .route("/v1/jobs/{job}/updates/{client}/slot", any(to_node))
        .route("/v1/jobs/{job}/model", any(to_node))
        .route("/v1/jobs/{job}/rounds", any(to_node))
        .route("/v1/jobs/{job}/rounds/{round}", any(to_node))
        .with_state(Arc::clone(&controller));
    own.merge(routes(controller))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
}

/// What a node that is no controller adds to its own routes: the way to the controller that leads.
pub fn node_routes(office: Leadership) -> Router {
    let paths = [
        "/v1/apply",
        "/v1/blobs/{digest}",
        "/v1/jobs",
        "/v1/jobs/{job}",
        "/v1/jobs/{job}/manifest",
        "/v1/jobs/{job}/placement",
        "/v1/functions",
        "/v1/functions/{function}",
        "/v1/tenants",
        "/v1/tenants/{tenant}",
        "/v1/nodes",
        "/v1/nodes/{node}/drain",
    ];
    let routes = paths.into_iter().fold(Router::new(), |routes, path| {
        routes.route(path, any(to_controller))
    });
    let guide = Arc::new(Guide {
        office,
        known: tokio::sync::Mutex::default(),
    });
    routes.with_state(guide)
}

/// Whoever asks a node for what controllers answer does not cost a look into the store each time.
struct Guide {
    office: Leadership,
    /// Who led, and when that was looked up.
    known: tokio::sync::Mutex<Option<(Instant, String)>>,
}

/// How long it is taken for granted who leads. The one who did sends on whoever still comes.
const LEADER_KNOWN: Duration = Duration::from_secs(1);

impl Guide {
    async fn leader(&self) -> Result<String, Error> {
        let mut known = self.known.lock().await;
        if let Some((at, leader)) = &*known
            && at.elapsed() < LEADER_KNOWN
        {
            return Ok(leader.clone());
        }
        let leader = self.office.leader().await?;
        let leader = leader.ok_or(Error::NotLeading { leader: None })?;
        *known = Some((Instant::now(), leader.clone()));
        Ok(leader)
    }
}

/// Sends writes to the controller that leads. Blobs need nobody's lead.
pub(super) async fn to_leader(State(controller): Api, request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads || request.uri().path().starts_with("/v1/blobs/") {
        return next.run(request).await;
    }
    match controller.leading() {
        Ok(_) => next.run(request).await,
        Err(Error::NotLeading {
            leader: Some(leader),
        }) => see(&leader, request.uri()),
        Err(error) => error.into_response(),
    }
}

async fn to_controller(State(guide): State<Arc<Guide>>, uri: Uri) -> Response {
    match guide.leader().await {
        Ok(leader) => see(&leader, &uri),
        Err(error) => error.into_response(),
    }
}

async fn to_node(
    State(controller): Api,
    Path(parts): Path<Vec<(String, String)>>,
    uri: Uri,
) -> Response {
    // The job stands first in every one of these paths.
    let job = parts.into_iter().next().map(|(_, job)| job);
    node_of(&controller, job.unwrap_or_default(), &uri).await
}

async fn node_of(controller: &Controller, job: String, uri: &Uri) -> Response {
    if let Some(gateway) = controller.gateway(&job) {
        return see(&gateway, uri);
    }
    match controller.placement(&job).await {
        Ok(placement) => {
            let detail = format!("no node runs job {job}: {}", placement.reason);
            let mut response = problem_response(&Problem::new(503, "no-node", "No node", detail));
            let soon = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, soon);
            response
        }
        Err(error) => error.into_response(),
    }
}

/// The same request, at another server.
fn see(server: &str, uri: &Uri) -> Response {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let location = format!("{}{path}", server.trim_end_matches('/'));
    (
        StatusCode::TEMPORARY_REDIRECT,
        [(header::LOCATION, location)],
    )
        .into_response()
}

/// Whether it can do what it is asked: it follows the store, and leads or knows who does.
async fn ready(State(controller): Api) -> Response {
    match controller.hindrance() {
        None => "ready\n".into_response(),
        Some(why) => {
            let detail = format!("this controller is not ready: {why}");
            problem_response(&Problem::new(503, "not-ready", "Not ready", detail))
        }
    }
}

async fn metrics(State(controller): Api) -> Response {
    controller.observe();
    match controller.metrics().render() {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => {
            let detail = error.to_string();
            problem_response(&Problem::new(500, "metrics", "Metrics failed", detail))
        }
    }
}

async fn unknown(uri: Uri) -> Response {
    let detail = format!(
        "nothing is served at {}; docs/http.md lists what is",
        uri.path()
    );
    problem_response(&Problem::new(404, "unknown-path", "Unknown path", detail))
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let detail = format!(
        "{method} is not served at {}; docs/http.md lists what is",
        uri.path()
    );
    problem_response(&Problem::new(405, "wrong-method", "Wrong method", detail))
}
