//! How much memory there is for arenas: of the machine, of /dev/shm, and of the control groups that this process is in.
//! The least of them counts, for whoever takes more is killed or gets nothing.

use std::fs;
use std::io;
use std::path::Path;

/// Memory that is there, and what of it is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be taken now.
    pub free: u64,
    /// What has no more than that, for errors.
    pub of: &'static str,
}

impl Memory {
    /// What arenas can take: the least of /dev/shm, the machine's memory and the limits of control groups.
    ///
    /// # Errors
    /// The system's, if /dev/shm is not there.
    pub fn now() -> io::Result<Self> {
        let shm = rustix::fs::statvfs("/dev/shm")?;
        let shm = Self {
            total: shm.f_blocks * shm.f_frsize,
            free: shm.f_bavail * shm.f_frsize,
            of: "/dev/shm",
        };
        // Shared memory is memory: a tmpfs may promise more than there is.
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let group = of_groups(&groups, Path::new("/sys/fs/cgroup"));
        let bounds = [Some(shm), of_machine(&machine), group];
        Ok(bounds.into_iter().flatten().fold(shm, Self::least))
    }

    /// Free and total of whichever has less of it.
    fn least(self, other: Self) -> Self {
        let total = self.total.min(other.total);
        let least = if other.free < self.free { other } else { self };
        Self { total, ..least }
    }
}

/// What `/proc/meminfo` says.
fn of_machine(text: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(Memory {
        total: bytes("MemTotal:")?,
        free: bytes("MemAvailable:")?,
        of: "the machine's memory",
    })
}

/// The least that the control groups of `/proc/self/cgroup` leave, from the process' own up to the root of what is mounted.
/// In a container the root is its own group, and what lies above is not seen.
fn of_groups(text: &str, mounted: &Path) -> Option<Memory> {
    let groups = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        let (root, files) = match controllers {
            "" => (mounted.to_owned(), &V2),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (mounted.join("memory"), &V1)
            }
            _ => return None,
        };
        let own = root.join(path);
        let all = own.ancestors().take_while(|group| group.starts_with(&root));
        all.filter_map(|group| files.of(group))
            .reduce(Memory::least)
    });
    groups.reduce(Memory::least)
}

/// Where a group's numbers are.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// In `memory.stat`: file pages that are let go before anybody lacks memory. Shared memory is not among them.
    reclaimable: &'static str,
}

const V2: Files = Files {
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: "inactive_file",
};

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};

impl Files {
    /// A group's limit, if it has one: `max` is none, and is no number.
    fn of(&self, group: &Path) -> Option<Memory> {
        let number = |file: &str| -> Option<u64> {
            fs::read_to_string(group.join(file))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        let (total, usage) = (number(self.limit)?, number(self.usage)?);
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let reclaimable = stat.lines().find_map(|line| {
            let value = line.strip_prefix(self.reclaimable)?.strip_prefix(' ')?;
            value.parse::<u64>().ok()
        });
        let used = usage.saturating_sub(reclaimable.unwrap_or(0));
        Some(Memory {
            total,
            free: total.saturating_sub(used),
            of: "the memory limit of its control group",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(group: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(group).unwrap();
        for (name, text) in files {
            fs::write(group.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_narrowest_group_counts_whichever_version_has_it() {
        let mounted = tempfile::tempdir().unwrap();
        let mounted = mounted.path();
        let limit = |max, current| [("memory.max", max), ("memory.current", current)];
        write(&mounted.join("a"), &limit("1000\n", "300\n"));
        write(&mounted.join("a/b"), &limit("max\n", "300\n"));
        write(
            &mounted.join("memory/x"),
            &[
                ("memory.limit_in_bytes", "5000"),
                ("memory.usage_in_bytes", "4700"),
                ("memory.stat", "inactive_file 7\ntotal_inactive_file 200\n"),
            ],
        );
        let of = |text: &str| of_groups(text, mounted).map(|memory| (memory.total, memory.free));
        assert_eq!(of("0::/a/b\n"), Some((1000, 700)));
        assert_eq!(of("4:cpu:/x\n3:memory:/x/y\n0::/\n"), Some((5000, 500)));
        assert_eq!(of("3:memory:/x\n0::/a\n"), Some((1000, 500)));
        assert_eq!(of("0::/\n"), None);
        // A container sees its own group as the root, whatever path it is told.
        write(mounted, &limit("900", "100"));
        assert_eq!(of("0::/kubepods/pod-1\n"), Some((900, 800)));
    }

    #[test]
    fn the_machine_says_what_it_has() {
        let text = "MemTotal:  16 kB\nMemFree: 1 kB\nMemAvailable:  8 kB\n";
        let memory = of_machine(text).unwrap();
        assert_eq!((memory.total, memory.free), (16384, 8192));
        assert_eq!(of_machine(""), None);
    }

    #[test]
    fn this_machine_has_some() {
        let memory = Memory::now().unwrap();
        assert!(
            memory.free <= memory.total && memory.total > 0,
            "{memory:?}"
        );
    }
}
