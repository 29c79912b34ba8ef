//! The records of ABI version 1, as they lie in memory. `docs/abi.md` states them.

/// Bytes of a slot's scalars page.
pub(crate) const SCALARS_BYTES_MAX: usize = 4096;

/// What `describe` points to.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Description {
    pub(crate) abi: u32,
    pub(crate) algebra: u32,
    pub(crate) partial_bytes_per_element: u32,
    pub(crate) scalar_bytes: u32,
    pub(crate) max_inputs: u32,
    pub(crate) encodings: u32,
    pub(crate) reserved: [u32; 2],
}

/// What `fold`, `merge` and `finish` are given; `count` inputs follow.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) count: u32,
    pub(crate) elements: u32,
    pub(crate) previous: u32,
    pub(crate) output: u32,
    pub(crate) previous_scalars: u32,
    pub(crate) output_scalars: u32,
    pub(crate) model: u32,
    pub(crate) reserved: u32,
    pub(crate) first_element: u64,
    pub(crate) round: u64,
    pub(crate) reserved_too: [u64; 2],
}

/// One input of a call.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Input {
    pub(crate) vector: u32,
    pub(crate) scalars: u32,
    pub(crate) weight: f64,
    pub(crate) contributors: u32,
    pub(crate) encoding: u32,
    pub(crate) table: u32,
    pub(crate) count: u32,
}

const _: () = {
    assert!(size_of::<Description>() == 32);
    assert!(size_of::<Call>() == 64);
    assert!(size_of::<Input>() == 32);
    assert!(core::mem::offset_of!(Call, first_element) == 32);
    assert!(core::mem::offset_of!(Input, weight) == 8);
    assert!(core::mem::offset_of!(Input, encoding) == 20);
    assert!(size_of::<crate::Run>() == 8);
};
