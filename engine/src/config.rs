//! CONFIG: what a store was created with. `docs/FORMAT.md` §5.

#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

use crate::chunker::ChunkSizes;
use crate::crypto::Keyring;
use crate::id::StoreId;
use crate::object::{PREAMBLE, Preamble};
use crate::storage::Area;
use crate::wire::{Put, Reader, WireError, WireResult, read_fields};

/// The clear size limit of a frame.
pub const MAX_FRAME: u32 = 8 << 20;

/// A store's parameters. They never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The store's id.
    pub store: StoreId,
    /// Encrypted or not.
    pub sealed: bool,
    /// When it was created, ns since 1970.
    pub created_ns: i64,
    /// Chunk sizes.
    pub chunks: ChunkSizes,
    /// Clear size of a frame that a writer aims at.
    pub frame_bytes: u32,
    /// Blobs larger than this are cut in slices of this size.
    pub slice_bytes: u32,
    /// Packfile size that a writer aims at.
    pub packfile_bytes: u64,
    /// zstd level, or no compression.
    pub zstd_level: Option<u8>,
    /// Grace period in seconds.
    pub grace_seconds: u64,
}

impl Config {
    /// The defaults, with a new store id.
    pub fn new(sealed: bool, created_ns: i64) -> Self {
        Self {
            store: StoreId(crate::random_bytes()),
            sealed,
            created_ns,
            chunks: ChunkSizes { min: 128 << 10, avg: 512 << 10, max: 2 << 20 },
            frame_bytes: 2 << 20,
            slice_bytes: 256 << 10,
            packfile_bytes: 32 << 20,
            zstd_level: Some(3),
            grace_seconds: 7 * 24 * 3600,
        }
    }

    /// Its bytes, with the MAC.
    pub fn encode(&self, keys: &Keyring) -> Vec<u8> {
        let mut out = Preamble::new(Area::Config, self.store, false).encode().to_vec();
        out.put_field(1, &[u8::from(self.sealed)]);
        let mut v = Vec::new();
        v.put_iv(self.created_ns);
        out.put_field(2, &v);
        out.put_field(3, &[1]);
        v = vec![1];
        for n in [self.chunks.min, self.chunks.avg, self.chunks.max] {
            v.put_u32(n);
        }
        out.put_field(5, &v);
        v = Vec::new();
        v.put_u32(self.frame_bytes);
        v.put_u32(self.slice_bytes);
        out.put_field(7, &v);
        out.put_field(9, &[1]);
        out.put_field(10, &self.packfile_bytes.to_le_bytes());
        out.put_field(12, &self.zstd_level.map_or([0, 0], |l| [1, l]));
        v = Vec::new();
        v.put_uv(self.grace_seconds);
        out.put_field(14, &v);
        let mac = keys.config_mac(&out);
        out.extend_from_slice(mac.as_bytes());
        out
    }

    /// Reads CONFIG without checking its MAC: what it says is not to be believed before [`Config::verify`].
    pub fn decode(bytes: &[u8]) -> WireResult<Self> {
        if bytes.len() > 64 << 10 {
            return Err(WireError::Malformed("length"));
        }
        let (preamble, rest) = Preamble::decode(Area::Config, bytes)?;
        let (fields, _mac) = rest.split_last_chunk::<32>().ok_or(WireError::Truncated)?;
        let mut c = Self::new(true, 0);
        c.store = preamble.store;
        let mut seen = [false; 6];
        read_fields(fields, "CONFIG", |tag, mut r| {
            match tag {
                1 => c.sealed = r.u8()? != 0,
                2 => c.created_ns = r.iv()?,
                3 => only(&mut r, "hashing")?,
                5 => {
                    only(&mut r, "chunker")?;
                    c.chunks = ChunkSizes { min: r.u32()?, avg: r.u32()?, max: r.u32()? };
                }
                7 => {
                    c.frame_bytes = r.u32()?;
                    c.slice_bytes = r.u32()?;
                }
                9 => only(&mut r, "cipher")?,
                10 => c.packfile_bytes = r.u64()?,
                12 => c.zstd_level = if r.u8()? == 0 { None } else { Some(r.u8()?) },
                14 => c.grace_seconds = r.uv()?,
                _ => return Ok(false),
            }
            if tag % 2 == 1 && tag < 12 {
                seen[(tag / 2) as usize] = true;
            }
            Ok(true)
        })?;
        let whole = seen[..5].iter().all(|s| *s);
        let sane = c.chunks.is_valid()
            && (64 << 10..=MAX_FRAME).contains(&c.frame_bytes)
            && (16 << 10..=c.frame_bytes).contains(&c.slice_bytes)
            && (1 << 20..=1 << 31).contains(&c.packfile_bytes)
            && c.zstd_level.is_none_or(|l| (1..=22).contains(&l))
            && (3600..=100 * 365 * 24 * 3600).contains(&c.grace_seconds);
        if whole && sane { Ok(c) } else { Err(WireError::Malformed("parameters")) }
    }

    /// Checks the MAC of the bytes that were decoded.
    pub fn verify(bytes: &[u8], keys: &Keyring) -> bool {
        bytes.len() > PREAMBLE
            && bytes
                .split_last_chunk::<32>()
                // `blake3::Hash` compares in constant time.
                .is_some_and(|(body, mac)| keys.config_mac(body) == blake3::Hash::from_bytes(*mac))
    }
}

fn only(r: &mut Reader<'_>, what: &'static str) -> WireResult<()> {
    if r.u8()? == 1 { Ok(()) } else { Err(WireError::Newer(what)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::Secret;

    #[test]
    fn config_round_trips_and_its_mac_binds_every_bit() {
        let config = Config::new(true, 12345);
        let keys = Keyring::sealed(config.store, Secret::new([3; 32]));
        let bytes = config.encode(&keys);
        assert_eq!(Config::decode(&bytes), Ok(config));
        assert!(Config::verify(&bytes, &keys));
        for i in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[i / 8] ^= 1 << (i % 8);
            assert!(!Config::verify(&bad, &keys));
        }
    }

    #[test]
    fn config_of_the_future_is_named_as_such() {
        let config = Config::new(false, 0);
        let keys = Keyring::plaintext(config.store);
        let mut bytes = config.encode(&keys);
        bytes[7] = 2;
        assert_eq!(Config::decode(&bytes), Err(WireError::Newer("format version")));
    }
}
