use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt as _;
use tempfile::TempDir;
use tributary_store::{Object, Objects, Retention, Stream, embedded};

use super::*;
use crate::{files::models::VERSIONS_KEPT, testing::name};

const LONG: Duration = Duration::from_secs(60);

/// A store that takes nothing as long as it is away: it hangs on what belongs to the job `stuck`, and fails on the rest.
#[derive(Debug)]
struct Flaky {
    objects: Arc<dyn Objects>,
    away: AtomicBool,
    back: watch::Sender<bool>,
}

impl Flaky {
    async fn check(&self, name: &str) -> Result<(), StoreError> {
        if name.starts_with("stuck/") {
            // The sender is this store's own.
            let _ = self.back.subscribe().wait_for(|back| *back).await;
        }
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Storage {
                what: name.into(),
                why: "no quorum".into(),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl Objects for Flaky {
    async fn put(
        &self,
        name: &str,
        content: Stream<Result<Bytes, StoreError>>,
    ) -> Result<u64, StoreError> {
        self.check(name).await?;
        self.objects.put(name, content).await
    }

    async fn get(&self, name: &str) -> Result<Option<Object>, StoreError> {
        self.objects.get(name).await
    }

    async fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.check(name).await?;
        self.objects.size(name).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.objects.delete(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, StoreError> {
        self.objects.list(prefix).await
    }
}

/// A node's directory and a store.
struct World {
    directory: TempDir,
    backend: Arc<dyn Backend>,
    flaky: Arc<Flaky>,
    store: Models,
}

impl World {
    async fn new() -> Self {
        let backend = embedded::memory(Retention::default()).unwrap();
        let flaky = Arc::new(Flaky {
            objects: backend.objects("models").await.unwrap(),
            away: AtomicBool::new(false),
            back: watch::Sender::new(false),
        });
        Self {
            directory: TempDir::new().unwrap(),
            backend: Arc::new(backend),
            store: Models::new(flaky.clone(), VERSIONS_KEPT),
            flaky,
        }
    }

    /// The node's process begins; whatever it was before has been killed.
    async fn node(&self) -> Spool {
        let own = embedded::open(self.directory.path(), embedded::Options::default()).unwrap();
        let own = Models::new(own.objects("models").await.unwrap(), OWN_KEPT);
        let spool = Spool::new(own, Some((self.store.clone(), self.backend.clone())));
        spool.resume().await.unwrap();
        spool
    }

    fn comes_back(&self) {
        self.flaky.away.store(false, Ordering::SeqCst);
        self.flaky.back.send_replace(true);
    }
}

fn key(job: &str, life: u64, generation: u64, version: u64) -> ModelKey {
    ModelKey {
        job: name(job),
        life,
        generation,
        version,
    }
}

/// A model of one element.
fn file(value: f32) -> Bytes {
    let json = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json);
    file.extend_from_slice(&value.to_le_bytes());
    file.into()
}

fn layout() -> ModelLayout {
    ModelLayout::from_file(&file(0.0)).unwrap().0
}

async fn save(spool: &Spool, model: &ModelKey, value: f32) {
    let parts = Box::new(std::iter::once(Ok(file(value))));
    let saved = spool.save(model, Checkpoint::Written, parts);
    saved.await.unwrap();
}

async fn begins(spool: &Spool, job: &str, life: u64) -> Option<Beginning> {
    spool.newest(&name(job), life, &layout()).await.unwrap()
}

#[test]
fn a_model_outlives_the_process_whatever_state_the_store_is_in() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let jobs = ["j", "stuck"];
    let lasting = runtime();
    let world = lasting.block_on(World::new());
    world.flaky.away.store(true, Ordering::SeqCst);
    let life = runtime();
    life.block_on(async {
        let spool = world.node().await;
        for version in 2..=20_u8 {
            for job in jobs {
                save(&spool, &key(job, 1, 1, version.into()), version.into()).await;
            }
        }
        assert!(world.store.all().await.unwrap().is_empty());
    });
    // With it go all its tasks, wherever they are.
    drop(life);
    lasting.block_on(async {
        let spool = world.node().await;
        for job in jobs {
            assert_eq!(begins(&spool, job, 1).await, Some((20, file(20.0))));
            assert_eq!(begins(&spool, job, 2).await, None, "another life");
        }
        world.comes_back();
        assert!(spool.flush(None, LONG).await);
        for job in jobs {
            let stored = world.store.newest(&name(job), 1, &layout()).await;
            assert_eq!(stored.unwrap(), Some((20, file(20.0))));
        }
    });
}

#[tokio::test]
async fn a_job_whose_model_is_not_taken_holds_up_no_other() {
    let world = World::new().await;
    let spool = world.node().await;
    save(&spool, &key("stuck", 1, 1, 2), 1.0).await;
    save(&spool, &key("j", 1, 1, 2), 2.0).await;
    assert!(spool.flush(Some(&name("j")), LONG).await);
    assert_eq!(world.store.all().await.unwrap(), [key("j", 1, 1, 2)]);
    world.comes_back();
    assert!(spool.release(&name("stuck"), LONG).await.unwrap());
    assert_eq!(begins(&spool, "stuck", 1).await, Some((2, file(1.0))));
}

#[tokio::test]
async fn what_waits_on_the_disk_is_bounded() {
    let world = World::new().await;
    let spool = world.node().await;
    for version in 2..=40 {
        save(&spool, &key("stuck", 1, 1, version), 1.0).await;
    }
    let mut done = spool.0.done.subscribe();
    let synced = |_: &u64| {
        !spool
            .0
            .waiting()
            .contains_key(&(Stage::Sync, name("stuck")))
    };
    done.wait_for(synced).await.unwrap();
    let own = spool.0.own.keys(&name("stuck")).await.unwrap();
    assert_eq!(own, [39, 40].map(|version| key("stuck", 1, 1, version)));
}

#[tokio::test]
async fn late_models_win_nothing_and_cost_nothing() {
    let world = World::new().await;
    let store = &world.store;
    let write = async |model: ModelKey, value: f32| {
        let parts = Box::new(std::iter::once(Ok(file(value))));
        store
            .write(&model, Checkpoint::Synced, parts)
            .await
            .unwrap();
        store.prune(&model).await.unwrap();
    };
    let begins = async |life| store.newest(&name("j"), life, &layout()).await.unwrap();
    for version in 2..=6 {
        write(key("j", 3, 2, version), 3.0).await;
    }
    // Of the job of that name that was deleted; of a leader that was given up.
    write(key("j", 1, 9, 50), 1.0).await;
    write(key("j", 3, 1, 6), 2.0).await;
    assert_eq!(begins(3).await, Some((6, file(3.0))));
    let kept = [2, 3, 4, 5, 6].map(|version| key("j", 3, 2, version));
    assert_eq!(store.keys(&name("j")).await.unwrap(), kept);
    // A number that a leader had given before it was given up is not given again.
    store.delete(&kept[0]).await.unwrap();
    write(key("j", 3, 1, 9), 2.0).await;
    assert_eq!(begins(3).await, Some((10, file(3.0))));
}

#[tokio::test]
async fn models_of_the_version_before_are_read() {
    let world = World::new().await;
    let content = futures_util::stream::iter([Ok(file(4.0))]).boxed();
    let former = "j/00000000000000000004.safetensors";
    world.flaky.put(former, content).await.unwrap();
    let spool = world.node().await;
    assert_eq!(begins(&spool, "j", 0).await, Some((4, file(4.0))));
    save(&spool, &key("j", 0, 1, 5), 5.0).await;
    assert!(spool.flush(None, LONG).await);
    assert_eq!(begins(&spool, "j", 0).await, Some((5, file(5.0))));
}
