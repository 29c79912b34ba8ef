//! Puts the kernel program where `src/ebpf/sidecar.rs` embeds it from.
//!
//! The program is built apart (see `ebpf/sidecar/README.md`), and before this crate. Without it an empty file is
//! embedded, so that `cargo check` works anywhere; the router then says what is missing.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

const NAME: &str = "tributary-sidecar";
const OVERRIDE: &str = "TRIBUTARY_SIDECAR_ELF";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    let program = match env::var_os(OVERRIDE) {
        Some(path) => PathBuf::from(path),
        None => default_path()?,
    };
    let embedded = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join(NAME);
    if program.is_file() {
        println!("cargo::rerun-if-changed={}", program.display());
        fs::copy(&program, &embedded)?;
    } else {
        watch_folder_of(&program);
        fs::write(&embedded, [])?;
    }
    Ok(())
}

/// `<workspace>/target/sidecar/tributary-sidecar`, with its folder made.
fn default_path() -> io::Result<PathBuf> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let folder = manifest.join("../../target/sidecar");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(NAME))
}

/// Cargo takes a watched file that does not exist for one that always changes, and would build this crate again
/// each time. The folder changes when the file appears.
fn watch_folder_of(program: &Path) {
    let watched = program
        .parent()
        .filter(|folder| folder.is_dir())
        .unwrap_or(program);
    println!("cargo::rerun-if-changed={}", watched.display());
}
