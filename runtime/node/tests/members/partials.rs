//! Partials on their way into the leader's slot. The test is the follower.

use crate::world::{JOB, SHAPES, World};
use serde_json::json;
use tributary_api::control::NodeControl as _;
use tributary_api::placement::Directive;
use tributary_api::stages::Awaited;
use tributary_api::status::RoundPhase;
use tributary_tests::connection::Connection;
use tributary_tests::http::Answer;
use tributary_tests::job::updates;
use tributary_tests::reference;
use tributary_tests::scrape::Scrape;
use tributary_tests::wait::until;

const EXACT: &str = r#", "function": { "name": "fedavg", "config": { "accumulate": "exact" } }"#;
const TOKEN: (&str, &str) = ("authorization", "Bearer told to members only");
/// Bytes of a partial of [`SHAPES`] in exact sums: a page of scalars, and an i64 for each element.
const PARTIAL_BYTES: usize = 4096 + 8 * 206_503;

/// The first node leads. The second is a member and does not run the job: the test reports and hands over in its name.
struct Scene {
    world: World,
    round: u64,
    attempt: u32,
}

impl Scene {
    /// Three updates make a round; two of them are at the leader.
    fn new() -> Self {
        Self::with(r#"{ "expected": 3 }"#)
    }

    fn with(round: &str) -> Self {
        let mut world = World::without_job(2, round, EXACT);
        let placement = world.placement(0, &[0, 1]);
        world.start_job(0, 1, &placement);
        Self {
            world,
            round: 1,
            attempt: 0,
        }
    }

    fn path(&self, what: &str) -> String {
        format!("/v1/jobs/{JOB}/members/{}/{what}", self.world.host(1).name)
    }

    fn partial(&self, contributors: u32) -> String {
        let (round, attempt) = (self.round, self.attempt);
        self.path(&format!(
            "partial?version={round}&attempt={attempt}&contributors={contributors}"
        ))
    }

    /// Tells that the follower has one update.
    fn report(&self, closed: bool) -> Directive {
        let report = json!({
            "node": self.world.host(1).name, "generation": 1, "version": self.round, "attempt": self.attempt,
            "accepted": 1, "contributors": 1, "closed": closed,
        });
        let headers = [TOKEN, ("content-type", "application/json")];
        let body = report.to_string().into_bytes();
        let answer = self
            .world
            .door(0)
            .send("POST", &self.path("report"), &headers, &body);
        answer.json()
    }

    /// Two updates at the leader and one at the follower: the round is closed. Gives the model that comes of it when the
    /// follower's partial is nothing but zeros.
    fn close(&self) -> Vec<u32> {
        let updates = updates(SHAPES, 2, self.round);
        for (client, update) in ["a", "b"].into_iter().zip(&updates) {
            self.world.push(0, client, self.round, update);
        }
        assert!(self.report(false).closed);
        assert!(!self.report(true).taken);
        reference::exact(&updates).bits()
    }

    fn until_leader_is_whole(&self) {
        until("the leader's own part is whole", || {
            let (node, job) = (&self.world.host(0).node, JOB.parse().unwrap());
            let status = self.world.runtime.block_on(node.job_status(&job)).unwrap();
            let own = |awaited: Awaited| awaited.handed_over_microseconds.len() == 1;
            status.awaited.is_some_and(own)
        });
    }

    fn connection(&self) -> Connection {
        Connection::open(self.world.host(0).address)
    }

    /// Hands over with the length told, so that the leader reads it straight into the slot.
    fn put(&self, connection: &mut Connection, target: &str, body: &[u8]) -> Answer {
        let length = format!("Content-Length: {}", body.len());
        connection.send_head(target, &[&bearer(), &length]);
        connection.send(body);
        connection.answer()
    }

    /// Hands over in chunks, which goes through hyper.
    fn put_chunked(&self, body: &[u8]) -> Answer {
        let mut connection = self.connection();
        let headers = [&bearer(), "Transfer-Encoding: chunked"];
        connection.send_head(&self.partial(1), &headers);
        for piece in body.chunks(100_000) {
            connection.send(format!("{:x}\r\n", piece.len()).as_bytes());
            connection.send(piece);
            connection.send(b"\r\n");
        }
        connection.send(b"0\r\n\r\n");
        connection.answer()
    }

    fn received(&self, family: &str) -> f64 {
        let text = self.world.door(0).get("/metrics").text();
        Scrape::parse(&text).sum(family, &[("fl_job", JOB), ("direction", "received")])
    }
}

fn bearer() -> String {
    format!("{}: {}", TOKEN.0, TOKEN.1)
}

#[test]
fn a_partial_is_copied_once_on_its_way_into_the_slot() {
    let mut scene = Scene::new();
    let expected = scene.close();
    let zeros = vec![0; PARTIAL_BYTES];
    let mut connection = scene.connection();
    let answer = scene.put(&mut connection, &scene.partial(1), &zeros);
    assert!(answer.json::<Directive>().taken);
    assert!(scene.world.model(0, 2).bits() == expected);
    let bytes = PARTIAL_BYTES as f64;
    assert_eq!(scene.received("tributary_partial_bytes_total"), bytes);
    assert_eq!(
        scene.received("tributary_partial_copied_bytes_total"),
        bytes
    );
    // The connection goes on, and what hyper reads is copied once more.
    assert_eq!(connection.get("/live").status, 200);
    scene.round = 2;
    let expected = scene.close();
    assert!(scene.put_chunked(&zeros).json::<Directive>().taken);
    assert!(scene.world.model(0, 3).bits() == expected);
    assert_eq!(
        scene.received("tributary_partial_copied_bytes_total"),
        3.0 * bytes
    );
}

#[test]
fn a_partial_that_breaks_off_or_goes_on_is_not_taken() {
    let scene = Scene::new();
    let expected = scene.close();
    // Anything but zeros, so that a trace of it would show in the model.
    let garbage = vec![7; PARTIAL_BYTES];
    let mut broken = scene.connection();
    let length = format!("Content-Length: {PARTIAL_BYTES}");
    broken.send_head(&scene.partial(1), &[&bearer(), &length]);
    broken.send(&garbage[..PARTIAL_BYTES - 1]);
    broken.finish();
    let problem = broken.answer().refused(400, "malformed-partial");
    assert!(problem.detail.contains("ends before"), "{}", problem.detail);
    for wrong in [&garbage[1..], &[&garbage[..], &[7]].concat()] {
        let mut connection = scene.connection();
        let head = format!("Content-Length: {}", wrong.len());
        connection.send_head(&scene.partial(1), &[&bearer(), &head]);
        // It is refused by its length: what is not read may not be taken.
        let _ = connection.try_send(wrong);
        let _ = connection.answer().refused(400, "malformed-partial");
        let _ = scene.put_chunked(wrong).refused(400, "malformed-partial");
    }
    assert_eq!(scene.received("tributary_partial_bytes_total"), 0.0);
    assert_eq!(scene.world.round(0, 1).phase, RoundPhase::Closing);
    let zeros = vec![0; PARTIAL_BYTES];
    let answer = scene.put(&mut scene.connection(), &scene.partial(1), &zeros);
    assert!(answer.json::<Directive>().taken);
    assert!(scene.world.model(0, 2).bits() == expected);
}

#[test]
fn a_follower_that_waits_to_be_asked_for_the_body_is_asked_only_if_it_is_wanted() {
    let scene = Scene::new();
    let expected = scene.close();
    let (zeros, wait) = (vec![0; PARTIAL_BYTES], "Expect: 100-continue");
    let length = format!("Content-Length: {PARTIAL_BYTES}");
    let mut stranger = scene.connection();
    stranger.send_head(&scene.partial(1), &[&length, wait]);
    let _ = stranger.answer().refused(403, "not-a-member");
    let mut connection = scene.connection();
    connection.send_head(&scene.partial(1), &[&bearer(), &length, wait]);
    assert_eq!(connection.answer().status, 100);
    connection.send(&zeros);
    assert!(connection.answer().json::<Directive>().taken);
    assert!(scene.world.model(0, 2).bits() == expected);
}

/// The follower's update was accepted before it heard of the close, and its report is on the way.
#[test]
fn a_round_that_its_leader_fills_alone_waits_for_what_others_have() {
    let scene = Scene::new();
    let updates = updates(SHAPES, 3, 1);
    for (client, update) in ["a", "b", "c"].into_iter().zip(&updates) {
        scene.world.push(0, client, 1, update);
    }
    scene.until_leader_is_whole();
    assert!(scene.report(true).closed);
    let answer = scene.put(
        &mut scene.connection(),
        &scene.partial(1),
        &vec![0; PARTIAL_BYTES],
    );
    assert!(answer.json::<Directive>().taken);
    assert!(scene.world.model(0, 2).bits() == reference::exact(&updates).bits());
    assert_eq!(scene.world.round(0, 1).contributors, 4);
}

/// A round has a number for each of its clients; numbers are bounded. Where nodes have accepted more than that, the
/// round begins anew instead of counting some of them or none.
#[test]
fn more_contributors_than_there_are_numbers_are_never_counted() {
    let mut scene = Scene::new();
    scene.close();
    let zeros = vec![0; PARTIAL_BYTES];
    let answer = scene.put(&mut scene.connection(), &scene.partial(1_000_000), &zeros);
    let problem = answer.refused(409, "other-part");
    assert!(problem.detail.contains("do not fit"), "{}", problem.detail);
    let status = scene.world.round(0, 1);
    assert_eq!((status.phase, status.accepted), (RoundPhase::Open, 0));
    assert!(status.error.unwrap().contains("do not fit"));
    scene.attempt = 1;
    let expected = scene.close();
    let answer = scene.put(&mut scene.connection(), &scene.partial(1), &zeros);
    assert!(answer.json::<Directive>().taken);
    assert!(scene.world.model(0, 2).bits() == expected);
    assert_eq!(scene.world.round(0, 1).contributors, 3);
}

/// A follower that lives and hands nothing over costs its own updates, and the round no more than its timeout.
#[test]
fn what_a_silent_follower_owes_is_lost_after_the_timeout() {
    let rule = r#""expected": 3, "quorum": 2, "deadline": "1h""#;
    let mut scene = Scene::with(&format!("{{ {rule} }}"));
    let expected = scene.close();
    scene.until_leader_is_whole();
    let timeout = format!(r#"{{ {rule}, "timeout": "2s" }}"#);
    scene.world.change_round(0, &timeout);
    assert!(scene.world.model(0, 2).bits() == expected);
    let status = scene.world.round(0, 1);
    assert_eq!((status.contributors, status.lost), (2, 1));
}

/// Where the quorum needs what it owes, the round begins anew, and says why.
#[test]
fn a_silent_follower_whose_updates_are_needed_costs_the_attempt() {
    let mut scene = Scene::with(r#"{ "expected": 3 }"#);
    let _ = scene.close();
    scene.until_leader_is_whole();
    let timeout = r#"{ "expected": 3, "timeout": "1ms" }"#;
    scene.world.change_round(0, timeout);
    until("the round has begun anew", || {
        let status = scene.world.round(0, 1);
        let lost = |error: String| error.contains("1 updates were lost with their nodes");
        status.phase == RoundPhase::Open && status.error.is_some_and(lost)
    });
}
