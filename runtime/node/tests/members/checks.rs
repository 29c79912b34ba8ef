//! What a hostile module does, it does to the process that checks it.

use crate::world::started;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use tributary_api::Digest;
use tributary_api::control::{FunctionRevision, NodeControl as _, NodeError, Proof};
use tributary_node::Node;
use tributary_tests::{guest, place};

/// A node whose children start under what a shell's `ulimit` says.
async fn node_under(ulimit: &str) -> (Node, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let program = program(
        &directory,
        &format!("ulimit {ulimit}\nexec {} \"$@\"", place::binary().display()),
    );
    (started(&directory.path().join("state"), program), directory)
}

fn program(directory: &tempfile::TempDir, script: &str) -> PathBuf {
    let program = directory.path().join("program");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    program
}

async fn deployed(node: &Node, wasm: &[u8]) -> Result<Proof, NodeError> {
    let digest = Digest::new(Sha256::digest(wasm).into());
    let spec = json!({
        "module": { "digest": digest },
        "limits": { "memory": "1MiB", "deadline": "60s" },
    });
    let function = FunctionRevision {
        name: "stranger".parse().unwrap(),
        revision: 1,
        digest,
        spec: serde_json::from_value(spec).unwrap(),
    };
    node.deploy(&function, wasm.to_vec().into()).await
}

fn refusal(proof: Result<Proof, NodeError>) -> String {
    match proof {
        Err(NodeError::Refused(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_takes_too_much_time_ends_and_the_node_goes_on() {
    let (node, _directory) = node_under("-St 1").await;
    let text = refusal(deployed(&node, &guest::always("(loop $for_ever (br $for_ever))")).await);
    assert!(text.contains("function stranger revision 1"), "{text}");
    assert!(
        text.contains("ended the process that checked it: signal 24"),
        "{text}"
    );
    let good = deployed(&node, &guest::always("")).await;
    assert!(matches!(good, Ok(Proof::Proven(_))), "{good:?}");
}

/// Each local is read many joins after it was set, and at each of them it may have two values: within every bound, and still more than the compiler has room for.
#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_takes_too_much_memory_to_compile_ends_its_own_process() {
    let (node, _directory) = node_under("-Sd 60000").await;
    let join = "(block (br_if 0 (local.get #)) (local.set # (i32.const 1)))";
    let body: String = (0..12_000)
        .map(|at| join.replace('#', &(at % 500 + 1).to_string()))
        .collect();
    let bomb = guest::always(&format!("(local{}) {body}", " i32".repeat(500)));
    let text = refusal(deployed(&node, &bomb).await);
    assert!(
        text.contains("ended the process that checked it: signal 6"),
        "{text}"
    );
    let good = deployed(&node, &guest::always("")).await;
    assert!(matches!(good, Ok(Proof::Proven(_))), "{good:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_is_proven_is_not_proven_again() {
    let directory = tempfile::tempdir().unwrap();
    let (binary, count) = (place::binary(), directory.path().join("count"));
    let script = format!(
        "echo >> {}\nexec {} \"$@\"",
        count.display(),
        binary.display()
    );
    let node = started(
        &directory.path().join("state"),
        program(&directory, &script),
    );
    for _ in 0..3 {
        let proof = deployed(&node, &guest::always("")).await;
        assert!(matches!(proof, Ok(Proof::Proven(_))), "{proof:?}");
    }
    assert_eq!(
        fs::read(&count).unwrap().len(),
        1,
        "one process for three checks"
    );
}
