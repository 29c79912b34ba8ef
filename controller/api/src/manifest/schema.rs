//! JSON Schemas of the manifests, made from the Rust types.

use std::sync::LazyLock;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

use super::{FunctionManifest, JobManifest, Kind, Manifest, TenantManifest};

static FUNCTION: LazyLock<Value> = LazyLock::new(generate::<FunctionManifest>);
static TENANT: LazyLock<Value> = LazyLock::new(generate::<TenantManifest>);
static JOB: LazyLock<Value> = LazyLock::new(generate::<JobManifest>);
static ANY: LazyLock<Value> = LazyLock::new(generate::<Manifest>);

/// The JSON Schema (draft 2020-12) of a kind's manifests, or of any manifest.
#[must_use]
pub fn schema(kind: Option<Kind>) -> &'static Value {
    match kind {
        Some(Kind::Function) => &FUNCTION,
        Some(Kind::Tenant) => &TENANT,
        Some(Kind::Job) => &JOB,
        None => &ANY,
    }
}

fn generate<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    // The shape check walks the schema; without references it needs no resolver.
    settings.inline_subschemas = true;
    settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// `UPDATE_SCHEMAS=1 cargo test -p tributary-api` writes the copies again.
    #[test]
    fn checked_in_copies_are_current() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas");
        let kinds = [
            ("function", Some(Kind::Function)),
            ("tenant", Some(Kind::Tenant)),
            ("job", Some(Kind::Job)),
            ("manifest", None),
        ];
        for (name, kind) in kinds {
            let file = docs.join(format!("{name}.json"));
            let current = format!("{:#}\n", schema(kind));
            if std::env::var_os("UPDATE_SCHEMAS").is_some() {
                std::fs::create_dir_all(&docs).unwrap();
                std::fs::write(&file, &current).unwrap();
            }
            let copy = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(
                serde_json::from_str::<Value>(&copy).is_ok_and(|copy| copy == *schema(kind)),
                "docs/schemas/{name}.json is old: run UPDATE_SCHEMAS=1 cargo test -p tributary-api"
            );
        }
    }
}
