//! Updates that events submit: brought to a node once, put off, or refused and told.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tributary_api::{
    Name,
    problem::Problem,
    reference::{Intake, Submission},
    status::UpdateReceipt,
};
use tributary_controller::{Publisher, submissions};
use tributary_store::{Backend, Bus, Message, Retention, Stream, embedded, nats};
use tributary_tests::nats::NatsServer;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a dead node had in hand comes again soon.
const RETENTION: Retention = Retention {
    age: Duration::from_secs(3600),
    duplicates: Duration::from_secs(120),
    acknowledge: Duration::from_secs(1),
};

/// A bus, and a node that takes what it is brought.
struct Scene {
    bus: Arc<dyn Bus>,
    refused: Stream<Result<Message, tributary_store::Error>>,
    _server: Option<NatsServer>,
}

/// A node that answers as it was told to, and says what it was brought.
struct FakeIntake {
    jobs: watch::Sender<BTreeSet<Name>>,
    answers: Mutex<VecDeque<Answer>>,
    brought: mpsc::UnboundedSender<Submission>,
}

enum Answer {
    Refuse(Problem),
    /// It is never done with it.
    Hang,
}

struct Node {
    intake: Arc<FakeIntake>,
    brought: mpsc::UnboundedReceiver<Submission>,
    task: JoinHandle<()>,
}

#[async_trait]
impl Intake for FakeIntake {
    async fn running(&self, known: &BTreeSet<Name>) -> BTreeSet<Name> {
        let mut jobs = self.jobs.subscribe();
        let others = jobs.wait_for(|jobs| jobs != known).await;
        others.unwrap().clone()
    }

    async fn submit(&self, job: &Name, submission: &Submission) -> Result<UpdateReceipt, Problem> {
        let answer = self.answers.lock().unwrap().pop_front();
        let _ = self.brought.send(submission.clone());
        match answer {
            Some(Answer::Refuse(problem)) => Err(problem),
            Some(Answer::Hang) => std::future::pending().await,
            None => Ok(UpdateReceipt {
                job: job.clone(),
                client: submission.client.clone(),
                round: submission.round,
                staleness: 0,
                slot_state: "ready".into(),
                contributors: 1,
            }),
        }
    }
}

impl Scene {
    async fn embedded() -> Self {
        let memory = embedded::memory(RETENTION).unwrap();
        Self::on(Arc::new(memory), None).await
    }

    async fn nats() -> Option<Self> {
        if !tributary_tests::nats::available() {
            return None;
        }
        let server = NatsServer::start();
        let options = nats::Options {
            servers: vec![server.url()],
            retention: RETENTION,
            ..nats::Options::default()
        };
        let backend = nats::connect(options).await.unwrap();
        Some(Self::on(Arc::new(backend), Some(server)).await)
    }

    async fn on(backend: Arc<dyn Backend>, server: Option<NatsServer>) -> Self {
        let bus = backend.bus().await.unwrap();
        let refused = bus.subscribe("events.update.refused.*").await.unwrap();
        Self {
            bus,
            refused,
            _server: server,
        }
    }

    fn node(&self, jobs: &[&str], answers: Vec<Answer>) -> Node {
        let (brought, received) = mpsc::unbounded_channel();
        let intake = Arc::new(FakeIntake {
            jobs: watch::Sender::new(names(jobs)),
            answers: Mutex::new(answers.into()),
            brought,
        });
        let (bus, taking) = (Arc::clone(&self.bus), Arc::clone(&intake));
        let publisher = Publisher::new(Arc::clone(&bus), "/nodes/n".into());
        let task = tokio::spawn(async move { submissions::take(bus, taking, &publisher).await });
        Node {
            intake,
            brought: received,
            task,
        }
    }

    async fn publish(&self, job: &str, id: &str, message: &str) {
        let (subject, message) = (format!("updates.{job}"), message.to_owned());
        self.bus
            .publish(&subject, id, message.into())
            .await
            .unwrap();
    }

    async fn submit(&self, job: &str, client: &str) {
        self.publish(job, client, &event(job, client).to_string())
            .await;
    }

    async fn next_refused(&mut self) -> Value {
        let message = soon(self.refused.next()).await.unwrap().unwrap();
        assert_eq!(message.subject, "events.update.refused.a");
        serde_json::from_slice(&message.payload).unwrap()
    }

    /// What is done does not come again.
    async fn is_done(&mut self, node: &mut Node) {
        // A slow machine may have acknowledged too late, once.
        for _ in 0..20 {
            tokio::time::sleep(RETENTION.acknowledge * 3 / 2).await;
            if node.brought.try_recv().is_err() {
                let refused = self.refused.next();
                assert!(timeout(Duration::ZERO, refused).await.is_err());
                return;
            }
        }
        panic!("it comes again and again");
    }
}

impl Node {
    /// The client whose update it was brought next.
    async fn next(&mut self) -> String {
        let submission = soon(self.brought.recv()).await.unwrap();
        submission.client.to_string()
    }
}

fn names(jobs: &[&str]) -> BTreeSet<Name> {
    jobs.iter().map(|job| job.parse().unwrap()).collect()
}

fn event(job: &str, client: &str) -> Value {
    json!({
        "specversion": "1.0", "id": client, "source": "/test", "subject": format!("jobs/{job}"),
        "type": "dev.tributary.update.submitted",
        "data": { "client": client, "round": 3, "url": format!("http://files/{client}") }
    })
}

fn refuse(status: u16, slug: &str) -> Answer {
    Answer::Refuse(Problem::new(status, slug, "T", "why"))
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.unwrap()
}

async fn what_is_submitted_is_brought_to_a_node(scene: Scene) {
    let clients: BTreeSet<String> = (0..20).map(|number| format!("c-{number}")).collect();
    for client in &clients {
        scene.submit("a", client).await;
    }
    let (mut one, mut other) = (scene.node(&["a"], vec![]), scene.node(&["a"], vec![]));
    let mut brought = BTreeSet::new();
    while brought != clients {
        brought.insert(
            tokio::select! { client = one.next() => client, client = other.next() => client },
        );
    }
    other.task.abort();
    scene.submit("a", "c-20").await;
    // What the other one had in hand may come again.
    while one.next().await != "c-20" {}
}

async fn what_passes_is_brought_again_and_what_does_not_is_told(mut scene: Scene) {
    let answers = vec![
        refuse(429, "no-slot"),
        refuse(409, "round-closing"),
        refuse(409, "wrong-round"),
    ];
    let mut node = scene.node(&["a"], answers);
    scene.submit("a", "c").await;
    for _ in 0..3 {
        assert_eq!(node.next().await, "c");
    }
    let refused = scene.next_refused().await;
    assert_eq!(refused["type"], "dev.tributary.update.refused");
    assert_eq!(
        (&refused["source"], &refused["subject"]),
        (&json!("/jobs/a"), &json!("jobs/a"))
    );
    let data = &refused["data"];
    assert_eq!(data["event"], json!({ "id": "c", "source": "/test" }));
    assert_eq!((&data["client"], &data["round"]), (&json!("c"), &json!(3)));
    assert_eq!(data["problem"]["status"], 409);
    scene.is_done(&mut node).await;
}

async fn nonsense_is_told_once_and_stops_nobody(mut scene: Scene) {
    let mut node = scene.node(&["a"], vec![]);
    let mut huge = event("a", "c");
    huge["type"] = "x".repeat(500_000).into();
    scene.publish("a", "1", "no json").await;
    scene.publish("a", "2", &huge.to_string()).await;
    scene.publish("a", "3", &event("b", "c").to_string()).await;
    // The same by another name is the same refusal.
    scene.publish("a", "4", "no json").await;
    scene.submit("a", "c").await;
    assert_eq!(node.next().await, "c");
    let mut details = Vec::new();
    for _ in 0..3 {
        let refused = scene.next_refused().await;
        let problem: Problem = serde_json::from_value(refused["data"]["problem"].clone()).unwrap();
        assert_eq!((problem.status, problem.slug()), (400, "malformed-event"));
        assert!(problem.detail.len() <= 1000);
        details.push(problem.detail);
    }
    assert!(
        details
            .iter()
            .any(|detail| detail.contains("write \"jobs/a\"")),
        "{details:?}"
    );
}

async fn what_a_dead_node_had_in_hand_is_brought_to_another(mut scene: Scene) {
    let mut dying = scene.node(&["a"], vec![Answer::Hang]);
    scene.submit("a", "c").await;
    assert_eq!(dying.next().await, "c");
    dying.task.abort();
    let _ = dying.task.await;
    let mut other = scene.node(&["a"], vec![]);
    assert_eq!(other.next().await, "c");
    scene.is_done(&mut other).await;
}

async fn jobs_are_served_while_they_run(scene: Scene) {
    let mut node = scene.node(&[], vec![]);
    scene.submit("a", "early").await;
    node.intake.jobs.send_replace(names(&["a", "b"]));
    assert_eq!(node.next().await, "early");
    scene.submit("b", "other").await;
    assert_eq!(node.next().await, "other");
    node.intake.jobs.send_replace(names(&["b"]));
    // It may still have got this one; then it drops it with the job.
    let mut elsewhere = scene.node(&["a"], vec![]);
    scene.submit("a", "moved").await;
    let moved =
        tokio::select! { client = elsewhere.next() => client, client = node.next() => client };
    assert_eq!(moved, "moved");
    scene.submit("b", "stayed").await;
    assert_eq!(node.next().await, "stayed");
}

/// Runs each case on each store.
macro_rules! on_each_bus {
    ($($case:ident),+) => {
        mod on_embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() { super::$case(super::Scene::embedded().await).await; })+
        }
        mod on_nats {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                if let Some(scene) = super::Scene::nats().await { super::$case(scene).await; }
            })+
        }
    };
}

on_each_bus!(
    what_is_submitted_is_brought_to_a_node,
    what_passes_is_brought_again_and_what_does_not_is_told,
    nonsense_is_told_once_and_stops_nobody,
    what_a_dead_node_had_in_hand_is_brought_to_another,
    jobs_are_served_while_they_run
);
