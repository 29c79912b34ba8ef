//! The best native kernels for weighted sums that we can write, and a pass that only reads: what WebAssembly is held
//! against.
//!
//! Each thread has a part of the coordinates. A block of sums stays in the first-level cache while several clients at
//! a time are added to it, so that memory is read once and the sums are written once, past the caches.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::segment::{PARTS, Segment};

/// Elements of a block: 8 KiB of sums, which leaves the first-level cache to what streams through.
const BLOCK: usize = 2048;

/// A kernel: instruction set, clients per pass, and whether it asks for what it reads ahead of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    set: Set,
    clients: usize,
    ahead: bool,
}

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Avx2,
    Avx512,
}

impl fmt::Display for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = match self.set {
            Set::Avx2 => "AVX2",
            Set::Avx512 => "AVX-512",
        };
        let ahead = if self.ahead { ", prefetching" } else { "" };
        write!(formatter, "{set}, {} clients a pass{ahead}", self.clients)
    }
}

impl Kernel {
    /// The kernels that this machine can run.
    ///
    /// # Errors
    /// If there is none.
    pub fn available() -> Result<Vec<Self>> {
        let mut sets = Vec::new();
        if is_x86_feature_detected!("avx512f") {
            sets.push(Set::Avx512);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            sets.push(Set::Avx2);
        }
        if sets.is_empty() {
            bail!("this processor has neither AVX2 with FMA nor AVX-512");
        }
        let variants = [4, 8, 16]
            .into_iter()
            .flat_map(|clients| [(clients, false), (clients, true)]);
        let of = |set| {
            variants.clone().map(move |(clients, ahead)| Self {
                set,
                clients,
                ahead,
            })
        };
        Ok(sets.into_iter().flat_map(of).collect())
    }

    /// The fastest here, for this case: each is tried `tries` times in turns.
    ///
    /// # Errors
    /// If none can run.
    pub fn fastest(
        segment: &Segment,
        weights: &[f32],
        output: usize,
        tries: usize,
    ) -> Result<Self> {
        let kernels = Self::available()?;
        let mut best = vec![Duration::MAX; kernels.len()];
        for _ in 0..tries {
            for (kernel, best) in kernels.iter().zip(&mut best) {
                *best = kernel.fold(segment, weights, output).min(*best);
            }
        }
        let fastest = kernels.iter().zip(best).min_by_key(|(_, best)| *best);
        fastest.map_or_else(|| bail!("no kernel"), |(kernel, _)| Ok(*kernel))
    }

    /// Writes the weighted sum of the first slots, one for each weight, to the slot `output`; on two threads.
    ///
    /// # Panics
    /// If the output is one of the slots that are read.
    pub fn fold(self, segment: &Segment, weights: &[f32], output: usize) -> Duration {
        assert!(output >= weights.len(), "the output is read");
        let started = Instant::now();
        thread::scope(|scope| {
            for part in 0..PARTS {
                scope.spawn(move || self.fold_part(segment, weights, output, part));
            }
        });
        started.elapsed()
    }

    fn fold_part(self, segment: &Segment, weights: &[f32], output: usize, part: usize) {
        let slots = 0..weights.len();
        // SAFETY: in this benchmark nobody writes to inputs while a kernel runs.
        let inputs: Vec<&[f32]> = slots
            .map(|slot| unsafe { segment.read(slot, part) })
            .collect();
        // SAFETY: each thread has a part of its own, and the output is not read.
        let sums = unsafe { segment.write::<f32>(output, part) };
        let whole = sums.len() - sums.len() % BLOCK;
        for start in (0..whole).step_by(BLOCK) {
            self.fold_block(&inputs, weights, sums, start);
        }
        for at in whole..sums.len() {
            let terms = inputs.iter().zip(weights);
            sums[at] = terms.fold(0.0, |sum, (input, weight)| input[at].mul_add(*weight, sum));
        }
        // Stores past the caches are in no order with others: whoever waits for this thread must see them.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    fn fold_block(self, inputs: &[&[f32]], weights: &[f32], sums: &mut [f32], start: usize) {
        let mut block = Block([0.0; BLOCK]);
        let mut first = 0;
        while first < inputs.len() {
            let count = self.clients.min(inputs.len() - first);
            // The sizes below are those of the compiled kernels.
            let size = [16, 8, 4, 2, 1]
                .into_iter()
                .find(|size| *size <= count)
                .unwrap_or(1);
            let last = first + size == inputs.len();
            let pass = Pass {
                inputs: &inputs[first..first + size],
                weights: &weights[first..first + size],
                start,
                to: last.then(|| &mut sums[start..start + BLOCK]),
                ahead: self.ahead,
            };
            pass.run(self.set, size, &mut block);
            first += size;
        }
    }
}

/// Sums of a block, aligned for the widest registers.
#[repr(align(64))]
struct Block([f32; BLOCK]);

/// Some clients that are added to a block at once.
struct Pass<'a> {
    inputs: &'a [&'a [f32]],
    weights: &'a [f32],
    /// The block's first element in the inputs.
    start: usize,
    /// Where the sums go, if these were the last clients.
    to: Option<&'a mut [f32]>,
    ahead: bool,
}

impl Pass<'_> {
    fn run(self, set: Set, size: usize, block: &mut Block) {
        assert_eq!((self.inputs.len(), self.weights.len()), (size, size));
        assert!(
            self.inputs
                .iter()
                .all(|input| input.len() >= self.start + BLOCK)
        );
        assert!(
            self.to
                .as_ref()
                .is_none_or(|to| to.len() == BLOCK && to.as_ptr().is_aligned_to_64())
        );
        // SAFETY: `Kernel::available` has found the instruction set on this processor; the lengths and the alignment
        // were checked above; `block` is aligned by its type.
        unsafe {
            match (set, size) {
                (Set::Avx2, 16) => avx2::pass::<16>(self, block),
                (Set::Avx2, 8) => avx2::pass::<8>(self, block),
                (Set::Avx2, 4) => avx2::pass::<4>(self, block),
                (Set::Avx2, 2) => avx2::pass::<2>(self, block),
                (Set::Avx2, _) => avx2::pass::<1>(self, block),
                (Set::Avx512, 16) => avx512::pass::<16>(self, block),
                (Set::Avx512, 8) => avx512::pass::<8>(self, block),
                (Set::Avx512, 4) => avx512::pass::<4>(self, block),
                (Set::Avx512, 2) => avx512::pass::<2>(self, block),
                (Set::Avx512, _) => avx512::pass::<1>(self, block),
            }
        }
    }
}

/// Whether stores past the caches may go there.
trait Aligned {
    fn is_aligned_to_64(&self) -> bool;
}

impl Aligned for *const f32 {
    fn is_aligned_to_64(&self) -> bool {
        self.addr().is_multiple_of(64)
    }
}

/// The same kernel in two instruction sets.
macro_rules! kernels {
    ($name:ident, $features:literal, $lanes:literal,
     $zero:ident, $set1:ident, $load:ident, $store:ident, $stream:ident, $fma:ident, $add:ident) => {
        mod $name {
            use std::arch::x86_64::*;

            use super::{BLOCK, Block, Pass};

            /// How far ahead is asked for, in elements: 2 KiB.
            const AHEAD: usize = 512;

            /// Adds `K` clients to a block.
            ///
            /// # Safety
            /// The processor has the features; there are `K` inputs and weights; each input has a whole block at
            /// `start`; `to` is a whole block, aligned to 64 bytes.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn pass<const K: usize>(pass: Pass<'_>, block: &mut Block) {
                let mut inputs = [std::ptr::null::<f32>(); K];
                let mut weights = [$zero(); K];
                for k in 0..K {
                    inputs[k] = pass.inputs[k].as_ptr().wrapping_add(pass.start);
                    weights[k] = $set1(pass.weights[k]);
                }
                let sums = block.0.as_mut_ptr();
                let to = pass.to.map(|to| to.as_mut_ptr());
                for at in (0..BLOCK).step_by(2 * $lanes) {
                    // SAFETY: `at + 2 * lanes <= BLOCK`, and so many elements have the sums, `to` and all inputs (see
                    // above). Only a prefetch goes further, and one of what is not mapped does nothing.
                    unsafe {
                        let mut low = $load(sums.add(at));
                        let mut high = $load(sums.add(at + $lanes));
                        for k in 0..K {
                            let input = inputs[k].wrapping_add(at);
                            if pass.ahead {
                                _mm_prefetch::<_MM_HINT_T0>(input.wrapping_add(AHEAD).cast());
                            }
                            low = $fma($load(input), weights[k], low);
                            high = $fma($load(input.wrapping_add($lanes)), weights[k], high);
                        }
                        if let Some(to) = to {
                            $stream(to.add(at), low);
                            $stream(to.add(at + $lanes), high);
                        } else {
                            $store(sums.add(at), low);
                            $store(sums.add(at + $lanes), high);
                        }
                    }
                }
            }

            /// Sums up all elements, to have read them.
            ///
            /// # Safety
            /// The processor has the features.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn read(elements: &[f32]) -> f32 {
                let mut sums = [$zero(); 8];
                let (chunks, rest) = elements.as_chunks::<{ 8 * $lanes }>();
                for chunk in chunks {
                    for (k, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: the chunk has eight times `lanes` elements.
                        *sum = $add(*sum, unsafe { $load(chunk.as_ptr().add(k * $lanes)) });
                    }
                }
                let mut total: f32 = rest.iter().sum();
                for sum in sums {
                    let mut stored = [0.0; $lanes];
                    // SAFETY: `stored` has room for all lanes.
                    unsafe { $store(stored.as_mut_ptr(), sum) };
                    total += stored.iter().sum::<f32>();
                }
                total
            }
        }
    };
}

kernels!(
    avx2,
    "avx2,fma",
    8,
    _mm256_setzero_ps,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_stream_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps
);
kernels!(
    avx512,
    "avx512f",
    16,
    _mm512_setzero_ps,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_stream_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps
);

/// Reads the first `slots` slots on two threads, and does nothing with them: the least that any fold can take.
///
/// # Errors
/// If the processor has neither AVX2 nor AVX-512.
pub fn read(segment: &Segment, slots: usize) -> Result<Duration> {
    let Some(Kernel { set, .. }) = Kernel::available()?.first().copied() else {
        bail!("no kernel");
    };
    let started = Instant::now();
    thread::scope(|scope| {
        for part in 0..PARTS {
            scope.spawn(move || {
                for slot in 0..slots {
                    // SAFETY: in this benchmark nobody writes to inputs while they are read.
                    let elements = unsafe { segment.read::<f32>(slot, part) };
                    // SAFETY: `Kernel::available` has found the instruction set on this processor.
                    let sum = unsafe {
                        match set {
                            Set::Avx2 => avx2::read(elements),
                            Set::Avx512 => avx512::read(elements),
                        }
                    };
                    std::hint::black_box(sum);
                }
            });
        }
    });
    Ok(started.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::values;

    #[test]
    fn all_kernels_give_the_weighted_sum() {
        const ELEMENTS: usize = 10_007;
        let weights: Vec<f32> = (1..=23).map(|weight| weight as f32 / 276.0).collect();
        let mut segment = Segment::new(weights.len() + 1, ELEMENTS).unwrap();
        for slot in 0..weights.len() {
            segment.fill(slot, values(slot as u64)).unwrap();
        }
        let mut expected = vec![0.0_f64; ELEMENTS];
        for (slot, weight) in weights.iter().enumerate() {
            let vector: Vec<f32> = segment.copy(slot);
            let terms = expected.iter_mut().zip(vector);
            terms.for_each(|(sum, value)| *sum += f64::from(value) * f64::from(*weight));
        }
        let output = weights.len();
        for kernel in Kernel::available().unwrap() {
            segment.fill(output, std::iter::repeat(f32::NAN)).unwrap();
            kernel.fold(&segment, &weights, output);
            let sums: Vec<f32> = segment.copy(output);
            for (sum, expected) in sums.iter().zip(&expected) {
                assert!(
                    (f64::from(*sum) - expected).abs() < 1e-7,
                    "{kernel}: {sum} {expected}"
                );
            }
        }
        assert!(read(&segment, weights.len()).unwrap() > Duration::ZERO);
        assert!(Kernel::fastest(&segment, &weights, output, 1).is_ok());
    }
}
