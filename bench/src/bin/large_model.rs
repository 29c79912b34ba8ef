//! One round of a model of 5 GiB with three clients, in at most 16 GiB.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use tributary_bench::figure::Target;
use tributary_bench::model::{Tensor, values};
use tributary_bench::{Answer, Figure, Model, Output, Server, manifest};

const CLIENTS: u64 = 3;
/// Tensors of the model; real ones of this size have hundreds.
const TENSORS: usize = 40;
/// Bytes of a piece that a client sends again and again: its update is never in memory as a whole.
const PIECE_BYTES: usize = 16 << 20;
/// Elements of the model that are compared.
const COMPARED: usize = 4096;
/// How often memory is looked at.
const PERIOD: Duration = Duration::from_millis(20);
/// How long a round may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// How long a client waits that is told to come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Parser)]
#[command(about = "A model of 5 GiB with three clients in at most 16 GiB")]
struct Arguments {
    /// GiB of the model [default: 5, or 0.25 with --quick]
    #[arg(long)]
    gib: Option<f64>,
    /// A small model, to see that it runs
    #[arg(long)]
    quick: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let output = Output::new("large_model");
    let gib = arguments
        .gib
        .unwrap_or(if arguments.quick { 0.25 } else { 5.0 });
    let model = of_size(gib);
    let server = Server::start()?;
    deploy(&server, &model).context("the server does not take a model of this size")?;
    let watch = server.tree().watch(PERIOD);
    let before = server.tree().usage()?;
    let started = Instant::now();
    for client in 1..=CLIENTS {
        let answer = loop {
            let answer = send(&server, &model, client)?;
            // Memory holds one update beside the sums: the next is told to come again while that is folded.
            if answer.status != 429 {
                break answer;
            }
            thread::sleep(RETRY_AFTER);
        };
        answer
            .success()
            .with_context(|| format!("update {client}"))?;
        output.say(format_args!(
            "{client} of {CLIENTS} updates are in after {:.1} s",
            started.elapsed().as_secs_f64()
        ));
    }
    let sent = started.elapsed().as_secs_f64();
    check(&server, &model)?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = server.tree().usage()?.since(&before).cpu_seconds;
    let peak = watch.peak()?;
    server.stop()?;

    let gibibytes = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let bytes = gibibytes(model.bytes());
    let figures = [
        Figure::single(
            "large_model.memory",
            format!("all memory, for a model of {bytes:.2} GiB"),
            "GiB",
            gibibytes(peak.total()),
        )?
        .plot("large-model"),
        Figure::single(
            "large_model.arena",
            "of it shared memory",
            "GiB",
            gibibytes(peak.shared),
        )?
        .plot("large-model"),
        Figure::single(
            "large_model.seconds",
            "the round, to the new model's first bytes",
            "s",
            seconds,
        )?,
        Figure::single(
            "large_model.ingest",
            "updates",
            "GB/s",
            (model.bytes() * CLIENTS) as f64 / sent / 1e9,
        )?,
        Figure::single(
            "large_model.cpu",
            "CPU time of an update",
            "CPU s",
            cpu / CLIENTS as f64,
        )?,
    ];
    let [memory, others @ ..] = figures;
    // What a server takes by itself weighs too much beside a small model.
    let whole = gib >= 5.0;
    output.figure(&if whole {
        memory.target(Target::AtMost(16.0))
    } else {
        memory
    })?;
    others.iter().try_for_each(|figure| output.figure(figure))
}

/// A model of about so many GiB.
fn of_size(gib: f64) -> Model {
    let elements = (gib * f64::from(1 << 28)) as usize / TENSORS;
    let tensor = |index| Tensor {
        name: format!("layers.{index:02}.weight"),
        shape: vec![elements],
    };
    Model {
        name: "large".into(),
        tensors: (0..TENSORS).map(tensor).collect(),
    }
}

/// Deploys a job whose first model is all zeros: a file that takes no room on the disk.
fn deploy(server: &Server, model: &Model) -> Result<()> {
    let header = model.header("F32", 4);
    let initial = server.write("initial.safetensors", &[&header])?;
    let file = File::options().write(true).open(&initial)?;
    file.set_len(header.len() as u64 + model.bytes())?;
    let clients = u32::try_from(CLIENTS)?;
    server.apply(&[
        manifest::function("fedavg")?,
        manifest::job("bench", &initial, clients),
    ])
}

/// Sends a client's update, made as it goes.
fn send(server: &Server, model: &Model, client: u64) -> Result<Answer> {
    let header = model.header("F32", 4);
    let piece: Vec<u8> = values(client)
        .take(PIECE_BYTES / 4)
        .flat_map(f32::to_le_bytes)
        .collect();
    let path = format!("/v1/jobs/bench/updates/client-{client}?round=1&weight=1");
    let length = header.len() as u64 + model.bytes();
    let write = |stream: &mut TcpStream| {
        stream.write_all(&header)?;
        let mut left = model.bytes();
        while left > 0 {
            let count = left.min(piece.len() as u64);
            stream.write_all(&piece[..usize::try_from(count)?])?;
            left -= count;
        }
        Ok(())
    };
    server.connect()?.send_made("PUT", &path, length, write)
}

/// Waits for the new model, and compares its first elements with the mean of what was sent.
fn check(server: &Server, model: &Model) -> Result<()> {
    let started = Instant::now();
    loop {
        let mut connection = server.connect()?;
        let mut begun = connection.get_begun("/v1/jobs/bench/model?after=1&wait=60s")?;
        match begun.status {
            200 => {
                let mut read = Vec::new();
                let most = (model.header("F32", 4).len() + 4096 + COMPARED * 4) as u64;
                begun.body().take(most).read_to_end(&mut read)?;
                return compare(&read);
            }
            204 if started.elapsed() < PATIENCE => {}
            status => bail!(
                "no new model after {} s: {status}",
                started.elapsed().as_secs()
            ),
        }
    }
}

fn compare(file: &[u8]) -> Result<()> {
    let (length, after) = file.split_first_chunk::<8>().context("no header")?;
    let header = usize::try_from(u64::from_le_bytes(*length))?;
    let elements = after
        .get(header..header + COMPARED * 4)
        .context("fewer elements than compared")?;
    let mut clients: Vec<_> = (1..=CLIENTS).map(values).collect();
    for (at, found) in elements.as_chunks::<4>().0.iter().enumerate() {
        let sum: f64 = clients
            .iter_mut()
            .filter_map(Iterator::next)
            .map(f64::from)
            .sum();
        let (mean, found) = (sum / CLIENTS as f64, f64::from(f32::from_le_bytes(*found)));
        // What is no number is not close either.
        let close = (mean - found).abs() < 1e-6;
        if !close {
            bail!("the model has {found} at {at}, not {mean}");
        }
    }
    Ok(())
}
