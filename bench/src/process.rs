//! What processes cost, as the kernel counts it: a process and all it has started, dead or alive.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// What a tree of processes has used since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time, in seconds; of the living to the nanosecond, of the dead in ticks of 10 ms.
    pub cpu_seconds: f64,
    /// Page faults that needed no disk.
    pub minor_faults: u64,
    /// Page faults that did.
    pub major_faults: u64,
}

impl Usage {
    /// What has been used since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            minor_faults: self.minor_faults.saturating_sub(earlier.minor_faults),
            major_faults: self.major_faults.saturating_sub(earlier.major_faults),
        }
    }
}

/// What a tree of processes holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Memory of their own, in bytes, summed.
    pub anonymous: u64,
    /// Shared memory in bytes: what the segments in /dev/shm take, each once, however many map them.
    pub shared: u64,
}

impl Memory {
    /// All of it.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.anonymous + self.shared
    }
}

/// A process and all it has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    root: u32,
    /// The beginning of its segments' names in /dev/shm; none without it.
    segments: Option<String>,
}

impl Tree {
    /// The tree below a process.
    #[must_use]
    pub const fn of(root: u32) -> Self {
        Self {
            root,
            segments: None,
        }
    }

    /// The same tree, which also owns the segments in /dev/shm whose names begin so.
    #[must_use]
    pub fn with_segments(mut self, prefix: impl Into<String>) -> Self {
        self.segments = Some(prefix.into());
        self
    }

    /// The processes that live.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let mut found = vec![self.root];
        let mut next = 0;
        while let Some(process) = found.get(next) {
            found.extend(children(*process));
            next += 1;
        }
        found
    }

    /// What it has used.
    ///
    /// # Errors
    /// If the root is gone.
    pub fn usage(&self) -> Result<Usage> {
        let mut sum = Usage::default();
        for process in self.processes() {
            let Some(stat) = stat_of(process) else {
                // It ended since it was listed; its parent now counts it.
                continue;
            };
            sum.cpu_seconds += cpu_clock(process).unwrap_or(stat.own_seconds) + stat.dead_seconds;
            sum.minor_faults += stat.minor_faults;
            sum.major_faults += stat.major_faults;
        }
        if !Path::new("/proc").join(self.root.to_string()).exists() {
            bail!("process {} has ended", self.root);
        }
        Ok(sum)
    }

    /// CPU seconds of the root alone, its threads included.
    ///
    /// # Errors
    /// If it is gone.
    pub fn own_cpu_seconds(&self) -> Result<f64> {
        cpu_clock(self.root).with_context(|| format!("process {} has ended", self.root))
    }

    /// What it holds now.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let anonymous = self.processes().into_iter().map(anonymous_bytes).sum();
        let shared = self.segments.as_deref().map_or(0, segment_bytes);
        Memory { anonymous, shared }
    }

    /// Watches what it holds, until the watch is asked for the most it has seen.
    #[must_use]
    pub fn watch(&self, period: Duration) -> Watch {
        let (tree, done) = (self.clone(), Arc::new(AtomicBool::new(false)));
        let stop = done.clone();
        let thread = thread::spawn(move || {
            let mut peak = tree.memory();
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(period);
                let now = tree.memory();
                if now.total() > peak.total() {
                    peak = now;
                }
            }
            peak
        });
        Watch { done, thread }
    }
}

/// Somebody looking at a tree's memory.
#[derive(Debug)]
pub struct Watch {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Memory>,
}

impl Watch {
    /// Stops looking; the most that was held at one moment.
    ///
    /// # Errors
    /// If the watching thread ended abnormally.
    pub fn peak(self) -> Result<Memory> {
        self.done.store(true, Ordering::Relaxed);
        let Ok(peak) = self.thread.join() else {
            bail!("the thread that watched memory has panicked");
        };
        Ok(peak)
    }
}

/// What stands in /proc/PID/stat.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Stat {
    own_seconds: f64,
    /// Of children that have ended and were waited for, and of theirs.
    dead_seconds: f64,
    minor_faults: u64,
    major_faults: u64,
}

impl Stat {
    /// Reads the line; `tick` is how many there are in a second.
    fn parse(line: &str, tick: f64) -> Option<Self> {
        // The command's name is in parentheses and may hold anything, parentheses too.
        let (_, after) = line.rsplit_once(") ")?;
        let fields: Vec<&str> = after.split(' ').collect();
        // proc(5) counts from 1; the state, its field 3, is the first here.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            own_seconds: (field(14)? + field(15)?) as f64 / tick,
            dead_seconds: (field(16)? + field(17)?) as f64 / tick,
            minor_faults: field(10)? + field(11)?,
            major_faults: field(12)? + field(13)?,
        })
    }
}

fn stat_of(process: u32) -> Option<Stat> {
    let line = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Stat::parse(&line, rustix::param::clock_ticks_per_second() as f64)
}

fn children(process: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task"));
    let lists = tasks
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            let numbers = list.split_whitespace().map(str::parse);
            numbers.filter_map(Result::ok).collect::<Vec<_>>()
        })
        .collect()
}

/// The processor time of all threads of a process, dead ones too, in seconds.
fn cpu_clock(process: u32) -> Option<f64> {
    let pid = libc::pid_t::try_from(process).ok()?;
    let mut clock = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `clock` is a valid place for the one value that the call writes.
    if unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } != 0 {
        return None;
    }
    // SAFETY: `time` is a valid place for the one value that the call writes; a clock of a process that has ended
    // meanwhile is an error, not undefined.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return None;
    }
    Some(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9)
}

/// A process's numbers of memory, as /proc/PID/status has them, in bytes: `VmHWM`, `RssAnon`, `RssShmem` and others.
#[must_use]
pub fn status_bytes(process: u32) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    parse_status(&text)
}

fn parse_status(text: &str) -> BTreeMap<String, u64> {
    let sizes = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let kibibytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
        Some((name.to_owned(), kibibytes << 10))
    });
    sizes.collect()
}

fn anonymous_bytes(process: u32) -> u64 {
    status_bytes(process)
        .get("RssAnon")
        .copied()
        .unwrap_or_default()
}

fn segment_bytes(prefix: &str) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let files = segments(prefix)
        .into_iter()
        .filter_map(|file| fs::metadata(file).ok());
    files.map(|file| file.blocks() * 512).sum()
}

/// The segments in /dev/shm whose names begin so.
#[must_use]
pub fn segments(prefix: &str) -> Vec<PathBuf> {
    let files = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let named = files.filter(|file| file.file_name().to_string_lossy().starts_with(prefix));
    named.map(|file| file.path()).collect()
}

/// Kills a process and all it has started, for peers that leave some behind.
///
/// # Errors
/// If the process cannot be waited for.
pub fn end_tree(child: &mut std::process::Child) -> Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let processes = Tree::of(child.id()).processes();
    for process in processes {
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // One that has ended by itself is fine.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    child.wait().context("waiting for a process to end")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn stat_is_read_behind_any_name() {
        let line = "42 (a) b (c) S 1 42 42 0 -1 4194560 700 30 5 2 150 50 20 10 20 0 1 0 9 9 9";
        let stat = Stat::parse(line, 100.0).unwrap();
        let expected = Stat {
            own_seconds: 2.0,
            dead_seconds: 0.3,
            minor_faults: 730,
            major_faults: 7,
        };
        assert_eq!(stat, expected);
        assert_eq!(Stat::parse("42 (a) S 1", 100.0), None);
        assert_eq!(Stat::parse("", 100.0), None);
    }

    #[test]
    fn sizes_are_read_from_status() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nRssAnon:\t 4 kB\nThreads:\t3\n";
        let sizes = parse_status(text);
        assert_eq!(sizes.get("VmHWM"), Some(&(2 << 20)));
        assert_eq!(sizes.get("RssAnon"), Some(&4096));
        assert_eq!(sizes.len(), 2);
    }

    #[test]
    fn a_child_counts_while_it_lives_and_afterwards() {
        let tree = Tree::of(std::process::id());
        let before = tree.usage().unwrap();
        let mut child = Command::new("/bin/sh")
            .args([
                "-c",
                "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; read x",
            ])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        assert!(tree.processes().contains(&child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!tree.processes().contains(&child.id()));
        let used = tree.usage().unwrap().since(&before);
        assert!(used.minor_faults > 0, "{used:?}");
        assert!(used.cpu_seconds >= 0.0, "{used:?}");
    }

    #[test]
    fn a_watch_sees_the_most() {
        let tree = Tree::of(std::process::id());
        let watch = tree.watch(Duration::from_millis(1));
        let least = tree.memory().total() / 2;
        assert!(watch.peak().unwrap().total() > least);
    }
}
