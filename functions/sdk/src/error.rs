//! How a function says that it cannot go on.

use alloc::string::String;
use core::fmt;

/// A failure of a function: a code for programs and a message for people.
///
/// The host reports both, with the function, its revision, the job and the round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    code: i32,
    message: String,
}

impl Error {
    /// The configuration is not one that the function takes.
    pub const CONFIG: i32 = 1;
    /// A number left the range of its type.
    pub const OVERFLOW: i32 = 2;
    /// A weight or a value is not what the rule is defined for.
    pub const INPUT: i32 = 3;
    /// There is nothing to finish: for example, all weights are zero.
    pub const EMPTY: i32 = 4;
    /// The first code that is free for a function's own use.
    pub const OWN: i32 = 64;

    /// A failure. `code` must not be 0, which means success.
    #[must_use]
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        debug_assert!(code != 0, "0 means success");
        Self {
            code: if code == 0 { Self::OWN } else { code },
            message: message.into(),
        }
    }

    /// The code that the entry point returns; never 0.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.code
    }

    /// The message that is logged.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl core::error::Error for Error {}
