//! The program's maps, and counting in them. [`layout`] says what is in each.

use core::arch::asm;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{HashMap, PerCpuArray, PerCpuHashMap, SockHash},
};
use tributary_sidecar_layout::sidecar::{self as layout, PortEnd, RouteStats, SidecarStat};

/// Both ends of every port.
#[map]
pub static SOCKETS: SockHash<u32> = SockHash::with_max_entries(2 * layout::PORTS_MAX, 0);

/// Which port a sender is.
#[map]
pub static PORTS: HashMap<u64, PortEnd> = HashMap::with_max_entries(2 * layout::PORTS_MAX, 0);

/// Which port a destination is at. Not preallocated: most nodes have few routes.
#[map]
pub static ROUTES: HashMap<u64, u32> =
    HashMap::with_max_entries(layout::ROUTES_MAX, BPF_F_NO_PREALLOC);

/// What went where. User space makes the entries, so that the program never has to.
#[map]
pub static ROUTE_STATS: PerCpuHashMap<u64, RouteStats> =
    PerCpuHashMap::with_max_entries(layout::ROUTES_MAX, BPF_F_NO_PREALLOC);

/// What else happened.
#[map]
pub static SIDECAR_STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(SidecarStat::COUNT, 0);

/// From the descriptor's time stamp to its redirect.
#[map]
pub static HOP_LATENCY: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(layout::HOP_BUCKETS + 1, 0);

/// Counts one event.
#[inline(always)]
pub fn count(stat: SidecarStat) {
    add(SIDECAR_STATS.get_ptr_mut(stat as u32), 1);
}

/// Counts a descriptor that was redirected to the port of `destination`.
#[inline(always)]
pub fn count_hop(destination: u64, bytes: u64, sent_ns: u64) {
    if let Some(stats) = ROUTE_STATS.get_ptr_mut(destination) {
        // SAFETY: the kernel gave out `stats` as a pointer to a whole value; only its address is computed here.
        let (descriptors, total) =
            unsafe { (&raw mut (*stats).descriptors, &raw mut (*stats).bytes) };
        add(Some(descriptors), 1);
        add(Some(total), bytes);
    }
    if sent_ns == 0 {
        return;
    }
    // SAFETY: the helper takes nothing and only reads a clock.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let ns = now_ns.saturating_sub(sent_ns);
    add(HOP_LATENCY.get_ptr_mut(layout::hop_bucket(ns)), 1);
    add(HOP_LATENCY.get_ptr_mut(layout::HOP_SUM), ns);
}

/// Adds to a per-CPU counter. The program cannot migrate, but a preemptible kernel may run it for another task
/// on the same CPU in the middle of an addition: so it is an atomic one. In assembly, because rustc offers no
/// atomic additions on this target.
#[inline(always)]
fn add(counter: Option<*mut u64>, amount: u64) {
    if let Some(counter) = counter {
        // SAFETY: map values are aligned to 8 bytes and live at least until the program returns (RCU).
        unsafe {
            asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) amount, options(nostack));
        }
    }
}
