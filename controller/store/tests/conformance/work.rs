//! Messages that are work: done once, by one of many.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tributary_store::{Bus, Delivery, Error, Stream};

use crate::bench::{Bench, bytes, next, take, text};

async fn order(bus: &dyn Bus, works: &[&str]) {
    for work in works {
        bus.publish("updates.a", work, bytes(work)).await.unwrap();
    }
}

pub(crate) async fn work_is_done_once(bench: Bench) {
    let bus = bench.bus().await;
    order(&*bus, &["one", "two"]).await;
    let mut work = bus.consume("worker", "updates.>").await.unwrap();
    let first = next(&mut work).await;
    assert_eq!((first.message.id.as_str(), first.attempt), ("one", 1));
    first.ack().await.unwrap();
    assert_eq!(take(&mut work, 1).await, ["two"]);
    drop(work);
    // Acknowledged is gone: also for another, who comes later.
    let mut work = bus.consume("worker", "updates.>").await.unwrap();
    order(&*bus, &["three"]).await;
    assert_eq!(take(&mut work, 1).await, ["three"]);
}

pub(crate) async fn several_share_the_work(bench: Bench) {
    let bus = bench.bus().await;
    let other = bench.another().await.bus().await.unwrap();
    let works: BTreeSet<String> = (0..200).map(|number| format!("work-{number}")).collect();
    for work in &works {
        bus.publish("updates.a", work, bytes(work)).await.unwrap();
    }
    let (done, mut results) = tokio::sync::mpsc::unbounded_channel();
    let mut workers = Vec::new();
    for (name, bus) in [("here", bus.clone()), ("there", other)] {
        let mut work = bus.consume("worker", "updates.>").await.unwrap();
        let done = done.clone();
        workers.push(tokio::spawn(async move {
            loop {
                let delivery = next(&mut work).await;
                let id = delivery.message.id.clone();
                delivery.ack().await.unwrap();
                if done.send((name, id)).is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    let mut seen = Vec::new();
    while seen.len() < works.len() {
        seen.push(crate::bench::soon(results.recv()).await.unwrap().1);
    }
    workers.iter().for_each(tokio::task::JoinHandle::abort);
    let distinct: BTreeSet<String> = seen.iter().cloned().collect();
    assert_eq!(distinct, works);
}

pub(crate) async fn refused_work_comes_again(bench: Bench) {
    let bus = bench.bus().await;
    let mut work = bus.consume("worker", "updates.>").await.unwrap();
    order(&*bus, &["one"]).await;
    for attempt in 1..4 {
        let delivery = next(&mut work).await;
        assert_eq!(delivery.attempt, attempt);
        assert_eq!(text(&delivery.message.payload), "one");
        delivery.nak(Duration::from_millis(50)).await.unwrap();
    }
    assert_eq!(take(&mut work, 1).await, ["one"]);
}

pub(crate) async fn forgotten_work_comes_again(bench: Bench) {
    let bus = bench.bus().await;
    let mut work = bus.consume("worker", "updates.>").await.unwrap();
    order(&*bus, &["one"]).await;
    let forgotten = next(&mut work).await;
    drop(forgotten);
    let again = next(&mut work).await;
    assert_eq!((again.message.id.as_str(), again.attempt), ("one", 2));
    again.ack().await.unwrap();
    // Who dies with work in hand leaves it to others of its name.
    order(&*bus, &["two"]).await;
    let held = next(&mut work).await;
    drop(work);
    drop(held);
    let other = bench.another().await.bus().await.unwrap();
    let mut work = other.consume("worker", "updates.>").await.unwrap();
    assert_eq!(take(&mut work, 1).await, ["two"]);
}

pub(crate) async fn work_that_goes_on_does_not_come_again(bench: Bench) {
    let bus = bench.bus().await;
    let mut work = bus.consume("worker", "updates.>").await.unwrap();
    for trial in 0.. {
        let (long, later) = (format!("long-{trial}"), format!("later-{trial}"));
        order(&*bus, &[&long]).await;
        let held = next_named(&mut work, &long).await;
        let prompt = goes_on(&held).await;
        order(&*bus, &[&later]).await;
        if prompt {
            // Had it come again, it would come first.
            assert_eq!(take(&mut work, 1).await, [later]);
            held.ack().await.unwrap();
            return;
        }
        // A machine that slept between two words of progress proves nothing.
        held.ack().await.unwrap();
    }
}

/// Tells of progress for longer than an acknowledgement is waited for; whether no pause came near that time.
async fn goes_on(held: &Delivery) -> bool {
    let mut prompt = true;
    for _ in 0..6 {
        let since = Instant::now();
        tokio::time::sleep(Duration::from_millis(250)).await;
        held.progress().await.unwrap();
        prompt &= since.elapsed() < Duration::from_millis(600);
    }
    prompt
}

/// The work of that name; acknowledges what comes before.
async fn next_named(work: &mut Stream<Result<Delivery, Error>>, name: &str) -> Delivery {
    loop {
        let delivery = next(work).await;
        if delivery.message.id == name {
            return delivery;
        }
        delivery.ack().await.unwrap();
    }
}

pub(crate) async fn work_has_one_name(bench: Bench) {
    let bus = bench.bus().await;
    let _work = bus.consume("worker", "updates.jobs.*").await.unwrap();
    for filter in ["updates.>", "updates.jobs.a", "updates.*.b"] {
        let second = bus.consume("other", filter).await.map(drop);
        assert!(
            matches!(second, Err(Error::Malformed { .. })),
            "{filter}: {second:?}"
        );
    }
    let _models = bus.consume("other", "updates.models.>").await.unwrap();
    let _more_work = bus.consume("worker", "updates.jobs.*").await.unwrap();
}

pub(crate) async fn work_waits_for_who_does_it(bench: Bench) {
    let bus = bench.bus().await;
    bus.publish("updates.jobs.a", "1", bytes("a"))
        .await
        .unwrap();
    bus.publish("updates.models.b", "2", bytes("b"))
        .await
        .unwrap();
    bus.publish("updates.jobs.c", "3", bytes("c"))
        .await
        .unwrap();
    let mut jobs = bus.consume("jobs", "updates.jobs.>").await.unwrap();
    assert_eq!(take(&mut jobs, 2).await, ["a", "c"]);
    let mut models = bus.consume("models", "updates.models.>").await.unwrap();
    assert_eq!(take(&mut models, 1).await, ["b"]);
}
