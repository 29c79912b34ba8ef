//! One update, from its first byte to its slot.
//!
//! The order matters: what can be refused by address, length or header is refused before a slot is
//! claimed, the beginning of a body is read before it has a slot, and a slot is published only after every byte was
//! seen. A client that lies, stalls or
//! goes away leaves nothing behind: the claim is given up when it is dropped.

use super::Gateway;
use super::body::Source;
use super::fill::{PIECE_BYTES, Target};
use super::pace::Pace;
use super::reader::Reader;
use super::refusal::Refusal;
use super::told::Told;
use crate::job::{Accepted, Job, Update};
use std::sync::Arc;
use std::time::Duration;
use tributary_api::ClientName;
use tributary_api::manifest::NonFinite;
use tributary_api::model::{
    Header, HeaderError, METADATA_BYTES_MAX, PREFIX_BYTES, SlotLayout, header_length,
};
use tributary_api::status::UpdateReceipt;
use tributary_arena::Filling;
use twox_hash::XxHash3_128;

/// How long an update waits for a slot before its client is told to come again. Waiting costs little: the body stays in
/// the client's socket but for its beginning, and who comes again has to send it again.
const SLOT_PATIENCE: Duration = Duration::from_secs(5);

/// Whose update it is, as the URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub job: String,
    pub client: String,
    pub query: String,
}

impl Address {
    pub(super) fn job(&self, gateway: &Gateway) -> Result<Arc<Job>, Refusal> {
        let job = gateway.jobs.get(&self.job);
        job.ok_or_else(|| match gateway.jobs.elsewhere(&self.job) {
            Some(url) => Refusal::Elsewhere {
                url: format!("{url}/v1/jobs/{}/updates/{}", self.job, self.client),
                job: self.job.clone(),
            }
            .with_query(&self.query),
            None if gateway.jobs.is_starting(&self.job) => Refusal::Starting(self.job.clone()),
            None => Refusal::UnknownJob(self.job.clone()),
        })
    }

    /// Where the job is that has just ended here.
    fn gone(&self, gateway: &Gateway) -> Refusal {
        let now = self.job(gateway).err();
        now.unwrap_or_else(|| Refusal::Starting(self.job.clone()))
    }

    pub(super) fn client(&self) -> Result<ClientName, Refusal> {
        let client = self.client.parse();
        client.map_err(|e| Refusal::Malformed(format!("{e}")))
    }
}

/// What becomes of an update that is taken, and the document that tells it.
pub(super) type Taken = (Accepted, UpdateReceipt);

/// Takes an update.
pub(crate) async fn put<S: Source>(
    gateway: &Gateway,
    address: &Address,
    body: &mut S,
) -> Result<Taken, Refusal> {
    let job = address.job(gateway)?;
    let outcome = tokio::select! {
        biased;
        outcome = put_into(gateway, &job, address, body) => outcome,
        // However slowly the body comes: the slot goes with the job.
        () = job.ended() => Err(address.gone(gateway)),
    };
    let outcome = outcome.map_err(|refusal| body.blame(refusal));
    count(&job, &outcome);
    outcome
}

/// Counts what became of an update.
pub(super) fn count(job: &Job, outcome: &Result<Taken, Refusal>) {
    job.count_outcome(&self::outcome(outcome));
}

/// What became of an update, as metrics name it.
pub(super) fn outcome(outcome: &Result<Taken, Refusal>) -> String {
    match outcome {
        Ok((accepted, _)) if accepted.repeated => "repeated".into(),
        Ok(_) => "accepted".into(),
        Err(refusal) => refusal.problem().slug().to_owned(),
    }
}

async fn put_into<S: Source>(
    gateway: &Gateway,
    job: &Arc<Job>,
    address: &Address,
    body: &mut S,
) -> Result<Taken, Refusal> {
    let client = address.client()?;
    let told = Told::from_query(&address.query)?;
    if told.is_of_local_path() {
        return Err(Refusal::not_local(
            "a slot is committed without a body, over HTTP/1.1, on the connection that asked for it",
        ));
    }
    told.check_weight(job)?;
    let wait_for_header = told.round.is_none() && job.home_needs_round();
    if !wait_for_header {
        check_home(gateway, job, address, &client, told.round).await?;
    }
    if let Some(round) = told.round {
        check_sender(job, &client, round)?;
    }
    check_length(job, body.length())?;
    let pace = Pace::from(&job.ingest());
    body.proceed(pace.idle).await?;
    // What is fetched tells its length only now.
    check_length(job, body.length())?;

    let mut reader = Reader::new(body, pace);
    let (header_bytes, header) = read_header(job, &mut reader).await?;
    let (round, weight) = told.or_header(&header)?.settled(job)?;
    if wait_for_header {
        check_home(gateway, job, address, &client, Some(round)).await?;
    }
    let sender = Sender {
        job,
        client,
        round,
        weight,
    };
    let mut digest = sender.digest(gateway);
    digest.write(&header_bytes);
    let known = job.has(&sender.client, round);
    if !known {
        check_round(job, round)?;
    }
    check_encoding(job, &header)?;
    let plan = job
        .layout
        .match_update(&header)
        .map_err(|mismatch| Refusal::Layout {
            job: job.name.clone(),
            mismatch,
        })?;
    if known {
        return repeat(&sender, &mut reader, &header, digest).await;
    }
    until_open(job, round).await?;
    if let Some(stage) = gateway.stages.take() {
        reader.stage(stage, header.data_bytes()).await?;
    }
    let claimed = claim(job, reader.pace()).await?;
    // Before the claim in this order, so that it ends after it.
    let seat = job.seat();
    let mut filling = claimed;
    reader.takes(&seat);
    // The round may have ended while it waited.
    check_round(job, round)?;
    target(job, weight)
        .fill(filling.vector_mut(), &plan, &mut reader, &mut digest)
        .await?;
    reader.expect_end().await?;
    seat.is_full();
    let bytes = Bytes {
        sent: reader.received,
        copied: reader.received * S::COPIES,
    };
    sender.enter(filling, plan.slot, &digest, bytes).await
}

async fn check_home(
    gateway: &Gateway,
    job: &Job,
    address: &Address,
    client: &ClientName,
    trained: Option<u64>,
) -> Result<(), Refusal> {
    let home = gateway.check_home(job, client, trained).await;
    home.map_err(|refusal| refusal.with_query(&address.query))?;
    if let Some(round) = trained {
        job.catch_up_with(round).await;
    }
    Ok(())
}

/// What is checked in an update of that weight.
pub(super) fn target(job: &Job, weight: f64) -> Target<'_> {
    let most = job.update_bounds().value_max(weight);
    Target {
        job: &job.name,
        layout: &job.layout,
        check_finite: job.ingest().non_finite == NonFinite::Reject,
        exact: most.map(|most| (weight, most)),
    }
}

/// A slot for an update that comes at `pace` bytes in a second; waits for one.
pub(super) async fn claim(job: &Job, pace: f64) -> Result<Filling, Refusal> {
    let slot = job.claim_slot(pace, SLOT_PATIENCE).await?;
    slot.ok_or_else(|| Refusal::NoSlot {
        job: job.name.clone(),
        slots: job.plan.geometry.updates.count,
    })
}

/// Who sends an update, for which round and with which weight.
pub(super) struct Sender<'a> {
    pub job: &'a Job,
    pub client: ClientName,
    /// The round that the update was trained for.
    pub round: u64,
    pub weight: f64,
}

/// How much of an update came, and was copied.
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    pub sent: u64,
    pub copied: u64,
}

impl Sender<'_> {
    /// The beginning of the digest that tells this update from others.
    pub(super) fn digest(&self, gateway: &Gateway) -> XxHash3_128 {
        let mut digest = XxHash3_128::with_seed(gateway.digest_seed);
        digest.write(&self.weight.to_bits().to_le_bytes());
        digest
    }

    /// Enters the checked update into the open round, or the next one.
    pub(super) async fn enter(
        self,
        filling: Filling,
        slot: SlotLayout,
        digest: &XxHash3_128,
        bytes: Bytes,
    ) -> Result<Taken, Refusal> {
        let update = Update {
            client: self.client.clone(),
            round: self.round,
            weight: self.weight,
            digest: digest.finish_128(),
            bytes: bytes.sent,
            copied: bytes.copied,
            slot,
        };
        let answer = self.job.accept(&update, filling).await;
        self.told(answer)
    }

    /// The job's answer as the client gets it.
    fn told(&self, answer: Result<Accepted, crate::job::Refusal>) -> Result<Taken, Refusal> {
        match answer {
            Ok(accepted) => {
                let receipt = UpdateReceipt {
                    job: self.job.name.clone(),
                    client: self.client.clone(),
                    round: accepted.round,
                    staleness: accepted.staleness,
                    slot_state: "ready".into(),
                    contributors: accepted.contributors,
                };
                Ok((accepted, receipt))
            }
            Err(refusal) => Err(refused(self.job, self.round, refusal)),
        }
    }
}

/// The update must be one that can be taken, unless it is known: then its client asks again.
pub(super) fn check_sender(job: &Job, client: &ClientName, round: u64) -> Result<(), Refusal> {
    if job.has(client, round) {
        return Ok(());
    }
    check_round(job, round)
}

fn check_round(job: &Job, round: u64) -> Result<(), Refusal> {
    job.check_round(round).map_err(|refusal| {
        job.count_late(round);
        refused(job, round, refusal)
    })
}

/// Waits while the open round is closing, if the next one may take the update.
async fn until_open(job: &Job, round: u64) -> Result<(), Refusal> {
    let open = job.until_open(round).await;
    open.map_err(|refusal| refused(job, round, refusal))
}

/// An update for the round `given` that the job refuses.
fn refused(job: &Job, given: u64, refusal: crate::job::Refusal) -> Refusal {
    Refusal::Job {
        job: job.name.clone(),
        given,
        refusal,
    }
}

/// A body that is longer than any update of the job can be is refused unread.
fn check_length(job: &Job, length: Option<u64>) -> Result<(), Refusal> {
    let header = PREFIX_BYTES as u64 + job.layout.update_header_bytes_max();
    let data = SlotLayout::room(job.layout.elements());
    let most = header + data;
    match length {
        Some(length) if length > most => Err(Refusal::TooLarge(format!(
            "the body has {length} bytes; an update of job {} has at most {most}: {header} of header, of which \
             {METADATA_BYTES_MAX} are for __metadata__, and {data} of data",
            job.name
        ))),
        _ => Ok(()),
    }
}

/// The function must fold what the update's elements are encoded in.
fn check_encoding(job: &Job, header: &Header) -> Result<(), Refusal> {
    let encoding = job.layout.encoding_of(header);
    if job.encodings.contains(encoding) {
        return Ok(());
    }
    Err(Refusal::Encoding {
        job: job.name.clone(),
        function: job.function.name.clone(),
        taken: job.encodings,
        encoding,
        by_windows: job.plan.by_windows,
    })
}

async fn read_header<S: Source>(
    job: &Job,
    reader: &mut Reader<'_, S>,
) -> Result<(Vec<u8>, Header), Refusal> {
    if let Some(actual @ 0..8) = reader.length() {
        let needed = PREFIX_BYTES as u64;
        return Err(HeaderError::Truncated { actual, needed }.into());
    }
    let mut prefix = [0; PREFIX_BYTES];
    reader.fill(&mut prefix).await?;
    let length = header_length(prefix, job.layout.update_header_bytes_max())?;
    let mut json = vec![0; length];
    reader.fill(&mut json).await?;
    let header = Header::parse(&json)?;
    if let Some(total) = reader.length() {
        header.check_data_bytes(total.saturating_sub(reader.received))?;
    }
    Ok((json, header))
}

/// A client that has an update in the round sends again: the same bytes are answered as before.
async fn repeat<S: Source>(
    sender: &Sender<'_>,
    reader: &mut Reader<'_, S>,
    header: &Header,
    mut digest: XxHash3_128,
) -> Result<Taken, Refusal> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut left = header.data_bytes();
    while left > 0 {
        let next = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        reader.fill(&mut piece[..next]).await?;
        digest.write(&piece[..next]);
        left -= next as u64;
    }
    reader.expect_end().await?;
    let round = sender.round;
    let known = sender
        .job
        .repeated(&sender.client, round, digest.finish_128());
    // The round may have failed and opened again while the body came.
    sender.told(known.unwrap_or(Err(crate::job::Refusal::Closing { round })))
}
