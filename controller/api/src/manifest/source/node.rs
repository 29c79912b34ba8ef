//! YAML with the place of every field.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use serde_saphyr::{Location, Spanned};

use super::super::shape::join;

/// A piece of YAML.
pub(super) enum Node {
    /// Anything but a list or a mapping.
    Scalar(Value),
    /// A list.
    List(Vec<Spanned<Node>>),
    /// A mapping, its keys with their own places.
    Mapping(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Node {
    /// The same without places.
    pub(super) fn into_value(self) -> Value {
        match self {
            Self::Scalar(value) => value,
            Self::List(items) => items
                .into_iter()
                .map(|item| item.value.into_value())
                .collect(),
            Self::Mapping(members) => members
                .into_iter()
                .map(|(key, member)| (key.value, member.value.into_value()))
                .collect::<Map<_, _>>()
                .into(),
        }
    }

    /// Calls `visit` with the path and the place of everything within; a member's place is that of its key.
    pub(super) fn visit(&self, path: &str, visit: &mut impl FnMut(&str, Location)) {
        match self {
            Self::Scalar(_) => {}
            Self::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    visit(&path, item.referenced);
                    item.value.visit(&path, visit);
                }
            }
            Self::Mapping(members) => {
                for (key, member) in members {
                    let path = join(path, &key.value);
                    visit(&path, key.referenced);
                    member.value.visit(&path, visit);
                }
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let mut mapping = Vec::new();
        while let Some(member) = members.next_entry()? {
            mapping.push(member);
        }
        Ok(Node::Mapping(mapping))
    }
}
