//! The engine of plakar: a **Kloset** is an encrypted, deduplicated, immutable store of snapshots.
//!
//! Three rings, each using only those inside it:
//!
//! | ring | modules | may do |
//! |---|---|---|
//! | operations | `ops` | threads, the runtime, everything below |
//! | repository | `repository`, `vfs`, `select` | the ports, local files |
//! | ports | `storage`, `importer`, `exporter`, `monitor` | nothing but ids and errors |
//! | formats (pure) | `config`, `keyslot`, `frame`, `packfile`, `tree`, `state`, `snapshot`, `removal` | bytes in, values out |
//! | primitives (pure) | `id`, `meta`, `moment`, `retention`, `wire`, `crypto`, `chunker` | bytes in, bytes out |
//!
//! `docs/FORMAT.md` is the specification of what is stored, `docs/ARCHITECTURE.md` shows the two data flows.
//!
//! # Example
//! A store is made and opened, a source backed up, its tree walked and its files read:
//! ```no_run
//! use std::sync::Arc;
//!
//! use plakar_engine::cache::LocalDirs;
//! use plakar_engine::cancel::Cancel;
//! use plakar_engine::error::Result;
//! use plakar_engine::frame_source::Purpose;
//! use plakar_engine::importer::Importer;
//! use plakar_engine::keyslot::UserSecret;
//! use plakar_engine::monitor::Silent;
//! use plakar_engine::ops::backup::{BackupOptions, backup};
//! use plakar_engine::repository::recent::RecentFrames;
//! use plakar_engine::repository::{CreateOptions, Probe, Repository, create};
//! use plakar_engine::storage::Store;
//! use plakar_engine::vfs::Vfs;
//! use plakar_engine::walk::{Step, Walk};
//!
//! async fn back_up_and_read(
//!     store: Arc<dyn Store>,
//!     source: Arc<dyn Importer>,
//!     dirs: LocalDirs,
//! ) -> Result<()> {
//!     let secret = UserSecret::new_key_file();
//!     create(&store, Some(&secret), &CreateOptions::default()).await?;
//!     let probe = Probe::read(&store).await?;
//!     let repository = Repository::open(store, probe, Some(secret), &dirs).await?;
//!
//!     let (monitor, cancel) = (Arc::new(Silent), Cancel::default());
//!     let done = backup(&repository, source, BackupOptions::default(), monitor, cancel).await?;
//!     println!("{}: {} files read", done.snapshot.id.short(), done.files_read);
//!
//!     let vfs = Vfs::new(repository.clone(), Arc::new(RecentFrames::new(repository)));
//!     let top = vfs.resolve(&done.snapshot, b"/").await?;
//!     let mut walk = Walk::new(vfs.clone(), top, b"/".to_vec());
//!     while let Some(step) = walk.next().await {
//!         match step {
//!             Step::Entry(entry) if entry.meta.size > 0 => {
//!                 let beginning = vfs.read(&entry, 0..entry.meta.size.min(100), Purpose::OnDemand).await?;
//!                 println!("{}: {beginning:?}", String::from_utf8_lossy(walk.path()));
//!             }
//!             Step::Unreadable(e) => return Err(e),
//!             _ => {}
//!         }
//!     }
//!     Ok(())
//! }
//! ```

pub(crate) mod blocking;
pub mod cache;
pub mod cancel;
pub mod chunker;
pub mod config;
pub mod crypto;
pub mod error;
pub mod exporter;
pub mod frame;
pub mod frame_source;
pub mod id;
pub mod importer;
pub mod keyslot;
pub mod meta;
pub mod moment;
pub mod monitor;
pub mod object;
pub mod ops;
pub mod packfile;
pub mod ptar;
pub mod removal;
pub mod repository;
pub mod retention;
pub mod select;
pub mod snapshot;
pub mod state;
pub mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod trail;
pub mod tree;
pub mod vfs;
pub mod walk;
pub mod wire;

/// Random bytes from the operating system.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The system's generator fails only where the program could not go on safely anyway.

    #[expect(clippy::expect_used, reason = "without randomness nothing may be sealed")]
    getrandom::fill(&mut bytes).expect("the operating system gives no random bytes");
    bytes
}
