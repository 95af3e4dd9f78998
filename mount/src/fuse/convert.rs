//! Plain types to fuser's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo};
use plakar_engine::meta::{Kind, Timestamp};

use crate::error::FsError;
use crate::fs::{Attr, BLOCK_SIZE};

pub(super) fn errno(e: FsError) -> Errno {
    Errno::from_i32(e.errno())
}

pub(super) fn kind(kind: Kind) -> FileType {
    match kind {
        // Never shown.
        Kind::Missing | Kind::Regular => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// A time that the system's type cannot hold becomes the nearest that it can, near enough.
fn time(t: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(t.sec.unsigned_abs());
    let at = if t.sec < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    at.and_then(|at| at.checked_add(Duration::from_nanos(u64::from(t.nsec)))).unwrap_or(UNIX_EPOCH)
}

/// A device number as the kernel's protocol has it.
fn device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

pub(super) fn attributes(a: &Attr) -> FileAttr {
    let mtime = time(a.mtime);
    FileAttr {
        ino: INodeNo(a.ino),
        size: a.size,
        blocks: a.blocks,
        atime: mtime,
        mtime,
        ctime: mtime,
        crtime: mtime,
        kind: kind(a.kind),
        perm: (a.mode & 0o7777) as u16,
        nlink: a.links,
        uid: a.uid,
        gid: a.gid,
        rdev: device(a.rdev),
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// What tells the kernel that a name is not there, and that it may remember it: the inode number 0.
pub(super) fn no_entry() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}
