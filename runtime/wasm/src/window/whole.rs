//! The arena's data, mapped as a whole.

use super::pages::{Access, Pages};
use super::warm::Warm;
use super::{Shown, failed_as};
use crate::abi::PAGE_BYTES;
use crate::error::Error;
use crate::instance::Window;
use crate::operands::Operands;
use crate::plan::{Operand, Plan, Reach};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

/// All data at their offset: what calls have named is readable, a call's output is writable, and the rest is neither.
///
/// A slot that was never claimed has no memory. A function that reads it traps, where it would make the segment larger,
/// or, once there is no memory left, kill the worker.
#[derive(Debug)]
pub(super) struct Whole {
    /// Where the data lie in the window.
    place: Range<u64>,
    /// What calls have named. Its pages are there, and stay.
    readable: Warm,
    /// What has been opened before: its pages are in the page tables already.
    warm: Warm,
}

impl Whole {
    /// Maps the data to `place`.
    pub(super) fn map(pages: &Pages, window: &Window, place: Range<u64>) -> Result<Self, Error> {
        pages
            .map(&place, window.fd.as_fd(), window.offset)
            .map_err(failed_as("the window"))?;
        pages
            .protect(&place, Access::Nothing)
            .map_err(failed_as("the window"))?;
        pages.prefer_large(&place);
        Ok(Self {
            place,
            readable: Warm::default(),
            warm: Warm::default(),
        })
    }

    pub(super) fn is_readable(&self, offset: u64) -> bool {
        !self.place.contains(&offset) || self.readable.covers(&(offset..offset + 1))
    }

    pub(super) fn reach(&self) -> Reach {
        Reach {
            data_bytes: self.place.end - self.place.start,
            window_elements: None,
        }
    }

    pub(super) fn shown(&self, operand: &Operand) -> Shown {
        Shown {
            data: operand.whole.clone(),
            vector: operand.whole.start,
            at: self.place.start + operand.whole.start,
            scalars: operand.scalars.map(|at| self.place.start + at),
        }
    }

    pub(super) fn open(
        &mut self,
        pages: &Pages,
        plan: &Plan,
        operands: &Operands<'_>,
    ) -> io::Result<()> {
        for range in plan.operands().flat_map(Operand::reached) {
            self.make_readable(pages, range)?;
        }
        // Updates have no scalars, but slots have the page: with it, mappings of neighbours are one.
        let scalars = operands.inputs.iter().map(|input| input.place.scalars);
        for scalars in scalars.filter(|at| at.is_multiple_of(PAGE_BYTES)) {
            self.make_readable(pages, scalars..scalars.saturating_add(PAGE_BYTES))?;
        }
        for range in self.writable(&plan.output) {
            pages.protect(&range, Access::ReadWrite)?;
            if !self.warm.covers(&range) {
                pages.populate(&range)?;
                self.warm.add(&range);
            }
        }
        Ok(())
    }

    /// Makes a range of the data readable, as far as it is one.
    fn make_readable(&mut self, pages: &Pages, range: Range<u64>) -> io::Result<()> {
        let Range { start, end } = self.place;
        let at = |data: u64| start.saturating_add(data).min(end);
        let range = at(range.start)..at(range.end);
        if range.is_empty() || self.readable.covers(&range) {
            return Ok(());
        }
        pages.protect(&range, Access::Read)?;
        self.readable.add(&range);
        Ok(())
    }

    pub(super) fn close(&self, pages: &Pages, plan: &Plan) -> io::Result<()> {
        let mut writable = self.writable(&plan.output);
        writable.try_for_each(|range| pages.protect(&range, Access::Read))
    }

    /// What a call may write: one range if the vector lies right behind the scalars.
    fn writable(&self, output: &Operand) -> impl Iterator<Item = Range<u64>> + use<> {
        let start = self.place.start;
        let vector = output.pages();
        let ranges = match output.scalars {
            Some(scalars) if scalars + PAGE_BYTES == vector.start => {
                [Some(scalars..vector.end), None]
            }
            Some(scalars) => [Some(scalars..scalars + PAGE_BYTES), Some(vector)],
            None => [Some(vector), None],
        };
        let ranges = ranges.into_iter().flatten();
        ranges.map(move |range| start + range.start..start + range.end)
    }
}
