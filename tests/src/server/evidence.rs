//! The proof that a scenario ran on what its name says.

use std::fs::{self, File};
use std::io::Write as _;

use tributary_api::status::NodeStatus;

use crate::scrape::Scrape;
use crate::{Sidecar, place};

/// Leaves a line for the sidecar and one for the functions, if the server's own counters say that both
/// were used.
pub(super) fn write(sidecar: Sidecar, node: &NodeStatus, scrape: &Scrape) {
    let name = sidecar.name();
    assert_eq!(node.sidecar.to_string(), name);
    assert_eq!(scrape.sum("tributary_sidecar_info", &[("kind", name)]), 1.0);
    let descriptors = scrape.sum("tributary_sidecar_descriptors_total", &[]);
    assert!(descriptors > 0.0, "the {name} sidecar routed nothing");
    let in_place = scrape.sum("tributary_read_in_place_bytes_total", &[]);
    assert!(in_place > 0.0, "no function read anything");
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    append(name, &format!("{test}: {descriptors} descriptors"));
    append(
        "wasm",
        &format!("{test}: {in_place} bytes read in place by functions"),
    );
}

fn append(name: &str, line: &str) {
    let folder = place::evidence();
    fs::create_dir_all(&folder).expect("the evidence's folder");
    let file = File::options()
        .create(true)
        .append(true)
        .open(folder.join(name));
    writeln!(file.expect("the evidence's file"), "{line}").expect("a line of evidence");
}
