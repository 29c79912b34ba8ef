//! TLS of servers that files are fetched from.

use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, Error, RootCertStore};

/// Checks servers' certificates against the authorities that the system trusts.
pub(super) struct Tls(Option<TlsConnector>);

impl Tls {
    /// `used` says whether any server has TLS at all: reading the system's authorities takes a moment.
    pub(super) fn new(used: bool) -> Self {
        if !used {
            return Self(None);
        }
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "an authority's certificate cannot be read");
        }
        match Self::trusting(found.certs) {
            Ok(tls) => tls,
            Err(error) => {
                tracing::error!(%error, "nothing can be fetched by https");
                Self(None)
            }
        }
    }

    fn trusting(authorities: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities);
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Some(TlsConnector::from(Arc::new(config)))))
    }

    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let connector = self.0.as_ref();
        let connector = connector.ok_or_else(|| io::Error::other("https is not set up"))?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        connector.connect(name, stream).await
    }
}

#[cfg(test)]
mod tests;
