//! What it costs to bring a partial from node to node: processor time for each byte, of either end alone. No test of
//! anything, so it is run by hand:
//!
//! ```text
//! cargo nextest run --workspace --run-ignored only --no-capture -E 'test(cost_of)'
//! ```
#![allow(clippy::print_stderr, reason = "whoever runs it wants to see it")]

use crate::world::{JOB, World};
use rustix::time::{ClockId, clock_gettime};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tributary_api::placement::{Directive, Duty, Member};
use tributary_tests::connection::Connection;
use tributary_tests::job::updates;
use tributary_tests::tensors::Shapes;
use tributary_tests::wait::until;

/// 4 million elements: partials of 32 MB in exact sums.
const HUGE: Shapes = &[("weights", &[4000, 1000])];
const PARTIAL_BYTES: usize = 4096 + 8 * 4_000_000;
const EXACT: &str = r#", "function": { "name": "fedavg", "config": { "accumulate": "exact" } }"#;
const REPEATS: usize = 30;
const TOKEN: &str = "Authorization: Bearer told to members only";

fn processor_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Nanoseconds for each of the bytes of `REPEATS` partials.
fn each_byte(time: Duration) -> f64 {
    time.as_nanos() as f64 / (REPEATS * PARTIAL_BYTES) as f64
}

/// What the process spends on something, without this thread.
fn of_others(work: impl FnOnce()) -> Duration {
    let time = || {
        let all = processor_time(ClockId::ProcessCPUTime);
        all - processor_time(ClockId::ThreadCPUTime)
    };
    let before = time();
    work();
    time() - before
}

#[test]
#[ignore = "a measurement"]
fn cost_of_taking_a_partial() {
    let mut world = World::without_job(2, r#"{ "expected": 1 }"#, EXACT);
    world.shapes = HUGE;
    let placement = world.placement(0, &[0, 1]);
    world.start_job(0, 1, &placement);
    let (update, door) = (&updates(HUGE, 1, 1)[0], world.host(0).address);
    world.push(0, "a", 1, update);
    // It breaks off at the last byte, so that the same partial can come again and again.
    let body = vec![7; PARTIAL_BYTES - 1];
    let name = &world.host(1).name;
    let path = format!("/v1/jobs/{JOB}/members/{name}/partial?version=1&attempt=0&contributors=1");
    let length = format!("Content-Length: {PARTIAL_BYTES}");
    for _ in 0..2 {
        let straight = of_others(|| {
            for _ in 0..REPEATS {
                let mut connection = Connection::open(door);
                connection.send_head(&path, &[TOKEN, &length]);
                connection.send(&body);
                connection.finish();
                let _ = connection.answer().expect(400);
            }
        });
        let hyper = of_others(|| {
            for _ in 0..REPEATS {
                let mut connection = Connection::open(door);
                connection.send_head(&path, &[TOKEN, "Transfer-Encoding: chunked"]);
                for piece in body.chunks(256 << 10) {
                    connection.send(format!("{:x}\r\n", piece.len()).as_bytes());
                    connection.send(piece);
                    connection.send(b"\r\n");
                }
                connection.send(b"0\r\n\r\n");
                let _ = connection.answer().expect(400);
            }
        });
        eprintln!(
            "taking a partial: {:.3} ns/byte straight into the slot, {:.3} ns/byte through hyper",
            each_byte(straight),
            each_byte(hyper)
        );
    }
}

#[test]
#[ignore = "a measurement"]
fn cost_of_handing_a_partial_over() {
    let mut world = World::without_job(1, r#"{ "expected": 1 }"#, EXACT);
    world.shapes = HUGE;
    let sink = Sink::start();
    let mut placement = world.placement(0, &[0]);
    placement.leader = "sink".parse().unwrap();
    placement.members.push(Member {
        node: "sink".parse().unwrap(),
        url: format!("http://{}", sink.address),
        duty: Duty::Serving,
    });
    world.start_job(0, 1, &placement);
    world.push(0, "a", 1, &updates(HUGE, 1, 1)[0]);
    sink.closed.store(true, Ordering::SeqCst);
    until("a partial has come", || sink.taken() >= 1);
    for _ in 0..2 {
        let own = sink.nanoseconds.load(Ordering::SeqCst);
        let (mut first, mut last) = (0, 0);
        let all = of_others(|| {
            first = sink.taken();
            until("partials have come", || {
                last = sink.taken();
                last >= first + REPEATS
            });
        });
        let own = Duration::from_nanos(sink.nanoseconds.load(Ordering::SeqCst) - own);
        let sent = (last - first) as f64 / REPEATS as f64;
        eprintln!(
            "handing a partial over: {:.3} ns/byte",
            each_byte(all.saturating_sub(own)) / sent
        );
    }
}

/// A leader that takes partials and forgets them.
#[derive(Clone)]
struct Sink {
    address: SocketAddr,
    /// The round takes no more updates.
    closed: Arc<AtomicBool>,
    taken: Arc<AtomicUsize>,
    /// Its own processor time.
    nanoseconds: Arc<AtomicU64>,
}

impl Sink {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sink = Self {
            address: listener.local_addr().unwrap(),
            closed: Arc::default(),
            taken: Arc::default(),
            nanoseconds: Arc::default(),
        };
        let served = sink.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let sink = served.clone();
                std::thread::spawn(move || sink.serve(stream.unwrap()));
            }
        });
        sink
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Serves a connection: every partial is received, and wanted again.
    fn serve(&self, mut stream: TcpStream) {
        let mut piece = vec![0; 1 << 20];
        loop {
            let before = processor_time(ClockId::ThreadCPUTime);
            let Some(head) = head(&mut stream) else {
                return;
            };
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                let length = name.eq_ignore_ascii_case("content-length");
                length.then(|| value.trim().parse::<usize>().unwrap())
            });
            let mut left = length.unwrap_or(0);
            while left > 0 {
                let most = left.min(piece.len());
                match stream.read(&mut piece[..most]) {
                    Ok(0) | Err(_) => return,
                    Ok(read) => left -= read,
                }
            }
            let known = |closed: bool| head.contains(&format!("closed={closed}"));
            // Whoever waits for something else gets it when there is any.
            while known(self.closed.load(Ordering::SeqCst)) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let directive = Directive {
                generation: 1,
                version: 1,
                attempt: 0,
                closed: self.closed.load(Ordering::SeqCst),
                taken: false,
            };
            let text = serde_json::to_string(&directive).unwrap();
            let length = text.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
            let spent = processor_time(ClockId::ThreadCPUTime) - before;
            let spent = spent.as_nanos() as u64;
            self.nanoseconds.fetch_add(spent, Ordering::SeqCst);
            if head.starts_with("PUT") {
                self.taken.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// The head of the next request.
fn head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0; 1]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}
