//! Puts the contents of small files into the kernel's page cache before it asks for them.
//!
//! One thread does it, since the kernel makes whoever stores wait for its page locks: it holds nothing that a request
//! needs, and its queue drops what it cannot take. Only whole files are stored, so that the kernel never sees a page
//! that is half of one.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use fuser::{INodeNo, Notifier};

use crate::fs::SnapshotFs;

/// Batches that wait; each holds about a megabyte.
const QUEUE: usize = 8;

type Files = Vec<(u64, Bytes)>;

/// The way to the thread. Nothing happens before [`Pusher::start`], which needs a connection to the kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pusher {
    queue: Arc<OnceLock<SyncSender<Files>>>,
}

impl Pusher {
    /// Begins to push.
    pub(crate) fn start(&self, fs: Arc<SnapshotFs>, notifier: Notifier) -> std::io::Result<()> {
        let (queue, files) = sync_channel(QUEUE);
        std::thread::Builder::new().name("plakar-push".into()).spawn(move || push(&fs, &notifier, &files))?;
        let _first_one_stays = self.queue.set(queue);
        Ok(())
    }

    /// After a file was read: its neighbours follow.
    pub(super) fn follow(&self, fs: &Arc<SnapshotFs>, ino: u64) {
        let Some(queue) = self.queue.get() else { return };
        let Some(following) = fs.following(ino) else { return };
        let (fs, queue) = (fs.clone(), queue.clone());
        let runtime = fs.runtime().clone();
        runtime.spawn(async move {
            let files = fs.files_following(following).await;
            match queue.try_send(files) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    tracing::debug!("the kernel takes files more slowly than they come");
                }
                Err(TrySendError::Disconnected(_)) => {}
            }
        });
    }
}

fn push(fs: &SnapshotFs, notifier: &Notifier, batches: &Receiver<Files>) {
    for files in batches {
        for (ino, bytes) in files {
            match notifier.store(INodeNo(ino), 0, &bytes) {
                Ok(()) => fs.note_pushed(bytes.len() as u64),
                Err(e) => tracing::debug!(ino, %e, "the kernel does not take a file"),
            }
        }
    }
}
