//! Manifests in files, and the files that they name.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use tributary_api::{
    Digest,
    manifest::{
        FileReference, Manifest,
        source::{self, Document, SourceError},
    },
    model::{HEADER_BYTES_MAX, Header, HeaderError, PREFIX_BYTES, header_length},
    problem::FieldError,
};

use crate::failure::Failure;

/// A manifest and the directory from which its paths start.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) document: Document,
    directory: PathBuf,
}

/// Reads all manifests of files, directories and stdin.
pub(crate) fn read(files: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let (mut sources, mut errors) = (Vec::new(), Vec::new());
    for file in expand(files)? {
        let (name, text) = if file == Path::new("-") {
            (
                "<stdin>".into(),
                io::read_to_string(io::stdin()).context("cannot read stdin")?,
            )
        } else {
            let text = fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            (file.display().to_string(), text)
        };
        let directory = file.parent().unwrap_or(Path::new("")).to_owned();
        match source::parse(&name, &text) {
            Ok(documents) => sources.extend(documents.into_iter().map(|document| Source {
                document,
                directory: directory.clone(),
            })),
            Err(found) => errors.extend(found),
        }
    }
    if errors.is_empty() {
        Ok(sources)
    } else {
        Err(Failure::Manifests(errors))
    }
}

/// Puts the files of a directory in its place, in the order of their names.
fn expand(files: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut all = Vec::new();
    for file in files {
        if !file.is_dir() {
            all.push(file.clone());
            continue;
        }
        let listed = || format!("cannot list {}", file.display());
        let mut inside = Vec::new();
        for entry in fs::read_dir(file).with_context(listed)? {
            let path = entry.with_context(listed)?.path();
            let yaml = path
                .extension()
                .is_some_and(|extension| extension == "yaml" || extension == "yml");
            if yaml && path.is_file() {
                inside.push(path);
            }
        }
        if inside.is_empty() {
            return Err(Failure::Usage(format!(
                "{} holds no *.yaml or *.yml file",
                file.display()
            )));
        }
        inside.sort();
        all.extend(inside);
    }
    Ok(all)
}

impl Source {
    /// The file that the manifest names by its path, if it does, and the field that names it.
    pub(crate) fn file(&self) -> Option<(PathBuf, &'static str)> {
        let (field, reference) = match &self.document.manifest {
            Manifest::Function(function) => ("spec.module.path", &function.spec.module),
            Manifest::Job(job) => ("spec.model.path", &job.spec.model),
            Manifest::Tenant(_) => return None,
        };
        reference
            .path
            .as_ref()
            .map(|path| (self.directory.join(path), field))
    }

    /// The manifest with the file's digest in the place of its path.
    pub(crate) fn with_digest(&self, digest: Option<Digest>) -> Manifest {
        let mut manifest = self.document.manifest.clone();
        let reference = match &mut manifest {
            Manifest::Function(function) => Some(&mut function.spec.module),
            Manifest::Job(job) => Some(&mut job.spec.model),
            Manifest::Tenant(_) => None,
        };
        if let (Some(reference), Some(digest)) = (reference, digest) {
            *reference = FileReference {
                path: None,
                digest: Some(digest),
            };
        }
        manifest
    }

    /// An error of the manifest's field `path`.
    pub(crate) fn error(&self, path: &str, message: impl Into<String>) -> SourceError {
        self.document.places.locate(FieldError::new(path, message))
    }
}

/// The header of a safetensors file, whose data has the length that the header says.
pub(crate) fn header(path: &Path) -> anyhow::Result<Header> {
    let mut file = File::open(path)?;
    let actual = file.metadata()?.len();
    let mut prefix = [0; PREFIX_BYTES];
    let truncated = |needed| HeaderError::Truncated { actual, needed };
    file.read_exact(&mut prefix)
        .map_err(|_| truncated(PREFIX_BYTES as u64))?;
    let mut json = vec![0; header_length(prefix, HEADER_BYTES_MAX)?];
    let data = (PREFIX_BYTES + json.len()) as u64;
    file.read_exact(&mut json).map_err(|_| truncated(data))?;
    let header = Header::parse(&json)?;
    header.check_data_bytes(actual.saturating_sub(data))?;
    Ok(header)
}

/// The digest of a file.
pub(crate) fn digest(file: &mut File) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::new(hash.finalize().into())),
            length => hash.update(&buffer[..length]),
        }
    }
}
