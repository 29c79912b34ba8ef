//! Manifests in YAML files: several documents, and errors with file, line and column.

mod node;

use std::{collections::BTreeMap, fmt};

use serde_saphyr::{DuplicateKeyPolicy, Error, Spanned, from_multiple_with_options, options};

use super::Manifest;
use crate::problem::FieldError;
use node::Node;

/// A manifest and where it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// What the document says.
    pub manifest: Manifest,
    /// Where it says it.
    pub places: Places,
}

/// Where the fields of one document stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    file: String,
    fields: BTreeMap<String, Place>,
}

/// A line and a column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column in characters.
    pub column: u64,
}

/// An error and where the wrong field stands: `job.yaml:12:5: spec.round.quorum: must be at least 1, is 0`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SourceError {
    /// The file.
    pub file: String,
    /// The field's place, if it is known.
    pub place: Option<Place>,
    /// What is wrong.
    pub error: FieldError,
}

/// Reads the manifests of a file. `file` is its name for errors.
///
/// # Errors
/// Everything that is wrong in any document, in the order of the file.
pub fn parse(file: &str, text: &str) -> Result<Vec<Document>, Vec<SourceError>> {
    let options = options! {
        // YAML 1.1 takes `no` for false; a job may be called so.
        strict_booleans: true,
        duplicate_keys: DuplicateKeyPolicy::Error,
    };
    let nodes: Vec<Spanned<Node>> =
        from_multiple_with_options(text, options).map_err(|error| vec![syntax(file, &error)])?;
    if nodes.is_empty() {
        let error = FieldError::new("", "the file holds no manifest");
        return Err(vec![SourceError {
            file: file.into(),
            place: None,
            error,
        }]);
    }
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    for node in nodes {
        let places = Places::of(file, &node);
        match Manifest::from_value(&node.value.into_value()) {
            Ok(manifest) => documents.push(Document { manifest, places }),
            Err(found) => errors.extend(found.into_iter().map(|error| places.locate(error))),
        }
    }
    errors.sort_by_key(|error| error.place.map(|place| (place.line, place.column)));
    if errors.is_empty() {
        Ok(documents)
    } else {
        Err(errors)
    }
}

impl Places {
    fn of(file: &str, root: &Spanned<Node>) -> Self {
        let mut places = Self {
            file: file.into(),
            fields: BTreeMap::new(),
        };
        places
            .fields
            .insert(String::new(), Place::of(&root.referenced));
        root.value.visit("", &mut |path, location| {
            places.fields.insert(path.into(), Place::of(&location));
        });
        places
    }

    /// Adds to an error where its field stands; for a field that is not there, where it should be.
    #[must_use]
    pub fn locate(&self, error: FieldError) -> SourceError {
        let mut path = error.path.as_str();
        let place = loop {
            match self.fields.get(path) {
                Some(place) => break Some(*place),
                None if path.is_empty() => break None,
                None => path = &path[..path.rfind(['.', '[']).unwrap_or(0)],
            }
        };
        SourceError {
            file: self.file.clone(),
            place,
            error,
        }
    }
}

impl Place {
    fn of(location: &serde_saphyr::Location) -> Self {
        Self {
            line: location.line(),
            column: location.column(),
        }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, place, error } = self;
        match place {
            Some(Place { line, column }) => write!(f, "{file}:{line}:{column}: {error}"),
            None => write!(f, "{file}: {error}"),
        }
    }
}

fn syntax(file: &str, error: &Error) -> SourceError {
    let error = error.without_snippet();
    let place = error.location().map(|location| Place::of(&location));
    let message = match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the field `{key}` comes twice")
        }
        other => without_place(&other.to_string(), place).to_owned(),
    };
    SourceError {
        file: file.into(),
        place,
        error: FieldError::new("", message),
    }
}

/// A message of the YAML reader without the place, which stands in front of it already.
fn without_place(text: &str, place: Option<Place>) -> &str {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let Some(Place { line, column }) = place else {
        return text;
    };
    let text = text
        .strip_prefix(&format!("line {line} column {column}: "))
        .unwrap_or(text);
    text.strip_suffix(&format!(" at line {line}, column {column}"))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests;
