//! Inode numbers, and what stands behind those that somebody holds.
//!
//! A number is a keyed hash of (snapshot, path of the directory) with the entry's position in it in the low bits, or a
//! hash of (snapshot, hard-link group and all that its names share): the same in every mount of the store, and never
//! that of a node, which several snapshots share. Positions go up, and directories have higher numbers than what stands
//! beside them: so programs that go through a directory in the order of numbers, as `cp` does, read files in the order
//! in which they are stored. The hash has more bits than a number, and they are compared: two inodes never pass for one.
//!
//! A program that walks a tree makes the kernel hold all of it. So what is kept is one small row for each directory in
//! which something is held, whatever stands there: it says in which directory that one stands, and so on up to the
//! snapshot. The entries themselves are read again from their pages; [`super::dirs`] remembers the last directories.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use plakar_engine::crypto::Keyring;
use plakar_engine::id::ObjectId;
use plakar_engine::tree::{Detail, Entry};

use super::names::Names;
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

    /// The low bits of the position that it has the number of.
    fn low(&self) -> Option<u16> {
        match self.kind {
            Numbering::Own => None,
            Numbering::Directory(low) | Numbering::Leaf(low) => Some(low),
        }
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

    /// The link of a rank among names of a view.
    pub(crate) fn of_name(&self, names: &Names, rank: u32) -> Identity {
        let hash = self.hash(&[b"names", names.id(), &(rank >> 16).to_le_bytes()]);
        Identity { hash, kind: Numbering::Leaf(rank as u16) }
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

/// Where an inode number leads.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// To this.
    Whole(Inode),
    /// To the entry at a position of a directory.
    Entry(At),
    /// To the link of a rank.
    Name(Arc<Names>, u32),
}

/// A position in a directory of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    /// The directory's number.
    pub(crate) dir: u64,
    /// The position.
    pub(crate) position: u32,
    /// Whether a directory stands there.
    pub(crate) is_directory: bool,
    check: u32,
}

impl At {
    /// Whether it is there that a directory with this identity stands.
    pub(crate) fn is_of(&self, identity: &Identity) -> bool {
        let low = Numbering::Directory(self.position as u16);
        self.is_directory && identity.kind == low && identity.check() == self.check
    }
}

/// An inode that has a row of its own.
#[derive(Debug)]
struct Held {
    to: To,
    check: u32,
    lookups: Lookups,
}

/// Where a row leads.
#[derive(Debug)]
enum To {
    Whole(Box<Inode>),
    /// A file with several names, by one of them: the directory's number, and the position in it.
    Entry(u64, u32),
}

/// The entries of one directory, or 65,536 of them.
#[derive(Debug)]
struct Block {
    of: Of,
    check: u32,
    lookups: Lookups,
    /// Position of its first entry, in blocks.
    start: u16,
}

/// What the entries of a block stand in.
#[derive(Clone, Debug)]
enum Of {
    /// A directory of a snapshot, by its number.
    Directory(u64),
    /// Names in a view.
    Names(Arc<Names>),
}

/// How often the kernel was given something. Nobody counts so far; if somebody does, it is held for ever.
#[derive(Debug, Default)]
struct Lookups(u32);

impl Lookups {
    /// Whether it is the first one.
    fn add(&mut self) -> bool {
        self.0 = self.0.saturating_add(1);
        self.0 == 1
    }

    /// Whether none is left.
    fn take(&mut self, lookups: u64) -> bool {
        if self.0 < u32::MAX {
            self.0 = self.0.saturating_sub(u32::try_from(lookups).unwrap_or(u32::MAX));
        }
        self.0 == 0
    }
}

#[derive(Debug, Default)]
struct Shard {
    rows: HashMap<u64, Held>,
    /// By what the numbers of a block have in common.
    blocks: HashMap<u64, Block>,
}

/// What the numbers of a block have in common.
fn block_of(ino: u64) -> u64 {
    (ino & !HIGH) >> 16
}

impl Shard {
    /// Whether a number is free for an inode, or already its own.
    fn fits(&self, ino: u64, identity: &Identity) -> bool {
        let own_row = self.rows.get(&ino).is_none_or(|h| h.check == identity.check());
        let own_block = match self.blocks.get(&block_of(ino)) {
            Some(block) => identity.low().is_some() && block.check == identity.check(),
            None => true,
        };
        own_row && own_block
    }

    /// Takes back lookups. What was freed stood in this directory.
    fn forget(&mut self, ino: u64, lookups: u64) -> Option<u64> {
        if let Slot::Occupied(mut row) = self.rows.entry(ino) {
            let is_free = row.get_mut().lookups.take(lookups);
            return match is_free.then(|| row.remove().to)? {
                To::Entry(dir, _) => Some(dir),
                To::Whole(_) => None,
            };
        }
        let Slot::Occupied(mut block) = self.blocks.entry(block_of(ino)) else { return None };
        let is_free = block.get_mut().lookups.take(lookups);
        match is_free.then(|| block.remove().of)? {
            Of::Directory(dir) => Some(dir),
            Of::Names(_) => None,
        }
    }
}

/// The inodes that the kernel holds, with how often it was given them. Directories in which it holds something are held
/// with it.
#[derive(Debug)]
pub(crate) struct Inodes {
    shards: [Mutex<Shard>; SHARDS],
}

impl Inodes {
    /// With the root, which is never forgotten.
    pub(crate) fn new(root: Inode) -> Self {
        let inodes = Self { shards: std::array::from_fn(|_| Mutex::default()) };
        let root = Held { to: To::Whole(Box::new(root)), check: 0, lookups: Lookups(1) };
        inodes.shard(ROOT).rows.insert(ROOT, root);
        inodes
    }

    fn shard(&self, ino: u64) -> MutexGuard<'_, Shard> {
        self.shards[block_of(ino) as usize % SHARDS].lock()
    }

    /// Where a number leads.
    pub(crate) fn place(&self, ino: u64) -> Result<Place, FsError> {
        let shard = self.shard(ino);
        if let Some(held) = shard.rows.get(&ino) {
            return Ok(match &held.to {
                To::Whole(inode) => Place::Whole(Inode::clone(inode)),
                To::Entry(dir, position) => {
                    let (dir, position, check) = (*dir, *position, held.check);
                    Place::Entry(At { dir, position, is_directory: false, check })
                }
            });
        }
        let block = shard.blocks.get(&block_of(ino)).ok_or(FsError::Stale)?;
        let position = u32::from(block.start) << 16 | u32::from(ino as u16);
        Ok(match &block.of {
            Of::Directory(dir) => {
                let (dir, is_directory) = (*dir, ino & HIGH != 0);
                Place::Entry(At { dir, position, is_directory, check: block.check })
            }
            Of::Names(names) => Place::Name(names.clone(), position),
        })
    }

    /// The root of the mount, when it is a directory of a snapshot.
    pub(crate) fn root(&self) -> Option<Arc<Dir>> {
        match self.place(ROOT) {
            Ok(Place::Whole(Inode::Directory(root))) => Some(root),
            _ => None,
        }
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

    /// Counts one more lookup of what stands in no directory of a snapshot, and gives its number, from which it is made.
    pub(crate) fn hold(&self, identity: &Identity, inode: impl FnOnce(u64) -> Inode) -> u64 {
        let (ino, mut shard) = self.number(identity);
        let new = || {
            let to = To::Whole(Box::new(inode(ino)));
            Held { to, check: identity.check(), lookups: Lookups::default() }
        };
        let _also_the_first = shard.rows.entry(ino).or_insert_with(new).lookups.add();
        ino
    }

    /// Counts one more lookup of what stands at a position of a directory of a snapshot, which must be held itself.
    pub(crate) fn hold_entry(&self, identity: &Identity, dir: u64, position: u32) -> u64 {
        let (ino, is_new) = if identity.low().is_some() {
            self.hold_in_block(identity, || Of::Directory(dir), position)
        } else {
            // A name of a file that has several: the file has a number of its own.
            let (ino, mut shard) = self.number(identity);
            let (to, check) = (To::Entry(dir, position), identity.check());
            let new = || Held { to, check, lookups: Lookups::default() };
            (ino, shard.rows.entry(ino).or_insert_with(new).lookups.add())
        };
        if is_new {
            self.hold_again(dir);
        }
        ino
    }

    /// Counts one more lookup of the link of a rank.
    pub(crate) fn hold_name(&self, identity: &Identity, names: &Arc<Names>, rank: u32) -> u64 {
        self.hold_in_block(identity, || Of::Names(names.clone()), rank).0
    }

    /// The number of what stands at a position, and whether nothing of its block was held before.
    fn hold_in_block(&self, identity: &Identity, of: impl FnOnce() -> Of, position: u32) -> (u64, bool) {
        let (ino, mut shard) = self.number(identity);
        let (start, check) = ((position >> 16) as u16, identity.check());
        let new = || Block { of: of(), start, check, lookups: Lookups::default() };
        (ino, shard.blocks.entry(block_of(ino)).or_insert_with(new).lookups.add())
    }

    /// Counts one more lookup of a directory that is held.
    fn hold_again(&self, ino: u64) {
        let mut shard = self.shard(ino);
        let _never_the_first = match shard.rows.get_mut(&ino) {
            Some(held) => held.lookups.add(),
            None => shard.blocks.get_mut(&block_of(ino)).is_some_and(|block| block.lookups.add()),
        };
    }

    /// Takes back lookups; the last one frees the number, and the directory that it stands in.
    pub(crate) fn forget(&self, ino: u64, lookups: u64) {
        let (mut next, mut lookups) = (Some(ino), lookups);
        while let Some(ino) = next.filter(|ino| *ino != ROOT) {
            next = self.shard(ino).forget(ino, lookups);
            lookups = 1;
        }
    }

    /// The number of an entry, if it is held, or may be since others of its directory are.
    pub(crate) fn held(&self, identity: &Identity) -> Option<u64> {
        let is_it = |ino: &u64| {
            let (shard, check) = (self.shard(*ino), identity.check());
            match identity.low() {
                Some(_) => shard.blocks.get(&block_of(*ino)).is_some_and(|b| b.check == check),
                None => shard.rows.get(ino).is_some_and(|h| h.check == check),
            }
        };
        (0..=2).map(|attempt| identity.number(attempt)).find(is_it)
    }

    /// How many rows there are: one for the root, each snapshot, name in a view and file with several names that is
    /// held, and one for all else that is held in a directory.
    pub(crate) fn len(&self) -> usize {
        let rows = |s: &Mutex<Shard>| {
            let shard = s.lock();
            shard.rows.len() + shard.blocks.len()
        };
        self.shards.iter().map(rows).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(first: u8, check: u8, kind: Numbering) -> Identity {
        let mut hash = [first; 32];
        hash[8..24].copy_from_slice(&[check; 16]);
        hash[24..].copy_from_slice(&[check; 8]);
        Identity { hash, kind }
    }

    fn leaf(first: u8, check: u8, low: u16) -> Identity {
        identity(first, check, Numbering::Leaf(low))
    }

    /// A table with two directories under these numbers.
    fn with_two(numbers: [u64; 2]) -> Inodes {
        let inodes = Inodes::new(Inode::Folder(Arc::from(&b""[..])));
        for (i, number) in numbers.into_iter().enumerate() {
            let mut own = identity(90 + i as u8, 90, Numbering::Own);
            own.hash[..8].copy_from_slice(&number.to_le_bytes());
            assert_eq!(inodes.hold(&own, |_| Inode::Folder(Arc::from(&b"top"[..]))), number);
        }
        inodes
    }

    fn at(inodes: &Inodes, ino: u64) -> (u64, u32, bool) {
        match inodes.place(ino).unwrap() {
            Place::Entry(At { dir, position, is_directory, .. }) => (dir, position, is_directory),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_in_a_directory_shares_a_row_until_the_last_is_forgotten() {
        let (one, other) = (77 << 20, 78 << 20);
        let inodes = with_two([one, other]);
        let before = inodes.len();
        let files: Vec<u64> =
            (0..1000).map(|i| inodes.hold_entry(&leaf(1, 1, i), one, 131_072 + u32::from(i))).collect();
        let child = inodes.hold_entry(&identity(1, 1, Numbering::Directory(1000)), one, 132_072);
        assert_eq!(inodes.len(), before + 1);
        assert_eq!(at(&inodes, files[77]), (one, 131_149, false));
        assert_eq!(at(&inodes, child), (one, 132_072, true));
        assert!(child > files[999]);
        for ino in files.iter().chain([&child]) {
            assert!(inodes.place(child).is_ok());
            inodes.forget(*ino, 1);
        }
        assert_eq!(inodes.len(), before);
        assert!(inodes.place(files[77]).is_err() && inodes.place(child).is_err());
    }

    #[test]
    fn directories_are_held_as_long_as_anything_in_them_is() {
        let (one, other) = (77 << 20, 78 << 20);
        let inodes = with_two([one, other]);
        let before = inodes.len();
        let child = inodes.hold_entry(&identity(1, 1, Numbering::Directory(3)), one, 3);
        let deep = inodes.hold_entry(&identity(2, 2, Numbering::Directory(4)), child, 4);
        let linked = inodes.hold_entry(&identity(3, 3, Numbering::Own), deep, 5);
        // Programs let go of them in any order.
        for ino in [child, deep, one] {
            inodes.forget(ino, 1);
        }
        assert_eq!(at(&inodes, linked), (deep, 5, false));
        assert_eq!((at(&inodes, deep), at(&inodes, child)), ((child, 4, true), (one, 3, true)));
        inodes.hold_entry(&identity(3, 3, Numbering::Own), other, 9);
        inodes.forget(linked, 1);
        assert_eq!(at(&inodes, linked), (deep, 5, false));
        inodes.forget(linked, 1);
        assert_eq!(inodes.len(), before - 1);
        assert!(inodes.place(one).is_err());
    }

    #[test]
    fn what_was_given_more_often_than_can_be_counted_is_held_for_ever() {
        let mut lookups = Lookups(u32::MAX - 2);
        lookups.add();
        assert!(lookups.take(u64::from(u32::MAX)));
        lookups = Lookups(u32::MAX - 1);
        lookups.add();
        lookups.add();
        assert!(!lookups.take(u64::MAX) && !lookups.take(1));
    }

    #[test]
    fn two_inodes_never_pass_for_one() {
        let (one, other) = (77 << 20, 78 << 20);
        let inodes = with_two([one, other]);
        let before = inodes.len();
        let a = inodes.hold_entry(&leaf(1, 1, 5), one, 5);
        // Another directory with the same number, a linked file with that of a file, a directory where a link is.
        let b = inodes.hold_entry(&leaf(1, 2, 5), other, 5);
        let number = u64::from_le_bytes([1; 8]) & !0xffff | 5;
        assert_eq!(a, number);
        let mut linked = identity(3, 3, Numbering::Own);
        linked.hash[..8].copy_from_slice(&number.to_le_bytes());
        let c = inodes.hold_entry(&linked, one, 9);
        assert!(a != b && a != c && b != c, "{a} {b} {c}");
        let places = [a, b, c].map(|ino| at(&inodes, ino));
        assert_eq!(places, [(one, 5, false), (other, 5, false), (one, 9, false)]);
        assert_eq!(inodes.held(&leaf(1, 1, 5)), Some(a));
        assert_eq!(inodes.held(&leaf(1, 2, 5)), Some(b));
        assert_eq!(inodes.held(&leaf(4, 4, 5)), None);
        for ino in [a, b, c] {
            inodes.forget(ino, 1);
        }
        assert_eq!(inodes.len(), before);
    }
}
