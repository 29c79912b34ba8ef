//! What is gone leaves nothing behind, however much there ever was.

use async_nats::jetstream;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tributary_store::{Backend, Objects, Orphans};
use tributary_tests::nats::{self, NatsServer, stream::held};

use crate::bench::{connect, soon};

const STREAM: &str = "OBJ_tributary_models";

async fn put(objects: &dyn Objects, name: &str) {
    let content = stream::iter([Ok(Bytes::from_static(b"a model"))]).boxed();
    objects.put(name, content).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_objects_leave_no_message() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start();
    let objects = connect(&server).await.objects("models").await.unwrap();
    for version in 0..100 {
        put(&*objects, &format!("j/{version}")).await;
        objects.delete(&format!("j/{version}")).await.unwrap();
    }
    assert_eq!(held(server.port(), STREAM), Some(0));
}

/// Consumers stay for a while after their use, and there are only so many.
#[tokio::test(flavor = "multi_thread")]
async fn small_things_are_read_however_often() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start();
    let objects = connect(&server).await.objects("models").await.unwrap();
    put(&*objects, "j/1").await;
    for _ in 0..20 {
        let object = objects.get("j/1").await.unwrap().unwrap();
        let read: Vec<Bytes> = soon(object.content.try_collect()).await.unwrap();
        assert_eq!(read.concat(), b"a model");
    }
    let client = async_nats::connect(server.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream(STREAM).await.unwrap();
    assert_eq!(stream.cached_info().state.consumer_count, 0);
}

/// As earlier versions of the program deleted, and as other clients of NATS do.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_deleted_and_killed_writers_left_is_removed() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start();
    let objects = connect(&server).await.objects("models").await.unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let context = jetstream::new(client);
    let theirs = context.get_object_store("tributary_models").await.unwrap();
    for name in ["j/1", "j/2"] {
        put(&*objects, name).await;
    }
    theirs.delete("j/1").await.unwrap();
    let write = async |writer: &str| {
        let subject = format!("$O.tributary_models.C.{writer}");
        let sent = context.publish(subject, "a piece".into()).await.unwrap();
        sent.await.unwrap();
    };
    write("killed").await;
    write("slow").await;
    // The object, its piece, what is left of the deleted one, and the writers' pieces.
    assert_eq!(held(server.port(), STREAM), Some(5));
    let seen = soon(objects.tidy(Orphans::default())).await.unwrap();
    assert_eq!(held(server.port(), STREAM), Some(4));
    write("slow").await;
    let seen = soon(objects.tidy(seen)).await.unwrap();
    assert_eq!(held(server.port(), STREAM), Some(4));
    let seen = soon(objects.tidy(seen)).await.unwrap();
    assert_eq!(held(server.port(), STREAM), Some(2));
    assert_eq!(seen, Orphans::default());
    assert_eq!(objects.size("j/2").await.unwrap(), Some(7));
}
