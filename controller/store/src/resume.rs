//! What who watches has been told, so that a watch can be taken up again.

use std::collections::BTreeMap;

use crate::{Change, Entry};

/// The keys that have been told, at their revisions.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeMap<String, u64>);

impl Known {
    /// What is new in a complete list, what has gone, and that this is all.
    pub(crate) fn catch_up(&mut self, list: Vec<(String, Entry)>) -> Vec<Change> {
        let mut gone = std::mem::take(&mut self.0);
        let mut changes = Vec::new();
        for (key, entry) in list {
            let told = gone.remove(&key).unwrap_or(0);
            self.0.insert(key.clone(), entry.revision.max(told));
            if entry.revision > told {
                changes.push(Change::Put(key, entry));
            }
        }
        changes.extend(gone.into_keys().map(Change::Deleted));
        changes.push(Change::UpToDate);
        changes
    }

    /// The deletion with the number `revision`, if the key has not been told at a later one.
    pub(crate) fn deleted(&mut self, key: String, revision: u64) -> Option<Change> {
        let told = *self.0.get(&key)?;
        (told < revision).then(|| {
            self.0.remove(&key);
            Change::Deleted(key)
        })
    }

    /// The change, if it is news.
    pub(crate) fn news(&mut self, change: Change) -> Option<Change> {
        let news = match &change {
            Change::Put(key, entry) => {
                let told = self.0.entry(key.clone()).or_default();
                let newer = entry.revision > *told;
                *told = entry.revision.max(*told);
                newer
            }
            Change::Deleted(key) => self.0.remove(key).is_some(),
            Change::UpToDate => true,
        };
        news.then_some(change)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entry(revision: u64) -> Entry {
        let value = Bytes::from_static(b"value");
        Entry { value, revision }
    }

    #[test]
    fn after_an_interruption_only_news_is_told() {
        let mut known = Known::default();
        let row = |key: &str, revision| (key.to_owned(), entry(revision));
        let put = |key: &str, revision| Change::Put(key.to_owned(), entry(revision));
        let first = known.catch_up(vec![row("a", 1), row("b", 2), row("c", 3)]);
        assert_eq!(
            first,
            [put("a", 1), put("b", 2), put("c", 3), Change::UpToDate]
        );
        let second = known.catch_up(vec![row("a", 1), row("b", 5), row("d", 4)]);
        let gone = Change::Deleted("c".to_owned());
        assert_eq!(second, [put("b", 5), put("d", 4), gone, Change::UpToDate]);
    }

    #[test]
    fn what_is_old_is_no_news() {
        let mut known = Known::default();
        let put = |revision| Change::Put("a".to_owned(), entry(revision));
        assert_eq!(known.news(put(7)), Some(put(7)));
        assert_eq!(known.news(put(7)), None);
        assert_eq!(known.news(put(6)), None);
        let deleted = Change::Deleted("a".to_owned());
        assert_eq!(known.news(deleted.clone()), Some(deleted.clone()));
        assert_eq!(known.news(deleted), None);
        assert_eq!(known.news(put(8)), Some(put(8)));
    }
}
