//! Encrypted stores with the default options, but for a passphrase that costs nothing.

use std::path::Path;
use std::sync::Arc;

use plakar_engine::cache::LocalDirs;
use plakar_engine::crypto::kdf::KdfParams;
use plakar_engine::keyslot::UserSecret;
use plakar_engine::repository::{self, CreateOptions, Probe, Repository};
use plakar_engine::storage::Store;

fn secret() -> UserSecret {
    UserSecret::passphrase("correct horse battery staple")
}

/// Makes a store and opens it, with local state in a directory.
pub(crate) async fn create(store: &Arc<dyn Store>, local: &Path) -> Arc<Repository> {
    let kdf = KdfParams { memory_kib: 64, passes: 1, lanes: 1, salt: [7; 32] };
    let options = CreateOptions { kdf: Some(kdf), ..CreateOptions::default() };
    repository::create(store, Some(&secret()), &options).await.unwrap();
    open(store, local).await
}

/// Opens a store that [`create`] made.
pub(crate) async fn open(store: &Arc<dyn Store>, local: &Path) -> Arc<Repository> {
    let dirs = LocalDirs { cache: local.join("cache"), state: local.join("state") };
    let probe = Probe::read(store).await.unwrap();
    Repository::open(store.clone(), probe, Some(secret()), &dirs).await.unwrap()
}
