//! Workers come to host a job, and go: by need, by decision, by death.

use super::hosting::attachment;
use super::workers::WorkerEvent;
use super::{Agent, Hosting};
use crate::job::Job;
use crate::protocol::{FromWorker, ToWorker};
use crate::round::Epoch;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;
use tracing::{info, warn};
use tributary_arena::{Contributors, SlotRef};
use tributary_sidecar_layout::Destination;

impl Agent {
    /// Sees to it that as many workers host the job as there should be, and at least so many; one, if something waits
    /// for it.
    pub(super) fn host(&mut self, job: &Arc<Job>, least: u32) {
        let lanes = job.plan.tree.lanes;
        loop {
            let all = &self.hosting;
            let Some(hosting) = all.get(&job.number) else {
                return;
            };
            let there = hosting.workers() as u32;
            let waits = there == 0 && least == 0 && job.is_under_way();
            let least = least.max(u32::from(waits));
            let enough = there >= hosting.target(lanes).max(least).min(lanes);
            let since = Instant::now();
            let jobs_of = |owner| all.values().filter(|hosting| hosting.hosts(owner)).count();
            let may = |owner| !hosting.knows(owner);
            let may_start = !enough && hosting.losses.until().is_none();
            let found = may_start.then(|| self.workers.find(may, jobs_of)).flatten();
            let Some(hosting) = self.hosting.get_mut(&job.number) else {
                return;
            };
            hosting.starved = !enough && found.is_none();
            let Some(owner) = found else {
                return;
            };
            hosting.attaching(owner, since);
            let attach = ToWorker::Attach(Box::new(attachment(job)));
            self.workers.send(owner, attach);
        }
    }

    pub(super) fn worker_event(&mut self, owner: u32, event: WorkerEvent) {
        let message = match event {
            WorkerEvent::Message(message) => message,
            WorkerEvent::Ended(how) => return self.lost(owner, &how),
        };
        match message {
            FromWorker::Attached { job } => self.attached(owner, job),
            FromWorker::Detached { job } => self.detached(owner, job),
            FromWorker::AttachFailed { job, error } => self.attach_failed(owner, job, &error),
            FromWorker::Refused {
                destination,
                round,
                slot,
                generation,
                client,
                error,
            } => {
                if let Some(job) = self.job_of(destination) {
                    let input = SlotRef { slot, generation };
                    job.refuse_update(Epoch::from_raw(round), client, input, error);
                }
            }
            FromWorker::Failed {
                destination,
                round,
                inside: (first, words),
                error,
            } => {
                if let Some(job) = self.job_of(destination) {
                    let inside = Contributors::from_words(first, words);
                    job.fail_round(Epoch::from_raw(round), &inside, &error);
                }
            }
        }
    }

    fn job_of(&self, destination: u64) -> Option<Arc<Job>> {
        self.jobs
            .by_number(Destination::from_raw(destination).job())
    }

    fn attached(&mut self, owner: u32, number: u32) {
        let (Some(hosting), Some(job)) =
            (self.hosting.get_mut(&number), self.jobs.by_number(number))
        else {
            return;
        };
        // It may have been told to leave meanwhile.
        if hosting.attached(owner, Instant::now()) {
            self.deliver_missed(number);
            job.send_again();
        }
    }

    fn deliver_missed(&mut self, number: u32) {
        for descriptor in self.missed.remove(&number).unwrap_or_default() {
            let destination = Destination::from_raw(descriptor.destination);
            let hosting = self.hosting.get_mut(&number);
            if let Some(owner) = hosting.and_then(|hosting| hosting.place(destination)) {
                self.route(destination, owner, &descriptor);
            }
        }
    }

    fn attach_failed(&mut self, owner: u32, number: u32, error: &str) {
        let hosting = self.hosting.get_mut(&number);
        let asked = hosting.is_some_and(|hosting| hosting.gone(owner));
        let Some(job) = self.jobs.by_number(number).filter(|_| asked) else {
            return;
        };
        // Where nobody waits for it, a round need not fail: it is tried again when it is needed.
        if job.has_updates() {
            job.fail_open_round(error);
        } else {
            warn!(job = %job.name, error, "a worker cannot host the job");
        }
        self.stop_idle();
    }

    /// Tells a worker to host the job no more. What it has in hand goes to another as soon as it is done.
    pub(super) fn detach(&mut self, owner: u32, number: u32) {
        let Some(hosting) = self.hosting.get_mut(&number) else {
            return;
        };
        for destination in hosting.leave(owner) {
            self.remove_route(destination);
        }
        self.workers.send(owner, ToWorker::Detach { job: number });
    }

    /// A worker hosts a job no more: nothing of it is written any more, and all it has done can be read.
    fn detached(&mut self, owner: u32, number: u32) {
        self.worker_left(owner, Some(number));
        let ring = self.workers.ring(owner);
        if let Some(job) = self.jobs.by_number(number) {
            if let Some(ring) = ring {
                self.read_ring(&job, ring);
            }
            let hosting = self.hosting.get_mut(&number);
            if hosting.is_some_and(|hosting| hosting.gone(owner)) {
                self.hand_over(&job);
            }
        }
        self.stop_idle();
        self.host_starved();
    }

    /// What a worker had in hand goes to those that are there; one is started if something waits, and only then: the last
    /// worker of an idle job is not replaced.
    fn hand_over(&mut self, job: &Arc<Job>) {
        let hosting = self.hosting.get(&job.number);
        if hosting.is_some_and(|hosting| hosting.ready() > 0) {
            self.deliver_missed(job.number);
            job.send_again();
        } else if job.is_under_way() {
            self.host(job, 0);
        }
    }

    /// A worker is gone: its half-written slots are taken back, what it has told is still read, and
    /// its inputs go to another.
    fn lost(&mut self, owner: u32, how: &str) {
        let Some(ring) = self.workers.remove(owner, how) else {
            return;
        };
        self.worker_left(owner, None);
        for job in self.jobs.all() {
            let Some(hosting) = self.hosting.get_mut(&job.number) else {
                continue;
            };
            let hosted = hosting.gone(owner);
            if hosted && job.is_under_way() {
                hosting.losses.fail(Instant::now());
            }
            let slots = job.arena.recover(owner);
            self.read_ring(&job, ring);
            if hosted {
                info!(job = %job.name, slots, "recovered from the loss of a worker");
                // The model may be made although the record of it was never written.
                self.take_finished(&job);
                self.hand_over(&job);
                self.host(&job, 0);
            }
        }
        self.host_starved();
    }

    /// Ends the workers that host a job: they owe something for longer than they may.
    pub(super) fn end_workers_of(&mut self, number: u32) {
        let Some(hosting) = self.hosting.get(&number) else {
            return;
        };
        for owner in hosting.owners() {
            self.workers.kill(owner);
        }
    }

    /// Tries again for jobs that found no worker when they needed one.
    pub(super) fn host_starved(&mut self) {
        for job in self.jobs.all() {
            let hosting = self.hosting.get(&job.number);
            if hosting.is_some_and(|hosting| hosting.starved) {
                self.host(&job, 0);
            }
        }
    }

    /// Lets a job's aggregators go. What they hold stays in the arena.
    pub(super) fn release(&mut self, number: u32) {
        let Some(hosting) = self.hosting.get_mut(&number) else {
            return;
        };
        let (routes, owners) = hosting.leave_all();
        for destination in routes {
            self.remove_route(destination);
        }
        for owner in owners {
            self.workers.send(owner, ToWorker::Detach { job: number });
        }
    }

    pub(super) fn forget(&mut self, number: u32, done: oneshot::Sender<()>) {
        self.release(number);
        self.missed.remove(&number);
        if let Some(hosting) = self.hosting.remove(&number) {
            self.ending.insert(number, (hosting, done));
            self.end();
        }
        self.stop_idle();
    }

    /// A worker has to do with a stopped job no more, or with none.
    fn worker_left(&mut self, owner: u32, number: Option<u32>) {
        for (ending, (hosting, _)) in &mut self.ending {
            if number.is_none_or(|number| number == *ending) {
                hosting.gone(owner);
            }
        }
        self.end();
    }

    /// Tells who waits for the end of jobs that no worker has to do with.
    fn end(&mut self) {
        let free = |_: &u32, (hosting, _): &mut (Hosting, _)| hosting.is_deserted();
        for (_, (_, done)) in self.ending.extract_if(.., free) {
            // Who is not there any more has waited long enough.
            let _ = done.send(());
        }
    }

    /// Ends workers that no job has to do with.
    pub(super) fn stop_idle(&mut self) {
        let hosting = &self.hosting;
        let knows = |owner| {
            hosting
                .values()
                .chain(self.ending.values().map(|(hosting, _)| hosting))
                .any(|hosting| Hosting::knows(hosting, owner))
        };
        self.workers.stop_unless(knows);
    }
}
