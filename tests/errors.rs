//! What goes wrong is said so that one knows what to do, ends with its own code, and damages nothing.

use std::ffi::OsStr;
use std::path::Path;

use rustix::mount::{MountFlags, mount_remount};
use serde_json::Value;

use crate::common::sandbox::{NOBODY, PASSPHRASE};
use crate::common::torture::noise;
use crate::common::{ALL, Directory, Outcome, Sandbox, SmallDisk, copy_tree, hex_id};

/// Every command that opens the store.
const OPENING: [&[&str]; 6] = [
    &["ls"],
    &["backup", "source"],
    &["restore", "-to", "restored", "latest"],
    &["check"],
    &["info"],
    &["cat", "latest:file"],
];

/// A store with one small snapshot of `source`.
fn with_snapshot() -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("source")).unwrap();
    std::fs::write(sandbox.path("source/file"), "content").unwrap();
    sandbox.backup(&sandbox.path("source"));
    sandbox
}

/// Everything below the store, for a comparison afterwards.
fn keep_store(sandbox: &Sandbox) {
    copy_tree(&sandbox.store(), &sandbox.path("kept"));
}

#[track_caller]
fn store_is_untouched(sandbox: &Sandbox) {
    ALL.check(&sandbox.path("kept"), &sandbox.store());
}

#[test]
fn a_wrong_passphrase_is_refused_with_77() {
    let sandbox = with_snapshot();
    keep_store(&sandbox);
    for words in OPENING {
        let mut command = sandbox.command(words);
        command.env("PLAKAR_PASSPHRASE", "correct horse battery stable");
        Outcome::of(&mut command).ends_with(77).says(&[
            "wrong passphrase",
            "store",
            "hint:",
            "PLAKAR_PASSPHRASE",
        ]);
    }
    assert!(!sandbox.path("restored").exists());
    store_is_untouched(&sandbox);
}

#[test]
fn no_passphrase_is_refused_with_77() {
    let sandbox = with_snapshot();
    keep_store(&sandbox);
    for words in OPENING {
        let mut command = sandbox.command(words);
        command.env_remove("PLAKAR_PASSPHRASE");
        Outcome::of(&mut command).ends_with(77).says(&["encrypted", "hint:", "-keyfile"]);
    }
    store_is_untouched(&sandbox);
}

#[test]
fn passphrases_come_from_files_commands_and_the_environment() {
    let sandbox = with_snapshot();
    std::fs::write(sandbox.path("pass"), format!("{PASSPHRASE}\n")).unwrap();
    let without = |args: &[&str]| {
        let mut command = sandbox.command(args);
        command.env_remove("PLAKAR_PASSPHRASE");
        command
    };
    let print = format!("printf '%s\\n' '{PASSPHRASE}'");
    Outcome::of(&mut without(&["ls", "-keyfile", "pass"])).succeeds();
    Outcome::of(&mut without(&["-passphrase-cmd", &print, "ls"])).succeeds();
    Outcome::of(without(&["ls"]).env("PLAKAR_PASSPHRASE_CMD", &print)).succeeds();
    Outcome::of(&mut without(&["ls", "-passphrase-cmd", "false"])).ends_with(1).says(&["passphrase command"]);
    Outcome::of(&mut without(&["ls", "-passphrase-cmd", "echo a; echo b"])).ends_with(1).says(&["one line"]);
    Outcome::of(&mut without(&["ls", "-keyfile", "absent"])).ends_with(1).says(&["absent", "No such file"]);
}

#[test]
fn keys_are_added_changed_and_removed() {
    let sandbox = with_snapshot();
    std::fs::write(sandbox.path("new pass"), "another passphrase\n").unwrap();
    sandbox.run(["key", "add", "-new-keyfile", "new key", "-label", "second"]).succeeds();
    let passwd = ["key", "passwd", "-weak-passphrase", "-new-passphrase-file", "new pass", "-label", "first"];
    sandbox.run(passwd).succeeds();
    sandbox.run(["ls"]).ends_with(77);
    for file in ["new pass", "new key"] {
        sandbox.run(["ls", "-keyfile", file]).succeeds();
    }
    let marked = |words: &[&str]| -> Vec<(String, Value)> {
        let keys = sandbox.run([&["key", "ls", "-json"], words].concat()).succeeds().json();
        let keys = keys.into_iter().filter(|k| k["type"] == "key");
        keys.map(|k| (k["label"].as_str().unwrap().to_owned(), k["in_use"].clone())).collect()
    };
    let [in_use, other] = [Value::Bool(true), Value::Bool(false)];
    let listed = marked(&["-keyfile", "new key"]);
    assert!(listed.contains(&("second".into(), in_use.clone())), "{listed:?}");
    assert!(listed.contains(&("first".into(), other)), "{listed:?}");
    assert!(marked(&["-keyfile", "new pass"]).contains(&("first".into(), in_use)));
    let text = sandbox.run(["key", "ls", "-keyfile", "new key"]).succeeds();
    let lines: Vec<&str> = text.text().lines().filter(|line| line.contains(" * ")).collect();
    assert!(lines.len() == 1 && lines[0].ends_with("second"), "{lines:?}");
    sandbox.run(["key", "ls"]).succeeds().says(&["opens none of them"]);
    let keys = sandbox.run(["key", "ls", "-json", "-quiet"]).succeeds().json();
    assert_eq!(keys.len(), 2);
    let id = |label: &str| {
        let key = keys.iter().find(|k| k["label"] == label).unwrap();
        key["id"].as_str().unwrap().to_owned()
    };
    sandbox.run(["key", "rm", &id("second"), "-keyfile", "new pass"]).succeeds().says(&["can still open"]);
    sandbox.run(["ls", "-keyfile", "new key"]).succeeds();
    sandbox.run(["key", "rm", "-apply", &id("second"), "-keyfile", "new pass"]).succeeds();
    sandbox.run(["ls", "-keyfile", "new key"]).ends_with(77);
    let last = sandbox.run(["key", "rm", "-apply", &id("first"), "-keyfile", "new pass"]);
    assert_ne!(last.code, Some(0), "{last}");
    last.says(&["only key"]);
    sandbox.run(["check", "-keyfile", "new pass"]).succeeds();
}

#[test]
fn a_key_whose_label_was_changed_is_not_removed_by_it() {
    let sandbox = Sandbox::with_key_file();
    let first = sandbox.objects("keys");
    sandbox.run(["key", "add", "-label", "laptop", "-new-keyfile", "second"]).succeeds();
    let second = sandbox.objects("keys").into_iter().find(|k| !first.contains(k)).unwrap();
    let id = second.file_name().unwrap().to_str().unwrap();
    let good = std::fs::read(&second).unwrap();
    let at = good.windows(6).position(|w| w == b"laptop").unwrap();
    let mut bad = good.clone();
    bad[at..at + 6].copy_from_slice(b"server");
    std::fs::write(&second, &bad).unwrap();
    // Whoever looks at it without a key cannot know; who is about to remove it does.
    assert!(sandbox.run(["key", "ls"]).succeeds().text().contains("server"));
    sandbox.run(["key", "rm", "-apply", id]).ends_with(65).says(&["label or date was changed"]);
    std::fs::write(&second, &good).unwrap();
    sandbox.run(["key", "rm", "-apply", id]).succeeds();
}

#[test]
fn no_store_is_66_and_says_how_to_make_one() {
    let sandbox = Sandbox::empty();
    std::fs::create_dir(sandbox.path("source")).unwrap();
    for words in OPENING {
        sandbox.run(words).ends_with(66).says(&["there is no store", "create", "hint:"]);
        assert!(!sandbox.store().exists(), "{words:?} made something");
    }
    sandbox.run(["at", "missing/below", "ls"]).ends_with(66).says(&["missing/below"]);
}

/// Every command ends with 66 and says what to do, whatever the place of the store holds.
#[track_caller]
fn is_no_store(sandbox: &Sandbox, what: &str) {
    for words in OPENING {
        let outcome = sandbox.run(words);
        assert_eq!(outcome.code, Some(66), "{what}: {outcome}");
        outcome.says(&["store", "hint:"]);
    }
}

#[test]
fn half_a_store_is_66() {
    let sandbox = with_snapshot();
    let (store, whole) = (sandbox.store(), sandbox.path("whole"));
    std::fs::rename(&store, &whole).unwrap();
    std::fs::create_dir(&store).unwrap();
    is_no_store(&sandbox, "an empty directory");
    std::fs::write(store.join("notes.txt"), "mine").unwrap();
    is_no_store(&sandbox, "a directory of something else");
    std::fs::remove_file(store.join("notes.txt")).unwrap();
    for area in ["data", "meta", "states", "snapshots"] {
        copy_tree(&whole.join(area), &store.join(area));
    }
    is_no_store(&sandbox, "a store without CONFIG and keys");
    std::fs::copy(whole.join("CONFIG"), store.join("CONFIG")).unwrap();
    is_no_store(&sandbox, "a store without keys");
}

#[test]
fn a_create_that_did_not_come_to_its_end_has_made_no_store() {
    let sandbox = with_snapshot();
    let (store, whole) = (sandbox.store(), sandbox.path("whole"));
    std::fs::rename(&store, &whole).unwrap();
    std::fs::create_dir(&store).unwrap();
    // CONFIG is written last.
    copy_tree(&whole.join("keys"), &store.join("keys"));
    is_no_store(&sandbox, "keys alone");
}

#[test]
fn a_file_in_place_of_the_store_is_66() {
    let sandbox = Sandbox::empty();
    std::fs::create_dir(sandbox.path("source")).unwrap();
    std::fs::write(sandbox.store(), "a file").unwrap();
    for words in OPENING {
        sandbox.run(words).ends_with(66).says(&["store", "a directory", "hint:"]);
    }
    let refused = sandbox.run(["create"]);
    assert!(matches!(refused.code, Some(1 | 66)), "{refused}");
    assert_eq!(std::fs::read(sandbox.store()).unwrap(), b"a file");
}

#[test]
fn a_store_is_made_only_where_nothing_is() {
    let sandbox = with_snapshot();
    keep_store(&sandbox);
    sandbox.run(["create"]).ends_with(1).says(&["empty", "hint:"]);
    store_is_untouched(&sandbox);
    std::fs::create_dir(sandbox.path("full")).unwrap();
    std::fs::write(sandbox.path("full/file"), "x").unwrap();
    sandbox.run(["at", "full", "create"]).ends_with(1).says(&["empty"]);
    assert_eq!(std::fs::read_dir(sandbox.path("full")).unwrap().count(), 1);
    std::fs::create_dir(sandbox.path("void")).unwrap();
    sandbox.run(["at", "void", "create"]).succeeds();
    sandbox.run(["at", "deep/er/still", "create"]).succeeds();
    sandbox.run(["at", "deep/er/still", "ls"]).succeeds();
}

#[test]
fn a_store_without_encryption_refuses_a_key_that_is_named_for_it() {
    let sandbox = Sandbox::empty();
    let plain = |args: &[&str]| Outcome::of(sandbox.command(args).env_remove("PLAKAR_PASSPHRASE"));
    plain(&["create", "-plaintext"]).succeeds();
    plain(&["ls"]).succeeds();
    // One in the environment is there for all stores.
    sandbox.run(["ls"]).succeeds().says(&["note: the store is not encrypted"]);
    std::fs::write(sandbox.path("key"), "a passphrase").unwrap();
    let refused = plain(&["-keyfile", "key", "ls"]);
    assert_ne!(refused.code, Some(0), "{refused}");
    refused.says(&["not encrypted", "hint:"]);
}

#[test]
fn an_id_that_fits_two_snapshots_is_refused_and_says_which() {
    let sandbox = Sandbox::with_key_file();
    std::fs::create_dir(sandbox.path("source")).unwrap();
    // There are 16 first digits.
    let ids: Vec<String> = (0..17).map(|_| hex_id(&sandbox.backup(&sandbox.path("source")))).collect();
    let (prefix, several) = ('0'..='9')
        .chain('a'..='f')
        .map(|c| (c.to_string(), ids.iter().filter(|id| id.starts_with(c)).collect::<Vec<_>>()))
        .find(|(_, found)| found.len() > 1)
        .unwrap();
    keep_store(&sandbox);
    for words in [
        &["ls"][..],
        &["info"],
        &["restore", "-to", "x"],
        &["check"],
        &["rm", "-apply"],
        &["mount", "-to", "home"],
    ] {
        let mut command = sandbox.command(words);
        let outcome =
            Outcome::of(command.arg(&prefix)).ends_with(1).says(&["snapshots", "hint:", "more digits"]);
        for id in &several {
            assert!(outcome.stderr.contains(&id[..4]), "does not name {id}: {outcome}");
        }
    }
    store_is_untouched(&sandbox);
    sandbox.run(["info", several[0]]).succeeds();
    for (wrong, words) in [("zz", "id"), ("latest~17", "that old"), (&"0".repeat(64), "no snapshot")] {
        sandbox.run(["ls", wrong]).ends_with(1).says(&[words, "hint:"]);
    }
}

#[test]
fn what_is_not_in_the_snapshot_is_said() {
    let sandbox = with_snapshot();
    for words in
        [&["cat", "latest:absent"][..], &["ls", "latest:absent"], &["restore", "-to", "x", "latest:absent"]]
    {
        sandbox.run(words).ends_with(1).says(&["absent", "hint:"]);
    }
    assert!(!sandbox.path("x").exists());
    sandbox.run(["cat", "latest:"]).ends_with(1).says(&["regular file"]);
    sandbox.run(["backup", "absent"]).ends_with(1).says(&["absent", "No such file"]);
    let empty = Sandbox::with_key_file();
    empty.run(["ls"]).succeeds();
    empty.run(["check"]).succeeds();
    empty.run(["restore", "-to", "x"]).ends_with(1).says(&["no snapshot"]);
}

#[test]
fn a_full_store_fails_clearly_and_stays_whole() {
    let sandbox = Sandbox::with_key_file();
    let disk = SmallDisk::new("8m");
    let store = disk.path().join("store");
    let at = |args: &[&str]| {
        let mut command = sandbox.command(["at", store.to_str().unwrap()]);
        Outcome::of(command.args(args))
    };
    at(&["create"]).succeeds();
    for (name, files, size) in [("small", 4, 100_000), ("large", 16, 1 << 20)] {
        std::fs::create_dir(sandbox.path(name)).unwrap();
        for i in 0..files {
            std::fs::write(sandbox.path(name).join(i.to_string()), noise(i + size, size as usize)).unwrap();
        }
    }
    at(&["backup", "small"]).succeeds();
    let full = at(&["backup", "large"]).ends_with(1).says(&["No space left on device", "hint:", "room"]);
    assert!(full.stdout.is_empty(), "{full}");
    // What was there is there, even before there is room.
    at(&["check"]).succeeds();
    assert_eq!(at(&["ls"]).succeeds().text().lines().count(), 1);
    at(&["restore", "-to", "restored small", "latest"]).succeeds();
    ALL.check(&sandbox.path("small"), &sandbox.path("restored small"));
    let left: Vec<_> = crate::common::sandbox::files_below(&store);
    let temporary = left.iter().find(|f| f.file_name().unwrap().to_str().unwrap().starts_with("tmp"));
    assert_eq!(temporary, None, "what could not be finished is taken away");

    mount_remount(disk.path(), MountFlags::empty(), c"size=64m").unwrap();
    at(&["check"]).succeeds();
    at(&["backup", "large"]).succeeds();
    at(&["check"]).succeeds();
    at(&["restore", "-to", "restored large", "latest"]).succeeds();
    ALL.check(&sandbox.path("large"), &sandbox.path("restored large"));
}

#[test]
fn a_disk_that_is_full_everywhere_else_damages_nothing() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    for i in 0..400 {
        std::fs::write(source.join(format!("{i} {}", "n".repeat(200))), noise(i, 20_000)).unwrap();
    }
    // A destination without room.
    sandbox.backup(&source);
    let disk = SmallDisk::new("4m");
    let to = disk.path().join("to");
    let full = sandbox.run(["restore", "-to", to.to_str().unwrap(), "latest"]);
    full.ends_with(1).says(&["No space left on device"]);
    for file in crate::common::sandbox::files_below(&to) {
        let original = source.join(file.file_name().unwrap());
        assert!(original.exists(), "{} was left behind", file.display());
        assert!(fs_eq(&file, &original), "{} is half", file.display());
    }
    // A home without room for the cache: it is only a cache.
    let home = SmallDisk::new("64k");
    std::fs::write(home.path().join("filler"), vec![1; 60 << 10]).unwrap();
    std::fs::write(source.join("new"), noise(9999, 300_000)).unwrap();
    let mut command = sandbox.command(["backup", "source"]);
    Outcome::of(command.env("HOME", home.path())).succeeds();
    sandbox.run(["check"]).succeeds();
    sandbox.backup(&source);
    ALL.check(&source, &sandbox.restore("latest"));
}

fn fs_eq(a: &Path, b: &Path) -> bool {
    std::fs::read(a).unwrap() == std::fs::read(b).unwrap()
}

/// Runs the program as root without the right to read what its permissions forbid.
fn without_override(sandbox: &Sandbox, args: &[&str]) -> Outcome {
    let caps = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"];
    Outcome::of(&mut sandbox.under(&caps, args))
}

#[test]
fn unreadable_files_do_not_end_a_backup() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    let d = Directory::open(&source);
    d.at("good").file(b"good");
    d.at("secret\x1b[2J").file(b"secret").mode(0);
    d.make("closed").at("inside").file(b"inside");
    d.at("closed").mode(0);
    d.make("open").at("also secret").file(b"also secret").mode(0);
    d.at("last").file(b"last");
    let outcome = without_override(&sandbox, &["backup", "source"]).ends_with(3);
    let outcome = outcome.says(&["Permission denied", "closed", "also secret", "info -errors"]);
    assert!(!outcome.stderr.contains('\x1b'), "{outcome}");
    let id = outcome.text().split(':').next().unwrap().to_owned();

    let listed = sandbox.run(["info", "-errors", &id]).succeeds();
    assert_eq!(listed.text().lines().filter(|l| l.contains("Permission denied")).count(), 3, "{listed}");
    let listed = sandbox.run(["info", "-errors", "-json", &id]).succeeds().json();
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().any(|e| e["path"].as_str().unwrap().ends_with("/open/also secret")));
    // The snapshot is whole in itself.
    sandbox.run(["check", &id]).succeeds();
    let to = sandbox.path("to");
    sandbox.run(["restore", "-to", "to", &id]).ends_with(3).says(&["also secret", "not backed up"]);
    for name in ["good", "last"] {
        assert_eq!(std::fs::read(to.join(name)).unwrap(), name.as_bytes());
    }
    // No file stands for one whose contents are unknown.
    assert!(!to.join("open/also secret").exists());

    // Once it can be read, it is.
    let summary = sandbox.backup(&source);
    assert_eq!(summary["errors"], 0);
    ALL.check(&source, &sandbox.restore(&hex_id(&summary)));
}

#[test]
fn a_source_that_cannot_be_read_at_all_fails() {
    let sandbox = Sandbox::with_key_file();
    let d = Directory::open(&sandbox.path(""));
    d.make("source").at("file").file(b"x");
    d.at("source").mode(0);
    let outcome = without_override(&sandbox, &["backup", "source"]);
    assert!(matches!(outcome.code, Some(1 | 3)), "{outcome}");
    outcome.says(&["source", "Permission denied"]);
}

#[test]
fn a_store_that_cannot_be_written_or_read_says_so() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), noise(1, 100_000)).unwrap();
    sandbox.backup(&source);
    std::fs::write(source.join("file"), noise(2, 100_000)).unwrap();
    let store = Directory::open(&sandbox.store());
    for area in ["data", "meta", "states", "snapshots", "leases"] {
        // The first level is enough: new objects need a name there, or a new directory.
        for inner in std::fs::read_dir(sandbox.store().join(area)).unwrap() {
            let inner = inner.unwrap();
            if inner.file_type().unwrap().is_dir() {
                Directory::open(&inner.path()).at(".").mode(0o500);
            }
        }
        store.at(area).mode(0o500);
    }
    without_override(&sandbox, &["backup", "source"]).ends_with(1).says(&["Permission denied", "hint:"]);
    // Reading goes on.
    without_override(&sandbox, &["check"]).succeeds();
    store.at("snapshots").mode(0);
    let outcome = without_override(&sandbox, &["ls"]);
    assert!(matches!(outcome.code, Some(1 | 66)), "{outcome}");
    outcome.says(&["snapshots", "Permission denied", "hint:"]);
    for area in ["data", "meta", "states", "snapshots", "leases"] {
        store.at(area).mode(0o755);
    }
}

#[test]
fn somebody_without_rights_restores_what_is_allowed_and_is_told_the_rest() {
    let sandbox = Sandbox::for_nobody();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    let d = Directory::open(&source);
    d.at("own").file(b"own").owner(NOBODY, NOBODY).mode(0o640).xattr("user.x", b"1").mtime(-5, 5);
    d.at("of root").file(b"of root").mode(0o4755);
    d.at("device").node(rustix::fs::FileType::CharacterDevice, (259, 1));
    d.at("fifo").node(rustix::fs::FileType::Fifo, (0, 0)).owner(NOBODY, NOBODY);
    d.at("link").symlink(b"own").owner(NOBODY, NOBODY);
    let closed = d.make("read-only");
    closed.at("file").file(b"x").owner(NOBODY, NOBODY).mode(0o444);
    closed.at(".").owner(NOBODY, NOBODY).mode(0o555).mtime(9, 9);
    d.at(".").owner(NOBODY, NOBODY);
    let outcome = sandbox.run(["backup", "source"]);
    outcome.succeeds();
    let outcome = sandbox.run(["restore", "-to", "restored", "latest"]).ends_with(3);
    let outcome = outcome.says(&["of root", "device", "Operation not permitted"]);
    for fine in ["own:", "fifo:", "read-only"] {
        assert!(!outcome.stderr.contains(fine), "complains of {fine}: {outcome}");
    }
    let restored = Directory::open(&sandbox.path("restored"));
    let found = restored.at("of root").stat();
    assert_eq!((found.st_mode & 0o7777, found.st_uid), (0o755, NOBODY), "no foreign set-uid");
    std::fs::remove_file(sandbox.path("restored/of root")).unwrap();
    for name in ["of root", "device"] {
        std::fs::remove_file(source.join(name)).unwrap();
    }
    d.at(".").mtime(1, 1);
    restored.at(".").mtime(1, 1);
    ALL.check(&source, &sandbox.path("restored"));
    assert_eq!(owner(&sandbox.path("restored/own")), NOBODY);
}

fn owner(path: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    path.metadata().unwrap().uid()
}

#[test]
fn mistakes_on_the_command_line_are_2() {
    let sandbox = Sandbox::empty();
    let mistakes: [(&[&str], &str); 9] = [
        (&["frobnicate"], "no command"),
        (&["restroe"], "restore"),
        (&["ls", "-recursiv"], "-recursive"),
        (&["backup", "-frob", "x"], "-frob"),
        (&["restore", "-overwrite", "perhaps"], "always"),
        (&["at"], "STORE"),
        (&["at", "x"], "command"),
        (&["cat"], "SNAPSHOT"),
        (&["ls", "a", "b"], "too many"),
    ];
    for (words, said) in mistakes {
        let outcome = sandbox.run(words).ends_with(2).says(&[said]);
        assert!(outcome.stdout.is_empty(), "{outcome}");
    }
    let mut command = sandbox.command([OsStr::new("ls"), OsStr::new("-json"), OsStr::new("-frob")]);
    let outcome = Outcome::of(&mut command).ends_with(2);
    let failure: serde_json::Value = serde_json::from_str(outcome.stderr.trim()).unwrap();
    assert_eq!(failure["exit_code"], 2);
}

#[test]
fn what_other_programs_say_is_understood() {
    let sandbox = Sandbox::empty();
    for word in ["-version", "--version", "-V", "version"] {
        assert!(sandbox.run([word]).succeeds().text().starts_with("plakar"), "{word}");
    }
    for (words, hint) in [
        (&["init"][..], "plakar create"),
        (&["list"], "plakar ls"),
        (&["delete", "x"], "plakar rm"),
        (&["find", "x"], "plakar ls -recursive"),
        (&["help", "list"], "plakar ls"),
        (&["ls", "-R"], "-recursive"),
        (&["ls", "-q"], "-quiet"),
        (&["ls", "-l"], "anyway"),
        (&["help", "archive"], "not in this version yet"),
    ] {
        sandbox.run(words).ends_with(2).says(&[hint]);
    }
}

#[test]
fn a_store_that_cannot_be_made_for_want_of_a_passphrase_leaves_nothing() {
    let sandbox = Sandbox::empty();
    let refused = Outcome::of(sandbox.command(["at", "new", "create"]).env_remove("PLAKAR_PASSPHRASE"));
    assert_ne!(refused.code, Some(0), "{refused}");
    assert!(!sandbox.path("new").exists());
}
