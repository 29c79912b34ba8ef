//! Shared-memory segments, slots and rings.
