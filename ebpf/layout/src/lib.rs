//! Layouts that the sidecar, the kernel's half of the router, shares with user space.
//!
//! Everything here is plain integers: no allocation, no I/O, no `unsafe`. [`Descriptor`] is what travels, 32
//! bytes at a time; [`Destination`] says where to; [`sidecar`] describes the kernel program's maps.

#![no_std]
#![forbid(unsafe_code)]

mod descriptor;
mod destination;
pub mod sidecar;

pub use descriptor::{Descriptor, Kind};
pub use destination::{Destination, Level};
