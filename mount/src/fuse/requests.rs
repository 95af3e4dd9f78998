//! The kernel's requests, one by one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use plakar_engine::meta::Kind;

use super::convert::{attributes, errno, no_entry};
use super::{
    FOR_EVER, Fuse, MAX_BACKGROUND, MAX_REQUEST, NOT_AT_ALL, flags, lifetime, name_lifetime, send_parts,
    send_xattr,
};
use crate::error::FsError;
use crate::fs::{Holds, Lookup, Seek};

/// Bytes of the longest answer to an ioctl: a page.
const MOST_ANSWERED: u32 = 4096;
/// The longest name that programs are told to use.
const NAME_MAX: u32 = 255;

impl Filesystem for Fuse {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let offered = config.capabilities();
        self.no_open = offered.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.no_opendir = offered.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            // A view's directory whose time has changed is read again.
            | InitFlags::FUSE_AUTO_INVAL_DATA
            | InitFlags::FUSE_MAX_PAGES;
        if self.allow_other && self.fs.shows_xattrs() {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        // An old kernel has some of these only; none is needed to be right.
        let _asked = config.add_capabilities(wanted & offered);
        // The longest read follows from the longest write, though nothing is ever written.
        let _limited = config.set_max_write(MAX_REQUEST);
        let _limited = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        let too_long = name.len() > NAME_MAX as usize;
        let work = async move { fs.lookup(parent.0, &name).await };
        self.answer(work, move |found| match found {
            // A longer name may have been recorded on another system; one that is not there is no name here.
            Ok(Lookup::Missing { .. }) if too_long => reply.error(errno(FsError::NameTooLong)),
            Ok(Lookup::Found { attr, holds }) => {
                reply.entry_with_ttls(
                    &lifetime(&attr),
                    &name_lifetime(holds),
                    &attributes(&attr),
                    Generation(0),
                );
            }
            Ok(Lookup::Missing { holds: Holds::ForEver }) => {
                reply.entry(&FOR_EVER, &no_entry(), Generation(0));
            }
            Ok(Lookup::Missing { .. }) => reply.error(errno(FsError::NotFound)),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        self.fs.forget(ino.0, lookups);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let fs = self.fs.clone();
        self.answer(async move { fs.attributes(ino.0).await }, |attr| match attr {
            // A view's own attributes are asked for each time: its time tells whether its names have changed.
            Ok(attr) if attr.volatile => reply.attr(&NOT_AT_ALL, &attributes(&attr)),
            Ok(attr) => reply.attr(&FOR_EVER, &attributes(&attr)),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let fs = self.fs.clone();
        self.answer(async move { fs.read_link(ino.0).await }, |target| match target {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn open(&self, _request: &Request, _ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(errno(FsError::ReadOnly));
        }
        if self.no_open {
            // Not for this file: the kernel sends no more open and release at all, and keeps contents.
            return reply.error(errno(FsError::Unsupported));
        }
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (fs, pusher) = (self.fs.clone(), self.pusher.clone());
        let after = self.fs.clone();
        self.answer(async move { fs.read(ino.0, offset, size).await }, move |bytes| match bytes {
            Ok(bytes) => {
                send_parts(reply, &bytes);
                if offset == 0 {
                    pusher.after_read(&after, ino.0);
                }
            }
            Err(e) => reply.error(errno(e)),
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        /// The numbers of `lseek`, the same on every system that has them.
        const SEEK_DATA: i32 = 3;
        const SEEK_HOLE: i32 = 4;
        let (Ok(offset), what) = (
            u64::try_from(offset),
            match whence {
                SEEK_DATA => Seek::Data,
                SEEK_HOLE => Seek::Hole,
                _ => return reply.error(errno(FsError::Invalid)),
            },
        ) else {
            return reply.error(errno(FsError::NoData));
        };
        let fs = self.fs.clone();
        self.answer(async move { fs.seek(ino.0, offset, what).await }, |at| match at {
            Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.no_opendir {
            return reply.error(errno(FsError::Unsupported));
        }
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.send_directory(ino, offset, reply);
    }

    // Only with attributes are the files held whose contents may be pushed.
    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.send_directory(ino, offset, reply);
        if offset == 0 {
            self.pusher.after_listing(&self.fs, ino.0);
        }
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u32 = 4096;
        let all = self.fs.statistics();
        // A system of no blocks is left out by df.
        let blocks = all.bytes.div_ceil(u64::from(BLOCK)).max(1);
        reply.statfs(blocks, 0, 0, all.files, 0, BLOCK, NAME_MAX, BLOCK);
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        let work = async move { fs.xattr(ino.0, &name).await };
        self.answer(work, move |value| send_xattr(reply, size, value));
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let fs = self.fs.clone();
        let work = async move {
            let names = fs.xattr_names(ino.0).await?;
            Ok(names.into_iter().flat_map(|name| name.into_iter().chain([0])).collect())
        };
        self.answer(work, move |names| send_xattr(reply, size, names));
    }

    fn ioctl(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        command: u32,
        _input: &[u8],
        answer: u32,
        reply: ReplyIoctl,
    ) {
        // The kernel makes ENOTTY of this, as for every file system that does not know a call.
        if !flags::is_asked_by(command) || answer > MOST_ANSWERED {
            return reply.error(errno(FsError::Unsupported));
        }
        let fs = self.fs.clone();
        self.answer(async move { fs.flags(ino.0).await }, move |found| match found {
            Ok(found) => reply.ioctl(0, &flags::answer(command, found, answer)),
            Err(e) => reply.error(errno(e)),
        });
    }

    // The kernel knows that the mount is read-only and refuses most changes itself. What comes here all the same gets
    // the same answer: "not supported" would be kept for the whole mount.

    fn access(&self, _request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        // Without allow_other only the mounter comes here, who may read all of it; with it the kernel checks modes and
        // never asks. To write it asks for FIFOs and the like alone, which are not part of what is read-only.
        if !mask.contains(AccessFlags::X_OK) {
            return reply.ok();
        }
        let fs = self.fs.clone();
        self.answer(async move { fs.attributes(ino.0).await }, |attr| match attr {
            Ok(attr) if attr.kind == Kind::Regular && attr.mode & 0o111 == 0 => reply.error(Errno::EACCES),
            Ok(_) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn setattr(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn mknod(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn unlink(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn symlink(&self, _: &Request, _: INodeNo, _name: &OsStr, _target: &Path, reply: ReplyEntry) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn rename(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn link(&self, _: &Request, _: INodeNo, _new_parent: INodeNo, _new_name: &OsStr, reply: ReplyEntry) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn setxattr(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn removexattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(FsError::ReadOnly));
    }

    // Not for a file but for the mount: there is nothing to do on close or sync, and the kernel stops asking.

    fn flush(&self, _: &Request, _ino: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _ino: INodeNo, _: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _ino: INodeNo, _: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
}
