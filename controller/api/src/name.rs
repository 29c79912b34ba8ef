//! Names that stand in manifests, URLs and metrics.

use std::{borrow::Borrow, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a string is no [`Name`] or [`ClientName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Too short or too long.
    #[error("{what} {text:?} has {length} characters; 1 to {limit} are allowed")]
    Length {
        /// `name` or `client name`.
        what: &'static str,
        /// The start of the refused text.
        text: String,
        /// Its length in characters.
        length: usize,
        /// The greatest length allowed.
        limit: usize,
    },
    /// A character that is not allowed where it stands.
    #[error("{what} {text:?} contains {character:?}; allowed are {allowed}")]
    Character {
        /// `name` or `client name`.
        what: &'static str,
        /// The refused text.
        text: String,
        /// The first character that is not allowed.
        character: char,
        /// What would be.
        allowed: &'static str,
    },
    /// A hyphen at either end.
    #[error("name {text:?} must begin and end with a letter or digit")]
    Hyphen {
        /// The refused text.
        text: String,
    },
    /// What a path of a URL has for "here" and "above".
    #[error("client name {text:?} is no name: clients of HTTP take it out of the URL")]
    Dots {
        /// The refused text.
        text: String,
    },
}

/// The name of a function, tenant, job or node: a DNS label of 1 to 63 characters of `a-z0-9-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "NameText")]
pub struct Name(String);

/// A name: 1 to 63 characters of `a-z0-9-`.
#[derive(JsonSchema)]
#[schemars(rename = "Name")]
#[expect(dead_code, reason = "only its schema is used")]
struct NameText(
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    )]
    String,
);

/// The name of a client: 1 to 128 characters of `A-Za-z0-9._-`, but neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientName(String);

impl Name {
    /// The greatest length.
    pub const MAX: usize = 63;

    /// A name that is written in this program.
    pub(crate) fn constant(text: &'static str) -> Self {
        debug_assert!(text.parse::<Self>().is_ok(), "{text:?} is no name");
        Self(text.into())
    }
}

impl ClientName {
    /// The greatest length.
    pub const MAX: usize = 128;
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check(text, "name", Self::MAX, "a-z, 0-9 and -", |c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
        })?;
        if text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Hyphen { text: text.into() });
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for ClientName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check(
            text,
            "client name",
            Self::MAX,
            "A-Z, a-z, 0-9, '.', '_' and '-'",
            |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'),
        )?;
        if matches!(text, "." | "..") {
            return Err(NameError::Dots { text: text.into() });
        }
        Ok(Self(text.into()))
    }
}

fn check(
    text: &str,
    what: &'static str,
    limit: usize,
    allowed: &'static str,
    valid: impl Fn(char) -> bool,
) -> Result<(), NameError> {
    let length = text.chars().count();
    let text: String = text.chars().take(limit).collect();
    if length == 0 || length > limit {
        return Err(NameError::Length {
            what,
            text,
            length,
            limit,
        });
    }
    match text.chars().find(|c| !valid(*c)) {
        Some(character) => Err(NameError::Character {
            what,
            text,
            character,
            allowed,
        }),
        None => Ok(()),
    }
}

macro_rules! text {
    ($($type:ident),*) => {$(
        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    )*};
}

text!(Name, ClientName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_labels_only() {
        for good in ["a", "digits", "a-1", "0x", &"n".repeat(63)] {
            assert_eq!(good.parse::<Name>().map(String::from).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a b",
            "é",
            "../x",
            &"n".repeat(64),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn client_names_keep_to_url_safe_characters() {
        for good in ["a", "Client_7.eu-west", "...", ".a", &"c".repeat(128)] {
            assert_eq!(
                good.parse::<ClientName>().map(String::from).as_deref(),
                Ok(good)
            );
        }
        for bad in ["", ".", "..", "a/b", "a b", "ü", "a%2f", &"c".repeat(129)] {
            assert!(bad.parse::<ClientName>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn errors_name_the_character() {
        let error = "Digits".parse::<Name>().unwrap_err().to_string();
        assert_eq!(
            error,
            "name \"Digits\" contains 'D'; allowed are a-z, 0-9 and -"
        );
    }
}
