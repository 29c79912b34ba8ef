//! An update's data, from its body to its places in a slot; or checked where a local client has written it.

use super::body::Source;
use super::pieces::{Fault, Pieces};
use super::reader::Reader;
use super::refusal::Refusal;
use tributary_api::Name;
use tributary_api::model::{Encoding, ModelLayout, Part, UpdatePlan};
use tributary_arena::Filling;
use xxhash_rust::xxh3::Xxh3;

/// Bytes that are read, checked and hashed at a time, while they are in the cache.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// What an update is read for.
pub(super) struct Target<'a> {
    pub job: &'a Name,
    pub layout: &'a ModelLayout,
    /// Whether values must be finite.
    pub check_finite: bool,
}

impl Target<'_> {
    /// Reads the data into the slot, each piece to its place, hashing and checking it while it is warm.
    pub(super) async fn fill<S: Source>(
        &self,
        vector: &mut [u8],
        plan: &UpdatePlan,
        reader: &mut Reader<'_, S>,
        digest: &mut Xxh3,
    ) -> Result<(), Refusal> {
        let gap = plan.slot.gap();
        vector[gap.start as usize..gap.end as usize].fill(0);
        for segment in &plan.segments {
            let mut pieces = Pieces::new(segment.part, plan.slot.encoding, self.check_finite);
            let mut begin = segment.slot_offset as usize;
            let end = begin + segment.bytes as usize;
            while begin < end {
                let piece = begin..end.min(begin + PIECE_BYTES);
                reader.fill(&mut vector[piece.clone()]).await?;
                digest.update(&vector[piece.clone()]);
                begin = piece.end;
                pieces
                    .settle(vector, piece)
                    .map_err(|fault| self.refusal(segment.part, fault))?;
            }
        }
        Ok(())
    }

    /// Checks and hashes what a local client has written: f32 values in canonical order.
    ///
    /// Each piece is copied out before it is looked at: should the client still write, the digest is of what was
    /// checked, and no reference is ever held to memory that another process changes. Other connections get their
    /// turn after each.
    pub(super) async fn check(&self, filling: &Filling, digest: &mut Xxh3) -> Result<(), Refusal> {
        let part = Part::Elements { first: 0 };
        let mut pieces = Pieces::new(part, Encoding::F32, self.check_finite);
        let mut scratch = vec![0; PIECE_BYTES];
        let (mut begin, end) = (0, self.layout.data_bytes());
        while begin < end {
            let bytes = (PIECE_BYTES as u64).min(end - begin) as usize;
            let piece = &mut scratch[..bytes];
            filling.read(begin, piece);
            digest.update(piece);
            pieces
                .settle(piece, 0..bytes)
                .map_err(|fault| self.refusal(part, fault))?;
            begin += bytes as u64;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn refusal(&self, part: Part, fault: Fault) -> Refusal {
        let place = |at| self.layout.place_in(part, at);
        match fault {
            Fault::NonFinite { at, value } => Refusal::NonFinite {
                job: self.job.clone(),
                coordinate: place(at),
                value,
            },
            Fault::Scale { at, value } => Refusal::BadScale {
                place: place(at),
                value,
            },
            Fault::Beyond {
                at,
                index,
                elements,
            } => Refusal::BadIndex {
                place: place(at),
                index,
                rule: format!("the tensor has {elements} elements, and indices count from 0"),
            },
            Fault::Order {
                at,
                index,
                previous,
            } => Refusal::BadIndex {
                place: place(at),
                index,
                rule: format!(
                    "it follows {previous}, but indices must ascend: sort them, and give each once"
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests;
