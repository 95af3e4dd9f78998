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
//! | primitives (pure) | `id`, `meta`, `wire`, `crypto`, `chunker` | bytes in, bytes out |
//!
//! `docs/FORMAT.md` is the specification of what is stored, `docs/ARCHITECTURE.md` shows the two data flows.

pub mod cache;
pub mod chunker;
pub mod config;
pub mod crypto;
pub mod error;
pub mod exporter;
pub mod frame;
pub mod id;
pub mod importer;
pub mod keyslot;
pub mod meta;
pub mod monitor;
pub mod object;
pub mod ops;
pub mod packfile;
pub mod removal;
pub mod repository;
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
