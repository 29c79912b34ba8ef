//! Proves a function at deploy: it describes itself sanely, keeps to the extents that it declares, and
//! obeys the laws of its algebra.
//!
//! The laws are tested on finished models, because a partial's format is the function's own. They are
//! tested on made-up updates at three sizes: one element; a size that no vector width divides, with a
//! pattern behind every extent that an overrun would change; and one whose partials end with a page, so
//! that an overrun traps. A fourth size is that of two ranges: taken one by one they have to make the
//! bytes that one call makes. Last come weights and values at the ends of what clients may send.
//!
//! Outputs are poisoned before each call, so that what a function leaves unwritten is found.

mod extremes;
mod trial;
mod updates;

use crate::abi::{Description, PAGE_BYTES};
use crate::encoding::{Content, Encoding};
use crate::engine::Engine;
use crate::error::{Error, Export};
use crate::function::{Function, Limits};
use crate::operands::{Input, ModelRange, Place, RANGE_ELEMENTS, ranges};
use trial::{POISON, Subject, Trial};
use updates::Update;

const SIZES: [u32; 3] = [1, 1021, 1024];
const RANGED_SIZE: u32 = RANGE_ELEMENTS + 1021;
const WEIGHTS: [f64; 6] = [3.0, 1.0, 4.0, 1.5, 9.0, 2.5];
/// How far two ways to the same model may lie apart, relative to the model's largest element.
const TOLERANCE: f32 = 1e-4;
/// A slot for every update, for every partial that the laws make if each call takes one input (49), and
/// one for a finished model.
const LAW_SLOTS: u64 = WEIGHTS.len() as u64 + 50;
/// The same for what is tried on two ranges, and on an encoding.
const OTHER_SLOTS: u64 = 24;

/// Runs `function` under `config` on small made-up models and answers its description.
///
/// # Errors
/// Names the law that it breaks, the extent that it oversteps, or the call that failed.
pub fn check(
    engine: &Engine,
    function: &Function,
    limits: Limits,
    config: &[u8],
) -> Result<Description, Error> {
    if !wasmtime::Engine::same(engine.wasmtime(), function.engine().wasmtime()) {
        return Err(Error::Engine(
            "the function was loaded by another engine".into(),
        ));
    }
    let subject = Subject {
        function,
        limits,
        config,
    };
    // The slots' size depends on the description: ask for it over the smallest window first.
    let description = Trial::new(subject, SIZES[0], PAGE_BYTES, 1)?.description();
    let trial = |elements: u32, slots: u64| {
        let vector = u64::from(elements) * u64::from(description.partial_bytes_per_element.max(4));
        Trial::new(subject, elements, vector, slots)
    };
    for elements in SIZES {
        prove_algebra(&mut trial(elements, LAW_SLOTS)?, elements)?;
        for encoding in encoded(description) {
            prove_encoding(&mut trial(elements, OTHER_SLOTS)?, encoding, elements)?;
        }
    }
    prove_ranges(&mut trial(RANGED_SIZE, OTHER_SLOTS)?, Encoding::F32)?;
    for encoding in encoded(description) {
        prove_ranges(&mut trial(RANGED_SIZE, OTHER_SLOTS)?, encoding)?;
    }
    extremes::prove(&mut trial(SIZES[1], OTHER_SLOTS)?, SIZES[1])?;
    Ok(description)
}

/// The encodings that have to be compared with `f32`.
fn encoded(description: Description) -> impl Iterator<Item = Encoding> {
    let encodings = description.encodings.iter();
    encodings.filter(|encoding| *encoding != Encoding::F32)
}

fn input(place: Place, content: Content, index: usize) -> Input {
    Input {
        place,
        weight: WEIGHTS[index],
        contributors: 1,
        content,
    }
}

/// Writes an update for each weight.
fn put_updates(trial: &mut Trial, encoding: Encoding, elements: u32) -> Result<Vec<Input>, Error> {
    let indices = 0..WEIGHTS.len();
    indices
        .map(|index| {
            let update = Update::made_up(encoding, index as u64, elements);
            Ok(input(trial.put(&update)?, update.content, index))
        })
        .collect()
}

fn prove_algebra(trial: &mut Trial, elements: u32) -> Result<(), Error> {
    let updates = put_updates(trial, Encoding::F32, elements)?;
    let [all, again] = trial.twice(Export::Fold, |trial, _| trial.fold(None, &updates))?;
    let model = trial.finish(all)?;
    has_to_be_finite(&model, "finite updates make a finite model")?;
    same(
        trial,
        "the same calls give the same model",
        again,
        &model,
        0.0,
    )?;
    let same = |trial: &mut Trial, law: &str, partial| same(trial, law, partial, &model, TOLERANCE);
    let backwards: Vec<Input> = updates.iter().rev().copied().collect();
    let reversed = trial.fold(None, &backwards)?;
    same(trial, "the order of updates does not matter", reversed)?;
    let half = trial.fold(None, &updates[..3])?;
    let stepwise = trial.fold(Some(half), &updates[3..])?;
    same(trial, "folding in steps equals folding at once", stepwise)?;

    let (first, second, third) = (
        trial.fold(None, &updates[..1])?,
        trial.fold(None, &updates[1..3])?,
        trial.fold(None, &updates[3..])?,
    );
    let [merged, _] = trial.twice(Export::Merge, |trial, _| {
        trial.merge(None, &[first, second, third])
    })?;
    same(
        trial,
        "merging partials equals folding their updates",
        merged,
    )?;
    let reversed = trial.merge(None, &[third, second, first])?;
    same(trial, "the order of partials does not matter", reversed)?;
    let left = trial.merge(None, &[first, second])?;
    let left = trial.merge(Some(left), &[third])?;
    same(trial, "merging is associative", left)?;
    let right = trial.merge(None, &[second, third])?;
    let right = trial.merge(Some(first), &[right])?;
    same(trial, "merging is associative", right)?;
    let others = [updates[0], updates[3], updates[4], updates[5]];
    let mixed = trial.fold(Some(second), &others)?;
    same(
        trial,
        "folding into a partial equals merging with the fold",
        mixed,
    )
}

/// Folds encoded updates, some of them beside plain ones, and the values that they stand for.
fn prove_encoding(trial: &mut Trial, encoding: Encoding, elements: u32) -> Result<(), Error> {
    let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
    for index in 0..3 {
        let update = Update::made_up(encoding, index as u64, elements);
        encoded.push(input(trial.put(&update)?, update.content, index));
        let plain = Update::of_values(update.values);
        decoded.push(input(trial.put(&plain)?, plain.content, index));
    }
    let plain = trial.fold(None, &decoded)?;
    let model = trial.finish(plain)?;
    let law = format!("folding updates encoded as {encoding} equals folding their values");
    let all = trial.fold(None, &encoded)?;
    same(trial, &law, all, &model, TOLERANCE)?;
    let first = trial.fold(None, &decoded[..1])?;
    let mixed = trial.fold(Some(first), &[encoded[1], decoded[2]])?;
    same(trial, &law, mixed, &model, TOLERANCE)
}

/// Folds, merges and finishes a model of two ranges at once and range by range, the last first.
fn prove_ranges(trial: &mut Trial, encoding: Encoding) -> Result<(), Error> {
    let updates = put_updates(trial, encoding, RANGED_SIZE)?;
    let whole: Vec<ModelRange> = ranges(u64::from(RANGED_SIZE), u32::MAX).collect();
    let mut parts: Vec<ModelRange> = ranges(u64::from(RANGED_SIZE), RANGE_ELEMENTS).collect();
    parts.reverse();
    let mut both = |export: Export, act: &dyn Fn(&mut Trial) -> Result<Place, Error>| {
        let [at_once, by_range] = trial.twice(export, |trial, poison| {
            let ranges = if poison == POISON { &whole } else { &parts };
            trial.ranges.clone_from(ranges);
            act(trial)
        })?;
        same_bytes(export, trial.partial(at_once)?, trial.partial(by_range)?)?;
        Ok::<Place, Error>(at_once)
    };
    let first = both(Export::Fold, &|trial| trial.fold(None, &updates[..2]))?;
    let second = both(Export::Fold, &|trial| {
        trial.fold(Some(first), &updates[2..3])
    })?;
    let merged = both(Export::Merge, &|trial| trial.merge(Some(first), &[second]))?;
    trial.ranges = parts;
    let by_range = trial.finish(merged)?;
    trial.ranges = whole;
    let at_once = trial.finish(merged)?;
    let bytes = |model: Vec<f32>| model.iter().flat_map(|value| value.to_le_bytes()).collect();
    same_bytes(
        Export::Finish,
        (Vec::new(), bytes(at_once)),
        (Vec::new(), bytes(by_range)),
    )
}

fn has_to_be_finite(model: &[f32], law: &str) -> Result<(), Error> {
    match model.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(element) => Err(Error::Law {
            law: law.to_owned(),
            element,
            left: model[element],
            right: 0.0,
        }),
    }
}

/// Compares scalars, then vectors.
fn same_bytes(
    export: Export,
    at_once: (Vec<u8>, Vec<u8>),
    by_range: (Vec<u8>, Vec<u8>),
) -> Result<(), Error> {
    let pairs = [
        ("scalars", at_once.0, by_range.0),
        ("vector", at_once.1, by_range.1),
    ];
    for (part, left, right) in pairs {
        let differs = |(left, right): (&u8, &u8)| left != right;
        if let Some(at) = left.iter().zip(&right).position(differs) {
            return Err(Error::Ranges { export, part, at });
        }
    }
    Ok(())
}

fn same(
    trial: &mut Trial,
    law: &str,
    partial: Place,
    model: &[f32],
    tolerance: f32,
) -> Result<(), Error> {
    let other = trial.finish(partial)?;
    let largest = model
        .iter()
        .fold(0.0_f32, |most, value| most.max(value.abs()));
    let apart = |(left, right): (&f32, &f32)| {
        let distance = (left - right).abs();
        left.to_bits() != right.to_bits() && (distance.is_nan() || distance > tolerance * largest)
    };
    match model.iter().zip(&other).position(apart) {
        None => Ok(()),
        Some(element) => Err(Error::Law {
            law: law.to_owned(),
            element,
            left: model[element],
            right: other[element],
        }),
    }
}
