//! Trees for a store in which all blobs have other names: read from the leaves up, with the names that their data has there.
//!
//! A directory that is the same in an earlier snapshot is there as that one's copy has it, and so are a file's contents.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::crypto::Class;
use crate::error::{Error, Result};
use crate::frame_source::Purpose;
use crate::id::BlobId;
use crate::ops::reach::Reach;
use crate::repository::Marks;
use crate::repository::recent::RecentFrames;
use crate::repository::transfer::Names;
use crate::repository::writer::{Framer, Run};
use crate::snapshot::Snapshot;
use crate::tree::{self, Contents, Detail, Entry, Extent, Page};
use crate::vfs::Vfs;
use crate::walk::{Step, Walk};

/// Names of directories that are noted together.
const NOTED: usize = 1000;
/// Pieces of a file whose names are looked up together.
const PIECES: usize = 1000;

/// Writes trees.
pub(super) struct Rewriter(Option<Work>);

struct Work {
    reach: Reach,
    run: Arc<Run>,
    names: Names,
    here: Vfs,
    there: Vfs,
    meta: Framer,
    data: Framer,
    /// Directories that were written in this group.
    written: Marks,
    /// Their names, as far as they are not noted yet.
    fresh: HashMap<BlobId, BlobId>,
}

/// A directory whose entries are coming in.
struct Level {
    entries: Vec<Entry>,
    pages: Vec<Page>,
    /// The directory at the same place in the earlier snapshot, and that in its copy.
    base: Option<(BlobId, BlobId)>,
    /// It need not be read: this is its name there.
    known: Option<BlobId>,
}

impl Rewriter {
    pub(super) fn new(reach: &Reach, run: &Arc<Run>, names: &Names) -> Result<Self> {
        let vfs = |of: &Arc<crate::repository::Repository>| {
            Vfs::new(of.clone(), Arc::new(RecentFrames::new(of.clone())))
        };
        Ok(Self(Some(Work {
            here: vfs(&reach.repository),
            there: vfs(run.repository()),
            meta: run.framer(Class::Meta)?,
            data: run.framer(Class::Data)?,
            written: reach.index.marks(),
            fresh: HashMap::new(),
            reach: reach.clone(),
            run: run.clone(),
            names: names.clone(),
        })))
    }

    /// The root entry and owner table that a snapshot has there. `base` is an earlier one and its copy.
    pub(super) async fn snapshot(
        &mut self,
        snapshot: &Arc<Snapshot>,
        base: Option<(&Snapshot, &Snapshot)>,
    ) -> Result<(Entry, Option<BlobId>)> {
        let mut work = self.0.take().ok_or(Error::Bug("the trees are being written already"))?;
        let node = |s: &Snapshot| s.root.directory().map(|(node, _)| node);
        let base = base.and_then(|(own, copy)| Some((node(own)?, node(copy)?)));
        let snapshot = snapshot.clone();
        let handle = Handle::current();
        // A thread of its own: it waits while packfiles are written.
        let (work, done) = crate::blocking::blocking(move || {
            let done = handle.block_on(async {
                let root = work.tree(&snapshot.root, base).await?;
                let owners = match snapshot.owners {
                    Some(id) => {
                        let blob = work.here.blob(Class::Meta, id, Purpose::OnDemand).await?;
                        Some(work.put(&blob)?)
                    }
                    None => None,
                };
                Ok((root, owners))
            });
            Ok((work, done))
        })
        .await?;
        self.0 = Some(work);
        done
    }

    /// Sends the last of it on its way.
    pub(super) fn flush(&mut self) -> Result<()> {
        match &mut self.0 {
            Some(work) => {
                work.note()?;
                work.meta.flush(&work.run)?;
                work.data.flush(&work.run)
            }
            None => Ok(()),
        }
    }
}

impl Work {
    async fn tree(&mut self, root: &Entry, base: Option<(BlobId, BlobId)>) -> Result<Entry> {
        let page_key = *self.run.repository().keys().chunker();
        let mut walk = Walk::new(self.here.clone(), root.clone(), b"/".to_vec());
        let mut levels: Vec<Level> = Vec::new();
        while let Some(step) = walk.next().await {
            let mut entry = match step {
                Step::Enter(entry) => {
                    self.run.check()?;
                    let base = match levels.last().map(|l| l.base) {
                        None => base,
                        Some(above) => self.below(above, &entry.name).await?,
                    };
                    let known = self.known(&entry, base)?;
                    if known.is_some() {
                        walk.skip();
                    }
                    levels.push(Level { entries: Vec::new(), pages: Vec::new(), base, known });
                    continue;
                }
                Step::Leave(entry) => {
                    let (mut entry, level) = (entry?, levels.pop().ok_or(Error::Bug("left twice"))?);
                    if let Detail::Directory { node, .. } = &mut entry.detail {
                        let name = match level.known {
                            Some(name) => name,
                            None => self.close(*node, level)?,
                        };
                        *node = name;
                    }
                    if levels.is_empty() {
                        return Ok(entry);
                    }
                    entry
                }
                Step::Entry(entry) => entry,
                Step::Unreadable(e) => return Err(e),
            };
            if let Detail::Regular(contents) = &entry.detail
                && !contents.missing
            {
                let base = levels.last().and_then(|l| l.base);
                let known = match base {
                    Some(base) => self.known_contents(base, &entry.name, contents).await?,
                    None => None,
                };
                let contents = match known {
                    Some(contents) => contents,
                    None => self.contents(contents, entry.meta.size).await?,
                };
                entry.detail = Detail::Regular(contents);
            }
            let Some(level) = levels.last_mut() else { return Err(Error::Bug("a root is no directory")) };
            if tree::build::ends_page(&page_key, level.entries.len(), &entry.name) {
                let entries = std::mem::take(&mut level.entries);
                let pages =
                    tree::build::pages(&entries, |blob| put(&self.run, Class::Meta, &mut self.meta, &blob))?;
                level.pages.extend(pages);
            }
            level.entries.push(entry);
        }
        Err(Error::Bug("a tree without an end"))
    }

    /// The directories of that name in the earlier snapshot and in its copy.
    async fn below(&self, above: Option<(BlobId, BlobId)>, name: &[u8]) -> Result<Option<(BlobId, BlobId)>> {
        let Some(above) = above else { return Ok(None) };
        let node = |entry: Entry| entry.directory().map(|(node, _)| node);
        let Some((own, copy)) = self.at(above, name).await? else { return Ok(None) };
        Ok(node(own).zip(node(copy)))
    }

    /// What the copy has of a file that is as it was in the earlier snapshot.
    async fn known_contents(
        &self,
        base: (BlobId, BlobId),
        name: &[u8],
        contents: &Contents,
    ) -> Result<Option<Contents>> {
        let Some((own, copy)) = self.at(base, name).await? else { return Ok(None) };
        match (own.detail, copy.detail) {
            (Detail::Regular(own), Detail::Regular(copy)) if own == *contents && !copy.missing => {
                Ok(Some(copy))
            }
            _ => Ok(None),
        }
    }

    /// The entries of that name in a directory of the earlier snapshot and in that of its copy. They only help: if they cannot
    /// be read, all is read that could have been left out.
    async fn at(&self, (own, copy): (BlobId, BlobId), name: &[u8]) -> Result<Option<(Entry, Entry)>> {
        let found = async {
            let own = self.here.lookup(own, name).await?;
            Ok::<_, Error>(own.zip(self.there.lookup(copy, name).await?))
        };
        match found.await {
            Err(e) if crate::error::is_damage(&e) => Ok(None),
            found => found,
        }
    }

    /// The name there of a directory of which everything is there.
    fn known(&self, entry: &Entry, base: Option<(BlobId, BlobId)>) -> Result<Option<BlobId>> {
        let Some((node, _)) = entry.directory() else { return Ok(None) };
        if let Some((own, copy)) = base
            && own == node
        {
            return Ok(Some(copy));
        }
        if !self.written.is_marked(self.reach.row(&node)?) {
            return Ok(None);
        }
        if let Some(name) = self.fresh.get(&node) {
            return Ok(Some(*name));
        }
        let name = self.names.get(&[node])?.pop().flatten();
        Ok(name.filter(|name| self.run.is_known(name)))
    }

    fn close(&mut self, node: BlobId, mut level: Level) -> Result<BlobId> {
        let mut sink = |blob: Vec<u8>| put(&self.run, Class::Meta, &mut self.meta, &blob);
        if !level.entries.is_empty() || level.pages.is_empty() {
            level.pages.extend(tree::build::pages(&level.entries, &mut sink)?);
        }
        let name = tree::build::index(level.pages.iter(), sink)?;
        self.written.mark(self.reach.row(&node)?);
        self.fresh.insert(node, name);
        if self.fresh.len() >= NOTED {
            self.note()?;
        }
        Ok(name)
    }

    fn note(&mut self) -> Result<()> {
        self.names.put(self.fresh.drain().collect())
    }

    fn put(&mut self, blob: &[u8]) -> Result<BlobId> {
        put(&self.run, Class::Meta, &mut self.meta, blob)
    }

    /// A file's contents with the names that its pieces have there.
    async fn contents(&mut self, contents: &Contents, size: u64) -> Result<Contents> {
        let mut pieces = self.here.pieces(contents, 0..size);
        let (mut extents, mut ids): (Vec<Extent>, Vec<BlobId>) = (Vec::new(), Vec::new());
        let mut named = 0;
        loop {
            let piece = pieces.next().await?;
            if let Some(piece) = piece {
                ids.extend(piece.extent.id);
                extents.push(piece.extent);
            }
            if ids.len() >= PIECES || piece.is_none() {
                let names = self.names_of(std::mem::take(&mut ids)).await?;
                let data = extents[named..].iter_mut().filter_map(|e| e.id.as_mut());
                data.zip(names).for_each(|(id, name)| *id = name);
                named = extents.len();
            }
            if piece.is_none() {
                break;
            }
        }
        tree::build::contents(extents, |blob| put(&self.run, Class::Meta, &mut self.meta, &blob))
    }

    /// What pieces of files are called there. One of which that is not known any more is put there again.
    async fn names_of(&mut self, ids: Vec<BlobId>) -> Result<Vec<BlobId>> {
        let mut names = Vec::with_capacity(ids.len());
        let mut noted = Vec::new();
        for (id, name) in ids.iter().zip(self.names.get(&ids)?) {
            let known = name.filter(|name| self.run.is_known(name));
            let name = match known {
                Some(name) => name,
                None => {
                    let blob = self.here.blob(Class::Data, *id, Purpose::OnDemand).await?;
                    let name = put(&self.run, Class::Data, &mut self.data, &blob)?;
                    noted.push((*id, name));
                    name
                }
            };
            names.push(name);
        }
        self.names.put(noted)?;
        Ok(names)
    }
}

/// Stores a blob, if it is new.
fn put(run: &Run, class: Class, framer: &mut Framer, blob: &[u8]) -> Result<BlobId> {
    let id = run.repository().keys().identify(class, blob);
    if run.claim(&id) {
        framer.push(run, id, blob)?;
    }
    Ok(id)
}
