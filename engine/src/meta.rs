//! Metadata of one file-system object, as sources give it, trees keep it and destinations take it.

/// What kind of thing an entry is; the numbers are those of `docs/FORMAT.md` §9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// It was listed but could not be examined.
    Missing = 0,
    /// A regular file.
    Regular = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A named pipe.
    Fifo = 4,
    /// A socket's name.
    Socket = 5,
    /// A character device.
    CharDevice = 6,
    /// A block device.
    BlockDevice = 7,
}

/// A time: seconds since 1970 (negative before) and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds, below 10⁹.
    pub nsec: u32,
}

/// One extended attribute; POSIX ACLs are `system.posix_acl_access` and `system.posix_acl_default`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// The full name with its namespace.
    pub name: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// What `stat` says and a backup keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The kind of thing.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky: at most 0o7777.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Time of the last modification.
    pub mtime: Timestamp,
    /// Length in bytes of a regular file, else 0.
    pub size: u64,
    /// Device number (major, minor) of a device node, else zeros.
    pub rdev: (u32, u32),
}

impl Metadata {
    /// A directory with the given permission bits, owned by root, with the time 0.
    pub fn directory(mode: u32) -> Self {
        Self {
            kind: Kind::Directory,
            mode,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            size: 0,
            rdev: (0, 0),
        }
    }
}
