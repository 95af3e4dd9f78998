//! Packfiles: frames, then a sealed footer that lists them. `docs/FORMAT.md` §8.

#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

use crate::crypto::{Class, Keyring, WRAPPED_KEY};
use crate::frame::{FRAME_RECORD, FrameRecord};
use crate::id::ObjectId;
use crate::object::Preamble;
use crate::storage::Area;
use crate::wire::{Put, Reader, WireError, WireResult, len32};

/// Length of the trailer.
pub const TRAILER: usize = 16;
/// The longest footer.
pub const MAX_FOOTER: u32 = 64 << 20;
const MAGIC: &[u8; 8] = b"PLAKPACK";

/// The area where packfiles of a class stand.
pub fn area_of(class: Class) -> Area {
    match class {
        Class::Data => Area::Data,
        Class::Meta => Area::Meta,
    }
}

/// Encodes footer and trailer of a packfile whose frames have been written.
pub fn encode_end(
    keys: &Keyring,
    preamble: &Preamble,
    id: ObjectId,
    class: Class,
    wrapped: &[u8; WRAPPED_KEY],
    frames: &[FrameRecord],
) -> Vec<u8> {
    let mut clear = Vec::with_capacity(8 + WRAPPED_KEY + frames.len() * FRAME_RECORD);
    clear.extend_from_slice(&[class as u8, 0, 0, 0]);
    clear.put_u32(len32(frames.len()));
    clear.extend_from_slice(wrapped);
    for f in frames {
        f.encode(&mut clear);
    }
    let mut out = keys.index.seal(&preamble.context(id), 0, true, &clear);
    let length = len32(out.len());
    out.put_u32(length);
    out.put_u32(0);
    out.extend_from_slice(MAGIC);
    out
}

/// Reads the trailer: the footer's stored length.
pub fn decode_trailer(bytes: &[u8; TRAILER]) -> WireResult<u32> {
    let mut r = Reader::new(bytes);
    let length = r.u32()?;
    r.u32()?;
    if r.array()? != *MAGIC || length > MAX_FOOTER {
        return Err(WireError::Malformed("packfile trailer"));
    }
    Ok(length)
}

/// A packfile's footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// What it holds.
    pub class: Class,
    /// The wrapped data key.
    pub wrapped: [u8; WRAPPED_KEY],
    /// Its frames by offset.
    pub frames: Vec<FrameRecord>,
}

/// Opens a footer.
pub fn decode_footer(keys: &Keyring, preamble: &Preamble, id: ObjectId, stored: &[u8]) -> WireResult<Footer> {
    let clear = keys
        .index
        .open(&preamble.context(id), 0, true, stored)
        .map_err(|_e| WireError::Malformed("footer: it does not authenticate"))?;
    let mut r = Reader::new(&clear);
    let class = Class::from_u8(r.u8()?).ok_or(WireError::Malformed("class"))?;
    r.take(3)?;
    let n = r.u32()? as usize;
    let wrapped = r.array()?;
    if n * FRAME_RECORD != r.remaining() {
        return Err(WireError::Malformed("number of frames"));
    }
    let frames = (0..n).map(|_| FrameRecord::decode(&r.array()?)).collect::<WireResult<_>>()?;
    Ok(Footer { class, wrapped, frames })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Codec;
    use crate::id::StoreId;

    #[test]
    fn the_end_of_a_packfile_round_trips() {
        let keys = Keyring::plaintext(StoreId([1; 16]));
        let preamble = Preamble::new(Area::Data, keys.store(), false);
        let frame =
            FrameRecord { nonce: [1; 24], tag: [2; 16], offset: 40, stored: 5, clear: 9, codec: Codec::Zstd };
        let wrapped = keys.wrap(&keys.new_data_key());
        let id = ObjectId([3; 32]);
        let end = encode_end(&keys, &preamble, id, Class::Data, &wrapped, &[frame; 3]);
        let (footer, trailer) = end.split_last_chunk::<TRAILER>().unwrap();
        assert_eq!(decode_trailer(trailer).unwrap() as usize, footer.len());
        let read = decode_footer(&keys, &preamble, id, footer).unwrap();
        assert_eq!(read, Footer { class: Class::Data, wrapped, frames: vec![frame; 3] });
        assert!(decode_footer(&keys, &preamble, ObjectId([4; 32]), footer).is_err());
    }
}
