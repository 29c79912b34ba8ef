//! Only servers that an authority vouches for, by the name that was asked for.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A server that greets over TLS as `localhost`; its port, and the certificate that it shows.
async fn server() -> (u16, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.write_all(b"hello").await;
                let _ = stream.shutdown().await;
            }
        }
    });
    (port, certificate)
}

async fn greeting(tls: &Tls, host: &str, port: u16) -> io::Result<String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut greeting = String::new();
    let mut stream = tls.connect(host, stream).await?;
    stream.read_to_string(&mut greeting).await?;
    Ok(greeting)
}

#[tokio::test]
async fn a_server_needs_an_authority_and_its_name() {
    let (port, certificate) = server().await;
    let trusting = Tls::trusting(vec![certificate]).unwrap();
    assert_eq!(
        greeting(&trusting, "localhost", port).await.unwrap(),
        "hello"
    );
    assert!(greeting(&trusting, "other.example", port).await.is_err());
    let strange = Tls::trusting(Vec::new()).unwrap();
    assert!(greeting(&strange, "localhost", port).await.is_err());
    assert!(greeting(&Tls::new(false), "localhost", port).await.is_err());
}
