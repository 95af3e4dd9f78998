//! Error injection: every call of each command to the system that concerns the store, the cache, the source or the target
//! fails once, with each error that it may fail with. Whatever the command makes of it: it ends, nothing that was stored is
//! lost, no success is claimed that is none, and the same command succeeds when it is given again.
//!
//! `make test` takes a sample, another one with each seed; `make inject` (`PLAKAR_CASES=all`) takes all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::common::fault::{self, Call};
use crate::common::mount::is_mounted;
use crate::common::sandbox::files_below;
use crate::common::thorough;
use crate::common::torture::noise;
use crate::common::{ALL, Outcome, Sandbox, copy_tree, hex_id};

/// Cases of each command that are tried in each run of the tests.
const SAMPLE: usize = 12;
const ERRORS: [Errno; 4] = [Errno::IO, Errno::NOSPC, Errno::ACCESS, Errno::STALE];

/// A place that every case begins with anew.
struct Specimen {
    sandbox: Sandbox,
    first: String,
}

/// What a case starts with.
const PARTS: [&str; 3] = ["store", "home", "source"];

impl Specimen {
    fn new() -> Self {
        let sandbox = Sandbox::with_key_file();
        let source = sandbox.path("source");
        for i in 0..12 {
            let file = source.join(format!("{}/file {i}", i % 3));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, noise(i + 1, 1000 + 9000 * i as usize)).unwrap();
        }
        std::os::unix::fs::symlink("file 1", source.join("link")).unwrap();
        fs::hard_link(source.join("0/file 0"), source.join("1/hard")).unwrap();
        let first = hex_id(&sandbox.backup(&source));
        // What a restore of the first snapshot is compared with.
        copy_tree(&source, &sandbox.path("first"));
        fs::write(source.join("2/new"), noise(99, 70_000)).unwrap();
        fs::remove_file(source.join("1/file 4")).unwrap();
        let s = Self { sandbox, first };
        s.keep();
        s
    }

    /// Every case begins with what is there now.
    fn keep(&self) {
        for part in PARTS {
            let kept = self.sandbox.path(format!("{part} kept"));
            let _absent = fs::remove_dir_all(&kept);
            copy_tree(&self.sandbox.path(part), &kept);
        }
    }

    fn begin_anew(&self) {
        for part in PARTS {
            let _absent = fs::remove_dir_all(self.sandbox.path(part));
            copy_tree(&self.sandbox.path(format!("{part} kept")), &self.sandbox.path(part));
        }
        for target in ["to", "again", "checked", "made"] {
            let _absent = fs::remove_dir_all(self.sandbox.path(target));
        }
        let _absent = fs::remove_file(self.sandbox.path("new key"));
        let _there = fs::create_dir(self.sandbox.path("mnt"));
    }

    /// Everything that was in the store before is.
    #[track_caller]
    fn is_whole(&self, what: &str) {
        let checked = self.sandbox.run(["check"]);
        assert_eq!(checked.code, Some(0), "after {what}: {checked}");
        self.restores(&self.first, "first", "checked", what);
    }

    /// A snapshot holds what lies there.
    #[track_caller]
    fn restores(&self, snapshot: &str, like: &str, to: &str, what: &str) {
        let restored = self.sandbox.run(["restore", "-to", to, snapshot]);
        assert_eq!(restored.code, Some(0), "after {what}: {restored}");
        ALL.check(&self.sandbox.path(like), &self.sandbox.path(to));
        fs::remove_dir_all(self.sandbox.path(to)).unwrap();
    }
}

/// No file in a directory has other bytes than the one of the same name in another: what is not there is not wrong.
#[track_caller]
fn nothing_is_wrong(at: &Path, like: &Path, what: &str) {
    for file in files_below(at) {
        let name = file.strip_prefix(at).unwrap();
        if file.is_symlink() || !like.join(name).exists() {
            continue;
        }
        assert!(fs::read(&file).unwrap() == fs::read(like.join(name)).unwrap(), "{what}: {}", file.display());
    }
}

/// What a command did, with the call that failed.
struct Case<'a> {
    s: &'a Specimen,
    outcome: Outcome,
    what: String,
}

/// Lets every call of a command fail, and looks at what comes of it.
fn each_call_fails(words: &[&str], warm: bool, look: impl Fn(&Case<'_>)) {
    each_call_fails_beside(words, warm, |_, _| (), look);
}

/// The same in a place that is prepared first.
fn each_call_fails_after(words: &[&str], prepare: impl FnOnce(&Specimen), look: impl Fn(&Case<'_>)) {
    let s = Specimen::new();
    prepare(&s);
    s.keep();
    each_call_of(s, &format!("{words:?}"), words, |_, _| (), look);
}

/// The same while something else goes on, until it ends by itself or is told that the command has ended.
fn each_call_fails_beside(
    words: &[&str],
    warm: bool,
    beside: impl Fn(&Specimen, &AtomicBool) + Sync,
    look: impl Fn(&Case<'_>),
) {
    let s = Specimen::new();
    if !warm {
        fs::remove_dir_all(s.sandbox.path("home kept/.cache")).unwrap();
    }
    let name = format!("{words:?}, {}", if warm { "warm" } else { "cold" });
    each_call_of(s, &name, words, beside, look);
}

fn each_call_of(
    s: Specimen,
    name: &str,
    words: &[&str],
    beside: impl Fn(&Specimen, &AtomicBool) + Sync,
    look: impl Fn(&Case<'_>),
) {
    let place = s.sandbox.path("");
    let once = |fails| {
        s.begin_anew();
        let mut command = s.sandbox.command(words);
        let has_ended = AtomicBool::new(false);
        let (child, call, seen) = std::thread::scope(|scope| {
            scope.spawn(|| beside(&s, &has_ended));
            let run = fault::run(&mut command, &place, fails);
            has_ended.store(true, Ordering::Relaxed);
            run
        });
        (Outcome::when_ended(child, &command), call, seen)
    };
    let (outcome, _, calls) = once(None);
    outcome.succeeds();
    let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
    let all = (0..calls).flat_map(|n| ERRORS.map(|errno| (n, errno)));
    let case = |(n, errno): &(usize, Errno)| format!("call {n}, {errno:?}");
    thorough::each(name, SAMPLE, all, case, |(n, errno)| {
        let (outcome, call, _) = once(Some((n, errno)));
        // Threads make their calls in another order each time, and some only sometimes.
        let Some(Call { name, path }) = call else { return };
        *kinds.entry(name).or_default() += 1;
        let path = path.strip_prefix(&place).map_or_else(|_| PathBuf::from("."), Path::to_path_buf);
        let what = format!("{words:?}: call {n}, {name} of {}: {errno:?}", path.display());
        let code = outcome.code.unwrap_or(-1);
        assert!(!outcome.stderr.contains("panicked") && (0..=100).contains(&code), "{what}: {outcome}");
        look(&Case { s: &s, outcome, what });
    });
    eprintln!("{words:?}: {calls} calls, failed: {kinds:?}");
}

#[test]
fn of_a_backup() {
    for warm in [true, false] {
        each_call_fails(&["backup", "source"], warm, |Case { s, outcome, what }| {
            s.is_whole(what);
            if outcome.code == Some(0) {
                s.restores("latest", "source", "again", what);
            }
            let again = s.sandbox.run(["backup", "source"]);
            assert_eq!(again.code, Some(0), "after {what}: {again}");
            s.restores("latest", "source", "again", what);
        });
    }
}

#[test]
fn of_a_restore() {
    for warm in [true, false] {
        each_call_fails(&["restore", "-to", "to", "latest"], warm, |Case { s, outcome, what }| {
            let to = s.sandbox.path("to");
            match outcome.code {
                Some(0) => _ = ALL.check(&s.sandbox.path("first"), &to),
                _ => nothing_is_wrong(&to, &s.sandbox.path("first"), what),
            }
            let again = s.sandbox.run(["restore", "-to", "to", "latest", "-overwrite", "always"]);
            assert_eq!(again.code, Some(0), "after {what}: {again}");
            ALL.check(&s.sandbox.path("first"), &to);
            s.is_whole(what);
        });
    }
}

#[test]
fn of_a_check() {
    for warm in [true, false] {
        each_call_fails(&["check"], warm, |Case { s, what, .. }| s.is_whole(what));
    }
}

#[test]
fn of_what_reads() {
    let of = |s: &Specimen| fs::read(s.sandbox.path("first/1/file 1")).unwrap();
    for warm in [true, false] {
        each_call_fails(&["cat", "latest:1/file 1"], warm, |Case { s, outcome, what }| {
            assert!(of(s).starts_with(&outcome.stdout), "{what}");
            assert!(outcome.code != Some(0) || outcome.stdout == of(s), "{what}: {outcome}");
        });
        each_call_fails(&["ls", "-recursive", "latest"], warm, |Case { outcome, what, .. }| {
            let lines = outcome.stdout.iter().filter(|b| **b == b'\n').count();
            assert!(outcome.code != Some(0) || lines == 17, "{what}: {lines} lines: {outcome}");
        });
        each_call_fails(&["info", "latest"], warm, |_| ());
    }
}

#[test]
fn of_a_mount() {
    // What could be read in the mount, if there was one.
    let read: Mutex<Option<BTreeMap<PathBuf, Vec<u8>>>> = Mutex::default();
    let use_it = |s: &Specimen, has_ended: &AtomicBool| {
        let at = s.sandbox.path("mnt");
        *read.lock().unwrap() = None;
        while !is_mounted(&at) {
            if has_ended.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let first = s.sandbox.path("first");
        let names = files_below(&first).into_iter().map(|f| f.strip_prefix(&first).unwrap().to_path_buf());
        let shown = names.filter_map(|name| Some((name.clone(), fs::read(at.join(name)).ok()?))).collect();
        *read.lock().unwrap() = Some(shown);
        unmount(&at, UnmountFlags::DETACH).unwrap();
    };
    for warm in [true, false] {
        each_call_fails_beside(
            &["mount", "-to", "mnt", "latest"],
            warm,
            use_it,
            |Case { s, outcome, what }| {
                match read.lock().unwrap().take() {
                    Some(shown) => {
                        for (name, bytes) in shown {
                            assert!(
                                bytes == fs::read(s.sandbox.path("first").join(&name)).unwrap(),
                                "{what}"
                            );
                        }
                    }
                    None => assert_ne!(outcome.code, Some(0), "{what}: {outcome}"),
                }
                assert!(!is_mounted(&s.sandbox.path("mnt")), "{what}");
                s.is_whole(what);
            },
        );
    }
}

#[test]
fn of_a_removal() {
    each_call_fails(&["rm", "-apply", "latest"], true, |Case { s, outcome, what }| {
        let there = s.sandbox.run(["ls", &s.first]).code;
        match outcome.code {
            Some(0) => assert_ne!(there, Some(0), "{what}: {outcome}"),
            _ if there == Some(0) => s.is_whole(what),
            _ => {}
        }
        let checked = s.sandbox.run(["check"]);
        assert_eq!(checked.code, Some(0), "after {what}: {checked}");
        let again = s.sandbox.run(["backup", "source"]);
        assert_eq!(again.code, Some(0), "after {what}: {again}");
        s.restores("latest", "source", "again", what);
    });
}

/// Of a store in which half of the first snapshot is of no use any more.
#[test]
fn of_maintenance() {
    let words = ["maintenance", "-grace", "0", "-exclusive"];
    let prepare = |s: &Specimen| {
        fs::remove_dir_all(s.sandbox.path("source/2")).unwrap();
        s.sandbox.run(["backup", "source"]).succeeds();
        s.sandbox.run(["rm", "-apply", &s.first]).succeeds();
    };
    each_call_fails_after(&words, prepare, |Case { s, outcome, what }| {
        let checked = s.sandbox.run(["check"]);
        assert_eq!(checked.code, Some(0), "after {what}: {outcome} {checked}");
        s.restores("latest", "source", "again", what);
        // Its lease may have stayed, if it could not be removed; its process has ended.
        let again = s.sandbox.run(words);
        assert_eq!(again.code, Some(0), "after {what}: {again}");
        let checked = s.sandbox.run(["check"]);
        assert_eq!(checked.code, Some(0), "after {what}: {checked}");
        s.restores("latest", "source", "again", what);
    });
}

#[test]
fn of_new_keys() {
    each_call_fails(&["key", "add", "-new-keyfile", "new key"], true, |Case { s, outcome, what }| {
        s.is_whole(what);
        let file = s.sandbox.path("new key");
        let opens = || {
            let mut command = s.sandbox.command(["check", "-fast"]);
            command.env_remove("PLAKAR_PASSPHRASE").arg("-keyfile").arg(&file);
            Outcome::of(&mut command).code == Some(0)
        };
        if outcome.code == Some(0) {
            assert!(opens(), "{what}: {outcome}");
            return;
        }
        let again = s.sandbox.run(["key", "add", "-new-keyfile", "new key"]);
        assert!(again.code == Some(0) || opens(), "after {what}: {outcome}\nand then: {again}");
    });
}

#[test]
fn of_a_new_store() {
    each_call_fails(&["at", "made", "create"], true, |Case { s, outcome, what }| {
        let on = |words: &[&str]| s.sandbox.run([&["at", "made"], words].concat());
        if outcome.code != Some(0) {
            let again = on(&["create"]);
            let is_there = again.stderr.contains("already");
            assert!(again.code == Some(0) || is_there, "after {what}: {outcome}\nand then: {again}");
        }
        let backup = on(&["backup", "source"]);
        assert_eq!(backup.code, Some(0), "after {what}: {outcome}\nand then: {backup}");
    });
}
