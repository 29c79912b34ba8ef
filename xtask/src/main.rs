//! Builds, tests and demonstrates the project.
fn main() {}
