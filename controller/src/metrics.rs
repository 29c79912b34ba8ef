//! The controller's metrics, one family a line. Labels are bounded: jobs, streams and fixed words.

use prometheus::{Encoder, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use tributary_api::{Name, fleet::NodeState};
use tributary_store::Room;

use crate::placing::Cause;

/// Every value of the label `state` of nodes.
const STATES: [(NodeState, &str); 4] = [
    (NodeState::Ready, "ready"),
    (NodeState::Draining, "draining"),
    (NodeState::Drained, "drained"),
    (NodeState::Lost, "lost"),
];

/// All families of a controller.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    nodes: IntGaugeVec,
    leader: IntGauge,
    connected: IntGauge,
    placements: IntCounterVec,
    jobs_nowhere: IntGauge,
    beat_bytes: IntGauge,
    stragglers: IntGaugeVec,
    stored: IntGaugeVec,
    stored_max: IntGaugeVec,
}

/// Registers a family; names and labels here are constants, so a clash is a programming error that the first start
/// shows.
macro_rules! family {
    ($registry:expr, $family:expr) => {{
        #[allow(clippy::expect_used, reason = "constant names and labels")]
        let family = $family.expect("a valid family");
        #[allow(clippy::expect_used, reason = "constant names and labels")]
        $registry
            .register(Box::new(family.clone()))
            .expect("a family registered once");
        family
    }};
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        let nodes = Opts::new("tributary_nodes", "Nodes that are known, by state.");
        let placements = Opts::new(
            "tributary_placements_total",
            "Placements of jobs that this controller has made, by what led to them.",
        );
        let stragglers = Opts::new(
            "tributary_straggler_nodes",
            "Nodes that are slow beside the others of a job.",
        );
        let stored = Opts::new(
            "tributary_store_bytes",
            "What lies in each stream of NATS, in one copy.",
        );
        let stored_max = Opts::new(
            "tributary_store_limit_bytes",
            "The most that fits into each stream of NATS that refuses what does not fit.",
        );
        let leader = "Whether this controller leads.";
        let connected = "Whether the store can be reached.";
        let nowhere = "Jobs for which no node will do.";
        let beats = "Bytes of the largest beat of a node that is heard.";
        let metrics = Self {
            nodes: family!(r, IntGaugeVec::new(nodes, &["state"])),
            leader: family!(r, IntGauge::new("tributary_leader", leader)),
            connected: family!(r, IntGauge::new("tributary_nats_connected", connected)),
            placements: family!(r, IntCounterVec::new(placements, &["reason"])),
            stragglers: family!(r, IntGaugeVec::new(stragglers, &["fl_job"])),
            stored: family!(r, IntGaugeVec::new(stored, &["stream"])),
            stored_max: family!(r, IntGaugeVec::new(stored_max, &["stream"])),
            beat_bytes: family!(r, IntGauge::new("tributary_beat_bytes_max", beats)),
            jobs_nowhere: family!(r, IntGauge::new("tributary_jobs_without_node", nowhere)),
            registry,
        };
        for cause in Cause::ALL {
            metrics.placements.with_label_values(&[cause.label()]);
        }
        metrics
    }

    pub(crate) fn placements(&self, cause: Cause) {
        self.placements.with_label_values(&[cause.label()]).inc();
    }

    /// Brings the gauges up to date.
    pub(crate) fn observe(
        &self,
        nodes: impl Iterator<Item = NodeState>,
        leads: bool,
        connected: bool,
        nowhere: usize,
    ) {
        let nodes: Vec<_> = nodes.collect();
        for (state, label) in STATES {
            let count = nodes.iter().filter(|node| **node == state).count();
            self.nodes.with_label_values(&[label]).set(count as i64);
        }
        self.leader.set(i64::from(leads));
        self.connected.set(i64::from(connected));
        self.jobs_nowhere.set(nowhere as i64);
    }

    /// Brings the length of the largest beat up to date.
    pub(crate) fn beats(&self, largest: usize) {
        self.beat_bytes.set(largest as i64);
    }

    /// Brings the numbers of slow nodes up to date; a job that is not named has none any more.
    pub(crate) fn stragglers<'a>(&self, counts: impl Iterator<Item = (&'a Name, usize)>) {
        self.stragglers.reset();
        for (job, count) in counts {
            let gauge = self.stragglers.with_label_values(&[job.as_str()]);
            gauge.set(count as i64);
        }
    }

    /// Brings up to date how full the store is.
    pub(crate) fn rooms(&self, rooms: &[Room]) {
        self.stored.reset();
        self.stored_max.reset();
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        for room in rooms {
            let labels = &[room.name.as_str()];
            self.stored.with_label_values(labels).set(gauge(room.bytes));
            if let Some(most) = room.bytes_max {
                self.stored_max.with_label_values(labels).set(gauge(most));
            }
        }
    }

    /// The Prometheus text format.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
