//! One suite for all stores. `TRIBUTARY_REQUIRE_NATS=1` makes it a failure that there is no `nats-server`; without it,
//! NATS's part says that it was not run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy.toml allows them in tests, but does not take a case's helpers for tests"
)]

#[path = "conformance/bench.rs"]
mod bench;
#[path = "conformance/events.rs"]
mod events;
#[path = "conformance/keys.rs"]
mod keys;
#[path = "conformance/leading.rs"]
mod leading;
#[path = "conformance/model.rs"]
mod model;
#[path = "conformance/objects.rs"]
mod objects;
#[path = "conformance/requests.rs"]
mod requests;
#[path = "conformance/watching.rs"]
mod watching;
#[path = "conformance/work.rs"]
mod work;

/// Runs each case on each store.
macro_rules! conformance {
    ($($file:ident: $($case:ident),+;)+) => {
        mod embedded {
            $($(#[test] fn $case() { crate::bench::embedded(crate::$file::$case); })+)+
        }
        mod memory {
            $($(#[test] fn $case() { crate::bench::memory(crate::$file::$case); })+)+
        }
        mod nats {
            $($(#[test] fn $case() { crate::bench::nats(crate::$file::$case); })+)+
        }
    };
}

conformance! {
    keys:
        what_is_written_is_read,
        what_exists_is_not_created,
        what_was_deleted_is_created_anew,
        an_update_needs_the_revision,
        a_deletion_may_need_the_revision,
        deleting_nothing_is_no_error,
        revisions_only_grow,
        lists_are_sorted_and_begin_with_their_prefix,
        buckets_are_apart,
        bad_names_are_refused,
        what_is_too_large_is_refused,
        a_lifetime_ends,
        one_of_many_creates;
    model:
        any_sequence_does_what_a_map_would;
    watching:
        first_what_is_there_then_what_changes,
        only_keys_that_begin_so,
        expiry_is_told_as_deletion,
        a_new_life_is_told,
        a_slow_watcher_sees_the_newest,
        keys_that_appear_meanwhile_are_told_once,
        watchers_agree_with_the_list;
    events:
        subscribers_hear_what_comes_after,
        an_id_counts_once,
        filters_choose,
        consumers_read_what_was_published_before,
        acknowledged_is_remembered,
        each_name_gets_everything,
        bad_subjects_are_refused,
        messages_that_are_too_large_are_refused;
    work:
        work_is_done_once,
        several_share_the_work,
        refused_work_comes_again,
        forgotten_work_comes_again,
        work_that_goes_on_does_not_come_again,
        work_has_one_name,
        work_waits_for_who_does_it;
    requests:
        answers_arrive,
        nobody_serves,
        nobody_answers,
        several_serve,
        who_has_gone_serves_no_more;
    objects:
        what_is_put_is_got,
        an_empty_object_is_one,
        names_are_taken_over,
        a_broken_put_leaves_no_trace,
        deleted_is_gone,
        objects_are_listed;
    leading:
        one_leads,
        who_resigns_is_followed_at_once,
        who_dies_is_followed,
        terms_grow_and_fence,
        who_lost_the_lease_knows,
        what_is_left_of_oneself_leads_nobody;
}
