//! Puts the contents of small files into the kernel's page cache before it asks for them.
//!
//! One thread does it, since the kernel makes whoever stores wait for its page locks: it holds nothing that a request
//! needs, and its queue drops what it cannot take. Only whole files are stored, so that the kernel never sees a page
//! that is half of one. It never waits for the store either: what has to be loaded first comes back to the queue.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};

use crate::fs::{Following, Given, SnapshotFs};

/// Directories that wait.
const QUEUE: usize = 64;

/// The way to the thread. Nothing happens before [`Pusher::start`], which needs a connection to the kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pusher {
    queue: Arc<OnceLock<SyncSender<Following>>>,
}

impl Pusher {
    /// Begins to push. It ends with the connection.
    pub(crate) fn start(&self, fs: Arc<SnapshotFs>, notifier: Notifier) -> std::io::Result<()> {
        let (queue, jobs) = sync_channel(QUEUE);
        // The thread must not keep its own queue open.
        let back = Arc::downgrade(&self.queue);
        let requeue = move |job| {
            if let Some(queue) = back.upgrade().and_then(|q| q.get().cloned()) {
                let _dropped_when_full = queue.try_send(job);
            }
        };
        let push = move || push(&fs, &notifier, &jobs, &requeue);
        std::thread::Builder::new().name("plakar-push".into()).spawn(push)?;
        let _first_one_stays = self.queue.set(queue);
        Ok(())
    }

    /// After a file was read: its neighbours follow.
    pub(super) fn after_read(&self, fs: &SnapshotFs, ino: u64) {
        self.send(|| fs.following(ino));
    }

    /// After a directory was listed from its beginning: its files follow, if they are likely to be read.
    pub(super) fn after_listing(&self, fs: &SnapshotFs, ino: u64) {
        self.send(|| fs.following_listing(ino));
    }

    fn send(&self, job: impl FnOnce() -> Option<Following>) {
        let Some(queue) = self.queue.get() else { return };
        // A kernel that takes files more slowly than they come asks for the rest itself.
        if let Some(job) = job() {
            let _dropped_when_full = queue.try_send(job);
        }
    }
}

fn push(
    fs: &Arc<SnapshotFs>,
    notifier: &Notifier,
    jobs: &Receiver<Following>,
    requeue: &(impl Fn(Following) + Clone + Send + 'static),
) {
    // What is asked of the filesystem sets timers, though it is never waited for.
    let _inside = fs.runtime().enter();
    for mut job in jobs {
        loop {
            match fs.give(&mut job) {
                Given::File(ino, bytes) => match notifier.store(INodeNo(ino), 0, &bytes) {
                    Ok(()) => fs.note_pushed(bytes.len() as u64),
                    Err(e) => tracing::debug!(ino, %e, "the kernel does not take a file"),
                },
                Given::Away(frames) => {
                    let (loader, requeue) = (fs.clone(), requeue.clone());
                    fs.runtime().spawn(async move {
                        loader.load(&frames).await;
                        requeue(job);
                    });
                    break;
                }
                Given::End => break,
            }
        }
    }
}
