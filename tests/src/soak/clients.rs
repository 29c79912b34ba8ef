//! Clients that go on whatever happens.
//!
//! They do what the Python client does: follow redirects and remember them, pass over who does not answer, wait where
//! they are told to, keep the update until there is a newer model, ask now and then whether a node still has it, and
//! send it again if none has. And they do what clients do at worst: they lose answers, and repeat what is long known.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use tributary_api::problem::Problem;
use tributary_api::status::{RoundPhase, RoundStatus};

use super::jobs::{JOBS, Job};
use super::ledger::Ledger;
use crate::cluster::address_of;
use crate::http::{Answer, Client as Door};
use crate::random::Random;
use crate::tensors::Model;

/// The longest wait for an answer: a node that is behind keeps an update for 10 s.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a request for the next model waits at a server.
const WAIT: &str = "2s";
/// How often a client asks whether its update is still there.
const ASKED: Duration = Duration::from_secs(4);
/// The shortest and the longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Redirects in a row after which a client takes a rest.
const REDIRECTS: u32 = 4;
/// One of so many answers is lost on the way, and one of so many updates is sent again for no reason.
const MISHAPS: u64 = 12;

/// What all clients together have met.
#[derive(Debug, Default)]
pub struct Tally {
    /// Updates that were taken.
    pub taken: AtomicU64,
    /// Updates that were sent again because no node had them.
    pub resent: AtomicU64,
    /// Of those, the ones whose round was over by then.
    pub lost: AtomicU64,
    /// Updates that were answered as known.
    pub repeated: AtomicU64,
    /// Requests without an answer.
    pub unanswered: AtomicU64,
    /// Redirects that were followed.
    pub redirected: AtomicU64,
    /// Times that a client had a newer model than the round that is open.
    pub ahead: AtomicU64,
    /// Rounds whose status was compared with their model.
    pub compared: AtomicU64,
}

/// All clients of all jobs.
#[derive(Debug)]
pub struct Crowd<'a> {
    doors: Vec<SocketAddr>,
    ledger: &'a Ledger,
    /// What they have met.
    pub tally: Tally,
    /// They end at once.
    pub stop: AtomicBool,
    /// For each job the last round in which its clients take part.
    last: Vec<AtomicU64>,
    out: AtomicUsize,
    fault: Mutex<Option<String>>,
}

impl<'a> Crowd<'a> {
    /// The clients of a cluster whose nodes are at those doors.
    #[must_use]
    pub fn new(doors: Vec<SocketAddr>, ledger: &'a Ledger) -> Self {
        Self {
            doors,
            ledger,
            tally: Tally::default(),
            stop: AtomicBool::new(false),
            last: JOBS.iter().map(|_| AtomicU64::new(u64::MAX)).collect(),
            out: AtomicUsize::new(JOBS.iter().map(|job| job.clients).sum()),
            fault: Mutex::default(),
        }
    }

    /// Lets all of them begin.
    pub fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        for (index, job) in JOBS.iter().enumerate() {
            for number in 0..job.clients {
                scope.spawn(move || {
                    let mut client = Client::new(self, job, &self.last[index], number);
                    if let Err(wrong) = client.live() {
                        let wrong = format!("{}: {wrong}", job.client(number));
                        self.fault
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .get_or_insert(wrong);
                    }
                    self.out.fetch_sub(1, Ordering::SeqCst);
                });
            }
        }
    }

    /// What went wrong with one of them, if anything did.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Lets each take part in two more rounds and no further one.
    pub fn send_home(&self, ledger: &Ledger) {
        for (job, last) in JOBS.iter().zip(&self.last) {
            last.store(ledger.newest(job) + 1, Ordering::SeqCst);
        }
    }

    /// Whether all have ended.
    #[must_use]
    pub fn is_home(&self) -> bool {
        self.out.load(Ordering::SeqCst) == 0
    }

    /// How it goes, in a line.
    #[must_use]
    pub fn progress(&self, since: Duration) -> String {
        let jobs = JOBS
            .iter()
            .map(|job| format!("{} at version {}", job.name, self.ledger.newest(job)));
        let jobs: Vec<String> = jobs.collect();
        let resent = self.tally.resent.load(Ordering::Relaxed);
        format!(
            "{} s: {}; {resent} updates sent again",
            since.as_secs(),
            jobs.join(", ")
        )
    }
}

/// One client.
struct Client<'a> {
    crowd: &'a Crowd<'a>,
    job: &'static Job,
    last: &'a AtomicU64,
    number: usize,
    random: Random,
    /// The version of the model that it trains from.
    version: u64,
    /// Where it asks; 307 leads to other places.
    place: SocketAddr,
    pause: Duration,
    redirects: u32,
}

/// What became of an update.
enum Sent {
    Taken,
    /// Its round is over; another one is open.
    Over {
        open: Option<u64>,
    },
    /// The client is to end.
    Ended,
}

/// What an answer calls for.
enum Next {
    /// It is for the caller.
    Take(Answer, Option<Problem>),
    /// The same again, here or elsewhere.
    Again,
}

impl<'a> Client<'a> {
    fn new(crowd: &'a Crowd<'a>, job: &'static Job, last: &'a AtomicU64, number: usize) -> Self {
        let mut random = Random::new((number * 31 + job.clients) as u64);
        let first = random.below(crowd.doors.len() as u64) as usize;
        Self {
            crowd,
            job,
            last,
            number,
            random,
            version: 1,
            place: crowd.doors[first],
            pause: PAUSES.0,
            redirects: 0,
        }
    }

    fn is_over(&self) -> bool {
        self.crowd.stop.load(Ordering::Relaxed)
    }

    /// Trains round after round.
    fn live(&mut self) -> Result<(), String> {
        while !self.is_over() && self.version <= self.last.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(
                self.random.below(self.job.training_ms),
            ));
            if self.random.below(MISHAPS) == 0 {
                self.repeat_old()?;
            }
            let trained = self.version;
            match self.push(trained)? {
                // It had a model that the others gave up with the node that made it.
                Sent::Over { open: Some(open) } if open < trained => {
                    count(&self.crowd.tally.ahead);
                    self.version = open;
                    continue;
                }
                Sent::Taken | Sent::Over { .. } => {}
                Sent::Ended => break,
            }
            self.wait_for_newer(trained)?;
        }
        Ok(())
    }

    /// Waits for a newer model, and sees to it that the update stays with a node until then.
    fn wait_for_newer(&mut self, trained: u64) -> Result<(), String> {
        let mut asked = Instant::now();
        let path = format!(
            "/v1/jobs/{}/model?after={trained}&wait={WAIT}",
            self.job.name
        );
        while !self.is_over() {
            let place = self.place;
            if let Next::Take(answer, _) = self.ask("GET", &path, &[])? {
                match answer.status {
                    200 => return self.train_from(&answer),
                    204 => {}
                    status => return Err(format!("the model: {status} {}", answer.text())),
                }
            }
            // Its node may be gone, or the update moved: both are reasons to ask at once.
            if asked.elapsed() > ASKED || place != self.place {
                asked = Instant::now();
                if !self.ensure(trained)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Goes on with a model that was handed out.
    fn train_from(&mut self, answer: &Answer) -> Result<(), String> {
        let version = answer
            .header("tributary-version")
            .and_then(|version| version.parse().ok());
        let version: u64 = version.ok_or("a model without a version")?;
        self.version = version;
        let Some(inside) = self.crowd.ledger.see(self.job, version, &answer.body)? else {
            return Ok(());
        };
        self.compare(version, inside)
    }

    /// Compares a round's status with how many are in its model. Only who led the round knows of all.
    fn compare(&mut self, version: u64, inside: usize) -> Result<(), String> {
        let round = version - 1;
        let path = format!("/v1/jobs/{}/rounds/{round}", self.job.name);
        let mut at = self.place;
        for _ in 0..REDIRECTS {
            let answer = Door::patient(at, ANSWER).try_send("GET", &path, &[], &[]);
            let Ok(answer) = answer else { return Ok(()) };
            match (answer.status, answer.header("location")) {
                (307, Some(location)) => at = address_of(location),
                (200, _) => {
                    let status: RoundStatus = answer.json();
                    let told = status.phase == RoundPhase::Completed && !status.shares.is_empty();
                    if told && self.crowd.ledger.variants(self.job, version) == 1 {
                        count(&self.crowd.tally.compared);
                        if status.contributors as usize != inside {
                            return Err(format!(
                                "the model of round {round} has {inside} updates, and its status says {}: {status:?}",
                                status.contributors
                            ));
                        }
                    }
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Asks whether a node has the update, and sends it again if none has. False if its round is over.
    fn ensure(&mut self, trained: u64) -> Result<bool, String> {
        let path = format!("{}?round={trained}", self.path());
        while !self.is_over() {
            let Next::Take(answer, problem) = self.ask("GET", &path, &[])? else {
                continue;
            };
            match (answer.status, slug(problem.as_ref())) {
                // It may have been in the round, and nobody can tell any more.
                (200, _) | (409, "stale-update") => return Ok(true),
                (404, "not-held") => {
                    count(&self.crowd.tally.resent);
                    let over = matches!(self.push(trained)?, Sent::Over { .. });
                    if over {
                        count(&self.crowd.tally.lost);
                    }
                    return Ok(true);
                }
                (status, slug) => {
                    return Err(format!("asked for round {trained}: {status} {slug}"));
                }
            }
        }
        Ok(false)
    }

    /// Sends something that was sent before, somewhere: it may be taken if it was not, and must not count twice.
    fn repeat_old(&mut self) -> Result<(), String> {
        let before = self.version.saturating_sub(1 + self.random.below(3));
        if before == 0 {
            return Ok(());
        }
        let doors = &self.crowd.doors;
        let place = doors[self.random.below(doors.len() as u64) as usize];
        let (path, file) = self.update(before);
        let answer = Door::patient(place, ANSWER).try_send("PUT", &path, &[], &file);
        match answer {
            Ok(answer) if answer.status >= 400 => {
                let problem: Option<Problem> = serde_json::from_slice(&answer.body).ok();
                match slug(problem.as_ref()) {
                    "other-bytes" | "function-failed" | "internal" => {
                        Err(format!("repeated for round {before}: {}", answer.text()))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Sends the update for a round until it is taken or the round is over.
    fn push(&mut self, trained: u64) -> Result<Sent, String> {
        let (path, file) = self.update(trained);
        while !self.is_over() {
            let Next::Take(answer, problem) = self.ask("PUT", &path, &file)? else {
                continue;
            };
            match (answer.status, slug(problem.as_ref())) {
                (200 | 202, _) if self.random.below(MISHAPS) == 0 => self.pass_over(),
                (status @ (200 | 202), _) => {
                    let tally = &self.crowd.tally;
                    count(if status == 200 {
                        &tally.repeated
                    } else {
                        &tally.taken
                    });
                    return Ok(Sent::Taken);
                }
                (409, "wrong-round" | "stale-update") => {
                    let open = problem.as_ref().and_then(|problem| {
                        problem
                            .extensions
                            .get("round")
                            .and_then(serde_json::Value::as_u64)
                    });
                    return Ok(Sent::Over { open });
                }
                _ => return Err(format!("for round {trained}: {}", answer.text())),
            }
        }
        Ok(Sent::Ended)
    }

    fn path(&self) -> String {
        let (job, client) = (self.job.name, self.job.client(self.number));
        format!("/v1/jobs/{job}/updates/{client}")
    }

    fn update(&self, trained: u64) -> (String, Vec<u8>) {
        let weight = self.job.weight(self.number);
        let path = format!("{}?round={trained}&weight={weight}", self.path());
        let update: Model = self.job.update((self.number, trained));
        (path, update.file())
    }

    /// One request. What only calls for another attempt is dealt with here.
    fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Next, String> {
        let answer = Door::patient(self.place, ANSWER).try_send(method, path, &[], body);
        let Ok(answer) = answer else {
            count(&self.crowd.tally.unanswered);
            self.pass_over();
            self.rest();
            return Ok(Next::Again);
        };
        if answer.status == 307 {
            count(&self.crowd.tally.redirected);
            self.place = answer.header("location").map_or(self.place, address_of);
            self.redirects += 1;
            if self.redirects.is_multiple_of(REDIRECTS) {
                self.rest();
            }
            return Ok(Next::Again);
        }
        let problem: Option<Problem> = (answer.status >= 400)
            .then(|| serde_json::from_slice(&answer.body).ok())
            .flatten();
        match (answer.status, slug(problem.as_ref())) {
            (404, "unknown-job") | (409, "job-failed") => self.pass_over(),
            (408 | 429 | 502..=504 | 507, _) | (409, "round-closing") => {}
            _ => {
                (self.pause, self.redirects) = (PAUSES.0, 0);
                return Ok(Next::Take(answer, problem));
            }
        }
        let told = answer.header("retry-after").and_then(|s| s.parse().ok());
        thread::sleep(Duration::from_secs(told.unwrap_or(0)));
        self.rest();
        Ok(Next::Again)
    }

    /// Asks elsewhere from now on.
    fn pass_over(&mut self) {
        let doors = &self.crowd.doors;
        let at = doors.iter().position(|door| *door == self.place);
        self.place = doors[(at.unwrap_or(0) + 1) % doors.len()];
    }

    /// Pauses that double.
    fn rest(&mut self) {
        thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(PAUSES.1);
    }
}

fn slug(problem: Option<&Problem>) -> &str {
    problem.map_or("", Problem::slug)
}

fn count(what: &AtomicU64) {
    what.fetch_add(1, Ordering::Relaxed);
}
