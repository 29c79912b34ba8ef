//! The local path: a client on this host writes its update into a slot itself.
//!
//! It asks for a slot, maps the arena's segment, writes there, and commits, all on one connection. **The connection
//! is the lease.** A slot is free for others only when its client cannot write any more by its own word (it has
//! committed the slot, or given it back) or by the kernel's: the connection has ended on the client's side. A process
//! that dies loses its memory before its files, so its last store comes before the end of its connections. Time ends
//! no lease, and neither does this side: while a lease is out, a silent connection is kept, and one that this side
//! has had enough of is watched until the client's side ends as well ([`Leases::end`]).

use super::Gateway;
use super::fill::Mark;
use super::ingest::{self, Address, Bytes, Sender, Taken};
use super::query;
use super::refusal::Refusal;
use super::told::Told;
use crate::job::Job;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tracing::warn;
use tributary_api::manifest::LocalPath;
use tributary_api::model::{Encoding, SlotLayout};
use tributary_api::status::SlotLease;
use tributary_api::{ClientName, Name};

/// How long a client waits while as many slots as may be are lent to others: it may send a body instead.
const TURN_PATIENCE: Duration = Duration::from_secs(1);

/// The leases of one connection.
pub(super) struct Leases {
    /// The client is on this host.
    local: bool,
    /// A second descriptor of the connection's socket, from the first lease on: whoever closes the first one, the
    /// end of the client's side is still seen.
    socket: Option<OwnedFd>,
    held: Vec<Held>,
}

/// A slot that the client holds, and for what it asked for it.
struct Held {
    ticket: String,
    /// Not kept alive by its leases: a job that is deleted goes.
    job: Weak<Job>,
    job_name: Name,
    job_number: u32,
    slot: u32,
    client: ClientName,
    round: u64,
    weight: f64,
    /// What the slot was filled with.
    mark: Mark,
    /// When its age is worth a word in the log; `None` once that has been said.
    overdue: Option<Instant>,
}

/// A client writes into the memory of its home only. Where that is, it learns when it sends a body.
async fn at_home(gateway: &Gateway, job: &Job, address: &Address) -> Result<(), Refusal> {
    let round = Told::from_query(&address.query)?.round;
    match gateway.check_home(job, &address.client()?, round).await {
        Err(Refusal::Elsewhere { .. }) => Err(Refusal::not_local(
            "another node takes this client's updates",
        )),
        other => other,
    }
}

/// A client writes by the layout that it has seen: it must be the job's.
fn check_layout(job: &Job, told: Option<&str>) -> Result<(), Refusal> {
    match told {
        Some(told) if told == job.fingerprint => Ok(()),
        Some(_) => Err(Refusal::OtherLayout {
            job: job.name.clone(),
        }),
        None => Err(Refusal::Malformed(
            "a request for a slot names the layout by which the client writes: add &layout= with the Tributary-Layout of \
             the model that it has pulled"
                .into(),
        )),
    }
}

/// Whoever reaches a loopback address may ask, also through a proxy on this host: only who can open the segment gets a slot.
fn check_proof(job: &Job, told: Option<&str>) -> Result<(), Refusal> {
    let proof = job.arena.proof();
    let hex: String = proof
        .bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // A comparison that stops early tells nothing of use: there are as many guesses as connections can be made.
    if told == Some(&hex) {
        return Ok(());
    }
    Err(Refusal::Unproven {
        segment: job.arena.name().to_owned(),
        proof,
    })
}

impl Leases {
    pub(super) fn new(peer: IpAddr) -> Self {
        Self {
            local: peer.to_canonical().is_loopback(),
            socket: None,
            held: Vec::new(),
        }
    }

    pub(super) fn are_out(&self) -> bool {
        !self.held.is_empty()
    }

    /// Lends a slot to the client at the other end of `stream`.
    pub(super) async fn ask(
        &mut self,
        gateway: &Gateway,
        address: &Address,
        stream: &TcpStream,
        keep_alive: bool,
    ) -> Result<SlotLease, Refusal> {
        let job = address.job(gateway)?;
        let lent = match at_home(gateway, &job, address).await {
            Ok(()) => self.lend(&job, address, stream, keep_alive).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = &lent {
            job.count_outcome(refusal.problem().slug());
        }
        lent
    }

    async fn lend(
        &mut self,
        job: &Arc<Job>,
        address: &Address,
        stream: &TcpStream,
        keep_alive: bool,
    ) -> Result<SlotLease, Refusal> {
        self.check_local(job, keep_alive)?;
        let client = address.client()?;
        let told = Told::from_query(&address.query)?;
        if told.ticket.is_some() {
            let why = "a request for a slot names none; `slot` belongs to the PUT that commits it";
            return Err(Refusal::Malformed(why.into()));
        }
        let (round, weight) = told.settled(job)?;
        check_layout(job, told.layout.as_deref())?;
        check_proof(job, told.proof.as_deref())?;
        ingest::check_sender(job, &client, round)?;
        self.keep_socket(stream)?;
        let turn = job.lease_turn(TURN_PATIENCE).await;
        let turn = turn.ok_or_else(|| Refusal::NoLease {
            job: job.name.clone(),
            most: job.plan.leases(),
        })?;
        // Memory is fast.
        let mut filling = ingest::claim(job, f64::INFINITY).await?;
        let mark = Mark::new(RandomState::new().build_hasher().finish());
        mark.fill(&mut filling).await;
        let (slot, offset) = (filling.slot(), filling.offset());
        let ticket = format!("{}-{slot}-{}", job.number, filling.generation());
        job.lend(filling, turn).map_err(|refusal| Refusal::Job {
            job: job.name.clone(),
            given: round,
            refusal,
        })?;
        self.held.push(Held {
            ticket: ticket.clone(),
            job: Arc::downgrade(job),
            job_name: job.name.clone(),
            job_number: job.number,
            slot,
            client,
            round,
            weight,
            mark,
            overdue: Some(Instant::now() + job.ingest().idle_timeout.duration()),
        });
        Ok(SlotLease {
            segment: job.arena.name().to_owned(),
            offset,
            bytes: job.layout.data_bytes(),
            ticket,
        })
    }

    fn check_local(&self, job: &Job, keep_alive: bool) -> Result<(), Refusal> {
        let name = &job.name;
        if !self.local {
            return Err(Refusal::not_local(
                "slots are lent to clients on the server's own host alone, over its loopback address",
            ));
        }
        if !keep_alive {
            return Err(Refusal::not_local(
                "a lease lasts as long as its connection, and this request closes it",
            ));
        }
        if job.ingest().local == LocalPath::Refuse {
            return Err(Refusal::not_local(format!(
                "job {name} lends no slots (spec.ingest.local: refuse)"
            )));
        }
        if job.plan.leases() == 0 {
            return Err(Refusal::not_local(format!(
                "job {name} has one slot for both updates and the finished model, and lends none"
            )));
        }
        Ok(())
    }

    fn keep_socket(&mut self, stream: &TcpStream) -> Result<(), Refusal> {
        if self.socket.is_none() {
            let second = stream.as_fd().try_clone_to_owned();
            self.socket = Some(second.map_err(|error| {
                Refusal::not_local(format!("the connection cannot hold a lease: {error}"))
            })?);
        }
        Ok(())
    }

    /// Takes an update that the client has written into its slot. It has the checks of any other.
    pub(super) async fn commit(
        &mut self,
        gateway: &Gateway,
        address: &Address,
    ) -> Result<Taken, Refusal> {
        let job = address.job(gateway)?;
        let outcome = self.commit_into(gateway, &job, address).await;
        ingest::count(&job, &outcome);
        outcome
    }

    async fn commit_into(
        &mut self,
        gateway: &Gateway,
        job: &Job,
        address: &Address,
    ) -> Result<Taken, Refusal> {
        let client = address.client()?;
        let told = Told::from_query(&address.query)?;
        let (round, weight) = told.settled(job)?;
        let sender = Sender {
            job,
            client,
            round,
            weight,
        };
        let held = self.take(&told.ticket.unwrap_or_default(), &sender)?;
        // From here on the slot is the gateway's alone: it is published or freed.
        let filling = job
            .end_lease(held.slot)
            .ok_or_else(|| Refusal::UnknownSlot(held.ticket.clone()))?;
        ingest::check_sender(job, &sender.client, round)?;
        let mut digest = sender.digest(gateway);
        ingest::target(job, weight)
            .check(&filling, held.mark, &mut digest)
            .await?;
        let bytes = job.layout.data_bytes();
        let layout = SlotLayout::new(Encoding::F32, job.layout.elements(), 0);
        let layout = layout.ok_or_else(|| Refusal::TooLarge(format!("{bytes} bytes")))?;
        let (sent, copied) = (bytes, 0);
        let bytes = Bytes { sent, copied };
        let taken = sender.enter(filling, layout, &digest, bytes).await?;
        job.count_local(&taken.0);
        Ok(taken)
    }

    /// Takes the lease of a ticket, if it is this sender's; else it stays.
    fn take(&mut self, ticket: &str, sender: &Sender<'_>) -> Result<Held, Refusal> {
        let at = self.position(ticket)?;
        let held = &self.held[at];
        if held.job_number != sender.job.number {
            // Another job's, or of the same name before it was started anew.
            return Err(Refusal::UnknownSlot(ticket.into()));
        }
        if (&held.client, held.round) != (&sender.client, sender.round) {
            return Err(Refusal::Malformed(format!(
                "slot {ticket} was asked for by client {} for round {}; commit it as that",
                held.client, held.round
            )));
        }
        if held.weight.to_bits() != sender.weight.to_bits() {
            return Err(Refusal::OtherWeight {
                asked: held.weight,
                given: sender.weight,
            });
        }
        Ok(self.held.swap_remove(at))
    }

    /// Frees a slot that the client does not want any more.
    pub(super) fn give_back(&mut self, address: &Address) -> Result<(), Refusal> {
        let mut pairs = query::pairs(&address.query);
        let ticket = match (pairs.next(), pairs.next()) {
            (Some((key, ticket)), None) if key == "ticket" => ticket,
            _ => {
                let why = "name the slot to give back: ?ticket= and nothing else";
                return Err(Refusal::Malformed(why.into()));
            }
        };
        let at = self.position(&ticket)?;
        self.held.swap_remove(at).give_back();
        Ok(())
    }

    fn position(&self, ticket: &str) -> Result<usize, Refusal> {
        let found = self.held.iter().position(|held| held.ticket == ticket);
        found.ok_or_else(|| Refusal::UnknownSlot(ticket.chars().take(40).collect()))
    }

    /// Waits for the client, however long it takes; says once of each lease that it takes long.
    pub(super) async fn wait<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let mut wait = std::pin::pin!(wait);
        while let Some(due) = self.held.iter().filter_map(|held| held.overdue).min() {
            match timeout_at(due, &mut wait).await {
                Ok(came) => return came,
                Err(_) => self.held.iter_mut().for_each(|held| held.warn(due)),
            }
        }
        wait.await
    }

    /// This side is done with the connection. What is out is given back when the client's side ends, too.
    ///
    /// If this is never called, or never ends, the slots stay as they are until their job ends: nobody can say
    /// whether they are still written.
    pub(super) async fn end(mut self) {
        let Some(socket) = self.socket.take().filter(|_| self.are_out()) else {
            return;
        };
        let Ok(mut stream) = TcpStream::from_std(socket.into()) else {
            return;
        };
        // The client is told that this is over; if it has gone before, there is nobody to tell.
        let _ = stream.shutdown().await;
        let mut scratch = vec![0; 16 << 10];
        let last = async { while stream.read(&mut scratch).await.is_ok_and(|read| read > 0) {} };
        self.wait(last).await;
        self.held.drain(..).for_each(Held::give_back);
    }
}

impl Held {
    fn give_back(self) {
        if let Some(job) = self.job.upgrade() {
            job.give_back(self.slot);
        }
    }

    fn warn(&mut self, now: Instant) {
        if self.overdue.take_if(|due| *due <= now).is_some() {
            warn!(
                job = %self.job_name, client = %self.client, round = self.round, slot = self.slot,
                "a local client has held a slot for longer than spec.ingest.idleTimeout; \
                 it is taken back when the client commits, gives it back or closes its connection"
            );
        }
    }
}

/// The answer to what belongs to the local path and comes by a way that cannot hold a lease.
pub(super) fn refuse(gateway: &Gateway, address: &Address) -> Refusal {
    let job = match address.job(gateway) {
        Ok(job) => job,
        Err(unknown) => return unknown,
    };
    let refusal = Refusal::not_local(
        "slots are lent over plain HTTP/1.1, by requests with Content-Length: 0 on a connection that is kept",
    );
    job.count_outcome(refusal.problem().slug());
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_is_who_comes_over_loopback() {
        for near in ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"] {
            assert!(Leases::new(near.parse().unwrap()).local, "{near}");
        }
        for far in ["10.0.0.1", "0.0.0.0", "::", "::ffff:10.0.0.1", "fe80::1"] {
            assert!(!Leases::new(far.parse().unwrap()).local, "{far}");
        }
    }
}
