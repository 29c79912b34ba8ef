//! Compiled modules on disk.
//!
//! Loading compiled code is running it: whoever can write an entry owns the process. So every entry
//! carries a MAC under a key that was made here, is readable by this user alone and never leaves the
//! machine. The MAC covers the module's digest and the engine's compatibility as well, so an entry can
//! be neither altered nor put in another's place. The verified bytes are the loaded bytes: the file is
//! read once and not mapped.

use crate::engine::Engine;
use crate::error::Error;
use crate::function::Function;
use crate::module;
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use wasmtime::Module;

const KEY_FILE: &str = "key";
const KEY_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"tribwasm";
/// Magic, compatibility, MAC; the compiled module follows.
const HEADER_BYTES: usize = 8 + 8 + 32;

/// A directory of compiled modules.
pub struct ModuleCache {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
}

impl std::fmt::Debug for ModuleCache {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ModuleCache")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl ModuleCache {
    /// Opens the cache in `dir`. The first to open it makes the directory (mode 0700) and its key.
    ///
    /// # Errors
    /// Fails if the directory cannot be made, or if the key is not a file of this user's alone.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io_error("create", dir))?;
        let path = dir.join(KEY_FILE);
        let key = match read_key(&path)? {
            Some(key) => key,
            None => {
                create_key(dir, &path)?;
                read_key(&path)?.ok_or_else(|| Error::Key {
                    path,
                    found: "gone as soon as it was made".into(),
                })?
            }
        };
        Ok(Self {
            dir: dir.to_owned(),
            key,
        })
    }

    /// Checks that `wasm` is a function, compiles it and keeps the result; answers its digest, the
    /// hexadecimal SHA-256 of `wasm`. A module that is kept already is not compiled again.
    ///
    /// # Errors
    /// Says what about the module is not as the ABI demands, or why it could not be kept.
    pub fn deploy(&self, engine: &Engine, wasm: &[u8]) -> Result<String, Error> {
        let digest = hex(&Sha256::digest(wasm));
        if self.read(engine, &digest).is_ok() {
            return Ok(digest);
        }
        let compiled = module::compile(engine, wasm)?
            .serialize()
            .map_err(|error| Error::Engine(format!("{error:#}")))?;
        let path = self.entry(&digest);
        let compatibility = engine.compatibility();
        let mac = self.mac(&digest, compatibility, &compiled);
        let write = |file: &mut File| {
            file.write_all(MAGIC)?;
            file.write_all(&compatibility.to_le_bytes())?;
            file.write_all(mac.as_bytes())?;
            file.write_all(&compiled)
        };
        new_file(&self.dir, write)
            .and_then(|file| file.persist(&path).map_err(io::Error::from))
            .map_err(io_error("write", &path))?;
        Ok(digest)
    }

    /// Whether there is an entry for a module. [`ModuleCache::load`] says whether it can be used.
    #[must_use]
    pub fn holds(&self, digest: &str) -> bool {
        is_digest(digest) && self.entry(digest).is_file()
    }

    /// Loads a module that was deployed here.
    ///
    /// # Errors
    /// [`Error::NotDeployed`], [`Error::Stale`] and [`Error::Tampered`] are all mended by deploying the
    /// module again.
    pub fn load(&self, engine: &Engine, digest: &str) -> Result<Function, Error> {
        let compiled = self.read(engine, digest)?;
        // SAFETY: the bytes are what `Module::serialize` gave to `deploy` on this machine for an engine
        // compatible with this one: `read` has verified their MAC, which covers all of that, under a
        // key that only this user can read; and they are in memory that nobody else writes.
        let module = unsafe { Module::deserialize(engine.wasmtime(), compiled) };
        let module = module.map_err(|error| Error::Engine(format!("{error:#}")))?;
        Function::new(engine, digest, &module)
    }

    /// The verified compiled module.
    fn read(&self, engine: &Engine, digest: &str) -> Result<Vec<u8>, Error> {
        if !is_digest(digest) {
            return Err(Error::Digest(digest.to_owned()));
        }
        let path = self.entry(digest);
        let mut entry = match std::fs::read(&path) {
            Ok(entry) => entry,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::NotDeployed {
                    digest: digest.to_owned(),
                    dir: self.dir.clone(),
                });
            }
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let Some((compatibility, mac)) = read_header(&entry) else {
            return Err(Error::Tampered { path });
        };
        if self.mac(digest, compatibility, &entry[HEADER_BYTES..]) != mac {
            return Err(Error::Tampered { path });
        }
        if compatibility != engine.compatibility() {
            return Err(Error::Stale {
                digest: digest.to_owned(),
            });
        }
        entry.drain(..HEADER_BYTES);
        Ok(entry)
    }

    fn entry(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.compiled"))
    }

    fn mac(&self, digest: &str, compatibility: u64, compiled: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // All but the last are of fixed length, so no two entries feed the same bytes.
        hasher.update(MAGIC);
        hasher.update(digest.as_bytes());
        hasher.update(&compatibility.to_le_bytes());
        hasher.update(compiled);
        hasher.finalize()
    }
}

/// An entry's compatibility and MAC.
fn read_header(entry: &[u8]) -> Option<(u64, blake3::Hash)> {
    let (header, _) = entry.split_first_chunk::<HEADER_BYTES>()?;
    let (magic, rest) = header.split_first_chunk::<8>()?;
    let (compatibility, mac) = rest.split_first_chunk::<8>()?;
    if magic != MAGIC {
        return None;
    }
    let mac = blake3::Hash::from_slice(mac).ok()?;
    Some((u64::from_le_bytes(*compatibility), mac))
}

/// Reads the key, if there is one, and refuses one that others could have read or written.
fn read_key(path: &Path) -> Result<Option<[u8; KEY_BYTES]>, Error> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = match rustix::fs::open(path, flags, rustix::fs::Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => {
            return Err(Error::Key {
                path: path.to_owned(),
                found: "a symbolic link".into(),
            });
        }
        Err(errno) => return Err(io_error("open", path)(errno.into())),
    };
    let meta = file.metadata().map_err(io_error("read", path))?;
    let mode = meta.mode() & 0o777;
    let owner = meta.uid();
    if !meta.is_file() || mode != 0o600 || owner != rustix::process::geteuid().as_raw() {
        return Err(Error::Key {
            path: path.to_owned(),
            found: format!("of mode {mode:04o}, of user {owner}"),
        });
    }
    let mut key = Vec::new();
    file.read_to_end(&mut key).map_err(io_error("read", path))?;
    key.try_into().map(Some).map_err(|key: Vec<u8>| Error::Key {
        path: path.to_owned(),
        found: format!("{} bytes long", key.len()),
    })
}

/// Makes a key, unless another process is first: then its key counts.
fn create_key(dir: &Path, path: &Path) -> Result<(), Error> {
    let mut key = [0_u8; KEY_BYTES];
    let filled = rustix::rand::getrandom(&mut key[..], rustix::rand::GetRandomFlags::empty());
    let filled = filled.map_err(|errno| io_error("make", path)(errno.into()))?;
    // The kernel never cuts so short a request; a key that is partly zero must not come to be.
    assert_eq!(filled, KEY_BYTES, "getrandom gives up to 256 bytes whole");
    let written = new_file(dir, |file| file.write_all(&key)).map_err(io_error("write", path))?;
    match written.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io_error("write", path)(error.error)),
    }
}

/// A file of mode 0600 that is on disk whole, to be given its name.
fn new_file(
    dir: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    write(file.as_file_mut())?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        action,
        path: path.clone(),
        source,
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
