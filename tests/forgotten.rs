//! No file of tests lies here without being run.

use std::path::Path;

#[test]
fn every_file_is_a_module() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (directory, list) in [
        (here.clone(), "main.rs"),
        (here.join("common"), "../common.rs"),
        (here.join("posix"), "../posix.rs"),
    ] {
        let list = std::fs::read_to_string(directory.join(list)).unwrap();
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            if path.extension().is_some_and(|e| e == "rs") && name != "main" {
                let listed =
                    list.lines().any(|l| l.trim_start_matches("pub(crate) ") == format!("mod {name};"));
                assert!(listed, "{} is in no module", path.display());
            }
        }
    }
}
