//! A record of the autoscaler's decisions in a file, a line of JSON each, so that they can be decided again.
//!
//! A thread writes, so that a slow disk holds nobody up. A record with a gap is none: where it cannot be written, or
//! has reached its bound, it ends, and that is said once.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::warn;
use tributary_planning::autoscale::{Config, Decided, Line};

/// The most that is written to one file.
const BYTES_MAX: u64 = 64 << 20;
/// Decisions that wait to be written.
const WAITING_MAX: usize = 64;
/// How long a node that ends waits for what is still to be written.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Trace {
    lines: SyncSender<Line>,
    written: oneshot::Receiver<()>,
}

impl Trace {
    /// Begins a record at the end of the file. None, and a warning, if that cannot be.
    pub(super) fn start(file: &Path, config: Config) -> Option<Self> {
        let started = Self::try_start(file, BYTES_MAX, config);
        let named = |error: &io::Error| {
            warn!(file = %file.display(), %error, "decisions of the autoscaler are not recorded");
        };
        started.inspect_err(named).ok()
    }

    fn try_start(file: &Path, bytes_max: u64, config: Config) -> io::Result<Self> {
        let to = OpenOptions::new().append(true).create(true).open(file)?;
        let bytes = to.metadata()?.len();
        let (lines, waiting) = sync_channel(WAITING_MAX);
        let (done, written) = oneshot::channel();
        let name = file.to_owned();
        std::thread::Builder::new()
            .name("autoscaler-trace".into())
            .spawn(move || {
                if let Err(error) = write(&waiting, &to, bytes, bytes_max) {
                    warn!(file = %name.display(), %error, "the record of the autoscaler's decisions ends here");
                }
                // Who waits for the end of the record may have gone.
                let _ = done.send(());
            })?;
        let mut trace = Self { lines, written };
        trace.send(Line::Config(config));
        Ok(trace)
    }

    pub(super) fn write(&mut self, decided: Decided) {
        self.send(Line::Decided(decided));
    }

    fn send(&mut self, line: Line) {
        let Err(error) = self.lines.try_send(line) else {
            return;
        };
        // Without a sender the thread writes what waits, and ends: no decision may be left out before later ones.
        let (nobody, _) = sync_channel(0);
        self.lines = nobody;
        if matches!(error, std::sync::mpsc::TrySendError::Full(_)) {
            warn!("the record of the autoscaler's decisions ends: it is not written fast enough");
        }
    }

    /// Ends the record, and waits until it is written.
    pub(super) async fn end(self) {
        drop(self.lines);
        // A disk that hangs does not keep the node.
        let _ = tokio::time::timeout(PATIENCE, self.written).await;
    }
}

fn write(lines: &Receiver<Line>, mut to: &File, mut bytes: u64, bytes_max: u64) -> io::Result<()> {
    while let Ok(line) = lines.recv() {
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        bytes += text.len() as u64;
        if bytes > bytes_max {
            let full = format!("it has reached {bytes_max} bytes");
            return Err(io::Error::other(full));
        }
        to.write_all(&text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_planning::autoscale::{Decision, Observations, replay};

    fn decided(second: u64) -> Decided {
        Decided {
            now: Duration::from_secs(second),
            observations: Observations::default(),
            decision: Decision::default(),
        }
    }

    fn read(file: &Path) -> Vec<Line> {
        let text = std::fs::read_to_string(file).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn what_is_recorded_is_read_again_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trace");
        for _ in 0..2 {
            let mut trace = Trace::start(&file, Config::default()).unwrap();
            trace.write(decided(1));
            trace.write(decided(2));
            trace.end().await;
        }
        let lines = read(&file);
        assert_eq!(lines.len(), 6);
        assert_eq!(lines[3], Line::Config(Config::default()));
        assert_eq!(replay(lines), Ok(4));
    }

    #[tokio::test]
    async fn a_record_ends_whole_when_it_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trace");
        let mut trace = Trace::try_start(&file, 1000, Config::default()).unwrap();
        for second in 0..50 {
            trace.write(decided(second));
        }
        trace.end().await;
        assert!(std::fs::metadata(&file).unwrap().len() <= 1000);
        let lines = read(&file);
        assert!(lines.len() > 1 && lines.len() < 51, "{}", lines.len());
        assert!(replay(lines).is_ok());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_said_and_costs_no_more() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Trace::start(folder.path(), Config::default()).is_none());
    }
}
