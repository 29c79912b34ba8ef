//! Updates that name the elements that are not 0.

use safetensors::Dtype;

use super::{
    super::names::{INDICES, VALUES, part},
    *,
};

/// What an update has of a tensor of the model: how many indices, and how many values.
#[derive(Clone, Copy, Default)]
struct Found {
    indices: Option<u64>,
    values: Option<u64>,
}

pub(super) fn plan(
    layout: &ModelLayout,
    update: &Header,
    by: &str,
) -> Result<UpdatePlan, LayoutMismatch> {
    let counts = counts(layout, &look(layout, update, by)?)?;
    let slot = layout.slot(Encoding::Sparse, counts.iter().sum())?;
    let before = before(&counts);
    let mut segments = Vec::new();
    for tensor in update.tensors().iter().filter(|tensor| tensor.bytes() > 0) {
        let (place, role) = layout.known(tensor)?;
        let part = if role == Role::Indices {
            indices(layout, tensor, place)?
        } else {
            Part::Values { tensor: place }
        };
        let list = match part {
            Part::Values { .. } => slot.values,
            _ => slot.table.unwrap_or_default(),
        };
        segments.push(Segment {
            file_offset: tensor.begin,
            slot_offset: list + before[place] * 4,
            bytes: tensor.bytes(),
            part,
        });
    }
    Ok(UpdatePlan { slot, segments })
}

/// Checks each tensor by itself and sorts them by the model's.
fn look(layout: &ModelLayout, update: &Header, by: &str) -> Result<Vec<Found>, LayoutMismatch> {
    let mut all = vec![Found::default(); layout.tensors().len()];
    for tensor in update.tensors() {
        let (place, role) = layout.known(tensor)?;
        match role {
            Role::Indices => {
                check_part(tensor, &[Dtype::U32, Dtype::I32], "U32 or I32")?;
                all[place].indices = Some(length(tensor)?);
            }
            Role::Values => {
                check_part(tensor, &[Dtype::F32], "F32")?;
                all[place].values = Some(length(tensor)?);
            }
            Role::Whole => {
                check_whole(tensor, &layout.tensors()[place], Encoding::Sparse, by)?;
            }
            Role::Scale => return Err(mixed(tensor, Encoding::Sparse, by)),
        }
    }
    Ok(all)
}

/// The entries of a list.
fn length(tensor: &Tensor) -> Result<u64, LayoutMismatch> {
    match tensor.shape[..] {
        [length] => Ok(length),
        _ => Err(LayoutMismatch::PartShape {
            tensor: shown(&tensor.name),
            found: tensor.shape.clone(),
        }),
    }
}

/// The pairs of every tensor of the model; none where the update does not name it.
fn counts(layout: &ModelLayout, found: &[Found]) -> Result<Vec<u64>, LayoutMismatch> {
    let half = |name: &str, there, lacking| LayoutMismatch::HalfAPair {
        tensor: shown(&part(name, there)),
        lacking: shown(&part(name, lacking)),
    };
    let pairs = layout.tensors().iter().zip(found);
    pairs
        .map(|(tensor, found)| match (found.indices, found.values) {
            (None, None) => Ok(0),
            (Some(indices), Some(values)) if indices == values => Ok(indices),
            (Some(indices), Some(values)) => Err(LayoutMismatch::Pairs {
                tensor: shown(&tensor.name),
                indices,
                values,
            }),
            (Some(_), None) => Err(half(&tensor.name, INDICES, VALUES)),
            (None, Some(_)) => Err(half(&tensor.name, VALUES, INDICES)),
        })
        .collect()
}

/// The pairs before each tensor's: pairs lie in canonical order.
fn before(counts: &[u64]) -> Vec<u64> {
    let mut next = 0;
    let advance = |count: &u64| {
        let first = next;
        next += count;
        first
    };
    counts.iter().map(advance).collect()
}

fn indices(layout: &ModelLayout, tensor: &Tensor, place: usize) -> Result<Part, LayoutMismatch> {
    let base = layout.coordinate_of(place, Encoding::Sparse)?;
    let elements = elements(&layout.tensors()[place]);
    Ok(Part::Indices {
        tensor: place,
        base,
        // No larger than the model, whose elements fit where its coordinates do.
        elements: u32::try_from(elements).unwrap_or(u32::MAX),
        signed: tensor.dtype == Dtype::I32,
    })
}
