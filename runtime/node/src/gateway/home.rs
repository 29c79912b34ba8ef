//! A client's updates of a round all go to one node, its home: whoever asks elsewhere is sent there.

use super::Gateway;
use super::refusal::Refusal;
use crate::job::{Home, Job};
use tributary_api::ClientName;
use tributary_api::placement::Member;

impl Gateway {
    /// Ok if the client's update for the round `trained` belongs here; if that is not told, the open one.
    ///
    /// Where homes have moved, the earlier ones are asked first: one may have the client's update already. One that says
    /// no will take none, so nobody counts twice.
    pub(super) async fn check_home(
        &self,
        job: &Job,
        client: &ClientName,
        trained: Option<u64>,
    ) -> Result<(), Refusal> {
        match job.home(client, trained) {
            Home::Here => Ok(()),
            Home::At(url) => Err(elsewhere(job, client, &url)),
            Home::HereUnless(earlier, generation) => {
                let trained = trained.unwrap_or_else(|| job.model().version);
                for member in earlier {
                    self.ask(job, client, trained, &member, generation).await?;
                }
                job.is_home_by(client, trained, generation);
                Ok(())
            }
        }
    }

    async fn ask(
        &self,
        job: &Job,
        client: &ClientName,
        trained: u64,
        member: &Member,
        generation: u64,
    ) -> Result<(), Refusal> {
        let Some(placement) = job.placement() else {
            return Ok(());
        };
        let peer = self
            .peers
            .at(&member.url, &job.name, &job.node, &placement.secret);
        match peer.holds(client, trained, generation).await {
            Ok(holding) if holding.held => Err(elsewhere(job, client, &member.url)),
            Ok(holding) => job
                .heard_of_home(&member.node, trained, &holding)
                .map_err(|refusal| Refusal::Job {
                    job: job.name.clone(),
                    given: trained,
                    refusal,
                }),
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
