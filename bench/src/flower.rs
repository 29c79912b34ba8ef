//! A real Flower round: SuperLink, SuperNodes and apps, as its users run them, with clients that train nothing.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::process::{self, Tree, Usage};
use crate::{Model, peer};

/// How long anything of Flower's may take; a round of 8 clients takes half a minute on two cores.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often its marks and its memory are looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// What a round cost.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// From its begin to its average.
    pub seconds: f64,
    /// What the server's processes used: SuperLink, SuperExec and ServerApp.
    pub usage: Usage,
    /// The most memory that they held at one moment, in bytes.
    pub memory: u64,
}

/// Flower's processes, killed when dropped.
#[derive(Debug)]
struct Federation {
    home: tempfile::TempDir,
    address: SocketAddr,
    superlink: Child,
    nodes: Vec<Child>,
}

/// Runs so many rounds of FedAvg; the first also starts the apps' processes.
///
/// # Errors
/// If Flower is not installed, or does not come to its rounds' end.
pub fn rounds(model: &Model, clients: u16, rounds: usize) -> Result<Vec<Round>> {
    let mut federation = Federation::start(clients)?;
    let measured = federation.run(model, clients, rounds);
    measured.with_context(|| federation.last_words())
}

impl Federation {
    fn start(clients: u16) -> Result<Self> {
        let home = tempfile::Builder::new()
            .prefix("tributary-bench-flower-")
            .tempdir()?;
        let address = free_address()?;
        let config = format!(
            "[superlink]\ndefault = \"bench\"\n[superlink.bench]\naddress = \"{address}\"\ninsecure = true\n"
        );
        fs::write(home.path().join("config.toml"), config)?;
        let port = address.port().to_string();
        let mut superlink = command(home.path(), "flower-superlink")?;
        superlink.args(["--insecure", "--host", "127.0.0.1", "--port", &port]);
        let superlink = logged(&mut superlink, home.path(), "superlink")?;
        let mut federation = Self {
            home,
            address,
            superlink,
            nodes: Vec::new(),
        };
        federation.wait_for_door()?;
        for client in 0..clients {
            let port = free_address()?.port().to_string();
            let mut node = command(federation.home.path(), "flower-supernode")?;
            node.args([
                "--insecure",
                "--superlink",
                &address.to_string(),
                "--port",
                &port,
            ]);
            let name = format!("node-{client}");
            federation
                .nodes
                .push(logged(&mut node, federation.home.path(), &name)?);
        }
        Ok(federation)
    }

    fn wait_for_door(&mut self) -> Result<()> {
        let started = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            self.check_alive(started)?;
        }
        Ok(())
    }

    fn run(&mut self, model: &Model, clients: u16, rounds: usize) -> Result<Vec<Round>> {
        let (shapes, marks) = (
            self.home.path().join("shapes.json"),
            self.home.path().join("marks"),
        );
        let tensors: Vec<_> = model
            .tensors
            .iter()
            .map(|tensor| json!([tensor.name, tensor.shape]))
            .collect();
        fs::write(&shapes, json!(tensors).to_string())?;
        fs::write(&marks, "")?;
        let config = format!(
            "clients={clients} rounds={rounds} shapes='{}' marks='{}'",
            shapes.display(),
            marks.display()
        );
        let mut run = command(self.home.path(), "flwr")?;
        run.arg("run")
            .arg(self.app()?)
            .args(["bench", "--run-config", &config]);
        let output = run.output()?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!("`flwr run` failed: {}", String::from_utf8_lossy(&said));
        }
        (1..=rounds)
            .map(|round| self.watch(&marks, round))
            .collect()
    }

    /// The app in a folder of its own: Flower writes beside it.
    fn app(&self) -> Result<PathBuf> {
        let (from, to) = (
            peer::scripts().join("flower_round"),
            self.home.path().join("app"),
        );
        fs::create_dir_all(&to)?;
        for name in ["pyproject.toml", "flower_round.py"] {
            fs::copy(from.join(name), to.join(name)).with_context(|| name.to_owned())?;
        }
        Ok(to)
    }

    /// Waits for a round's begin and end, and sees what lies between them.
    fn watch(&mut self, marks: &Path, round: usize) -> Result<Round> {
        let tree = Tree::of(self.superlink.id());
        let started = Instant::now();
        let begin = loop {
            if let Some(time) = mark(marks, "begin", round)? {
                break time;
            }
            self.check_alive(started)?;
        };
        let before = tree.usage()?;
        let mut memory = 0;
        let end = loop {
            memory = memory.max(tree.memory().total());
            if let Some(time) = mark(marks, "end", round)? {
                break time;
            }
            self.check_alive(started)?;
        };
        Ok(Round {
            seconds: end - begin,
            usage: tree.usage()?.since(&before),
            memory,
        })
    }

    fn check_alive(&mut self, started: Instant) -> Result<()> {
        if let Some(status) = self.superlink.try_wait()? {
            bail!("the SuperLink ended ({status})");
        }
        if started.elapsed() > PATIENCE {
            bail!("Flower made no progress for {} s", PATIENCE.as_secs());
        }
        thread::sleep(PAUSE);
        Ok(())
    }

    /// The end of the SuperLink's log.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.home.path().join("superlink.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Federation {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().chain([&mut self.superlink]) {
            // Best effort: there is nobody left to tell.
            let _ = process::end_tree(child);
        }
    }
}

/// When the server app has left this mark.
fn mark(marks: &Path, word: &str, round: usize) -> Result<Option<f64>> {
    let text = fs::read_to_string(marks)?;
    let mut found = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let wanted = words.next()? == word && words.next()?.parse() == Ok(round);
        wanted.then(|| words.next()?.parse().ok())?
    });
    Ok(found.next())
}

/// A program of Flower's, with its configuration in `home`.
fn command(home: &Path, program: &str) -> Result<Command> {
    let path = peer::program(program)?;
    let mut command = Command::new(&path);
    // Its programs start each other by name.
    let folders = path.parent().map(Path::to_owned).into_iter();
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = folders.chain(std::env::split_paths(&inherited));
    command
        .current_dir(home)
        .env("PATH", std::env::join_paths(folders)?)
        .env("FLWR_HOME", home)
        .env("FLWR_TELEMETRY_ENABLED", "0")
        .stdin(Stdio::null());
    Ok(command)
}

fn logged(command: &mut Command, home: &Path, name: &str) -> Result<Child> {
    let log = File::create(home.join(format!("{name}.log")))?;
    command.stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("starting {name}"))
}

/// An address that nobody listens on. Somebody else could take it before Flower does; it would say so.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_by_word_and_round() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            file.path(),
            "begin 1 10.5\nreplies 1 11\nend 1 12\nbegin 2 1",
        )
        .unwrap();
        assert_eq!(mark(file.path(), "begin", 1).unwrap(), Some(10.5));
        assert_eq!(mark(file.path(), "end", 1).unwrap(), Some(12.0));
        assert_eq!(mark(file.path(), "end", 2).unwrap(), None);
    }
}
