//! What every object has: the preamble, and for the small ones a single sealed block. `docs/FORMAT.md` §3.

#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

use crate::crypto::{BlockContext, BlockKey, VERSION};
use crate::id::{ObjectId, StoreId};
use crate::storage::Area;
use crate::wire::{WireError, WireResult};

/// Length of a preamble.
pub const PREAMBLE: usize = 40;
/// The longest object of one block.
pub const MAX_SMALL: u64 = 16 << 20;
const MAGIC: &[u8; 6] = b"PLAKAR";

/// The kind byte of an area's objects.
pub fn kind_of(area: Area) -> u8 {
    match area {
        Area::Config => 1,
        Area::Keys => 2,
        Area::Data => 3,
        Area::Meta => 4,
        Area::States => 5,
        Area::Snapshots => 6,
        Area::Removals => 7,
        Area::Notes => 8,
        Area::Leases => 9,
    }
}

/// The first 40 bytes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// The kind byte.
    pub kind: u8,
    /// Its store.
    pub store: StoreId,
    /// Zeros where nothing is sealed.
    pub nonce_prefix: [u8; 16],
}

impl Preamble {
    /// For a new object; with a random nonce prefix if it will be sealed.
    pub fn new(area: Area, store: StoreId, sealed: bool) -> Self {
        let nonce_prefix = if sealed { crate::random_bytes() } else { [0; 16] };
        Self { kind: kind_of(area), store, nonce_prefix }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; PREAMBLE] {
        let mut b = [0; PREAMBLE];
        b[..6].copy_from_slice(MAGIC);
        b[6] = self.kind;
        b[7] = VERSION;
        b[8..24].copy_from_slice(&self.store.0);
        b[24..].copy_from_slice(&self.nonce_prefix);
        b
    }

    /// Reads the preamble of an object of an area and returns the rest.
    pub fn decode(area: Area, bytes: &[u8]) -> WireResult<(Self, &[u8])> {
        let (b, rest) = bytes.split_first_chunk::<PREAMBLE>().ok_or(WireError::Truncated)?;
        let (magic, b) = b.split_first_chunk::<6>().ok_or(WireError::Truncated)?;
        if magic != MAGIC {
            return Err(WireError::Malformed("magic number"));
        }
        if b[0] != kind_of(area) {
            return Err(WireError::Malformed("kind of object"));
        }
        if b[1] > VERSION {
            return Err(WireError::Newer("format version"));
        }
        if b[1] == 0 {
            return Err(WireError::Malformed("format version"));
        }
        let mut store = [0; 16];
        store.copy_from_slice(&b[2..18]);
        let mut nonce_prefix = [0; 16];
        nonce_prefix.copy_from_slice(&b[18..]);
        // Nothing else vouches for it there.
        if matches!(area, Area::Config | Area::Keys) && nonce_prefix != [0; 16] {
            return Err(WireError::Malformed("preamble"));
        }
        Ok((Self { kind: b[0], store: StoreId(store), nonce_prefix }, rest))
    }

    /// The context of its sealed blocks.
    pub fn context(&self, id: ObjectId) -> BlockContext {
        BlockContext { kind: self.kind, store: self.store, object: id.0, nonce_prefix: self.nonce_prefix }
    }
}

/// Encodes an object of one block.
pub fn encode_small(
    key: &BlockKey,
    area: Area,
    store: StoreId,
    sealed: bool,
    id: ObjectId,
    fields: &[u8],
) -> Vec<u8> {
    let preamble = Preamble::new(area, store, sealed);
    let mut out = preamble.encode().to_vec();
    out.extend_from_slice(&key.seal(&preamble.context(id), 0, true, fields));
    out
}

/// Opens an object of one block and returns its fields.
pub fn decode_small(
    key: &BlockKey,
    area: Area,
    store: StoreId,
    id: ObjectId,
    bytes: &[u8],
) -> WireResult<Vec<u8>> {
    if bytes.len() as u64 > MAX_SMALL {
        return Err(WireError::Malformed("length"));
    }
    let (preamble, block) = Preamble::decode(area, bytes)?;
    if preamble.store != store {
        return Err(WireError::Malformed("store id: it belongs to another store"));
    }
    key.open(&preamble.context(id), 0, true, block)
        .map_err(|_e| WireError::Malformed("contents: it does not authenticate"))
}
