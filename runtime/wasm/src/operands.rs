//! From slots to addresses: what a call may touch, checked before it is made.

use crate::abi::{CallRecord, Description, InputRecord, PAGE_BYTES};
use crate::error::Export;
use crate::instance::{Extent, Operands};
use std::ops::Range;

/// Where the slots lie in the linear memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) slots_address: u64,
    pub(crate) slots_bytes: u64,
    pub(crate) slot_stride: u64,
}

/// A call that may be made.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) record: CallRecord,
    pub(crate) inputs: Vec<InputRecord>,
    /// The extent of the slots that the call may write, in whole pages.
    pub(crate) writable: Range<u64>,
}

const ELEMENT_BYTES: u64 = 4;

impl Geometry {
    /// Checks a call's operands and turns them into addresses; an error says what is wrong.
    pub(crate) fn plan(
        &self,
        export: Export,
        description: &Description,
        operands: &Operands<'_>,
    ) -> Result<Plan, String> {
        check_shape(export, description, operands)?;
        let elements = u64::from(operands.elements);
        let model_bytes = elements * ELEMENT_BYTES;
        let partial_bytes = elements * u64::from(description.partial_bytes_per_element);
        let (output_bytes, input_bytes) = match export {
            Export::Finish => (model_bytes, 0),
            Export::Merge => (partial_bytes, partial_bytes),
            _ => (partial_bytes, model_bytes),
        };
        let output = self.slot("the output", operands.output, output_bytes)?;
        let mut record = CallRecord {
            elements: operands.elements,
            output: vector(output),
            round: operands.round,
            ..CallRecord::default()
        };
        if export != Export::Finish {
            record.output_scalars = output;
        }
        if let Some(previous) = operands.previous {
            let slot = self.slot("the previous partial", previous, partial_bytes)?;
            record.previous = vector(slot);
            record.previous_scalars = slot;
        }
        if let Some(model) = operands.model {
            record.model = vector(self.slot("the model", model, model_bytes)?);
        }
        let inputs = operands
            .inputs
            .iter()
            .enumerate()
            .map(|(index, input)| {
                let slot = self.slot(&format!("input {index}"), input.slot, input_bytes)?;
                Ok(InputRecord {
                    vector: vector(slot),
                    scalars: if export == Export::Merge { slot } else { 0 },
                    weight: input.weight,
                    contributors: input.contributors,
                })
            })
            .collect::<Result<Vec<_>, String>>()?;
        let start = operands.output.offset;
        let end = start + PAGE_BYTES + output_bytes.next_multiple_of(PAGE_BYTES);
        let writable = match export {
            // A model has no scalars.
            Export::Finish => start + PAGE_BYTES..end,
            _ => start..end,
        };
        Ok(Plan {
            record,
            inputs,
            writable,
        })
    }

    /// The address of a slot that holds a vector of `bytes`.
    fn slot(&self, what: &str, extent: Extent, bytes: u64) -> Result<u32, String> {
        let offset = extent.offset;
        if offset >= self.slots_bytes || !offset.is_multiple_of(self.slot_stride) {
            return Err(format!(
                "{what} begins at byte {offset} of the window, which is not one of its {} slots of {} \
                 bytes",
                self.slots_bytes / self.slot_stride,
                self.slot_stride
            ));
        }
        if PAGE_BYTES + bytes > self.slot_stride {
            return Err(format!(
                "{what} is a page of scalars and a vector of {bytes} bytes, and its slot is {} bytes",
                self.slot_stride
            ));
        }
        // The window lies within 4 GiB: `Layout::plan` has seen to it.
        u32::try_from(self.slots_address + offset).map_err(|_| format!("{what} is beyond 4 GiB"))
    }

    /// What lies at `address`, in the words of a call.
    pub(crate) fn place(&self, address: u64, operands: &Operands<'_>) -> String {
        let Some(offset) = address.checked_sub(self.slots_address) else {
            return "the call page".into();
        };
        if offset >= self.slots_bytes {
            return "the slack after the last slot".into();
        }
        let slot = Extent {
            offset: offset - offset % self.slot_stride,
        };
        let at = offset - slot.offset;
        if slot == operands.output {
            return format!("byte {at} of the output's slot, beyond what it declared");
        }
        if Some(slot) == operands.previous {
            return format!("byte {at} of the previous partial's slot");
        }
        if Some(slot) == operands.model {
            return format!("byte {at} of the model's slot");
        }
        let input = operands.inputs.iter().position(|input| input.slot == slot);
        match input {
            Some(index) => format!("byte {at} of the slot of input {index}"),
            None => format!("byte {at} of a slot that the call does not name"),
        }
    }
}

fn vector(slot: u32) -> u32 {
    slot + PAGE_BYTES as u32
}

fn check_shape(
    export: Export,
    description: &Description,
    operands: &Operands<'_>,
) -> Result<(), String> {
    let inputs = operands.inputs.len();
    if operands.elements == 0 {
        return Err("it has no elements".into());
    }
    match export {
        Export::Finish if inputs > 0 => return Err(format!("it takes no inputs, not {inputs}")),
        Export::Finish if operands.previous.is_none() => {
            return Err("it has no partial to finish".into());
        }
        Export::Fold | Export::Merge
            if !(1..=description.max_inputs as usize).contains(&inputs) =>
        {
            return Err(format!(
                "it has {inputs} inputs; this function takes 1 to {}",
                description.max_inputs
            ));
        }
        _ => {}
    }
    let read = operands.inputs.iter().map(|input| input.slot);
    let mut read = read.chain(operands.previous).chain(operands.model);
    if read.any(|slot| slot == operands.output) {
        return Err(format!(
            "its output, the slot at byte {}, is also read",
            operands.output.offset
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Algebra;
    use crate::instance::Input;

    const GEOMETRY: Geometry = Geometry {
        slots_address: 69_632,
        slots_bytes: 16_384 * 8,
        slot_stride: 16_384,
    };
    const DESCRIPTION: Description = Description {
        partial_bytes_per_element: 8,
        scalar_bytes: 8,
        max_inputs: 2,
        algebra: Algebra::Monoid,
    };

    fn slot(index: u64) -> Extent {
        Extent {
            offset: index * 16_384,
        }
    }

    fn input(index: u64) -> Input {
        Input {
            slot: slot(index),
            weight: 1.0,
            contributors: 1,
        }
    }

    fn operands(inputs: &[Input]) -> Operands<'_> {
        Operands {
            round: 7,
            elements: 1000,
            previous: None,
            output: slot(0),
            model: None,
            inputs,
        }
    }

    fn refusal(export: Export, operands: &Operands<'_>) -> String {
        GEOMETRY.plan(export, &DESCRIPTION, operands).unwrap_err()
    }

    #[test]
    fn a_fold_writes_a_partial_and_its_scalars() {
        let inputs = [input(1), input(2)];
        let plan = GEOMETRY
            .plan(Export::Fold, &DESCRIPTION, &operands(&inputs))
            .unwrap();
        assert_eq!(plan.writable, 0..4096 + 8192);
        assert_eq!(plan.record.output, 69_632 + 4096);
        assert_eq!(plan.record.output_scalars, 69_632);
        assert_eq!(plan.record.previous, 0);
        assert_eq!(plan.inputs[1].vector, 69_632 + 2 * 16_384 + 4096);
        assert_eq!(plan.inputs[1].scalars, 0);
    }

    #[test]
    fn a_finish_writes_a_model_and_no_scalars() {
        let mut finish = operands(&[]);
        finish.previous = Some(slot(1));
        finish.model = Some(slot(2));
        let plan = GEOMETRY
            .plan(Export::Finish, &DESCRIPTION, &finish)
            .unwrap();
        assert_eq!(plan.writable, 4096..8192);
        assert_eq!(plan.record.output_scalars, 0);
        assert_eq!(plan.record.model, 69_632 + 2 * 16_384 + 4096);
    }

    #[test]
    fn operands_that_cannot_be_right_are_refused() {
        let (one, three) = ([input(1)], [input(1), input(2), input(3)]);
        assert!(refusal(Export::Fold, &operands(&[])).contains("0 inputs"));
        assert!(refusal(Export::Merge, &operands(&three)).contains("1 to 2"));
        assert!(refusal(Export::Finish, &operands(&one)).contains("no inputs"));
        assert!(refusal(Export::Finish, &operands(&[])).contains("no partial"));
        assert!(refusal(Export::Fold, &operands(&[input(0)])).contains("also read"));
        let mut changed = operands(&one);
        changed.previous = Some(slot(0));
        assert!(refusal(Export::Fold, &changed).contains("also read"));
        let mut changed = operands(&one);
        changed.elements = 0;
        assert!(refusal(Export::Fold, &changed).contains("no elements"));
        let mut changed = operands(&one);
        changed.elements = 1537;
        assert!(refusal(Export::Fold, &changed).contains("12296 bytes"));
        changed.elements = u32::MAX;
        assert!(refusal(Export::Fold, &changed).contains("34359738360 bytes"));
        assert!(refusal(Export::Fold, &operands(&[input(8)])).contains("8 slots"));
        let mut changed = operands(&one);
        changed.output = Extent { offset: 4096 };
        assert!(refusal(Export::Fold, &changed).contains("byte 4096"));
    }

    #[test]
    fn an_address_is_named_as_the_call_sees_it() {
        let inputs = [input(1), input(2)];
        let mut operands = operands(&inputs);
        operands.previous = Some(slot(3));
        operands.model = Some(slot(4));
        let place = |offset: u64| GEOMETRY.place(69_632 + offset, &operands);
        assert_eq!(GEOMETRY.place(65_536, &operands), "the call page");
        assert!(place(12_288).contains("beyond what it declared"));
        assert_eq!(place(2 * 16_384 + 5), "byte 5 of the slot of input 1");
        assert!(place(3 * 16_384).contains("previous partial"));
        assert!(place(4 * 16_384).contains("model"));
        assert!(place(5 * 16_384).contains("does not name"));
        assert!(place(8 * 16_384).contains("slack"));
    }
}
