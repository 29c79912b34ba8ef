//! Deciding on placements and writing them down.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tributary_api::{Name, event::EventKind};
use tributary_planning::placement::{Node, NodeState};

use super::{Controller, Known, leading::is_conflict};
use crate::{
    Error,
    fleet::Seen,
    placing::{Given, Placed, Placing, Site, Unfit, place},
    random,
    voice::About,
};

impl Controller {
    /// Places all jobs anew where that is due. Whether all is as planned.
    pub(super) async fn place(&self, term: u64) -> bool {
        let known = self.known();
        let nodes = self.fleet.seen();
        let sites = sites(&known, &nodes);
        let members = known
            .placed
            .values()
            .flat_map(|placed| &placed.placement.members);
        let members: BTreeSet<&Name> = members.map(|member| &member.node).collect();
        // Who has not been heard of yet may be there all the same.
        if !self.fleet.knows(&members) {
            return false;
        }
        let given = Given {
            desired: &known.desired,
            sites: &sites,
            placed: &known.placed,
            unfit: &self.unfit(&known),
            verdicts: &self.judge(&known, &nodes),
        };
        let Placing { changed, nowhere } = place(&given, secret);
        if known.nowhere != nowhere {
            self.change_known(|known| known.nowhere = nowhere);
        }
        let mut done = true;
        for (job, placed) in changed {
            done &= self.keep(term, job, placed).await;
        }
        for job in known.placed.keys() {
            if !known.desired.jobs.contains_key(job) {
                done &= self.drop_placement(job).await;
            }
        }
        self.tell_drained(&known);
        done
    }

    /// The nodes that could not start a job: others are to have it.
    fn unfit(&self, known: &Known) -> Unfit {
        let work = super::lock(&self.work);
        let jobs = known.desired.jobs.iter();
        let unfit = jobs.map(|(name, record)| (name.clone(), work.unfit(name, record.revision)));
        unfit.filter(|(_, nodes)| !nodes.is_empty()).collect()
    }

    /// Writes a placement; from then on it counts.
    async fn keep(&self, term: u64, job: Name, placed: Placed) -> bool {
        // An earlier one of the same pass may have shown that another controller leads.
        if self.term() != Some(term) {
            return false;
        }
        match self.write(&job, &placed).await {
            Ok(revision) => {
                let placement = &placed.placement;
                tracing::info!(
                    %job, term, generation = placement.generation, leader = %placement.leader,
                    "{}", placed.reason
                );
                self.metrics.placements(placed.cause);
                self.change_known(|known| {
                    known.seen.insert(job.clone(), revision);
                    known.placed.insert(job, placed);
                });
                true
            }
            Err(error) => {
                tracing::warn!(%job, %error, "a placement cannot be written");
                self.reread(&error).await;
                false
            }
        }
    }

    async fn write(&self, job: &Name, placed: &Placed) -> Result<u64, Error> {
        let keys = &self.state.placements;
        let value = serde_json::to_vec(placed)?.into();
        Ok(match self.known().seen.get(job) {
            Some(revision) => keys.update(job.as_str(), value, *revision).await?,
            None => keys.create(job.as_str(), value).await?,
        })
    }

    async fn drop_placement(&self, job: &Name) -> bool {
        let Some(revision) = self.known().seen.get(job).copied() else {
            return true;
        };
        match self
            .state
            .placements
            .delete_if(job.as_str(), revision)
            .await
        {
            Ok(()) => {
                self.change_known(|known| {
                    known.seen.remove(job);
                    known.placed.remove(job);
                });
                true
            }
            Err(error) => {
                tracing::warn!(%job, %error, "the placement of a deleted job stays");
                self.reread(&error.into()).await;
                false
            }
        }
    }

    /// An earlier write, of which no answer came, was made after all; or this controller does not lead any more and
    /// will hear so.
    async fn reread(&self, error: &Error) {
        if matches!(error, Error::Store(error) if is_conflict(error))
            && let Err(error) = self.look_up().await
        {
            tracing::debug!(%error, "placements cannot be read");
        }
    }

    /// Tells once of each node that it has handed over all it had.
    fn tell_drained(&self, known: &Known) {
        let drained: BTreeSet<Name> = known.drained().cloned().collect();
        let told = std::mem::replace(&mut *super::lock(&self.drained), drained.clone());
        for node in drained.difference(&told) {
            self.voice
                .tell(EventKind::NodeDrained, About::Node(node), json!({}));
        }
    }
}

/// The nodes as placement takes them.
pub(super) fn sites(known: &Known, nodes: &BTreeMap<Name, Seen>) -> BTreeMap<Name, Site> {
    let sites = nodes.iter().filter_map(|(name, seen)| {
        let report = &seen.report;
        let state = if seen.lost {
            NodeState::Lost
        } else if known.desired.drained().contains(name) {
            NodeState::Draining
        } else {
            NodeState::Ready
        };
        let node = Node {
            labels: report.labels.clone(),
            state,
            capacity: seen.gauge.capacity(report.status.cores),
            arrivals_per_second: seen.gauge.arrivals(),
            arrivals_of_jobs: seen.gauge.arrivals_of_jobs(),
            ..Node::new(name.as_str(), report.status.cores)
        };
        let site = Site {
            node,
            url: report.url.clone()?,
            report: report.clone(),
        };
        Some((name.clone(), site))
    });
    sites.collect()
}

/// 128 bits that nobody can guess.
fn secret() -> String {
    let bytes = random::bytes::<16>();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
