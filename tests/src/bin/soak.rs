//! The long soak: `cargo xtask soak` builds what it needs and runs it.
#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use tributary_tests::soak::{self, Options};

#[derive(Parser)]
#[command(
    about = "Breaks a whole cluster again and again while clients train on it, and checks every model"
)]
struct Arguments {
    /// How long things break
    #[arg(long, default_value_t = 20)]
    minutes: u64,
    /// What breaks, and when: the seed of a failure breaks the same again [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
}

fn main() {
    let arguments = Arguments::parse();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let options = Options {
        lasts: Duration::from_secs(arguments.minutes * 60),
        seed: arguments
            .seed
            .unwrap_or_else(|| now.map_or(1, |now| now.as_secs())),
        talks: true,
    };
    #[allow(
        clippy::print_stderr,
        clippy::print_stdout,
        reason = "a program that tells"
    )]
    {
        eprintln!("soak with seed {}", options.seed);
        print!("{}", soak::run(&options));
    }
}
