//! Walking a recorded tree depth first, in name order, without recursion and one page of a directory at a time.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::id::BlobId;
use crate::tree::{Directory, Entry};
use crate::vfs::Vfs;
use crate::wire::WireError;

/// One step of a walk.
#[derive(Debug)]
pub enum Step {
    /// A directory, before what is in it. [`Walk::skip`] passes over its contents.
    Enter(Entry),
    /// Anything else.
    Entry(Entry),
    /// The directory entered last, after what was in it.
    Leave(Entry),
    /// What is (further) in the directory entered last cannot be read; other steps follow.
    Unreadable(Error),
}

#[derive(Debug)]
struct Cursor {
    entry: Entry,
    /// Length of its path.
    path: usize,
    /// Nodes still to read: its own, or its pages.
    nodes: VecDeque<BlobId>,
    entries: std::vec::IntoIter<Entry>,
}

/// A walk in progress.
#[derive(Debug)]
pub struct Walk {
    vfs: Vfs,
    stack: Vec<Cursor>,
    path: Vec<u8>,
    start: Option<Entry>,
}

impl Walk {
    /// Begins at an entry; `path` is its path, which leads all others.
    pub fn new(vfs: Vfs, entry: Entry, path: Vec<u8>) -> Self {
        Self { vfs, stack: Vec::new(), path, start: Some(entry) }
    }

    /// The path of the step returned last; for `Unreadable` that of the directory.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// How many directories were entered and not left.
    pub fn depth(&self) -> usize {
        self.stack.len()
    }

    /// Passes over the contents of the directory entered last; its `Leave` follows.
    pub fn skip(&mut self) {
        if let Some(cursor) = self.stack.last_mut() {
            cursor.nodes.clear();
            cursor.entries = Vec::new().into_iter();
        }
    }

    /// The next step; `None` at the end.
    pub async fn next(&mut self) -> Option<Step> {
        if let Some(entry) = self.start.take() {
            return Some(self.meet(entry));
        }
        loop {
            let cursor = self.stack.last_mut()?;
            self.path.truncate(cursor.path);
            if let Some(entry) = cursor.entries.next() {
                if self.path.last().is_some_and(|b| *b != b'/') {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(&entry.name);
                return Some(self.meet(entry));
            }
            let Some(node) = cursor.nodes.pop_front() else {
                return self.stack.pop().map(|c| Step::Leave(c.entry));
            };
            if let Err(e) = self.load(node).await {
                return Some(Step::Unreadable(e));
            }
        }
    }

    fn meet(&mut self, entry: Entry) -> Step {
        let Some((node, _)) = entry.directory() else { return Step::Entry(entry) };
        let nodes = VecDeque::from([node]);
        self.stack.push(Cursor {
            entry: entry.clone(),
            path: self.path.len(),
            nodes,
            entries: Vec::new().into_iter(),
        });
        Step::Enter(entry)
    }

    async fn load(&mut self, node: BlobId) -> Result<()> {
        let directory = self.vfs.directory(node).await?;
        let Some(cursor) = self.stack.last_mut() else { return Ok(()) };
        let own = cursor.entry.directory().is_some_and(|(own, _)| own == node);
        match directory {
            Directory::Node(entries) => cursor.entries = entries.into_iter(),
            Directory::Pages(pages) if own => cursor.nodes = pages.into_iter().map(|p| p.node).collect(),
            Directory::Pages(_) => {
                return Err(crate::vfs::damaged_tree(
                    "directory",
                    node,
                    WireError::Malformed("nested pages"),
                ));
            }
        }
        Ok(())
    }
}
