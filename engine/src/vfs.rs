//! A snapshot as a read-only tree: blobs by id, directories by node, files by extents. Knows no kernel and keeps
//! nothing; what is in front of it as [`FrameSource`] decides what is cached.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::crypto::Class;
use crate::error::{Error, Result};
use crate::frame_source::{FrameRef, FrameSource, Located, Purpose};
use crate::id::BlobId;
use crate::repository::Repository;
use crate::snapshot::Snapshot;
use crate::storage::StoreErrorKind;
use crate::tree::{self, Contents, Directory, Entry, Extent, Owners, Page, fits_index};
use crate::wire::WireError;

mod parts;

pub use parts::Parts;

/// Part of a file: `extent` covers the file's bytes from `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the file.
    pub start: u64,
    /// Blob or hole.
    pub extent: Extent,
}

impl Piece {
    /// The part of the piece that lies in a range of the file, counted from the piece's start. They must overlap.
    fn within(&self, range: &Range<u64>) -> Range<u64> {
        range.start.max(self.start) - self.start..range.end.min(self.start + self.extent.len) - self.start
    }
}

/// Pieces of a file that are looked at to read ahead.
const MOST_AHEAD: usize = 1024;

/// Reads snapshots through a frame source.
#[derive(Clone, Debug)]
pub struct Vfs {
    repository: Arc<Repository>,
    frames: Arc<dyn FrameSource>,
}

impl Vfs {
    /// Over a repository, through a source of frames (the repository itself, or a cache in front of it).
    pub fn new(repository: Arc<Repository>, frames: Arc<dyn FrameSource>) -> Self {
        Self { repository, frames }
    }

    /// The repository below.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// The frame source.
    pub fn frames(&self) -> &Arc<dyn FrameSource> {
        &self.frames
    }

    /// A whole blob; its id is checked. A blob whose packfile has gone is looked up once more in freshly read states.
    pub async fn blob(&self, class: Class, id: BlobId, purpose: Purpose) -> Result<Bytes> {
        match self.blob_once(class, id, purpose).await {
            Err(e) if may_have_moved(&e) => {
                self.repository.refresh_index().await?;
                self.blob_once(class, id, purpose).await
            }
            answer => answer,
        }
    }

    async fn blob_once(&self, class: Class, id: BlobId, purpose: Purpose) -> Result<Bytes> {
        let located = self.repository.locate(&id)?;
        Ok(self.whole(class, id, &located, purpose).await?.joined())
    }

    /// A whole blob from where it is; its id is checked.
    async fn whole(&self, class: Class, id: BlobId, located: &Located, purpose: Purpose) -> Result<Parts> {
        let whole = self.read_located(located, 0..located.len, purpose).await?;
        let mut hasher = self.repository.keys().identifier(class);
        whole.iter().for_each(|part| {
            hasher.update(part);
        });
        if located.class != class || BlobId(*hasher.finalize().as_bytes()) != id {
            return Err(Error::DamagedBlob {
                what: format!("blob {}", id.short()),
                place: place(located),
                source: "its contents do not match its id".into(),
            });
        }
        Ok(whole)
    }

    /// Some bytes of a data blob, from no more frames than needed. Bytes are authenticated by their frame; the blob's
    /// id is checked only when the range is the whole blob.
    pub async fn blob_range(&self, id: BlobId, range: Range<u32>, purpose: Purpose) -> Result<Parts> {
        match self.blob_range_once(id, range.clone(), purpose).await {
            Err(e) if may_have_moved(&e) => {
                self.repository.refresh_index().await?;
                self.blob_range_once(id, range, purpose).await
            }
            answer => answer,
        }
    }

    async fn blob_range_once(&self, id: BlobId, range: Range<u32>, purpose: Purpose) -> Result<Parts> {
        let located = self.repository.locate(&id)?;
        if range.start == 0 && range.end == located.len {
            return self.whole(Class::Data, id, &located, purpose).await;
        }
        self.read_located(&located, range, purpose).await
    }

    async fn read_located(&self, located: &Located, range: Range<u32>, purpose: Purpose) -> Result<Parts> {
        let (first, frames) = located.cover(&range).ok_or_else(|| Error::DamagedBlob {
            what: "a blob".into(),
            place: place(located),
            source: WireError::Malformed("location").into(),
        })?;
        let in_frames = |at: u32| (i64::from(at) - first) as usize;
        let (start, end) = (in_frames(range.start), in_frames(range.end));
        let (mut at, mut parts) = (0, Parts::default());
        for frame in self.frames.frames(frames, purpose).await {
            let frame = frame?;
            let here = start.saturating_sub(at).min(frame.len())..(end - at).min(frame.len());
            at += frame.len();
            parts.push(frame.slice(here));
        }
        Ok(parts)
    }

    /// A directory's blob: its entries, or where its pages are.
    pub async fn directory(&self, node: BlobId) -> Result<Directory> {
        let blob = self.blob(Class::Meta, node, Purpose::OnDemand).await?;
        Directory::decode(&blob).map_err(|e| damaged_tree("directory", node, e))
    }

    /// The entries of one page of a huge directory.
    pub async fn page(&self, pages: &[Page], i: usize) -> Result<Vec<Entry>> {
        let node = pages.get(i).ok_or(Error::Bug("a directory has no such page"))?.node;
        let damaged = |e| damaged_tree("directory", node, e);
        match self.directory(node).await? {
            Directory::Node(entries) => {
                fits_index(pages, i, &entries).map_err(damaged)?;
                Ok(entries)
            }
            Directory::Pages(_) => Err(damaged(WireError::Malformed("nested pages"))),
        }
    }

    /// One entry of a directory, by name.
    pub async fn lookup(&self, node: BlobId, name: &[u8]) -> Result<Option<Entry>> {
        let entries = match self.directory(node).await? {
            Directory::Node(entries) => entries,
            Directory::Pages(pages) => {
                let i = pages.partition_point(|p| p.first.as_slice() <= name);
                match i.checked_sub(1) {
                    Some(i) => self.page(&pages, i).await?,
                    None => return Ok(None),
                }
            }
        };
        Ok(find(entries, name))
    }

    /// The entry at an absolute path of a snapshot; `/` gives the root entry, named `.`.
    ///
    /// # Errors
    /// `NoPath` when it does not exist; nothing else is reported as that.
    pub async fn resolve(&self, snapshot: &Snapshot, path: &[u8]) -> Result<Entry> {
        let missing = || Error::NoPath {
            path: String::from_utf8_lossy(path).into_owned(),
            snapshot: snapshot.id.short(),
        };
        let mut entry = snapshot.root.clone();
        for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".") {
            let (node, _) = entry.directory().ok_or_else(missing)?;
            entry = self.lookup(node, part).await?.ok_or_else(missing)?;
        }
        Ok(entry)
    }

    /// The pieces of a file that cover a range, in order, read from no more lists than needed.
    pub fn pieces(&self, contents: &Contents, range: Range<u64>) -> Pieces {
        let top = place_items(0, &contents.items, &range);
        Pieces { vfs: self.clone(), range, stack: vec![(contents.level, top.into_iter())], next: None }
    }

    /// The frames that hold a range of a file, each once, in the order in which the file needs them: what to fetch
    /// before it is read. Of a sliced blob only the slices in the range. Blobs that cannot be located are left out;
    /// reading them says why. There are no more than about a thousand: it is about reading a little ahead.
    ///
    /// # Errors
    /// An extent list of the file cannot be read.
    pub async fn frames_of(&self, contents: &Contents, range: Range<u64>) -> Result<Vec<FrameRef>> {
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        let mut pieces = self.pieces(contents, range.clone());
        let mut looked_at = 0;
        while let Some(piece) = pieces.next().await? {
            looked_at += 1;
            if looked_at > MOST_AHEAD {
                break;
            }
            let Some(Ok(located)) = piece.extent.id.map(|id| self.repository.locate(&id)) else { continue };
            let part = piece.within(&range);
            if let Some((_, frames)) = located.cover(&(part.start as u32..part.end as u32)) {
                out.extend(frames.iter().filter(|f| seen.insert(f.key())).cloned());
            }
        }
        Ok(out)
    }

    /// Bytes of a file, shorter only at its end.
    pub async fn read(&self, entry: &Entry, range: Range<u64>, purpose: Purpose) -> Result<Parts> {
        let tree::Detail::Regular(contents) = &entry.detail else {
            return Err(Error::WrongPath {
                path: String::from_utf8_lossy(&entry.name).into_owned(),
                reason: "not a regular file",
            });
        };
        if contents.missing {
            return Err(Error::WrongPath {
                path: String::from_utf8_lossy(&entry.name).into_owned(),
                reason: "its contents could not be read when it was backed up",
            });
        }
        let range = range.start..range.end.min(entry.meta.size);
        let mut out = Parts::default();
        if range.start >= range.end {
            return Ok(out);
        }
        let mut pieces = self.pieces(contents, range.clone());
        while let Some(piece) = pieces.next().await? {
            let part = piece.within(&range);
            match piece.extent.id {
                None => out.push_zeros((part.end - part.start) as usize),
                Some(id) => {
                    out.append(self.blob_range(id, part.start as u32..part.end as u32, purpose).await?);
                }
            }
        }
        Ok(out)
    }

    /// The owner table of a snapshot; empty if it has none.
    pub async fn owners(&self, snapshot: &Snapshot) -> Result<Owners> {
        let Some(id) = snapshot.owners else { return Ok(Owners::default()) };
        let blob = self.blob(Class::Meta, id, Purpose::OnDemand).await?;
        Owners::decode(&blob).map_err(|e| damaged_tree("owner table", id, e))
    }
}

/// What comes next in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// An extent list and the bytes that it is to cover, before what is in it. [`Pieces::skip`] passes over that.
    List(BlobId, u64),
    /// The list that was begun last and not ended has ended.
    End,
    /// A blob or hole.
    Piece(Piece),
}

/// The pieces of a file one after another. In memory is one list of each level.
#[derive(Debug)]
pub struct Pieces {
    vfs: Vfs,
    range: Range<u64>,
    /// The rest of each list that was begun, with its level; the first one stands in the file's entry.
    stack: Vec<(u8, std::vec::IntoIter<Piece>)>,
    /// A list that was met and not read.
    next: Option<(u8, Piece)>,
}

impl Pieces {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// An extent list cannot be read. What else is in the file follows.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            match self.step().await? {
                Some(Item::Piece(piece)) => return Ok(Some(piece)),
                Some(Item::List(..) | Item::End) => {}
                None => return Ok(None),
            }
        }
    }

    /// The next piece, or beginning or end of a list; `None` at the end.
    ///
    /// # Errors
    /// As [`Pieces::next`]; the list that cannot be read was the one begun last, and is ended by this.
    pub async fn step(&mut self) -> Result<Option<Item>> {
        if let Some((level, list)) = self.next.take() {
            let (Some(id), len) = (list.extent.id, list.extent.len) else { return Ok(Some(Item::End)) };
            let blob = self.vfs.blob(Class::Meta, id, Purpose::OnDemand).await?;
            let items =
                tree::decode_list(&blob, level - 1, len).map_err(|e| damaged_tree("extent list", id, e))?;
            let pieces = place_items(list.start, &items, &self.range);
            self.stack.push((level - 1, pieces.into_iter()));
        }
        let Some((level, rest)) = self.stack.last_mut() else { return Ok(None) };
        let Some(piece) = rest.next() else {
            self.stack.pop();
            return Ok((!self.stack.is_empty()).then_some(Item::End));
        };
        Ok(Some(match piece.extent.id {
            Some(id) if *level > 0 => {
                self.next = Some((*level, piece));
                Item::List(id, piece.extent.len)
            }
            _ => Item::Piece(piece),
        }))
    }

    /// Passes over the list that was begun last, if nothing of it was given yet; its end is not told.
    pub fn skip(&mut self) {
        self.next = None;
    }
}

fn place_items(mut start: u64, items: &[Extent], range: &Range<u64>) -> Vec<Piece> {
    let mut out = Vec::new();
    for extent in items {
        let end = start.saturating_add(extent.len);
        if end > range.start && start < range.end {
            out.push(Piece { start, extent: *extent });
        }
        start = end;
    }
    out
}

/// Finds a name among sorted entries.
pub fn find(mut entries: Vec<Entry>, name: &[u8]) -> Option<Entry> {
    let i = entries.binary_search_by(|e| e.name.as_slice().cmp(name)).ok()?;
    Some(entries.swap_remove(i))
}

fn place(located: &Located) -> String {
    located
        .frames
        .first()
        .map_or_else(|| "nowhere".into(), |f| format!("packfile {} at {}", f.packfile, f.record.offset))
}

pub(crate) fn damaged_tree(what: &str, id: BlobId, e: WireError) -> Error {
    let what = format!("{what} {}", id.short());
    match e {
        WireError::Newer(_) => Error::Newer { object: what },
        e => Error::DamagedBlob { what, place: "tree".into(), source: e.into() },
    }
}

/// Whether a failed read may be due to an index that is older than the store.
fn may_have_moved(e: &Error) -> bool {
    match e {
        Error::MissingBlob { .. } | Error::DamagedIndex { .. } => true,
        Error::Store(e) => e.kind() == StoreErrorKind::NotFound,
        Error::Shared(e) => may_have_moved(e),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
