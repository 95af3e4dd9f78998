//! A backup that is killed or stopped at any moment leaves a whole store, and what it uploaded is found again.

use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::compare::Compare;
use crate::common::torture::noise;
use crate::common::{ALL, Outcome, Sandbox, hex_id};

/// How much the tree holds, about: several packfiles.
const FILES: u64 = 700;

fn tree(sandbox: &Sandbox) -> PathBuf {
    let root = sandbox.path("source");
    for i in 0..FILES {
        let dir = root.join(format!("{}", i % 20));
        std::fs::create_dir_all(&dir).unwrap();
        let size = if i % 10 == 0 { 700_000 } else { 90_000 };
        std::fs::write(dir.join(i.to_string()), noise(i, size)).unwrap();
    }
    root
}

fn start(sandbox: &Sandbox) -> (Child, Command) {
    let mut command = sandbox.command(["backup", "source"]);
    (command.spawn().unwrap(), command)
}

/// Sends a signal, and waits for the end; tells how long that took.
fn send(which: Signal, child: Child, command: &Command) -> (Outcome, Duration) {
    let begun = Instant::now();
    let _ = kill_process(Pid::from_child(&child), which);
    let outcome = Outcome::when_ended(child, command);
    (outcome, begun.elapsed())
}

/// Waits for a file to appear in an area of the store, or below it.
struct Appears(rustix::fd::OwnedFd);

impl Appears {
    fn new(directory: &Path) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let watch = inotify::init(CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, directory, WatchFlags::CREATE | WatchFlags::MOVED_TO).unwrap();
        Self(watch)
    }

    /// Blocks until something does.
    fn wait(&self) {
        let mut room = [MaybeUninit::uninit(); 4096];
        inotify::Reader::new(&self.0, &mut room).next().unwrap();
    }
}

/// The store is whole, and what is in it can be restored.
fn store_is_whole(sandbox: &Sandbox) -> usize {
    sandbox.run(["check"]).succeeds();
    let listed = sandbox.run(["ls"]).succeeds();
    listed.text().lines().count()
}

#[test]
fn a_backup_killed_at_any_moment_damages_nothing() {
    let sandbox = Sandbox::with_key_file();
    let source = tree(&sandbox);
    // How long a whole one takes, into a store of its own.
    let other = Sandbox::with_key_file();
    let begun = Instant::now();
    other.backup(&source);
    let whole = begun.elapsed();
    let mut killed = 0;
    for tenth in [1, 9, 2, 8, 3, 7, 4, 6, 5, 10] {
        let (child, command) = start(&sandbox);
        std::thread::sleep(whole * tenth / 10);
        let (outcome, _) = send(Signal::KILL, child, &command);
        killed += u32::from(outcome.code.is_none());
        let snapshots = store_is_whole(&sandbox);
        assert!(snapshots <= 1, "{snapshots} snapshots of one run");
        for snapshot in sandbox.objects("snapshots") {
            std::fs::remove_file(snapshot).unwrap();
        }
    }
    assert!(killed > 0, "not one was killed in time");
    let id = hex_id(&sandbox.backup(&source));
    ALL.check(&source, &sandbox.restore(&id));
    sandbox.run(["check"]).succeeds();
}

#[test]
fn a_backup_killed_while_it_writes_any_kind_of_object_damages_nothing() {
    let sandbox = Sandbox::with_key_file();
    let source = tree(&sandbox);
    // An object begins by a temporary file, and is there once that has its name.
    for area in ["leases", "data", "meta", "states", "snapshots"] {
        for events in [1, 2, 3] {
            let place = sandbox.store().join(area);
            let appears = Appears::new(&place);
            let (mut child, command) = start(&sandbox);
            let waiting = std::thread::spawn(move || (0..events).for_each(|_| appears.wait()));
            // If it ends before there were so many, there was nothing to kill it at.
            while !waiting.is_finished() && child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            let _ = kill_process(Pid::from_child(&child), Signal::KILL);
            Outcome::when_ended(child, &command);
            store_is_whole(&sandbox);
        }
    }
    let id = hex_id(&sandbox.backup(&source));
    ALL.check(&source, &sandbox.restore(&id));
    sandbox.run(["check"]).succeeds();
}

#[test]
fn what_killed_runs_leave_behind_goes_away_and_their_uploads_are_found() {
    let sandbox = Sandbox::with_key_file();
    std::fs::create_dir(sandbox.path("source")).unwrap();
    std::fs::write(sandbox.path("source/large"), noise(1, 700 << 20)).unwrap();
    // Each is killed when it has uploaded more than a state says.
    for _ in 0..3 {
        let before = sandbox.stored_bytes();
        let (mut child, command) = start(&sandbox);
        while sandbox.stored_bytes() < before + (300 << 20) {
            assert!(child.try_wait().unwrap().is_none(), "it was too fast to be killed");
            std::thread::sleep(Duration::from_millis(5));
        }
        send(Signal::KILL, child, &command);
        if sandbox.objects("states").len() >= 2 {
            break;
        }
    }
    assert!(!sandbox.objects("states").is_empty());
    let temporary = || {
        let all = crate::common::sandbox::files_below(&sandbox.store());
        let is = |f: &PathBuf| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with("tmp-"));
        all.into_iter().filter(is).collect::<Vec<_>>()
    };
    let left = temporary();
    assert!(!left.is_empty() && !sandbox.objects("leases").is_empty());
    // One of them is still being written, by somebody elsewhere.
    let alive = std::fs::File::open(&left[0]).unwrap();
    alive.lock().unwrap();
    for file in &left {
        let times =
            std::fs::FileTimes::new().set_modified(std::time::SystemTime::now() - Duration::from_secs(3600));
        std::fs::File::options().write(true).open(file).unwrap().set_times(times).unwrap();
    }
    sandbox.backup(&sandbox.path("source"));
    assert_eq!(temporary(), &left[..1]);
    let stored = sandbox.stored_bytes() >> 20;
    assert!(stored < 700 + 330 * 3, "{stored} MiB");
    drop(alive);
    sandbox.backup(&sandbox.path("source"));
    assert_eq!(temporary(), Vec::<PathBuf>::new());
    assert!(sandbox.objects("leases").is_empty());
    sandbox.run(["check"]).succeeds();
}

#[test]
fn an_interrupted_backup_stops_soon_and_its_uploads_are_found_again() {
    for which in [Signal::INT, Signal::TERM] {
        let sandbox = Sandbox::with_key_file();
        let source = tree(&sandbox);
        let appears = Appears::new(&sandbox.store().join("data"));
        let (child, command) = start(&sandbox);
        // The first packfile has begun, and most is still to come.
        appears.wait();
        let (outcome, took) = send(which, child, &command);
        let outcome = outcome.ends_with(130).says(&["stopped"]);
        // Meant is a second; tests share the machine.
        assert!(took < Duration::from_secs(5), "{took:?}: {outcome}");
        assert_eq!(store_is_whole(&sandbox), 0);
        assert!(sandbox.objects("leases").is_empty(), "it has taken its lease away");
        let before = sandbox.stored_bytes();
        assert!(before > 100_000, "only {before} bytes were kept");
        let id = hex_id(&sandbox.backup(&source));
        let after = sandbox.stored_bytes();
        ALL.check(&source, &sandbox.restore(&id));

        // As much as one backup alone takes, and a little for each run.
        let alone = Sandbox::with_key_file();
        std::fs::rename(&source, alone.path("source")).unwrap();
        alone.backup(&alone.path("source"));
        let alone = alone.stored_bytes();
        assert!(after < alone + alone / 50 + (64 << 10), "{after} where {alone} are enough");
    }
}

#[test]
fn a_signal_ends_a_backup_that_waits_for_what_does_not_answer() {
    // A place of the source is served by a program that does not answer any more.
    let other = Sandbox::with_key_file();
    std::fs::write(other.path("file"), "text").unwrap();
    other.backup(&other.path("file"));
    let stuck = crate::common::MountGuard::new(&other, [""; 0]);
    let sandbox = Sandbox::with_key_file();
    std::fs::create_dir_all(sandbox.path("source/stuck")).unwrap();
    rustix::mount::mount_bind(stuck.path(), sandbox.path("source/stuck")).unwrap();
    stuck.signal(Signal::STOP);
    for which in [Signal::TERM, Signal::INT] {
        let (child, command) = start(&sandbox);
        std::thread::sleep(Duration::from_secs(1));
        let (outcome, took) = send(which, child, &command);
        outcome.ends_with(130).says(&["stopped: something has not answered", "what was uploaded is kept"]);
        assert!(took < Duration::from_secs(15), "{took:?}");
    }
    stuck.signal(Signal::CONT);
    rustix::mount::unmount(sandbox.path("source/stuck"), rustix::mount::UnmountFlags::DETACH).unwrap();
    store_is_whole(&sandbox);
}

#[test]
fn an_interrupted_restore_stops_soon_and_leaves_no_half_files() {
    let sandbox = Sandbox::with_key_file();
    let source = tree(&sandbox);
    sandbox.backup(&source);
    let appears = Appears::new(&sandbox.path("to"));
    let mut command = sandbox.command(["restore", "-to", "to", "latest"]);
    let child = command.spawn().unwrap();
    appears.wait();
    let (outcome, took) = send(Signal::INT, child, &command);
    let outcome = outcome.ends_with(130).says(&["stopped", "hint:"]);
    assert!(took < Duration::from_secs(5), "{took:?}: {outcome}");
    for file in crate::common::sandbox::files_below(&sandbox.path("to")) {
        let name = file.strip_prefix(sandbox.path("to")).unwrap();
        let same = std::fs::read(&file).unwrap() == std::fs::read(source.join(name)).unwrap_or_default();
        assert!(same, "{} is half", file.display());
    }
    // It goes on where it was.
    sandbox.run(["restore", "-overwrite", "newer", "-to", "to", "latest"]).succeeds();
    ALL.check(&source, &sandbox.path("to"));
}

/// The numbers of files that the names have, how many different ones.
fn inodes(directory: &Path, names: &[&str]) -> usize {
    use std::os::unix::fs::MetadataExt;
    let of = |name: &&str| std::fs::symlink_metadata(directory.join(name)).unwrap().ino();
    names.iter().map(of).collect::<std::collections::HashSet<_>>().len()
}

#[test]
fn names_of_one_file_are_joined_when_a_restore_is_continued() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    std::fs::create_dir_all(source.join("d")).unwrap();
    let names = ["a", "b", "d/c"];
    std::fs::write(source.join("a"), "the same".repeat(30_000)).unwrap();
    std::os::unix::fs::symlink("a", source.join("s")).unwrap();
    std::fs::hard_link(source.join("a"), source.join("b")).unwrap();
    std::fs::hard_link(source.join("a"), source.join("d/c")).unwrap();
    rustix::fs::linkat(
        rustix::fs::CWD,
        source.join("s"),
        rustix::fs::CWD,
        source.join("t"),
        rustix::fs::AtFlags::empty(),
    )
    .unwrap();
    sandbox.backup(&source);
    for policy in ["newer", "never"] {
        for gone in [&["a"][..], &["b"], &["d/c"], &["a", "b"], &["b", "d/c"], &["a", "d/c"], &["t"], &["s"]]
        {
            let to = sandbox.restore("latest");
            gone.iter().for_each(|name| std::fs::remove_file(to.join(name)).unwrap());
            let args = ["restore", "-overwrite", policy, "-to", to.to_str().unwrap(), "latest"];
            sandbox.run(args).succeeds();
            assert_eq!(inodes(&to, &names), 1, "{policy} {gone:?}");
            Compare { directory_times: false, ..ALL }.check(&source, &to);
        }
        // What is no longer the same stays apart.
        let to = sandbox.restore("latest");
        std::fs::remove_file(to.join("b")).unwrap();
        let before = std::fs::metadata(to.join("a")).unwrap().modified().unwrap();
        let mut other = std::fs::File::options().write(true).open(to.join("a")).unwrap();
        std::io::Write::write_all(&mut other, b"THE SAME").unwrap();
        other.set_modified(before).unwrap();
        sandbox.run(["restore", "-overwrite", policy, "-to", to.to_str().unwrap(), "latest"]).succeeds();
        assert_eq!(inodes(&to, &names), 2);
        assert!(std::fs::read(to.join("a")).unwrap().starts_with(b"THE"));
        assert!(std::fs::read(to.join("b")).unwrap().starts_with(b"the"));
    }
}
