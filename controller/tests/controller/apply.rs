use std::sync::atomic::Ordering;

use serde_json::json;
use tributary_api::{apply::Action, status::JobPhase};
use tributary_controller::Error;

use crate::world::{World, function, job, lines, model, with};

#[tokio::test]
async fn a_function_and_a_job_are_created_together() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    // The job stands before the function that it needs.
    let results = world.apply(&[j, f]).await;
    assert_eq!(lines(&results), ["created Job j@1", "created Function f@1"]);
    let log = world.node.take_log();
    assert_eq!(
        log,
        [
            "deploy f@1",
            "dev.tributary.job.applied j",
            "start j@1 v1 with f@1"
        ]
    );

    let status = world.controller.job("j").await.unwrap();
    assert_eq!(
        (status.phase, status.parameters, status.model_bytes),
        (JobPhase::Running, 6, 24)
    );
    let function = world.controller.function("f").unwrap();
    assert_eq!(
        function.jobs.iter().map(|j| j.as_str()).collect::<Vec<_>>(),
        ["j"]
    );
}

#[tokio::test]
async fn a_function_that_needs_a_configuration_is_kept_and_the_result_says_so() {
    let world = World::new().await;
    let module = world.upload(&b"\0asm needy"[..]).await;
    let results = world.apply(&[function("f", module)]).await;
    assert_eq!(lines(&results), ["created Function f@1"]);
    assert_eq!(
        results[0].notes,
        [
            "the function needs a configuration (`factor` is missing): it is proven when a job gives one"
        ]
    );
    assert_eq!(world.controller.function("f").unwrap().description, None);
}

#[tokio::test]
async fn applying_the_same_again_changes_nothing() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    world.apply(&[f.clone(), j.clone()]).await;
    world.node.take_log();
    let results = world.apply(&[f, j]).await;
    assert_eq!(
        lines(&results),
        ["unchanged Function f@1", "unchanged Job j@1"]
    );
    assert!(world.node.take_log().is_empty());
}

#[tokio::test]
async fn a_dry_run_checks_everything_and_changes_nothing() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    let results = world.controller.apply(&[f, j.clone()], true).await.unwrap();
    assert_eq!(lines(&results), ["created Function f@1", "created Job j@1"]);
    assert_eq!(world.node.take_log(), ["deploy f@1"]);
    assert!(world.controller.functions().is_empty());

    let refused = with(j, "/spec/function/config", json!({"refuse": "x"}));
    let outcome = world
        .controller
        .apply(&[world.example().await[0].clone(), refused], true)
        .await;
    assert!(matches!(outcome, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn one_wrong_manifest_refuses_all() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    let not_wasm = world.upload("text").await;
    let errors = world.refused(&[f, function("g", not_wasm), j]).await;
    assert_eq!(errors.len(), 1);
    assert_eq!(
        (errors[0].manifest, errors[0].path.as_str()),
        (1, "spec.module")
    );
    assert_eq!(errors[0].message, "the module is not WASM");
    assert!(world.controller.functions().is_empty());
    assert!(world.controller.jobs().await.unwrap().is_empty());
}

#[tokio::test]
async fn errors_name_the_manifest_and_the_field() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    let unknown = crate::world::sha256(b"never uploaded");
    let no_model = world.upload("no safetensors file").await;
    let cases = [
        (
            with(j.clone(), "/spec/quorom", 3),
            "spec.quorom",
            "unknown field `quorom`",
        ),
        (
            with(j.clone(), "/spec/function/name", "ff"),
            "spec.function.name",
            "there is no function ff; did you mean f?",
        ),
        (
            with(j.clone(), "/spec/model", json!({"path": "x"})),
            "spec.model.path",
            "the server cannot read paths",
        ),
        (
            with(j.clone(), "/spec/model/digest", unknown.to_string()),
            "spec.model",
            "upload it with PUT",
        ),
        (
            with(j.clone(), "/spec/model/digest", no_model.to_string()),
            "spec.model",
            "safetensors",
        ),
        (
            with(j.clone(), "/spec/function/config", json!({"refuse": 1})),
            "spec",
            "refuses its configuration",
        ),
        (f.clone(), "metadata.name", "Function f comes twice"),
    ];
    for (manifest, path, message) in cases {
        let errors = world.refused(&[f.clone(), manifest]).await;
        assert_eq!(
            (errors[0].manifest, errors[0].path.as_str()),
            (1, path),
            "{errors:?}"
        );
        assert!(errors[0].message.contains(message), "{errors:?}");
    }
}

#[tokio::test]
async fn what_can_change_under_a_running_job_is_updated() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    world.apply(&[f, j.clone()]).await;
    world.node.take_log();
    let results = world.apply(&[with(j, "/spec/round/deadline", "5s")]).await;
    assert_eq!(lines(&results), ["configured Job j@2"]);
    assert_eq!(results[0].diff.len(), 1);
    assert_eq!(
        (results[0].diff[0].path.as_str(), &results[0].diff[0].to),
        ("spec.round.deadline", &Some("5s".into()))
    );
    assert!(results[0].notes.is_empty());
    assert_eq!(
        world.node.take_log(),
        ["dev.tributary.job.applied j", "update j@2"]
    );
}

#[tokio::test]
async fn the_arithmetic_reaches_the_node_in_the_functions_configuration() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    let exact = with(
        with(j, "/spec/accumulate", "exact"),
        "/spec/determinism",
        "exact",
    );
    world.apply(&[f, exact.clone()]).await;
    let spec = world.node.jobs.lock().unwrap()["j"].0.spec.clone();
    assert_eq!(spec.function.config["accumulate"], "exact");
    assert_eq!(spec.determinism.as_str(), "exact");
    let refused = with(exact, "/spec/function/config", json!({"accumulate": "f64"}));
    let places: Vec<_> = world
        .refused(&[refused])
        .await
        .into_iter()
        .map(|error| error.path)
        .collect();
    assert_eq!(
        places,
        ["spec.accumulate", "spec.function.config.accumulate"]
    );
}

#[tokio::test]
async fn what_cannot_change_restarts_the_job_at_its_newest_model() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    world.apply(&[f, j.clone()]).await;
    world.save(7, &model(&[("w", 4), ("b", 2)])).await;
    world.node.take_log();

    let results = world
        .apply(&[with(j.clone(), "/spec/tree", json!({"fanIn": 2}))])
        .await;
    assert!(results[0].notes[0].contains("restarted"), "{results:?}");
    assert_eq!(
        world.node.take_log(),
        [
            "dev.tributary.job.applied j",
            "stop j",
            "start j@2 v7 with f@1"
        ]
    );
}

#[tokio::test]
async fn another_first_model_is_refused() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    world.apply(&[f, j.clone()]).await;
    let mut other = model(&[("w", 4), ("b", 2)]);
    *other.last_mut().unwrap() = 1;
    for other in [other, model(&[("w", 4), ("b", 3)])] {
        let other = with(
            j.clone(),
            "/spec/model/digest",
            world.upload(other).await.to_string(),
        );
        let errors = world.refused(std::slice::from_ref(&other)).await;
        assert_eq!(errors[0].path, "spec.model");
        let message = &errors[0].message;
        assert!(
            message.contains("would change nothing: to begin anew delete the job first"),
            "{message}"
        );
        assert!(world.controller.apply(&[other], true).await.is_err());
    }
    assert_eq!(lines(&world.apply(&[j]).await), ["unchanged Job j@1"]);
}

#[tokio::test]
async fn a_dry_run_needs_no_files() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    let absent = crate::world::sha256(b"never uploaded").to_string();
    let unseen = [
        with(f.clone(), "/spec/module/digest", absent.clone()),
        with(j.clone(), "/spec/model/digest", absent.clone()),
    ];
    let results = world.controller.apply(&unseen, true).await.unwrap();
    assert_eq!(lines(&results), ["created Function f@1", "created Job j@1"]);
    for result in results {
        assert!(result.notes[0].contains("was not checked"), "{result:?}");
    }
    // What is in a file that is there is checked.
    let no_model = world.upload("no safetensors file").await;
    let wrong = [f, with(j, "/spec/model/digest", no_model.to_string())];
    assert!(world.controller.apply(&wrong, true).await.is_err());
    assert!(world.controller.functions().is_empty());
}

#[tokio::test]
async fn jobs_follow_their_function() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    world.apply(&[f, j]).await;
    world.node.take_log();
    let module = world.upload(&b"\0asm two"[..]).await;
    let results = world.apply(&[function("f", module)]).await;
    assert_eq!(
        lines(&results),
        ["configured Function f@2", "configured Job j@2"]
    );
    assert_eq!(results[1].diff[0].path, "function.revision");
    let log = world.node.take_log();
    assert_eq!(
        log,
        [
            "deploy f@2",
            "dev.tributary.job.applied j",
            "stop j",
            "start j@2 v1 with f@2"
        ]
    );
}

#[tokio::test]
async fn functions_in_use_are_not_deleted() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    world.apply(&[f.clone(), j.clone()]).await;
    let error = world.controller.delete_function("f").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "function f is used by job j; delete the jobs first"
    );
    assert_eq!(error.problem().status, 409);

    world.controller.delete_job("j").await.unwrap();
    world.controller.delete_function("f").await.unwrap();
    assert!(matches!(
        world.controller.delete_job("j").await,
        Err(Error::Unknown { .. })
    ));
    assert!(world.node.jobs.lock().unwrap().is_empty());

    // A revision's number never means two things.
    let results = world.apply(&[f, j]).await;
    assert_eq!(lines(&results), ["created Function f@2", "created Job j@2"]);
}

#[tokio::test]
async fn a_deleted_job_leaves_no_models() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    world.apply(&[f, j.clone()]).await;
    world.save(7, &model(&[("w", 4), ("b", 2)])).await;
    world.controller.delete_job("j").await.unwrap();
    assert!(!world.path().join("objects/models/j").exists());
    world.node.take_log();
    world.apply(&[j]).await;
    assert_eq!(world.node.take_log()[1], "start j@2 v1 with f@1");
}

#[tokio::test]
async fn a_job_that_cannot_start_says_why_and_is_tried_again() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    world.node.busy.store(true, Ordering::Relaxed);
    let results = world.apply(&[f, j]).await;
    assert_eq!(results[1].action, Action::Created);
    assert_eq!(results[1].notes, ["the job does not run: /dev/shm is full"]);
    let status = world.controller.job("j").await.unwrap();
    assert_eq!(
        (status.phase, status.last_error.as_deref()),
        (JobPhase::Failed, Some("/dev/shm is full"))
    );

    world.node.busy.store(false, Ordering::Relaxed);
    world.controller.reconcile().await;
    let status = world.controller.job("j").await.unwrap();
    assert_eq!((status.phase, status.last_error), (JobPhase::Running, None));
}

#[tokio::test]
async fn jobs_of_two_names_do_not_touch_each_other() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    let other = world.upload(model(&[("x", 9)])).await;
    world.apply(&[f, j, job("j-2", "f", other)]).await;
    world.node.take_log();
    world.controller.delete_job("j").await.unwrap();
    assert_eq!(
        world.node.take_log(),
        ["stop j", "dev.tributary.job.deleted j"]
    );
    assert_eq!(world.controller.jobs().await.unwrap().len(), 1);
}
