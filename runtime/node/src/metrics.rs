//! The node's metrics, one family a line. Labels are bounded: jobs, levels and fixed words, never a
//! client.

mod sidecar;
mod spool;

use crate::gateway::door::DoorMetrics;
use crate::jobs::Jobs;
use crate::meter::Meter;
use crate::protocol::Activation;
use prometheus::{
    Counter, Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tributary_api::control::Checkpoints;
use tributary_api::model::Encoding;
use tributary_api::status::NodeLoad;
use tributary_planning::autoscale::{Reason, Wanted};
use tributary_router::Router;

/// Every value of the label `kind` of the workers that the autoscaler decides on.
const SCALED: [&str; 2] = ["wanted", "wished"];

/// Every value of the label `state` of an arena's slots.
pub(crate) const ARENA_SLOTS: [&str; 5] = ["free", "used", "touched", "leased", "overdue"];

/// Up to the greatest staleness that a manifest may allow.
const STALENESS_BUCKETS: [f64; 11] = [
    0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1000.0,
];

/// All families of a node.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Updates by outcome.
    pub(crate) updates: IntCounterVec,
    /// Bytes of accepted updates' bodies, by encoding.
    pub(crate) update_bytes: IntCounterVec,
    /// Bytes of updates' bodies that were copied, each copy counted.
    pub(crate) bytes_copied: IntCounterVec,
    /// Accepted updates that local clients wrote into their slots.
    pub(crate) local_updates: IntCounterVec,
    /// Updates whose files lay elsewhere, by outcome.
    pub(crate) references: IntCounterVec,
    /// Bytes of such files that were fetched.
    pub(crate) reference_bytes: IntCounterVec,
    /// Bytes of partials that went from node to node.
    pub(crate) partial_bytes: IntCounterVec,
    /// Bytes of partials that were copied on that way, each copy counted.
    pub(crate) partial_copied: IntCounterVec,
    /// Bytes that functions read where they lay.
    pub(crate) bytes_in_place: IntCounterVec,
    /// Time of one function call and its commit.
    pub(crate) step: HistogramVec,
    /// Versions between the model from which an accepted update was trained and its round's.
    staleness: HistogramVec,
    /// First update to published model.
    pub(crate) round: HistogramVec,
    /// Close to published model.
    pub(crate) aggregation: HistogramVec,
    pub(crate) rounds: IntCounterVec,
    pub(crate) model_version: IntGaugeVec,
    /// Updates that wait for the open round's model.
    round_updates: IntGaugeVec,
    /// For how long that model has been due.
    round_overdue: GaugeVec,
    pub(crate) arena_slots: IntGaugeVec,
    pub(crate) arena_bytes: IntGaugeVec,
    pub(crate) workers: IntGauge,
    pub(crate) worker_starts: IntCounter,
    pub(crate) worker_losses: IntCounter,
    pub(crate) activations: IntCounterVec,
    /// A leaf's first descriptor in a round to the call on it.
    pub(crate) activation: HistogramVec,
    pub(crate) checkpoint_failures: IntCounterVec,
    /// Workers that the autoscaler wants, and wished for.
    scaled_workers: IntGaugeVec,
    decisions: IntCounterVec,
    /// Updates that were accepted, and seconds that workers spent in steps, of jobs that are gone as well: for the
    /// node's status.
    pub(crate) accepted: IntCounter,
    pub(crate) busy: Counter,
    pub(crate) events_dropped: IntCounter,
    /// What was in service, for the node's status as well.
    pub(crate) meter: Meter,
    pub(crate) door: DoorMetrics,
}

/// Registers a family; the names and labels here are constants, so a clash is a programming error
/// that the first start shows.
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

fn seconds(name: &str, help: &str) -> HistogramOpts {
    // 10 us to 42 s in factors of four.
    let buckets = (0..12).map(|i| 1e-5 * 4f64.powi(i)).collect();
    HistogramOpts::new(name, help).buckets(buckets)
}

/// 10 us to 1 s, three to a decade: for targets of 100 us and 5 ms.
fn activation_buckets() -> Vec<f64> {
    let decades = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1];
    let steps = decades.map(|decade| [decade, 2.0 * decade, 5.0 * decade]);
    steps.into_iter().flatten().chain([1.0]).collect()
}

impl Metrics {
    /// Registers all families.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels)
        };
        let timer = |name: &str, help: &str, labels: &[&str]| {
            HistogramVec::new(seconds(name, help), labels)
        };
        Self {
            updates: family!(
                r,
                counter(
                    "tributary_updates_total",
                    "Updates that clients sent, by outcome.",
                    &["fl_job", "outcome"]
                )
            ),
            update_bytes: family!(
                r,
                counter(
                    "tributary_update_bytes_total",
                    "Bytes of accepted update bodies as they were sent, by the encoding of their elements.",
                    &["fl_job", "encoding"]
                )
            ),
            bytes_copied: family!(
                r,
                counter(
                    "tributary_update_copied_bytes_total",
                    "Bytes of update bodies copied in memory, each copy counted.",
                    &["fl_job"]
                )
            ),
            local_updates: family!(
                r,
                counter(
                    "tributary_local_updates_total",
                    "Accepted updates that clients on this host wrote into their slots themselves.",
                    &["fl_job"]
                )
            ),
            references: family!(
                r,
                counter(
                    "tributary_references_total",
                    "Updates whose files lay elsewhere, by outcome.",
                    &["fl_job", "outcome"]
                )
            ),
            reference_bytes: family!(
                r,
                counter(
                    "tributary_reference_bytes_total",
                    "Bytes that were fetched of updates whose files lay elsewhere.",
                    &["fl_job"]
                )
            ),
            partial_bytes: family!(
                r,
                counter(
                    "tributary_partial_bytes_total",
                    "Bytes of partials that were sent to another node, or received from one.",
                    &["fl_job", "direction"]
                )
            ),
            partial_copied: family!(
                r,
                counter(
                    "tributary_partial_copied_bytes_total",
                    "Bytes of partials copied in memory between slot and network, each copy counted.",
                    &["fl_job", "direction"]
                )
            ),
            bytes_in_place: family!(
                r,
                counter(
                    "tributary_read_in_place_bytes_total",
                    "Bytes that functions read in the slot where they were written.",
                    &["fl_job"]
                )
            ),
            step: family!(
                r,
                timer(
                    "tributary_aggregation_step_seconds",
                    "One fold, merge or finish with its commit.",
                    &["fl_job", "level"]
                )
            ),
            staleness: family!(
                r,
                HistogramVec::new(
                    HistogramOpts::new(
                        "tributary_update_staleness_versions",
                        "Versions between the model from which an accepted update was trained and its round's."
                    )
                    .buckets(STALENESS_BUCKETS.to_vec()),
                    &["fl_job"]
                )
            ),
            round: family!(
                r,
                timer(
                    "tributary_round_duration_seconds",
                    "From a round's first update to its published model.",
                    &["fl_job"]
                )
            ),
            aggregation: family!(
                r,
                timer(
                    "tributary_round_aggregation_seconds",
                    "From a round's close to its published model.",
                    &["fl_job"]
                )
            ),
            rounds: family!(
                r,
                counter(
                    "tributary_rounds_total",
                    "Rounds by outcome.",
                    &["fl_job", "outcome"]
                )
            ),
            model_version: family!(
                r,
                gauge(
                    "tributary_model_version",
                    "Version of the model handed out, which is also the open round.",
                    &["fl_job"]
                )
            ),
            round_updates: family!(
                r,
                gauge(
                    "tributary_round_updates",
                    "Updates in the open round that wait for its model.",
                    &["fl_job"]
                )
            ),
            round_overdue: family!(
                r,
                GaugeVec::new(
                    Opts::new(
                        "tributary_round_overdue_seconds",
                        "Time since the open round closed, or its deadline passed without a quorum; 0 before."
                    ),
                    &["fl_job"]
                )
            ),
            arena_slots: family!(
                r,
                gauge(
                    "tributary_arena_slots",
                    "Slots of a job's arena by state; touched slots have pages, leased ones are filled by local clients.",
                    &["fl_job", "state"]
                )
            ),
            arena_bytes: family!(
                r,
                gauge(
                    "tributary_arena_touched_bytes",
                    "Shared memory that a job's arena has pages for.",
                    &["fl_job"]
                )
            ),
            workers: family!(
                r,
                IntGauge::new("tributary_workers", "Running worker processes.")
            ),
            worker_starts: family!(
                r,
                IntCounter::new("tributary_worker_starts_total", "Worker processes started.")
            ),
            worker_losses: family!(
                r,
                IntCounter::new(
                    "tributary_worker_losses_total",
                    "Worker processes that ended without being told to."
                )
            ),
            activations: family!(
                r,
                counter(
                    "tributary_aggregator_activations_total",
                    "Aggregators activated by a route miss, by level and start: reused (a worker hosts the job) or cold.",
                    &["level", "start"]
                )
            ),
            activation: family!(
                r,
                HistogramVec::new(
                    HistogramOpts::new(
                        "tributary_activation_seconds",
                        "From a leaf's first descriptor in a round to the function's first instruction on it."
                    )
                    .buckets(activation_buckets()),
                    &["kind"]
                )
            ),
            checkpoint_failures: family!(
                r,
                counter(
                    "tributary_checkpoint_failures_total",
                    "Models that could not be written to the object store.",
                    &["fl_job"]
                )
            ),
            scaled_workers: family!(
                r,
                gauge(
                    "tributary_autoscaler_workers",
                    "Workers that the autoscaler has decided on: wanted (the node has them for the job) and wished (on a node of its own).",
                    &["fl_job", "kind"]
                )
            ),
            decisions: family!(
                r,
                counter(
                    "tributary_autoscaler_decisions_total",
                    "Decisions of the autoscaler by the reason for the last worker that is wanted.",
                    &["fl_job", "reason"]
                )
            ),
            accepted: family!(
                r,
                IntCounter::new(
                    "tributary_node_updates_total",
                    "Updates that the node has accepted, of all jobs that it ever ran."
                )
            ),
            busy: family!(
                r,
                Counter::new(
                    "tributary_node_busy_seconds_total",
                    "Seconds that workers have spent in steps, of all jobs that the node ever ran."
                )
            ),
            events_dropped: family!(
                r,
                IntCounter::new(
                    "tributary_events_dropped_total",
                    "Events of the node that were never published: too many waited for NATS."
                )
            ),
            meter: Meter::default(),
            door: {
                #[allow(clippy::expect_used, reason = "constant names and labels")]
                DoorMetrics::new(r).expect("families registered once")
            },
            registry,
        }
    }

    /// What the node has done since it started.
    pub(crate) fn load(&self) -> NodeLoad {
        let served = self.meter.read(Instant::now());
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        NodeLoad {
            updates: self.accepted.get(),
            busy_milliseconds: (self.busy.get() * 1e3) as u64,
            folded: served.folded,
            served_milliseconds: milliseconds(served.served),
            occupied_milliseconds: milliseconds(served.occupied),
        }
    }

    /// Counts a leaf's first call in a round.
    pub(crate) fn observe_activation(&self, activation: Activation) {
        let kind = if activation.cold { "cold" } else { "warm" };
        let seconds = Duration::from_nanos(activation.nanoseconds).as_secs_f64();
        self.activation.with_label_values(&[kind]).observe(seconds);
    }

    /// Counts an accepted update of a job that takes updates trained from older models.
    pub(crate) fn observe_staleness(&self, job: &str, staleness: u64) {
        let family = self.staleness.with_label_values(&[job]);
        family.observe(staleness as f64);
    }

    /// Counts a decision of the autoscaler. All reasons are there with the first one.
    pub(crate) fn observe_decision(&self, job: &str, wanted: &Wanted) {
        for (kind, workers) in SCALED.into_iter().zip([wanted.workers, wanted.wished]) {
            let series = self.scaled_workers.with_label_values(&[job, kind]);
            series.set(i64::from(workers));
        }
        for reason in Reason::ALL {
            let series = self.decisions.with_label_values(&[job, reason.name()]);
            series.inc_by(u64::from(reason == wanted.reason));
        }
    }

    /// Shows how many updates wait for the open round's model, and for how long it has been due.
    pub(crate) fn observe_round(&self, job: &str, updates: u32, overdue: Duration) {
        let waiting = self.round_updates.with_label_values(&[job]);
        waiting.set(i64::from(updates));
        let due = self.round_overdue.with_label_values(&[job]);
        due.set(overdue.as_secs_f64());
    }

    /// Adds the sidecar's families, read from the router at each scrape.
    pub(crate) fn add_router(&self, router: Arc<dyn Router>, jobs: Arc<Jobs>) {
        let added = sidecar::SidecarCollector::new(router, jobs)
            .and_then(|collector| self.registry.register(Box::new(collector)));
        if let Err(error) = added {
            tracing::error!(%error, "the sidecar's metrics are not available");
        }
    }

    /// Adds what is kept here and not yet where all nodes find it.
    pub(crate) fn add_checkpoints(&self, checkpoints: Arc<dyn Checkpoints>) {
        let added = spool::SpoolCollector::new(checkpoints)
            .and_then(|collector| self.registry.register(Box::new(collector)));
        if let Err(error) = added {
            tracing::error!(%error, "the metrics of models that wait are not available");
        }
    }

    /// The registry, for families of other parts of the process.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The Prometheus text format.
    ///
    /// # Errors
    /// Never for valid families; the encoder's otherwise.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Forgets a job's series.
    pub(crate) fn forget_job(&self, job: &str) {
        for outcome in crate::gateway::OUTCOMES {
            let _ = self.updates.remove_label_values(&[job, outcome]);
            let _ = self.references.remove_label_values(&[job, outcome]);
        }
        for encoding in Encoding::ALL {
            let _ = self
                .update_bytes
                .remove_label_values(&[job, encoding.name()]);
        }
        for family in [
            &self.bytes_copied,
            &self.local_updates,
            &self.reference_bytes,
            &self.bytes_in_place,
            &self.checkpoint_failures,
        ] {
            let _ = family.remove_label_values(&[job]);
        }
        for direction in ["sent", "received"] {
            for family in [&self.partial_bytes, &self.partial_copied] {
                let _ = family.remove_label_values(&[job, direction]);
            }
        }
        for outcome in ["completed", "failed"] {
            let _ = self.rounds.remove_label_values(&[job, outcome]);
        }
        for state in ARENA_SLOTS {
            let _ = self.arena_slots.remove_label_values(&[job, state]);
        }
        for level in ["leaf", "middle", "top"] {
            let _ = self.step.remove_label_values(&[job, level]);
        }
        for kind in SCALED {
            let _ = self.scaled_workers.remove_label_values(&[job, kind]);
        }
        for reason in Reason::ALL {
            let _ = self.decisions.remove_label_values(&[job, reason.name()]);
        }
        let _ = self.arena_bytes.remove_label_values(&[job]);
        let _ = self.model_version.remove_label_values(&[job]);
        let _ = self.round_updates.remove_label_values(&[job]);
        let _ = self.round_overdue.remove_label_values(&[job]);
        let _ = self.staleness.remove_label_values(&[job]);
        let _ = self.round.remove_label_values(&[job]);
        let _ = self.aggregation.remove_label_values(&[job]);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
