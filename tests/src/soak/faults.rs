//! Carries a plan out, and repairs what it has broken.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use rustix::process::Signal;

use super::SIZE;
use super::jobs::JOBS;
use super::plan::{Fault, Kind, Plan, Target};
use crate::cluster::Cluster;
use crate::process;

/// How often a drain is tried again that no controller took.
const AGAIN: Duration = Duration::from_millis(500);

/// Whoever is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Node(usize),
    Controller(usize),
    Nats(usize),
    AllNats,
    /// A worker that was stopped, by its process.
    Worker(u32),
    /// Nothing that would have to be repaired.
    Nothing,
}

/// A fault that is not repaired yet.
#[derive(Debug)]
struct Open {
    kind: Kind,
    broken: Broken,
    until: Duration,
}

/// What breaks a cluster.
#[derive(Debug)]
pub struct Breaker<'a> {
    plan: &'a Plan,
    next: usize,
    open: Vec<Open>,
    /// Nodes whose drain, or its end, no controller has taken yet.
    drains: BTreeMap<usize, bool>,
    drained_at: Duration,
    /// How often what was broken.
    pub counts: BTreeMap<Kind, u32>,
    /// Faults that met nobody: whoever they would have met was broken already.
    pub passed: u32,
    history: String,
}

impl<'a> Breaker<'a> {
    /// One that goes by that plan.
    #[must_use]
    pub const fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            next: 0,
            open: Vec::new(),
            drains: BTreeMap::new(),
            drained_at: Duration::ZERO,
            counts: BTreeMap::new(),
            passed: 0,
            history: String::new(),
        }
    }

    /// Whether nothing more breaks.
    #[must_use]
    pub fn is_over(&self, now: Duration) -> bool {
        now >= self.plan.lasts
    }

    /// What was done, line by line.
    #[must_use]
    pub fn history(&self) -> &str {
        &self.history
    }

    /// Repairs what is due and breaks what is due.
    pub fn step(&mut self, cluster: &mut Cluster, now: Duration) {
        let (due, open): (Vec<_>, Vec<_>) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|fault| fault.until <= now);
        self.open = open;
        for fault in due {
            self.note(now, &format!("repairs {:?} {:?}", fault.kind, fault.broken));
            self.repair(cluster, &fault);
        }
        let faults = &self.plan.faults[self.next..];
        let due = faults.iter().take_while(|fault| fault.at <= now);
        let due: Vec<Fault> = due.copied().collect();
        for fault in due {
            self.next += 1;
            let Some(broken) = self.choose(cluster, &fault) else {
                self.passed += 1;
                continue;
            };
            self.note(now, &format!("breaks {:?} {broken:?}", fault.kind));
            *self.counts.entry(fault.kind).or_default() += 1;
            self.strike(cluster, fault.kind, broken);
            if broken != Broken::Nothing {
                self.open.push(Open {
                    kind: fault.kind,
                    broken,
                    until: now + fault.lasts,
                });
            }
        }
        if now.saturating_sub(self.drained_at) > AGAIN {
            self.drained_at = now;
            self.drain(cluster);
        }
    }

    /// Repairs everything.
    ///
    /// # Panics
    /// If no controller undrains a node.
    pub fn repair_all(&mut self, cluster: &mut Cluster) {
        self.note(self.plan.lasts, "repairs everything");
        for fault in std::mem::take(&mut self.open) {
            self.repair(cluster, &fault);
        }
        crate::wait::until("a controller takes what is left of drains", || {
            self.drain(cluster);
            self.drains.is_empty()
        });
    }

    /// Whom a fault meets; `None` if there is nobody left.
    fn choose(&self, cluster: &Cluster, fault: &Fault) -> Option<Broken> {
        let number = |leader: &dyn Fn(usize) -> Option<usize>| match fault.target {
            Target::Number(number) => number,
            Target::Leader(number) => leader(number).unwrap_or(number),
        };
        let leading_node = |job: usize| cluster.leader_now(JOBS[job % JOBS.len()].name);
        match fault.kind {
            Kind::KillNode | Kind::FreezeNode | Kind::CutNode | Kind::DrainNode => {
                let wanted = number(&leading_node);
                self.whole(wanted, SIZE.nodes, Broken::Node)
                    .map(Broken::Node)
            }
            Kind::KillController | Kind::FreezeController | Kind::CutController => {
                let wanted = number(&|_| cluster.leading_now());
                self.whole(wanted, SIZE.controllers, Broken::Controller)
                    .map(Broken::Controller)
            }
            Kind::KillNats => {
                let wanted = number(&Some);
                self.whole(wanted, SIZE.nats, Broken::Nats)
                    .map(Broken::Nats)
            }
            Kind::KillAllNats => Some(Broken::AllNats),
            Kind::KillWorker | Kind::FreezeWorker => {
                let wanted = number(&leading_node);
                let node = self.whole(wanted, SIZE.nodes, Broken::Node)?;
                let workers = cluster.node_processes(node).split_off(1);
                let at = wanted.checked_rem(workers.len())?;
                Some(Broken::Worker(workers[at]))
            }
        }
    }

    /// The first one from `wanted` on, counted round, that is not broken.
    fn whole(&self, wanted: usize, all: usize, broken: fn(usize) -> Broken) -> Option<usize> {
        let mut numbers = (0..all).map(|step| (wanted + step) % all);
        numbers.find(|number| {
            let is_open = |open: &Open| open.broken == broken(*number);
            !self.open.iter().any(is_open)
        })
    }

    fn strike(&mut self, cluster: &mut Cluster, kind: Kind, broken: Broken) {
        match (kind, broken) {
            (Kind::KillNode, Broken::Node(node)) => cluster.kill_node(node),
            (Kind::FreezeNode, Broken::Node(node)) => cluster.freeze_node(node, true),
            (Kind::CutNode, Broken::Node(node)) => cut(cluster, node),
            (Kind::DrainNode, Broken::Node(node)) => {
                self.drains.insert(node, true);
            }
            (Kind::KillController, Broken::Controller(number)) => cluster.kill_controller(number),
            (Kind::FreezeController, Broken::Controller(number)) => {
                cluster.freeze_controller(number, true);
            }
            (Kind::CutController, Broken::Controller(number)) => {
                cluster.hide_controller(number, true);
                cut(cluster, cluster.controller_host(number));
            }
            (Kind::KillNats, Broken::Nats(number)) => cluster.nats.servers[number].kill(),
            (Kind::KillAllNats, _) => {
                for server in &mut cluster.nats.servers {
                    server.kill();
                }
            }
            (Kind::KillWorker, Broken::Worker(worker)) => {
                process::kill(worker);
            }
            (Kind::FreezeWorker, Broken::Worker(worker)) => {
                process::signal(worker, Signal::STOP);
            }
            (kind, broken) => unreachable!("{kind:?} does not meet {broken:?}"),
        }
    }

    fn repair(&mut self, cluster: &mut Cluster, fault: &Open) {
        match (fault.kind, fault.broken) {
            (Kind::KillNode, Broken::Node(node)) => cluster.start_node(node),
            (Kind::FreezeNode, Broken::Node(node)) => cluster.freeze_node(node, false),
            (Kind::CutNode, Broken::Node(node)) => mend(cluster, node),
            (Kind::DrainNode, Broken::Node(node)) => {
                self.drains.insert(node, false);
            }
            (Kind::KillController, Broken::Controller(number)) => cluster.start_controller(number),
            (Kind::FreezeController, Broken::Controller(number)) => {
                cluster.freeze_controller(number, false);
            }
            (Kind::CutController, Broken::Controller(number)) => {
                cluster.hide_controller(number, false);
                mend(cluster, cluster.controller_host(number));
            }
            // The other lane of NATS servers may have started it already.
            (Kind::KillNats, Broken::Nats(number)) => start_nats(cluster, number),
            (Kind::KillAllNats, _) => {
                (0..SIZE.nats).for_each(|number| start_nats(cluster, number));
            }
            (_, Broken::Worker(worker)) => {
                process::signal(worker, Signal::CONT);
            }
            _ => {}
        }
    }

    /// Tells a controller which nodes are to be drained, as far as none has heard it.
    fn drain(&mut self, cluster: &Cluster) {
        self.drains
            .retain(|node, drained| !cluster.try_drain(*node, *drained));
    }

    fn note(&mut self, now: Duration, what: &str) {
        let _ = writeln!(self.history, "{:>9.3} s  {what}", now.as_secs_f64());
    }
}

fn cut(cluster: &Cluster, host: usize) {
    cluster.network.cut(host).expect("a link can be cut");
}

fn mend(cluster: &Cluster, host: usize) {
    cluster.network.mend(host).expect("a link can be mended");
}

fn start_nats(cluster: &mut Cluster, number: usize) {
    let server = &mut cluster.nats.servers[number];
    if server.id().is_none() {
        server.start_again();
    }
}
