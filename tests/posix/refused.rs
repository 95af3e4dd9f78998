//! What is refused: every change to everybody, and to others what the modes deny them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use rustix::fs::{
    Access, AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid,
};
use rustix::io::{Errno, Result};

use super::{Check, Kind, Place, as_nobody, gives, set_xattr};

pub(super) const CHECKS: &[Check] = &[
    ("opening to write or create is EROFS", opening),
    ("changes of names are EROFS", names),
    ("changes of attributes are EROFS", attributes),
    ("changes of contents are refused", contents),
    ("what is there already is said first", there_already),
    ("access() answers by modes, and W_OK by EROFS", access),
    ("others get what modes and ACLs give them", others),
    ("all is as it was after all that", unchanged),
];

/// A POSIX ACL as the kernel keeps it, by which one more user may read.
pub(super) fn readable_by(uid: u32) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 4, uid), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
    {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn opening(p: &Place) {
    let (wr, rw, rd) = (OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY);
    for name in ["file", "symlink", "large", "dir/linked too", "private"] {
        for flags in
            [wr, rw, wr | OFlags::TRUNC, rd | OFlags::TRUNC, wr | OFlags::APPEND, rw | OFlags::CREATE]
        {
            gives(name, p.open(name, flags), Errno::ROFS);
        }
    }
    for flags in
        [rd | OFlags::CREATE, wr | OFlags::CREATE | OFlags::EXCL, rw | OFlags::CREATE | OFlags::TRUNC]
    {
        for name in ["new", "dir/new", "crowd/new", "dangling"] {
            if name == "dangling" && flags.contains(OFlags::EXCL) {
                continue;
            }
            gives(name, p.open(name, flags), Errno::ROFS);
        }
    }
    for flags in [rw | OFlags::TMPFILE, wr | OFlags::TMPFILE] {
        gives("without a name", p.open("dir", flags), Errno::ROFS);
    }
    gives("a directory", p.open("dir", rw), Errno::ISDIR);
    assert!(p.open("file", rd | OFlags::CREATE).is_ok(), "it is there and only read");
}

fn names(p: &Place) {
    let (d, mode) = (&p.root, Mode::from(0o644));
    let renamed = |from, to, how| rustix::fs::renameat_with(d, from, d, to, how);
    let all: [(&str, Result<()>); 17] = [
        ("mkdir", rustix::fs::mkdirat(d, "new", mode)),
        ("mkdir deep down", rustix::fs::mkdirat(d, "dir/sub/new", mode)),
        ("mknod", rustix::fs::mknodat(d, "new", FileType::RegularFile, mode, 0)),
        ("mknod of a device", rustix::fs::mknodat(d, "new", FileType::CharacterDevice, mode, 259)),
        ("mkfifo", rustix::fs::mkfifoat(d, "new", mode)),
        ("symlink", rustix::fs::symlinkat("x", d, "new")),
        ("link", rustix::fs::linkat(d, "file", d, "new", AtFlags::empty())),
        ("rename", rustix::fs::renameat(d, "file", d, "new")),
        ("rename over", rustix::fs::renameat(d, "file", d, "public")),
        ("rename of a directory", rustix::fs::renameat(d, "dir", d, "new")),
        ("rename without replacing", renamed("file", "new", RenameFlags::NOREPLACE)),
        ("exchange", renamed("file", "public", RenameFlags::EXCHANGE)),
        ("unlink", rustix::fs::unlinkat(d, "file", AtFlags::empty())),
        ("unlink of a symlink", rustix::fs::unlinkat(d, "symlink", AtFlags::empty())),
        ("unlink of a FIFO", rustix::fs::unlinkat(d, "fifo", AtFlags::empty())),
        ("unlink of a directory", rustix::fs::unlinkat(d, "dir", AtFlags::empty())),
        ("rmdir", rustix::fs::unlinkat(d, "dir/sub", AtFlags::REMOVEDIR)),
    ];
    for (what, result) in all {
        gives(what, result, Errno::ROFS);
    }
    let bound = UnixListener::bind(format!("{}/new", p.root.short_path())).unwrap_err();
    assert_eq!(bound.raw_os_error(), Some(Errno::ROFS.raw_os_error()), "a socket");
}

fn attributes(p: &Place) {
    let (d, mode, none) = (&p.root, Mode::from(0o600), AtFlags::empty());
    let (file, path) = (p.file("file"), p.path("file"));
    let now = Timespec { tv_sec: 1, tv_nsec: 1 };
    let times = Timestamps { last_access: now, last_modification: now };
    let (uid, gid) = (Some(Uid::from_raw(1)), Some(Gid::from_raw(1)));
    let all: [(&str, Result<()>); 13] = [
        ("chmod", rustix::fs::chmodat(d, "file", mode, none)),
        ("chmod of a directory", rustix::fs::chmodat(d, "dir", mode, none)),
        ("fchmod", rustix::fs::fchmod(&file, mode)),
        ("chown", rustix::fs::chownat(d, "file", uid, gid, none)),
        ("chown of a symlink", rustix::fs::chownat(d, "symlink", uid, gid, AtFlags::SYMLINK_NOFOLLOW)),
        ("fchown", rustix::fs::fchown(&file, uid, gid)),
        ("utimens", rustix::fs::utimensat(d, "file", &times, none)),
        ("utimens of a symlink", rustix::fs::utimensat(d, "symlink", &times, AtFlags::SYMLINK_NOFOLLOW)),
        ("futimens", rustix::fs::futimens(&file, &times)),
        ("setxattr", set_xattr(&path)),
        ("setxattr of a directory", set_xattr(&p.path("dir"))),
        ("removexattr", rustix::fs::removexattr(&path, "user.colour")),
        ("fremovexattr", rustix::fs::fremovexattr(&file, "user.colour")),
    ];
    for (what, result) in all {
        gives(what, result, Errno::ROFS);
    }
    let flags = rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::IMMUTABLE);
    assert!(matches!(flags, Err(Errno::ROFS | Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS)), "{flags:?}");
}

fn contents(p: &Place) {
    let mut file = p.file("file");
    let truncated = std::fs::OpenOptions::new().write(true).truncate(true).open(p.path("file"));
    assert_eq!(truncated.unwrap_err().raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    let by_program = std::process::Command::new("truncate").args(["-s", "3"]).arg(p.path("file")).output();
    assert!(String::from_utf8_lossy(&by_program.unwrap().stderr).contains("Read-only file system"));
    // What was opened to read is not written, wherever it lies.
    assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(Errno::BADF.raw_os_error()));
    gives("ftruncate", rustix::fs::ftruncate(&file, 3), Errno::INVAL);
    gives("fallocate", rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 100), Errno::BADF);
    let punched = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    gives("a hole", rustix::fs::fallocate(&file, punched, 0, 4), Errno::BADF);
    let from = p.file("large");
    gives("copy into", rustix::fs::copy_file_range(&from, None, &file, None, 10), Errno::BADF);
}

fn there_already(p: &Place) {
    let (d, mode) = (&p.root, Mode::from(0o644));
    gives("mkdir", rustix::fs::mkdirat(d, "dir", mode), Errno::EXIST);
    gives("symlink", rustix::fs::symlinkat("x", d, "file"), Errno::EXIST);
    gives("link", rustix::fs::linkat(d, "file", d, "public", AtFlags::empty()), Errno::EXIST);
    gives("exclusively", p.open("file", OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL), Errno::EXIST);
    gives("missing above", rustix::fs::mkdirat(d, "absent/new", mode), Errno::NOENT);
    gives("below a file", rustix::fs::mkdirat(d, "file/new", mode), Errno::NOTDIR);
}

fn access(p: &Place) {
    let ask = |name: &str, what| rustix::fs::accessat(&p.root, name, what, AtFlags::empty());
    for name in ["file", "private", "dir", "id"] {
        assert_eq!((ask(name, Access::EXISTS), ask(name, Access::READ_OK)), (Ok(()), Ok(())), "{name}");
        gives(name, ask(name, Access::WRITE_OK), Errno::ROFS);
    }
    // Special files are not part of what is read-only.
    assert_eq!(ask("fifo", Access::WRITE_OK), Ok(()));
    gives("missing", ask("absent", Access::EXISTS), Errno::NOENT);
    assert_eq!((ask("id", Access::EXEC_OK), ask("dir", Access::EXEC_OK)), (Ok(()), Ok(())));
    gives("no program, even to root", ask("public", Access::EXEC_OK), Errno::ACCESS);
}

fn others(p: &Place) {
    let ask = |name: &str, what| rustix::fs::accessat(&p.root, name, what, AtFlags::empty());
    let read = |name: &str| {
        p.open(name, OFlags::RDONLY).map(|f| {
            let mut content = Vec::new();
            File::from(f).read_to_end(&mut content).unwrap();
            content
        })
    };
    let denied = Err(Errno::ACCESS);
    if p.kind == Kind::Own {
        as_nobody(|| {
            assert_eq!(read("public"), denied);
            assert_eq!(ask("public", Access::READ_OK), Err(Errno::ACCESS));
            gives("stat", rustix::fs::statat(&p.root, "public", AtFlags::empty()), Errno::ACCESS);
            gives("list", p.open(".", OFlags::RDONLY), Errno::ACCESS);
        });
        return;
    }
    // Root has read it all: what is cached is denied all the same.
    for name in ["private", "public", "for the group", "by acl", "closed/leaf"] {
        assert!(read(name).is_ok(), "{name}");
    }
    as_nobody(|| {
        assert_eq!(read("public"), Ok(b"x".to_vec()));
        assert_eq!(read("for the group"), Ok(b"x".to_vec()));
        assert_eq!(read("by acl"), Ok(b"x".to_vec()));
        assert_eq!(read("private"), denied);
        assert_eq!((read("closed/leaf"), read("passable/leaf")), (denied.clone(), Ok(b"leaf".to_vec())));
        assert_eq!(read("listable/leaf"), denied);
        assert!(p.open("listable", OFlags::RDONLY).is_ok());
        gives("list what is only passable", p.open("passable", OFlags::RDONLY), Errno::ACCESS);
        gives("stat below", rustix::fs::statat(&p.root, "closed/leaf", AtFlags::empty()), Errno::ACCESS);
        gives("absent below", rustix::fs::statat(&p.root, "closed/absent", AtFlags::empty()), Errno::ACCESS);
        assert_eq!((ask("public", Access::READ_OK), ask("id", Access::EXEC_OK)), (Ok(()), Ok(())));
        for (name, what) in
            [("private", Access::READ_OK), ("public", Access::EXEC_OK), ("closed", Access::EXEC_OK)]
        {
            gives(name, ask(name, what), Errno::ACCESS);
        }
        gives("write", ask("public", Access::WRITE_OK), Errno::ROFS);
        gives("to write", p.open("private", OFlags::WRONLY), Errno::ROFS);
        gives("mkdir", rustix::fs::mkdirat(&p.root, "new", Mode::from(0o755)), Errno::ROFS);
        let n = rustix::fs::listxattr(format!("/proc/self/fd/{}/public", raw(p)), &mut [0; 64]);
        assert_eq!(n, Ok(0));
    });
}

fn raw(p: &Place) -> i32 {
    use std::os::fd::{AsFd, AsRawFd};
    p.root.as_fd().as_raw_fd()
}

fn unchanged(p: &Place) {
    let names = ["new", "dir/new", "dir/sub/new", "crowd/new", "nowhere"];
    for name in names {
        gives(name, rustix::fs::statat(&p.root, name, AtFlags::SYMLINK_NOFOLLOW), Errno::NOENT);
    }
    assert_eq!(std::fs::read(p.path("file")).unwrap(), b"content\n");
    let s = p.root.at("file").stat();
    assert_eq!((s.st_mode, s.st_uid, s.st_mtime, s.st_nlink), (0o104_640, 1000, 1_234_567_890, 1));
}
