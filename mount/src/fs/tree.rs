//! A directory of a snapshot, as an inode keeps it.

use std::sync::Arc;

use plakar_engine::id::BlobId;
use plakar_engine::snapshot::Snapshot;
use plakar_engine::tree::Entry;

use super::inodes::{Identity, Numbers};

/// A snapshot that is shown.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) seed: [u8; 32],
}

/// A directory of a snapshot.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) tree: Arc<Tree>,
    pub(crate) parent: Option<Arc<Self>>,
    pub(crate) identity: Identity,
    /// Its inode number.
    pub(crate) ino: u64,
    /// What the numbers of its entries follow from.
    pub(crate) seed: [u8; 32],
    /// Its own entry, named `.` at the top.
    pub(crate) entry: Entry,
    /// It was not backed up itself, it only leads to what was.
    pub(crate) above: bool,
}

impl Dir {
    /// The recorded `/` of a snapshot, under its number.
    pub(crate) fn top(snapshot: Arc<Snapshot>, ino: u64, numbers: &Numbers) -> Arc<Self> {
        let (identity, seed) = (numbers.of_snapshot(&snapshot.id), numbers.seed_of_snapshot(&snapshot.id));
        let entry = snapshot.root.clone();
        let above = !snapshot.roots.is_empty() && !snapshot.roots.iter().any(|r| r == b"/");
        let tree = Arc::new(Tree { snapshot, seed });
        Arc::new(Self { tree, parent: None, identity, ino, seed, entry, above })
    }

    /// A directory in this one, under its number.
    pub(crate) fn child(
        self: &Arc<Self>,
        entry: &Entry,
        position: u32,
        ino: u64,
        numbers: &Numbers,
    ) -> Arc<Self> {
        let identity = numbers.of_entry(self, entry, position);
        let (above, seed) = (self.leads_to_root(entry), numbers.seed(self, &entry.name));
        let (tree, parent) = (self.tree.clone(), Some(self.clone()));
        Arc::new(Self { tree, parent, identity, ino, seed, entry: entry.clone(), above })
    }

    /// Whether a directory in this one was not backed up itself and only leads to what was.
    pub(crate) fn leads_to_root(&self, entry: &Entry) -> bool {
        if !self.above {
            return false;
        }
        let path = self.path_of(&entry.name);
        let below = |root: &Vec<u8>| root.strip_prefix(path.as_slice()).is_some_and(|r| r.starts_with(b"/"));
        self.tree.snapshot.roots.iter().any(below)
    }

    /// Its node.
    pub(crate) fn node(&self) -> BlobId {
        self.entry.directory().map_or(BlobId([0; 32]), |(node, _)| node)
    }

    /// Its path from the recorded `/`.
    pub(crate) fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = self;
        while let Some(parent) = &at.parent {
            names.push(at.entry.name.as_slice());
            at = parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() { b"/".to_vec() } else { path }
    }

    /// The path of something in it.
    pub(crate) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path();
        if path != b"/" {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }
}
