//! The sidecar: redirects each descriptor that is sent on a port to the port that its destination is at.
//!
//! It runs inside `sendmsg` on every socket in `SOCKETS`. A port is a loopback connection: the port's end is a
//! worker's (or the gateway's), the other the agent's. What is sent on a port's end is cut into descriptors,
//! and each is put on the receive queue of the route's port; all that has no route goes to the receive queue of
//! the agent's end. What the agent sends goes to the receive queue of the port's end. So every descriptor
//! arrives whole, by one queue, in order, and TCP itself carries nothing but the end of the connection. What the
//! agent sends to a port that is gone comes back to it.
//!
//! Four properties of `sk_msg` shape the code (all measured on Linux 6.18; the router's tests keep them so):
//!
//! - **A redirect sticks to the message.** The kernel remembers the target in the message, not in the verdict: in
//!   one write of two descriptors, a plain `SK_PASS` for the second would follow the first to its port. Hence
//!   nothing is "passed" here that can be redirected: a miss is a redirect to the agent's end.
//! - **Corked bytes take what follows with them.** After `bpf_msg_cork_bytes`, a redirect of the first
//!   descriptor frees the rest of the message, without an error to anybody. Hence no corking: the pieces of a
//!   descriptor that is not written at once go to the agent, who puts them together and routes it.
//! - **Only the first fragment can be read.** A write of several descriptors may cross a page within any of them:
//!   those are pulled together first.
//! - **`SK_DROP` is for ever**: the socket refuses all later writes. It is never returned.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod maps;

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, sk_action::SK_PASS},
    helpers::{bpf_msg_apply_bytes, bpf_msg_pull_data},
    macros::sk_msg,
    programs::SkMsgContext,
};
use maps::{PORTS, ROUTES, SOCKETS, count, count_hop};
use tributary_sidecar_layout::{
    Descriptor, Level,
    sidecar::{AGENT_END, PortEnd, SidecarStat, UNDELIVERED, connection_key},
};

const DESCRIPTOR_BYTES: u32 = Descriptor::BYTES as u32;

/// The program. Attached to `SOCKETS`.
#[sk_msg]
pub fn tributary_route(ctx: SkMsgContext) -> u32 {
    // SAFETY: the kernel calls the program with a valid context. Both loads are context accesses that the
    // verifier rewrites. `local_port` is in host order, `remote_port` in network order.
    let (local, remote) = unsafe { ((*ctx.msg).local_port, (*ctx.msg).remote_port) };
    let key = connection_key(local as u16, u32::from_be(remote) as u16);
    let Some(end) = PORTS.get_ptr_mut(key) else {
        return SK_PASS;
    };
    // SAFETY: `end` points to a whole value that user space does not remove while the connection lives; the
    // program runs under the socket's lock, so nobody else writes `split_bytes`.
    let end = unsafe { &mut *end };
    if end.own & AGENT_END == 0 {
        from_port(&ctx, end)
    } else {
        from_agent(&ctx, end)
    }
}

/// The agent sends to the port: nothing to look up. If the port is gone, the descriptor goes back, marked.
#[inline(always)]
fn from_agent(ctx: &SkMsgContext, end: &PortEnd) -> u32 {
    apply_bytes(ctx, ctx.size());
    if redirect(ctx, end.opposite, BPF_F_INGRESS) {
        count(SidecarStat::Delivered);
    } else {
        mark_undelivered(ctx);
        redirect(ctx, end.own, BPF_F_INGRESS);
    }
    SK_PASS
}

/// Sets [`UNDELIVERED`] in the message's first descriptor. It is the kernel's copy; the sender does not see it.
#[inline(always)]
fn mark_undelivered(ctx: &SkMsgContext) {
    const KIND: usize = core::mem::offset_of!(Descriptor, kind);
    if pull(ctx) {
        let kind = (ctx.data() + KIND) as *mut u32;
        // SAFETY: a whole descriptor is there, as `pull` says; it may lie at any alignment.
        unsafe { kind.write_unaligned(kind.read_unaligned() | UNDELIVERED) };
    }
}

/// The port sends: its first descriptor is routed, the kernel comes again for the next.
#[inline(always)]
fn from_port(ctx: &SkMsgContext, end: &mut PortEnd) -> u32 {
    let size = ctx.size();
    if end.split_bytes != 0 || size < DESCRIPTOR_BYTES {
        return piece(ctx, end, size);
    }
    apply_bytes(ctx, DESCRIPTOR_BYTES);
    let Some(head) = read(ctx) else {
        // No memory to pull the descriptor together: the agent can route it as well.
        count(SidecarStat::Misses);
        return to_opposite(ctx, end);
    };
    if !head.well_formed {
        count(SidecarStat::Malformed);
        return to_opposite(ctx, end);
    }
    if head.level == Level::Agent as u8 {
        count(SidecarStat::Agent);
        return to_opposite(ctx, end);
    }
    if let Some(port) = route(head.destination)
        && redirect(ctx, port, BPF_F_INGRESS)
    {
        count_hop(head.destination, u64::from(DESCRIPTOR_BYTES), head.sent_ns);
        return SK_PASS;
    }
    count(SidecarStat::Misses);
    to_opposite(ctx, end)
}

/// A piece of a descriptor: to the agent with it, up to where the next descriptor begins.
#[inline(always)]
fn piece(ctx: &SkMsgContext, end: &mut PortEnd, size: u32) -> u32 {
    let missing = DESCRIPTOR_BYTES - end.split_bytes;
    let length = if size < missing { size } else { missing };
    if end.split_bytes == 0 {
        count(SidecarStat::Split);
    }
    end.split_bytes = (end.split_bytes + length) % DESCRIPTOR_BYTES;
    apply_bytes(ctx, length);
    to_opposite(ctx, end)
}

/// The part of a descriptor that decides.
struct Head {
    destination: u64,
    sent_ns: u64,
    level: u8,
    well_formed: bool,
}

/// Reads the first descriptor of the message.
#[inline(always)]
fn read(ctx: &SkMsgContext) -> Option<Head> {
    if !pull(ctx) {
        return None;
    }
    // SAFETY: a whole descriptor is there, as `pull` says; it may lie at any alignment.
    let descriptor = unsafe { (ctx.data() as *const Descriptor).read_unaligned() };
    Some(Head {
        destination: descriptor.destination,
        sent_ns: descriptor.sent_ns,
        level: (descriptor.destination >> 24) as u8,
        well_formed: descriptor.is_well_formed(),
    })
}

/// Makes sure that the message's first descriptor can be read as one piece. Inlined, because the verifier wants
/// to see the comparison where the data are read.
#[inline(always)]
fn pull(ctx: &SkMsgContext) -> bool {
    if ctx.data() + Descriptor::BYTES <= ctx.data_end() {
        return true;
    }
    // SAFETY: the context is valid; the helper checks the range.
    let pulled = unsafe { bpf_msg_pull_data(ctx.msg, 0, DESCRIPTOR_BYTES, 0) };
    pulled == 0 && ctx.data() + Descriptor::BYTES <= ctx.data_end()
}

/// The port of a destination.
///
/// The kernel hands a removed entry's memory to the next entry at once, so that a value read through a pointer
/// may belong to another destination by then. Two lookups that agree rule that out: the second began after the
/// first value had been read.
#[inline(always)]
fn route(destination: u64) -> Option<u32> {
    let first = lookup(destination)?;
    let second = lookup(destination)?;
    (first == second).then_some(second)
}

#[inline(always)]
fn lookup(destination: u64) -> Option<u32> {
    let port = ROUTES.get_ptr(destination)?;
    // SAFETY: the pointer is to a whole, aligned value, which stays readable until the program returns (RCU).
    // Volatile, because the two lookups of `route` must both be made.
    Some(unsafe { port.read_volatile() })
}

/// To the other end of the sender's own connection.
#[inline(always)]
fn to_opposite(ctx: &SkMsgContext, end: &PortEnd) -> u32 {
    if !redirect(ctx, end.opposite, BPF_F_INGRESS) {
        // That end is gone. Over TCP then, which says so to the sender; again by a redirect, to itself and
        // outwards, because a plain pass would follow an earlier descriptor's redirect.
        redirect(ctx, end.own, 0);
    }
    SK_PASS
}

/// Sets the target of what `apply_bytes` covers; `false` if there is no such socket.
#[inline(always)]
fn redirect(ctx: &SkMsgContext, socket: u32, flags: u32) -> bool {
    SOCKETS.redirect_msg(ctx, socket, u64::from(flags)) == i64::from(SK_PASS)
}

/// Restricts the verdict to the next `bytes` bytes.
#[inline(always)]
fn apply_bytes(ctx: &SkMsgContext, bytes: u32) {
    // SAFETY: the context is valid. The helper cannot fail.
    unsafe { bpf_msg_apply_bytes(ctx.msg, bytes) };
}

/// Never called: nothing here can panic.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// sk_msg programs need no GPL-only helper, but the kernel wants to know.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
