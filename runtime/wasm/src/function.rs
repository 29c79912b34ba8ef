//! A deployed function, ready to be instantiated.

use crate::engine::Engine;
use crate::error::Error;
use crate::host::{self, Host};
use crate::instance::{Instance, Window};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::{InstancePre, Module, Store};

/// What a function may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the module's own memory. The window does not count.
    pub memory_bytes: u64,
    /// How long one call may take.
    pub deadline: Duration,
}

/// A compiled module that has been found to be a function. Cloning is cheap.
#[derive(Clone)]
pub struct Function {
    engine: Engine,
    digest: Arc<str>,
    prepared: InstancePre<Host>,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Function")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Function {
    pub(crate) fn new(engine: &Engine, digest: &str, module: &Module) -> Result<Self, Error> {
        let prepared = host::linker(engine.wasmtime())?
            .instantiate_pre(module)
            .map_err(|error| Error::Engine(format!("{error:#}")))?;
        Ok(Self {
            engine: engine.clone(),
            digest: digest.into(),
            prepared,
        })
    }

    /// The hexadecimal SHA-256 of the module, as deployed.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Makes an instance, asks it to describe itself under `config` (a JSON object, or nothing), and
    /// maps `window` into its memory.
    ///
    /// # Errors
    /// Fails if the function refuses the configuration or describes itself impossibly, if it breaks
    /// its limits, or if the window does not fit or cannot be mapped.
    pub fn instantiate(
        &self,
        limits: Limits,
        config: &[u8],
        window: Window,
    ) -> Result<Instance, Error> {
        Instance::new(self, limits, config, window)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn instantiate_pre(
        &self,
        store: &mut Store<Host>,
    ) -> wasmtime::Result<wasmtime::Instance> {
        self.prepared.instantiate(store)
    }
}
