//! What is wrong with options is said before anything is connected.

use std::fs;
use std::path::PathBuf;

use tributary_store::Error;
use tributary_store::nats::{Credentials, Identity, Options, connect};

async fn told(options: Options) -> String {
    let refused = connect(options).await.unwrap_err();
    assert!(matches!(refused, Error::Malformed { .. }), "{refused:?}");
    refused.to_string()
}

#[tokio::test]
async fn a_missing_file_is_named_with_its_field() {
    let file = || PathBuf::from("/nowhere/at/all.pem");
    let identity = Identity {
        certificate: file(),
        key: file(),
    };
    for (field, options) in [
        (
            "root_certificates",
            Options {
                root_certificates: Some(file()),
                ..Options::default()
            },
        ),
        (
            "identity.certificate",
            Options {
                identity: Some(identity),
                ..Options::default()
            },
        ),
        (
            "credentials",
            Options {
                credentials: Credentials::File(file()),
                ..Options::default()
            },
        ),
        (
            "nkey seed",
            Options {
                credentials: Credentials::NkeySeed(file()),
                ..Options::default()
            },
        ),
    ] {
        let text = told(options).await;
        assert!(
            text.starts_with(&format!("{field} /nowhere/at/all.pem: ")),
            "{text}"
        );
        assert!(text.contains("No such file"), "{text}");
    }
}

#[tokio::test]
async fn a_file_of_another_kind_is_named_with_its_field() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "nothing of use\n").unwrap();
    for (field, hint, options) in [
        (
            "root_certificates",
            "PEM",
            Options {
                root_certificates: Some(file.clone()),
                ..Options::default()
            },
        ),
        (
            "credentials",
            "JWT",
            Options {
                credentials: Credentials::File(file.clone()),
                ..Options::default()
            },
        ),
        (
            "nkey seed",
            "SU",
            Options {
                credentials: Credentials::NkeySeed(file.clone()),
                ..Options::default()
            },
        ),
    ] {
        let text = told(options).await;
        assert!(text.starts_with(field), "{text}");
        assert!(text.contains(hint), "{text}");
    }
}

#[tokio::test]
async fn bad_values_are_refused() {
    for (word, options) in [
        (
            "servers",
            Options {
                servers: Vec::new(),
                ..Options::default()
            },
        ),
        (
            "servers",
            Options {
                servers: vec!["nats://:x".to_owned()],
                ..Options::default()
            },
        ),
        (
            "prefix",
            Options {
                prefix: "A_b".to_owned(),
                ..Options::default()
            },
        ),
        (
            "replicas",
            Options {
                replicas: Some(0),
                ..Options::default()
            },
        ),
    ] {
        let text = told(options).await;
        assert!(text.starts_with(word), "{text}");
    }
}
