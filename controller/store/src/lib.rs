//! What the control plane keeps and says, and where: small values, messages, large objects, and who leads.
//!
//! # Layout
//! - [`Keys`]: a bucket of small values with revisions; [`Bus`]: messages, stored and live; [`Objects`]: large things
//!   by name. [`Backend`] opens all three.
//! - [`embedded`]: all of them in this process: redb, a directory. [`nats`]: all of them in NATS JetStream.
//! - [`leadership`]: who leads, upon any [`Keys`] with a lifetime.
//!
//! One conformance suite runs on both (`tests/conformance.rs`), so code above the traits need not know which it has.
//!
//! # Names
//! Keys and names of objects are segments of `A-Z a-z 0-9 . _ -`, separated by `/`: `jobs/digits`,
//! `digits/12.safetensors`. Buckets and durable consumers are one word of `A-Z a-z 0-9 _ -`. Subjects are tokens
//! separated by dots: `events.digits.round.completed`. Filters may say `*` for one token, and `>` at the end for one or
//! more. What is refused is [`Error::Malformed`], in both implementations.
//!
//! # What lies where
//! `tributary` is the prefix (`nats::Options::prefix`); callers leave it out, and never see it.
//!
//! | what | embedded | NATS |
//! | --- | --- | --- |
//! | `keys("jobs", None)`, key `a/b.c` | `store.redb`, table `entries` | bucket `tributary_jobs`: stream `KV_tributary_jobs`, subject `$KV.tributary_jobs.a.b=c` |
//! | `keys("leases", Some(ttl))` | memory; the revisions in `store.redb`, table `counters` | the same, with `max_age` |
//! | `publish("events.x", ..)` | table `messages`, stream `events` | stream `TRIBUTARY_EVENTS`, subject `tributary.events.x` |
//! | `publish("updates.x", ..)` | table `messages`, stream `updates` | stream `TRIBUTARY_UPDATES` (work queue), subject `tributary.updates.x` |
//! | `consume("name", ..)` | table `durables` | durable consumer `name` of the stream |
//! | `request("nodes.x", ..)` | memory | subject `tributary.nodes.x`, queue group `tributary` |
//! | `objects("models")`, `a/b` | file `objects/models/a/b` | object store `tributary_models`: stream `OBJ_tributary_models`, object `a/b` |
#![forbid(unsafe_code)]

mod backend;
mod bus;
pub mod embedded;
mod error;
mod keys;
pub mod leadership;
mod names;
pub mod nats;
mod objects;
mod resume;

pub use backend::{Backend, Room};
pub use bus::{Acknowledge, Bus, Delivery, IN_HAND_MAX, Message, Request, Respond, Retention};
pub use error::Error;
pub use keys::{Change, Entry, Keys};
pub use leadership::{Campaign, Leadership, Role};
pub use names::matches;
pub use objects::{Object, Objects, Orphans};

/// A stream of anything, owned and in a box, so that traits stay object safe.
pub type Stream<T> = futures_util::stream::BoxStream<'static, T>;

/// The most bytes of a value or a message: what a NATS server takes by default, less room for headers. Larger things
/// are [`Objects`].
pub const PAYLOAD_BYTES_MAX: usize = (1 << 20) - (4 << 10);
