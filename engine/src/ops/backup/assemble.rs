//! Assembling the tree: a directory waits for its entries, which come from any thread in any order; the last one
//! completes it, which may complete its parent, up to the root.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::change::ChangeBy;
use super::previous::{Known, Part, Previous};
use crate::cancel::Cancel;
use crate::chunker::Chunker;
use crate::crypto::Class;
use crate::error::{Error, Result};
use crate::id::{BlobId, ObjectId};
use crate::importer::{ImportError, Importer, SourceEntry, Stamp};
use crate::meta::Metadata;
use crate::monitor::{Event, Monitor};
use crate::repository::writer::{Framer, Run};
use crate::trail::Trail;
use crate::tree::{self, Contents, Detail, Entry, Extent, Links, Owners, Summary};
use parking_lot::Mutex;

/// What the stages of one backup share.
pub(super) struct Assembly {
    pub(super) run: Arc<Run>,
    pub(super) source: Arc<dyn Importer>,
    pub(super) monitor: Arc<dyn Monitor>,
    pub(super) cancel: Cancel,
    pub(super) previous: Arc<Previous>,
    pub(super) change_by: ChangeBy,
    pub(super) chunker: Chunker,
    pub(super) errors: AtomicU64,
    pub(super) files_read: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    /// Nodes, lists and the owner table, in the order in which directories complete.
    meta: Mutex<Framer>,
    root: Mutex<Option<Entry>>,
    uids: Mutex<(BTreeSet<u32>, BTreeSet<u32>)>,
}

impl std::fmt::Debug for Assembly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assembly").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Assembly {
    pub(super) fn new(
        run: Arc<Run>,
        source: Arc<dyn Importer>,
        monitor: Arc<dyn Monitor>,
        cancel: Cancel,
        previous: Arc<Previous>,
        change_by: ChangeBy,
    ) -> Result<Self> {
        let repository = run.repository();
        Ok(Self {
            source,
            monitor,
            cancel,
            previous,
            change_by,
            chunker: Chunker::new(repository.config().chunks, repository.keys().chunker()),
            errors: AtomicU64::new(0),
            files_read: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            meta: Mutex::new(run.framer(Class::Meta)?),
            root: Mutex::new(None),
            uids: Mutex::default(),
            run,
        })
    }

    /// Stores a metadata blob, if it is new.
    pub(super) fn put_meta(&self, blob: &[u8]) -> Result<BlobId> {
        let id = self.run.repository().keys().identify(Class::Meta, blob);
        if blob.len() > crate::config::MAX_FRAME as usize {
            return Err(Error::Usage("a directory is too large for the store's format".into()));
        }
        if self.run.claim(&id) {
            self.meta.lock().push(&self.run, id, blob)?;
        }
        Ok(id)
    }

    /// Sends the last metadata on its way.
    pub(super) fn flush(&self) -> Result<()> {
        self.meta.lock().flush(&self.run)
    }

    /// Reports a path that is not backed up whole.
    pub(super) fn report(&self, path: &[u8], reason: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.monitor.event(Event::Failed { path, reason });
    }

    /// The entry of `/`, when all is done.
    pub(super) fn take_root(&self) -> Result<Entry> {
        self.root.lock().take().ok_or(Error::Bug("the tree is not complete"))
    }

    /// Stores the owner table.
    pub(super) fn owners(&self) -> Result<BlobId> {
        let seen = self.uids.lock();
        let mut owners = Owners::default();
        for uid in &seen.0 {
            owners.users.extend(self.source.user_name(*uid).map(|n| (*uid, n)));
        }
        for gid in &seen.1 {
            owners.groups.extend(self.source.group_name(*gid).map(|n| (*gid, n)));
        }
        self.put_meta(&owners.encode())
    }

    /// Updates the file cache.
    pub(super) async fn keep_for_next(&self, snapshot: ObjectId) -> Result<()> {
        self.previous.clone().keep(snapshot).await
    }

    /// What entries of one directory add up to. Their owners are noted.
    fn sum_up(&self, entries: &[Entry]) -> Summary {
        let mut below = Summary::default();
        let mut seen = self.uids.lock();
        for e in entries {
            below.add(e);
            if !seen.0.contains(&e.meta.uid) {
                seen.0.insert(e.meta.uid);
            }
            if !seen.1.contains(&e.meta.gid) {
                seen.1.insert(e.meta.gid);
            }
        }
        below
    }

    /// An entry for something without contents, as the source has it now.
    pub(super) fn entry(&self, now: &SourceEntry, detail: Detail) -> Entry {
        let links = (now.links > 1 && !matches!(detail, Detail::Directory { .. })).then(|| Links {
            group: self.run.repository().keys().link_group(now.file),
            count: u32::try_from(now.links).unwrap_or(u32::MAX),
        });
        Entry { links, ..Entry::new(now.name.clone(), now.meta.clone(), detail) }
    }
}

/// An entry for a name of which nothing could be learnt.
pub(super) fn missing(name: &[u8], e: &ImportError) -> Entry {
    let meta = Metadata { kind: crate::meta::Kind::Missing, ..Metadata::directory(0) };
    Entry { error: Some(e.to_string()), ..Entry::new(name, meta, Detail::Missing) }
}

/// One entry of a directory in the making.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// The entry, once it is known.
    pub(super) entry: Option<Entry>,
    /// What it must equal for the directory to count as unchanged.
    pub(super) expected: Option<Box<Entry>>,
    /// Its stamp.
    pub(super) stamp: Stamp,
}

/// A directory in the making. Its entries are gathered by pages: what a huge one holds in memory is not its entries but
/// where its pages are.
#[derive(Debug)]
pub(super) struct Directory {
    /// The page of the parent that it is in, and the slot there; `None` for `/`.
    parent: Option<(Arc<Page>, usize)>,
    pub(super) trail: Trail,
    /// Its own entry, without node and summary.
    own: Entry,
    /// Why it could not be listed to its end.
    broken: OnceLock<String>,
    done: Mutex<Done>,
    /// Pages still to be completed, and one for the scan until it has handed everything out.
    pending: AtomicUsize,
    changed: AtomicBool,
    known: Known,
    /// Whether it is kept for the next backup: not the parents of roots, which show only a part.
    cached: bool,
}

/// What is complete of a directory.
#[derive(Debug, Default)]
struct Done {
    /// Of each page, by its number: what became of it, and its record in the file cache.
    pages: BTreeMap<usize, (Vec<tree::Page>, Option<Part>)>,
    below: Summary,
}

/// Entries of a directory in the making that stand together.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) directory: Arc<Directory>,
    number: usize,
    /// The directory has no other.
    all: bool,
    slots: Mutex<Vec<Slot>>,
    /// Slots still to be filled, and one for the scan until it has handed everything out.
    pending: AtomicUsize,
}

/// How a directory begins.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) parent: Option<(Arc<Page>, usize)>,
    pub(super) trail: Trail,
    pub(super) own: Entry,
}

impl Directory {
    /// Begins a directory of which `known` is known.
    pub(super) fn begin(begin: Begin, known: Known) -> Arc<Self> {
        let changed = AtomicBool::new(known.node.is_none());
        Self::new(begin, known, changed, true)
    }

    /// Begins a directory that shows only a part of what it has, or of which nothing is known.
    pub(super) fn partial(begin: Begin) -> Arc<Self> {
        Self::new(begin, Known::default(), AtomicBool::new(true), false)
    }

    fn new(begin: Begin, known: Known, changed: AtomicBool, cached: bool) -> Arc<Self> {
        let Begin { parent, trail, own } = begin;
        let (broken, done, pending) = (OnceLock::new(), Mutex::default(), AtomicUsize::new(1));
        Arc::new(Self { parent, trail, own, broken, done, pending, changed, known, cached })
    }

    /// The absolute path of an entry.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        self.trail.path_of(b"/", name)
    }

    /// It is not what it was.
    pub(super) fn is_changed(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// It could not be listed to its end.
    pub(super) fn is_broken(&self, why: String) {
        self.is_changed();
        let _ = self.broken.set(why);
    }

    /// All pages were begun, at least one.
    pub(super) fn end(&self, assembly: &Assembly) -> Result<()> {
        match self.page_done(assembly)? {
            Some(above) => Page::one_done(above, assembly),
            None => Ok(()),
        }
    }

    /// One page less to wait for. If it was the last one, the directory is complete: gives the page that it is in.
    fn page_done(&self, assembly: &Assembly) -> Result<Option<Arc<Page>>> {
        if self.pending.fetch_sub(1, Ordering::AcqRel) != 1 {
            return Ok(None);
        }
        let entry = self.complete(assembly)?;
        let Some((page, slot)) = &self.parent else {
            *assembly.root.lock() = Some(entry);
            return Ok(None);
        };
        page.put(*slot, entry);
        Ok(Some(page.clone()))
    }

    fn above(&self) -> Option<&Trail> {
        self.parent.as_ref().map(|(page, _)| &page.directory.trail)
    }

    fn complete(&self, assembly: &Assembly) -> Result<Entry> {
        let done = std::mem::take(&mut *self.done.lock());
        let parts: Vec<Part> = done.pages.values().filter_map(|(_, part)| *part).collect();
        let pages: Vec<_> = done.pages.into_values().flat_map(|(pages, _)| pages).collect();
        let node = tree::build::index(pages.iter(), |blob| assembly.put_meta(&blob))?;
        if self.cached {
            if parts.is_empty() {
                assembly.previous.forget_parts(&self.known, &[]);
            } else {
                assembly.previous.stage_huge(&self.trail, self.above(), node, &parts, &self.known);
            }
        }
        // An error of its own may be about its attributes only.
        let partial =
            self.broken.get().is_some() || matches!(self.own.detail, Detail::Directory { partial: true, .. });
        let error = self.broken.get().or(self.own.error.as_ref()).cloned();
        Ok(Entry {
            detail: Detail::Directory { node, below: done.below, partial },
            error,
            ..self.own.clone()
        })
    }
}

impl Drop for Directory {
    /// One after another: a deep chain that let go of itself by recursion would use up the stack.
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(page) = parent.and_then(|(page, _)| Arc::into_inner(page)) {
            parent = Arc::into_inner(page.directory).and_then(|mut directory| directory.parent.take());
        }
    }
}

impl Page {
    /// Begins a page behind those that were begun before.
    pub(super) fn begin(directory: &Arc<Directory>, number: usize, all: bool, slots: Vec<Slot>) -> Arc<Self> {
        directory.pending.fetch_add(1, Ordering::Relaxed);
        let pending = AtomicUsize::new(slots.iter().filter(|s| s.entry.is_none()).count() + 1);
        Arc::new(Self { directory: directory.clone(), number, all, slots: Mutex::new(slots), pending })
    }

    /// Fills a slot.
    pub(super) fn fill(self: &Arc<Self>, assembly: &Assembly, slot: usize, entry: Entry) -> Result<()> {
        self.put(slot, entry);
        self.done(assembly)
    }

    fn put(&self, slot: usize, entry: Entry) {
        let mut slots = self.slots.lock();
        if let Some(s) = slots.get_mut(slot) {
            if s.expected.as_deref() != Some(&entry) {
                self.directory.is_changed();
            }
            s.entry = Some(entry);
        }
    }

    /// One thing less to wait for. The last one completes this page, and with it perhaps its directory and those above.
    pub(super) fn done(self: &Arc<Self>, assembly: &Assembly) -> Result<()> {
        Self::one_done(self.clone(), assembly)
    }

    fn one_done(mut page: Arc<Self>, assembly: &Assembly) -> Result<()> {
        while page.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            page.complete(assembly)?;
            let Some(above) = page.directory.page_done(assembly)? else { break };
            page = above;
        }
        Ok(())
    }

    fn complete(&self, assembly: &Assembly) -> Result<()> {
        let slots = std::mem::take(&mut *self.slots.lock());
        let (mut entries, mut stamps) = (Vec::with_capacity(slots.len()), Vec::with_capacity(slots.len()));
        for slot in slots {
            if let Some(entry) = slot.entry {
                entries.push(entry);
                stamps.push(slot.stamp);
            }
        }
        let below = assembly.sum_up(&entries);
        let directory = &*self.directory;
        let unchanged = !directory.changed.load(Ordering::Relaxed) && assembly.previous.is_trusted();
        // A state that was lost since may have taken the node with it, or pages that a large one names: those are
        // encoded again, which costs little and stores only what is missing.
        let is_reused = |node: &BlobId| {
            self.all && unchanged && entries.len() < tree::build::PAGE_LEAST && assembly.run.is_known(node)
        };
        let pages = match directory.known.node.filter(is_reused) {
            Some(node) => {
                vec![tree::Page { first: Vec::new(), entries: entries.len() as u64, node }]
            }
            None => tree::build::pages(&entries, |blob| assembly.put_meta(&blob))?,
        };
        let mut part = None;
        if directory.cached {
            let previous = &assembly.previous;
            match pages.as_slice() {
                [only] if self.all => {
                    if !unchanged || directory.known.node != Some(only.node) || previous.begins_anew() {
                        previous.stage(&directory.trail, directory.above(), only.node, &entries, &stamps);
                    }
                }
                _ => {
                    part = Some(previous.stage_part(&directory.trail, &directory.known, &entries, &stamps));
                }
            }
        }
        let mut done = directory.done.lock();
        done.below.add_all(&below);
        done.pages.insert(self.number, (pages, part));
        Ok(())
    }
}

/// A regular file being read and its blobs being named, by several threads.
#[derive(Debug)]
pub(super) struct FileInWork {
    page: Arc<Page>,
    slot: usize,
    state: Mutex<FileState>,
    /// Pieces not yet named, and one for the reader until it is done.
    pending: AtomicUsize,
}

#[derive(Debug, Default)]
struct FileState {
    extents: BTreeMap<u64, Extent>,
    entry: Option<Entry>,
}

impl FileInWork {
    pub(super) fn new(page: Arc<Page>, slot: usize) -> Arc<Self> {
        Arc::new(Self { page, slot, state: Mutex::default(), pending: AtomicUsize::new(1) })
    }

    /// One more piece to wait for.
    pub(super) fn expect(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets what covers the file from an offset on.
    pub(super) fn set(&self, offset: u64, extent: Extent) {
        self.state.lock().extents.insert(offset, extent);
    }

    /// The reader is done: this is the entry, but for its contents if they could be read.
    pub(super) fn read(&self, entry: Entry) {
        self.state.lock().entry = Some(entry);
    }

    /// One thing less to wait for; the last one hands the entry to the directory.
    pub(super) fn done(&self, assembly: &Assembly) -> Result<()> {
        if self.pending.fetch_sub(1, Ordering::AcqRel) != 1 {
            return Ok(());
        }
        let state = std::mem::take(&mut *self.state.lock());
        let Some(mut entry) = state.entry else { return Ok(()) };
        if let Detail::Regular(Contents { missing: false, .. }) = entry.detail {
            let extents = state.extents.into_values().collect();
            let contents = tree::build::contents(extents, |blob| assembly.put_meta(&blob))?;
            // Nobody could read it back: better to lose this file, and to say so, than to find that out one day.
            if tree::total(&contents.items) == Ok(entry.meta.size) {
                entry.detail = Detail::Regular(contents);
            } else {
                let reason = "internal error: its pieces do not add up to its size; please report it";
                assembly.report(&self.page.directory.path_of(&entry.name), reason);
                entry.error = Some(reason.into());
                entry.detail = Detail::Regular(Contents { missing: true, ..Contents::default() });
            }
        }
        if entry.error.is_none() {
            let path = self.page.directory.path_of(&entry.name);
            assembly.monitor.event(Event::Entry { path: &path, bytes: entry.meta.size });
        }
        self.page.fill(assembly, self.slot, entry)
    }
}
