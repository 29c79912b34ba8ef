//! Who watches a bucket.

use std::collections::VecDeque;
use std::future::Future;

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::resume::Known;
use crate::{Change, Entry, Error, Stream};

/// Changes that a watcher may be behind. One that falls further behind starts again with a list.
const BEHIND_MAX: usize = 1024;

/// The watchers of one bucket.
#[derive(Debug, Default)]
pub(super) struct Watchers(Vec<(String, Sender<Change>)>);

/// What is there, and what comes after.
pub(super) struct Registration {
    pub(super) list: Vec<(String, Entry)>,
    pub(super) changes: Receiver<Change>,
}

impl Watchers {
    /// A new watcher, at a moment when `list` is what there is.
    pub(super) fn register(&mut self, prefix: String, list: Vec<(String, Entry)>) -> Registration {
        let (sender, changes) = mpsc::channel(BEHIND_MAX);
        self.0.push((prefix, sender));
        Registration { list, changes }
    }

    /// Tells a change of `key`. Who has gone, or is too far behind, is told nothing more.
    pub(super) fn tell(&mut self, key: &str, change: &Change) {
        self.0.retain(|(prefix, sender)| {
            if key.starts_with(prefix.as_str()) {
                sender.try_send(change.clone()).is_ok()
            } else {
                !sender.is_closed()
            }
        });
    }
}

/// A watch that registers again whenever it has fallen behind. Ends when registering fails.
pub(super) fn follow<R, F>(first: Registration, register: R) -> Stream<Result<Change, Error>>
where
    R: Fn() -> F + Send + 'static,
    F: Future<Output = Result<Registration, Error>> + Send,
{
    let mut known = Known::default();
    let waiting = VecDeque::from(known.catch_up(first.list));
    let watch = Watch {
        known,
        waiting,
        changes: first.changes,
        register,
    };
    stream::unfold(watch, |mut watch| async move {
        let change = watch.next().await?;
        Some((Ok(change), watch))
    })
    .boxed()
}

struct Watch<R> {
    known: Known,
    waiting: VecDeque<Change>,
    changes: Receiver<Change>,
    register: R,
}

impl<R, F> Watch<R>
where
    R: Fn() -> F,
    F: Future<Output = Result<Registration, Error>>,
{
    async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return Some(change);
            }
            if let Some(change) = self.changes.recv().await {
                self.waiting.extend(self.known.news(change));
                continue;
            }
            let again = (self.register)().await.ok()?;
            self.waiting.extend(self.known.catch_up(again.list));
            self.changes = again.changes;
        }
    }
}
