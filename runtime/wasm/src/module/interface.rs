//! What a module must export, what it may import, and what kind of memory it must have.

use super::bounds::invalid;
use crate::abi::{IMPORT_MODULE, MEMORY_EXPORT, VERSION_EXPORT};
use crate::error::Error;
use crate::host::IMPORTS;
use wasmparser::types::{EntityType, Types};
use wasmparser::{FuncType, MemoryType, Parser, Payload, ValType};

/// The most 64 KiB pages that 32-bit addresses reach.
const WASM_PAGES_MAX: u64 = 65_536;

/// The functions that the ABI demands, and their types as the ABI document writes them.
const EXPORTS: [(&str, &str); 5] = [
    (VERSION_EXPORT, "() -> ()"),
    ("describe", "() -> i32"),
    ("fold", "(i32) -> i32"),
    ("merge", "(i32) -> i32"),
    ("finish", "(i32) -> i32"),
];

/// Checks what a valid module imports and exports.
pub(super) fn check(wasm: &[u8], types: &Types) -> Result<(), Error> {
    check_imports(wasm, types)?;
    check_exports(types)
}

fn check_imports(wasm: &[u8], types: &Types) -> Result<(), Error> {
    for payload in Parser::new(0).parse_all(wasm) {
        let Payload::ImportSection(section) = payload.map_err(invalid)? else {
            continue;
        };
        for import in section.into_imports() {
            let import = import.map_err(invalid)?;
            let offered = IMPORTS
                .iter()
                .find(|(name, _)| import.module == IMPORT_MODULE && import.name == *name);
            let Some(&(name, expected)) = offered else {
                let names = IMPORTS.map(|(name, _)| format!("{IMPORT_MODULE}.{name}"));
                return Err(Error::ForbiddenImport {
                    module: import.module.to_owned(),
                    name: import.name.to_owned(),
                    allowed: names.join(", "),
                });
            };
            let found = types.as_ref().entity_type_from_import(&import);
            let found = found.map_or_else(|| "nothing".into(), |found| describe(types, found));
            if found != expected {
                return Err(Error::ImportType {
                    name,
                    found,
                    expected,
                });
            }
        }
    }
    Ok(())
}

fn check_exports(types: &Types) -> Result<(), Error> {
    for (name, expected) in EXPORTS {
        let export = export(types, name).ok_or(Error::MissingExport { name, expected })?;
        let found = describe(types, export);
        if found != expected {
            return Err(Error::ExportType {
                name,
                found,
                expected,
            });
        }
    }
    let (name, expected) = (
        MEMORY_EXPORT,
        "a memory of 32-bit addresses, without a maximum",
    );
    match export(types, name).ok_or(Error::MissingExport { name, expected })? {
        EntityType::Memory(memory) => check_memory(memory),
        other => Err(Error::ExportType {
            name,
            found: describe(types, other),
            expected,
        }),
    }
}

fn export(types: &Types, name: &str) -> Option<EntityType> {
    let mut exports = types.as_ref().core_exports()?;
    exports
        .find(|(found, _)| *found == name)
        .map(|(_, entity)| entity)
}

fn check_memory(memory: MemoryType) -> Result<(), Error> {
    match memory.maximum {
        Some(maximum) if maximum < WASM_PAGES_MAX => Err(Error::Memory(format!(
            "declares a maximum of {maximum} pages of 64 KiB; declare none: the host maps the arena \
             after the module's own memory and limits the latter itself (spec.limits.memory)"
        ))),
        _ => Ok(()),
    }
}

/// A type as the ABI document writes it.
fn describe(types: &Types, found: EntityType) -> String {
    match found {
        EntityType::Func(id) | EntityType::FuncExact(id) => {
            describe_function(types[id].unwrap_func())
        }
        EntityType::Memory(_) => "a memory".into(),
        EntityType::Table(_) => "a table".into(),
        EntityType::Global(_) => "a global".into(),
        EntityType::Tag(_) => "a tag".into(),
    }
}

fn describe_function(function: &FuncType) -> String {
    let list = |types: &[ValType]| {
        let names: Vec<String> = types.iter().map(ValType::to_string).collect();
        names.join(", ")
    };
    let (params, results) = (list(function.params()), list(function.results()));
    match function.results().len() {
        1 => format!("({params}) -> {results}"),
        _ => format!("({params}) -> ({results})"),
    }
}
