//! The fewest nodes, against all possibilities.

use super::*;

/// The fewest of `rooms` that hold `updates`, by trying all sets; `None` if all together do not.
fn fewest(rooms: &[u32], updates: u32) -> Option<usize> {
    let sets = 0_u32..1 << rooms.len();
    let fits = sets.filter(|set| {
        let chosen = rooms
            .iter()
            .enumerate()
            .filter(|(at, _)| set >> at & 1 == 1);
        chosen.map(|(_, room)| *room).sum::<u32>() >= updates
    });
    fits.map(|set| set.count_ones() as usize).min()
}

proptest! {
    #[test]
    fn best_fit_uses_the_fewest_nodes(
        rooms in prop::collection::vec(1_u32..30, 1..9), updates in 1_u32..150,
    ) {
        let plan = fresh(&nodes(&rooms), &[job("j", updates)]);
        let placement = placed(&plan, "j");
        match fewest(&rooms, updates) {
            Some(fewest) => {
                prop_assert_eq!(placement.shares.len(), fewest);
                prop_assert_eq!(placement.overload, 0);
            }
            None => prop_assert_eq!(placement.overload, updates - rooms.iter().sum::<u32>()),
        }
    }

    #[test]
    fn one_node_is_the_smallest_that_holds_all(
        rooms in prop::collection::vec(1_u32..30, 1..9), updates in 1_u32..30, single_node: bool,
    ) {
        let least = rooms.iter().filter(|room| **room >= updates).min();
        prop_assume!(least.is_some());
        let all = nodes(&rooms);
        let plan = fresh(&all, &[Job { single_node, ..job("j", updates) }]);
        let top = all.iter().find(|node| node.name == placed(&plan, "j").top).unwrap();
        prop_assert_eq!(top.capacity.unwrap().concurrency, f64::from(*least.unwrap()));
    }

    #[test]
    fn spread_is_as_even_as_can_be(
        rooms in prop::collection::vec(1_u32..30, 1..9), part in 0.0_f64..1.0,
    ) {
        let updates = ((f64::from(rooms.iter().sum::<u32>()) * part) as u32).max(1);
        let spread = Job { policy: Policy::Spread, ..job("j", updates) };
        let all = nodes(&rooms);
        let plan = fresh(&all, &[spread]);
        let shares = &placed(&plan, "j").shares;
        let most = *shares.values().max().unwrap();
        for node in &all {
            let share = shares.get(&node.name).copied().unwrap_or(0);
            let full = f64::from(share) == node.capacity.unwrap().concurrency;
            prop_assert!(full || share + 1 >= most, "{share} beside {most}");
        }
    }

    #[test]
    fn worst_fit_leaves_even_rooms(
        rooms in prop::collection::vec(1_u32..30, 1..9), part in 0.0_f64..1.0,
    ) {
        let updates = ((f64::from(rooms.iter().sum::<u32>()) * part) as u32).max(1);
        let worst = Job { policy: Policy::WorstFit, ..job("j", updates) };
        let all = nodes(&rooms);
        let plan = fresh(&all, &[worst]);
        let left = |(node, share): (&String, &u32)| {
            let node = all.iter().find(|other| other.name == *node).unwrap();
            node.capacity.unwrap().concurrency as u32 - share
        };
        let shares = &placed(&plan, "j").shares;
        let least_of_used = shares.iter().map(left).min().unwrap();
        for node in &all {
            let room = node.capacity.unwrap().concurrency as u32;
            let now = room - shares.get(&node.name).unwrap_or(&0);
            prop_assert!(now <= least_of_used + 1, "{now} beside {least_of_used}");
        }
    }
}
