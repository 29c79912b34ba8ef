//! Where a descriptor goes: one aggregator of one job, or the agent.

use core::fmt;

/// A place in a job's tree. Aggregators are `Leaf`, `Middle` and `Top`; `Agent` is the node's supervisor.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The node's agent: descriptors for it are doorbells, never misses.
    Agent = 0,
    /// Takes clients' updates.
    Leaf = 1,
    /// Takes the leaves' partials.
    Middle = 2,
    /// Takes the node's partials and finishes the round.
    Top = 3,
}

impl Level {
    /// All levels, from the agent up.
    pub const ALL: [Self; 4] = [Self::Agent, Self::Leaf, Self::Middle, Self::Top];

    /// The level with this number, if there is one.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Agent),
            1 => Some(Self::Leaf),
            2 => Some(Self::Middle),
            3 => Some(Self::Top),
            _ => None,
        }
    }

    /// The level's name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Leaf => "leaf",
            Self::Middle => "middle",
            Self::Top => "top",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A job's aggregator, in one word: `job << 32 | level << 24 | index`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Destination(u64);

impl Destination {
    /// The greatest index within a level.
    pub const INDEX_MAX: u32 = 0x00ff_ffff;

    /// The destination of the `index`th aggregator of a job's level.
    ///
    /// # Panics
    /// If `index` is greater than [`Self::INDEX_MAX`]: it would name an aggregator of another level.
    #[must_use]
    pub const fn new(job: u32, level: Level, index: u32) -> Self {
        assert!(
            index <= Self::INDEX_MAX,
            "a destination's index has 24 bits"
        );
        Self((job as u64) << 32 | (level as u64) << 24 | index as u64)
    }

    /// The agent, on behalf of a job.
    #[must_use]
    pub const fn agent(job: u32) -> Self {
        Self::new(job, Level::Agent, 0)
    }

    /// The destination with this word. Any word is accepted; [`Self::level`] tells whether it makes sense.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The word.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The job's number on this node.
    #[must_use]
    pub const fn job(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The level, or `None` when the word was not made by [`Self::new`].
    #[must_use]
    pub const fn level(self) -> Option<Level> {
        Level::from_raw((self.0 >> 24) as u8)
    }

    /// The place within the level.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0 as u32 & Self::INDEX_MAX
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (job, index) = (self.job(), self.index());
        match self.level() {
            Some(level) => write!(formatter, "{job}/{level}/{index}"),
            None => write!(formatter, "{job}/level {}/{index}", (self.0 >> 24) as u8),
        }
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Destination({self})")
    }
}
