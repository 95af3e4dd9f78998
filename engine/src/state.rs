//! States: which packfiles, frames and blobs a writer added, as tables in sealed blocks. `docs/FORMAT.md` §10.
//!
//! This module is the encoding of records, blocks and head; reading and writing whole states as streams is in
//! `repository::states`.

#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

use crate::crypto::{BlockContext, Class, Keyring, WRAPPED_KEY};
use crate::frame::FRAME_RECORD;
use crate::id::{BlobId, ObjectId};
use crate::wire::{Put, Reader, WireError, WireResult, len32, read_fields};

/// Length of the trailer.
pub const TRAILER: usize = 16;
/// The longest head.
pub const MAX_HEAD: u32 = 64 << 20;
/// Clear bytes of a table block, at most.
pub const BLOCK: usize = 64 << 10;
/// Length of a packfile record.
pub const PACKFILE_RECORD: usize = 96;
/// Length of a blob record.
pub const BLOB_RECORD: usize = 48;
const MAGIC: &[u8; 8] = b"PLAKSTAT";
/// Sealing adds this to a block.
const SEAL: u64 = 16;

/// The tables, in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// Wrapped data keys.
    Keys = 1,
    /// Packfiles, by first frame.
    Packfiles = 2,
    /// Frames, by packfile and offset.
    Frames = 3,
    /// Blobs, by id.
    Blobs = 4,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Keys, Self::Packfiles, Self::Frames, Self::Blobs];

    /// Length of a record.
    pub fn record(self) -> usize {
        match self {
            Self::Keys => WRAPPED_KEY,
            Self::Packfiles => PACKFILE_RECORD,
            Self::Frames => FRAME_RECORD,
            Self::Blobs => BLOB_RECORD,
        }
    }

    /// Records in a full block.
    pub fn per_block(self) -> u64 {
        (BLOCK / self.record()) as u64
    }

    fn from_u8(n: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as u8 == n)
    }
}

/// A packfile as a state knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackfileRecord {
    /// Its id.
    pub id: ObjectId,
    /// BLAKE3 of its stored bytes.
    pub checksum: [u8; 32],
    /// Its length.
    pub length: u64,
    /// Its first row in the frame table.
    pub first_frame: u32,
    /// How many frames it has.
    pub frames: u32,
    /// Its row in the key table.
    pub key: u32,
    /// What it holds.
    pub class: Class,
}

impl PackfileRecord {
    /// Its 96 bytes.
    pub fn encode(&self) -> [u8; PACKFILE_RECORD] {
        let mut b = [0; PACKFILE_RECORD];
        b[..32].copy_from_slice(&self.id.0);
        b[32..64].copy_from_slice(&self.checksum);
        b[64..72].copy_from_slice(&self.length.to_le_bytes());
        b[72..76].copy_from_slice(&self.first_frame.to_le_bytes());
        b[76..80].copy_from_slice(&self.frames.to_le_bytes());
        b[80..84].copy_from_slice(&self.key.to_le_bytes());
        b[84] = self.class as u8;
        b
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8; PACKFILE_RECORD]) -> WireResult<Self> {
        let mut r = Reader::new(bytes);
        let record = Self {
            id: ObjectId(r.array()?),
            checksum: r.array()?,
            length: r.u64()?,
            first_frame: r.u32()?,
            frames: r.u32()?,
            key: r.u32()?,
            class: Class::from_u8(r.u8()?).ok_or(WireError::Malformed("class"))?,
        };
        if record.first_frame.checked_add(record.frames).is_none() {
            return Err(WireError::Malformed("packfile record"));
        }
        Ok(record)
    }
}

/// Where a blob lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRecord {
    /// Its id.
    pub id: BlobId,
    /// Its (first) frame, as a row of the table of frames that stands beside it: of a group, a packfile, a batch of rows or
    /// a state. [`BlobRecord::behind`] takes it from one into the next.
    pub frame: u32,
    /// Offset in the frame's clear bytes.
    pub offset: u32,
    /// Its length.
    pub len: u32,
    /// It is the whole of this and the following frames.
    pub sliced: bool,
    /// Data or metadata.
    pub class: Class,
}

impl BlobRecord {
    /// The same, where its table of frames comes to stand behind others.
    pub fn behind(self, others: u32) -> Self {
        Self { frame: self.frame + others, ..self }
    }

    /// Its 48 bytes.
    pub fn encode(&self) -> [u8; BLOB_RECORD] {
        let mut b = [0; BLOB_RECORD];
        b[..32].copy_from_slice(&self.id.0);
        b[32..36].copy_from_slice(&self.frame.to_le_bytes());
        b[36..40].copy_from_slice(&self.offset.to_le_bytes());
        b[40..44].copy_from_slice(&self.len.to_le_bytes());
        b[44] = u8::from(self.sliced);
        b[45] = self.class as u8;
        b
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8; BLOB_RECORD]) -> WireResult<Self> {
        let mut r = Reader::new(bytes);
        let (id, frame, offset, len) = (BlobId(r.array()?), r.u32()?, r.u32()?, r.u32()?);
        let sliced = match r.u8()? {
            0 => false,
            1 => true,
            _ => return Err(WireError::Newer("flags of a blob record")),
        };
        let class = Class::from_u8(r.u8()?).ok_or(WireError::Malformed("class"))?;
        if len > crate::config::MAX_FRAME || sliced && offset != 0 {
            return Err(WireError::Malformed("blob record"));
        }
        Ok(Self { id, frame, offset, len, sliced, class })
    }
}

/// A table's place in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TablePlace {
    /// Which.
    pub table: Table,
    /// Its records.
    pub records: u64,
    /// Offset of its first block in the object.
    pub offset: u64,
    /// The number of its first block.
    pub first_block: u64,
}

impl TablePlace {
    /// How many blocks it has.
    pub fn blocks(&self) -> u64 {
        self.records.div_ceil(self.table.per_block())
    }

    /// Clear length of its `i`th block.
    pub fn block_len(&self, i: u64) -> u64 {
        let per = self.table.per_block();
        let records = (self.records - i * per).min(per);
        records * self.table.record() as u64
    }

    /// The range of its `i`th block in the object.
    pub fn block_range(&self, i: u64) -> std::ops::Range<u64> {
        let full = self.table.per_block() * self.table.record() as u64 + SEAL;
        let start = self.offset + i * full;
        start..start + self.block_len(i) + SEAL
    }

    fn end(&self) -> u64 {
        self.blocks().checked_sub(1).map_or(self.offset, |last| self.block_range(last).end)
    }
}

/// The head of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Who wrote it.
    pub writer: [u8; 16],
    /// In which run.
    pub run: ObjectId,
    /// When, ns since 1970.
    pub created_ns: i64,
    /// Its tables, in file order.
    pub tables: Vec<TablePlace>,
    /// The first blob id of each block of the blob table.
    pub fences: Vec<BlobId>,
    /// Program and version.
    pub client: String,
}

impl Head {
    /// One table's place; empty if the state has none.
    pub fn table(&self, table: Table) -> TablePlace {
        let empty = TablePlace { table, records: 0, offset: 0, first_block: 0 };
        self.tables.iter().copied().find(|t| t.table == table).unwrap_or(empty)
    }

    /// How many blocks come before the head: its own block number.
    pub fn block_number(&self) -> u64 {
        self.tables.iter().map(TablePlace::blocks).sum()
    }

    /// Seals it and appends the trailer.
    pub fn encode(&self, keys: &Keyring, context: &BlockContext) -> Vec<u8> {
        let mut f = Vec::new();
        f.put_field(1, &self.writer);
        f.put_field(2, &self.run.0);
        let mut v = Vec::new();
        v.put_iv(self.created_ns);
        f.put_field(4, &v);
        for t in &self.tables {
            v = vec![t.table as u8];
            v.put_u64(t.records);
            v.put_u64(t.offset);
            f.put_field(5, &v);
        }
        v = Vec::with_capacity(self.fences.len() * 32);
        for id in &self.fences {
            v.extend_from_slice(&id.0);
        }
        f.put_field(6, &v);
        f.put_field(8, self.client.as_bytes());
        let mut out = keys.index.seal(context, self.block_number(), true, &f);
        let length = len32(out.len());
        out.put_u32(length);
        out.put_u32(u32::try_from(self.block_number()).unwrap_or(u32::MAX));
        out.extend_from_slice(MAGIC);
        out
    }

    /// Opens and reads a head that begins at `offset` of its object; its tables must lie before it, back to back.
    pub fn decode(
        keys: &Keyring,
        context: &BlockContext,
        offset: u64,
        block_number: u64,
        stored: &[u8],
    ) -> WireResult<Self> {
        let clear = keys
            .index
            .open(context, block_number, true, stored)
            .map_err(|_e| WireError::Malformed("head: it does not authenticate"))?;
        let mut head = Self {
            writer: [0; 16],
            run: ObjectId([0; 32]),
            created_ns: 0,
            tables: vec![],
            fences: vec![],
            client: String::new(),
        };
        let (mut at, mut block) = (crate::object::PREAMBLE as u64, 0);
        read_fields(&clear, "state", |tag, mut r| {
            match tag {
                1 => head.writer = r.array()?,
                2 => head.run = ObjectId(r.array()?),
                4 => head.created_ns = r.iv()?,
                5 => {
                    let table = Table::from_u8(r.u8()?).ok_or(WireError::Newer("table of a state"))?;
                    let place = TablePlace { table, records: r.u64()?, offset: r.u64()?, first_block: block };
                    let ordered = head.tables.last().is_none_or(|l: &TablePlace| l.table < table);
                    if place.records > u64::from(u32::MAX) || place.offset != at || !ordered {
                        return Err(WireError::Malformed("table of a state"));
                    }
                    at = place.end();
                    block += place.blocks();
                    head.tables.push(place);
                }
                6 => {
                    if r.remaining() % 32 != 0 {
                        return Err(WireError::Malformed("fence keys"));
                    }
                    while r.remaining() > 0 {
                        head.fences.push(BlobId(r.array()?));
                    }
                }
                8 => head.client = String::from_utf8_lossy(r.take(r.remaining())?).into_owned(),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if at != offset
            || block != block_number
            || head.fences.len() as u64 != head.table(Table::Blobs).blocks()
        {
            return Err(WireError::Malformed("tables of a state"));
        }
        Ok(head)
    }
}

/// Reads the trailer: the head's stored length and its block number.
pub fn decode_trailer(bytes: &[u8; TRAILER]) -> WireResult<(u32, u64)> {
    let mut r = Reader::new(bytes);
    let (length, block) = (r.u32()?, r.u32()?);
    if r.array()? != *MAGIC || length > MAX_HEAD {
        return Err(WireError::Malformed("state trailer"));
    }
    Ok((length, u64::from(block)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::StoreId;

    #[test]
    fn records_round_trip() {
        let p = PackfileRecord {
            id: ObjectId([1; 32]),
            checksum: [2; 32],
            length: 1 << 33,
            first_frame: 7,
            frames: 9,
            key: 1,
            class: Class::Meta,
        };
        assert_eq!(PackfileRecord::decode(&p.encode()), Ok(p));
        let b = BlobRecord {
            id: BlobId([3; 32]),
            frame: 5,
            offset: 0,
            len: 77,
            sliced: true,
            class: Class::Data,
        };
        assert_eq!(BlobRecord::decode(&b.encode()), Ok(b));
        assert!(BlobRecord::decode(&BlobRecord { len: u32::MAX, ..b }.encode()).is_err());
    }

    #[test]
    fn a_head_opens_only_where_it_was_written() {
        let keys = Keyring::plaintext(StoreId([1; 16]));
        let context = BlockContext { kind: 5, store: keys.store(), object: [9; 32], nonce_prefix: [0; 16] };
        let blobs = TablePlace { table: Table::Blobs, records: 3000, offset: 40, first_block: 0 };
        let head = Head {
            writer: [1; 16],
            run: ObjectId([2; 32]),
            created_ns: 5,
            fences: vec![BlobId([0; 32]); crate::wire::index(blobs.blocks())],
            tables: vec![blobs],
            client: "plakar/0".into(),
        };
        let stored = head.encode(&keys, &context);
        let (body, trailer) = stored.split_last_chunk::<TRAILER>().unwrap();
        let (length, block) = decode_trailer(trailer).unwrap();
        assert_eq!((length as usize, block), (body.len(), blobs.blocks()));
        let offset = blobs.block_range(blobs.blocks() - 1).end;
        assert_eq!(Head::decode(&keys, &context, offset, block, body), Ok(head));
        assert!(Head::decode(&keys, &context, offset + 1, block, body).is_err());
        assert!(Head::decode(&keys, &context, offset, block + 1, body).is_err());
    }
}
