//! Makes bulk memory operations trap where single stores would.
//!
//! A store to a read-only page of the window raises a signal in compiled code, which wasmtime turns
//! into a trap. `memory.copy`, `memory.fill` and `memory.init` are different: wasmtime runs them as
//! `memmove` and `memset` *in the host* (or as stores that it believes cannot fault), and a signal there
//! ends the process. So before a module is compiled, each of the three becomes a call of a small
//! function that first touches, by ordinary stores of the module, every page that the operation will
//! write, and then performs it:
//!
//! ```text
//!   memory.copy   →  call $copy       $copy(to, from, len): probe(to, len, 0); memory.copy
//!                                     probe(at, len, zero): for every page of [at, at + len):
//!                                         i32.store8 at (i32.load8_u at | zero)
//! ```
//!
//! The probe stores back what it read, so it changes nothing. The `zero` is an argument because a
//! compiler that knew it would drop the store as idempotent (Cranelift does), and with it the trap.
//! Operations that are out of bounds altogether are left to trap by their own check.

use crate::abi::PAGE_BYTES;
use crate::error::Error;
use std::collections::BTreeMap;
use std::convert::Infallible;
use wasm_encoder::reencode::{self, Reencode, utils};
use wasm_encoder::{
    BlockType, CodeSection, Function, FunctionSection, Instruction, MemArg, Module, TypeSection,
    ValType,
};
use wasmparser::{
    CodeSectionReader, FunctionSectionReader, Operator, Parser, Payload, TypeSectionReader,
};

/// A bulk operation that the module uses, as the function that replaces it knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bulk {
    Copy,
    Fill,
    /// Of the data segment with this index.
    Init(u32),
}

impl Bulk {
    /// Modules here have one memory: the engine refuses others.
    fn of(operator: &Operator<'_>) -> Option<Self> {
        match operator {
            Operator::MemoryCopy { .. } => Some(Self::Copy),
            Operator::MemoryFill { .. } => Some(Self::Fill),
            Operator::MemoryInit { data_index, .. } => Some(Self::Init(*data_index)),
            _ => None,
        }
    }

    fn instruction(self) -> Instruction<'static> {
        match self {
            Self::Copy => Instruction::MemoryCopy {
                src_mem: 0,
                dst_mem: 0,
            },
            Self::Fill => Instruction::MemoryFill(0),
            Self::Init(data_index) => Instruction::MemoryInit { mem: 0, data_index },
        }
    }
}

/// The module with its bulk memory operations guarded, or `None` if it has none. `wasm` is valid.
pub(crate) fn guard(wasm: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let invalid = |error: wasmparser::BinaryReaderError| Error::Invalid(error.to_string());
    let Some(mut guards) = Guards::needed_by(wasm).map_err(invalid)? else {
        return Ok(None);
    };
    let mut module = Module::new();
    guards
        .parse_core_module(&mut module, Parser::new(0), wasm)
        .map_err(|error| Error::Invalid(error.to_string()))?;
    Ok(Some(module.finish()))
}

/// Writes the module anew, with the guards appended: no index that stands in it changes.
struct Guards {
    /// The type of all of them, `(i32, i32, i32) -> ()`: the first index after the module's own types.
    type_index: u32,
    /// The first index after the module's own functions.
    probe_function: u32,
    /// The guarded operations, with the functions that replace them.
    functions: BTreeMap<Bulk, u32>,
}

impl Guards {
    fn needed_by(wasm: &[u8]) -> Result<Option<Self>, wasmparser::BinaryReaderError> {
        let mut types = 0;
        let mut functions = 0;
        let mut used = BTreeMap::new();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        types += group?.types().len() as u32;
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let imported = matches!(
                            import?.ty,
                            wasmparser::TypeRef::Func(_) | wasmparser::TypeRef::FuncExact(_)
                        );
                        functions += u32::from(imported);
                    }
                }
                Payload::FunctionSection(section) => functions += section.count(),
                Payload::CodeSectionEntry(body) => {
                    for operator in body.get_operators_reader()? {
                        if let Some(bulk) = Bulk::of(&operator?) {
                            used.insert(bulk, 0);
                        }
                    }
                }
                _ => {}
            }
        }
        if used.is_empty() {
            return Ok(None);
        }
        for (place, index) in used.values_mut().zip(functions + 1..) {
            *place = index;
        }
        Ok(Some(Self {
            type_index: types,
            probe_function: functions,
            functions: used,
        }))
    }

    /// `guard(to, operand, len)`: probe what will be written, then do it.
    fn body(&self, bulk: Bulk) -> Function {
        let mut function = Function::new([]);
        function
            .instructions()
            .local_get(0)
            .local_get(2)
            .i32_const(0)
            .call(self.probe_function)
            .local_get(0)
            .local_get(1)
            .local_get(2);
        function
            .instruction(&bulk.instruction())
            .instruction(&Instruction::End);
        function
    }
}

/// `probe(at, len, zero)`: stores one byte into every page of the `len` bytes at `at`.
fn probe() -> Function {
    const AT: u32 = 0;
    const LEN: u32 = 1;
    const ZERO: u32 = 2;
    const LAST: u32 = 3;
    let byte = MemArg {
        offset: 0,
        align: 0,
        memory_index: 0,
    };
    let mut function = Function::new([(1, ValType::I32)]);
    function
        .instructions()
        .block(BlockType::Empty)
        // Nothing to write: nothing to probe.
        .local_get(LEN)
        .i32_eqz()
        .br_if(0)
        // Beyond 4 GiB the operation traps by itself.
        .local_get(AT)
        .local_get(LEN)
        .i32_add()
        .i32_const(1)
        .i32_sub()
        .local_tee(LAST)
        .local_get(AT)
        .i32_lt_u()
        .br_if(0)
        .loop_(BlockType::Empty)
        .local_get(AT)
        .local_get(AT)
        .i32_load8_u(byte)
        .local_get(ZERO)
        .i32_or()
        .i32_store8(byte)
        // On to the next page, unless this was the last one that 32 bits can name.
        .local_get(AT)
        .i32_const(PAGE_BYTES as i32 - 1)
        .i32_or()
        .i32_const(1)
        .i32_add()
        .local_tee(AT)
        .i32_eqz()
        .br_if(1)
        .local_get(AT)
        .local_get(LAST)
        .i32_le_u()
        .br_if(0)
        .end()
        .end()
        .end();
    function
}

impl Reencode for Guards {
    type Error = Infallible;

    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: TypeSectionReader<'_>,
    ) -> Result<(), reencode::Error<Infallible>> {
        utils::parse_type_section(self, types, section)?;
        types.ty().function([ValType::I32; 3], []);
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: FunctionSectionReader<'_>,
    ) -> Result<(), reencode::Error<Infallible>> {
        utils::parse_function_section(self, functions, section)?;
        for _ in 0..=self.functions.len() {
            functions.function(self.type_index);
        }
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: CodeSectionReader<'_>,
    ) -> Result<(), reencode::Error<Infallible>> {
        utils::parse_code_section(self, code, section)?;
        code.function(&probe());
        for &bulk in self.functions.keys() {
            code.function(&self.body(bulk));
        }
        Ok(())
    }

    fn instruction<'a>(
        &mut self,
        operator: Operator<'a>,
    ) -> Result<Instruction<'a>, reencode::Error<Infallible>> {
        let guard = Bulk::of(&operator).and_then(|bulk| self.functions.get(&bulk));
        match guard {
            Some(&function) => Ok(Instruction::Call(function)),
            None => utils::instruction(self, operator),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operators(wasm: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        for payload in Parser::new(0).parse_all(wasm) {
            if let Payload::CodeSectionEntry(body) = payload.unwrap() {
                for operator in body.get_operators_reader().unwrap() {
                    let operator = format!("{:?}", operator.unwrap());
                    names.push(operator);
                }
                names.push("---".into());
            }
        }
        names
    }

    #[test]
    fn a_module_without_bulk_operations_is_left_alone() {
        let wasm =
            wat::parse_str("(module (memory 1) (func (i32.store (i32.const 0) (i32.const 1))))");
        assert!(guard(&wasm.unwrap()).unwrap().is_none());
    }

    #[test]
    fn every_bulk_operation_becomes_a_call_and_the_rest_stays() {
        let wasm = wat::parse_str(
            r#"(module
                (import "tributary" "clock_ns" (func $clock (result i64)))
                (memory (export "memory") 1)
                (data $one "abc") (data $two "defg")
                (func (export "f") (param i32 i32 i32)
                    (memory.copy (local.get 0) (local.get 1) (local.get 2))
                    (memory.fill (local.get 0) (local.get 1) (local.get 2))
                    (memory.init $two (local.get 0) (local.get 1) (local.get 2))
                    (data.drop $one)))"#,
        )
        .unwrap();
        let guarded = guard(&wasm).unwrap().unwrap();
        wasmtime::Module::validate(&wasmtime::Engine::default(), &guarded).unwrap();
        let operators = operators(&guarded);
        let own: Vec<_> = operators
            .split(|name| name == "---")
            .next()
            .unwrap()
            .to_vec();
        assert!(own.iter().any(|name| name.starts_with("DataDrop")));
        assert!(
            !own.iter().any(|name| name.starts_with("Memory")),
            "{own:?}"
        );
        let calls = own.iter().filter(|name| name.starts_with("Call"));
        let calls: Vec<_> = calls.cloned().collect();
        // Import 0, the module's function 1, the probe 2, then the guards in order.
        assert_eq!(
            calls,
            [3, 4, 5].map(|index| format!("Call {{ function_index: {index} }}"))
        );
    }
}
