//! Options of the form `--name value`.

use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::str::FromStr;

/// The options that a program was given.
#[derive(Debug, Default)]
pub struct Options(BTreeMap<String, String>);

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// Anything but `--name value` pairs with names from `known`.
    pub fn from_command_line(known: &[&str]) -> Result<Self> {
        let mut options = BTreeMap::new();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").filter(|name| known.contains(name));
            let Some(name) = name else {
                bail!("{word} is no option; there are --{}", known.join(", --"));
            };
            let value = words
                .next()
                .with_context(|| format!("--{name} needs a value"))?;
            options.insert(name.to_owned(), value);
        }
        Ok(Self(options))
    }

    /// The value of an option, or its default.
    ///
    /// # Errors
    /// A value that is none of the type.
    pub fn get<T: FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.0.get(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| anyhow::anyhow!("--{name} {text} cannot be read")),
        }
    }

    /// Numbers separated by commas.
    ///
    /// # Errors
    /// What is no number.
    pub fn list(&self, name: &str, default: &[u32]) -> Result<Vec<u32>> {
        let Some(text) = self.0.get(name) else {
            return Ok(default.to_vec());
        };
        text.split(',')
            .map(|number| number.parse().with_context(|| format!("--{name} {text}")))
            .collect()
    }
}
