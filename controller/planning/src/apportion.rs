//! Whole things in proportion to weights.

/// Divides `total` in proportion to `weights`: each gets its exact part, rounded down or up, so nobody is off by one
/// whole thing. Who is rounded up? First, who would otherwise give away something that it has (`held`); then, by the
/// largest remainder (Hamilton's method); then, by order. Without `held` it is Hamilton's method.
///
/// If no weight is above 0, nobody gets anything.
pub(crate) fn apportion(total: u32, weights: &[u64], held: &[u32]) -> Vec<u32> {
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let exact = |weight: &u64| u128::from(*weight) * u128::from(total);
    let mut parts: Vec<u32> = weights
        .iter()
        .map(|weight| u32::try_from(exact(weight) / sum).unwrap_or(u32::MAX))
        .collect();
    let given: u32 = parts.iter().sum();
    let mut rounded: Vec<usize> = (0..weights.len())
        .filter(|at| exact(&weights[*at]) % sum > 0)
        .collect();
    rounded.sort_by_key(|at| {
        let would_give = held.get(*at).is_some_and(|held| *held > parts[*at]);
        let remainder = exact(&weights[*at]) % sum;
        (!would_give, std::cmp::Reverse(remainder), *at)
    });
    let left = usize::try_from(total - given).unwrap_or(usize::MAX);
    for at in rounded.into_iter().take(left) {
        parts[at] += 1;
    }
    parts
}
