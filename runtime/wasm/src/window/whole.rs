//! The arena's data, mapped as a whole.

use super::pages::{Access, Pages};
use super::warm::Warm;
use super::{Shown, failed_as};
use crate::abi::PAGE_BYTES;
use crate::error::Error;
use crate::instance::Window;
use crate::plan::{Operand, Plan, Reach};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

/// All data at their offset, read-only but for a call's output.
#[derive(Debug)]
pub(super) struct Whole {
    /// Where the data lie in the window.
    place: Range<u64>,
    /// What has been opened before: its pages are in the page tables already.
    warm: Warm,
}

impl Whole {
    /// Maps the data to `place`.
    pub(super) fn map(pages: &Pages, window: &Window, place: Range<u64>) -> Result<Self, Error> {
        pages
            .map(&place, window.fd.as_fd(), window.offset)
            .map_err(failed_as("the window"))?;
        pages.prefer_large(&place);
        Ok(Self {
            place,
            warm: Warm::default(),
        })
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

    pub(super) fn open(&mut self, pages: &Pages, plan: &Plan) -> io::Result<()> {
        for range in self.writable(&plan.output) {
            pages.protect(&range, Access::ReadWrite)?;
            if !self.warm.covers(&range) {
                pages.populate(&range)?;
                self.warm.add(&range);
            }
        }
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
