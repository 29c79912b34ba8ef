//! A generator of many small updates: one thread, one epoll, any number of kept connections with one request in flight
//! on each. It plays whole rounds, one after the other.

mod connection;
mod schedule;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;

use crate::client::Head;
use crate::{Model, Server, Update};
use connection::Connection;
use schedule::Schedule;

/// The job that [`Server::deploy`] applies.
const JOB: &str = "bench";
/// The token of the connection for news.
const NEWS: u64 = u64::MAX;

/// When updates are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Each as soon as a connection is free.
    Closed,
    /// So many a second, whatever the server does.
    Open {
        /// Updates a second.
        rate: f64,
    },
}

/// What a run has shown.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Updates that were accepted.
    pub updates: u64,
    /// From the first update to the last answer.
    pub seconds: f64,
    /// Seconds from the moment an update was due (closed: was sent) to its answer.
    pub latencies: Vec<f64>,
    /// Seconds from the answer to a round's last update to the news of its model.
    pub turnovers: Vec<f64>,
    /// How often an update was told to come again because no slot was free.
    pub sent_away: u64,
}

/// Connections to a job, and the round it is in.
#[derive(Debug)]
pub struct Load {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Asks for the next model, and waits for it.
    news: Connection,
    idle: Vec<usize>,
    in_flight: Vec<Option<Sent>>,
    body: Vec<u8>,
    clients: u32,
    round: u64,
    /// The round's clients that have been given out.
    begun: u32,
    /// Updates of the round that were accepted.
    accepted: u32,
    /// When the last one was.
    complete: Option<Instant>,
    again: Vec<Sent>,
}

/// An update on its way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    round: u64,
    client: u32,
    due: Instant,
}

impl Load {
    /// Connects to a server whose job is complete with `clients` updates a round.
    ///
    /// # Errors
    /// What the network says, or an answer that is no model.
    pub fn connect(
        server: &Server,
        model: &Model,
        clients: u32,
        connections: usize,
    ) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let open = |token: u64| -> Result<Connection> {
            let connection = Connection::open(server.address())?;
            let data = EventData::new_u64(token);
            epoll::add(&epoll, connection.stream(), data, EventFlags::IN)?;
            Ok(connection)
        };
        let opened = (0..connections as u64).map(open).collect::<Result<_>>()?;
        let mut news = open(NEWS)?;
        news.send(
            format_args!("GET /v1/jobs/{JOB}/model HTTP/1.1\r\nhost: bench"),
            &[],
        )?;
        let round = news.wait()?.version.context("a model has a version")?;
        let mut load = Self {
            epoll,
            connections: opened,
            news,
            idle: (0..connections).collect(),
            in_flight: vec![None; connections],
            body: Update::f32(model, 1).pieces().concat(),
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
    ///
    /// # Errors
    /// What the network says, or an update that is refused for good.
    pub fn drive(&mut self, pace: Pace, duration: Duration) -> Result<Run> {
        let started = Instant::now();
        let mut run = Run::default();
        let mut schedule = Schedule::new(pace, started, duration);
        let mut events = Vec::with_capacity(256);
        loop {
            self.send_due(&mut schedule)?;
            let now = Instant::now();
            if self.is_quiet() && schedule.is_over(now) {
                break;
            }
            let waits_for_clock = self.begun < self.clients && !self.idle.is_empty();
            let timeout = timespec(schedule.timeout(now, waits_for_clock));
            events.clear();
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout))?;
            for event in &events {
                self.ready(event, &mut run)?;
            }
        }
        run.seconds = started.elapsed().as_secs_f64();
        Ok(run)
    }

    /// Whether no update is on its way.
    fn is_quiet(&self) -> bool {
        self.idle.len() == self.connections.len() && self.again.is_empty()
    }

    /// Sends whatever is due, as far as connections are free and the round takes more.
    fn send_due(&mut self, schedule: &mut Schedule) -> Result<()> {
        while let Some(connection) = self.idle.last().copied() {
            let next = match self.again.pop() {
                Some(update) => Some(update),
                None if self.begun < self.clients => {
                    let (round, client) = (self.round, self.begun);
                    let due = schedule.next(Instant::now());
                    due.map(|due| Sent { round, client, due })
                }
                None => None,
            };
            let Some(update) = next else { return Ok(()) };
            self.begun = self.begun.max(update.client + 1);
            self.idle.pop();
            self.in_flight[connection] = Some(update);
            let Sent { round, client, .. } = update;
            let length = self.body.len();
            let head = format_args!(
                "PUT /v1/jobs/{JOB}/updates/client-{client}?round={round}&weight=1 HTTP/1.1\r\n\
                 host: bench\r\ncontent-length: {length}"
            );
            self.connections[connection].send(head, &self.body)?;
        }
        Ok(())
    }

    fn ready(&mut self, event: &Event, run: &mut Run) -> Result<()> {
        let token = event.data.u64();
        if token == NEWS {
            return match self.news.receive()? {
                Some(head) => self.news_came(head, run),
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
        self.answered(answer.status, update, run)
    }

    fn answered(&mut self, status: u16, update: Sent, run: &mut Run) -> Result<()> {
        match status {
            202 => {
                run.updates += 1;
                run.latencies.push(update.due.elapsed().as_secs_f64());
                // The next model may overtake the answer to the round's last update.
                self.accepted += u32::from(update.round == self.round);
                if self.accepted == self.clients {
                    self.complete = Some(Instant::now());
                }
            }
            429 => {
                run.sent_away += 1;
                self.again.push(update);
            }
            status => bail!(
                "an update of round {} was answered {status}: does another client send to this job?",
                update.round
            ),
        }
        Ok(())
    }

    fn ask_for_news(&mut self) -> Result<()> {
        let round = self.round;
        let head =
            format_args!("GET /v1/jobs/{JOB}/model?after={round}&wait=60s HTTP/1.1\r\nhost: bench");
        self.news.send(head, &[])
    }

    fn news_came(&mut self, answer: Head, run: &mut Run) -> Result<()> {
        if let Some(version) = answer.version {
            let complete = self.complete.take();
            // The last answer may still be on its way: then nobody waited.
            let turnover = complete.map_or(0.0, |at| at.elapsed().as_secs_f64());
            run.turnovers.push(turnover);
            self.round = version;
            (self.begun, self.accepted) = (0, 0);
        }
        self.ask_for_news()
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: time.as_secs().cast_signed(),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}
