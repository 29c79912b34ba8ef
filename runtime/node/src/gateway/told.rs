//! What a request says of an update: its round, its weight, the slot in which it lies.

use super::query;
use super::refusal::Refusal;
use crate::job::Job;
use tributary_api::model::{Header, HeaderError};

/// As far as it has been told.
pub(super) struct Told {
    pub round: Option<u64>,
    pub weight: Option<f64>,
    /// The slot that a local client has written.
    pub ticket: Option<String>,
    /// The layout of the model by which a local client writes.
    pub layout: Option<String>,
    /// What shows that it can open the segment.
    pub proof: Option<String>,
}

impl Told {
    pub(super) fn from_query(query: &str) -> Result<Self, Refusal> {
        let mut told = Self {
            round: None,
            weight: None,
            ticket: None,
            layout: None,
            proof: None,
        };
        for (key, value) in query::pairs(query) {
            let known = match &*key {
                "round" => {
                    let round = value.parse().map_err(|_| {
                        Refusal::Malformed(format!("round is {value:?}; it must be a whole number"))
                    })?;
                    told.round.replace(round).is_some()
                }
                "weight" => {
                    let weight = weight(value.parse().ok(), &value)?;
                    told.weight.replace(weight).is_some()
                }
                "slot" => told.ticket.replace(value.into_owned()).is_some(),
                "layout" => told.layout.replace(value.into_owned()).is_some(),
                "proof" => told.proof.replace(value.into_owned()).is_some(),
                other => {
                    return Err(Refusal::Malformed(format!(
                        "unknown query parameter {other:?}; updates take round and weight"
                    )));
                }
            };
            if known {
                return Err(Refusal::Malformed(format!(
                    "the query parameter {key} comes twice; give it once"
                )));
            }
        }
        Ok(told)
    }

    /// Whether it says what only who writes into a slot has to say.
    pub(super) fn is_of_local_path(&self) -> bool {
        self.ticket.is_some() || self.layout.is_some() || self.proof.is_some()
    }

    /// The URL counts before the file.
    pub(super) fn or_header(self, header: &Header) -> Result<Self, Refusal> {
        let round = match self.round {
            Some(round) => Some(round),
            None => header.round()?,
        };
        let in_file = match self.weight {
            Some(weight) => Some(weight),
            None => header
                .num_examples()
                .map_err(bad_weight)?
                .map(|w| weight(Some(w), &w.to_string()))
                .transpose()?,
        };
        Ok(Self {
            round,
            weight: in_file,
            ..self
        })
    }

    /// Round and weight, once nothing more will be told, if the job takes such a weight.
    pub(super) fn settled(&self, job: &Job) -> Result<(u64, f64), Refusal> {
        let round = self.round.ok_or_else(|| {
            Refusal::Malformed(
                "the update names no round: add ?round=R to the URL, or \"round\" to the file's __metadata__".into(),
            )
        })?;
        let weight = self.weight.unwrap_or(1.0);
        check_weight(job, weight)?;
        Ok((round, weight))
    }

    /// What can be said before the file comes.
    pub(super) fn check_weight(&self, job: &Job) -> Result<(), Refusal> {
        self.weight
            .map_or(Ok(()), |weight| check_weight(job, weight))
    }
}

fn check_weight(job: &Job, weight: f64) -> Result<(), Refusal> {
    let bounds = job.update_bounds();
    if bounds.allow(weight) {
        return Ok(());
    }
    Err(Refusal::WeightBeyond {
        job: job.name.clone(),
        weight,
        least: bounds.weight_min,
        most: bounds.weight_max,
        exact: bounds.exact.is_some(),
    })
}

/// A weight is refused alike, wherever it stands.
fn bad_weight(error: HeaderError) -> Refusal {
    match error {
        HeaderError::Metadata { value, .. } => Refusal::BadWeight(value),
        other => other.into(),
    }
}

fn weight(number: Option<f64>, text: &str) -> Result<f64, Refusal> {
    match number {
        Some(weight) if weight.is_finite() && weight > 0.0 => Ok(weight),
        _ => Err(Refusal::BadWeight(text.chars().take(40).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_strict() {
        let told = Told::from_query("round=3&weight=2.5").unwrap();
        assert_eq!((told.round, told.weight), (Some(3), Some(2.5)));
        let told = Told::from_query("%72ound=%31&weight=1e%2B22&slot=a%20b").unwrap();
        assert_eq!((told.round, told.weight), (Some(1), Some(1e22)));
        assert_eq!(told.ticket.as_deref(), Some("a b"));
        let told = Told::from_query("weight=1e+22").unwrap();
        assert_eq!(told.weight, Some(1e22));
        let told = Told::from_query("").unwrap();
        assert_eq!((told.round, told.weight), (None, None));
        for bad in [
            "round=-1",
            "round=",
            "weight=0",
            "weight=-1",
            "weight=nan",
            "weight=inf",
            "wieght=1",
            "round=%zz",
            "round=%ff",
            "round=1&round=1",
            "round=9&weight=1&%72ound=1",
            "weight=1&weight=2",
            "slot=a&slot=b",
        ] {
            assert!(Told::from_query(bad).is_err(), "{bad}");
        }
    }
}
