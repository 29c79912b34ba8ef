use axum::{
    body::Body,
    http::{Request, Response, StatusCode},
};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;
use tributary_controller::routes;

use crate::world::{World, sha256, tenant, with};

async fn send(world: &World, method: &str, uri: &str, body: impl Into<Body>) -> Response<Body> {
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .body(body.into())
        .unwrap();
    routes(world.controller.clone())
        .oneshot(request)
        .await
        .unwrap()
}

async fn json(response: Response<Body>) -> Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

#[track_caller]
fn is_problem(response: &Response<Body>, status: StatusCode) {
    assert_eq!(response.status(), status);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
}

#[tokio::test]
async fn apply_get_and_delete() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    let body = Value::from(vec![f, j.clone()]).to_string();
    let response = send(&world, "POST", "/v1/apply?dryRun=true", body.clone()).await;
    assert_eq!(json(response).await[0]["action"], "created");
    assert_eq!(
        json(send(&world, "GET", "/v1/jobs", "").await).await,
        Value::from(Vec::<Value>::new())
    );

    let response = send(&world, "POST", "/v1/apply", body).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(json(response).await[1]["name"], "j");
    assert_eq!(
        json(send(&world, "GET", "/v1/jobs", "").await).await[0]["phase"],
        "running"
    );
    let manifest = json(send(&world, "GET", "/v1/jobs/j/manifest", "").await).await;
    assert_eq!(manifest["metadata"]["name"], "j");
    assert_eq!(manifest["spec"]["model"], j["spec"]["model"]);
    let function = json(send(&world, "GET", "/v1/functions/f", "").await).await;
    assert_eq!(
        (function["max_inputs"].as_u64(), &function["jobs"][0]),
        (Some(8), &"j".into())
    );

    is_problem(
        &send(&world, "DELETE", "/v1/functions/f", "").await,
        StatusCode::CONFLICT,
    );
    assert_eq!(
        send(&world, "DELETE", "/v1/jobs/j", "").await.status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        send(&world, "DELETE", "/v1/functions/f", "").await.status(),
        StatusCode::NO_CONTENT
    );
    is_problem(
        &send(&world, "DELETE", "/v1/jobs/j", "").await,
        StatusCode::NOT_FOUND,
    );
    is_problem(
        &send(&world, "GET", "/v1/functions/f", "").await,
        StatusCode::NOT_FOUND,
    );
    is_problem(
        &send(&world, "GET", "/v1/jobs/N%2FA/manifest", "").await,
        StatusCode::NOT_FOUND,
    );
}

#[tokio::test]
async fn tenants_are_got_and_deleted() {
    let world = World::new().await;
    let spec = serde_json::json!({"weight": 2.5, "jobs": {"max": 4}});
    let body = Value::from(vec![tenant("vision", &spec)]).to_string();
    let applied = json(send(&world, "POST", "/v1/apply", body).await).await;
    assert_eq!(applied[0]["kind"], "Tenant");
    let vision = serde_json::json!({"name": "vision", "revision": 1, "weight": 2.5, "jobs_max": 4, "jobs": []});
    let listed = json(send(&world, "GET", "/v1/tenants", "").await).await;
    assert_eq!(listed[0]["name"], "default");
    assert_eq!(listed[1], vision);
    let found = send(&world, "GET", "/v1/tenants/vision", "").await;
    assert_eq!(json(found).await, vision);

    let deleted = send(&world, "DELETE", "/v1/tenants/vision", "").await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    let gone = send(&world, "GET", "/v1/tenants/vision", "").await;
    is_problem(&gone, StatusCode::NOT_FOUND);
    let kept = send(&world, "DELETE", "/v1/tenants/default", "").await;
    is_problem(&kept, StatusCode::CONFLICT);
}

#[tokio::test]
async fn wrong_manifests_are_a_problem_that_lists_the_fields() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    let wrong = with(with(j, "/spec/quorom", 1), "/spec/rounds", 0);
    let response = send(
        &world,
        "POST",
        "/v1/apply",
        Value::from(vec![f, wrong]).to_string(),
    )
    .await;
    is_problem(&response, StatusCode::UNPROCESSABLE_ENTITY);
    let problem = json(response).await;
    assert_eq!(
        problem["type"],
        "https://tributary.dev/problems/invalid-manifest"
    );
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2);
    assert_eq!(problem["errors"][0]["manifest"], 1);

    for (uri, body) in [
        ("/v1/apply", "{}"),
        ("/v1/apply", "["),
        ("/v1/apply?dryrun=true", "[]"),
    ] {
        is_problem(
            &send(&world, "POST", uri, body).await,
            StatusCode::BAD_REQUEST,
        );
    }
    let large = vec![b' '; (16 << 20) + 1];
    is_problem(
        &send(&world, "POST", "/v1/apply", large).await,
        StatusCode::PAYLOAD_TOO_LARGE,
    );
}

#[tokio::test]
async fn blobs_are_what_their_name_says() {
    let world = World::new().await;
    let uri = |digest| format!("/v1/blobs/{digest}");
    let digest = sha256(b"right");
    is_problem(
        &send(&world, "HEAD", &uri(digest), "").await,
        StatusCode::NOT_FOUND,
    );
    is_problem(
        &send(&world, "PUT", &uri(digest), "wrong").await,
        StatusCode::UNPROCESSABLE_ENTITY,
    );
    is_problem(
        &send(&world, "HEAD", &uri(digest), "").await,
        StatusCode::NOT_FOUND,
    );
    is_problem(
        &send(&world, "PUT", "/v1/blobs/md5:00", "x").await,
        StatusCode::BAD_REQUEST,
    );

    let empty = send(&world, "PUT", &uri(sha256(b"")), "").await;
    assert_eq!(empty.status(), StatusCode::CREATED);

    // Twice is no error.
    for _ in 0..2 {
        assert_eq!(
            send(&world, "PUT", &uri(digest), "right").await.status(),
            StatusCode::CREATED
        );
    }
    let found = send(&world, "HEAD", &uri(digest), "").await;
    assert_eq!(
        (found.status(), &found.headers()["content-length"]),
        (StatusCode::OK, &"5".parse().unwrap())
    );
}
