//! Damage: every kind of object × everything that storage does to files. Each case is found by `check`, named, and
//! contained: whatever a damaged object does not hold comes back whole, and nothing ever comes back wrong.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::common::harm::Harm::{
    self, Cut, CutInHalf, Fifo, Flip, FlipMiddle, Folder, Gone, Longer, Loop, Zeros,
};
use crate::common::harm::put_back;
use crate::common::sandbox::files_below;
use crate::common::torture::noise;
use crate::common::{ALL, Outcome, Sandbox, copy_tree, hex_id};

/// A store with two snapshots of two trees that share nothing but the owners' names.
struct Specimen {
    sandbox: Sandbox,
    trees: [PathBuf; 2],
    ids: [String; 2],
    /// Objects of each area that the first and the second backup wrote.
    wrote: [Vec<PathBuf>; 2],
}

/// Whether the local cache survives the damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    Kept,
    Removed,
}

const AREAS: [&str; 4] = ["data", "meta", "states", "snapshots"];

impl Specimen {
    fn new() -> Self {
        let sandbox = Sandbox::with_key_file();
        let trees = [0, 1].map(|n| tree(&sandbox, n));
        let all = || AREAS.iter().flat_map(|a| sandbox.objects(a)).collect::<BTreeSet<_>>();
        let first = hex_id(&sandbox.backup(&trees[0]));
        let before = all();
        let second = hex_id(&sandbox.backup(&trees[1]));
        let wrote = [before.iter().cloned().collect(), all().difference(&before).cloned().collect()];
        copy_tree(&sandbox.path("home"), &sandbox.path("home kept"));
        Self { trees, ids: [first, second], wrote, sandbox }
    }

    /// The only object of an area that a backup wrote.
    fn object(&self, backup: usize, area: &str) -> &Path {
        let place = self.sandbox.store().join(area);
        let mut found = self.wrote[backup].iter().filter(|p| p.starts_with(&place));
        let one = found.next().unwrap();
        assert!(found.next().is_none(), "several objects in {area}");
        one
    }

    /// Harms objects, looks, and puts everything back.
    fn with(&self, objects: &[&Path], cache: Cache, harm: impl FnOnce(), look: impl FnOnce()) {
        let kept: Vec<_> = objects.iter().map(|o| std::fs::read(o).unwrap()).collect();
        harm();
        if cache == Cache::Removed {
            std::fs::remove_dir_all(self.sandbox.path("home/.cache")).unwrap();
        }
        look();
        for (object, bytes) in objects.iter().zip(kept) {
            put_back(object, &bytes);
        }
        std::fs::remove_dir_all(self.sandbox.path("home")).unwrap();
        copy_tree(&self.sandbox.path("home kept"), &self.sandbox.path("home"));
        for entry in std::fs::read_dir(self.sandbox.path("")).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("restored") {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
    }

    /// Harms an object in each of several ways, with each state of the caches, and looks each time.
    fn each(&self, object: &Path, caches: &[Cache], harms: &[Harm], look: impl Fn(Harm, Cache)) {
        for cache in caches {
            for harm in harms {
                self.with(&[object], *cache, || harm.apply(object), || look(*harm, *cache));
            }
        }
    }

    /// `check` ends with 65 and names the problems; gives them as `path: reason`.
    fn check_finds(&self) -> Vec<String> {
        let outcome = self.sandbox.run(["check", "-json"]).ends_with(65);
        let summary = outcome.summary();
        assert_eq!(summary["damaged"], true, "{outcome}");
        let problems = summary["problems"].as_array().unwrap();
        assert!(!problems.is_empty(), "{outcome}");
        let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
        problems.iter().map(|p| format!("{}: {}", text(&p["path"]), text(&p["reason"]))).collect()
    }

    /// The other snapshot is whole.
    fn is_whole(&self, backup: usize) {
        ALL.check(&self.trees[backup], &self.sandbox.restore(&self.ids[backup]));
    }

    /// Restores what is left: ends with one of the codes, every file that is there is right, each that is not was
    /// named. Gives those that did not come back.
    fn restores_only_right_files(&self, backup: usize, codes: &[i32]) -> Vec<PathBuf> {
        let to = self.sandbox.path("restored rest");
        let outcome = self.sandbox.run(["restore", "-to", to.to_str().unwrap(), &self.ids[backup]]);
        assert!(outcome.code.is_some_and(|c| codes.contains(&c)), "{outcome}");
        assert!(!outcome.stderr.is_empty(), "{outcome}");
        let source = &self.trees[backup];
        let names = |root: &Path| -> BTreeSet<PathBuf> {
            files_below(root).iter().map(|f| f.strip_prefix(root).unwrap().to_path_buf()).collect()
        };
        let (expected, found) = (names(source), names(&to));
        for name in &found {
            let same = expected.contains(name)
                && std::fs::read(source.join(name)).unwrap() == std::fs::read(to.join(name)).unwrap();
            assert!(same, "{} is wrong: {outcome}", name.display());
        }
        if outcome.stdout.starts_with(&self.ids[backup].as_bytes()[..8]) {
            // It ran to its end, and says so.
            let missing: Vec<_> = expected.difference(&found).collect();
            assert!(!missing.is_empty(), "nothing is missing: {outcome}");
            for name in missing {
                // Itself or the directory that could not be read.
                let named = name.ancestors().any(|a| outcome.stderr.contains(a.to_str().unwrap()));
                assert!(named, "{} is missing and not named: {outcome}", name.display());
            }
        }
        std::fs::remove_dir_all(&to).unwrap_or_default();
        expected.difference(&found).map(|name| source.join(name)).collect()
    }
}

/// About 8 MiB in files of every size class, none like another.
fn tree(sandbox: &Sandbox, n: u64) -> PathBuf {
    let root = sandbox.path(format!("tree {n}"));
    for i in 0..4 {
        let dir = root.join(format!("dir {i}"));
        std::fs::create_dir_all(&dir).unwrap();
        for j in 0..11 {
            let seed = n * 1000 + i * 20 + j + 1;
            let name = format!("file {n} {i} {j}");
            std::fs::write(dir.join(name), noise(seed, (j * j * 2500 + i) as usize + 1)).unwrap();
        }
        std::fs::write(dir.join(format!("large {n} {i}")), noise(n * 1000 + i + 500, 900 << 10)).unwrap();
    }
    root
}

const CACHES: [Cache; 2] = [Cache::Kept, Cache::Removed];

#[test]
fn a_damaged_data_packfile_costs_only_the_files_in_it() {
    let s = Specimen::new();
    let object = s.object(0, "data");
    s.each(
        object,
        &CACHES,
        &[Flip(60), FlipMiddle, CutInHalf, Cut(100), Cut(0), Zeros, Gone, Fifo, Folder, Loop],
        |harm, cache| {
            let problems = s.check_finds();
            let foreign = problems.iter().find(|p| p.starts_with(&s.ids[1][..8]));
            assert_eq!(foreign, None, "{harm:?} {cache:?}");
            let lost = s.restores_only_right_files(0, &[65]);
            if matches!(harm, Flip(_) | FlipMiddle) {
                // One bit costs one frame: 2 MiB of small files, or a slice of a large one.
                let sizes = lost.iter().map(|f| f.metadata().unwrap().len());
                let small: u64 = sizes.filter(|n| *n <= 256 << 10).sum();
                assert!(small <= 2 << 20, "{harm:?} {cache:?}: one bit cost {lost:?}");
            }
            s.is_whole(1);
            s.sandbox.run(["ls", &s.ids[0]]).succeeds();
        },
    );
}

#[test]
fn damage_beside_the_frames_of_a_packfile_is_found_too() {
    let s = Specimen::new();
    for area in ["data", "meta"] {
        let object = s.object(0, area);
        // In turn: preamble (magic, store, nonce), footer, its length, the last word; one byte more or less.
        s.each(
            object,
            &[Cache::Kept],
            &[Flip(0), Flip(10), Flip(30), Flip(-60), Flip(-14), Flip(-1), Cut(-1), Longer],
            |_, _| {
                s.check_finds();
                s.is_whole(1);
            },
        );
    }
}

#[test]
fn a_damaged_metadata_packfile_costs_only_its_snapshots() {
    let s = Specimen::new();
    let object = s.object(0, "meta");
    let harms = [Flip(60), FlipMiddle, CutInHalf, Cut(0), Zeros, Gone, Fifo, Folder, Loop];
    s.each(object, &CACHES, &harms, |harm, cache| {
        let problems = s.check_finds();
        // The table of owners' names is one blob for both; nothing else may be hit in the other one.
        let foreign = problems.iter().find(|p| p.starts_with(&s.ids[1][..8]) && !p.contains("(owner names)"));
        assert_eq!(foreign, None, "{harm:?} {cache:?}");
        s.restores_only_right_files(0, &[65]);
        s.is_whole(1);
        let listed = s.sandbox.run(["ls"]).succeeds();
        assert_eq!(listed.text().lines().count(), 2);
    });
}

#[test]
fn packfiles_that_changed_places_are_both_found() {
    let s = Specimen::new();
    for area in ["data", "meta"] {
        let objects = [s.object(0, area), s.object(1, area)];
        for cache in CACHES {
            s.with(
                &objects,
                cache,
                || swap(objects),
                || {
                    let problems = s.check_finds();
                    for id in &s.ids {
                        assert!(problems.iter().any(|p| p.starts_with(&id[..8])), "{area} {problems:?}");
                    }
                    for backup in [0, 1] {
                        s.restores_only_right_files(backup, &[65]);
                    }
                },
            );
        }
    }
}

fn swap([a, b]: [&Path; 2]) {
    let kept = std::fs::read(a).unwrap();
    std::fs::copy(b, a).unwrap();
    std::fs::write(b, kept).unwrap();
}

#[test]
fn a_damaged_state_costs_only_what_it_names() {
    let s = Specimen::new();
    let object = s.object(0, "states");
    s.each(
        object,
        &CACHES,
        &[
            Flip(0),
            Flip(60),
            FlipMiddle,
            Flip(-30),
            Flip(-1),
            CutInHalf,
            Cut(0),
            Cut(-1),
            Zeros,
            Gone,
            Fifo,
            Folder,
            Loop,
        ],
        |harm, cache| {
            let problems = s.check_finds();
            if !matches!(harm, Gone | Fifo | Folder | Loop) {
                let name = object.file_name().unwrap().to_str().unwrap();
                assert!(problems.iter().any(|p| p.contains(name)), "{harm:?} {cache:?}: {problems:?}");
            }
            s.is_whole(1);
            let listed = s.sandbox.run(["ls"]).succeeds();
            assert_eq!(listed.text().lines().count(), 2);
            if cache == Cache::Removed {
                s.restores_only_right_files(0, &[65]);
            }
        },
    );
}

#[test]
fn the_next_backup_heals_a_lost_state() {
    let s = Specimen::new();
    for cache in CACHES {
        let object = s.object(0, "states");
        s.with(
            &[object],
            cache,
            || std::fs::remove_file(object).unwrap(),
            || {
                let again = s.sandbox.backup(&s.trees[0]);
                let new = hex_id(&again);
                ALL.check(&s.trees[0], &s.sandbox.restore(&new));
                s.sandbox.run(["check", &new]).succeeds();
                // The older snapshot's own way from `/` is lost with the state: its parents' times have changed since.
                for area in ["data", "meta", "states", "snapshots"] {
                    for new in
                        s.sandbox.objects(area).iter().filter(|o| !s.wrote.iter().any(|w| w.contains(o)))
                    {
                        std::fs::remove_file(new).unwrap();
                    }
                }
            },
        );
    }
}

#[test]
fn a_damaged_snapshot_does_not_hide_the_others() {
    let s = Specimen::new();
    let object = s.object(0, "snapshots");
    let name = object.file_name().unwrap().to_str().unwrap();
    s.each(
        object,
        &CACHES,
        &[Flip(0), Flip(10), Flip(30), FlipMiddle, Flip(-1), CutInHalf, Cut(0), Zeros, Longer],
        |harm, cache| {
            let problems = s.check_finds();
            assert!(problems.iter().any(|p| p.contains(name)), "{harm:?} {cache:?}: {problems:?}");
            s.is_whole(1);
            let listed = s.sandbox.run(["ls"]);
            assert!(listed.text().contains(&s.ids[1][..8]), "{listed}");
            if cache == Cache::Removed {
                let listed = listed.ends_with(65).says(&[&name[..8], "damaged"]);
                assert!(!listed.text().contains(&s.ids[0][..8]));
                // It may be the newest, or what a filter is for: an older one is not taken in its place.
                for words in [
                    &["restore", "-to", "x", &s.ids[0]][..],
                    &["restore", "-to", "x", "latest"],
                    &["restore", "-to", "x"],
                    &["restore", "-to", "x", "-name", "default"],
                    &["check", "latest"],
                    &["rm", "-name", "default"],
                    &["cat", "latest:x"],
                ] {
                    s.sandbox.run(words).ends_with(65).says(&[&name[..8]]);
                }
                assert!(!s.sandbox.path("x").exists());
                let skipping = ["restore", "-to", "restored newest", "-skip-damaged", "latest"];
                s.sandbox.run(skipping).succeeds();
            }
        },
    );
}

#[test]
fn snapshots_and_states_that_changed_places_are_refused() {
    let s = Specimen::new();
    for area in ["snapshots", "states"] {
        let objects = [s.object(0, area), s.object(1, area)];
        s.with(
            &objects,
            Cache::Removed,
            || swap(objects),
            || {
                let problems = s.check_finds();
                for object in objects {
                    let name = object.file_name().unwrap().to_str().unwrap();
                    assert!(problems.iter().any(|p| p.contains(name)), "{problems:?}");
                }
                for id in &s.ids {
                    let outcome = s.sandbox.run(["restore", "-to", "x", id]);
                    assert_eq!(outcome.code, Some(65), "{outcome}");
                }
            },
        );
    }
}

#[test]
fn an_object_of_another_store_is_refused() {
    let s = Specimen::new();
    let other = Sandbox::with_key_file();
    let id = hex_id(&other.backup(&s.trees[0]));
    let from = other.store().join("snapshots").join(&id);
    let to = s.sandbox.store().join("snapshots").join(&id);
    std::fs::copy(from, &to).unwrap();
    let problems = s.check_finds();
    assert!(problems.iter().any(|p| p.contains(&id)), "{problems:?}");
    let listed = s.sandbox.run(["ls"]).ends_with(65);
    assert_eq!(listed.text().lines().count(), 2);
    s.is_whole(0);
}

#[test]
fn a_folder_of_packfiles_that_cannot_be_listed_is_named_and_the_rest_is_checked() {
    let s = Specimen::new();
    let shard = s.object(0, "data").parent().unwrap();
    let damaged = s.object(1, "meta");
    let good = std::fs::read(damaged).unwrap();
    Harm::FlipMiddle.apply(damaged);
    let inject = "inject=getdents64:error=EIO";
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", shard.to_str().unwrap()];
    let strace = [&strace[..], &["-e", "trace=getdents64", "-e", inject]].concat();
    let outcome = Outcome::of(&mut s.sandbox.under(&strace, ["check"])).ends_with(65);
    let name = shard.file_name().unwrap().to_str().unwrap();
    outcome.says(&[&format!("data/{name}"), "Input/output error", &s.ids[1][..8]]);
    put_back(damaged, &good);
    s.sandbox.run(["check"]).succeeds();
}

#[test]
fn foreign_and_temporary_files_in_a_store_are_ignored() {
    let s = Specimen::new();
    for area in ["", "snapshots", "states", "data", "data/00", "meta", "keys", "removals", "notes"] {
        let directory = s.sandbox.store().join(area);
        std::fs::create_dir_all(&directory).unwrap();
        for name in ["tmp-0123", ".DS_Store", "lost+found", "README", &"a".repeat(63), &"A".repeat(64)] {
            std::fs::write(directory.join(name), "not of the store").unwrap();
        }
    }
    s.sandbox.run(["check"]).succeeds();
    assert_eq!(s.sandbox.run(["ls"]).succeeds().text().lines().count(), 2);
    s.is_whole(0);
    s.sandbox.backup(&s.trees[1]);
}

#[test]
fn a_lost_config_is_replaced_by_its_copy_in_the_key_slot() {
    let s = Specimen::new();
    let config = s.sandbox.store().join("CONFIG");
    let notice = ["CONFIG", "a copy of it is used", "plakar repair"];
    for cache in CACHES {
        for harm in
            [Flip(0), Flip(10), Flip(45), FlipMiddle, Flip(-1), CutInHalf, Cut(0), Zeros, Gone, Longer]
        {
            s.with(
                &[&config],
                cache,
                || harm.apply(&config),
                || {
                    s.sandbox.run(["ls"]).succeeds().says(&notice);
                    for backup in [0, 1] {
                        s.is_whole(backup);
                    }
                    let again = s.sandbox.run(["backup", s.trees[0].to_str().unwrap()]);
                    again.succeeds().says(&notice);
                },
            );
            for new in
                s.sandbox.objects("snapshots").iter().filter(|o| !s.wrote.iter().any(|w| w.contains(o)))
            {
                std::fs::remove_file(new).unwrap();
            }
        }
    }
}

/// A store without encryption, with one snapshot of `source`, and how to run the program on it.
fn plaintext() -> (Sandbox, impl Fn(&Sandbox, &[&str]) -> Outcome) {
    let plain = |sandbox: &Sandbox, args: &[&str]| {
        let mut command = sandbox.command(args);
        Outcome::of(command.env_remove("PLAKAR_PASSPHRASE"))
    };
    let sandbox = Sandbox::empty();
    plain(&sandbox, &["create", "-plaintext"]).succeeds();
    std::fs::create_dir(sandbox.path("source")).unwrap();
    std::fs::write(sandbox.path("source/file"), noise(1, 50_000)).unwrap();
    plain(&sandbox, &["backup", "source"]).succeeds();
    (sandbox, plain)
}

/// It went well, and says this.
#[track_caller]
fn prints(outcome: &Outcome, parts: &[&str]) {
    assert_eq!(outcome.code, Some(0), "{outcome}");
    parts.iter().for_each(|part| assert!(outcome.text().contains(part), "{part}: {outcome}"));
}

const CONFIG_HARMS: [Harm; 11] =
    [Flip(0), Flip(10), Flip(45), FlipMiddle, Flip(-1), CutInHalf, Cut(0), Zeros, Gone, Fifo, Longer];

#[test]
fn a_plaintext_store_without_its_config_is_read_by_the_copy_and_repaired() {
    let (sandbox, plain) = plaintext();
    let config = sandbox.store().join("CONFIG");
    let good = std::fs::read(&config).unwrap();
    for harm in CONFIG_HARMS {
        harm.apply(&config);
        let notice = ["CONFIG", "a copy of it is used", "plakar repair"];
        plain(&sandbox, &["ls"]).succeeds().says(&notice);
        plain(&sandbox, &["check"]).ends_with(65).says(&notice);
        plain(&sandbox, &["restore", "-to", "to", "latest"]).succeeds();
        ALL.check(&sandbox.path("source"), &sandbox.path("to"));
        std::fs::remove_dir_all(sandbox.path("to")).unwrap();
        prints(&plain(&sandbox, &["repair"]), &["would", "CONFIG: write it again"]);
        prints(&plain(&sandbox, &["repair", "-apply"]), &["done", "CONFIG: write it again"]);
        assert!(std::fs::read(&config).unwrap() == good, "{harm:?}");
        plain(&sandbox, &["check"]).succeeds();
        prints(&plain(&sandbox, &["repair"]), &["nothing to mend"]);
    }
    // A directory in its place stays: it may hold something.
    Folder.apply(&config);
    plain(&sandbox, &["ls"]).succeeds();
    let refused = plain(&sandbox, &["repair", "-apply"]);
    assert!(refused.code != Some(0), "{refused}");
    refused.says(&["CONFIG"]);
}

#[test]
fn a_plaintext_store_without_the_copy_of_its_config_gets_another() {
    let (sandbox, plain) = plaintext();
    let config = sandbox.store().join("CONFIG");
    let good = std::fs::read(&config).unwrap();
    // What is no file is none of the store's objects, and stays.
    for harm in CONFIG_HARMS.into_iter().filter(|harm| !matches!(harm, Fifo)) {
        let copy = sandbox.objects("keys").remove(0);
        harm.apply(&copy);
        plain(&sandbox, &["ls"]).succeeds();
        let repaired = plain(&sandbox, &["repair", "-apply"]).succeeds();
        // Not every bit of the object is one of the copy.
        let is_lost = matches!(harm, FlipMiddle | CutInHalf | Cut(0) | Zeros | Gone);
        assert!(!is_lost || repaired.text().contains("keys: write a copy of CONFIG"), "{harm:?}: {repaired}");
        assert_eq!(sandbox.objects("keys").len(), 1, "{harm:?}");
        plain(&sandbox, &["check"]).succeeds();
        // It serves.
        std::fs::remove_file(&config).unwrap();
        plain(&sandbox, &["ls"]).succeeds();
        std::fs::write(&config, &good).unwrap();
    }
    // The copy is no key.
    let copy = sandbox.objects("keys").remove(0);
    let listed = plain(&sandbox, &["key", "ls"]).succeeds();
    assert_eq!(listed.text(), "", "{listed}");
    let id = copy.file_name().unwrap().to_str().unwrap().to_owned();
    plain(&sandbox, &["key", "rm", "-apply", &id]).ends_with(1).says(&["there is no key"]);
    // Without either, that is what is said.
    for harm in [FlipMiddle, Zeros, Cut(0)] {
        for object in [&copy, &config] {
            harm.apply(object);
        }
        let outcome = plain(&sandbox, &["ls"]).ends_with(66).says(&["CONFIG is damaged", "no copy of it"]);
        assert!(!outcome.stderr.contains("encrypted"), "{outcome}");
    }
}

#[test]
fn a_plaintext_config_in_place_of_a_sealed_one_is_not_believed() {
    let s = Specimen::new();
    let plain = Sandbox::empty();
    let without = |args: &[&str]| {
        let mut command = plain.command(args);
        command.env_remove("PLAKAR_PASSPHRASE");
        Outcome::of(&mut command)
    };
    without(&["create", "-plaintext"]).succeeds();
    let config = s.sandbox.store().join("CONFIG");
    let keys = s.sandbox.store().join("keys");
    std::fs::copy(plain.store().join("CONFIG"), &config).unwrap();
    // With the secret the copy in the key slot is taken.
    s.sandbox.run(["ls"]).succeeds().says(&["CONFIG"]);
    // Without key slots nothing is, with or without the secret.
    std::fs::remove_dir_all(&keys).unwrap();
    let refused = s.sandbox.run(["backup", s.trees[0].to_str().unwrap()]);
    assert!(matches!(refused.code, Some(1 | 66)), "{refused}");
}

#[test]
fn a_damaged_key_slot_is_named_and_another_one_opens_the_store() {
    let s = Specimen::new();
    let slot = s.sandbox.objects("keys").remove(0);
    // The preamble (magic, store), the wrapped key, its length, the store's parameters.
    for harm in [Flip(0), Flip(10), Flip(60), FlipMiddle, CutInHalf, Cut(0), Zeros] {
        s.with(
            &[&slot],
            Cache::Kept,
            || harm.apply(&slot),
            || {
                let outcome = s.sandbox.run(["ls"]);
                // What is in the slot beside the key is a copy that CONFIG makes up for.
                if !(outcome.code == Some(0) && matches!(harm, FlipMiddle)) {
                    assert!(matches!(outcome.code, Some(66 | 77)), "{harm:?}: {outcome}");
                    assert!(outcome.stderr.contains("key"), "{harm:?}: {outcome}");
                }
            },
        );
    }
    s.with(
        &[&slot],
        Cache::Kept,
        || Gone.apply(&slot),
        || {
            s.sandbox.run(["ls"]).ends_with(66).says(&["key"]);
        },
    );
    s.sandbox.run(["key", "add", "-new-keyfile", "second"]).succeeds();
    let second = s.sandbox.objects("keys").into_iter().find(|k| *k != slot).unwrap();
    s.with(
        &[&slot],
        Cache::Kept,
        || Zeros.apply(&slot),
        || {
            let mut command = s.sandbox.command(["ls"]);
            command.args(["-keyfile", s.sandbox.path("second").to_str().unwrap()]);
            let name = slot.file_name().unwrap().to_str().unwrap();
            Outcome::of(&mut command).succeeds().says(&["keys/", &name[..8], "damaged"]);
        },
    );
    // The other way round: the key in use is whole, the other one is not.
    s.with(
        &[&second],
        Cache::Kept,
        || Zeros.apply(&second),
        || {
            s.sandbox.run(["ls"]).succeeds().says(&["keys/", "damaged"]);
        },
    );
}

#[test]
fn a_damaged_removal_is_named() {
    let s = Specimen::new();
    s.sandbox.run(["rm", "-apply", &s.ids[0]]).succeeds();
    assert_eq!(s.sandbox.run(["ls"]).succeeds().text().lines().count(), 1);
    let object = s.sandbox.objects("removals").remove(0);
    for cache in CACHES {
        for harm in [FlipMiddle, Cut(0), Zeros] {
            s.with(
                &[&object],
                cache,
                || harm.apply(&object),
                || {
                    let problems = s.check_finds();
                    assert!(
                        problems.iter().any(|p| p.contains("removals/")),
                        "{harm:?} {cache:?}: {problems:?}"
                    );
                    s.is_whole(1);
                },
            );
        }
    }
}

#[test]
fn a_newer_object_is_refused_by_name_and_the_rest_goes_on() {
    let s = Specimen::new();
    let newer = |object: &Path| {
        let file = std::fs::OpenOptions::new().write(true).open(object).unwrap();
        file.write_all_at(&[2], 7).unwrap();
    };
    let config = s.sandbox.store().join("CONFIG");
    s.with(
        &[&config],
        Cache::Kept,
        || newer(&config),
        || {
            for words in [&["ls"][..], &["check"], &["restore", "-to", "x", "latest"], &["backup", "tree 0"]]
            {
                s.sandbox.run(words).ends_with(78).says(&["CONFIG", "newer"]);
            }
        },
    );
    for cache in CACHES {
        let snapshot = s.object(0, "snapshots");
        s.with(
            &[snapshot],
            cache,
            || newer(snapshot),
            || {
                s.is_whole(1);
                if cache == Cache::Removed {
                    let listed = s.sandbox.run(["ls"]);
                    assert_ne!(listed.code, Some(0), "{listed}");
                    let listed = listed.says(&["newer"]);
                    assert_eq!(listed.text().lines().count(), 1);
                    s.sandbox.run(["restore", "-to", "x", &s.ids[0]]).ends_with(78).says(&["newer"]);
                }
            },
        );
        let state = s.object(0, "states");
        s.with(&[state], cache, || newer(state), || s.is_whole(1));
    }
}

#[test]
fn wrong_bytes_are_never_printed() {
    let s = Specimen::new();
    let object = s.object(0, "data");
    s.with(
        &[object],
        Cache::Kept,
        || FlipMiddle.apply(object),
        || {
            let mut failed = 0;
            for file in files_below(&s.trees[0]) {
                let name = format!("{}:{}", s.ids[0], file.display());
                let outcome = s.sandbox.run(["cat", &name]);
                let expected = std::fs::read(&file).unwrap();
                match outcome.code {
                    Some(0) => assert!(outcome.stdout == expected, "{name}"),
                    _ => {
                        failed += 1;
                        assert!(expected.starts_with(&outcome.stdout), "{name}");
                        outcome.ends_with(65).says(&["damaged"]);
                    }
                }
            }
            assert!(failed > 0);
        },
    );
}

#[test]
fn a_sealed_store_that_has_lost_its_key_slots_is_not_said_to_be_unencrypted() {
    let sandbox = Sandbox::with_key_file();
    for slot in sandbox.objects("keys") {
        std::fs::remove_file(slot).unwrap();
    }
    let outcome = sandbox.run(["key", "ls"]);
    assert_ne!(outcome.code, Some(0), "{outcome}");
    outcome.says(&["it is encrypted, and none of its key slots can be read"]);
}
