//! What is kept on this machine is expendable: damaged, or without room, it costs time and decides no exit code.

use crate::common::sandbox::{SmallDisk, files_below};
use crate::common::torture::noise;
use crate::common::{ALL, Outcome, Sandbox, copy_tree, hex_id};

/// Places in each file of the cache where a bit is flipped.
const FLIPS: usize = 12;

fn store_with_backups() -> (Sandbox, Vec<String>) {
    let sandbox = Sandbox::with_key_file();
    let mut ids = Vec::new();
    for n in 0..3 {
        for i in 0..120 {
            let file = sandbox.path(format!("source/{}/{n} {i}", i % 7));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, noise(n * 1000 + i + 1, 3000)).unwrap();
        }
        ids.push(hex_id(&sandbox.backup(&sandbox.path("source"))));
    }
    (sandbox, ids)
}

/// Every command that reads the cache gives what it should, twice.
#[track_caller]
fn all_is_well(sandbox: &Sandbox, ids: &[String], what: &str) {
    let source = sandbox.path("source");
    for round in 0..2 {
        let file = format!("{}:{}/3/0 3", ids[2], source.display());
        for words in [
            &["backup", source.to_str().unwrap()][..],
            &["ls", &ids[0]],
            &["check"],
            &["restore", "-to", "to", &ids[2]],
            &["cat", &file],
        ] {
            let outcome = sandbox.run(words);
            assert_eq!(outcome.code, Some(0), "{what}, {round}: {outcome}");
        }
        ALL.check(&source, &sandbox.path("to"));
        std::fs::remove_dir_all(sandbox.path("to")).unwrap();
    }
}

#[test]
fn what_is_kept_on_this_machine_is_for_its_user_alone_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::with_key_file();
    std::fs::create_dir(sandbox.path("source")).unwrap();
    std::fs::write(sandbox.path("source/file"), "text").unwrap();
    let shell = ["sh", "-c", "umask 0; exec \"$0\" \"$@\""];
    for args in [&["backup", "source"][..], &["check"], &["ls"]] {
        Outcome::of(&mut sandbox.under(&shell, args)).succeeds();
    }
    let files = files_below(&sandbox.path("home"));
    assert!(files.iter().any(|f| f.ends_with("cache.db")), "{files:?}");
    for file in files {
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is {mode:o}", file.display());
    }
}

#[test]
fn a_flipped_bit_in_the_cache_costs_nothing_but_time() {
    let (sandbox, ids) = store_with_backups();
    let kept = sandbox.path("cache kept");
    copy_tree(&sandbox.cache(), &kept);
    let files = files_below(&kept);
    assert!(files.iter().any(|f| f.to_str().unwrap().ends_with(".seg")), "{files:?}");
    for file in files {
        let name = file.strip_prefix(&kept).unwrap();
        let good = std::fs::read(&file).unwrap();
        for n in 0..FLIPS.min(good.len()) {
            let at = (good.len() * (2 * n + 1)) / (2 * FLIPS);
            let mut bad = good.clone();
            bad[at] ^= 1 << (n % 8);
            std::fs::remove_dir_all(sandbox.cache()).unwrap();
            copy_tree(&kept, &sandbox.cache());
            std::fs::write(sandbox.cache().join(name), bad).unwrap();
            all_is_well(&sandbox, &ids, &format!("{} at {at} of {}", name.display(), good.len()));
        }
    }
}

#[test]
fn a_cache_without_room_is_done_without() {
    let (sandbox, ids) = store_with_backups();
    let source = sandbox.path("source");
    let file = format!("{}:{}/3/0 3", ids[2], source.display());
    // How much is taken decides what fails first: opening the database, an index file, a row, a temporary file.
    for taken in [0, 8, 16, 24, 32, 40, 48, 60, 120, 200, 230] {
        for temporary in [false, true] {
            let disk = SmallDisk::new("256k");
            std::fs::write(disk.path().join("filler"), noise(1, taken << 10)).unwrap();
            for words in [
                &["backup", source.to_str().unwrap()][..],
                &["check"],
                &["restore", "-to", "to", &ids[2]],
                &["cat", &file],
                &["ls"],
            ] {
                let mut command = sandbox.command(words);
                command.arg("-cachedir").arg(disk.path());
                if temporary {
                    command.env("TMPDIR", disk.path());
                }
                Outcome::of(&mut command).succeeds();
            }
            ALL.check(&source, &sandbox.path("to"));
            std::fs::remove_dir_all(sandbox.path("to")).unwrap();
        }
    }
}
