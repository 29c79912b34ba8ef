//! What one call works on.

use crate::abi::PAGE_BYTES;
use crate::encoding::Content;

/// Ranges of a model begin at a multiple of so many elements, and end at one or with the model. So
/// every vector's part begins with a page, whatever its elements are.
pub const RANGE_ELEMENTS: u32 = 4096;

/// Where a slot's parts lie, in bytes from the first of the arena's data. Both begin with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its page of scalars.
    pub scalars: u64,
    /// Element 0 of its vector, whatever range of it a call is about.
    pub vector: u64,
}

impl Place {
    /// A page of scalars at `offset`, and the vector right behind it.
    #[must_use]
    pub fn at(offset: u64) -> Self {
        Self {
            scalars: offset,
            vector: offset + PAGE_BYTES,
        }
    }
}

/// An update (of a fold) or a partial (of a merge) that a call reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Input {
    /// Where it lies.
    pub place: Place,
    /// The client's weight; 0 for a partial, which carries its own.
    pub weight: f64,
    /// How many clients are in it.
    pub contributors: u32,
    /// What the vector holds; [`Content::F32`] for a partial.
    pub content: Content,
}

/// What one call works on: a range of a model, in every operand.
///
/// A fold or merge writes `output = previous ⊕ inputs`; without `previous` it begins a partial. A
/// finish writes the model that `previous` and `model` (the current global one) make, and has no
/// inputs. What a call writes may not be read in it.
///
/// A partial's scalars are written by the call whose range begins with the model. Several instances may
/// work on different ranges of one output at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// The round that the call belongs to.
    pub round: u64,
    /// Where in the model the range begins; a multiple of [`RANGE_ELEMENTS`].
    pub first_element: u64,
    /// Elements of the range; a multiple of [`RANGE_ELEMENTS`], unless it ends with the model.
    pub elements: u32,
    /// Elements of the whole model.
    pub model_elements: u64,
    /// The partial to go on from, or to finish.
    pub previous: Option<Place>,
    /// Where to write: a partial, or for a finish a model.
    pub output: Place,
    /// The current global model.
    pub model: Option<Place>,
    /// Updates for a fold, partials for a merge; at most the description's `max_inputs`.
    pub inputs: &'a [Input],
}

/// A part of a model that one call can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelRange {
    /// Where in the model it begins.
    pub first_element: u64,
    /// How many elements it has.
    pub elements: u32,
}

/// The ranges that make up a model of `model_elements`, none of more than `most` elements (but of
/// [`RANGE_ELEMENTS`], if `most` is less).
pub fn ranges(model_elements: u64, most: u32) -> impl Iterator<Item = ModelRange> {
    let step = (most - most % RANGE_ELEMENTS).max(RANGE_ELEMENTS);
    let starts = (0..model_elements).step_by(step as usize);
    starts.map(move |first_element| ModelRange {
        first_element,
        // No more than `step`, which is a u32.
        elements: u64::from(step).min(model_elements - first_element) as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_make_up_the_model(model in 1_u64..10_000_000, most in 0_u32..3_000_000) {
            let mut next = 0;
            for range in ranges(model, most) {
                prop_assert_eq!(range.first_element, next);
                prop_assert!(range.elements <= most.max(RANGE_ELEMENTS));
                next += u64::from(range.elements);
                prop_assert!(range.elements % RANGE_ELEMENTS == 0 || next == model);
            }
            prop_assert_eq!(next, model);
        }
    }

    #[test]
    fn one_range_if_there_is_no_limit() {
        let all: Vec<_> = ranges(11_689_512, u32::MAX).collect();
        let expected = ModelRange {
            first_element: 0,
            elements: 11_689_512,
        };
        assert_eq!(all, [expected]);
    }
}
