//! What the measuring programs share: a server of their own, a job on it, and how to read numbers.

pub mod http;
pub mod job;
pub mod options;
pub mod sample;
pub mod server;
