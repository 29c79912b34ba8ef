use std::time::Duration;

use tributary_store::{Backend as _, Retention, embedded};

use super::*;
use crate::testing;

const BEAT: Beat = Beat {
    every: Duration::from_secs(1),
    believed: Duration::from_secs(3600),
};

async fn fleet(beat: Beat) -> Fleet {
    let store = embedded::memory(Retention::default()).unwrap();
    Fleet::many(store.bus().await.unwrap(), beat)
}

fn report(life: u64, number: u64) -> NodeReport {
    NodeReport {
        life,
        number,
        ..testing::report("n1", Vec::new())
    }
}

fn known(fleet: &Fleet) -> (u64, u64) {
    let seen = fleet.seen();
    let report = &seen["n1"].report;
    (report.life, report.number)
}

#[tokio::test]
async fn the_newer_life_is_the_one_that_beat_later_whatever_its_clock_says() {
    let fleet = fleet(BEAT).await;
    fleet.note(report(1_000, 7), Some(40));
    // Started anew, with a clock that is ten years behind.
    fleet.note(report(5, 0), Some(41));
    assert_eq!(known(&fleet), (5, 0));
    // A beat of the life before comes late, and so does its answer.
    fleet.note(report(1_000, 8), Some(40));
    fleet.note(report(1_000, 9), None);
    assert_eq!(known(&fleet), (5, 0));
    // Within a life numbers count, however reports come.
    fleet.note(report(5, 2), None);
    fleet.note(report(5, 1), Some(42));
    assert_eq!(known(&fleet), (5, 2));
}

#[tokio::test]
async fn an_answer_does_not_tell_which_life_is_newer() {
    let fleet = fleet(BEAT).await;
    fleet.note(report(1, 7), Some(40));
    fleet.note(report(2, 0), None);
    assert_eq!(known(&fleet), (1, 7));
}

#[tokio::test]
async fn a_bucket_that_counts_anew_hides_no_node() {
    let fleet = fleet(Beat {
        believed: Duration::ZERO,
        ..BEAT
    })
    .await;
    fleet.note(report(1, 7), Some(4_000));
    fleet.note(report(1, 8), Some(1));
    assert_eq!(known(&fleet), (1, 8));
    fleet.note(report(1, 9), Some(4_000));
    // The one that is known is silent.
    fleet.note(report(2, 0), Some(1));
    assert_eq!(known(&fleet), (2, 0));
}
