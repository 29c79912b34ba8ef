//! What a write expects to find.

use crate::Error;

/// The condition of a write.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected {
    Anything,
    Nothing,
    Revision(u64),
}

impl Expected {
    /// Compares with the revision that is there.
    pub(super) fn check(self, key: &str, found: Option<u64>) -> Result<(), Error> {
        let key = || key.to_owned();
        match (self, found) {
            (Self::Anything, _) | (Self::Nothing, None) => Ok(()),
            (Self::Nothing, Some(_)) => Err(Error::Exists { key: key() }),
            (Self::Revision(expected), found) if found == Some(expected) => Ok(()),
            (Self::Revision(expected), _) => Err(Error::Conflict {
                key: key(),
                expected,
            }),
        }
    }
}
