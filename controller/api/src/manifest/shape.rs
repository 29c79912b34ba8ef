//! Checks the shape of a manifest against its JSON Schema and reports everything that is wrong at once.
//!
//! This is no general validator: it knows the parts of JSON Schema that the manifests' types generate, without
//! references, and says what a person who misspelt something needs to read.

use serde_json::Value;

use super::{Kind, nearest};
use crate::problem::FieldError;

/// Says which kind of manifest `value` is.
pub(super) fn kind(value: &Value) -> Result<Kind, FieldError> {
    let Value::Object(members) = value else {
        return Err(FieldError::new(
            "",
            format!("expected a manifest, found {}", found(value)),
        ));
    };
    let names = || Kind::ALL.iter().map(|kind| kind.as_str());
    let listed = names()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    let Some(kind) = members.get("kind") else {
        let misspelt = nearest("kind", members.keys().map(String::as_str));
        return Err(match misspelt {
            Some(name) => FieldError::new(
                name,
                format!("unknown field `{name}`; did you mean `kind`?"),
            ),
            None => FieldError::new("", format!("missing field `kind`; it is one of {listed}")),
        });
    };
    let text = kind.as_str().unwrap_or_default();
    Kind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| {
            let hint = did_you_mean(nearest(text, names()));
            FieldError::new(
                "kind",
                format!("unknown kind {kind}; expected one of {listed}{hint}"),
            )
        })
}

/// Compares `value` with `schema`.
pub(super) fn check(value: &Value, schema: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(value, schema, "", &mut errors);
    errors
}

fn walk(value: &Value, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(allowed) = constants(schema) {
        return constant(value, &allowed, path, errors);
    }
    if let Some(expected) = mismatch(value, schema) {
        let hint = unit(schema).filter(|_| value.is_number());
        let hint = hint.map(|unit| format!("; write it with its unit, as in \"{value}{unit}\""));
        let (found, hint) = (found(value), hint.unwrap_or_default());
        errors.push(FieldError::new(
            path,
            format!("expected {expected}, found {found}{hint}"),
        ));
        return;
    }
    match value {
        Value::Object(_) => object(value, schema, path, errors),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, &schema["items"], &format!("{path}[{index}]"), errors);
            }
        }
        Value::Number(_) => range(value, schema, path, errors),
        _ => {}
    }
}

fn object(value: &Value, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let (Some(members), Some(properties)) = (value.as_object(), schema["properties"].as_object())
    else {
        return;
    };
    let mut taken = Vec::new();
    for (name, member) in members {
        let path = join(path, name);
        if let Some(schema) = properties.get(name) {
            walk(member, schema, &path, errors);
        } else if schema["additionalProperties"] == false {
            let free = properties
                .keys()
                .map(String::as_str)
                .filter(|known| !members.contains_key(*known));
            let meant = nearest(name, free);
            taken.extend(meant);
            let hint = meant.map_or_else(
                || format!("; expected one of {}", listed(properties.keys())),
                |meant| did_you_mean(Some(meant)),
            );
            errors.push(FieldError::new(
                path,
                format!("unknown field `{name}`{hint}"),
            ));
        }
    }
    let required = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    for name in required {
        // A misspelt field is one error, not an unknown and a missing one.
        if !members.contains_key(name) && !taken.contains(&name) {
            errors.push(FieldError::new(path, format!("missing field `{name}`")));
        }
    }
}

fn constant(value: &Value, allowed: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    if value.as_str().is_some_and(|text| allowed.contains(&text)) {
        return;
    }
    let meant = nearest(value.as_str().unwrap_or_default(), allowed.iter().copied());
    let message = format!(
        "{value} is not allowed; expected {}{}",
        listed(allowed),
        did_you_mean(meant)
    );
    errors.push(FieldError::new(path, message));
}

/// The values that an enumeration allows.
fn constants(schema: &Value) -> Option<Vec<&str>> {
    if let Some(values) = schema["enum"].as_array() {
        return Some(values.iter().filter_map(Value::as_str).collect());
    }
    if let Some(value) = schema["const"].as_str() {
        return Some(vec![value]);
    }
    let alternatives = schema["oneOf"].as_array()?;
    alternatives
        .iter()
        .map(constants)
        .try_fold(Vec::new(), |mut all, values| {
            all.extend(values?);
            Some(all)
        })
}

/// What was expected instead of `value`, if its type is wrong.
fn mismatch(value: &Value, schema: &Value) -> Option<String> {
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    let fits = types.iter().any(|expected| match *expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        _ => false,
    });
    let names = types
        .iter()
        .filter(|name| **name != "null")
        .map(|name| match *name {
            "object" => "a mapping",
            "array" => "a list",
            "string" => "a string",
            "integer" => "a whole number",
            "number" => "a number",
            _ => "true or false",
        });
    (!fits).then(|| names.collect::<Vec<_>>().join(" or "))
}

/// A unit of the quantities that a schema is of.
fn unit(schema: &Value) -> Option<&'static str> {
    let pattern = schema["pattern"].as_str()?;
    let units = [("|s|", "s"), ("|MiB|", "MiB")];
    let found = units.iter().find(|(mark, _)| pattern.contains(mark));
    found.map(|(_, unit)| *unit)
}

fn range(value: &Value, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(number) = value.as_f64() else { return };
    let too_small = schema["minimum"]
        .as_f64()
        .filter(|minimum| number < *minimum);
    let too_large = schema["maximum"]
        .as_f64()
        .filter(|maximum| number > *maximum);
    let bound = too_small
        .map(|minimum| format!("at least {minimum}"))
        .or_else(|| too_large.map(|maximum| format!("at most {maximum}")));
    if let Some(bound) = bound {
        errors.push(FieldError::new(
            path,
            format!("must be {bound}, is {value}"),
        ));
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(_) | Value::Number(_) => format!("{value}"),
        Value::String(text) => format!("the string {text:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a mapping".into(),
    }
}

fn listed<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<_> = names
        .into_iter()
        .map(|name| format!("`{}`", name.as_ref()))
        .collect();
    names.join(", ")
}

fn did_you_mean(name: Option<&str>) -> String {
    name.map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}

/// The path of the member `name` of the thing at `path`.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.into()
    } else {
        format!("{path}.{name}")
    }
}
