//! An open directory of a source.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use plakar_engine::importer::{
    ImportError, LeftOut, ListedName, Listing, SourceDirectory, SourceEntry, SourceFile, Stamp,
};
use plakar_engine::meta::{InodeFlags, Kind, Xattr};
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, SeekFrom, fstat, makedev, openat, readlinkat, seek, statx};
use rustix::io::{Errno, retry_on_intr};
use rustix::path::Arg;

use super::Source;
use super::file::FsFile;
use super::mounts::Mount;
use super::volume::Volume;
use crate::fs::xattr::{Subject, path_in};
use crate::fs::{flags, stat};

/// Room for the names of one reading call: some thousand at a time.
const NAMES_BUFFER: usize = 128 << 10;

thread_local! {
    /// The room itself: fresh memory of that size costs more than reading a small directory.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A failed call in words; `what` is the operation.
pub(super) fn failed(what: &str, e: Errno) -> ImportError {
    ImportError::io(what, &io::Error::from(e))
}

/// Opens for reading, never through a symlink, and leaves the access time alone where that is allowed: only the
/// owner and root may ask for it.
pub(super) fn open(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, ImportError> {
    try_open(directory, name, flags).map_err(|e| failed("open", e))
}

fn try_open(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let attempt = |flags| retry_on_intr(|| openat(directory, name, flags, Mode::empty()));
    match attempt(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => attempt(flags),
        opened => opened,
    }
}

/// Looks at a name, not at what a symlink points to. The entry has no name yet, and what its stamp says of the file
/// system is not known.
pub(super) fn examine(directory: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<SourceEntry, ImportError> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = retry_on_intr(|| statx(directory, name, flags, stat::WANTED));
    let stat = stat.map_err(|e| failed("stat", e))?;
    let meta = stat::metadata(&stat).ok_or_else(|| ImportError::new("of an unknown kind"))?;
    let target = match meta.kind {
        Kind::Symlink => {
            // One call when the size is right; the buffer grows for those file systems where it is not.
            let room = || Vec::with_capacity(stat.stx_size as usize + 1);
            let target = retry_on_intr(|| readlinkat(directory, name, room()));
            Some(target.map_err(|e| failed("read link", e))?.into_bytes())
        }
        _ => None,
    };
    Ok(SourceEntry {
        name: Vec::new(),
        stamp: Stamp { ctime_ns: stat::ctime_ns(&stat), inode: stat.stx_ino, volume: 0 },
        file: (makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
        links: stat.stx_nlink.into(),
        sparse: meta.kind == Kind::Regular && stat.stx_blocks.saturating_mul(512) < meta.size,
        target,
        left_out: None,
        meta,
    })
}

/// One open directory.
pub(super) struct FsDirectory {
    fd: OwnedFd,
    device: u64,
    volume: Volume,
    /// What it stands on, asked for only where it matters.
    mount: Option<Mount>,
    source: Arc<Source>,
    /// Held while the names are read: the handle has one position.
    listing: Mutex<()>,
}

impl FsDirectory {
    pub(super) fn open(
        above: BorrowedFd<'_>,
        name: &[u8],
        source: &Arc<Source>,
    ) -> Result<Self, ImportError> {
        let fd = open(above, name, OFlags::DIRECTORY)?;
        let stat = |e| failed("stat", e);
        let device = fstat(&fd).map_err(stat)?.st_dev;
        let mount = match source.options.one_file_system {
            true => Some(Mount::of(fd.as_fd(), c"").map_err(stat)?),
            false => None,
        };
        let volume = source.volumes.of(device, Some(fd.as_fd()));
        Ok(Self { fd, device, volume, mount, source: source.clone(), listing: Mutex::new(()) })
    }

    /// The names, in the order of bytes.
    fn names(&self) -> Result<Names, Errno> {
        let _guard = self.listing.lock();
        seek(&self.fd, SeekFrom::Start(0))?;
        BUFFER.with_borrow_mut(|buffer| {
            buffer.reserve(NAMES_BUFFER);
            let mut entries = RawDir::new(&self.fd, buffer.spare_capacity_mut());
            let mut names = Names::default();
            while let Some(entry) = entries.next() {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.push(entry.ino(), name);
                }
            }
            names.sort();
            Ok(names)
        })
    }

    fn look_at(&self, name: &[u8]) -> Result<SourceEntry, ImportError> {
        let mut entry = examine(self.fd.as_fd(), name)?;
        entry.name.extend_from_slice(name);
        let device = entry.file.0;
        if entry.meta.kind == Kind::Directory {
            entry.left_out = self.left_out(name, device)?;
        }
        let volume = match device == self.device {
            true => self.volume,
            false => self.source.volumes.of(device, None),
        };
        volume.complete(&mut entry.stamp);
        Ok(entry)
    }

    /// Why what is in a directory of this one is no part of the source.
    fn left_out(&self, name: &[u8], device: u64) -> Result<Option<LeftOut>, ImportError> {
        if device != self.device && self.source.own_mounts.has(device) {
            return Ok(Some(LeftOut::OwnMount));
        }
        let Some(own) = &self.mount else { return Ok(None) };
        let there = Mount::of(self.fd.as_fd(), name).map_err(|e| failed("stat", e))?;
        let is_other = there != *own && !self.source.mounts.contains(&there);
        Ok(is_other.then_some(LeftOut::OtherFileSystem))
    }

    fn attributes(&self, subject: Subject<'_>) -> Result<Vec<Xattr>, ImportError> {
        subject.read().map_err(|e| match e {
            // Not the file is missing but the only way to name it.
            Errno::NOENT if !Path::new("/proc/self/fd").exists() => {
                ImportError::new("extended attributes: /proc is not mounted")
            }
            e => failed("extended attributes", e),
        })
    }
}

impl SourceDirectory for FsDirectory {
    fn list(self: Arc<Self>) -> Result<Box<dyn Listing>, ImportError> {
        let names = self.names().map_err(|e| failed("list", e))?;
        Ok(Box::new(FsListing { directory: self, names, next: 0 }))
    }

    fn open_directory(&self, name: &[u8]) -> Result<Arc<dyn SourceDirectory>, ImportError> {
        Ok(Arc::new(Self::open(self.fd.as_fd(), name, &self.source)?))
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn SourceFile>, ImportError> {
        Ok(Box::new(FsFile::open(self.fd.as_fd(), name)?))
    }

    fn xattrs(&self, name: &[u8]) -> Result<Vec<Xattr>, ImportError> {
        if !self.source.options.xattrs {
            return Ok(Vec::new());
        }
        self.attributes(Subject::At(&path_in(self.fd.as_fd(), name)))
    }

    fn own_xattrs(&self) -> Result<Vec<Xattr>, ImportError> {
        if !self.source.options.xattrs {
            return Ok(Vec::new());
        }
        self.attributes(Subject::Open(self.fd.as_fd()))
    }

    fn flags(&self, name: &[u8]) -> Result<Option<InodeFlags>, ImportError> {
        match try_open(self.fd.as_fd(), name, OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(file) => flags::read(&file).map(Some).map_err(|e| failed("inode flags", e)),
            Err(Errno::ACCESS) => Ok(None),
            Err(e) => Err(failed("open", e)),
        }
    }

    fn own_flags(&self) -> Result<InodeFlags, ImportError> {
        flags::read(&self.fd).map_err(|e| failed("inode flags", e))
    }
}

/// The names of a directory, all in one piece of memory: there may be millions.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    all: Vec<Name>,
}

struct Name {
    inode: u64,
    start: usize,
    length: u16,
}

impl Names {
    fn push(&mut self, inode: u64, name: &[u8]) {
        let (start, length) = (self.bytes.len(), name.len() as u16);
        self.bytes.extend_from_slice(name);
        self.all.push(Name { inode, start, length });
    }

    fn bytes_of(&self, name: &Name) -> &[u8] {
        &self.bytes[name.start..name.start + usize::from(name.length)]
    }

    fn sort(&mut self) {
        let mut all = std::mem::take(&mut self.all);
        all.sort_unstable_by(|a, b| self.bytes_of(a).cmp(self.bytes_of(b)));
        self.all = all;
    }
}

/// A listing: all names, of which some are examined at a time.
struct FsListing {
    directory: Arc<FsDirectory>,
    names: Names,
    next: usize,
}

impl Listing for FsListing {
    fn more(&mut self, most: usize) -> Result<Vec<ListedName>, ImportError> {
        let end = self.next.saturating_add(most).min(self.names.all.len());
        let some = &self.names.all[self.next..end];
        self.next = end;
        // Inodes lie on disk in the order of their numbers: examining them so is several times faster from a cold
        // hard disk than in the order of names.
        let mut order: Vec<usize> = (0..some.len()).collect();
        order.sort_unstable_by_key(|i| some[*i].inode);
        let mut entries: Vec<Option<ListedName>> = some.iter().map(|_| None).collect();
        for i in order {
            let name = self.names.bytes_of(&some[i]);
            entries[i] = Some((name.to_vec(), self.directory.look_at(name)));
        }
        // All are there. So they stay where they are in memory.
        Ok(entries.into_iter().map_while(|e| e).collect())
    }
}
