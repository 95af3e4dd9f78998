//! Backing up: a source becomes a snapshot.

use std::sync::Arc;

use super::Cancel;
use crate::error::{Error, Result};
use crate::importer::Importer;
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::snapshot::Snapshot;

/// What to write into the snapshot, and how to go about it.
#[derive(Clone, Debug, Default)]
pub struct BackupOptions {
    /// Header fields; roots, type, origin, summary and counters are filled in. `time_ns` 0 means now.
    pub header: Option<Snapshot>,
    /// Gitignore patterns, matched against absolute paths.
    pub ignore: Vec<String>,
    /// Read every file, whatever the file cache says.
    pub reread: bool,
    /// List what would be backed up, through the monitor, and store nothing.
    pub dry_run: bool,
}

/// What a backup did.
#[derive(Debug)]
pub struct BackupReport {
    /// The snapshot; in a dry run it has no id.
    pub snapshot: Snapshot,
    /// Paths that could not be backed up whole. The monitor was told of each.
    pub errors: u64,
    /// Files read, as against taken over unread.
    pub files_read: u64,
}

/// Backs up a source.
pub async fn backup(
    _repository: &Arc<Repository>,
    _source: Arc<dyn Importer>,
    _options: BackupOptions,
    _monitor: Arc<dyn Monitor>,
    _cancel: Cancel,
) -> Result<BackupReport> {
    Err(Error::Cancelled)
}
