//! The engine around the checks: `--target=NAME`, and libFuzzer's own arguments.

#![no_main]

use fuzz::{TARGETS, Target, target};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::args().find_map(|argument| argument.strip_prefix("--target=").map(str::to_owned));
    name.as_deref().and_then(target).unwrap_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("error: --target={}", names.join("|"));
        std::process::exit(2);
    })
});

fuzz_target!(|bytes: &[u8]| (TARGET.check)(bytes));
