//! Extended attributes of open files, and of names that cannot be opened (symlinks, FIFOs, devices).

use std::os::fd::{AsRawFd, BorrowedFd};

use plakar_engine::meta::Xattr;
use rustix::buffer::{SpareCapacity, spare_capacity};
use rustix::fs::{self, XattrFlags};
use rustix::io::{Errno, Result};

/// Where POSIX ACLs are found.
pub(super) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// Where a directory keeps the ACL for what is made in it.
pub(super) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Room for the names or the value that nearly every file does with.
const USUAL: usize = 512;
/// The kernel's own limit for a value and for a list of names.
const LIMIT: usize = 64 << 10;

/// Whose attributes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// What stands at a path, itself and not what it points to.
    At(&'a [u8]),
}

/// The path of a name in an open directory, for calls that know no directory handles. It is short whatever the
/// directory's own path is, and nothing before the name is looked up again.
pub(super) fn path_in(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

impl Subject<'_> {
    /// All attributes, sorted by name; none where the file system has no such thing.
    pub(super) fn read(self) -> Result<Vec<Xattr>> {
        let mut found = Vec::new();
        for name in self.names()?.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            let value = fetch(|room| match self {
                Self::Open(fd) => fs::fgetxattr(fd, name, room),
                Self::At(path) => fs::lgetxattr(path, name, room),
            });
            match value {
                Ok(value) => found.push(Xattr { name: name.to_vec(), value }),
                // Removed since it was listed, or listed by a file system that has no value for it.
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(e) => return Err(e),
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The names, each ended by a NUL.
    pub(super) fn names(self) -> Result<Vec<u8>> {
        let names = fetch(|room| match self {
            Self::Open(fd) => fs::flistxattr(fd, room),
            Self::At(path) => fs::llistxattr(path, room),
        });
        match names {
            Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
            names => names,
        }
    }

    pub(super) fn set(self, name: &[u8], value: &[u8]) -> Result<()> {
        match self {
            Self::Open(fd) => fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::At(path) => fs::lsetxattr(path, name, value, XattrFlags::empty()),
        }
    }

    /// Removes an attribute; one that is not there is removed already.
    pub(super) fn remove(self, name: &[u8]) -> Result<()> {
        let removed = match self {
            Self::Open(fd) => fs::fremovexattr(fd, name),
            Self::At(path) => fs::lremovexattr(path, name),
        };
        match removed {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            removed => removed,
        }
    }
}

/// Makes room until the answer fits.
fn fetch(mut call: impl FnMut(SpareCapacity<'_, u8>) -> Result<usize>) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(USUAL);
    loop {
        match call(spare_capacity(&mut bytes)) {
            Ok(_) => return Ok(bytes),
            Err(Errno::RANGE) if bytes.capacity() < LIMIT => bytes.reserve(bytes.capacity() * 8),
            Err(e) => return Err(e),
        }
    }
}
