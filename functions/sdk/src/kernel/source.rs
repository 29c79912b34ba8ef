//! The dense encodings, as the kernels read them: eight elements at a time, widened in registers.

use super::lanes::{F32x4, HalfMagnitude, half};
use crate::values::Values;
use bytemuck::Pod;
use core::ops::Range;

/// A dense encoding.
pub(super) trait Source {
    /// An element as it lies in memory.
    type Element: Pod;

    /// The elements of an update in this encoding; of another one, nothing.
    fn elements<'a>(values: &Values<'a>) -> &'a [Self::Element];

    /// Eight elements. Bytes are still to be multiplied by their scale, [`F16`] by [`half::REBIAS`].
    ///
    /// # Safety
    /// Eight elements must be valid at `place`.
    unsafe fn load(place: *const Self::Element) -> [F32x4; 2];
}

/// Whether the binary16 of an update in `range` are all finite. Looking at them once costs less than mending
/// each value would.
pub(super) fn finite_halves(values: &Values<'_>, range: Range<usize>) -> bool {
    let (groups, rest) = F16::elements(values)[range].as_chunks::<{ 4 * HalfMagnitude::LANES }>();
    let (mut one, mut other) = (HalfMagnitude::none(), HalfMagnitude::none());
    for group in groups {
        let place = group.as_ptr();
        // SAFETY: a group has as many values as four vectors.
        unsafe {
            one = one.see(place);
            other = other.see(place.add(HalfMagnitude::LANES));
            one = one.see(place.add(2 * HalfMagnitude::LANES));
            other = other.see(place.add(3 * HalfMagnitude::LANES));
        }
    }
    let rest = rest.iter().all(|bits| half::widen(*bits).is_finite());
    rest && one.finite() && other.finite()
}

/// Elements that [`Source::load`] takes.
pub(super) const LOAD: usize = 2 * F32x4::LANES;

pub(super) struct F32;
/// Binary16 that are finite, times 2^-112: their weights are to make up for it.
pub(super) struct F16;
/// Any binary16.
pub(super) struct AnyF16;
pub(super) struct Bf16;
pub(super) struct I8;

impl Source for F32 {
    type Element = f32;

    fn elements<'a>(values: &Values<'a>) -> &'a [f32] {
        match values {
            Values::F32(values) => values,
            _ => &[],
        }
    }

    #[inline(always)]
    unsafe fn load(place: *const f32) -> [F32x4; 2] {
        // SAFETY: passed on.
        unsafe { [F32x4::load(place), F32x4::load(place.add(F32x4::LANES))] }
    }
}

impl Source for F16 {
    type Element = u16;

    fn elements<'a>(values: &Values<'a>) -> &'a [u16] {
        match values {
            Values::F16(values) => values,
            _ => &[],
        }
    }

    #[inline(always)]
    unsafe fn load(place: *const u16) -> [F32x4; 2] {
        // SAFETY: passed on.
        unsafe { F32x4::load_f16(place) }
    }
}

impl Source for AnyF16 {
    type Element = u16;

    fn elements<'a>(values: &Values<'a>) -> &'a [u16] {
        F16::elements(values)
    }

    #[inline(always)]
    unsafe fn load(place: *const u16) -> [F32x4; 2] {
        // SAFETY: passed on.
        unsafe { F16::load(place).map(F32x4::mend_f16) }
    }
}

impl Source for Bf16 {
    type Element = u16;

    fn elements<'a>(values: &Values<'a>) -> &'a [u16] {
        match values {
            Values::Bf16(values) => values,
            _ => &[],
        }
    }

    #[inline(always)]
    unsafe fn load(place: *const u16) -> [F32x4; 2] {
        // SAFETY: passed on.
        unsafe {
            [
                F32x4::load_bf16(place),
                F32x4::load_bf16(place.add(F32x4::LANES)),
            ]
        }
    }
}

impl Source for I8 {
    type Element = i8;

    fn elements<'a>(values: &Values<'a>) -> &'a [i8] {
        match values {
            Values::I8 { values, .. } => values,
            _ => &[],
        }
    }

    #[inline(always)]
    unsafe fn load(place: *const i8) -> [F32x4; 2] {
        // SAFETY: passed on.
        unsafe { F32x4::load_i8(place) }
    }
}
