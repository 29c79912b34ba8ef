//! How a binary16 becomes an `f32`: shifted to the place of an `f32`'s fields, its exponent is 112 too
//! small, as subnormals' is. A multiplication by 2^112 mends both, exactly. Of infinity and what is no
//! number it makes 2^16 and more, which no other binary16 is: those get the exponent of their kind.

/// 2^112.
pub(in crate::kernel) const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
/// 2^16.
pub(super) const SPECIAL: f32 = 65536.0;
/// The bits of infinity: magnitudes order like their bits.
pub(super) const INFINITY: u16 = 0x7C00;

/// A binary16 shifted to the place of an `f32`: its value times 2^-112.
#[inline(always)]
pub(super) fn shift(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7FFF) << 13;
    f32::from_bits(magnitude | u32::from(bits & 0x8000) << 16)
}

/// The value of a binary16 that has been shifted.
#[inline(always)]
pub(super) fn mend(shifted: f32) -> f32 {
    let value = shifted * REBIAS;
    if value.abs() < SPECIAL {
        return value;
    }
    f32::from_bits(value.to_bits() | f32::INFINITY.to_bits())
}

/// The value of a binary16.
pub(in crate::kernel) fn widen(bits: u16) -> f32 {
    mend(shift(bits))
}
