//! Whose update a merge or finish fails on. A partial holds many clients, so the one to blame is looked for from attempt
//! to attempt: half of the suspects are set aside, and whether the others' model can be made says in which half it is.
//!
//! ```text
//!   fails        nobody is out: the reason may have passed by the next attempt
//!   fails again  half of those in it both times are set aside
//!   fails        the suspects are those in it: half of them are set aside
//!   is made      the suspects are those set aside: half of them are set aside
//!   one suspect  is left out until the round is over
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tributary_api::ClientName;

/// The pause after a round's second failure; it doubles with each further one.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a round's failed attempts have taught.
#[derive(Debug, Default)]
pub(super) struct Blame {
    failures: u32,
    /// What failed last.
    error: String,
    /// One of them is to blame.
    suspects: BTreeSet<ClientName>,
    /// Half of them, which the open attempt does without.
    aside: BTreeSet<ClientName>,
    /// Of those, the ones that have come: the attempt does not wait for others in their place.
    came: BTreeSet<ClientName>,
    /// They are to blame; for what.
    out: BTreeMap<ClientName, String>,
}

impl Blame {
    /// An attempt has failed; gives how long the next one waits before it closes.
    pub(super) fn count_failure(&mut self) -> Duration {
        self.came.clear();
        self.failures += 1;
        let Some(doublings) = self.failures.checked_sub(2) else {
            return Duration::ZERO;
        };
        (PAUSE * (1 << doublings.min(16))).min(PAUSE_MAX)
    }

    /// A merge or finish has failed on a partial with these clients inside.
    pub(super) fn fall_on(&mut self, inside: BTreeSet<ClientName>, error: &str) {
        error.clone_into(&mut self.error);
        let first = self.suspects.is_empty();
        let both: BTreeSet<_> = self.suspects.intersection(&inside).cloned().collect();
        let suspects = if both.is_empty() { inside } else { both };
        if first {
            (self.suspects, self.aside) = (suspects, BTreeSet::new());
        } else {
            self.narrow(suspects);
        }
    }

    /// The attempt's model can be made, but has too few contributors without those set aside.
    pub(super) fn is_aside(&mut self) {
        let aside = std::mem::take(&mut self.aside);
        self.narrow(aside);
    }

    fn narrow(&mut self, suspects: BTreeSet<ClientName>) {
        if suspects.len() > 1 {
            let half = suspects.len() / 2;
            self.aside = suspects.iter().take(half).cloned().collect();
            self.suspects = suspects;
            return;
        }
        let why = |client| (client, self.error.clone());
        self.out.extend(suspects.into_iter().map(why));
        (self.suspects, self.aside) = (BTreeSet::new(), BTreeSet::new());
    }

    /// Why a client's update is not taken in this attempt, if so.
    pub(super) fn refusal(&self, client: &ClientName) -> Option<String> {
        if let Some(error) = self.out.get(client) {
            return Some(format!(
                "{error}; it fails with this update and not without it, so the round goes on without it"
            ));
        }
        let suspects = self.suspects.len();
        self.aside.contains(client).then(|| {
            format!(
                "{}; this update is one of {suspects} of which one is the reason, and half of them are set aside to find \
                 it: send it again if the round opens again",
                self.error
            )
        })
    }

    /// A client that is set aside has come; true if for the first time in this attempt.
    pub(super) fn note(&mut self, client: &ClientName) -> bool {
        self.aside.contains(client) && self.came.insert(client.clone())
    }

    /// How many of those that are set aside have come.
    pub(super) fn came(&self) -> u32 {
        self.came.len() as u32
    }

    pub(super) fn suspects(&self) -> impl Iterator<Item = &ClientName> {
        self.suspects.iter()
    }

    pub(super) fn out(&self) -> impl Iterator<Item = &ClientName> {
        self.out.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(number: u32) -> ClientName {
        format!("client-{number:03}").parse().unwrap()
    }

    /// Plays attempts in which all clients come that are not turned away, until the model is made with all but those to
    /// blame; gives the number of attempts.
    fn attempts(clients: u32, culprits: &BTreeSet<u32>) -> (u32, Blame) {
        let mut blame = Blame::default();
        for attempt in 1..1000 {
            let all = (0..clients).map(name);
            let inside: BTreeSet<_> = all
                .filter(|client| blame.refusal(client).is_none())
                .collect();
            if culprits
                .iter()
                .any(|number| inside.contains(&name(*number)))
            {
                blame.fall_on(inside, "fails");
            } else if blame.aside.is_empty() {
                return (attempt, blame);
            } else {
                blame.is_aside();
            }
            let _ = blame.count_failure();
        }
        panic!("never made: {blame:?}");
    }

    proptest! {
        /// Whoever is to blame is found, nobody else is, in a number of attempts that grows with the logarithm of the clients.
        #[test]
        fn who_is_to_blame_is_found(clients in 1u32..200, culprits in proptest::collection::btree_set(0u32..200, 0..4)) {
            let culprits: BTreeSet<u32> = culprits.into_iter().filter(|number| *number < clients).collect();
            let (attempts, blame) = attempts(clients, &culprits);
            let found: BTreeSet<_> = blame.out().cloned().collect();
            prop_assert_eq!(found, culprits.iter().map(|number| name(*number)).collect());
            let each = clients.ilog2() + 4;
            prop_assert!(attempts <= 1 + each * culprits.len() as u32, "{} attempts", attempts);
        }
    }

    #[test]
    fn one_failure_turns_nobody_away() {
        let mut blame = Blame::default();
        blame.fall_on((0..4).map(name).collect(), "fails");
        assert!((0..4).all(|number| blame.refusal(&name(number)).is_none()));
        blame.fall_on((0..4).map(name).collect(), "fails");
        let aside = (0..4).filter(|number| blame.refusal(&name(*number)).is_some());
        assert_eq!(aside.count(), 2);
        assert!(blame.note(&name(0)) && !blame.note(&name(0)) && !blame.note(&name(3)));
        assert_eq!(blame.came(), 1);
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let mut blame = Blame::default();
        let pauses: Vec<_> = (0..20).map(|_| blame.count_failure().as_millis()).collect();
        assert_eq!(pauses[..4], [0, 50, 100, 200]);
        assert_eq!(pauses[19], PAUSE_MAX.as_millis());
    }
}
