//! What every benchmark can be told.

/// Options of every benchmark; flatten them into its own.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Options {
    /// Measure less: enough to see that it runs, too little to quote
    #[arg(long)]
    pub quick: bool,
    /// How often each thing is measured [default: 9, or 3 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    runs: Option<u16>,
}

impl Options {
    /// How often each thing is measured.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.runs
            .map_or(if self.quick { 3 } else { 9 }, usize::from)
    }

    /// `full`, or `quick` when less is enough.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}
