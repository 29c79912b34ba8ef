//! Mapping an arena into a function's linear memory.
//!
//! The memory is grown by the window's size, which makes its addresses valid to compiled code, and the
//! grown pages are then replaced by the call page and the arena's pages. They are mapped once per
//! instance: page tables stay warm across calls, and a call changes only the protection of its output.
//! wasmtime unmaps the whole memory with the instance, and the window with it.
//!
//! Cost in mappings: an instance holds about ten (`vm.max_map_count` is 65530 by default), because
//! every change of protection within the memory splits one: guard, own memory, call page, arena before
//! / in / after the output, slack, own growth, rest, guard.

use crate::abi::{PAGE_BYTES, WASM_PAGE_BYTES};
use crate::error::Error;
use crate::host::Host;
use crate::instance::Window;
use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use wasmtime::{Memory, Store};

const ADDRESSABLE_BYTES: u64 = 1 << 32;
/// Bytes kept for the module's own memory even if its limit is lower.
const OWN_BYTES_MIN: u64 = 512 << 20;

/// The most bytes of arena that a window takes beside a module that may use 512 MiB or less itself;
/// [`window_bytes_max`] answers for more. One WASM page less than 3.5 GiB: it holds the call page.
pub const WINDOW_BYTES_MAX: u64 = ADDRESSABLE_BYTES - OWN_BYTES_MIN - WASM_PAGE_BYTES;

/// The most bytes of arena that a window takes beside a module whose own memory may have
/// `memory_limit` bytes.
#[must_use]
pub fn window_bytes_max(memory_limit: u64) -> u64 {
    ADDRESSABLE_BYTES
        .saturating_sub(own_bytes(memory_limit))
        .saturating_sub(WASM_PAGE_BYTES)
}

/// Bytes kept for the module's own memory.
fn own_bytes(memory_limit: u64) -> u64 {
    memory_limit
        .max(OWN_BYTES_MIN)
        .checked_next_multiple_of(WASM_PAGE_BYTES)
        .unwrap_or(u64::MAX)
}

/// How large a window is and what lies where in it. Offsets count from the window's first byte.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    slots_bytes: u64,
    slot_stride: u64,
}

impl Layout {
    /// Plans a window of `slots_bytes` beside a module that may use `memory_limit` bytes itself.
    pub(crate) fn plan(
        slots_bytes: u64,
        slot_stride: u64,
        memory_limit: u64,
    ) -> Result<Self, Error> {
        if slot_stride < 2 * PAGE_BYTES || !slot_stride.is_multiple_of(PAGE_BYTES) {
            return Err(Error::Window(format!(
                "its slots are {slot_stride} bytes; a slot is a page of scalars and whole pages of \
                 vector, so a multiple of {PAGE_BYTES} from {} on",
                2 * PAGE_BYTES
            )));
        }
        if slots_bytes == 0 || !slots_bytes.is_multiple_of(slot_stride) {
            return Err(Error::Window(format!(
                "its {slots_bytes} bytes are not a whole number of slots of {slot_stride} bytes"
            )));
        }
        let available = window_bytes_max(memory_limit);
        if slots_bytes > available {
            return Err(Error::WindowTooLarge {
                window: slots_bytes,
                own: own_bytes(memory_limit),
                available,
                slots: available / slot_stride,
                slot_stride,
            });
        }
        Ok(Self {
            slots_bytes,
            slot_stride,
        })
    }

    /// Bytes of the whole window in linear memory.
    fn span_bytes(&self) -> u64 {
        (PAGE_BYTES + self.slots_bytes).next_multiple_of(WASM_PAGE_BYTES)
    }

    pub(crate) fn slots_bytes(&self) -> u64 {
        self.slots_bytes
    }

    pub(crate) fn slot_stride(&self) -> u64 {
        self.slot_stride
    }
}

/// A window that is mapped into an instance's memory. It must not outlive the instance's store.
#[derive(Debug)]
pub(crate) struct Mapping {
    layout: Layout,
    /// The linear memory's first byte. Fixed: memories here never move.
    base: NonNull<u8>,
    /// The window's addresses in the linear memory; the first is the call page's.
    addresses: Range<u64>,
    call_page: CallPage,
    /// What of each slot has been made writable before: its pages are in the page tables already.
    warm: Vec<Range<u64>>,
}

// SAFETY: `base` points into the memory of the instance that this mapping belongs to, which moves
// between threads with it (`Store` is `Send`); nothing here depends on the thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Grows `memory` and maps the window behind what it held before.
    pub(crate) fn map(
        store: &mut Store<Host>,
        memory: Memory,
        window: &Window,
        layout: Layout,
    ) -> Result<Self, Error> {
        check_file(window)?;
        let call_page = CallPage::create()?;
        let start = memory.data_size(&mut *store) as u64;
        let addresses = start..start + layout.span_bytes();
        store.data_mut().set_window(addresses.clone());
        memory
            .grow(&mut *store, layout.span_bytes() / WASM_PAGE_BYTES)
            .map_err(|error| Error::Map {
                what: "the window's addresses",
                source: io::Error::other(format!("{error:#}")),
            })?;
        let base = NonNull::new(memory.data_ptr(&mut *store)).ok_or_else(|| Error::Map {
            what: "the window's addresses",
            source: io::Error::other("the memory has no address"),
        })?;
        let mapping = Self {
            layout,
            base,
            addresses,
            call_page,
            warm: vec![0..0; (layout.slots_bytes / layout.slot_stride) as usize],
        };
        mapping.place(0, PAGE_BYTES, mapping.call_page.file.as_fd(), 0)?;
        let slots = (PAGE_BYTES, layout.slots_bytes);
        mapping.place(slots.0, slots.1, window.fd.as_fd(), window.offset)?;
        let slack = slots.0 + slots.1..layout.span_bytes();
        if !slack.is_empty() {
            mapping
                .protect(slack.start, slack.end - slack.start, MprotectFlags::READ)
                .map_err(map_error("the window's slack"))?;
        }
        Ok(mapping)
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// The address of the call page in linear memory.
    pub(crate) fn call_address(&self) -> u64 {
        self.addresses.start
    }

    /// The address of the first slot in linear memory.
    pub(crate) fn slots_address(&self) -> u64 {
        self.addresses.start + PAGE_BYTES
    }

    pub(crate) fn addresses(&self) -> Range<u64> {
        self.addresses.clone()
    }

    /// Writes a call's record where the function reads it. At most a page.
    pub(crate) fn write_call(&mut self, bytes: &[u8]) {
        self.call_page.write(bytes);
    }

    /// Makes an extent of the slots writable to the function: page-aligned, within one slot.
    pub(crate) fn open(&mut self, extent: &Range<u64>) -> io::Result<()> {
        let (offset, len) = (PAGE_BYTES + extent.start, extent.end - extent.start);
        self.protect(offset, len, MprotectFlags::READ | MprotectFlags::WRITE)?;
        let slot = (extent.start / self.layout.slot_stride) as usize;
        if extent.start < self.warm[slot].start || extent.end > self.warm[slot].end {
            self.populate(offset, len)?;
            self.warm[slot] = extent.clone();
        }
        Ok(())
    }

    /// Makes what `open` opened read-only again.
    pub(crate) fn close(&mut self, extent: &Range<u64>) -> io::Result<()> {
        let (offset, len) = (PAGE_BYTES + extent.start, extent.end - extent.start);
        self.protect(offset, len, MprotectFlags::READ)
    }

    /// Where `len` bytes at `offset` of the window lie in the host's address space.
    fn pages(&self, offset: u64, len: u64) -> *mut std::ffi::c_void {
        assert!(
            offset.is_multiple_of(PAGE_BYTES) && offset + len <= self.layout.span_bytes(),
            "the window holds what is mapped into it"
        );
        let address = (self.addresses.start + offset) as usize;
        self.base.as_ptr().wrapping_add(address).cast()
    }

    /// Maps `len` bytes of `file` at `offset` of the window, read-only.
    fn place(
        &self,
        offset: u64,
        len: u64,
        file: BorrowedFd<'_>,
        file_offset: u64,
    ) -> Result<(), Error> {
        let pages = self.pages(offset, len);
        // SAFETY: `pages` asserts that the range lies within the window, which `map` has just added to
        // the memory: accessible, reserved for this memory alone, and unknown to any code of the module
        // yet, so replacing its pages pulls nothing from under a reference. The memory's owner unmaps
        // by address range, so it unmaps these pages too.
        unsafe {
            rustix::mm::mmap(
                pages,
                len as usize,
                ProtFlags::READ,
                MapFlags::SHARED | MapFlags::FIXED,
                file,
                file_offset,
            )
        }
        .map(|_| ())
        .map_err(|errno| map_error("the window")(errno.into()))
    }

    fn protect(&self, offset: u64, len: u64, flags: MprotectFlags) -> io::Result<()> {
        let pages = self.pages(offset, len);
        // SAFETY: `pages` asserts that the range lies within the window. No Rust reference into the
        // window exists, ever; the module's own accesses trap where the protection forbids them.
        unsafe { rustix::mm::mprotect(pages, len as usize, flags) }.map_err(io::Error::from)
    }

    /// Brings writable pages into the page tables at once: one call instead of a fault per page, and
    /// an error instead of a fatal signal where the segment has no page to give.
    fn populate(&self, offset: u64, len: u64) -> io::Result<()> {
        let pages = self.pages(offset, len);
        // SAFETY: `pages` asserts that the range lies within the window; populating leaves contents as
        // they are.
        let done = unsafe { rustix::mm::madvise(pages, len as usize, Advice::LinuxPopulateWrite) };
        match done {
            // Kernels before 5.14 do not know the advice: the pages come one by one.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The page through which the host tells the function what to do: mapped twice, writable for the host
/// and read-only for the function.
#[derive(Debug)]
struct CallPage {
    file: OwnedFd,
    page: NonNull<u8>,
}

impl CallPage {
    fn create() -> Result<Self, Error> {
        let failed = |errno: Errno| map_error("the call page")(errno.into());
        let file =
            rustix::fs::memfd_create("tributary-call", MemfdFlags::CLOEXEC).map_err(failed)?;
        rustix::fs::ftruncate(&file, PAGE_BYTES).map_err(failed)?;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing of Rust's.
        let page = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                PAGE_BYTES as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )
        }
        .map_err(failed)?;
        let page = NonNull::new(page.cast()).ok_or_else(|| failed(Errno::NOMEM))?;
        Ok(Self { file, page })
    }

    fn write(&mut self, bytes: &[u8]) {
        assert!(
            bytes.len() as u64 <= PAGE_BYTES,
            "a call fits the call page"
        );
        // SAFETY: the page is mapped writable until `drop` and holds `bytes.len()` bytes; `&mut self`
        // keeps other writers away, and the function that reads it by its own mapping is not running.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.page.as_ptr(), bytes.len()) }
    }
}

impl Drop for CallPage {
    fn drop(&mut self) {
        // SAFETY: `create` mapped this page, nothing else unmaps it, and no pointer to it leaves `self`.
        let unmapped =
            unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), PAGE_BYTES as usize) };
        debug_assert!(unmapped.is_ok());
    }
}

fn map_error(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Map { what, source }
}

/// Refuses a file whose pages would be missing or could not be written: better here than by a signal.
fn check_file(window: &Window) -> Result<(), Error> {
    let failed = |errno: Errno| map_error("the window")(errno.into());
    if !window.offset.is_multiple_of(PAGE_BYTES) {
        return Err(Error::Window(format!(
            "its offset {} is not a multiple of {PAGE_BYTES}",
            window.offset
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
    fn a_window_that_does_not_fit_is_refused_with_the_arithmetic() {
        let stride = 64 << 20;
        assert!(Layout::plan(55 * stride, stride, 1 << 20).is_ok());
        let error = Layout::plan(56 * stride, stride, 1 << 20).unwrap_err();
        let text = error.to_string();
        for figure in [
            "3758096384",
            "4294967296",
            "536870912",
            "3758030848",
            "55",
            "67108864",
        ] {
            assert!(text.contains(figure), "{figure} not in: {text}");
        }
    }

    #[test]
    fn a_greedy_module_leaves_less_for_the_arena() {
        let stride = 64 << 20;
        assert!(Layout::plan(40 * stride, stride, 1 << 30).is_ok());
        assert!(Layout::plan(48 * stride, stride, 1 << 30).is_err());
        assert!(Layout::plan(stride, stride, 4 << 30).is_err());
        assert!(Layout::plan(stride, stride, u64::MAX).is_err());
        assert_eq!(window_bytes_max(64 << 20), WINDOW_BYTES_MAX);
        assert_eq!(window_bytes_max(1 << 30), (3 << 30) - 65_536);
        assert_eq!(window_bytes_max(u64::MAX), 0);
    }

    #[test]
    fn slots_are_whole_pages_and_the_window_whole_slots() {
        for (slots_bytes, slot_stride) in [
            (0, 8192),
            (8192, 0),
            (8192, 4096),
            (8193, 8193),
            (12288, 8192),
        ] {
            let planned = Layout::plan(slots_bytes, slot_stride, 1 << 20);
            assert!(
                matches!(planned, Err(Error::Window(_))),
                "{slots_bytes}/{slot_stride}"
            );
        }
    }
}
