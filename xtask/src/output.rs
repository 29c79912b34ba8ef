//! How this program talks: one look for all tasks, on a terminal and in a file.

use std::fmt::Display;
use std::time::Duration;

use console::style;

/// Width of the first column of a line of progress.
const TOPIC_WIDTH: usize = 9;

/// A line of progress: what it is about, and what happens.
pub(crate) fn progress(topic: &str, message: impl Display) {
    println!(
        "{} {message}",
        style(format!("{topic:>TOPIC_WIDTH$}")).cyan().bold()
    );
}

/// A line below a line of progress.
pub(crate) fn detail(message: impl Display) {
    println!("{:>TOPIC_WIDTH$} {message}", "");
}

/// The line that says that a task failed; on standard error.
pub(crate) fn failure(message: &str) {
    eprintln!(
        "{} {message}",
        style(format!("{:>TOPIC_WIDTH$}", "error"))
            .for_stderr()
            .red()
            .bold()
    );
}

/// The mark of a check that was made: PASS or FAIL.
pub(crate) fn mark(passed: bool) -> impl Display {
    if passed {
        style("PASS").green().bold()
    } else {
        style("FAIL").red().bold()
    }
}

/// A duration as people say it: `0.4 s`, `3 min 20 s`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 99.95 {
        return format!("{seconds:.1} s");
    }
    let seconds = seconds.round() as u64;
    format!("{} min {:02} s", seconds / 60, seconds % 60)
}

/// An amount of bytes in powers of 1024.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut amount = count as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_readable() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(192_800), "188.3 KiB");
        assert_eq!(bytes(5 << 40), "5.0 TiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn durations_are_readable() {
        assert_eq!(duration(Duration::from_millis(40)), "0.0 s");
        assert_eq!(duration(Duration::from_millis(99_940)), "99.9 s");
        assert_eq!(duration(Duration::from_millis(99_960)), "1 min 40 s");
        assert_eq!(duration(Duration::from_secs(605)), "10 min 05 s");
    }
}
