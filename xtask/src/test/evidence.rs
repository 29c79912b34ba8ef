//! Proof that the end-to-end tests ran on what they claim to test.
//!
//! A test that skips itself where something is missing passes, and so does a filter that selects nothing.
//! The tests therefore leave a file for each mode in which they got to their end, and a missing one is a
//! failure.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// A file for each thing that must have run, and what it stands for.
const MODES: [(&str, &str); 3] = [
    ("ebpf", "end-to-end tests on the program in the kernel"),
    ("userspace", "end-to-end tests on the router in the agent"),
    ("wasm", "end-to-end tests on functions in WebAssembly"),
];

/// Forgets earlier runs.
pub(super) fn clear(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(folder),
    }
    .with_context(|| folder.display().to_string())
}

/// Fails when a mode left no file, or an empty one.
pub(super) fn check(folder: &Path) -> Result<()> {
    let ran = |name: &str| fs::metadata(folder.join(name)).is_ok_and(|file| file.len() > 0);
    let missing: Vec<_> = MODES
        .iter()
        .filter(|(name, _)| !ran(name))
        .map(|(_, what)| *what)
        .collect();
    if !missing.is_empty() {
        bail!(
            "did not run: {} (no evidence in {})",
            missing.join("; "),
            folder.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_must_have_left_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let evidence = folder.path().join("evidence");
        clear(&evidence).unwrap();
        assert!(check(&evidence).is_err());
        for (name, _) in MODES {
            fs::write(evidence.join(name), "ran\n").unwrap();
        }
        check(&evidence).unwrap();

        fs::write(evidence.join("ebpf"), "").unwrap();
        let error = check(&evidence).unwrap_err().to_string();
        assert!(
            error.starts_with("did not run: end-to-end tests on the program in the kernel (no"),
            "{error}"
        );

        clear(&evidence).unwrap();
        assert!(!evidence.join("wasm").exists());
    }
}
