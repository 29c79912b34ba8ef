//! What a server leaves on the machine: processes and shared memory. Nothing, when it has stopped.

use std::fs;
use std::path::Path;
use std::process::ExitStatus;

use anyhow::Result;
use rustix::process::Pid;

/// Where shared memory lies.
const SHARED_MEMORY: &str = "/dev/shm";

/// What a running server has.
#[derive(Debug, Default)]
pub(super) struct Traces {
    processes: usize,
    /// Names of the segments of shared memory.
    segments: Vec<String>,
}

/// What a server left behind.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    before: Traces,
    after: Traces,
    /// What went wrong with the ends of its processes.
    ends: Vec<String>,
}

impl Traces {
    /// What the processes of a group have.
    pub(super) fn of(group: Pid) -> Result<Self> {
        let processes = members(group)?;
        let prefix = format!("{SHARED_MEMORY}/");
        let mut segments = Vec::new();
        for process in &processes {
            // A process that has just ended has no map any more, and no segment either.
            let map = fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
            let names = map
                .lines()
                .filter_map(|line| Some(line.split_once(&prefix)?.1.trim()));
            segments.extend(names.map(str::to_owned));
        }
        segments.sort();
        segments.dedup();
        Ok(Self {
            processes: processes.len(),
            segments,
        })
    }

    /// In words.
    pub(super) fn describe(&self) -> String {
        let processes = counted(self.processes, "process", "processes");
        let segments = counted(self.segments.len(), "segment", "segments");
        format!("{processes} and {segments} of shared memory")
    }
}

impl Leftovers {
    /// What is left of a group that had `before` and whose processes ended so.
    pub(super) fn of(group: Pid, before: Traces, exits: &[Option<ExitStatus>]) -> Result<Self> {
        let left = |name: &&String| Path::new(SHARED_MEMORY).join(name).exists();
        let segments = before.segments.iter().filter(left).cloned().collect();
        let after = Traces {
            processes: members(group)?.len(),
            segments,
        };
        Ok(Self {
            before,
            after,
            ends: exits.iter().filter_map(wrong).collect(),
        })
    }

    /// What was there before.
    pub(super) fn before(&self) -> &Traces {
        &self.before
    }

    /// What is wrong; `None` when all is gone.
    pub(super) fn describe(&self) -> Option<String> {
        let mut wrong = self.ends.clone();
        let Traces {
            processes,
            segments,
        } = &self.after;
        if !segments.is_empty() {
            wrong.push(format!("left in {SHARED_MEMORY}: {}", segments.join(", ")));
        }
        if *processes > 0 {
            wrong.push(format!(
                "processes of the server that are left: {processes}"
            ));
        }
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }
}

/// What is wrong with a process's end.
fn wrong(exit: &Option<ExitStatus>) -> Option<String> {
    match exit {
        None => Some("the server did not stop".to_owned()),
        Some(status) if !status.success() => Some(format!("the server ended with {status}")),
        Some(_) => None,
    }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Processes of a group, from /proc.
pub(super) fn members(group: Pid) -> Result<Vec<u32>> {
    let mut members = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(process) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        if group_of(&stat) == Some(group.as_raw_nonzero().get()) {
            members.push(process);
        }
    }
    Ok(members)
}

/// The process group in a line of `/proc/<pid>/stat`: the third word after the name, which stands in
/// parentheses and may contain anything.
fn group_of(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_group_is_found_behind_any_name() {
        assert_eq!(group_of("17 (a) b) c) S 1 42 17 0 -1"), Some(42));
        assert_eq!(group_of(""), None);
        let own = rustix::process::getpgrp();
        assert!(members(own).unwrap().contains(&std::process::id()));
    }

    #[test]
    fn leftovers_are_told() {
        let clean = Leftovers::default();
        assert_eq!(clean.describe(), None);
        assert_eq!(wrong(&Some(ExitStatus::from_raw(0))), None);
        let killed = wrong(&Some(ExitStatus::from_raw(9))).unwrap();
        assert!(killed.contains("signal: 9"), "{killed}");
        let after = Traces {
            processes: 1,
            segments: vec!["tributary-1".to_owned()],
        };
        assert_eq!(after.describe(), "1 process and 1 segment of shared memory");
        let dirty = Leftovers {
            ends: wrong(&None).into_iter().collect(),
            after,
            ..Leftovers::default()
        };
        assert_eq!(
            dirty.describe().unwrap(),
            "the server did not stop; left in /dev/shm: tributary-1; processes of the server that are left: 1"
        );
    }
}
