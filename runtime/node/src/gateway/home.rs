//! A client's updates of a round all go to one node, its home: whoever asks elsewhere is sent there.

use super::Gateway;
use super::refusal::Refusal;
use crate::job::{Home, Job};
use tributary_api::ClientName;
use tributary_api::placement::Member;

impl Gateway {
    /// Ok if the client's update belongs here.
    ///
    /// Where homes have moved in the middle of the round, the earlier ones are asked first: one may have an update
    /// of the client already. One that says no will take none, so nobody counts twice.
    pub(super) async fn check_home(&self, job: &Job, client: &ClientName) -> Result<(), Refusal> {
        match job.home(client) {
            Home::Here => Ok(()),
            Home::At(url) => Err(elsewhere(job, client, &url)),
            Home::HereUnless(asked) => {
                for member in asked {
                    self.ask(job, client, &member).await?;
                }
                Ok(())
            }
        }
    }

    async fn ask(&self, job: &Job, client: &ClientName, member: &Member) -> Result<(), Refusal> {
        let Some(placement) = job.placement() else {
            return Ok(());
        };
        let peer = self
            .peers
            .at(&member.url, &job.name, &job.node, &placement.secret);
        match peer.holds(client, job.model().version).await {
            Ok(false) => Ok(()),
            Ok(true) => Err(elsewhere(job, client, &member.url)),
            Err(error) => Err(Refusal::HomeUnknown {
                job: job.name.clone(),
                error: error.to_string(),
            }),
        }
    }
}

/// The way to a client's home.
fn elsewhere(job: &Job, client: &ClientName, url: &str) -> Refusal {
    Refusal::Elsewhere {
        job: job.name.to_string(),
        url: format!("{url}/v1/jobs/{}/updates/{client}", job.name),
    }
}
