//! Stores, sources, destinations and policies under names.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::sandbox::PASSPHRASE;
use crate::common::{Outcome, Sandbox, hex_id};

fn with_source() -> Sandbox {
    let sandbox = Sandbox::empty();
    fs::create_dir_all(sandbox.path("source/sub")).unwrap();
    fs::write(sandbox.path("source/sub/file"), "contents").unwrap();
    sandbox
}

#[test]
fn everything_can_be_named() {
    let sandbox = with_source();
    let place = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
    let store = place("far");
    let configuration = sandbox.path("home/.config/plakar/stores.yml");
    let silent = |words: &[&str]| {
        let done = sandbox.run(words).succeeds();
        assert!(done.stdout.is_empty() && done.stderr.is_empty(), "{done}");
    };
    silent(&["store", "add", "far", &store, &format!("passphrase={PASSPHRASE}")]);
    silent(&["source", "add", "@mine", &format!("location={}", place("source"))]);
    silent(&["destination", "add", "back", &place("restored")]);
    assert_eq!(fs::metadata(&configuration).unwrap().permissions().mode() & 0o777, 0o600);
    let run = |words: &[&str]| {
        let mut command = sandbox.command(words);
        command.env_remove("PLAKAR_PASSPHRASE").env_remove("PLAKAR_REPOSITORY");
        Outcome::of(&mut command)
    };
    run(&["at", "@far", "create"]).succeeds();
    let made = run(&["at", "@far", "backup", "-json", "@mine"]).succeeds();
    let id = hex_id(&made.summary());
    run(&["at", "@far", "restore", "-to", "@back", "latest"]).succeeds();
    assert_eq!(fs::read_to_string(sandbox.path("restored/sub/file")).unwrap(), "contents");
    // Below it, or in its place.
    run(&["at", "@far", "backup", "@mine:sub"]).succeeds();
    run(&["at", "@far", "restore", "-to", "@back:deep", "latest"]).succeeds();
    assert_eq!(fs::read_to_string(sandbox.path("restored/deep/file")).unwrap(), "contents");
    run(&["at", "@far:/nowhere", "ls"]).ends_with(66).says(&["/nowhere"]);
    // Where none is named.
    run(&["ls"]).ends_with(66).says(&[".plakar"]);
    run(&["store", "default", "nope"]).ends_with(1).says(&["no store called nope"]);
    run(&["store", "default", "far"]).succeeds();
    assert!(run(&["ls"]).succeeds().text().contains(&id[..8]));
    assert_eq!(run(&["store", "default"]).succeeds().text(), "far\n");
    // The environment counts more, and `at` most.
    assert!(sandbox.run(["ls"]).ends_with(66).stderr.contains("store"));
    run(&["store", "rm", "far"]).succeeds();
    run(&["at", "@far", "ls"]).ends_with(1).says(&["no store called far"]);
    run(&["at", "@back", "ls"]).ends_with(1);
    run(&["store", "add", "near", "/x"]).succeeds();
    run(&["at", "@neer", "ls"]).ends_with(1).says(&["did you mean near?"]);
    // The recorded command names the store, not its secret.
    let info = run(&["at", &store, "-passphrase-cmd", &format!("echo {PASSPHRASE}"), "info", "-json", &id]);
    assert!(!info.succeeds().text().contains(PASSPHRASE));
}

#[test]
fn secrets_come_from_where_they_are_kept() {
    let sandbox = with_source();
    let store = sandbox.path("s").to_str().unwrap().to_owned();
    fs::write(sandbox.path("secret"), format!("{PASSPHRASE}\n")).unwrap();
    // A keyring as the desktop has one.
    let tools = sandbox.path("tools");
    fs::create_dir(&tools).unwrap();
    let tool = tools.join("secret-tool");
    let script =
        format!("#!/bin/sh\n[ \"$*\" = 'lookup service plakar username me' ] && echo '{PASSPHRASE}'\n");
    fs::write(&tool, script).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |words: &[&str]| {
        let mut command = sandbox.command(words);
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
        command.env_remove("PLAKAR_PASSPHRASE").env("MINE", PASSPHRASE).env("PATH", path);
        Outcome::of(&mut command)
    };
    run(&["store", "add", "s", &store, &format!("passphrase={PASSPHRASE}")]).succeeds();
    run(&["at", "@s", "create"]).succeeds();
    let file = sandbox.path("secret").to_str().unwrap().to_owned();
    for option in [
        format!("passphrase_cmd=echo {PASSPHRASE}"),
        format!("passphrase_file={file}"),
        "passphrase_env=MINE".into(),
        "passphrase_keyring=plakar/me".into(),
        format!("keyfile={file}"),
    ] {
        run(&["store", "import", "-overwrite"]).ends_with(1).says(&["nothing"]);
        run(&["store", "rm", "s"]).succeeds();
        run(&["store", "add", "s", &store, &option]).succeeds();
        run(&["at", "@s", "ls"]).succeeds();
        run(&["store", "check", "s"]).succeeds();
        run(&["store", "ping", "s"]).succeeds();
    }
    for (option, words) in [
        ("passphrase_keyring=plakar/you", "no entry plakar/you"),
        ("passphrase_env=NOT_SET", "NOT_SET, which is not set"),
        ("passphrase_file=/nowhere", "/nowhere"),
        ("passphrase=wrong", "does not open"),
    ] {
        run(&["store", "rm", "s"]).succeeds();
        run(&["store", "add", "s", &store, option]).succeeds();
        let refused = run(&["at", "@s", "ls"]);
        assert!(refused.code != Some(0), "{refused}");
        assert!(option.contains("wrong") || refused.stderr.contains(words), "{refused}");
    }
    // What somebody has said on the command line counts.
    run(&["-keyfile", &file, "at", "@s", "ls"]).succeeds();
}

#[test]
fn configurations_are_shown_changed_and_checked() {
    let sandbox = with_source();
    let run = |words: &[&str]| sandbox.run(words);
    run(&["store", "add", "nas", "sftp://me:hidden@nas/b", "passphrase=geheim", "port=22"])
        .succeeds()
        .says(&["cannot use sftp://me:…@nas/b yet"]);
    let shown = run(&["store", "show"]).succeeds();
    let wanted = "version: v1.0.0\nstores:\n  nas:\n    location: sftp://me:…@nas/b\n    passphrase: '********'\n    port: '22'\n";
    assert_eq!(shown.text(), wanted);
    assert!(run(&["store", "show", "-secrets", "nas"]).succeeds().text().contains("geheim"));
    let json = run(&["store", "show", "-json", "@nas"]).succeeds().json();
    assert_eq!((&json[0]["name"], &json[0]["options"]["port"]), (&"nas".into(), &"22".into()));
    assert!(!json[0].to_string().contains("geheim") && !json[0].to_string().contains("hidden"));
    let ini = run(&["store", "show", "-ini", "-secrets"]).succeeds();
    assert!(ini.text().starts_with("[nas]\nlocation = sftp://me:hidden@nas/b\n"), "{ini}");
    run(&["store", "set", "nas", "port=2222", "more=x=y"]).succeeds();
    run(&["store", "unset", "nas", "more"]).succeeds();
    run(&["store", "unset", "nas", "prot"]).ends_with(1).says(&["did you mean port?"]);
    run(&["store", "unset", "nas", "location"]).ends_with(1);
    run(&["store", "add", "nas", "/x"]).ends_with(1).says(&["already"]);
    run(&["store", "add", "a/b", "/x"]).ends_with(2);
    run(&["store", "set", "nas", "novalue"]).ends_with(2);
    run(&["store", "add", "disk", "/x", "pasphrase_cmd=x"])
        .ends_with(1)
        .says(&["did you mean passphrase_cmd?"]);
    run(&["store", "add", "disk", "/x", "passphrase=x", "keyfile=y"]).ends_with(1).says(&["both"]);
    run(&["destination", "add", "d", "/x", "passphrase=x"]).ends_with(1).says(&["no option passphrase"]);
    run(&["store", "show", "nope"]).ends_with(1);
    // From elsewhere.
    let from = sandbox.path("import.ini");
    fs::write(&from, "[one]\nlocation = /srv/one\n[two]\nlocation=/srv/two\n").unwrap();
    let from = from.to_str().unwrap();
    run(&["store", "import", "-from", from, "two:second"]).succeeds().says(&["imported second"]);
    assert!(run(&["store", "show", "second"]).succeeds().text().contains("/srv/two"));
    run(&["store", "import", "-from", from, "tow"]).ends_with(1).says(&["did you mean two?"]);
    run(&["store", "import", "-from", from]).succeeds();
    run(&["store", "import", "-from", from]).ends_with(1).says(&["-overwrite"]);
    run(&["store", "import", "-from", from, "-overwrite"]).succeeds();
    let exported = run(&["store", "show", "-secrets", "-json"]).succeeds();
    assert_eq!(exported.json().len(), 4);
    fs::write(sandbox.path("remotes"), "[drive]\ntype = drive\n").unwrap();
    run(&["source", "import", "-rclone", "-from", "remotes"]).succeeds();
    assert!(run(&["source", "show"]).succeeds().text().contains("rclone://drive:"));
    // A file that is broken is named, and left as it is.
    fs::write(sandbox.path("home/.config/plakar/stores.yml"), "stores: [x\n").unwrap();
    run(&["store", "add", "x", "/y"]).ends_with(1).says(&["stores.yml"]);
    assert_eq!(fs::read_to_string(sandbox.path("home/.config/plakar/stores.yml")).unwrap(), "stores: [x\n");
    run(&["destination", "add", "ok", sandbox.path("new/deep").to_str().unwrap()]).succeeds();
    run(&["destination", "ping", "ok"]).succeeds();
    assert!(!sandbox.path("new").exists());
    run(&["source", "add", "gone", sandbox.path("gone").to_str().unwrap()]).succeeds();
    run(&["source", "check", "gone"]).succeeds();
    run(&["source", "ping", "gone"]).ends_with(1);
    // Another directory.
    run(&["-configdir", "elsewhere", "store", "add", "x", "/y"]).succeeds();
    assert!(sandbox.path("elsewhere/stores.yml").exists());
}

#[test]
fn changes_at_the_same_time_are_all_kept() {
    let sandbox = Sandbox::empty();
    let children: Vec<_> = (0..12)
        .map(|i| {
            let mut command = sandbox.command(["store", "add", &format!("s{i}"), "/x"]);
            (command.spawn().unwrap(), command)
        })
        .collect();
    for (child, command) in children {
        Outcome::when_ended(child, &command).succeeds();
    }
    assert_eq!(sandbox.run(["store", "show", "-json"]).succeeds().json().len(), 12);
}

#[test]
fn policies_are_rules_under_a_name() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    fs::create_dir(&source).unwrap();
    for day in ["2026-01-01", "2026-01-02", "2026-01-03", "2026-02-01"] {
        for hour in ["08:00", "20:00"] {
            let time = format!("{day}T{hour}:00Z");
            sandbox.run(["backup", "-quiet", "-force-timestamp", &time, "source"]).succeeds();
        }
    }
    let run = |words: &[&str]| sandbox.run(words);
    run(&["policy", "add", "daily", "per-day=1", "since=2026-01-02"]).succeeds();
    run(&["policy", "add", "daily", "per-day=2"]).ends_with(1);
    run(&["policy", "add", "bad", "per-dya=1"]).ends_with(2).says(&["did you mean per-day?"]);
    run(&["policy", "add", "bad", "per-day=many"]).ends_with(2);
    run(&["policy", "add", "bad", "apply=true"]).ends_with(2);
    let kept = |words: &[&str]| {
        let mut all = vec!["prune", "-json"];
        all.extend(words);
        let done = run(&all).succeeds().summary();
        (done["kept"].as_u64().unwrap(), done["deleted"].as_u64().unwrap())
    };
    assert_eq!(kept(&["-policy", "daily"]), kept(&["-per-day", "1", "-since", "2026-01-02"]));
    assert_eq!(kept(&["-policy", "daily"]), (3, 3));
    // What is given beside it counts.
    assert_eq!(kept(&["-policy", "daily", "-since", "2026-01-03"]), (2, 2));
    assert_eq!(kept(&["-per-day", "2", "-policy", "daily"]), (6, 0));
    run(&["policy", "set", "daily", "tags=!x", "group_by=root", "latest=false"]).succeeds();
    assert_eq!(kept(&["-policy", "daily"]), (3, 3));
    let shown = run(&["policy", "show", "daily"]).succeeds();
    assert!(shown.text().contains("per-day: '1'") && shown.text().contains("tag: '!x'"), "{shown}");
    run(&["policy", "unset", "daily", "since"]).succeeds();
    assert_eq!(kept(&["-policy", "daily"]), (4, 4));
    run(&["policy", "unset", "daily", "since"]).ends_with(1);
    run(&["prune", "-policy", "dayly"]).ends_with(1).says(&["did you mean daily?"]);
    // Tried out: on the store, and on a history of its own.
    assert_eq!(run(&["policy", "test", "daily", "-json"]).succeeds().summary()["kept"], 4);
    let tried = run(&[
        "policy",
        "test",
        "-every",
        "6h",
        "-for",
        "10d",
        "-as-of",
        "2026-05-01T12:00:00Z",
        "daily",
        "-json",
    ]);
    let tried = tried.succeeds();
    assert_eq!(
        (tried.summary()["kept"].as_u64(), tried.summary()["snapshots"].as_u64()),
        (Some(11), Some(41))
    );
    run(&["policy", "test", "-every", "1s", "-for", "100y", "daily"]).ends_with(2);
    let said = run(&["policy", "test", "-every", "1d", "daily"]).succeeds();
    assert!(said.text().ends_with("daily: would keep 366 of 366 snapshots\n"), "{said}");
    // As Plakar writes it.
    let file = sandbox.path("home/.config/plakar/policies.yml");
    let theirs = "version: v1.0.0\npolicies:\n  theirs:\n    periods:\n      day:\n        keep: 0\n        cap: 1\n    filters:\n      since: '2026-01-02'\n";
    fs::write(&file, theirs.replace("        keep: 0\n", "")).unwrap();
    assert_eq!(kept(&["-policy", "theirs"]), (3, 3));
    run(&["prune", "-policy", "theirs", "-apply"]).succeeds();
    assert_eq!(run(&["ls", "-json"]).succeeds().json().len(), 5);
    run(&["policy", "rm", "theirs"]).succeeds();
    run(&["policy", "show", "theirs"]).ends_with(1);
}
