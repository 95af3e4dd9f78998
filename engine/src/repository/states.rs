//! States as streams: written from what a run added, read block by block into local segments. A state is never held
//! whole unless it is small.

#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::segment::{Segment, SegmentKey, SegmentWriter, prefix};
use crate::crypto::{BlockContext, Keyring, WRAPPED_KEY};
use crate::error::{Error, Result};
use crate::frame::FrameRecord;
use crate::id::{BlobId, ObjectId};
use crate::object::{PREAMBLE, Preamble};
use crate::state::{self, BlobRecord, Head, PackfileRecord, Table, TablePlace};
use crate::storage::{Area, Listed, ObjectName, PutObject, Store};
use crate::wire::{WireError, index, len32};

/// Bytes of a state that are fetched with its end: most states are shorter.
const TAIL: u64 = 256 << 10;
/// Bytes fetched at once from a longer one.
const WINDOW: u64 = 4 << 20;

/// The contents of one or more states in memory: what a run has added since its last state, or small states on their way into a
/// segment. Frame and key rows count within the batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    pub(super) states: Vec<ObjectId>,
    pub(super) keys: Vec<[u8; WRAPPED_KEY]>,
    pub(super) packfiles: Vec<PackfileRecord>,
    pub(super) frames: Vec<FrameRecord>,
    pub(super) blobs: Vec<BlobRecord>,
}

impl Rows {
    /// Roughly its size in memory.
    pub(super) fn bytes(&self) -> usize {
        self.frames.len() * 56 + self.blobs.len() * 48 + self.packfiles.len() * 96
    }

    /// Writes it as a segment.
    pub(super) fn into_segment(mut self, directory: &Path, key: &SegmentKey) -> Result<Segment> {
        self.sort();
        let mut out = SegmentWriter::create(directory, key, self.blobs.len() as u64)?;
        for id in &self.states {
            out.push_state(id)?;
        }
        for k in &self.keys {
            out.push_record(Table::Keys, k)?;
        }
        for p in &self.packfiles {
            out.push_record(Table::Packfiles, &p.encode())?;
        }
        let mut record = Vec::with_capacity(64);
        for f in &self.frames {
            record.clear();
            f.encode(&mut record);
            out.push_record(Table::Frames, &record)?;
        }
        for b in &self.blobs {
            out.push_record(Table::Blobs, &b.encode())?;
        }
        out.finish()
    }

    pub(super) fn sort(&mut self) {
        self.blobs.sort_unstable_by_key(|b| (prefix(&b.id.0), b.id, b.frame));
    }
}

/// A state object that is being written, record by record, in the order of tables and of their rows.
pub(super) struct StateWriter<'a> {
    keys: &'a Keyring,
    context: BlockContext,
    put: Box<dyn PutObject>,
    head: Head,
    offset: u64,
    block: u64,
    clear: Vec<u8>,
}

impl<'a> StateWriter<'a> {
    pub(super) async fn begin(
        store: &Arc<dyn Store>,
        keys: &'a Keyring,
        writer: [u8; 16],
        run: ObjectId,
        created_ns: i64,
    ) -> Result<Self> {
        let id = ObjectId::random();
        let preamble = Preamble::new(Area::States, keys.store(), keys.is_sealed());
        let mut put = store.put(ObjectName::new(Area::States, id)).await?;
        if let Err(e) = put.write(Bytes::copy_from_slice(&preamble.encode())).await {
            put.abort().await;
            return Err(e.into());
        }
        let client = concat!("plakar/", env!("CARGO_PKG_VERSION")).into();
        let head = Head { writer, run, created_ns, tables: Vec::new(), fences: Vec::new(), client };
        let (context, clear) = (preamble.context(id), Vec::with_capacity(state::BLOCK));
        Ok(Self { keys, context, put, head, offset: PREAMBLE as u64, block: 0, clear })
    }

    /// Begins a table. Each comes once, in order, also if it is empty.
    pub(super) async fn table(&mut self, table: Table) -> Result<()> {
        self.seal_block().await?;
        let (offset, first_block) = (self.offset, self.block);
        self.head.tables.push(TablePlace { table, records: 0, offset, first_block });
        Ok(())
    }

    /// Adds a record to the table that was begun last.
    pub(super) async fn record(&mut self, record: &[u8]) -> Result<()> {
        let place = self.head.tables.last_mut().ok_or(Error::Bug("a record before its table"))?;
        let is_full = place.records > 0 && place.records % place.table.per_block() == 0;
        if is_full {
            self.seal_block().await?;
        }
        let place = self.head.tables.last_mut().ok_or(Error::Bug("a record before its table"))?;
        place.records += 1;
        if place.table == Table::Blobs
            && self.clear.is_empty()
            && let Some(id) = record.first_chunk()
        {
            self.head.fences.push(BlobId(*id));
        }
        self.clear.extend_from_slice(record);
        Ok(())
    }

    async fn seal_block(&mut self) -> Result<()> {
        if self.clear.is_empty() {
            return Ok(());
        }
        let stored = self.keys.index.seal(&self.context, self.block, false, &self.clear);
        self.clear.clear();
        self.offset += stored.len() as u64;
        self.block += 1;
        Ok(self.put.write(stored.into()).await?)
    }

    /// Completes it; says how the store lists it.
    pub(super) async fn finish(mut self) -> Result<Listed> {
        let done = async {
            self.seal_block().await?;
            let head = self.head.encode(self.keys, &self.context);
            Ok(self.put.write(head.into()).await?)
        };
        match done.await {
            Ok(()) => Ok(self.put.finish().await?),
            Err(e) => {
                self.put.abort().await;
                Err(e)
            }
        }
    }

    /// Leaves nothing of it behind.
    pub(super) async fn abort(self) {
        self.put.abort().await;
    }
}

/// Writes a sorted batch as a state object; says how the store lists it.
pub(super) async fn write(
    store: &Arc<dyn Store>,
    keys: &Keyring,
    batch: &Rows,
    writer: [u8; 16],
    run: ObjectId,
    created_ns: i64,
) -> Result<Listed> {
    let mut out = StateWriter::begin(store, keys, writer, run, created_ns).await?;
    match batch.write(&mut out).await {
        Ok(()) => out.finish().await,
        Err(e) => {
            out.abort().await;
            Err(e)
        }
    }
}

impl Rows {
    async fn write(&self, out: &mut StateWriter<'_>) -> Result<()> {
        out.table(Table::Keys).await?;
        for k in &self.keys {
            out.record(k).await?;
        }
        out.table(Table::Packfiles).await?;
        for p in &self.packfiles {
            out.record(&p.encode()).await?;
        }
        out.table(Table::Frames).await?;
        let mut record = Vec::with_capacity(Table::Frames.record());
        for f in &self.frames {
            record.clear();
            f.encode(&mut record);
            out.record(&record).await?;
        }
        out.table(Table::Blobs).await?;
        for b in &self.blobs {
            out.record(&b.encode()).await?;
        }
        Ok(())
    }
}

/// Takes the records of a state in table order.
pub(super) trait RecordSink {
    fn record(&mut self, table: Table, record: &[u8]) -> Result<()>;
}

impl RecordSink for SegmentWriter {
    fn record(&mut self, table: Table, record: &[u8]) -> Result<()> {
        self.push_record(table, record)
    }
}

/// A state whose head has been read and whose tables can be.
#[derive(Debug)]
pub(super) struct StateReader {
    store: Arc<dyn Store>,
    name: ObjectName,
    preamble: Preamble,
    pub(super) head: Head,
    /// The end of the object from this offset on, which came with the head.
    tail: (u64, Bytes),
}

impl StateReader {
    /// Reads the head.
    pub(super) async fn open(store: &Arc<dyn Store>, keys: &Keyring, listed: Listed) -> Result<Self> {
        let name = ObjectName::new(Area::States, listed.id);
        let bad = |e| Error::object(name, e);
        let mut start = listed.len.saturating_sub(TAIL);
        let mut tail = store.get(name, Some(start..listed.len)).await?;
        let trailer = tail.last_chunk::<{ state::TRAILER }>().ok_or_else(|| bad(WireError::Truncated))?;
        let (head_len, block) = state::decode_trailer(trailer).map_err(bad)?;
        let end = listed.len - state::TRAILER as u64;
        let head_start = end.checked_sub(u64::from(head_len)).filter(|s| *s >= PREAMBLE as u64);
        let head_start = head_start.ok_or_else(|| bad(WireError::Truncated))?;
        if head_start < start {
            start = head_start;
            tail = store.get(name, Some(start..listed.len)).await?;
        }
        let first = if start == 0 { tail.clone() } else { store.get(name, Some(0..PREAMBLE as u64)).await? };
        let (preamble, _) = Preamble::decode(Area::States, &first).map_err(bad)?;
        if preamble.store != keys.store() {
            return Err(Error::damaged(name, "it belongs to another store"));
        }
        let stored = &tail[index(head_start - start)..index(end - start)];
        let context = preamble.context(listed.id);
        let head = Head::decode(keys, &context, head_start, block, stored).map_err(bad)?;
        Ok(Self { store: store.clone(), name, preamble, head, tail: (start, tail) })
    }

    /// Clear bytes of all tables.
    pub(super) fn bytes(&self) -> u64 {
        self.head.tables.iter().map(|t| t.records * t.table.record() as u64).sum()
    }

    /// Hands every record to the sink, checked: rows that lead nowhere are refused here, so that later users need
    /// not ask again.
    pub(super) async fn read(&self, keys: &Keyring, sink: &mut (impl RecordSink + Send)) -> Result<()> {
        let context = self.preamble.context(self.name.id);
        let rows = |t| self.head.table(t).records;
        let bad = |what| Error::object(self.name, WireError::Malformed(what));
        let mut last_blob = None;
        for place in &self.head.tables {
            let mut block = 0;
            while block < place.blocks() {
                let mut last = block;
                let start = place.block_range(block).start;
                while last + 1 < place.blocks() && place.block_range(last + 1).end - start <= WINDOW {
                    last += 1;
                }
                let window = self.get(start..place.block_range(last).end).await?;
                for n in block..=last {
                    let range = place.block_range(n);
                    let stored = &window[index(range.start - start)..index(range.end - start)];
                    let clear = keys
                        .index
                        .open(&context, place.first_block + n, false, stored)
                        .map_err(|e| Error::damaged(self.name, e))?;
                    for record in clear.chunks_exact(place.table.record()) {
                        let fits = match place.table {
                            Table::Keys => true,
                            Table::Packfiles => {
                                let p = decode(record, PackfileRecord::decode);
                                p.is_some_and(|p| {
                                    u64::from(p.first_frame) + u64::from(p.frames) <= rows(Table::Frames)
                                        && u64::from(p.key) < rows(Table::Keys)
                                })
                            }
                            Table::Frames => decode(record, FrameRecord::decode).is_some(),
                            Table::Blobs => decode(record, BlobRecord::decode).is_some_and(|b| {
                                let ordered = last_blob.is_none_or(|last| last <= b.id);
                                last_blob = Some(b.id);
                                ordered && u64::from(b.frame) < rows(Table::Frames)
                            }),
                        };
                        if !fits {
                            return Err(bad("record of a state"));
                        }
                        sink.record(place.table, record)?;
                    }
                }
                block = last + 1;
            }
        }
        Ok(())
    }

    async fn get(&self, range: std::ops::Range<u64>) -> Result<Bytes> {
        let (start, tail) = &self.tail;
        if range.start >= *start {
            return Ok(tail.slice(index(range.start - start)..index(range.end - start)));
        }
        Ok(self.store.get(self.name, Some(range)).await?)
    }
}

fn decode<const N: usize, T>(
    record: &[u8],
    decode: impl Fn(&[u8; N]) -> crate::wire::WireResult<T>,
) -> Option<T> {
    decode(record.first_chunk()?).ok()
}

/// Adds one state's records to a batch, moving its rows behind those that are there.
pub(super) struct IntoRows<'a> {
    batch: &'a mut Rows,
    keys: u32,
    frames: u32,
}

impl<'a> IntoRows<'a> {
    pub(super) fn new(batch: &'a mut Rows, state: ObjectId) -> Self {
        batch.states.push(state);
        let (keys, frames) = (len32(batch.keys.len()), len32(batch.frames.len()));
        Self { batch, keys, frames }
    }
}

impl RecordSink for IntoRows<'_> {
    fn record(&mut self, table: Table, record: &[u8]) -> Result<()> {
        // Records were decoded once by the reader: a failure here cannot happen, and adds nothing if it does.
        match table {
            Table::Keys => self.batch.keys.extend(record.first_chunk::<WRAPPED_KEY>().copied()),
            Table::Packfiles => {
                let packfile = decode(record, PackfileRecord::decode).map(|mut p| {
                    p.first_frame += self.frames;
                    p.key += self.keys;
                    p
                });
                self.batch.packfiles.extend(packfile);
            }
            Table::Frames => self.batch.frames.extend(decode(record, FrameRecord::decode)),
            Table::Blobs => {
                let blob = decode(record, BlobRecord::decode);
                self.batch.blobs.extend(blob.map(|b| b.behind(self.frames)));
            }
        }
        Ok(())
    }
}
