//! Orders that a node has in hand, and its answers to the last ones.
//!
//! An order may come again because it was lost, or its answer: it is carried out once, and answered as often as it comes.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::sync::watch;

/// Orders whose answers are remembered: more than all controllers can have sent within the time that one is asked again.
const REMEMBERED: usize = 64;

/// Orders by their ids, old ones first.
#[derive(Debug, Default)]
pub(crate) struct InHand(Mutex<VecDeque<(String, Coming)>>);

/// An answer that is there, or will be.
type Coming = watch::Receiver<Option<Bytes>>;

impl InHand {
    /// The answer to the order `id`: that of `carry_out`, which is called if the order is new. `None` if it gave none.
    pub(crate) async fn answer<F>(&self, id: &str, carry_out: F) -> Option<Bytes>
    where
        F: Future<Output = Option<Bytes>>,
    {
        let (mut coming, unanswered) = self.note(id);
        if let Some(sender) = unanswered {
            sender.send_replace(carry_out.await);
        }
        // Without an answer, and with nobody left to give it, there will be none.
        let answer = coming.wait_for(Option::is_some).await.ok()?;
        answer.clone()
    }

    /// Where the answer comes, and, if the order is new, where it is to be put. Without an id it is always new.
    fn note(&self, id: &str) -> (Coming, Option<watch::Sender<Option<Bytes>>>) {
        // A panic of another task while it held the lock leaves the list whole.
        let mut orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = orders.iter().find(|(known, _)| known == id);
        if let Some((_, coming)) = known.filter(|_| !id.is_empty()) {
            return (coming.clone(), None);
        }
        let (sender, coming) = watch::channel(None);
        orders.push_back((id.to_owned(), coming.clone()));
        if orders.len() > REMEMBERED {
            orders.pop_front();
        }
        (coming, Some(sender))
    }
}
