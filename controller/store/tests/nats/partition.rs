//! A client's connection is cut, or loses what the server says; the client itself lives.

use std::time::Duration;

use tributary_store::nats::{self, Options};
use tributary_store::{Backend, Change, Error, Leadership, Role};
use tributary_tests::nats::{self as servers, NatsServer};

use crate::bench::{PATIENCE, bytes, connect, next, options, soon};
use crate::proxy::Proxy;

const LEASE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_connection_is_followed_and_fenced() {
    if !servers::available() {
        return;
    }
    let server = NatsServer::start();
    let proxy = Proxy::to(server.port()).await;
    let near = connect(&server).await;
    let far = nats::connect(options(vec![proxy.url()])).await.unwrap();
    let first = Leadership::open(&far, "leaders", LEASE)
        .await
        .unwrap()
        .campaign("first");
    let second = Leadership::open(&near, "leaders", LEASE).await.unwrap();
    let mut first_role = first.role();
    let leads = |role: &Role| matches!(role, Role::Leader { .. });
    let follows = |role: &Role| matches!(role, Role::Follower { .. });
    soon(first_role.wait_for(leads)).await.unwrap();
    let keys = near.keys("leaders", Some(LEASE)).await.unwrap();
    let old = keys.get("leader").await.unwrap().unwrap().revision;
    let second = second.campaign("second");
    let mut second_role = second.role();

    proxy.cut();
    // By its own clock, before the second one can lead.
    soon(first_role.wait_for(follows)).await.unwrap();
    let term = match soon(second_role.wait_for(leads)).await.unwrap().clone() {
        Role::Leader { term } => term,
        Role::Follower { .. } => unreachable!("it was waited for"),
    };
    assert!(term > old);
    proxy.mend();
    let wanted = Role::Follower {
        leader: Some("second".to_owned()),
    };
    soon(first_role.wait_for(|role| *role == wanted))
        .await
        .unwrap();
    // What the first one might have sent late.
    let far_keys = far.keys("leaders", Some(LEASE)).await.unwrap();
    let late = far_keys.update("leader", bytes("late"), old).await;
    assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
    assert_eq!(*second_role.borrow(), Role::Leader { term });
}

/// A write whose answer is lost is repeated, and is not taken for somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_no_conflict() {
    if !servers::available() {
        return;
    }
    let server = NatsServer::start();
    let proxy = Proxy::to(server.port()).await;
    let near = connect(&server).await.keys("things", None).await.unwrap();
    let patient = Options {
        call_timeout: PATIENCE,
        ..options(vec![proxy.url()])
    };
    let far = nats::connect(patient).await.unwrap();
    let far = far.keys("things", None).await.unwrap();
    let mut watch = near.watch("").await.unwrap();
    assert_eq!(next(&mut watch).await, Change::UpToDate);
    let mut revision = 0;
    for value in ["created", "updated", "put", "deleted"] {
        proxy.deafen();
        let write = tokio::spawn({
            let (far, value) = (far.clone(), value.to_owned());
            async move {
                match value.as_str() {
                    "created" => far.create("a", bytes("created")).await,
                    "updated" => far.update("a", bytes("updated"), revision).await,
                    "put" => far.put("a", bytes("put")).await,
                    _ => far.delete_if("a", revision).await.map(|()| 0),
                }
            }
        });
        // Somebody else sees it; only then the connection breaks, and comes back.
        let seen = next(&mut watch).await;
        proxy.cut();
        proxy.mend();
        let written = soon(write).await.unwrap().unwrap();
        match seen {
            Change::Put(_, entry) => {
                assert_eq!((entry.value, entry.revision), (bytes(value), written));
            }
            other => assert_eq!(other, Change::Deleted("a".to_owned())),
        }
        revision = written;
    }
    // Each was written once.
    near.create("b", bytes("end")).await.unwrap();
    assert!(matches!(next(&mut watch).await, Change::Put(key, _) if key == "b"));
}
