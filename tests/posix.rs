//! What programs expect of a file system, as a table of named checks on real kernel mounts.
//!
//! Each check runs on a local file system that is mounted read-only as well: what a check expects of the mount is what
//! a local file system does, and where the two may differ the check says so.

mod contents;
mod directories;
mod metadata;
mod names;
mod refused;
mod special;
mod system;

use std::fmt;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::{Errno, Result};

use crate::common::mount::ReadOnlyView;
use crate::common::sandbox::NOBODY;
use crate::common::torture::noise;
use crate::common::{Directory, MountGuard, Sandbox, SmallDisk, hex_id};

/// How many entries the crowded directory has.
const CROWD: usize = 100_000;
/// Length of the file `large`, which no unit of storage divides.
const LARGE: usize = (5 << 20) + 77;
/// Length of the file `sparse`: data in its second and its last MiB.
const SPARSE: u64 = 8 << 20;
/// Length of the file `tail`: it ends within a page.
const TAIL: usize = 2 * PAGE + 100;
/// A page of memory.
const PAGE: usize = 4096;

/// A file system that the checks run on.
struct Place {
    root: Directory,
    path: PathBuf,
    kind: Kind,
}

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A local one, read-only.
    Local,
    /// A mount that others may look at.
    Shared,
    /// A mount for its user alone.
    Own,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Local => "local file system",
            Kind::Shared => "mount for all",
            Kind::Own => "mount for its user",
        })
    }
}

impl Place {
    fn at(path: &Path, kind: Kind) -> Self {
        Self { root: Directory::open(path), path: path.to_owned(), kind }
    }

    /// Opens a path in it with these flags.
    fn open(&self, path: impl AsRef<[u8]>, flags: OFlags) -> Result<OwnedFd> {
        rustix::fs::openat(&self.root, path.as_ref(), flags | OFlags::CLOEXEC, Mode::from(0o600))
    }

    /// Opens a file in it to read.
    fn file(&self, path: &str) -> File {
        self.open(path, OFlags::RDONLY).unwrap().into()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    fn is_local(&self) -> bool {
        self.kind == Kind::Local
    }
}

/// A named check.
type Check = (&'static str, fn(&Place));

/// All of them.
fn checks() -> impl Iterator<Item = &'static Check> {
    let all: [&'static [Check]; 7] = [
        metadata::CHECKS,
        names::CHECKS,
        directories::CHECKS,
        contents::CHECKS,
        refused::CHECKS,
        special::CHECKS,
        system::CHECKS,
    ];
    all.into_iter().flatten()
}

/// Runs every check; gives the names of those that failed, each with what it said. Of the others nothing is printed: what
/// matters must not drown.
fn failures(place: &Place) -> Vec<String> {
    let failed = checks().filter_map(|(name, check)| {
        let said = catch_unwind(AssertUnwindSafe(|| check(place))).err()?;
        let text = said.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| said.downcast_ref::<&str>().copied()).unwrap_or_default();
        Some(format!("{place}: {name}: {text}"))
    });
    failed.collect()
}

/// What the checks look at.
fn tree(at: &Path) {
    fs::create_dir(at).unwrap();
    let root = Directory::open(at);
    root.at("file").file(b"content\n").owner(1000, 1001).mode(0o4640).xattr("user.colour", b"blue");
    root.at("file").mtime(1_234_567_890, 123_456_789);
    root.at("large").file(&noise(1, LARGE));
    root.at("tail").file(&noise(2, TAIL));
    root.at("empty").file(b"");
    let sparse = root.at("sparse").create();
    sparse.set_len(SPARSE).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(3, 1 << 20), 1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(4, 1 << 20), 7 << 20).unwrap();
    drop(sparse);

    let dir = root.make("dir");
    dir.make("sub").at("leaf").file(b"leaf");
    root.at("linked").file(b"two names").link(dir.at("linked too"));
    dir.at("up").symlink(b"../file");
    root.at("symlink").symlink(b"file");
    root.at("to dir").symlink(b"dir");
    root.at("dangling").symlink(b"nowhere");
    root.at("loop").symlink(b"loop");
    root.at("absolute").symlink(b"/etc/passwd");

    root.at("fifo").node(FileType::Fifo, (0, 0)).mode(0o666);
    root.at("socket").node(FileType::Socket, (0, 0)).mode(0o777);
    // /dev/null, and a block device that nothing has.
    root.at("null").node(FileType::CharacterDevice, (1, 3)).mode(0o666);
    root.at("block").node(FileType::BlockDevice, (4095, 1)).mode(0o666);

    root.at("private").file(b"x").owner(0, 0).mode(0o600);
    root.at("public").file(b"x").owner(0, 0).mode(0o644);
    root.at("for the group").file(b"x").owner(0, NOBODY).mode(0o640);
    root.at("by acl").file(b"x").owner(0, 0).mode(0o600);
    root.at("by acl").xattr("system.posix_acl_access", &refused::readable_by(NOBODY));
    root.make("closed").at("leaf").file(b"leaf");
    root.at("closed").mode(0o700);
    root.make("passable").at("leaf").file(b"leaf");
    root.at("passable").mode(0o711);
    root.make("listable").at("leaf").file(b"leaf");
    root.at("listable").mode(0o744);

    for (name, program) in [("true", "/bin/true"), ("id", "/usr/bin/id")] {
        root.at(name).file(&fs::read(program).unwrap()).mode(0o755);
    }
    root.at("id").mode(0o6755);
    root.at("script").file(b"#!/bin/sh\necho it runs: \"$1\"\n").mode(0o755);

    let crowd = root.make("crowd");
    (0..CROWD).for_each(|i| drop(crowd.at(&crowd_name(i)).create()));
}

fn crowd_name(i: usize) -> String {
    format!("{i:06}{}", "-long".repeat(i % 4))
}

#[test]
fn every_check_holds_on_a_local_file_system_and_on_mounts() {
    let sandbox = Sandbox::with_key_file();
    let disk = SmallDisk::new("1g");
    let source = disk.path().join("source");
    tree(&source);
    let id = hex_id(&sandbox.backup(&source));

    let read_only = ReadOnlyView::new(&source);
    let mut failed = failures(&Place::at(read_only.path(), Kind::Local));
    for (options, kind) in [(&["-allow-other"][..], Kind::Shared), (&[], Kind::Own)] {
        let mount = MountGuard::new(&sandbox, options.iter().copied().chain([id.as_str()]));
        failed.extend(failures(&Place::at(mount.path(), kind)));
    }
    assert!(failed.is_empty(), "these do not hold:\n{}", failed.join("\n"));
}

/// Does something as somebody without rights, on a thread of its own.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let nobody = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            work()
        });
        nobody.join().unwrap()
    })
}

/// Extended attributes by path: there is no such call relative to a directory.
fn set_xattr(path: &Path) -> Result<()> {
    rustix::fs::lsetxattr(path, "user.new", b"1", XattrFlags::empty())
}

#[track_caller]
fn gives<T>(what: &str, result: Result<T>, errno: Errno) {
    assert_eq!(result.map(drop), Err(errno), "{what}");
}
