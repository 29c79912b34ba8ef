//! What the machine has.

use std::{fs, path::Path, thread};

use rustix::{
    fs::{Access, access, statvfs},
    process::{Resource, getrlimit},
    system::uname,
};

/// Everything that is judged. `None` where it could not be seen.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// `6.1.0-18-amd64`.
    pub(super) kernel: String,
    /// Why descriptors cannot be routed in the kernel.
    pub(super) sidecar: Result<(), String>,
    /// All and free bytes of /dev/shm.
    pub(super) shm: Option<Space>,
    /// The soft and the hard limit of open files; `u64::MAX` for none.
    pub(super) files: (u64, u64),
    /// The limit of locked memory in bytes; `u64::MAX` for none.
    pub(super) locked: u64,
    /// The bytes of memory that programs can still get.
    pub(super) memory: Option<u64>,
    /// The cores that this process may use.
    pub(super) cores: usize,
    /// The state directory, and whether something can be written there; the free bytes, or why not.
    pub(super) state: (String, Result<u64, String>),
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) total: u64,
    pub(super) free: u64,
}

impl Facts {
    pub(super) fn gather(state_dir: &Path) -> Self {
        let files = getrlimit(Resource::Nofile);
        let unlimited = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        Self {
            kernel: uname().release().to_string_lossy().into_owned(),
            sidecar: tributary_router::probe().map_err(|error| error.to_string()),
            shm: space(Path::new("/dev/shm")),
            files: (unlimited(files.current), unlimited(files.maximum)),
            locked: unlimited(getrlimit(Resource::Memlock).current),
            memory: memory(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            state: (state_dir.display().to_string(), state(state_dir)),
        }
    }
}

fn space(path: &Path) -> Option<Space> {
    let stat = statvfs(path).ok()?;
    Some(Space {
        total: stat.f_blocks * stat.f_frsize,
        free: stat.f_bavail * stat.f_frsize,
    })
}

/// The least of what the machine has and what the control group leaves.
fn memory() -> Option<u64> {
    let machine =
        field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?.checked_mul(1024)?;
    Some(group().map_or(machine, |group| machine.min(group)))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What the control group (version 2) leaves, if it has a limit.
fn group() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let directory = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    let read = |file| {
        fs::read_to_string(directory.join(file))
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    Some(read("memory.max")?.saturating_sub(read("memory.current")?))
}

/// Whether something can be written to the directory, or to the first above it that exists.
fn state(directory: &Path) -> Result<u64, String> {
    let existing = directory
        .ancestors()
        .find(|path| path.exists())
        .ok_or("nothing above it exists")?;
    let failed = |what: &dyn std::fmt::Display| format!("{}: {what}", existing.display());
    if !existing.is_dir() {
        return Err(failed(&"not a directory"));
    }
    access(existing, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| failed(&error))?;
    let space = space(existing).ok_or_else(|| failed(&"its free space cannot be read"))?;
    Ok(space.free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_text_of_the_kernel() {
        let text = "MemTotal:       24000000 kB\nMemAvailable:   12345678 kB\n";
        assert_eq!(field(text, "MemAvailable:"), Some(12_345_678));
        assert_eq!(field(text, "MemFree:"), None);
    }

    #[test]
    fn a_directory_that_is_yet_to_be_made_is_judged_by_what_is_above_it() {
        let there = tempfile::tempdir().unwrap();
        assert!(state(&there.path().join("a/b")).is_ok());
        let file = there.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(
            state(&file.join("a"))
                .unwrap_err()
                .ends_with("file: not a directory")
        );
    }
}
