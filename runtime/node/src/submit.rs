//! Updates that somebody submits for their clients: taken here, or handed to the client's home.

use crate::gateway::ingest::Address;
use crate::gateway::{Refusal, reference};
use crate::node::Node;
use async_trait::async_trait;
use std::collections::BTreeSet;
use tributary_api::Name;
use tributary_api::problem::Problem;
use tributary_api::reference::{Intake, Submission};
use tributary_api::status::UpdateReceipt;

#[async_trait]
impl Intake for Node {
    async fn running(&self, known: &BTreeSet<Name>) -> BTreeSet<Name> {
        let mut names = self.gateway.jobs.names();
        let others = names.wait_for(|names| names != known).await;
        let others = others.map(|names| names.clone());
        match others {
            Ok(names) => names,
            // The register ends with the node.
            Err(_) => std::future::pending().await,
        }
    }

    async fn submit(&self, job: &Name, submission: &Submission) -> Result<UpdateReceipt, Problem> {
        let address = address(job, submission);
        let taken = reference::take(&self.gateway, &address, &submission.reference).await;
        match taken {
            Ok((_, receipt)) => Ok(receipt),
            Err(Refusal::Elsewhere { url, .. }) => {
                self.gateway.peers.refer(url, &submission.reference).await
            }
            Err(refusal) => Err(refusal.problem()),
        }
    }
}

fn address(job: &Name, submission: &Submission) -> Address {
    let Submission { round, weight, .. } = submission;
    let weight = weight.map(|weight| format!("&weight={weight}"));
    Address {
        job: job.to_string(),
        client: submission.client.to_string(),
        query: format!("round={round}{}", weight.unwrap_or_default()),
    }
}
