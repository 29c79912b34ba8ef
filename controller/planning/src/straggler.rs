//! Which nodes are slow beside the others of their job.
//!
//! The rounds of a job are much alike, so a node's stage times can be held against those of the other nodes in the same
//! round. The measure is the modified z-score of Iglewicz and Hoaglin (*How to Detect and Handle Outliers*, 1993): the
//! distance from the median, in units of the median absolute deviation (MAD),
//!
//! ```text
//! z = (x - median) / (1.4826 * MAD)        slow where z > 3.5
//! ```
//!
//! with the threshold that they recommend; their factor 0.6745 is 1 / 1.4826, by which the MAD of normally distributed
//! values becomes their standard deviation. Median and MAD are used because a mean and a standard deviation follow the
//! very outlier that is looked for.
//!
//! Three things keep it from accusing anybody without a reason. The unit is never less than a part of the median, nor
//! than a time that matters, so nodes that are all but equal do not make a microsecond an outlier. One bad round says
//! nothing: it takes several of the last ones, and several good ones to be well again. And where fewer than three nodes
//! have told a time, nobody is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The MAD of normally distributed values, times this, is their standard deviation.
const MAD_TO_DEVIATION: f64 = 1.4826;

/// What a node does in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It folds an update.
    Fold,
    /// It hands its partial over, once the round is closed.
    HandOver,
    /// Its partial travels.
    Transfer,
}

/// The times of a node's stages, in seconds. What is missing, or is no finite number, says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    /// [`Stage::Fold`].
    pub fold: Option<f64>,
    /// [`Stage::HandOver`].
    pub hand_over: Option<f64>,
    /// [`Stage::Transfer`].
    pub transfer: Option<f64>,
}

/// The times of a round, by node.
pub type Round = BTreeMap<String, Times>;

/// The parameters of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The z from which on a time is bad.
    pub threshold: f64,
    /// The unit of z is at least this part of the median.
    pub floor: f64,
    /// The least unit of z for [`Stage::Fold`], in seconds.
    pub fold_floor_seconds: f64,
    /// The same for the other stages, which happen once in a round.
    pub round_floor_seconds: f64,
    /// A node is slow that was bad in one stage in so many ...
    pub slow: usize,
    /// ... of so many of its last rounds.
    pub of: usize,
    /// It is well again after so many good rounds in a row.
    pub good: usize,
    /// Fewer nodes than that are not held against each other.
    pub nodes_min: usize,
    /// A partial is overdue after so many times the median of what the others took,
    pub patience: f64,
    /// and not before this time.
    pub patience_min: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threshold: 3.5,
            floor: 0.5,
            fold_floor_seconds: 500e-6,
            round_floor_seconds: 50e-3,
            slow: 3,
            of: 5,
            good: 5,
            nodes_min: 3,
            patience: 10.0,
            patience_min: Duration::from_secs(5),
        }
    }
}

/// What is said of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// It is slow: it has become so, or was and is not well again.
    pub slow: bool,
    /// Its last rounds alone make it slow.
    pub now: bool,
    /// The stage in which it was bad most often of late, and in how many rounds.
    pub worst: Option<(Stage, usize)>,
    /// Its z there, in the newest of those rounds.
    pub z: f64,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fold, Self::HandOver, Self::Transfer];

    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fold => "fold",
            Self::HandOver => "hand-over",
            Self::Transfer => "transfer",
        }
    }
}

impl Times {
    /// The time of a stage.
    #[must_use]
    pub fn of(&self, stage: Stage) -> Option<f64> {
        let time = match stage {
            Stage::Fold => self.fold,
            Stage::HandOver => self.hand_over,
            Stage::Transfer => self.transfer,
        };
        time.filter(|time| time.is_finite() && *time >= 0.0)
    }
}

impl Settings {
    const fn floor_seconds(&self, stage: Stage) -> f64 {
        match stage {
            Stage::Fold => self.fold_floor_seconds,
            Stage::HandOver | Stage::Transfer => self.round_floor_seconds,
        }
    }
}

/// The verdict on each node of which a time could be held against others'.
///
/// `rounds` are the last ones, the newest last; `slow` are the nodes that were slow before. Who is not in the answer is
/// what it was: nothing is known of it.
#[must_use]
pub fn judge(
    rounds: &[Round],
    slow: &BTreeSet<String>,
    settings: &Settings,
) -> BTreeMap<String, Verdict> {
    let mut scored = BTreeMap::<&str, Vec<BTreeMap<Stage, f64>>>::new();
    for round in rounds {
        for (node, scores) in score(round, settings) {
            scored.entry(node).or_default().push(scores);
        }
    }
    let verdicts = scored.into_iter().map(|(node, scores)| {
        let verdict = verdict(&scores, slow.contains(node), settings);
        (node.to_owned(), verdict)
    });
    verdicts.collect()
}

/// Whether partials that have not come are overdue: a closed round has waited `waited` for `missing` of them, and the
/// others took `handed_over` seconds. Only a minority can be: where most are late, it is not the node.
#[must_use]
pub fn overdue(handed_over: &[f64], missing: usize, waited: Duration, settings: &Settings) -> bool {
    let comparable =
        handed_over.len() + missing >= settings.nodes_min && missing < handed_over.len();
    let Some(usual) = median(handed_over.to_vec()).filter(|_| comparable && missing > 0) else {
        return false;
    };
    let patience = settings.patience_min.as_secs_f64();
    waited.as_secs_f64() > patience.max(settings.patience * usual)
}

/// The z of every node in every stage in which enough nodes have told a time.
fn score<'a>(round: &'a Round, settings: &Settings) -> BTreeMap<&'a str, BTreeMap<Stage, f64>> {
    let mut scores = BTreeMap::<&str, BTreeMap<Stage, f64>>::new();
    for stage in Stage::ALL {
        let times = round.iter();
        let times = times.filter_map(|(node, times)| Some((node.as_str(), times.of(stage)?)));
        let times: BTreeMap<&str, f64> = times.collect();
        if times.len() < settings.nodes_min {
            continue;
        }
        for (node, z) in deviations(&times, settings.floor, settings.floor_seconds(stage)) {
            scores.entry(node).or_default().insert(stage, z);
        }
    }
    scores
}

/// The modified z-score of each value; its unit is at least `floor` of the median, and at least `least`.
fn deviations<'a>(
    values: &BTreeMap<&'a str, f64>,
    floor: f64,
    least: f64,
) -> BTreeMap<&'a str, f64> {
    let Some(middle) = median(values.values().copied().collect()) else {
        return BTreeMap::new();
    };
    let distances = values.values().map(|value| (value - middle).abs());
    let mad = median(distances.collect()).unwrap_or_default();
    let unit = (MAD_TO_DEVIATION * mad).max(floor * middle).max(least);
    let z = |value: f64| {
        let distance = value - middle;
        // Where everything is 0, so is the unit.
        if distance > 0.0 || unit > 0.0 {
            distance / unit
        } else {
            0.0
        }
    };
    let values = values.iter();
    values.map(|(name, value)| (*name, z(*value))).collect()
}

/// The middle value, or the mean of the two; `None` of nothing.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(values[low], values[high]))
}

fn verdict(rounds: &[BTreeMap<Stage, f64>], before: bool, settings: &Settings) -> Verdict {
    let bad = |z: &f64| *z > settings.threshold;
    let last = &rounds[rounds.len().saturating_sub(settings.of)..];
    let counts = Stage::ALL.map(|stage| {
        let scores = last.iter().filter_map(|scores| scores.get(&stage));
        (scores.copied().filter(bad).count(), stage)
    });
    let most = counts.into_iter().max().filter(|(count, _)| *count > 0);
    let worst = most.map(|(count, stage)| (stage, count));
    let newest = worst.and_then(|(stage, _)| {
        let mut scores = last.iter().rev().filter_map(|scores| scores.get(&stage));
        scores.find(|z| bad(z)).copied()
    });
    let tail = rounds.iter().rev();
    let good = tail.take_while(|scores| !scores.values().any(bad));
    let well = good.count() >= settings.good;
    let now = worst.is_some_and(|(_, count)| count >= settings.slow);
    Verdict {
        slow: now || (before && !well),
        now,
        worst,
        z: newest.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
