//! Layouts that the sidecar shares with user space.
