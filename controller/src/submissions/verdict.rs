//! What becomes of an event whose update was not taken: a decision without I/O.

use std::time::Duration;

use tributary_api::{event::Event, problem::Problem};

/// After so many attempts an event is refused for what else would be tried again: that is ten minutes of pauses. The
/// store counts them; ages would be differences between its clock and the node's.
const ATTEMPTS_MAX: u64 = 25;

/// The longest time between two attempts.
const DELAY_MAX: Duration = Duration::from_secs(30);

/// What is to become of an event.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Its update is taken.
    Done,
    /// It is tried again after this time.
    Again(Duration),
    /// It is refused for good, and this is told.
    Refused(Event),
}

/// The time after which it is tried again; `None` if it is refused for good. `attempt` counts from 1.
pub(super) fn delay(problem: &Problem, round: u64, attempt: u64) -> Option<Duration> {
    if attempt >= ATTEMPTS_MAX || !passes(problem, round) {
        return None;
    }
    let doublings =
        u32::try_from(attempt.saturating_sub(1)).map_or(5, |doublings| doublings.min(5));
    Some((Duration::from_secs(1) * 2_u32.pow(doublings)).min(DELAY_MAX))
}

/// Whether the same update may be taken later.
fn passes(problem: &Problem, round: u64) -> bool {
    match (problem.status, problem.slug()) {
        // Slots, fetches, memory, moving homes, and whoever has the file.
        (429 | 502 | 503 | 507, _) | (409, "round-closing") => true,
        // The job moves between nodes: this one had it a moment ago.
        (404, "unknown-job") => true,
        // A node that is a model behind the one that the client has trained from.
        (409, "wrong-round") => {
            let open = problem
                .extensions
                .get("round")
                .and_then(|open| open.as_u64());
            open.is_some_and(|open| open + 1 == round)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, slug: &str) -> Problem {
        Problem::new(status, slug, "T", "why")
    }

    #[test]
    fn what_passes_is_tried_again_and_nothing_else() {
        for (status, slug, again) in [
            (429, "no-slot", true),
            (429, "too-many-fetches", true),
            (502, "reference-unreachable", true),
            (503, "home-unknown", true),
            (507, "shared-memory-full", true),
            (409, "round-closing", true),
            (404, "unknown-job", true),
            (409, "wrong-round", false),
            (409, "stale-update", false),
            (409, "other-bytes", false),
            (409, "job-completed", false),
            (400, "malformed-update", false),
            (403, "reference-not-allowed", false),
            (413, "update-too-large", false),
            (422, "reference-not-found", false),
            (422, "layout-mismatch", false),
        ] {
            let delay = delay(&problem(status, slug), 3, 1);
            assert_eq!(delay, again.then(|| Duration::from_secs(1)), "{slug}");
        }
        // The open round is the one before: this node will have the model in a moment.
        for (open, again) in [(1, false), (2, true), (3, false), (4, false)] {
            let problem = problem(409, "wrong-round").with("round", open);
            assert_eq!(delay(&problem, 3, 1).is_some(), again, "{open}");
        }
    }

    #[test]
    fn pauses_grow_and_end_after_ten_minutes_of_them() {
        let full = problem(429, "no-slot");
        let delays = [1, 2, 3, 5, 6, 7].map(|attempt| delay(&full, 1, attempt));
        let seconds = [1, 2, 4, 16, 30, 30].map(|s| Some(Duration::from_secs(s)));
        assert_eq!(delays, seconds);
        let all: Duration = (1..).map_while(|attempt| delay(&full, 1, attempt)).sum();
        assert_eq!(all, Duration::from_secs(601));
        assert_eq!(delay(&full, 1, u64::MAX), None);
    }
}
