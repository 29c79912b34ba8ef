//! Where state is kept if nobody says where.

use std::{env, path::PathBuf};

use anyhow::Context as _;

/// `given`, else `$XDG_STATE_HOME/tributary`, else `~/.local/state/tributary`.
pub(crate) fn state_dir(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(directory) = given {
        return Ok(directory);
    }
    // The XDG specification: a path that is not absolute is to be ignored.
    let xdg = env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let base = xdg
        .or_else(home)
        .context("neither XDG_STATE_HOME nor HOME is set; give --state-dir")?;
    Ok(base.join("tributary"))
}
