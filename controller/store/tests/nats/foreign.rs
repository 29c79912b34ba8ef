//! What other programs have made.

use std::time::Duration;

use async_nats::jetstream::{self, object_store};
use futures_util::TryStreamExt;
use tributary_store::Backend;
use tributary_tests::nats::{self, NatsServer};

use crate::bench::{connect, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_others_made_is_used_as_it_is() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start();
    let client = async_nats::connect(server.url()).await.unwrap();
    let config = object_store::Config {
        bucket: "tributary_updates".to_owned(),
        max_age: Duration::from_secs(3600),
        ..object_store::Config::default()
    };
    let theirs = jetstream::new(client).create_object_store(config).await;
    let theirs = theirs.unwrap();
    let nats = connect(&server).await;
    let ours = nats.objects("updates").await.unwrap();
    // Many pieces, of their size and not ours.
    let content: Vec<u8> = (0..1_000_003_u32).map(|number| number as u8).collect();
    theirs.put("c/1", &mut content.as_slice()).await.unwrap();
    let object = ours.get("c/1").await.unwrap().unwrap();
    assert_eq!(object.bytes, content.len() as u64);
    let pieces: Vec<bytes::Bytes> = soon(object.content.try_collect()).await.unwrap();
    assert!(pieces.concat() == content);
}
