//! Making a store. `docs/FORMAT.md` §5, §6.

use std::sync::Arc;

use bytes::Bytes;

use super::{Repository, now_ns};
use crate::config::Config;
use crate::crypto::Keyring;
use crate::crypto::kdf::KdfParams;
use crate::crypto::secret::Secret;
use crate::error::{Error, Result};
use crate::id::{ObjectId, StoreId};
use crate::keyslot::{KeySlot, UserSecret, encode_config_copy};
use crate::storage::{Area, ObjectName, Store, StoreErrorKind, put_bytes};

/// What a new store is to be.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Without compression.
    pub no_compression: bool,
    /// What the user calls the first key.
    pub label: String,
    /// The cost of the passphrase slot; RFC 9106's second choice if `None`.
    pub kdf: Option<KdfParams>,
    /// Other chunk sizes.
    pub chunks: Option<crate::chunker::ChunkSizes>,
    /// An encrypted store whose master key this one is to have, too, and with it the names of blobs and where files are cut:
    /// what is copied between the two is copied as it is.
    pub keys_of: Option<Arc<Repository>>,
}

/// Makes a store: the key slot first, or in a plaintext store a copy of CONFIG, CONFIG last, and reads it back. No secret
/// makes a plaintext store.
pub async fn create(
    store: &Arc<dyn Store>,
    secret: Option<&UserSecret>,
    options: &CreateOptions,
) -> Result<Config> {
    store.prepare().await?;
    if options.keys_of.as_ref().is_some_and(|other| secret.is_none() || !other.keys.is_sealed()) {
        return Err(Error::Usage("a store that is not encrypted has no keys to share".into()));
    }
    let mut config = Config::new(secret.is_some(), now_ns());
    if let Some(other) = &options.keys_of {
        config.chunks = other.config.chunks;
    }
    if options.no_compression {
        config.zstd_level = None;
    }
    if let Some(chunks) = options.chunks {
        config.chunks = chunks;
    }
    let (bytes, first) = match secret {
        None => {
            let bytes = config.encode(&Keyring::plaintext(config.store));
            let copy = encode_config_copy(config.store, &bytes);
            (bytes, (ObjectId::random(), copy))
        }
        Some(secret) => {
            let master = match &options.keys_of {
                Some(other) => other.keys.master().clone(),
                None => Secret::new(crate::random_bytes()),
            };
            let keys = Keyring::sealed(config.store, master);
            let bytes = config.encode(&keys);
            let kdf = options.kdf.clone().unwrap_or_else(KdfParams::recommended);
            let slot = KeySlot::new(&keys, secret, kdf, &options.label, now_ns(), bytes.clone())
                .map_err(|e| Error::Usage(e.to_string()))?;
            (bytes, (slot.id, slot.encode()))
        }
    };
    let first = (ObjectName::new(Area::Keys, first.0), Bytes::from(first.1));
    if let Err(e) = write_first(store.as_ref(), first.clone(), &bytes.into()).await {
        // Half a store would be in the way of another try. Somebody else's stays.
        let is_ours = !matches!(&e, Error::Store(e) if e.kind() == StoreErrorKind::AlreadyExists);
        for name in [first.0].into_iter().chain(is_ours.then_some(ObjectName::CONFIG)) {
            let _ = store.delete(name).await;
        }
        return Err(e);
    }
    Ok(config)
}

/// Writes what makes a place a store; CONFIG comes last.
async fn write_first(store: &dyn Store, first: (ObjectName, Bytes), config: &Bytes) -> Result<()> {
    put_bytes(store, first.0, first.1).await?;
    put_bytes(store, ObjectName::CONFIG, config.clone()).await?;
    if store.get(ObjectName::CONFIG, None).await? != *config {
        return Err(Error::damaged(ObjectName::CONFIG, "it reads back differently from what was written"));
    }
    Ok(())
}

/// Writes a copy of a plaintext store's CONFIG among its keys.
pub(super) async fn put_config_copy(store: &Arc<dyn Store>, id: StoreId, config: &[u8]) -> Result<()> {
    let bytes = encode_config_copy(id, config);
    put_bytes(store.as_ref(), ObjectName::new(Area::Keys, ObjectId::random()), bytes.into()).await?;
    Ok(())
}
