//! `tributary get`.

use std::collections::BTreeMap;

use tributary_api::{
    Name,
    control::Sharing,
    fleet::NodeEntry,
    status::{FunctionStatus, JobStatus, RoundStatus, TenantStatus},
};

use crate::{
    args::Get,
    client::Client,
    failure::Failure,
    output::{Output, Table, bytes, seconds},
};

pub(crate) fn run(client: &Client, output: &Output, what: Get) -> Result<(), Failure> {
    match what {
        Get::Jobs { name: None } => output.write(&client.get("/v1/jobs")?, jobs),
        Get::Jobs { name: Some(name) } => output.write(&vec![job(client, &name)?], jobs),
        Get::Functions { name: None } => output.write(&client.get("/v1/functions")?, functions),
        Get::Functions { name: Some(name) } => output.write(
            &vec![client.get(&format!("/v1/functions/{name}"))?],
            functions,
        ),
        Get::Tenants { name: None } => output.write(&client.get("/v1/tenants")?, tenants),
        Get::Tenants { name: Some(name) } => {
            output.write(&vec![client.get(&format!("/v1/tenants/{name}"))?], tenants)
        }
        Get::Nodes => output.write(&client.get("/v1/nodes")?, nodes),
        Get::Rounds { job } => {
            output.write(&client.get(&format!("/v1/jobs/{job}/rounds"))?, rounds)
        }
    }
}

/// A job, even if no node runs it.
pub(super) fn job(client: &Client, name: &Name) -> Result<JobStatus, Failure> {
    let jobs: Vec<JobStatus> = client.get("/v1/jobs")?;
    let found = jobs.into_iter().find(|job| job.name == *name);
    found.ok_or_else(|| {
        Failure::NotFound(format!(
            "there is no job {name}; `tributary get jobs` lists them"
        ))
    })
}

fn jobs(jobs: &Vec<JobStatus>) -> String {
    let mut table = Table::new(&[
        "NAME",
        "PHASE",
        "FUNCTION",
        "TENANT",
        "ROUND",
        "UPDATES",
        "PARAMETERS",
        "WORKERS",
        "REVISION",
        "ERROR",
    ]);
    for job in jobs {
        table.row(vec![
            job.name.to_string(),
            job.phase.to_string(),
            job.function.to_string(),
            job.sharing.as_ref().map_or_else(|| "-".into(), claim),
            round(job),
            format!("{}/{}", job.accepted, job.expected),
            job.parameters.to_string(),
            job.workers.to_string(),
            job.revision.to_string(),
            job.last_error
                .as_deref()
                .and_then(|error| error.lines().next())
                .unwrap_or_default()
                .into(),
        ]);
    }
    table.to_string()
}

/// Whose a job is, and how urgent if it is not as all: `vision`, `vision (priority 5)`.
fn claim(sharing: &Sharing) -> String {
    let Sharing {
        tenant, priority, ..
    } = sharing;
    if *priority == 0 {
        tenant.to_string()
    } else {
        format!("{tenant} (priority {priority})")
    }
}

/// The open round, or the last one of a job that is completed.
pub(super) fn round(job: &JobStatus) -> String {
    match job.rounds {
        Some(rounds) => format!("{}/{rounds}", job.version.min(rounds.into())),
        None => job.version.to_string(),
    }
}

fn functions(functions: &Vec<FunctionStatus>) -> String {
    let mut table = Table::new(&[
        "NAME", "REVISION", "ALGEBRA", "MEMORY", "DEADLINE", "DIGEST", "JOBS",
    ]);
    for function in functions {
        let jobs: Vec<_> = function.jobs.iter().map(Name::as_str).collect();
        table.row(vec![
            function.name.to_string(),
            function.revision.to_string(),
            function.algebra.as_str().into(),
            function.limits.memory.to_string(),
            function.limits.deadline.to_string(),
            function.digest.short(),
            jobs.join(","),
        ]);
    }
    table.to_string()
}

fn tenants(tenants: &Vec<TenantStatus>) -> String {
    let mut table = Table::new(&["NAME", "WEIGHT", "REVISION", "JOBS"]);
    for tenant in tenants {
        let jobs: Vec<_> = tenant.jobs.iter().map(Name::as_str).collect();
        table.row(vec![
            tenant.name.to_string(),
            tenant.weight.to_string(),
            tenant.revision.to_string(),
            jobs.join(","),
        ]);
    }
    table.to_string()
}

fn nodes(nodes: &Vec<NodeEntry>) -> String {
    // What only several nodes have would be a row of dashes for one.
    if nodes.iter().all(|node| node.url.is_none()) {
        return machines(nodes);
    }
    let mut table = Table::new(&[
        "NAME", "STATE", "SLOW IN", "LABELS", "JOBS", "WORKERS", "LOAD", "BEAT", "SIDECAR",
        "CORES", "SHM FREE", "VERSION", "URL",
    ]);
    for entry in nodes {
        let (node, beat) = (&entry.status, entry.heard_milliseconds_ago.map(ago));
        table.row(vec![
            node.name.clone(),
            entry.state.to_string(),
            names(&entry.slow_in),
            labels(&entry.labels),
            node.jobs.to_string(),
            node.workers.to_string(),
            load(entry),
            beat.unwrap_or_else(|| "-".into()),
            node.sidecar.to_string(),
            node.cores.to_string(),
            bytes(node.shm_free_bytes),
            node.version.clone(),
            entry.url.clone().unwrap_or_else(|| "-".into()),
        ]);
    }
    table.to_string()
}

fn machines(nodes: &Vec<NodeEntry>) -> String {
    let mut table = Table::new(&[
        "NAME", "SIDECAR", "WORKERS", "JOBS", "CORES", "SHM FREE", "KERNEL", "VERSION",
    ]);
    for NodeEntry { status: node, .. } in nodes {
        table.row(vec![
            node.name.clone(),
            node.sidecar.to_string(),
            node.workers.to_string(),
            node.jobs.to_string(),
            node.cores.to_string(),
            bytes(node.shm_free_bytes),
            node.kernel.clone(),
            node.version.clone(),
        ]);
    }
    table.to_string()
}

/// `digits,other`.
pub(super) fn names(names: &[Name]) -> String {
    if names.is_empty() {
        return "-".into();
    }
    let names: Vec<_> = names.iter().map(Name::as_str).collect();
    names.join(",")
}

/// `disk=fast,zone=eu`.
pub(super) fn labels(labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if labels.is_empty() {
        "-".into()
    } else {
        labels.join(",")
    }
}

/// Updates in service, by Little's law, of those that can be, and how that is known: `0.4/16 (assumed)`.
pub(super) fn load(entry: &NodeEntry) -> String {
    let Some(capacity) = &entry.capacity else {
        return "-".into();
    };
    let arrivals = capacity.arrivals_milli_per_second as f64 / 1e3;
    let in_service = arrivals * capacity.update_microseconds as f64 / 1e6;
    let most = capacity.concurrency_milli as f64 / 1e3;
    format!("{in_service:.1}/{most:.0} ({})", capacity.whence())
}

/// A time since something: `0.4s`, `12s`, `5m`.
pub(super) fn ago(milliseconds: u64) -> String {
    match milliseconds / 1000 {
        seconds @ 0..10 => format!("{seconds}.{}s", milliseconds % 1000 / 100),
        seconds @ 10..600 => format!("{seconds}s"),
        seconds => format!("{}m", seconds / 60),
    }
}

pub(super) fn rounds(rounds: &Vec<RoundStatus>) -> String {
    let mut table = Table::new(&[
        "ROUND",
        "PHASE",
        "UPDATES",
        "CONTRIBUTORS",
        "REJECTED",
        "LATE",
        "AGGREGATION",
        "TOTAL",
        "COPIED",
        "READ IN PLACE",
        "TREE",
    ]);
    for round in rounds {
        let tree = round.aggregators;
        table.row(vec![
            round.round.to_string(),
            round.phase.to_string(),
            format!("{}/{}", round.accepted, round.expected),
            round.contributors.to_string(),
            round.rejected.to_string(),
            round.late.to_string(),
            seconds(round.aggregation_seconds),
            seconds(round.seconds),
            bytes(round.bytes_copied),
            bytes(round.bytes_read_in_place),
            format!("{}+{}+{}", tree.leaf, tree.middle, tree.top),
        ]);
    }
    table.to_string()
}
