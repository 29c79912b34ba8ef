//! The commands of a client, one file each.

pub(crate) mod apply;
pub(crate) mod completions;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod drain;
pub(crate) mod get;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod schema;
pub(crate) mod validate;
