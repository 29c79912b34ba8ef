//! Whose update a merge or finish fails on. A partial holds many clients, so the one to blame is looked for from attempt
//! to attempt: half of the suspects are set aside, and whether the others' model can be made says in which half it is.
//! There may be several: a half that was set aside stays there until the other half is clear, or the search begins again.
//!
//! ```text
//!   fails        nobody is out: the reason may have passed by the next attempt
//!   fails again  half of those in it both times are set aside, as well
//!   is made      who was in it is clear; of the half that was set aside last half come in
//!   one suspect  is left out until the round is over; all that are set aside come in
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
    /// Those in the open attempt of whom one may be to blame.
    suspects: BTreeSet<ClientName>,
    /// Others of whom one may be, which the open attempt does without: the halves that were set aside, in that order.
    aside: Vec<BTreeSet<ClientName>>,
    /// Clients that have come and were turned away: the attempt does not wait for others in their place.
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
        let both: BTreeSet<_> = self.suspects.intersection(&inside).cloned().collect();
        if both.is_empty() {
            self.suspects = inside;
        } else {
            self.narrow(both);
        }
    }

    /// The attempt's model can be made, but has too few contributors without those set aside.
    pub(super) fn is_aside(&mut self) {
        let last = self.aside.pop().unwrap_or_default();
        self.narrow(last);
    }

    /// One of `suspects` is to blame: half of them are set aside, or the only one is left out.
    fn narrow(&mut self, mut suspects: BTreeSet<ClientName>) {
        if suspects.len() > 1 {
            let half = suspects.iter().nth(suspects.len() / 2).cloned();
            let rest = half.map(|half| suspects.split_off(&half));
            self.aside.push(suspects);
            self.suspects = rest.unwrap_or_default();
            return;
        }
        let why = |client| (client, self.error.clone());
        self.out.extend(suspects.into_iter().map(why));
        self.suspects = self.aside.drain(..).flatten().collect();
    }

    /// Why a client's update is not taken in this attempt, if so.
    pub(super) fn refusal(&self, client: &ClientName) -> Option<String> {
        if let Some(error) = self.out.get(client) {
            return Some(format!(
                "{error}; it fails with this update and not without it, so the round goes on without it"
            ));
        }
        let suspects = self.suspects().count();
        self.is_set_aside(client).then(|| {
            format!(
                "{}; this update is one of {suspects} of which one is the reason, and some of them are set aside to find \
                 it: send it again if the round opens again",
                self.error
            )
        })
    }

    fn is_set_aside(&self, client: &ClientName) -> bool {
        self.aside.iter().any(|half| half.contains(client))
    }

    /// A client that is turned away has come; true if for the first time in this attempt.
    pub(super) fn note(&mut self, client: &ClientName) -> bool {
        self.came.insert(client.clone())
    }

    /// How many have come of those that are set aside, and of those that are left out.
    pub(super) fn came(&self) -> (u32, u32) {
        let left_out = self
            .came
            .iter()
            .filter(|client| self.out.contains_key(*client));
        let left_out = left_out.count();
        ((self.came.len() - left_out) as u32, left_out as u32)
    }

    pub(super) fn suspects(&self) -> impl Iterator<Item = &ClientName> {
        self.suspects.iter().chain(self.aside.iter().flatten())
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
        assert!(blame.note(&name(0)) && !blame.note(&name(0)));
        assert_eq!(blame.came(), (1, 0));
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let mut blame = Blame::default();
        let pauses: Vec<_> = (0..20).map(|_| blame.count_failure().as_millis()).collect();
        assert_eq!(pauses[..4], [0, 50, 100, 200]);
        assert_eq!(pauses[19], PAUSE_MAX.as_millis());
    }
}
