//! Puts the kernel program where `src/ebpf/sidecar.rs` embeds it from.
//!
//! The program is built apart (see `ebpf/sidecar/README.md`), and before this crate. Without it an empty file is
//! embedded, so that `cargo check` works anywhere; the router then says what is missing.

use std::{env, fs, io, path::PathBuf};

const NAME: &str = "tributary-sidecar";
const OVERRIDE: &str = "TRIBUTARY_SIDECAR_ELF";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    let given = env::var_os(OVERRIDE).map(PathBuf::from);
    let is_given = given.is_some();
    let program = match given {
        Some(path) => path,
        None => default_path()?,
    };
    let embedded = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join(NAME);
    if program.is_file() {
        println!("cargo::rerun-if-changed={}", program.display());
        fs::copy(&program, &embedded)?;
        return Ok(());
    }
    // Cargo takes a watched file that does not exist for one that always changes, and would build this crate
    // again each time; so the folder is watched, which changes when the file appears. Only our own folder:
    // cargo walks all that a watched folder holds, and the parent of a given path may hold the world.
    if is_given {
        println!(
            "cargo::warning={OVERRIDE} names {}, which is no file",
            program.display()
        );
    } else if let Some(folder) = program.parent() {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    fs::write(&embedded, [])
}

/// `<workspace>/target/sidecar/tributary-sidecar`, with its folder made.
fn default_path() -> io::Result<PathBuf> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let folder = manifest.join("../../target/sidecar");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(NAME))
}
