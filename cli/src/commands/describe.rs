//! `tributary describe`.

use std::fmt::Write as _;

use serde::Serialize;
use tributary_api::{
    Name,
    fleet::{BypassedNode, NodeEntry, PlacementDescription},
    manifest::{Closing, JobManifest, Staleness, StalenessWeight, Timer, UpdateBounds},
    placement::{BUCKETS, Duty},
    status::{
        AutoscalerStatus, FunctionStatus, JobPhase, JobStatus, PlanStatus, RoundPhase, RoundStatus,
        TenantStatus,
    },
};

use super::get;
use crate::{
    args::Describe,
    client::Client,
    failure::Failure,
    output::{Output, Table, bytes, seconds},
};

/// The rounds that are shown of a job.
const ROUNDS_SHOWN: usize = 5;

/// Everything about a job.
#[derive(Debug, Serialize)]
struct JobDescription {
    status: JobStatus,
    manifest: JobManifest,
    /// If the job is one of several nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    placement: Option<PlacementDescription>,
    rounds: Vec<RoundStatus>,
}

/// Lines of a label and a value.
#[derive(Debug, Default)]
struct Lines(String);

pub(crate) fn run(client: &Client, output: &Output, what: Describe) -> Result<(), Failure> {
    match what {
        Describe::Job { name } => output.write(&fetch_job(client, &name)?, job),
        Describe::Function { name } => {
            output.write(&client.get(&format!("/v1/functions/{name}"))?, function)
        }
        Describe::Tenant { name } => {
            output.write(&client.get(&format!("/v1/tenants/{name}"))?, tenant)
        }
        Describe::Node { name } => {
            let nodes: Vec<NodeEntry> = client.get("/v1/nodes")?;
            let found = nodes.into_iter().find(|node| node.status.name == name);
            let found = found.ok_or_else(|| {
                Failure::NotFound(format!(
                    "there is no node {name}; `tributary get nodes` lists them"
                ))
            })?;
            output.write(&found, node)
        }
    }
}

fn fetch_job(client: &Client, name: &Name) -> Result<JobDescription, Failure> {
    let mut status = get::job(client, name)?;
    let manifest = client.get(&format!("/v1/jobs/{name}/manifest"))?;
    let rounds: Vec<RoundStatus> = match client.get(&format!("/v1/jobs/{name}/rounds")) {
        Ok(rounds) => rounds,
        // No node runs the job: there is nothing to tell of its rounds.
        Err(Failure::Problem(problem)) if matches!(problem.status, 404 | 503) => Vec::new(),
        Err(failure) => return Err(failure),
    };
    let placement = match &status.placement {
        Some(_) => Some(client.get(&format!("/v1/jobs/{name}/placement"))?),
        None => None,
    };
    follow(&mut status, &rounds);
    let mut rounds = rounds;
    rounds.truncate(ROUNDS_SHOWN);
    Ok(JobDescription {
        status,
        manifest,
        placement,
        rounds,
    })
}

/// A controller's status is as old as the node's last beat; the rounds come from the node itself. What both tell of the open
/// round is told as the node has it.
fn follow(status: &mut JobStatus, rounds: &[RoundStatus]) {
    let is_open =
        |round: &&RoundStatus| matches!(round.phase, RoundPhase::Open | RoundPhase::Closing);
    if let Some(open) = rounds.first().filter(is_open) {
        (status.version, status.accepted) = (open.round, open.accepted);
    }
}

fn job(description: &JobDescription) -> String {
    let JobDescription {
        status,
        manifest,
        placement,
        rounds,
    } = description;
    let (spec, mut lines) = (&manifest.spec, Lines::default());
    lines.add("Job", &status.name);
    lines.add("Phase", status.phase);
    lines.add("Revision", status.revision);
    lines.add(
        "Function",
        format!(
            "{} (revision {})",
            status.function, status.function_revision
        ),
    );
    if !spec.function.config.is_empty() {
        lines.add(
            "  Config",
            serde_json::Value::Object(spec.function.config.clone()),
        );
    }
    if let Some(accumulate) = spec.accumulate_asked() {
        lines.add("  Accumulate", accumulate);
    }
    lines.add("Determinism", spec.determinism);
    lines.add("Tenant", &spec.tenant);
    if let Some(sharing) = &status.sharing {
        lines.add("  Weight", sharing.weight);
    }
    if spec.priority != 0 {
        lines.add("  Priority", spec.priority);
    }
    let model = format!(
        "{} parameters, {}",
        status.parameters,
        bytes(status.model_bytes)
    );
    lines.add("Model", format!("version {}, {model}", status.version));
    if status.phase == JobPhase::Running {
        lines.add(
            "Round",
            format!(
                "{}: {} of {} updates",
                get::round(status),
                status.accepted,
                status.expected
            ),
        );
    }
    lines.add("  Closes", closes(spec.closing()));
    lines.add("  Timeout", spec.timeout());
    if let Some(allowed) = spec.round.staleness {
        lines.add("  Takes", stale(allowed));
    }
    lines.add(
        "Clients",
        format!("at most {} in a round", spec.clients.max),
    );
    if let Some(UpdateBounds {
        weight_min,
        weight_max,
        exact,
    }) = status.bounds
    {
        lines.add(
            "Updates",
            format!("weights from {weight_min:e} to {weight_max:e}"),
        );
        if let Some(exact) = exact {
            let most = format!("weight times value up to {:e}", exact.product_max);
            lines.add("  Exact", most);
        }
    }
    if let Some(fan_in) = spec.tree.fan_in {
        lines.add("Fan-in", fan_in);
    }
    match spec.keep_alive {
        Some(keep_alive) => lines.add("Keep-alive", keep_alive),
        None => lines.add("Keep-alive", "as the autoscaler decides"),
    }
    lines.add("Node", status.node.as_deref().unwrap_or("none"));
    lines.add("Workers", workers(status, spec.keep_alive.is_some()));
    if let Some(arena) = &status.arena {
        lines.add(
            "Arena",
            format!(
                "{}: {} of {} slots free, {} touched so far",
                arena.segment,
                arena.free,
                arena.slots,
                bytes(arena.bytes)
            ),
        );
        lines.add("  At most", bound(&arena.plan));
        lines.add("  Folded", folded(&arena.plan));
    }
    if let Some(error) = &status.last_error {
        lines.add("Last error", error);
    }
    if let Some(placement) = placement {
        lines.add(
            "Placement",
            format!("{}: {}", placement.generation, placement.reason),
        );
        lines.0 += "\nNodes:\n";
        lines.0 += &members(placement);
    }
    if !rounds.is_empty() {
        lines.0 += "\nNewest rounds:\n";
        lines.0 += &get::rounds(rounds);
    }
    lines.0
}

/// Those that there are, and what the node's autoscaler says to that: `2 of 3 wished, planned`. Of workers that stay for
/// a `fixed` time it says only when the node is too small for them.
fn workers(status: &JobStatus, fixed: bool) -> String {
    let there = status.workers;
    let decided = status.autoscaler.as_ref();
    match decided.filter(|decided| !fixed || decided.reason == "node_full") {
        None => there.to_string(),
        Some(AutoscalerStatus { wished, reason, .. }) => {
            format!("{there} of {wished} wished, {}", reason.replace('_', " "))
        }
    }
}

/// Each node's part.
fn members(placement: &PlacementDescription) -> String {
    let mut table = Table::new(&[
        "NODE",
        "PART",
        "DUTY",
        "UPDATES",
        "HOME OF",
        "FOLLOWS",
        "FOLD",
        "HAND-OVER",
        "TRANSFER",
        "VERDICT",
        "URL",
    ]);
    let took = |microseconds: Option<u64>| seconds(microseconds.map(|time| time as f64 / 1e6));
    for member in &placement.members {
        let leads = placement.leader.as_ref() == Some(&member.node);
        let duty = match member.duty {
            Duty::Serving => "serving",
            Duty::Draining => "draining",
        };
        let share = f64::from(member.buckets) * 100.0 / BUCKETS as f64;
        let follows = member.generation.map(|generation| generation.to_string());
        table.row(vec![
            member.node.to_string(),
            if leads { "leader" } else { "follower" }.into(),
            duty.into(),
            member.expected.to_string(),
            format!("{share:.1} %"),
            follows.unwrap_or_else(|| "-".into()),
            took(member.stages.fold_microseconds),
            took(member.stages.hand_over_microseconds),
            took(member.stages.transfer_microseconds),
            member.verdict.to_string(),
            member.url.clone(),
        ]);
    }
    let why = placement.members.iter().filter_map(|member| {
        let why = member.why.as_ref()?;
        Some(format!("{} is slow: {why}\n", member.node))
    });
    let without = placement.bypassed.iter().map(|bypassed| {
        let BypassedNode { node, until, times } = bypassed;
        let count = match times {
            1 => "once".into(),
            times => format!("{times} times"),
        };
        format!("{node} is bypassed until round {until}, {count} since it was well\n")
    });
    why.chain(without)
        .fold(table.to_string(), |text, line| text + &line)
}

/// The most memory that the job takes, with the arithmetic.
fn bound(plan: &PlanStatus) -> String {
    format!(
        "{} = {} slots for models and {} for updates of {} + {} for partials of {} + {} of tables and padding",
        bytes(plan.bytes_max),
        plan.model_slots,
        plan.update_slots,
        bytes(plan.slot_bytes),
        plan.partial_slots,
        bytes(plan.partial_slot_bytes),
        bytes(plan.other_bytes),
    )
}

fn folded(plan: &PlanStatus) -> String {
    let PlanStatus { lanes, threads, .. } = plan;
    let how = if plan.in_place {
        "in place, under an undo journal"
    } else {
        "into a second accumulator"
    };
    let seen = if plan.by_windows {
        "; the arena is seen by windows, so updates in i8 or sparse are not taken"
    } else {
        ""
    };
    let many = |count: u32, one: &str, more: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {more}"),
    };
    let (leaves, threads) = (
        many(*lanes, "leaf", "leaves"),
        many(*threads, "thread", "threads"),
    );
    format!("by {leaves} side by side, with {threads} each; {how}{seen}")
}

fn closes(closing: Closing) -> String {
    let Closing { full, timer } = closing;
    match timer {
        None => format!("with {full} updates"),
        Some(Timer::Deadline(after, quorum)) => {
            format!("with {full} updates, or {after} after the first with at least {quorum}")
        }
        Some(Timer::Window(after)) => {
            format!("with {full} updates, or {after} after it opened with at least one")
        }
    }
}

fn stale(allowed: Staleness) -> String {
    let Staleness { max, weight, a, b } = allowed;
    let a = a.unwrap_or(Staleness::A);
    let weight = match weight {
        StalenessWeight::Constant => "counted in full".into(),
        StalenessWeight::Polynomial => format!("weighed by (1 + t)^-{a}"),
        StalenessWeight::Hinge => {
            let b = b.unwrap_or_default();
            format!("weighed by 1 / ({a} (t - {b}) + 1) from t = {b} on")
        }
    };
    format!("updates up to {max} versions old, {weight}")
}

fn function(function: &FunctionStatus) -> String {
    let mut lines = Lines::default();
    lines.add("Function", &function.name);
    lines.add("Revision", function.revision);
    lines.add("Module", function.digest);
    lines.add("Algebra", function.algebra.as_str());
    lines.add(
        "Limits",
        format!(
            "{} of memory, {} for a call",
            function.limits.memory, function.limits.deadline
        ),
    );
    let Some(description) = &function.description else {
        lines.add("Partial", "proven with a job's configuration only");
        lines.add("Jobs", listed(&function.jobs));
        return lines.0;
    };
    let partial = format!(
        "{} bytes per element",
        description.partial_bytes_per_element
    );
    lines.add(
        "Partial",
        format!("{partial} and {} beside", description.scalar_bytes),
    );
    lines.add(
        "Inputs",
        format!("up to {} in a call", description.max_inputs),
    );
    lines.add("Jobs", listed(&function.jobs));
    lines.0
}

fn tenant(tenant: &TenantStatus) -> String {
    let mut lines = Lines::default();
    lines.add("Tenant", &tenant.name);
    match tenant.revision {
        0 => lines.add("Revision", "none: no manifest has described it"),
        revision => lines.add("Revision", revision),
    }
    lines.add("Weight", tenant.weight);
    if let Some(max) = tenant.jobs_max {
        lines.add("At most", format!("{max} jobs"));
    }
    lines.add("Jobs", listed(&tenant.jobs));
    lines.0
}

fn listed(jobs: &[Name]) -> String {
    let jobs: Vec<_> = jobs.iter().map(Name::as_str).collect();
    if jobs.is_empty() {
        "none".into()
    } else {
        jobs.join(", ")
    }
}

fn node(entry: &NodeEntry) -> String {
    let (mut lines, node) = (Lines::default(), &entry.status);
    lines.add("Node", &node.name);
    if let Some(url) = &entry.url {
        lines.add("State", entry.state);
        lines.add("Gateway", url);
        lines.add("Labels", get::labels(&entry.labels));
    }
    if !entry.slow_in.is_empty() {
        lines.add("Slow in", get::names(&entry.slow_in));
    }
    if let Some(ago) = entry.heard_milliseconds_ago {
        lines.add("Last beat", format!("{} ago", get::ago(ago)));
    }
    lines.add("Sidecar", node.sidecar);
    if let Some(reason) = &node.sidecar_reason {
        lines.add("  Because", reason);
    }
    lines.add("Workers", node.workers);
    lines.add("Jobs", node.jobs);
    if let Some(capacity) = &entry.capacity {
        let whence = capacity.whence();
        let (at_once, each) = (
            capacity.concurrency_milli as f64 / 1e3,
            capacity.update_microseconds as f64 / 1e3,
        );
        lines.add(
            "Capacity",
            format!("{at_once:.1} updates at once, {each:.2} ms each ({whence})"),
        );
        lines.add("Load", get::load(entry));
    }
    lines.add("Cores", node.cores);
    lines.add("/dev/shm", format!("{} free", bytes(node.shm_free_bytes)));
    lines.add("Kernel", &node.kernel);
    lines.add("Version", &node.version);
    lines.0
}

impl Lines {
    fn add(&mut self, label: &str, value: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{:<14}{value}", format!("{label}:"));
    }
}
