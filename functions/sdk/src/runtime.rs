//! The allocator and the panic handler of a module without `std`.

use crate::host::{Level, log};
use core::fmt::Write;
use core::panic::PanicInfo;

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// A message that is written without allocating: the allocator may be what panicked.
struct Message {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = &mut self.bytes[self.len..];
        let fitting = text.floor_char_boundary(room.len());
        room[..fitting].copy_from_slice(&text.as_bytes()[..fitting]);
        self.len += fitting;
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut message = Message {
        bytes: [0; 512],
        len: 0,
    };
    // Writing to a message never fails.
    let _ = write!(message, "{info}");
    if let Ok(text) = core::str::from_utf8(&message.bytes[..message.len]) {
        log(Level::Error, text);
    }
    core::arch::wasm32::unreachable()
}
