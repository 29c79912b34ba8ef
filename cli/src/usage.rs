//! What clap says of a wrong command line, with what it cannot know.

use std::ffi::OsString;

use clap::{
    Command, CommandFactory as _,
    error::{ContextKind, ContextValue, Error, ErrorKind},
};

use crate::args::Args;

/// The error with the usage of the command that was meant, and with tips that can be followed.
pub(crate) fn explained(mut error: Error, arguments: &[OsString]) -> Error {
    let mut root = Args::command();
    root.build();
    let (command, rest) = meant(&root, arguments);
    match error.kind() {
        // Clap's own shows options as required whose values come from the environment.
        ErrorKind::MissingRequiredArgument => {
            let usage = command.clone().render_usage();
            error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
        }
        ErrorKind::InvalidSubcommand => {
            error.remove(ContextKind::SuggestedSubcommand);
            if let Some(tip) = tip(command, rest) {
                error.insert(
                    ContextKind::Suggested,
                    ContextValue::StyledStrs(vec![tip.into()]),
                );
            }
        }
        _ => {}
    }
    error
}

/// The innermost command that the arguments name, and the first that is none of its.
fn meant<'a>(root: &'a Command, arguments: &'a [OsString]) -> (&'a Command, Option<&'a str>) {
    let mut command = root;
    let mut words = arguments.iter().skip(1).filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        if let Some(option) = word.strip_prefix("--") {
            let mut known = command.get_arguments();
            if known
                .any(|known| known.get_long() == Some(option) && known.get_action().takes_values())
            {
                // What follows is its value.
                words.next();
            }
            continue;
        }
        match command.find_subcommand(word) {
            Some(inner) => command = inner,
            None if command.has_subcommands() => return (command, Some(word)),
            None => break,
        }
    }
    (command, None)
}

/// What may have been meant by a word in the place of a command: a thing whose kind is left out, or a misspelt command.
fn tip(command: &Command, word: Option<&str>) -> Option<String> {
    let word = word?;
    let names = || {
        command
            .get_subcommands()
            .filter(|inner| !inner.is_hide_set())
            .map(Command::get_name)
    };
    let near = names().find(|name| one_slip(name, word));
    let path = command.get_bin_name().unwrap_or_else(|| command.get_name());
    if let Some(near) = near {
        return Some(format!("did you mean `{path} {near}`?"));
    }
    names()
        .any(|name| name == "job")
        .then(|| format!("did you mean `{path} job {word}`?"))
}

/// Whether two words differ by one letter that is missing, too many, another, or before its neighbour.
fn one_slip(a: &str, b: &str) -> bool {
    strsim::osa_distance(a, b) <= 1
}
