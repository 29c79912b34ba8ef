//! Suggestions for misspelt names.

/// The candidate most similar to `text`, if any is similar enough to be what was meant.
#[must_use]
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Similarity is quadratic in the length: names beyond any reason are not compared.
    const LENGTH_MAX: usize = 256;
    if text.len() > LENGTH_MAX {
        return None;
    }
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LENGTH_MAX)
        .map(|candidate| {
            (
                strsim::jaro_winkler(&text.to_lowercase(), &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(similarity, _)| *similarity >= 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}
