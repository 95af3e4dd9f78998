//! Stores that earlier versions of the program made are read, written to and checked as they are (`docs/FORMAT.md` §17).
//!
//! `tests/frozen/<version>/` has them: `sealed` (its passphrase is the tests' own) and `plaintext`, each with two
//! snapshots of `/srv/frozen` and a third one removed. `make freeze` makes those of a new version; an old one is never made
//! again.

use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::common::torture::noise;
use crate::common::{ALL, Directory, MountGuard, Outcome, Sandbox, copy_tree};

/// What was backed up, at this place.
const ROOT: &str = "/srv/frozen";
const KINDS: [&str; 2] = ["sealed", "plaintext"];

fn frozen() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen")
}

/// What the first snapshot holds. It is described once and for all: a later version adds what it can do beside it.
fn tree(root: &Path) {
    std::fs::create_dir(root).unwrap();
    let d = Directory::open(root);
    d.at("empty").file(b"").mode(0o4755).mtime(0, 0);
    d.at("text")
        .file(&b"the same line again\n".repeat(5000))
        .mode(0o640)
        .owner(1000, 100)
        .mtime(-1, 999_999_999);
    // Two pieces, which begin and end where the key of the store says.
    let noise = noise(1, 200 << 10);
    d.at("noise").file(&noise).mtime(1_700_000_000, 123_456_789);
    d.at("shifted").file(&noise[1000..]).mtime(1_700_000_000, 0);
    let sparse = d.at("sparse").create();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 3 << 20).unwrap();
    d.at("sparse").mtime(5, 5);
    let links = d.make("links");
    d.at("text").link(links.at("text too"));
    links.at("to nowhere").symlink(b"no\xffwhere").mtime(7, 7);
    d.at("pipe").node(FileType::Fifo, (0, 0)).mode(0o600).mtime(8, 8);
    d.at("null").node(FileType::CharacterDevice, (1, 3)).mode(0o666).mtime(9, 9);
    d.at(b"no text \xff\xfe")
        .file(b"by its bytes")
        .xattr("user.none", b"")
        .xattr("user.one", b"\0\xff")
        .mtime(10, 10);
    let crowd = d.make("crowd");
    for i in 0..3000 {
        crowd.at(&format!("entry {i:05}")).file(format!("number {i}").as_bytes()).mtime(i, 0);
    }
    crowd.at(".").mtime(11, 11);
    links.at(".").mtime(12, 12);
    d.at(".").mode(0o2750).owner(3, 4).xattr("user.root", b"of all").mtime(13, 13);
}

/// What the second one holds, made of the first.
fn change(root: &Path) {
    let d = Directory::open(root);
    std::fs::remove_file(root.join("text")).unwrap();
    d.at("text").file(b"another line\n").mtime(1_800_000_000, 0);
    std::fs::remove_file(root.join("crowd/entry 01500")).unwrap();
    d.at("crowd").mtime(14, 14);
    d.at(".").mtime(15, 15);
}

fn paths(kind: &str) -> (Sandbox, PathBuf, PathBuf) {
    let sandbox = Sandbox::empty();
    let (first, second) = (sandbox.path("first"), sandbox.path("second"));
    tree(&first);
    tree(&second);
    change(&second);
    copy_tree(&frozen().join("1").join(kind), &sandbox.store());
    (sandbox, first, second)
}

#[test]
fn what_version_1_wrote_is_read_and_written_to() {
    for kind in KINDS {
        let (sandbox, first, second) = paths(kind);
        sandbox.run(["check"]).succeeds();
        sandbox.run(["check", "-fast"]).succeeds();
        let snapshots = sandbox.run(["ls", "-json"]).succeeds().json();
        let snapshots: Vec<&str> = snapshots.iter().map(|s| s["id"].as_str().unwrap()).collect();
        assert_eq!(snapshots.len(), 2, "{kind}");
        // Newest first.
        for (id, tree) in [(snapshots[1], &first), (snapshots[0], &second)] {
            ALL.check(tree, &sandbox.restore(id));
            let mount = MountGuard::new(&sandbox, [id]);
            ALL.check(tree, mount.path());
        }
        // It takes in more, and finds again what it has.
        let before = sandbox.stored_bytes();
        sandbox.backup(&first);
        let more = sandbox.stored_bytes() - before;
        assert!(more < 200 << 10, "{more}");
        ALL.check(&first, &sandbox.restore("latest"));
        sandbox.run(["check"]).succeeds();
    }
}

/// Makes the stores of this version; by hand, when the format has changed.
#[test]
#[ignore = "it writes into the sources"]
fn freeze() {
    let version = std::env::var("PLAKAR_FREEZE").unwrap();
    let root = Path::new(ROOT);
    // What is recorded of machine and program shall be the same wherever this is made.
    let alone = "hostname frozen && mount --bind /dev/null /etc/machine-id && exec \"$0\" \"$@\"";
    let alone = ["unshare", "--uts", "--mount", "sh", "-c", alone];
    for kind in KINDS {
        let sandbox = Sandbox::empty();
        let create: &[&str] = if kind == "sealed" { &["-weak-passphrase"] } else { &["-plaintext"] };
        sandbox.run([&["create"], create].concat()).succeeds();
        tree(root);
        let backup = |options: &[&str]| {
            let words = [&["backup", "-quiet"], options, &[ROOT]].concat();
            Outcome::of(&mut sandbox.under(&alone, words)).succeeds();
        };
        backup(&["-tag", "first"]);
        change(root);
        backup(&["-tag", "second,last", "-name", "changed"]);
        std::fs::write(root.join("text"), "not for long").unwrap();
        backup(&["-tag", "removed"]);
        sandbox.run(["rm", "-apply", "-tag", "removed"]).succeeds();
        std::fs::remove_dir_all(root).unwrap();
        let to = frozen().join(&version).join(kind);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        copy_tree(&sandbox.store(), &to);
    }
}
