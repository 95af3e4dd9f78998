//! Notices reading that goes on and on, and asks for frames before the reader does.
//!
//! Without open messages there are no handles, so what is known of a reader is kept by inode. The kernel reads ahead
//! by itself, in small steps and several at once: offsets need only be near the last one. A file's window grows with
//! every step that goes on; a jump begins anew. Small files that are read in turn are the business of
//! [`neighbours`](crate::fs::neighbours).

use std::ops::Range;
use std::sync::Arc;

use moka::sync::Cache;
use plakar_engine::repository::reader::FrameRef;
use plakar_engine::tree::Contents;
use plakar_engine::vfs::{Located, Vfs};
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

/// The readers, and where frames are asked for.
#[derive(Debug)]
pub(crate) struct Readahead {
    frames: Arc<CachedFrames>,
    vfs: Vfs,
    runtime: Handle,
    streams: Cache<u64, Stream>,
    largest: u64,
}

impl Readahead {
    pub(crate) fn new(frames: Arc<CachedFrames>, vfs: Vfs, runtime: Handle) -> Self {
        // What was read ahead must not push out what was read ahead before it.
        let largest = LARGEST_WINDOW.min(frames.memory().data_capacity() / 8);
        Self { frames, vfs, runtime, streams: Cache::new(READERS), largest }
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
                let Ok(pieces) = vfs.pieces(&contents, wanted.clone()).await else { return };
                let mut refs = Vec::new();
                for piece in pieces {
                    let Some(Ok(located)) = piece.extent.id.map(|id| vfs.repository().locate(&id)) else {
                        continue;
                    };
                    let from = wanted.start.saturating_sub(piece.start);
                    let to = (wanted.end - piece.start).min(piece.extent.len);
                    refs.extend(frames_of(&located, from..to));
                }
                frames.prefetch(&refs);
            });
        }
    }
}

/// The frames that hold a range of a blob.
fn frames_of(located: &Located, range: Range<u64>) -> Vec<FrameRef> {
    if let [one] = located.frames.as_slice() {
        return vec![one.clone()];
    }
    let mut start = 0;
    let mut out = Vec::new();
    for frame in &located.frames {
        let end = start + u64::from(frame.record.clear);
        if start < range.end && end > range.start {
            out.push(frame.clone());
        }
        start = end;
    }
    out
}

#[cfg(test)]
mod tests;
