//! What processes of several machines share: NATS, and the address that others reach them by.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args as ClapArgs;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tributary_api::{
    Name,
    quantity::{ByteSize, Interval},
};
use tributary_controller::{Agreement, Told};
use tributary_node::{HostName, Hosts};
use tributary_store::nats::{self, Credentials, Identity, Nats, Options};

/// The time after which a server that cannot be reached is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// The time after which a node looks again whether a controller has come.
const RETRY_FOUND: Duration = Duration::from_millis(200);

/// How NATS is reached.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "NATS")]
pub(crate) struct NatsOptions {
    /// Servers, separated by commas: nats://HOST:PORT or tls://HOST:PORT, with USER:PASSWORD@ if need be.
    #[arg(
        long,
        required = true,
        value_name = "URL",
        value_delimiter = ',',
        env = "TRIBUTARY_NATS"
    )]
    pub(crate) nats: Vec<String>,
    /// The beginning of all names in NATS, so that several clusters can share its servers.
    #[arg(
        long,
        default_value = "tributary",
        value_name = "NAME",
        env = "TRIBUTARY_NATS_PREFIX"
    )]
    pub(crate) nats_prefix: String,
    /// Copies of everything that is stored, where the first controller makes it: 1 to 5; auto is 3 in a cluster of NATS
    /// servers, and 1 on a server of its own.
    #[arg(
        long,
        default_value = "auto",
        value_name = "N",
        value_parser = parse_replicas,
        env = "TRIBUTARY_NATS_REPLICAS"
    )]
    pub(crate) nats_replicas: Replicas,
    /// The room that NATS' servers have for this cluster, of which every stream gets its part where the first controller makes
    /// it: 50GiB, for instance [default: what they have].
    #[arg(long, value_name = "SIZE", env = "TRIBUTARY_NATS_ROOM")]
    pub(crate) nats_room: Option<ByteSize>,
    /// A file with the certificates of authorities, in PEM.
    #[arg(long, value_name = "FILE", env = "TRIBUTARY_NATS_TLS_CA")]
    pub(crate) nats_tls_ca: Option<PathBuf>,
    /// A file with the certificate to show to servers, in PEM.
    #[arg(
        long,
        value_name = "FILE",
        requires = "nats_tls_key",
        env = "TRIBUTARY_NATS_TLS_CERT"
    )]
    pub(crate) nats_tls_cert: Option<PathBuf>,
    /// A file with the certificate's key, in PEM.
    #[arg(
        long,
        value_name = "FILE",
        requires = "nats_tls_cert",
        env = "TRIBUTARY_NATS_TLS_KEY"
    )]
    pub(crate) nats_tls_key: Option<PathBuf>,
    /// A file with a user's credentials, as `nsc` writes them.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "nats_nkey",
        env = "TRIBUTARY_NATS_CREDS"
    )]
    pub(crate) nats_creds: Option<PathBuf>,
    /// A file with the seed of a user's nkey.
    #[arg(long, value_name = "FILE", env = "TRIBUTARY_NATS_NKEY")]
    pub(crate) nats_nkey: Option<PathBuf>,
}

/// The names of this process in requests.
#[derive(Debug, ClapArgs)]
pub(crate) struct HostOptions {
    /// A name by which clients call this process; may be given several times. Addresses, localhost and the name in
    /// --advertise are known, and so are names without a dot where others can reach the process.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "TRIBUTARY_HOSTS"
    )]
    host: Vec<HostName>,
}

impl HostOptions {
    /// What a process that listens on `address`, and is advertised by that URL, answers to.
    pub(crate) fn hosts(&self, address: SocketAddr, advertised: Option<&str>) -> Hosts {
        let advertised = advertised.and_then(HostName::of_url);
        Hosts::new(address.ip(), self.host.iter().cloned().chain(advertised))
    }
}

/// How others know this process.
#[derive(Debug, ClapArgs)]
pub(crate) struct ServedOptions {
    /// The URL by which others reach this process [default: from --listen, unless that is a wildcard].
    #[arg(long, value_name = "URL", env = "TRIBUTARY_ADVERTISE")]
    pub(crate) advertise: Option<String>,
    #[command(flatten)]
    pub(crate) hosts: HostOptions,
    /// The name of this process among the others [default: made once, and kept].
    #[arg(long, value_name = "NAME", value_parser = parse_name, env = "TRIBUTARY_NAME")]
    pub(crate) name: Option<Name>,
    /// The time between two beats, by which controllers see that a node lives [default: what the first controller was
    /// told, else 1s].
    #[arg(long, value_name = "TIME", env = "TRIBUTARY_BEAT")]
    pub(crate) beat: Option<Interval>,
    /// The time after a node's last beat after which it counts as lost [default: what the first controller was told, else
    /// 3s].
    #[arg(long, value_name = "TIME", env = "TRIBUTARY_BEAT_BELIEVED")]
    pub(crate) beat_believed: Option<Interval>,
    /// The time after which a leader that is not heard is succeeded [default: what the first controller was told, else 3s].
    #[arg(long, value_name = "TIME", env = "TRIBUTARY_LEASE")]
    pub(crate) lease: Option<Interval>,
}

/// Copies of what is stored; none is as many as there can usefully be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replicas(Option<usize>);

fn parse_replicas(text: &str) -> Result<Replicas, String> {
    if text == "auto" {
        return Ok(Replicas(None));
    }
    let number = text.parse().ok().filter(|number| (1..=5).contains(number));
    let number = number.ok_or("write auto, or a number from 1 to 5; 3 is usual in a cluster")?;
    Ok(Replicas(Some(number)))
}

impl NatsOptions {
    fn options(&self, name: &str) -> Options {
        let certificate = self.nats_tls_cert.clone();
        let identity = certificate.zip(self.nats_tls_key.clone());
        Options {
            servers: self.nats.clone(),
            name: format!("tributary {name}"),
            prefix: self.nats_prefix.clone(),
            replicas: self.nats_replicas.0,
            room: self.nats_room.map(|room| room.bytes()),
            root_certificates: self.nats_tls_ca.clone(),
            identity: identity.map(|(certificate, key)| Identity { certificate, key }),
            credentials: match (&self.nats_creds, &self.nats_nkey) {
                (Some(file), _) => Credentials::File(file.clone()),
                (None, Some(file)) => Credentials::NkeySeed(file.clone()),
                (None, None) => Credentials::Anonymous,
            },
            ..Options::default()
        }
    }

    /// Connects, however long it takes a server to be there. What is wrong with the options is an error.
    pub(crate) async fn connect(&self, name: &str) -> anyhow::Result<Arc<Nats>> {
        let mut told = false;
        loop {
            match nats::connect(self.options(name)).await {
                Ok(nats) => return Ok(Arc::new(nats)),
                Err(error) if error.is_unavailable() && !is_refusal(&error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!("{error}; this process waits for it");
                    }
                }
                Err(error) => return Err(error).context(self.who()),
            }
            sleep(RETRY).await;
        }
    }

    /// What the cluster has agreed on, for a controller.
    pub(crate) async fn agreed(
        &self,
        nats: &Nats,
        served: &ServedOptions,
    ) -> anyhow::Result<Agreement> {
        let told = self.told(served);
        let reached = || Agreement::reached(nats, told);
        let agreement = self.waited(reached).await?;
        say_where_it_differs(&agreement, told);
        Ok(agreement)
    }

    /// The same for a node, however long it takes the first controller to come.
    pub(crate) async fn found(
        &self,
        nats: &Nats,
        served: &ServedOptions,
    ) -> anyhow::Result<Agreement> {
        let mut waits = false;
        loop {
            if let Some(agreement) = self.waited(|| Agreement::found(nats)).await? {
                say_where_it_differs(&agreement, self.told(served));
                return Ok(agreement);
            }
            if !std::mem::replace(&mut waits, true) {
                tracing::warn!(
                    "no controller has set this cluster up yet: start `tributary controller`; this process waits for it"
                );
            }
            sleep(RETRY_FOUND).await;
        }
    }

    fn told(&self, served: &ServedOptions) -> Told {
        let time = |time: Option<Interval>| time.map(|time| time.duration());
        Told {
            replicas: self.nats_replicas.0,
            lease: time(served.lease),
            beat: time(served.beat),
            believed: time(served.beat_believed),
        }
    }

    /// The option by which this process says who it is.
    fn who(&self) -> &'static str {
        if self.nats_creds.is_some() {
            "--nats-creds"
        } else if self.nats_nkey.is_some() {
            "--nats-nkey"
        } else {
            "--nats"
        }
    }

    /// Does what needs NATS at the start, however long it takes a server to be there.
    pub(crate) async fn waited<T, E, F>(&self, what: impl Fn() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, E>>,
        E: Into<tributary_controller::Error>,
    {
        let mut told = false;
        loop {
            let error = match what().await {
                Ok(done) => return Ok(done),
                Err(error) => error.into(),
            };
            if error.problem().status != 503 {
                return Err(error.into());
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!("{error}; this process waits for it");
            }
            sleep(RETRY).await;
        }
    }
}

fn say_where_it_differs(agreement: &Agreement, told: Told) {
    if let Some(line) = agreement.contradicts(told) {
        tracing::warn!("{line}");
    }
}

/// A name as machines have it: dots become hyphens.
fn parse_name(text: &str) -> Result<Name, String> {
    let name = text.replace('.', "-").parse();
    name.map_err(|error: tributary_api::name::NameError| error.to_string())
}

/// Whether a server was reached and does not let this process in: waiting does not help.
fn is_refusal(error: &tributary_store::Error) -> bool {
    // The words of the server's own answer.
    let text = error.to_string().to_lowercase();
    ["authorization violation", "authentication"]
        .iter()
        .any(|word| text.contains(word))
}

/// The URL by which others reach a process that listens on `address`.
pub(crate) fn advertised(given: Option<&str>, address: SocketAddr) -> anyhow::Result<String> {
    if let Some(url) = given {
        let host = url.strip_prefix("http://").unwrap_or_default();
        let host = host.trim_end_matches('/');
        if host.is_empty() || host.contains(['/', ' ']) {
            bail!("--advertise {url:?} is no URL of a process; write http://HOST:PORT");
        }
        return Ok(format!("http://{host}"));
    }
    let wildcard = match address.ip() {
        IpAddr::V4(ip) => ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    if wildcard {
        bail!(
            "others cannot reach {address}: give --advertise http://HOST:{}, or --listen with an address of this machine",
            address.port()
        );
    }
    Ok(format!("http://{address}"))
}

/// Listens, and says under which URL others will find it.
pub(crate) async fn listen(
    address: SocketAddr,
    served: &ServedOptions,
) -> anyhow::Result<(TcpListener, String)> {
    let listener = TcpListener::bind(address).await;
    let listener =
        listener.with_context(|| format!("cannot listen on {address}; give --listen"))?;
    // The port may have been left to the system (`--listen 127.0.0.1:0`).
    let address = listener.local_addr()?;
    let url = advertised(served.advertise.as_deref(), address)?;
    tracing::info!("listening on http://{address}");
    if !address.ip().is_loopback() {
        tracing::warn!("{address} is not a loopback address, and there is no authentication yet");
    }
    Ok((listener, url))
}

/// The signals that end a process.
pub(crate) struct Ending {
    terminate: Signal,
    interrupt: Signal,
}

impl Ending {
    /// From here on signals are heard.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them.
    pub(crate) async fn come(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        tracing::info!("stopping");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_names_are_names() {
        let name = parse_name("ip-10-0-0-1.internal").unwrap();
        assert_eq!(name.as_str(), "ip-10-0-0-1-internal");
        assert!(parse_name("n_1").is_err());
    }

    #[test]
    fn the_advertised_url_is_given_or_follows_from_the_address() {
        let address = |text: &str| text.parse().unwrap();
        let cases = [
            (None, "10.0.0.2:7879", Ok("http://10.0.0.2:7879")),
            (None, "[::1]:7879", Ok("http://[::1]:7879")),
            (
                Some("http://n1:7879/"),
                "0.0.0.0:7879",
                Ok("http://n1:7879"),
            ),
            (
                None,
                "0.0.0.0:7879",
                Err("give --advertise http://HOST:7879"),
            ),
            (None, "[::]:7879", Err("give --advertise")),
            (
                Some("n1:7879"),
                "10.0.0.2:7879",
                Err("write http://HOST:PORT"),
            ),
            (
                Some("https://n1"),
                "10.0.0.2:7879",
                Err("write http://HOST:PORT"),
            ),
        ];
        for (given, listens, expected) in cases {
            let url = advertised(given, address(listens)).map_err(|error| error.to_string());
            match expected {
                Ok(expected) => assert_eq!(url.as_deref(), Ok(expected)),
                Err(part) => assert!(url.as_ref().unwrap_err().contains(part), "{url:?}"),
            }
        }
    }
}
