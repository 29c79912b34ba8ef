//! `tributary push`.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use anyhow::Context as _;
use tributary_api::{model::Header, status::UpdateReceipt};

use crate::{
    args::Push,
    client::{Client, Payload},
    failure::Failure,
    output::Output,
    sources,
};

pub(crate) fn run(client: &Client, output: &Output, push: &Push) -> Result<(), Failure> {
    let path = path(push);
    let receipt: UpdateReceipt = match piped(&push.file)? {
        Some(update) => {
            check_round(push, Header::split(&update).ok().map(|(header, _)| header))?;
            client.put(&path, Payload::Bytes(&update))?
        }
        None => {
            check_round(push, sources::header(&push.file).ok())?;
            client.put(&path, Payload::File(&push.file))?
        }
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

/// What comes from stdin or a pipe, which can be read only once.
fn piped(file: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let unreadable = || format!("cannot read {}", file.display());
    if file == Path::new("-") {
        let mut update = Vec::new();
        io::stdin()
            .read_to_end(&mut update)
            .context("cannot read stdin")?;
        return Ok(Some(update));
    }
    if fs::metadata(file).with_context(unreadable)?.is_file() {
        return Ok(None);
    }
    fs::read(file).map(Some).with_context(unreadable)
}

/// An update has to name its round; the server would say so in the words of URLs.
fn check_round(push: &Push, header: Option<Header>) -> Result<(), Failure> {
    let unnamed = header.is_some_and(|header| header.metadata("round").is_none());
    if push.round.is_none() && unnamed {
        return Err(Failure::Usage(format!(
            "{} names no round: give --round, which is the version of the model that was trained from, \
             or put `round` into the file's metadata",
            push.file.display()
        )));
    }
    Ok(())
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
