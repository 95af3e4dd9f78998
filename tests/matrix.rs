//! The matrix of damage: every object of a store × everything that storage does to files, at many places × every command,
//! with the cache kept or cold; and every file of the cache likewise. Wrong bytes never come back, no success is claimed
//! that is none, `check` finds it, every command ends by itself, and with the object put back all is well again.
//!
//! `make test` takes a sample; `make matrix` (`PLAKAR_CASES=all`) takes all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::harm::Harm::{self, Cut, CutInHalf, Fifo, Flip, Folder, Gone, Longer, Loop, Zeros};
use crate::common::harm::put_back;
use crate::common::sandbox::files_below;
use crate::common::torture::noise;
use crate::common::{ALL, MountGuard, Outcome, Sandbox, copy_tree, hex_id, thorough};

/// Cases of each matrix in each run of the tests.
const SAMPLE: usize = 20;
/// Places at which a bit is flipped, beside the first and the last byte.
const FLIPS: i64 = 24;

/// A store of some snapshots, sealed or not.
struct Specimen {
    sandbox: Sandbox,
    is_sealed: bool,
    /// Snapshots, with where a copy of what they hold lies.
    snapshots: Vec<(String, PathBuf)>,
    /// Objects that no snapshot needs.
    unneeded: BTreeSet<PathBuf>,
}

impl Specimen {
    fn new(is_sealed: bool) -> Self {
        let sandbox = if is_sealed { Sandbox::with_key_file() } else { Sandbox::empty() };
        let mut s = Self { sandbox, is_sealed, snapshots: Vec::new(), unneeded: BTreeSet::new() };
        if !is_sealed {
            s.run(&["create", "-plaintext"]).succeeds();
        }
        let source = s.sandbox.path("source");
        for n in 0..2_u64 {
            for i in 0..8 {
                let file = source.join(format!("{}/file {n} {i}", i % 3));
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, noise(n * 100 + i + 1, 10 + 6000 * (i * i) as usize)).unwrap();
            }
            let backup = s.run(&["backup", "-json", "source"]).succeeds().summary();
            let copy = s.sandbox.path(format!("copy {n}"));
            copy_tree(&source, &copy);
            s.snapshots.push((hex_id(&backup), copy));
        }
        // One that is gone, so that there are removals.
        let before = names_below(&s.sandbox.store());
        fs::write(source.join("gone"), noise(66, 30_000)).unwrap();
        let gone = s.run(&["backup", "-json", "source"]).succeeds().summary();
        fs::remove_file(source.join("gone")).unwrap();
        s.unneeded = names_below(&s.sandbox.store()).difference(&before).cloned().collect();
        s.run(&["rm", "-apply", &hex_id(&gone)]).succeeds();
        fs::write(source.join("0/new"), noise(77, 50_000)).unwrap();
        for part in ["store", "home"] {
            copy_tree(&s.sandbox.path(part), &s.sandbox.path(format!("{part} kept")));
        }
        s
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.sandbox.command(words);
        if !self.is_sealed {
            command.env_remove("PLAKAR_PASSPHRASE");
        }
        command
    }

    /// Runs a command, which ends by itself.
    fn run(&self, words: &[&str]) -> Outcome {
        let outcome = Outcome::of(&mut self.command(words));
        let is_own =
            outcome.code.is_some_and(|c| (0..=100).contains(&c)) && !outcome.stderr.contains("panicked");
        assert!(is_own, "{outcome}");
        outcome
    }

    /// Everything as it was.
    fn begin_anew(&self) {
        for part in ["store", "home"] {
            let _absent = fs::remove_dir_all(self.sandbox.path(part));
            copy_tree(&self.sandbox.path(format!("{part} kept")), &self.sandbox.path(part));
        }
    }

    /// Whatever comes back of the snapshots is right.
    fn gives_nothing_wrong(&self) {
        let to = self.sandbox.path("to");
        for (id, copy) in &self.snapshots {
            let restored = self.run(&["restore", "-to", "to", id]);
            match restored.code {
                Some(0) => _ = ALL.check(copy, &to),
                _ => nothing_is_wrong(&to, copy, &restored),
            }
            let _absent = fs::remove_dir_all(&to);
            let cat = self.run(&["cat", &format!("{id}:0/file 0 6")]);
            let content = fs::read(copy.join("0/file 0 6")).unwrap();
            assert!(content.starts_with(&cat.stdout), "{cat}");
            assert!(cat.code != Some(0) || cat.stdout == content, "{cat}");
            let listed = self.run(&["ls", "-recursive", id]);
            let names = listed.stdout.iter().filter(|b| **b == b'\n').count();
            assert!(listed.code != Some(0) || names == files_below(copy).len() + 3, "{listed}");
        }
        for words in [&["ls"][..], &["info"], &["check", "-fast"], &["repair"], &["key", "ls"]] {
            self.run(words);
        }
    }

    /// Whatever a mount shows of the snapshots is right.
    fn shows_nothing_wrong(&self) {
        // Where it cannot be mounted at all, `restore` has said why.
        let opens = |id: &String| self.run(&["ls", "-recursive", id]).code == Some(0);
        if !self.is_sealed || !self.snapshots.iter().all(|(id, _)| opens(id)) {
            return;
        }
        for (id, copy) in &self.snapshots {
            let mount = MountGuard::new(&self.sandbox, [id]);
            for file in files_below(copy) {
                let at = mount.path().join(file.strip_prefix(copy).unwrap());
                if let Ok(shown) = fs::read(&at) {
                    assert!(shown == fs::read(&file).unwrap(), "{} in a mount", at.display());
                }
            }
        }
    }

    /// A backup does no harm, and what it says it has saved is there once all is well again.
    fn is_whole_after_a_backup(&self, put_back: impl FnOnce()) {
        let backup = self.run(&["backup", "source"]);
        put_back();
        // The cache may rest on what was damaged: nothing in it decides.
        self.run(&["check"]).succeeds();
        let mut saved: Vec<(&str, PathBuf)> = Vec::new();
        saved.extend(self.snapshots.iter().map(|(id, copy)| (id.as_str(), copy.clone())));
        if backup.code == Some(0) {
            saved.push(("latest", self.sandbox.path("source")));
        }
        for (id, like) in saved {
            self.run(&["restore", "-to", "to", id]).succeeds();
            ALL.check(&like, &self.sandbox.path("to"));
            fs::remove_dir_all(self.sandbox.path("to")).unwrap();
        }
    }
}

impl Specimen {
    /// Maintenance takes nothing away that is needed, and all is there once all is well again.
    fn is_whole_after_maintenance(&self, put_back: impl FnOnce()) {
        self.run(&["maintenance", "-grace", "0", "-exclusive"]);
        self.gives_nothing_wrong();
        put_back();
        self.run(&["check"]).succeeds();
        for (id, like) in &self.snapshots {
            self.run(&["restore", "-to", "to", id]).succeeds();
            ALL.check(like, &self.sandbox.path("to"));
            fs::remove_dir_all(self.sandbox.path("to")).unwrap();
        }
        self.run(&["maintenance", "-grace", "0", "-exclusive"]).succeeds();
        self.run(&["check"]).succeeds();
    }
}

/// The files below a directory, by their paths from there.
fn names_below(directory: &Path) -> BTreeSet<PathBuf> {
    let files = files_below(directory);
    files.iter().map(|f| f.strip_prefix(directory).unwrap().to_path_buf()).collect()
}

/// No file in a directory has other bytes than that of the same name in another.
fn nothing_is_wrong(at: &Path, like: &Path, outcome: &Outcome) {
    for file in files_below(at) {
        let expected = like.join(file.strip_prefix(at).unwrap());
        let is_right = fs::read(&expected).ok() == Some(fs::read(&file).unwrap());
        assert!(is_right, "{} is wrong: {outcome}", file.display());
    }
}

/// What may happen to a file of this length.
fn harms(len: u64) -> Vec<Harm> {
    let len = len as i64;
    let mut harms: Vec<Harm> = (0..FLIPS).map(|n| Flip(len * (2 * n + 1) / (2 * FLIPS))).collect();
    harms.extend([Flip(0), Flip(-1), Cut(0), Cut(-1), CutInHalf, Zeros, Gone, Longer, Fifo, Folder, Loop]);
    harms
}

fn in_a_store(is_sealed: bool) {
    let s = Specimen::new(is_sealed);
    let kept = s.sandbox.path("store kept");
    let objects: Vec<(PathBuf, u64)> = names_below(&kept)
        .into_iter()
        .map(|name| (name.clone(), kept.join(name).metadata().unwrap().len()))
        .filter(|(name, len)| *len > 0 && !name.starts_with("leases"))
        .collect();
    let cases = objects.iter().flat_map(|(name, len)| harms(*len).into_iter().map(move |h| (name, h)));
    let cases = cases.flat_map(|(name, harm)| [true, false].map(|cold| (name, harm, cold)));
    let matrix = if is_sealed { "a sealed store" } else { "a plaintext store" };
    let what = |(name, harm, cold): &(&PathBuf, Harm, bool)| {
        format!("{harm:?} of {}, {}", name.display(), if *cold { "cold" } else { "warm" })
    };
    thorough::each(matrix, SAMPLE, cases, what, |(name, harm, cold)| {
        s.begin_anew();
        let object = s.sandbox.store().join(name);
        let bytes = fs::read(&object).unwrap();
        harm.apply(&object);
        if cold {
            fs::remove_dir_all(s.sandbox.cache()).unwrap();
        }
        let checked = s.run(&["check"]);
        let is_unneeded = s.unneeded.contains(name);
        let is_packfile = ["data", "meta"].iter().any(|area| name.starts_with(area));
        // Nothing yet tells that a snapshot or its removal was there.
        let is_alone = ["snapshots", "removals"].iter().any(|area| name.starts_with(area));
        // A store that is not encrypted does without the copy of its CONFIG.
        let is_copy = !is_sealed && name.starts_with("keys");
        let may_be_missed =
            is_unneeded && is_packfile || harm == Gone && (is_unneeded || is_alone || is_copy);
        assert!(may_be_missed || checked.code != Some(0), "{checked}");
        s.gives_nothing_wrong();
        s.shows_nothing_wrong();
        s.is_whole_after_a_backup(|| put_back(&object, &bytes));
        // Of a snapshot that is gone nobody can know that it was there.
        if harm != Gone || !is_alone {
            s.begin_anew();
            harm.apply(&object);
            if cold {
                fs::remove_dir_all(s.sandbox.cache()).unwrap();
            }
            s.is_whole_after_maintenance(|| put_back(&object, &bytes));
        }
    });
}

#[test]
fn damage_in_a_sealed_store() {
    in_a_store(true);
}

#[test]
fn damage_in_a_plaintext_store() {
    in_a_store(false);
}

#[test]
fn damage_in_the_cache() {
    let s = Specimen::new(true);
    let kept = s.sandbox.path("home kept");
    let files: Vec<(PathBuf, u64)> = names_below(&kept)
        .into_iter()
        .map(|name| (name.clone(), kept.join(name).metadata().unwrap().len()))
        .filter(|(_, len)| *len > 0)
        .collect();
    assert!(files.len() > 3, "{files:?}");
    let cases = files.iter().flat_map(|(name, len)| harms(*len).into_iter().map(move |h| (name, h)));
    let what = |(name, harm): &(&PathBuf, Harm)| format!("{harm:?} of {}", name.display());
    thorough::each("the cache", SAMPLE, cases, what, |(name, harm)| {
        for words in [
            &["restore", "-to", "to"][..],
            &["check"],
            &["cat"],
            &["backup", "source"],
            &["ls", "-recursive"],
            &["info"],
            &["rm"],
            &["maintenance", "-grace", "0", "-exclusive"],
        ] {
            s.begin_anew();
            harm.apply(&s.sandbox.path("home").join(name));
            let (id, copy) = &s.snapshots[1];
            let mut words = words.to_vec();
            let file = format!("{id}:0/file 1 6");
            match words[0] {
                "restore" | "ls" | "info" | "rm" => words.push(id),
                "cat" => words.push(&file),
                _ => {}
            }
            // Whichever command meets it first; and once more.
            for _ in 0..2 {
                let outcome = s.run(&words).succeeds();
                match words[0] {
                    "restore" => {
                        ALL.check(copy, &s.sandbox.path("to"));
                        fs::remove_dir_all(s.sandbox.path("to")).unwrap();
                    }
                    "cat" => assert!(outcome.stdout == fs::read(copy.join("0/file 1 6")).unwrap()),
                    _ => {}
                }
            }
            s.run(&["check"]).succeeds();
        }
        s.begin_anew();
        harm.apply(&s.sandbox.path("home").join(name));
        let (id, copy) = &s.snapshots[1];
        let mount = MountGuard::new(&s.sandbox, [id]);
        assert!(
            fs::read(mount.path().join("0/file 1 6")).unwrap() == fs::read(copy.join("0/file 1 6")).unwrap()
        );
    });
}
