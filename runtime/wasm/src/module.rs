//! What a module must export, what it may import, and what kind of memory it must have.

use crate::abi::{IMPORT_MODULE, MEMORY_EXPORT, VERSION_EXPORT};
use crate::bulk;
use crate::engine::Engine;
use crate::error::Error;
use crate::host::IMPORTS;
use wasmtime::{ExternType, FuncType, MemoryType, Module, ValType};

/// The longest module that is compiled. Compiling takes the deployer's time and memory.
pub const MODULE_BYTES_MAX: usize = 16 << 20;

const MAGIC: &[u8] = b"\0asm";
/// The most 64 KiB pages that 32-bit addresses reach.
const WASM_PAGES_MAX: u64 = 65_536;

/// The functions that the ABI demands: name, type, and the type as the ABI document writes it.
const EXPORTS: [(&str, &[ValType], &[ValType], &str); 5] = [
    (VERSION_EXPORT, &[], &[], "() -> ()"),
    ("describe", &[], &[ValType::I32], "() -> i32"),
    ("fold", &[ValType::I32], &[ValType::I32], "(i32) -> i32"),
    ("merge", &[ValType::I32], &[ValType::I32], "(i32) -> i32"),
    ("finish", &[ValType::I32], &[ValType::I32], "(i32) -> i32"),
];

/// Validates and compiles a module, and checks that it is a function.
pub(crate) fn compile(engine: &Engine, wasm: &[u8]) -> Result<Module, Error> {
    if !wasm.starts_with(MAGIC) {
        let found = String::from_utf8_lossy(&wasm[..wasm.len().min(16)]);
        return Err(Error::NotWasm(format!(
            "it begins with {found:?} instead of \"\\0asm\""
        )));
    }
    if wasm.len() > MODULE_BYTES_MAX {
        return Err(Error::ModuleTooLarge {
            bytes: wasm.len(),
            limit: MODULE_BYTES_MAX,
        });
    }
    let invalid = |error: wasmtime::Error| Error::Invalid(format!("{error:#}"));
    Module::validate(engine.wasmtime(), wasm).map_err(invalid)?;
    let guarded = bulk::guard(wasm)?;
    let module =
        Module::new(engine.wasmtime(), guarded.as_deref().unwrap_or(wasm)).map_err(invalid)?;
    check_exports(&module)?;
    check_imports(&module)?;
    Ok(module)
}

fn check_exports(module: &Module) -> Result<(), Error> {
    for (name, params, results, expected) in EXPORTS {
        match module.get_export(name) {
            None => return Err(Error::MissingExport { name, expected }),
            Some(ExternType::Func(found)) if has_type(&found, params, results) => {}
            Some(found) => {
                return Err(Error::ExportType {
                    name,
                    found: describe(&found),
                    expected,
                });
            }
        }
    }
    let expected = "a memory of 32-bit addresses, without a maximum";
    match module.get_export(MEMORY_EXPORT) {
        None => Err(Error::MissingExport {
            name: MEMORY_EXPORT,
            expected,
        }),
        Some(ExternType::Memory(memory)) => check_memory(&memory),
        Some(found) => Err(Error::ExportType {
            name: MEMORY_EXPORT,
            found: describe(&found),
            expected,
        }),
    }
}

fn check_memory(memory: &MemoryType) -> Result<(), Error> {
    match memory.maximum() {
        Some(maximum) if maximum < WASM_PAGES_MAX => Err(Error::Memory(format!(
            "declares a maximum of {maximum} pages of 64 KiB; declare none: the host maps the arena \
             after the module's own memory and limits the latter itself (spec.limits.memory)"
        ))),
        _ => Ok(()),
    }
}

fn check_imports(module: &Module) -> Result<(), Error> {
    for import in module.imports() {
        let offered = IMPORTS
            .iter()
            .find(|(name, ..)| import.module() == IMPORT_MODULE && import.name() == *name);
        let Some(&(name, expected)) = offered else {
            let names = IMPORTS.map(|(name, _)| format!("{IMPORT_MODULE}.{name}"));
            return Err(Error::ForbiddenImport {
                module: import.module().to_owned(),
                name: import.name().to_owned(),
                allowed: names.join(", "),
            });
        };
        let found = describe(&import.ty());
        if found != expected {
            return Err(Error::ImportType {
                name,
                found,
                expected,
            });
        }
    }
    Ok(())
}

fn has_type(found: &FuncType, params: &[ValType], results: &[ValType]) -> bool {
    let same = |left: &[ValType], right: &mut dyn ExactSizeIterator<Item = ValType>| {
        left.len() == right.len() && left.iter().zip(right).all(|(a, b)| ValType::eq(a, &b))
    };
    same(params, &mut found.params()) && same(results, &mut found.results())
}

/// A type as the ABI document writes it.
fn describe(found: &ExternType) -> String {
    let list = |types: &mut dyn Iterator<Item = ValType>| {
        let names: Vec<String> = types.map(|ty| ty.to_string()).collect();
        names.join(", ")
    };
    match found {
        ExternType::Func(function) => {
            let params = list(&mut function.params());
            let results = list(&mut function.results());
            match function.results().len() {
                1 => format!("({params}) -> {results}"),
                _ => format!("({params}) -> ({results})"),
            }
        }
        ExternType::Memory(_) => "a memory".into(),
        ExternType::Table(_) => "a table".into(),
        ExternType::Global(_) => "a global".into(),
        ExternType::Tag(_) => "a tag".into(),
    }
}
