//! Checks a call before it is made, and says which bytes of the arena's data it is about.

use crate::abi::{Description, PAGE_BYTES};
use crate::encoding::{Content, Encoding};
use crate::error::Export;
use crate::operands::{Input, Operands, Place, RANGE_ELEMENTS};
use std::fmt;
use std::ops::Range;

/// What an operand is to the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Output,
    Previous,
    Model,
    Input(usize),
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output => formatter.write_str("the output"),
            Self::Previous => formatter.write_str("the previous partial"),
            Self::Model => formatter.write_str("the model"),
            Self::Input(index) => write!(formatter, "input {index}"),
        }
    }
}

/// An operand's bytes, as offsets in the arena's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operand {
    pub(crate) role: Role,
    /// Its page of scalars, if the call is given one.
    pub(crate) scalars: Option<u64>,
    /// What it has for the range of the call. Begins with a page, unless it is a sparse update's.
    pub(crate) vector: Range<u64>,
    /// What it has for the whole model, tables too: where a fault in it lies. Begins with a page.
    pub(crate) whole: Range<u64>,
    /// Its table.
    pub(crate) table: Option<u64>,
}

impl Operand {
    /// The pages of `vector`, unless it is a sparse update's.
    pub(crate) fn pages(&self) -> Range<u64> {
        self.vector.start..self.vector.end.next_multiple_of(PAGE_BYTES)
    }

    pub(crate) fn scalars_page(&self) -> Option<Range<u64>> {
        self.scalars.map(|start| start..start + PAGE_BYTES)
    }

    /// The pages that the call may reach: of an update or a model all, of others its own range.
    pub(crate) fn reached(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let vector = match self.role {
            Role::Input(_) | Role::Model => {
                self.whole.start..self.whole.end.next_multiple_of(PAGE_BYTES)
            }
            Role::Output | Role::Previous => self.pages(),
        };
        std::iter::once(vector).chain(self.scalars_page())
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.reached().any(|mine| {
            let mut others = other.reached();
            others.any(|theirs| mine.start < theirs.end && theirs.start < mine.end)
        })
    }
}

/// A call that may be made.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) output: Operand,
    pub(crate) previous: Option<Operand>,
    pub(crate) model: Option<Operand>,
    pub(crate) inputs: Vec<Operand>,
    /// What it writes as scalars is not the partial's: another range's call writes those.
    pub(crate) scratch_scalars: bool,
}

impl Plan {
    pub(crate) fn operands(&self) -> impl Iterator<Item = &Operand> {
        let others = self.previous.iter().chain(&self.model).chain(&self.inputs);
        std::iter::once(&self.output).chain(others)
    }
}

/// What a call can reach of the arena's data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach {
    pub(crate) data_bytes: u64,
    /// The most elements of one call, if the data are mapped by windows; none if all is mapped.
    pub(crate) window_elements: Option<u32>,
}

const MODEL_BYTES: u64 = 4;

/// Checks a call's operands; an error says what is wrong with them.
pub(crate) fn plan(
    export: Export,
    description: &Description,
    reach: Reach,
    operands: &Operands<'_>,
) -> Result<Plan, String> {
    check_range(reach, operands)?;
    check_inputs(export, description, operands)?;
    let planner = Planner {
        export,
        description,
        reach,
        operands,
    };
    let plan = planner.plan()?;
    let read = |operand: &&Operand| operand.role != Role::Output && operand.overlaps(&plan.output);
    if let Some(operand) = plan.operands().find(read) {
        return Err(format!(
            "its output, the vector at byte {}, is also read, as {}",
            operands.output.vector, operand.role
        ));
    }
    Ok(plan)
}

fn check_range(reach: Reach, operands: &Operands<'_>) -> Result<(), String> {
    let (first, elements, model) = (
        operands.first_element,
        operands.elements,
        operands.model_elements,
    );
    if elements == 0 {
        return Err("it has no elements".into());
    }
    let end = first.checked_add(u64::from(elements));
    let Some(end) = end.filter(|end| *end <= model) else {
        return Err(format!(
            "its range of {elements} elements from {first} on does not lie in the model of {model}"
        ));
    };
    let whole = |count: u64| count.is_multiple_of(u64::from(RANGE_ELEMENTS));
    if !whole(first) || !(whole(end) || end == model) {
        return Err(format!(
            "its range of {elements} elements from {first} on has to begin and end at a multiple of \
             {RANGE_ELEMENTS} elements, or at the end of the model of {model}"
        ));
    }
    match reach.window_elements {
        Some(most) if elements > most => Err(format!(
            "its range is {elements} elements; by windows the most is {most}: call range by range"
        )),
        _ => Ok(()),
    }
}

fn check_inputs(
    export: Export,
    description: &Description,
    operands: &Operands<'_>,
) -> Result<(), String> {
    let inputs = operands.inputs.len();
    if export == Export::Finish {
        if inputs > 0 {
            return Err(format!("it takes no inputs, not {inputs}"));
        }
        if operands.previous.is_none() {
            return Err("it has no partial to finish".into());
        }
        return Ok(());
    }
    if (1..=description.max_inputs as usize).contains(&inputs) {
        return Ok(());
    }
    Err(format!(
        "it has {inputs} inputs; this function takes 1 to {}",
        description.max_inputs
    ))
}

struct Planner<'a> {
    export: Export,
    description: &'a Description,
    reach: Reach,
    operands: &'a Operands<'a>,
}

impl Planner<'_> {
    fn plan(&self) -> Result<Plan, String> {
        let operands = self.operands;
        let partial_bytes = u64::from(self.description.partial_bytes_per_element);
        let finish = self.export == Export::Finish;
        let scratch_scalars = !finish && operands.first_element > 0;
        let (output_bytes, output_scalars) = if finish {
            (MODEL_BYTES, None)
        } else {
            let own = Some(operands.output.scalars);
            (partial_bytes, own.filter(|_| !scratch_scalars))
        };
        let previous = |place: Place| {
            let scalars = Some(place.scalars);
            self.operand(Role::Previous, place.vector, partial_bytes, scalars)
        };
        let model = |place: Place| self.operand(Role::Model, place.vector, MODEL_BYTES, None);
        let inputs = operands.inputs.iter().enumerate();
        Ok(Plan {
            output: self.operand(
                Role::Output,
                operands.output.vector,
                output_bytes,
                output_scalars,
            )?,
            previous: operands.previous.map(previous).transpose()?,
            model: operands.model.map(model).transpose()?,
            inputs: inputs
                .map(|(index, input)| self.input(Role::Input(index), input))
                .collect::<Result<_, _>>()?,
            scratch_scalars,
        })
    }

    fn input(&self, role: Role, input: &Input) -> Result<Operand, String> {
        let vector = input.place.vector;
        if self.export != Export::Merge {
            return self.update(role, vector, input.content);
        }
        if input.content != Content::F32 {
            let encoding = input.content.encoding;
            return Err(format!(
                "{role} is a partial, which has no encoding, and not {encoding}"
            ));
        }
        let bytes = u64::from(self.description.partial_bytes_per_element);
        self.operand(role, vector, bytes, Some(input.place.scalars))
    }

    fn update(&self, role: Role, vector: u64, content: Content) -> Result<Operand, String> {
        let encoding = content.encoding;
        let folded = self.description.encodings;
        if !folded.contains(encoding) {
            return Err(format!(
                "{role} is encoded as {encoding}; this function folds {folded} (the flags of its \
                 description say so)"
            ));
        }
        let has_table = encoding.has_table();
        if has_table && self.reach.window_elements.is_some() {
            return Err(format!(
                "{role} is encoded as {encoding}; the arena is mapped by windows, where only f32, f16 \
                 and bf16 are folded: give the job fewer slots, or send updates in one of these"
            ));
        }
        self.check_table(role, content)?;
        match encoding.element_bytes() {
            Some(bytes) if !has_table => self.operand(role, vector, bytes, None),
            bytes => self.with_table(role, vector, content, bytes),
        }
    }

    fn check_table(&self, role: Role, content: Content) -> Result<(), String> {
        let (encoding, count) = (content.encoding, u64::from(content.count));
        let (least, most) = match encoding {
            Encoding::Sparse => (0, self.operands.model_elements),
            Encoding::I8 => (1, self.operands.model_elements),
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => (0, 0),
        };
        if (least..=most).contains(&count) {
            return Ok(());
        }
        Err(format!(
            "{role}, encoded as {encoding}, has a table of {count} records; it can be {least} to {most}"
        ))
    }

    fn with_table(
        &self,
        role: Role,
        vector: u64,
        content: Content,
        element_bytes: Option<u64>,
    ) -> Result<Operand, String> {
        let elements = self.operands.model_elements;
        let layout = content.layout(elements);
        let room = Content::F32.layout(elements).bytes;
        if layout.bytes > room.next_multiple_of(PAGE_BYTES) {
            return Err(format!(
                "{role}, encoded as {}, takes {} bytes; a slot has {room} for an update",
                content.encoding, layout.bytes
            ));
        }
        let whole = self.within(role, "vector", vector, layout.bytes)?;
        let values = vector + layout.values;
        let part = match element_bytes {
            Some(bytes) => self.part(values, bytes),
            None => values..whole.end,
        };
        Ok(Operand {
            role,
            scalars: None,
            vector: part,
            whole,
            table: layout.table.map(|table| vector + table),
        })
    }

    /// An operand of so many bytes per element.
    fn operand(
        &self,
        role: Role,
        vector: u64,
        element_bytes: u64,
        scalars: Option<u64>,
    ) -> Result<Operand, String> {
        // Only the range has to be there: a journal's image stands for a partial of which there is no more.
        let part = self.part(vector, element_bytes);
        let part = self.within(role, "vector", part.start, part.end - part.start)?;
        let bytes = self.operands.model_elements.saturating_mul(element_bytes);
        if let Some(scalars) = scalars {
            self.within(role, "page of scalars", scalars, PAGE_BYTES)?;
        }
        Ok(Operand {
            role,
            scalars,
            vector: part,
            whole: vector..vector.saturating_add(bytes),
            table: None,
        })
    }

    /// The call's range of a vector.
    fn part(&self, vector: u64, element_bytes: u64) -> Range<u64> {
        let start = vector.saturating_add(self.operands.first_element * element_bytes);
        start..start.saturating_add(u64::from(self.operands.elements) * element_bytes)
    }

    /// Checks that whole pages lie within the data.
    fn within(&self, role: Role, part: &str, start: u64, bytes: u64) -> Result<Range<u64>, String> {
        if !start.is_multiple_of(PAGE_BYTES) {
            return Err(format!(
                "the {part} of {role} begins at byte {start}, which is not a multiple of {PAGE_BYTES}"
            ));
        }
        let data = self.reach.data_bytes;
        let end = start.checked_add(bytes);
        // The data end with a page, so what lies within them does with its last page, too.
        match end.filter(|end| *end <= data) {
            Some(end) => Ok(start..end),
            None => Err(format!(
                "the {part} of {role} is {bytes} bytes from byte {start} on, and the arena's data are \
                 {data} bytes"
            )),
        }
    }
}
