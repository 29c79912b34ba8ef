//! `tributary pull`.

use std::{
    fs::{self, File},
    io::{self, BufWriter, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use serde_json::json;

use crate::{
    args::Pull,
    client::{Client, Payload},
    failure::Failure,
    output::Output,
};

pub(crate) fn run(client: &Client, output: &Output, pull: &Pull) -> Result<(), Failure> {
    if pull.file.is_none() && io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "a model is binary and this is a terminal; give -o FILE".into(),
        ));
    }
    let response = client.send("GET", &path(pull), Payload::None)?;
    if response.status() == 204 {
        let after = pull.after.unwrap_or(0);
        return Err(anyhow!("job {} has no model newer than version {after}", pull.job).into());
    }
    let version = response
        .headers()
        .get("tributary-version")
        .and_then(|version| version.to_str().ok());
    let version: Option<u64> = version.and_then(|version| version.parse().ok());
    let mut model = response.into_body().into_reader();
    let Some(file) = &pull.file else {
        let mut stdout = io::stdout().lock();
        io::copy(&mut model, &mut stdout)
            .and_then(|_| stdout.flush())
            .map_err(Failure::Stdout)?;
        return Ok(());
    };
    let bytes =
        save(file, &mut model).with_context(|| format!("cannot write {}", file.display()))?;
    let done = json!({ "job": pull.job, "version": version, "bytes": bytes, "file": file });
    let shown = version.map_or("of unknown version".into(), |version| {
        format!("version {version}")
    });
    output.write(&done, |_| {
        format!("{}: model of job {}, {shown}\n", file.display(), pull.job)
    })
}

fn path(pull: &Pull) -> String {
    let after = pull.after.map(|after| format!("after={after}"));
    let wait = pull.wait.map(|wait| format!("wait={wait}"));
    let query: Vec<_> = after.into_iter().chain(wait).collect();
    let path = format!("/v1/jobs/{}/model", pull.job);
    if query.is_empty() {
        path
    } else {
        format!("{path}?{}", query.join("&"))
    }
}

/// Writes the whole model, or leaves what was there.
fn save(file: &Path, model: &mut impl io::Read) -> io::Result<u64> {
    // A device or a pipe, such as /dev/null, must not be replaced by a file.
    if fs::metadata(file).is_ok_and(|metadata| !metadata.is_file()) {
        return io::copy(model, &mut File::create(file)?);
    }
    let part = beside(file);
    let written = File::create(&part).and_then(|created| {
        let mut writer = BufWriter::with_capacity(1 << 20, created);
        let bytes = io::copy(model, &mut writer)?;
        writer.flush()?;
        fs::rename(&part, file)?;
        Ok(bytes)
    });
    if written.is_err() {
        // The error that is told is the first one.
        let _ = fs::remove_file(&part);
    }
    written
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    file.with_file_name(name)
}
