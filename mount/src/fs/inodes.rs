//! Inode numbers, and what stands behind those that somebody holds.
//!
//! A number is a keyed hash of (snapshot, path of the directory) with the entry's position in it in the low bits, or a
//! hash of (snapshot, hard-link group and all that its names share): the same in every mount of the store, and never
//! that of a node, which several snapshots share. Positions go up, and directories have higher numbers than what stands
//! beside them: so programs that go through a directory in the order of numbers, as `cp` does, read files in the order
//! in which they are stored. The hash has more bits than a number, and they are compared: two inodes never pass for one.

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
    kind: Numbering,
}

/// How a number follows from the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbering {
    /// It is the hash.
    Own,
    /// A directory at a position: above all others.
    Directory(u16),
    /// Anything else at a position.
    Leaf(u16),
}

/// What directories' numbers have and those of what stands beside them have not.
const HIGH: u64 = 1 << 63;

impl Identity {
    /// Its number. `attempt` is 0 but after a collision.
    fn number(&self, attempt: u8) -> u64 {
        let at = usize::from(attempt) % 3 * 8;
        let bytes: [u8; 8] = self.hash[at..at + 8].try_into().unwrap_or_default();
        let hash = u64::from_le_bytes(bytes);
        let number = match self.kind {
            Numbering::Own => hash,
            Numbering::Directory(low) => hash & !0xffff | u64::from(low) | HIGH,
            Numbering::Leaf(low) => hash & !(0xffff | HIGH) | u64::from(low),
        };
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
        Identity { hash: self.hash(&[b"snapshot", &id.0]), kind: Numbering::Own }
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
            let low = position as u16;
            let kind = match entry.directory() {
                Some(_) => Numbering::Directory(low),
                None => Numbering::Leaf(low),
            };
            return Identity { hash, kind };
        };
        // Names of one file share it only where all else agrees, so all else is hashed.
        let mut shared = Vec::with_capacity(128);
        let nameless = Entry { name: b"-".to_vec(), error: None, ..entry.clone() };
        nameless.encode(&mut shared);
        let hash = self.hash(&[b"links", &parent.tree.seed, &links.group.to_le_bytes(), &shared]);
        Identity { hash, kind: Numbering::Own }
    }

    /// A directory of a view.
    pub(crate) fn of_folder(&self, path: &[u8]) -> Identity {
        Identity { hash: self.hash(&[b"folder", path]), kind: Numbering::Own }
    }

    /// A link of a view. One that leads elsewhere is another inode, since the kernel keeps targets for ever.
    pub(crate) fn of_link(&self, path: &[u8], link: &Link) -> Identity {
        let time = link.mtime;
        let hash = self.hash(&[b"link", path, &link.to, &time.sec.to_le_bytes(), &time.nsec.to_le_bytes()]);
        Identity { hash, kind: Numbering::Own }
    }

    /// A file of a view. With other contents it is another inode, since the kernel keeps those for ever too.
    pub(crate) fn of_text(&self, path: &[u8], text: &Text) -> Identity {
        let time = text.mtime;
        let hash =
            self.hash(&[b"text", path, &text.bytes, &time.sec.to_le_bytes(), &time.nsec.to_le_bytes()]);
        Identity { hash, kind: Numbering::Own }
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

/// An inode that has a row of its own.
#[derive(Debug)]
struct Held {
    inode: Inode,
    check: u32,
    lookups: u64,
}

/// The files of one directory, or of 65,536 entries of it: a million files need a row for each directory, not for
/// each file.
#[derive(Debug)]
struct Block {
    dir: Arc<Dir>,
    /// Position of its first entry.
    start: u32,
    check: u32,
    lookups: u64,
}

#[derive(Debug, Default)]
struct Shard {
    rows: HashMap<u64, Held>,
    /// By the number without its low bits.
    blocks: HashMap<u64, Block>,
}

impl Shard {
    /// Whether a number is free for an inode, or already its own.
    fn fits(&self, ino: u64, identity: &Identity) -> bool {
        let own_row = self.rows.get(&ino).is_none_or(|h| h.check == identity.check());
        let own_block = match self.blocks.get(&(ino >> 16)) {
            Some(block) => matches!(identity.kind, Numbering::Leaf(_)) && block.check == identity.check(),
            None => true,
        };
        own_row && own_block
    }

    fn forget(&mut self, ino: u64, lookups: u64) {
        if let Place::Occupied(mut row) = self.rows.entry(ino) {
            let held = row.get_mut();
            held.lookups = held.lookups.saturating_sub(lookups);
            if held.lookups == 0 {
                row.remove();
            }
        } else if let Place::Occupied(mut place) = self.blocks.entry(ino >> 16) {
            let block = place.get_mut();
            block.lookups = block.lookups.saturating_sub(lookups);
            if block.lookups == 0 {
                place.remove();
            }
        }
    }
}

/// The inodes that the kernel holds, with how often it was given them.
#[derive(Debug)]
pub(crate) struct Inodes {
    shards: [Mutex<Shard>; SHARDS],
}

impl Inodes {
    /// With the root, which is never forgotten.
    pub(crate) fn new(root: Inode) -> Self {
        let inodes = Self { shards: std::array::from_fn(|_| Mutex::default()) };
        inodes.shard(ROOT).rows.insert(ROOT, Held { inode: root, check: 0, lookups: 1 });
        inodes
    }

    fn shard(&self, ino: u64) -> MutexGuard<'_, Shard> {
        self.shards[(ino >> 16) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a number stands for.
    pub(crate) fn inode(&self, ino: u64) -> Result<Inode, FsError> {
        let shard = self.shard(ino);
        if let Some(held) = shard.rows.get(&ino) {
            return Ok(held.inode.clone());
        }
        let block = shard.blocks.get(&(ino >> 16)).ok_or(FsError::Stale)?;
        Ok(Inode::Leaf(block.dir.clone(), block.start + u32::from(ino as u16)))
    }

    /// The number for an inode, with its shard: one that no other inode has.
    fn number(&self, identity: &Identity) -> (u64, MutexGuard<'_, Shard>) {
        let mut attempt = 0;
        loop {
            let ino = identity.number(attempt);
            let shard = self.shard(ino);
            // Three collisions in a row do not happen; the first inode wins.
            if attempt == 2 || shard.fits(ino, identity) {
                return (ino, shard);
            }
            tracing::warn!(ino, "two files have the same inode number; one gets another");
            attempt += 1;
        }
    }

    /// Counts one more lookup of an inode that has a row of its own, and gives its number.
    pub(crate) fn hold(&self, identity: &Identity, inode: impl FnOnce() -> Inode) -> u64 {
        let (ino, mut shard) = self.number(identity);
        let new = || Held { inode: inode(), check: identity.check(), lookups: 0 };
        shard.rows.entry(ino).or_insert_with(new).lookups += 1;
        ino
    }

    /// Counts one more lookup of what stands at a position of a directory of a snapshot and is no directory.
    pub(crate) fn hold_leaf(&self, identity: &Identity, dir: &Arc<Dir>, position: u32) -> u64 {
        let Numbering::Leaf(low) = identity.kind else {
            // A name of a file that has several: the file has a number of its own.
            return self.hold(identity, || Inode::Leaf(dir.clone(), position));
        };
        let (ino, mut shard) = self.number(identity);
        let (start, check) = (position - u32::from(low), identity.check());
        let new = || Block { dir: dir.clone(), start, check, lookups: 0 };
        shard.blocks.entry(ino >> 16).or_insert_with(new).lookups += 1;
        ino
    }

    /// Takes back lookups; the last one frees the number.
    pub(crate) fn forget(&self, ino: u64, lookups: u64) {
        if ino != ROOT {
            self.shard(ino).forget(ino, lookups);
        }
    }

    /// The number of an inode, if it is held, or may be since others of its directory are.
    pub(crate) fn held(&self, identity: &Identity) -> Option<u64> {
        let is_it = |ino: &u64| {
            let (shard, check) = (self.shard(*ino), identity.check());
            match identity.kind {
                Numbering::Leaf(_) => shard.blocks.get(&(ino >> 16)).is_some_and(|b| b.check == check),
                _ => shard.rows.get(ino).is_some_and(|h| h.check == check),
            }
        };
        (0..=2).map(|attempt| identity.number(attempt)).find(is_it)
    }

    /// How many rows there are: one for the root, each directory, link and linked file that is held, and one for the
    /// other files of each directory.
    pub(crate) fn len(&self) -> usize {
        let rows = |s: &Mutex<Shard>| {
            let shard = s.lock().unwrap_or_else(PoisonError::into_inner);
            shard.rows.len() + shard.blocks.len()
        };
        self.shards.iter().map(rows).sum()
    }
}

#[cfg(test)]
mod tests {
    use plakar_engine::snapshot::Snapshot;

    use super::*;

    fn numbers() -> Numbers {
        Numbers { key: [7; 32] }
    }

    fn top(id: u8) -> Arc<Dir> {
        let snapshot = Snapshot { id: ObjectId([id; 32]), ..Snapshot::empty() };
        Dir::top(Arc::new(snapshot), &numbers())
    }

    fn identity(first: u8, check: u8, kind: Numbering) -> Identity {
        let mut hash = [first; 32];
        hash[8..24].copy_from_slice(&[check; 16]);
        hash[24..].copy_from_slice(&[check; 8]);
        Identity { hash, kind }
    }

    fn leaf(first: u8, check: u8, low: u16) -> Identity {
        identity(first, check, Numbering::Leaf(low))
    }

    fn position(inode: &Inode) -> Option<u32> {
        match inode {
            Inode::Leaf(_, position) => Some(*position),
            _ => None,
        }
    }

    #[test]
    fn files_of_a_directory_share_a_row_until_the_last_is_forgotten() {
        let (dir, inodes) = (top(1), Inodes::new(Inode::Folder(Arc::from(&b""[..]))));
        let files: Vec<u64> =
            (0..1000).map(|i| inodes.hold_leaf(&leaf(1, 1, i), &dir, 131_072 + u32::from(i))).collect();
        assert_eq!(inodes.len(), 2);
        assert_eq!(position(&inodes.inode(files[77]).unwrap()), Some(131_149));
        let child = inodes.hold(&identity(1, 1, Numbering::Directory(1000)), || Inode::Directory(top(2)));
        assert!(child > files[999]);
        assert_eq!(inodes.len(), 3);
        for ino in &files {
            inodes.forget(*ino, 1);
        }
        assert!(matches!(inodes.inode(child), Ok(Inode::Directory(_))));
        inodes.forget(child, 1);
        assert_eq!(inodes.len(), 1);
        assert!(inodes.inode(files[77]).is_err());
    }

    #[test]
    fn two_inodes_never_pass_for_one() {
        let (one, other) = (top(1), top(2));
        let inodes = Inodes::new(Inode::Folder(Arc::from(&b""[..])));
        let a = inodes.hold_leaf(&leaf(1, 1, 5), &one, 5);
        // Another directory with the same number, a linked file with that of a file, a directory where a link is.
        let b = inodes.hold_leaf(&leaf(1, 2, 5), &other, 5);
        let number = u64::from_le_bytes([1; 8]) & !0xffff | 5;
        assert_eq!(a, number);
        let mut linked = identity(3, 3, Numbering::Own);
        linked.hash[..8].copy_from_slice(&number.to_le_bytes());
        let c = inodes.hold_leaf(&linked, &one, 9);
        assert!(a != b && a != c && b != c, "{a} {b} {c}");
        let dir_of = |ino| match inodes.inode(ino).unwrap() {
            Inode::Leaf(dir, at) => (dir.tree.snapshot.id.0[0], at),
            _ => (0, 0),
        };
        assert_eq!((dir_of(a), dir_of(b), dir_of(c)), ((1, 5), (2, 5), (1, 9)));
        assert_eq!(inodes.held(&leaf(1, 1, 5)), Some(a));
        assert_eq!(inodes.held(&leaf(1, 2, 5)), Some(b));
        assert_eq!(inodes.held(&leaf(4, 4, 5)), None);
        for ino in [a, b, c] {
            inodes.forget(ino, 1);
        }
        assert_eq!(inodes.len(), 1);
    }
}
