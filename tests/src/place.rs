//! Where the binary, the functions and the evidence are.

use std::env;
use std::path::{Path, PathBuf};

/// The binary under test: `TRIBUTARY_BIN`, or the one beside the test's own executable.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn binary() -> PathBuf {
    present(named("TRIBUTARY_BIN").unwrap_or_else(|| profile().join("tributary")))
}

/// The same program with failpoints: `TRIBUTARY_FAILPOINTS_BIN`, or the one beside the test's own
/// executable.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn binary_with_failpoints() -> PathBuf {
    let file =
        named("TRIBUTARY_FAILPOINTS_BIN").unwrap_or_else(|| profile().join("tributary-failpoints"));
    assert!(
        file.is_file(),
        "{} is missing: run `cargo build --package tributary --bin tributary-failpoints --features failpoints`",
        file.display()
    );
    file
}

/// A function's module: in `TRIBUTARY_FUNCTIONS_DIR`, or where `cargo xtask build` puts it.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn function(name: &str) -> PathBuf {
    let folder = named("TRIBUTARY_FUNCTIONS_DIR").unwrap_or_else(|| target().join("functions"));
    present(folder.join(format!("{name}.wasm")))
}

/// Where tests leave the proof of what they ran on.
#[must_use]
pub fn evidence() -> PathBuf {
    named("TRIBUTARY_EVIDENCE_DIR").unwrap_or_else(|| target().join("test-evidence"))
}

/// A program that some scenarios need beside the binary.
///
/// # Panics
/// If it is not installed: a scenario that is skipped proves nothing.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    found.unwrap_or_else(|| {
        panic!("{name} is not installed: `cargo xtask test` installs what the tests need")
    })
}

fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from)
}

fn present(file: PathBuf) -> PathBuf {
    assert!(
        file.is_file(),
        "{} is missing: run `cargo xtask build`",
        file.display()
    );
    file
}

/// `<target>/<profile>`: test executables lie in its folder `deps`.
fn profile() -> PathBuf {
    let executable = env::current_exe().expect("a test has an executable");
    let deps = executable.parent().expect("a file is in a folder");
    deps.parent()
        .expect("deps is in the profile's folder")
        .to_owned()
}

fn target() -> PathBuf {
    profile()
        .parent()
        .map(Path::to_owned)
        .expect("the profile's folder is in target")
}
