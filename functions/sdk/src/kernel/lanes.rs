//! The vectors that the kernels compute with: WASM's 128-bit registers, or arrays.
//!
//! `madd` is one rounding with relaxed SIMD (the host makes it so on every machine) and two without.
//! Everything else is the same to the last bit in both.

#[cfg(all(
    target_arch = "wasm32",
    target_feature = "simd128",
    target_feature = "relaxed-simd"
))]
pub(super) use simd::{F32x4, F64x2, I64x2, Magnitude};

#[cfg(not(all(
    target_arch = "wasm32",
    target_feature = "simd128",
    target_feature = "relaxed-simd"
)))]
pub(super) use plain::{F32x4, F64x2, I64x2, Magnitude};

#[cfg(all(
    target_arch = "wasm32",
    target_feature = "simd128",
    target_feature = "relaxed-simd"
))]
mod simd {
    use core::arch::wasm32::{
        f32x4_relaxed_madd, f32x4_splat, f64x2_add, f64x2_mul, f64x2_promote_low_f32x4,
        f64x2_relaxed_madd, f64x2_splat, i32x4_extract_lane, i32x4_shuffle, i32x4_splat, i64x2_add,
        i64x2_extract_lane, i64x2_splat, u32x4_max, v128, v128_and, v128_load, v128_or, v128_store,
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

        #[inline(always)]
        pub(crate) fn madd(self, left: Self, right: Self) -> Self {
            Self(f32x4_relaxed_madd(left.0, right.0, self.0))
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

        /// Widens four values. One load and a shuffle: of two half loads the compiler makes scalar
        /// ones.
        ///
        /// # Safety
        /// Four values must be valid at `place`.
        #[inline(always)]
        pub(crate) unsafe fn load_f32(place: *const f32) -> [Self; 2] {
            // SAFETY: passed on; the load needs no alignment.
            let values = unsafe { v128_load(place.cast()) };
            let high = i32x4_shuffle::<2, 3, 2, 3>(values, values);
            [values, high].map(|half| Self(f64x2_promote_low_f32x4(half)))
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
        pub(crate) const LANES: usize = 4;

        #[inline(always)]
        pub(crate) fn none() -> Self {
            Self(i32x4_splat(0))
        }

        /// # Safety
        /// Four values must be valid at `place`.
        #[inline(always)]
        pub(crate) unsafe fn see(self, place: *const f32) -> Self {
            // SAFETY: passed on; the load needs no alignment.
            let values = unsafe { v128_load(place.cast()) };
            Self(u32x4_max(self.0, v128_and(values, i32x4_splat(i32::MAX))))
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
}

#[cfg_attr(
    all(
        target_arch = "wasm32",
        target_feature = "simd128",
        target_feature = "relaxed-simd"
    ),
    allow(dead_code)
)]
mod plain {
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

        #[inline(always)]
        pub(crate) fn madd(self, left: Self, right: Self) -> Self {
            Self(array::from_fn(|lane| {
                left.0[lane] * right.0[lane] + self.0[lane]
            }))
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
        ///
        /// # Safety
        /// Four values must be valid at `place`.
        #[inline(always)]
        pub(crate) unsafe fn load_f32(place: *const f32) -> [Self; 2] {
            // SAFETY: passed on; the read needs no alignment.
            let [a, b, c, d] = unsafe { place.cast::<[f32; 4]>().read_unaligned() };
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
        pub(crate) const LANES: usize = 4;

        #[inline(always)]
        pub(crate) fn none() -> Self {
            Self([0; 4])
        }

        /// # Safety
        /// Four values must be valid at `place`.
        #[inline(always)]
        pub(crate) unsafe fn see(self, place: *const f32) -> Self {
            // SAFETY: passed on; the read needs no alignment.
            let values = unsafe { place.cast::<[f32; 4]>().read_unaligned() };
            Self(array::from_fn(|lane| {
                self.0[lane].max(values[lane].abs().to_bits())
            }))
        }

        /// Whether all that was seen is below `limit` in absolute value. Not a number is not.
        #[inline(always)]
        pub(crate) fn below(self, limit: f32) -> bool {
            self.0.iter().all(|bits| *bits < limit.to_bits())
        }
    }
}
