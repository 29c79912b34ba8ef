//! Tells whether an artefact is up to date: by the content of what it is made from.
//!
//! Content and not time stamps, because a fresh clone has new time stamps on old files.

use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A hash over files, their names, and words such as compiler versions and flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint of everything in `folder` except build output, and of `words`.
    pub(crate) fn of(folder: &Path, words: &[&str]) -> Result<Self> {
        let mut files = Vec::new();
        collect(folder, &mut files)?;
        files.sort();
        // Not a hash for ever: another standard library may hash otherwise, which costs one more build.
        let mut hasher = DefaultHasher::new();
        words.hash(&mut hasher);
        for file in files {
            file.strip_prefix(folder).unwrap_or(&file).hash(&mut hasher);
            fs::read(&file)
                .with_context(|| file.display().to_string())?
                .hash(&mut hasher);
        }
        Ok(Self(format!("{:016x}\n", hasher.finish())))
    }

    /// Whether `stamp` was written by [`Fingerprint::record`] with the same fingerprint.
    pub(crate) fn matches(&self, stamp: &Path) -> bool {
        fs::read_to_string(stamp).is_ok_and(|recorded| recorded == self.0)
    }

    /// Notes in `stamp` that the artefact has been made. Call it after the artefact is in its place.
    pub(crate) fn record(&self, stamp: &Path) -> Result<()> {
        fs::write(stamp, &self.0).with_context(|| stamp.display().to_string())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.trim_end())
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with('.') && name != ".cargo";
        if name == "target" || name == "__pycache__" || hidden {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Copies `from` to `to` in one step, so that nobody reads half a file; leaves `to` alone when it has the
/// same content, so that nothing made from it is made again.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<()> {
    let content = fs::read(from).with_context(|| from.display().to_string())?;
    if fs::read(to).is_ok_and(|current| current == content) {
        return Ok(());
    }
    let part = to.with_extension("part");
    fs::write(&part, content).with_context(|| part.display().to_string())?;
    fs::rename(&part, to).with_context(|| to.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("sdk/src")).unwrap();
        fs::write(folder.path().join("Cargo.toml"), "[workspace]").unwrap();
        fs::write(folder.path().join("sdk/src/lib.rs"), "//! the sdk").unwrap();
        folder
    }

    fn fingerprint(folder: &tempfile::TempDir) -> Fingerprint {
        Fingerprint::of(folder.path(), &["rustc 1", "--release"]).unwrap()
    }

    #[test]
    fn the_same_content_elsewhere_is_the_same() {
        assert_eq!(fingerprint(&sources()), fingerprint(&sources()));
    }

    #[test]
    fn every_change_counts() {
        let folder = sources();
        let before = fingerprint(&folder);
        assert_ne!(
            before,
            Fingerprint::of(folder.path(), &["rustc 2", "--release"]).unwrap()
        );
        assert_ne!(
            before,
            Fingerprint::of(folder.path(), &["rustc 1--release"]).unwrap()
        );

        fs::write(folder.path().join("sdk/src/lib.rs"), "//! the SDK").unwrap();
        let edited = fingerprint(&folder);
        assert_ne!(before, edited);

        fs::rename(
            folder.path().join("sdk/src/lib.rs"),
            folder.path().join("sdk/src/main.rs"),
        )
        .unwrap();
        let renamed = fingerprint(&folder);
        assert_ne!(edited, renamed);

        fs::create_dir(folder.path().join(".cargo")).unwrap();
        fs::write(folder.path().join(".cargo/config.toml"), "").unwrap();
        assert_ne!(renamed, fingerprint(&folder));
    }

    #[test]
    fn build_output_does_not_count() {
        let folder = sources();
        let before = fingerprint(&folder);
        fs::create_dir(folder.path().join("target")).unwrap();
        fs::write(folder.path().join("target/output"), "made").unwrap();
        fs::write(folder.path().join(".swp"), "an editor's").unwrap();
        assert_eq!(before, fingerprint(&folder));
    }

    #[test]
    fn a_stamp_matches_only_what_it_recorded() {
        let folder = sources();
        let stamps = tempfile::tempdir().unwrap();
        let stamp = stamps.path().join("stamp");
        let before = fingerprint(&folder);
        assert!(!before.matches(&stamp));
        before.record(&stamp).unwrap();
        assert!(before.matches(&stamp));
        fs::write(folder.path().join("more"), "").unwrap();
        assert!(!fingerprint(&folder).matches(&stamp));
    }

    #[test]
    fn publishing_the_same_content_touches_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, "one").unwrap();
        publish(&from, &to).unwrap();
        let made = fs::metadata(&to).unwrap().modified().unwrap();
        publish(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), made);
        fs::write(&from, "two").unwrap();
        publish(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
        assert!(!folder.path().join("to.part").exists());
    }
}
