//! What an earlier version of the program kept.

use tributary_api::{Name, manifest::Kind};

use super::{Desired, Heads, Store, key};
use crate::Error;

/// A thing and its revisions, as an earlier version of the program kept them.
pub(crate) struct Former {
    pub(crate) kind: Kind,
    pub(crate) name: Name,
    pub(crate) last: u64,
    pub(crate) live: bool,
    /// Revisions and their records.
    pub(crate) records: Vec<(u64, Vec<u8>)>,
}

impl Store {
    /// Brings what an earlier version kept into an empty store; again, if a process has died over it.
    pub(crate) async fn take_over(&self, all: Vec<Former>) -> Result<(), Error> {
        let base = self.load(&Desired::default()).await?;
        if base.seen != 0 {
            return Ok(());
        }
        let mut heads = Heads::default();
        for former in all {
            for (revision, record) in former.records.iter().filter(|_| former.live) {
                let key = key(former.kind, &former.name, *revision, heads.term);
                self.keys.put(&key, record.clone().into()).await?;
                let _ = heads.advance(former.kind, &former.name, *revision);
            }
            let head = heads.of_mut(former.kind).entry(former.name).or_default();
            (head.last, head.live) = (former.last, former.live);
        }
        self.swap(&base, heads).await.map(drop)
    }
}
