//! Numbers that nobody can guess, and that no two processes have in common.

/// Bytes of the kernel's.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let flags = rustix::rand::GetRandomFlags::empty();
    match rustix::rand::getrandom(&mut bytes, flags) {
        Ok(filled) if filled == bytes.len() => {}
        // The kernel gives up to 256 bytes at once, and fails only before it has any to give.
        other => tracing::error!(?other, "the kernel gives no random numbers"),
    }
    bytes
}

pub(crate) fn number() -> u64 {
    u64::from_ne_bytes(bytes())
}
