//! The open directories of a destination.
//!
//! A directory is opened one name at a time from the nearest one above it that is open, and a symlink in its place is
//! refused: no path leads out of the destination, whoever else writes there, and none is too long. The last ones used
//! stay open, so that neighbours cost one look into a table.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use plakar_engine::exporter::ExportError;
use rustix::fs::{Mode, OFlags, lgetxattr_query, openat};
use rustix::io::retry_on_intr;

use super::failed;
use crate::fs::xattr::{ACL_DEFAULT, path_in};

/// How many directories stay open: more than threads restore at once, few enough to search for the oldest one.
const OPEN: usize = 128;

/// An open directory that things are made in.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) fd: OwnedFd,
    /// New things get ACLs from it, which were never theirs.
    pub(super) gives_acl: bool,
}

impl Parent {
    fn new(fd: OwnedFd) -> Self {
        let gives_acl = lgetxattr_query(path_in(fd.as_fd(), b"."), ACL_DEFAULT).is_ok();
        Self { fd, gives_acl }
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Parents {
    root: Arc<Parent>,
    open: Mutex<Open>,
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
        Self { root: Arc::new(Parent::new(root)), open: Mutex::default() }
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

    /// Closes a directory that nothing more is made in.
    pub(super) fn forget(&self, path: &[u8]) {
        self.lock().directories.remove(path);
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
            parent = Arc::new(Parent::new(fd));
            done = start + length;
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
