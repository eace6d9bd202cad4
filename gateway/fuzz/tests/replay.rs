//! Everything that a fuzzer ever found interesting, and every golden vector, through every target: no panic.

use std::path::{Path, PathBuf};

use lifeboat_fuzz::TARGETS;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
}

#[test]
fn what_a_fuzzer_found_panics_nowhere() {
    let mut bytes = 0;
    for (name, target) in TARGETS {
        let inputs = files(&directory("corpus").join(name));
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for path in inputs {
            let input = std::fs::read(&path).expect("an input");
            bytes += input.len();
            println!("{}", path.display());
            target(&input);
        }
    }
    assert!(bytes < 1 << 20, "the corpus has {bytes} bytes: minimise it with `make fuzz-minimise`");
}

#[test]
fn every_golden_vector_goes_through_every_target() {
    for dir in ["../format/vectors/v1", "../format/vectors/v2", "../vault/vectors/v1", "../vault/vectors/v2"] {
        for path in files(&directory(dir)) {
            let input = std::fs::read(&path).expect("a vector");
            println!("{}", path.display());
            TARGETS.iter().for_each(|(_, target)| target(&input));
        }
    }
}

#[test]
fn every_directory_of_the_corpus_belongs_to_a_target() {
    for entry in std::fs::read_dir(directory("corpus")).expect("the corpus") {
        let name = entry.expect("an entry").file_name();
        assert!(TARGETS.iter().any(|(known, _)| *known == name), "{name:?}");
    }
}
