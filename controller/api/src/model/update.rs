//! Matching an update against the job's model: which encoding it has, and which piece of it goes where.
//!
//! A tensor of an update is a tensor of the model by its name, or a part of one: `w:scale`, `w:indices`, `w:values`.
//! The model's names count first, so a model may have a tensor `w:scale` of its own.

mod scaled;
mod sparse;

use std::collections::HashSet;

use safetensors::Dtype;

use super::{
    Encoding, Header, LayoutMismatch, ModelLayout, SlotLayout, Tensor,
    header::shown,
    names::{self, Role},
};
use crate::manifest::nearest;

/// How an update is brought into a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdatePlan {
    /// Where it lies in the slot; it fits there.
    pub slot: SlotLayout,
    /// The pieces in the order of the file, which together cover the whole data of the file.
    pub segments: Vec<Segment>,
}

/// A run of bytes of an update's file that lies as one piece in the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the data of the file.
    pub file_offset: u64,
    /// Where its bytes are read to in the slot.
    pub slot_offset: u64,
    /// Its length: a multiple of the width of what it holds, never 0.
    pub bytes: u64,
    /// What it holds.
    pub part: Part,
}

/// What a segment holds, and what is left to do when its bytes are in the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Elements in the update's encoding, of one tensor or more. They stay as they are.
    Elements {
        /// The first element's place in canonical order.
        first: u64,
    },
    /// Scales of a tensor, F32. They become runs: 8 bytes each, the coordinate where it starts and the scale.
    /// The scales are read to the second half of what the runs take, so the runs can be written over them
    /// one by one from the first.
    Scales {
        /// The tensor, by its place in canonical order.
        tensor: usize,
        /// The offset of its first run in the slot.
        runs: u64,
        /// The coordinate where the first run starts.
        start: u32,
        /// The elements of a run; the last may have fewer.
        block: u64,
    },
    /// Indices in a tensor, of 32 bits, which must ascend. They become coordinates: `base` is added to each.
    Indices {
        /// The tensor, by its place in canonical order.
        tensor: usize,
        /// The coordinate of its first element.
        base: u32,
        /// The tensor's elements: every index is below.
        elements: u32,
        /// Whether the file has them as I32, of which none may be negative.
        signed: bool,
    },
    /// Values of a tensor's indices, F32. They stay as they are.
    Values {
        /// The tensor, by its place in canonical order.
        tensor: usize,
    },
}

impl ModelLayout {
    /// The encoding of an update, as its header shows it. Whether the rest of the header fits to it
    /// [`ModelLayout::match_update`] says.
    #[must_use]
    pub fn encoding_of(&self, update: &Header) -> Encoding {
        self.encoding_by(update.tensors()).0
    }

    /// Says where each piece of an update's data belongs.
    ///
    /// # Errors
    /// The first tensor that differs from the model, and how; an update that a slot cannot hold.
    pub fn match_update(&self, update: &Header) -> Result<UpdatePlan, LayoutMismatch> {
        match self.encoding_by(update.tensors()) {
            (Encoding::I8, by) => scaled::plan(self, update, by),
            (Encoding::Sparse, by) => sparse::plan(self, update, by),
            (dense, by) => {
                let segments = self.dense_segments(update.tensors(), dense, by)?;
                let slot = self.slot(dense, 0)?;
                Ok(UpdatePlan { slot, segments })
            }
        }
    }

    /// The name of what stands at `index` in a part of an update, for errors: `layer.weight[3, 7]`,
    /// `layer.weight:scale[2]`.
    #[must_use]
    pub fn place_in(&self, part: Part, index: u64) -> String {
        let (tensor, suffix) = match part {
            Part::Elements { first } => {
                return self
                    .coordinate(first.saturating_add(index))
                    .unwrap_or_default();
            }
            Part::Scales { tensor, .. } => (tensor, names::SCALE),
            Part::Indices { tensor, .. } => (tensor, names::INDICES),
            Part::Values { tensor } => (tensor, names::VALUES),
        };
        let name = self.tensors().get(tensor).map_or("", |tensor| &tensor.name);
        format!("{}[{index}]", names::part(&shown(name), suffix))
    }

    /// The encoding, and the name of the tensor from which it is seen.
    fn encoding_by<'a>(&self, tensors: &'a [Tensor]) -> (Encoding, &'a str) {
        let mut seen = None;
        for tensor in tensors {
            let shown_by = match self.role(&tensor.name) {
                Some((_, Role::Indices | Role::Values)) => Some(Encoding::Sparse),
                Some((_, Role::Scale)) => Some(Encoding::I8),
                Some((_, Role::Whole)) => Encoding::of_dtype(tensor.dtype),
                None => None,
            };
            let Some(encoding) = shown_by else { continue };
            // Parts say more than types: a sparse update has F32 tensors, too.
            let (rank, known) = (
                rank(encoding),
                seen.map_or(0, |(encoding, _)| rank(encoding)),
            );
            if seen.is_none() || rank > known {
                seen = Some((encoding, tensor.name.as_str()));
            }
        }
        seen.unwrap_or_default()
    }

    /// The place of the model's tensor that a name of an update tells, and what it is of it.
    fn role(&self, name: &str) -> Option<(usize, Role)> {
        let place = |tensor: &str| self.places().get(tensor).copied();
        if let Some(place) = place(name) {
            return Some((place, Role::Whole));
        }
        let (tensor, role) = names::split(name)?;
        Some((place(tensor)?, role))
    }

    /// As [`Self::role`]; a name that is of no tensor is an error.
    fn known(&self, found: &Tensor) -> Result<(usize, Role), LayoutMismatch> {
        self.role(&found.name).ok_or_else(|| {
            let meant = names::split(&found.name).map_or(found.name.as_str(), |(name, _)| name);
            let names = self.tensors().iter().map(|tensor| tensor.name.as_str());
            LayoutMismatch::Unexpected {
                tensor: shown(&found.name),
                nearest: nearest(meant, names).map(shown),
            }
        })
    }

    /// Where elements lie that stay as they are; neighbours in both orders are one segment.
    fn dense_segments(
        &self,
        tensors: &[Tensor],
        encoding: Encoding,
        by: &str,
    ) -> Result<Vec<Segment>, LayoutMismatch> {
        let mut segments = Vec::new();
        for found in tensors {
            let (place, _) = self.known(found)?;
            let expected = &self.tensors()[place];
            check_whole(found, expected, encoding, by)?;
            push_elements(&mut segments, found, expected, encoding);
        }
        // Names are unique in both, and every name of the update is one of the model's.
        if tensors.len() < self.tensors().len() {
            let there: HashSet<_> = tensors.iter().map(|tensor| &tensor.name).collect();
            return Err(self.missing(|name| there.contains(name)));
        }
        Ok(segments)
    }

    /// The error that names the model's tensors for which `there` is false.
    fn missing(&self, there: impl Fn(&String) -> bool) -> LayoutMismatch {
        let mut missing = self.tensors().iter().filter(|tensor| !there(&tensor.name));
        let tensor = missing
            .next()
            .map(|tensor| shown(&tensor.name))
            .unwrap_or_default();
        LayoutMismatch::Missing {
            tensor,
            more: missing.count(),
        }
    }

    /// The coordinate of a tensor's first element, where coordinates have 32 bits.
    fn coordinate_of(&self, place: usize, encoding: Encoding) -> Result<u32, LayoutMismatch> {
        let elements = self.elements();
        u32::try_from(first_element(&self.tensors()[place]))
            .map_err(|_| LayoutMismatch::Elements { encoding, elements })
    }

    /// Where an update lies in a slot, if it fits.
    fn slot(&self, encoding: Encoding, count: u64) -> Result<SlotLayout, LayoutMismatch> {
        let elements = self.elements();
        let slot = SlotLayout::new(encoding, elements, count)
            .ok_or(LayoutMismatch::Elements { encoding, elements })?;
        let room = SlotLayout::room(elements);
        if slot.bytes > room {
            let needed = slot.bytes;
            return Err(LayoutMismatch::DoesNotFit {
                encoding,
                count,
                needed,
                room,
            });
        }
        Ok(slot)
    }
}

/// Which of two encodings an update has that shows both.
const fn rank(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::F32 | Encoding::F16 | Encoding::Bf16 => 0,
        Encoding::I8 => 1,
        Encoding::Sparse => 2,
    }
}

/// Type and shape of a tensor that comes whole.
fn check_whole(
    found: &Tensor,
    expected: &Tensor,
    encoding: Encoding,
    by: &str,
) -> Result<(), LayoutMismatch> {
    if encoding == Encoding::Sparse || found.dtype != encoding.dtype() {
        return Err(wrong_dtype(found, expected, encoding, by));
    }
    if found.shape != expected.shape {
        return Err(LayoutMismatch::Shape {
            tensor: shown(&found.name),
            expected: expected.shape.clone(),
            found: found.shape.clone(),
        });
    }
    Ok(())
}

/// A type that is another encoding's is told as a mixture; any other as what the model has instead.
fn wrong_dtype(found: &Tensor, expected: &Tensor, encoding: Encoding, by: &str) -> LayoutMismatch {
    let tensor = shown(&found.name);
    match Encoding::of_dtype(found.dtype) {
        Some(_) => mixed(found, encoding, by),
        None => LayoutMismatch::Dtype {
            tensor,
            expected: expected.dtype,
            found: found.dtype,
        },
    }
}

/// A tensor that has no place in an update of this encoding.
fn mixed(found: &Tensor, encoding: Encoding, by: &str) -> LayoutMismatch {
    LayoutMismatch::Mixed {
        tensor: shown(&found.name),
        found: found.dtype,
        encoding,
        by: shown(by),
    }
}

fn push_elements(
    segments: &mut Vec<Segment>,
    found: &Tensor,
    expected: &Tensor,
    encoding: Encoding,
) {
    if found.bytes() == 0 {
        return;
    }
    let first = first_element(expected);
    let segment = Segment {
        file_offset: found.begin,
        slot_offset: first * encoding.value_bytes(),
        bytes: found.bytes(),
        part: Part::Elements { first },
    };
    match segments.last_mut() {
        Some(last) if follows(last, &segment) => last.bytes += segment.bytes,
        _ => segments.push(segment),
    }
}

/// Whether two runs of elements are neighbours in the slot as they are in the file.
fn follows(last: &Segment, next: &Segment) -> bool {
    matches!(last.part, Part::Elements { .. })
        && last.file_offset + last.bytes == next.file_offset
        && last.slot_offset + last.bytes == next.slot_offset
}

/// The coordinate of a tensor's first element.
const fn first_element(tensor: &Tensor) -> u64 {
    tensor.begin / 4
}

/// The elements of a tensor of the model.
const fn elements(tensor: &Tensor) -> u64 {
    tensor.bytes() / 4
}

/// Checks the type of a tensor that belongs to another.
fn check_part(
    found: &Tensor,
    allowed: &[Dtype],
    expected: &'static str,
) -> Result<(), LayoutMismatch> {
    if allowed.contains(&found.dtype) {
        return Ok(());
    }
    Err(LayoutMismatch::PartDtype {
        tensor: shown(&found.name),
        found: found.dtype,
        expected,
    })
}
