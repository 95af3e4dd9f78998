//! Frames: the unit of compression, sealing and fetching. `docs/FORMAT.md` §7.

#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

use bytes::Bytes;

use crate::config::MAX_FRAME;
use crate::crypto::aead::{NONCE, TAG};
use crate::crypto::{Class, DataKey};
use crate::wire::{Put, Reader, WireError, WireResult, len32};
use buffers::BUFFERS;

mod buffers;

pub use buffers::footprint;

/// Length of a frame record.
pub const FRAME_RECORD: usize = 56;

/// How a frame's clear bytes were encoded before sealing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Raw = 0,
    /// zstd.
    Zstd = 1,
}

/// Where a frame lies in its packfile and what opens it. Readers take nonce and tag from here only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRecord {
    /// The nonce.
    pub nonce: [u8; NONCE],
    /// The tag, or the checksum in a plaintext store.
    pub tag: [u8; TAG],
    /// Offset in the packfile.
    pub offset: u32,
    /// Stored length.
    pub stored: u32,
    /// Clear length.
    pub clear: u32,
    /// The codec.
    pub codec: Codec,
}

impl FrameRecord {
    /// Appends its 56 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.tag);
        out.put_u32(self.offset);
        out.put_u32(self.stored);
        out.put_u32(self.clear);
        out.extend_from_slice(&[self.codec as u8, 0, 0, 0]);
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8; FRAME_RECORD]) -> WireResult<Self> {
        let mut r = Reader::new(bytes);
        let (nonce, tag) = (r.array()?, r.array()?);
        let (offset, stored, clear) = (r.u32()?, r.u32()?, r.u32()?);
        let codec = match r.u8()? {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            _ => return Err(WireError::Newer("frame codec")),
        };
        let fits = (1..=MAX_FRAME).contains(&clear)
            && stored >= 1
            && stored <= clear
            && offset.checked_add(stored).is_some();
        if !fits {
            return Err(WireError::Malformed("frame record"));
        }
        Ok(Self { nonce, tag, offset, stored, clear, codec })
    }

    /// The range in the packfile.
    pub fn range(&self) -> std::ops::Range<u64> {
        u64::from(self.offset)..u64::from(self.offset) + u64::from(self.stored)
    }
}

/// A sealed frame that has no place yet: its record's offset is 0.
#[derive(Clone, Debug)]
pub struct SealedFrame {
    /// The record.
    pub record: FrameRecord,
    /// The stored bytes.
    pub bytes: Bytes,
}

/// Compresses and seals. Holds a zstd context, so that it is made once for each thread.
pub struct FrameEncoder {
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl std::fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameEncoder")
    }
}

impl FrameEncoder {
    /// With a zstd level, or none.
    pub fn new(level: Option<u8>) -> std::io::Result<Self> {
        let zstd = level.map(|l| zstd::bulk::Compressor::new(i32::from(l))).transpose()?;
        Ok(Self { zstd })
    }

    /// Compresses where that saves at least 1/32, and seals. `clear` holds 1 byte to 8 MiB.
    pub fn encode(&mut self, key: &DataKey, class: Class, clear: &[u8]) -> SealedFrame {
        debug_assert!(!clear.is_empty() && clear.len() <= MAX_FRAME as usize);
        // A destination smaller than the input makes zstd give up where compression would not pay.
        let limit = clear.len() - clear.len() / 32;
        let mut body = Vec::new();
        let packed = self.zstd.as_mut().filter(|_| clear.len() > 64).and_then(|z| {
            body.reserve_exact(limit);
            z.compress_to_buffer(clear, &mut body).ok().filter(|n| *n > 0)
        });
        let codec = if packed.is_some() {
            body.shrink_to_fit();
            Codec::Zstd
        } else {
            body.clear();
            body.extend_from_slice(clear);
            Codec::Raw
        };
        let (nonce, tag) = key.seal(class, &mut body);
        let record = FrameRecord {
            nonce,
            tag,
            offset: 0,
            stored: len32(body.len()),
            clear: len32(clear.len()),
            codec,
        };
        SealedFrame { record, bytes: body.into() }
    }
}

/// Why a frame cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes are not those that were sealed.
    #[error("the frame does not authenticate")]
    NotAuthentic,
    /// They authenticate and yet do not decompress to the length recorded.
    #[error("the frame does not decompress")]
    Decompress,
}

/// Bytes that a decoder may keep in each of its buffers for the next frame.
const KEPT: usize = 4 << 20;

/// Opens and decompresses. Holds a zstd context, and room for a frame before and after it is decompressed.
pub struct FrameDecoder {
    zstd: zstd::bulk::Decompressor<'static>,
    scratch: Vec<u8>,
    clear: Vec<u8>,
}

impl std::fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameDecoder")
    }
}

impl FrameDecoder {
    /// A decoder.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Decompressor::new()?, scratch: Vec::new(), clear: Vec::new() })
    }

    /// Opens a frame and gives its clear bytes: exactly `record.clear` of them.
    pub fn decode(
        &mut self,
        key: &DataKey,
        class: Class,
        record: &FrameRecord,
        stored: &[u8],
    ) -> Result<Bytes, FrameError> {
        BUFFERS.fill(record.clear as usize, |out| match record.codec {
            // Before it is copied: no more than there is room for.
            Codec::Raw => {
                check_length(record, stored)?;
                out.extend_from_slice(stored);
                open(key, class, record, out)
            }
            Codec::Zstd => {
                make_room(&mut self.scratch, stored.len());
                self.scratch.extend_from_slice(stored);
                open(key, class, record, &mut self.scratch)?;
                unpack(&mut self.zstd, record, &self.scratch, out)
            }
        })
    }

    /// The same without memory of its own for each frame: the stored bytes are opened where they are, and the clear
    /// ones last until the next frame is opened.
    pub fn decode_in_place<'a>(
        &'a mut self,
        key: &DataKey,
        class: Class,
        record: &FrameRecord,
        stored: &'a mut [u8],
    ) -> Result<&'a [u8], FrameError> {
        open(key, class, record, stored)?;
        match record.codec {
            Codec::Raw => {
                check_length(record, stored)?;
                Ok(stored)
            }
            Codec::Zstd => {
                make_room(&mut self.clear, record.clear as usize);
                unpack(&mut self.zstd, record, stored, &mut self.clear)?;
                Ok(&self.clear)
            }
        }
    }
}

/// Seals a frame under another key, without decompressing it. Its record has no place yet.
pub fn seal_anew(
    from: &DataKey,
    to: &DataKey,
    class: Class,
    record: &FrameRecord,
    stored: &mut [u8],
) -> Result<SealedFrame, FrameError> {
    open(from, class, record, stored)?;
    let (nonce, tag) = to.seal(class, stored);
    Ok(SealedFrame {
        record: FrameRecord { nonce, tag, offset: 0, ..*record },
        bytes: Bytes::copy_from_slice(stored),
    })
}

/// Empties a buffer and makes it large enough, and no larger than worth keeping.
fn make_room(buffer: &mut Vec<u8>, bytes: usize) {
    buffer.clear();
    if buffer.capacity() > KEPT && bytes <= KEPT {
        *buffer = Vec::new();
    }
    buffer.reserve_exact(bytes);
}

fn open(key: &DataKey, class: Class, record: &FrameRecord, body: &mut [u8]) -> Result<(), FrameError> {
    key.open(class, &record.nonce, &record.tag, body).map_err(|_e| FrameError::NotAuthentic)
}

/// Decompresses into an empty buffer with enough room.
fn unpack(
    zstd: &mut zstd::bulk::Decompressor<'static>,
    record: &FrameRecord,
    body: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    zstd.decompress_to_buffer(body, out).map_err(|_e| FrameError::Decompress)?;
    check_length(record, out)
}

fn check_length(record: &FrameRecord, clear: &[u8]) -> Result<(), FrameError> {
    if clear.len() == record.clear as usize { Ok(()) } else { Err(FrameError::Decompress) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Keyring;
    use crate::crypto::secret::Secret;
    use crate::id::StoreId;

    fn noise(n: usize) -> Vec<u8> {
        let mut v = vec![0; n];
        blake3::Hasher::new().finalize_xof().fill(&mut v);
        v
    }

    #[test]
    fn frames_round_trip_compressed_or_raw_sealed_or_not() {
        let store = StoreId([0; 16]);
        for keys in [Keyring::sealed(store, Secret::new([1; 32])), Keyring::plaintext(store)] {
            let key = keys.new_data_key();
            for (clear, codec) in [
                (vec![b'a'; 100_000], Codec::Zstd),
                (noise(100_000), Codec::Raw),
                (b"x".to_vec(), Codec::Raw),
            ] {
                let frame = FrameEncoder::new(Some(3)).unwrap().encode(&key, Class::Data, &clear);
                assert_eq!(frame.record.codec, codec);
                let mut d = FrameDecoder::new().unwrap();
                assert_eq!(d.decode(&key, Class::Data, &frame.record, &frame.bytes).unwrap(), clear);
                let mut bad = frame.bytes.to_vec();
                bad[0] ^= 1;
                assert_eq!(d.decode(&key, Class::Data, &frame.record, &bad), Err(FrameError::NotAuthentic));
                let mut stored = frame.bytes.to_vec();
                assert_eq!(
                    d.decode_in_place(&key, Class::Data, &frame.record, &mut bad),
                    Err(FrameError::NotAuthentic)
                );
                let in_place = d.decode_in_place(&key, Class::Data, &frame.record, &mut stored);
                assert_eq!(in_place.unwrap(), clear);
                let mut record = Vec::new();
                frame.record.encode(&mut record);
                assert_eq!(FrameRecord::decode(record[..].try_into().unwrap()), Ok(frame.record));
            }
        }
    }

    #[test]
    fn hostile_records_are_refused() {
        let good =
            FrameRecord { nonce: [0; 24], tag: [0; 16], offset: 0, stored: 10, clear: 10, codec: Codec::Raw };
        for bad in [
            FrameRecord { clear: MAX_FRAME + 1, ..good },
            FrameRecord { clear: 0, ..good },
            FrameRecord { stored: 0, ..good },
            FrameRecord { stored: 11, ..good },
            FrameRecord { offset: u32::MAX, ..good },
        ] {
            let mut record = Vec::new();
            bad.encode(&mut record);
            assert!(FrameRecord::decode(record[..].try_into().unwrap()).is_err());
        }
    }
}
