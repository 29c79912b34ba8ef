//! A short soak; `cargo xtask soak` runs a long one.

use std::time::Duration;
use tributary_tests::soak::{self, Options};

#[test]
fn every_model_equals_its_reference_whatever_breaks() {
    let report = soak::run(&Options {
        lasts: Duration::from_secs(60),
        seed: 5,
        talks: false,
    });
    // It has seen something: far fewer than it does see.
    assert!(
        report.versions.iter().all(|versions| *versions > 5),
        "{report}"
    );
    assert!(report.compared > 0, "{report}");
}
