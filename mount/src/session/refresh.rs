//! Brings new snapshots into a live mount, and takes removed ones out.
//!
//! The store is only listed; of the catalogue no more is read than what is new.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{INodeNo, Notifier};
use plakar_engine::repository::report;

use crate::fs::SnapshotFs;
use crate::view::Change;

const LOCAL: Duration = Duration::from_secs(1);
const REMOTE: Duration = Duration::from_secs(10);
/// Of the time, so much may go into listing.
const SHARE: u32 = 50;

/// Looks again and again, until it is stopped.
pub(super) async fn keep_fresh(
    fs: Arc<SnapshotFs>,
    notifier: Notifier,
    every: Option<Duration>,
    local: bool,
) {
    let every = every.unwrap_or(if local { LOCAL } else { REMOTE });
    if every.is_zero() {
        return;
    }
    let (mut wait, mut failing) = (every, false);
    loop {
        tokio::time::sleep(wait).await;
        let begun = Instant::now();
        match fs.refresh().await {
            Ok(changes) => {
                failing = false;
                tell_kernel(&fs, &notifier, changes).await;
            }
            // Once, not every second that the store is away.
            Err(_) if failing => {}
            Err(e) => {
                failing = true;
                tracing::warn!(error = report(&e), "cannot look for new snapshots; trying again");
            }
        }
        // A store that is slow to list is listed less often.
        wait = every.max(begun.elapsed() * SHARE);
    }
}

/// Makes the kernel forget what has changed. It may wait for requests under way, so it is done apart from them.
async fn tell_kernel(fs: &Arc<SnapshotFs>, notifier: &Notifier, changes: Vec<Change>) {
    if changes.is_empty() {
        return;
    }
    let (fs, notifier) = (fs.clone(), notifier.clone());
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
