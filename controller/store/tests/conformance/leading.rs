//! Leadership. How long a takeover takes decides nothing here, only that it happens.

use std::time::Duration;

use tokio::sync::watch;
use tributary_store::{Campaign, Change, Error, Leadership, Role};

use crate::bench::{Bench, bytes, next, soon};

const LEASE: Duration = Duration::from_secs(3);

/// Waits until it leads; the term.
async fn leads(campaign: &Campaign) -> u64 {
    let mut role = campaign.role();
    let led = soon(role.wait_for(|role| matches!(role, Role::Leader { .. }))).await;
    let Role::Leader { term } = *led.unwrap() else {
        unreachable!("it was waited for");
    };
    term
}

/// Waits until it follows `leader`.
async fn follows(campaign: &Campaign, leader: &str) {
    let wanted = Role::Follower {
        leader: Some(leader.to_owned()),
    };
    let mut role = campaign.role();
    soon(role.wait_for(|role| *role == wanted)).await.unwrap();
}

fn is_leader(role: &watch::Receiver<Role>) -> bool {
    matches!(*role.borrow(), Role::Leader { .. })
}

async fn offices(bench: &Bench) -> (Leadership, Leadership) {
    let other = bench.another().await;
    (
        Leadership::open(&*bench.backend, "leaders", LEASE)
            .await
            .unwrap(),
        Leadership::open(&*other, "leaders", LEASE).await.unwrap(),
    )
}

pub(crate) async fn one_leads(bench: Bench) {
    let (here, there) = offices(&bench).await;
    let first = here.campaign("first");
    let term = leads(&first).await;
    assert!(term > 0);
    let second = there.campaign("second");
    follows(&second, "first").await;
    assert_eq!(there.leader().await.unwrap().as_deref(), Some("first"));
    // It renews: the key's revision grows, the term does not.
    let keys = bench.backend.keys("leaders", Some(LEASE)).await.unwrap();
    let mut watch = keys.watch("").await.unwrap();
    let mut revision = term;
    while revision < term + 4 {
        if let Change::Put(_, entry) = next(&mut watch).await {
            assert!(entry.revision >= revision);
            revision = entry.revision;
        }
    }
    assert_eq!(*first.role().borrow(), Role::Leader { term });
    assert!(!is_leader(&second.role()));
}

pub(crate) async fn who_resigns_is_followed_at_once(bench: Bench) {
    let (here, there) = offices(&bench).await;
    let first = here.campaign("first");
    let mut last = leads(&first).await;
    let second = there.campaign("second");
    follows(&second, "first").await;
    let role = first.role();
    first.resign().await;
    assert!(!is_leader(&role));
    let term = leads(&second).await;
    assert!(term > last);
    last = term;
    // Back and forth, each term is greater.
    let third = here.campaign("third");
    follows(&third, "second").await;
    second.resign().await;
    assert!(leads(&third).await > last);
}

pub(crate) async fn who_dies_is_followed(bench: Bench) {
    let (here, there) = offices(&bench).await;
    let first = here.campaign("first");
    let term = leads(&first).await;
    let second = there.campaign("second");
    follows(&second, "first").await;
    let role = first.role();
    drop(first);
    assert!(leads(&second).await > term);
    assert!(!is_leader(&role));
}

pub(crate) async fn terms_grow_and_fence(bench: Bench) {
    let (here, there) = offices(&bench).await;
    let keys = bench.backend.keys("leaders", Some(LEASE)).await.unwrap();
    let first = here.campaign("first");
    leads(&first).await;
    let old = keys.get("leader").await.unwrap().unwrap().revision;
    drop(first);
    let second = there.campaign("second");
    let term = leads(&second).await;
    // The old leader's next renewal, had it been delayed until now.
    let late = keys.update("leader", bytes("late"), old).await;
    assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
    let late = keys.delete_if("leader", old).await;
    assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
    assert!(term > old);
    assert_eq!(*second.role().borrow(), Role::Leader { term });
}

pub(crate) async fn who_lost_the_lease_knows(bench: Bench) {
    let (here, _) = offices(&bench).await;
    let keys = bench.backend.keys("leaders", Some(LEASE)).await.unwrap();
    let first = here.campaign("first");
    let term = leads(&first).await;
    let mut role = first.role();
    // Somebody takes the office by force.
    keys.put("leader", bytes(r#"{"leader":"usurper","session":"x"}"#))
        .await
        .unwrap();
    soon(role.wait_for(|role| matches!(role, Role::Follower { .. })))
        .await
        .unwrap();
    // The usurper does not renew; the term afterwards is greater.
    assert!(leads(&first).await > term);
}

pub(crate) async fn what_is_left_of_oneself_leads_nobody(bench: Bench) {
    let (here, there) = offices(&bench).await;
    let keys = bench.backend.keys("leaders", Some(LEASE)).await.unwrap();
    // It died, or lost its connection, and has not given the lease back.
    let left = keys
        .create("leader", bytes(r#"{"leader":"first","session":"before"}"#))
        .await
        .unwrap();
    let second = there.campaign("second");
    follows(&second, "first").await;
    drop(second);
    let first = here.campaign("first");
    let mut role = first.role();
    loop {
        let now = role.borrow_and_update().clone();
        match now {
            Role::Leader { term } => return assert!(term > left),
            Role::Follower { leader } => assert_eq!(leader, None),
        }
        soon(role.changed()).await.unwrap();
    }
}
