//! Judging nodes by what the leaders of their jobs report, and telling it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tributary_api::{Name, event::EventKind, fleet::BypassedNode, stages::Verdict};

use super::{Controller, Known, lock};
use crate::{
    fleet::Seen,
    placing::{Verdicts, active, open_round},
    stragglers::Turn,
    voice::About,
};

impl Controller {
    /// The verdicts on the nodes of all jobs. What has changed is told.
    pub(super) fn judge(&self, known: &Known, nodes: &BTreeMap<Name, Seen>) -> Verdicts {
        let mut stragglers = lock(&self.stragglers);
        stragglers.retain(|job| known.placed.contains_key(job));
        let alive = nodes.iter().filter(|(_, seen)| !seen.lost);
        let alive: BTreeSet<&Name> = alive.map(|(name, _)| name).collect();
        let (mut verdicts, mut turns) = (Verdicts::new(), Vec::new());
        for (job, placed) in &known.placed {
            let leader = &placed.placement.leader;
            let seen = nodes.get(leader).filter(|seen| !seen.lost);
            let Some(status) = seen.and_then(|seen| seen.report.job(job)) else {
                continue;
            };
            // Who does not know yet that it leads has nothing to tell.
            let leads = |of: &Name| of == leader;
            if !status
                .placement
                .as_ref()
                .is_some_and(|now| leads(&now.leader))
            {
                continue;
            }
            let since = placed.bypassed.iter();
            let since = since
                .map(|(node, bypass)| (node.clone(), bypass.until))
                .collect();
            turns.extend(stragglers.observe(job, status, &since, &alive));
            verdicts.extend(stragglers.judged(job).map(|judged| (job.clone(), judged)));
        }
        drop(stragglers);
        turns.iter().for_each(|turn| self.tell_turn(turn));
        verdicts
    }

    fn tell_turn(&self, turn: &Turn) {
        let Turn { job, node, slow } = turn;
        let about = About::Node(node);
        match slow {
            Some(why) => {
                tracing::warn!(%job, %node, "a node is slow beside the others: {why}");
                let data = json!({ "job": job, "why": why });
                self.voice.tell(EventKind::NodeSlow, about, data);
            }
            None => {
                tracing::info!(%job, %node, "a node that was slow is well again");
                let data = json!({ "job": job });
                self.voice.tell(EventKind::NodeRecovered, about, data);
            }
        }
    }

    /// The nodes that a job does without now.
    pub(super) fn bypassed(
        &self,
        known: &Known,
        nodes: &BTreeMap<Name, Seen>,
        job: &Name,
    ) -> Vec<BypassedNode> {
        let Some(placed) = known.placed.get(job) else {
            return Vec::new();
        };
        let open = open_round(job, &placed.placement, &super::placing::sites(known, nodes));
        let active = active(&placed.bypassed, open);
        let bypassed = placed
            .bypassed
            .iter()
            .filter(|(node, _)| active.contains(*node));
        bypassed
            .map(|(node, bypass)| BypassedNode {
                node: node.clone(),
                until: bypass.until,
                times: bypass.times,
            })
            .collect()
    }

    /// Adds to a job's description what is known of its nodes.
    pub(super) fn describe_slow(
        &self,
        known: &Known,
        nodes: &BTreeMap<Name, Seen>,
        description: &mut tributary_api::fleet::PlacementDescription,
    ) {
        description.bypassed = self.bypassed(known, nodes, &description.job);
        let stragglers = lock(&self.stragglers);
        for member in &mut description.members {
            stragglers.describe(&description.job, member);
            let mut bypassed = description.bypassed.iter();
            if bypassed.any(|bypassed| bypassed.node == member.node) {
                member.verdict = Verdict::Bypassed;
            }
        }
    }
}
