//! The corpus that is kept, without an engine.

use fuzz::TARGETS;
use std::fs;
use std::path::Path;

#[test]
fn what_is_kept_shows_no_fault() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for target in TARGETS {
        let folder = format!("fuzz/corpus/{}", target.name);
        let kept: Vec<&str> = std::iter::once(&*folder).chain(target.seeds.iter().copied()).collect();
        for folder in kept {
            let mut files: Vec<_> = fs::read_dir(root.join(folder))
                .unwrap_or_else(|error| panic!("{folder}: {error}"))
                .map(|file| file.unwrap().path())
                .collect();
            files.sort();
            assert!(!files.is_empty(), "{folder}");
            for file in files {
                // Seen where a check panics.
                println!("{}", file.display());
                (target.check)(&fs::read(file).unwrap());
            }
        }
    }
}
