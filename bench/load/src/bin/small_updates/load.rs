//! The generator: one thread, one epoll, any number of connections.

use anyhow::{Context as _, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tributary_load::http::{Answer, Connection};
use tributary_load::job;
use tributary_load::sample::Sample;

/// When updates are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// Each as soon as a connection is free.
    Closed,
    /// So many a second, whatever the server does.
    Open { rate: f64 },
}

/// What a run measured.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub updates: u64,
    pub elapsed: Duration,
    /// From the moment an update was due (closed: was sent) to its answer.
    pub latency: Sample,
    pub rounds: u64,
    /// From the answer to a round's last update to the news of its model.
    pub turnover: Sample,
    /// Updates that were told to come again because no slot was free.
    pub no_slot: u64,
}

/// Connections to a job, and the round it is in.
pub(crate) struct Load {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Asks for the next model, and waits for it.
    news: Connection,
    idle: Vec<usize>,
    in_flight: Vec<Option<Update>>,
    body: Vec<u8>,
    clients: u32,
    round: u64,
    /// The round's clients that have been given out.
    begun: u32,
    /// Updates of the round that were accepted.
    accepted: u32,
    /// When the last one was.
    complete: Option<Instant>,
    again: Vec<Update>,
}

#[derive(Debug, Clone, Copy)]
struct Update {
    round: u64,
    client: u32,
    due: Instant,
}

/// The token of the connection for news.
const NEWS: u64 = u64::MAX;

impl Load {
    pub(crate) fn connect(
        address: SocketAddr,
        connections: usize,
        clients: u32,
        elements: usize,
    ) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let open = |token: u64| -> Result<Connection> {
            let connection = Connection::open(address)?;
            let data = EventData::new_u64(token);
            epoll::add(&epoll, connection.stream(), data, EventFlags::IN)?;
            Ok(connection)
        };
        let opened = (0..connections as u64).map(open).collect::<Result<_>>()?;
        let mut news = open(NEWS)?;
        news.send(
            format_args!("GET /v1/jobs/{}/model HTTP/1.1\r\nhost: bench", job::NAME),
            &[],
        )?;
        let round = news.wait()?.version.context("a model has a version")?;
        let mut load = Self {
            epoll,
            connections: opened,
            news,
            idle: (0..connections).collect(),
            in_flight: vec![None; connections],
            body: job::file(elements, |element| element as f32 * 0.001),
            clients,
            round,
            begun: 0,
            accepted: 0,
            complete: None,
            again: Vec::new(),
        };
        load.ask_for_news()?;
        Ok(load)
    }

    /// Sends updates for `duration`, then no more; waits for the last answers. The next run goes on in the round
    /// that this one leaves open.
    pub(crate) fn drive(&mut self, pace: Pace, duration: Duration) -> Result<Run> {
        let started = Instant::now();
        let mut run = Run::default();
        let mut schedule = Schedule {
            pace,
            started,
            until: started + duration,
            given: 0,
        };
        let mut events = Vec::with_capacity(256);
        loop {
            self.send_due(&mut schedule)?;
            let busy = self.idle.len() < self.connections.len() || !self.again.is_empty();
            if !busy && Instant::now() >= schedule.until {
                break;
            }
            let waits_for_clock = self.begun < self.clients && !self.idle.is_empty();
            let timeout = schedule.timeout(waits_for_clock);
            events.clear();
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout))?;
            for event in &events {
                self.ready(event, &mut run)?;
            }
        }
        run.elapsed = started.elapsed();
        Ok(run)
    }

    /// Sends whatever is due, as far as connections are free and the round takes more.
    fn send_due(&mut self, schedule: &mut Schedule) -> Result<()> {
        while let Some(connection) = self.idle.last().copied() {
            let next = match self.again.pop() {
                Some(update) => Some(update),
                None if self.begun < self.clients => {
                    let (round, client) = (self.round, self.begun);
                    schedule.next().map(|due| Update { round, client, due })
                }
                None => None,
            };
            let Some(update) = next else { return Ok(()) };
            self.begun = self.begun.max(update.client + 1);
            self.idle.pop();
            self.in_flight[connection] = Some(update);
            let head = format_args!(
                "PUT /v1/jobs/{}/updates/client-{}?round={}&weight=1 HTTP/1.1\r\nhost: bench\r\ncontent-length: {}",
                job::NAME,
                update.client,
                self.round,
                self.body.len()
            );
            self.connections[connection].send(head, &self.body)?;
        }
        Ok(())
    }

    fn ready(&mut self, event: &Event, run: &mut Run) -> Result<()> {
        let token = event.data.u64();
        if token == NEWS {
            return match self.news.receive()? {
                Some(answer) => self.news_came(answer, run),
                None => Ok(()),
            };
        }
        let connection = usize::try_from(token)?;
        let Some(answer) = self.connections[connection].receive()? else {
            return Ok(());
        };
        let update = self.in_flight[connection].take();
        let update = update.context("an answer without a request")?;
        self.idle.push(connection);
        match answer.status {
            202 => {
                run.updates += 1;
                run.latency.add(update.due.elapsed());
                // The next model may overtake the answer to the round's last update.
                self.accepted += u32::from(update.round == self.round);
                if self.accepted == self.clients {
                    self.complete = Some(Instant::now());
                }
            }
            429 => {
                run.no_slot += 1;
                self.again.push(update);
            }
            status => bail!("an update of round {} was answered {status}", self.round),
        }
        Ok(())
    }

    fn ask_for_news(&mut self) -> Result<()> {
        let head = format_args!(
            "GET /v1/jobs/{}/model?after={}&wait=60s HTTP/1.1\r\nhost: bench",
            job::NAME,
            self.round
        );
        self.news.send(head, &[])
    }

    fn news_came(&mut self, answer: Answer, run: &mut Run) -> Result<()> {
        if let Some(version) = answer.version {
            // The last answer may still be on its way: then nobody waited.
            let turnover = self
                .complete
                .take()
                .map_or(Duration::ZERO, |at| at.elapsed());
            run.turnover.add(turnover);
            run.rounds += 1;
            self.round = version;
            (self.begun, self.accepted) = (0, 0);
        }
        self.ask_for_news()
    }
}

/// When the updates of a run are due.
struct Schedule {
    pace: Pace,
    started: Instant,
    until: Instant,
    given: u64,
}

impl Schedule {
    fn due(&self, now: Instant) -> Instant {
        match self.pace {
            Pace::Closed => now,
            Pace::Open { rate } => self.started + Duration::from_secs_f64(self.given as f64 / rate),
        }
    }

    /// The next update's moment, if it has come and the run is not over.
    fn next(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let due = self.due(now);
        if due > now || due >= self.until {
            return None;
        }
        self.given += 1;
        Some(due)
    }

    /// How long to wait for answers before something else is due.
    fn timeout(&self, waits_for_clock: bool) -> Timespec {
        let now = Instant::now();
        let next = match self.pace {
            Pace::Open { .. } if waits_for_clock => self.due(now).min(self.until),
            Pace::Open { .. } | Pace::Closed => self.until,
        };
        // After the end, the last answers are waited for.
        let wait = match next.saturating_duration_since(now) {
            Duration::ZERO => Duration::from_millis(10),
            wait => wait,
        };
        Timespec {
            tv_sec: wait.as_secs().cast_signed(),
            tv_nsec: i64::from(wait.subsec_nanos()),
        }
    }
}
