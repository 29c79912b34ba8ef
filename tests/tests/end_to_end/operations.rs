//! What operators look at: metrics, Prometheus, bpftool; and starts that must fail.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tributary_tests::http::Client;
use tributary_tests::job::updates;
use tributary_tests::tensors::SMALL;
use tributary_tests::wait::{eventually, until};
use tributary_tests::{Manifest, Model, Server, Sidecar, on_both_sidecars, place, process};

on_both_sidecars![
    promtool_finds_nothing_wrong_with_the_metrics,
    prometheus_scrapes_the_server,
    bpftool_shows_the_program_and_its_counters,
    a_state_directory_belongs_to_one_server,
    a_port_belongs_to_one_server,
    the_sidecar_in_use_is_told_everywhere,
];

/// A server with a job that has had some rounds.
fn busy(sidecar: Sidecar, rounds: u64) -> Server {
    let server = Server::start(sidecar);
    let manifest = Manifest::fedavg("busy", "{ expected: 8 }").with("tree: { fanIn: 2 }");
    let job = server.deploy(&manifest, &Model::filled(SMALL, 0.0));
    for round in 1..=rounds {
        job.push_all(round, &updates(SMALL, 8, round));
        let _ = job.result(round);
    }
    server
}

fn promtool_finds_nothing_wrong_with_the_metrics(sidecar: Sidecar) {
    let server = busy(sidecar, 2);
    // Every outcome that has a series should be among those that are looked at.
    let _ = server.job("busy").put("wrong", "?round=99", &[]).problem();
    let text = server.client().get("/metrics").expect(200);
    assert!(
        text.header("content-type")
            .is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4"))
    );
    let file = fs::File::open(server.write("metrics.txt", &text.body)).unwrap();
    let output = Command::new(place::tool("promtool"))
        .args(["check", "metrics"])
        .stdin(file)
        .output()
        .unwrap();
    let said = [&output.stdout[..], &output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "{}",
        String::from_utf8_lossy(&said)
    );
    server.finish();
}

/// A Prometheus that is killed when the test ends.
struct Prometheus {
    child: Child,
    client: Client,
}

impl Prometheus {
    fn start(server: &Server) -> Self {
        let config = format!(
            "global: {{ scrape_interval: 200ms, scrape_timeout: 200ms }}
scrape_configs:
  - job_name: tributary
    static_configs: [{{ targets: [\"{}\"] }}]
",
            server.address()
        );
        let config = server.write("prometheus.yml", config);
        let address: SocketAddr = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let child = Command::new(place::tool("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                server.home().join("prometheus").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(server.home().join("prometheus.log")).unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            client: Client::new(address),
        }
    }

    /// The value that an expression has now, once it has one.
    fn value(&self, expression: &str) -> Option<f64> {
        let answer = self
            .client
            .try_send(
                "GET",
                &format!("/api/v1/query?query={expression}"),
                &[],
                &[],
            )
            .ok()?;
        let document: Value = serde_json::from_slice(&answer.body).ok()?;
        document["data"]["result"][0]["value"][1]
            .as_str()?
            .parse()
            .ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn prometheus_scrapes_the_server(sidecar: Sidecar) {
    let server = busy(sidecar, 3);
    let prometheus = Prometheus::start(&server);
    until("Prometheus scrapes the server", || {
        prometheus.value("up") == Some(1.0)
    });
    let sees = |expression: &str, value: f64| {
        until(expression, || prometheus.value(expression) == Some(value));
    };
    sees("tributary_rounds_total{outcome=%22completed%22}", 3.0);
    sees("tributary_updates_total{outcome=%22accepted%22}", 24.0);
    sees("tributary_model_version", 4.0);
    sees(
        &format!("tributary_sidecar_info{{kind=%22{}%22}}", sidecar.name()),
        1.0,
    );
    until("descriptors", || {
        prometheus
            .value("sum(tributary_sidecar_descriptors_total)")
            .is_some_and(|sum| sum > 0.0)
    });
    drop(prometheus);
    server.finish();
}

fn bpftool(arguments: &[&str]) -> Value {
    let output = Command::new(place::tool("bpftool"))
        .arg("--json")
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "bpftool {arguments:?}: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The kernel's objects of one kind that a process holds.
fn held(kind: &str, process: u32) -> Vec<Value> {
    let ids = process::kernel_objects(process, kind);
    let shown = |id: &u32| bpftool(&[kind, "show", "id", &id.to_string()]);
    ids.iter().map(shown).collect()
}

/// The sum over all routes and CPUs of the first counter: descriptors.
fn routed(map: &Value) -> u64 {
    let dump = bpftool(&["map", "dump", "id", &map["id"].to_string()]);
    let values = dump
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|element| element["values"].as_array().unwrap());
    let first = |value: &Value| {
        let bytes: Vec<u8> = value["value"].as_array().unwrap()[..8]
            .iter()
            .map(hex)
            .collect();
        u64::from_le_bytes(bytes.try_into().unwrap())
    };
    values.map(first).sum()
}

fn hex(byte: &Value) -> u8 {
    u8::from_str_radix(byte.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

fn bpftool_shows_the_program_and_its_counters(sidecar: Sidecar) {
    let server = busy(sidecar, 3);
    let programs = held("prog", server.pid());
    if sidecar == Sidecar::Userspace {
        assert_eq!(
            programs,
            Vec::<Value>::new(),
            "the kernel runs nothing for the router in the agent"
        );
        return server.finish();
    }
    let message_programs: Vec<_> = programs
        .iter()
        .filter(|program| program["type"] == "sk_msg")
        .collect();
    assert_eq!(message_programs.len(), 1, "{programs:?}");
    let maps = held("map", server.pid());
    let named = |name: &str| {
        let found = maps.iter().find(|map| map["name"] == name);
        found
            .unwrap_or_else(|| panic!("no map {name}: {maps:?}"))
            .clone()
    };
    for (name, kind) in [
        ("SOCKETS", "sockhash"),
        ("ROUTES", "hash"),
        ("ROUTE_STATS", "percpu_hash"),
        ("SIDECAR_STATS", "percpu_array"),
    ] {
        assert_eq!(named(name)["type"], kind, "{name}");
    }
    // The program uses these very maps.
    let used = message_programs[0]["map_ids"].as_array().unwrap();
    assert!(
        used.contains(&named("ROUTE_STATS")["id"]) && used.contains(&named("SOCKETS")["id"]),
        "{used:?}"
    );

    let stats = named("ROUTE_STATS");
    let before = routed(&stats);
    let job = server.job("busy");
    for round in 4..=6 {
        job.push_all(round, &updates(SMALL, 8, round));
        let _ = job.result(round);
    }
    let after = routed(&stats);
    // Eight updates, four leaves' partials, two middles'; some of the first may have missed their routes.
    assert!(
        after >= before + 3 * 8,
        "{before} descriptors, then {after}"
    );
    server.finish();
}

fn a_state_directory_belongs_to_one_server(sidecar: Sidecar) {
    let server = busy(sidecar, 1);
    let second = Server::refused_start(sidecar, &server.state(), "127.0.0.1:0").expect(1);
    assert!(
        second.stderr.contains("is in use by another"),
        "{}",
        second.stderr
    );
    assert!(
        second.stderr.contains(&*server.state().to_string_lossy()),
        "{}",
        second.stderr
    );
    // The first has not noticed.
    server.job("busy").push_all(2, &updates(SMALL, 8, 2));
    let _ = server.job("busy").result(2);
    server.finish();
}

fn a_port_belongs_to_one_server(sidecar: Sidecar) {
    let server = busy(sidecar, 1);
    let address = server.address().to_string();
    let second = Server::refused_start(sidecar, &server.home().join("other"), &address).expect(1);
    assert!(
        second
            .stderr
            .contains(&format!("cannot listen on {address}")),
        "{}",
        second.stderr
    );
    server.job("busy").push_all(2, &updates(SMALL, 8, 2));
    let _ = server.job("busy").result(2);
    server.finish();
}

fn the_sidecar_in_use_is_told_everywhere(sidecar: Sidecar) {
    let server = busy(sidecar, 1);
    let node = server.node_status();
    assert_eq!(node.sidecar_reason, None, "it was asked for");
    let line = eventually("the start message", || {
        server
            .log()
            .lines()
            .find(|line| line.contains("sidecar"))
            .map(str::to_owned)
    });
    assert!(line.contains(sidecar.name()), "{line}");
    let other = if sidecar == Sidecar::Ebpf {
        "userspace"
    } else {
        "ebpf"
    };
    let scrape = server.scrape();
    assert_eq!(
        scrape.sum("tributary_sidecar_info", &[("kind", sidecar.name())]),
        1.0
    );
    assert_eq!(
        scrape.sum("tributary_sidecar_info", &[("kind", other)]),
        0.0
    );
    assert!(
        server
            .client()
            .get("/live")
            .expect(200)
            .text()
            .contains("live")
    );
    server.finish();
}
