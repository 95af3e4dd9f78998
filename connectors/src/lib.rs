//! Where data comes from, goes to and is kept: implementations of the engine's three ports.
//!
//! | module | store | source | destination |
//! |---|---|---|---|
//! | [`fs`]: the local file system (Unix) | [`fs::FsStore`] | [`fs::FsImporter`] | [`fs::FsExporter`] |
//! | [`ptar`]: one file (Unix) | [`ptar::PtarStore`], written by [`ptar::PtarWriter`] | | |
//!
//! A connector knows nothing of snapshots or formats; how a ptar is laid out, it takes from the engine. What it promises is written at the ports:
//! [`plakar_engine::storage`], [`plakar_engine::importer`], [`plakar_engine::exporter`].

#[cfg(unix)]
pub mod fs;
#[cfg(unix)]
pub mod ptar;
