//! Makes the kernel forget the names of snapshots that have come or gone.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use crate::fs::SnapshotFs;
use crate::refresh;
use crate::view::Change;

/// Looks for new snapshots again and again, until it is stopped.
pub(super) async fn keep_fresh(fs: Arc<SnapshotFs>, notifier: Notifier, every: Option<Duration>) {
    let tell = |changes| tell_kernel(fs.clone(), notifier.clone(), changes);
    refresh::keep_fresh(fs.clone(), every, tell).await;
}

/// Makes the kernel forget what has changed. It may wait for requests under way, so it is done apart from them.
async fn tell_kernel(fs: Arc<SnapshotFs>, notifier: Notifier, changes: Vec<Change>) {
    if changes.is_empty() {
        return;
    }
    let told = tokio::task::spawn_blocking(move || {
        for change in changes {
            let folder = INodeNo(fs.folder_number(&change.folder));
            for name in &change.names {
                if let Err(e) = notifier.inval_entry(folder, OsStr::from_bytes(name)) {
                    tracing::debug!(%e, "the kernel keeps a name for a moment");
                }
            }
            if let Err(e) = notifier.inval_inode(folder, 0, 0) {
                tracing::debug!(%e, "the kernel keeps a directory for a moment");
            }
        }
    });
    if let Err(e) = told.await {
        tracing::warn!(%e, "cannot tell the kernel about changes");
    }
}
