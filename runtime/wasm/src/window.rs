//! Mapping an arena into a function's linear memory.
//!
//! The memory is grown by the window's size, which makes its addresses valid to compiled code. What was
//! grown is made read-only, and files are mapped over parts of it:
//!
//! ```text
//!   call page │ scratch scalars │ padding │ the arena's data │ slack
//! ```
//!
//! Data that fit are mapped once per instance (`whole`): page tables stay warm across calls, and a call
//! changes only the protection of its output. Of larger data each call maps what it is about (`lanes`).
//! wasmtime unmaps the whole memory with the instance, and the window with it. The padding gives the data
//! addresses that large pages can be mapped at.
//!
//! Cost in mappings: an instance holds about ten, and two more for each stretch of slots that no call has named between
//! those that calls have (`vm.max_map_count` is 65530 by default), because
//! every change of protection within the memory splits one: guard, own memory, call page, arena before
//! / in / after the output, slack, own growth, rest, guard.

mod call_page;
mod lanes;
mod names;
mod pages;
mod warm;
mod whole;

use crate::abi::{CallRecord, Description, InputRecord, PAGE_BYTES, WASM_PAGE_BYTES};
use crate::error::Error;
use crate::host::Host;
use crate::instance::Window;
use crate::operands::{Input, Operands};
use crate::plan::{Operand, Plan, Reach};
use call_page::CallPage;
use lanes::{LaneSizes, Lanes};
use pages::{Access, Pages};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use wasmtime::{Memory, Store};
use whole::Whole;

const ADDRESSABLE_BYTES: u64 = 1 << 32;
/// Bytes kept for the module's own memory even if its limit is lower.
const OWN_BYTES_MIN: u64 = 512 << 20;
/// Bytes of a large page. The data's addresses are congruent to their offsets in the file.
const LARGE_PAGE_BYTES: u64 = 2 << 20;
/// What every window begins with: the call page and the scratch page.
const HEAD_BYTES: u64 = 2 * PAGE_BYTES;
const CALL_PAGE: Range<u64> = 0..PAGE_BYTES;
const SCRATCH: Range<u64> = PAGE_BYTES..HEAD_BYTES;

/// The most bytes of arena that are mapped at once beside a module that may use 512 MiB or less itself;
/// [`window_bytes_max`] answers for more. A little less than 3.5 GiB, for what else the window holds.
pub const WINDOW_BYTES_MAX: u64 =
    ADDRESSABLE_BYTES - OWN_BYTES_MIN - LARGE_PAGE_BYTES - WASM_PAGE_BYTES;

/// The most bytes of arena that are mapped at once beside a module whose own memory may have
/// `memory_limit` bytes.
#[must_use]
pub fn window_bytes_max(memory_limit: u64) -> u64 {
    ADDRESSABLE_BYTES
        .saturating_sub(own_bytes(memory_limit))
        .saturating_sub(LARGE_PAGE_BYTES + WASM_PAGE_BYTES)
}

/// Bytes kept for the module's own memory.
fn own_bytes(memory_limit: u64) -> u64 {
    memory_limit
        .max(OWN_BYTES_MIN)
        .checked_next_multiple_of(WASM_PAGE_BYTES)
        .unwrap_or(u64::MAX)
}

/// How the arena's data are shown.
#[derive(Debug)]
enum Data {
    Whole(Whole),
    Lanes(Lanes),
}

/// How the arena's data will be shown.
#[derive(Debug, Clone, Copy)]
enum Layout {
    Whole,
    Lanes(LaneSizes),
}

impl Layout {
    fn plan(window: &Window, description: &Description, memory_limit: u64) -> Result<Self, Error> {
        let available = window_bytes_max(memory_limit);
        if window.len <= available {
            return Ok(Self::Whole);
        }
        let sizes = LaneSizes::plan(description, available);
        sizes.map(Self::Lanes).ok_or(Error::WindowTooLarge {
            window: window.len,
            own: own_bytes(memory_limit),
            available,
        })
    }

    /// The window's bytes before the padding, and behind it.
    fn bytes(self, window: &Window) -> (u64, u64) {
        match self {
            Self::Whole => (HEAD_BYTES, window.len),
            Self::Lanes(sizes) => (sizes.head_bytes(), sizes.span_bytes()),
        }
    }

    /// What the address behind the padding has to be, modulo a large page.
    fn congruent(self, window: &Window) -> u64 {
        match self {
            Self::Whole => window.offset % LARGE_PAGE_BYTES,
            Self::Lanes(_) => 0,
        }
    }
}

/// A window that is mapped into an instance's memory. It must not outlive the instance's store.
#[derive(Debug)]
pub(crate) struct Mapping {
    pages: Pages,
    call_page: CallPage,
    data: Data,
}

impl Mapping {
    /// Grows `memory` and maps the window behind what it held before.
    pub(crate) fn map(
        store: &mut Store<Host>,
        memory: Memory,
        window: Window,
        description: &Description,
        memory_limit: u64,
    ) -> Result<Self, Error> {
        check_file(&window)?;
        let layout = Layout::plan(&window, description, memory_limit)?;
        let call_page = CallPage::create()?;
        let addresses = failed_as("the window's addresses");
        let base = NonNull::new(memory.data_ptr(&mut *store))
            .ok_or_else(|| addresses(io::Error::other("the memory has no address")))?;
        let start = memory.data_size(&mut *store) as u64;
        let (head, body) = layout.bytes(&window);
        let unpadded = base.addr().get() as u64 + start + head;
        let padding = (LARGE_PAGE_BYTES + layout.congruent(&window) - unpadded % LARGE_PAGE_BYTES)
            % LARGE_PAGE_BYTES;
        let body = head + padding..head + padding + body;
        let span = body.end.next_multiple_of(WASM_PAGE_BYTES);
        store.data_mut().set_window(start..start + span);
        memory
            .grow(&mut *store, span / WASM_PAGE_BYTES)
            .map_err(|error| addresses(io::Error::other(format!("{error:#}"))))?;
        let pages = Pages::new(base, start..start + span);
        pages.protect(&(0..span), Access::Read).map_err(addresses)?;
        pages
            .map(&CALL_PAGE, call_page.file(), 0)
            .map_err(failed_as("the call page"))?;
        let data = match layout {
            Layout::Whole => Data::Whole(Whole::map(&pages, &window, body)?),
            Layout::Lanes(sizes) => Data::Lanes(Lanes::new(window, sizes, body.start)),
        };
        Ok(Self {
            pages,
            call_page,
            data,
        })
    }

    pub(crate) fn reach(&self) -> Reach {
        match &self.data {
            Data::Whole(whole) => whole.reach(),
            Data::Lanes(lanes) => lanes.reach(),
        }
    }

    /// The address of the call page in linear memory.
    pub(crate) fn call_address(&self) -> u32 {
        self.pages.address(CALL_PAGE.start)
    }

    pub(crate) fn addresses(&self) -> Range<u64> {
        self.pages.addresses()
    }

    /// Whether the module may read at `address`, which lies in the window.
    pub(crate) fn is_readable(&self, address: u64) -> bool {
        let offset = address - self.pages.addresses().start;
        match &self.data {
            Data::Whole(whole) => whole.is_readable(offset),
            // What no lane shows are pages of zeros.
            Data::Lanes(_) => true,
        }
    }

    /// Brings a call's operands into reach, its output writable, and tells the function of them.
    pub(crate) fn open(&mut self, plan: &Plan, operands: &Operands<'_>) -> io::Result<()> {
        if plan.scratch_scalars {
            self.pages.protect(&SCRATCH, Access::ReadWrite)?;
        }
        match &mut self.data {
            Data::Whole(whole) => whole.open(&self.pages, plan, operands)?,
            Data::Lanes(lanes) => lanes.open(&self.pages, plan)?,
        }
        let inputs = plan.inputs.iter().zip(operands.inputs);
        let inputs: Vec<InputRecord> = inputs
            .map(|(operand, input)| self.input_record(operand, input))
            .collect();
        let (bytes, used) = self.record(plan, operands).encode(&inputs);
        self.call_page.write(&bytes[..used]);
        Ok(())
    }

    /// Makes what `open` made writable read-only again.
    pub(crate) fn close(&mut self, plan: &Plan) -> io::Result<()> {
        if plan.scratch_scalars {
            self.pages.protect(&SCRATCH, Access::Read)?;
        }
        match &self.data {
            Data::Whole(whole) => whole.close(&self.pages, plan),
            Data::Lanes(lanes) => lanes.close(&self.pages, plan),
        }
    }

    fn shown(&self, operand: &Operand) -> Shown {
        match &self.data {
            Data::Whole(whole) => whole.shown(operand),
            Data::Lanes(lanes) => lanes.shown(operand),
        }
    }

    fn record(&self, plan: &Plan, operands: &Operands<'_>) -> CallRecord {
        let vector = |operand: Option<&Operand>| operand.map_or(0, |operand| self.vector(operand));
        let previous = plan.previous.as_ref();
        CallRecord {
            elements: operands.elements,
            previous: vector(previous),
            output: vector(Some(&plan.output)),
            previous_scalars: previous.map_or(0, |operand| self.scalars(operand)),
            output_scalars: if plan.scratch_scalars {
                self.pages.address(SCRATCH.start)
            } else {
                self.scalars(&plan.output)
            },
            model: vector(plan.model.as_ref()),
            first_element: operands.first_element,
            round: operands.round,
        }
    }

    fn input_record(&self, operand: &Operand, input: &Input) -> InputRecord {
        let shown = self.shown(operand);
        InputRecord {
            vector: self.vector(operand),
            scalars: self.scalars(operand),
            weight: input.weight,
            contributors: input.contributors,
            encoding: input.content.encoding.code(),
            table: operand
                .table
                .map_or(0, |table| self.pages.address(shown.offset(table))),
            count: input.content.count,
        }
    }

    fn vector(&self, operand: &Operand) -> u32 {
        let shown = self.shown(operand);
        self.pages.address(shown.offset(operand.vector.start))
    }

    fn scalars(&self, operand: &Operand) -> u32 {
        let shown = self.shown(operand);
        shown.scalars.map_or(0, |at| self.pages.address(at))
    }

    /// What lies at `address`, in the words of a call.
    pub(crate) fn place(&self, address: u64, plan: &Plan) -> String {
        let offset = address - self.pages.addresses().start;
        if CALL_PAGE.contains(&offset) {
            return "the call page".into();
        }
        if SCRATCH.contains(&offset) {
            return "the page for scalars that are dropped".into();
        }
        let shown = plan
            .operands()
            .map(|operand| (operand.role, self.shown(operand)));
        names::name(offset, shown)
    }
}

/// Where the window shows an operand. Offsets count from the window's first byte.
#[derive(Debug, Clone)]
struct Shown {
    /// What of the arena's data is shown: of the operand's vector and tables.
    data: Range<u64>,
    /// Where the whole vector begins in the data.
    vector: u64,
    /// The offset where `data` begins.
    at: u64,
    /// The offset of the page of scalars.
    scalars: Option<u64>,
}

impl Shown {
    /// The offset of a byte of the arena's data.
    fn offset(&self, data: u64) -> u64 {
        self.at + (data - self.data.start)
    }
}

fn failed_as(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Map { what, source }
}

/// Refuses a file whose pages would be missing or could not be written: better here than by a signal.
fn check_file(window: &Window) -> Result<(), Error> {
    let failed = |errno: Errno| failed_as("the window")(errno.into());
    if !window.offset.is_multiple_of(PAGE_BYTES) {
        return Err(Error::Window(format!(
            "its offset {} is not a multiple of {PAGE_BYTES}",
            window.offset
        )));
    }
    if window.len == 0 || !window.len.is_multiple_of(PAGE_BYTES) {
        return Err(Error::Window(format!(
            "its {} bytes are not pages of {PAGE_BYTES} bytes",
            window.len
        )));
    }
    let bytes = rustix::fs::fstat(&window.fd).map_err(failed)?.st_size;
    let end = window.offset.checked_add(window.len);
    if end.is_none_or(|end| end > u64::try_from(bytes).unwrap_or(0)) {
        return Err(Error::Window(format!(
            "it ends at byte {} + {} of a file of {bytes} bytes",
            window.offset, window.len
        )));
    }
    let mode = rustix::fs::fcntl_getfl(&window.fd).map_err(failed)?;
    if mode & OFlags::RWMODE != OFlags::RDWR {
        return Err(Error::Window(
            "its descriptor is not open for reading and writing".into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greedy_module_leaves_less_for_the_arena() {
        assert_eq!(window_bytes_max(64 << 20), WINDOW_BYTES_MAX);
        let rest = LARGE_PAGE_BYTES + WASM_PAGE_BYTES;
        assert_eq!(window_bytes_max(1 << 30), (3 << 30) - rest);
        assert_eq!(window_bytes_max(4 << 30), 0);
        assert_eq!(window_bytes_max(u64::MAX), 0);
    }
}
