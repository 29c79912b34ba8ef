//! WASM's 128-bit registers.

use super::half;
use core::arch::wasm32::{
    f32x4_abs, f32x4_convert_i32x4, f32x4_extract_lane, f32x4_ge, f32x4_mul, f32x4_relaxed_madd,
    f32x4_splat, f64x2_add, f64x2_extract_lane, f64x2_mul, f64x2_promote_low_f32x4,
    f64x2_relaxed_madd, f64x2_splat, i16x8_load_extend_i8x8, i16x8_shl, i16x8_shr, i16x8_shuffle,
    i16x8_splat, i32x4_extend_high_i16x8, i32x4_extend_low_i16x8, i32x4_extract_lane,
    i32x4_load_extend_u16x4, i32x4_shl, i32x4_shuffle, i32x4_splat, i64x2_add, i64x2_extract_lane,
    i64x2_splat, u16x8_ge, u16x8_max, u16x8_splat, u32x4_max, v128, v128_and, v128_any_true,
    v128_load, v128_or, v128_store,
};

#[derive(Clone, Copy)]
pub(crate) struct F32x4(v128);

#[derive(Clone, Copy)]
pub(crate) struct F64x2(v128);

#[derive(Clone, Copy)]
pub(crate) struct I64x2(v128);

/// The largest bit patterns of absolute values seen, which order like the values.
#[derive(Clone, Copy)]
pub(crate) struct Magnitude(v128);

impl F32x4 {
    pub(crate) const LANES: usize = 4;

    #[inline(always)]
    pub(crate) fn splat(value: f32) -> Self {
        Self(f32x4_splat(value))
    }

    /// # Safety
    /// Four values must be valid at `place`.
    #[inline(always)]
    pub(crate) unsafe fn load(place: *const f32) -> Self {
        // SAFETY: passed on; the load needs no alignment.
        Self(unsafe { v128_load(place.cast()) })
    }

    /// # Safety
    /// Four values must be valid for writes at `place`.
    #[inline(always)]
    pub(crate) unsafe fn store(self, place: *mut f32) {
        // SAFETY: passed on; the store needs no alignment.
        unsafe { v128_store(place.cast(), self.0) }
    }

    /// Shifts eight binary16 to the places of `f32`: their values times 2^-112.
    ///
    /// # Safety
    /// Eight values must be valid at `place`.
    #[inline(always)]
    pub(crate) unsafe fn load_f16(place: *const u16) -> [Self; 2] {
        // SAFETY: passed on; the load needs no alignment.
        let values = unsafe { v128_load(place.cast()) };
        // The sign has been extended over three bits of the exponent.
        let upper = v128_and(i16x8_shr(values, 3), u16x8_splat(0x8FFF));
        let lower = i16x8_shl(values, 13);
        let low = i16x8_shuffle::<0, 8, 1, 9, 2, 10, 3, 11>(lower, upper);
        let high = i16x8_shuffle::<4, 12, 5, 13, 6, 14, 7, 15>(lower, upper);
        [Self(low), Self(high)]
    }

    /// Widens four bfloat16.
    ///
    /// # Safety
    /// Four values must be valid at `place`.
    #[inline(always)]
    pub(crate) unsafe fn load_bf16(place: *const u16) -> Self {
        // SAFETY: passed on; the load needs no alignment.
        let values = unsafe { i32x4_load_extend_u16x4(place.cast()) };
        Self(i32x4_shl(values, 16))
    }

    /// Converts eight signed bytes.
    ///
    /// # Safety
    /// Eight values must be valid at `place`.
    #[inline(always)]
    pub(crate) unsafe fn load_i8(place: *const i8) -> [Self; 2] {
        // SAFETY: passed on; the load needs no alignment.
        let values = unsafe { i16x8_load_extend_i8x8(place) };
        [
            i32x4_extend_low_i16x8(values),
            i32x4_extend_high_i16x8(values),
        ]
        .map(|half| Self(f32x4_convert_i32x4(half)))
    }

    /// The values of binary16 that have been shifted, infinity and what is no number among them.
    #[inline(always)]
    pub(crate) fn mend_f16(self) -> Self {
        let values = f32x4_mul(self.0, f32x4_splat(half::REBIAS));
        let special = f32x4_ge(f32x4_abs(values), f32x4_splat(half::SPECIAL));
        Self(v128_or(
            values,
            v128_and(special, f32x4_splat(f32::INFINITY)),
        ))
    }

    #[inline(always)]
    pub(crate) fn madd(self, left: Self, right: Self) -> Self {
        Self(f32x4_relaxed_madd(left.0, right.0, self.0))
    }

    #[inline(always)]
    pub(crate) fn first(self) -> f32 {
        f32x4_extract_lane::<0>(self.0)
    }
}

impl F64x2 {
    pub(crate) const LANES: usize = 2;

    #[inline(always)]
    pub(crate) fn splat(value: f64) -> Self {
        Self(f64x2_splat(value))
    }

    /// # Safety
    /// Two values must be valid at `place`.
    #[inline(always)]
    pub(crate) unsafe fn load(place: *const f64) -> Self {
        // SAFETY: passed on; the load needs no alignment.
        Self(unsafe { v128_load(place.cast()) })
    }

    /// Widens four values. A shuffle of the whole: of two half loads the compiler makes scalar ones.
    #[inline(always)]
    pub(crate) fn widen(values: F32x4) -> [Self; 2] {
        let high = i32x4_shuffle::<2, 3, 2, 3>(values.0, values.0);
        [values.0, high].map(|half| Self(f64x2_promote_low_f32x4(half)))
    }

    /// # Safety
    /// Two values must be valid for writes at `place`.
    #[inline(always)]
    pub(crate) unsafe fn store(self, place: *mut f64) {
        // SAFETY: passed on; the store needs no alignment.
        unsafe { v128_store(place.cast(), self.0) }
    }

    #[inline(always)]
    pub(crate) fn add(self, other: Self) -> Self {
        Self(f64x2_add(self.0, other.0))
    }

    #[inline(always)]
    pub(crate) fn mul(self, other: Self) -> Self {
        Self(f64x2_mul(self.0, other.0))
    }

    #[inline(always)]
    pub(crate) fn madd(self, left: Self, right: Self) -> Self {
        Self(f64x2_relaxed_madd(left.0, right.0, self.0))
    }

    #[inline(always)]
    pub(crate) fn first(self) -> f64 {
        f64x2_extract_lane::<0>(self.0)
    }

    #[inline(always)]
    pub(crate) fn bits(self) -> I64x2 {
        I64x2(self.0)
    }
}

impl I64x2 {
    pub(crate) const LANES: usize = 2;

    #[inline(always)]
    pub(crate) fn splat(value: i64) -> Self {
        Self(i64x2_splat(value))
    }

    /// # Safety
    /// Two values must be valid at `place`.
    #[inline(always)]
    pub(crate) unsafe fn load(place: *const i64) -> Self {
        // SAFETY: passed on; the load needs no alignment.
        Self(unsafe { v128_load(place.cast()) })
    }

    /// # Safety
    /// Two values must be valid for writes at `place`.
    #[inline(always)]
    pub(crate) unsafe fn store(self, place: *mut i64) {
        // SAFETY: passed on; the store needs no alignment.
        unsafe { v128_store(place.cast(), self.0) }
    }

    /// Wraps around.
    #[inline(always)]
    pub(crate) fn add(self, other: Self) -> Self {
        Self(i64x2_add(self.0, other.0))
    }

    #[inline(always)]
    pub(crate) fn or(self, other: Self) -> Self {
        Self(v128_or(self.0, other.0))
    }

    #[inline(always)]
    pub(crate) fn any_negative(self) -> bool {
        i64x2_extract_lane::<0>(self.0) < 0 || i64x2_extract_lane::<1>(self.0) < 0
    }
}

impl Magnitude {
    #[inline(always)]
    pub(crate) fn none() -> Self {
        Self(i32x4_splat(0))
    }

    #[inline(always)]
    pub(crate) fn see(self, values: F32x4) -> Self {
        let magnitudes = v128_and(values.0, i32x4_splat(i32::MAX));
        Self(u32x4_max(self.0, magnitudes))
    }

    /// Whether all that was seen is below `limit` in absolute value. Not a number is not.
    #[inline(always)]
    pub(crate) fn below(self, limit: f32) -> bool {
        let seen = [
            i32x4_extract_lane::<0>(self.0),
            i32x4_extract_lane::<1>(self.0),
            i32x4_extract_lane::<2>(self.0),
            i32x4_extract_lane::<3>(self.0),
        ];
        seen.iter().all(|bits| (*bits as u32) < limit.to_bits())
    }
}

/// The largest magnitudes of binary16 seen.
#[derive(Clone, Copy)]
pub(crate) struct HalfMagnitude(v128);

impl HalfMagnitude {
    pub(crate) const LANES: usize = 8;

    #[inline(always)]
    pub(crate) fn none() -> Self {
        Self(i16x8_splat(0))
    }

    /// # Safety
    /// Eight values must be valid at `place`.
    #[inline(always)]
    pub(crate) unsafe fn see(self, place: *const u16) -> Self {
        // SAFETY: passed on; the load needs no alignment.
        let values = unsafe { v128_load(place.cast()) };
        Self(u16x8_max(self.0, v128_and(values, i16x8_splat(i16::MAX))))
    }

    /// Whether all that was seen is finite.
    #[inline(always)]
    pub(crate) fn finite(self) -> bool {
        !v128_any_true(u16x8_ge(self.0, u16x8_splat(half::INFINITY)))
    }
}
