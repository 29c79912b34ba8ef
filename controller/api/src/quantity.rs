//! Quantities as people write them: `64MiB`, `30s`.

use std::{fmt, str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Milliseconds of each unit of time, the greatest first.
const TIMES: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// No number, or no known unit.
    #[error("{text:?} is no {what}; write a whole number and one of {units}, as in {example}")]
    Malformed {
        /// `size` or `duration`.
        what: &'static str,
        /// The refused text.
        text: String,
        /// The units that are known.
        units: String,
        /// A text that is right.
        example: &'static str,
    },
    /// More than 64 bits can hold.
    #[error("{text:?} is too large")]
    TooLarge {
        /// The refused text.
        text: String,
    },
}

/// A number of bytes, written as a whole number and a unit: `64MiB`, `1GB`, `512B`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "SizeText")]
pub struct ByteSize(u64);

/// A length of time in whole milliseconds, written `500ms`, `30s`, `5m`, `1h`, `2d` or `1m30s`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "IntervalText")]
pub struct Interval(u64);

/// A whole number and a unit of bytes: `64MiB`, `1GB`, `512B`.
#[derive(JsonSchema)]
#[schemars(rename = "ByteSize")]
#[expect(dead_code, reason = "only its schema is used")]
struct SizeText(#[schemars(regex(pattern = r"^[0-9]+(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)$"))] String);

/// A length of time: `500ms`, `30s`, `5m`, `1h`, `2d`, `1m30s`.
#[derive(JsonSchema)]
#[schemars(rename = "Interval")]
#[expect(dead_code, reason = "only its schema is used")]
struct IntervalText(#[schemars(regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$"))] String);

impl ByteSize {
    /// A size of `bytes`.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size of `mebibytes` times 2^20 bytes.
    #[must_use]
    pub const fn mib(mebibytes: u32) -> Self {
        Self((mebibytes as u64) << 20)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl Interval {
    /// An interval of `milliseconds`.
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// An interval of `seconds`.
    #[must_use]
    pub const fn from_secs(seconds: u32) -> Self {
        Self(seconds as u64 * 1_000)
    }

    /// The number of milliseconds.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// The same as a `std::time::Duration`.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl FromStr for ByteSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let malformed = || malformed("size", text, &SIZES, "64MiB");
        let (number, rest) = number(text).ok_or_else(malformed)?;
        let (_, unit) = SIZES
            .iter()
            .find(|(name, _)| *name == rest)
            .ok_or_else(malformed)?;
        scale(text, number, *unit).map(Self)
    }
}

impl FromStr for Interval {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let malformed = || malformed("duration", text, &TIMES, "30s or 1m30s");
        let (mut total, mut rest) = (0_u64, text);
        loop {
            let (digits, after) = number(rest).ok_or_else(malformed)?;
            let letters = after
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(after.len());
            let (name, tail) = after.split_at(letters);
            let (_, unit) = TIMES
                .iter()
                .find(|(known, _)| *known == name)
                .ok_or_else(malformed)?;
            total = total
                .checked_add(scale(text, digits, *unit)?)
                .ok_or_else(|| QuantityError::TooLarge { text: text.into() })?;
            if tail.is_empty() {
                return Ok(Self(total));
            }
            rest = tail;
        }
    }
}

/// The digits that `text` begins with, and what follows them.
fn number(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn scale(text: &str, digits: &str, unit: u64) -> Result<u64, QuantityError> {
    let number = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    number.ok_or_else(|| QuantityError::TooLarge { text: text.into() })
}

fn malformed(
    what: &'static str,
    text: &str,
    units: &[(&str, u64)],
    example: &'static str,
) -> QuantityError {
    let units: Vec<_> = units.iter().rev().map(|(name, _)| *name).collect();
    let text = text.chars().take(80).collect();
    QuantityError::Malformed {
        what,
        text,
        units: units.join(", "),
        example,
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, unit): &&(&str, u64)| self.0 > 0 && self.0.is_multiple_of(*unit);
        let (name, unit) = SIZES.iter().find(exact).unwrap_or(&("B", 1));
        f.pad(&format!("{}{name}", self.0 / unit))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.pad("0s");
        }
        let (mut text, mut rest) = (String::new(), self.0);
        for (name, unit) in TIMES {
            if rest >= unit {
                text.push_str(&format!("{}{name}", rest / unit));
                rest %= unit;
            }
        }
        f.pad(&text)
    }
}

macro_rules! strings {
    ($($type:ident),*) => {$(
        impl TryFrom<String> for $type {
            type Error = QuantityError;

            fn try_from(text: String) -> Result<Self, QuantityError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(quantity: $type) -> Self {
                quantity.to_string()
            }
        }
    )*};
}

strings!(ByteSize, Interval);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("1GB", 1_000_000_000),
            ("512B", 512),
            ("0B", 0),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::new(bytes)));
        }
        for bad in [
            "", "64", "MiB", "64Mib", "64 MiB", "-1B", "1.5GiB", "64MiBx",
        ] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?} was taken");
        }
        let huge = "99999999999999999999B".parse::<ByteSize>();
        assert!(matches!(huge, Err(QuantityError::TooLarge { .. })));
        assert!(matches!(
            "18446744073709551615TiB".parse::<ByteSize>(),
            Err(QuantityError::TooLarge { .. })
        ));
    }

    #[test]
    fn intervals() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("2d", 172_800_000),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), Ok(Interval::from_millis(ms)));
        }
        for bad in ["", "30", "s", "30sec", "1.5s", "-1s", "1m30", "1 s"] {
            assert!(bad.parse::<Interval>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn errors_show_how_to_write_it() {
        let error = "30sec".parse::<Interval>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"30sec\" is no duration; write a whole number and one of ms, s, m, h, d, as in 30s or 1m30s"
        );
    }

    proptest! {
        #[test]
        fn display_parses_back(number: u64) {
            prop_assert_eq!(ByteSize::new(number).to_string().parse(), Ok(ByteSize::new(number)));
            let interval = Interval::from_millis(number);
            prop_assert_eq!(interval.to_string().parse(), Ok(interval));
        }

        #[test]
        fn any_text_is_refused_or_taken_without_panic(text: String) {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<Interval>();
        }
    }
}
