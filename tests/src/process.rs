//! Processes, as /proc shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// The children of a process that host aggregators (`tributary worker`).
#[must_use]
pub fn workers_of(parent: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{parent}/task")) else {
        return Vec::new();
    };
    let children = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = children.flat_map(|text| numbers(&text)).collect();
    children
        .into_iter()
        .filter(|child| is_worker(*child))
        .collect()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// True while a process runs the worker's command line; false for one that is dead but not reaped.
#[must_use]
pub fn is_worker(process: u32) -> bool {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"worker")
}

/// Resident memory in bytes; 0 if the process is gone.
#[must_use]
pub fn resident_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    // Memory of its own: shared pages belong to the arena, which is watched by itself.
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

/// Open file descriptors, by what they stand for: `socket`, `anon_inode`, or a file's path.
#[must_use]
pub fn descriptors(process: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for file in fs::read_dir(format!("/proc/{process}/fd"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let target = fs::read_link(file.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        // Sockets and pipes are numbered.
        let kind = target.split(":[").next().unwrap_or_default();
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}

/// Threads.
#[must_use]
pub fn threads(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count)
}

/// Mappings.
#[must_use]
pub fn mappings(process: u32) -> usize {
    fs::read_to_string(format!("/proc/{process}/maps")).map_or(0, |maps| maps.lines().count())
}

/// The ids of the BPF programs (`prog`) or maps (`map`) that a process holds.
#[must_use]
pub fn kernel_objects(process: u32, kind: &str) -> BTreeSet<u32> {
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fdinfo")) else {
        return BTreeSet::new();
    };
    let texts = files
        .flatten()
        .filter_map(|file| fs::read_to_string(file.path()).ok());
    let id = |text: String| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{kind}_id:")))?;
        line.trim().parse().ok()
    };
    texts.filter_map(id).collect()
}

/// SIGKILL. False if there is no such process any more.
pub fn kill(process: u32) -> bool {
    signal(process, Signal::KILL)
}

/// Sends a signal. False if there is no such process any more.
pub fn signal(process: u32, signal: Signal) -> bool {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// The segments in /dev/shm whose names begin so.
#[must_use]
pub fn segments(prefix: &str) -> Vec<String> {
    let Ok(files) = fs::read_dir("/dev/shm") else {
        return Vec::new();
    };
    let names = files
        .flatten()
        .map(|file| file.file_name().to_string_lossy().into_owned());
    let mut found: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    found.sort();
    found
}

/// Removes segments that killed processes have left.
pub fn remove_segments(prefix: &str) {
    for segment in segments(prefix) {
        let _ = fs::remove_file(std::path::Path::new("/dev/shm").join(segment));
    }
}
