//! The leader's connection is cut; the leader itself lives.

use std::time::Duration;

use tributary_store::{Backend, Error, Leadership, Role, nats};
use tributary_tests::nats::{self as servers, NatsServer};

use crate::bench::{bytes, connect, options, soon};
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
