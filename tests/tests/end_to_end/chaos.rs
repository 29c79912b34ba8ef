//! Workers die at every step of the commit protocol and at any other moment: more than a thousand of
//! them in a run, and not a bit of any model changes.
//!
//! Where they die is drawn from a seed, which is told when a test fails; `TRIBUTARY_CHAOS_SEED` sets
//! another one. What the kernel makes of it (who comes along first) differs from run to run.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tributary_tests::connection::Connection;
use tributary_tests::fates::{self, Fate, Fates};
use tributary_tests::http::Client;
use tributary_tests::job::{read, updates};
use tributary_tests::random::Random;
use tributary_tests::reference::{exact, ordered};
use tributary_tests::scrape::Scrape;
use tributary_tests::tensors::{LARGE, SMALL, Shapes};
use tributary_tests::wait::until;
use tributary_tests::{Job, Manifest, Model, Server, Sidecar, on_both_sidecars, place, process};

on_both_sidecars![
    workers_die_at_every_failpoint_of_a_fold,
    workers_die_at_every_failpoint_of_a_merge,
    workers_die_at_every_failpoint_of_a_finish,
    workers_die_at_every_failpoint_between_steps,
    workers_die_at_any_moment,
    in_order_workers_die_at_every_failpoint,
    in_order_workers_die_at_any_moment,
    in_place_workers_die_at_every_failpoint,
    in_place_workers_die_at_any_moment,
];

/// A tree of seven leaves, three middles and a top; the last middle has one leaf, whose partial it
/// passes on.
const CLIENTS: u64 = 19;
const FAN_IN: usize = 3;
const WORKERS: usize = 2;
/// Rounds that differ; the rounds after them send the same updates again.
const DIFFERENT: u64 = 3;
/// Deaths at each failpoint, on each sidecar.
const KILLS_AT_A_FAILPOINT: usize = 6;
/// Deaths that wait at a failpoint in one round.
const KILLS_IN_A_ROUND: usize = 3;
/// Deaths at any moment, on each sidecar.
const KILLS_ANYWHERE: usize = 120;
/// A failpoint that is not passed so often in so many rounds is not passed.
const ROUNDS_MAX: u64 = 200;

fn seed() -> u64 {
    let given = std::env::var("TRIBUTARY_CHAOS_SEED").ok();
    given.map_or(20_261_121, |seed| seed.parse().expect("a number"))
}

/// How the sums are made, so that a model is known to the bit.
#[derive(Debug, Clone, Copy)]
enum Mode {
    /// The same in any order.
    Exact,
    /// In f32, in the order of arrival.
    Ordered,
    /// As above, into an accumulator of which there is no second one.
    InPlace,
}

impl Mode {
    fn manifest(self) -> Manifest {
        let round = format!("{{ expected: {CLIENTS} }}");
        let manifest = Manifest::fedavg("chaos", &round);
        match self {
            Self::Exact => manifest
                .with(&format!("tree: {{ fanIn: {FAN_IN} }}"))
                .with("accumulate: exact"),
            Self::Ordered => manifest
                .with("accumulate: f32")
                .with("determinism: ordered"),
            Self::InPlace => Self::Ordered.manifest().with("arena: { slots: 6 }"),
        }
    }

    /// What is changed in place has several parts for each of two threads, or little could be torn.
    fn shapes(self, usual: Shapes) -> Shapes {
        match self {
            Self::Exact | Self::Ordered => usual,
            Self::InPlace => &[("wide", &[1100, 1000])],
        }
    }

    fn reference(self, updates: &[(Model, f64)]) -> Model {
        match self {
            Self::Exact => exact(updates),
            Self::Ordered | Self::InPlace => ordered(updates),
        }
    }
}

/// The files that clients send in a round, and their weights.
type Files = Vec<(Vec<u8>, f64)>;

/// A job whose rounds are all known beforehand.
struct Scene {
    server: Server,
    fates: Fates,
    job: Job,
    connection: Connection,
    /// What clients send in a round, and the model that it makes.
    rounds: Vec<(Files, Model)>,
    /// The free slots before the first round.
    free: u32,
    round: u64,
    /// Deaths that must have been told.
    deaths: usize,
}

impl Scene {
    /// Starts a server, and lets each of the different rounds pass once without a death.
    fn calm(sidecar: Sidecar, mode: Mode, shapes: Shapes) -> Self {
        let (server, fates) = Server::with_failpoints(sidecar, WORKERS as u32);
        let job = server.deploy(&mode.manifest(), &Model::filled(shapes, 0.0));
        let rounds = (0..DIFFERENT).map(|round| {
            let updates = updates(shapes, CLIENTS, round);
            let files = updates
                .iter()
                .map(|(update, weight)| (update.file(), *weight));
            (files.collect(), mode.reference(&updates))
        });
        let mut scene = Self {
            connection: Connection::open(server.address()),
            rounds: rounds.collect(),
            free: job.free_slots(),
            fates,
            round: 0,
            deaths: 0,
            server,
            job,
        };
        for _ in 0..DIFFERENT {
            scene.play("without a death");
        }
        scene
    }

    /// Plays a round, and demands that nothing can be seen of what happens in it.
    fn play(&mut self, what: &str) {
        self.round += 1;
        let round = self.round;
        let (files, model) = &self.rounds[(round % DIFFERENT) as usize];
        let mut turned_away = 0;
        for (index, (file, weight)) in files.iter().enumerate() {
            let query = format!("?round={round}&weight={weight}");
            let path = self.job.update_path(&format!("client-{index}"), &query);
            // Where slots are few, a worker that is away for a second holds clients up.
            while self.connection.put(&path, file).status != 202 {
                turned_away += 1;
                self.connection = Connection::open(self.server.address());
            }
        }
        let path = format!("/v1/jobs/{}/model?after={round}&wait=60s", self.job.name());
        let told = format!("{what}, round {round}, seed {}", seed());
        let answer = self.connection.get(&path);
        assert_eq!(
            answer.status,
            200,
            "no model: {told}: {:?}",
            self.job.round(round)
        );
        let (version, made) = read(&answer);
        assert_eq!(version, round + 1, "{told}");
        assert!(
            made.bits() == model.bits(),
            "the model is another one: {told}"
        );
        let status = self.job.completed(round);
        assert_eq!(
            (
                status.accepted,
                status.contributors,
                status.rejected,
                status.error
            ),
            (CLIENTS as u32, CLIENTS as u32, turned_away, None),
            "{told}"
        );
        // The published model and the one before it.
        self.job.until_free(self.free - 1);
    }

    /// Plays rounds until enough workers have died at a failpoint.
    fn die_at(&mut self, failpoint: &str, random: &mut Random) {
        let failpoints: Vec<&str> = std::iter::once(failpoint)
            .chain(opener(failpoint))
            .collect();
        let mut died_here = 0;
        for _ in 0..ROUNDS_MAX {
            for failpoint in &failpoints {
                self.fates.put(failpoint, &drawn(random));
            }
            self.play(failpoint);
            for at in &failpoints {
                let died = KILLS_IN_A_ROUND - self.fates.clear(at);
                self.deaths += died;
                died_here += if *at == failpoint { died } else { 0 };
            }
            if died_here >= KILLS_AT_A_FAILPOINT {
                return;
            }
        }
        panic!(
            "in {ROUNDS_MAX} rounds only {died_here} workers died at {failpoint}, seed {}",
            seed()
        );
    }

    /// Demands that nobody has died but those who were meant to, and that nothing stays.
    fn finish(self) {
        let losses = || {
            self.server
                .scrape()
                .sum("tributary_worker_losses_total", &[])
        };
        until("every death is told", || losses() >= self.deaths as f64);
        assert_eq!(losses(), self.deaths as f64, "somebody else has died");
        self.server.finish();
    }
}

/// What must happen before a failpoint is passed at all: a worker leaves something behind.
fn opener(failpoint: &str) -> Option<&'static str> {
    match failpoint {
        "fold.overlap-released" | "adopt.superseded-released" => Some("fold.committed"),
        "merge.overlap-released" => Some("merge.committed"),
        _ => None,
    }
}

/// Deaths, each after some who pass.
fn drawn(random: &mut Random) -> Vec<Fate> {
    let mut fates = Vec::new();
    for _ in 0..KILLS_IN_A_ROUND {
        fates.extend(std::iter::repeat_n(Fate::Pass, random.below(3) as usize));
        fates.push(Fate::Kill);
    }
    fates
}

fn die_at_every(sidecar: Sidecar, mode: Mode, chosen: impl Fn(&str) -> bool) {
    let mut failpoints = fates::known();
    failpoints.retain(|failpoint| chosen(failpoint));
    assert!(failpoints.len() > 1, "{failpoints:?}");
    let mut scene = Scene::calm(sidecar, mode, mode.shapes(SMALL));
    let mut random = Random::new(seed());
    for failpoint in &failpoints {
        scene.die_at(failpoint, &mut random);
    }
    assert!(scene.deaths >= failpoints.len() * KILLS_AT_A_FAILPOINT);
    scene.finish();
}

/// The steps of the commit protocol; every other failpoint lies between them.
const STEPS: [&str; 4] = ["fold.", "merge.", "finish.", "in-place."];
/// No update is refused here.
const REFUSED: &str = "refused.";

fn workers_die_at_every_failpoint_of_a_fold(sidecar: Sidecar) {
    die_at_every(sidecar, Mode::Exact, |failpoint| {
        failpoint.starts_with(STEPS[0])
    });
}

fn workers_die_at_every_failpoint_of_a_merge(sidecar: Sidecar) {
    die_at_every(sidecar, Mode::Exact, |failpoint| {
        failpoint.starts_with(STEPS[1])
    });
}

fn workers_die_at_every_failpoint_of_a_finish(sidecar: Sidecar) {
    die_at_every(sidecar, Mode::Exact, |failpoint| {
        failpoint.starts_with(STEPS[2])
    });
}

fn workers_die_at_every_failpoint_between_steps(sidecar: Sidecar) {
    die_at_every(sidecar, Mode::Exact, |failpoint| {
        let elsewhere = STEPS.iter().chain([&REFUSED]);
        !elsewhere
            .into_iter()
            .any(|step| failpoint.starts_with(step))
    });
}

fn in_order_workers_die_at_every_failpoint(sidecar: Sidecar) {
    // One leaf takes all updates, so there is nothing to merge.
    die_at_every(sidecar, Mode::Ordered, |failpoint| {
        let elsewhere = [STEPS[1], STEPS[3], REFUSED];
        !elsewhere.iter().any(|step| failpoint.starts_with(step))
    });
}

fn in_place_workers_die_at_every_failpoint(sidecar: Sidecar) {
    die_at_every(sidecar, Mode::InPlace, |failpoint| {
        failpoint.starts_with(STEPS[3])
    });
}

fn in_place_workers_die_at_any_moment(sidecar: Sidecar) {
    die_anywhere(sidecar, Mode::InPlace);
}

/// Kills workers from outside, mostly one at a time, until enough have died. Waits for a step of work
/// in between: the pauses before new workers grow while nothing is done.
fn rampage(server: u32, client: &Client, done: &AtomicBool) -> usize {
    let steps = || {
        let scrape = Scrape::parse(&client.get("/metrics").expect(200).text());
        scrape.sum("tributary_aggregation_step_seconds_count", &[])
    };
    let (mut random, mut killed) = (Random::new(seed()), BTreeSet::new());
    while !done.load(Ordering::Relaxed) && killed.len() < KILLS_ANYWHERE {
        let before = steps();
        for _ in 0..=u64::from(random.below(4) == 0) {
            std::thread::sleep(Duration::from_micros(random.below(20_000)));
            let workers = process::workers_of(server);
            let drawn = random.bits() as usize;
            // One that is dying already may be found again.
            if !workers.is_empty() && process::kill(workers[drawn % workers.len()]) {
                killed.insert(workers[drawn % workers.len()]);
            }
        }
        while !done.load(Ordering::Relaxed) && steps() == before {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    killed.len()
}

fn die_anywhere(sidecar: Sidecar, mode: Mode) {
    let mut scene = Scene::calm(sidecar, mode, mode.shapes(LARGE));
    let (server, client) = (scene.server.pid(), scene.job.client().clone());
    let done = AtomicBool::new(false);
    scene.deaths = std::thread::scope(|scope| {
        let killer = scope.spawn(|| rampage(server, &client, &done));
        // However this ends, the killer does.
        let _end = OnDrop(|| done.store(true, Ordering::Relaxed));
        while !killer.is_finished() {
            assert!(scene.round < ROUNDS_MAX, "too few workers can be killed");
            scene.play("anywhere");
        }
        killer.join().unwrap()
    });
    assert!(scene.deaths >= KILLS_ANYWHERE);
    scene.finish();
}

/// Does something at the end of a scope, also when a test fails in it.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn workers_die_at_any_moment(sidecar: Sidecar) {
    die_anywhere(sidecar, Mode::Exact);
}

fn in_order_workers_die_at_any_moment(sidecar: Sidecar) {
    die_anywhere(sidecar, Mode::Ordered);
}

#[test]
fn a_run_kills_a_thousand_workers() {
    let (sidecars, modes) = (2, 3);
    let killed = fates::known().len() * KILLS_AT_A_FAILPOINT + modes * KILLS_ANYWHERE;
    assert!(killed * sidecars >= 1_000, "only {killed} on each sidecar");
}

/// What can be killed at chosen moments is another program: the one that is shipped has no failpoints.
#[test]
fn only_the_tests_binary_has_failpoints() {
    let found = |binary: &std::path::Path| {
        let bytes = fs::read(binary).unwrap();
        let within = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        within(b"TRIBUTARY_FAILPOINTS") || within(b"superseded-released")
    };
    assert!(
        found(&place::binary_with_failpoints()),
        "this test sees nothing"
    );
    assert!(
        !found(&place::binary()),
        "the ordinary binary has failpoints"
    );
}
