//! Clients that play rounds: over raw sockets, with bodies that lie ready, so that the machine works for the server.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process::Usage;
use crate::{Connection, Model, Server, Update};

/// The job that [`Server::deploy`] applies.
const JOB: &str = "bench";
/// How long a round may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// So many different updates are sent in turn: enough that none stays in a cache, few enough to fit in memory.
const UPDATES: usize = 4;

/// What a round cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// From the first byte of the first update to the first byte of the new model.
    pub seconds: f64,
    /// What the server's processes used meanwhile; with fetching, until all have the model.
    pub usage: Usage,
}

/// The clients of a job that closes its rounds when all are in.
#[derive(Debug)]
pub struct Clients<'a> {
    server: &'a Server,
    updates: Vec<Update>,
    count: usize,
    round: AtomicU64,
    bytes: AtomicU64,
}

impl<'a> Clients<'a> {
    /// Deploys a job for so many clients, and makes their updates.
    ///
    /// # Errors
    /// If the server refuses it.
    pub fn deploy(server: &'a Server, model: &Model, count: usize) -> Result<Self> {
        let expected = u32::try_from(count)?;
        server.deploy(model, expected, |_| ())?;
        Ok(Self::of(server, model, count))
    }

    /// The clients of a job that has been deployed already.
    #[must_use]
    pub fn of(server: &'a Server, model: &Model, count: usize) -> Self {
        let different = UPDATES.min(count) as u64;
        Self {
            server,
            updates: (1..=different)
                .map(|client| Update::f32(model, client))
                .collect(),
            count,
            round: AtomicU64::new(1),
            bytes: AtomicU64::new(0),
        }
    }

    /// Bytes of all updates that have been sent.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Plays the next round: all clients send, over so many connections; one waits for the model, and with `fetching`
    /// all of them then fetch it.
    ///
    /// # Errors
    /// If an update is refused, or there is no new model.
    pub fn round(&self, connections: usize, fetching: bool) -> Result<Cost> {
        let round = self.round.fetch_add(1, Ordering::Relaxed);
        let tree = self.server.tree();
        let start = Barrier::new(connections + 1);
        let mut waiter = self.server.connect()?;
        let before = tree.usage()?;
        thread::scope(|scope| {
            let senders: Vec<_> = (0..connections)
                .map(|index| {
                    let start = &start;
                    scope.spawn(move || self.play(index, connections, round, fetching, start))
                })
                .collect();
            start.wait();
            let started = Instant::now();
            let waited = wait_for_model(&mut waiter, round, || tree.usage());
            for sender in senders {
                let Ok(played) = sender.join() else {
                    bail!("a client has panicked");
                };
                played?;
            }
            let (arrived, then) = waited?;
            let after = if fetching { tree.usage()? } else { then };
            Ok(Cost {
                seconds: arrived.duration_since(started).as_secs_f64(),
                usage: after.since(&before),
            })
        })
    }

    /// One connection's share of a round.
    fn play(
        &self,
        index: usize,
        connections: usize,
        round: u64,
        fetching: bool,
        start: &Barrier,
    ) -> Result<()> {
        let connected = self.server.connect();
        // Before anything can fail: the others wait here.
        start.wait();
        let mut connection = connected?;
        for client in (index..self.count).step_by(connections) {
            self.send(&mut connection, client, round)?;
        }
        if fetching {
            let path = format!("/v1/jobs/{JOB}/model?after={round}&wait=60s");
            // The one that waited has fetched for one of them.
            let mine = (index..self.count).step_by(connections).count();
            for _ in usize::from(index == 0)..mine {
                connection.get_begun(&path)?.discard()?;
            }
        }
        Ok(())
    }

    fn send(&self, connection: &mut Connection, client: usize, round: u64) -> Result<()> {
        let update = &self.updates[client % self.updates.len()];
        let path = format!("/v1/jobs/{JOB}/updates/client-{client}?round={round}&weight=1");
        let answer = connection.send("PUT", &path, &update.pieces())?.success();
        answer.with_context(|| format!("client {client} in round {round}"))?;
        self.bytes.fetch_add(update.len(), Ordering::Relaxed);
        Ok(())
    }
}

/// Waits for the model that a round makes, and fetches it; when its first byte came, and what was used then.
fn wait_for_model(
    connection: &mut Connection,
    round: u64,
    usage: impl Fn() -> Result<Usage>,
) -> Result<(Instant, Usage)> {
    let started = Instant::now();
    let path = format!("/v1/jobs/{JOB}/model?after={round}&wait=60s");
    loop {
        let model = connection.get_begun(&path)?;
        match (model.status, model.first_byte) {
            (200, first_byte) => {
                let used = usage()?;
                model.discard()?;
                return Ok((first_byte, used));
            }
            // A minute is the longest that the server lets anybody wait.
            (204, _) if started.elapsed() < PATIENCE => {}
            (status, _) => bail!("no model after round {round}: {status}"),
        }
    }
}
