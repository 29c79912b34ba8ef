//! Functions are compiled and proven in a process of their own.
//!
//! A module is a stranger's program, and so is the work that it makes for a compiler. What it does to its
//! process - memory, time, a signal - it does to a child that has no other task. The child leaves the compiled
//! module in the module cache, where workers load it; this process never compiles or runs any.

mod child;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tributary_api::control::{FunctionRevision, NodeError};
use tributary_wasm::{DESCRIPTION_BYTES, Description, Limits, ModuleCache};

pub use child::{Error as ChildError, run};

/// Processor time for all of a check: reading, compiling, every law.
const CPU: Duration = Duration::from_secs(30);
/// The same by the clock, on a machine that has other things to do.
const WALL: Duration = Duration::from_secs(50);
/// Memory for compiling and proving, beside what the function itself may have.
const MEMORY_BYTES: u64 = 512 << 20;
/// How many checks may wait while one runs, and for how long.
const QUEUE: usize = 16;
const QUEUE_WAIT: Duration = Duration::from_secs(50);
/// The longest answer, which may have an error's text in it.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// How many proofs are remembered.
const PROVEN_MAX: usize = 1024;

/// What a child is asked; a line of JSON. The module follows if it has yet to be compiled.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Request {
    module_cache: PathBuf,
    digest: String,
    wasm_bytes: Option<u64>,
    memory_bytes: u64,
    deadline: Duration,
    config: String,
}

impl Request {
    fn limits(&self) -> Limits {
        Limits {
            memory_bytes: self.memory_bytes,
            deadline: self.deadline,
        }
    }

    /// Memory that the child may take.
    fn child_memory_bytes(&self) -> u64 {
        self.memory_bytes.saturating_add(MEMORY_BYTES)
    }
}

/// What a child answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Proven([u8; DESCRIPTION_BYTES]),
    NeedsConfiguration(String),
    Refused(String),
    /// The machine lacks something.
    Unavailable(String),
}

/// What came of a check.
#[derive(Debug)]
pub(crate) enum Verdict {
    Proven(Description),
    /// `describe` refused the configuration, for this reason.
    NeedsConfiguration(String),
}

/// Runs the children, one at a time.
pub(crate) struct Prover {
    program: PathBuf,
    module_cache: PathBuf,
    cache: ModuleCache,
    turn: Semaphore,
    queue: Semaphore,
    /// What was proven in this process's life, the oldest first, by the digest of the request.
    proven: Mutex<VecDeque<([u8; 32], Description)>>,
}

impl Prover {
    /// `program` is run with the argument `prove`.
    pub(crate) fn new(
        program: PathBuf,
        module_cache: PathBuf,
    ) -> Result<Self, tributary_wasm::Error> {
        Ok(Self {
            program,
            cache: ModuleCache::open(&module_cache)?,
            module_cache,
            turn: Semaphore::new(1),
            queue: Semaphore::new(QUEUE + 1),
            proven: Mutex::default(),
        })
    }

    /// Compiles a function if `wasm` is given, and proves it under a configuration.
    pub(crate) async fn prove(
        &self,
        function: &FunctionRevision,
        config: &Value,
        wasm: Option<&[u8]>,
    ) -> Result<Verdict, NodeError> {
        let request = Request {
            module_cache: self.module_cache.clone(),
            digest: function.digest.hex(),
            wasm_bytes: None,
            memory_bytes: function.spec.limits.memory.bytes(),
            deadline: function.spec.limits.deadline.duration(),
            config: config.to_string(),
        };
        let named = |error: &str| {
            format!(
                "function {} revision {}: {error}",
                function.name, function.revision
            )
        };
        let answer = self.answer(request, wasm).await;
        let answer = answer.map_err(|error| NodeError::Unavailable(named(&error)))?;
        match answer {
            Answer::Proven(description) => Description::decode(&description)
                .map(Verdict::Proven)
                .map_err(|error| NodeError::Refused(named(&error.to_string()))),
            Answer::NeedsConfiguration(reason) => Ok(Verdict::NeedsConfiguration(reason)),
            Answer::Refused(error) => Err(NodeError::Refused(named(&error))),
            Answer::Unavailable(error) => Err(NodeError::Unavailable(named(&error))),
        }
    }

    /// What is known, or else what a child says. The error is why none could be asked.
    async fn answer(&self, mut request: Request, wasm: Option<&[u8]>) -> Result<Answer, String> {
        let key = key(&request);
        if let Some(answer) = self.known(&key, &request.digest) {
            return Ok(answer);
        }
        let _place = self.queue.try_acquire().map_err(|_| {
            format!("{QUEUE} functions wait to be checked already; try again in a minute")
        })?;
        let turn = timeout(QUEUE_WAIT, self.turn.acquire()).await;
        let _turn = turn.map_err(|_| {
            format!("other functions have been checked for {QUEUE_WAIT:?}; try again in a minute")
        })?;
        // It may have been the same function that was waited for.
        if let Some(answer) = self.known(&key, &request.digest) {
            return Ok(answer);
        }
        request.wasm_bytes = wasm.map(|wasm| wasm.len() as u64);
        let answer = self.ask(&request, wasm.unwrap_or_default()).await?;
        if let Answer::Proven(description) = &answer
            && let Ok(description) = Description::decode(description)
        {
            self.remember(key, description);
        }
        Ok(answer)
    }

    fn known(&self, key: &[u8; 32], digest: &str) -> Option<Answer> {
        if !self.cache.holds(digest) {
            return None;
        }
        let proven = self.proven();
        let (_, description) = proven.iter().find(|(proven, _)| proven == key)?;
        Some(Answer::Proven(description.encode()))
    }

    fn remember(&self, key: [u8; 32], description: Description) {
        let mut proven = self.proven();
        if proven.len() == PROVEN_MAX {
            proven.pop_front();
        }
        proven.push_back((key, description));
    }

    fn proven(&self) -> MutexGuard<'_, VecDeque<([u8; 32], Description)>> {
        // No code panics while it holds the lock.
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, request: &Request, wasm: &[u8]) -> Result<Answer, String> {
        let failed = |error: std::io::Error| {
            format!(
                "the process that checks functions ({} prove): {error}",
                self.program.display()
            )
        };
        let mut child = Command::new(&self.program)
            .arg("prove")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut question = serde_json::to_vec(request).map_err(|error| failed(error.into()))?;
        question.push(b'\n');
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
            return Err(failed(std::io::Error::other("it has no pipes")));
        };
        let exchange = async {
            // If the child is gone already, its status says more than this error.
            let _ = stdin.write_all(&question).await;
            let _ = stdin.write_all(wasm).await;
            let mut answer = Vec::new();
            let mut limited = stdout.take(ANSWER_BYTES_MAX);
            limited.read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>((answer, child.wait().await?))
        };
        // Its end of the pipe stays open until then: the child ends when this process does.
        match timeout(WALL, exchange).await {
            Ok(Ok((answer, status))) => Ok(read_answer(request, &answer, status)),
            Ok(Err(error)) => Err(failed(error)),
            // Dropping the child kills it.
            Err(_) => Ok(Answer::Unavailable(format!(
                "checking it was ended after {WALL:?}, of which it had less than {CPU:?} of processor \
                 time: this machine is busy; apply it again later"
            ))),
        }
    }
}

fn key(request: &Request) -> [u8; 32] {
    // A request always is JSON.
    let text = serde_json::to_vec(request).unwrap_or_default();
    Sha256::digest(text).into()
}

fn read_answer(request: &Request, answer: &[u8], status: ExitStatus) -> Answer {
    if status.success()
        && let Ok(answer) = serde_json::from_slice(answer)
    {
        return answer;
    }
    let ended = format!(
        "the module ended the process that checked it: {}; compiling and proving it may take {} MiB of \
         memory and {CPU:?} of processor time",
        how(status),
        request.child_memory_bytes() >> 20,
    );
    match status.signal() {
        // Nobody here sends it: it is what the kernel does when the machine's memory runs out.
        Some(KILL) => Answer::Unavailable(ended),
        _ => Answer::Refused(ended),
    }
}

const KILL: i32 = rustix::process::Signal::KILL.as_raw();

fn how(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(0)) => "it ended without an answer".into(),
        (None, code) => format!("exit code {}", code.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            module_cache: "/cache".into(),
            digest: "ab".into(),
            wasm_bytes: None,
            memory_bytes: 64 << 20,
            deadline: Duration::from_secs(2),
            config: "{}".into(),
        }
    }

    #[test]
    fn an_end_by_a_signal_is_a_refusal_that_names_it() {
        let Answer::Refused(text) = read_answer(&request(), b"", ExitStatus::from_raw(6)) else {
            panic!("it was the module");
        };
        assert!(
            text.contains("signal 6") && text.contains("576 MiB"),
            "{text}"
        );
        let killed = read_answer(&request(), b"", ExitStatus::from_raw(KILL));
        assert!(matches!(killed, Answer::Unavailable(_)), "{killed:?}");
    }

    #[test]
    fn an_answer_counts_only_from_a_child_that_ended_well() {
        let answer = serde_json::to_vec(&Answer::Proven([1; DESCRIPTION_BYTES])).unwrap();
        let well = read_answer(&request(), &answer, ExitStatus::from_raw(0));
        assert!(matches!(well, Answer::Proven(_)), "{well:?}");
        for status in [ExitStatus::from_raw(11), ExitStatus::from_raw(101 << 8)] {
            let refused = read_answer(&request(), &answer, status);
            assert!(matches!(refused, Answer::Refused(_)), "{refused:?}");
        }
    }
}
