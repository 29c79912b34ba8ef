//! Models that wait on the node's disk, read at each scrape.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGauge};
use tributary_api::control::Checkpoints;

pub(super) struct SpoolCollector {
    checkpoints: Arc<dyn Checkpoints>,
    jobs: IntGauge,
    longest: Gauge,
}

impl SpoolCollector {
    pub(super) fn new(checkpoints: Arc<dyn Checkpoints>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            checkpoints,
            jobs: IntGauge::new(
                "tributary_undelivered_models",
                "Jobs whose newest model lies on this node's disk and not yet in the store.",
            )?,
            longest: Gauge::new(
                "tributary_undelivered_seconds",
                "How long the first of those models has waited.",
            )?,
        })
    }
}

impl Collector for SpoolCollector {
    fn desc(&self) -> Vec<&Desc> {
        let mut all = self.jobs.desc();
        all.extend(self.longest.desc());
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let waiting = self.checkpoints.undelivered();
        self.jobs
            .set(i64::try_from(waiting.jobs).unwrap_or(i64::MAX));
        self.longest.set(waiting.longest.as_secs_f64());
        let mut all = self.jobs.collect();
        all.extend(self.longest.collect());
        all
    }
}
