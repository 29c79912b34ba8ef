//! An update's data, from its body to its places in a slot; or checked where a local client has written it.

use super::body::Source;
use super::pieces::{Fault, Pieces};
use super::reader::Reader;
use super::refusal::Refusal;
use tributary_api::Name;
use tributary_api::model::{Encoding, ModelLayout, Part, UpdatePlan};
use tributary_arena::Filling;
use twox_hash::XxHash3_128;

/// Bytes that are read, checked and hashed at a time, while they are in the cache.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// What an update is read for.
pub(super) struct Target<'a> {
    pub job: &'a Name,
    pub layout: &'a ModelLayout,
    /// Whether values must be finite.
    pub check_finite: bool,
    /// The weight, and the greatest magnitude of a value that exact sums take with it.
    pub exact: Option<(f64, f32)>,
}

impl Target<'_> {
    /// The greatest magnitude of a value, if there is one.
    fn most(&self) -> Option<f32> {
        let finite = self.check_finite.then_some(f32::MAX);
        self.exact.map(|(_, most)| most).or(finite)
    }

    /// Reads the data into the slot, each piece to its place, hashing and checking it while it is warm.
    pub(super) async fn fill<S: Source>(
        &self,
        vector: &mut [u8],
        plan: &UpdatePlan,
        reader: &mut Reader<'_, S>,
        digest: &mut XxHash3_128,
    ) -> Result<(), Refusal> {
        let gap = plan.slot.gap();
        vector[gap.start as usize..gap.end as usize].fill(0);
        for segment in &plan.segments {
            let mut pieces = Pieces::new(segment.part, plan.slot.encoding, self.most());
            let mut begin = segment.slot_offset as usize;
            let end = begin + segment.bytes as usize;
            while begin < end {
                let piece = begin..end.min(begin + PIECE_BYTES);
                reader.fill(&mut vector[piece.clone()]).await?;
                digest.write(&vector[piece.clone()]);
                begin = piece.end;
                pieces
                    .settle(vector, piece)
                    .map_err(|fault| self.refusal(segment.part, fault))?;
            }
        }
        Ok(())
    }

    /// Checks and hashes what a local client has written over `mark`: f32 values in canonical order.
    ///
    /// Each piece is copied out before it is looked at: should the client still write, the digest is of what was
    /// checked, and no reference is ever held to memory that another process changes. Other connections get their
    /// turn after each.
    pub(super) async fn check(
        &self,
        filling: &Filling,
        mark: Mark,
        digest: &mut XxHash3_128,
    ) -> Result<(), Refusal> {
        let part = Part::Elements { first: 0 };
        let mut pieces = Pieces::new(part, Encoding::F32, self.most());
        let mut scratch = vec![0; PIECE_BYTES];
        let (mut begin, end) = (0, self.layout.data_bytes());
        while begin < end {
            let bytes = (PIECE_BYTES as u64).min(end - begin) as usize;
            let piece = &mut scratch[..bytes];
            filling.read(begin, piece);
            if let Some(at) = mark.first_in(piece) {
                return Err(Refusal::Unwritten {
                    coordinate: self.layout.place_in(part, begin / 4 + at as u64),
                    bytes: end,
                });
            }
            digest.write(piece);
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
        match (fault, self.exact) {
            (Fault::Value { at, value }, Some((weight, most)))
                if value.is_finite() || !self.check_finite =>
            {
                Refusal::OutOfRange {
                    job: self.job.clone(),
                    coordinate: place(at),
                    value,
                    weight,
                    most,
                }
            }
            (Fault::Value { at, value }, _) => Refusal::NonFinite {
                job: self.job.clone(),
                coordinate: place(at),
                value,
            },
            (Fault::Scale { at, value }, _) => Refusal::BadScale {
                place: place(at),
                value,
            },
            (
                Fault::Beyond {
                    at,
                    index,
                    elements,
                },
                _,
            ) => Refusal::BadIndex {
                place: place(at),
                index,
                rule: format!("the tensor has {elements} elements, and indices count from 0"),
            },
            (
                Fault::Order {
                    at,
                    index,
                    previous,
                },
                _,
            ) => Refusal::BadIndex {
                place: place(at),
                index,
                rule: format!(
                    "it follows {previous}, but indices must ascend: sort them, and give each once"
                ),
            },
        }
    }
}

/// What a slot is filled with before it is lent: one value for each lease, which no update has. So the slot shows its
/// client nothing of what lay there, and what the client leaves unwritten is found.
///
/// It is a NaN, so no finite number equals it; of a kind that no processor makes and no client writes by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark([u8; 4]);

impl Mark {
    /// One of two million; `random` chooses.
    pub(super) fn new(random: u64) -> Self {
        const SIGNALLING: u32 = 0x7f80_0000;
        // The lowest bit is set: without any, it would be infinity.
        Self((SIGNALLING | (random as u32 & 0x003f_ffff) | 1).to_le_bytes())
    }

    /// Fills all of a slot; other connections get their turn after each piece.
    pub(super) async fn fill(self, filling: &mut Filling) {
        for piece in filling.content_mut().chunks_mut(PIECE_BYTES) {
            piece.as_chunks_mut().0.fill(self.0);
            tokio::task::yield_now().await;
        }
    }

    /// The first element of a piece that still is it.
    fn first_in(self, piece: &[u8]) -> Option<usize> {
        let (elements, _) = piece.as_chunks::<4>();
        // Without a branch for each element; who is to blame is searched for only when something is wrong.
        let any = elements
            .iter()
            .fold(false, |any, element| any | (*element == self.0));
        let mut elements = elements.iter();
        any.then(|| elements.position(|element| *element == self.0))?
    }
}

#[cfg(test)]
mod tests;
