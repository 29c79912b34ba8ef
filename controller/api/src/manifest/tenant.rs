//! Manifests of kind `Tenant`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ApiVersion, Metadata};
use crate::Name;

/// A tenant: whom jobs belong to, and what that gives them where nodes are too small for all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Tenant")]
pub struct TenantManifest {
    /// The version of the manifests' language.
    pub api_version: ApiVersion,
    /// `Tenant`.
    pub kind: TenantKind,
    /// The tenant's name.
    pub metadata: Metadata,
    /// What the tenant is.
    pub spec: TenantSpec,
}

/// The kind of a tenant's manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TenantKind {
    /// The only value.
    #[default]
    Tenant,
}

/// What a tenant is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TenantSpec {
    /// The tenant's part of a node on which more is wanted than it has: tenants share it in proportion to their
    /// weights. At most three decimals.
    #[schemars(range(min = 0.01, max = 1000.0))]
    pub weight: f64,
    /// The tenant's jobs.
    #[serde(skip_serializing_if = "JobsQuota::is_default")]
    pub jobs: JobsQuota,
}

/// How many jobs a tenant may have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct JobsQuota {
    /// The most jobs; without it there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max: Option<u32>,
}

impl TenantSpec {
    /// Whether the weight goes by thousandths. Such numbers are the same after any number of trips through JSON.
    pub(super) fn is_weight_short(&self) -> bool {
        let thousandths = (self.weight * 1e3).round();
        // Division rounds to the nearest number, as reading the decimals does: they are equal to the bit, or differ.
        (thousandths / 1e3).to_bits() == self.weight.to_bits()
    }
}

impl JobsQuota {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for TenantSpec {
    fn default() -> Self {
        Self {
            weight: 1.0,
            jobs: JobsQuota::default(),
        }
    }
}

/// The tenant that always exists. Jobs that name none are its own.
#[must_use]
pub fn default_tenant() -> Name {
    Name::constant("default")
}

#[cfg(test)]
mod tests {
    use super::super::{Manifest, source};
    use super::*;

    fn tenant(spec: &str) -> Result<TenantSpec, Vec<String>> {
        let text = format!(
            "apiVersion: tributary.dev/v1\nkind: Tenant\nmetadata: {{ name: vision }}\nspec: {spec}\n"
        );
        match source::parse("t.yaml", &text) {
            Ok(mut documents) => match documents.remove(0).manifest {
                Manifest::Tenant(tenant) => Ok(tenant.spec),
                other => unreachable!("a tenant was written, not a {}", other.kind()),
            },
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let spec = tenant("{}").unwrap();
        assert_eq!(spec, TenantSpec::default());
        assert_eq!(
            serde_json::to_value(&spec).unwrap(),
            serde_json::json!({"weight": 1.0})
        );
        let spec = tenant("{ weight: 3, jobs: { max: 2 } }").unwrap();
        assert_eq!((spec.weight, spec.jobs.max), (3.0, Some(2)));
    }

    #[test]
    fn wrong_values_are_named_with_the_fix() {
        for (spec, message) in [
            (
                "{ weight: 0 }",
                "t.yaml:4:9: spec.weight: must be at least 0.01, is 0",
            ),
            (
                "{ weight: 1001 }",
                "t.yaml:4:9: spec.weight: must be at most 1000",
            ),
            (
                "{ weight: -1 }",
                "t.yaml:4:9: spec.weight: must be at least 0.01, is -1",
            ),
            (
                "{ weight: .nan }",
                "t.yaml:4:17: non-finite float `.nan` rejected",
            ),
            (
                "{ weight: heavy }",
                "t.yaml:4:9: spec.weight: expected a number, found the string \"heavy\"",
            ),
            (
                "{ weight: 0.0125 }",
                "t.yaml:4:9: spec.weight: has more than three decimals: 0.0125; write 0.013",
            ),
            (
                "{ wieght: 2 }",
                "t.yaml:4:9: spec.wieght: unknown field `wieght`; did you mean `weight`?",
            ),
            (
                "{ jobs: { max: 0 } }",
                "t.yaml:4:17: spec.jobs.max: must be at least 1, is 0",
            ),
        ] {
            let errors = tenant(spec).unwrap_err();
            assert!(errors[0].starts_with(message), "{spec}: {errors:?}");
        }
    }

    #[test]
    fn every_weight_that_is_taken_is_the_same_after_a_trip_through_json() {
        for thousandths in 10..=1_000_000 {
            let weight = f64::from(thousandths) / 1e3;
            let spec = TenantSpec {
                weight,
                ..TenantSpec::default()
            };
            assert!(spec.is_weight_short(), "{weight}");
            let json = serde_json::to_vec(&weight).unwrap();
            assert_eq!(serde_json::from_slice::<f64>(&json).unwrap(), weight);
        }
    }
}
