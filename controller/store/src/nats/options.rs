//! How to connect.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;

use crate::{Error, Retention};

/// How to connect, and how to keep things.
#[derive(Debug, Clone)]
pub struct Options {
    /// `nats://host:port`, `tls://host:port`; one server, or several of a cluster. The first may carry
    /// `user:password@`, for all.
    pub servers: Vec<String>,
    /// What the connection is called in the server's lists.
    pub name: String,
    /// The beginning of all names, so that several clusters can share a server: `a-z`, `0-9` and `-`.
    pub prefix: String,
    /// Copies of what is stored, where it is made; without it 3 in a cluster of servers, and 1 on a server of its own.
    pub replicas: Option<usize>,
    /// The room for all that is stored on each server, in bytes; found out from the servers if not said. Limits are parts
    /// of it.
    pub room: Option<u64>,
    /// Certificates of the authorities that servers' certificates come from, in PEM; the system's if not said.
    pub root_certificates: Option<PathBuf>,
    /// The certificate to show to servers that ask for one.
    pub identity: Option<Identity>,
    /// Refuse servers without TLS. Implied by certificates of any kind.
    pub require_tls: bool,
    /// Who to connect as.
    pub credentials: Credentials,
    /// How long a call may take before it fails as unavailable.
    pub call_timeout: Duration,
    /// How long messages are kept.
    pub retention: Retention,
}

/// A client certificate.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// Who to connect as.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    /// Nobody, or whom the server's URL names.
    #[default]
    Anonymous,
    /// A `.creds` file: a JWT and its seed.
    File(PathBuf),
    /// A file with the seed of an nkey.
    NkeySeed(PathBuf),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            servers: vec!["nats://127.0.0.1:4222".to_owned()],
            name: "tributary".to_owned(),
            prefix: "tributary".to_owned(),
            replicas: None,
            room: None,
            root_certificates: None,
            identity: None,
            require_tls: false,
            credentials: Credentials::default(),
            call_timeout: Duration::from_secs(5),
            retention: Retention::default(),
        }
    }
}

impl Options {
    /// Everything that can be known to be wrong without a server.
    pub(super) fn check(&self) -> Result<(), Error> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=32).contains(&self.prefix.len());
        if !fits || !self.prefix.bytes().all(letter) {
            let what = format!("prefix {:?}", self.prefix);
            return Err(Error::malformed(
                what,
                "1 to 32 of a-z, 0-9 and '-' are allowed",
            ));
        }
        if let Some(replicas) = self.replicas
            && !(1..=5).contains(&replicas)
        {
            let what = format!("replicas {replicas}");
            return Err(Error::malformed(
                what,
                "1 to 5 are allowed; 3 is usual in a cluster",
            ));
        }
        Ok(())
    }

    pub(super) fn addresses(&self) -> Result<Vec<ServerAddr>, Error> {
        if self.servers.is_empty() {
            return Err(Error::malformed("servers", "name at least one"));
        }
        let address = |text: &String| {
            text.parse().map_err(|error| {
                let why = format!("{error}; write nats://host:port");
                Error::malformed(format!("servers {:?}", hidden(text)), why)
            })
        };
        self.servers.iter().map(address).collect()
    }

    /// Those of the first URL that has any; the client library does not look there.
    fn user_and_password(&self) -> Result<Option<(String, String)>, Error> {
        let addresses = self.addresses()?;
        let found = addresses
            .iter()
            .find_map(|address| Some((address.username()?, address.password()?)));
        Ok(found.map(|(user, password)| (decoded(user), decoded(password))))
    }

    /// The servers, for people.
    pub(super) fn shown(&self) -> String {
        let shown: Vec<String> = self.servers.iter().map(|server| hidden(server)).collect();
        shown.join(", ")
    }

    pub(super) fn connect_options(&self) -> Result<ConnectOptions, Error> {
        let mut options = ConnectOptions::new().name(&self.name);
        if let Some(file) = &self.root_certificates {
            pem("root_certificates", file, "CERTIFICATE")?;
            options = options.add_root_certificates(file.clone());
        }
        if let Some(Identity { certificate, key }) = &self.identity {
            pem("identity.certificate", certificate, "CERTIFICATE")?;
            pem("identity.key", key, "PRIVATE KEY")?;
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        let tls = self.require_tls || self.root_certificates.is_some() || self.identity.is_some();
        options = options.require_tls(tls);
        match &self.credentials {
            Credentials::Anonymous => Ok(match self.user_and_password()? {
                Some((user, password)) => options.user_and_password(user, password),
                None => options,
            }),
            Credentials::File(file) => {
                let text = read("credentials", file)?;
                options.credentials(&text).map_err(|error| {
                    let why = format!(
                        "{error}; it should hold a user's JWT and seed, as `nsc` writes them"
                    );
                    wrong("credentials", file, why)
                })
            }
            Credentials::NkeySeed(file) => {
                let seed = read("nkey seed", file)?;
                let seed = seed.trim();
                if !seed.starts_with("SU") {
                    let why = "it should hold the seed of a user, which begins with SU";
                    return Err(wrong("nkey seed", file, why));
                }
                Ok(options.nkey(seed.to_owned()))
            }
        }
    }
}

/// What a URL encodes as %40, for instance.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A server's URL without its password.
fn hidden(server: &str) -> String {
    match server.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            format!("{scheme}://***@{host}")
        }
        None => server.to_owned(),
    }
}

fn read(field: &str, file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(|error| wrong(field, file, error))
}

fn pem(field: &str, file: &Path, label: &str) -> Result<(), Error> {
    let text = read(field, file)?;
    let begins = |line: &str| line.starts_with("-----BEGIN ") && line.contains(label);
    if text.lines().any(begins) {
        return Ok(());
    }
    let why = format!("there is no {label} in it; it should be in PEM");
    Err(wrong(field, file, why))
}

fn wrong(field: &str, file: &Path, why: impl ToString) -> Error {
    Error::malformed(format!("{field} {}", file.display()), why)
}
