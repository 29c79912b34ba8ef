//! What the values of a manifest mean together.

use serde_json::Value;

use super::{
    Accumulate, Determinism, FileReference, FunctionSpec, JobSpec, Manifest, PlacementSpec,
    RoundSpec, Staleness, StalenessWeight, TenantSpec, UpdateBounds, WeightSpec,
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

/// The least that a client's minimum rate may be, in a second.
const RATE_MIN: ByteSize = ByteSize::new(1 << 10);

/// Everything that is wrong with `manifest` although each value by itself is right.
pub(super) fn check(manifest: &Manifest) -> Vec<FieldError> {
    let mut errors = Errors::default();
    match manifest {
        Manifest::Function(manifest) => function(&manifest.spec, &mut errors),
        Manifest::Tenant(manifest) => tenant(&manifest.spec, &mut errors),
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

fn tenant(spec: &TenantSpec, errors: &mut Errors) {
    let weight = spec.weight;
    errors.refuse_if(!spec.is_weight_short(), "spec.weight", || {
        format!("has more than three decimals: {weight}; write {weight:.3}")
    });
}

fn job(spec: &JobSpec, errors: &mut Errors) {
    errors.file("spec.model", &spec.model);
    round(&spec.round, spec.clients.max, errors);
    arithmetic(spec, errors);
    weight(spec, errors);
    placement(&spec.placement, errors);
    if let Some(keep_alive) = spec.keep_alive {
        errors.interval("spec.keepAlive", keep_alive, Interval::from_millis(0));
    }
    errors.interval(
        "spec.ingest.idleTimeout",
        spec.ingest.idle_timeout,
        Interval::from_millis(100),
    );
    let rate = spec.ingest.min_rate;
    errors.refuse_if(rate < RATE_MIN, "spec.ingest.minRate", || {
        format!(
            "must be at least {RATE_MIN}, is {rate}: a slower body would hold its slot for hours"
        )
    });
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

/// Some weight must be allowed.
fn weight(spec: &JobSpec, errors: &mut Errors) {
    const PATH: &str = "spec.ingest.weight";
    let WeightSpec { min, max } = spec.ingest.weight;
    if min > max {
        let message = format!("min is {min:e}, which is more than max, {max:e}");
        errors.0.push(FieldError::new(PATH, message));
        return;
    }
    let clients = spec.clients.max;
    let UpdateBounds {
        weight_min: least,
        weight_max: most,
        exact,
    } = spec.update_bounds(clients);
    errors.refuse_if(exact.is_some() && min > most, PATH, || {
        format!(
            "min is {min:e}, but exact sums of {clients} clients take weights up to {most:.1e}; \
             lower min, scaleBits or spec.clients.max"
        )
    });
    errors.refuse_if(exact.is_some() && max < least, PATH, || {
        format!(
            "max is {max:e}, but exact sums take weights from {least:.1e}; raise max or scaleBits"
        )
    });
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
    triggers(round, errors);
    counts(round, clients_max, errors);
    for (path, interval) in [
        ("spec.round.deadline", round.deadline),
        ("spec.round.window", round.window),
        ("spec.round.timeout", round.timeout),
    ] {
        if let Some(interval) = interval {
            errors.interval(path, interval, Interval::from_millis(1));
        }
    }
    if let Some(allowed) = &round.staleness {
        staleness(allowed, errors);
    }
}

/// What closes a round: something, and nothing that speaks against something else.
fn triggers(round: &RoundSpec, errors: &mut Errors) {
    let given = [
        ("expected", round.expected.is_some()),
        ("quorum", round.quorum.is_some()),
        ("deadline", round.deadline.is_some()),
        ("count", round.count.is_some()),
        ("window", round.window.is_some()),
    ];
    let first = given.iter().find(|(_, given)| *given).map(|(name, _)| name);
    errors.refuse_if(first.is_none() && !round.each, "spec.round", || {
        "a round that nothing closes: give `expected`, `quorum`, `deadline`, `count`, `window` or `each`".into()
    });
    if let Some(other) = first.filter(|_| round.each) {
        let message = format!(
            "each update closes its round, so `{other}` can never count; leave one of the two out"
        );
        errors.0.push(FieldError::new("spec.round.each", message));
        return;
    }
    errors.refuse_if(
        round.window.is_some() && round.deadline.is_some(),
        "spec.round.window",
        || {
            "a round has one clock: `window` counts from its opening, `deadline` from its first update; \
             leave one of the two out"
                .into()
        },
    );
    for (name, given) in [
        ("count", round.count.is_some()),
        ("window", round.count.is_none() && round.window.is_some()),
    ] {
        errors.refuse_if(given && round.quorum.is_some(), "spec.round.quorum", || {
            format!("`{name}` closes a round without a quorum; leave one of the two out")
        });
    }
}

fn counts(round: &RoundSpec, clients_max: u32, errors: &mut Errors) {
    for (path, count) in [
        ("spec.round.expected", round.expected),
        ("spec.round.quorum", round.quorum),
        ("spec.round.count", round.count),
    ] {
        let count = count.unwrap_or(0);
        errors.refuse_if(count > clients_max, path, || {
            format!(
                "{count} is more than clients.max, which is {clients_max}; raise spec.clients.max"
            )
        });
    }
    let expected = round.expected.unwrap_or(u32::MAX);
    for (path, enough) in [
        ("spec.round.quorum", round.quorum),
        ("spec.round.count", round.count),
    ] {
        let enough = enough.unwrap_or(0);
        errors.refuse_if(enough > expected, path, || {
            format!("{enough} is more than `expected`, which is {expected}")
        });
    }
}

fn staleness(allowed: &Staleness, errors: &mut Errors) {
    const PATH: &str = "spec.round.staleness";
    let Staleness { weight, a, b, .. } = *allowed;
    let takes_a = weight != StalenessWeight::Constant;
    let takes_b = weight == StalenessWeight::Hinge;
    for (name, given, taken, by) in [
        ("a", a.is_some(), takes_a, "`polynomial` or `hinge`"),
        ("b", b.is_some(), takes_b, "`hinge`"),
    ] {
        let path = format!("{PATH}.{name}");
        errors.refuse_if(given && !taken, &path, || {
            let weight = weight.as_str();
            format!("weight `{weight}` has no `{name}`: leave it out, or set weight to {by}")
        });
    }
    errors.refuse_if(takes_b && (a.is_none() || b.is_none()), PATH, || {
        "weight `hinge` needs `a` and `b`: 1 up to b, then 1 / (a (t - b) + 1)".into()
    });
}
