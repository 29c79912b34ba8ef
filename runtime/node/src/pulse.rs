//! Ends the process when the agent does not answer any more. Whatever else of the node still lives would keep the cluster
//! waiting for it: its beats are sent by other threads.

use crate::agent::Command;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// How often the agent is asked, and how long an answer is waited for at a time. One that a sleeping machine has cut
/// short says nothing.
const BEAT: Duration = Duration::from_secs(10);
/// So many times without an answer, and the agent hangs.
const MISSES: u32 = 6;

/// Asks the agent from a thread of its own, as long as it lives; calls `hangs` once it does not answer.
pub(crate) fn watch(agent: UnboundedSender<Command>, hangs: fn(Duration)) -> io::Result<()> {
    let ask = move |answer| agent.send(Command::Answer(answer)).is_ok();
    let watch = move || beat(ask, BEAT, hangs);
    std::thread::Builder::new()
        .name("pulse".into())
        .spawn(watch)
        .map(drop)
}

fn beat(ask: impl Fn(SyncSender<()>) -> bool, beat: Duration, hangs: impl Fn(Duration)) {
    loop {
        let (answer, answered) = sync_channel(1);
        if !ask(answer) {
            return;
        }
        let mut misses = 0;
        while misses < MISSES {
            match answered.recv_timeout(beat) {
                Ok(()) => break,
                Err(RecvTimeoutError::Timeout) => misses += 1,
                // The agent has ended with the question unanswered.
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        if misses == MISSES {
            return hangs(beat * MISSES);
        }
        std::thread::sleep(beat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    #[test]
    fn an_agent_that_does_not_answer_is_told_and_one_that_has_ended_is_not() {
        let (asked, told, kept) = (Cell::new(0), Cell::new(0), RefCell::new(Vec::new()));
        let hangs = |_| told.set(told.get() + 1);
        let silent_from = |third: bool| {
            let (asked, kept) = (&asked, &kept);
            move |answer: SyncSender<()>| {
                asked.set(asked.get() + 1);
                match asked.get() {
                    1 | 2 => drop(answer.send(())),
                    _ if third => kept.borrow_mut().push(answer),
                    _ => return false,
                }
                true
            }
        };
        beat(silent_from(false), Duration::from_millis(1), hangs);
        assert_eq!((asked.replace(0), told.get()), (3, 0));
        beat(silent_from(true), Duration::from_millis(1), hangs);
        assert_eq!((asked.get(), told.get()), (3, 1));
    }
}
