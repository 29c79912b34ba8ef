//! Where the compilers for WebAssembly and for the kernel come from.
//!
//! Both targets need a standard library that a fresh toolchain does not have. Where rustup can download, it
//! brings what is missing for the compiler in use. Where it cannot, Debian's `rustc-web` packages carry all
//! of it, beside rustup and without getting in its way.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::needs::{Need, Remedy};
use crate::workspace::Workspace;
use crate::{command, output};

/// The environment variable that takes the choice out of this program's hands.
const CHOICE: &str = "TRIBUTARY_TOOLCHAIN";

/// How long a download by rustup may take before Debian's packages are taken instead.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(120);

/// Debian's compiler, its sources of the standard library, its linker for WebAssembly, and the kernel's core.
const DEBIAN_PACKAGES: [&str; 6] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "rust-web-llvm",
    "libstd-rust-web-dev-bpf",
    "lld-22",
];

/// Where the compilers for the foreign targets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recipe {
    /// The toolchain in use, with a target and a component that rustup adds.
    Rustup,
    /// Debian's `rustc-web` packages.
    Debian,
}

/// A target that the host's toolchain cannot build for by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `wasm32-unknown-unknown`
    Wasm,
    /// `bpfel-unknown-none`
    Kernel,
}

impl Target {
    /// The target's triple.
    pub(crate) fn triple(self) -> &'static str {
        match self {
            Self::Wasm => "wasm32-unknown-unknown",
            Self::Kernel => "bpfel-unknown-none",
        }
    }
}

impl Recipe {
    /// Takes the recipe that is ready, or else the one that can be made ready on this machine.
    pub(super) fn choose(workspace: &Workspace) -> Result<Self> {
        match env::var(CHOICE).as_deref() {
            Ok("rustup") => return Ok(Self::Rustup),
            Ok("debian") => return Ok(Self::Debian),
            Ok(other) if !other.is_empty() => bail!("{CHOICE} is {other:?}: want rustup or debian"),
            _ => {}
        }
        if let Some(ready) = [Self::Rustup, Self::Debian]
            .into_iter()
            .find(|recipe| recipe.missing().is_empty())
        {
            return Ok(ready);
        }
        let target = Target::Wasm.triple();
        if workspace.find("rustup").is_some() {
            output::progress(
                "setup",
                format_args!("{target} is missing: functions are WebAssembly"),
            );
            output::progress("setup", format_args!("rustup target add {target}"));
            let mut add = workspace.command("rustup");
            match command::run_within(add.args(["target", "add", target]), DOWNLOAD_LIMIT) {
                Ok(()) => return Ok(Self::Rustup),
                Err(error) => output::progress(
                    "setup",
                    format_args!("{error}: taking Debian's packages instead"),
                ),
            }
        }
        Ok(Self::Debian)
    }

    /// The recipe in words.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Rustup => "foreign targets by rustup",
            Self::Debian => "foreign targets by Debian's rustc-web",
        }
    }

    /// What this recipe needs and the machine does not have.
    pub(super) fn missing(self) -> Vec<Need> {
        match self {
            Self::Rustup => missing_from_rustup(),
            Self::Debian => missing_from_debian(),
        }
    }

    /// A cargo that builds in release mode for `target`.
    pub(crate) fn cargo(self, workspace: &Workspace, target: Target) -> Command {
        let mut cargo = match self {
            Self::Rustup => workspace.cargo(),
            Self::Debian => {
                let mut cargo = workspace.command("/usr/bin/cargo");
                cargo.env(
                    "PATH",
                    workspace.path(&["/usr/bin", "/usr/lib/llvm-22/bin"]),
                );
                cargo.env("RUSTC", "/usr/bin/rustc");
                // Set by rustup's cargo for its own compiler.
                cargo
                    .env_remove("RUSTUP_TOOLCHAIN")
                    .env_remove("LD_LIBRARY_PATH")
                    .env_remove("RUSTDOC");
                cargo
            }
        };
        cargo.args(["build", "--release", "--target", target.triple()]);
        cargo
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTFLAGS");
        if target == Target::Wasm {
            cargo.env("RUSTFLAGS", self.wasm_flags());
        }
        if let Some(parts) = self.parts_of_std(target) {
            cargo.arg(format!("-Zbuild-std={parts}"));
        }
        if (self, target) != (Self::Rustup, Target::Wasm) {
            // Neither the kernel's target nor building the standard library is a stable feature of the
            // compiler. Sources and compiler come from one place, so they always fit.
            cargo.env("RUSTC_BOOTSTRAP", "1");
        }
        cargo
    }

    /// Words that change when a build by this recipe would give other bytes.
    pub(crate) fn fingerprint(self, workspace: &Workspace) -> Result<[String; 2]> {
        let compiler = match self {
            Self::Rustup => "rustc",
            Self::Debian => "/usr/bin/rustc",
        };
        let version = command::text(workspace.command(compiler).arg("--version"))?;
        Ok([version, self.wasm_flags().to_owned()])
    }

    /// Compiler flags for functions. Those for the kernel stand in `ebpf/sidecar/.cargo/config.toml`, but
    /// which linker to take for WebAssembly depends on where the compiler comes from.
    fn wasm_flags(self) -> &'static str {
        match self {
            Self::Rustup => "-Ctarget-feature=+simd128,+relaxed-simd",
            Self::Debian => "-Ctarget-feature=+simd128,+relaxed-simd -Clinker=rust-lld",
        }
    }

    /// The parts of the standard library that have to be built from source.
    fn parts_of_std(self, target: Target) -> Option<&'static str> {
        match (target, self) {
            (Target::Wasm, Self::Debian) => Some("core,alloc,panic_abort"),
            (Target::Kernel, Self::Rustup) => Some("core"),
            (Target::Wasm, Self::Rustup) | (Target::Kernel, Self::Debian) => None,
        }
    }
}

fn missing_from_rustup() -> Vec<Need> {
    let libraries = sysroot("rustc").map(|sysroot| sysroot.join("lib/rustlib"));
    let has = |part: &str| {
        libraries
            .as_ref()
            .is_some_and(|folder| folder.join(part).exists())
    };
    let mut missing = Vec::new();
    if !has(&format!("{}/lib", Target::Wasm.triple())) {
        missing.push(Need {
            name: "the target wasm32-unknown-unknown".to_owned(),
            why: "functions are WebAssembly",
            remedy: Remedy::Target(Target::Wasm.triple()),
        });
    }
    if !has("src/rust/library/core") {
        missing.push(Need {
            name: "rust-src".to_owned(),
            why: "the sidecar is a kernel program, and its core library is built from source",
            remedy: Remedy::Component("rust-src"),
        });
    }
    missing
}

fn missing_from_debian() -> Vec<Need> {
    let packages: Vec<_> = DEBIAN_PACKAGES
        .into_iter()
        .filter(|package| !is_installed(package))
        .collect();
    if packages.is_empty() {
        return Vec::new();
    }
    vec![Need {
        name: format!(
            "a compiler for WebAssembly and the kernel (Debian packages {})",
            packages.join(", ")
        ),
        why: "functions are WebAssembly, and the sidecar is a kernel program",
        remedy: Remedy::Packages(packages),
    }]
}

/// Whether dpkg has installed a package: it keeps the checksums of a package's files as long as they are
/// there. (Asking `dpkg-query` would cost more time than everything else that is looked at.)
fn is_installed(package: &str) -> bool {
    let info = Path::new("/var/lib/dpkg/info");
    let sums = |name: String| info.join(name).is_file();
    sums(format!("{package}.md5sums"))
        || sums(format!("{package}:{}.md5sums", debian_architecture()))
}

fn debian_architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn sysroot(compiler: &str) -> Option<PathBuf> {
    let output = Command::new(compiler)
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}
