//! The index of a store: where every blob is. A set of local segments that together hold the states which the store
//! lists; segments of states that it lists no more are thrown away with them.

use crate::blocking::blocking;
use crate::error::{Error, Result, is_damage};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::segment::{self, Segment, SegmentKey, SegmentWriter};
use super::states::{IntoRows, Rows, StateReader};
use crate::crypto::{DataKey, Keyring};
use crate::frame_source::{FrameRef, Located};
use crate::id::{BlobId, ObjectId};
use crate::removal::Removals;
use crate::state::PackfileRecord;
use crate::storage::{Listed, Store};
use parking_lot::Mutex;

/// States shorter than this, in clear, are gathered in memory before they become a segment.
const SMALL_STATE: u64 = 8 << 20;
/// A batch of them is written when it has grown to this.
const BATCH: usize = 16 << 20;
/// Segments are merged so that each is at least so many times the size of all smaller ones.
const RATIO: u64 = 2;

/// Where blobs are, according to a set of states. Immutable; a newer one replaces it.
#[derive(Debug)]
pub struct Index {
    directory: PathBuf,
    key: SegmentKey,
    segments: Vec<Arc<Segment>>,
    states: HashSet<ObjectId>,
}

/// Data keys that were unwrapped, by id.
pub(crate) type DataKeys = Mutex<HashMap<[u8; 16], Arc<DataKey>>>;

impl Index {
    /// Brings the local segments up to the states that the store lists, and opens them. States that cannot be read
    /// are returned beside: what they name is unknown, the rest works.
    ///
    /// `thorough` verifies every block of the local files first.
    pub(super) async fn load(
        directory: &Path,
        store: &Arc<dyn Store>,
        keys: &Arc<Keyring>,
        listed: &[Listed],
        thorough: bool,
    ) -> Result<(Self, Vec<(ObjectId, Error)>)> {
        let key = SegmentKey::new(keys);
        let wanted: HashMap<ObjectId, Listed> = listed.iter().map(|l| (l.id, *l)).collect();
        let (mut segments, stale) = {
            let (directory, key) = (directory.to_owned(), key.clone());
            let ids: HashSet<ObjectId> = wanted.keys().copied().collect();
            blocking(move || Ok(choose(&directory, &key, &ids, thorough))).await?
        };
        for path in stale {
            // Another process may have removed it already; a file that stays is only tried again.
            let _ = std::fs::remove_file(path);
        }
        let covered: HashSet<ObjectId> = segments.iter().flat_map(|s| s.states()).copied().collect();
        let mut missing: Vec<Listed> =
            wanted.values().filter(|l| !covered.contains(&l.id)).copied().collect();
        missing.sort_unstable_by_key(|l| l.id);
        let mut unreadable = Vec::new();
        let mut batch = Rows::default();
        let mut opened = futures::stream::StreamExt::buffered(
            futures::stream::iter(
                missing.into_iter().map(|l| async move { (l.id, StateReader::open(store, keys, l).await) }),
            ),
            8,
        );
        while let Some((id, reader)) = futures::stream::StreamExt::next(&mut opened).await {
            let read = async {
                let reader = reader?;
                if reader.bytes() > SMALL_STATE {
                    let blobs = reader.head.table(crate::state::Table::Blobs).records;
                    let mut out = SegmentWriter::create(directory, &key, blobs)?;
                    out.push_state(&id)?;
                    reader.read(keys, &mut out).await?;
                    segments.push(Arc::new(out.finish()?));
                } else {
                    // Into a batch of its own first: a state that fails half-way must leave nothing behind.
                    let mut one = Rows::default();
                    reader.read(keys, &mut IntoRows::new(&mut one, id)).await?;
                    batch.append(one);
                }
                Ok(())
            };
            match read.await {
                Ok(()) => {}
                Err(e) if is_damage(&e) || matches!(e, Error::Newer { .. }) => {
                    unreadable.push((id, e));
                }
                Err(e) => return Err(e),
            }
            if batch.bytes() > BATCH {
                segments.push(Arc::new(std::mem::take(&mut batch).into_segment(directory, &key)?));
            }
        }
        if !batch.states.is_empty() {
            segments.push(Arc::new(batch.into_segment(directory, &key)?));
        }
        let directory = directory.to_owned();
        let index = blocking(move || {
            let segments = compact(&directory, &key, segments);
            match segments.iter().find(|s| s.is_damaged()) {
                Some(s) => Err(Error::DamagedIndex { path: s.path().display().to_string() }),
                None => Ok(Self::new(directory, key, segments)),
            }
        });
        Ok((index.await?, unreadable))
    }

    fn new(directory: PathBuf, key: SegmentKey, segments: Vec<Arc<Segment>>) -> Self {
        let states = segments.iter().flat_map(|s| s.states()).copied().collect();
        Self { directory, key, segments, states }
    }

    /// This index and what a run has just written as a state.
    pub(super) fn with(&self, batch: Rows) -> Result<Self> {
        let mut segments = self.segments.clone();
        segments.push(Arc::new(batch.into_segment(&self.directory, &self.key)?));
        let segments = compact(&self.directory, &self.key, segments);
        Ok(Self::new(self.directory.clone(), self.key.clone(), segments))
    }

    pub(super) fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// The states it holds.
    pub fn states(&self) -> &HashSet<ObjectId> {
        &self.states
    }

    /// Number of blobs (one that stands in several packfiles counts as often).
    pub fn blobs(&self) -> u64 {
        self.segments.iter().map(|s| s.blobs()).sum()
    }

    /// Number of packfiles.
    pub fn packfiles(&self) -> u64 {
        self.segments.iter().map(|s| s.packfiles()).sum()
    }

    /// Bytes of its local files.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes()).sum()
    }

    /// Whether a blob has a location that may be relied on: in a packfile that is not condemned or gone. A damaged
    /// local file knows nothing: at worst a blob is stored twice.
    pub fn is_known(&self, id: &BlobId, removals: &Removals) -> bool {
        let is_sound = |s: &Segment, frame: u32| {
            !removals.any_doomed() || s.packfile_of(frame.into()).is_ok_and(|p| !removals.is_doomed(&p.id))
        };
        self.segments
            .iter()
            .filter(|s| s.may_hold(id))
            .any(|s| s.find(id).map_while(Result::ok).any(|(_, record)| is_sound(s, record.frame)))
    }

    /// Every packfile, once.
    pub fn all_packfiles(&self) -> Result<Vec<PackfileRecord>> {
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        for s in &self.segments {
            for i in 0..s.packfiles() {
                let p = s.packfile(i)?;
                if seen.insert(p.id) {
                    all.push(p);
                }
            }
        }
        Ok(all)
    }

    /// The row of a blob: in a packfile that is not doomed, if there is one.
    pub(crate) fn row(&self, id: &BlobId, removals: &Removals) -> Result<Option<Row>> {
        let mut otherwise = None;
        for (segment, s) in self.segments.iter().enumerate() {
            for found in s.find(id) {
                let (row, record) = found?;
                let doomed =
                    removals.any_doomed() && removals.is_doomed(&s.packfile_of(record.frame.into())?.id);
                if !doomed {
                    return Ok(Some(Row { segment, row }));
                }
                otherwise = otherwise.or(Some(Row { segment, row }));
            }
        }
        Ok(otherwise)
    }

    /// What every packfile holds, and how much of that is marked.
    pub(crate) fn weigh(&self, marks: &Marks) -> Result<HashMap<ObjectId, Weight>> {
        let mut all: HashMap<ObjectId, Weight> = HashMap::new();
        for (s, marks) in self.segments.iter().zip(&marks.0) {
            let records: Vec<PackfileRecord> =
                (0..s.packfiles()).map(|i| s.packfile(i)).collect::<Result<_>>()?;
            let mut sums = vec![(0_u64, 0_u64); records.len()];
            for row in 0..s.blobs() {
                let blob = s.blob(row)?;
                let i = records.partition_point(|p| p.first_frame <= blob.frame);
                let Some((live, bytes)) = i.checked_sub(1).and_then(|i| sums.get_mut(i)) else { continue };
                *bytes += u64::from(blob.len);
                if marks[(row / 64) as usize] & 1 << (row % 64) != 0 {
                    *live += u64::from(blob.len);
                }
            }
            for (record, (live, bytes)) in records.into_iter().zip(sums) {
                // States that say the same, one of them about to replace the other, say it of the same bytes; each blob
                // is marked in one of them.
                let weight = all.entry(record.id).or_insert(Weight { record, live: 0, bytes: 0 });
                weight.live += live;
                weight.bytes = weight.bytes.max(bytes);
            }
        }
        Ok(all)
    }

    /// Of the marked rows those whose packfile is chosen.
    pub(crate) fn marked_in(&self, marks: &Marks, packfiles: &HashSet<ObjectId>) -> Result<Marks> {
        let mut chosen = self.marks();
        for (segment, s) in self.segments.iter().enumerate() {
            let records: Vec<PackfileRecord> =
                (0..s.packfiles()).map(|i| s.packfile(i)).collect::<Result<_>>()?;
            let is_chosen: Vec<bool> = records.iter().map(|p| packfiles.contains(&p.id)).collect();
            if !is_chosen.contains(&true) {
                continue;
            }
            for row in marks.rows_of(segment) {
                let frame = s.blob(row.row)?.frame;
                let i = records.partition_point(|p| p.first_frame <= frame);
                if i.checked_sub(1).is_some_and(|i| is_chosen[i]) {
                    chosen.mark(row);
                }
            }
        }
        Ok(chosen)
    }

    /// The packfiles of the marked rows.
    pub(crate) fn packfiles_of(&self, marks: &Marks) -> Result<HashSet<ObjectId>> {
        let mut found = HashSet::new();
        for (segment, s) in self.segments.iter().enumerate() {
            for Row { row, .. } in marks.rows_of(segment) {
                found.insert(s.packfile_of(s.blob(row)?.frame.into())?.id);
            }
        }
        Ok(found)
    }

    /// Every packfile that holds one of the marked blobs.
    pub(crate) fn copies(&self, marks: &Marks) -> Result<HashSet<ObjectId>> {
        let mut found = HashSet::new();
        for (segment, s) in self.segments.iter().enumerate() {
            for Row { row, .. } in marks.rows_of(segment) {
                let id = s.blob(row)?.id;
                for s in self.segments.iter().filter(|s| s.may_hold(&id)) {
                    for copy in s.find(&id) {
                        found.insert(s.packfile_of(copy?.1.frame.into())?.id);
                    }
                }
            }
        }
        Ok(found)
    }

    /// The length of a blob.
    pub(crate) fn length(&self, row: Row) -> Result<u32> {
        Ok(self.segments[row.segment].blob(row.row)?.len)
    }

    /// Marks for every row.
    pub(crate) fn marks(&self) -> Marks {
        Marks(self.segments.iter().map(|s| vec![0; s.blobs().div_ceil(64) as usize]).collect())
    }

    /// The marked rows in the order in which their frames are stored, by packfile. In memory are those of one segment at
    /// a time, 8 bytes each.
    pub(crate) fn in_stored_order(&self, marks: &Marks) -> impl Iterator<Item = Result<Row>> {
        self.segments.iter().enumerate().flat_map(|(segment, s)| {
            let (order, failure) = match by_frame(s, marks, segment) {
                Ok(order) => (order, None),
                Err(e) => (Vec::new(), Some(Err(e))),
            };
            let rows = order.into_iter().map(move |(_, row)| Ok(Row { segment, row: row.into() }));
            failure.into_iter().chain(rows)
        })
    }

    /// What blobs are ordered by when they are read as they are stored: segment, frame, place in the frame.
    pub(crate) fn stored_at(&self, row: Row) -> Result<(usize, u32, u32)> {
        let record = self.segments[row.segment].blob(row.row)?;
        Ok((row.segment, record.frame, record.offset))
    }

    /// The number of the frame that a blob begins in, and up to `count` frames that are stored in its packfile from
    /// there on.
    pub(crate) fn stored_from(
        &self,
        row: Row,
        count: usize,
        keys: &Keyring,
        data_keys: &DataKeys,
    ) -> Result<(u64, Vec<FrameRef>)> {
        let s = &self.segments[row.segment];
        let first = u64::from(s.blob(row.row)?.frame);
        let pack = s.packfile_of(first)?;
        let key = data_key(s, &pack, keys, data_keys)?;
        let end = u64::from(pack.first_frame) + u64::from(pack.frames);
        let frame = |i| {
            let record = s.frame(i)?;
            Ok(FrameRef { packfile: pack.id, class: pack.class, record, key: key.clone() })
        };
        let frames: Result<_> = (first..end.min(first + count as u64)).map(frame).collect();
        Ok((first - u64::from(pack.first_frame), frames?))
    }

    /// Where a blob is, and its id.
    pub(crate) fn locate_row(
        &self,
        row: Row,
        keys: &Keyring,
        data_keys: &DataKeys,
    ) -> Result<(BlobId, Located)> {
        let s = &self.segments[row.segment];
        let record = s.blob(row.row)?;
        let pack = s.packfile_of(record.frame.into())?;
        let key = data_key(s, &pack, keys, data_keys)?;
        let mut frames = Vec::new();
        let mut clear = 0;
        let mut row = u64::from(record.frame);
        let end = u64::from(pack.first_frame) + u64::from(pack.frames);
        loop {
            let f = s.frame(row)?;
            clear += f.clear;
            frames.push(FrameRef { packfile: pack.id, class: pack.class, record: f, key: key.clone() });
            row += 1;
            if !record.sliced || clear >= record.len || row >= end {
                break;
            }
        }
        Ok((record.id, Located { class: record.class, frames, offset: record.offset, len: record.len }))
    }
}

/// The marked rows of a segment, each behind its frame, sorted.
fn by_frame(s: &Segment, marks: &Marks, segment: usize) -> Result<Vec<(u32, u32)>> {
    let count = marks.0[segment].iter().map(|bits| bits.count_ones() as usize).sum();
    let mut order = Vec::with_capacity(count);
    for Row { row, .. } in marks.rows_of(segment) {
        order.push((s.blob(row)?.frame, row as u32));
    }
    order.sort_unstable();
    Ok(order)
}

/// The key that opens a packfile's frames.
fn data_key(
    s: &Segment,
    pack: &PackfileRecord,
    keys: &Keyring,
    data_keys: &DataKeys,
) -> Result<Arc<DataKey>> {
    let wrapped = s.wrapped_key(pack.key.into())?;
    let name = wrapped.first_chunk().copied().unwrap_or_default();
    let mut cache = data_keys.lock();
    if let Some(key) = cache.get(&name) {
        return Ok(key.clone());
    }
    let object = crate::storage::ObjectName::new(crate::packfile::area_of(pack.class), pack.id);
    let key = Arc::new(keys.unwrap(&wrapped).map_err(|e| Error::damaged(object, e))?);
    cache.insert(name, key.clone());
    Ok(key)
}

/// A row of the blob tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    segment: usize,
    row: u64,
}

/// What a packfile holds, in clear bytes of blobs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    /// The packfile.
    pub(crate) record: PackfileRecord,
    /// Bytes of blobs that are marked.
    pub(crate) live: u64,
    /// Bytes of all its blobs.
    pub(crate) bytes: u64,
}

/// One bit for each row of an index.
#[derive(Clone, Debug)]
pub(crate) struct Marks(Vec<Vec<u64>>);

impl Marks {
    /// Marks a row; whether it was not marked before.
    pub(crate) fn mark(&mut self, row: Row) -> bool {
        let word = &mut self.0[row.segment][(row.row / 64) as usize];
        let bit = 1 << (row.row % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Whether none is marked.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().flatten().all(|word| *word == 0)
    }

    fn rows_of(&self, segment: usize) -> impl Iterator<Item = Row> {
        let words = self.0.get(segment).into_iter().flatten().enumerate().filter(|(_, bits)| **bits != 0);
        words.flat_map(move |(word, bits)| {
            let set = (0..64).filter(move |bit| bits >> bit & 1 == 1);
            set.map(move |bit| Row { segment, row: word as u64 * 64 + bit })
        })
    }

    /// Takes a mark away.
    pub(crate) fn unmark(&mut self, row: Row) {
        self.0[row.segment][(row.row / 64) as usize] &= !(1 << (row.row % 64));
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().flatten().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether a row is marked.
    pub(crate) fn is_marked(&self, row: Row) -> bool {
        self.0[row.segment][(row.row / 64) as usize] & 1 << (row.row % 64) != 0
    }
}

impl Rows {
    fn append(&mut self, other: Self) {
        let (keys, frames) = (self.keys.len() as u32, self.frames.len() as u32);
        self.states.extend(other.states);
        self.keys.extend(other.keys);
        self.packfiles.extend(other.packfiles.into_iter().map(|mut p| {
            p.first_frame += frames;
            p.key += keys;
            p
        }));
        self.frames.extend(other.frames);
        self.blobs.extend(other.blobs.into_iter().map(|b| b.behind(frames)));
    }
}

/// Opens the local segments that hold nothing but wanted states, none twice; names the files that are of no use.
fn choose(
    directory: &Path,
    key: &SegmentKey,
    wanted: &HashSet<ObjectId>,
    thorough: bool,
) -> (Vec<Arc<Segment>>, Vec<PathBuf>) {
    let mut stale = Vec::new();
    let mut open = Vec::new();
    for path in segment::list(directory) {
        match Segment::open(&path, key).and_then(|s| if thorough { s.verify().map(|()| s) } else { Ok(s) }) {
            Ok(s) => open.push(s),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                tracing::warn!(%e, "a local index file is unusable and will be rebuilt");
                stale.push(path);
            }
        }
    }
    // The largest first: after an interrupted merge it holds what the others do.
    open.sort_unstable_by_key(|s| std::cmp::Reverse(s.states().len()));
    let mut covered = HashSet::new();
    let mut chosen = Vec::new();
    for s in open {
        if s.states().iter().all(|id| wanted.contains(id) && !covered.contains(id)) {
            covered.extend(s.states().iter().copied());
            chosen.push(Arc::new(s));
        } else {
            stale.push(s.path().to_owned());
        }
    }
    (chosen, stale)
}

/// Merges small segments until each is larger than all smaller ones together. Where that fails they stay as they are.
fn compact(directory: &Path, key: &SegmentKey, mut segments: Vec<Arc<Segment>>) -> Vec<Arc<Segment>> {
    segments.sort_unstable_by_key(|s| std::cmp::Reverse(s.blobs()));
    let mut sum = 0;
    let mut first = segments.len();
    for (i, s) in segments.iter().enumerate().rev() {
        if i + 1 < segments.len() && s.blobs() < RATIO * sum {
            first = i;
        }
        sum += s.blobs();
    }
    let frames: u64 = segments[first..].iter().map(|s| s.frames()).sum();
    if first + 1 >= segments.len() || frames > u64::from(u32::MAX) {
        return segments;
    }
    let merged = match segment::merge(directory, key, &segments[first..]) {
        Ok(merged) => merged,
        Err(e) => {
            tracing::debug!(%e, "local index files were not merged");
            return segments;
        }
    };
    for s in segments.drain(first..) {
        let _ = std::fs::remove_file(s.path());
    }
    segments.push(Arc::new(merged));
    segments
}

#[cfg(test)]
mod tests;
