//! What `prune` keeps: the plans that Plakar 1.1.4 made of one history (`tests/retention/plans.jsonl`), and what is better.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::common::{Outcome, Sandbox};

fn lines() -> Vec<Value> {
    include_str!("retention/plans.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

/// Queries of which the plan is another one on purpose: no source loses its last snapshot, and of two roots any will do.
fn is_bettered(query: &str) -> bool {
    query.contains("-root /srv/a -root /srv/b") || query == "-days 0"
}

#[test]
fn plans_are_those_of_plakar() {
    let sandbox = Sandbox::empty();
    sandbox.run(["create", "-plaintext"]).succeeds();
    let lines = lines();
    let (history, queries) = lines.split_first().unwrap();
    let history = history["history"].as_array().unwrap();
    // The sources stand at their places, on a machine of their name.
    let alone =
        "hostname fixture && mount -t tmpfs none /srv && mkdir /srv/a /srv/b /srv/c && exec \"$0\" \"$@\"";
    let alone = ["unshare", "--uts", "--mount", "sh", "-c", alone];
    for snapshot in history {
        let tags: Vec<&str> =
            snapshot["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        let tags = tags.join(",");
        let words = [
            "backup",
            "-quiet",
            "-force-timestamp",
            text(snapshot, "time"),
            "-tag",
            &tags,
            "-name",
            text(snapshot, "name"),
            "-category",
            text(snapshot, "category"),
            "-environment",
            text(snapshot, "environment"),
            "-perimeter",
            text(snapshot, "perimeter"),
            "-job",
            text(snapshot, "job"),
            text(snapshot, "root"),
        ];
        let words: Vec<&str> = words.into_iter().collect();
        Outcome::of(&mut sandbox.under(&alone, words)).succeeds();
    }
    let mut compared = 0;
    for query in queries.iter().filter(|q| !is_bettered(text(q, "query"))) {
        let words: Vec<&str> = text(query, "query").split(' ').collect();
        let asked = [&["prune", "-json", "-as-of", text(query, "now"), "-allow-last"], &words[..]].concat();
        let mut made = sandbox.run(asked).succeeds().json();
        made.retain(|line| line["type"] == "plan");
        let plan = |lines: &[Value]| -> BTreeMap<String, String> {
            lines.iter().map(|l| (text(l, "time").to_owned(), text(l, "action").to_owned())).collect()
        };
        assert_eq!(plan(&made), plan(query["plan"].as_array().unwrap()), "{query}");
        compared += 1;
    }
    assert!(compared > 40, "{compared}");
    // Without the explicit word no source is left with nothing.
    let words = ["prune", "-json", "-minutes", "4", "-as-of", text(&queries[0], "now")];
    let kept = sandbox.run(words).succeeds().json();
    let kept: Vec<&Value> = kept.iter().filter(|l| l["action"] == "keep").collect();
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert!(kept.iter().all(|l| l["reasons"][0].as_str().unwrap().contains("last one of its source")));
    // Nothing was removed by all that; now it is.
    let count = || sandbox.run(["ls", "-json"]).succeeds().json().len();
    assert_eq!(count(), history.len());
    sandbox.run(["prune", "-per-year", "1", "-apply", "-as-of", "2026-11-20"]).ends_with(2);
    sandbox.run(["prune", "-days", "0"]).ends_with(2);
    sandbox.run(["prune"]).ends_with(2).says(&["-per-day"]);
    sandbox.run(["prune", "-before", "2026-06-01", "-apply"]).ends_with(2).says(&["plakar rm"]);
    let done = sandbox.run(["prune", "-per-year", "1", "-apply", "-json"]).succeeds().summary();
    assert_eq!(done["applied"], true);
    // What was removed comes back; what is pinned never goes.
    let removed = sandbox.run(["undelete", "-json"]).succeeds().json();
    let removed: Vec<&str> =
        removed.iter().filter(|o| o["type"] == "snapshot").map(|o| text(o, "id")).collect();
    assert_eq!(removed.len() as u64, done["deleted"].as_u64().unwrap());
    let before = count();
    sandbox.run(["undelete", &removed[0][..12]]).succeeds();
    assert_eq!(count(), before + 1);
    sandbox.run(["undelete", removed[0]]).ends_with(1).says(&["no removed snapshot"]);
    sandbox.run(["pin", removed[0]]).succeeds();
    sandbox.run(["rm", "-apply", removed[0]]).ends_with(1).says(&["is pinned"]);
    let plan = sandbox.run(["prune", "-per-year", "1", "-json"]).succeeds().json();
    let pinned = plan.iter().find(|l| l["id"] == removed[0]).unwrap();
    assert_eq!((text(pinned, "action"), pinned["reasons"][0].as_str().unwrap()), ("keep", "it is pinned"));
    sandbox.run(["unpin", removed[0]]).succeeds();
    sandbox.run(["rm", "-apply", removed[0]]).succeeds();
    assert_eq!(count(), before);
    sandbox.run(["undelete", removed[0]]).succeeds();
    sandbox.run(["rm", "-apply", removed[0]]).succeeds();
    sandbox.run(["check"]).succeeds();
    // The newest of 2025 and of 2026, and the last one of the third root if it is not among them.
    assert_eq!(count() as u64, done["kept"].as_u64().unwrap());
    assert!((2..=5).contains(&count()), "{}", count());
}

#[test]
fn snapshots_are_tagged_named_and_described_afterwards() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    let place = source.to_str().unwrap();
    let made = sandbox.run(["backup", "-json", "-tag", "one", "-name", "first", place]).succeeds().summary();
    let id = crate::common::hex_id(&made);
    let info = || sandbox.run(["info", "-json", &id]).succeeds().json().remove(0);
    let tags = |words: &[&str]| {
        sandbox.run([&["tag"][..], words, &[&id]].concat()).succeeds();
        let tags = info()["tags"].as_array().unwrap().clone();
        tags.iter().map(|t| t.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(tags(&["-add", "two,one, three"]), ["one", "two", "three"]);
    assert_eq!(tags(&["-rm", "two", "-add", "four"]), ["one", "three", "four"]);
    assert_eq!(tags(&["-set", "five"]), ["five"]);
    // Every command goes by them.
    assert!(sandbox.run(["ls", "-tag", "five"]).succeeds().text().contains(&id[..8]));
    sandbox.run(["ls", "-tag", "one"]).succeeds().says(&[]);
    assert!(!sandbox.run(["ls", "-tag", "one"]).text().contains(&id[..8]));
    assert_eq!(tags(&["-set", ""]), [""; 0]);
    sandbox.run(["tag", &id]).ends_with(2).says(&["-add"]);
    sandbox.run(["tag", "-add", "x", "-set", "y", &id]).ends_with(2);
    sandbox.run(["describe", "-name", "golden", &id, "before the upgrade"]).succeeds();
    assert_eq!((text(&info(), "name"), text(&info(), "description")), ("golden", "before the upgrade"));
    assert!(sandbox.run(["ls", "-name", "golden"]).succeeds().text().contains(&id[..8]));
    let shown = sandbox.run(["info", &id]).succeeds();
    assert!(shown.text().contains("Description:   before the upgrade"), "{shown}");
    sandbox.run(["describe", &id, ""]).succeeds();
    assert!(info()["description"].is_null() && text(&info(), "name") == "golden");
    sandbox.run(["describe", &id]).ends_with(2);
    sandbox.run(["describe", "-name", "", &id]).succeeds();
    assert_eq!(text(&info(), "name"), "first");
    sandbox.run(["check"]).succeeds();
}
