//! The books of a job's rounds: the open one, and those before it that a client may still ask about.
//!
//! An update is one client's for one round. Whatever round takes it, it is looked for in all books since the round
//! that it was trained for, so it counts once. What was trained for a round of which there is no book any more, or
//! none here, cannot be told from a repeat, and is not taken.

use super::Inner;
use super::intake::{Accepted, Refusal};
use crate::round::{Known, Round};
use tributary_api::ClientName;

impl Inner {
    /// The book that has the client's update for the round `trained`.
    pub(super) fn book_with(&self, client: &ClientName, trained: u64) -> Option<&Round> {
        let books = std::iter::once(&self.round).chain(&self.before);
        let mut since = books.take_while(|book| book.number() >= trained);
        since.find(|book| book.has(client, trained))
    }

    /// The earliest round whose updates are known here.
    pub(super) fn known_since(&self) -> u64 {
        let books = self.before.back().unwrap_or(&self.round).number();
        let begun = self.part.as_ref().map_or(0, |part| part.moves.knows());
        books.max(begun)
    }

    /// Whether an update for the round `trained` could be taken, now or once the next round opens.
    pub(super) fn check_round(&self, trained: u64) -> Result<(), Refusal> {
        let open = self.round.number();
        if self.stopped {
            return Err(Refusal::Stopped);
        }
        if let Some(why) = &self.failed {
            return Err(Refusal::Failed(why.clone()));
        }
        if self.completed {
            return Err(Refusal::Completed { version: open });
        }
        match (open.checked_sub(trained), self.spec.round.staleness) {
            (Some(0), _) => Ok(()),
            (Some(staleness), Some(allowed)) => self.check_staleness(staleness, allowed.max),
            _ => Err(Refusal::WrongRound { open }),
        }
    }

    fn check_staleness(&self, staleness: u64, max: u32) -> Result<(), Refusal> {
        let (open, since) = (self.round.number(), self.known_since());
        if staleness > u64::from(max) {
            return Err(Refusal::Stale {
                open,
                staleness,
                max,
            });
        }
        if open - staleness < since {
            let since = since.min(open);
            return Err(Refusal::Forgotten { open, since });
        }
        Ok(())
    }

    /// Whether updates that come while a round is closing wait for the next one.
    pub(super) fn carries(&self) -> bool {
        self.spec.round.staleness_max() > 0
    }

    /// The answer to a client whose update for the round `trained` is known.
    pub(super) fn answer_known(
        &self,
        client: &ClientName,
        trained: u64,
        digest: u128,
    ) -> Option<Result<Accepted, Refusal>> {
        let book = self.book_with(client, trained)?;
        Some(match book.known(client, trained, digest)? {
            Known::Same => Ok(Accepted {
                repeated: true,
                contributors: book.accepted(),
                round: book.number(),
                staleness: book.number() - trained,
            }),
            Known::Other => Err(Refusal::OtherBytes),
            Known::Refused(why) => Err(Refusal::Function(why)),
        })
    }

    /// Goes on with another book; gives those that are not needed any more. The book of an attempt that has failed
    /// is not: what was in it is gone.
    pub(super) fn turn_over(&mut self, next: Round) -> Vec<Round> {
        let again = next.number() == self.round.number();
        let before = std::mem::replace(&mut self.round, next);
        if again {
            return vec![before];
        }
        self.before.push_front(before);
        let kept = u64::from(self.spec.round.staleness_max().max(1));
        let since = self.round.number().saturating_sub(kept);
        let needed = self.before.partition_point(|book| book.number() >= since);
        self.before.drain(needed..).collect()
    }
}
