//! Updates of whole numbers of 8 bits with scales.

use safetensors::Dtype;

use super::*;

/// What is known of the scales of a tensor.
#[derive(Clone, Copy)]
struct Scales {
    /// How many there are.
    count: u64,
    /// The elements that each stands for.
    block: u64,
}

/// What an update has of a tensor of the model.
#[derive(Clone, Copy, Default)]
struct Found {
    whole: bool,
    scales: Option<Scales>,
}

pub(super) fn plan(
    layout: &ModelLayout,
    update: &Header,
    by: &str,
) -> Result<UpdatePlan, LayoutMismatch> {
    let found = look(layout, update, by)?;
    let scales = complete(layout, &found)?;
    let slot = layout.slot(Encoding::I8, scales.iter().map(|scales| scales.count).sum())?;
    let first_run = first_runs(&slot, &scales);
    let mut segments = Vec::new();
    for tensor in update.tensors() {
        let (place, role) = layout.known(tensor)?;
        let expected = &layout.tensors()[place];
        if role == Role::Whole {
            push_elements(&mut segments, tensor, expected, Encoding::I8);
        } else if tensor.bytes() > 0 {
            segments.push(scale_segment(
                layout,
                tensor,
                place,
                first_run[place],
                scales[place],
            )?);
        }
    }
    Ok(UpdatePlan { slot, segments })
}

/// Checks each tensor by itself and sorts them by the model's.
fn look(layout: &ModelLayout, update: &Header, by: &str) -> Result<Vec<Found>, LayoutMismatch> {
    let mut all = vec![Found::default(); layout.tensors().len()];
    for tensor in update.tensors() {
        let (place, role) = layout.known(tensor)?;
        let expected = &layout.tensors()[place];
        match role {
            Role::Whole => {
                check_whole(tensor, expected, Encoding::I8, by)?;
                all[place].whole = true;
            }
            Role::Scale => all[place].scales = Some(scales(tensor, expected, update)?),
            // They make an update sparse.
            Role::Indices | Role::Values => return Err(mixed(tensor, Encoding::I8, by)),
        }
    }
    Ok(all)
}

/// The scales of every tensor of the model, if none lacks its elements or its scales.
fn complete(layout: &ModelLayout, found: &[Found]) -> Result<Vec<Scales>, LayoutMismatch> {
    let is_missing = |found: &Found| !found.whole && found.scales.is_none();
    if found.iter().any(is_missing) {
        let there = |name: &String| {
            layout
                .places()
                .get(name)
                .is_some_and(|place| !is_missing(&found[*place]))
        };
        return Err(layout.missing(there));
    }
    let pairs = layout.tensors().iter().zip(found);
    pairs
        .map(|(tensor, found)| match (found.whole, found.scales) {
            (true, Some(scales)) => Ok(scales),
            (true, None) => Err(LayoutMismatch::NoScale {
                tensor: shown(&tensor.name),
            }),
            (false, _) => Err(LayoutMismatch::ScaleAlone {
                tensor: shown(&tensor.name),
            }),
        })
        .collect()
}

/// One scale for the tensor, or one for each block of it.
fn scales(tensor: &Tensor, of: &Tensor, update: &Header) -> Result<Scales, LayoutMismatch> {
    check_part(tensor, &[Dtype::F32], "F32")?;
    let elements = elements(of);
    if elements > 0 && matches!(tensor.shape[..], [] | [1]) {
        return Ok(Scales {
            count: 1,
            block: elements,
        });
    }
    let wrong = |expected: String| LayoutMismatch::ScaleShape {
        tensor: shown(&of.name),
        found: tensor.shape.clone(),
        elements,
        expected,
    };
    if elements == 0 {
        let none = Scales { count: 0, block: 1 };
        return match tensor.shape[..] {
            [0] => Ok(none),
            _ => Err(wrong("[0], no scale".into())),
        };
    }
    let Some(text) = update.metadata("block") else {
        let (found, tensor) = (tensor.shape.clone(), shown(&tensor.name));
        return Err(LayoutMismatch::NoBlock { tensor, found });
    };
    let block = block(text)?;
    let count = elements.div_ceil(block);
    if tensor.shape == [count] {
        Ok(Scales { count, block })
    } else {
        Err(wrong(format!(
            "[{count}], one scale for each block of {block}, or [1], one for the tensor"
        )))
    }
}

fn block(text: &str) -> Result<u64, LayoutMismatch> {
    let decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(block) if decimal && block > 0 => Ok(block),
        _ => Err(LayoutMismatch::Block { value: shown(text) }),
    }
}

/// The offset of each tensor's first run: runs lie in canonical order.
fn first_runs(slot: &SlotLayout, scales: &[Scales]) -> Vec<u64> {
    let mut next = slot.table.unwrap_or_default();
    let advance = |scales: &Scales| {
        let first = next;
        next += scales.count * SlotLayout::RUN_BYTES;
        first
    };
    scales.iter().map(advance).collect()
}

fn scale_segment(
    layout: &ModelLayout,
    tensor: &Tensor,
    place: usize,
    runs: u64,
    scales: Scales,
) -> Result<Segment, LayoutMismatch> {
    let start = layout.coordinate_of(place, Encoding::I8)?;
    Ok(Segment {
        file_offset: tensor.begin,
        slot_offset: runs + scales.count * (SlotLayout::RUN_BYTES - 4),
        bytes: tensor.bytes(),
        part: Part::Scales {
            tensor: place,
            runs,
            start,
            block: scales.block,
        },
    })
}
