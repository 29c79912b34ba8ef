//! A small seeded generator: xoshiro256++, seeded by SplitMix64.
//!
//! Written out here because the figures of this example are promises: they may not change with a
//! dependency's version. Floating-point functions come from `libm`, whose results do not depend on the
//! machine's C library.

use std::f64::consts::TAU;

/// What a stream of random numbers is for. Two purposes never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Which images are the test set.
    Split,
    /// Which client holds which images.
    Shards,
    /// The first global model.
    InitialModel,
    /// The order of a client's examples in one round.
    Local {
        /// Index of the client.
        client: u64,
        /// The round, from 1.
        round: u64,
    },
    /// The order of all examples in central training.
    Central,
}

/// A deterministic stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The stream of `purpose` under `seed`.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        let words = match purpose {
            Purpose::Split => [1, 0, 0],
            Purpose::Shards => [2, 0, 0],
            Purpose::InitialModel => [3, 0, 0],
            Purpose::Local { client, round } => [4, client, round],
            Purpose::Central => [5, 0, 0],
        };
        let mut mixer = SplitMix(seed);
        for word in words {
            mixer.0 = mixer.next() ^ word;
        }
        Self {
            state: [mixer.next(), mixer.next(), mixer.next(), mixer.next()],
        }
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        const STEPS: f64 = (1u64 << 53) as f64;
        (self.bits() >> 11) as f64 / STEPS
    }

    /// Uniform in `0..bound`. The bias is below `bound / 2^64`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// Standard normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.unit()));
        radius * libm::cos(TAU * self.unit())
    }

    /// Gamma distributed with the given shape (> 0) and scale 1, by Marsaglia and Tsang.
    pub fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            // Gamma(shape) = Gamma(shape + 1) * U^(1/shape)
            let boost = libm::pow(1.0 - self.unit(), 1.0 / shape);
            return self.gamma(shape + 1.0) * boost;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / libm::sqrt(9.0 * d);
        loop {
            let x = self.normal();
            let v = (1.0 + c * x) * (1.0 + c * x) * (1.0 + c * x);
            if v <= 0.0 {
                continue;
            }
            if libm::log(1.0 - self.unit()) < 0.5 * x * x + d - d * v + d * libm::log(v) {
                return d * v;
            }
        }
    }

    /// Proportions drawn from the symmetric Dirichlet distribution; they sum to 1.
    pub fn dirichlet(&mut self, concentration: f64, count: usize) -> Vec<f64> {
        let mut parts: Vec<f64> = (0..count).map(|_| self.gamma(concentration)).collect();
        let total: f64 = parts.iter().sum();
        for part in &mut parts {
            *part /= total;
        }
        parts
    }

    /// Puts `items` in random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn streams_repeat_and_differ_by_purpose() {
        let draw = |purpose| {
            let mut random = Random::new(7, purpose);
            [random.bits(), random.bits(), random.bits()]
        };
        let first = Purpose::Local {
            client: 3,
            round: 5,
        };
        assert_eq!(draw(first), draw(first));
        assert_ne!(
            draw(first),
            draw(Purpose::Local {
                client: 5,
                round: 3
            })
        );
        assert_ne!(draw(Purpose::Split), draw(Purpose::Shards));
    }

    #[test]
    fn normal_and_gamma_have_their_moments() {
        let mut random = Random::new(11, Purpose::Split);
        let count = 40_000;
        let normal: Vec<f64> = (0..count).map(|_| random.normal()).collect();
        let gamma: Vec<f64> = (0..count).map(|_| random.gamma(0.5)).collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let variance = |values: &[f64]| {
            let centre = mean(values);
            values.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / values.len() as f64
        };
        assert!(mean(&normal).abs() < 0.03);
        assert!((variance(&normal) - 1.0).abs() < 0.05);
        assert!((mean(&gamma) - 0.5).abs() < 0.03);
        assert!((variance(&gamma) - 0.5).abs() < 0.05);
    }

    proptest! {
        #[test]
        fn dirichlet_sums_to_one(seed: u64, concentration in 0.1f64..10.0, count in 1usize..40) {
            let parts = Random::new(seed, Purpose::Shards).dirichlet(concentration, count);
            prop_assert_eq!(parts.len(), count);
            prop_assert!(parts.iter().all(|part| (0.0..=1.0).contains(part)));
            prop_assert!((parts.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        }

        #[test]
        fn a_shuffle_keeps_every_item(seed: u64, count in 0usize..100) {
            let mut items: Vec<usize> = (0..count).collect();
            Random::new(seed, Purpose::Split).shuffle(&mut items);
            items.sort_unstable();
            prop_assert_eq!(items, (0..count).collect::<Vec<_>>());
        }
    }
}
