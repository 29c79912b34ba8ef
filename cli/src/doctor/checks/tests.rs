use super::{super::facts::Space, *};

fn facts() -> Facts {
    Facts {
        kernel: "6.1.0-18-amd64".into(),
        sidecar: Ok(()),
        shm: Some(Space {
            total: 8 << 30,
            free: 8 << 30,
        }),
        files: (65_536, u64::MAX),
        locked: 8 << 20,
        memory: Some(8 << 30),
        cores: 2,
        state: ("/s".into(), Ok(8 << 30)),
    }
}

fn grades(facts: &Facts) -> Vec<(&'static str, Grade)> {
    let bad = |check: Check| {
        assert_eq!(
            check.grade == Grade::Good,
            check.cost.is_none(),
            "{check:?}"
        );
        assert_eq!(
            check.grade == Grade::Good,
            check.remedy.is_none(),
            "{check:?}"
        );
        (check.grade != Grade::Good).then_some((check.name, check.grade))
    };
    all(facts).into_iter().filter_map(bad).collect()
}

#[test]
fn a_good_machine_has_nothing_to_say() {
    assert_eq!(grades(&facts()), []);
}

#[test]
fn each_lack_is_found_and_nothing_else() {
    use Grade::{Costs, Missing};
    let mib = |n: u64| n << 20;
    let cases: [(Facts, &str, Grade); 14] = [
        (
            Facts {
                kernel: "5.4.0".into(),
                locked: u64::MAX,
                ..facts()
            },
            "kernel",
            Missing,
        ),
        (
            Facts {
                kernel: "odd".into(),
                ..facts()
            },
            "kernel",
            Costs,
        ),
        (
            Facts {
                sidecar: Err("no CAP_BPF".into()),
                ..facts()
            },
            "sidecar",
            Costs,
        ),
        (
            Facts {
                shm: None,
                ..facts()
            },
            "shared memory",
            Missing,
        ),
        (
            Facts {
                shm: Some(Space {
                    total: mib(64),
                    free: mib(63),
                }),
                ..facts()
            },
            "shared memory",
            Missing,
        ),
        (
            Facts {
                shm: Some(Space {
                    total: mib(64),
                    free: mib(64),
                }),
                ..facts()
            },
            "shared memory",
            Costs,
        ),
        (
            Facts {
                memory: Some(mib(100)),
                ..facts()
            },
            "memory",
            Missing,
        ),
        (
            Facts {
                memory: Some(mib(1000)),
                ..facts()
            },
            "memory",
            Costs,
        ),
        (
            Facts {
                files: (100, 100),
                ..facts()
            },
            "open files",
            Missing,
        ),
        (
            Facts {
                files: (1024, 4096),
                ..facts()
            },
            "open files",
            Costs,
        ),
        (
            Facts {
                kernel: "5.10.0".into(),
                locked: mib(8),
                ..facts()
            },
            "locked memory",
            Costs,
        ),
        (
            Facts {
                cores: 1,
                ..facts()
            },
            "cores",
            Costs,
        ),
        (
            Facts {
                state: ("/s".into(), Err("denied".into())),
                ..facts()
            },
            "state directory",
            Missing,
        ),
        (
            Facts {
                state: ("/s".into(), Ok(mib(1))),
                ..facts()
            },
            "state directory",
            Costs,
        ),
    ];
    for (facts, name, grade) in cases {
        assert_eq!(grades(&facts), [(name, grade)], "{facts:?}");
    }
}

#[test]
fn kernels_are_read() {
    assert_eq!(version("6.18.1-cloud"), Some((6, 18)));
    assert_eq!(version("5.10-rc1"), Some((5, 10)));
    assert_eq!(version("six"), None);
}
