//! The steps of `cargo xtask test`, cheapest first.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{evidence, python};
use crate::demo;
use crate::setup::Recipe;
use crate::workspace::Workspace;
use crate::{artefacts, command};

/// What steps work on.
pub(super) struct Context<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) recipe: Recipe,
}

/// One check.
pub(super) struct Step {
    pub(super) name: &'static str,
    /// Nothing after it makes sense when it fails.
    pub(super) vital: bool,
    pub(super) run: fn(&Context) -> Result<()>,
}

/// All steps, in order.
pub(super) const STEPS: &[Step] = &[
    step("format", format),
    Step {
        name: "build",
        vital: true,
        run: build,
    },
    step("lints", lints),
    step("dependencies (cargo deny)", dependencies),
    step("manifests (tributary validate)", manifests),
    step("alert rules and dashboard (promtool)", alert_rules),
    step(
        "unit, property, conformance and end-to-end tests (cargo nextest)",
        nextest,
    ),
    step("both sidecars and the functions really ran", both_ran),
    step("documentation tests", documentation),
    step("functions' own tests", functions),
    step("concurrency model (loom)", loom),
    step("Python client (ruff, mypy, pytest)", python::check),
    step("demonstration", demonstration),
];

const fn step(name: &'static str, run: fn(&Context) -> Result<()>) -> Step {
    Step {
        name,
        vital: false,
        run,
    }
}

const WARNINGS_ARE_ERRORS: [&str; 3] = ["--", "--deny", "warnings"];

fn format(context: &Context) -> Result<()> {
    let workspaces = [
        "Cargo.toml",
        "bench/Cargo.toml",
        "functions/Cargo.toml",
        "ebpf/sidecar/Cargo.toml",
    ];
    let unformatted = workspaces.into_iter().filter(|manifest| {
        let mut cargo = context.workspace.cargo();
        command::run(cargo.args(["fmt", "--all", "--check", "--manifest-path", manifest])).is_err()
    });
    let unformatted: Vec<_> = unformatted.collect();
    if !unformatted.is_empty() {
        bail!(
            "not formatted: run `cargo fmt --all --manifest-path` for {}",
            unformatted.join(", ")
        );
    }
    Ok(())
}

fn build(context: &Context) -> Result<()> {
    artefacts::build(context.workspace, &context.recipe)?;
    Ok(())
}

fn lints(context: &Context) -> Result<()> {
    let mut cargo = context.workspace.cargo();
    cargo
        .args(["clippy", "--workspace", "--all-targets"])
        .args(WARNINGS_ARE_ERRORS);
    command::run(&mut cargo)?;
    let mut cargo = context.workspace.cargo();
    cargo
        .args(["clippy", "--workspace", "--lib"])
        .args(["--features", "tributary-node/failpoints"])
        .args(WARNINGS_ARE_ERRORS);
    command::run(&mut cargo)?;
    let mut cargo = functions_cargo(context);
    command::run(
        cargo
            .args(["clippy", "--all-targets"])
            .args(WARNINGS_ARE_ERRORS),
    )?;
    Ok(())
}

fn dependencies(context: &Context) -> Result<()> {
    let mut cargo = context.workspace.cargo();
    command::run(cargo.args([
        "deny",
        "--all-features",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))?;
    advisories(context)
}

/// Advisories change without a change here, and their database is fetched from the network.
fn advisories(context: &Context) -> Result<()> {
    const PATIENCE: &str = "60";
    let mut fetch = context.workspace.command("timeout");
    if !command::succeeds(fetch.args([PATIENCE, "cargo", "deny", "fetch", "db"])) {
        println!("advisories were not checked: their database cannot be fetched here");
        return Ok(());
    }
    let mut cargo = context.workspace.cargo();
    command::run(cargo.args(["deny", "--all-features", "--offline", "check", "advisories"]))
}

fn manifests(context: &Context) -> Result<()> {
    let mut command = context.workspace.command(context.workspace.binary());
    command.args([
        "validate",
        "-f",
        "manifests/functions.yaml",
        "-f",
        "manifests/digits.yaml",
        "-f",
        "manifests/digits-async.yaml",
        "-f",
        "manifests/tenants.yaml",
    ]);
    command::run(&mut command)?;
    Ok(())
}

fn alert_rules(context: &Context) -> Result<()> {
    let promtool = |arguments: &[&str]| {
        let mut command = context.workspace.command("promtool");
        command::run(
            command
                .current_dir(context.workspace.root().join("manifests/prometheus"))
                .args(arguments),
        )
    };
    promtool(&["check", "config", "prometheus.yml"])?;
    promtool(&["test", "rules", "alerts.test.yml"])?;
    let mut rules = tempfile::NamedTempFile::new()?;
    rules.write_all(dashboard_as_rules(context.workspace.root())?.as_bytes())?;
    promtool(&["check", "rules", &rules.path().to_string_lossy()])
}

/// The dashboard's expressions as recording rules, whose language promtool checks.
fn dashboard_as_rules(root: &Path) -> Result<String> {
    let expressions = dashboard_expressions(root)?;
    let rules = expressions.iter().enumerate().map(|(number, expression)| {
        // What Grafana puts in the place of its variables.
        let expression = expression.replace("$__rate_interval", "5m");
        let expression = expression.replace("$job", ".*");
        json!({ "record": format!("expression:{number}"), "expr": expression })
    });
    let rules: Vec<_> = rules.collect();
    // JSON is YAML as well.
    Ok(json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string())
}

fn dashboard_expressions(root: &Path) -> Result<Vec<String>> {
    let dashboard = fs::read_to_string(root.join("manifests/grafana/tributary.json"))?;
    let dashboard: Value = serde_json::from_str(&dashboard)?;
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions = targets.filter_map(|target| target["expr"].as_str());
    Ok(expressions.map(str::to_owned).collect())
}

fn nextest(context: &Context) -> Result<()> {
    evidence::clear(&context.workspace.evidence())?;
    build_with_failpoints(context)?;
    let mut cargo = context.workspace.cargo();
    cargo.args(["nextest", "run", "--workspace"]);
    if std::env::var_os("CI").is_some() {
        cargo.args(["--profile", "ci"]);
    }
    // A machine that cannot load the sidecar must fail here, not skip.
    cargo.env("TRIBUTARY_REQUIRE_EBPF", "1");
    // Nor may one without a NATS server.
    cargo.env("TRIBUTARY_REQUIRE_NATS", "1");
    cargo.env("TRIBUTARY_BIN", context.workspace.binary());
    cargo.env(
        "TRIBUTARY_FAILPOINTS_BIN",
        context.workspace.binary_with_failpoints(),
    );
    cargo.env("TRIBUTARY_FUNCTIONS_DIR", context.workspace.functions());
    cargo.env("TRIBUTARY_EVIDENCE_DIR", context.workspace.evidence());
    command::run(&mut cargo)?;
    Ok(())
}

/// The same program once more, for the chaos tests; it never takes the ordinary one's place.
fn build_with_failpoints(context: &Context) -> Result<()> {
    let mut cargo = context.workspace.cargo();
    cargo
        .args(["build", "--package", "tributary"])
        .args(["--bin", "tributary-failpoints"])
        .args(["--features", "failpoints"]);
    command::run(&mut cargo)
}

fn both_ran(context: &Context) -> Result<()> {
    evidence::check(&context.workspace.evidence())?;
    Ok(())
}

fn documentation(context: &Context) -> Result<()> {
    command::run(
        context
            .workspace
            .cargo()
            .args(["test", "--workspace", "--doc", "--quiet"]),
    )?;
    Ok(())
}

fn functions(context: &Context) -> Result<()> {
    command::run(functions_cargo(context).args(["test", "--quiet"]))?;
    Ok(())
}

/// Cargo for the functions' workspace, building for the host.
fn functions_cargo(context: &Context) -> Command {
    let mut cargo = context.workspace.cargo();
    cargo.current_dir(context.workspace.root().join("functions"));
    cargo.env(
        "CARGO_TARGET_DIR",
        context.workspace.cargo_target("functions-host"),
    );
    cargo
}

fn loom(context: &Context) -> Result<()> {
    let mut cargo = context.workspace.cargo();
    cargo.args([
        "test",
        "--package",
        "tributary-arena",
        "--release",
        "--lib",
        "loom",
    ]);
    cargo.env("RUSTFLAGS", "--cfg loom");
    cargo.env("CARGO_TARGET_DIR", context.workspace.cargo_target("loom"));
    let output = command::text(&mut cargo)?;
    print!("{output}");
    if output.contains("running 0 tests") {
        bail!("tributary-arena has no loom test: the filter or the cfg has lost them");
    }
    Ok(())
}

fn demonstration(context: &Context) -> Result<()> {
    if !demo::run_built(context.workspace, &demo::Options::default())? {
        bail!("the demonstration failed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Words of `text` that could be names of metrics.
    fn metrics(text: &str) -> BTreeSet<&str> {
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        words
            .filter(|word| word.starts_with("tributary_"))
            .collect()
    }

    fn sources(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, text);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    /// promtool checks the language, but a rule on a metric that nobody writes never fires, and a panel shows nothing.
    #[track_caller]
    fn exist(text: &str, at_least: usize) {
        let mut written = String::new();
        for folder in ["runtime/node/src", "controller/src"] {
            sources(&root().join(folder), &mut written);
        }
        let (used, written) = (metrics(text), metrics(&written));
        assert!(used.len() >= at_least, "{used:?}");
        let is_written = |name: &str| {
            let parts = ["_bucket", "_count", "_sum"].into_iter();
            let mut families = parts.filter_map(|part| name.strip_suffix(part));
            written.contains(name) || families.any(|family| written.contains(family))
        };
        let unknown: Vec<_> = used.into_iter().filter(|name| !is_written(name)).collect();
        assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
    }

    #[test]
    fn alert_rules_use_metrics_that_exist() {
        let rules = fs::read_to_string(root().join("manifests/prometheus/alerts.yml")).unwrap();
        exist(&rules, 9);
    }

    #[test]
    fn the_dashboard_uses_metrics_that_exist() {
        let expressions = dashboard_expressions(root()).unwrap();
        exist(&expressions.join("\n"), 13);
        let every = expressions
            .iter()
            .all(|expression| metrics(expression).len() == 1);
        assert!(every, "one of them has no metric: {expressions:?}");
    }
}
