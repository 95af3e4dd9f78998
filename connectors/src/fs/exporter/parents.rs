//! The open directories of a destination.
//!
//! A directory is opened one name at a time from the nearest one above it that is open, and a symlink in its place is
//! refused: no path leads out of the destination, whoever else writes there, and none is too long. The last ones used
//! stay open, so that neighbours cost one look into a table.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use plakar_engine::exporter::ExportError;
use plakar_engine::meta::Metadata;
use rustix::fs::{Mode, OFlags, Stat, lgetxattr_query, openat};
use rustix::io::retry_on_intr;

use super::failed;
use crate::fs::stat;
use crate::fs::xattr::{ACL_DEFAULT, path_in};

/// How many directories stay open: more than threads restore at once, few enough to search for the oldest one.
const OPEN: usize = 128;

/// An open directory that things are made in.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) fd: OwnedFd,
    /// New things get ACLs from it, which were never theirs.
    pub(super) gives_acl: bool,
    /// It was made for this restore: whatever is in it was put there since.
    pub(super) is_ours: bool,
    /// What files that were made in it had from the start.
    births: Mutex<Vec<Birth>>,
}

/// What a new file is like before anything is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Birth {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Permissions, and those that were asked for.
    pub(super) mode: u32,
    asked: u32,
}

/// How to make a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beginning {
    /// Permissions to ask for.
    pub(super) mode: u32,
    /// What will come of that, where it is known.
    pub(super) birth: Option<Birth>,
}

impl Parent {
    fn new(fd: OwnedFd, is_ours: bool, gives_acl: bool) -> Self {
        Self { fd, gives_acl, is_ours, births: Mutex::default() }
    }

    /// One that stood there before, which may give ACLs.
    fn found(fd: OwnedFd) -> Self {
        let gives_acl = lgetxattr_query(path_in(fd.as_fd(), b"."), ACL_DEFAULT).is_ok();
        Self::new(fd, false, gives_acl)
    }

    /// One in another one, made there if it is ours: then it has what that gives.
    fn within(&self, fd: OwnedFd, is_ours: bool) -> Self {
        if is_ours { Self::new(fd, true, self.gives_acl) } else { Self::found(fd) }
    }

    /// How to make a file that will be set to what was recorded. Nobody but its owner may ever open it: it begins as
    /// nobody else's unless it is known to belong to its owner from the start, and its permissions say all.
    ///
    /// Only for a directory of our own is it known, from the files made there before: nobody changes its owner or its
    /// set-gid bit meanwhile.
    pub(super) fn beginning(&self, meta: &Metadata, permissions_say_all: bool) -> Beginning {
        const HIDDEN: u32 = 0o600;
        let births = self.births();
        let is_owners = births.iter().any(|b| (b.uid, b.gid) == (meta.uid, meta.gid));
        let plain = permissions_say_all && meta.mode & !0o777 == 0;
        let mode = if is_owners && plain { meta.mode } else { HIDDEN };
        Beginning { mode, birth: births.iter().find(|b| b.asked == mode).copied() }
    }

    /// Remembers what became of a beginning.
    pub(super) fn learn(&self, asked: u32, found: &Stat) {
        if !self.is_ours || self.gives_acl {
            return;
        }
        let birth = Birth { uid: found.st_uid, gid: found.st_gid, mode: stat::permissions(found), asked };
        let mut births = self.births();
        if !births.iter().any(|b| b.asked == asked) {
            births.push(birth);
        }
    }

    fn births(&self) -> std::sync::MutexGuard<'_, Vec<Birth>> {
        self.births.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Parents {
    root: Arc<Parent>,
    open: Mutex<Open>,
    /// Paths of directories that were made for this restore and are not finished.
    ours: Mutex<HashSet<Vec<u8>>>,
}

#[derive(Debug, Default)]
struct Open {
    /// By path, with the time of last use.
    directories: HashMap<Vec<u8>, (Arc<Parent>, u64)>,
    clock: u64,
}

impl Open {
    fn find(&mut self, path: &[u8]) -> Option<Arc<Parent>> {
        let (parent, used) = self.directories.get_mut(path)?;
        self.clock += 1;
        *used = self.clock;
        Some(parent.clone())
    }

    fn insert(&mut self, path: &[u8], parent: Arc<Parent>) {
        if self.directories.len() >= OPEN {
            let oldest = self.directories.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(path) = oldest.map(|(path, _)| path.clone()) {
                self.directories.remove(&path);
            }
        }
        self.clock += 1;
        self.directories.insert(path.to_vec(), (parent, self.clock));
    }
}

impl Parents {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root: Arc::new(Parent::found(root)), open: Mutex::default(), ours: Mutex::default() }
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root.fd
    }

    /// The directory that holds a path, and the path's last name.
    pub(super) fn of<'p>(&self, path: &'p [u8]) -> Result<(Arc<Parent>, &'p [u8]), ExportError> {
        let (directory, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(0) => return Err(invalid()),
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        check_name(name)?;
        Ok((self.directory(directory)?, name))
    }

    /// Notes that a directory was just made.
    pub(super) fn made(&self, path: &[u8]) {
        self.ours().insert(path.to_vec());
    }

    /// Closes a directory that nothing more is made in; whether it was made for this restore.
    pub(super) fn forget(&self, path: &[u8]) -> bool {
        self.lock().directories.remove(path);
        self.ours().remove(path)
    }

    fn directory(&self, path: &[u8]) -> Result<Arc<Parent>, ExportError> {
        let (mut parent, mut done) = self.nearest(path);
        while done < path.len() {
            let start = if done == 0 { 0 } else { done + 1 };
            let length = path[start..].iter().position(|b| *b == b'/').unwrap_or(path.len() - start);
            let name = &path[start..start + length];
            check_name(name)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = retry_on_intr(|| openat(&parent.fd, name, flags, Mode::empty()))
                .map_err(|e| failed("open the directory above", e))?;
            done = start + length;
            let is_ours = self.ours().contains(&path[..done]);
            parent = Arc::new(parent.within(fd, is_ours));
            self.lock().insert(&path[..done], parent.clone());
        }
        Ok(parent)
    }

    /// The open directory that is nearest above a path or is it, and how much of the path that is.
    fn nearest(&self, path: &[u8]) -> (Arc<Parent>, usize) {
        let mut open = self.lock();
        let mut end = path.len();
        while end > 0 {
            if let Some(parent) = open.find(&path[..end]) {
                return (parent, end);
            }
            end = path[..end].iter().rposition(|b| *b == b'/').unwrap_or(0);
        }
        (self.root.clone(), 0)
    }

    fn ours(&self) -> std::sync::MutexGuard<'_, HashSet<Vec<u8>>> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Callers promise valid paths; that none leads out of the destination does not rest on it.
fn check_name(name: &[u8]) -> Result<(), ExportError> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&0) {
        return Err(invalid());
    }
    Ok(())
}

fn invalid() -> ExportError {
    ExportError::new("not a valid path")
}
