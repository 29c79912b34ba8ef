//! The page through which the host tells the function what to do.

use super::failed_as;
use crate::abi::PAGE_BYTES;
use crate::error::Error;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

/// A page that is mapped twice: writable for the host and read-only for the function.
#[derive(Debug)]
pub(super) struct CallPage {
    file: OwnedFd,
    page: NonNull<u8>,
}

// SAFETY: `page` is a mapping of this value alone, which no thread owns.
unsafe impl Send for CallPage {}

impl CallPage {
    pub(super) fn create() -> Result<Self, Error> {
        let failed = |errno: Errno| failed_as("the call page")(errno.into());
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

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
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
