//! Notices reading that goes on and on, and asks for frames before the reader does.
//!
//! Without open messages there are no handles, so what is known of a reader is kept by inode. The kernel reads ahead
//! by itself, in small steps and several at once: offsets need only be near the last one. A file's window grows with
//! every step that goes on; a jump begins anew. Small files are stored in the order of a walk, many to a frame: whoever
//! goes from frame to frame gets the next ones too. Which of them the kernel is given is the business of
//! `fs::neighbours`.

use std::ops::Range;
use std::sync::Arc;

use moka::sync::Cache;
use plakar_engine::id::{BlobId, ObjectId};
use plakar_engine::tree::Contents;
use plakar_engine::vfs::Vfs;
use tokio::runtime::Handle;

use crate::cache::CachedFrames;

/// Files below this are read whole by one or two requests.
const SMALLEST: u64 = 256 << 10;
const FIRST_WINDOW: u64 = 1 << 20;
const LARGEST_WINDOW: u64 = 16 << 20;
/// How far from the last offset a request may lie and still go on: the kernel sends several at once.
const SLACK: u64 = 2 << 20;
/// Readers that are remembered.
const READERS: u64 = 4096;

/// One reader of a file.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// Where the next request should begin.
    next: u64,
    window: u64,
    /// Asked for up to here.
    asked: u64,
}

impl Stream {
    /// Takes a request; gives what to ask for.
    fn step(&mut self, range: &Range<u64>, size: u64, largest: u64) -> Option<Range<u64>> {
        let goes_on = range.start <= self.next + SLACK && range.end + SLACK >= self.next && self.next > 0;
        if !goes_on {
            *self = Self { next: range.end, window: 0, asked: range.end };
            // A reader that begins at the start most often goes on to the end.
            if range.start > 0 {
                return None;
            }
        }
        self.next = self.next.max(range.end);
        let from = self.asked.max(self.next);
        let ahead = from - self.next;
        if from >= size || ahead > self.window / 2 {
            return None;
        }
        self.window = (self.window * 2).clamp(FIRST_WINDOW.min(largest), largest);
        let to = (self.next + self.window).min(size);
        self.asked = to.max(from);
        (to > from).then_some(from..to)
    }
}

/// Somebody who goes from frame to frame of a packfile: not always to the next one, since files and directories are
/// read in another order than they are stored in, but to one that is near those before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Walker {
    /// The frames he was in last.
    last: [u64; 6],
    seen: usize,
}

impl Walker {
    /// How far a frame may lie from another to count as near.
    const NEAR: u64 = 8;

    /// Takes the number of a frame; gives how many to ask for behind it.
    fn step(&mut self, at: u64) -> u64 {
        let known = self.seen.min(self.last.len());
        if self.last[..known].contains(&at) {
            return 0;
        }
        let near = self.last[..known].iter().filter(|l| l.abs_diff(at) <= Self::NEAR).count() as u64;
        self.last[self.seen % self.last.len()] = at;
        self.seen += 1;
        // One neighbour may be chance.
        near.saturating_sub(1)
    }
}

/// The readers, and where frames are asked for.
#[derive(Debug)]
pub(crate) struct Readahead {
    frames: Arc<CachedFrames>,
    vfs: Vfs,
    runtime: Handle,
    streams: Cache<u64, Stream>,
    walkers: Cache<ObjectId, Walker>,
    largest: u64,
}

impl Readahead {
    pub(crate) fn new(frames: Arc<CachedFrames>, vfs: Vfs, runtime: Handle) -> Self {
        // What was read ahead must not push out what was read ahead before it.
        let largest = LARGEST_WINDOW.min(frames.memory().data_capacity() / 4);
        let (streams, walkers) = (Cache::new(READERS), Cache::new(READERS));
        Self { frames, vfs, runtime, streams, walkers, largest }
    }

    /// Notes that a range of a file is read.
    pub(crate) fn note(&self, ino: u64, range: &Range<u64>, size: u64, contents: &Contents) {
        if size <= SMALLEST {
            return;
        }
        let mut stream = self.streams.get(&ino).unwrap_or_default();
        let wanted = stream.step(range, size, self.largest);
        self.streams.insert(ino, stream);
        if let Some(wanted) = wanted {
            let (vfs, frames, contents) = (self.vfs.clone(), self.frames.clone(), contents.clone());
            self.runtime.spawn(async move {
                // What cannot be read now will be reported when it is asked for.
                let Ok(refs) = vfs.frames_of(&contents, wanted).await else { return };
                frames.prefetch(&refs);
            });
        }
    }

    /// Notes that a small file that begins with a blob is read.
    pub(crate) fn note_small(&self, id: &BlobId) {
        let Ok((at, first)) = self.vfs.repository().stored_from(id, 1) else { return };
        let Some(packfile) = first.first().map(|f| f.packfile) else { return };
        let mut walker = self.walkers.get(&packfile).unwrap_or_default();
        let count = walker.step(at).min(self.largest >> 20) as usize;
        self.walkers.insert(packfile, walker);
        if count > 0
            && let Ok((_, frames)) = self.vfs.repository().stored_from(id, count + 1)
        {
            self.frames.prefetch(frames.get(1..).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests;
