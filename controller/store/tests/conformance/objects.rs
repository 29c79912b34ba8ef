//! Large things.

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use tributary_store::{Error, Objects};

use crate::bench::{Bench, bytes, pieces, soon};

async fn put(objects: &dyn Objects, name: &str, content: &Bytes) {
    // In uneven pieces.
    let parts = content
        .chunks(70_001)
        .map(|part| Ok(Bytes::copy_from_slice(part)));
    let written = objects.put(name, pieces(parts.collect())).await.unwrap();
    assert_eq!(written, content.len() as u64);
}

async fn get(objects: &dyn Objects, name: &str) -> Option<Bytes> {
    let object = soon(objects.get(name)).await.unwrap()?;
    let parts: Vec<Bytes> = soon(object.content.try_collect()).await.unwrap();
    let mut content = BytesMut::new();
    parts
        .iter()
        .for_each(|part| content.extend_from_slice(part));
    assert_eq!(object.bytes, content.len() as u64);
    Some(content.freeze())
}

/// Bytes that differ from place to place.
fn pattern(bytes: usize) -> Bytes {
    let words = (0..bytes.div_ceil(8) as u64)
        .flat_map(|word| word.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    words.take(bytes).collect()
}

pub(crate) async fn what_is_put_is_got(bench: Bench) {
    let objects = bench.backend.objects("models").await.unwrap();
    let other = bench.another().await.objects("models").await.unwrap();
    for (name, bytes) in [
        ("a", 1),
        ("jobs/digits/1.safetensors", 1 << 19),
        ("b_c-d", 5_000_003),
    ] {
        let content = pattern(bytes);
        put(&*objects, name, &content).await;
        assert_eq!(get(&*other, name).await, Some(content));
        assert_eq!(other.size(name).await.unwrap(), Some(bytes as u64));
    }
    assert_eq!(get(&*objects, "c").await, None);
    assert_eq!(objects.size("c").await.unwrap(), None);
}

pub(crate) async fn an_empty_object_is_one(bench: Bench) {
    let objects = bench.backend.objects("models").await.unwrap();
    put(&*objects, "empty", &Bytes::new()).await;
    assert_eq!(get(&*objects, "empty").await, Some(Bytes::new()));
    assert_eq!(objects.size("empty").await.unwrap(), Some(0));
}

pub(crate) async fn names_are_taken_over(bench: Bench) {
    let objects = bench.backend.objects("models").await.unwrap();
    put(&*objects, "a", &pattern(3_000_000)).await;
    let begun = objects.get("a").await.unwrap().unwrap();
    put(&*objects, "a", &bytes("new")).await;
    assert_eq!(get(&*objects, "a").await, Some(bytes("new")));
    assert_eq!(objects.list("").await.unwrap(), [("a".to_owned(), 3)]);
    // Who has begun to read the old one reads all of it, or an error.
    let read: Result<Vec<Bytes>, Error> = soon(begun.content.try_collect()).await;
    if let Ok(read) = read {
        assert_eq!(Bytes::from(read.concat()), pattern(3_000_000));
    }
}

pub(crate) async fn a_broken_put_leaves_no_trace(bench: Bench) {
    let objects = bench.backend.objects("models").await.unwrap();
    put(&*objects, "old", &bytes("old")).await;
    for name in ["old", "new"] {
        let failure = Error::NotFound {
            what: "the rest".to_owned(),
        };
        let content = vec![Ok(pattern(2_000_000)), Err(failure.clone())];
        let broken = objects.put(name, pieces(content)).await;
        assert_eq!(broken, Err(failure));
    }
    assert_eq!(get(&*objects, "old").await, Some(bytes("old")));
    assert_eq!(get(&*objects, "new").await, None);
    assert_eq!(objects.list("").await.unwrap(), [("old".to_owned(), 3)]);
}

pub(crate) async fn deleted_is_gone(bench: Bench) {
    let objects = bench.backend.objects("models").await.unwrap();
    put(&*objects, "a", &pattern(700_000)).await;
    objects.delete("a").await.unwrap();
    objects.delete("a").await.unwrap();
    assert_eq!(get(&*objects, "a").await, None);
    assert_eq!(objects.size("a").await.unwrap(), None);
    assert_eq!(objects.list("").await.unwrap(), []);
    put(&*objects, "a", &bytes("again")).await;
    assert_eq!(get(&*objects, "a").await, Some(bytes("again")));
}

pub(crate) async fn objects_are_listed(bench: Bench) {
    let objects = bench.backend.objects("models").await.unwrap();
    let other = bench.backend.objects("modules").await.unwrap();
    put(&*other, "other", &bytes("other")).await;
    for name in ["b/2", "a", "b/10", "bc", "b/1.x"] {
        put(&*objects, name, &bytes(name)).await;
    }
    let list = async |prefix: &str| {
        let list = objects.list(prefix).await.unwrap();
        let names = list.into_iter().map(|(name, bytes)| {
            assert_eq!(bytes, name.len() as u64);
            name
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(list("").await, ["a", "b/1.x", "b/10", "b/2", "bc"]);
    assert_eq!(list("b").await, ["b/1.x", "b/10", "b/2", "bc"]);
    assert_eq!(list("b/1").await, ["b/1.x", "b/10"]);
    for name in ["", "/a", "a b", "..", "a#1"] {
        let refused = objects.size(name).await;
        assert!(
            matches!(refused, Err(Error::Malformed { .. })),
            "{name}: {refused:?}"
        );
    }
}
