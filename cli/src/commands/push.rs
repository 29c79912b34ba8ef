//! `tributary push`.

use std::{
    io::{self, Read as _},
    path::Path,
};

use anyhow::Context as _;
use tributary_api::status::UpdateReceipt;

use crate::{
    args::Push,
    client::{Client, Payload},
    failure::Failure,
    output::Output,
};

pub(crate) fn run(client: &Client, output: &Output, push: &Push) -> Result<(), Failure> {
    let path = path(push);
    let receipt: UpdateReceipt = if push.file == Path::new("-") {
        let mut update = Vec::new();
        io::stdin()
            .read_to_end(&mut update)
            .context("cannot read stdin")?;
        client.put(&path, Payload::Bytes(&update))?
    } else {
        client.put(&path, Payload::File(&push.file))?
    };
    output.write(&receipt, |receipt| {
        let UpdateReceipt {
            job,
            client,
            round,
            contributors,
            ..
        } = receipt;
        format!(
            "update of {client} accepted into round {round} of job {job} ({contributors} so far)\n"
        )
    })
}

fn path(push: &Push) -> String {
    let round = push.round.map(|round| format!("round={round}"));
    let weight = push.weight.map(|weight| format!("weight={weight}"));
    let query: Vec<_> = round.into_iter().chain(weight).collect();
    let path = format!("/v1/jobs/{}/updates/{}", push.job, push.client);
    if query.is_empty() {
        path
    } else {
        format!("{path}?{}", query.join("&"))
    }
}
