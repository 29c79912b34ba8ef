//! Files that are sent in the place of safetensors files, by their first bytes.

use super::{HEADER_BYTES_MAX, PREFIX_BYTES};

/// First bytes, what begins so, and what to do about it.
const KNOWN: [(&[u8], &str); 17] = [
    (
        b"version ",
        "a Git LFS pointer; `git lfs pull` fetches the file that it stands for",
    ),
    (
        b"PK\x03\x04",
        "a ZIP archive, as torch.save and numpy.savez write; save_file of safetensors writes one",
    ),
    (b"\x80\x02", PICKLE),
    (b"\x80\x03", PICKLE),
    (b"\x80\x04", PICKLE),
    (b"\x80\x05", PICKLE),
    (
        b"\x93NUMPY",
        "an array of numpy.save; save_file of safetensors writes one",
    ),
    (
        b"\x89HDF",
        "an HDF5 file, as Keras writes; save_file of safetensors writes one",
    ),
    (b"GGUF", "a GGUF file; save_file of safetensors writes one"),
    (b"\x1f\x8b\x08", "compressed with gzip; send what is inside"),
    (
        b"\x28\xb5\x2f\xfd",
        "compressed with Zstandard; send what is inside",
    ),
    (b"\xfd7zXZ", "compressed with xz; send what is inside"),
    (b"BZh", "compressed with bzip2; send what is inside"),
    (b"\0asm", "a WebAssembly module"),
    (b"\x7fELF", "a program"),
    (
        b"{",
        "JSON; where that says where an update lies, it is sent with POST",
    ),
    (
        b"<",
        "HTML or XML, perhaps a page that says why there is no file",
    ),
];

const PICKLE: &str = "a Python pickle; save_file of safetensors writes one";

/// What a file is that begins so, whose first bytes are no length that is allowed. Where they are one that a header
/// can have, short marks say nothing.
pub(super) fn known(prefix: [u8; PREFIX_BYTES]) -> Option<&'static str> {
    let least = if u64::from_le_bytes(prefix) > HEADER_BYTES_MAX {
        1
    } else {
        3
    };
    let mark = KNOWN
        .iter()
        .find(|(mark, _)| mark.len() >= least && prefix.starts_with(mark));
    let text = || {
        let printable = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
        prefix.iter().all(printable).then_some("text")
    };
    mark.map(|(_, kind)| *kind).or_else(text)
}
