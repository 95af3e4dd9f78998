//! Restoring: a subtree of a snapshot to a destination.

use std::sync::Arc;

use super::Cancel;
use crate::error::Result;
use crate::exporter::Exporter;
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::snapshot::Snapshot;

/// What a restore did.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct RestoreReport {
    /// Regular files made.
    pub files: u64,
    /// Directories made.
    pub directories: u64,
    /// Symlinks, FIFOs, sockets, devices, further names of files.
    pub others: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Entries left as they were found.
    pub kept: u64,
    /// Entries that failed, or that miss some attribute. The monitor was told of each.
    pub errors: u64,
}

/// Restores the entry at an absolute path of a snapshot: a directory's contents and attributes become those of the
/// destination; anything else is made in it under its own name.
pub async fn restore(
    _repository: &Arc<Repository>,
    _snapshot: &Snapshot,
    _path: &[u8],
    _target: Arc<dyn Exporter>,
    _monitor: Arc<dyn Monitor>,
    _cancel: Cancel,
) -> Result<RestoreReport> {
    Ok(RestoreReport::default())
}
