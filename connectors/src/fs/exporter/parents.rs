//! The open directories of a destination.
//!
//! A directory is opened one name at a time from the nearest one above it that is open, and a symlink in its place is
//! refused: no path leads out of the destination, whoever else writes there, and none is too long. The last ones used
//! stay open, so that neighbours cost one look into a table.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};
use plakar_engine::exporter::ExportError;
use plakar_engine::meta::Metadata;
use rustix::fs::{Mode, OFlags, Stat, lgetxattr_query, openat};
use rustix::io::retry_on_intr;

use super::failed;
use crate::fs::stat;
use crate::fs::xattr::{ACL_DEFAULT, path_in};

/// How many directories stay open: more than threads restore at once.
const OPEN: NonZeroUsize = NonZeroUsize::new(128).unwrap();

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

    fn births(&self) -> MutexGuard<'_, Vec<Birth>> {
        self.births.lock()
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Parents {
    root: Arc<Parent>,
    open: Mutex<LruCache<Key, Arc<Parent>>>,
    /// Directories that were made for this restore and are not finished.
    ours: Mutex<HashSet<Key>>,
    keys: [RandomState; 2],
}

/// Stands for a path, which may be long where many are: two hashes with secret keys, which nobody can make agree.
type Key = [u64; 2];

impl Parents {
    pub(super) fn new(root: OwnedFd) -> Self {
        let root = Arc::new(Parent::found(root));
        let open = Mutex::new(LruCache::new(OPEN));
        Self { root, open, ours: Mutex::default(), keys: Default::default() }
    }

    /// The directories on the way to a path and itself: where each one's name ends, and its key.
    fn way(&self, path: &[u8]) -> Vec<(usize, Key)> {
        let mut hashers = self.keys.each_ref().map(BuildHasher::build_hasher);
        let mut end = 0;
        let step = |name: &[u8]| {
            for hasher in &mut hashers {
                hasher.write(name);
                hasher.write_u8(b'/');
            }
            end += name.len() + usize::from(end > 0);
            (end, hashers.each_ref().map(Hasher::finish))
        };
        path.split(|b| *b == b'/').map(step).collect()
    }

    fn key(&self, path: &[u8]) -> Key {
        self.way(path).last().map(|(_, key)| *key).unwrap_or_default()
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
        let key = self.key(path);
        self.ours().insert(key);
    }

    /// Closes a directory that nothing more is made in; whether it was made for this restore.
    pub(super) fn forget(&self, path: &[u8]) -> bool {
        let key = self.key(path);
        self.lock().pop(&key);
        self.ours().remove(&key)
    }

    fn directory(&self, path: &[u8]) -> Result<Arc<Parent>, ExportError> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        let way = self.way(path);
        let (mut parent, known) = self.nearest(&way);
        let mut start = if known == 0 { 0 } else { way[known - 1].0 + 1 };
        for (end, key) in &way[known..] {
            let name = &path[start..*end];
            check_name(name)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = retry_on_intr(|| openat(&parent.fd, name, flags, Mode::empty()))
                .map_err(|e| failed("open the directory above", e))?;
            start = end + 1;
            let is_ours = self.ours().contains(key);
            parent = Arc::new(parent.within(fd, is_ours));
            self.lock().put(*key, parent.clone());
        }
        Ok(parent)
    }

    /// The last of the directories on a way that is open, and how many that is.
    fn nearest(&self, way: &[(usize, Key)]) -> (Arc<Parent>, usize) {
        let mut open = self.lock();
        let found = (1..=way.len()).rev().find_map(|n| Some((open.get(&way[n - 1].1)?.clone(), n)));
        found.unwrap_or_else(|| (self.root.clone(), 0))
    }

    fn ours(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.ours.lock()
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Key, Arc<Parent>>> {
        self.open.lock()
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
