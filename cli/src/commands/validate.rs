//! `tributary validate`: what can be checked without a server.

use std::{fs::File, io::Read as _, path::PathBuf};

use serde_json::json;
use tributary_api::{
    manifest::{Kind, source::SourceError},
    model::ModelLayout,
};

use crate::{
    failure::Failure,
    output::{self, Output},
    sources::{self, Source},
};

/// What every WASM module begins with.
const WASM_MAGIC: &[u8] = b"\0asm";

pub(crate) fn run(output: &Output, files: &[PathBuf]) -> Result<(), Failure> {
    let sources = sources::read(files)?;
    let errors: Vec<_> = sources.iter().filter_map(broken_file).collect();
    if !errors.is_empty() {
        return Err(Failure::Manifests(errors));
    }
    let valid: Vec<_> = sources
        .iter()
        .map(|source| {
            let manifest = &source.document.manifest;
            json!({ "kind": manifest.kind(), "name": manifest.name(), "valid": true })
        })
        .collect();
    output.write(&valid, |_| {
        let line = |source: &Source| {
            let manifest = &source.document.manifest;
            format!(
                "{}/{} is valid\n",
                manifest.kind().as_str().to_lowercase(),
                manifest.name()
            )
        };
        sources.iter().map(line).collect()
    })
}

/// What is wrong with the file that a manifest names. One that is not there may yet be built.
pub(crate) fn broken_file(source: &Source) -> Option<SourceError> {
    let (path, field) = source.file()?;
    let Ok(file) = File::open(&path) else {
        output::say(&format!(
            "warning: {}",
            source.error(field, format!("{} cannot be read", path.display()))
        ));
        return None;
    };
    let checked = match source.document.manifest.kind() {
        Kind::Function => module(file),
        Kind::Job => sources::header(&path)
            .and_then(|header| Ok(ModelLayout::from_header(&header).map(drop)?)),
        // It names no file.
        Kind::Tenant => return None,
    };
    checked
        .err()
        .map(|error| source.error(field, format!("{}: {error:#}", path.display())))
}

fn module(mut file: File) -> anyhow::Result<()> {
    let mut magic = [0; 4];
    let whole = file.read_exact(&mut magic).is_ok();
    anyhow::ensure!(whole && magic == WASM_MAGIC, "the file is no WASM module");
    Ok(())
}
