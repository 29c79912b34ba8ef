//! Failpoints: the moments of a step at which a test may end the worker, as a crash would.
//!
//! They are compiled in by the feature `failpoints` alone, which only the binary of the chaos tests
//! has. Without it [`reach`] is an empty function, and neither names nor environment are looked at.
//!
//! With it, `TRIBUTARY_FAILPOINTS` names a folder; workers inherit it from `tributary up`. Every
//! failpoint may have a folder of its name in it, such as `fold.committed`, that holds *fates*: files
//! whose names begin with `kill`, `stop` or `pass` after a number. Whoever reaches the failpoint takes
//! the first one by removing it, and meets it. So a test decides how often, when and in which order
//! workers die, whichever of them comes along; a worker that takes the place of a dead one finds one
//! fate less; and what was met is told by what is left.

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("failpoints are for the tests' own build: leave the feature out of a release");

/// A step of an aggregator.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "failpoints"),
    allow(dead_code, reason = "only failpoints look at it")
)]
pub(super) enum Step {
    /// A leaf folds updates.
    Fold,
    /// A leaf folds updates into an accumulator in place.
    InPlace,
    /// A middle or the top merges partials.
    Merge,
    /// The top makes the model.
    Finish,
    /// A partial goes to the parent.
    SendOn,
    /// A worker begins to host an aggregator, or takes it over.
    Adopt,
    /// A step's descriptors go out: a partial's to the parent, a doorbell's to the agent.
    Tell,
    /// The agent is told of an update on which the function failed.
    Refused,
}

/// A moment between two operations of a step that others can see.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "failpoints"),
    allow(dead_code, reason = "only failpoints look at it")
)]
pub(super) enum Moment {
    /// Nothing is done yet.
    Begun,
    /// B is Filling.
    Claimed,
    /// B's content is written.
    Computed,
    /// B's contributors and sequence are written.
    Described,
    /// B is published: the commit point lies behind.
    Committed,
    /// One more input is released.
    InputReleased,
    /// A is released.
    PreviousReleased,
    /// The completion record is in the ring.
    Recorded,
    /// An input that overlaps with what is counted is released unread.
    OverlapReleased,
    /// An accumulator that a later one has replaced is released.
    SupersededReleased,
    /// The last accumulator is adopted.
    Adopted,
    /// The partial is Sent.
    Sent,
    /// The descriptors, or the message to the agent, have gone out.
    Told,
    /// The journal names the step.
    Journaled,
    /// The image of a part is whole.
    ImageSaved,
    /// A part is folded, and the journal says so.
    PartDone,
    /// The journal is idle again.
    Cleared,
}

/// Tells that a step has come so far.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(super) fn reach(_: Step, _: Moment) {}

#[cfg(feature = "failpoints")]
pub(super) use armed::{check, reach};

#[cfg(any(test, feature = "failpoints"))]
mod armed {
    use super::{Moment, Step};
    #[cfg(feature = "failpoints")]
    use rustix::process::Signal;
    use std::io::{self, ErrorKind};
    use std::path::Path;

    /// Every failpoint. A step that reaches another one is a mistake in the worker.
    const ALL: &[(Step, Moment)] = &[
        (Step::Fold, Moment::Begun),
        (Step::Fold, Moment::Claimed),
        (Step::Fold, Moment::Computed),
        (Step::Fold, Moment::Described),
        (Step::Fold, Moment::Committed),
        (Step::Fold, Moment::InputReleased),
        (Step::Fold, Moment::PreviousReleased),
        (Step::Fold, Moment::Recorded),
        (Step::Fold, Moment::OverlapReleased),
        (Step::InPlace, Moment::Begun),
        (Step::InPlace, Moment::Journaled),
        (Step::InPlace, Moment::ImageSaved),
        (Step::InPlace, Moment::Computed),
        (Step::InPlace, Moment::PartDone),
        (Step::InPlace, Moment::Committed),
        (Step::InPlace, Moment::Described),
        (Step::InPlace, Moment::InputReleased),
        (Step::InPlace, Moment::Cleared),
        (Step::Merge, Moment::Begun),
        (Step::Merge, Moment::Claimed),
        (Step::Merge, Moment::Computed),
        (Step::Merge, Moment::Described),
        (Step::Merge, Moment::Committed),
        (Step::Merge, Moment::InputReleased),
        (Step::Merge, Moment::PreviousReleased),
        (Step::Merge, Moment::Recorded),
        (Step::Merge, Moment::OverlapReleased),
        (Step::Finish, Moment::Begun),
        (Step::Finish, Moment::Claimed),
        (Step::Finish, Moment::Computed),
        (Step::Finish, Moment::Described),
        (Step::Finish, Moment::Committed),
        (Step::Finish, Moment::PreviousReleased),
        (Step::Finish, Moment::Recorded),
        (Step::SendOn, Moment::Begun),
        (Step::SendOn, Moment::Sent),
        (Step::Adopt, Moment::Begun),
        (Step::Adopt, Moment::SupersededReleased),
        (Step::Adopt, Moment::Adopted),
        (Step::Tell, Moment::Begun),
        (Step::Tell, Moment::Told),
        (Step::Refused, Moment::Begun),
        (Step::Refused, Moment::Told),
    ];

    /// The folder is not one of fates.
    #[derive(Debug, thiserror::Error)]
    pub(in crate::worker) enum Error {
        /// A folder that no failpoint has.
        #[error("{VARIABLE}: there is no failpoint {name}; there are {known}")]
        Unknown { name: String, known: String },
        /// It cannot be read.
        #[error("{VARIABLE}: {0}")]
        Folder(#[from] io::Error),
    }

    pub(super) const VARIABLE: &str = "TRIBUTARY_FAILPOINTS";

    fn name(step: Step, moment: Moment) -> String {
        let step = match step {
            Step::Fold => "fold",
            Step::InPlace => "in-place",
            Step::Merge => "merge",
            Step::Finish => "finish",
            Step::SendOn => "send-on",
            Step::Adopt => "adopt",
            Step::Tell => "tell",
            Step::Refused => "refused",
        };
        let moment = match moment {
            Moment::Begun => "begun",
            Moment::Claimed => "claimed",
            Moment::Computed => "computed",
            Moment::Described => "described",
            Moment::Committed => "committed",
            Moment::InputReleased => "input-released",
            Moment::PreviousReleased => "previous-released",
            Moment::Recorded => "recorded",
            Moment::OverlapReleased => "overlap-released",
            Moment::SupersededReleased => "superseded-released",
            Moment::Adopted => "adopted",
            Moment::Sent => "sent",
            Moment::Told => "told",
            Moment::Journaled => "journaled",
            Moment::ImageSaved => "image-saved",
            Moment::PartDone => "part-done",
            Moment::Cleared => "cleared",
        };
        format!("{step}.{moment}")
    }

    fn known() -> impl Iterator<Item = String> {
        ALL.iter().map(|(step, moment)| name(*step, *moment))
    }

    /// What becomes of a worker at a failpoint.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Fate {
        Pass,
        Kill,
        Stop,
    }

    impl Fate {
        /// `0007-kill`, for the seventh that comes along.
        fn from_name(name: &str) -> Option<Self> {
            match name.split_once('-')?.1 {
                "pass" => Some(Self::Pass),
                "kill" => Some(Self::Kill),
                "stop" => Some(Self::Stop),
                _ => None,
            }
        }

        #[cfg(feature = "failpoints")]
        fn meet(self) -> io::Result<()> {
            let signal = match self {
                Self::Pass => return Ok(()),
                Self::Kill => Signal::KILL,
                Self::Stop => Signal::STOP,
            };
            // Delivered before the call returns: the step goes no further, nor does any destructor run.
            Ok(rustix::process::kill_process(
                rustix::process::getpid(),
                signal,
            )?)
        }
    }

    /// Takes the next fate at a failpoint, from whichever process gets there first.
    pub(super) fn take(fates: &Path, failpoint: &str) -> io::Result<Fate> {
        let waiting = match std::fs::read_dir(fates.join(failpoint)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Fate::Pass),
            folder => folder?,
        };
        let mut waiting = waiting.collect::<io::Result<Vec<_>>>()?;
        waiting.sort_by_key(std::fs::DirEntry::file_name);
        for file in waiting {
            let Some(fate) = Fate::from_name(&file.file_name().to_string_lossy()) else {
                continue; // Being written.
            };
            match std::fs::remove_file(file.path()) {
                Ok(()) => return Ok(fate),
                // Another has met it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Fate::Pass)
    }

    /// Refuses a folder with fates at failpoints that are none.
    pub(super) fn check_folder(fates: &Path) -> Result<(), Error> {
        for entry in std::fs::read_dir(fates)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !known().any(|known| known == name) {
                let known = known().collect::<Vec<_>>().join(" ");
                return Err(Error::Unknown { name, known });
            }
        }
        Ok(())
    }

    /// Refuses an environment that names failpoints that are none.
    #[cfg(feature = "failpoints")]
    pub(in crate::worker) fn check() -> Result<(), Error> {
        std::env::var_os(VARIABLE).map_or(Ok(()), |fates| check_folder(Path::new(&fates)))
    }

    #[cfg(feature = "failpoints")]
    static MEETING: std::sync::Mutex<()> = std::sync::Mutex::new(());

    /// Tells that a step has come so far; the process may end here.
    #[cfg(feature = "failpoints")]
    #[allow(
        clippy::panic,
        reason = "a failpoint that is not listed, or fates that cannot be read, must fail the test"
    )]
    pub(in crate::worker) fn reach(step: Step, moment: Moment) {
        let failpoint = name(step, moment);
        assert!(
            ALL.contains(&(step, moment)),
            "failpoint {failpoint} is not in the list"
        );
        let Some(fates) = std::env::var_os(VARIABLE) else {
            return;
        };
        // Held until the fate is met: two threads of one worker must not take two deaths.
        let _one_at_a_time = MEETING.lock();
        let met = take(Path::new(&fates), &failpoint).and_then(Fate::meet);
        if let Err(error) = met {
            panic!("failpoint {failpoint}: {error}");
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::collections::BTreeSet;

        fn fates(at: &str, names: &[&str]) -> tempfile::TempDir {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join(at)).unwrap();
            for name in names {
                std::fs::write(folder.path().join(at).join(name), "").unwrap();
            }
            folder
        }

        #[test]
        fn every_fate_is_met_once_and_in_order() {
            let folder = fates("fold.committed", &["2-pass", "1-kill", "3-stop", "new"]);
            let next = || take(folder.path(), "fold.committed").unwrap();
            let met: Vec<_> = std::iter::repeat_with(next).take(5).collect();
            assert_eq!(
                met,
                [Fate::Kill, Fate::Pass, Fate::Stop, Fate::Pass, Fate::Pass]
            );
            assert_eq!(take(folder.path(), "fold.begun").unwrap(), Fate::Pass);
        }

        #[test]
        fn many_at_once_share_the_fates() {
            let names: Vec<String> = (0..50).map(|n| format!("{n:02}-kill")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let folder = fates("merge.begun", &names);
            let kills = |_| {
                (0..20)
                    .filter(|_| take(folder.path(), "merge.begun").unwrap() == Fate::Kill)
                    .count()
            };
            let met: usize = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || kills(n))).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .sum()
            });
            assert_eq!(met, 50);
        }

        #[test]
        fn an_unknown_failpoint_is_refused_with_the_known_ones() {
            assert!(check_folder(fates("finish.recorded", &[]).path()).is_ok());
            let error = check_folder(fates("finish.input-released", &[]).path());
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains("no failpoint finish.input-released; there are fold.begun "),
                "{error}"
            );
        }

        #[test]
        fn names_are_distinct() {
            assert_eq!(known().collect::<BTreeSet<_>>().len(), ALL.len());
        }
    }
}
