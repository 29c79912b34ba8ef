//! The difference of two revisions, field by field.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;
use tributary_api::apply::Change;

/// The fields of `after` that are not as in `before`. Lists are compared as wholes.
pub(crate) fn diff(
    before: &impl Serialize,
    after: &impl Serialize,
) -> Result<Vec<Change>, serde_json::Error> {
    let (before, after) = (serde_json::to_value(before)?, serde_json::to_value(after)?);
    let mut changes = Vec::new();
    compare("spec", Some(&before), Some(&after), &mut changes);
    Ok(changes)
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, changes: &mut Vec<Change>) {
    if before == after {
        return;
    }
    let empty = serde_json::Map::new();
    let members = |value: Option<&Value>| {
        value.map_or(Some(empty.clone()), |value| value.as_object().cloned())
    };
    let (Some(old), Some(new)) = (members(before), members(after)) else {
        changes.push(Change {
            path: path.into(),
            from: before.cloned(),
            to: after.cloned(),
        });
        return;
    };
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for name in names {
        compare(
            &format!("{path}.{name}"),
            old.get(name),
            new.get(name),
            changes,
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(before: &Value, after: &Value) -> Vec<String> {
        let text = |value: Option<Value>| value.map_or("-".into(), |value| value.to_string());
        let changes = diff(before, after).unwrap();
        changes
            .into_iter()
            .map(|c| format!("{}: {} {}", c.path, text(c.from), text(c.to)))
            .collect()
    }

    #[test]
    fn names_each_field() {
        let before =
            json!({"round": {"quorum": 1, "deadline": "1s"}, "rounds": 3, "tree": {"fanIn": 2}});
        let after = json!({"round": {"quorum": 2, "deadline": "1s"}, "arena": {"slots": 9}, "tree": {"fanIn": 2}});
        assert_eq!(
            lines(&before, &after),
            [
                "spec.arena.slots: - 9",
                "spec.round.quorum: 1 2",
                "spec.rounds: 3 -",
            ]
        );
        assert!(lines(&after, &after).is_empty());
    }

    #[test]
    fn a_value_that_becomes_a_mapping_is_one_change() {
        assert_eq!(
            lines(&json!({"a": 1}), &json!({"a": {"b": 2}})),
            ["spec.a: 1 {\"b\":2}"]
        );
        assert_eq!(
            lines(&json!({"a": [1, 2]}), &json!({"a": [1]})),
            ["spec.a: [1,2] [1]"]
        );
    }
}
