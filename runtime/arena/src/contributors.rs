//! The clients inside a partial: a bit each.
//!
//! Merging overlapping sets is refused, so that an input that is delivered twice can never count a
//! client twice.
//!
//! Clients are numbered in the order of their arrival, and a leaf takes updates that arrive together. So
//! the clients below an aggregator stand close to each other, and only the words between the first and the
//! last are kept: one for an update, whatever the number of clients in the round.

/// A set of clients by their number in the round.
#[derive(Clone, Debug, Default)]
pub struct Contributors {
    /// The number of the first word that is kept.
    first: u32,
    words: Vec<u64>,
}

impl Contributors {
    /// The set of one client.
    #[must_use]
    pub fn single(client: u32) -> Self {
        Self {
            first: client / 64,
            words: vec![1 << (client % 64)],
        }
    }

    /// The set of consecutive clients.
    #[must_use]
    pub fn range(clients: std::ops::Range<u32>) -> Self {
        if clients.is_empty() {
            return Self::default();
        }
        let (first, last) = (clients.start / 64, (clients.end - 1) / 64);
        let mut words = vec![u64::MAX; (last - first + 1) as usize];
        words[0] &= u64::MAX << (clients.start % 64);
        words[(last - first) as usize] &= u64::MAX >> (63 - (clients.end - 1) % 64);
        Self { first, words }
    }

    /// A set from its words; client `64 * first` has the lowest bit of the first of them.
    #[must_use]
    pub fn from_words(first: u32, words: Vec<u64>) -> Self {
        Self { first, words }
    }

    /// The number of the first word, and the words.
    #[must_use]
    pub fn words(&self) -> (u32, &[u64]) {
        (self.first, &self.words)
    }

    /// The lowest number that is not in the set.
    #[must_use]
    pub fn first_missing(&self) -> u32 {
        if self.first > 0 {
            return 0;
        }
        let full = self.words.iter().take_while(|word| **word == u64::MAX);
        let full = full.count();
        let rest = self.words.get(full).map_or(0, |word| word.trailing_ones());
        full as u32 * 64 + rest
    }

    /// The number of the word behind the last one.
    fn end(&self) -> u32 {
        self.first + self.words.len() as u32
    }

    /// Number of clients in the set.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// True if no client is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The pairs of words that both sets keep.
    fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let begin = self.first.max(other.first);
        let end = self.end().min(other.end()).max(begin);
        let from = move |set: &'a Self| {
            let words = set.words.iter().copied();
            words
                .skip((begin - set.first) as usize)
                .take((end - begin) as usize)
        };
        from(self).zip(from(other))
    }

    /// True if no client is in both sets.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.common(other).all(|(a, b)| a & b == 0)
    }

    /// True if every client of `other` is in this set.
    #[must_use]
    pub fn contains_all(&self, other: &Self) -> bool {
        let here: u32 = self.common(other).map(|(a, b)| (a & b).count_ones()).sum();
        here == other.len()
    }

    /// Adds every client of `other`; the caller has checked that the sets are disjoint.
    pub fn extend(&mut self, other: &Self) {
        if self.words.is_empty() {
            self.clone_from(other);
            return;
        }
        if other.words.is_empty() {
            return;
        }
        if other.first < self.first {
            let missing = (self.first - other.first) as usize;
            self.words.splice(0..0, std::iter::repeat_n(0, missing));
            self.first = other.first;
        }
        let end = self.end().max(other.end());
        self.words.resize((end - self.first) as usize, 0);
        let offset = (other.first - self.first) as usize;
        for (word, more) in self.words[offset..].iter_mut().zip(&other.words) {
            *word |= more;
        }
    }
}

/// The same clients, however many words are kept for them.
impl PartialEq for Contributors {
    fn eq(&self, other: &Self) -> bool {
        self.contains_all(other) && other.contains_all(self)
    }
}

impl Eq for Contributors {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set_of(clients: &[u32]) -> Contributors {
        let mut set = Contributors::default();
        for client in clients {
            set.extend(&Contributors::single(*client));
        }
        set
    }

    proptest! {
        #[test]
        fn the_first_missing_is_the_lowest(clients in proptest::collection::vec(0u32..256, 0..512)) {
            let expected = (0..).find(|client| !clients.contains(client));
            prop_assert_eq!(Some(set_of(&clients).first_missing()), expected);
        }

        #[test]
        fn behaves_like_a_set(a in proptest::collection::vec(0u32..512, 0..60),
                              b in proptest::collection::vec(0u32..512, 0..60)) {
            let (sa, sb) = (set_of(&a), set_of(&b));
            let unique = |list: &[u32]| list.iter().copied().collect::<BTreeSet<_>>();
            let (a, b) = (unique(&a), unique(&b));
            prop_assert_eq!(sa.len() as usize, a.len());
            prop_assert_eq!(sa.is_empty(), a.is_empty());
            prop_assert_eq!(sa.is_disjoint(&sb), a.is_disjoint(&b));
            prop_assert_eq!(sa.contains_all(&sb), a.is_superset(&b));
            prop_assert_eq!(sa == sb, a == b);
            let mut union = sa.clone();
            union.extend(&sb);
            let all: Vec<u32> = a.union(&b).copied().collect();
            prop_assert_eq!(&union, &set_of(&all));
            let (first, words) = union.words();
            prop_assert_eq!(Contributors::from_words(first, words.to_vec()), union);
        }
    }

    #[test]
    fn an_update_is_one_word_in_a_round_of_any_size() {
        let late = Contributors::single(99_999);
        assert_eq!(late.words(), (1562, &[1 << 31][..]));
        assert!(late.is_disjoint(&Contributors::single(31)));
    }
}
