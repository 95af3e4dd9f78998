//! Inode numbers, and what stands behind those that somebody holds.
//!
//! A number is a keyed hash of (snapshot, path), or of (snapshot, hard-link group and all that its names share): the
//! same in every mount of the store, and never that of a node, which several snapshots share. The hash has more bits
//! than a number, and they are compared: two inodes never pass for one.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plakar_engine::crypto::Keyring;
use plakar_engine::tree::{Detail, Entry};

use super::tree::Dir;
use crate::error::FsError;

/// The root's number, given by the kernel's protocol.
pub const ROOT: u64 = 1;
const SHARDS: usize = 16;

/// What an inode is, in full: its number follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity([u8; 32]);

impl Identity {
    /// Its number. `attempt` is 0 but after a collision.
    fn number(&self, attempt: u8) -> u64 {
        let at = usize::from(attempt) % 3 * 8;
        let bytes: [u8; 8] = self.0[at..at + 8].try_into().unwrap_or_default();
        // The kernel takes 0 for "none" and 1 for the root.
        u64::from_le_bytes(bytes).max(ROOT + 1)
    }

    /// Bits that are not in the number.
    fn check(&self) -> u32 {
        let bytes: [u8; 4] = self.0[24..28].try_into().unwrap_or_default();
        u32::from_le_bytes(bytes)
    }

    /// The number, as long as no other inode has it.
    pub(crate) fn first_number(&self) -> u64 {
        self.number(0)
    }
}

/// Makes identities.
#[derive(Clone, Debug)]
pub(crate) struct Numbers {
    key: [u8; 32],
}

impl Numbers {
    pub(crate) fn new(keys: &Keyring) -> Self {
        Self { key: keys.local("mount inodes") }
    }

    fn hash(&self, parts: &[&[u8]]) -> Identity {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Identity(*hasher.finalize().as_bytes())
    }

    /// The recorded `/` of a snapshot.
    pub(crate) fn of_snapshot(&self, id: &plakar_engine::id::ObjectId) -> Identity {
        self.hash(&[b"snapshot", &id.0])
    }

    /// Something in a directory of a snapshot. As a directory's identity holds its parent's, this is a hash of the
    /// whole path.
    pub(crate) fn of_entry(&self, parent: &Dir, entry: &Entry) -> Identity {
        let (Some(links), Detail::Regular(_) | Detail::Symlink(_) | Detail::Special) =
            (&entry.links, &entry.detail)
        else {
            return self.hash(&[b"path", &parent.identity.0, &entry.name]);
        };
        // Names of one file share it only where all else agrees, so all else is hashed.
        let mut shared = Vec::with_capacity(128);
        let nameless = Entry { name: b"-".to_vec(), error: None, ..entry.clone() };
        nameless.encode(&mut shared);
        self.hash(&[b"links", &parent.tree.identity.0, &links.group.to_le_bytes(), &shared])
    }

    /// Something in a view; a link that leads elsewhere is another inode, since the kernel keeps targets for ever.
    pub(crate) fn of_view(&self, path: &[u8], target: Option<&[u8]>) -> Identity {
        match target {
            Some(target) => self.hash(&[b"link", path, target]),
            None => self.hash(&[b"folder", path]),
        }
    }
}

/// What stands behind an inode number.
#[derive(Clone, Debug)]
pub(crate) enum Inode {
    /// A directory of a snapshot.
    Directory(Arc<Dir>),
    /// Anything else in a snapshot: the entry at a position of a directory.
    Leaf(Arc<Dir>, u32),
    /// A directory of the view, by path.
    Folder(Arc<[u8]>),
    /// A link of the view: where it leads.
    Link(Arc<[u8]>),
}

/// One row: kept small, since there is one for every name that the kernel remembers.
#[derive(Debug)]
struct Held {
    inode: Inode,
    check: u32,
    lookups: u32,
}

/// The inodes that the kernel holds, with how often it was given each.
#[derive(Debug)]
pub(crate) struct Inodes {
    shards: [Mutex<HashMap<u64, Held>>; SHARDS],
}

impl Inodes {
    /// With the root, which is never forgotten.
    pub(crate) fn new(root: Inode) -> Self {
        let inodes = Self { shards: std::array::from_fn(|_| Mutex::default()) };
        inodes.shard(ROOT).insert(ROOT, Held { inode: root, check: 0, lookups: 1 });
        inodes
    }

    fn shard(&self, ino: u64) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.shards[ino as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a number stands for.
    pub(crate) fn inode(&self, ino: u64) -> Result<Inode, FsError> {
        self.shard(ino).get(&ino).map(|h| h.inode.clone()).ok_or(FsError::Stale)
    }

    /// Counts one more lookup of an inode, and gives its number.
    pub(crate) fn hold(&self, identity: &Identity, inode: impl FnOnce() -> Inode) -> u64 {
        let mut attempt = 0;
        loop {
            let ino = identity.number(attempt);
            let mut shard = self.shard(ino);
            match shard.entry(ino) {
                Place::Vacant(place) => {
                    place.insert(Held { inode: inode(), check: identity.check(), lookups: 1 });
                    return ino;
                }
                Place::Occupied(mut place) if place.get().check == identity.check() => {
                    let held = place.get_mut();
                    held.lookups = held.lookups.saturating_add(1);
                    return ino;
                }
                Place::Occupied(_) if attempt < 2 => {
                    tracing::warn!(ino, "two files have the same inode number; one gets another");
                    attempt += 1;
                }
                // Three collisions in a row of 64 bits each do not happen; the first inode wins.
                Place::Occupied(_) => return ino,
            }
        }
    }

    /// Takes back lookups; the last one frees the number.
    pub(crate) fn forget(&self, ino: u64, lookups: u64) {
        if ino == ROOT {
            return;
        }
        let mut shard = self.shard(ino);
        if let Place::Occupied(mut place) = shard.entry(ino) {
            let held = place.get_mut();
            // A count that has reached its limit is no count any more.
            if held.lookups == u32::MAX {
                return;
            }
            held.lookups = held.lookups.saturating_sub(u32::try_from(lookups).unwrap_or(u32::MAX));
            if held.lookups == 0 {
                place.remove();
            }
        }
    }

    /// How many are held, the root included.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}
