//! Stored messages that everybody may read.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tributary_store::{Bus, Error, Message, PAYLOAD_BYTES_MAX, Stream};

use crate::bench::{Bench, bytes, next, take};

async fn publish(bus: &dyn Bus, subject: &str, texts: &[&str]) {
    for text in texts {
        let id = format!("{subject}/{text}");
        bus.publish(subject, &id, bytes(text)).await.unwrap();
    }
}

pub(crate) async fn subscribers_hear_what_comes_after(bench: Bench) {
    let bus = bench.bus().await;
    let other = bench.another().await.bus().await.unwrap();
    publish(&*bus, "events.a", &["before"]).await;
    let mut here = bus.subscribe("events.>").await.unwrap();
    let mut there = other.subscribe("events.>").await.unwrap();
    let texts: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    publish(&*bus, "events.a", &texts).await;
    for text in texts {
        for messages in [&mut here, &mut there] {
            let message = next(messages).await;
            assert_eq!(message.subject, "events.a");
            assert_eq!(message.id, format!("events.a/{text}"));
            assert_eq!(message.payload, bytes(text));
        }
    }
}

pub(crate) async fn an_id_counts_once(bench: Bench) {
    let bus = bench.bus().await;
    let other = bench.another().await.bus().await.unwrap();
    let mut messages = bus.subscribe("events.>").await.unwrap();
    for text in ["one", "again", "and again"] {
        bus.publish("events.a", "id", bytes(text)).await.unwrap();
        other.publish("events.b", "id", bytes(text)).await.unwrap();
    }
    bus.publish("events.a", "other", bytes("two"))
        .await
        .unwrap();
    assert_eq!(next(&mut messages).await.payload, bytes("one"));
    assert_eq!(next(&mut messages).await.payload, bytes("two"));
    let mut work = bus.consume("worker", "updates.>").await.unwrap();
    for id in ["id", "id", "end"] {
        bus.publish("updates.a", id, bytes(id)).await.unwrap();
    }
    assert_eq!(take(&mut work, 2).await, ["id", "end"]);
}

pub(crate) async fn filters_choose(bench: Bench) {
    let bus = bench.bus().await;
    let mut all = bus.subscribe("events.>").await.unwrap();
    let mut one = bus.subscribe("events.a").await.unwrap();
    let mut any = bus.subscribe("events.*").await.unwrap();
    let mut deep = bus.subscribe("events.*.c").await.unwrap();
    for subject in [
        "events.a",
        "events.b",
        "events.a.b",
        "events.a.c",
        "events.x.c.d",
    ] {
        publish(&*bus, subject, &["text"]).await;
    }
    publish(&*bus, "events.a", &["end"]).await;
    publish(&*bus, "events.z.c", &["end"]).await;
    let subjects = async |messages: &mut Stream<Result<Message, Error>>, count: usize| {
        let mut subjects = Vec::new();
        for _ in 0..count {
            subjects.push(next(messages).await.subject);
        }
        subjects
    };
    assert_eq!(
        subjects(&mut all, 7).await,
        [
            "events.a",
            "events.b",
            "events.a.b",
            "events.a.c",
            "events.x.c.d",
            "events.a",
            "events.z.c"
        ]
    );
    assert_eq!(subjects(&mut one, 2).await, ["events.a", "events.a"]);
    assert_eq!(
        subjects(&mut any, 3).await,
        ["events.a", "events.b", "events.a"]
    );
    assert_eq!(subjects(&mut deep, 2).await, ["events.a.c", "events.z.c"]);
}

pub(crate) async fn consumers_read_what_was_published_before(bench: Bench) {
    let bus = bench.bus().await;
    publish(&*bus, "events.a", &["one", "two"]).await;
    publish(&*bus, "events.b", &["other"]).await;
    let mut messages = bus.consume("reader", "events.a").await.unwrap();
    publish(&*bus, "events.a", &["three"]).await;
    assert_eq!(take(&mut messages, 3).await, ["one", "two", "three"]);
}

pub(crate) async fn acknowledged_is_remembered(bench: Bench) {
    let bus = bench.bus().await;
    publish(&*bus, "events.a", &["one", "two", "three"]).await;
    let mut messages = bus.consume("reader", "events.>").await.unwrap();
    assert_eq!(take(&mut messages, 2).await, ["one", "two"]);
    drop(messages);
    let other = bench.another().await.bus().await.unwrap();
    let mut messages = other.consume("reader", "events.>").await.unwrap();
    publish(&*bus, "events.a", &["four"]).await;
    let mut rest = take(&mut messages, 2).await;
    // What the first one had fetched, but not taken, comes again after a while.
    rest.sort();
    assert_eq!(rest, ["four", "three"]);
}

pub(crate) async fn each_name_gets_everything(bench: Bench) {
    let bus = bench.bus().await;
    let mut one = bus.consume("one", "events.>").await.unwrap();
    let mut two = bus.consume("two", "events.>").await.unwrap();
    publish(&*bus, "events.a", &["a", "b", "c"]).await;
    assert_eq!(take(&mut one, 3).await, ["a", "b", "c"]);
    assert_eq!(take(&mut two, 3).await, ["a", "b", "c"]);
}

pub(crate) async fn bad_subjects_are_refused(bench: Bench) {
    let bus = bench.bus().await;
    let refused = |result: Result<(), Error>, what: &str| {
        assert!(
            matches!(result, Err(Error::Malformed { .. })),
            "{what}: {result:?}"
        );
    };
    for subject in [
        "",
        "events",
        "other.a",
        "events.",
        "events..a",
        "events.a b",
        "events.*",
        "events.>",
        "eventsa.b",
    ] {
        refused(bus.publish(subject, "id", Bytes::new()).await, subject);
    }
    for filter in [
        "",
        "events",
        ">",
        "*.a",
        "events.>.a",
        "events.a*",
        "updates.>",
    ] {
        refused(bus.subscribe(filter).await.map(drop), filter);
    }
    for filter in ["", "other.>", "events.a..b", "updates"] {
        refused(bus.consume("reader", filter).await.map(drop), filter);
    }
    refused(
        bus.consume("a reader", "events.>").await.map(drop),
        "a name with a space",
    );
    refused(bus.publish("events.a", "", Bytes::new()).await, "no id");
    let wild = bus
        .request("a.*", Bytes::new(), Duration::from_secs(1))
        .await;
    refused(wild.map(drop), "a request to many");
}

pub(crate) async fn messages_that_are_too_large_are_refused(bench: Bench) {
    let bus = bench.bus().await;
    let mut messages = bus.subscribe("events.>").await.unwrap();
    let most = Bytes::from(vec![7; PAYLOAD_BYTES_MAX]);
    bus.publish("events.a", "most", most.clone()).await.unwrap();
    assert_eq!(next(&mut messages).await.payload, most);
    let more = Bytes::from(vec![7; PAYLOAD_BYTES_MAX + 1]);
    let refused = bus.publish("events.a", "more", more.clone()).await;
    assert!(
        matches!(refused, Err(Error::TooLarge { .. })),
        "{refused:?}"
    );
    let mut requests = bus.serve("a").await.unwrap();
    let refused = bus.request("a", more, Duration::from_secs(1)).await;
    assert!(
        matches!(refused, Err(Error::TooLarge { .. })),
        "{refused:?}"
    );
    let served = tokio::time::timeout(Duration::ZERO, requests.next()).await;
    assert!(served.is_err(), "it arrived all the same");
}
