//! Sets owner, mode, attributes and times, in the one order that keeps them all.
//!
//! Changing the owner clears set-uid, set-gid and capabilities, so it comes first. `user.` attributes need the write
//! permission that the recorded mode may not have, so they come before the mode. An ACL sets the mode's group bits,
//! so it comes after the mode. Each of these changes times, which come after all of them, and before what forbids to
//! change anything: inode flags.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use plakar_engine::exporter::{Attributes, ExportError};
use plakar_engine::meta::{InodeFlags, Kind, Metadata, Xattr};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chmodat, chownat, fchmod, fchown,
    fstat, futimens, openat, statat, utimensat,
};
use rustix::io::{Errno, Result};

use super::parents::{Beginning, Parent};
use super::{FsExportOptions, failed};
use crate::fs::xattr::{ACL_ACCESS, ACL_DEFAULT, Subject, path_in};
use crate::fs::{flags, stat};

const CAPABILITIES: &[u8] = b"security.capability";
const SET_ID: u32 = 0o6000;

/// What attributes are set on.
pub(super) enum Object<'a> {
    /// A file or directory, open for writing or reading.
    Open {
        fd: BorrowedFd<'a>,
        /// It may have attributes that are not among the recorded ones.
        has_foreign: bool,
    },
    /// A file that was just made.
    NewFile { fd: BorrowedFd<'a>, parent: &'a Parent, beginning: Beginning },
    /// Something that must not be opened.
    Named {
        parent: &'a Parent,
        name: &'a [u8],
        /// Its path by way of the open directory.
        path: Vec<u8>,
        /// A handle that can do nothing but stand for it, of what is no symlink.
        node: Option<OwnedFd>,
    },
}

impl<'a> Object<'a> {
    pub(super) fn open(fd: BorrowedFd<'a>, has_foreign: bool) -> Self {
        Object::Open { fd, has_foreign }
    }

    pub(super) fn new_file(fd: BorrowedFd<'a>, parent: &'a Parent, beginning: Beginning) -> Self {
        Object::NewFile { fd, parent, beginning }
    }

    /// Something that was just made. Fails when it is not what was made any more.
    pub(super) fn named(
        parent: &'a Parent,
        name: &'a [u8],
        kind: Kind,
    ) -> std::result::Result<Self, ExportError> {
        let node = match kind {
            Kind::Symlink => None,
            _ => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let node = openat(&parent.fd, name, flags, Mode::empty()).map_err(|e| failed("open", e))?;
                let found = fstat(&node).map_err(|e| failed("stat", e))?;
                if stat::kind(&found) != Some(kind) {
                    return Err(ExportError::new("replaced while it was restored"));
                }
                Some(node)
            }
        };
        Ok(Object::Named { parent, name, path: path_in(parent.fd.as_fd(), name), node })
    }

    /// Owner, group and permissions as they are.
    fn owner(&self) -> Result<(u32, u32, u32)> {
        let found = match self {
            Object::NewFile { beginning: Beginning { birth: Some(b), .. }, .. } => {
                return Ok((b.uid, b.gid, b.mode));
            }
            Object::NewFile { fd, parent, beginning } => {
                let found = fstat(fd)?;
                parent.learn(beginning.mode, &found);
                found
            }
            Object::Open { fd, .. } => fstat(fd)?,
            Object::Named { parent, name, .. } => statat(&parent.fd, *name, AtFlags::SYMLINK_NOFOLLOW)?,
        };
        Ok((found.st_uid, found.st_gid, stat::permissions(&found)))
    }

    fn chown(&self, uid: Option<Uid>, gid: Option<Gid>) -> Result<()> {
        match self {
            Object::Open { fd, .. } | Object::NewFile { fd, .. } => fchown(fd, uid, gid),
            Object::Named { parent, name, .. } => {
                chownat(&parent.fd, *name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn chmod(&self, mode: Mode) -> Result<()> {
        match self {
            Object::Open { fd, .. } | Object::NewFile { fd, .. } => fchmod(fd, mode),
            // The one call that takes such a handle on every kernel is the one with its path.
            Object::Named { node: Some(node), .. } => {
                let path = format!("/proc/self/fd/{}", node.as_raw_fd());
                chmodat(CWD, path, mode, AtFlags::empty())
            }
            // Linux has no permissions on symlinks.
            Object::Named { node: None, .. } => Ok(()),
        }
    }

    fn set_times(&self, times: &Timestamps) -> Result<()> {
        match self {
            Object::Open { fd, .. } | Object::NewFile { fd, .. } => futimens(fd, times),
            Object::Named { parent, name, .. } => {
                utimensat(&parent.fd, *name, times, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn xattrs(&self) -> Subject<'_> {
        match self {
            Object::Open { fd, .. } | Object::NewFile { fd, .. } => Subject::Open(*fd),
            Object::Named { path, .. } => Subject::At(path),
        }
    }

    fn has_foreign(&self) -> bool {
        match self {
            Object::Open { has_foreign, .. } => *has_foreign,
            Object::NewFile { parent, .. } => parent.gives_acl,
            Object::Named { parent, node, .. } => parent.gives_acl && node.is_some(),
        }
    }
}

/// Sets what the options ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setter {
    options: FsExportOptions,
}

impl Setter {
    pub(super) fn new(options: FsExportOptions) -> Self {
        Self { options }
    }

    /// Sets everything, and returns what could not be set.
    pub(super) fn set(self, object: &Object<'_>, attributes: Attributes<'_>) -> Vec<String> {
        let mut refused = Vec::new();
        let mut note = |what: &str, e: Errno| refused.push(format!("{what}: {}", io::Error::from(e)));
        let meta = attributes.meta;
        if self.options.xattrs && object.has_foreign() {
            self.remove_foreign(object, attributes.xattrs, &mut note);
        }
        let mode = match self.options.permissions {
            true => self.set_owner(object, meta, &mut note),
            false => None,
        };
        self.set_xattrs(object, attributes.xattrs, false, &mut note);
        if let Some(mode) = mode
            && let Err(e) = object.chmod(Mode::from(mode))
        {
            note(&format!("mode {mode:04o}"), e);
        }
        self.set_xattrs(object, attributes.xattrs, true, &mut note);
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: meta.mtime.sec, tv_nsec: meta.mtime.nsec.into() },
        };
        if let Err(e) = object.set_times(&times) {
            note("modification time", e);
        }
        if let Object::Open { fd, .. } | Object::NewFile { fd, .. } = object {
            let project = if self.options.permissions { attributes.flags.project } else { 0 };
            flags::set(fd, InodeFlags { project, ..attributes.flags }, &mut note);
        }
        refused
    }

    /// Sets what forbids every further change; nothing comes after it.
    pub(super) fn lock(self, fd: BorrowedFd<'_>, attributes: Attributes<'_>) -> Vec<String> {
        let mut refused = Vec::new();
        if self.options.permissions {
            let note = |what: &str, e| refused.push(format!("{what}: {}", io::Error::from(e)));
            flags::set_locks(fd, attributes.flags, note);
        }
        refused
    }

    /// Sets the owner where it is another one, and returns the mode to set if that must be done.
    fn set_owner(
        self,
        object: &Object<'_>,
        meta: &Metadata,
        note: &mut impl FnMut(&str, Errno),
    ) -> Option<u32> {
        let (found_uid, found_gid, found_mode) = match object.owner() {
            Ok(found) => found,
            Err(e) => {
                note("owner", e);
                return None;
            }
        };
        let mut mode = meta.mode & 0o7777;
        if (found_uid, found_gid) == (meta.uid, meta.gid) {
            return (found_mode != mode).then_some(mode);
        }
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        if let Err(e) = object.chown(Some(uid), Some(gid)) {
            note(&format!("owner {}:{}", meta.uid, meta.gid), e);
            if found_gid != meta.gid {
                // Those who are not root may still give it to a group of theirs.
                let _ = object.chown(None, Some(gid));
            }
            if meta.kind != Kind::Directory && mode & SET_ID != 0 {
                // Bits that would lend the rights of somebody else than the recorded owner.
                mode &= !SET_ID;
                note(&format!("mode {:04o} without its owner", meta.mode), Errno::PERM);
            }
        }
        Some(mode)
    }

    /// Sets the ACLs, or all other attributes.
    fn set_xattrs(
        self,
        object: &Object<'_>,
        xattrs: &[Xattr],
        acls: bool,
        note: &mut impl FnMut(&str, Errno),
    ) {
        if !self.options.xattrs {
            return;
        }
        for Xattr { name, value } in xattrs {
            if is_acl(name) != acls || (is_permission(name) && !self.options.permissions) {
                continue;
            }
            if let Err(e) = object.xattrs().set(name, value) {
                note(&format!("attribute {}", String::from_utf8_lossy(name)), e);
            }
        }
    }

    /// Removes what an existing directory had, or what a new thing inherited. What the system sets itself, like
    /// security labels, stays.
    fn remove_foreign(self, object: &Object<'_>, recorded: &[Xattr], note: &mut impl FnMut(&str, Errno)) {
        let names = match object.xattrs().names() {
            Ok(names) => names,
            Err(e) => return note("extended attributes", e),
        };
        for name in names.split(|b| *b == 0) {
            let is_ours = name.starts_with(b"user.") || (is_acl(name) && self.options.permissions);
            if is_ours
                && !recorded.iter().any(|x| x.name == name)
                && let Err(e) = object.xattrs().remove(name)
            {
                note(&format!("attribute {}", String::from_utf8_lossy(name)), e);
            }
        }
    }
}

fn is_acl(name: &[u8]) -> bool {
    name == ACL_ACCESS || name == ACL_DEFAULT
}

/// Attributes that say who may do what.
fn is_permission(name: &[u8]) -> bool {
    is_acl(name) || name == CAPABILITIES
}
