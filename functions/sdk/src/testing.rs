//! Calls a function as the host would, on ordinary memory: for a function's own tests.

use crate::abi::SCALARS_BYTES_MAX;
use crate::call::{Finish, Fold, Merge, Partial, PartialMut, Round, Update};
use crate::error::Error;
use crate::values::Values;
use crate::{Description, Function};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// A partial that owns its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedPartial {
    elements: usize,
    contributors: u32,
    /// Words, so that any element type is aligned; the last may be partly used.
    vector: Vec<u64>,
    scalars: Vec<u64>,
    vector_bytes: usize,
    scalar_bytes: usize,
}

impl OwnedPartial {
    /// A partial as the arena hands it out: not zeroed.
    fn undefined(description: Description, elements: usize, contributors: u32) -> Self {
        let vector_bytes = elements * description.partial_bytes_per_element as usize;
        let scalar_bytes = description.scalar_bytes as usize;
        assert!(
            scalar_bytes <= SCALARS_BYTES_MAX,
            "a partial has at most a page of scalars"
        );
        Self {
            elements,
            contributors,
            vector: vec![0xA5A5_A5A5_A5A5_A5A5; vector_bytes.div_ceil(8)],
            scalars: vec![0xA5A5_A5A5_A5A5_A5A5; scalar_bytes.div_ceil(8)],
            vector_bytes,
            scalar_bytes,
        }
    }

    /// The partial, to read.
    #[must_use]
    pub fn partial(&self) -> Partial<'_> {
        Partial {
            vector: &bytemuck::cast_slice(&self.vector)[..self.vector_bytes],
            scalars: &bytemuck::cast_slice(&self.scalars)[..self.scalar_bytes],
            contributors: self.contributors,
        }
    }

    fn output(&mut self) -> PartialMut<'_> {
        PartialMut {
            vector: &mut bytemuck::cast_slice_mut(&mut self.vector)[..self.vector_bytes],
            scalars: &mut bytemuck::cast_slice_mut(&mut self.scalars)[..self.scalar_bytes],
        }
    }
}

/// Folds updates (vector and weight) after `previous`.
///
/// # Errors
/// The function's.
///
/// # Panics
/// If there is no update, or if they differ in length.
pub fn fold(
    function: &impl Function,
    previous: Option<&OwnedPartial>,
    updates: &[(&[f32], f64)],
) -> Result<OwnedPartial, Error> {
    let elements = updates[0].0.len();
    let updates: Vec<Update<'_>> = updates
        .iter()
        .map(|&(values, weight)| {
            assert_eq!(values.len(), elements, "updates are of one length");
            Update {
                values: Values::F32(values),
                weight,
                contributors: 1,
            }
        })
        .collect();
    fold_range(function, previous, 0..elements, &updates)
}

/// Folds a range of updates that may be written in any encoding: `updates` begin at coordinate 0 of the
/// model, `previous` and the partial that is made have the range's elements.
///
/// # Errors
/// The function's.
///
/// # Panics
/// If an update does not reach as far as the range.
#[allow(clippy::panic)] // A mistake of the test that calls it.
pub fn fold_range(
    function: &impl Function,
    previous: Option<&OwnedPartial>,
    range: Range<usize>,
    updates: &[Update<'_>],
) -> Result<OwnedPartial, Error> {
    let before = previous.map_or(0, |partial| partial.contributors);
    let contributors = before
        + updates
            .iter()
            .map(|update| update.contributors)
            .sum::<u32>();
    let mut output = OwnedPartial::undefined(function.describe(), range.len(), contributors);
    let updates = updates.iter().map(|update| {
        let Some(values) = update.values.range(range.start, range.len()) else {
            panic!("an update does not reach as far as the range {range:?}");
        };
        Update { values, ..*update }
    });
    function.fold(Fold {
        round: Round {
            first_element: range.start as u64,
            ..Round::default()
        },
        previous: previous.map(OwnedPartial::partial),
        output: output.output(),
        updates: updates.collect(),
    })?;
    Ok(output)
}

/// Merges partials after `previous`.
///
/// # Errors
/// The function's.
///
/// # Panics
/// If there is no partial, or if they differ in length.
pub fn merge(
    function: &impl Function,
    previous: Option<&OwnedPartial>,
    partials: &[&OwnedPartial],
) -> Result<OwnedPartial, Error> {
    let elements = partials[0].elements;
    let all = partials.iter().copied().chain(previous);
    let contributors = all.map(|partial| partial.contributors).sum();
    let mut output = OwnedPartial::undefined(function.describe(), elements, contributors);
    let inputs = partials.iter().map(|partial| {
        assert_eq!(partial.elements, elements, "partials are of one length");
        partial.partial()
    });
    function.merge(Merge {
        round: Round::default(),
        previous: previous.map(OwnedPartial::partial),
        output: output.output(),
        partials: inputs.collect(),
    })?;
    Ok(output)
}

/// Finishes a partial into a model.
///
/// # Errors
/// The function's.
pub fn finish(
    function: &impl Function,
    partial: &OwnedPartial,
    model: &[f32],
) -> Result<Vec<f32>, Error> {
    let mut output = vec![f32::NAN; partial.elements];
    function.finish(Finish {
        round: Round::default(),
        partial: partial.partial(),
        model,
        output: &mut output,
    })?;
    Ok(output)
}
