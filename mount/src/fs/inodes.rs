//! Inode numbers, and what stands behind those that somebody holds.
//!
//! A number is a keyed hash of (snapshot, path of the directory) with the entry's position in it in the low bits, or a
//! hash of (snapshot, hard-link group and all that its names share): the same in every mount of the store, and never
//! that of a node, which several snapshots share. As positions go up, programs that read a directory's files in the
//! order of their numbers, as `cp` does, read them in the order in which they are stored. The hash has more bits than a
//! number, and they are compared: two inodes never pass for one.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plakar_engine::crypto::Keyring;
use plakar_engine::id::ObjectId;
use plakar_engine::tree::{Detail, Entry};

use super::tree::Dir;
use crate::error::FsError;
use crate::view::{Link, Text};

/// The root's number, given by the kernel's protocol.
pub const ROOT: u64 = 1;
const SHARDS: usize = 16;

/// What an inode is, in full: its number follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    hash: [u8; 32],
    /// The low bits of a number that goes by position.
    low: Option<u16>,
}

impl Identity {
    /// Its number. `attempt` is 0 but after a collision.
    fn number(&self, attempt: u8) -> u64 {
        let at = usize::from(attempt) % 3 * 8;
        let bytes: [u8; 8] = self.hash[at..at + 8].try_into().unwrap_or_default();
        let number = u64::from_le_bytes(bytes);
        let number = self.low.map_or(number, |low| (number & !0xffff) | u64::from(low));
        // The kernel takes 0 for "none" and 1 for the root.
        number.max(ROOT + 1)
    }

    /// Bits that are not in the number.
    fn check(&self) -> u32 {
        let bytes: [u8; 4] = self.hash[24..28].try_into().unwrap_or_default();
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

    fn hash(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }

    /// What the numbers in a snapshot's recorded `/` follow from.
    pub(crate) fn seed_of_snapshot(&self, id: &ObjectId) -> [u8; 32] {
        self.hash(&[b"top", &id.0])
    }

    /// What the numbers in a directory of a snapshot follow from: as it holds its parent's, a hash of the whole path.
    pub(crate) fn seed(&self, parent: &Dir, name: &[u8]) -> [u8; 32] {
        self.hash(&[b"path", &parent.seed, name])
    }

    /// The recorded `/` of a snapshot.
    pub(crate) fn of_snapshot(&self, id: &ObjectId) -> Identity {
        Identity { hash: self.hash(&[b"snapshot", &id.0]), low: None }
    }

    /// Something in a directory of a snapshot, at a position.
    pub(crate) fn of_entry(&self, parent: &Dir, entry: &Entry, position: u32) -> Identity {
        let (Some(links), Detail::Regular(_) | Detail::Symlink(_) | Detail::Special) =
            (&entry.links, &entry.detail)
        else {
            let hash = match position >> 16 {
                0 => parent.seed,
                block => self.hash(&[b"block", &parent.seed, &block.to_le_bytes()]),
            };
            return Identity { hash, low: Some(position as u16) };
        };
        // Names of one file share it only where all else agrees, so all else is hashed.
        let mut shared = Vec::with_capacity(128);
        let nameless = Entry { name: b"-".to_vec(), error: None, ..entry.clone() };
        nameless.encode(&mut shared);
        let hash = self.hash(&[b"links", &parent.tree.seed, &links.group.to_le_bytes(), &shared]);
        Identity { hash, low: None }
    }

    /// A directory of a view.
    pub(crate) fn of_folder(&self, path: &[u8]) -> Identity {
        Identity { hash: self.hash(&[b"folder", path]), low: None }
    }

    /// A link of a view. One that leads elsewhere is another inode, since the kernel keeps targets for ever.
    pub(crate) fn of_link(&self, path: &[u8], link: &Link) -> Identity {
        let time = link.mtime;
        let hash = self.hash(&[b"link", path, &link.to, &time.sec.to_le_bytes(), &time.nsec.to_le_bytes()]);
        Identity { hash, low: None }
    }

    /// A file of a view. With other contents it is another inode, since the kernel keeps those for ever too.
    pub(crate) fn of_text(&self, path: &[u8], text: &Text) -> Identity {
        let time = text.mtime;
        let hash =
            self.hash(&[b"text", path, &text.bytes, &time.sec.to_le_bytes(), &time.nsec.to_le_bytes()]);
        Identity { hash, low: None }
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
    /// A link of the view.
    Link(Arc<Link>),
    /// A file of the view, with what was in it when it was looked up.
    Text(Arc<Text>),
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

    /// The number of an inode, if it is held.
    pub(crate) fn held(&self, identity: &Identity) -> Option<u64> {
        let is_it = |ino: &u64| self.shard(*ino).get(ino).is_some_and(|h| h.check == identity.check());
        (0..=2).map(|attempt| identity.number(attempt)).find(is_it)
    }

    /// How many are held, the root included.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}
