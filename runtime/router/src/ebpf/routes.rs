//! The kernel's routes, and their counters.
//!
//! Counters must outlive their routes without a gap, and without a race: the program may have looked up a route
//! just before it is removed, and count after that. So the counters of a removed route stay in the kernel's map,
//! *retired*, and [`Routes::add_to`] goes on reading them. When many have retired they are folded into totals
//! together: after one grace period of the kernel (`membarrier` waits for it), in which every program that could
//! still know one of the routes has returned. No count is lost, and none is read twice.
//!
//! If the kernel has no such `membarrier` (`nohz_full`, or one CPU), folding may miss the descriptors that are
//! being redirected at that very moment, at most one for each CPU.

use std::collections::{BTreeMap, HashSet};

use aya::maps::{HashMap, MapData, PerCpuHashMap, PerCpuValues};
use rustix::thread::{MembarrierCommand, membarrier};
use tracing::debug;
use tributary_sidecar_layout::{
    Destination, Level,
    sidecar::{ROUTE_STATS, ROUTES, ROUTES_MAX},
};

use super::refusal;
use crate::{Error, PortId, Traffic};

/// How many retired counters are folded together. A grace period takes some milliseconds, in which
/// [`Routes::remove`] does not return; this makes it one call in many.
const RETIRED_MAX: usize = 256;

type Totals = BTreeMap<(u32, Level), Traffic>;

/// See the module.
pub(super) struct Routes {
    routes: HashMap<MapData, u64, PortId>,
    /// `RouteStats`, as an array because that is what aya can read.
    stats: PerCpuHashMap<MapData, u64, [u64; 2]>,
    cpus: usize,
    /// All destinations in `stats`.
    counted: HashSet<Destination>,
    /// Those of them without a route.
    retired: HashSet<Destination>,
    /// What was in `stats` once.
    folded: Totals,
}

impl Routes {
    pub(super) fn new(
        routes: HashMap<MapData, u64, PortId>,
        stats: PerCpuHashMap<MapData, u64, [u64; 2]>,
    ) -> Result<Self, Error> {
        let cpus =
            aya::util::nr_cpus().map_err(|(_, error)| refusal::explain("counting CPUs", &error))?;
        let (counted, retired) = (HashSet::new(), HashSet::new());
        Ok(Self {
            routes,
            stats,
            cpus,
            counted,
            retired,
            folded: Totals::new(),
        })
    }

    /// Sets or changes a route. The counters first: the program never makes them.
    pub(super) fn set(&mut self, destination: Destination, port: PortId) -> Result<(), Error> {
        self.count(destination)?;
        let set = self
            .routes
            .insert(destination.raw(), port, 0)
            .map_err(refusal::map(ROUTES, "changed"));
        if set.is_ok() {
            self.retired.remove(&destination);
        } else if !self.is_set(destination) {
            self.retired.insert(destination);
        }
        set
    }

    /// Removes a route, if there is one.
    pub(super) fn remove(&mut self, destination: Destination) -> Result<(), Error> {
        if !self.is_set(destination) {
            return Ok(());
        }
        self.routes
            .remove(&destination.raw())
            .map_err(refusal::map(ROUTES, "changed"))?;
        self.retired.insert(destination);
        if self.retired.len() >= RETIRED_MAX {
            self.fold()
        } else {
            Ok(())
        }
    }

    fn is_set(&self, destination: Destination) -> bool {
        self.counted.contains(&destination) && !self.retired.contains(&destination)
    }

    /// Makes sure that a destination has counters.
    fn count(&mut self, destination: Destination) -> Result<(), Error> {
        if self.counted.contains(&destination) {
            return Ok(());
        }
        if self.counted.len() >= ROUTES_MAX as usize {
            self.fold()?;
        }
        let zeros = PerCpuValues::try_from(vec![[0; 2]; self.cpus]);
        let zeros = zeros.map_err(|error| refusal::explain("counting CPUs", &error))?;
        self.stats
            .insert(destination.raw(), zeros, 0)
            .map_err(refusal::map(ROUTE_STATS, "changed"))?;
        self.counted.insert(destination);
        Ok(())
    }

    /// Folds the counters of all retired routes into the totals.
    fn fold(&mut self) -> Result<(), Error> {
        if let Err(errno) = membarrier(MembarrierCommand::Global) {
            debug!(%errno, "folding counters without a grace period");
        }
        for destination in Vec::from_iter(self.retired.iter().copied()) {
            let traffic = self.traffic(destination)?;
            self.stats
                .remove(&destination.raw())
                .map_err(refusal::map(ROUTE_STATS, "changed"))?;
            self.counted.remove(&destination);
            self.retired.remove(&destination);
            add(&mut self.folded, destination, traffic);
        }
        Ok(())
    }

    fn traffic(&self, destination: Destination) -> Result<Traffic, Error> {
        let values = self
            .stats
            .get(&destination.raw(), 0)
            .map_err(refusal::map(ROUTE_STATS, "read"))?;
        let mut traffic = Traffic::default();
        for [descriptors, bytes] in values.iter().copied() {
            traffic.add(Traffic { descriptors, bytes });
        }
        Ok(traffic)
    }

    /// Adds everything that was ever redirected.
    pub(super) fn add_to(&self, totals: &mut Totals) -> Result<(), Error> {
        for (key, traffic) in &self.folded {
            totals.entry(*key).or_default().add(*traffic);
        }
        for destination in &self.counted {
            add(totals, *destination, self.traffic(*destination)?);
        }
        Ok(())
    }
}

fn add(totals: &mut Totals, destination: Destination, traffic: Traffic) {
    // A route is never set for anything without a level, nor listed before something went there.
    if let Some(level) = destination.level().filter(|_| traffic.descriptors > 0) {
        totals
            .entry((destination.job(), level))
            .or_default()
            .add(traffic);
    }
}
