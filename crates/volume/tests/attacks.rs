//! The twenty offline attacks of the host (`docs/reference/volume-attacks.md`): each is noticed, and the message says
//! what was touched; where a change has no effect, exactly what was written is served.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use support::Files;
use support::history::CHUNK;
use support::scene::{Outcome, Scene};

const BAD: &str = "do not authenticate";

#[test]
fn test_attack_01_a_flipped_bit_is_noticed_and_the_file_is_named() {
    let scene = Scene::get();
    for bit in 0..8 {
        let mut sealed = scene.sealed("/a", 0);
        sealed[100 + bit] ^= 1 << bit;
        scene.damages(scene.with(&[("/a", 0, sealed)]), &["/a"], BAD);
    }
}

#[test]
fn test_attack_02_chunks_swapped_in_a_file_are_noticed() {
    let scene = Scene::get();
    let (first, third) = (scene.sealed("/b", 0), scene.sealed("/b", 2));
    let files = scene.with(&[("/b", 0, third), ("/b", 2, first)]);
    scene.damages(files, &["/b"], BAD);
}

#[test]
fn test_attack_03_chunks_swapped_between_files_are_noticed_in_both() {
    let scene = Scene::get();
    let (of_a, of_b) = (scene.sealed("/a", 0), scene.sealed("/b", 0));
    let files = scene.with(&[("/a", 0, of_b), ("/b", 0, of_a)]);
    scene.damages(files, &["/a", "/b"], BAD);
}

/// The newest store with every segment cut to nothing.
fn cut(scene: &Scene) -> Files {
    let mut files = scene.newest().files.clone();
    let segments = files
        .iter_mut()
        .filter(|(path, _)| path.starts_with("data/"));
    segments.for_each(|(_, content)| content.clear());
    files
}

/// The files of a store that is damaged, each because its ciphertext ends too early, in order.
fn cut_short(scene: &Scene, files: Files) -> Vec<String> {
    let Outcome::Damaged(mut found) = scene.look(files) else {
        panic!("a cut was not noticed")
    };
    found.sort();
    let all = found
        .iter()
        .all(|(_, what)| what.contains("ends too early"));
    assert!(all, "{found:?}");
    found.into_iter().map(|(path, _)| path).collect()
}

#[test]
fn test_attack_04_a_cut_at_a_chunk_edge_is_noticed() {
    let scene = Scene::get();
    let (path, place) = scene.slot("/b", 2);
    let mut files = scene.newest().files.clone();
    files.get_mut(path).unwrap().truncate(place.start);
    let paths = cut_short(scene, files);
    assert!(paths.iter().any(|path| path == "/b"), "{paths:?}");
}

#[test]
fn test_attack_05_a_cut_to_zero_is_noticed_in_every_file() {
    let scene = Scene::get();
    let all = [
        "/a",
        "/b",
        "/new",
        "/two/later",
        "/two/moved/same",
        "/two/same",
    ];
    assert_eq!(cut_short(scene, cut(scene)), all);
}

#[test]
fn test_attack_06_an_extension_by_a_valid_chunk_changes_nothing_and_in_place_it_is_noticed() {
    let scene = Scene::get();
    let chunk = scene.sealed("/a", 0);
    let mut files = scene.newest().files.clone();
    for (_, content) in files
        .iter_mut()
        .filter(|(path, _)| path.starts_with("data/"))
    {
        content.extend_from_slice(&chunk);
    }
    assert!(
        matches!(scene.look(files), Outcome::Exact),
        "sizes are sealed in the metadata"
    );
    scene.damages(scene.with(&[("/a", 2, chunk)]), &["/a"], BAD);
}

#[test]
fn test_attack_07_a_zeroed_chunk_is_noticed_and_never_a_hole() {
    let scene = Scene::get();
    scene.damages(scene.with(&[("/b", 1, vec![0; CHUNK])]), &["/b"], BAD);
}

#[test]
fn test_attack_08_appended_zeros_change_nothing() {
    let scene = Scene::get();
    let mut files = scene.newest().files.clone();
    for content in files.values_mut() {
        content.extend_from_slice(&[0; 3 * CHUNK]);
    }
    assert!(
        matches!(scene.look(files), Outcome::Exact),
        "no alarm and no other byte"
    );
}

#[test]
fn test_attack_09_swapped_names_are_noticed() {
    Scene::get().undo("names swapped");
}

#[test]
fn test_attack_10_contents_copied_over_another_file_are_noticed() {
    let scene = Scene::get();
    let copies = [0, 1, 2].map(|chunk| ("/b", chunk, scene.sealed("/a", chunk)));
    scene.damages(scene.with(&copies), &["/b"], BAD);
}

#[test]
fn test_attack_11_a_directory_moved_back_is_noticed() {
    Scene::get().undo("directory moved");
}

#[test]
fn test_attack_12_swapped_directories_are_noticed() {
    Scene::get().undo("directories swapped");
}

#[test]
fn test_attack_13_a_deleted_file_is_noticed() {
    let scene = Scene::get();
    scene.undo("new");
    for path in ["data", "metadata"] {
        let mut files = scene.newest().files.clone();
        files.retain(|name, _| !name.starts_with(path));
        match (path, scene.look(files)) {
            ("data", Outcome::Damaged(found)) => {
                assert!(
                    found.iter().all(|(_, what)| what.contains("is missing")),
                    "{found:?}"
                );
            }
            ("metadata", Outcome::Refused(error)) => {
                assert!(
                    error.problem().contains("the store reaches only 0"),
                    "{error}"
                );
            }
            (_, other) => panic!("{path}: {other:?}"),
        }
    }
}

#[test]
fn test_attack_14_a_resurrected_file_is_noticed() {
    Scene::get().undo("deleted");
}

#[test]
fn test_attack_15_one_file_rolled_back_is_noticed() {
    let scene = Scene::get();
    scene.undo("and again");
    // The host also has its older segments: whole, as they were when the file was older.
    let mut files = scene.newest().files.clone();
    let older = &scene.steps[scene.step("a written again")].files;
    for (path, content) in older.iter().filter(|(path, _)| path.starts_with("data/")) {
        files.insert(path.clone(), content.clone());
    }
    let Outcome::Damaged(found) = scene.look(files) else {
        panic!("an older file was not noticed")
    };
    assert!(found.iter().any(|(path, _)| path == "/a"), "{found:?}");
}

/// The ciphertext of /a's chunk 1 one commit earlier.
fn older_sealed(scene: &Scene) -> Vec<u8> {
    let (before, after) = (scene.step("a written again"), scene.newest());
    let (path, content) = scene.steps[before]
        .files
        .iter()
        .rfind(|(path, _)| path.starts_with("data/"))
        .unwrap();
    let older = content[..CHUNK].to_vec();
    assert!(after.files[path].len() > CHUNK && scene.sealed("/a", 1) != older);
    older
}

#[test]
fn test_attack_16_one_chunk_rolled_back_is_noticed() {
    let scene = Scene::get();
    let (path, place) = scene.slot("/a", 1);
    let mut files = scene.newest().files.clone();
    let older = older_sealed(scene);
    files.get_mut(path).unwrap()[place.clone()].copy_from_slice(&older);
    scene.damages(files, &["/a"], BAD);
}

#[test]
fn test_attack_17_the_whole_volume_rolled_back_is_refused_with_both_sequences() {
    let scene = Scene::get();
    for step in &scene.steps[..scene.steps.len() - 1] {
        let found = format!("the store reaches only {}", step.position.0);
        scene.refuses(step.files.clone(), &[&found]);
    }
}

#[test]
fn test_attack_18_old_and_new_mixed_is_noticed() {
    let scene = Scene::get();
    let newest = &scene.newest().files;
    for step in &scene.steps[..scene.steps.len() - 1] {
        let pick = |from: &Files, dir: &str| -> Files {
            let chosen = from.iter().filter(|(path, _)| path.starts_with(dir));
            chosen
                .map(|(path, content)| (path.clone(), content.clone()))
                .collect()
        };
        let mut old_metadata = pick(newest, "data/");
        old_metadata.extend(pick(&step.files, "metadata/"));
        scene.refuses(old_metadata, &["missing"]);
        let mut old_data = pick(newest, "metadata/");
        old_data.extend(pick(&step.files, "data/"));
        assert!(
            matches!(scene.look(old_data), Outcome::Damaged(_)),
            "{}",
            step.name
        );
    }
}

#[test]
fn test_attack_19_a_symbolic_links_old_target_is_noticed() {
    Scene::get().undo("link changed");
}

#[test]
fn test_attack_20_old_mode_times_or_xattrs_are_noticed() {
    let scene = Scene::get();
    scene.undo("mode changed");
    let at = scene.step("times and xattr changed");
    let attributes = |step: usize| scene.steps[step].view["a"].clone().unwrap();
    assert_eq!(attributes(at).xattr.as_deref(), Some(&b"value"[..]));
    assert_eq!(
        (attributes(at - 1).xattr, attributes(at).mode),
        (None, 0o600)
    );
    scene.undo("times and xattr changed");
}
