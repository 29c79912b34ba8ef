//! Which client holds which images: label-skewed shards, as real clients have them.
//!
//! For every digit a Dirichlet distribution says which part of its images each client gets (Hsu, Qi and
//! Brown, 2019). With a concentration of 0.5 most clients see a few digits often and others never, which is
//! what makes federated learning harder than central training.

use crate::data::{CLASSES, Image};
use crate::random::{Purpose, Random};

/// Fewest images of a client. A draw that leaves somebody with fewer is thrown away and repeated.
pub const FEWEST_IMAGES: usize = 16;

/// Draws before the demand for [`FEWEST_IMAGES`] is given up, so that no input can loop for ever.
const DRAWS_MAX: usize = 10_000;

/// What can be wrong with a request for shards.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// There are not enough images, or the concentration is too small.
    #[error(
        "shards: {images} images cannot be dealt to {clients} clients so that each gets {FEWEST_IMAGES}: \
         take fewer clients or a larger concentration"
    )]
    TooFewImages {
        /// Images to deal.
        images: usize,
        /// Clients to deal them to.
        clients: usize,
    },
}

/// Deals `images` to `clients` shards; each image goes to exactly one.
///
/// # Errors
/// When no draw gives every client at least [`FEWEST_IMAGES`].
pub fn deal(
    images: &[Image],
    clients: usize,
    concentration: f64,
    seed: u64,
) -> Result<Vec<Vec<Image>>, Error> {
    let mut random = Random::new(seed, Purpose::Shards);
    for _ in 0..DRAWS_MAX {
        let shards = draw(images, clients, concentration, &mut random);
        if shards.iter().all(|shard| shard.len() >= FEWEST_IMAGES) {
            return Ok(shards);
        }
    }
    let images = images.len();
    Err(Error::TooFewImages { images, clients })
}

fn draw(
    images: &[Image],
    clients: usize,
    concentration: f64,
    random: &mut Random,
) -> Vec<Vec<Image>> {
    let mut shards = vec![Vec::new(); clients];
    for class in 0..CLASSES {
        let mut of_class: Vec<&Image> = images
            .iter()
            .filter(|image| usize::from(image.label) == class)
            .collect();
        random.shuffle(&mut of_class);
        let proportions = random.dirichlet(concentration, clients);
        for (shard, range) in shards.iter_mut().zip(cuts(&proportions, of_class.len())) {
            shard.extend(of_class[range].iter().map(|&image| image.clone()));
        }
    }
    shards
}

/// Cuts `0..count` into consecutive ranges with the given proportions; together they cover all of it.
fn cuts(proportions: &[f64], count: usize) -> Vec<std::ops::Range<usize>> {
    let mut sum = 0.0;
    let mut start = 0;
    let last = proportions.len().saturating_sub(1);
    let range = |(index, proportion): (usize, &f64)| {
        sum += proportion;
        // Rounding may leave the sum just below 1: the last range takes what is left.
        let end = if index == last {
            count
        } else {
            ((sum * count as f64) as usize).clamp(start, count)
        };
        let range = start..end;
        start = end;
        range
    };
    proportions.iter().enumerate().map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CLIENTS, CONCENTRATION, Dataset, SEED};
    use proptest::prelude::*;

    fn shards(seed: u64, concentration: f64) -> Vec<Vec<Image>> {
        let data = Dataset::load(SEED).unwrap();
        deal(&data.train, CLIENTS, concentration, seed).unwrap()
    }

    /// Mean over the clients of the share of their most frequent label.
    fn skew(shards: &[Vec<Image>]) -> f64 {
        let share = |shard: &Vec<Image>| {
            let mut counts = [0usize; CLASSES];
            for image in shard {
                counts[usize::from(image.label)] += 1;
            }
            counts.into_iter().max().unwrap() as f64 / shard.len() as f64
        };
        shards.iter().map(share).sum::<f64>() / shards.len() as f64
    }

    #[test]
    fn shards_are_fixed_by_the_seed() {
        assert_eq!(shards(SEED, CONCENTRATION), shards(SEED, CONCENTRATION));
        assert_ne!(shards(SEED, CONCENTRATION), shards(SEED + 1, CONCENTRATION));
    }

    #[test]
    fn every_image_goes_to_exactly_one_client() {
        let key = |image: &Image| (image.pixels.map(|p| (p * 16.0) as u8), image.label);
        let mut dealt: Vec<_> = shards(SEED, CONCENTRATION)
            .iter()
            .flatten()
            .map(key)
            .collect();
        let mut all: Vec<_> = Dataset::load(SEED).unwrap().train.iter().map(key).collect();
        dealt.sort_unstable();
        all.sort_unstable();
        assert_eq!(dealt, all);
    }

    #[test]
    fn labels_are_skewed_and_less_so_with_a_large_concentration() {
        let skewed = shards(SEED, CONCENTRATION);
        assert!(skewed.iter().all(|shard| shard.len() >= FEWEST_IMAGES));
        // Evenly dealt images would give about 0.1 to 0.2.
        assert!(skew(&skewed) > 0.3, "skew {}", skew(&skewed));
        assert!(skew(&shards(SEED, 100.0)) < 0.25);
        let absent =
            |shard: &Vec<Image>| (0..10u8).any(|class| shard.iter().all(|i| i.label != class));
        assert!(skewed.iter().filter(|shard| absent(shard)).count() > CLIENTS / 2);
    }

    #[test]
    fn too_many_clients_are_refused() {
        let data = Dataset::load(SEED).unwrap();
        let error = deal(&data.train[..100], CLIENTS, CONCENTRATION, SEED).unwrap_err();
        assert_eq!(
            error,
            Error::TooFewImages {
                images: 100,
                clients: CLIENTS
            }
        );
    }

    proptest! {
        #[test]
        fn cuts_cover_everything(seed: u64, clients in 1usize..30, count in 0usize..500) {
            let proportions = Random::new(seed, Purpose::Shards).dirichlet(0.5, clients);
            let mut next = 0;
            for range in cuts(&proportions, count) {
                prop_assert_eq!(range.start, next);
                next = range.end;
            }
            prop_assert_eq!(next, count);
        }
    }
}
