//! The only door to keys: what is derived from the master key, how blobs are named, how bytes are sealed.
//! `docs/FORMAT.md` §4 and §7 say which key is for what.

pub mod aead;
pub mod kdf;
pub mod secret;

use crate::id::{BlobId, StoreId};
use aead::{Cipher, NONCE, TAG};
use secret::Secret;
use zeroize::Zeroize;

/// The version byte of everything written by this program.
pub const VERSION: u8 = 1;

/// Bytes do not authenticate: the key is another, or they were changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it does not authenticate")]
pub struct NotAuthentic;

/// Data blobs and all other blobs are named, framed and packed apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// File contents.
    Data = 1,
    /// Directory nodes, extent lists, owner tables.
    Meta = 2,
}

impl Class {
    /// From its number.
    pub fn from_u8(n: u8) -> Option<Self> {
        match n {
            1 => Some(Self::Data),
            2 => Some(Self::Meta),
            _ => None,
        }
    }
}

/// What a sealed block belongs to; everything but the block's own number goes into its associated data.
#[derive(Clone, Copy, Debug)]
pub struct BlockContext {
    /// The object's kind byte.
    pub kind: u8,
    /// Its store.
    pub store: StoreId,
    /// Its id.
    pub object: [u8; 32],
    /// Its nonce prefix.
    pub nonce_prefix: [u8; 16],
}

impl BlockContext {
    fn nonce(&self, block: u64) -> [u8; NONCE] {
        let mut nonce = [0; NONCE];
        nonce[..16].copy_from_slice(&self.nonce_prefix);
        nonce[16..].copy_from_slice(&block.to_le_bytes());
        nonce
    }

    fn associated(&self, block: u64, last: bool) -> [u8; 59] {
        let mut a = [0; 59];
        a[0] = VERSION;
        a[1] = self.kind;
        a[2..18].copy_from_slice(&self.store.0);
        a[18..50].copy_from_slice(&self.object);
        a[50..58].copy_from_slice(&block.to_le_bytes());
        a[58] = u8::from(last);
        a
    }
}

/// A key for sealed blocks, or the checksum of a plaintext store.
#[derive(Debug)]
pub struct BlockKey(Option<Cipher>);

impl BlockKey {
    /// Seals a block: the result is 16 bytes longer.
    pub fn seal(&self, context: &BlockContext, block: u64, last: bool, clear: &[u8]) -> Vec<u8> {
        let associated = context.associated(block, last);
        let mut out = Vec::with_capacity(clear.len() + TAG);
        out.extend_from_slice(clear);
        let tag = match &self.0 {
            Some(cipher) => cipher.seal(&context.nonce(block), &associated, &mut out),
            None => checksum(&associated, clear),
        };
        out.extend_from_slice(&tag);
        out
    }

    /// Opens a block.
    pub fn open(
        &self,
        context: &BlockContext,
        block: u64,
        last: bool,
        stored: &[u8],
    ) -> Result<Vec<u8>, NotAuthentic> {
        let (body, tag) = stored.split_last_chunk::<TAG>().ok_or(NotAuthentic)?;
        let associated = context.associated(block, last);
        let mut out = body.to_vec();
        match &self.0 {
            Some(cipher) => cipher.open(&context.nonce(block), &associated, &mut out, tag)?,
            // Nothing vouches for the prefix, which is zeros then.
            None if context.nonce_prefix == [0; 16] && checksum(&associated, body) == *tag => {}
            None => return Err(NotAuthentic),
        }
        Ok(out)
    }
}

/// The first 16 bytes of BLAKE3 over associated data and body: takes a tag's place in a plaintext store.
pub(crate) fn checksum(associated: &[u8], body: &[u8]) -> [u8; TAG] {
    let mut h = blake3::Hasher::new();
    h.update(associated).update(body);
    let mut tag = [0; TAG];
    tag.copy_from_slice(&h.finalize().as_bytes()[..TAG]);
    tag
}

/// A run's key for frames, and the id under which it is known.
#[derive(Debug)]
pub struct DataKey {
    /// Names it in associated data and in wrapped-key records.
    pub id: [u8; 16],
    key: Option<(Secret<32>, Cipher)>,
}

impl DataKey {
    fn associated(&self, class: Class) -> [u8; 19] {
        let mut a = [0; 19];
        a[0] = VERSION;
        a[1] = b'F';
        a[2] = class as u8;
        a[3..].copy_from_slice(&self.id);
        a
    }

    /// Seals a frame's bytes in place and gives its nonce and tag.
    pub fn seal(&self, class: Class, bytes: &mut [u8]) -> ([u8; NONCE], [u8; TAG]) {
        let associated = self.associated(class);
        match &self.key {
            Some((_, cipher)) => {
                let nonce = crate::random_bytes();
                let tag = cipher.seal(&nonce, &associated, bytes);
                (nonce, tag)
            }
            None => ([0; NONCE], checksum(&associated, bytes)),
        }
    }

    /// Opens a frame's bytes in place.
    pub fn open(
        &self,
        class: Class,
        nonce: &[u8; NONCE],
        tag: &[u8; TAG],
        bytes: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        let associated = self.associated(class);
        match &self.key {
            Some((_, cipher)) => cipher.open(nonce, &associated, bytes, tag),
            None if checksum(&associated, bytes) == *tag => Ok(()),
            None => Err(NotAuthentic),
        }
    }
}

/// Length of a wrapped-key record.
pub const WRAPPED_KEY: usize = 128;

const SCHEME_NONE: u8 = 0;
const SCHEME_MASTER: u8 = 1;

/// The master key's descendants, each for one purpose.
pub struct Keyring {
    store: StoreId,
    sealed: bool,
    master: Secret<32>,
    identify_data: Secret<32>,
    identify_meta: Secret<32>,
    chunker: Secret<32>,
    links: Secret<32>,
    config_mac: Secret<32>,
    slot_mac: Secret<32>,
    wrap: Cipher,
    /// States, packfile footers, leases.
    pub index: BlockKey,
    /// Snapshots.
    pub snapshots: BlockKey,
    /// Removals and notes.
    pub manage: BlockKey,
    /// What is kept outside the store; never a mere checksum, so that nothing with names lies about in clear.
    cache: Secret<32>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring")
            .field("store", &self.store)
            .field("sealed", &self.sealed)
            .finish_non_exhaustive()
    }
}

fn derive(purpose: &str, key: &[u8]) -> Secret<32> {
    let mut derived = blake3::derive_key(&format!("plakar-rs 2026 format 1: {purpose}"), key);
    let secret = Secret::new(derived);
    derived.zeroize();
    secret
}

impl Keyring {
    /// Derives all keys of a sealed store.
    pub fn sealed(store: StoreId, master: Secret<32>) -> Self {
        Self::new(store, master, true)
    }

    /// The public keys of a plaintext store.
    pub fn plaintext(store: StoreId) -> Self {
        Self::new(store, derive("plaintext store", &store.0), false)
    }

    fn new(store: StoreId, master: Secret<32>, sealed: bool) -> Self {
        let sub = |purpose: &str| derive(purpose, master.expose());
        let block = |purpose: &str| BlockKey(sealed.then(|| Cipher::new(sub(purpose).expose())));
        Self {
            store,
            sealed,
            identify_data: sub("identify data"),
            identify_meta: sub("identify metadata"),
            chunker: sub("chunker"),
            links: sub("hard links"),
            config_mac: sub("config mac"),
            slot_mac: sub("key slots"),
            wrap: Cipher::new(sub("wrap data keys").expose()),
            index: block("index"),
            snapshots: block("snapshots"),
            manage: block("manage"),
            cache: sub("local cache"),
            master,
        }
    }

    /// The store these keys belong to.
    pub fn store(&self) -> StoreId {
        self.store
    }

    /// Whether what is written is encrypted.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The master key, to be wrapped in a new slot.
    pub fn master(&self) -> &Secret<32> {
        &self.master
    }

    /// Whether they are those of another store, too: then blobs have the same names in both. Those of a plaintext store follow
    /// from its id.
    pub fn are_those_of(&self, other: &Self) -> bool {
        self.sealed && other.sealed && self.identify_data.expose() == other.identify_data.expose()
    }

    /// Names a blob.
    pub fn identify(&self, class: Class, clear: &[u8]) -> BlobId {
        let key = match class {
            Class::Data => &self.identify_data,
            Class::Meta => &self.identify_meta,
        };
        BlobId(*blake3::keyed_hash(key.expose(), clear).as_bytes())
    }

    /// A hasher that names a blob given in parts.
    pub fn identifier(&self, class: Class) -> blake3::Hasher {
        let key = match class {
            Class::Data => &self.identify_data,
            Class::Meta => &self.identify_meta,
        };
        blake3::Hasher::new_keyed(key.expose())
    }

    /// The key of the chunker and of node pages.
    pub fn chunker(&self) -> &[u8; 32] {
        self.chunker.expose()
    }

    /// The hard-link group of an inode; never 0.
    pub fn link_group(&self, (device, inode): (u64, u64)) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&device.to_le_bytes());
        bytes[8..].copy_from_slice(&inode.to_le_bytes());
        let hash = blake3::keyed_hash(self.links.expose(), &bytes);
        hash.as_bytes().first_chunk().map_or(1, |b| u64::from_le_bytes(*b).max(1))
    }

    /// The MAC of CONFIG.
    pub fn config_mac(&self, bytes: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(self.config_mac.expose(), bytes)
    }

    /// The MAC of what a key slot says in clear.
    pub fn slot_mac(&self, bytes: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(self.slot_mac.expose(), bytes)
    }

    /// A key for one use of the local cache.
    pub fn local(&self, purpose: &str) -> [u8; 32] {
        *derive(purpose, self.cache.expose()).expose()
    }

    /// Seals something for the local cache under a random nonce, which leads.
    pub fn seal_local(&self, purpose: &str, clear: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE] = crate::random_bytes();
        let mut out = Vec::with_capacity(NONCE + clear.len() + TAG);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(clear);
        let tag = Cipher::new(self.cache.expose()).seal(&nonce, purpose.as_bytes(), &mut out[NONCE..]);
        out.extend_from_slice(&tag);
        out
    }

    /// Opens what [`Keyring::seal_local`] sealed for the same purpose.
    pub fn open_local(&self, purpose: &str, stored: &[u8]) -> Result<Vec<u8>, NotAuthentic> {
        let (nonce, rest) = stored.split_first_chunk::<NONCE>().ok_or(NotAuthentic)?;
        let (body, tag) = rest.split_last_chunk::<TAG>().ok_or(NotAuthentic)?;
        let mut out = body.to_vec();
        Cipher::new(self.cache.expose()).open(nonce, purpose.as_bytes(), &mut out, tag)?;
        Ok(out)
    }

    fn wrap_associated(&self, key_id: &[u8; 16]) -> [u8; 34] {
        let mut a = [0; 34];
        a[0] = VERSION;
        a[1] = b'K';
        a[2..18].copy_from_slice(&self.store.0);
        a[18..].copy_from_slice(key_id);
        a
    }

    /// A new data key for a run.
    pub fn new_data_key(&self) -> DataKey {
        let id = crate::random_bytes();
        let key = self.sealed.then(|| {
            let key = Secret::new(crate::random_bytes());
            let cipher = Cipher::new(key.expose());
            (key, cipher)
        });
        DataKey { id, key }
    }

    /// Wraps a data key for footers and states.
    pub fn wrap(&self, key: &DataKey) -> [u8; WRAPPED_KEY] {
        let mut record = [0; WRAPPED_KEY];
        record[..16].copy_from_slice(&key.id);
        let Some((secret, _)) = &key.key else { return record };
        record[16] = SCHEME_MASTER;
        record[17] = (NONCE + 32 + TAG) as u8;
        let nonce: [u8; NONCE] = crate::random_bytes();
        let mut body = *secret.expose();
        let tag = self.wrap.seal(&nonce, &self.wrap_associated(&key.id), &mut body);
        record[18..42].copy_from_slice(&nonce);
        record[42..74].copy_from_slice(&body);
        record[74..90].copy_from_slice(&tag);
        record
    }

    /// Unwraps a data key. A scheme that this program does not know, or one that the store's kind does not use, does not authenticate.
    pub fn unwrap(&self, record: &[u8; WRAPPED_KEY]) -> Result<DataKey, NotAuthentic> {
        let id = *record.first_chunk().ok_or(NotAuthentic)?;
        match (record[16], self.sealed) {
            (SCHEME_NONE, false) => Ok(DataKey { id, key: None }),
            (SCHEME_MASTER, true) => {
                let (nonce, rest) = record[18..].split_first_chunk::<NONCE>().ok_or(NotAuthentic)?;
                let (body, rest) = rest.split_first_chunk::<32>().ok_or(NotAuthentic)?;
                let tag = rest.first_chunk::<TAG>().ok_or(NotAuthentic)?;
                let mut key = *body;
                self.wrap.open(nonce, &self.wrap_associated(&id), &mut key, tag)?;
                let cipher = Cipher::new(&key);
                Ok(DataKey { id, key: Some((Secret::new(key), cipher)) })
            }
            _ => Err(NotAuthentic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> Keyring {
        Keyring::sealed(StoreId([7; 16]), Secret::new([9; 32]))
    }

    fn context(ring: &Keyring) -> BlockContext {
        let nonce_prefix = if ring.is_sealed() { [2; 16] } else { [0; 16] };
        BlockContext { kind: 5, store: StoreId([7; 16]), object: [1; 32], nonce_prefix }
    }

    #[test]
    fn a_block_opens_only_in_its_own_place() {
        for ring in [ring(), Keyring::plaintext(StoreId([7; 16]))] {
            let context = context(&ring);
            let stored = ring.index.seal(&context, 3, false, b"hello");
            assert_eq!(ring.index.open(&context, 3, false, &stored).as_deref(), Ok(&b"hello"[..]));
            assert!(ring.index.open(&context, 4, false, &stored).is_err());
            assert!(ring.index.open(&context, 3, true, &stored).is_err());
            for elsewhere in [
                BlockContext { object: [5; 32], ..context },
                BlockContext { nonce_prefix: [3; 16], ..context },
            ] {
                assert!(ring.index.open(&elsewhere, 3, false, &stored).is_err());
            }
            for i in 0..stored.len() {
                let mut bad = stored.clone();
                bad[i] ^= 1;
                assert!(ring.index.open(&context, 3, false, &bad).is_err());
            }
            assert!(ring.index.open(&context, 3, false, &[]).is_err());
        }
    }

    #[test]
    fn data_keys_wrap_and_unwrap() {
        for ring in [ring(), Keyring::plaintext(StoreId([7; 16]))] {
            let key = ring.new_data_key();
            let mut frame = b"frame".to_vec();
            let (nonce, tag) = key.seal(Class::Data, &mut frame);
            let same = ring.unwrap(&ring.wrap(&key)).unwrap();
            assert!(same.open(Class::Meta, &nonce, &tag, &mut frame.clone()).is_err());
            same.open(Class::Data, &nonce, &tag, &mut frame).unwrap();
            assert_eq!(frame, b"frame");
        }
        let sealed = ring().wrap(&ring().new_data_key());
        assert!(Keyring::plaintext(StoreId([7; 16])).unwrap(&sealed).is_err());
        let mut plain = sealed;
        plain[16] = 0;
        assert!(ring().unwrap(&plain).is_err(), "a sealed store takes no unsealed frames");
    }

    #[test]
    fn ids_depend_on_store_and_class() {
        let a = ring();
        let b = Keyring::sealed(StoreId([7; 16]), Secret::new([8; 32]));
        assert_ne!(a.identify(Class::Data, b"x"), b.identify(Class::Data, b"x"));
        assert_ne!(a.identify(Class::Data, b"x"), a.identify(Class::Meta, b"x"));
    }

    #[test]
    fn local_things_are_bound_to_their_purpose() {
        let sealed = ring().seal_local("a", b"names");
        assert_eq!(ring().open_local("a", &sealed).unwrap(), b"names");
        assert!(ring().open_local("b", &sealed).is_err());
    }
}
