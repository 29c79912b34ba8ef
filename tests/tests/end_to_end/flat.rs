//! A cluster that has made very many versions and jobs is as fast as on its first day.
//!
//! It takes many minutes, so it is run by hand; docs/operations.md says how.

use std::{
    env,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Instant,
};

use tributary_tests::{
    Manifest, Model,
    http::Client,
    job::Job,
    nats::{NatsServer, stream::held},
    place, process,
    tensors::SMALL,
    wait::eventually,
};

/// The rounds that are measured, at the beginning and at the end.
const MEASURED: u64 = 100;

struct Member(Child);

impl Member {
    /// Starts a part of the cluster; gives where it listens.
    fn start(nats: &NatsServer, arguments: &[&str]) -> (Self, SocketAddr) {
        let mut child = Command::new(place::binary())
            .args(arguments)
            .args(["--nats", &nats.url(), "--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = log.find_map(|line| {
            let line = line.ok()?;
            let (_, address) = line.split_once("listening on http://")?;
            address.trim().parse().ok()
        });
        // Whoever does not read it lets it stop.
        thread::spawn(move || log.for_each(drop));
        (Self(child), address.unwrap())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    let told = env::var(variable).ok();
    told.map_or(otherwise, |told| told.parse().unwrap())
}

fn run(server: SocketAddr, arguments: &[&str]) {
    let mut command = Command::new(place::binary());
    let command = command.args(arguments);
    let command = command.env("TRIBUTARY_SERVER", format!("http://{server}"));
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
}

fn apply(server: SocketAddr, home: &Path, name: &str) {
    let model = home.join("model.safetensors");
    std::fs::write(&model, Model::filled(SMALL, 0.0).file()).unwrap();
    let manifest = home.join("job.yaml");
    let text = Manifest::fedavg(name, "{ each: true }").text(&model);
    std::fs::write(&manifest, text).unwrap();
    run(server, &["apply", "-f", manifest.to_str().unwrap()]);
}

/// Lets a job make so many rounds; what the median one took, in milliseconds: others may use the machine as well.
fn rounds(job: &Job, first: u64, count: u64, update: &[u8]) -> f64 {
    let round = |round| {
        let began = Instant::now();
        let _ = job.put_until_taken("c", &format!("?round={round}&weight=1"), update);
        let _ = job.result(round);
        began.elapsed().as_secs_f64() * 1e3
    };
    let mut took: Vec<f64> = (first..first + count).map(round).collect();
    took.sort_by(f64::total_cmp);
    took[took.len() / 2]
}

#[test]
#[ignore = "takes many minutes"]
#[allow(clippy::print_stdout, reason = "who runs it wants to see how it goes")]
fn the_last_rounds_are_as_fast_as_the_first() {
    let (versions, jobs) = (
        number("TRIBUTARY_FLAT_VERSIONS", 20_000),
        number("TRIBUTARY_FLAT_JOBS", 500),
    );
    let nats = NatsServer::start();
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let (_controller, server) = Member::start(&nats, &["controller"]);
    let node = [
        "node",
        "--name",
        "n1",
        "--sidecar",
        "userspace",
        "--state-dir",
    ];
    let node = [&node[..], &[state.to_str().unwrap()]].concat();
    let (node, gateway) = Member::start(&nats, &node);
    eventually("a node that can be used", || {
        let nodes = Client::new(server)
            .try_send("GET", "/v1/nodes", &[], &[])
            .ok()?;
        nodes.text().contains("n1").then_some(())
    });
    apply(server, home.path(), "flat");
    let job = Job::new(Client::new(gateway), "flat");
    let update = Model::filled(SMALL, 1.0).file();
    // What is compiled, started and read for the first time is not what is measured.
    rounds(&job, 1, MEASURED, &update);
    let first = rounds(&job, MEASURED + 1, MEASURED, &update);
    let early = process::resident_bytes(node.0.id());
    for number in 0..jobs {
        let name = format!("job-{number}");
        apply(server, home.path(), &name);
        run(server, &["delete", "job", &name]);
    }
    let (mut next, end) = (2 * MEASURED + 1, versions - MEASURED);
    while next < end {
        let count = 1000.min(end - next);
        let took = rounds(&job, next, count, &update);
        next += count;
        println!("{next} versions: {took:.1} ms a round");
    }
    let last = rounds(&job, next, MEASURED, &update);
    let late = process::resident_bytes(node.0.id());
    println!(
        "a round of the first hundred {first:.2} ms, of the last {last:.2} ms; memory {early} B, then {late} B"
    );
    let messages = held(nats.port(), "OBJ_tributary_models").unwrap();
    println!("{messages} messages in the models' stream");
    assert!(messages < 100);
    assert!(last <= first * 1.2);
}
