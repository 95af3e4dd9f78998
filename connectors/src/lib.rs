//! Where data comes from, goes to and is kept: implementations of the engine's three ports.
//!
//! | module | store | source | destination |
//! |---|---|---|---|
//! | [`fs`]: the local file system (Unix) | [`fs::FsStore`] | [`fs::FsImporter`] | [`fs::FsExporter`] |
//!
//! A connector knows nothing of snapshots or formats. What it promises is written at the ports:
//! [`plakar_engine::storage`], [`plakar_engine::importer`], [`plakar_engine::exporter`].

#[cfg(unix)]
pub mod fs;
