//! Several hosts on one machine: network namespaces on a bridge, each with a link of limited bandwidth.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::place::tool;

/// Networks of this process; with its number they make names that no other test has.
static NETWORKS: AtomicU32 = AtomicU32::new(0);
/// What leaves a link at once before its rate counts.
const BURST: &str = "256kb";
/// How long a packet may wait for its link.
const LATENCY: &str = "200ms";

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
    /// # Panics
    /// Without the right to make network namespaces.
    #[must_use]
    pub fn new(hosts: usize, rate: &str) -> Self {
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
        ip(&["link", "add", &bridge, "type", "bridge"]);
        ip(&[
            "address",
            "add",
            &format!("{}/24", network.gateway()),
            "dev",
            &bridge,
        ]);
        ip(&["link", "set", &bridge, "up"]);
        (0..hosts).for_each(|host| network.add(host, rate));
        network
    }

    fn add(&self, host: usize, rate: &str) {
        let (namespace, link) = (self.namespace(host), self.link(host));
        ip(&["netns", "add", &namespace]);
        ip(&[
            "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
        ]);
        ip(&["link", "set", &link, "master", &self.bridge(), "up"]);
        let address = format!("{}/24", self.address(host));
        ip(&["-n", &namespace, "address", "add", &address, "dev", "eth0"]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        let limit = [
            "root", "tbf", "rate", rate, "burst", BURST, "latency", LATENCY,
        ];
        run(
            "tc",
            &[&["qdisc", "add", "dev", &link], &limit[..]].concat(),
        );
        run(
            "tc",
            &[
                &["-n", &namespace, "qdisc", "add", "dev", "eth0"],
                &limit[..],
            ]
            .concat(),
        );
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
    pub fn command(&self, host: usize, program: &std::path::Path) -> Command {
        let mut command = Command::new(tool("ip"));
        command
            .args(["netns", "exec", &self.namespace(host)])
            .arg(program);
        command
    }

    /// Cuts a host's link: its processes go on and reach nobody.
    pub fn cut(&self, host: usize) {
        ip(&["link", "set", &self.link(host), "down"]);
    }

    /// Mends a link that was cut.
    pub fn mend(&self, host: usize) {
        ip(&["link", "set", &self.link(host), "up"]);
    }

    /// Bytes that a host has sent and received over its link, by the kernel's count.
    ///
    /// # Panics
    /// If the kernel does not tell.
    #[must_use]
    pub fn bytes(&self, host: usize) -> (u64, u64) {
        let counter = |name: &str| {
            let path = format!("/sys/class/net/{}/statistics/{name}", self.link(host));
            let text = std::fs::read_to_string(path).expect("a counter");
            text.trim().parse().expect("a number")
        };
        // What the host sends, the bridge's end receives.
        (counter("rx_bytes"), counter("tx_bytes"))
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
        // Whoever started processes there has ended them. Links go with their namespaces.
        for host in 0..self.hosts {
            let _ = Command::new(tool("ip"))
                .args(["netns", "del", &self.namespace(host)])
                .status();
        }
        let _ = Command::new(tool("ip"))
            .args(["link", "del", &self.bridge()])
            .status();
    }
}

fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(tool(program))
        .args(arguments)
        .output()
        .expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {}: {errors}",
        arguments.join(" ")
    );
}
