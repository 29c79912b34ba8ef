//! The benchmarks: builds everything as users run it, installs the peers, runs one benchmark after the other, and
//! writes the page in `bench/results`.

mod peers;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup::{self, Scope};
use crate::workspace::Workspace;
use crate::{artefacts, command, output};

/// The program among them that makes the page.
const REPORT: &str = "report";

/// Options of `cargo xtask bench`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Options {
    /// Benchmarks to run, by the names of the files in bench/src/bin [default: all]
    names: Vec<String>,

    /// Measure less, into target/bench-quick: to see that everything runs, not to be quoted
    #[arg(long)]
    quick: bool,
}

/// Runs benchmarks; false when one failed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    let names = chosen(workspace, &options.names)?;
    let recipe = setup::run(workspace, Scope::Build)?;
    let peers = peers::install(workspace)?;
    artefacts::build_for_benchmarks(workspace, &recipe)?;
    let plan = Plan {
        workspace,
        peers,
        quick: options.quick,
    };
    fs::create_dir_all(plan.lines_folder())?;
    let mut done = Vec::new();
    for name in &names {
        match plan.run(name) {
            Ok(lines) => done.push(lines),
            Err(error) => output::failure(&format!("{error:#}")),
        }
    }
    plan.report(&done)?;
    Ok(done.len() == names.len())
}

/// The benchmarks that there are, or those of them that were named.
fn chosen(workspace: &Workspace, named: &[String]) -> Result<Vec<String>> {
    let folder = workspace.root().join("bench/src/bin");
    let files = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let names = files.flatten().filter_map(|file| {
        let name = file.path().file_stem()?.to_str()?.to_owned();
        (name != REPORT).then_some(name)
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    if let Some(unknown) = named.iter().find(|name| !names.contains(name)) {
        bail!(
            "there is no benchmark {unknown}: there are {}",
            names.join(", ")
        );
    }
    Ok(if named.is_empty() {
        names
    } else {
        named.to_vec()
    })
}

/// What all benchmarks of a call have in common.
struct Plan<'a> {
    workspace: &'a Workspace,
    peers: PathBuf,
    quick: bool,
}

impl Plan<'_> {
    /// Runs a benchmark; the file with the lines that it wrote.
    fn run(&self, name: &str) -> Result<PathBuf> {
        println!();
        output::progress("bench", name);
        let started = Instant::now();
        let lines = self.lines_folder().join(format!("{name}.jsonl"));
        let mut program = self.program(name);
        if self.quick {
            program.arg("--quick");
        }
        command::run(program.stdout(File::create(&lines)?))?;
        output::progress(
            "bench",
            format_args!("{name}: {}", output::duration(started.elapsed())),
        );
        Ok(lines)
    }

    /// Makes the page; figures of benchmarks that were not run stay as they are.
    fn report(&self, lines: &[PathBuf]) -> Result<()> {
        println!();
        let results = if self.quick {
            self.lines_folder().join("results")
        } else {
            self.workspace.root().join("bench/results")
        };
        let mut program = self.program(REPORT);
        program.arg("--results").arg(&results).args(lines);
        if !self.quick {
            program
                .arg("--readme")
                .arg(self.workspace.root().join("README.md"));
        }
        command::run(&mut program)?;
        let page = results.join("report.md");
        output::progress(
            "bench",
            format_args!("{}", shown(self.workspace.root(), &page)),
        );
        Ok(())
    }

    /// A program of the benchmarks' workspace, with what it needs to find.
    fn program(&self, name: &str) -> Command {
        let folder = self.workspace.release_folder();
        let mut program = self.workspace.command(folder.join(name));
        program
            .env("TRIBUTARY_BIN", folder.join("tributary"))
            .env("TRIBUTARY_FUNCTIONS_DIR", self.workspace.functions())
            .env("TRIBUTARY_PEERS", &self.peers);
        program
    }

    fn lines_folder(&self) -> PathBuf {
        let name = if self.quick { "bench-quick" } else { "bench" };
        self.workspace.root().join("target").join(name)
    }
}

fn shown(root: &Path, file: &Path) -> String {
    file.strip_prefix(root)
        .unwrap_or(file)
        .display()
        .to_string()
}
