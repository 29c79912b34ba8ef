//! A node in another process, reached over the bus.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use tributary_store::{Bus, Error as StoreError};

use super::{Answer, Command, Link, Order, Refusal, subject};

/// A node that lives answers within this time; compiling a function and taking memory are the slowest.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asking how it is takes no time.
const PATIENCE_FOR_REPORTS: Duration = Duration::from_secs(3);

/// An order that is not answered by then is sent again: with a server of the bus, it or its answer may have been lost.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// A node, as seen over the bus.
pub(crate) struct RemoteNode {
    name: String,
    bus: Arc<dyn Bus>,
}

impl RemoteNode {
    pub(crate) fn new(name: &str, bus: Arc<dyn Bus>) -> Self {
        let name = name.to_owned();
        Self { name, bus }
    }

    /// Asks again and again; the node knows by the order's id that it is the same.
    async fn ask(&self, request: Bytes, patience: Duration) -> Result<Bytes, StoreError> {
        let subject = subject(&self.name);
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline - Instant::now();
            let asked = self
                .bus
                .request(&subject, request.clone(), left.min(AGAIN_AFTER));
            match asked.await {
                Err(StoreError::Timeout { .. }) if Instant::now() < deadline => {}
                Err(StoreError::Timeout { subject, .. }) => {
                    let after = patience;
                    return Err(StoreError::Timeout { subject, after });
                }
                answer => return answer,
            }
        }
    }

    fn unreachable(&self, command: &Command, why: impl std::fmt::Display) -> Refusal {
        Refusal::Unreachable {
            node: self.name.clone(),
            why: format!("{}: {why}", command.as_str()),
        }
    }
}

#[async_trait]
impl Link for RemoteNode {
    async fn give(&self, order: Order) -> Result<Answer, Refusal> {
        let failed = |why: &dyn std::fmt::Display| self.unreachable(&order.command, why);
        let patience = match order.command {
            Command::Report => PATIENCE_FOR_REPORTS,
            _ => PATIENCE,
        };
        let request = serde_json::to_vec(&order).map_err(|error| failed(&error))?;
        let answer = self
            .ask(request.into(), patience)
            .await
            .map_err(|error| failed(&error))?;
        serde_json::from_slice::<Result<Answer, Refusal>>(&answer)
            .map_err(|error| failed(&error))?
    }
}
