//! Updates that come one by one.

use super::*;

fn assigner(nodes: &[Node], job: &Job) -> Assigner {
    Assigner::new(nodes, job, &Settings::default()).unwrap()
}

fn sizes(shares: &std::collections::BTreeMap<String, u32>) -> Vec<u32> {
    let mut sizes: Vec<_> = shares.values().copied().collect();
    sizes.sort_unstable();
    sizes
}

#[test]
fn a_node_is_filled_before_the_next_is_opened() {
    let mut assigner = assigner(&nodes(&[3, 5, 2]), &job("j", 7));
    let given: Vec<String> = (0..11)
        .map(|_| assigner.assign_one().node.to_owned())
        .collect();
    let wanted = ["n001"; 5]
        .into_iter()
        .chain(["n002"; 2])
        .chain(["n000"; 3]);
    assert_eq!(given[..10], wanted.collect::<Vec<_>>());
    let shares = assigner.shares();
    assert_eq!(shares.values().sum::<u32>(), 11);
}

#[test]
fn what_is_released_can_be_given_again() {
    let mut assigner = assigner(&nodes(&[2]), &job("j", 2));
    assert!(!assigner.assign_one().overload);
    assert!(!assigner.assign_one().overload);
    assert!(assigner.assign_one().overload);
    assert!(assigner.release_one("n000"));
    assert!(assigner.release_one("n000"));
    assert!(!assigner.assign_one().overload);
    assert!(assigner.release_one("n000"));
    assert!(assigner.release_one("n000"));
    assert!(!assigner.release_one("n000"));
    assert!(!assigner.release_one("nobody"));
}

#[test]
fn a_job_that_may_go_nowhere_is_told_why() {
    let error = Assigner::new(&[], &job("j", 1), &Settings::default()).unwrap_err();
    assert_eq!(error, Unplaced::NoNodes);
}

proptest! {
    #[test]
    fn as_many_nodes_as_for_the_whole_round(
        all in any_nodes(), updates in 1_u32..200, policy in any_policy(), nodes_max in 0_u32..5,
    ) {
        let nodes_max = NonZeroU32::new(nodes_max);
        let job = Job { policy, nodes_max, ..job("j", updates) };
        let whole = fresh(&all, std::slice::from_ref(&job));
        let Some(whole) = whole.placement("j") else {
            return Ok(());
        };
        let mut assigner = assigner(&all, &job);
        let overload = (0..updates).filter(|_| assigner.assign_one().overload).count();
        let shares = assigner.shares();
        prop_assert_eq!(shares.values().sum::<u32>(), updates);
        prop_assert_eq!(overload, whole.overload as usize);
        if overload == 0 {
            prop_assert_eq!(shares.len(), whole.shares.len());
        }
        if overload == 0 && nodes_max.is_none() {
            prop_assert_eq!(sizes(&shares), sizes(&whole.shares));
        }
    }

    #[test]
    fn coming_and_going_leaves_the_books_right(
        rooms in prop::collection::vec(1_u32..10, 1..6),
        steps in prop::collection::vec((any::<bool>(), 0_usize..6), 0..200),
        policy in any_policy(),
    ) {
        let all = nodes(&rooms);
        let mut assigner = assigner(&all, &Job { policy, ..job("j", 20) });
        let mut model = std::collections::BTreeMap::<String, u32>::new();
        for (comes, at) in steps {
            if comes {
                let assigned = assigner.assign_one();
                let full = model.values().sum::<u32>() >= rooms.iter().sum();
                // Only what is full is overloaded; excess may be left when others have gone.
                prop_assert!(full || !assigned.overload);
                *model.entry(assigned.node.to_owned()).or_default() += 1;
            } else {
                let name = format!("n{at:03}");
                let has = model.get(&name).copied().unwrap_or(0);
                prop_assert_eq!(assigner.release_one(&name), has > 0);
                if has > 0 {
                    model.insert(name, has - 1);
                }
            }
            model.retain(|_, share| *share > 0);
            prop_assert_eq!(&assigner.shares(), &model);
        }
    }
}
