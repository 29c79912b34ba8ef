//! Where things are: the sources, the artefacts, the tools.
//!
//! Artefacts that other parts look for by path (`target/functions`, `target/sidecar`) always lie in the
//! workspace's own `target`, so that manifests and build scripts find them without being told. What cargo
//! keeps between builds lies in `CARGO_TARGET_DIR` when that is set, as CI does to keep it between clones.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The workspace's folders.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    cargo_target: PathBuf,
    cache: PathBuf,
    tools: PathBuf,
}

impl Workspace {
    /// Finds the workspace that this program was called in.
    pub(crate) fn locate() -> Result<Self> {
        // Not `env!`: with a target folder that several clones share, the path of another clone could have
        // been compiled in.
        let start = match env::var_os("CARGO_MANIFEST_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => env::current_dir().context("current folder")?,
        };
        let is_root = |folder: &&Path| folder.join("xtask/Cargo.toml").is_file();
        let Some(root) = start.ancestors().find(is_root) else {
            bail!(
                "{} is not inside the workspace: call `cargo xtask` from a clone",
                start.display()
            );
        };
        let cargo_target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        let cache = cache_folder()?.join("tributary");
        Ok(Self {
            root: root.to_owned(),
            cargo_target: root.join(cargo_target),
            tools: cache.join("tools"),
            cache,
        })
    }

    /// The top folder of the sources.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `target/functions`, which holds the functions as `<name>.wasm`.
    pub(crate) fn functions(&self) -> PathBuf {
        self.root.join("target/functions")
    }

    /// `target/sidecar`, which holds the kernel program.
    pub(crate) fn sidecar(&self) -> PathBuf {
        self.root.join("target/sidecar")
    }

    /// `target/test-evidence`, in which end-to-end tests leave a file for every mode that really ran.
    pub(crate) fn evidence(&self) -> PathBuf {
        self.root.join("target/test-evidence")
    }

    /// The built binary.
    pub(crate) fn binary(&self) -> PathBuf {
        self.cargo_target.join("debug/tributary")
    }

    /// The same program with failpoints, for the chaos tests.
    pub(crate) fn binary_with_failpoints(&self) -> PathBuf {
        self.cargo_target.join("debug/tributary-failpoints")
    }

    /// Cargo's folder for builds of the workspace and of the benchmarks: they share what they compile.
    pub(crate) fn target_folder(&self) -> &Path {
        &self.cargo_target
    }

    /// Where programs lie that were built for release.
    pub(crate) fn release_folder(&self) -> PathBuf {
        self.cargo_target.join("release")
    }

    /// Cargo's folder for a build with other flags or another compiler than the workspace's own.
    pub(crate) fn cargo_target(&self, name: &str) -> PathBuf {
        self.cargo_target.join("xtask").join(name)
    }

    /// The folder for what is installed once for all clones.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// Where tools that this program built itself are installed.
    pub(crate) fn tools(&self) -> &Path {
        &self.tools
    }

    /// A command in the workspace's top folder that finds installed tools.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).env("PATH", self.path(&[]));
        // `cargo run` describes this package to this process; other packages' builds must not see it.
        for (name, _) in env::vars_os() {
            let cargos_own = [
                "CARGO_PKG_",
                "CARGO_MANIFEST_",
                "CARGO_CRATE_",
                "CARGO_BIN_",
                "CARGO_PRIMARY_",
            ];
            if cargos_own
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        command
    }

    /// The cargo that runs this program.
    pub(crate) fn cargo(&self) -> Command {
        self.command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// `PATH` with `first` and the tools' folder in front, and with the system's folders at the end.
    pub(crate) fn path(&self, first: &[&str]) -> OsString {
        let inherited = env::var_os("PATH").unwrap_or_default();
        let folders = first
            .iter()
            .map(PathBuf::from)
            .chain([self.tools.join("bin")])
            .chain(env::split_paths(&inherited))
            .chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
        // A folder whose name has a colon cannot stand in PATH; none of those added here has one.
        env::join_paths(folders).unwrap_or(inherited)
    }

    /// The full path of `program`, when it is installed.
    pub(crate) fn find(&self, program: &str) -> Option<PathBuf> {
        env::split_paths(&self.path(&[]))
            .map(|folder| folder.join(program))
            .find(|file| file.is_file())
    }
}

fn cache_folder() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let home = env::home_dir()
        .context("neither XDG_CACHE_HOME nor HOME is set: nowhere to install tools")?;
    Ok(home.join(".cache"))
}
