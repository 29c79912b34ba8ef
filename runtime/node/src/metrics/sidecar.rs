//! The sidecar's families, read from the router's counters at each scrape.

use crate::jobs::Jobs;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tributary_router::{HopLatency, Router, Snapshot, Traffic};
use tributary_sidecar_layout::Level;

/// Stands for all jobs that have been deleted, so that their labels do not pile up.
const DELETED: &str = "(deleted)";
/// log2 buckets that are shown: 256 ns to 1 s. What is slower counts in +Inf only.
const SHOWN: std::ops::RangeInclusive<u32> = 8..=30;

const INFO: (&str, &str) = (
    "tributary_sidecar_info",
    "How descriptors are routed on this node: ebpf or userspace.",
);
const DESCRIPTORS: (&str, &str) = (
    "tributary_sidecar_descriptors_total",
    "Descriptors routed to a port, by the job and level of their destination.",
);
const BYTES: (&str, &str) = (
    "tributary_sidecar_bytes_total",
    "Bytes of descriptors routed to a port.",
);
const MISSES: (&str, &str) = (
    "tributary_sidecar_misses_total",
    "Descriptors without a route: each activates an aggregator.",
);
const DOORBELLS: (&str, &str) = (
    "tributary_sidecar_doorbells_total",
    "Descriptors for the agent itself.",
);
const ROUTES: (&str, &str) = ("tributary_sidecar_routes", "Routes that are set.");
const PORTS: (&str, &str) = ("tributary_sidecar_ports", "Open ports.");
const HOP: (&str, &str) = (
    "tributary_sidecar_hop_seconds",
    "From a descriptor's time stamp to where it is routed.",
);

/// Reads a router at each scrape.
pub(super) struct SidecarCollector {
    router: Arc<dyn Router>,
    jobs: Arc<Jobs>,
    descriptions: Vec<Desc>,
}

impl SidecarCollector {
    pub(super) fn new(router: Arc<dyn Router>, jobs: Arc<Jobs>) -> Result<Self, prometheus::Error> {
        let described = [
            INFO,
            DESCRIPTORS,
            BYTES,
            MISSES,
            DOORBELLS,
            ROUTES,
            PORTS,
            HOP,
        ]
        .into_iter()
        .map(|(name, help)| Desc::new(name.into(), help.into(), vec![], HashMap::new()))
        .collect::<Result<_, _>>()?;
        Ok(Self {
            router,
            jobs,
            descriptions: described,
        })
    }

    /// Traffic by the job's name and level.
    fn named(&self, snapshot: &Snapshot) -> BTreeMap<(String, Level), Traffic> {
        let mut named: BTreeMap<(String, Level), Traffic> = BTreeMap::new();
        for ((number, level), traffic) in &snapshot.routed {
            let job = self
                .jobs
                .by_number(*number)
                .map_or(DELETED.to_owned(), |job| job.name.to_string());
            let sum = named.entry((job, *level)).or_default();
            sum.descriptors += traffic.descriptors;
            sum.bytes += traffic.bytes;
        }
        named
    }
}

impl Collector for SidecarCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let info = vec![gauge(1.0, &[("kind", self.router.kind().name())])];
        let mut families = vec![family(INFO, MetricType::GAUGE, info)];
        let snapshot = match self.router.snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => {
                tracing::warn!(%error, "the sidecar's counters cannot be read");
                return families;
            }
        };
        let named = self.named(&snapshot);
        let by_route = |count: fn(&Traffic) -> u64| {
            let metric = |((job, level), traffic): (&(String, Level), &Traffic)| {
                counter(count(traffic), &[("fl_job", job), ("level", level.name())])
            };
            named.iter().map(metric).collect::<Vec<_>>()
        };
        families.extend([
            family(
                DESCRIPTORS,
                MetricType::COUNTER,
                by_route(|traffic| traffic.descriptors),
            ),
            family(
                BYTES,
                MetricType::COUNTER,
                by_route(|traffic| traffic.bytes),
            ),
            family(
                MISSES,
                MetricType::COUNTER,
                vec![counter(snapshot.misses, &[])],
            ),
            family(
                DOORBELLS,
                MetricType::COUNTER,
                vec![counter(snapshot.doorbells, &[])],
            ),
            family(
                ROUTES,
                MetricType::GAUGE,
                vec![gauge(snapshot.routes as f64, &[])],
            ),
            family(
                PORTS,
                MetricType::GAUGE,
                vec![gauge(snapshot.ports as f64, &[])],
            ),
            family(
                HOP,
                MetricType::HISTOGRAM,
                vec![histogram(&snapshot.hop_latency)],
            ),
        ]);
        families
    }
}

fn family((name, help): (&str, &str), kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

fn counter(value: u64, labels: &[(&str, &str)]) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

fn gauge(value: f64, labels: &[(&str, &str)]) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = labelled(labels);
    metric.set_gauge(gauge);
    metric
}

fn histogram(latency: &HopLatency) -> Metric {
    let buckets = SHOWN.map(|exponent| {
        // Bucket i ends before 2^(i+1) ns.
        let below: u64 = latency.buckets.iter().take(exponent as usize).sum();
        let mut bucket = Bucket::default();
        bucket.set_upper_bound((1u64 << exponent) as f64 * 1e-9);
        bucket.set_cumulative_count(below);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(latency.count());
    histogram.set_sample_sum(latency.sum_ns as f64 * 1e-9);
    let mut metric = labelled(&[]);
    metric.set_histogram(histogram);
    metric
}
