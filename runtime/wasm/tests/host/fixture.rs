//! Arenas to run functions over, and a function in WAT to make bad ones of.

use rustix::fs::MemfdFlags;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;
use tributary_wasm::{
    CallError, Content, Engine, Error, Function, Input, Instance, Limits, ModuleCache, Operands,
    PAGE_BYTES, Place, Window,
};

pub(crate) const LIMITS: Limits = Limits {
    memory_bytes: 4 << 20,
    deadline: Duration::from_secs(60),
};

/// One engine for all tests, as a process has one.
pub(crate) static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new().unwrap());

/// Deploys and loads a module, by way of a cache as the program does.
pub(crate) fn load(wasm: &[u8]) -> Result<Function, Error> {
    let dir = tempfile::tempdir().unwrap();
    let cache = ModuleCache::open(dir.path()).unwrap();
    let digest = cache.deploy(&ENGINE, wasm)?;
    cache.load(&ENGINE, &digest)
}

/// A module that `cargo xtask build` has built.
pub(crate) fn built(name: &str) -> Vec<u8> {
    let dir = match std::env::var_os("TRIBUTARY_FUNCTIONS_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/functions"),
    };
    let path = dir.join(format!("{name}.wasm"));
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}: run `cargo xtask build`", path.display()))
}

/// Slots in a file of memory.
pub(crate) struct Arena {
    pub(crate) file: File,
    pub(crate) slots: u64,
    pub(crate) stride: u64,
}

impl Arena {
    /// `name` is what `/proc/self/maps` shows.
    pub(crate) fn named(name: &str, slots: u64, vector_bytes: u64) -> Self {
        let stride = PAGE_BYTES + vector_bytes.next_multiple_of(PAGE_BYTES).max(PAGE_BYTES);
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, slots * stride).unwrap();
        Self {
            file: fd.into(),
            slots,
            stride,
        }
    }

    pub(crate) fn new(slots: u64, vector_bytes: u64) -> Self {
        Self::named("tributary-test", slots, vector_bytes)
    }

    pub(crate) fn window(&self) -> Window {
        Window {
            fd: OwnedFd::from(self.file.try_clone().unwrap()),
            offset: 0,
            len: self.slots * self.stride,
        }
    }

    pub(crate) fn instance(&self, function: &Function, limits: Limits, config: &str) -> Instance {
        self.try_instance(function, limits, config).unwrap()
    }

    pub(crate) fn try_instance(
        &self,
        function: &Function,
        limits: Limits,
        config: &str,
    ) -> Result<Instance, Error> {
        function.instantiate(limits, config.as_bytes(), self.window())
    }

    pub(crate) fn place(&self, slot: u64) -> Place {
        Place::at(slot * self.stride)
    }

    pub(crate) fn update(&self, slot: u64, weight: f64) -> Input {
        Input {
            place: self.place(slot),
            weight,
            contributors: 1,
            content: Content::F32,
        }
    }

    pub(crate) fn partial(&self, slot: u64) -> Input {
        self.update(slot, 0.0)
    }

    pub(crate) fn write(&self, slot: u64, values: &[f32]) {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.file
            .write_all_at(&bytes, slot * self.stride + PAGE_BYTES)
            .unwrap();
    }

    pub(crate) fn read(&self, slot: u64, elements: usize) -> Vec<f32> {
        let bytes = self.bytes(slot, PAGE_BYTES, elements * 4);
        let values = bytes.as_chunks::<4>().0.iter();
        values.map(|value| f32::from_le_bytes(*value)).collect()
    }

    pub(crate) fn bytes(&self, slot: u64, from: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, slot * self.stride + from)
            .unwrap();
        bytes
    }
}

/// Operands without a previous partial or a model.
pub(crate) fn operands(elements: u32, output: Place, inputs: &[Input]) -> Operands<'_> {
    Operands {
        round: 1,
        first_element: 0,
        elements,
        model_elements: u64::from(elements),
        previous: None,
        output,
        model: None,
        inputs,
    }
}

/// The parts of a module; tests replace one and keep the others.
#[derive(Clone, Copy)]
pub(crate) struct Wat<'a> {
    pub(crate) imports: &'a str,
    pub(crate) memory: &'a str,
    /// The words of the description.
    pub(crate) description: [u32; 8],
    pub(crate) describe: &'a str,
    pub(crate) fold: &'a str,
    pub(crate) merge: &'a str,
    pub(crate) finish: &'a str,
    /// Anything else at module level.
    pub(crate) rest: &'a str,
}

/// An unweighted sum: one f32 per element, no scalars.
pub(crate) const SUM: Wat<'static> = Wat {
    imports: "",
    memory: r#"(memory (export "memory") 1)"#,
    description: [1, 1, 4, 0, 8, 0, 0, 0],
    describe: "(i32.const 1024)",
    fold: "(call $sum (local.get $call))",
    merge: "(call $sum (local.get $call))",
    finish: "(memory.copy
        (i32.load offset=12 (local.get $call))
        (i32.load offset=8 (local.get $call))
        (i32.mul (i32.load offset=4 (local.get $call)) (i32.const 4)))
      (i32.const 0)",
    rest: "",
};

impl Wat<'_> {
    pub(crate) fn wasm(&self) -> Vec<u8> {
        wat::parse_str(self.text()).unwrap()
    }

    pub(crate) fn function(&self) -> Function {
        load(&self.wasm()).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        let description: String = self
            .description
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .map(|byte| format!("\\{byte:02x}"))
            .collect();
        format!(
            r#"(module
  {imports}
  {memory}
  (data (i32.const 1024) "{description}")
  (func (export "tributary_abi_v1"))
  (func (export "describe") (result i32) {describe})
  (func (export "fold") (param $call i32) (result i32) {fold})
  (func (export "merge") (param $call i32) (result i32) {merge})
  (func (export "finish") (param $call i32) (result i32) {finish})
  ;; output = previous + the sum of the inputs, one element at a time
  (func $sum (param $call i32) (result i32)
    (local $at i32) (local $end i32) (local $input i32) (local $inputs_end i32) (local $value f32)
    (local.set $end (i32.mul (i32.load offset=4 (local.get $call)) (i32.const 4)))
    (local.set $inputs_end (i32.add (local.get $call)
      (i32.add (i32.const 64) (i32.mul (i32.load (local.get $call)) (i32.const 32)))))
    (block $done (loop $elements
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (local.set $value (f32.const 0))
      (if (i32.load offset=8 (local.get $call)) (then
        (local.set $value
          (f32.load (i32.add (i32.load offset=8 (local.get $call)) (local.get $at))))))
      (local.set $input (i32.add (local.get $call) (i32.const 64)))
      (block $summed (loop $inputs
        (br_if $summed (i32.ge_u (local.get $input) (local.get $inputs_end)))
        (local.set $value (f32.add (local.get $value)
          (f32.load (i32.add (i32.load (local.get $input)) (local.get $at)))))
        (local.set $input (i32.add (local.get $input) (i32.const 32)))
        (br $inputs)))
      ;; no sum leaves the range of f32
      (f32.store (i32.add (i32.load offset=12 (local.get $call)) (local.get $at))
        (f32.max (f32.const -0x1.fffffep127) (f32.min (f32.const 0x1.fffffep127) (local.get $value))))
      (local.set $at (i32.add (local.get $at) (i32.const 4)))
      (br $elements)))
    (i32.const 0))
  {rest}
)"#,
            imports = self.imports,
            memory = self.memory,
            describe = self.describe,
            fold = self.fold,
            merge = self.merge,
            finish = self.finish,
            rest = self.rest,
        )
    }
}

/// Folds one update by a function whose fold is `fold`; slots: 0 and 3 updates, 1 output, 2 nothing.
pub(crate) fn fold_by(wat: Wat<'_>) -> (Arena, Result<(), CallError>) {
    let arena = Arena::new(4, 4096);
    arena.write(0, &[1.0, 2.0, 3.0]);
    let mut instance = arena.instance(&wat.function(), LIMITS, "");
    let inputs = [arena.update(0, 1.0)];
    let folded = instance.fold(&operands(3, arena.place(1), &inputs));
    if let Err(error) = &folded {
        let again = instance.fold(&operands(3, arena.place(1), &inputs));
        let unusable = matches!(again, Err(CallError::Unusable { .. }));
        assert_eq!(unusable, !error.instance_survives(), "{error}");
    }
    (arena, folded)
}
