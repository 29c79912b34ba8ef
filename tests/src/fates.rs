//! What befalls workers at the failpoints of the tests' own binary.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::place;

/// What becomes of the worker that comes along next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Pass,
    /// It ends as by `kill -9`.
    Kill,
    /// It hangs as by `kill -STOP`.
    Stop,
}

/// The fates that wait at the failpoints of one server. Each befalls one worker, in their order.
#[derive(Debug)]
pub struct Fates {
    folder: PathBuf,
    next: Cell<u32>,
}

impl Fates {
    /// Those of the server whose folder this is.
    #[must_use]
    pub(crate) const fn at(folder: PathBuf) -> Self {
        Self {
            folder,
            next: Cell::new(0),
        }
    }

    /// Lets fates wait at a failpoint, behind those that wait already.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn put(&self, failpoint: &str, fates: &[Fate]) {
        let folder = self.folder.join(failpoint);
        fs::create_dir_all(&folder).expect("the test's own folder");
        for fate in fates {
            let name = match fate {
                Fate::Pass => "pass",
                Fate::Kill => "kill",
                Fate::Stop => "stop",
            };
            let number = self.next.replace(self.next.get() + 1);
            let file = folder.join(format!("{number:08}-{name}"));
            fs::write(file, "").expect("the test's own folder");
        }
    }

    /// Takes back what still waits at a failpoint; gives the number of deaths among it.
    pub fn clear(&self, failpoint: &str) -> usize {
        let folder = self.folder.join(failpoint);
        // What just befalls somebody cannot be taken back, and is not counted.
        let cleared = names(&folder)
            .into_iter()
            .filter(|name| fs::remove_file(folder.join(name)).is_ok());
        cleared.filter(|name| name.ends_with("-kill")).count()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .map(|file| file.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Every failpoint, as the binary itself names them when it is asked for one that does not exist.
///
/// # Panics
/// If it names none.
#[must_use]
pub fn known() -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("?")).expect("a temporary folder");
    let mut worker = Command::new(place::binary_with_failpoints());
    worker
        .arg("worker")
        .env("TRIBUTARY_FAILPOINTS", folder.path());
    let output = worker.output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let Some((_, names)) = said.split_once("there are ") else {
        panic!("no list of failpoints: {said}");
    };
    names.split_whitespace().map(str::to_owned).collect()
}
