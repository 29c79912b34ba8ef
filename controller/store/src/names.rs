//! Which names, subjects and filters there are.

use crate::{Error, PAYLOAD_BYTES_MAX};

/// The longest key, name or subject.
const BYTES_MAX: usize = 512;

/// The longest name of a bucket or a consumer.
const WORD_BYTES_MAX: usize = 64;

/// The two families of stored messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Events,
    Updates,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::Events, Self::Updates];

    /// Its streams' name, and the first token of its subjects.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Updates => "updates",
        }
    }

    /// The family that a subject or filter is of.
    pub(crate) fn of(subject: &str) -> Result<Self, Error> {
        let mut tokens = subject.split('.');
        let (first, more) = (tokens.next(), tokens.next().is_some());
        let found = Self::ALL
            .into_iter()
            .find(|family| more && Some(family.as_str()) == first);
        found.ok_or_else(|| {
            let why = "stored messages are `events.<more>` or `updates.<more>`";
            Error::malformed(format!("subject {subject:?}"), why)
        })
    }
}

/// A key, or an object's name.
pub(crate) fn key(text: &str) -> Result<(), Error> {
    let bad = |why: &str| Err(Error::malformed(format!("name {text:?}"), why));
    if text.len() > BYTES_MAX {
        return bad("longer than 512 characters");
    }
    let segments = || text.split('/');
    if segments().any(|segment| segment.is_empty() || segment.bytes().all(|byte| byte == b'.')) {
        return bad("a part between slashes is empty, or nothing but dots");
    }
    let allowed = |byte: u8| word_byte(byte) || byte == b'.';
    if !segments().all(|segment| segment.bytes().all(allowed)) {
        return bad("allowed are A-Z, a-z, 0-9, '.', '_' and '-', in parts separated by '/'");
    }
    Ok(())
}

/// The beginning of keys: any that a key can have.
pub(crate) fn prefix(text: &str) -> Result<(), Error> {
    if text.is_empty() || key(text).is_ok() {
        return Ok(());
    }
    // What a valid key begins with is valid with a letter at its end.
    key(&format!("{text}x")).map_err(|_| {
        let why = "no key can begin so";
        Error::malformed(format!("prefix {text:?}"), why)
    })
}

/// The name of a bucket or of a durable consumer.
pub(crate) fn word(what: &str, text: &str) -> Result<(), Error> {
    let fits = (1..=WORD_BYTES_MAX).contains(&text.len());
    if fits && text.bytes().all(word_byte) {
        return Ok(());
    }
    let why = "1 to 64 characters of A-Z, a-z, 0-9, '_' and '-' are allowed";
    Err(Error::malformed(format!("{what} {text:?}"), why))
}

/// A subject without wildcards.
pub(crate) fn subject(text: &str) -> Result<(), Error> {
    let wild = text.split('.').any(|token| matches!(token, "*" | ">"));
    if wild {
        let why = "wildcards are for filters: name one subject";
        return Err(Error::malformed(format!("subject {text:?}"), why));
    }
    filter(text)
}

/// A subject that may have wildcards.
pub(crate) fn filter(text: &str) -> Result<(), Error> {
    let bad = |why: &str| Err(Error::malformed(format!("subject {text:?}"), why));
    if text.len() > BYTES_MAX {
        return bad("longer than 512 characters");
    }
    let tokens: Vec<&str> = text.split('.').collect();
    if tokens.iter().any(|token| token.is_empty()) {
        return bad("a token between dots is empty");
    }
    let letters = |token: &str| token.bytes().all(|byte| byte.is_ascii_graphic());
    if !tokens.iter().all(|token| letters(token)) {
        return bad("spaces, control characters and letters beyond ASCII are not allowed");
    }
    let mixed = |token: &str| token.len() > 1 && token.contains(['*', '>']);
    let early = tokens.iter().rev().skip(1).any(|token| *token == ">");
    if early || tokens.iter().any(|token| mixed(token)) {
        return bad("'*' stands for one whole token, '>' for the rest at the end");
    }
    Ok(())
}

/// A message's id.
pub(crate) fn id(text: &str) -> Result<(), Error> {
    let fits = (1..=BYTES_MAX).contains(&text.len());
    if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let why = "1 to 512 visible ASCII characters are allowed";
    Err(Error::malformed(format!("message id {text:?}"), why))
}

/// Work cannot be listened to.
pub(crate) fn not_live(filter: &str) -> Error {
    let why = "only `events.` can be subscribed to; `updates.` are consumed";
    Error::malformed(format!("subject {filter:?}"), why)
}

/// A value or message that is small enough; `max` may be less than the usual.
pub(crate) fn payload(what: &str, bytes: usize, max: usize) -> Result<(), Error> {
    let max = max.min(PAYLOAD_BYTES_MAX);
    if bytes <= max {
        return Ok(());
    }
    let what = what.to_owned();
    Err(Error::TooLarge { what, bytes, max })
}

/// Whether a filter selects a subject, as in NATS: `*` is one token, a final `>` one or more.
#[must_use]
pub fn matches(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
}

/// Whether there are subjects that both filters select.
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
            (Some(left), Some(right)) if left == right => {}
            _ => return false,
        }
    }
}

fn word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn filters_are_those_of_nats() {
        for (filter, subject, selects) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.b.c", "a.b", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("*.b", "a.b", true),
            ("a.>", "a.b", true),
            ("a.>", "a.b.c.d", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("a.*.c", "a.b.c", true),
            ("a.*.>", "a.b", false),
        ] {
            assert_eq!(matches(filter, subject), selects, "{filter} {subject}");
        }
    }

    /// Every subject of one to four tokens of two letters.
    fn subjects() -> Vec<String> {
        let mut all = vec![String::new()];
        let mut subjects = Vec::new();
        for _ in 0..4 {
            let longer = |subject: &String| ["a", "b"].map(|token| format!("{subject}.{token}"));
            all = all.iter().flat_map(longer).collect();
            subjects.extend(all.iter().map(|subject| subject[1..].to_owned()));
        }
        subjects
    }

    fn filters() -> impl Strategy<Value = String> {
        let token = prop_oneof![Just("a"), Just("b"), Just("*")];
        let tokens = prop::collection::vec(token, 1..4);
        (tokens, any::<bool>()).prop_map(|(mut tokens, rest)| {
            if rest {
                tokens.pop();
                tokens.push(">");
            }
            tokens.join(".")
        })
    }

    proptest! {
        #[test]
        fn filters_overlap_if_a_subject_is_in_both(one in filters(), other in filters()) {
            let both = |subject: &String| matches(&one, subject) && matches(&other, subject);
            prop_assert_eq!(overlap(&one, &other), subjects().iter().any(both));
        }

        #[test]
        fn any_text_is_a_name_or_refused(text in ".{0,40}") {
            // What a key may be, its beginnings may be as well.
            if key(&text).is_ok() {
                for (end, _) in text.char_indices() {
                    prop_assert!(prefix(&text[..end]).is_ok());
                }
            }
            let _ = (filter(&text), subject(&text), id(&text), word("word", &text));
        }
    }
}
