//! The WASM host of aggregation functions.
