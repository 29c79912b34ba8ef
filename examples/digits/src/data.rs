//! The images: 1,797 handwritten digits of 8x8 pixels, embedded in the program.
//!
//! See `data/README.md` for where they come from and under which licence.

use crate::random::{Purpose, Random};

/// Pixels of an image.
pub const PIXELS: usize = 64;

/// Digits to tell apart.
pub const CLASSES: usize = 10;

/// Images kept for the test set, which no client and no training ever sees.
pub const TEST_IMAGES: usize = 360;

/// The brightest pixel of the source.
const BRIGHTEST: f32 = 16.0;

/// One image with its label.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Brightness of each pixel, row by row, from 0 to 1.
    pub pixels: [f32; PIXELS],
    /// The digit that the image shows.
    pub label: u8,
}

/// The images, split into training and test set.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Images to learn from.
    pub train: Vec<Image>,
    /// Images to measure with.
    pub test: Vec<Image>,
}

/// What can be wrong with a file of images.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("digits data, line {line}: {problem}")]
pub struct Error {
    line: usize,
    problem: &'static str,
}

impl Dataset {
    /// The embedded images, in the split that `seed` fixes.
    ///
    /// # Errors
    /// When the embedded file is not what it should be.
    pub fn load(seed: u64) -> Result<Self, Error> {
        let mut train = parse(include_str!("../data/optdigits.txt"))?;
        Random::new(seed, Purpose::Split).shuffle(&mut train);
        let test = train.split_off(train.len() - TEST_IMAGES.min(train.len()));
        Ok(Self { train, test })
    }
}

/// Reads images: a line each, 64 base-17 digits, a space, the label.
fn parse(text: &str) -> Result<Vec<Image>, Error> {
    let lines = text.lines().enumerate();
    lines
        .map(|(index, line)| {
            image(line).map_err(|problem| Error {
                line: index + 1,
                problem,
            })
        })
        .collect()
}

fn image(line: &str) -> Result<Image, &'static str> {
    let (brightness, label) = line
        .split_once(' ')
        .ok_or("want 64 pixels, a space and a label")?;
    if brightness.chars().count() != PIXELS {
        return Err("want 64 pixels");
    }
    let mut pixels = [0.0; PIXELS];
    for (pixel, digit) in pixels.iter_mut().zip(brightness.chars()) {
        let value = digit.to_digit(17).ok_or("a pixel is one of 0-9 and a-g")?;
        *pixel = value as f32 / BRIGHTEST;
    }
    match label.parse() {
        Ok(label) if usize::from(label) < CLASSES => Ok(Image { pixels, label }),
        _ => Err("a label is one of 0-9"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_images_are_all_there() {
        let data = Dataset::load(crate::SEED).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (1437, 360));
        let images = || data.train.iter().chain(&data.test);
        for class in 0..CLASSES {
            let count = images()
                .filter(|image| usize::from(image.label) == class)
                .count();
            assert!((174..=183).contains(&count), "{count} images of {class}");
        }
        assert!(images().all(|image| image.pixels.iter().all(|p| (0.0..=1.0).contains(p))));
    }

    #[test]
    fn the_split_is_fixed() {
        let once = Dataset::load(crate::SEED).unwrap();
        let again = Dataset::load(crate::SEED).unwrap();
        let other = Dataset::load(crate::SEED + 1).unwrap();
        assert_eq!(once.test, again.test);
        assert_ne!(once.test, other.test);
    }

    #[test]
    fn a_broken_line_is_named() {
        let good = format!("{} 3", "0".repeat(PIXELS));
        let problem = |line: &str| parse(&format!("{good}\n{line}")).unwrap_err().to_string();
        assert!(problem("0000 3").starts_with("digits data, line 2: want 64 pixels"));
        assert!(problem(&"0".repeat(PIXELS)).contains("a space and a label"));
        assert!(problem(&format!("{}h 3", "0".repeat(63))).contains("0-9 and a-g"));
        assert!(problem(&format!("{} 10", "0".repeat(PIXELS))).contains("a label"));
    }
}
