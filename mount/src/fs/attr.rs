//! What `stat` says.
//!
//! * Directories have one link, which tells programs not to count subdirectories by it.
//! * Access and change time are the time of modification: the others are not recorded.
//! * Blocks leave out holes.

use plakar_engine::meta::{Kind, Timestamp};
use plakar_engine::tree::{Contents, Detail, Entry};

use crate::config::{FsConfig, Owner};

/// The preferred size of a read.
pub const BLOCK_SIZE: u32 = 128 << 10;

/// Attributes of one inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Its number.
    pub ino: u64,
    /// What it is; never `Missing`.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of it, at least 1.
    pub links: u32,
    /// Length in bytes.
    pub size: u64,
    /// 512-byte blocks that hold data.
    pub blocks: u64,
    /// Device number: major, minor.
    pub rdev: (u32, u32),
    /// Time of the last modification.
    pub mtime: Timestamp,
    /// Whether the attributes may change: true of the directories of views, never below a snapshot.
    pub volatile: bool,
}

/// Maps recorded owners and permissions to those shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owners {
    rule: Owner,
    uid: Option<u32>,
    gid: Option<u32>,
    umask: u32,
    /// Who mounts.
    pub(crate) mounter: (u32, u32),
}

impl Owners {
    pub(crate) fn new(config: &FsConfig) -> Self {
        let mounter = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { rule: config.owner, uid: config.uid, gid: config.gid, umask: config.umask, mounter }
    }

    fn shown(&self, uid: u32, gid: u32) -> (u32, u32) {
        let (uid, gid) = match self.rule {
            Owner::Recorded => (uid, gid),
            Owner::Mounter => self.mounter,
            Owner::Ids(uid, gid) => (uid, gid),
        };
        (self.uid.unwrap_or(uid), self.gid.unwrap_or(gid))
    }

    /// What is left of permissions. Those of a symlink mean nothing and are always all.
    fn masked(&self, kind: Kind, mode: u32) -> u32 {
        if kind == Kind::Symlink { mode } else { mode & !self.umask }
    }

    /// Attributes of a recorded entry.
    pub(crate) fn attr(&self, ino: u64, entry: &Entry) -> Attr {
        let m = &entry.meta;
        let (uid, gid) = self.shown(m.uid, m.gid);
        let (size, blocks) = match &entry.detail {
            Detail::Regular(contents) => (m.size, blocks(m.size, contents)),
            Detail::Symlink(target) => (target.len() as u64, 0),
            // Some programs take a directory of size 0 for one without entries.
            Detail::Directory { .. } => (4096, 8),
            Detail::Special | Detail::Missing => (0, 0),
        };
        let links = match &entry.detail {
            Detail::Directory { .. } => 1,
            _ => entry.links.map_or(1, |l| l.count.max(1)),
        };
        let mode = self.masked(m.kind, m.mode & 0o7777);
        let (kind, rdev, mtime) = (m.kind, m.rdev, m.mtime);
        Attr { ino, kind, mode, uid, gid, links, size, blocks, rdev, mtime, volatile: false }
    }

    /// Attributes of a directory that is there only as a parent of what was backed up. A mounter who may not enter it
    /// by its recorded mode could not reach his own files: unless he is root, or has said whose everything is, he gets
    /// it.
    pub(crate) fn attr_above(&self, ino: u64, entry: &Entry) -> Attr {
        let mut attr = self.attr(ino, entry);
        if self.mounter.0 != 0 && self.uid.is_none() {
            (attr.uid, attr.gid) = self.mounter;
            attr.mode |= 0o500;
        }
        attr
    }

    /// Attributes of something in a view.
    pub(crate) fn attr_of_view(&self, ino: u64, shape: Shape, mtime: Timestamp) -> Attr {
        let (uid, gid) = self.shown(self.mounter.0, self.mounter.1);
        let (kind, mode, size) = match shape {
            Shape::Folder => (Kind::Directory, 0o555, 4096),
            Shape::Link(len) => (Kind::Symlink, 0o777, len as u64),
            Shape::Text(len) => (Kind::Regular, 0o444, len as u64),
        };
        let volatile = matches!(shape, Shape::Folder);
        Attr {
            ino,
            kind,
            mode: self.masked(kind, mode),
            uid,
            gid,
            links: 1,
            size,
            blocks: size.div_ceil(512),
            rdev: (0, 0),
            mtime,
            volatile,
        }
    }
}

/// What stands in a view, with its length.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    Folder,
    Link(usize),
    Text(usize),
}

/// 512-byte blocks of a file that hold data: without its holes. A file whose contents are missing counts as full, so
/// that nobody takes it for one hole and skips the error.
fn blocks(size: u64, contents: &Contents) -> u64 {
    let bytes = if contents.missing { size } else { contents.data_bytes };
    bytes.div_ceil(512)
}
