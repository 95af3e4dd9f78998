//! Assembling the tree: a directory waits for its entries, which come from any thread in any order; the last one
//! completes it, which may complete its parent, up to the root.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::previous::Previous;
use crate::chunker::Chunker;
use crate::crypto::Class;
use crate::error::{Error, Result};
use crate::id::{BlobId, ObjectId};
use crate::importer::{ImportError, Importer, SourceEntry, Stamp};
use crate::meta::Metadata;
use crate::monitor::{Event, Monitor};
use crate::ops::Cancel;
use crate::repository::writer::{Framer, Run};
use crate::tree::{self, Contents, Detail, Entry, Extent, Links, Owners, Summary};

/// What the stages of one backup share.
pub(super) struct Assembly {
    pub(super) run: Arc<Run>,
    pub(super) source: Arc<dyn Importer>,
    pub(super) monitor: Arc<dyn Monitor>,
    pub(super) cancel: Cancel,
    pub(super) previous: Arc<Previous>,
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
        previous: Previous,
    ) -> Result<Self> {
        let repository = run.repository();
        Ok(Self {
            source,
            monitor,
            cancel,
            previous: Arc::new(previous),
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
            self.meta.lock().unwrap_or_else(PoisonError::into_inner).push(&self.run, id, blob)?;
        }
        Ok(id)
    }

    /// Sends the last metadata on its way.
    pub(super) fn flush(&self) -> Result<()> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner).flush(&self.run)
    }

    /// Reports a path that is not backed up whole.
    pub(super) fn report(&self, path: &[u8], reason: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.monitor.event(Event::Failed { path, reason });
    }

    /// The entry of `/`, when all is done.
    pub(super) fn take_root(&self) -> Result<Entry> {
        self.root
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or(Error::Bug("the tree is not complete"))
    }

    /// Stores the owner table.
    pub(super) fn owners(&self) -> Result<BlobId> {
        let seen = self.uids.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// An entry for something without contents, as the source has it now.
    pub(super) fn entry(&self, now: &SourceEntry, detail: Detail) -> Entry {
        let links = (now.links > 1 && !matches!(detail, Detail::Directory { .. })).then(|| Links {
            group: self.run.repository().keys().link_group(now.stamp.device, now.stamp.inode),
            count: u32::try_from(now.links).unwrap_or(u32::MAX),
        });
        Entry { name: now.name.clone(), meta: now.meta.clone(), detail, xattrs: vec![], links, error: None }
    }
}

/// An entry for a name of which nothing could be learnt.
pub(super) fn missing(name: &[u8], e: &ImportError) -> Entry {
    let meta = Metadata { kind: crate::meta::Kind::Missing, ..Metadata::directory(0) };
    Entry {
        name: name.to_vec(),
        meta,
        detail: Detail::Missing,
        xattrs: vec![],
        links: None,
        error: Some(e.to_string()),
    }
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

/// A directory in the making.
#[derive(Debug)]
pub(super) struct Directory {
    /// The parent, and the slot there; `None` for `/`.
    parent: Option<(Arc<Self>, usize)>,
    pub(super) path: Vec<u8>,
    /// Its own entry, without node and summary.
    own: Entry,
    slots: Mutex<Vec<Slot>>,
    /// Slots still to be filled, and one for the scan until it has handed everything out.
    pending: AtomicUsize,
    changed: AtomicBool,
    /// Its node at the previous backup.
    node: Option<BlobId>,
    /// Whether it is kept for the next one: not the parents of roots, which show only a part.
    cached: bool,
}

/// How a directory begins.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) parent: Option<(Arc<Directory>, usize)>,
    pub(super) path: Vec<u8>,
    pub(super) own: Entry,
    pub(super) slots: Vec<Slot>,
    pub(super) changed: bool,
    pub(super) node: Option<BlobId>,
    pub(super) cached: bool,
}

impl Directory {
    pub(super) fn begin(begin: Begin) -> Arc<Self> {
        let pending = begin.slots.iter().filter(|s| s.entry.is_none()).count() + 1;
        Arc::new(Self {
            parent: begin.parent,
            path: begin.path,
            own: begin.own,
            slots: Mutex::new(begin.slots),
            pending: AtomicUsize::new(pending),
            changed: AtomicBool::new(begin.changed),
            node: begin.node,
            cached: begin.cached,
        })
    }

    /// The absolute path of an entry.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        join(&self.path, name)
    }

    /// Fills a slot.
    pub(super) fn fill(self: &Arc<Self>, assembly: &Assembly, slot: usize, entry: Entry) -> Result<()> {
        self.put(slot, entry);
        self.done(assembly)
    }

    fn put(&self, slot: usize, entry: Entry) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(s) = slots.get_mut(slot) {
            if s.expected.as_deref() != Some(&entry) {
                self.changed.store(true, Ordering::Relaxed);
            }
            s.entry = Some(entry);
        }
    }

    /// One thing less to wait for. The last one completes this directory, and, through it, perhaps its parents.
    pub(super) fn done(self: &Arc<Self>, assembly: &Assembly) -> Result<()> {
        let mut directory = self.clone();
        while directory.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            let entry = directory.complete(assembly)?;
            let Some((parent, slot)) = &directory.parent else {
                *assembly.root.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry);
                return Ok(());
            };
            parent.put(*slot, entry);
            directory = parent.clone();
        }
        Ok(())
    }

    fn complete(&self, assembly: &Assembly) -> Result<Entry> {
        let slots = std::mem::take(&mut *self.slots.lock().unwrap_or_else(PoisonError::into_inner));
        let (mut entries, mut stamps) = (Vec::with_capacity(slots.len()), Vec::with_capacity(slots.len()));
        for slot in slots {
            if let Some(entry) = slot.entry {
                entries.push(entry);
                stamps.push(slot.stamp);
            }
        }
        let mut below = Summary::default();
        {
            let mut seen = assembly.uids.lock().unwrap_or_else(PoisonError::into_inner);
            for e in &entries {
                below.add(e);
                if !seen.0.contains(&e.meta.uid) {
                    seen.0.insert(e.meta.uid);
                }
                if !seen.1.contains(&e.meta.gid) {
                    seen.1.insert(e.meta.gid);
                }
            }
        }
        let unchanged = !self.changed.load(Ordering::Relaxed) && assembly.previous.is_trusted();
        // A state that was lost since may have taken the node with it, or pages that a large one names: those are
        // encoded again, which costs little and stores only what is missing.
        let reused = match self.node {
            Some(node)
                if unchanged && entries.len() < tree::build::PAGE_LEAST && assembly.run.is_known(&node) =>
            {
                Some(node)
            }
            _ => None,
        };
        let node = match reused {
            Some(node) => node,
            None => {
                let key = assembly.run.repository().keys().chunker();
                tree::build::directory(&entries, key, |blob| assembly.put_meta(&blob))?
            }
        };
        if self.cached && (!unchanged || self.node != Some(node) || assembly.previous.begins_anew()) {
            let parent = self.parent.as_ref().map_or(&b""[..], |(p, _)| &p.path);
            assembly.previous.stage(&self.path, parent, node, &entries, &stamps);
        }
        Ok(Entry { detail: Detail::Directory { node, below }, ..self.own.clone() })
    }
}

/// `parent/name`.
pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + name.len() + 1);
    path.extend_from_slice(parent);
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// A regular file being read and its blobs being named, by several threads.
#[derive(Debug)]
pub(super) struct FileInWork {
    directory: Arc<Directory>,
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
    pub(super) fn new(directory: Arc<Directory>, slot: usize) -> Arc<Self> {
        Arc::new(Self { directory, slot, state: Mutex::default(), pending: AtomicUsize::new(1) })
    }

    /// One more piece to wait for.
    pub(super) fn expect(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets what covers the file from an offset on.
    pub(super) fn set(&self, offset: u64, extent: Extent) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).extents.insert(offset, extent);
    }

    /// The reader is done: this is the entry, but for its contents if they could be read.
    pub(super) fn read(&self, entry: Entry) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).entry = Some(entry);
    }

    /// One thing less to wait for; the last one hands the entry to the directory.
    pub(super) fn done(&self, assembly: &Assembly) -> Result<()> {
        if self.pending.fetch_sub(1, Ordering::AcqRel) != 1 {
            return Ok(());
        }
        let state = std::mem::take(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(mut entry) = state.entry else { return Ok(()) };
        if let Detail::Regular(Contents { missing: false, .. }) = entry.detail {
            let extents = state.extents.into_values().collect();
            entry.detail = Detail::Regular(tree::build::contents(extents, |blob| assembly.put_meta(&blob))?);
        }
        if entry.error.is_none() {
            let path = self.directory.path_of(&entry.name);
            assembly.monitor.event(Event::Entry { path: &path, bytes: entry.meta.size });
        }
        self.directory.fill(assembly, self.slot, entry)
    }
}
