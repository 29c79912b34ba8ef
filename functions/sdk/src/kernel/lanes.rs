//! The vectors that the kernels compute with: WASM's 128-bit registers, or arrays.
//!
//! `madd` is one rounding with relaxed SIMD (the host makes it so on every machine) and two without.
//! Everything else is the same to the last bit in both.

#[cfg(all(
    target_arch = "wasm32",
    target_feature = "simd128",
    target_feature = "relaxed-simd"
))]
pub(super) use simd::{F32x4, F64x2, HalfMagnitude, I64x2, Magnitude};

#[cfg(not(all(
    target_arch = "wasm32",
    target_feature = "simd128",
    target_feature = "relaxed-simd"
)))]
pub(super) use plain::{F32x4, F64x2, HalfMagnitude, I64x2, Magnitude};

pub(super) mod half;

#[cfg(all(
    target_arch = "wasm32",
    target_feature = "simd128",
    target_feature = "relaxed-simd"
))]
mod simd;

#[cfg_attr(
    all(
        target_arch = "wasm32",
        target_feature = "simd128",
        target_feature = "relaxed-simd"
    ),
    allow(dead_code)
)]
mod plain;
