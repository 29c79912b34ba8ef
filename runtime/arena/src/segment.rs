//! A POSIX shared-memory segment with a checked header.

use crate::geometry::{Geometry, GeometryError, HEADER_BYTES, JournalSize, Slots};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use shared_memory::{Shmem, ShmemConf, ShmemError};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

const MAGIC: u64 = u64::from_le_bytes(*b"TRIBARNA");
const ABI: u32 = 3;

/// What can go wrong with a segment.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sizes cannot be laid out.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The segment could not be created.
    #[error("cannot create shared-memory segment {name} of {bytes} bytes: {source}")]
    Create {
        /// The segment's name under /dev/shm.
        name: String,
        /// Its size.
        bytes: u64,
        /// What the system said.
        source: ShmemError,
    },
    /// The segment could not be opened.
    #[error("cannot open shared-memory segment {name}: {source}")]
    Open {
        /// The segment's name under /dev/shm.
        name: String,
        /// What the system said.
        source: ShmemError,
    },
    /// The segment is not an arena of this version.
    #[error("shared-memory segment {name} is not an arena of this version: {reason}")]
    Foreign {
        /// The segment's name under /dev/shm.
        name: String,
        /// Which check failed.
        reason: &'static str,
    },
    /// /dev/shm has no room for another slot.
    #[error(
        "/dev/shm is full: no room for a slot of {bytes} bytes in segment {name}; \
         enlarge /dev/shm (mount -o remount,size=...) or give the job fewer arena slots"
    )]
    Full {
        /// The segment's name.
        name: String,
        /// Bytes that were asked for.
        bytes: u64,
    },
    /// Another system call failed.
    #[error("{what} of shared-memory segment {name}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The segment's name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The first page of a segment. `magic` is stored last, so that a half-made segment is never taken
/// for a whole one.
#[repr(C)]
struct Header {
    magic: AtomicU64,
    layout_hash: AtomicU64,
    abi: AtomicU32,
    clients: AtomicU32,
    rings: AtomicU32,
    ring_records: AtomicU32,
    update_slots: AtomicU32,
    partial_slots: AtomicU32,
    journal_lanes: AtomicU32,
    update_bytes: AtomicU64,
    partial_bytes: AtomicU64,
    image_bytes: AtomicU64,
    proof: [AtomicU64; PROOF_WORDS],
}

const PROOF_WORDS: usize = 2;

/// What only those know who can open a segment: some of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Where they lie in it.
    pub offset: u64,
    /// The bytes.
    pub bytes: [u8; PROOF_WORDS * 8],
}

impl Header {
    fn write(&self, geometry: &Geometry) {
        let store = |field: &AtomicU32, value: u32| field.store(value, Ordering::Relaxed);
        store(&self.clients, geometry.clients);
        store(&self.rings, geometry.rings);
        store(&self.ring_records, geometry.ring_records);
        store(&self.update_slots, geometry.updates.count);
        store(&self.partial_slots, geometry.partials.count);
        store(&self.journal_lanes, geometry.journal.lanes);
        let store = |field: &AtomicU64, value: u64| field.store(value, Ordering::Relaxed);
        store(&self.update_bytes, geometry.updates.vector_bytes);
        store(&self.partial_bytes, geometry.partials.vector_bytes);
        store(&self.image_bytes, geometry.journal.image_bytes);
    }

    fn read(&self) -> Geometry {
        let load = |field: &AtomicU32| field.load(Ordering::Relaxed);
        let long = |field: &AtomicU64| field.load(Ordering::Relaxed);
        Geometry {
            updates: Slots {
                count: load(&self.update_slots),
                vector_bytes: long(&self.update_bytes),
            },
            partials: Slots {
                count: load(&self.partial_slots),
                vector_bytes: long(&self.partial_bytes),
            },
            clients: load(&self.clients),
            rings: load(&self.rings),
            ring_records: load(&self.ring_records),
            journal: JournalSize {
                lanes: load(&self.journal_lanes),
                image_bytes: long(&self.image_bytes),
            },
        }
    }
}

const _: () = assert!(size_of::<Header>() as u64 <= HEADER_BYTES);

/// FNV-1a over the sizes that both sides must agree on.
fn layout_hash(geometry: &Geometry) -> u64 {
    let words = [
        u64::from(ABI),
        u64::from(geometry.clients),
        geometry.slot_header_offset(1),
        geometry.contributors_offset(0),
        geometry.ring_offset(0),
        geometry.ring_offset(1),
        geometry.journal_offset(1),
        geometry.data_offset(),
        geometry.slot_offset(geometry.updates.count),
        geometry.scalars_image_offset(0),
        geometry.data_bytes(),
        crate::geometry::SLOT_HEADER_BYTES,
    ];
    words
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// Stands in a segment that is opened until its header has been read.
const PLACEHOLDER: Geometry = Geometry {
    updates: Slots {
        count: 1,
        vector_bytes: 1,
    },
    partials: Slots {
        count: 1,
        vector_bytes: 1,
    },
    clients: 1,
    rings: 1,
    ring_records: 1,
    journal: JournalSize {
        lanes: 0,
        image_bytes: 0,
    },
};

/// A mapped segment. The creator unlinks its name when it is dropped.
pub(crate) struct Segment {
    memory: Shmem,
    file: File,
    geometry: Geometry,
    name: String,
}

// SAFETY: a `Shmem` is a pointer to a MAP_SHARED mapping, its length and an id. The mapping lives as
// long as the value, and this module hands out only atomics inside it, or raw pointers whose users
// state their own argument.
unsafe impl Send for Segment {}
// SAFETY: as above; no method changes the value itself through `&self`.
unsafe impl Sync for Segment {}

impl Segment {
    pub(crate) fn create(name: &str, geometry: Geometry) -> Result<Self, Error> {
        geometry.check()?;
        let bytes = geometry.segment_bytes();
        let memory = ShmemConf::new()
            .os_id(format!("/{name}"))
            .size(bytes as usize)
            .create()
            .map_err(|source| Error::Create {
                name: name.to_owned(),
                bytes,
                source,
            })?;
        let segment = Self {
            file: open_file(name)?,
            memory,
            geometry,
            name: name.to_owned(),
        };
        // Everything but the slots' data is touched often: get it now, while an error can be told.
        segment.reserve(0, geometry.data_offset())?;
        if geometry.journal.lanes > 0 {
            let images = geometry.data_offset() + geometry.scalars_image_offset(0);
            segment.reserve(images, bytes - images)?;
        }
        let header = segment.header();
        header
            .layout_hash
            .store(layout_hash(&geometry), Ordering::Relaxed);
        header.abi.store(ABI, Ordering::Relaxed);
        header.write(&geometry);
        for word in &header.proof {
            word.store(unguessable(), Ordering::Relaxed);
        }
        // SYNC POINT: who sees the magic sees the whole header.
        header.magic.store(MAGIC, Ordering::Release);
        Ok(segment)
    }

    pub(crate) fn open(name: &str) -> Result<Self, Error> {
        let foreign = |reason| Error::Foreign {
            name: name.to_owned(),
            reason,
        };
        let memory = ShmemConf::new()
            .os_id(format!("/{name}"))
            .open()
            .map_err(|source| Error::Open {
                name: name.to_owned(),
                source,
            })?;
        if (memory.len() as u64) < HEADER_BYTES {
            return Err(foreign("it is shorter than a header"));
        }
        let mut segment = Self {
            file: open_file(name)?,
            memory,
            geometry: PLACEHOLDER,
            name: name.to_owned(),
        };
        let header = segment.header();
        // SYNC POINT: pairs with the creator's release.
        if header.magic.load(Ordering::Acquire) != MAGIC {
            return Err(foreign("the magic number is missing"));
        }
        if header.abi.load(Ordering::Relaxed) != ABI {
            return Err(foreign("its ABI version differs"));
        }
        let geometry = header.read();
        geometry.check()?;
        if header.layout_hash.load(Ordering::Relaxed) != layout_hash(&geometry) {
            return Err(foreign("its layout hash differs"));
        }
        if (segment.memory.len() as u64) < geometry.segment_bytes() {
            return Err(foreign("it is shorter than its header says"));
        }
        segment.geometry = geometry;
        Ok(segment)
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn proof(&self) -> Proof {
        let mut bytes = [0; PROOF_WORDS * 8];
        for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip(&self.header().proof) {
            *place = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        Proof {
            offset: std::mem::offset_of!(Header, proof) as u64,
            bytes,
        }
    }

    fn header(&self) -> &Header {
        // SAFETY: offset 0 is page aligned and every segment is at least HEADER_BYTES long.
        unsafe { self.at(0) }
    }

    /// # Safety
    /// `T` consists of atomics only and any bytes are a valid `T`; `offset` is aligned for `T` and
    /// `offset + size_of::<T>()` lies inside the segment.
    pub(crate) unsafe fn at<T>(&self, offset: u64) -> &T {
        // SAFETY: the caller's promise; the mapping outlives the borrow of `self`.
        unsafe { &*self.memory.as_ptr().add(offset as usize).cast::<T>() }
    }

    /// # Safety
    /// As for [`Self::at`], for `len` consecutive values.
    pub(crate) unsafe fn slice_at<T>(&self, offset: u64, len: usize) -> &[T] {
        // SAFETY: the caller's promise.
        unsafe {
            std::slice::from_raw_parts(self.memory.as_ptr().add(offset as usize).cast::<T>(), len)
        }
    }

    /// Address of an offset in this process's mapping.
    pub(crate) fn pointer(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset <= self.geometry.segment_bytes());
        self.memory.as_ptr().wrapping_add(offset as usize)
    }

    /// Allocates the pages of a range now, so that a full /dev/shm is an error here and not a
    /// SIGBUS at the first store. Large pages where there are any.
    pub(crate) fn reserve(&self, offset: u64, bytes: u64) -> Result<(), Error> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        crate::large_pages::take_large_pages(&self.file, offset..offset + bytes);
        match rustix::io::retry_on_intr(|| {
            fallocate(&self.file, FallocateFlags::empty(), offset, bytes)
        }) {
            Ok(()) => Ok(()),
            Err(Errno::NOSPC | Errno::NOMEM) => Err(Error::Full {
                name: self.name.clone(),
                bytes,
            }),
            Err(errno) => Err(self.io("reserving pages", errno.into())),
        }
    }

    pub(crate) fn unlink(&self) {
        // It may be gone already; and whoever removes it for us does what is wanted.
        let _ = rustix::shm::unlink(format!("/{}", self.name));
    }

    /// A descriptor of the segment, for mapping it elsewhere.
    pub(crate) fn descriptor(&self) -> Result<OwnedFd, Error> {
        self.file
            .try_clone()
            .map(OwnedFd::from)
            .map_err(|e| self.io("duplicating the descriptor", e))
    }

    fn io(&self, what: &'static str, source: io::Error) -> Error {
        Error::Io {
            what,
            name: self.name.clone(),
            source,
        }
    }
}

impl Drop for Segment {
    /// The creator takes the data along: a local client that still maps the segment keeps no memory, and reads zeros.
    fn drop(&mut self) {
        use rustix::fs::{FallocateFlags, fallocate};
        if self.memory.is_owner() {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let data = self.geometry.data_offset();
            let bytes = self.geometry.segment_bytes() - data;
            // Where that is not to be had, the memory goes with the last mapping.
            let _ = fallocate(&self.file, flags, data, bytes);
        }
    }
}

fn open_file(name: &str) -> Result<File, Error> {
    use rustix::shm::{Mode, OFlags};
    rustix::shm::open(format!("/{name}"), OFlags::RDWR, Mode::empty())
        .map(File::from)
        .map_err(|errno| Error::Io {
            what: "opening",
            name: name.to_owned(),
            source: errno.into(),
        })
}

/// A number that nobody outside of the process can guess.
fn unguessable() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Removes every segment whose name starts with `prefix`; gives their names.
///
/// For the start of a node: it holds its state directory's lock, so what carries its identity and
/// still exists belongs to a life that has ended.
///
/// # Errors
/// The system's, if /dev/shm cannot be listed or a segment cannot be removed.
pub fn remove_stale(prefix: &str) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    for entry in std::fs::read_dir("/dev/shm")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            rustix::shm::unlink(format!("/{name}"))?;
            removed.push(name);
        }
    }
    Ok(removed)
}
