//! What a module may use of WebAssembly, and how much of it.
//!
//! Validation takes time in proportion to the module, compiling does not: a function of a few thousand
//! locals and branches costs the compiler gigabytes. So what is compiled is bounded before, with room to
//! spare for what compilers make: the largest function of the kit's `fedavg` has 11 KB and 81 locals.

use crate::error::Error;
use wasmparser::types::Types;
use wasmparser::{
    BinaryReaderError, DataSectionReader, ElementItems, ElementSectionReader, FuncToValidate,
    FuncValidatorAllocations, FunctionBody, Operator, Parser, Payload, TableSectionReader,
    TypeSectionReader, ValidPayload, Validator, ValidatorResources, WasmFeatures,
};

/// What functions may use beyond the first release of WebAssembly: what compilers emit for numerical code.
const FEATURES: WasmFeatures = WasmFeatures::FLOATS
    .union(WasmFeatures::MUTABLE_GLOBAL)
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::CALL_INDIRECT_OVERLONG)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::RELAXED_SIMD);

/// The same for people.
pub(super) const FEATURES_TEXT: &str = "WebAssembly 2.0 without reference types, and relaxed SIMD";

/// The most of one thing that a module may have, and what helps if it has more.
struct Bound {
    most: u64,
    what: &'static str,
    remedy: &'static str,
}

const OPTIMISE: &str = "compile it with optimisation, and without code that is never called";
const SPLIT: &str = "split it";

const fn bound(most: u64, what: &'static str, remedy: &'static str) -> Bound {
    Bound { most, what, remedy }
}

const TYPES: Bound = bound(1024, "types", OPTIMISE);
const PARAMETERS: Bound = bound(64, "parameters", "pass them in memory");
const RESULTS: Bound = bound(16, "results", "return them in memory");
const IMPORTS: Bound = bound(64, "imports", OPTIMISE);
const FUNCTIONS: Bound = bound(8192, "functions", OPTIMISE);
const TABLES: Bound = bound(1, "tables", "use one");
const TABLE_ELEMENTS: Bound = bound(65_536, "elements", OPTIMISE);
const GLOBALS: Bound = bound(1024, "globals", OPTIMISE);
const EXPORTS: Bound = bound(1024, "exports", "export what docs/abi.md asks for");
const ELEMENT_SEGMENTS: Bound = bound(1024, "element segments", OPTIMISE);
const SEGMENT_ELEMENTS: Bound = bound(65_536, "elements in its element segments", OPTIMISE);
const DATA_SEGMENTS: Bound = bound(1024, "data segments", "let the linker merge them");
const CODE_BYTES: Bound = bound(4 << 20, "bytes of code", OPTIMISE);
const BODY_BYTES: Bound = bound(256 << 10, "bytes of code", SPLIT);
const LOCALS: Bound = bound(512, "locals", SPLIT);
const NESTING: Bound = bound(512, "blocks within blocks", SPLIT);
const BRANCHES: Bound = bound(4096, "targets in one br_table", SPLIT);

impl Bound {
    fn check(&self, found: u64, whose: impl FnOnce() -> String) -> Result<(), Error> {
        if found <= self.most {
            return Ok(());
        }
        Err(Error::TooMuch {
            whose: whose(),
            found,
            what: self.what,
            most: self.most,
            remedy: self.remedy,
        })
    }

    fn check_module(&self, found: u64) -> Result<(), Error> {
        self.check(found, || "the module".into())
    }
}

/// Validates a module and refuses one that is out of bounds. Answers the types of what is in it.
pub(super) fn check(wasm: &[u8]) -> Result<Types, Error> {
    let mut validator = Validator::new_with_features(FEATURES);
    let mut allocations = FuncValidatorAllocations::default();
    let mut types = None;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(invalid)?;
        check_section(&payload)?;
        match validator.payload(&payload).map_err(invalid)? {
            ValidPayload::Func(function, body) => {
                allocations = check_function(function, &body, allocations)?;
            }
            ValidPayload::End(found) => types = Some(found),
            ValidPayload::Ok | ValidPayload::Parser(_) => {}
        }
    }
    types.ok_or_else(|| Error::Invalid("it has no end".into()))
}

#[allow(clippy::needless_pass_by_value)] // It stands in `map_err`.
pub(super) fn invalid(error: BinaryReaderError) -> Error {
    match error.missing_wasm_feature() {
        None => Error::Invalid(error.to_string()),
        Some(_) => Error::Invalid(format!(
            "{error}; functions may use {FEATURES_TEXT}: compile without that feature"
        )),
    }
}

fn check_section(payload: &Payload<'_>) -> Result<(), Error> {
    match payload {
        Payload::TypeSection(section) => check_types(section),
        Payload::ImportSection(section) => IMPORTS.check_module(section.count().into()),
        Payload::FunctionSection(section) => FUNCTIONS.check_module(section.count().into()),
        Payload::TableSection(section) => check_tables(section),
        Payload::GlobalSection(section) => GLOBALS.check_module(section.count().into()),
        Payload::ExportSection(section) => EXPORTS.check_module(section.count().into()),
        Payload::ElementSection(section) => check_elements(section),
        Payload::DataSection(section) => check_data(section),
        Payload::CodeSectionStart { size, .. } => CODE_BYTES.check_module((*size).into()),
        _ => Ok(()),
    }
}

fn check_types(section: &TypeSectionReader<'_>) -> Result<(), Error> {
    TYPES.check_module(section.count().into())?;
    for (index, group) in section.clone().into_iter().enumerate() {
        for ty in group.map_err(invalid)?.types() {
            // Other kinds of types are features that the validator refuses.
            if let wasmparser::CompositeInnerType::Func(function) = &ty.composite_type.inner {
                let whose = || format!("type {index}");
                PARAMETERS.check(function.params().len() as u64, whose)?;
                RESULTS.check(function.results().len() as u64, whose)?;
            }
        }
    }
    Ok(())
}

fn check_tables(section: &TableSectionReader<'_>) -> Result<(), Error> {
    TABLES.check_module(section.count().into())?;
    for (index, table) in section.clone().into_iter().enumerate() {
        let initial = table.map_err(invalid)?.ty.initial;
        TABLE_ELEMENTS.check(initial, || format!("table {index}"))?;
    }
    Ok(())
}

fn check_elements(section: &ElementSectionReader<'_>) -> Result<(), Error> {
    ELEMENT_SEGMENTS.check_module(section.count().into())?;
    let mut all = 0;
    for element in section.clone() {
        all += match element.map_err(invalid)?.items {
            ElementItems::Functions(items) => u64::from(items.count()),
            ElementItems::Expressions(_, items) => u64::from(items.count()),
        };
    }
    SEGMENT_ELEMENTS.check_module(all)
}

fn check_data(section: &DataSectionReader<'_>) -> Result<(), Error> {
    DATA_SEGMENTS.check_module(section.count().into())
}

fn check_function(
    function: FuncToValidate<ValidatorResources>,
    body: &FunctionBody<'_>,
    allocations: FuncValidatorAllocations,
) -> Result<FuncValidatorAllocations, Error> {
    let index = function.index;
    let whose = || format!("function {index}");
    BODY_BYTES.check(body.range().len() as u64, whose)?;
    let mut locals = 0;
    for group in body.get_locals_reader().map_err(invalid)? {
        locals += u64::from(group.map_err(invalid)?.0);
    }
    LOCALS.check(locals, whose)?;
    let mut validator = function.into_validator(allocations);
    validator.validate(body).map_err(invalid)?;
    let mut depth: u64 = 0;
    for operator in body.get_operators_reader().map_err(invalid)? {
        match operator.map_err(invalid)? {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => {
                depth += 1;
                NESTING.check(depth, whose)?;
            }
            // The last one ends the function itself.
            Operator::End => depth = depth.saturating_sub(1),
            Operator::BrTable { targets } => BRANCHES.check(targets.len().into(), whose)?,
            _ => {}
        }
    }
    Ok(validator.into_allocations())
}
