//! The arena's data, mapped by windows: for arenas that are larger than a function can address.
//!
//! Each operand of a call has a *lane*: addresses that are large enough for a range of its vector, and a
//! page for its scalars. A call maps what it is about to the lanes that do not show it yet, so a function
//! sees a part of the arena at a time, of which the host says when it changes.

use super::Shown;
use super::pages::{Access, Pages};
use super::{HEAD_BYTES, LARGE_PAGE_BYTES};
use crate::abi::{Description, PAGE_BYTES};
use crate::instance::Window;
use crate::operands::RANGE_ELEMENTS;
use crate::plan::{Operand, Plan, Reach, Role};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

/// The most bytes of a vector that a lane takes. Calls over more are not faster, and page tables for less
/// stay small.
const LANE_BYTES_MAX: u64 = 32 << 20;
/// Lanes besides the inputs'.
const OTHERS: u64 = 3;

/// How many lanes there are, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneSizes {
    count: u64,
    /// Bytes from one lane to the next. A lane has room to begin anywhere within a large page.
    stride: u64,
    /// The most elements of a call.
    elements: u32,
}

impl LaneSizes {
    /// Lanes for a function in `available` bytes of addresses; none if not even the shortest range fits.
    pub(super) fn plan(description: &Description, available: u64) -> Option<Self> {
        let count = u64::from(description.max_inputs) + OTHERS;
        let share = available.saturating_sub(count * PAGE_BYTES) / count;
        let stride =
            share.min(LANE_BYTES_MAX + LARGE_PAGE_BYTES) / LARGE_PAGE_BYTES * LARGE_PAGE_BYTES;
        let element_bytes = u64::from(description.partial_bytes_per_element.max(4));
        let step = u64::from(RANGE_ELEMENTS);
        let elements = stride.saturating_sub(LARGE_PAGE_BYTES) / element_bytes / step * step;
        (elements > 0).then_some(Self {
            count,
            stride,
            // At most a quarter of `LANE_BYTES_MAX`.
            elements: elements as u32,
        })
    }

    /// What lies before the lanes: the pages of scalars, behind what every window begins with.
    pub(super) fn head_bytes(self) -> u64 {
        HEAD_BYTES + self.count * PAGE_BYTES
    }

    /// The lanes' bytes together.
    pub(super) fn span_bytes(self) -> u64 {
        self.count * self.stride
    }
}

/// What a lane shows: offsets in the arena's data.
#[derive(Debug, Clone, Default)]
struct Lane {
    vector: Range<u64>,
    scalars: Range<u64>,
}

/// Lanes, and the file whose bytes they show.
#[derive(Debug)]
pub(super) struct Lanes {
    window: Window,
    sizes: LaneSizes,
    /// Where the first lane begins in the window: at a large page's address.
    first: u64,
    lanes: Vec<Lane>,
}

impl Lanes {
    pub(super) fn new(window: Window, sizes: LaneSizes, first: u64) -> Self {
        Self {
            window,
            sizes,
            first,
            lanes: vec![Lane::default(); sizes.count as usize],
        }
    }

    pub(super) fn reach(&self) -> Reach {
        Reach {
            data_bytes: self.window.len,
            window_elements: Some(self.sizes.elements),
        }
    }

    pub(super) fn shown(&self, operand: &Operand) -> Shown {
        let lane = lane_of(operand.role);
        Shown {
            data: operand.vector.clone(),
            vector: operand.whole.start,
            at: self.vector_at(lane, &operand.pages()).start,
            scalars: operand.scalars.map(|_| scalars_at(lane).start),
        }
    }

    pub(super) fn open(&mut self, pages: &Pages, plan: &Plan) -> io::Result<()> {
        for operand in plan.operands() {
            let lane = lane_of(operand.role);
            let (vector, old) = (operand.pages(), self.lanes[lane].clone());
            if old.vector != vector {
                self.map(pages, &self.vector_at(lane, &vector), &vector)?;
            }
            let scalars = operand.scalars_page().unwrap_or(old.scalars.clone());
            if old.scalars != scalars {
                self.map(pages, &scalars_at(lane), &scalars)?;
            }
            self.lanes[lane] = Lane { vector, scalars };
        }
        for range in self.writable(&plan.output) {
            pages.protect(&range, Access::ReadWrite)?;
            pages.populate(&range)?;
        }
        Ok(())
    }

    pub(super) fn close(&self, pages: &Pages, plan: &Plan) -> io::Result<()> {
        let mut writable = self.writable(&plan.output);
        writable.try_for_each(|range| pages.protect(&range, Access::Read))
    }

    fn map(&self, pages: &Pages, range: &Range<u64>, data: &Range<u64>) -> io::Result<()> {
        pages.map(
            range,
            self.window.fd.as_fd(),
            self.window.offset + data.start,
        )
    }

    fn writable(&self, output: &Operand) -> impl Iterator<Item = Range<u64>> + use<> {
        let lane = lane_of(Role::Output);
        let scalars = output.scalars.map(|_| scalars_at(lane));
        std::iter::once(self.vector_at(lane, &output.pages())).chain(scalars)
    }

    /// Where a lane shows the given pages of the data: congruent to their place in the file, so that large
    /// pages are mapped as such.
    fn vector_at(&self, lane: usize, data: &Range<u64>) -> Range<u64> {
        let shift = (self.window.offset + data.start) % LARGE_PAGE_BYTES;
        let start = self.first + lane as u64 * self.sizes.stride + shift;
        start..start + (data.end - data.start)
    }
}

/// Where a lane's page of scalars lies in the window.
fn scalars_at(lane: usize) -> Range<u64> {
    let start = HEAD_BYTES + lane as u64 * PAGE_BYTES;
    start..start + PAGE_BYTES
}

fn lane_of(role: Role) -> usize {
    match role {
        Role::Output => 0,
        Role::Previous => 1,
        Role::Model => 2,
        Role::Input(index) => OTHERS as usize + index,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Algebra;
    use crate::encoding::Encodings;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lanes_fit_and_hold_a_range(
            partial in 1_u32..=1024, inputs in 1_u32..=64, available in 0_u64..4 << 30,
        ) {
            let description = Description {
                partial_bytes_per_element: partial,
                scalar_bytes: 0,
                max_inputs: inputs,
                encodings: Encodings::F32_ONLY,
                algebra: Algebra::Monoid,
            };
            let Some(sizes) = LaneSizes::plan(&description, available) else {
                let least = u64::from(partial.max(4)) * u64::from(RANGE_ELEMENTS);
                let lane = least.next_multiple_of(LARGE_PAGE_BYTES) + LARGE_PAGE_BYTES + PAGE_BYTES;
                prop_assert!(available < u64::from(inputs + 3) * lane);
                return Ok(());
            };
            prop_assert_eq!(sizes.elements % RANGE_ELEMENTS, 0);
            let bytes = u64::from(sizes.elements) * u64::from(partial.max(4));
            prop_assert!(bytes <= LANE_BYTES_MAX);
            prop_assert!(bytes + LARGE_PAGE_BYTES <= sizes.stride);
            prop_assert_eq!(sizes.stride % LARGE_PAGE_BYTES, 0);
            prop_assert!(sizes.head_bytes() - HEAD_BYTES + sizes.span_bytes() <= available);
        }
    }
}
