//! The adapter from the kernel's FUSE requests to [`SnapshotFs`].
//!
//! A request whose answer is in memory is answered on the thread that took it. Any other goes to the runtime and is
//! answered from there, so that these threads never wait: a slow store cannot keep the kernel from what is cached.
//!
//! Nothing below a snapshot changes, so the kernel may keep names, attributes, contents, directories and links for as
//! long as it likes. Where it offers to, it is told once not to send open and opendir at all, and where nothing has
//! extended attributes, not to ask for them: messages are what small files cost.

mod convert;
mod directory;
mod flags;
mod push;
mod requests;

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fuser::{ReplyData, ReplyXattr};
use plakar_engine::vfs::Parts;

use crate::error::FsError;
use crate::fs::{Holds, SnapshotFs};
use convert::errno;

pub(crate) use push::Pusher;

/// How long the kernel keeps what never changes.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);
/// How long it keeps the names of views. What has changed is taken back from it, so this is short only to be sure. With
/// no time at all every use of a path through `latest` or `snapshots` would cost a message for each of its parts: `cp -a`
/// of the kernel's source took 16 s instead of 9.
const VIEW: Duration = Duration::from_secs(1);
const NOT_AT_ALL: Duration = Duration::ZERO;
/// The longest request: 256 pages are the kernel's own limit.
const MAX_REQUEST: u32 = 1 << 20;
/// Reads ahead that the kernel may have under way.
const MAX_BACKGROUND: u16 = 64;

/// [`SnapshotFs`] for the kernel.
#[derive(Debug)]
pub(crate) struct Fuse {
    fs: Arc<SnapshotFs>,
    pusher: Pusher,
    allow_other: bool,
    no_open: bool,
    no_opendir: bool,
}

impl Fuse {
    pub(crate) fn new(fs: Arc<SnapshotFs>, pusher: Pusher, allow_other: bool) -> Self {
        Self { fs, pusher, allow_other, no_open: false, no_opendir: false }
    }

    /// Does the work here if it need not wait, else on the runtime.
    fn answer<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
        reply: impl FnOnce(T) + Send + 'static,
    ) {
        let runtime = self.fs.runtime();
        // Timers and tasks that the work begins belong to the runtime.
        let _inside = runtime.enter();
        let mut work = Box::pin(self.fs.request(work));
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => reply(value),
            Poll::Pending => {
                runtime.spawn(async move { reply(work.await) });
            }
        }
    }
}

/// How long attributes hold.
fn lifetime(attr: &crate::fs::Attr) -> Duration {
    if attr.volatile { VIEW } else { FOR_EVER }
}

/// How long a name holds.
fn name_lifetime(holds: Holds) -> Duration {
    match holds {
        Holds::ForEver => FOR_EVER,
        Holds::WithTheView => VIEW,
        Holds::Once => NOT_AT_ALL,
    }
}

thread_local! {
    /// Where an answer that lies in several frames is joined. One for each thread that answers, up to the longest
    /// request: memory that was used before costs a third of what new memory does.
    static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Answers a request for contents. The library takes them in one piece only.
fn send_parts(reply: ReplyData, parts: &Parts) {
    if let Some(one) = parts.as_one() {
        return reply.data(one);
    }
    JOINED.with_borrow_mut(|joined| {
        joined.clear();
        parts.iter().for_each(|part| joined.extend_from_slice(part));
        reply.data(joined);
    });
}

/// Answers a request for an extended attribute or their names by the size that was offered.
fn send_xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, FsError>) {
    match value {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() <= size as usize => reply.data(&value),
        Ok(_) => reply.error(errno(FsError::TooSmall)),
        Err(e) => reply.error(errno(e)),
    }
}
