//! The process that compiles and proves one function.

use super::{Answer, CPU, Request};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use std::io::{self, BufRead, Read, Write};
use tributary_wasm::{Description, Engine, MODULE_BYTES_MAX, ModuleCache};

/// The longest line that asks: a configuration is part of it.
const REQUEST_BYTES_MAX: u64 = 16 << 20;

/// Why a child cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was started by hand, or its agent is gone.
    #[error("functions are checked for an agent (tributary up), never by hand: {0}")]
    NotAsked(io::Error),
    /// Its limits could not be set.
    #[error("cannot limit this process: {0}")]
    Limits(io::Error),
    /// Its answer could not be given.
    #[error("cannot answer the agent: {0}")]
    Answer(io::Error),
}

/// Reads a request from standard input, limits itself, compiles and proves the function, answers on standard
/// output.
///
/// # Errors
/// If nobody asks or listens. What is wrong with the function is in the answer.
pub fn run() -> Result<(), Error> {
    let (request, wasm) = read_request()?;
    let answer = answer(&request, &wasm);
    let text = serde_json::to_vec(&answer).map_err(|error| Error::Answer(error.into()))?;
    io::stdout().write_all(&text).map_err(Error::Answer)
}

fn read_request() -> Result<(Request, Vec<u8>), Error> {
    let mut input = io::stdin().lock();
    let mut line = String::new();
    let read = input.by_ref().take(REQUEST_BYTES_MAX).read_line(&mut line);
    read.map_err(Error::NotAsked)?;
    let request: Request =
        serde_json::from_str(&line).map_err(|error| Error::NotAsked(error.into()))?;
    limit(&request).map_err(Error::Limits)?;
    let len = request.wasm_bytes.unwrap_or(0);
    // One byte beyond the limit is enough for the module's own check to refuse it.
    let mut wasm = vec![0; len.min(MODULE_BYTES_MAX as u64 + 1) as usize];
    input.read_exact(&mut wasm).map_err(Error::NotAsked)?;
    Ok((request, wasm))
}

fn limit(request: &Request) -> io::Result<()> {
    // If the machine's memory runs out, this process goes first, not the server. Where that cannot be said, the
    // other limits hold all the same.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    // Not the address space: a linear memory reserves 4 GiB of it and uses little. Data are what is writable.
    set(Resource::Data, request.child_memory_bytes(), 0)?;
    // At the first limit it gets a signal that says why; only at the second the one that says nothing.
    set(Resource::Cpu, CPU.as_secs(), 1)?;
    set(Resource::Core, 0, 0)?;
    // A core that goes to a program has no limit.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Lowers a limit to `most`, and to `more` than that as what it may be set to; what is lower stays.
fn set(resource: Resource, most: u64, more: u64) -> io::Result<()> {
    let now = getrlimit(resource);
    let lower = |now: Option<u64>, limit: u64| Some(now.map_or(limit, |now| now.min(limit)));
    let limit = Rlimit {
        current: lower(now.current, most),
        maximum: lower(now.maximum, most + more),
    };
    Ok(setrlimit(resource, limit)?)
}

/// The agent keeps its end of standard input open as long as it lives.
fn end_with_the_agent() -> io::Result<()> {
    let watch = || {
        let _ = io::stdin().lock().read(&mut [0]);
        std::process::exit(1);
    };
    std::thread::Builder::new()
        .name("agent-watch".into())
        .spawn(watch)?;
    Ok(())
}

fn answer(request: &Request, wasm: &[u8]) -> Answer {
    if let Err(error) = end_with_the_agent() {
        return Answer::Unavailable(format!("cannot start a thread: {error}"));
    }
    match prove(request, wasm) {
        Ok(description) => Answer::Proven(description.encode()),
        Err(tributary_wasm::Error::Config(reason)) => Answer::NeedsConfiguration(reason),
        Err(error) if error.is_the_machines() => Answer::Unavailable(error.to_string()),
        Err(error) => Answer::Refused(error.to_string()),
    }
}

fn prove(request: &Request, wasm: &[u8]) -> Result<Description, tributary_wasm::Error> {
    let engine = Engine::new()?;
    let cache = ModuleCache::open(&request.module_cache)?;
    if request.wasm_bytes.is_some() {
        cache.deploy(&engine, wasm)?;
    }
    let function = cache.load(&engine, &request.digest)?;
    tributary_wasm::check(
        &engine,
        &function,
        request.limits(),
        request.config.as_bytes(),
    )
}
