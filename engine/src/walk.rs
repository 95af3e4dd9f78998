//! Walking a recorded tree depth first, in name order, without recursion and one page of a directory at a time.
//!
//! Of directories that were entered and not left, only so many entries are kept: what a walk through a deep and wide
//! tree passes on its way down it reads again on its way up.

use crate::error::{Error, Result};
use crate::id::BlobId;
use crate::trail::Trail;
use crate::tree::{Directory, Entry, Page};
use crate::vfs::{Vfs, damaged_tree};
use crate::wire::WireError;

/// Bytes of entries that are kept.
const KEPT: usize = 16 << 20;
/// Longest path.
const MAX_PATH: usize = 4 << 20;

/// One step of a walk.
#[derive(Debug)]
pub enum Step {
    /// A directory, before what is in it. [`Walk::skip`] passes over its contents.
    Enter(Entry),
    /// Anything else.
    Entry(Entry),
    /// The directory entered last, after what was in it; or why its entry could not be read again.
    Leave(Result<Entry>),
    /// What is (further) in the directory entered last cannot be read; other steps follow.
    Unreadable(Error),
}

/// A directory that was entered.
#[derive(Debug)]
struct Cursor {
    node: BlobId,
    trail: Trail,
    /// Length of its path.
    path: usize,
    /// Its own entry, unless it was let go.
    entry: Option<Entry>,
    /// Its pages, if it is a huge one, unless they were let go.
    pages: Option<Vec<Page>>,
    /// Blobs that were read of it: its node, or pages.
    read: usize,
    /// There are no others.
    is_last: bool,
    /// Entries of the one that was read last, which were not met yet; none if they were let go.
    entries: Option<std::vec::IntoIter<Entry>>,
    /// How many of them were met.
    met: usize,
    /// Bytes of all this.
    bytes: usize,
}

/// A walk in progress.
#[derive(Debug)]
pub struct Walk {
    vfs: Vfs,
    stack: Vec<Cursor>,
    path: Vec<u8>,
    start: Option<Entry>,
    /// Where it began, to be read again.
    first: Option<Entry>,
    /// Where the directory is that was left last.
    left: Trail,
    /// Bytes that the cursors keep.
    kept: usize,
    most: usize,
}

impl Walk {
    /// Begins at an entry; `path` is its path, which leads all others.
    pub fn new(vfs: Vfs, entry: Entry, path: Vec<u8>) -> Self {
        let (stack, left) = (Vec::new(), Trail::default());
        Self { vfs, stack, path, start: Some(entry), first: None, left, kept: 0, most: KEPT }
    }

    /// The path of the step returned last; for `Unreadable` that of the directory.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// How many directories were entered and not left.
    pub fn depth(&self) -> usize {
        self.stack.len()
    }

    /// The directory entered last, from where the walk began.
    pub(crate) fn trail(&self) -> Trail {
        self.stack.last().map(|c| c.trail.clone()).unwrap_or_default()
    }

    /// The directory left last, from where the walk began.
    pub(crate) fn left(&self) -> &Trail {
        &self.left
    }

    /// Passes over the contents of the directory entered last; its `Leave` follows.
    pub fn skip(&mut self) {
        if let Some(cursor) = self.stack.last_mut() {
            cursor.is_last = true;
            cursor.entries = Some(Vec::new().into_iter());
        }
    }

    /// The next step; `None` at the end.
    pub async fn next(&mut self) -> Option<Step> {
        if let Some(entry) = self.start.take() {
            self.first = entry.directory().is_some().then(|| entry.clone());
            return Some(self.meet(entry, Trail::default()));
        }
        loop {
            let cursor = self.stack.last_mut()?;
            self.path.truncate(cursor.path);
            if cursor.entries.is_none()
                && let Err(e) = self.read_again().await
            {
                // What is left of this page is lost; others may be there.
                self.stack.last_mut()?.entries = Some(Vec::new().into_iter());
                return Some(Step::Unreadable(e));
            }
            let cursor = self.stack.last_mut()?;
            if let Some(entry) = cursor.entries.as_mut().and_then(Iterator::next) {
                cursor.met += 1;
                if self.path.last().is_some_and(|b| *b != b'/') {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(&entry.name);
                let trail = match entry.directory() {
                    Some(_) => cursor.trail.join(&entry.name),
                    None => Trail::default(),
                };
                if self.path.len() > MAX_PATH {
                    self.path.truncate(cursor.path);
                    let too_long = WireError::Malformed("length of a path: it is more than 4 MiB");
                    return Some(Step::Unreadable(damaged_tree("directory", cursor.node, too_long)));
                }
                return Some(self.meet(entry, trail));
            }
            if cursor.is_last {
                return Some(self.leave().await);
            }
            if let Err(e) = self.read_on().await {
                return Some(Step::Unreadable(e));
            }
        }
    }

    fn meet(&mut self, entry: Entry, trail: Trail) -> Step {
        let Some((node, _)) = entry.directory() else { return Step::Entry(entry) };
        let bytes = size_of::<Cursor>() + entry.weight();
        self.kept += bytes;
        self.stack.push(Cursor {
            node,
            trail,
            path: self.path.len(),
            entry: Some(entry.clone()),
            pages: None,
            read: 0,
            is_last: false,
            entries: Some(Vec::new().into_iter()),
            met: 0,
            bytes,
        });
        Step::Enter(entry)
    }

    async fn leave(&mut self) -> Step {
        let Some(cursor) = self.stack.pop() else { return Step::Unreadable(Error::Bug("left twice")) };
        self.kept -= cursor.bytes;
        self.left = cursor.trail;
        Step::Leave(match cursor.entry {
            Some(entry) => Ok(entry),
            None => self.entry_again().await,
        })
    }

    /// The entry of the directory that was left last, which is the one met last in the one above.
    async fn entry_again(&mut self) -> Result<Entry> {
        let Some(cursor) = self.stack.last() else { return self.first.clone().ok_or(Error::Bug("no start")) };
        let (page, _) = self.page(cursor).await?;
        let met = cursor.met;
        page.into_iter().nth(met.saturating_sub(1)).ok_or_else(|| {
            damaged_tree("directory", self.stack.last().map_or(BlobId([0; 32]), |c| c.node), SHORTER)
        })
    }

    /// Reads the next page of the directory entered last, or its node.
    async fn read_on(&mut self) -> Result<()> {
        let Some(cursor) = self.stack.last_mut() else { return Ok(()) };
        cursor.met = 0;
        cursor.read += 1;
        let read = self.page(&self.stack[self.stack.len() - 1]).await;
        let Some(cursor) = self.stack.last_mut() else { return Ok(()) };
        match read {
            Ok((entries, pages)) => {
                self.kept -= cursor.bytes;
                cursor.is_last =
                    pages.as_ref().or(cursor.pages.as_ref()).is_none_or(|p| cursor.read >= p.len());
                cursor.hold(entries, pages);
                self.kept += cursor.bytes;
                self.let_go();
                Ok(())
            }
            Err(e) => {
                // Without its index nothing of it can be found; without a page, the others.
                cursor.is_last = cursor.pages.as_ref().is_none_or(|p| cursor.read >= p.len());
                Err(e)
            }
        }
    }

    /// Reads once more what was let go of the directory entered last.
    async fn read_again(&mut self) -> Result<()> {
        let Some(cursor) = self.stack.last() else { return Ok(()) };
        let (entries, pages) = self.page(cursor).await?;
        let Some(cursor) = self.stack.last_mut() else { return Ok(()) };
        self.kept -= cursor.bytes;
        let met = cursor.met;
        cursor.hold(entries, pages);
        if let Some(entries) = &mut cursor.entries
            && met > 0
        {
            entries.nth(met - 1);
        }
        self.kept += cursor.bytes;
        Ok(())
    }

    /// The entries that a cursor is at; and all its pages, if it has some and does not keep them.
    async fn page(&self, cursor: &Cursor) -> Result<(Vec<Entry>, Option<Vec<Page>>)> {
        let number = cursor.read.saturating_sub(1);
        let pages = match &cursor.pages {
            Some(_) => None,
            None => match self.vfs.directory(cursor.node).await? {
                Directory::Node(entries) => return Ok((entries, None)),
                Directory::Pages(pages) => Some(pages),
            },
        };
        let all = pages.as_ref().or(cursor.pages.as_ref());
        let all = all.filter(|pages| number < pages.len());
        let all = all.ok_or_else(|| damaged_tree("directory", cursor.node, SHORTER))?;
        Ok((self.vfs.page(all, number).await?, pages))
    }

    /// Lets go of what is kept too much, from where the walk will come back to last.
    fn let_go(&mut self) {
        if self.kept <= self.most {
            return;
        }
        let top = self.stack.len().saturating_sub(1);
        for cursor in &mut self.stack[..top] {
            if self.kept <= self.most / 2 {
                break;
            }
            self.kept -= cursor.bytes;
            (cursor.entry, cursor.pages, cursor.entries) = (None, None, None);
            cursor.bytes = size_of::<Cursor>();
            self.kept += cursor.bytes;
        }
    }
}

const SHORTER: WireError = WireError::Malformed("number of entries: there are fewer than before");

impl Cursor {
    fn hold(&mut self, entries: Vec<Entry>, pages: Option<Vec<Page>>) {
        if pages.is_some() {
            self.pages = pages;
        }
        let of_pages: usize = self.pages.iter().flatten().map(Page::weight).sum();
        self.bytes = size_of::<Self>()
            + self.entry.as_ref().map_or(0, Entry::weight)
            + of_pages
            + entries.iter().map(Entry::weight).sum::<usize>();
        self.entries = Some(entries.into_iter());
    }
}

#[cfg(test)]
mod tests;
