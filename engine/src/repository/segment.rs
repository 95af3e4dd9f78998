//! Segments: the local index as sorted immutable files, memory-mapped. One segment holds the tables of one or more
//! states, in the same records as the states themselves.
//!
//! A file is a row of 4 KiB blocks, each 4,080 bytes of whole records and a keyed checksum: a flipped bit in a
//! "known blob" would lose data, so a process verifies a block before it first believes a record in it. Behind them stands a Bloom
//! filter for "surely new", which needs no check: a wrong answer of it costs a duplicate. Files are made under a
//! temporary name, renamed, never changed or truncated, and removed by unlinking only, so that other processes'
//! mappings stay whole.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use memmap2::Mmap;

use crate::crypto::Keyring;
use crate::error::{Error, Result};
use crate::frame::FrameRecord;
use crate::id::{BlobId, ObjectId};
use crate::state::{BlobRecord, PackfileRecord, Table};

const BLOCK: usize = 4096;
const CHECK: usize = 16;
const PAYLOAD: usize = BLOCK - CHECK;
const MAGIC: &[u8; 8] = b"PLAKIDX2";
const LINE: usize = 64;
/// Filter bits for each blob: about one wrong "maybe" in 200.
const FILTER_BITS: u64 = 12;
const SECTIONS: usize = 5;
/// A search guesses so many times at most, and looks row by row from so many rows on.
const GUESSES: usize = 4;
const NEAR: u64 = 4;
/// The file name's end.
pub(super) const SUFFIX: &str = ".seg";

/// Sections in file order: the states, then their tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    States = 0,
    Keys = 1,
    Packfiles = 2,
    Frames = 3,
    Blobs = 4,
}

impl Section {
    fn of(table: Table) -> Self {
        match table {
            Table::Keys => Self::Keys,
            Table::Packfiles => Self::Packfiles,
            Table::Frames => Self::Frames,
            Table::Blobs => Self::Blobs,
        }
    }

    fn record(self) -> usize {
        match self {
            Self::States => 32,
            Self::Keys => Table::Keys.record(),
            Self::Packfiles => Table::Packfiles.record(),
            Self::Frames => Table::Frames.record(),
            Self::Blobs => Table::Blobs.record(),
        }
    }

    fn per_block(self) -> u64 {
        (PAYLOAD / self.record()) as u64
    }
}

fn checksum(key: &[u8; 32], block: u64, payload: &[u8]) -> [u8; CHECK] {
    // In one piece of whole chunks, which BLAKE3 takes all at once: half the time of the same in parts.
    let mut bytes = [0; BLOCK];
    bytes[..PAYLOAD].copy_from_slice(payload);
    bytes[PAYLOAD..PAYLOAD + 8].copy_from_slice(&block.to_le_bytes());
    let mut out = [0; CHECK];
    out.copy_from_slice(&blake3::keyed_hash(key, &bytes).as_bytes()[..CHECK]);
    out
}

/// The part of a store's keys that segments need.
#[derive(Clone)]
pub(super) struct SegmentKey([u8; 32]);

impl SegmentKey {
    pub(super) fn new(keys: &Keyring) -> Self {
        Self(keys.local("index segments"))
    }
}

impl std::fmt::Debug for SegmentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SegmentKey(…)")
    }
}

/// An id's first bytes as a number: mostly enough to compare by.
pub(super) fn prefix(id: &[u8]) -> u64 {
    id.first_chunk().map_or(0, |b| u64::from_be_bytes(*b))
}

/// Where the filter keeps a blob: its line, and the bits of it.
fn filter_bits(id: &BlobId, lines: u64) -> (usize, [u16; 7]) {
    let word = |at: usize| id.0[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let line = ((u128::from(word(8)) * u128::from(lines)) >> 64) as usize;
    let bits = word(16);
    (line * LINE, std::array::from_fn(|i| (bits >> (9 * i) & 511) as u16))
}

/// Writes one segment: sections in order, records as they come (blobs sorted by id).
#[derive(Debug)]
pub(super) struct SegmentWriter {
    key: SegmentKey,
    file: BufWriter<tempfile::NamedTempFile>,
    directory: PathBuf,
    section: Option<Section>,
    block: Vec<u8>,
    blocks: u64,
    counts: [u64; SECTIONS],
    starts: [u64; SECTIONS],
    filter: Vec<u8>,
}

impl SegmentWriter {
    /// Begins a segment for at most `blobs` blobs.
    pub(super) fn create(directory: &Path, key: &SegmentKey, blobs: u64) -> Result<Self> {
        let failed = |e| Error::io("write the index in", directory, e);
        let file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory).map_err(failed)?;
        let lines = (blobs * FILTER_BITS).div_ceil(LINE as u64 * 8).max(1);
        let mut w = Self {
            key: key.clone(),
            file: BufWriter::with_capacity(256 << 10, file),
            directory: directory.into(),
            section: None,
            block: Vec::with_capacity(BLOCK),
            blocks: 1,
            counts: [0; SECTIONS],
            starts: [1; SECTIONS],
            filter: vec![0; lines as usize * LINE],
        };
        // The header's block; filled in at the end.
        w.file.write_all(&[0; BLOCK]).map_err(failed)?;
        Ok(w)
    }

    pub(super) fn push_state(&mut self, id: &ObjectId) -> Result<()> {
        self.push(Section::States, &id.0)
    }

    pub(super) fn push_record(&mut self, table: Table, record: &[u8]) -> Result<()> {
        if table == Table::Blobs
            && let Some(id) = record.first_chunk::<32>()
        {
            let (line, bits) = filter_bits(&BlobId(*id), (self.filter.len() / LINE) as u64);
            for bit in bits {
                self.filter[line + usize::from(bit / 8)] |= 1 << (bit % 8);
            }
        }
        self.push(Section::of(table), record)
    }

    fn push(&mut self, section: Section, record: &[u8]) -> Result<()> {
        debug_assert_eq!(record.len(), section.record());
        if self.section != Some(section) {
            self.flush_block()?;
            self.section = Some(section);
            self.starts[section as usize] = self.blocks;
        }
        if self.block.len() + record.len() > PAYLOAD {
            self.flush_block()?;
        }
        self.block.extend_from_slice(record);
        self.counts[section as usize] += 1;
        Ok(())
    }

    fn flush_block(&mut self) -> Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.block.resize(PAYLOAD, 0);
        let check = checksum(&self.key.0, self.blocks, &self.block);
        self.block.extend_from_slice(&check);
        let written = self.file.write_all(&self.block);
        written.map_err(|e| Error::io("write the index in", &self.directory, e))?;
        self.block.clear();
        self.blocks += 1;
        Ok(())
    }

    /// Completes the file, gives it its name and opens it.
    pub(super) fn finish(mut self) -> Result<Segment> {
        self.flush_block()?;
        let mut header = Vec::with_capacity(BLOCK);
        header.extend_from_slice(MAGIC);
        for n in self.counts.iter().chain(&self.starts).chain(&[self.blocks, self.filter.len() as u64]) {
            header.extend_from_slice(&n.to_le_bytes());
        }
        header.resize(PAYLOAD, 0);
        let check = checksum(&self.key.0, 0, &header);
        header.extend_from_slice(&check);
        let Self { key, mut file, filter, directory, .. } = self;
        let path = directory.join(format!("{}{SUFFIX}", hex::encode(crate::random_bytes::<16>())));
        let finished = (|| {
            file.write_all(&filter)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header)?;
            let file = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            file.persist_noclobber(&path)?;
            Ok(())
        })();
        finished.map_err(|e| Error::io("write the index in", &directory, e))?;
        Segment::open(&path, &key)
    }
}

/// The segment files of a directory.
pub(super) fn list(directory: &Path) -> std::collections::HashSet<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Default::default() };
    entries.flatten().map(|e| e.path()).filter(|p| p.to_string_lossy().ends_with(SUFFIX)).collect()
}

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    key: SegmentKey,
    map: Mmap,
    counts: [u64; SECTIONS],
    starts: [u64; SECTIONS],
    blocks: u64,
    states: Vec<ObjectId>,
    /// Blocks that this process has verified, a bit each.
    verified: Vec<AtomicU64>,
    is_damaged: AtomicBool,
}

impl Segment {
    /// Maps a segment and verifies its header and list of states. A file that is not whole is an error; the caller
    /// removes it.
    pub(super) fn open(path: &Path, key: &SegmentKey) -> Result<Self> {
        let failed = |e| Error::io("open the index", path, e);
        crate::cache::make_way(path);
        let file = File::open(path).map_err(failed)?;
        // SAFETY: segment files are written once under another name, and afterwards neither written nor truncated by
        // any process of this program, only unlinked, which leaves mappings valid. Contents are checked before use.
        #[expect(unsafe_code, reason = "mapping is what makes opening cheap; the invariant stands above")]
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        let mut s = Self {
            path: path.into(),
            key: key.clone(),
            map,
            counts: [0; SECTIONS],
            starts: [1; SECTIONS],
            blocks: 1,
            states: Vec::new(),
            verified: Vec::new(),
            is_damaged: AtomicBool::new(false),
        };
        let header = s.block(0)?;
        let (magic, rest) = header.split_first_chunk::<8>().ok_or_else(|| s.damaged())?;
        let mut numbers = rest.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b));
        let mut next = || numbers.next().unwrap_or(u64::MAX);
        let counts = std::array::from_fn(|_| next());
        let starts = std::array::from_fn(|_| next());
        let (blocks, filter) = (next(), next());
        let whole = blocks.checked_mul(BLOCK as u64).and_then(|b| b.checked_add(filter));
        if magic != MAGIC || whole != Some(s.map.len() as u64) || filter == 0 || filter % LINE as u64 != 0 {
            return Err(s.damaged());
        }
        (s.counts, s.starts, s.blocks) = (counts, starts, blocks);
        s.verified = (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        s.states = (0..counts[0])
            .map(|i| s.record(Section::States, i).map(|r| ObjectId(r.try_into().unwrap_or([0; 32]))))
            .collect::<Result<_>>()?;
        Ok(s)
    }

    /// The file is of no use to anybody: it goes, wherever this is noticed, and whoever loads the index next makes it anew.
    /// This process goes on with what it has mapped.
    fn damaged(&self) -> Error {
        if !self.is_damaged.swap(true, Ordering::Relaxed) {
            tracing::warn!(path = %self.path.display(), "a local index file is damaged and is made anew");
            let _ = std::fs::remove_file(&self.path);
        }
        Error::DamagedIndex { path: self.path.display().to_string() }
    }

    /// The verified payload of a block.
    fn block(&self, n: u64) -> Result<&[u8]> {
        let start = n as usize * BLOCK;
        let block = self.map.get(start..start + BLOCK).ok_or_else(|| self.damaged())?;
        let (payload, check) = block.split_at(PAYLOAD);
        let (word, bit) = (self.verified.get((n / 64) as usize), 1 << (n % 64));
        if word.is_some_and(|w| w.load(Ordering::Relaxed) & bit != 0) {
            return Ok(payload);
        }
        if checksum(&self.key.0, n, payload) != check {
            return Err(self.damaged());
        }
        if let Some(word) = word {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(payload)
    }

    fn block_of(&self, section: Section, i: u64) -> u64 {
        self.starts[section as usize] + i / section.per_block()
    }

    /// A record from a verified block.
    fn record(&self, section: Section, i: u64) -> Result<&[u8]> {
        if i >= self.counts[section as usize] {
            return Err(self.damaged());
        }
        let payload = self.block(self.block_of(section, i))?;
        let at = (i % section.per_block()) as usize * section.record();
        payload.get(at..at + section.record()).ok_or_else(|| self.damaged())
    }

    /// A record, not verified: for searching only.
    fn peek(&self, section: Section, i: u64) -> &[u8] {
        let at = self.block_of(section, i) as usize * BLOCK
            + (i % section.per_block()) as usize * section.record();
        self.map.get(at..at + section.record()).unwrap_or(&[])
    }

    fn peek_id(&self, i: u64) -> &[u8] {
        self.peek(Section::Blobs, i).get(..32).unwrap_or(&[])
    }

    /// The states in it.
    pub(super) fn states(&self) -> &[ObjectId] {
        &self.states
    }

    /// How many blob records it has.
    pub(super) fn blobs(&self) -> u64 {
        self.counts[Section::Blobs as usize]
    }

    /// How many frames it has.
    pub(super) fn frames(&self) -> u64 {
        self.counts[Section::Frames as usize]
    }

    /// How many packfiles it has.
    pub(super) fn packfiles(&self) -> u64 {
        self.counts[Section::Packfiles as usize]
    }

    /// Whether damage was found in it.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    /// Its file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Whether the filter allows that it holds a blob.
    pub(super) fn may_hold(&self, id: &BlobId) -> bool {
        let filter = &self.map[self.blocks as usize * BLOCK..];
        let (line, bits) = filter_bits(id, (filter.len() / LINE) as u64);
        let Some(line) = filter[line..].first_chunk::<LINE>() else { return true };
        // All bits, and one branch that is mostly foreseen: the processor then goes on to the next blob while this
        // line is still on its way from memory.
        bits.iter().fold(1, |held, bit| held & line[usize::from(bit / 8)] >> (bit % 8)) == 1
    }

    /// The rows of a blob, found and verified.
    pub(super) fn find(&self, id: &BlobId) -> impl Iterator<Item = Result<(u64, BlobRecord)>> {
        let found = (self.lower_bound(id)..self.blobs()).take_while(|i| self.peek_id(*i) == id.0);
        found.map(|i| {
            let record = self.blob(i)?;
            if record.id == *id { Ok((i, record)) } else { Err(self.damaged()) }
        })
    }

    /// The first row whose id is not below. Ids are uniform, so that an id tells about where it stands, and the
    /// distance of another from it how many rows there are between.
    fn lower_bound(&self, id: &BlobId) -> u64 {
        let n = self.blobs();
        if n == 0 {
            return 0;
        }
        let rows = |distance: u64| ((u128::from(distance) * u128::from(n)) >> 64) as u64;
        let wanted = prefix(&id.0);
        let mut guess = rows(wanted);
        // Each guess is off by about the square root of the last one's distance.
        for _ in 0..GUESSES {
            let there = prefix(self.peek_id(guess));
            let distance = rows(wanted.abs_diff(there));
            if distance < NEAR {
                break;
            }
            guess =
                if there < wanted { (guess + distance).min(n - 1) } else { guess.saturating_sub(distance) };
        }
        let (mut low, mut high);
        let mut step = NEAR;
        // Widen around the guess until the id is between low and high.
        if self.is_below(guess, id) {
            low = guess + 1;
            while low + step < n && self.is_below(low + step, id) {
                low += step + 1;
                step *= 2;
            }
            high = (low + step).min(n);
        } else {
            high = guess;
            while high > step && !self.is_below(high - step, id) {
                high -= step;
                step *= 2;
            }
            low = high.saturating_sub(step);
        }
        while low < high {
            let mid = low + (high - low) / 2;
            if self.is_below(mid, id) { low = mid + 1 } else { high = mid }
        }
        low
    }

    /// Whether a row's id is below another.
    fn is_below(&self, i: u64, id: &BlobId) -> bool {
        let there = self.peek_id(i);
        (prefix(there), there) < (prefix(&id.0), &id.0[..])
    }

    fn decode<const N: usize, T>(
        &self,
        section: Section,
        i: u64,
        decode: impl Fn(&[u8; N]) -> crate::wire::WireResult<T>,
    ) -> Result<T> {
        let record = self.record(section, i)?.first_chunk().ok_or_else(|| self.damaged())?;
        decode(record).map_err(|_e| self.damaged())
    }

    /// A row of the blob table.
    pub(super) fn blob(&self, i: u64) -> Result<BlobRecord> {
        self.decode(Section::Blobs, i, BlobRecord::decode)
    }

    /// A row of the frame table.
    pub(super) fn frame(&self, i: u64) -> Result<FrameRecord> {
        self.decode(Section::Frames, i, FrameRecord::decode)
    }

    /// A row of the packfile table.
    pub(super) fn packfile(&self, i: u64) -> Result<PackfileRecord> {
        self.decode(Section::Packfiles, i, PackfileRecord::decode)
    }

    /// A row of the key table.
    pub(super) fn wrapped_key(&self, i: u64) -> Result<[u8; crate::crypto::WRAPPED_KEY]> {
        self.decode(Section::Keys, i, |r| Ok(*r))
    }

    /// The packfile that a frame belongs to.
    pub(super) fn packfile_of(&self, frame: u64) -> Result<PackfileRecord> {
        let starts_behind = |i| {
            let record = self.peek(Section::Packfiles, i).first_chunk();
            record
                .and_then(|r| PackfileRecord::decode(r).ok())
                .is_none_or(|p| u64::from(p.first_frame) > frame)
        };
        let (mut low, mut high) = (0, self.packfiles());
        while low < high {
            let mid = low + (high - low) / 2;
            if starts_behind(mid) { high = mid } else { low = mid + 1 }
        }
        let p = self.packfile(low.checked_sub(1).ok_or_else(|| self.damaged())?)?;
        let end = u64::from(p.first_frame) + u64::from(p.frames);
        if (u64::from(p.first_frame)..end).contains(&frame) { Ok(p) } else { Err(self.damaged()) }
    }

    /// Verifies every block again.
    pub(super) fn verify(&self) -> Result<()> {
        self.verified.iter().for_each(|w| w.store(0, Ordering::Relaxed));
        (0..self.blocks).try_for_each(|n| self.block(n).map(|_| ()))
    }

    /// All records of a section in order, each block verified once.
    fn records(&self, section: Section) -> Records<'_> {
        Records { segment: self, section, next: 0, block: &[] }
    }
}

struct Records<'a> {
    segment: &'a Segment,
    section: Section,
    next: u64,
    block: &'a [u8],
}

impl<'a> Records<'a> {
    fn next(&mut self) -> Result<Option<&'a [u8]>> {
        if self.next >= self.segment.counts[self.section as usize] {
            return Ok(None);
        }
        let in_block = self.next % self.section.per_block();
        if in_block == 0 {
            self.block = self.segment.block(self.segment.block_of(self.section, self.next))?;
        }
        let at = in_block as usize * self.section.record();
        self.next += 1;
        self.block.get(at..at + self.section.record()).map(Some).ok_or_else(|| self.segment.damaged())
    }
}

/// Merges segments into a new one, as a stream.
pub(super) fn merge(directory: &Path, key: &SegmentKey, inputs: &[Arc<Segment>]) -> Result<Segment> {
    let mut out = SegmentWriter::create(directory, key, inputs.iter().map(|s| s.blobs()).sum())?;
    for id in inputs.iter().flat_map(|s| s.states()) {
        out.push_state(id)?;
    }
    for s in inputs {
        let mut records = s.records(Section::Keys);
        while let Some(r) = records.next()? {
            out.push_record(Table::Keys, r)?;
        }
    }
    let (mut keys, mut frames) = (0, 0);
    for s in inputs {
        for i in 0..s.packfiles() {
            let p = s.packfile(i)?;
            let p = PackfileRecord { first_frame: p.first_frame + frames, key: p.key + keys, ..p };
            out.push_record(Table::Packfiles, &p.encode())?;
        }
        keys += s.counts[Section::Keys as usize] as u32;
        frames += s.frames() as u32;
    }
    for s in inputs {
        let mut records = s.records(Section::Frames);
        while let Some(r) = records.next()? {
            out.push_record(Table::Frames, r)?;
        }
    }
    let mut bases = Vec::new();
    let mut base = 0;
    for s in inputs {
        bases.push(base);
        base += s.frames() as u32;
    }
    let mut blobs = Blobs::new(inputs)?;
    while let Some((i, b)) = blobs.next()? {
        out.push_record(Table::Blobs, &b.behind(bases[i]).encode())?;
    }
    out.finish()
}

/// The next record of a segment, the least first: its id's prefix, all of it, and which segment.
type Next<'a> = (Reverse<(u64, &'a [u8])>, usize);

/// The blobs of several segments in the order of ids, each with the number of its segment.
pub(super) struct Blobs<'a> {
    inputs: &'a [Arc<Segment>],
    streams: Vec<Records<'a>>,
    heads: BinaryHeap<Next<'a>>,
}

impl<'a> Blobs<'a> {
    pub(super) fn new(inputs: &'a [Arc<Segment>]) -> Result<Self> {
        let (mut streams, mut heads) = (Vec::new(), BinaryHeap::new());
        for (i, s) in inputs.iter().enumerate() {
            let mut records = s.records(Section::Blobs);
            if let Some(r) = records.next()? {
                heads.push((Reverse((prefix(r), r)), i));
            }
            streams.push(records);
        }
        Ok(Self { inputs, streams, heads })
    }

    pub(super) fn next(&mut self) -> Result<Option<(usize, BlobRecord)>> {
        let Some(mut head) = self.heads.peek_mut() else { return Ok(None) };
        let (Reverse((_, record)), i) = *head;
        let decoded = record.first_chunk().and_then(|r| BlobRecord::decode(r).ok());
        let blob = decoded.ok_or_else(|| self.inputs[i].damaged())?;
        match self.streams[i].next()? {
            Some(r) => head.0 = Reverse((prefix(r), r)),
            None => drop(PeekMut::pop(head)),
        }
        Ok(Some((i, blob)))
    }
}
