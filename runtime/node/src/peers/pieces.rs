//! A partial's bytes on their way out of its slot.
//!
//! Each piece is copied out, and sent only if the slot still holds the partial: what has been given up in the meantime
//! may have been written over, and nobody may get a mixture of two partials. The memory of a piece comes back when it is
//! sent, and takes the next one: so it stays in the cache, and a partial of any size takes as much as the connection
//! holds at a time.

use crate::job::{Job, WholePartial};
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// How often a byte is copied on its way from the slot to the kernel's buffer, the kernel's own copy included.
pub(super) const COPIES: u64 = 2;
/// Bytes that are copied out at a time.
const PIECE_BYTES: u64 = 256 << 10;

/// Memory of pieces that were sent.
type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

/// A piece that is being sent.
struct Piece {
    bytes: Vec<u8>,
    spare: Spare,
}

impl Piece {
    fn new(spare: &Spare, bytes: usize) -> Self {
        let mut memory = lock(spare).pop().unwrap_or_default();
        memory.resize(bytes, 0);
        Self {
            bytes: memory,
            spare: spare.clone(),
        }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        lock(&self.spare).push(std::mem::take(&mut self.bytes));
    }
}

fn lock(spare: &Spare) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
    // Whoever panicked while it held the lock has left a list of vectors.
    spare.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The whole of it. It ends early if the slot is given up, or the job: then nobody wants it.
pub(super) fn content(job: Weak<Job>, partial: WholePartial, bytes: u64) -> Body {
    let spare = Spare::default();
    Body::from_stream(stream::try_unfold(0, move |offset| {
        let next = PIECE_BYTES.min(bytes - offset);
        let piece = (next > 0).then(|| {
            let mut piece = Piece::new(&spare, next as usize);
            let job = job.upgrade()?;
            let whole = job.read_partial(&partial, offset, &mut piece.bytes);
            whole.then_some(piece)
        });
        std::future::ready(match piece {
            None => Ok(None),
            Some(Some(piece)) => Ok(Some((Bytes::from_owner(piece), offset + next))),
            Some(None) => Err(io::Error::other("the partial was given up")),
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_piece_takes_the_next_one() {
        let spare = Spare::default();
        let first = Bytes::from_owner(Piece::new(&spare, 64));
        let at = first.as_ptr();
        let second = Bytes::from_owner(Piece::new(&spare, 64));
        assert_ne!(second.as_ptr(), at, "the first is not sent yet");
        drop(first.slice(1..3));
        drop(first);
        let third = Bytes::from_owner(Piece::new(&spare, 32));
        assert_eq!((third.as_ptr(), third.len()), (at, 32));
    }
}
