//! What a function is given: slices of the arena, read in place.

use crate::error::Error;
use crate::values::Values;
use alloc::vec::Vec;
use bytemuck::Pod;

/// Where in the job a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Round {
    /// The round that is being aggregated.
    pub number: u64,
    /// The coordinate of the model that is element 0 of this call's vectors.
    pub first_element: u64,
}

/// What a client sent.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// Its vector, as the client wrote it; [`Update::f32`] for functions that take `f32` alone.
    pub values: Values<'a>,
    /// Its weight, such as its number of examples.
    pub weight: f64,
    /// How many clients are in it; 1 unless the client aggregated others.
    pub contributors: u32,
}

impl<'a> Update<'a> {
    /// Its vector, for functions that declare no encoding.
    ///
    /// # Errors
    /// The vector is written in another encoding than `f32`.
    pub fn f32(&self) -> Result<&'a [f32], Error> {
        self.values.f32()
    }
}

/// A partial aggregate to read.
#[derive(Debug, Clone, Copy)]
pub struct Partial<'a> {
    pub(crate) vector: &'a [u8],
    pub(crate) scalars: &'a [u8],
    pub(crate) contributors: u32,
}

impl<'a> Partial<'a> {
    /// Its vector, as elements of the type that the function wrote.
    ///
    /// # Panics
    /// If the vector is not a whole number of `T`.
    #[must_use]
    pub fn vector<T: Pod>(&self) -> &'a [T] {
        bytemuck::cast_slice(self.vector)
    }

    /// Its scalars.
    ///
    /// # Panics
    /// If `T` is not of the size that [`Description::scalar_bytes`](crate::Description) declares.
    #[must_use]
    pub fn scalars<T: Pod>(&self) -> &'a T {
        bytemuck::from_bytes(self.scalars)
    }

    /// How many clients are in it.
    #[must_use]
    pub fn contributors(&self) -> u32 {
        self.contributors
    }
}

/// A partial aggregate to write. Its bytes are undefined before.
#[derive(Debug)]
pub struct PartialMut<'a> {
    pub(crate) vector: &'a mut [u8],
    pub(crate) scalars: &'a mut [u8],
}

impl PartialMut<'_> {
    /// Its vector, as elements of the type that the function writes.
    ///
    /// # Panics
    /// If the vector is not a whole number of `T`.
    #[must_use]
    pub fn vector<T: Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.vector)
    }

    /// Its scalars.
    ///
    /// # Panics
    /// If `T` is not of the size that [`Description::scalar_bytes`](crate::Description) declares.
    #[must_use]
    pub fn scalars<T: Pod>(&mut self) -> &mut T {
        bytemuck::from_bytes_mut(self.scalars)
    }

    /// Its vector, set to what `previous` holds, or to zero: for rules that then add to it. One pass
    /// over memory more than the [`kernel`](crate::kernel)s need.
    ///
    /// # Panics
    /// If the vector is not a whole number of `T`.
    #[must_use]
    pub fn begin<T: Pod>(&mut self, previous: Option<&Partial<'_>>) -> &mut [T] {
        match previous {
            Some(previous) => {
                self.vector.copy_from_slice(previous.vector);
                self.scalars.copy_from_slice(previous.scalars);
            }
            None => {
                self.vector.fill(0);
                self.scalars.fill(0);
            }
        }
        self.vector()
    }
}

/// A call of [`Function::fold`](crate::Function::fold).
#[derive(Debug)]
pub struct Fold<'a> {
    /// Where in the job it stands.
    pub round: Round,
    /// The partial to go on from.
    pub previous: Option<Partial<'a>>,
    /// The partial to write.
    pub output: PartialMut<'a>,
    /// The updates to fold; at least one.
    pub updates: Vec<Update<'a>>,
}

/// A call of [`Function::merge`](crate::Function::merge).
#[derive(Debug)]
pub struct Merge<'a> {
    /// Where in the job it stands.
    pub round: Round,
    /// The partial to go on from.
    pub previous: Option<Partial<'a>>,
    /// The partial to write.
    pub output: PartialMut<'a>,
    /// The partials to merge; at least one.
    pub partials: Vec<Partial<'a>>,
}

/// A call of [`Function::finish`](crate::Function::finish).
#[derive(Debug)]
pub struct Finish<'a> {
    /// Where in the job it stands.
    pub round: Round,
    /// The partial of the whole round.
    pub partial: Partial<'a>,
    /// The current global model.
    pub model: &'a [f32],
    /// The new model, to write. Its values are undefined before.
    pub output: &'a mut [f32],
}
