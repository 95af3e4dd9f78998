//! Directories to the kernel, as names or as names with attributes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::convert::{attributes, errno, kind};
use super::{Fuse, name_lifetime};
use crate::error::FsError;
use crate::fs::{SnapshotFs, Stretch};

impl Fuse {
    /// Sends a directory as plain or full entries.
    pub(super) fn send_directory<R: DirectoryReply>(&self, ino: INodeNo, offset: u64, mut reply: R) {
        let fs = self.fs.clone();
        let work = async move {
            let mut after = offset;
            loop {
                let batch = match fs.list(ino.0, after).await {
                    Ok(batch) => batch,
                    Err(e) if after == offset => return reply.fail(e),
                    // What there is goes out; the rest will fail when it is asked for.
                    Err(_) => return reply.send(),
                };
                if batch.is_empty() {
                    return reply.send();
                }
                let before = after;
                for place in 0..batch.len() {
                    match reply.add(&fs, &batch, place) {
                        Added::Next(cookie) => after = cookie,
                        Added::Hidden => {}
                        Added::Full => return reply.send(),
                    }
                }
                // A batch of nothing but hidden entries would come again and again.
                if after == before {
                    after += batch.len() as u64;
                }
            }
        };
        self.answer(work, |()| ());
    }
}

/// What became of an entry.
pub(super) enum Added {
    /// It is in the reply; its cookie.
    Next(u64),
    /// It is not shown.
    Hidden,
    /// The reply has no room for it.
    Full,
}

/// A reply to readdir or readdirplus.
pub(super) trait DirectoryReply: Send + 'static {
    fn add(&mut self, fs: &SnapshotFs, batch: &Stretch, place: usize) -> Added;
    fn send(self);
    fn fail(self, e: FsError);
}

impl DirectoryReply for ReplyDirectory {
    fn add(&mut self, fs: &SnapshotFs, batch: &Stretch, place: usize) -> Added {
        let Some(item) = fs.item(batch, place) else { return Added::Hidden };
        let name = OsStr::from_bytes(item.name);
        match Self::add(self, INodeNo(item.attr.ino), item.cookie, kind(item.attr.kind), name) {
            true => Added::Full,
            false => Added::Next(item.cookie),
        }
    }

    fn send(self) {
        self.ok();
    }

    fn fail(self, e: FsError) {
        self.error(errno(e));
    }
}

impl DirectoryReply for ReplyDirectoryPlus {
    fn add(&mut self, fs: &SnapshotFs, batch: &Stretch, place: usize) -> Added {
        let Some(item) = fs.hold(batch, place) else { return Added::Hidden };
        let ttl = name_lifetime(item.holds);
        let (ino, name) = (INodeNo(item.attr.ino), OsStr::from_bytes(item.name));
        if !Self::add(self, ino, item.cookie, name, &ttl, &attributes(&item.attr), Generation(0)) {
            return Added::Next(item.cookie);
        }
        if !item.dot {
            fs.forget(item.attr.ino, 1);
        }
        Added::Full
    }

    fn send(self) {
        self.ok();
    }

    fn fail(self, e: FsError) {
        self.error(errno(e));
    }
}
