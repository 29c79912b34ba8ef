//! One suite for both routers. `TRIBUTARY_REQUIRE_EBPF=1` makes it a failure that the sidecar cannot be loaded;
//! without it, the sidecar's half says why it was not run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "clippy.toml allows them in tests, but does not take a case's helpers for tests"
)]

#[path = "conformance/bench.rs"]
mod bench;
#[path = "conformance/counting.rs"]
mod counting;
#[path = "conformance/delivery.rs"]
mod delivery;
#[path = "conformance/ending.rs"]
mod ending;
#[path = "conformance/load.rs"]
mod load;

/// Runs each case on each router.
macro_rules! conformance {
    ($($file:ident: $($case:ident),+;)+) => {
        mod userspace {
            $($(#[test] fn $case() {
                crate::bench::run(tributary_router::Choice::Userspace, crate::$file::$case);
            })+)+
        }
        mod ebpf {
            $($(#[test] fn $case() {
                crate::bench::run(tributary_router::Choice::Ebpf, crate::$file::$case);
            })+)+
        }
    };
}

conformance! {
    delivery:
        descriptors_arrive_intact_and_in_order,
        each_descriptor_of_one_write_is_routed_alone,
        one_write_of_thousands_loses_nothing,
        a_port_sends_to_itself,
        misses_reach_the_agent_who_activates_and_delivers,
        doorbells_reach_the_agent,
        what_is_no_descriptor_is_dropped_and_counted,
        a_descriptor_in_two_pieces_arrives,
        any_pieces_arrive,
        another_process_may_own_a_port,
        what_cannot_be_routed_is_refused;
    ending:
        a_dead_owners_port_is_closed_and_its_routes_miss,
        the_last_words_of_a_dead_owner_arrive_before_closed,
        a_closed_port_reads_what_is_queued_then_the_end,
        what_a_closed_port_still_sends_is_routed,
        a_route_set_anew_leaves_the_dead_port,
        ports_are_numbered_anew,
        a_router_that_is_dropped_ends_its_ports;
    load:
        routes_change_under_load,
        targets_die_under_load,
        many_ports_talk_to_each_other,
        delivered_and_routed_share_a_queue,
        a_port_that_does_not_read_stops_nobody,
        threads_share_a_port;
    counting:
        everything_is_counted,
        counts_survive_their_routes,
        latency_is_measured_from_the_time_stamp;
}
