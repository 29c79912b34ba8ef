//! What nodes tell of themselves, and what they learn, where there are many jobs.

use futures_util::StreamExt;
use tributary_store::Change;

use crate::{
    cluster::{BEAT, Cluster, Store, until},
    world::with,
};

on_both!(
    a_beat_is_small_however_many_jobs_a_node_has,
    who_has_no_part_in_a_job_learns_where_it_is,
);

async fn a_beat_is_small_however_many_jobs_a_node_has(store: Store) {
    let mut cluster = Cluster::new(store);
    let node = cluster.add("n1").await;
    let leader = cluster.leader("c1", 1).await;
    leader.apply(&leader.example().await).await;
    leader.members("j", &["n1"]).await;
    let backend = cluster.store.connect().await;
    let beats = backend.keys("nodes", Some(BEAT.believed)).await.unwrap();
    let mut beats = beats.watch("").await.unwrap();
    node.copy("j", 300);
    // Nobody wants them, so they are stopped: each one, which shows that the controller hears of all of them.
    let mut parts = 0;
    while node.jobs.lock().unwrap().len() > 1 {
        if let Some(Ok(Change::Put(_, beat))) = beats.next().await {
            assert!(beat.value.len() < 64 << 10, "{} bytes", beat.value.len());
            parts += usize::from(String::from_utf8_lossy(&beat.value).contains("\"span\""));
        }
    }
    assert!(parts > 0, "all fitted into one beat");
    leader.members("j", &["n1"]).await;
}

async fn who_has_no_part_in_a_job_learns_where_it_is(store: Store) {
    let mut cluster = Cluster::new(store);
    for name in ["n1", "n2"] {
        cluster.add(name).await;
    }
    let leader = cluster.leader("c1", 2).await;
    let [f, j] = leader.example().await;
    let j = with(
        j,
        "/spec/placement",
        serde_json::json!({"nodes": {"max": 1}}),
    );
    leader.apply(&[f, j]).await;
    let places = async || leader.controller.placement("j").await.unwrap().leader;
    let leads = until("a node that leads", async || places().await).await;
    let other = if leads.as_str() == "n1" { "n2" } else { "n1" };
    let elsewhere = || {
        cluster
            .node(other)
            .elsewhere
            .lock()
            .unwrap()
            .get("j")
            .cloned()
    };
    let way = until("the way to the job", async || elsewhere()).await;
    assert_eq!(way, format!("http://{leads}"));
    leader.controller.delete_job("j").await.unwrap();
    until("no way to a job that is gone", async || {
        elsewhere().is_none().then_some(())
    })
    .await;
}
