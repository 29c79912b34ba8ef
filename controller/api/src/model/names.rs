//! The names of an update's tensors: those of the model, and of parts that belong to them.

/// Ends the name of a tensor's scales.
pub(super) const SCALE: &str = "scale";

/// Ends the name of a tensor's indices.
pub(super) const INDICES: &str = "indices";

/// Ends the name of the values at a tensor's indices.
pub(super) const VALUES: &str = "values";

/// What a tensor of an update is to a tensor of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// All its elements.
    Whole,
    /// The scales of its elements.
    Scale,
    /// The indices of the elements that are not 0.
    Indices,
    /// The values at the indices.
    Values,
}

/// The name of a part of a tensor.
pub(super) fn part(tensor: &str, suffix: &str) -> String {
    format!("{tensor}:{suffix}")
}

/// The tensor and the role that a part's name tells.
pub(super) fn split(name: &str) -> Option<(&str, Role)> {
    let (tensor, suffix) = name.rsplit_once(':')?;
    let role = match suffix {
        SCALE => Role::Scale,
        INDICES => Role::Indices,
        VALUES => Role::Values,
        _ => return None,
    };
    Some((tensor, role))
}
