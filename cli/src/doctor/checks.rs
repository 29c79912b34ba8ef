//! Judges what was seen of a machine.

use super::{Check, Grade, facts::Facts};
use crate::output::bytes;

/// pidfd_open came with 5.3, close_range with 5.9; the sidecar's program and its tests want what 5.10 has.
const KERNEL_MIN: (u32, u32) = (5, 10);

/// Before this kernel, maps of the sidecar count as locked memory.
const KERNEL_WITHOUT_MEMLOCK: (u32, u32) = (5, 11);

const MIB: u64 = 1 << 20;

/// Slots of a small model.
const SHM_MIN: u64 = 64 * MIB;

/// Slots of a model of 50 MB.
const SHM_GOOD: u64 = 1024 * MIB;

const MEMORY_MIN: u64 = 256 * MIB;
const MEMORY_GOOD: u64 = 1024 * MIB;

/// A worker has about ten open files, a client one.
const FILES_MIN: u64 = 256;
const FILES_GOOD: u64 = 4096;

const LOCKED_GOOD: u64 = 64 * MIB;

const STATE_GOOD: u64 = 1024 * MIB;

pub(super) fn all(facts: &Facts) -> Vec<Check> {
    vec![
        kernel(facts),
        sidecar(facts),
        shared_memory(facts),
        memory(facts),
        files(facts),
        locked(facts),
        cores(facts),
        state(facts),
    ]
}

fn good(name: &'static str, found: String) -> Check {
    Check {
        name,
        grade: Grade::Good,
        found,
        cost: None,
        remedy: None,
    }
}

fn costs(name: &'static str, found: String, cost: &str, remedy: &str) -> Check {
    Check {
        name,
        grade: Grade::Costs,
        found,
        cost: Some(cost.into()),
        remedy: Some(remedy.into()),
    }
}

fn missing(name: &'static str, found: String, cost: &str, remedy: &str) -> Check {
    Check {
        grade: Grade::Missing,
        ..costs(name, found, cost, remedy)
    }
}

fn kernel(facts: &Facts) -> Check {
    let found = facts.kernel.clone();
    match version(&facts.kernel) {
        Some(version) if version < KERNEL_MIN => missing(
            "kernel",
            found,
            "workers cannot be supervised without race (pidfd), and the sidecar's program is not accepted",
            "run a kernel of 5.10 or newer",
        ),
        Some(_) => good("kernel", found),
        None => costs(
            "kernel",
            found,
            "the version cannot be read",
            "5.10 or newer is needed",
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn sidecar(facts: &Facts) -> Check {
    match &facts.sidecar {
        Ok(()) => good(
            "sidecar",
            "descriptors can be routed in the kernel (eBPF)".into(),
        ),
        Err(reason) => costs(
            "sidecar",
            format!("descriptors cannot be routed in the kernel: {reason}"),
            "the agent routes them in user space: the same results, with more work of the agent for each message",
            "grant CAP_BPF and CAP_NET_ADMIN (or run as root), for instance by AmbientCapabilities= in systemd",
        ),
    }
}

fn shared_memory(facts: &Facts) -> Check {
    let name = "shared memory";
    let cost = "each update on its way takes a slot of the model's size in /dev/shm; without free slots clients wait (429)";
    let remedy = "mount -o remount,size=4G /dev/shm, or --shm-size for a container";
    let Some(space) = facts.shm else {
        return missing(
            name,
            "/dev/shm is not there".into(),
            cost,
            "mount a tmpfs at /dev/shm",
        );
    };
    let found = format!(
        "/dev/shm has {}, {} free",
        bytes(space.total),
        bytes(space.free)
    );
    match space.free {
        free if free < SHM_MIN => missing(name, found, cost, remedy),
        free if free < SHM_GOOD => costs(name, found, cost, remedy),
        _ => good(name, found),
    }
}

fn memory(facts: &Facts) -> Check {
    let cost = "what is in /dev/shm is memory too; with too little of it the kernel kills workers";
    let remedy = "give the machine or the container more memory";
    let Some(available) = facts.memory else {
        return costs(
            "memory",
            "/proc/meminfo cannot be read".into(),
            cost,
            "mount /proc",
        );
    };
    let found = format!("{} available", bytes(available));
    match available {
        _ if available < MEMORY_MIN => missing("memory", found, cost, remedy),
        _ if available < MEMORY_GOOD => costs("memory", found, cost, remedy),
        _ => good("memory", found),
    }
}

fn files(facts: &Facts) -> Check {
    let name = "open files";
    let (soft, hard) = facts.files;
    let shown = |limit| {
        if limit == u64::MAX {
            "unlimited".into()
        } else {
            format!("{limit}")
        }
    };
    let found = format!(
        "{} for a process, can be raised to {}",
        shown(soft),
        shown(hard)
    );
    let cost = "each connected client takes one; beyond the limit connections are refused";
    let remedy = "ulimit -n 65536, or LimitNOFILE= in systemd";
    match soft {
        _ if soft < FILES_MIN => missing(name, found, cost, remedy),
        _ if soft < FILES_GOOD => costs(name, found, cost, remedy),
        _ => good(name, found),
    }
}

fn locked(facts: &Facts) -> Check {
    let name = "locked memory";
    let found = if facts.locked == u64::MAX {
        "unlimited".into()
    } else {
        bytes(facts.locked)
    };
    let counts = version(&facts.kernel).is_some_and(|version| version < KERNEL_WITHOUT_MEMLOCK);
    if counts && facts.locked < LOCKED_GOOD {
        let cost = "this kernel counts the sidecar's maps as locked memory and may refuse them";
        return costs(
            name,
            found,
            cost,
            "ulimit -l unlimited, or LimitMEMLOCK= in systemd",
        );
    }
    good(
        name,
        if counts {
            found
        } else {
            format!("{found} (this kernel does not count the sidecar's maps)")
        },
    )
}

fn cores(facts: &Facts) -> Check {
    let found = facts.cores.to_string();
    match facts.cores {
        1 => costs(
            "cores",
            found,
            "workers and gateway share one core: folding waits while updates come in",
            "two or more",
        ),
        _ => good("cores", found),
    }
}

fn state(facts: &Facts) -> Check {
    let name = "state directory";
    let (directory, free) = &facts.state;
    match free {
        Err(reason) => missing(
            name,
            format!("{directory} cannot be written: {reason}"),
            "models and manifests have no place",
            "give --state-dir",
        ),
        Ok(free) if *free < STATE_GOOD => costs(
            name,
            format!("{directory}, {} free", bytes(*free)),
            "five versions of each job's model are kept there",
            "make room, or give --state-dir",
        ),
        Ok(free) => good(name, format!("{directory}, {} free", bytes(*free))),
    }
}

#[cfg(test)]
mod tests;
