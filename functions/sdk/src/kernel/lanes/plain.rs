//! Arrays, for machines and modules without those registers.

use super::half;
use core::array;

#[derive(Clone, Copy)]
pub(crate) struct F32x4([f32; 4]);

#[derive(Clone, Copy)]
pub(crate) struct F64x2([f64; 2]);

#[derive(Clone, Copy)]
pub(crate) struct I64x2([i64; 2]);

/// The largest bit patterns of absolute values seen, which order like the values.
#[derive(Clone, Copy)]
pub(crate) struct Magnitude([u32; 4]);

impl F32x4 {
    pub(crate) const LANES: usize = 4;

    #[inline(always)]
    pub(crate) fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    /// # Safety
    /// Four values must be valid at `place`.
    #[inline(always)]
    pub(crate) unsafe fn load(place: *const f32) -> Self {
        // SAFETY: passed on; the read needs no alignment.
        Self(unsafe { place.cast::<[f32; 4]>().read_unaligned() })
    }

    /// # Safety
    /// Four values must be valid for writes at `place`.
    #[inline(always)]
    pub(crate) unsafe fn store(self, place: *mut f32) {
        // SAFETY: passed on; the write needs no alignment.
        unsafe { place.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    /// Shifts eight binary16 to the places of `f32`: their values times 2^-112.
    ///
    /// # Safety
    /// Eight values must be valid at `place`.
    #[inline(always)]
    pub(crate) unsafe fn load_f16(place: *const u16) -> [Self; 2] {
        // SAFETY: passed on; the read needs no alignment.
        let halves = unsafe { place.cast::<[[u16; 4]; 2]>().read_unaligned() };
        halves.map(|half| Self(half.map(half::shift)))
    }

    /// Widens four bfloat16.
    ///
    /// # Safety
    /// Four values must be valid at `place`.
    #[inline(always)]
    pub(crate) unsafe fn load_bf16(place: *const u16) -> Self {
        // SAFETY: passed on; the read needs no alignment.
        let values = unsafe { place.cast::<[u16; 4]>().read_unaligned() };
        Self(values.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }

    /// Converts eight signed bytes.
    ///
    /// # Safety
    /// Eight values must be valid at `place`.
    #[inline(always)]
    pub(crate) unsafe fn load_i8(place: *const i8) -> [Self; 2] {
        // SAFETY: passed on; bytes have no alignment.
        let [low, high] = unsafe { place.cast::<[[i8; 4]; 2]>().read() };
        [low, high].map(|half| Self(half.map(f32::from)))
    }

    /// Mends what [`F32x4::load_f16`] makes of infinity and of what is no number.
    /// The values of binary16 that have been shifted, infinity and what is no number among them.
    #[inline(always)]
    pub(crate) fn mend_f16(self) -> Self {
        Self(self.0.map(half::mend))
    }

    #[inline(always)]
    pub(crate) fn madd(self, left: Self, right: Self) -> Self {
        Self(array::from_fn(|lane| {
            left.0[lane] * right.0[lane] + self.0[lane]
        }))
    }

    #[inline(always)]
    pub(crate) fn first(self) -> f32 {
        self.0[0]
    }
}

impl F64x2 {
    pub(crate) const LANES: usize = 2;

    #[inline(always)]
    pub(crate) fn splat(value: f64) -> Self {
        Self([value; 2])
    }

    /// # Safety
    /// Two values must be valid at `place`.
    #[inline(always)]
    pub(crate) unsafe fn load(place: *const f64) -> Self {
        // SAFETY: passed on; the read needs no alignment.
        Self(unsafe { place.cast::<[f64; 2]>().read_unaligned() })
    }

    /// Widens four values.
    #[inline(always)]
    pub(crate) fn widen(values: F32x4) -> [Self; 2] {
        let [a, b, c, d] = values.0;
        [[a, b], [c, d]].map(|half| Self(half.map(f64::from)))
    }

    /// # Safety
    /// Two values must be valid for writes at `place`.
    #[inline(always)]
    pub(crate) unsafe fn store(self, place: *mut f64) {
        // SAFETY: passed on; the write needs no alignment.
        unsafe { place.cast::<[f64; 2]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    pub(crate) fn add(self, other: Self) -> Self {
        Self(array::from_fn(|lane| self.0[lane] + other.0[lane]))
    }

    #[inline(always)]
    pub(crate) fn mul(self, other: Self) -> Self {
        Self(array::from_fn(|lane| self.0[lane] * other.0[lane]))
    }

    #[inline(always)]
    pub(crate) fn madd(self, left: Self, right: Self) -> Self {
        self.add(left.mul(right))
    }

    #[inline(always)]
    pub(crate) fn first(self) -> f64 {
        self.0[0]
    }

    #[inline(always)]
    pub(crate) fn bits(self) -> I64x2 {
        I64x2(self.0.map(|value| value.to_bits() as i64))
    }
}

impl I64x2 {
    pub(crate) const LANES: usize = 2;

    #[inline(always)]
    pub(crate) fn splat(value: i64) -> Self {
        Self([value; 2])
    }

    /// # Safety
    /// Two values must be valid at `place`.
    #[inline(always)]
    pub(crate) unsafe fn load(place: *const i64) -> Self {
        // SAFETY: passed on; the read needs no alignment.
        Self(unsafe { place.cast::<[i64; 2]>().read_unaligned() })
    }

    /// # Safety
    /// Two values must be valid for writes at `place`.
    #[inline(always)]
    pub(crate) unsafe fn store(self, place: *mut i64) {
        // SAFETY: passed on; the write needs no alignment.
        unsafe { place.cast::<[i64; 2]>().write_unaligned(self.0) }
    }

    /// Wraps around.
    #[inline(always)]
    pub(crate) fn add(self, other: Self) -> Self {
        Self(array::from_fn(|lane| {
            self.0[lane].wrapping_add(other.0[lane])
        }))
    }

    #[inline(always)]
    pub(crate) fn or(self, other: Self) -> Self {
        Self(array::from_fn(|lane| self.0[lane] | other.0[lane]))
    }

    #[inline(always)]
    pub(crate) fn any_negative(self) -> bool {
        self.0.iter().any(|value| *value < 0)
    }
}

impl Magnitude {
    #[inline(always)]
    pub(crate) fn none() -> Self {
        Self([0; 4])
    }

    #[inline(always)]
    pub(crate) fn see(self, values: F32x4) -> Self {
        Self(array::from_fn(|lane| {
            self.0[lane].max(values.0[lane].abs().to_bits())
        }))
    }

    /// Whether all that was seen is below `limit` in absolute value. Not a number is not.
    #[inline(always)]
    pub(crate) fn below(self, limit: f32) -> bool {
        self.0.iter().all(|bits| *bits < limit.to_bits())
    }
}

/// The largest magnitudes of binary16 seen.
#[derive(Clone, Copy)]
pub(crate) struct HalfMagnitude([u16; 8]);

impl HalfMagnitude {
    pub(crate) const LANES: usize = 8;

    #[inline(always)]
    pub(crate) fn none() -> Self {
        Self([0; 8])
    }

    /// # Safety
    /// Eight values must be valid at `place`.
    #[inline(always)]
    pub(crate) unsafe fn see(self, place: *const u16) -> Self {
        // SAFETY: passed on; the read needs no alignment.
        let values = unsafe { place.cast::<[u16; 8]>().read_unaligned() };
        Self(array::from_fn(|lane| {
            self.0[lane].max(values[lane] & 0x7FFF)
        }))
    }

    /// Whether all that was seen is finite.
    #[inline(always)]
    pub(crate) fn finite(self) -> bool {
        self.0.iter().all(|bits| *bits < half::INFINITY)
    }
}
