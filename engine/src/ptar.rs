//! A store in one file: `docs/FORMAT.md` §15. Bytes in, bytes out; connectors read and write them.
//!
//! Objects come in parts, several at once in turns, so that the file can be written into a pipe. A directory at its end says
//! where everything is; without it, what is whole can be found by going from part to part.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::id::ObjectId;
use crate::storage::{Area, ObjectName};
use crate::wire::{Reader, WireError, WireResult};

/// What a ptar begins and ends with.
pub const MAGIC: &[u8; 8] = b"PLAKPTAR";
const VERSION: u32 = 1;
/// Bytes before the first part.
pub const HEAD: usize = 16;
/// Bytes before what a part holds.
pub const PART_HEAD: usize = 48;
/// Bytes at the end.
pub const TRAILER: usize = 64;
/// What a part holds at most, in bytes.
pub const PART: usize = 4 << 20;
const PART_MAGIC: &[u8; 4] = b"PPRT";
const DIRECTORY_CONTEXT: &str = "plakar ptar directory";
/// Bytes of a directory for an object with one extent: less than that is none.
const LEAST_ENTRY: usize = 1 + 32 + 8 + 4 + 12;

/// The first bytes of the file.
pub fn head() -> [u8; HEAD] {
    let mut out = [0; HEAD];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out
}

/// Whether these are the first bytes of a ptar that can be read.
///
/// # Errors
/// It is none; it is of a later version.
pub fn check_head(bytes: &[u8]) -> WireResult<()> {
    let mut r = Reader::new(bytes);
    if r.array::<8>()? != *MAGIC {
        return Err(WireError::Malformed("it does not begin as a ptar does"));
    }
    match r.u32()? {
        VERSION if r.u32()? == 0 => Ok(()),
        VERSION => Err(WireError::Malformed("its first bytes are damaged")),
        _ => Err(WireError::Newer("a later version of ptar")),
    }
}

/// What stands before the bytes of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHead {
    /// The object that it is of.
    pub name: ObjectName,
    /// Its bytes.
    pub length: u32,
    /// It ends the object.
    pub is_last: bool,
}

impl PartHead {
    /// As it is stored: `PPRT`, u8 area, u8 last, u16 0, u32 length, id, 4 bytes of the BLAKE3 of these 44.
    pub fn encode(&self) -> [u8; PART_HEAD] {
        let mut out = [0; PART_HEAD];
        out[..4].copy_from_slice(PART_MAGIC);
        out[4] = code(self.name.area);
        out[5] = u8::from(self.is_last);
        out[8..12].copy_from_slice(&self.length.to_le_bytes());
        out[12..44].copy_from_slice(&self.name.id.0);
        let check = blake3::hash(&out[..44]);
        out[44..].copy_from_slice(&check.as_bytes()[..4]);
        out
    }

    /// # Errors
    /// No part begins with these bytes.
    pub fn decode(bytes: &[u8; PART_HEAD]) -> WireResult<Self> {
        let damaged = || WireError::Malformed("no part begins here");
        if bytes[44..] != blake3::hash(&bytes[..44]).as_bytes()[..4] {
            return Err(damaged());
        }
        let mut r = Reader::new(&bytes[..44]);
        if r.array::<4>()? != *PART_MAGIC {
            return Err(damaged());
        }
        let area = area(r.u8()?)?;
        let is_last = match (r.u8()?, r.take(2)?) {
            (last @ 0..=1, [0, 0]) => last == 1,
            _ => return Err(damaged()),
        };
        let length = r.u32()?;
        if length as usize > PART {
            return Err(damaged());
        }
        Ok(Self { name: ObjectName::new(area, ObjectId(r.array()?)), length, is_last })
    }
}

fn code(area: Area) -> u8 {
    Area::ALL.iter().position(|a| *a == area).map_or(u8::MAX, |i| i as u8)
}

fn area(code: u8) -> WireResult<Area> {
    Area::ALL.get(usize::from(code)).copied().ok_or(WireError::Malformed("an area that there is not"))
}

/// Where an object is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// When it was written, ns since 1970.
    pub modified_ns: i64,
    /// Offset and length of what its parts hold, in order.
    pub extents: Vec<(u64, u32)>,
}

impl Object {
    /// Its length, bytes.
    pub fn len(&self) -> u64 {
        self.extents.iter().map(|(_, n)| u64::from(*n)).sum()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where a range of it is in the file; what lies behind its end is left out.
    pub fn ranges(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut out = Vec::new();
        let mut begin = 0;
        for (offset, len) in &self.extents {
            let end = begin + u64::from(*len);
            let (from, to) = (range.start.max(begin), range.end.min(end));
            if from < to {
                out.push(offset + (from - begin)..offset + (to - begin));
            }
            begin = end;
        }
        out
    }
}

/// All objects of a ptar.
pub type Directory = BTreeMap<ObjectName, Object>;

/// The directory, as it is stored: of each object u8 area, id, i64 time, u32 extents, and of each u64 offset, u32 length.
pub fn encode_directory(directory: &Directory) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, object) in directory {
        out.push(code(name.area));
        out.extend_from_slice(&name.id.0);
        out.extend_from_slice(&object.modified_ns.to_le_bytes());
        out.extend_from_slice(&(object.extents.len() as u32).to_le_bytes());
        for (offset, len) in &object.extents {
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
        }
    }
    out
}

/// # Errors
/// It is none: an extent lies behind `end`, an object comes twice, something is missing.
pub fn decode_directory(bytes: &[u8], end: u64) -> WireResult<Directory> {
    let mut r = Reader::new(bytes);
    let mut directory = Directory::new();
    while r.remaining() > 0 {
        let area = area(r.u8()?)?;
        let name = ObjectName::new(area, ObjectId(r.array()?));
        let modified_ns = i64::from_le_bytes(r.array()?);
        let count = r.u32()? as usize;
        if count > r.remaining() / 12 {
            return Err(WireError::Malformed("more extents than there is room for"));
        }
        let mut extents = Vec::with_capacity(count);
        for _ in 0..count {
            let (offset, len) = (r.u64()?, r.u32()?);
            if offset.checked_add(len.into()).is_none_or(|last| last > end) {
                return Err(WireError::Malformed("an extent behind the end"));
            }
            extents.push((offset, len));
        }
        if directory.insert(name, Object { modified_ns, extents }).is_some() {
            return Err(WireError::Malformed("an object that comes twice"));
        }
    }
    Ok(directory)
}

/// The last bytes of the file: u64 offset and u64 length of the directory, its BLAKE3, 8 bytes of the BLAKE3 of these 48, and
/// the magic.
pub fn trailer(offset: u64, directory: &[u8]) -> [u8; TRAILER] {
    let mut out = [0; TRAILER];
    out[..8].copy_from_slice(&offset.to_le_bytes());
    out[8..16].copy_from_slice(&(directory.len() as u64).to_le_bytes());
    out[16..48].copy_from_slice(&blake3::derive_key(DIRECTORY_CONTEXT, directory));
    let check = blake3::hash(&out[..48]);
    out[48..56].copy_from_slice(&check.as_bytes()[..8]);
    out[56..].copy_from_slice(MAGIC);
    out
}

/// Where the directory is, and what its hash must be.
///
/// # Errors
/// These are not the last bytes of a ptar of that length.
pub fn read_trailer(bytes: &[u8; TRAILER], file_len: u64) -> WireResult<(Range<u64>, [u8; 32])> {
    let none = WireError::Malformed("it does not end as a ptar does");
    if bytes[56..] != *MAGIC || bytes[48..56] != blake3::hash(&bytes[..48]).as_bytes()[..8] {
        return Err(none);
    }
    let mut r = Reader::new(bytes);
    let (offset, len) = (r.u64()?, r.u64()?);
    let end = offset.checked_add(len).filter(|end| end.checked_add(TRAILER as u64) == Some(file_len));
    let is_small = len < LEAST_ENTRY as u64;
    match end {
        Some(end) if !is_small => Ok((offset..end, r.array()?)),
        _ => Err(none),
    }
}

/// Whether a directory is the one that the trailer means.
pub fn is_meant(directory: &[u8], hash: &[u8; 32]) -> bool {
    blake3::derive_key(DIRECTORY_CONTEXT, directory) == *hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(area: Area, n: u8) -> ObjectName {
        ObjectName::new(area, ObjectId([n; 32]))
    }

    #[test]
    fn what_is_written_is_read_and_each_flipped_bit_is_seen() {
        check_head(&head()).unwrap();
        for bit in 0..HEAD * 8 {
            let mut bytes = head();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(check_head(&bytes).is_err(), "{bit}");
        }
        let part = PartHead { name: name(Area::Data, 7), length: 12, is_last: true };
        assert_eq!(PartHead::decode(&part.encode()).unwrap(), part);
        for bit in 0..PART_HEAD * 8 {
            let mut bytes = part.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(PartHead::decode(&bytes).is_err(), "{bit}");
        }
        let object = Object { modified_ns: 5, extents: vec![(64, 100), (400, 3)] };
        let all = Directory::from([(name(Area::Data, 1), object), (name(Area::Keys, 2), Object::default())]);
        let bytes = encode_directory(&all);
        assert_eq!(decode_directory(&bytes, 403).unwrap(), all);
        assert!(decode_directory(&bytes, 402).is_err() && decode_directory(&bytes[1..], 403).is_err());
        let end = trailer(403, &bytes);
        let len = 403 + bytes.len() as u64 + TRAILER as u64;
        let (range, hash) = read_trailer(&end, len).unwrap();
        assert_eq!(range, 403..403 + bytes.len() as u64);
        assert!(is_meant(&bytes, &hash) && !is_meant(&bytes[1..], &hash));
        assert!(read_trailer(&end, len + 1).is_err());
        for bit in 0..TRAILER * 8 {
            let mut bytes = end;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read_trailer(&bytes, len).is_err(), "{bit}");
        }
    }

    #[test]
    fn ranges_go_over_parts() {
        let object = Object { modified_ns: 0, extents: vec![(100, 10), (200, 10), (300, 5)] };
        assert_eq!(object.len(), 25);
        assert_eq!(object.ranges(0..25), [100..110, 200..210, 300..305]);
        assert_eq!(object.ranges(5..12), [105..110, 200..202]);
        assert_eq!(object.ranges(10..20), std::slice::from_ref(&(200..210)));
        assert!(object.ranges(25..30).is_empty() && object.ranges(7..7).is_empty());
    }
}
