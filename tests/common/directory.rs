//! An open directory, and everything done relative to it: names are bytes and paths have no limit.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory(OwnedFd);

/// The entry at a name in a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    directory: &'a Directory,
    name: &'a [u8],
}

const LISTABLE: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Directory {
    pub(crate) fn open(path: &Path) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self(fs::openat(CWD, path, flags, Mode::empty()).unwrap_or_else(|e| fail(path, e)))
    }

    /// A directory in it.
    pub(crate) fn enter(&self, name: &[u8]) -> Result<Self> {
        fs::openat(&self.0, name, LISTABLE, Mode::empty()).map(Self)
    }

    /// Makes a directory in it, and opens that.
    pub(crate) fn make(&self, name: impl AsRef<[u8]>) -> Self {
        fs::mkdirat(&self.0, name.as_ref(), Mode::from(0o755)).unwrap();
        self.enter(name.as_ref()).unwrap()
    }

    /// The entry at a name, which may be `.`.
    pub(crate) fn at<'a>(&'a self, name: &'a (impl AsRef<[u8]> + ?Sized)) -> At<'a> {
        At { directory: self, name: name.as_ref() }
    }

    /// All names but `.` and `..`, sorted.
    pub(crate) fn names(&self) -> Vec<Vec<u8>> {
        let entries = fs::Dir::read_from(&self.0).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().to_bytes().to_vec());
        let mut names: Vec<_> = names.filter(|n| n != b"." && n != b"..").collect();
        names.sort_unstable();
        names
    }

    /// A short path by which other programs that this process starts, and those of the same user, reach it.
    pub(crate) fn short_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<'a> At<'a> {
    /// Makes a regular file.
    pub(crate) fn file(self, content: &[u8]) -> Self {
        self.create().write_all(content).unwrap();
        self
    }

    /// Makes an empty regular file, open for writing.
    pub(crate) fn create(self) -> File {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(&self.directory.0, self.name, flags, Mode::from(0o644)).unwrap().into()
    }

    /// Opens a regular file to read.
    pub(crate) fn open(self) -> File {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(&self.directory.0, self.name, flags, Mode::empty()).unwrap().into()
    }

    pub(crate) fn symlink(self, target: &[u8]) -> Self {
        fs::symlinkat(target, &self.directory.0, self.name).unwrap();
        self
    }

    pub(crate) fn node(self, kind: FileType, device: (u32, u32)) -> Self {
        let device = fs::makedev(device.0, device.1);
        fs::mknodat(&self.directory.0, self.name, kind, Mode::from(0o640), device).unwrap();
        self
    }

    /// Gives the entry another name.
    pub(crate) fn link(self, other: Self) -> Self {
        let (from, to) = (&self.directory.0, &other.directory.0);
        fs::linkat(from, self.name, to, other.name, AtFlags::empty()).unwrap();
        self
    }

    pub(crate) fn owner(self, uid: u32, gid: u32) -> Self {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fs::chownat(&self.directory.0, self.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        self
    }

    /// Sets the mode of what is no symlink.
    pub(crate) fn mode(self, mode: u32) -> Self {
        fs::chmodat(&self.directory.0, self.name, Mode::from(mode), AtFlags::empty()).unwrap();
        self
    }

    pub(crate) fn xattr(self, name: &str, value: &[u8]) -> Self {
        self.try_xattr(name, value).unwrap();
        self
    }

    pub(crate) fn try_xattr(self, name: &str, value: &[u8]) -> Result<()> {
        fs::lsetxattr(self.path(), name, value, XattrFlags::empty())
    }

    pub(crate) fn without_xattr(self, name: &str) -> Self {
        fs::lremovexattr(self.path(), name).unwrap();
        self
    }

    /// Sets the modification time.
    pub(crate) fn mtime(self, tv_sec: i64, tv_nsec: i64) -> Self {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec, tv_nsec },
        };
        fs::utimensat(&self.directory.0, self.name, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        self
    }

    pub(crate) fn stat(self) -> Stat {
        let stat = fs::statat(&self.directory.0, self.name, AtFlags::SYMLINK_NOFOLLOW);
        stat.unwrap_or_else(|e| fail(Path::new(&*String::from_utf8_lossy(self.name)), e))
    }

    pub(crate) fn target(self) -> Vec<u8> {
        fs::readlinkat(&self.directory.0, self.name, Vec::new()).unwrap().into_bytes()
    }

    /// Extended attributes, by name; none where there is no such thing.
    pub(crate) fn xattrs(self) -> Vec<(String, Vec<u8>)> {
        let mut room = vec![0; 64 << 10];
        let path = self.path();
        let names = match fs::llistxattr(&path, &mut room[..]) {
            Ok(n) => room[..n].to_vec(),
            Err(Errno::OPNOTSUPP) => Vec::new(),
            Err(e) => fail(Path::new(&*String::from_utf8_lossy(self.name)), e),
        };
        let mut found = Vec::new();
        for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            let n = fs::lgetxattr(&path, name, &mut room[..]).unwrap();
            found.push((String::from_utf8(name.to_vec()).unwrap(), room[..n].to_vec()));
        }
        found.sort_unstable();
        found
    }

    fn path(self) -> Vec<u8> {
        [self.directory.short_path().as_bytes(), b"/", self.name].concat()
    }
}

#[track_caller]
#[expect(clippy::panic, reason = "a test that cannot go on shall fail")]
fn fail(path: &Path, e: Errno) -> ! {
    panic!("{}: {e}", path.display())
}
