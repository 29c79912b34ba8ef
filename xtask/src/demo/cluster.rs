//! Several hosts for the demonstration: network namespaces, with a node on each; a controller and NATS beside them.

use std::net::TcpListener;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use digits::JOB;
use serde::Deserialize;
use tributary_hosts::Network;

use super::Sidecar;
use super::server::{Node, Server, name};
use crate::output;
use crate::workspace::Workspace;

/// The bandwidth of a host's link.
const RATE: &str = "1gbit";
/// The port of every node's gateway.
const PORT: u16 = 8470;

/// A job's nodes, as far as they are waited for.
#[derive(Deserialize)]
struct Placement {
    generation: u64,
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    generation: Option<u64>,
}

/// Starts everything, and waits until all nodes have joined.
pub(super) fn start(
    workspace: &Workspace,
    sidecar: Sidecar,
    nodes: usize,
    interrupted: &AtomicBool,
) -> Result<Server> {
    let network = Network::new(nodes, RATE).context("hosts of their own")?;
    let (nats, controller) = (free_port()?, free_port()?);
    let beside = network.gateway();
    let mut server = Server::nothing(workspace, format!("http://{beside}:{controller}"))?;
    server.set_door(format!("http://{}:{PORT}", network.address(0)));

    let mut command = workspace.command("nats-server");
    command.args([
        "--addr",
        "0.0.0.0",
        "--port",
        &nats.to_string(),
        "--jetstream",
        "--store_dir",
    ]);
    command.arg(server.state.path().join("nats"));
    server.run_foreign("nats-server", command)?;
    let nats = format!("nats://{beside}:{nats}");

    let mut command = workspace.command(workspace.binary());
    command.args([
        "controller",
        "--nats",
        &nats,
        "--listen",
        &format!("{beside}:{controller}"),
    ]);
    server.run("controller", command)?;

    for host in 0..nodes {
        let node = format!("node-{host}-{}", network.id());
        let mut command = network.command(host, workspace.binary());
        let address = format!("{}:{PORT}", network.address(host));
        command.args([
            "node", "--nats", &nats, "--name", &node, "--listen", &address,
        ]);
        command.args(["--sidecar", &name(sidecar)]);
        command
            .arg("--state-dir")
            .arg(server.state.path().join(&node));
        server.run(&node, command)?;
    }
    output::progress(
        "hosts",
        format_args!(
            "{nodes} network namespaces, {} to {}, links of {RATE}",
            network.address(0),
            network.address(nodes - 1)
        ),
    );
    server.network = Some(network);
    server.wait("joined by all its nodes", interrupted, |server| {
        let known: Vec<Node> = server.json("/v1/nodes").unwrap_or_default();
        known.iter().filter(|node| node.state == "ready").count() == nodes
    })?;
    Ok(server)
}

/// Waits until all nodes take part in the job.
pub(super) fn wait_for_members(
    server: &mut Server,
    nodes: usize,
    interrupted: &AtomicBool,
) -> Result<()> {
    server.wait("running the job on all nodes", interrupted, |server| {
        let placement: Result<Placement> = server.json(&format!("/v1/jobs/{JOB}/placement"));
        placement.is_ok_and(|placement| {
            let follows = |member: &Member| member.generation == Some(placement.generation);
            placement.members.len() == nodes && placement.members.iter().all(follows)
        })
    })
}

/// A port that nobody listens on. Somebody else could take it before its process does; that would say so.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("0.0.0.0:0")?.local_addr()?.port())
}
