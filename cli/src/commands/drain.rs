//! `tributary drain` and `tributary undrain`.

use tributary_api::Name;

use crate::{
    client::{Client, Payload},
    failure::Failure,
    output::write,
};

pub(crate) fn run(client: &Client, node: &Name, drained: bool) -> Result<(), Failure> {
    let path = format!("/v1/nodes/{node}/drain");
    let state = if drained {
        client.send("PUT", &path, Payload::None)?;
        "draining"
    } else {
        client.delete(&path)?;
        "ready"
    };
    write(format!("node/{node} {state}\n").as_bytes())
}
