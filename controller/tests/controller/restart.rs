use std::fs;

use tributary_api::Name;
use tributary_controller::{Error, State, Unused};

use crate::world::{World, job, model};

fn weights(fill: u8) -> Vec<u8> {
    let mut file = model(&[("w", 4), ("b", 2)]);
    let data = file.len() - 24;
    file[data..].fill(fill);
    file
}

async fn running() -> (World, Name) {
    let world = World::new().await;
    let [f, j] = world.example().await;
    world.apply(&[f, j]).await;
    (world, "j".parse().unwrap())
}

#[tokio::test]
async fn desired_state_survives_the_process() {
    let (world, name) = running().await;
    for version in 2..=4 {
        let file = weights(u8::try_from(version).unwrap());
        world.save(version, &file).await;
    }
    let world = world.restarted().await;
    assert_eq!(
        world.node.take_log(),
        ["deploy f@1", "start j@1 v4 with f@1"]
    );
    assert_eq!(world.node.jobs.lock().unwrap()[&name].1, weights(4));
}

#[tokio::test]
async fn the_last_five_versions_are_kept() {
    let (world, name) = running().await;
    for version in 2..=20 {
        let file = weights(u8::try_from(version).unwrap());
        world.save(version, &file).await;
    }
    assert_eq!(
        fs::read_dir(world.path().join("objects/models/j"))
            .unwrap()
            .count(),
        5
    );
    assert_eq!(world.checkpoints.load(&name, 15).await.unwrap(), None);
    assert_eq!(
        world.checkpoints.load(&name, 16).await.unwrap().unwrap(),
        weights(16)
    );
}

#[tokio::test]
async fn a_damaged_model_is_passed_over_and_its_number_is_not_given_again() {
    let (world, _) = running().await;
    world.save(2, &weights(2)).await;
    world.save(3, &weights(3)).await;
    let newest = world
        .path()
        .join(format!("objects/models/j/1.0.{:020}.safetensors", 3));
    let torn = &weights(3)[..60];
    fs::write(newest, torn).unwrap();
    let world = world.restarted().await;
    assert_eq!(world.node.take_log()[1], "start j@1 v4 with f@1");
    assert_eq!(world.node.jobs.lock().unwrap()["j"].1, weights(2));
}

#[tokio::test]
async fn what_a_killed_process_left_is_removed_at_the_second_look() {
    let (world, _) = running().await;
    let stale = world.upload("nobody refers to this").await;
    let staged = world
        .path()
        .join("objects/models/j/00000000000000000009.safetensors#1");
    fs::create_dir_all(staged.parent().unwrap()).unwrap();
    fs::write(&staged, "half a model").unwrap();
    // A job was deleted, and the process died before its models were.
    fs::create_dir_all(world.path().join("objects/models/gone")).unwrap();
    let orphan = world
        .path()
        .join(format!("objects/models/gone/{:020}.safetensors", 2));
    fs::write(&orphan, weights(1)).unwrap();

    let hex = stale.hex();
    let blob = world
        .path()
        .join(format!("objects/blobs/sha256/{}/{hex}", &hex[..2]));
    assert!(blob.exists());
    let world = world.restarted().await;
    assert!(!staged.exists() && orphan.exists() && blob.exists());
    let seen = world.controller.sweep_once(&Unused::default()).await;
    let seen = seen.unwrap();
    assert!(orphan.exists() && blob.exists());
    // Somebody is about to refer to it.
    let again = world.upload("nobody refers to this").await;
    assert_eq!(again, stale);
    let seen = world.controller.sweep_once(&seen).await.unwrap();
    assert!(!orphan.exists() && blob.exists());
    let seen = world.controller.sweep_once(&seen).await.unwrap();
    world.controller.sweep_once(&seen).await.unwrap();
    assert!(!blob.exists());
    assert_eq!(
        world.node.take_log()[1],
        "start j@1 v1 with f@1",
        "the live job's blobs must stay"
    );
}

#[tokio::test]
async fn two_processes_do_not_share_a_directory() {
    let world = World::new().await;
    let Err(Error::Locked(path)) = State::open(world.path()).await else {
        panic!("opened twice")
    };
    assert!(path.ends_with("store.redb"));
}

#[tokio::test]
async fn revisions_are_numbered_on_after_a_restart() {
    let (world, _) = running().await;
    let world = world.restarted().await;
    let other = world.upload(model(&[("w", 4), ("b", 2)])).await;
    let mut changed = job("j", "f", other);
    changed["spec"]["rounds"] = 9.into();
    let results = world.apply(&[changed]).await;
    assert_eq!(results[0].revision, 2);
}
