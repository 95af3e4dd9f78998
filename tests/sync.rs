//! Snapshots copied from store to store, as their owner would.

use std::fs;

use crate::common::sandbox::{PASSPHRASE, files_below};
use crate::common::{ALL, Outcome, Sandbox, hex_id, noise};

#[test]
fn to_from_and_with_another_store() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    noise(&source, 0..20);
    let mut ids = vec![hex_id(&sandbox.backup(&source))];
    fs::write(source.join("more"), "more").unwrap();
    ids.push(hex_id(&sandbox.backup(&source)));
    sandbox.run(["at", "other", "create"]).succeeds();
    sandbox.run(["store", "add", "offsite", "other"]).succeeds();
    // A plan first.
    let plan = sandbox.run(["sync", "-dry-run", "to", "@offsite"]).succeeds();
    assert!(plan.text().ends_with("sync would copy 2 snapshots to other\n"), "{plan}");
    assert!(sandbox.run(["at", "other", "ls"]).succeeds().stdout.is_empty());
    let done = sandbox.run(["sync", "-check", "to", "@offsite"]).succeeds();
    let text = done.text();
    assert!(text.contains(&format!("(copy of {})", &ids[0][..8])), "{done}");
    assert!(text.contains("2 snapshots copied to other, ") && text.contains("check completed"), "{done}");
    ALL.check(&source, &sandbox.restore("latest"));
    let restored = sandbox.path("from other");
    sandbox.run(["at", "other", "restore", "-to", restored.to_str().unwrap(), "latest"]).succeeds();
    ALL.check(&source, &restored);
    // A copy says so.
    let copy = sandbox.run(["at", "other", "info", "latest"]).succeeds();
    assert!(copy.text().contains(&format!("Copy of:       {}", ids[1])), "{copy}");
    let copy = sandbox.run(["at", "other", "info", "-json", "latest"]).succeeds().json().remove(0);
    assert_eq!(copy["copy_of"]["snapshot"], ids[1]);
    // Again: nothing to do, and nothing written.
    let before = files_below(&sandbox.path("other")).len();
    let again = sandbox.summary(["sync", "to", "@offsite"]);
    assert_eq!((&again["copied"], &again["present"]), (&0.into(), &2.into()));
    assert_eq!(files_below(&sandbox.path("other")).len(), before);
    // What is chosen, and then both ways.
    fs::write(source.join("third"), "3").unwrap();
    sandbox.run(["backup", "-tag", "mine", "source"]).succeeds();
    fs::write(source.join("fourth"), "4").unwrap();
    let fourth = hex_id(&sandbox.backup(&source));
    sandbox.run(["at", "other", "backup", "source"]).succeeds();
    assert_eq!(sandbox.summary(["sync", "-tag", "mine", "to", "other"])["copied"], 1);
    assert_eq!(sandbox.summary(["sync", &fourth[..8], "to", "other"])["copied"], 1);
    let both = sandbox.run(["sync", "-json", "with", "other"]).succeeds().json();
    let summaries: Vec<_> =
        both.iter().filter(|o| o["type"] == "summary").map(|o| o["copied"].clone()).collect();
    assert_eq!(summaries, [0, 1], "{both:?}");
    assert_eq!(sandbox.summary(["sync", "from", "other"])["copied"], 0);
    for store in ["other", "store"] {
        assert_eq!(sandbox.run(["at", store, "ls"]).succeeds().text().lines().count(), 5);
        sandbox.run(["at", store, "check"]).succeeds();
    }
}

#[test]
fn mistakes_are_named() {
    let sandbox = Sandbox::with_key_file();
    noise(&sandbox.path("source"), 0..2);
    sandbox.backup(&sandbox.path("source"));
    sandbox.run(["sync"]).ends_with(2);
    sandbox.run(["sync", "to"]).ends_with(2).says(&["to, from or with"]);
    sandbox.run(["sync", "other"]).ends_with(2).says(&["to, from or with"]);
    sandbox.run(["sync", "to", "nowhere"]).ends_with(66).says(&["nowhere"]);
    sandbox.run(["sync", "to", "@nobody"]).ends_with(1).says(&["no store called nobody"]);
    sandbox.run(["sync", "to", "store"]).ends_with(1).says(&["the same store"]);
    sandbox.run(["at", "other", "create"]).succeeds();
    sandbox.run(["sync", "ffffffff", "to", "other"]).ends_with(1).says(&["ffffffff"]);
    sandbox.run(["at", "p", "create", "-plaintext"]).succeeds();
    sandbox.run(["at", "q", "create", "-clone-keys-from", "p"]).ends_with(2).says(&["not encrypted"]);
    assert!(!sandbox.path("q/CONFIG").exists());
}

#[test]
fn each_store_has_its_own_secret() {
    let sandbox = Sandbox::new();
    noise(&sandbox.path("source"), 0..2);
    sandbox.backup(&sandbox.path("source"));
    fs::write(sandbox.path("word"), "another battery staple").unwrap();
    let other = ["at", "other", "create", "-weak-passphrase", "-passphrase-cmd", "cat word"];
    sandbox.run(other).succeeds();
    sandbox.run(["sync", "to", "other"]).ends_with(77).says(&["the store at other is encrypted"]);
    sandbox.run(["sync", "-peer-passphrase-cmd", "cat word", "to", "other"]).succeeds();
    sandbox.run(["sync", "-peer-keyfile", "word", "from", "other"]).succeeds();
    sandbox.run(["store", "add", "far", "other", "passphrase_cmd=cat word"]).succeeds();
    sandbox.run(["sync", "with", "@far"]).succeeds();
    // Keys of another store, under a passphrase of its own.
    let twin = [
        "at",
        "twin",
        "create",
        "-weak-passphrase",
        "-passphrase-cmd",
        "cat word",
        "-clone-keys-from",
        "store",
    ];
    sandbox.run(twin).ends_with(77);
    let mut create = sandbox.command(["store", "add", "first", "store", &format!("passphrase={PASSPHRASE}")]);
    Outcome::of(&mut create).succeeds();
    let twin = twin.map(|word| if word == "store" { "@first" } else { word });
    sandbox.run(twin).succeeds();
    sandbox.run(["sync", "-check", "-peer-passphrase-cmd", "cat word", "to", "twin"]).succeeds();
    sandbox.run(["at", "twin", "ls"]).ends_with(77);
    sandbox.run(["at", "twin", "-passphrase-cmd", "cat word", "check"]).succeeds();
}

#[test]
fn what_is_damaged_is_named_and_the_rest_copied() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    noise(&source, 0..4);
    sandbox.backup(&source);
    let before = sandbox.objects("data");
    noise(&source, 4..8);
    let hit = hex_id(&sandbox.backup(&source));
    let victim = sandbox.objects("data").into_iter().find(|f| !before.contains(f)).unwrap();
    let mut bytes = fs::read(&victim).unwrap();
    bytes[1000] ^= 1;
    fs::write(&victim, bytes).unwrap();
    sandbox.run(["at", "other", "create"]).succeeds();
    let done = sandbox.run(["sync", "to", "other"]).ends_with(65).says(&[&hit[..8], "was not copied"]);
    assert!(done.text().contains("1 snapshot copied to other, 1 not"), "{done}");
    sandbox.run(["at", "other", "check"]).succeeds();
    // Mended, it follows.
    let mut bytes = fs::read(&victim).unwrap();
    bytes[1000] ^= 1;
    fs::write(&victim, bytes).unwrap();
    assert_eq!(sandbox.summary(["sync", "to", "other"])["copied"], 1);
}

#[test]
fn killed_at_any_point_it_goes_on_from_there() {
    for clone in [false, true] {
        let sandbox = Sandbox::with_key_file();
        let source = sandbox.path("source");
        for i in 0..4 {
            noise(&source, i * 100..i * 100 + 100);
            sandbox.backup(&source);
        }
        let mut create = vec!["at", "other", "create"];
        create.extend(clone.then_some(["-clone-keys-from", "store"]).into_iter().flatten());
        sandbox.run(create).succeeds();
        let mut done = false;
        for round in 0..40_u64 {
            let mut child = sandbox.command(["sync", "-quiet", "to", "other"]);
            let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20 + 30 * round));
            let _ = child.kill();
            done = child.wait().unwrap().success();
            let check = sandbox.run(["at", "other", "check"]);
            assert_eq!(check.code, Some(0), "{check}");
            if done {
                break;
            }
        }
        assert!(done);
        assert_eq!(sandbox.summary(["sync", "to", "other"])["present"], 4);
        let restored = sandbox.path("restored");
        sandbox.run(["at", "other", "restore", "-to", restored.to_str().unwrap(), "latest"]).succeeds();
        ALL.check(&source, &restored);
    }
}
