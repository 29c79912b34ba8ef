//! Manifests as an operator writes them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A function and a job that uses it, in one file.
#[derive(Debug, Clone)]
pub struct Manifest {
    name: String,
    function: String,
    module: PathBuf,
    limits: String,
    config: String,
    round: String,
    more: Vec<String>,
}

impl Manifest {
    /// A job of fedavg whose rounds close as `round` says, such as `{ expected: 20 }`.
    #[must_use]
    pub fn fedavg(name: &str, round: &str) -> Self {
        Self::of("fedavg", &crate::place::function("fedavg"), name, round)
    }

    /// A job of any function.
    #[must_use]
    pub fn of(function: &str, module: &Path, name: &str, round: &str) -> Self {
        Self {
            name: name.into(),
            function: function.into(),
            module: module.into(),
            limits: "{ memory: 64MiB, deadline: 10s }".into(),
            config: "{}".into(),
            round: round.into(),
            more: Vec::new(),
        }
    }

    /// Configures the function: `{ accumulate: exact }`.
    #[must_use]
    pub fn config(mut self, config: &str) -> Self {
        self.config = config.into();
        self
    }

    /// Limits the function: `{ memory: 1MiB, deadline: 200ms }`.
    #[must_use]
    pub fn limits(mut self, limits: &str) -> Self {
        self.limits = limits.into();
        self
    }

    /// Closes rounds in another way.
    #[must_use]
    pub fn round(mut self, round: &str) -> Self {
        self.round = round.into();
        self
    }

    /// Adds a line to the job's spec: `tree: { fanIn: 2 }`.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        self.more.push(line.into());
        self
    }

    /// The job's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The YAML text; the model lies at `model`.
    #[must_use]
    pub fn text(&self, model: &Path) -> String {
        let Self {
            name,
            function,
            limits,
            config,
            round,
            ..
        } = self;
        let (module, model) = (self.module.display(), model.display());
        let mut text = format!(
            "apiVersion: tributary.dev/v1
kind: Function
metadata: {{ name: {function} }}
spec:
  module: {{ path: {module} }}
  limits: {limits}
---
apiVersion: tributary.dev/v1
kind: Job
metadata: {{ name: {name} }}
spec:
  function: {{ name: {function}, config: {config} }}
  model: {{ path: {model} }}
  round: {round}
"
        );
        for line in &self.more {
            let _ = writeln!(text, "  {line}");
        }
        text
    }
}
