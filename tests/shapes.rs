//! Trees of extreme shapes: memory does not grow with the number of entries of a directory, with depth, or with the
//! pieces of a file, and everything comes back.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use plakar_engine::tree::{Contents, Entry, Links};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, statat};

use crate::common::made::{file, store};
use crate::common::mount::MountGuard;
use crate::common::sandbox::peak_while;
use crate::common::{Outcome, Sandbox};

/// Most that a backup may take, and all else, in MiB of resident memory, the program itself included.
const BACKUP: u64 = 120;
const BUDGET: u64 = 150;

/// Runs a command to its end, and tells its peak of resident memory in MiB.
fn peak(sandbox: &Sandbox, args: &[&str]) -> u64 {
    let mut command = sandbox.command(args);
    let mut child = command.spawn().unwrap();
    let peak = peak_while(&mut child, Duration::MAX);
    Outcome::when_ended(child, &command).succeeds();
    peak
}

/// Backs up, backs up again, checks and restores within the budgets.
#[track_caller]
fn goes_within_budget(sandbox: &Sandbox) {
    let mut over = Vec::new();
    let commands: [(&[&str], u64); 4] = [
        (&["backup", "source"], BACKUP),
        (&["backup", "source"], BACKUP),
        (&["check"], BUDGET),
        (&["restore", "-to", "to", "latest"], BUDGET),
    ];
    for (args, budget) in commands {
        let took = peak(sandbox, args);
        if took > budget {
            over.push(format!("{args:?}: {took} MiB where {budget} are allowed"));
        }
    }
    assert!(over.is_empty(), "{over:?}");
    is_walked_within_budget(sandbox);
}

/// Asks for everything in a mount of the newest snapshot, as the kernel then holds it; gives how much was there.
#[track_caller]
fn is_walked_within_budget(sandbox: &Sandbox) -> usize {
    let mount = MountGuard::new(sandbox, ["latest"]);
    let mut find = Command::new("find");
    let found = find.arg(mount.path()).args(["-size", "-100000000", "-printf", "."]).output().unwrap();
    assert!(found.status.success(), "{found:?}");
    let took = mount.peak();
    assert!(took <= BUDGET, "a mount: {took} MiB where {BUDGET} are allowed");
    found.stdout.len()
}

#[test]
fn a_mount_of_300_000_directories() {
    let sandbox = store(|b| {
        let file = file("file", Contents::default());
        let below = b.directory("", &[file]);
        let entries: Vec<Entry> =
            (0..300_000).map(|i| Entry { name: format!("{i:06}").into(), ..below.clone() }).collect();
        b.directory("", &entries)
    });
    assert_eq!(is_walked_within_budget(&sandbox), 600_001);
}

#[test]
fn a_mount_of_a_million_files_with_two_names_each() {
    let sandbox = store(|b| {
        let entries: Vec<Entry> = (0..1_000_000)
            .map(|i| {
                let links = Some(Links { group: i / 2, count: 2 });
                Entry { links, ..file(&format!("{i:06}"), Contents::default()) }
            })
            .collect();
        b.directory("", &entries)
    });
    assert_eq!(is_walked_within_budget(&sandbox), 1_000_001);
}

fn directory(path: &Path) -> OwnedFd {
    fs::create_dir_all(path).unwrap();
    openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap()
}

#[test]
fn a_directory_of_300_000_files() {
    let sandbox = Sandbox::with_key_file();
    let source = directory(&sandbox.path("source"));
    let name = |i: u32| format!("a file with a name of usual length {i:06}");
    for i in 0..300_000 {
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = File::from(openat(&source, name(i), flags, Mode::from(0o644)).unwrap());
        if i % 7 == 0 {
            file.write_all_at(i.to_string().as_bytes(), 0).unwrap();
        }
    }
    goes_within_budget(&sandbox);
    let to = directory(&sandbox.path("to"));
    for i in (0..300_000).step_by(997) {
        let [was, is] = [&source, &to].map(|d| statat(d, name(i), AtFlags::empty()).unwrap());
        assert_eq!((was.st_size, was.st_mtime_nsec), (is.st_size, is.st_mtime_nsec), "{i}");
    }
    assert_eq!(fs::read_dir(sandbox.path("to")).unwrap().count(), 300_000);
}

#[test]
fn a_directory_of_20_000_directories() {
    let sandbox = Sandbox::with_key_file();
    let source = directory(&sandbox.path("source"));
    for i in 0..20_000 {
        mkdirat(&source, format!("{i}"), Mode::from(0o755)).unwrap();
    }
    goes_within_budget(&sandbox);
    assert_eq!(fs::read_dir(sandbox.path("to")).unwrap().count(), 20_000);
}

#[test]
fn whoever_goes_through_a_mount_meets_each_entry_once_and_by_path_is_as_wide_as_it_is() {
    const N: usize = 300_000;
    let sandbox = store(|b| {
        let file =
            |i: usize| file(&format!("a file with a name of usual length {i:06}"), Contents::default());
        b.directory("", &(0..N).map(file).collect::<Vec<_>>())
    });
    let mount = MountGuard::new::<&str>(&sandbox, []);
    let lines = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).current_dir(mount.path()).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        out.stdout.iter().filter(|b| **b == b'\n').count()
    };
    // The root, `latest`, `snapshots`, the snapshot, and links to six views.
    assert_eq!(lines("find", &["."]), N + 10);
    assert_eq!(lines("ls", &["-U", "by-path/"]), N);
    assert_eq!(lines("ls", &["-l", "by-path/"]), N + 1);
    let one = format!("by-path/a file with a name of usual length {:06}/", 77);
    assert_eq!(lines("ls", &[&one]), 2);
    // And whoever begins there.
    assert_eq!(lines("find", &["by-path/"]), N + 1);
    assert!(mount.peak() <= BUDGET, "{} MiB", mount.peak());
}

/// Each level's name, and what is in its file.
fn level(i: usize) -> (String, String) {
    (format!("{i:04}{}", "n".repeat(246)), format!("at {i}"))
}

#[test]
fn a_tree_2_000_deep_with_long_names() {
    let sandbox = Sandbox::with_key_file();
    let mut at = directory(&sandbox.path("source"));
    for i in 0..2000 {
        let (name, text) = level(i);
        mkdirat(&at, &name, Mode::from(0o755)).unwrap();
        at = openat(&at, &name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        let file = openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::from(0o644)).unwrap();
        File::from(file).write_all_at(text.as_bytes(), 0).unwrap();
    }
    goes_within_budget(&sandbox);
    let mut at = directory(&sandbox.path("to"));
    for i in 0..2000 {
        let (name, text) = level(i);
        at = openat(&at, &name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        let file = File::from(openat(&at, "file", OFlags::RDONLY, Mode::empty()).unwrap());
        let mut found = vec![0; text.len()];
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, text.as_bytes());
    }
    for side in ["source", "to"] {
        remove_deep(&sandbox.path(side));
    }
}

/// Removes a chain of directories whose path is too long for most tools.
fn remove_deep(top: &Path) {
    let mut open = vec![directory(top)];
    let step = |at: &OwnedFd, i| openat(at, level(i).0, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty());
    for i in 0..2000 {
        open.push(step(&open[i], i).unwrap());
    }
    for i in (0..2000).rev() {
        let at = open.pop().unwrap();
        rustix::fs::unlinkat(&at, "file", AtFlags::empty()).unwrap();
        rustix::fs::unlinkat(&open[i], level(i).0, AtFlags::REMOVEDIR).unwrap();
    }
}

#[test]
fn a_file_of_100_000_extents() {
    const N: u64 = 100_000;
    const APART: u64 = 1 << 17;
    let sandbox = Sandbox::with_key_file();
    fs::create_dir(sandbox.path("source")).unwrap();
    let image = File::create(sandbox.path("source/image")).unwrap();
    let text = |i: u64| format!("piece {i:8}").into_bytes();
    (0..N).for_each(|i| image.write_all_at(&text(i), i * APART).unwrap());
    goes_within_budget(&sandbox);
    let restored = File::open(sandbox.path("to/image")).unwrap();
    assert_eq!(restored.metadata().unwrap().len(), image.metadata().unwrap().len());
    for i in (0..N).step_by(101) {
        let mut found = text(0);
        restored.read_exact_at(&mut found, i * APART).unwrap();
        assert_eq!(found, text(i));
    }
}
