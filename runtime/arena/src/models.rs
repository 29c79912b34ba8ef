//! Models of the protocols by which accumulators are committed, explored to the last state.
//!
//! loom (in `slot.rs`) shows that one change of hands is right under the memory model. What it cannot
//! say is what a *crash* between any two operations leaves, and what recovery makes of it. These models
//! can: a worker may end before each of its operations, and [`explore`] follows every order in which
//! workers and agent can go on from there. Memory is sequentially consistent here; slots change hands
//! by the real transitions.

mod commit;
mod journal;

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, RandomState};

/// What happens, to which two numbers.
type What = (&'static str, [usize; 2]);
/// What can happen next, and where that leads.
type Next<S> = Vec<(What, S)>;

/// A system with all its states.
trait Model {
    type State: Hash;

    /// All that can happen next, but for crashes.
    fn work(&self, state: &Self::State) -> Next<Self::State>;

    /// The crashes that may happen next.
    fn crashes(&self, state: &Self::State) -> Next<Self::State>;

    /// What must hold always.
    fn holds(&self, state: &Self::State) -> Result<(), String>;

    /// What must hold when nothing is left to do.
    fn is_done(&self, state: &Self::State) -> Result<(), String>;
}

/// States to which a model is bounded: beyond, it is too large to be explored in a test.
const STATES_MAX: usize = 1_000_000;

/// Visits every state that can be reached; gives their number, or the shortest way to one that is
/// wrong. States are told apart by 64 bits of their hash: of a million states, two are taken for one
/// in one run of forty million.
fn explore<M: Model>(model: &M, start: M::State) -> Result<usize, String> {
    let hasher = RandomState::new();
    let mut visited = HashSet::from([hasher.hash_one(&start)]);
    // How each state was reached first: from which, and by what.
    let mut ways: Vec<(usize, What)> = vec![(0, ("start", [0; 2]))];
    let mut border = vec![(0, start)];
    while !border.is_empty() {
        let mut further = Vec::new();
        for (number, state) in border {
            let work = model.work(&state);
            let told = |wrong| format!("{wrong}{}", way(&ways, number));
            model.holds(&state).map_err(told)?;
            if work.is_empty() {
                model.is_done(&state).map_err(told)?;
            }
            for (what, next) in work.into_iter().chain(model.crashes(&state)) {
                if visited.insert(hasher.hash_one(&next)) {
                    further.push((ways.len(), next));
                    ways.push((number, what));
                }
            }
        }
        assert!(ways.len() < STATES_MAX, "the model has too many states");
        border = further;
    }
    Ok(ways.len())
}

/// What happened on the way to a state.
fn way(ways: &[(usize, What)], mut number: usize) -> String {
    let mut steps = Vec::new();
    while number != 0 {
        let (before, (what, [first, second])) = ways[number];
        steps.push(format!("  {what} ({first}, {second})"));
        number = before;
    }
    steps.reverse();
    format!("\nafter:\n{}", steps.join("\n"))
}
