//! What the previous backup of the same source knew, so that unchanged files are not read and unchanged directories
//! not encoded: from the file cache, or, where that is missing, from the snapshot's own tree (size and mtime only).
//!
//! A directory is a record of the cache. That of a huge one names its parts, which are records of their own: those that
//! are as they were are not written again, and one at a time is in memory.

use std::collections::{HashSet, VecDeque};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::change::UNTRUSTED;
use super::parent::{Parent, is_same_source, parents};
use crate::blocking::blocking;
use crate::cache::{DirectoryRow, LocalCache};
use crate::crypto::Keyring;
use crate::error::{Error, Result};
use crate::id::{BlobId, ObjectId};
use crate::importer::{SourceEntry, Stamp};
use crate::repository::now_ns;
use crate::repository::writer::Run;
use crate::snapshot::Snapshot;
use crate::trail::Trail;
use crate::tree::{Detail, Directory, Entry, Extent, Page, Summary};
use crate::vfs::Vfs;
use crate::wire::{Put, Reader, WireResult};

const PURPOSE: &str = "file cache, in parts";
const PATHS: &str = "file cache paths";
/// A change within this time of being looked at may not show in the time stamps.
const RACY_NS: i64 = 2_000_000_000;

/// What a record begins with.
const ENTRIES: u8 = 0;
const PARTS: u8 = 1;

/// An entry, with its stamp if that is known.
type Then = (Option<Stamp>, Entry);

/// A part of a huge directory: its record, and a hash of what that says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    row: i64,
    digest: [u8; 16],
}

/// What the file cache holds of a directory.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Its node.
    pub(super) node: Option<BlobId>,
    /// Its parts, if it is a huge one.
    pub(super) parts: Vec<Part>,
}

/// A directory as the previous backup saw it, entry by entry.
#[derive(Debug)]
pub(super) struct Before {
    node: BlobId,
    parts: Vec<Part>,
    entries: std::vec::IntoIter<Then>,
    rest: VecDeque<More>,
}

/// Where further entries are.
#[derive(Debug)]
enum More {
    /// A record of the file cache.
    Row(i64),
    /// A page in the store, among those of its directory.
    Page(Arc<[Page]>, usize),
}

impl Before {
    fn new(node: BlobId, entries: Vec<Then>) -> Self {
        let (parts, rest) = (Vec::new(), VecDeque::new());
        Self { node, parts, entries: entries.into_iter(), rest }
    }

    /// What is known of the directory as a whole.
    pub(super) fn known(&self) -> Known {
        Known { node: Some(self.node), parts: self.parts.clone() }
    }

    /// The next entry, if it is one that is wanted.
    pub(super) fn next_if(
        &mut self,
        previous: &Previous,
        is_wanted: impl Fn(&Entry) -> bool,
    ) -> Option<Then> {
        while self.entries.as_slice().is_empty() {
            self.entries = previous.some(self.rest.pop_front()?).into_iter();
        }
        let is_next = self.entries.as_slice().first().is_some_and(|(_, e)| is_wanted(e));
        is_next.then(|| self.entries.next()).flatten()
    }
}

/// Knows the previous backup, and gathers what the next one should know.
#[derive(Debug)]
pub(super) struct Previous {
    source: [u8; 16],
    key: [u8; 32],
    /// Keys of the sources whose records in the file cache are read, the best first: this one's own, or those of others
    /// that this one has places in common with.
    parents: Vec<[u8; 32]>,
    keys: Arc<Keyring>,
    cache: Arc<LocalCache>,
    run: Arc<Run>,
    /// The snapshot that this source's own records describe, if those can be built on.
    base: Option<ObjectId>,
    /// The states that the index held then.
    states: HashSet<ObjectId>,
    /// Whether all that the store knew when the records were written is known now: none of the states is gone, and nothing
    /// is condemned.
    vouched: bool,
    /// The previous snapshot, if it is live: everything below its nodes is in the store.
    snapshot: Option<Arc<Snapshot>>,
    /// What it holds, if it is of the same places.
    totals: Option<Summary>,
    /// Whether what is below a known node or list may be relied on without looking it up.
    trusted: bool,
    tree: Option<(Vfs, Handle)>,
    staged: Mutex<Staged>,
}

#[derive(Debug)]
struct Staged {
    /// `None` when there is no place for it: then the next backup begins where this one began.
    file: Option<BufWriter<std::fs::File>>,
    rows: u64,
    removed: Vec<i64>,
    /// Records of parts that could not be read.
    lost: HashSet<i64>,
}

impl Previous {
    /// Finds what is known of this source; `snapshot` is the one that is being made.
    pub(super) async fn find(run: &Arc<Run>, snapshot: &Snapshot, parent: Parent) -> Result<Arc<Self>> {
        let repository = run.repository();
        let keys = repository.keys().clone();
        let cache = repository.cache().clone();
        let source = source_hash(&keys, snapshot);
        let cached = cache.sources().unwrap_or_else(|e| {
            tracing::warn!(e = crate::error::report(&e), "the file cache cannot be read");
            Vec::new()
        });
        let parents = parents(parent, source, snapshot, &cached, run.catalog());
        let is_whole = !run.catalog().removals.any_doomed();
        let index = run.index();
        let mut vouched = is_whole;
        let mut own = None;
        for parent in &parents.cached {
            let states = cache.source_states(&parent.source)?;
            vouched &= states.is_subset(index.states());
            if parent.source == source {
                own = Some((parent.snapshot, states));
            }
        }
        let (base, states) = match own {
            Some((base, states)) if vouched => (Some(base), states),
            _ => (None, HashSet::new()),
        };
        let from_tree = parents.cached.is_empty();
        let tree = parents.snapshot.as_ref().filter(|_| from_tree).map(|_| {
            let frames = crate::repository::recent::RecentFrames::new(repository.clone());
            (Vfs::new(repository.clone(), Arc::new(frames)), Handle::current())
        });
        Ok(Arc::new(Self {
            source,
            key: source_key(&keys, &source),
            parents: parents.cached.iter().map(|c| source_key(&keys, &c.source)).collect(),
            vouched: vouched && !from_tree,
            keys,
            cache,
            run: run.clone(),
            base,
            states,
            trusted: parents.snapshot.is_some() && repository.unreadable_states().is_empty(),
            totals: parents.snapshot.as_ref().filter(|s| is_same_source(s, snapshot)).map(|s| s.summary()),
            snapshot: parents.snapshot,
            tree,
            staged: Mutex::new(Staged {
                file: crate::cache::scratch_file().map(BufWriter::new),
                rows: 0,
                removed: Vec::new(),
                lost: HashSet::new(),
            }),
        }))
    }

    /// What the previous snapshot held: what this one will about hold.
    pub(super) fn totals(&self) -> Option<Summary> {
        self.totals
    }

    /// Whether a node may be taken over if it, and all that its entries name, is known.
    pub(super) fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Whether the file cache begins anew, so that unchanged directories must be kept too. It does after a loss: records
    /// of directories that this backup does not come to see would be vouched for by the next one.
    pub(super) fn begins_anew(&self) -> bool {
        self.base.is_none()
    }

    /// Names a directory in the cache. Should two ever share a name, each looks changed in turn and is read again.
    fn hash(&self, path: &[u8]) -> i64 {
        hash(&self.key, path)
    }

    /// What is known of a directory; `node` is what its parent's entry named.
    pub(super) fn directory(&self, path: &[u8], node: Option<BlobId>) -> Option<Before> {
        if let (Some((vfs, handle)), Some(node)) = (&self.tree, node) {
            let unstamped = |entries: Vec<Entry>| entries.into_iter().map(|e| (None, e)).collect();
            return match handle.block_on(vfs.directory(node)) {
                Ok(Directory::Node(entries)) => Some(Before::new(node, unstamped(entries))),
                Ok(Directory::Pages(pages)) => {
                    let pages: Arc<[Page]> = pages.into();
                    let rest = (0..pages.len()).map(|i| More::Page(pages.clone(), i)).collect();
                    Some(Before { rest, ..Before::new(node, Vec::new()) })
                }
                Err(e) => {
                    self.cannot_read(&e);
                    None
                }
            };
        }
        let (key, record) = self.parents.iter().find_map(|key| Some((key, self.record(hash(key, path))?)))?;
        match record {
            Record::Entries(node, entries) => Some(Before::new(node, entries)),
            Record::Parts(node, parts) => {
                let rest = parts.iter().map(|p| More::Row(p.row)).collect();
                // Another source's are left to that one.
                let parts = if *key == self.key { parts } else { Vec::new() };
                Some(Before { parts, rest, ..Before::new(node, Vec::new()) })
            }
        }
    }

    /// Some entries of a huge directory; none of what cannot be read, which then looks new.
    fn some(&self, more: More) -> Vec<Then> {
        match (more, &self.tree) {
            (More::Row(row), _) => match self.record(row) {
                Some(Record::Entries(_, entries)) => entries,
                _ => {
                    self.staged.lock().lost.insert(row);
                    Vec::new()
                }
            },
            (More::Page(pages, i), Some((vfs, handle))) => match handle.block_on(vfs.page(&pages, i)) {
                Ok(entries) => entries.into_iter().map(|e| (None, e)).collect(),
                Err(e) => {
                    self.cannot_read(&e);
                    Vec::new()
                }
            },
            (More::Page(..), None) => Vec::new(),
        }
    }

    fn cannot_read(&self, e: &Error) {
        tracing::warn!(%e, "the previous snapshot cannot be read here; files are read again");
    }

    /// A record of the file cache.
    fn record(&self, row: i64) -> Option<Record> {
        let record = match self.cache.directory_record(row) {
            Ok(r) => r?,
            Err(e) => {
                tracing::debug!(%e, "file cache");
                return None;
            }
        };
        let clear = self.keys.open_local(PURPOSE, &record).ok()?;
        decode(&clear).ok()
    }

    /// The root node of the previous snapshot, where its tree is walked.
    pub(super) fn root(&self) -> Option<BlobId> {
        self.tree.as_ref()?;
        self.snapshot.as_ref()?.root.directory().map(|(node, _)| node)
    }

    /// Whether all contents of an entry are in the store; `known` tells it of a blob.
    pub(super) fn has_contents(&self, then: &Entry, known: impl Fn(&BlobId) -> bool) -> bool {
        match &then.detail {
            // What is below a list can only be trusted, not looked up without reading it.
            Detail::Regular(c) if c.level > 0 && !self.trusted => false,
            Detail::Regular(_) if self.vouched => true,
            Detail::Regular(c) => c.items.iter().filter_map(|Extent { id, .. }| id.as_ref()).all(known),
            _ => true,
        }
    }

    /// Whether a directory's own attributes are as they were; what is in it may have changed all the same.
    pub(super) fn is_untouched(&self, stamp: Option<Stamp>, then: &Entry, now: &SourceEntry) -> bool {
        then.error.is_none() && stamp.is_some_and(|s| s.ctime_ns != UNTRUSTED && s == now.stamp)
    }

    /// Keeps the record of a directory that is no huge one for the next backup; `above` is its parent.
    pub(super) fn stage(
        &self,
        trail: &Trail,
        above: Option<&Trail>,
        node: BlobId,
        entries: &[Entry],
        stamps: &[Stamp],
    ) {
        let parent = above.map_or_else(Vec::new, |above| above.path(b"/"));
        let row = self.hash(&trail.path(b"/"));
        self.stage_record(row, self.hash(&parent), &encode(node, entries, stamps));
    }

    /// Keeps a part of a huge directory, unless it is as it was.
    pub(super) fn stage_part(
        &self,
        trail: &Trail,
        known: &Known,
        entries: &[Entry],
        stamps: &[Stamp],
    ) -> Part {
        let directory = trail.path(b"/");
        let first = entries.first().map_or(&b""[..], |e| &e.name);
        // No path has a NUL in it.
        let row = self.hash(&[&directory, &b"\0"[..], first].concat());
        let clear = encode(BlobId([0; 32]), entries, stamps);
        let part = Part { row, digest: first_bytes(&blake3::hash(&clear)) };
        let is_lost = || self.staged.lock().lost.contains(&row);
        if self.begins_anew() || !known.parts.contains(&part) || is_lost() {
            self.stage_record(row, self.hash(&directory), &clear);
        }
        part
    }

    /// Keeps the record of a huge directory, all parts of which are kept. Parts that it no longer has are forgotten.
    pub(super) fn stage_huge(
        &self,
        trail: &Trail,
        above: Option<&Trail>,
        node: BlobId,
        parts: &[Part],
        known: &Known,
    ) {
        if self.begins_anew() || known.node != Some(node) || known.parts != parts {
            let mut clear = vec![PARTS];
            clear.extend_from_slice(&node.0);
            clear.put_uv(parts.len() as u64);
            for part in parts {
                clear.extend_from_slice(&part.row.to_le_bytes());
                clear.extend_from_slice(&part.digest);
            }
            let parent = above.map_or_else(Vec::new, |above| above.path(b"/"));
            self.stage_record(self.hash(&trail.path(b"/")), self.hash(&parent), &clear);
        }
        self.forget_parts(known, parts);
    }

    /// Forgets parts of a directory that it no longer has.
    pub(super) fn forget_parts(&self, known: &Known, parts: &[Part]) {
        if known.parts.is_empty() {
            return;
        }
        let now: HashSet<i64> = parts.iter().map(|p| p.row).collect();
        let gone = known.parts.iter().map(|p| p.row).filter(|row| !now.contains(row));
        self.staged.lock().removed.extend(gone);
    }

    fn stage_record(&self, row: i64, parent: i64, clear: &[u8]) {
        let sealed = self.keys.seal_local(PURPOSE, clear);
        let mut head = Vec::with_capacity(20);
        head.extend_from_slice(&row.to_le_bytes());
        head.extend_from_slice(&parent.to_le_bytes());
        head.put_u32(sealed.len() as u32);
        let mut staged = self.staged.lock();
        let Some(file) = &mut staged.file else { return };
        match file.write_all(&head).and_then(|()| file.write_all(&sealed)) {
            Ok(()) => staged.rows += 1,
            Err(e) => {
                tracing::warn!(%e, "no room for what the next backup should know; it is slower");
                // Dropped as it is: what is left in its buffer would fail again.
                staged.file.take().map(BufWriter::into_parts);
            }
        }
    }

    /// Forgets a directory and all below it.
    pub(super) fn forget(&self, path: &[u8]) {
        let hash = self.hash(path);
        self.staged.lock().removed.push(hash);
    }

    /// Writes what was gathered into the file cache, as that of a snapshot; not if another backup of the same source has
    /// done so in the meantime, since its records and ours would mix.
    pub(super) async fn keep(self: Arc<Self>, snapshot: ObjectId) -> Result<()> {
        blocking(move || {
            let mut staged = self.staged.lock();
            let io = |e| Error::io("read back from", &std::env::temp_dir(), e);
            let Some(file) = &mut staged.file else { return Ok(()) };
            file.flush().map_err(io)?;
            let file = file.get_mut();
            file.seek(SeekFrom::Start(0)).map_err(io)?;
            let mut file = BufReader::new(file.try_clone().map_err(io)?);
            let rows = (0..staged.rows).map(move |_| read_row(&mut file).map_err(io));
            let base = self.base;
            let index = self.run.index();
            let states = index.states().iter().filter(|s| base.is_none() || !self.states.contains(s));
            self.cache.update_source(&self.source, snapshot, base, states, &staged.removed, rows)
        })
        .await
    }
}

/// Names a source in the file cache.
fn source_hash(keys: &Keyring, snapshot: &Snapshot) -> [u8; 16] {
    let mut v = Vec::new();
    v.put_bytes(snapshot.source.as_bytes());
    v.put_bytes(snapshot.origin.as_bytes());
    snapshot.roots.iter().for_each(|r| v.put_bytes(r));
    first_bytes(&blake3::keyed_hash(&keys.local(PATHS), &v))
}

/// What paths of a source are hashed with: of its own, so that the same path of two sources is not the same directory.
fn source_key(keys: &Keyring, source: &[u8; 16]) -> [u8; 32] {
    *blake3::keyed_hash(&keys.local(PATHS), source).as_bytes()
}

fn hash(key: &[u8; 32], path: &[u8]) -> i64 {
    i64::from_le_bytes(first_bytes(&blake3::keyed_hash(key, path)))
}

fn read_row(file: &mut impl Read) -> std::io::Result<DirectoryRow> {
    let (mut directory, mut parent, mut length) = ([0; 8], [0; 8], [0; 4]);
    file.read_exact(&mut directory)?;
    file.read_exact(&mut parent)?;
    file.read_exact(&mut length)?;
    let mut record = vec![0; u32::from_le_bytes(length) as usize];
    file.read_exact(&mut record)?;
    Ok((i64::from_le_bytes(directory), i64::from_le_bytes(parent), record))
}

/// What a record says.
enum Record {
    /// The entries of a directory, or of a part of one.
    Entries(BlobId, Vec<Then>),
    /// The parts of a huge directory.
    Parts(BlobId, Vec<Part>),
}

fn encode(node: BlobId, entries: &[Entry], stamps: &[Stamp]) -> Vec<u8> {
    let now = now_ns();
    let mut clear = Vec::with_capacity(64 + entries.len() * 96);
    clear.push(ENTRIES);
    clear.extend_from_slice(&node.0);
    clear.put_uv(entries.len() as u64);
    for (entry, stamp) in entries.iter().zip(stamps) {
        let racy = stamp.ctime_ns > now - RACY_NS;
        clear.put_iv(if racy { UNTRUSTED } else { stamp.ctime_ns });
        clear.put_uv(stamp.inode);
        clear.put_uv(stamp.volume);
        entry.encode(&mut clear);
    }
    clear
}

fn decode(bytes: &[u8]) -> WireResult<Record> {
    let mut r = Reader::new(bytes);
    let kind = r.u8()?;
    let node = BlobId(r.array()?);
    let record = if kind == PARTS {
        let n = r.count(u64::MAX, 24, "parts")?;
        let part = |_| Ok(Part { row: i64::from_le_bytes(r.array()?), digest: r.array()? });
        Record::Parts(node, (0..n).map(part).collect::<WireResult<_>>()?)
    } else {
        let n = r.count(u64::MAX, 12, "entries")?;
        let mut entries = Vec::with_capacity(n);
        for _ in 0..n {
            let stamp = Stamp { ctime_ns: r.iv()?, inode: r.uv()?, volume: r.uv()? };
            entries.push((Some(stamp), Entry::decode_next(&mut r)?));
        }
        Record::Entries(node, entries)
    };
    r.end()?;
    Ok(record)
}

fn first_bytes<const N: usize>(hash: &blake3::Hash) -> [u8; N] {
    hash.as_bytes().first_chunk().copied().unwrap_or([0; N])
}
