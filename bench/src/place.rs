//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The top folder of the clone.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The `tributary` binary: `$TRIBUTARY_BIN`, or that of the clone's release build.
///
/// # Errors
/// If there is none.
pub fn binary() -> Result<PathBuf> {
    let built = || {
        let target =
            env::var_os("TRIBUTARY_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        root().join(target).join("release/tributary")
    };
    let binary = env::var_os("TRIBUTARY_BIN").map_or_else(built, PathBuf::from);
    if !binary.is_file() {
        bail!(
            "{} is not there: run `cargo xtask build` and `cargo build --release -p tributary`",
            binary.display()
        );
    }
    Ok(binary)
}

/// A function's module: in `$TRIBUTARY_FUNCTIONS_DIR`, or where `cargo xtask build` puts it.
///
/// # Errors
/// If it is not there.
pub fn function(name: &str) -> Result<PathBuf> {
    let folder = env::var_os("TRIBUTARY_FUNCTIONS_DIR")
        .map_or_else(|| root().join("target/functions"), PathBuf::from);
    let module = folder.join(format!("{name}.wasm"));
    if !module.is_file() {
        bail!("{} is not there: run `cargo xtask build`", module.display());
    }
    Ok(module)
}

/// `nats-server`: `$TRIBUTARY_NATS_SERVER`, that of the peers, or the one that `cargo xtask setup` installs.
///
/// # Errors
/// If there is none.
pub fn nats_server() -> Result<PathBuf> {
    if let Some(given) = env::var_os("TRIBUTARY_NATS_SERVER") {
        return Ok(given.into());
    }
    let peers = peers()?;
    let tools = peers.parent().unwrap_or(&peers).join("tools/bin");
    let folders = [peers.join("venv/bin"), tools];
    let mut programs = folders.iter().map(|folder| folder.join("nats-server"));
    match programs.find(|program| program.is_file()) {
        Some(program) => Ok(program),
        None => bail!("nats-server is not there: `cargo xtask setup` installs it"),
    }
}

/// The folder into which `cargo xtask bench` installs peers: `$TRIBUTARY_PEERS`, or in the cache folder.
///
/// # Errors
/// If neither cache nor home folder is known.
pub fn peers() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("TRIBUTARY_PEERS") {
        return Ok(folder.into());
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from);
    let Some(cache) = cache.or_else(|| env::home_dir().map(|home| home.join(".cache"))) else {
        bail!("neither XDG_CACHE_HOME nor HOME is set: where are the peers?");
    };
    Ok(cache.join("tributary/peers"))
}
