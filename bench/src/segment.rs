//! Updates of many clients in shared memory, laid out as a node's arena lays them out, for all who fold them: the
//! kernel in WebAssembly and the native one read the same pages.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::ptr::{self, NonNull};

use anyhow::{Context as _, Result, bail};
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};
use tributary_arena::LARGE_PAGE_BYTES;
use tributary_wasm::PAGE_BYTES;

/// Coordinates are cut into so many parts, one for each thread.
pub const PARTS: usize = 2;

/// Slots in a memfd, mapped: each a page of scalars and room for a vector of f32.
#[derive(Debug)]
pub struct Segment {
    fd: OwnedFd,
    /// Addresses that the mapping lies in: a large page more than it needs.
    reserved: NonNull<u8>,
    base: NonNull<u8>,
    slots: usize,
    elements: usize,
}

// SAFETY: the mapping belongs to this value alone, and is only read or written through pointers that its users get;
// those are told what they must see to.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// Makes `slots` slots for vectors of `elements` elements, on large pages as an arena's are. All pages are there
    /// when this returns.
    ///
    /// # Errors
    /// If the memory is not there.
    pub fn new(slots: usize, elements: usize) -> Result<Self> {
        let segment = Self::sparse(slots, elements)?;
        tributary_arena::take_large_pages(&segment.fd, 0..segment.len());
        // SAFETY: the mapping is `len` bytes long, and nobody else has a pointer into it yet.
        unsafe { ptr::write_bytes(segment.base.as_ptr(), 0, segment.len() as usize) };
        Ok(segment)
    }

    /// The same without pages: they come when a slot is [taken](Self::take), as in an arena.
    ///
    /// # Errors
    /// If there are not so many addresses.
    pub fn sparse(slots: usize, elements: usize) -> Result<Self> {
        let fd = rustix::fs::memfd_create("tributary-bench", MemfdFlags::CLOEXEC)?;
        let mut segment = Self {
            fd,
            reserved: NonNull::dangling(),
            base: NonNull::dangling(),
            slots,
            elements,
        };
        rustix::fs::ftruncate(&segment.fd, segment.len())?;
        segment.map()?;
        Ok(segment)
    }

    /// Takes large pages for a slot before its first use, as an arena does.
    pub fn take(&self, slot: usize) {
        let begin = self.stride() * slot as u64;
        tributary_arena::take_large_pages(&self.fd, begin..begin + self.stride());
    }

    /// A slot's bytes: its page of scalars, and its vector in f32.
    ///
    /// # Safety
    /// Nobody else may read or write the slot while the slice is used.
    #[must_use]
    #[allow(clippy::mut_from_ref, reason = "the caller promises to be alone")]
    pub unsafe fn bytes(&self, slot: usize) -> &mut [u8] {
        assert!(slot < self.slots, "no slot {slot}");
        let length = PAGE_BYTES as usize + self.elements * 4;
        // SAFETY: the slot exists, and is at least as long: the bytes lie in the mapping; the caller sees to the rest.
        unsafe {
            let begin = self.base.add(self.stride() as usize * slot);
            std::slice::from_raw_parts_mut(begin.as_ptr(), length)
        }
    }

    /// Maps the file where large pages can be mapped: at an address that is a multiple of theirs.
    fn map(&mut self) -> Result<()> {
        let len = usize::try_from(self.len())?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice; nothing else is touched.
        let reserved = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                self.reserved_bytes(),
                ProtFlags::empty(),
                flags,
            )
        };
        let reserved = reserved.with_context(|| format!("{len} bytes of addresses"))?;
        self.reserved = NonNull::new(reserved.cast()).context("a mapping at address 0")?;
        let shift = reserved.addr().next_multiple_of(LARGE_PAGE_BYTES as usize) - reserved.addr();
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: these addresses lie within those that were reserved above for this alone.
        let base = unsafe {
            rustix::mm::mmap(
                reserved.wrapping_byte_add(shift),
                len,
                access,
                flags,
                &self.fd,
                0,
            )
        };
        let base = base.with_context(|| format!("{len} bytes of shared memory"))?;
        self.base = NonNull::new(base.cast()).context("a mapping at address 0")?;
        Ok(())
    }

    fn reserved_bytes(&self) -> usize {
        (self.len() + LARGE_PAGE_BYTES) as usize
    }

    /// How many slots there are.
    #[must_use]
    pub const fn slots(&self) -> usize {
        self.slots
    }

    /// Elements of a vector.
    #[must_use]
    pub const fn elements(&self) -> usize {
        self.elements
    }

    /// The first element of a part, and how many it has. All parts but the last are whole pages in any encoding.
    #[must_use]
    pub fn part(&self, part: usize) -> (usize, usize) {
        let step = self.elements.div_ceil(PARTS).next_multiple_of(4096);
        let first = (step * part).min(self.elements);
        (first, step.min(self.elements - first))
    }

    /// Bytes from one slot to the next.
    #[must_use]
    pub const fn stride(&self) -> u64 {
        PAGE_BYTES + (self.elements as u64 * 4).next_multiple_of(PAGE_BYTES)
    }

    /// Bytes of all slots.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.stride() * self.slots as u64
    }

    /// Whether there are no slots.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.slots == 0
    }

    /// The file, to be mapped by others.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        Ok(self.fd.as_fd().try_clone_to_owned()?)
    }

    /// A part of a slot's vector.
    ///
    /// # Safety
    /// Nobody may write to it while the slice is used.
    #[must_use]
    pub unsafe fn read<T: Copy>(&self, slot: usize, part: usize) -> &[T] {
        let (pointer, elements) = self.place(slot, part);
        // SAFETY: `place` gives elements inside the mapping, aligned to a page; the caller sees to the rest.
        unsafe { std::slice::from_raw_parts(pointer, elements) }
    }

    /// A part of a slot's vector, to be written.
    ///
    /// # Safety
    /// Nobody else may read or write it while the slice is used.
    #[must_use]
    #[allow(clippy::mut_from_ref, reason = "the caller promises to be alone")]
    pub unsafe fn write<T: Copy>(&self, slot: usize, part: usize) -> &mut [T] {
        let (pointer, elements) = self.place(slot, part);
        // SAFETY: `place` gives elements inside the mapping, aligned to a page; the caller sees to the rest.
        unsafe { std::slice::from_raw_parts_mut(pointer, elements) }
    }

    /// Writes a slot's vector, from a value for each element.
    ///
    /// # Errors
    /// If there are fewer values than elements.
    pub fn fill<T: Copy>(
        &mut self,
        slot: usize,
        values: impl IntoIterator<Item = T>,
    ) -> Result<()> {
        let mut values = values.into_iter();
        for part in 0..PARTS {
            // SAFETY: `&mut self`: nobody else has a slice of it.
            for element in unsafe { self.write::<T>(slot, part) } {
                *element = values.next().context("too few values for a vector")?;
            }
        }
        Ok(())
    }

    /// Copies a slot's vector out.
    pub fn copy<T: Copy>(&mut self, slot: usize) -> Vec<T> {
        // SAFETY: `&mut self`: nobody else has a slice of it.
        let part = |part| unsafe { self.read::<T>(slot, part) };
        (0..PARTS).flat_map(|index| part(index).to_vec()).collect()
    }

    fn place<T>(&self, slot: usize, part: usize) -> (*mut T, usize) {
        assert!(
            slot < self.slots && part < PARTS,
            "no slot {slot}, part {part}"
        );
        assert!(
            size_of::<T>() <= 4,
            "slots have room for four bytes an element"
        );
        let (first, elements) = self.part(part);
        let vector = self.stride() * slot as u64 + PAGE_BYTES;
        // SAFETY: the slot exists, and its vector has room for all elements: the place lies in the mapping.
        let pointer = unsafe { self.base.add(vector as usize + first * size_of::<T>()) };
        (pointer.as_ptr().cast(), elements)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.reserved != NonNull::dangling() {
            let reserved = self.reserved.as_ptr().cast();
            // SAFETY: the addresses were reserved with this length, and every slice of them has ended with its borrow.
            let _ = unsafe { rustix::mm::munmap(reserved, self.reserved_bytes()) };
        }
    }
}

/// Writes raw elements to a file that peers read.
///
/// # Errors
/// What the file system says.
pub fn write_raw(path: &std::path::Path, elements: &[f32]) -> Result<()> {
    use std::io::Write as _;
    let mut file = std::io::BufWriter::new(File::create(path)?);
    for element in elements {
        file.write_all(&element.to_le_bytes())?;
    }
    Ok(file.flush()?)
}

/// Reads raw elements from a file that a peer wrote.
///
/// # Errors
/// What the file system says, or a file that holds no whole number of elements.
pub fn read_raw(path: &std::path::Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let (elements, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        bail!("{} holds {} bytes", path.display(), bytes.len());
    }
    Ok(elements.iter().copied().map(f32::from_le_bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_up_the_vector_and_do_not_overlap() {
        let mut segment = Segment::new(3, 10_001).unwrap();
        assert_eq!(
            (segment.part(0), segment.part(1)),
            ((0, 8192), (8192, 1809))
        );
        for slot in 0..3 {
            segment
                .fill(slot, (0..).map(|index| (slot * 100_000 + index) as f32))
                .unwrap();
        }
        for slot in 0..3 {
            let values: Vec<f32> = segment.copy(slot);
            let expected: Vec<f32> = (0..10_001)
                .map(|index| (slot * 100_000 + index) as f32)
                .collect();
            assert_eq!(values, expected);
        }
    }

    #[test]
    fn a_vector_smaller_than_a_part_is_whole_in_the_first() {
        let segment = Segment::new(1, 5).unwrap();
        assert_eq!((segment.part(0), segment.part(1)), ((0, 5), (5, 0)));
    }

    #[test]
    fn raw_files_are_read_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("raw");
        write_raw(&file, &[1.0, -2.5]).unwrap();
        assert_eq!(read_raw(&file).unwrap(), [1.0, -2.5]);
        std::fs::write(&file, [0; 6]).unwrap();
        assert!(read_raw(&file).is_err());
    }
}
