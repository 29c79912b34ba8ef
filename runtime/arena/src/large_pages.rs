//! Large pages for a segment's data.
//!
//! Most systems give shared memory small pages only, unless told otherwise as root. But a process may ask
//! for pieces of it to be *collapsed* into large pages (Linux 6.1), whatever the settings say. Done before
//! a piece is written, that is also the quickest way to get its memory: one page to clear instead of 512
//! to allocate.

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr;

/// Bytes of a large page.
pub const LARGE_PAGE_BYTES: u64 = 2 << 20;

/// Backs the large pages that lie wholly within a range of a file of shared memory as such, and says
/// how many bytes now are. The file's contents stay what they are.
///
/// What the system does not give, or has not, is left as it is: the range is as usable as before.
pub fn take_large_pages(file: impl AsFd, range: Range<u64>) -> u64 {
    let start = range.start.next_multiple_of(LARGE_PAGE_BYTES);
    let end = range.end - range.end % LARGE_PAGE_BYTES;
    if start >= end {
        return 0;
    }
    let Ok(view) = View::map(&file, start, end - start) else {
        return 0;
    };
    let blocks = (0..end - start).step_by(LARGE_PAGE_BYTES as usize);
    let taken = blocks.take_while(|at| {
        // A large page is made of one that is there.
        fallocate(&file, FallocateFlags::empty(), start + at, 1).is_ok()
            && view.collapse(*at).is_ok()
    });
    taken.count() as u64 * LARGE_PAGE_BYTES
}

/// A mapping whose addresses are congruent to the file's offsets: what large pages need.
struct View {
    reserved: *mut c_void,
    reserved_bytes: usize,
    /// Bytes from there to the file's first.
    shift: usize,
}

impl View {
    fn map(file: impl AsFd, offset: u64, bytes: u64) -> Result<Self, Errno> {
        let (bytes, large) = (bytes as usize, LARGE_PAGE_BYTES as usize);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: new addresses of the kernel's choice alias nothing of Rust's.
        let reserved = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), bytes + large, ProtFlags::empty(), flags)
        }?;
        let view = Self {
            reserved,
            reserved_bytes: bytes + large,
            shift: reserved.addr().next_multiple_of(large) - reserved.addr(),
        };
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: `shift` is less than a large page, so these addresses lie within those that were
        // reserved above for this alone.
        unsafe { rustix::mm::mmap(view.at(0), bytes, ProtFlags::READ, flags, file, offset) }?;
        Ok(view)
    }

    fn at(&self, offset: u64) -> *mut c_void {
        self.reserved
            .wrapping_byte_add(self.shift + offset as usize)
    }

    /// Makes one large page of the small ones at an offset.
    fn collapse(&self, offset: u64) -> io::Result<()> {
        let large = LARGE_PAGE_BYTES as usize;
        // SAFETY: the large page lies within the mapping, which nothing else uses; collapsing changes
        // neither contents nor protection.
        match unsafe { libc::madvise(self.at(offset), large, libc::MADV_COLLAPSE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: `map` reserved these addresses, and no pointer to them leaves `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.reserved, self.reserved_bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt};

    fn memory(bytes: u64) -> File {
        let fd = rustix::fs::memfd_create("tributary-large", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, bytes).unwrap();
        fd.into()
    }

    #[test]
    fn contents_stay_and_nothing_beyond_the_range_is_allocated() {
        let large = LARGE_PAGE_BYTES;
        let file = memory(8 * large);
        let written = b"as it was";
        file.write_all_at(written, 3 * large + 77).unwrap();
        // From within the second large page to within the sixth.
        let taken = take_large_pages(&file, large + 4096..5 * large + 4096);
        // Three lie wholly within; a system may give none.
        assert!(taken <= 3 * large && taken.is_multiple_of(large));
        let allocated = file.metadata().unwrap().blocks() * 512;
        assert!(
            allocated >= taken && allocated <= taken + 4096 * 2,
            "{allocated}"
        );
        let mut found = [0; 9];
        file.read_exact_at(&mut found, 3 * large + 77).unwrap();
        assert_eq!(&found, written);
        file.read_exact_at(&mut found, 3 * large).unwrap();
        assert_eq!(found, [0; 9]);
    }

    #[test]
    fn a_range_without_a_whole_large_page_is_left_alone() {
        let file = memory(4 * LARGE_PAGE_BYTES);
        for range in [0..0, 1..LARGE_PAGE_BYTES, 4096..2 * LARGE_PAGE_BYTES - 4096] {
            assert_eq!(take_large_pages(&file, range), 0);
        }
        assert_eq!(file.metadata().unwrap().blocks(), 0);
    }
}
