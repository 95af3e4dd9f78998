//! Stores in one file: made, opened by every command, cut off, damaged.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{ALL, Outcome, Sandbox, hex_id, noise};

/// A sandbox with a tree of everything, and files of noise.
fn with_source() -> Sandbox {
    let sandbox = Sandbox::with_key_file();
    noise(&sandbox.path("source"), 0..100);
    fs::create_dir(sandbox.path("source/sub")).unwrap();
    fs::write(sandbox.path("source/sub/text"), "words\n".repeat(10_000)).unwrap();
    fs::File::create(sandbox.path("source/holes")).unwrap().set_len(9 << 20).unwrap();
    std::os::unix::fs::symlink("sub/text", sandbox.path("source/link")).unwrap();
    sandbox
}

/// Restores the newest snapshot of a ptar, and compares it.
fn is_same(sandbox: &Sandbox, ptar: &str, source: &Path) {
    let to = (0..).map(|i| sandbox.path(format!("back {i}"))).find(|p| !p.exists()).unwrap();
    sandbox.run(["at", ptar, "restore", "-to", to.to_str().unwrap(), "latest"]).succeeds();
    ALL.check(source, &to);
}

/// Runs the program without any secret at hand.
fn without_key(sandbox: &Sandbox, words: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plakar"));
    command.env_clear().env("HOME", sandbox.path("home")).current_dir(sandbox.path(""));
    Outcome::of(command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

#[test]
fn it_is_a_store_in_one_file() {
    let sandbox = with_source();
    let source = sandbox.path("source");
    let made = sandbox.run(["ptar", "-o", "x.ptar", "source"]).succeeds();
    assert!(made.text().starts_with("ptar completed without errors in "), "{made}");
    assert!(made.text().contains("1 snapshot in x.ptar, "), "{made}");
    is_same(&sandbox, "x.ptar", &source);
    is_same(&sandbox, "ptar:x.ptar", &source);
    assert_eq!(sandbox.run(["at", "x.ptar", "cat", "latest:sub/text"]).succeeds().stdout.len(), 60_000);
    sandbox.run(["at", "x.ptar", "check"]).succeeds();
    sandbox.run(["at", "x.ptar", "info"]).succeeds();
    // Without the key nothing is seen.
    let mut command = sandbox.command(["at", "x.ptar"]);
    command.args(["-keyfile", "/dev/null", "ls"]);
    assert_ne!(Outcome::of(&mut command).code, Some(0));
    // Under another name too.
    fs::rename(sandbox.path("x.ptar"), sandbox.path("renamed")).unwrap();
    is_same(&sandbox, "renamed", &source);
    fs::rename(sandbox.path("renamed"), sandbox.path("x.ptar")).unwrap();
    // Mounted.
    let at = sandbox.path("mounted");
    fs::create_dir(&at).unwrap();
    sandbox.run(["at", "x.ptar", "mount", "-background", "-to", at.to_str().unwrap(), "latest"]).succeeds();
    ALL.check(&source, &at);
    sandbox.run(["umount", at.to_str().unwrap()]).succeeds();
    // Nothing can be changed.
    for words in [&["backup", "source"][..], &["rm", "-apply", "latest"], &["create"]] {
        let done = sandbox.run(["at", "x.ptar"].iter().chain(words));
        assert_ne!(done.code, Some(0), "{done}");
        done.says(&["a ptar is written once"]);
    }
    // It is not replaced by accident.
    sandbox.run(["ptar", "-o", "x.ptar", "source"]).ends_with(1).says(&["-overwrite"]);
    fs::write(source.join("new"), "new").unwrap();
    sandbox.run(["ptar", "-o", "x.ptar", "-overwrite", "-plaintext", "source"]).succeeds();
    assert_eq!(without_key(&sandbox, &["at", "x.ptar", "cat", "latest:new"]).succeeds().text(), "new");
    let left = fs::read_dir(sandbox.path("")).unwrap().flatten();
    assert!(left.into_iter().all(|e| !e.file_name().to_string_lossy().starts_with(".plakar-")));
}

#[test]
fn stores_go_into_it_and_come_out_of_it() {
    let sandbox = with_source();
    let source = sandbox.path("source");
    let first = hex_id(&sandbox.backup(&source));
    fs::write(source.join("more"), "more").unwrap();
    sandbox.backup(&source);
    let made = sandbox.summary(["ptar", "-o", "all.ptar", "-k", "store"]);
    assert_eq!(made["snapshots"], 2);
    is_same(&sandbox, "all.ptar", &source);
    sandbox.run(["at", "all.ptar", "check"]).succeeds();
    // With what is here beside it.
    let made = sandbox.summary(["ptar", "-o", "more.ptar", "-k", "store", "-k", "all.ptar", "source/sub"]);
    assert_eq!(made["snapshots"], 3, "what is in both comes once");
    // Back into a store, which knows what came from itself.
    assert_eq!(sandbox.summary(["sync", "from", "all.ptar"])["present"], 2);
    sandbox.run(["at", "fresh", "create"]).succeeds();
    assert_eq!(sandbox.summary(["at", "fresh", "sync", "from", "more.ptar"])["copied"], 3);
    let copies = sandbox.run(["at", "fresh", "ls", "-json"]).succeeds().json();
    assert!(copies.iter().any(|s| s["copy_of"]["snapshot"] == first.as_str()), "{copies:?}");
    sandbox.run(["at", "fresh", "check"]).succeeds();
    assert_eq!(sandbox.run(["sync", "to", "all.ptar"]).code, Some(0), "nothing to do");
}

#[test]
fn it_goes_through_a_pipe() {
    let sandbox = with_source();
    sandbox.backup(&sandbox.path("source"));
    let piped = sandbox
        .run(["ptar", "-o", "-", "-k", "store", "source"])
        .succeeds()
        .says(&["2 snapshots in the standard output"]);
    fs::write(sandbox.path("piped.ptar"), &piped.stdout).unwrap();
    is_same(&sandbox, "piped.ptar", &sandbox.path("source"));
    sandbox.run(["at", "piped.ptar", "check"]).succeeds();
    // Whoever reads it has had enough; the disk is full.
    let mut command = sandbox.command(["ptar", "-o", "-", "source"]);
    command.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let full = Outcome::of(&mut command);
    assert_ne!(full.code, Some(0));
    full.says(&["No space left", "make room, and run it again"]);
}

#[test]
fn one_that_was_cut_off_says_how_much_of_it_is_usable() {
    let sandbox = with_source();
    let source = sandbox.path("source");
    sandbox.backup(&source);
    noise(&source, 100..150);
    sandbox.run(["ptar", "-o", "x.ptar", "-k", "store", "source"]).succeeds();
    let whole = fs::read(sandbox.path("x.ptar")).unwrap();
    let check = |len: usize| {
        fs::write(sandbox.path("cut.ptar"), &whole[..len]).unwrap();
        sandbox.run(["at", "cut.ptar", "check"])
    };
    // Only the end is missing: all that was in it can be had.
    let done = check(whole.len() - 1).ends_with(65).says(&["cut off", "2 snapshots"]);
    assert!(done.stderr.contains("whole"), "{done}");
    is_same(&sandbox, "cut.ptar", &source);
    // In the middle: the first.
    let mut snapshots = std::collections::BTreeSet::new();
    for i in 1..20 {
        let done = check(whole.len() * i / 20);
        assert_ne!(done.code, Some(0), "{i} {done}");
        let told = done.stderr.lines().find_map(|l| l.split("bytes are whole, and ").nth(1)?.chars().next());
        let Some(told) = told else { continue };
        snapshots.insert(told);
        if told != '0' {
            let to = sandbox.path(format!("of {i}"));
            sandbox.run(["at", "cut.ptar", "restore", "-to", to.to_str().unwrap(), "latest"]).succeeds();
            ALL.check(&sandbox.restore("latest"), &to);
        }
    }
    assert!(snapshots.contains(&'0') && snapshots.contains(&'1'), "{snapshots:?}");
    sandbox.run(["at", "no.ptar", "ls"]).ends_with(66).says(&["no.ptar"]);
    fs::write(sandbox.path("text.ptar"), "this is none").unwrap();
    sandbox.run(["at", "text.ptar", "ls"]).says(&["text.ptar", "does not begin as a ptar does"]);
}

#[test]
fn a_check_finds_each_flipped_bit() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    noise(&source, 0..3);
    for plaintext in [false, true] {
        let mut words = vec!["ptar", "-o", "x.ptar", "-overwrite"];
        words.extend(plaintext.then_some("-plaintext"));
        words.push("source");
        sandbox.run(words).succeeds();
        let whole = fs::read(sandbox.path("x.ptar")).unwrap();
        let run = || match plaintext {
            true => without_key(&sandbox, &["at", "x.ptar", "check"]),
            false => sandbox.run(["at", "x.ptar", "check"]),
        };
        run().succeeds();
        // All of what is little, and samples of what is much.
        let len = whole.len();
        let places = (0..len)
            .filter(|i| i % 2503 == 0 || *i < 16 || *i > len - 64 || (i % 97 == 0 && *i > len - 6000));
        for place in places {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 8);
            fs::write(sandbox.path("x.ptar"), bytes).unwrap();
            let done = run();
            assert_ne!(done.code, Some(0), "byte {place} of {len}, plaintext {plaintext}: {done}");
        }
    }
}
