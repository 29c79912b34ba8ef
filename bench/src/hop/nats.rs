//! A NATS request: the update goes to the server and from it to the receiver, and the answer comes back that way.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use async_nats::Client;
use bytes::Bytes;
use tokio_stream::StreamExt as _;

use super::{Hop, answer, read_all, runtime, timed};
use crate::{peer, process};

/// How long the server may take to listen, and a request to be answered.
const PATIENCE: Duration = Duration::from_secs(60);

/// A NATS server and two connections to it.
pub struct Nats {
    server: Child,
    runtime: tokio::runtime::Runtime,
    client: Client,
    update: Bytes,
    expected: Bytes,
    _folder: tempfile::TempDir,
}

impl Nats {
    /// Starts a server, a receiver and a sender.
    ///
    /// # Errors
    /// If the server is not installed, or does not start.
    pub fn start(update: Bytes) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = folder.path().join("nats.conf");
        // Above the default of 1 MiB, up to the most that the server takes.
        let text = format!("listen: \"127.0.0.1:{port}\"\nmax_payload: 64MB\nmax_pending: 256MB\n");
        std::fs::write(&config, text)?;
        let mut server = Command::new(peer::program("nats-server")?)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting nats-server")?;
        let expected = answer(read_all(&update));
        let runtime = runtime()?;
        let client = match runtime.block_on(connect(port)) {
            Ok(client) => client,
            Err(error) => {
                process::end_tree(&mut server)?;
                return Err(error);
            }
        };
        Ok(Self {
            server,
            runtime,
            client,
            update,
            expected,
            _folder: folder,
        })
    }
}

/// Connects a receiver that answers, and a sender.
async fn connect(port: u16) -> Result<Client> {
    let address = format!("127.0.0.1:{port}");
    let started = Instant::now();
    let receiver = loop {
        match async_nats::connect(&address).await {
            Ok(client) => break client,
            Err(error) if started.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let mut updates = receiver.subscribe("updates").await?;
    receiver.flush().await?;
    tokio::spawn(async move {
        while let Some(message) = updates.next().await {
            let sum = answer(read_all(&message.payload));
            if let Some(reply) = message.reply {
                // A sender that has gone needs no answer.
                let _ = receiver.publish(reply, sum).await;
            }
        }
    });
    let options = async_nats::ConnectOptions::new().request_timeout(Some(PATIENCE));
    Ok(options.connect(&address).await?)
}

impl Hop for Nats {
    fn name(&self) -> &str {
        "NATS request"
    }

    fn requests(&mut self, count: usize) -> Result<Vec<Duration>> {
        let (client, update) = (self.client.clone(), self.update.clone());
        let expected = Arc::new(self.expected.clone());
        let requests = async move {
            timed(count, || {
                let (client, update, expected) = (client.clone(), update.clone(), expected.clone());
                async move {
                    let answer = client.request("updates", update).await?;
                    if answer.payload != *expected {
                        bail!("the receiver has read something else");
                    }
                    Ok(())
                }
            })
            .await
        };
        self.runtime.block_on(self.runtime.spawn(requests))?
    }

    fn helpers(&self) -> Vec<u32> {
        vec![self.server.id()]
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        // Best effort: there is nobody left to tell.
        let _ = process::end_tree(&mut self.server);
    }
}
