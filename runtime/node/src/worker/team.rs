//! The threads of a worker that call one function side by side, each on its own range of coordinates.
//!
//! Every thread has its own instance of the function. What a call computes for a coordinate depends on nothing
//! else, so the ranges change no bit of the result, and no thread waits for another before the end.

use super::job::AttachError;
use crate::protocol::Attach;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tributary_arena::Arena;
use tributary_wasm::{
    CallError, Description, Function, Instance, Limits, ModelRange, Operands, RANGE_ELEMENTS,
    Window, ranges,
};

/// Which function of a module is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Fold,
    Merge,
    Finish,
}

impl Call {
    pub(super) fn on(
        self,
        instance: &mut Instance,
        operands: &Operands<'_>,
    ) -> Result<(), CallError> {
        match self {
            Self::Fold => instance.fold(operands),
            Self::Merge => instance.merge(operands),
            Self::Finish => instance.finish(operands),
        }
    }
}

/// One thread's share.
#[derive(Debug)]
pub(super) struct Member {
    /// Its number, from 0.
    pub lane: u32,
    /// The coordinates it works on.
    pub range: ModelRange,
    pub instance: Instance,
}

impl Member {
    /// The member's range in pieces of at most `most` elements, and of what the instance can map at a time.
    pub(super) fn pieces(&self, most: u32) -> impl Iterator<Item = ModelRange> + use<> {
        let first = self.range.first_element;
        let most = most.min(self.instance.range_elements_max());
        ranges(u64::from(self.range.elements), most).map(move |piece| ModelRange {
            first_element: first + piece.first_element,
            ..piece
        })
    }
}

#[derive(Debug)]
pub(super) struct Team {
    members: Vec<Member>,
}

impl Team {
    /// One instance for each thread that the plan gives the job.
    pub(super) fn new(
        function: &Function,
        attach: &Attach,
        arena: &Arc<Arena>,
    ) -> Result<Self, AttachError> {
        let shares = shares(u64::from(attach.elements), attach.threads);
        let members = (0..).zip(shares).map(|(lane, range)| {
            Ok(Member {
                lane,
                range,
                instance: instantiate(function, attach, arena)?,
            })
        });
        Ok(Self {
            members: members.collect::<Result<_, AttachError>>()?,
        })
    }

    pub(super) fn description(&self) -> Description {
        self.members[0].instance.description()
    }

    /// Makes one call over the whole model.
    ///
    /// # Errors
    /// The first that a thread met; the output is worthless then.
    pub(super) fn call(&mut self, call: Call, operands: &Operands<'_>) -> Result<(), CallError> {
        self.side_by_side(|member| {
            member.pieces(u32::MAX).try_for_each(|piece| {
                let part = Operands {
                    first_element: piece.first_element,
                    elements: piece.elements,
                    ..*operands
                };
                call.on(&mut member.instance, &part)
            })
        })
    }

    /// Runs `work` for every member, on a thread each.
    pub(super) fn side_by_side(
        &mut self,
        work: impl Fn(&mut Member) -> Result<(), CallError> + Sync,
    ) -> Result<(), CallError> {
        let work = &work;
        // There is one at least: `shares` gives no empty list.
        let (own, others) = self.members.split_at_mut(1);
        thread::scope(|scope| {
            let threads: Vec<_> = others
                .iter_mut()
                .map(|member| scope.spawn(move || work(member)))
                .collect();
            let mut result = work(&mut own[0]);
            for thread in threads {
                let joined = thread.join();
                // A panic of one thread is one of the worker, as it would be without threads.
                let other = joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result = result.and(other);
            }
            result
        })
    }
}

/// Cuts a model into ranges of about the same size. At least one, at most `threads`.
fn shares(elements: u64, threads: u32) -> Vec<ModelRange> {
    let each = elements.div_ceil(u64::from(threads.max(1)));
    let whole = each.next_multiple_of(u64::from(RANGE_ELEMENTS));
    ranges(elements, u32::try_from(whole).unwrap_or(u32::MAX)).collect()
}

fn instantiate(
    function: &Function,
    attach: &Attach,
    arena: &Arc<Arena>,
) -> Result<Instance, AttachError> {
    let geometry = arena.geometry();
    let window = Window {
        fd: arena.descriptor()?,
        offset: geometry.data_offset(),
        len: geometry.data_bytes(),
    };
    let limits = Limits {
        memory_bytes: attach.memory_bytes,
        deadline: Duration::from_millis(attach.deadline_ms),
    };
    function
        .instantiate(limits, attach.config.as_bytes(), window)
        .map_err(|source| AttachError::Function {
            function: attach.function.clone(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every coordinate has one thread.
        #[test]
        fn shares_make_up_the_model(elements in 1u64..=u64::from(u32::MAX), threads in 1u32..65) {
            let shares = shares(elements, threads);
            prop_assert!(!shares.is_empty() && shares.len() <= threads as usize);
            let mut next = 0;
            for share in &shares {
                prop_assert_eq!(share.first_element, next);
                prop_assert_eq!(share.first_element % u64::from(RANGE_ELEMENTS), 0);
                next += u64::from(share.elements);
            }
            prop_assert_eq!(next, elements);
        }
    }
}
