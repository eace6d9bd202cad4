//! One target under libFuzzer: `LIFEBOAT_FUZZ_TARGET` names it. Built by `make fuzz`, with coverage instrumentation.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::{TARGETS, Target};

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("LIFEBOAT_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("LIFEBOAT_FUZZ_TARGET={name:?} is no target")).1
});

fuzz_target!(|data: &[u8]| CHOSEN(data));
