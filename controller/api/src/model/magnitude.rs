//! Whether all values lie within a magnitude, which no NaN and no infinity does.
//!
//! No branch for each element, so that it becomes vector code; who is to blame is searched for only when something
//! is wrong.

/// The bits without the sign. As whole numbers they have the order of the magnitudes, and what is not finite is above.
const MAGNITUDE: u32 = 0x7fff_ffff;

/// The first of the F32 values in `bytes`, little-endian, whose magnitude is not at most `most`, and its place.
#[must_use]
pub fn first_beyond(bytes: &[u8], most: f32) -> Option<(usize, f32)> {
    let (words, _) = bytes.as_chunks::<4>();
    let most = most.to_bits();
    let beyond = |word: &[u8; 4]| u32::from_le_bytes(*word) & MAGNITUDE > most;
    if !words.iter().fold(false, |any, word| any | beyond(word)) {
        return None;
    }
    let at = words.iter().position(beyond)?;
    Some((at, f32::from_le_bytes(words[at])))
}
