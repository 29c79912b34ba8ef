//! `tributary apply`.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tributary_api::{
    Digest,
    apply::{Action, ApplyResult, Change},
    manifest::{Manifest, source::SourceError},
};

use crate::{
    client::{Client, Payload},
    commands::validate::broken_file,
    failure::Failure,
    output::{self, Output},
    sources::{self, Source},
};

pub(crate) fn run(
    client: &Client,
    output: &Output,
    files: &[PathBuf],
    dry_run: bool,
) -> Result<(), Failure> {
    let sources = sources::read(files)?;
    let manifests = resolve(client, &sources, dry_run)?;
    let path = if dry_run {
        "/v1/apply?dryRun=true"
    } else {
        "/v1/apply"
    };
    let results: Vec<ApplyResult> = client
        .post(path, &manifests)
        .map_err(|failure| located(failure, &sources))?;
    output.write(&results, |results| {
        results
            .iter()
            .map(|result| lines(result, dry_run))
            .collect()
    })
}

/// Uploads the files that the manifests name, and puts digests in the place of their paths. A dry run looks at files
/// and uploads none.
fn resolve(client: &Client, sources: &[Source], dry_run: bool) -> Result<Vec<Manifest>, Failure> {
    let (mut manifests, mut errors) = (Vec::new(), Vec::new());
    for source in sources {
        let digest = match source.file() {
            None => None,
            Some((path, field)) => match digest(&path) {
                Ok((size, digest)) => {
                    if dry_run {
                        errors.extend(broken_file(source));
                    } else {
                        upload(client, &path, size, digest)?;
                    }
                    Some(digest)
                }
                Err(error) => {
                    errors.push(
                        source.error(field, format!("cannot read {}: {error}", path.display())),
                    );
                    None
                }
            },
        };
        manifests.push(source.with_digest(digest));
    }
    if errors.is_empty() {
        Ok(manifests)
    } else {
        Err(Failure::Manifests(errors))
    }
}

fn digest(path: &Path) -> std::io::Result<(u64, Digest)> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    Ok((size, sources::digest(&mut file)?))
}

fn upload(client: &Client, path: &Path, size: u64, digest: Digest) -> Result<(), Failure> {
    let blob = format!("/v1/blobs/{digest}");
    if client.exists(&blob)? {
        return Ok(());
    }
    let _: Value = client.put(&blob, Payload::File(path))?;
    output::say(&format!(
        "uploaded {} ({})",
        path.display(),
        output::bytes(size)
    ));
    Ok(())
}

/// Adds to the server's errors where the wrong fields stand.
fn located(failure: Failure, sources: &[Source]) -> Failure {
    match failure {
        Failure::Problem(problem) if !problem.errors.is_empty() => {
            let located =
                problem
                    .errors
                    .into_iter()
                    .map(|error| match sources.get(error.manifest) {
                        Some(source) => source.document.places.locate(error),
                        None => SourceError {
                            file: "server".into(),
                            place: None,
                            error,
                        },
                    });
            Failure::Manifests(located.collect())
        }
        other => other,
    }
}

fn lines(result: &ApplyResult, dry_run: bool) -> String {
    let kind = result.kind.as_str().to_lowercase();
    let mut lines = format!("{kind}/{} {}", result.name, result.action);
    if result.action != Action::Unchanged {
        lines += &format!(
            " (revision {}{})",
            result.revision,
            if dry_run { ", dry run" } else { "" }
        );
    }
    lines.push('\n');
    for Change { path, from, to } in &result.diff {
        let shown =
            |value: &Option<Value>| value.as_ref().map_or("(none)".into(), Value::to_string);
        lines += &format!("  {path}: {} -> {}\n", shown(from), shown(to));
    }
    for note in &result.notes {
        lines += &format!("  note: {note}\n");
    }
    lines
}
