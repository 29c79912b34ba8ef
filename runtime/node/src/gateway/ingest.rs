//! One update, from its first byte to its slot.
//!
//! The order matters: what can be refused by address, length or header is refused before a slot is
//! claimed, and a slot is published only after every byte was seen. A client that lies, stalls or
//! goes away leaves nothing behind: the claim is given up when it is dropped.

use super::Gateway;
use super::body::Source;
use super::refusal::Refusal;
use crate::job::{Accepted, Job, Update};
use std::sync::Arc;
use std::time::Duration;
use tributary_api::ClientName;
use tributary_api::manifest::NonFinite;
use tributary_api::model::{Header, HeaderError, PREFIX_BYTES, Segment, header_length};
use tributary_api::status::UpdateReceipt;
use tributary_arena::Filling;
use xxhash_rust::xxh3::Xxh3;

/// Bytes that are read, checked and hashed at a time, while they are in the cache.
const PIECE_BYTES: usize = 256 << 10;
/// How long an update waits for a slot before its client is told to come again. Waiting costs
/// nothing: the body stays in the client's socket.
const SLOT_PATIENCE: Duration = Duration::from_secs(1);

/// Whose update it is, as the URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub job: String,
    pub client: String,
    pub query: String,
}

/// Takes an update.
pub(crate) async fn put<S: Source>(
    gateway: &Gateway,
    address: &Address,
    body: &mut S,
) -> Result<(Accepted, UpdateReceipt), Refusal> {
    let job = gateway
        .jobs
        .get(&address.job)
        .ok_or_else(|| Refusal::UnknownJob(address.job.clone()))?;
    let outcome = put_into(gateway, &job, address, body).await;
    match &outcome {
        Ok((accepted, _)) if accepted.repeated => job.count_outcome("repeated"),
        Ok(_) => job.count_outcome("accepted"),
        Err(refusal) => job.count_outcome(refusal.problem().slug()),
    }
    outcome
}

async fn put_into<S: Source>(
    gateway: &Gateway,
    job: &Arc<Job>,
    address: &Address,
    body: &mut S,
) -> Result<(Accepted, UpdateReceipt), Refusal> {
    let client: ClientName = address
        .client
        .parse()
        .map_err(|e| Refusal::Malformed(format!("{e}")))?;
    let told = Told::from_query(&address.query)?;
    if let Some(round) = told.round
        && !job.has(&client, round)
    {
        check_round(job, round)?;
    }
    check_length(job, body.length())?;
    let idle = job.spec().ingest.idle_timeout.duration();
    body.proceed()
        .await
        .map_err(|e| Refusal::Malformed(e.to_string()))?;

    let mut reader = Reader {
        body,
        idle,
        received: 0,
    };
    let (header_bytes, header) = read_header(job, &mut reader).await?;
    let told = told.or_header(&header)?;
    let round = told.round.ok_or_else(|| {
        Refusal::Malformed(
            "the update names no round: add ?round=R to the URL, or \"round\" to the file's __metadata__".into(),
        )
    })?;
    let weight = told.weight.unwrap_or(1.0);
    let mut digest = Xxh3::with_seed(gateway.digest_seed);
    digest.update(&header_bytes);
    digest.update(&weight.to_bits().to_le_bytes());

    let receipt = |accepted: Accepted| {
        let receipt = UpdateReceipt {
            job: job.name.clone(),
            client: client.clone(),
            round,
            slot_state: "ready".into(),
            contributors: accepted.contributors,
        };
        (accepted, receipt)
    };
    if job.has(&client, round) {
        return repeat(job, &client, round, &mut reader, &header, digest)
            .await
            .map(receipt);
    }
    check_round(job, round)?;
    let segments = job
        .layout
        .match_update(&header)
        .map_err(|mismatch| Refusal::Layout {
            job: job.name.clone(),
            mismatch,
        })?;
    let Some(mut filling) = job.claim_slot(SLOT_PATIENCE).await? else {
        let slots = job.plan.geometry.updates.count;
        return Err(Refusal::NoSlot {
            job: job.name.clone(),
            slots,
        });
    };
    fill(job, &mut filling, &segments, &mut reader, &mut digest).await?;
    reader.expect_end().await?;
    let copied = reader.received * S::COPIES;
    let update = Update {
        client: client.clone(),
        round,
        weight,
        digest: digest.digest128(),
        copied,
    };
    let accepted = job
        .accept(update, filling)
        .map_err(|refusal| Refusal::Job {
            job: job.name.clone(),
            given: round,
            refusal,
        })?;
    Ok(receipt(accepted))
}

fn check_round(job: &Job, round: u64) -> Result<(), Refusal> {
    job.check_round(round).map_err(|refusal| {
        job.count_late(round);
        Refusal::Job {
            job: job.name.clone(),
            given: round,
            refusal,
        }
    })
}

/// A body that is longer than any update of the job can be is refused unread.
fn check_length(job: &Job, length: Option<u64>) -> Result<(), Refusal> {
    let most = PREFIX_BYTES as u64 + job.layout.update_header_bytes_max() + job.layout.data_bytes();
    match length {
        Some(length) if length > most => Err(Refusal::TooLarge(format!(
            "the body has {length} bytes; an update of job {} has at most {most}",
            job.name
        ))),
        _ => Ok(()),
    }
}

/// Round and weight, as far as they have been told.
struct Told {
    round: Option<u64>,
    weight: Option<f64>,
}

impl Told {
    fn from_query(query: &str) -> Result<Self, Refusal> {
        let mut told = Self {
            round: None,
            weight: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "round" => {
                    let round = value.parse().map_err(|_| {
                        Refusal::Malformed(format!("round is {value:?}; it must be a whole number"))
                    })?;
                    told.round = Some(round);
                }
                "weight" => told.weight = Some(weight(value.parse().ok(), value)?),
                other => {
                    return Err(Refusal::Malformed(format!(
                        "unknown query parameter {other:?}; updates take round and weight"
                    )));
                }
            }
        }
        Ok(told)
    }

    /// The URL counts before the file.
    fn or_header(self, header: &Header) -> Result<Self, Refusal> {
        let round = match self.round {
            Some(round) => Some(round),
            None => header.round()?,
        };
        let in_file = match self.weight {
            Some(weight) => Some(weight),
            None => header
                .num_examples()
                .map_err(bad_weight)?
                .map(|w| weight(Some(w), &w.to_string()))
                .transpose()?,
        };
        Ok(Self {
            round,
            weight: in_file,
        })
    }
}

/// A weight is refused alike, wherever it stands.
fn bad_weight(error: HeaderError) -> Refusal {
    match error {
        HeaderError::Metadata { value, .. } => Refusal::BadWeight(value),
        other => other.into(),
    }
}

fn weight(number: Option<f64>, text: &str) -> Result<f64, Refusal> {
    match number {
        Some(weight) if weight.is_finite() && weight > 0.0 => Ok(weight),
        _ => Err(Refusal::BadWeight(text.chars().take(40).collect())),
    }
}

async fn read_header<S: Source>(
    job: &Job,
    reader: &mut Reader<'_, S>,
) -> Result<(Vec<u8>, Header), Refusal> {
    let mut prefix = [0; PREFIX_BYTES];
    reader.fill(&mut prefix).await?;
    let length = header_length(prefix, job.layout.update_header_bytes_max())?;
    let mut json = vec![0; length];
    reader.fill(&mut json).await?;
    let header = Header::parse(&json)?;
    if let Some(total) = reader.body.length() {
        header.check_data_bytes(total.saturating_sub(reader.received))?;
    }
    Ok((json, header))
}

/// A client that has an update in the round sends again: the same bytes are answered as before.
async fn repeat<S: Source>(
    job: &Job,
    client: &ClientName,
    round: u64,
    reader: &mut Reader<'_, S>,
    header: &Header,
    mut digest: Xxh3,
) -> Result<Accepted, Refusal> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut left = header.data_bytes();
    while left > 0 {
        let next = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        reader.fill(&mut piece[..next]).await?;
        digest.update(&piece[..next]);
        left -= next as u64;
    }
    reader.expect_end().await?;
    let refused = |refusal| Refusal::Job {
        job: job.name.clone(),
        given: round,
        refusal,
    };
    match job.repeated(client, round, digest.digest128()) {
        Some(answer) => answer.map_err(refused),
        // The round failed and opened again while the body came.
        None => Err(refused(crate::job::Refusal::Closing { round })),
    }
}

/// Reads the data into the slot, each piece to its place in canonical order, checking and hashing it
/// while it is warm.
async fn fill<S: Source>(
    job: &Job,
    filling: &mut Filling,
    segments: &[Segment],
    reader: &mut Reader<'_, S>,
    digest: &mut Xxh3,
) -> Result<(), Refusal> {
    let check = job.spec().ingest.non_finite == NonFinite::Reject;
    let vector = filling.vector_mut();
    for segment in segments {
        let start = segment.canonical_offset as usize;
        let run = &mut vector[start..start + segment.bytes as usize];
        for (index, piece) in run.chunks_mut(PIECE_BYTES).enumerate() {
            reader.fill(piece).await?;
            digest.update(piece);
            if check && let Some((element, value)) = first_non_finite(piece) {
                let at = (start + index * PIECE_BYTES) / 4 + element;
                let coordinate = job.layout.coordinate(at as u64).unwrap_or_default();
                return Err(Refusal::NonFinite {
                    job: job.name.clone(),
                    coordinate,
                    value,
                });
            }
        }
    }
    Ok(())
}

/// The first NaN or infinity among little-endian f32s.
fn first_non_finite(bytes: &[u8]) -> Option<(usize, f32)> {
    const EXPONENT: u32 = 0x7f80_0000;
    let (words, _) = bytes.as_chunks::<4>();
    // Branch-free over the whole piece, so that it becomes vector code; the search is for the rare case.
    let any = words.iter().fold(false, |any, w| {
        any | (u32::from_le_bytes(*w) & EXPONENT == EXPONENT)
    });
    if !any {
        return None;
    }
    let values = words.iter().map(|w| f32::from_le_bytes(*w));
    values.enumerate().find(|(_, value)| !value.is_finite())
}

/// Reads with a bound on silence.
struct Reader<'a, S> {
    body: &'a mut S,
    idle: Duration,
    received: u64,
}

impl<S: Source> Reader<'_, S> {
    async fn read(&mut self, into: &mut [u8]) -> Result<usize, Refusal> {
        let stalled = Refusal::Stalled {
            seconds: self.idle.as_secs_f64(),
            received: self.received,
        };
        match tokio::time::timeout(self.idle, self.body.read(into)).await {
            Err(_) => Err(stalled),
            Ok(Ok(bytes)) => {
                self.received += bytes as u64;
                Ok(bytes)
            }
            // A reset connection, or chunks that make no sense.
            Ok(Err(_)) => Ok(0),
        }
    }

    async fn fill(&mut self, into: &mut [u8]) -> Result<(), Refusal> {
        let mut filled = 0;
        while filled < into.len() {
            let bytes = self.read(&mut into[filled..]).await?;
            if bytes == 0 {
                let missing = (into.len() - filled) as u64;
                let expected = self.body.length().unwrap_or(self.received + missing);
                return Err(Refusal::Truncated {
                    received: self.received,
                    expected,
                });
            }
            filled += bytes;
        }
        Ok(())
    }

    /// The body must end where its header says.
    async fn expect_end(&mut self) -> Result<(), Refusal> {
        match self.read(&mut [0; 1]).await? {
            0 => Ok(()),
            _ => Err(Refusal::Malformed(format!(
                "the body goes on after byte {}, where its safetensors header says it ends",
                self.received - 1
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_the_first_non_finite(values in proptest::collection::vec(any::<f32>(), 0..300)) {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let expected = values.iter().position(|v| !v.is_finite());
            prop_assert_eq!(first_non_finite(&bytes).map(|(at, _)| at), expected);
        }
    }

    #[test]
    fn queries_are_strict() {
        let told = Told::from_query("round=3&weight=2.5").unwrap();
        assert_eq!((told.round, told.weight), (Some(3), Some(2.5)));
        let told = Told::from_query("").unwrap();
        assert_eq!((told.round, told.weight), (None, None));
        for bad in [
            "round=-1",
            "round=",
            "weight=0",
            "weight=-1",
            "weight=nan",
            "weight=inf",
            "wieght=1",
        ] {
            assert!(Told::from_query(bad).is_err(), "{bad}");
        }
    }
}
