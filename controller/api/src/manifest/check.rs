//! What the values of a manifest mean together.

use serde_json::Value;

use super::{
    Accumulate, Determinism, FileReference, FunctionSpec, JobSpec, Manifest, PlacementSpec,
    RoundSpec,
};
use crate::{
    problem::FieldError,
    quantity::{ByteSize, Interval},
};

/// No time in a manifest may be longer.
const INTERVAL_MAX: Interval = Interval::from_secs(365 * 86_400);

/// A page of WASM memory.
const MEMORY_MIN: ByteSize = ByteSize::new(64 << 10);

/// A 32-bit linear memory.
const MEMORY_MAX: ByteSize = ByteSize::new(4 << 30);

/// Everything that is wrong with `manifest` although each value by itself is right.
pub(super) fn check(manifest: &Manifest) -> Vec<FieldError> {
    let mut errors = Errors::default();
    match manifest {
        Manifest::Function(manifest) => function(&manifest.spec, &mut errors),
        Manifest::Job(manifest) => job(&manifest.spec, &mut errors),
    }
    errors.0
}

#[derive(Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn refuse_if(&mut self, wrong: bool, path: &str, message: impl FnOnce() -> String) {
        if wrong {
            self.0.push(FieldError::new(path, message()));
        }
    }

    fn interval(&mut self, path: &str, interval: Interval, min: Interval) {
        self.refuse_if(interval < min, path, || {
            format!("must be at least {min}, is {interval}")
        });
        self.refuse_if(interval > INTERVAL_MAX, path, || {
            format!("must be at most {INTERVAL_MAX}, is {interval}")
        });
    }

    fn file(&mut self, path: &str, file: &FileReference) {
        let given = [file.path.is_some(), file.digest.is_some()]
            .iter()
            .filter(|given| **given)
            .count();
        self.refuse_if(given != 1, path, || "give either `path` or `digest`".into());
    }
}

fn function(spec: &FunctionSpec, errors: &mut Errors) {
    errors.file("spec.module", &spec.module);
    let memory = spec.limits.memory;
    errors.refuse_if(
        !(MEMORY_MIN..=MEMORY_MAX).contains(&memory),
        "spec.limits.memory",
        || format!("must be between {MEMORY_MIN} and {MEMORY_MAX}, is {memory}"),
    );
    errors.interval(
        "spec.limits.deadline",
        spec.limits.deadline,
        Interval::from_millis(1),
    );
}

fn job(spec: &JobSpec, errors: &mut Errors) {
    errors.file("spec.model", &spec.model);
    round(&spec.round, spec.clients.max, errors);
    arithmetic(spec, errors);
    placement(&spec.placement, errors);
    errors.interval("spec.keepAlive", spec.keep_alive, Interval::from_millis(0));
    errors.interval(
        "spec.ingest.idleTimeout",
        spec.ingest.idle_timeout,
        Interval::from_millis(100),
    );
}

fn arithmetic(spec: &JobSpec, errors: &mut Errors) {
    const PLACES: [&str; 2] = ["spec.accumulate", "spec.function.config.accumulate"];
    let given = spec.accumulate.map(|given| Value::from(given.as_str()));
    if let (Some(given), Some(configured)) = (&given, spec.configured_accumulate()) {
        let [there, here] = PLACES;
        for (path, is, other, other_is) in [
            (there, given, here, configured),
            (here, configured, there, given),
        ] {
            errors.refuse_if(given != configured, path, || {
                format!("is {is}, but {other} is {other_is}; leave one of the two out")
            });
        }
    }
    let exact = spec.accumulate_asked() == Some(Accumulate::Exact.as_str());
    errors.refuse_if(
        spec.determinism == Determinism::Exact && !exact,
        "spec.determinism",
        || "`exact` needs exact sums: set spec.accumulate: exact".into(),
    );
}

fn placement(spec: &PlacementSpec, errors: &mut Errors) {
    for (place, job) in spec.anti_affinity.iter().enumerate() {
        errors.refuse_if(
            spec.affinity.contains(job),
            &format!("spec.placement.antiAffinity[{place}]"),
            || format!("{job} stands in `affinity` as well; leave one of the two out"),
        );
    }
}

fn round(round: &RoundSpec, clients_max: u32, errors: &mut Errors) {
    let RoundSpec {
        expected,
        quorum,
        deadline,
    } = round;
    let open_for_ever = expected.is_none() && quorum.is_none() && deadline.is_none();
    errors.refuse_if(open_for_ever, "spec.round", || {
        "a round that nothing closes: give `expected`, `quorum` or `deadline`".into()
    });
    for (path, count) in [
        ("spec.round.expected", expected),
        ("spec.round.quorum", quorum),
    ] {
        let count = count.unwrap_or(0);
        errors.refuse_if(count > clients_max, path, || {
            format!(
                "{count} is more than clients.max, which is {clients_max}; raise spec.clients.max"
            )
        });
    }
    if let (Some(expected), Some(quorum)) = (expected, quorum) {
        errors.refuse_if(quorum > expected, "spec.round.quorum", || {
            format!("{quorum} is more than `expected`, which is {expected}")
        });
    }
    if let Some(deadline) = deadline {
        errors.interval("spec.round.deadline", *deadline, Interval::from_millis(1));
    }
}
