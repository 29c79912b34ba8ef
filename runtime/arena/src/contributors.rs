//! The clients inside a partial: a bit each.
//!
//! Merging overlapping sets is refused, so that an input that is delivered twice can never count a
//! client twice.

/// A set of clients by their number in the round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contributors(Vec<u64>);

impl Contributors {
    /// The empty set over `words` * 64 clients.
    #[must_use]
    pub fn empty(words: u64) -> Self {
        Self(vec![0; words as usize])
    }

    /// A set from its words, lowest client first.
    #[must_use]
    pub fn from_words(words: Vec<u64>) -> Self {
        Self(words)
    }

    /// The set's words, lowest client first.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    /// Adds a client. Clients beyond the set's capacity are refused with `false`.
    pub fn insert(&mut self, client: u32) -> bool {
        match self.0.get_mut(client as usize / 64) {
            Some(word) => {
                *word |= 1 << (client % 64);
                true
            }
            None => false,
        }
    }

    /// The lowest number that is not in the set: its capacity, if all are.
    #[must_use]
    pub fn first_missing(&self) -> u32 {
        let full = self.0.iter().take_while(|word| **word == u64::MAX).count();
        let rest = self.0.get(full).map_or(0, |word| word.trailing_ones());
        full as u32 * 64 + rest
    }

    /// Number of clients in the set.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// True if no client is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// True if no client is in both sets.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a & b == 0)
    }

    /// True if every client of `other` is in this set.
    #[must_use]
    pub fn contains_all(&self, other: &Self) -> bool {
        self.0.len() >= other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| a & b == *b)
    }

    /// Adds every client of `other`; the caller has checked that the sets are disjoint.
    pub fn extend(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set_of(clients: &BTreeSet<u32>) -> Contributors {
        let mut set = Contributors::empty(4);
        for client in clients {
            assert!(set.insert(*client));
        }
        set
    }

    proptest! {
        #[test]
        fn the_first_missing_is_the_lowest(clients in proptest::collection::btree_set(0u32..256, 0..256)) {
            let expected = (0..).find(|client| !clients.contains(client));
            prop_assert_eq!(Some(set_of(&clients).first_missing()), expected);
        }

        #[test]
        fn behaves_like_a_set(a in proptest::collection::btree_set(0u32..256, 0..60),
                              b in proptest::collection::btree_set(0u32..256, 0..60)) {
            let (sa, sb) = (set_of(&a), set_of(&b));
            prop_assert_eq!(sa.len() as usize, a.len());
            prop_assert_eq!(sa.is_empty(), a.is_empty());
            prop_assert_eq!(sa.is_disjoint(&sb), a.is_disjoint(&b));
            prop_assert_eq!(sa.contains_all(&sb), a.is_superset(&b));
            let mut union = sa.clone();
            union.extend(&sb);
            prop_assert_eq!(union, set_of(&a.union(&b).copied().collect()));
        }
    }

    #[test]
    fn a_client_beyond_the_capacity_is_refused() {
        assert!(!Contributors::empty(1).insert(64));
    }
}
