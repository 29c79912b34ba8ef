//! Who a node is: its name, kept in its state directory, and the lock that makes it the only one.

use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process uses it.
    #[error(
        "state directory {0} is in use by another tributary process; stop it, or give --state-dir"
    )]
    InUse(PathBuf),
    /// It cannot be read or written.
    #[error("state directory {directory}: {source}")]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A node's identity. The lock is held as long as this lives, and by the kernel's hand no longer than
/// the process: whatever carries the node's name and is found while the lock is held is stale.
#[derive(Debug)]
pub struct Identity {
    /// Kept in the state directory; segments are named after it, because names that are given may begin alike.
    id: String,
    name: String,
    directory: PathBuf,
    _lock: File,
}

impl Identity {
    /// Takes a state directory, which is made (mode 0700) if it does not exist.
    ///
    /// # Errors
    /// Another process has it, or it cannot be written.
    pub fn take(directory: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io {
            directory: directory.to_owned(),
            source,
        };
        let mut private = DirBuilder::new();
        private
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(io)?;
        let lock = File::create(directory.join("lock")).map_err(io)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::InUse(directory.to_owned())),
            Err(errno) => return Err(io(errno.into())),
        }
        let id = id(&directory.join("node")).map_err(io)?;
        Ok(Self {
            name: id.clone(),
            id,
            directory: directory.to_owned(),
            _lock: lock,
        })
    }

    /// The same node under a name that was chosen for it.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The node's name, the same in every life: eight hexadecimal digits, unless another was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The state directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the names of all segments of this node begin with.
    #[must_use]
    pub fn segment_prefix(&self) -> String {
        format!("tributary-{}-", self.id)
    }
}

fn id(file: &Path) -> io::Result<String> {
    match std::fs::read_to_string(file) {
        Ok(id) if id.len() == 8 && id.bytes().all(|b| b.is_ascii_hexdigit()) => {
            return Ok(id);
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(file, &id)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_node_keeps_its_name_and_is_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let first = Identity::take(&path).unwrap();
        let name = first.name().to_owned();
        let error = Identity::take(&path).unwrap_err();
        assert!(matches!(error, Error::InUse(_)), "{error}");
        drop(first);
        let again = Identity::take(&path).unwrap();
        assert_eq!(again.name(), name);
        let prefix = again.segment_prefix();
        let named = again.named("n1");
        assert_eq!((named.name(), named.segment_prefix()), ("n1", prefix));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "models are nobody else's business");
    }
}
