//! A host's activator: the first message for an aggregator starts it.

use std::collections::BTreeSet;
use std::env;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail};
use async_nats::jetstream::{self, consumer};
use tokio_stream::StreamExt as _;

use super::message::{STREAM, subjects_of_host};

/// Starts aggregators of a host as messages for them come, until it is ended. Each has a line in the file `started`.
///
/// # Errors
/// If the broker is lost.
pub async fn serve(url: &str, host: usize, started: &Path) -> Result<()> {
    let context = jetstream::new(async_nats::connect(url).await?);
    let stream = context.get_stream(STREAM).await?;
    let config = consumer::pull::OrderedConfig {
        filter_subject: subjects_of_host(host),
        ..Default::default()
    };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let mut started = File::create(started).with_context(|| started.display().to_string())?;
    let mut known = BTreeSet::new();
    while let Some(message) = messages.next().await {
        let subject = message?.subject.to_string();
        if known.insert(subject.clone()) {
            start(url, &subject)?;
            writeln!(started, "{subject}")?;
        }
    }
    bail!("the broker sends no more messages");
}

fn start(url: &str, subject: &str) -> Result<()> {
    let mut child = Command::new(env::current_exe()?)
        .args(["aggregator", "--nats", url, "--subject", subject])
        .spawn()
        .context("starting an aggregator")?;
    // Waits for its end, so that the kernel adds what it has used to what this process has. Without it there is no model.
    thread::spawn(move || {
        if !child.wait().is_ok_and(|status| status.success()) {
            std::process::exit(1);
        }
    });
    Ok(())
}
