//! From an inode number to the directory of a snapshot, or to the place in one.
//!
//! The table of inodes knows only positions, so a directory is made from the entry in the one above it, and that one
//! likewise. The last ones are remembered.

use std::sync::Arc;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::SnapshotFs;
use super::inodes::{At, Inode, Place};
use super::tree::Dir;
use crate::error::FsError;

/// Bytes of the directories that are remembered: some ten thousand.
const BYTES: u64 = 4 << 20;

/// The last directories, by number.
#[derive(Debug)]
pub(super) struct Dirs(Cache<u64, Arc<Dir>>);

impl Default for Dirs {
    fn default() -> Self {
        let weight = |_: &u64, dir: &Arc<Dir>| {
            u32::try_from(size_of::<Dir>() + dir.entry.weight() + 100).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().max_capacity(BYTES).weigher(weight);
        Self(cache.eviction_policy(EvictionPolicy::lru()).build())
    }
}

impl Dirs {
    /// The directory with a number, if it is the one that stands there: numbers are given again.
    fn get(&self, ino: u64, at: &At) -> Option<Arc<Dir>> {
        self.0.get(&ino).filter(|dir| at.is_of(&dir.identity))
    }
}

impl SnapshotFs {
    /// What a number stands for.
    pub(super) async fn inode(&self, ino: u64) -> Result<Inode, FsError> {
        Ok(match self.inodes.place(ino)? {
            Place::Whole(inode) => inode,
            Place::Entry(at) if at.is_directory => Inode::Directory(self.dir(ino).await?),
            Place::Entry(at) => Inode::Leaf(self.dir(at.dir).await?, at.position),
        })
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
                Place::Whole(_) | Place::Entry(_) => return Err(FsError::NotDirectory),
            }
        };
        while let Some((ino, position)) = below.pop() {
            let run = self.run(&dir, position).await?;
            let entry = run.at(position).ok_or(FsError::Failed)?;
            dir = dir.child(entry, position, ino, &self.numbers);
            self.dirs.0.insert(ino, dir.clone());
        }
        Ok(dir)
    }
}
