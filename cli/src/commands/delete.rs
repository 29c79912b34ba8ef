//! `tributary delete`.

use serde_json::json;

use crate::{args::Delete, client::Client, failure::Failure, output::Output};

pub(crate) fn run(client: &Client, output: &Output, what: Delete) -> Result<(), Failure> {
    let (kind, name) = match what {
        Delete::Job { name } => ("job", name),
        Delete::Function { name } => ("function", name),
        Delete::Tenant { name } => ("tenant", name),
    };
    client.delete(&format!("/v1/{kind}s/{name}"))?;
    let done = json!({ "kind": kind, "name": name, "action": "deleted" });
    output.write(&done, |_| format!("{kind}/{name} deleted\n"))
}
