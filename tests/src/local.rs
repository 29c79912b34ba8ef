//! A client on the server's own host, which writes its updates into shared memory itself.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use serde_json::Value;
use tributary_api::status::SlotLease;

use crate::connection::Connection;
use crate::http::Answer;
use crate::job::Job;
use crate::tensors::Model;

/// A connection whose client writes its updates itself.
#[derive(Debug)]
pub struct LocalClient<'a> {
    job: &'a Job,
    /// The connection, for what else is sent on it.
    pub connection: Connection,
}

impl<'a> LocalClient<'a> {
    /// Connects.
    #[must_use]
    pub fn open(job: &'a Job) -> Self {
        Self {
            job,
            connection: Connection::open(job.client().address()),
        }
    }

    /// Asks for a slot.
    #[must_use]
    #[track_caller]
    pub fn ask(&mut self, client: &str, query: &str) -> Answer {
        let joint = if query.is_empty() { '?' } else { '&' };
        let slot = format!("/slot{query}{joint}{}", credentials(self.job));
        let path = self.job.update_path(client, &slot);
        self.connection.ask("POST", &path)
    }

    /// Asks for a slot that must be lent.
    #[must_use]
    #[track_caller]
    pub fn lease(&mut self, client: &str, round: u64, weight: f64) -> SlotLease {
        let query = format!("?round={round}&weight={weight}");
        self.ask(client, &query).expect(201).json()
    }

    /// Says that what lies in the slot is the client's update.
    #[must_use]
    #[track_caller]
    pub fn commit(&mut self, client: &str, round: u64, weight: f64, ticket: &str) -> Answer {
        let query = format!("?round={round}&weight={weight}&slot={ticket}");
        let path = self.job.update_path(client, &query);
        self.connection.ask("PUT", &path)
    }

    /// Gives a slot back.
    #[must_use]
    #[track_caller]
    pub fn give_back(&mut self, client: &str, ticket: &str) -> Answer {
        let query = format!("/slot?ticket={ticket}");
        let path = self.job.update_path(client, &query);
        self.connection.ask("DELETE", &path)
    }

    /// Asks for a slot, writes an update there, commits it.
    #[must_use]
    #[track_caller]
    pub fn send(&mut self, client: &str, round: u64, weight: f64, update: &Model) -> Answer {
        let lease = self.lease(client, round, weight);
        write(self.job, &lease, update);
        self.commit(client, round, weight, &lease.ticket)
    }
}

/// What a request for a slot says beside the update: by which layout its client writes, and that it can open the segment.
/// Of a job that is not there, nothing.
///
/// # Panics
/// If the segment cannot be read.
#[must_use]
pub fn credentials(job: &Job) -> String {
    let model = job.client().get(&format!("/v1/jobs/{}/model", job.name()));
    let Some(layout) = model.header("tributary-layout") else {
        return String::new();
    };
    let path = job.update_path("prover", &format!("/slot?round=1&layout={layout}"));
    let unproven = Connection::open(job.client().address())
        .ask("POST", &path)
        .problem();
    let Some(segment) = unproven.extensions.get("segment") else {
        return format!("layout={layout}");
    };
    let segment = File::open(PathBuf::from("/dev/shm").join(segment.as_str().expect("a name")));
    let number = |member: &str| unproven.extensions[member].as_u64().expect("a number");
    let mut proof = vec![0; number("proof_bytes") as usize];
    let read = segment
        .expect("the segment")
        .read_exact_at(&mut proof, number("proof_offset"));
    read.expect("its beginning");
    let proof: String = proof.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("layout={layout}&proof={proof}")
}

/// The segment's file.
#[must_use]
pub fn file(lease: &SlotLease) -> PathBuf {
    PathBuf::from("/dev/shm").join(&lease.segment)
}

/// The segment, attached by its name. What is written to the file is what others see in their mappings.
///
/// # Panics
/// If it cannot be attached.
#[must_use]
pub fn attach(lease: &SlotLease) -> File {
    let segment = OpenOptions::new().read(true).write(true).open(file(lease));
    segment.expect("the segment of a lease")
}

/// Writes an update to its slot: each tensor where the header of the model's file says.
///
/// # Panics
/// If the model has other tensors.
pub fn write(job: &Job, lease: &SlotLease, update: &Model) {
    let segment = attach(lease);
    let path = format!("/v1/jobs/{}/model", job.name());
    let model = job.client().get(&path).expect(200).body;
    let (length, rest) = model.split_first_chunk().expect("a length");
    let header = &rest[..u64::from_le_bytes(*length) as usize];
    let header: Value = serde_json::from_slice(header).expect("a header");
    for tensor in &update.tensors {
        let begin = header[&tensor.name]["data_offsets"][0].as_u64();
        let begin = begin.unwrap_or_else(|| panic!("{} in {header}", tensor.name));
        let bytes = tensor.bytes();
        assert!(begin + bytes.len() as u64 <= lease.bytes);
        let written = segment.write_all_at(&bytes, lease.offset + begin);
        written.expect("memory that is there");
    }
}
