//! From an inode number to the directory of a snapshot, or to the place in one.
//!
//! The table of inodes knows only positions, so a directory is made from the entry in the one above it, and that one
//! likewise. The last ones are remembered.

use std::sync::Arc;

use super::SnapshotFs;
use super::inodes::{At, Inode, Place};
use super::tree::Dir;
use crate::error::FsError;
use parking_lot::Mutex;

/// Directories that are remembered.
const SLOTS: usize = 4096;
/// Those with an entry that takes more bytes are made each time: all of them take some megabytes, whatever is in them.
const LARGEST: usize = 2048;

/// The last directories, each in the one place that its number may have: every message from the kernel looks here, and a
/// cache that remembers the order of use cost as much as all else that such a message does.
#[derive(Debug)]
pub(super) struct Dirs(Box<[Mutex<Option<Arc<Dir>>>]>);

impl Default for Dirs {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| Mutex::default()).collect())
    }
}

impl Dirs {
    fn slot(&self, ino: u64) -> &Mutex<Option<Arc<Dir>>> {
        // Numbers in one directory differ in the low bits, those of directories without many beside them in the high ones.
        let mixed = (ino ^ (ino >> 16)) as usize;
        &self.0[mixed % SLOTS]
    }

    /// The directory with a number, if it is the one that stands there: numbers are given again.
    fn get(&self, ino: u64, at: &At) -> Option<Arc<Dir>> {
        let slot = self.slot(ino).lock();
        slot.as_ref().filter(|dir| dir.ino == ino && at.is_of(&dir.identity)).cloned()
    }

    fn put(&self, dir: &Arc<Dir>) {
        if dir.entry.weight() <= LARGEST {
            *self.slot(dir.ino).lock() = Some(dir.clone());
        }
    }
}

impl SnapshotFs {
    /// What a number stands for.
    pub(super) async fn inode(&self, ino: u64) -> Result<Inode, FsError> {
        Ok(match self.inodes.place(ino)? {
            Place::Whole(inode) => inode,
            Place::Entry(at) if at.is_directory => Inode::Directory(self.dir(ino).await?),
            Place::Entry(at) => Inode::Leaf(self.dir(at.dir).await?, at.position),
            Place::Name(names, rank) => Inode::Link(Arc::new(names.link(rank))),
        })
    }

    /// What a number stands for, as far as that is in memory.
    pub(super) fn inode_at_hand(&self, ino: u64) -> Option<Inode> {
        let directory = |ino| match self.inodes.place(ino).ok()? {
            Place::Whole(Inode::Directory(dir)) => Some(dir),
            Place::Entry(at) => self.dirs.get(ino, &at),
            Place::Whole(_) | Place::Name(..) => None,
        };
        match self.inodes.place(ino).ok()? {
            Place::Whole(inode) => Some(inode),
            Place::Entry(at) if at.is_directory => directory(ino).map(Inode::Directory),
            Place::Entry(at) => directory(at.dir).map(|dir| Inode::Leaf(dir, at.position)),
            Place::Name(names, rank) => Some(Inode::Link(Arc::new(names.link(rank)))),
        }
    }

    /// The directory of a snapshot with a number.
    async fn dir(&self, ino: u64) -> Result<Arc<Dir>, FsError> {
        let (mut below, mut next) = (Vec::new(), ino);
        let mut dir = loop {
            match self.inodes.place(next)? {
                Place::Whole(Inode::Directory(dir)) => break dir,
                Place::Entry(at) if at.is_directory => {
                    if let Some(dir) = self.dirs.get(next, &at) {
                        break dir;
                    }
                    below.push((next, at.position));
                    next = at.dir;
                }
                Place::Whole(_) | Place::Entry(_) | Place::Name(..) => return Err(FsError::NotDirectory),
            }
        };
        while let Some((ino, position)) = below.pop() {
            let run = self.run(&dir, position).await?;
            let entry = run.at(position).ok_or(FsError::Failed)?;
            dir = dir.child(entry, position, ino, &self.numbers);
            self.dirs.put(&dir);
        }
        Ok(dir)
    }
}
