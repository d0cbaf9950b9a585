//! Random programs see in a volume what they see in a file system, over any number of opens.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::sync::Arc;

use proptest::prelude::*;
use support::model::{self, Model, random_op};
use support::{MemoryStore, Rng, TestAnchor, open};

fn run(seed: u64, steps: usize) {
    let mut rng = Rng(seed);
    let store = MemoryStore::new(Default::default());
    let anchor = TestAnchor::virgin();
    let mut volume = open(&store, &anchor, true).unwrap();
    let mut expected = Model::default();
    for step in 0..steps {
        let op = random_op(&mut rng);
        let (want, got) = (expected.apply(&op), model::apply(&volume, &op));
        assert_eq!(got, want, "seed {seed}, step {step}: {op:?}");
        if step % 7 == 0 {
            assert!(
                model::view(&volume).unwrap() == expected.view(),
                "seed {seed}, step {step}"
            );
        }
        if rng.below(25) == 0 {
            volume.close().unwrap();
            drop(volume);
            let reader = open(&store, &anchor, false).unwrap();
            assert!(
                model::view(&reader).unwrap() == expected.view(),
                "seed {seed}, step {step}: reopened"
            );
            assert_eq!(reader.check().unwrap(), []);
            volume = open(&store, &anchor, true).unwrap();
        }
    }
    assert_eq!(Arc::strong_count(&volume), 1);
    assert!(
        model::view(&volume).unwrap() == expected.view(),
        "seed {seed}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn test_a_random_program_sees_a_file_system_when_the_volume_is_reopened(seed in any::<u64>()) {
        run(seed, 150);
    }
}
