//! Who may connect: certificates, nkeys, JWTs, passwords.

use std::fs;
use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tributary_store::nats::{Credentials, Identity, Options, connect};
use tributary_store::{Backend, Error};
use tributary_tests::nats::{self, NatsServer};

use crate::bench::{bytes, options};

/// Everything is there for who may connect.
async fn works(options: Options) {
    let store = connect(options).await.unwrap();
    let keys = store.keys("things", None).await.unwrap();
    let revision = keys.put("a", bytes("one")).await.unwrap();
    assert_eq!(keys.get("a").await.unwrap().unwrap().revision, revision);
    store.bus().await.unwrap();
    assert!(store.connected());
}

async fn refused(options: Options) {
    let refused = connect(options).await.map(drop);
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    file
}

/// An authority, and certificates that it has signed.
struct Authority {
    folder: tempfile::TempDir,
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "ca.pem", &issuer.pem());
        Self { folder, issuer }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn identity(&self, name: &str) -> Identity {
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let folder = self.folder.path();
        Identity {
            certificate: write(folder, &format!("{name}.pem"), &certificate.pem()),
            key: write(folder, &format!("{name}.key"), &key.serialize_pem()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_open_the_door() {
    if !nats::available() {
        return;
    }
    let (authority, stranger) = (Authority::new(), Authority::new());
    let Identity { certificate, key } = authority.identity("server");
    let root = authority.root();
    let server = NatsServer::with(&format!(
        "tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {root:?}, verify: true }}"
    ));
    let plain = || options(vec![server.url()]);
    works(Options {
        root_certificates: Some(root.clone()),
        identity: Some(authority.identity("client")),
        ..plain()
    })
    .await;
    works(Options {
        servers: vec![server.url().replace("nats://", "tls://")],
        root_certificates: Some(root.clone()),
        identity: Some(authority.identity("client")),
        ..plain()
    })
    .await;
    // Without a certificate, with one of somebody else, with trust in somebody else.
    refused(Options {
        root_certificates: Some(root.clone()),
        ..plain()
    })
    .await;
    refused(Options {
        root_certificates: Some(root),
        identity: Some(stranger.identity("client")),
        ..plain()
    })
    .await;
    refused(Options {
        root_certificates: Some(stranger.root()),
        identity: Some(authority.identity("client")),
        ..plain()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_where_tls_is_required() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start();
    refused(Options {
        require_tls: true,
        ..options(vec![server.url()])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nkey_opens_the_door() {
    if !nats::available() {
        return;
    }
    let (user, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let server = NatsServer::with(&format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}",
        user.public_key()
    ));
    let folder = tempfile::tempdir().unwrap();
    let with = |name: &str, key: &KeyPair| {
        let seed = format!("{}\n", key.seed().unwrap());
        let credentials = Credentials::NkeySeed(write(folder.path(), name, &seed));
        Options {
            credentials,
            ..options(vec![server.url()])
        }
    };
    works(with("user", &user)).await;
    refused(with("stranger", &stranger)).await;
    refused(options(vec![server.url()])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_opens_the_door() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::with("authorization { user: river, password: \"s:cr@t\" }");
    // As URLs write what has a meaning in them.
    let url = |who: &str| server.url().replace("nats://", &format!("nats://{who}@"));
    works(options(vec![url("river:s%3Acr%40t")])).await;
    let error = connect(options(vec![url("river:wrong")]))
        .await
        .unwrap_err();
    assert!(error.is_unavailable());
    let text = error.to_string();
    assert!(!text.contains("wrong"), "the password is told: {text}");
    assert!(text.contains("authorization"), "{text}");
}

/// What an operator's tool would write: claims, signed.
fn jwt(signer: &KeyPair, subject: &str, name: &str, nats: &Value) -> String {
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let claims = json!({
        "jti": format!("{name}-id"),
        "iat": 1_700_000_000,
        "iss": signer.public_key(),
        "name": name,
        "sub": subject,
        "nats": nats,
    });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", encode(&header), encode(&claims));
    let signature = URL_SAFE_NO_PAD.encode(signer.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

fn account(limited: bool) -> Value {
    let storage = if limited { 0 } else { -1 };
    json!({
        "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
            "leaf": -1, "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage,
        },
        "default_permissions": { "pub": {}, "sub": {} },
        "type": "account",
        "version": 2,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jwt_opens_the_door() {
    if !nats::available() {
        return;
    }
    let (operator, owner, system) = (
        KeyPair::new_operator(),
        KeyPair::new_account(),
        KeyPair::new_account(),
    );
    let server = NatsServer::with(&format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{ {}: {}, {}: {} }}",
        jwt(
            &operator,
            &operator.public_key(),
            "O",
            &json!({ "type": "operator", "version": 2 })
        ),
        system.public_key(),
        owner.public_key(),
        jwt(&operator, &owner.public_key(), "A", &account(false)),
        system.public_key(),
        jwt(&operator, &system.public_key(), "SYS", &account(true)),
    ));
    let folder = tempfile::tempdir().unwrap();
    let claims = json!({ "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2 });
    let with = |name: &str, signer: &KeyPair| {
        let user = KeyPair::new_user();
        let token = jwt(signer, &user.public_key(), name, &claims);
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().unwrap()
        );
        Options {
            credentials: Credentials::File(write(folder.path(), name, &text)),
            ..options(vec![server.url()])
        }
    };
    works(with("user", &owner)).await;
    // Signed by an account that the operator does not know.
    refused(with("stranger", &KeyPair::new_account())).await;
    refused(options(vec![server.url()])).await;
}
