//! Real NATS servers: alone or as a cluster, each with a store of its own, killed and started again at will.

pub mod stream;

use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process;

/// How long a server may take to listen, or to end.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Below the ports that the system gives to outgoing connections, so that a server finds its port free again.
const PORTS: Range<u16> = 20_000..32_000;

/// What a server stores at most, if nothing else is said.
const DISK: &str = "4GB";

/// Attempts to find free ports: tests of other processes look for theirs at the same time.
const ATTEMPTS: usize = 20;

/// Where `nats-server` is: `TRIBUTARY_NATS_SERVER`, `PATH`, or where `cargo xtask setup` puts it.
#[must_use]
pub fn binary() -> Option<PathBuf> {
    if let Some(file) = env::var_os("TRIBUTARY_NATS_SERVER") {
        return Some(file.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let tools = cache.map(|cache| cache.join("tributary/tools/bin"));
    env::split_paths(&path)
        .chain(tools)
        .map(|folder| folder.join("nats-server"))
        .find(|file| file.is_file())
}

/// Whether tests that need a server can run. Says so in a line if not.
///
/// # Panics
/// If there is none although `TRIBUTARY_REQUIRE_NATS=1`.
#[must_use]
pub fn available() -> bool {
    if binary().is_some() {
        return true;
    }
    let required = env::var_os("TRIBUTARY_REQUIRE_NATS").is_some_and(|value| value == "1");
    assert!(
        !required,
        "nats-server is missing: `cargo xtask setup` installs it"
    );
    #[allow(
        clippy::print_stdout,
        reason = "who reads the output must see what was not tested"
    )]
    {
        println!("NOT RUN: nats-server is missing");
    }
    false
}

/// A server process with JetStream, on a port of this machine. Ended, and its store removed, when dropped.
#[derive(Debug)]
pub struct NatsServer {
    folder: TempDir,
    port: Port,
    child: Option<Child>,
}

/// A port that no other server of any test takes, whether it is listened on or not.
#[derive(Debug)]
struct Port {
    number: u16,
    /// Locked, for other processes to see.
    _claim: File,
}

impl NatsServer {
    /// Starts one that anybody may use.
    ///
    /// # Panics
    /// If there is no binary, or it does not listen.
    #[must_use]
    pub fn start() -> Self {
        Self::with("")
    }

    /// Starts one with more lines in its configuration.
    ///
    /// # Panics
    /// As [`NatsServer::start`].
    #[must_use]
    pub fn with(more: &str) -> Self {
        Self::on_disk(DISK, more)
    }

    /// Starts one that stores so much, as `32MB`.
    ///
    /// # Panics
    /// As [`NatsServer::start`].
    #[must_use]
    pub fn storing(disk: &str) -> Self {
        Self::on_disk(disk, "")
    }

    fn on_disk(disk: &str, more: &str) -> Self {
        for _ in 0..ATTEMPTS {
            if let Some(server) = Self::launch("alone", disk, more) {
                return server;
            }
        }
        panic!("nats-server did not start on any of {ATTEMPTS} ports");
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port())
    }

    /// Where it listens, for those who find it at another address.
    #[must_use]
    pub fn url_at(&self, address: std::net::Ipv4Addr) -> String {
        format!("nats://{address}:{}", self.port())
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Kills it, as a crash would. Its store stays.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Stops it as if its host had fallen silent: connections stay, and nobody answers. [`Self::kill`] ends it.
    pub fn freeze(&self) {
        if let Some(child) = &self.child {
            process::signal(child.id(), Signal::STOP);
        }
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Starts it again, on the same port with the same store.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn start_again(&mut self) {
        self.stop();
        assert!(self.run(), "nats-server did not start again");
    }

    /// A server in a new folder, or `None` if its port was taken.
    fn launch(name: &str, disk: &str, more: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = folder.path().join("store");
        let port = free_port();
        let number = port.number;
        let text = format!(
            "server_name: {name}\nlisten: \"0.0.0.0:{number}\"\n\
             jetstream {{ store_dir: {store:?}, max_mem: 256MB, max_file: {disk} }}\n{more}\n"
        );
        fs::write(folder.path().join("nats.conf"), text).expect("a file in a temporary folder");
        let child = None;
        let mut server = Self {
            folder,
            port,
            child,
        };
        server.run().then_some(server)
    }

    /// Runs the process until it listens; false if it ended instead.
    fn run(&mut self) -> bool {
        let binary = binary().expect("nats-server is not installed");
        let log = File::create(self.folder.path().join("nats.log")).expect("a log file");
        let mut child = Command::new(binary)
            .arg("--config")
            .arg(self.folder.path().join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("another handle"))
            .stderr(log)
            .spawn()
            .expect("nats-server can be run");
        let started = Instant::now();
        while !greets(self.port()) {
            if child
                .try_wait()
                .expect("a child can be waited for")
                .is_some()
            {
                return false;
            }
            assert!(started.elapsed() < PATIENCE, "{}", self.log());
            std::thread::sleep(PAUSE);
        }
        // Somebody else's server may have greeted.
        let lives = child
            .try_wait()
            .expect("a child can be waited for")
            .is_none();
        self.child = Some(child);
        lives
    }

    /// What it has said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("nats.log")).unwrap_or_default()
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        process::signal(child.id(), signal);
        let started = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if started.elapsed() > PATIENCE {
                let _ = child.kill();
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Servers that replicate to each other.
#[derive(Debug)]
pub struct NatsCluster {
    /// The servers.
    pub servers: Vec<NatsServer>,
    /// Where they listen for each other.
    _routes: Vec<Port>,
}

impl NatsCluster {
    /// Starts a cluster of that many.
    ///
    /// # Panics
    /// If they do not listen.
    #[must_use]
    pub fn start(size: usize) -> Self {
        if size == 1 {
            // One that waits for others elects nobody.
            return Self {
                servers: vec![NatsServer::start()],
                _routes: Vec::new(),
            };
        }
        for _ in 0..ATTEMPTS {
            let routes: Vec<Port> = (0..size).map(|_| free_port()).collect();
            let servers: Vec<NatsServer> = (0..size)
                .map_while(|index| {
                    let name = format!("server-{index}");
                    NatsServer::launch(&name, DISK, &cluster(&routes, index))
                })
                .collect();
            if servers.len() == size {
                return Self {
                    servers,
                    _routes: routes,
                };
            }
        }
        panic!("a cluster did not start in {ATTEMPTS} attempts");
    }

    /// Where they listen.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(NatsServer::url).collect()
    }
}

/// The configuration of one of a cluster.
fn cluster(routes: &[Port], index: usize) -> String {
    let urls = routes
        .iter()
        .map(|port| format!("\"nats-route://127.0.0.1:{}\"", port.number));
    let urls: Vec<String> = urls.collect();
    let own = routes[index].number;
    format!(
        "cluster {{ name: test, listen: \"127.0.0.1:{own}\", routes: [{}] }}",
        urls.join(", ")
    )
}

/// Whether a NATS server answers there.
fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let mut greeting = [0; 4];
    let patient = stream.set_read_timeout(Some(Duration::from_secs(1)));
    patient.is_ok() && stream.read_exact(&mut greeting).is_ok() && &greeting == b"INFO"
}

/// A port that nobody has claimed, and nobody listens on.
fn free_port() -> Port {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let claims = env::temp_dir().join("tributary-test-ports");
    fs::create_dir_all(&claims).expect("a folder beside the temporary ones");
    // Processes begin in different places.
    let begin = std::process::id().wrapping_mul(7);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = begin.wrapping_add(step.into()) % PORTS.len() as u32;
        let number = PORTS.start + place as u16;
        let claim = File::create(claims.join(number.to_string())).expect("a file of one's own");
        let mine = claim.try_lock().is_ok();
        if mine && TcpListener::bind(("0.0.0.0", number)).is_ok() {
            return Port {
                number,
                _claim: claim,
            };
        }
    }
}
