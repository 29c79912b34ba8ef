//! Where a job's updates are aggregated when it has several nodes: made by the controller, followed by nodes.
//!
//! One node of a job *leads*: it hosts the top, decides when a round closes, and publishes the model. The others
//! *follow*: each aggregates its own clients' updates and hands one partial to the leader. Leader and followers talk
//! to each other, gateway to gateway; a round needs nobody else.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ClientName, Name};

/// The buckets into which clients' names are hashed.
pub const BUCKETS: usize = 1024;

/// The header by which a client's home that asks its earlier ones for an update says by which placement it is the home:
/// its generation. A node of an earlier version does not send it, and does not look at it.
pub const GENERATION_HEADER: &str = "tributary-generation";

/// A job's nodes. Immutable: a change is a placement of a higher generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Grows with every placement of the job, whoever makes it.
    pub generation: u64,
    /// The member that hosts the top.
    pub leader: Name,
    /// The nodes that take part, by name.
    pub members: Vec<Member>,
    /// Who takes which client's updates.
    pub homes: Homes,
    /// Earlier tables: a client may have an update at the node that was its home then. They are kept until every member
    /// follows this placement, and no update of a round before may come any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Homes>,
    /// The round that was open, as far as reports knew, when homes moved last.
    #[serde(default)]
    pub since: u64,
    /// What members show each other; clients do not know it.
    pub secret: String,
}

/// A node that takes part in a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The node's name.
    pub node: Name,
    /// Its gateway, such as `http://10.0.0.2:8470`; without a slash at its end.
    pub url: String,
    /// Whether it takes more updates.
    pub duty: Duty,
}

/// Whether a member takes more updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Duty {
    /// It does.
    Serving,
    /// It hands over what it has, and leaves.
    Draining,
}

/// Who takes which client's updates: a table of [`BUCKETS`] buckets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Homes {
    /// The nodes' names.
    pub nodes: Vec<Name>,
    /// For each bucket the index of its node.
    pub buckets: Vec<u16>,
}

/// What a follower tells its leader, whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The follower.
    pub node: Name,
    /// The placement that it follows.
    pub generation: u64,
    /// The version of its model, which is also its round.
    pub version: u64,
    /// The leader's attempt at the round for which it counts, as a directive has told; none yet, or none of this round.
    pub attempt: Option<u32>,
    /// The updates that it has accepted in the round.
    pub accepted: u32,
    /// Of those, the ones that will be in its partial.
    pub contributors: u32,
    /// It takes no more of them.
    pub closed: bool,
    /// The time since its first update of the round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_update: Option<Duration>,
    /// How old the models were from which its updates were trained.
    #[serde(default)]
    pub staleness: StalenessSum,
}

/// How old the models were from which some updates were trained, in versions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StalenessSum {
    /// The sum over the updates.
    pub total: u64,
    /// The greatest one.
    pub max: u64,
}

/// What a leader tells its followers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directive {
    /// The placement by which it leads.
    pub generation: u64,
    /// The version of its model, which is also the open round.
    pub version: u64,
    /// The attempt at the round, from 0.
    pub attempt: u32,
    /// The round takes no more updates.
    pub closed: bool,
    /// The follower's partial has come.
    pub taken: bool,
}

impl StalenessSum {
    /// Adds an update.
    pub fn add(&mut self, staleness: u64) {
        self.merge(Self {
            total: staleness,
            max: staleness,
        });
    }

    /// Adds other updates.
    pub fn merge(&mut self, other: Self) {
        self.total = self.total.saturating_add(other.total);
        self.max = self.max.max(other.max);
    }
}

impl Placement {
    /// The member of that name.
    #[must_use]
    pub fn member(&self, node: &str) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| member.node.as_str() == node)
    }

    /// The leader's entry; a placement whose leader is no member is refused by nodes.
    #[must_use]
    pub fn leader(&self) -> Option<&Member> {
        self.member(self.leader.as_str())
    }

    /// The member that takes the client's updates.
    #[must_use]
    pub fn home(&self, client: &ClientName) -> Option<&Member> {
        self.member(self.homes.of(client)?.as_str())
    }
}

impl Placement {
    /// The part of all clients that are at home on a node: between 0 and 1.
    #[must_use]
    pub fn share(&self, node: &str) -> f64 {
        let Homes { nodes, buckets } = &self.homes;
        let here = |index: &&u16| {
            let home = nodes.get(usize::from(**index));
            home.is_some_and(|home| home.as_str() == node)
        };
        buckets.iter().filter(here).count() as f64 / buckets.len().max(1) as f64
    }
}

impl Homes {
    /// Everybody's home is one node.
    #[must_use]
    pub fn one(node: Name) -> Self {
        Self {
            nodes: vec![node],
            buckets: vec![0; BUCKETS],
        }
    }

    /// The client's home.
    #[must_use]
    pub fn of(&self, client: &ClientName) -> Option<&Name> {
        self.owner(bucket(client))
    }

    /// The home of a bucket's clients.
    #[must_use]
    pub fn owner(&self, bucket: usize) -> Option<&Name> {
        let index = *self.buckets.get(bucket)?;
        self.nodes.get(usize::from(index))
    }
}

/// The bucket of a client: FNV-1a of its name, folded. Every version of every node must agree on it.
#[must_use]
pub fn bucket(client: &ClientName) -> usize {
    let hash = client
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    // The low bits of FNV-1a alone are weak: fold the high ones in.
    ((hash ^ (hash >> 32) ^ (hash >> 16)) % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn clients_spread_over_the_buckets() {
        let mut filled = vec![0_u32; BUCKETS];
        for number in 0..64 * BUCKETS {
            let client: ClientName = format!("client-{number}").parse().unwrap();
            filled[bucket(&client)] += 1;
        }
        let (least, most) = (filled.iter().min().unwrap(), filled.iter().max().unwrap());
        assert!(
            *least > 24 && *most < 128,
            "{least} to {most} of 64 on average"
        );
    }

    #[test]
    fn a_bucket_is_the_same_for_ever() {
        // Recorded once: clients, nodes and versions must agree.
        let clients = ["client-0", "client-1", "a", "hospital.example.org"];
        let buckets = clients.map(|client| bucket(&client.parse().unwrap()));
        assert_eq!(buckets, [186, 9, 705, 665]);
    }

    #[test]
    fn a_clients_home_is_the_node_of_its_bucket() {
        let mut homes = Homes::one(name("a"));
        homes.nodes.push(name("b"));
        let client: ClientName = "somebody".parse().unwrap();
        assert_eq!(homes.of(&client), Some(&name("a")));
        homes.buckets[bucket(&client)] = 1;
        assert_eq!(homes.of(&client), Some(&name("b")));
        homes.buckets[bucket(&client)] = 2;
        assert_eq!(
            homes.of(&client),
            None,
            "a table that names no such node gives no home"
        );
    }
}
