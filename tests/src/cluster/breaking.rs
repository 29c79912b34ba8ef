//! What a soak does to a cluster beyond what single tests do.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;

use super::{Cluster, end};
use crate::http::Client;
use crate::process;

/// How long an operator's request may take; it is made again.
const REQUEST: Duration = Duration::from_secs(3);

impl Cluster {
    /// The addresses of all nodes' doors, whether they run or not.
    #[must_use]
    pub fn doors(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// The processes of a node, its agent first; none while it is killed.
    #[must_use]
    pub fn node_processes(&self, node: usize) -> Vec<u32> {
        let Some(agent) = self.nodes[node].child.as_ref().map(std::process::Child::id) else {
            return Vec::new();
        };
        std::iter::once(agent)
            .chain(process::workers_of(agent))
            .collect()
    }

    /// Stops a node's processes as if its machine had fallen asleep, or wakes them.
    pub fn freeze_node(&mut self, node: usize, frozen: bool) {
        self.nodes[node].frozen = frozen;
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        for process in self.node_processes(node) {
            process::signal(process, signal);
        }
    }

    /// The host of a controller.
    #[must_use]
    pub fn controller_host(&self, controller: usize) -> usize {
        self.controllers[controller].host
    }

    /// Whether a controller answers nobody: it is not looked for while its link is cut.
    pub fn hide_controller(&mut self, controller: usize, hidden: bool) {
        self.controllers[controller].frozen = hidden;
    }

    /// The number of the leading controller, if one leads just now.
    #[must_use]
    pub fn leading_now(&self) -> Option<usize> {
        let leader = self.try_control()?.address();
        self.controllers
            .iter()
            .position(|member| member.address == leader)
    }

    /// The node that leads a job, if that is known just now.
    #[must_use]
    pub fn leader_now(&self, job: &str) -> Option<usize> {
        let leader = self.placement(job)?.leader?;
        (0..self.nodes.len()).find(|node| self.node_name(*node) == leader.as_str())
    }

    /// Drains a node or gives it work again; false if no controller took the word.
    #[must_use]
    pub fn try_drain(&self, node: usize, drained: bool) -> bool {
        let method = if drained { "PUT" } else { "DELETE" };
        let path = format!("/v1/nodes/{}/drain", self.node_name(node));
        let Some(leader) = self.try_control() else {
            return false;
        };
        let answer = Client::patient(leader.address(), REQUEST).try_send(method, &path, &[], &[]);
        answer.is_ok_and(|answer| answer.status < 300)
    }

    /// What a node calls itself in the names of its segments.
    #[must_use]
    pub fn node_id(&self, node: usize) -> Option<String> {
        let file = self.home.path().join(self.name("node", node)).join("node");
        std::fs::read_to_string(file).ok()
    }

    /// Ends everything as an operator does, nodes first; gives the processes that are still on the hosts afterwards.
    pub fn stop(&mut self) -> Vec<u32> {
        for member in self.nodes.iter_mut().chain(&mut self.controllers) {
            let Some(mut child) = member.child.take() else {
                continue;
            };
            process::signal(child.id(), Signal::TERM);
            let ended = crate::wait::ends(&mut child);
            member.child = Some(child);
            if !ended {
                end(member);
            }
        }
        let hosts = 0..self.nodes.len() + self.controllers.len();
        hosts
            .flat_map(|host| self.network.processes(host))
            .collect()
    }
}
