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
    /// Time at which it was made, where the file system knows. Nothing can set it anew.
    pub born: Option<Timestamp>,
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
            born: None,
        }
    }
}

/// What some file systems keep of a file or directory that `stat` does not say, and `lsattr` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InodeFlags {
    /// Bits of `FS_IOC_GETFLAGS` (`linux/fs.h`), of them those in [`InodeFlags::KEPT`].
    pub bits: u32,
    /// Number of the project to whose quota it counts; 0 is none.
    pub project: u32,
}

impl InodeFlags {
    /// It can be neither changed nor given another name.
    pub const IMMUTABLE: u32 = 0x10;
    /// It can only grow.
    pub const APPEND_ONLY: u32 = 0x20;
    /// Bits with chattr(1)'s letter and what they say. The others tell how a file system stores something, which is not
    /// a property of what is stored.
    pub const NAMES: [(u32, char, &str); 15] = [
        (0x4, 'c', "compressed"),
        (0x8, 'S', "synchronous"),
        (Self::IMMUTABLE, 'i', "immutable"),
        (Self::APPEND_ONLY, 'a', "append-only"),
        (0x40, 'd', "no dump"),
        (0x80, 'A', "no access times"),
        (0x400, 'm', "not compressed"),
        (0x4000, 'j', "journalled"),
        (0x8000, 't', "no tail merging"),
        (0x1_0000, 'D', "synchronous directory"),
        (0x2_0000, 'T', "top of a hierarchy"),
        (0x80_0000, 'C', "no copy-on-write"),
        (0x200_0000, 'x', "direct access"),
        (0x2000_0000, 'P', "project inherited"),
        (0x4000_0000, 'F', "case-insensitive"),
    ];
    /// All bits that are recorded.
    pub const KEPT: u32 = {
        let (mut bits, mut i) = (0, 0);
        while i < Self::NAMES.len() {
            bits |= Self::NAMES[i].0;
            i += 1;
        }
        bits
    };

    /// What its bits say.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(bit, ..)| self.bits & bit != 0).map(|(.., name)| name)
    }

    /// The letters of some bits, as chattr(1) takes them.
    pub fn letters(bits: u32) -> String {
        Self::NAMES.into_iter().filter(|(bit, ..)| bits & bit != 0).map(|(_, letter, _)| letter).collect()
    }
}
