//! Several hosts on one machine: network namespaces on a bridge, each with a link of limited bandwidth.
//!
//! It takes root, and the programs `ip` and `tc` (Debian's package iproute2).
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Networks of this process; with its number they make names that no other test has.
static NETWORKS: AtomicU32 = AtomicU32::new(0);
/// What leaves a link at once before its rate counts.
const BURST: &str = "256kb";
/// How long a packet may wait for its link.
const LATENCY: &str = "200ms";

/// Why there are no hosts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not there.
    #[error("cannot run {program}: {error}; it is in Debian's package iproute2")]
    Missing {
        /// The program.
        program: &'static str,
        /// What the system says.
        error: std::io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` failed: {said}; making network namespaces takes root")]
    Failed {
        /// The command line.
        command: String,
        /// What it said.
        said: String,
    },
}

/// A bridge with hosts; all of it goes when this is dropped.
#[derive(Debug)]
pub struct Network {
    id: String,
    subnet: [u8; 2],
    hosts: usize,
}

impl Network {
    /// So many hosts, each on a link of that rate in either direction, such as `1gbit`.
    ///
    /// # Errors
    /// Without the right to make network namespaces, or the programs for it.
    pub fn new(hosts: usize, rate: &str) -> Result<Self, Error> {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let network = Self {
            id: format!("{:04x}{number:x}", pid & 0xffff),
            // 10.64.0.0/10: no address of the machine's own, most likely.
            subnet: [
                64 + (pid >> 8 & 0x3f) as u8,
                (pid as u8).wrapping_add(number as u8),
            ],
            hosts,
        };
        let bridge = network.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        let address = format!("{}/24", network.gateway());
        ip(&["address", "add", &address, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        (0..hosts).try_for_each(|host| network.add(host, rate))?;
        Ok(network)
    }

    fn add(&self, host: usize, rate: &str) -> Result<(), Error> {
        let (namespace, link) = (self.namespace(host), self.link(host));
        ip(&["netns", "add", &namespace])?;
        let peer = ["peer", "name", "eth0", "netns", &namespace];
        ip(&[&["link", "add", &link, "type", "veth"], &peer[..]].concat())?;
        ip(&["link", "set", &link, "master", &self.bridge(), "up"])?;
        let address = format!("{}/24", self.address(host));
        let inside = |rest: &[&str]| ip(&[&["-n", &namespace], rest].concat());
        inside(&["address", "add", &address, "dev", "eth0"])?;
        inside(&["link", "set", "lo", "up"])?;
        inside(&["link", "set", "eth0", "up"])?;
        let limit = [
            "root", "tbf", "rate", rate, "burst", BURST, "latency", LATENCY,
        ];
        let shape = |before: &[&str]| run("tc", &[before, &limit[..]].concat());
        shape(&["qdisc", "add", "dev", &link])?;
        shape(&["-n", &namespace, "qdisc", "add", "dev", "eth0"])
    }

    /// What tells this network from others: it may be part of names that all hosts share.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The bridge's own address: what runs outside the hosts is reached there.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        let [a, b] = self.subnet;
        Ipv4Addr::new(10, a, b, 1)
    }

    /// A host's address.
    #[must_use]
    pub fn address(&self, host: usize) -> Ipv4Addr {
        let [a, b] = self.subnet;
        Ipv4Addr::new(10, a, b, 10 + host as u8)
    }

    /// A program to be run on a host.
    #[must_use]
    pub fn command(&self, host: usize, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(host)])
            .arg(program);
        command
    }

    /// Cuts a host's link: its processes go on and reach nobody.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub fn cut(&self, host: usize) -> Result<(), Error> {
        ip(&["link", "set", &self.link(host), "down"])
    }

    /// Mends a link that was cut.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub fn mend(&self, host: usize) -> Result<(), Error> {
        ip(&["link", "set", &self.link(host), "up"])
    }

    /// Limits what a host sends to another rate: it is slow, and everybody else is not.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub fn slow(&self, host: usize, rate: &str) -> Result<(), Error> {
        let namespace = self.namespace(host);
        let limit = ["rate", rate, "burst", BURST, "latency", LATENCY];
        let device = [
            "-n", &namespace, "qdisc", "replace", "dev", "eth0", "root", "tbf",
        ];
        run("tc", &[&device[..], &limit[..]].concat())
    }

    /// Bytes that a host has sent and received over its link, by the kernel's count; `None` if it does not tell.
    #[must_use]
    pub fn bytes(&self, host: usize) -> Option<(u64, u64)> {
        let counter = |name: &str| -> Option<u64> {
            let path = format!("/sys/class/net/{}/statistics/{name}", self.link(host));
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        // What the host sends, the bridge's end receives.
        Some((counter("rx_bytes")?, counter("tx_bytes")?))
    }

    /// The processes on a host.
    #[must_use]
    pub fn processes(&self, host: usize) -> Vec<u32> {
        let listed = Command::new("ip")
            .args(["netns", "pids", &self.namespace(host)])
            .output();
        let listed = listed.map_or_else(|_| Vec::new(), |output| output.stdout);
        let listed = String::from_utf8_lossy(&listed).into_owned();
        listed
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect()
    }

    fn bridge(&self) -> String {
        format!("tri{}", self.id)
    }

    fn link(&self, host: usize) -> String {
        format!("tri{}-{host}", self.id)
    }

    fn namespace(&self, host: usize) -> String {
        format!("tributary-{}-{host}", self.id)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Whoever started processes there has ended them. Links go with their namespaces. What was never made
        // cannot be removed, and that is no error.
        for host in 0..self.hosts {
            let _ = ip(&["netns", "del", &self.namespace(host)]);
        }
        let _ = ip(&["link", "del", &self.bridge()]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), Error> {
    run("ip", arguments)
}

fn run(program: &'static str, arguments: &[&str]) -> Result<(), Error> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| Error::Missing { program, error })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let command = format!("{program} {}", arguments.join(" "));
    Err(Error::Failed { command, said })
}
