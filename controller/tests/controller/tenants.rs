//! Tenants, and what they give their jobs.

use serde_json::{Value, json};
use tributary_api::status::TenantStatus;
use tributary_controller::Error;

use crate::world::{World, lines, tenant, with};

fn vision(weight: f64) -> Value {
    tenant("vision", &json!({ "weight": weight }))
}

/// A world in which job `j` is the tenant `vision`'s, and its manifest.
async fn running() -> (World, Value) {
    let world = World::new().await;
    let [f, j] = world.example().await;
    let j = with(j, "/spec/tenant", "vision");
    world.apply(&[f, vision(2.0), j.clone()]).await;
    world.node.take_log();
    (world, j)
}

/// `vision@1 2 [j]`.
fn shown(tenants: &[TenantStatus]) -> Vec<String> {
    let line = |t: &TenantStatus| format!("{}@{} {} {:?}", t.name, t.revision, t.weight, t.jobs);
    tenants.iter().map(line).collect()
}

#[tokio::test]
async fn a_job_has_its_tenants_weight_and_its_own_priority() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    let j = with(with(j, "/spec/tenant", "vision"), "/spec/priority", 7);
    // The job stands before what it needs.
    let results = world.apply(&[j, vision(2.5), f]).await;
    assert_eq!(
        lines(&results),
        [
            "created Job j@1",
            "created Tenant vision@1",
            "created Function f@1"
        ]
    );
    assert_eq!(world.node.sharing("j"), "vision 2.5 at 7");
    let status = world.controller.job("j").await.unwrap();
    assert_eq!(status.sharing.unwrap().weight, 2.5);
    let manifest = world.controller.manifest("j").unwrap();
    assert_eq!(
        (manifest.spec.tenant.as_str(), manifest.spec.priority),
        ("vision", 7)
    );
}

#[tokio::test]
async fn a_job_that_names_no_tenant_is_the_default_ones() {
    let world = World::new().await;
    let [f, j] = world.example().await;
    world.apply(&[f, j]).await;
    assert_eq!(world.node.sharing("j"), "default 1 at 0");
    assert_eq!(shown(&world.controller.tenants()), ["default@0 1 [\"j\"]"]);
    // Its weight is what a manifest says, as any other's.
    let results = world
        .apply(&[tenant("default", &json!({"weight": 4}))])
        .await;
    assert_eq!(lines(&results), ["created Tenant default@1"]);
    assert_eq!(world.node.sharing("j"), "default 4 at 0");
}

#[tokio::test]
async fn another_weight_reaches_the_running_job_without_a_restart() {
    let (world, j) = running().await;
    let results = world.apply(&[vision(5.0)]).await;
    assert_eq!(lines(&results), ["configured Tenant vision@2"]);
    let change = &results[0].diff[0];
    assert_eq!(
        (change.path.as_str(), &change.from, &change.to),
        ("spec.weight", &Some(2.0.into()), &Some(5.0.into()))
    );
    assert_eq!(world.node.take_log(), ["update j@1"]);
    assert_eq!(world.node.sharing("j"), "vision 5 at 0");

    // The same again is nobody's concern.
    world.apply(&[vision(5.0), j.clone()]).await;
    assert!(world.node.take_log().is_empty());

    world.apply(&[with(j, "/spec/priority", -2)]).await;
    assert_eq!(
        world.node.take_log(),
        ["dev.tributary.job.applied j", "update j@2"]
    );
    assert_eq!(world.node.sharing("j"), "vision 5 at -2");
}

#[tokio::test]
async fn a_job_changes_its_tenant_while_it_runs() {
    let (world, j) = running().await;
    let speech = tenant("speech", &json!({"weight": 3}));
    world
        .apply(&[speech, with(j, "/spec/tenant", "speech")])
        .await;
    assert_eq!(
        world.node.take_log(),
        ["dev.tributary.job.applied j", "update j@2"]
    );
    assert_eq!(world.node.sharing("j"), "speech 3 at 0");
    assert_eq!(
        shown(&world.controller.tenants()),
        ["default@0 1 []", "speech@1 3 [\"j\"]", "vision@1 2 []"]
    );
}

#[tokio::test]
async fn a_dry_run_changes_no_weight() {
    let (world, _) = running().await;
    let results = world.controller.apply(&[vision(9.0)], true).await.unwrap();
    assert_eq!(lines(&results), ["configured Tenant vision@2"]);
    assert!(world.node.take_log().is_empty());
    assert_eq!(world.controller.tenant("vision").unwrap().weight, 2.0);
}

#[tokio::test]
async fn a_tenant_that_is_not_there_is_named_with_the_nearest() {
    let (world, j) = running().await;
    for (name, hint) in [
        ("visoin", "did you mean vision?"),
        ("zzz", "apply its manifest first, or together with this one"),
    ] {
        let errors = world
            .refused(&[vision(9.0), with(j.clone(), "/spec/tenant", name)])
            .await;
        assert_eq!(
            (errors[0].manifest, errors[0].path.as_str()),
            (1, "spec.tenant")
        );
        let message = format!("there is no tenant {name}; {hint}");
        assert_eq!(errors[0].message, message);
    }
    // All or none: the tenant's manifest was right.
    assert_eq!(world.controller.tenant("vision").unwrap().weight, 2.0);
    let errors = world.refused(&[with(j, "/spec/priority", 101)]).await;
    assert_eq!(
        errors[0].to_string(),
        "spec.priority: must be at most 100, is 101"
    );
}

#[tokio::test]
async fn tenants_in_use_are_not_deleted() {
    let (world, j) = running().await;
    let error = world.controller.delete_tenant("vision").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "tenant vision is used by job j; delete the jobs, or give them another tenant, first"
    );
    assert_eq!(error.problem().slug(), "in-use");

    let mut other = j;
    other["spec"].as_object_mut().unwrap().remove("tenant");
    world.apply(&[other]).await;
    world.controller.delete_tenant("vision").await.unwrap();
    let error = world.controller.delete_tenant("vision").await.unwrap_err();
    assert_eq!(error.problem().slug(), "unknown-tenant");
    let world = world.restarted().await;
    assert_eq!(shown(&world.controller.tenants()), ["default@0 1 [\"j\"]"]);
    // A revision's number never means two things.
    let results = world.apply(&[vision(2.0)]).await;
    assert_eq!(lines(&results), ["created Tenant vision@2"]);
}

#[tokio::test]
async fn the_default_tenant_is_not_deleted() {
    let world = World::new().await;
    let error = world.controller.delete_tenant("default").await;
    let Err(error @ Error::DefaultTenant(_)) = error else {
        panic!("deleted: {error:?}")
    };
    assert_eq!(error.problem().status, 409);
}

#[tokio::test]
async fn tenants_survive_the_process() {
    let (world, _) = running().await;
    world.apply(&[vision(0.07)]).await;
    let world = world.restarted().await;
    assert_eq!(
        world.node.take_log(),
        ["deploy f@1", "start j@1 v1 with f@1"]
    );
    assert_eq!(world.node.sharing("j"), "vision 0.07 at 0");
    assert_eq!(
        shown(&world.controller.tenants()),
        ["default@0 1 []", "vision@2 0.07 [\"j\"]"]
    );
}

#[tokio::test]
async fn a_tenant_has_no_more_jobs_than_it_may() {
    let (world, j) = running().await;
    let limited = |max: u32| tenant("vision", &json!({"weight": 2, "jobs": {"max": max}}));
    let named = |name: &str| with(j.clone(), "/metadata/name", name);
    world.apply(&[limited(2), named("k")]).await;

    let errors = world.refused(&[named("k"), named("l")]).await;
    assert_eq!(errors.len(), 1);
    assert_eq!(
        (errors[0].manifest, errors[0].path.as_str()),
        (1, "spec.tenant")
    );
    assert_eq!(
        errors[0].message,
        "tenant vision would have 3 jobs, and may have 2; raise its spec.jobs.max, delete a job of it, or name \
         another tenant"
    );
    assert_eq!(world.controller.jobs().await.unwrap().len(), 2);

    let errors = world.refused(&[limited(1)]).await;
    assert_eq!(
        errors[0].to_string(),
        "spec.jobs.max: tenant vision would have 2 jobs, and may have 1; raise it, or delete jobs first"
    );

    // Together with room for it, it is taken; and what is there already can change.
    world.apply(&[named("l"), limited(3)]).await;
    world.apply(&[with(j, "/spec/priority", 1)]).await;
    assert_eq!(world.controller.tenant("vision").unwrap().jobs.len(), 3);
}
