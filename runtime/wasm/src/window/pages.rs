//! Addresses of an instance's linear memory that the host maps files to.
//!
//! All of the crate's mapping is here; what calls it speaks of offsets from the first of these addresses.

use crate::abi::PAGE_BYTES;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// The window's addresses. They must not outlive the instance's store.
#[derive(Debug)]
pub(super) struct Pages {
    /// The linear memory's first byte. Fixed: memories here never move.
    base: NonNull<u8>,
    /// The window's addresses in the linear memory.
    addresses: Range<u64>,
}

// SAFETY: `base` points into the memory of the instance that these pages belong to, which moves
// between threads with them (`Store` is `Send`); nothing here depends on the thread.
unsafe impl Send for Pages {}

/// What the module may do with pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Every access traps.
    Nothing,
    Read,
    ReadWrite,
}

impl Pages {
    /// `base` is the first byte of a memory that has just been grown by `addresses`, and never moves.
    pub(super) fn new(base: NonNull<u8>, addresses: Range<u64>) -> Self {
        Self { base, addresses }
    }

    pub(super) fn addresses(&self) -> Range<u64> {
        self.addresses.clone()
    }

    /// The address in linear memory of an offset. The window lies within 4 GiB.
    pub(super) fn address(&self, offset: u64) -> u32 {
        (self.addresses.start + offset) as u32
    }

    /// Where a range of offsets lies in the host's address space.
    fn at(&self, range: &Range<u64>) -> (*mut c_void, usize) {
        let span = self.addresses.end - self.addresses.start;
        assert!(
            range.start.is_multiple_of(PAGE_BYTES) && range.start <= range.end && range.end <= span,
            "the window holds what is mapped into it"
        );
        let address = (self.addresses.start + range.start) as usize;
        let len = (range.end - range.start) as usize;
        (self.base.as_ptr().wrapping_add(address).cast(), len)
    }

    /// Maps a file's bytes from `file_offset` on to a range, read-only, in place of what was there.
    pub(super) fn map(
        &self,
        range: &Range<u64>,
        file: BorrowedFd<'_>,
        file_offset: u64,
    ) -> io::Result<()> {
        let (pages, len) = self.at(range);
        let protection = ProtFlags::READ;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: `at` asserts that the range lies within the window: addresses that were added to the
        // memory for the host's mappings alone, so replacing their pages pulls nothing from under a
        // reference. The module's code does not run meanwhile: the caller has the instance. The memory's
        // owner unmaps by address range, so it unmaps these pages too.
        unsafe { rustix::mm::mmap(pages, len, protection, flags, file, file_offset) }
            .map(|_| ())
            .map_err(io::Error::from)
    }

    /// Changes what the module may do with a range.
    pub(super) fn protect(&self, range: &Range<u64>, access: Access) -> io::Result<()> {
        let (pages, len) = self.at(range);
        let flags = match access {
            Access::Nothing => MprotectFlags::empty(),
            Access::Read => MprotectFlags::READ,
            Access::ReadWrite => MprotectFlags::READ | MprotectFlags::WRITE,
        };
        // SAFETY: `at` asserts that the range lies within the window. No Rust reference into the window
        // exists, ever; the module's own accesses trap where the protection forbids them.
        unsafe { rustix::mm::mprotect(pages, len, flags) }.map_err(io::Error::from)
    }

    /// Brings writable pages into the page tables at once: one call instead of a fault per page, and
    /// an error instead of a fatal signal where the segment has no page to give.
    pub(super) fn populate(&self, range: &Range<u64>) -> io::Result<()> {
        self.advise(range, Advice::LinuxPopulateWrite)
    }

    /// Asks for large pages where the system gives them to shared memory.
    pub(super) fn prefer_large(&self, range: &Range<u64>) {
        // A wish: whatever the answer is, the pages are there.
        let _ = self.advise(range, Advice::LinuxHugepage);
    }

    /// Gives an advice that leaves contents as they are.
    fn advise(&self, range: &Range<u64>, advice: Advice) -> io::Result<()> {
        let (pages, len) = self.at(range);
        // SAFETY: `at` asserts that the range lies within the window; the advices given here change
        // neither contents nor protection.
        match unsafe { rustix::mm::madvise(pages, len, advice) } {
            // Older kernels do not know the advice: the pages come one by one.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
