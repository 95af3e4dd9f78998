//! Small files that stand beside one that is read.
//!
//! Whoever reads one file of a directory most often reads the next ones too, and their bytes lie in the frame that has
//! just been decoded. What a small file costs is not its bytes but the kernel's message that asks for them: so an
//! adapter that can put contents into the kernel's page cache asks here what it may put there.
//!
//! At first only what is in memory is given, and little of it: it costs no more than a copy. A reader who goes on gets
//! more with each step, and frames are loaded for him. Somebody who lists directory after directory and reads the files
//! of each gets them with the listing; that ends when listings are no longer followed by reading.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;
use plakar_engine::crypto::Class;
use plakar_engine::frame_source::{FrameKey, FrameRef, FrameSource, Purpose};
use plakar_engine::tree::{Detail, Entry};

use super::SnapshotFs;
use super::folders::Run;
use super::inodes::Inode;
use super::tree::Dir;

/// Files above this are not given: reading them takes few messages for their bytes.
const LARGEST: u64 = 256 << 10;
/// Files given in the first step, and in any.
const FIRST: u32 = 32;
const MOST: u32 = 256;
/// Bytes given in one step.
const BYTES: u64 = 2 << 20;
/// Bytes of a larger file that are loaded.
const BEGINNING: u64 = 1 << 20;
/// Readers that are remembered, and how long.
const READERS: u64 = 4096;
const MEMORY: Duration = Duration::from_secs(10);
/// How sure it is that a listing will be followed by reading: what reading in a new directory adds, what a listing
/// takes away, from where on files are given with a listing, and the most.
const READ_ADDS: u32 = 4;
const SURE: u32 = 8;
const SUREST: u32 = 24;

/// Where a reader of a directory's files is.
#[derive(Clone, Debug)]
struct Walk {
    /// Positions that were given.
    given: Range<u32>,
    /// Files of the next step.
    step: u32,
}

/// The readers, by directory.
#[derive(Debug)]
pub(crate) struct Walks {
    walks: Cache<u64, Walk>,
    /// How sure it is that a listing will be followed by reading.
    sure: AtomicU32,
}

impl Default for Walks {
    fn default() -> Self {
        let walks = Cache::builder().max_capacity(READERS).time_to_idle(MEMORY).build();
        Self { walks, sure: AtomicU32::new(0) }
    }
}

impl Walks {
    /// Takes a file that was read; gives how many to look at from there on, and whether it is likely that they will be
    /// read. `None` when this one was already given, or is about to be.
    fn step(&self, dir: u64, position: u32) -> Option<(u32, bool)> {
        let before = self.walks.get(&dir);
        if before.as_ref().is_some_and(|w| w.given.contains(&position)) {
            return None;
        }
        if before.is_none() {
            self.change_sure(|s| (s + READ_ADDS).min(SUREST));
        }
        let goes_on = |w: &Walk| position >= w.given.end && position - w.given.end <= w.step;
        let before = before.filter(goes_on);
        let files = before.as_ref().map_or(FIRST, |w| (w.step * 2).min(MOST));
        self.given(dir, position..u32::MAX, files);
        Some((files, before.is_some() || self.sure.load(Ordering::Relaxed) >= SURE))
    }

    /// Takes a directory that is listed from its beginning; whether its first files shall be given at once.
    fn listed(&self, dir: u64) -> bool {
        let sure = self.change_sure(|s| s.saturating_sub(1)) >= SURE;
        let give = sure && !self.walks.contains_key(&dir);
        if give {
            self.given(dir, 0..u32::MAX, MOST);
        }
        give
    }

    /// Until it is known how far a step goes, its end is the last position that there can be.
    fn given(&self, dir: u64, files: Range<u32>, step: u32) {
        self.walks.insert(dir, Walk { given: files, step });
    }

    /// Changes how sure it is; gives what it was.
    fn change_sure(&self, change: impl Fn(u32) -> u32) -> u32 {
        let changed = self.sure.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |s| Some(change(s)));
        changed.unwrap_or_else(|was| was)
    }
}

/// Files that may be given, one by one.
#[derive(Debug)]
pub struct Following {
    dir: Arc<Dir>,
    /// From here on; what was read itself is left out.
    first: u32,
    at: u32,
    end: u32,
    bytes: u64,
    /// Files of the step.
    step: u32,
    /// Whether frames are loaded for it.
    eager: bool,
    run: Option<Run>,
    frame: Option<FrameKey>,
}

/// The next of the files that may be given.
#[derive(Debug)]
pub enum Given {
    /// A whole file, with its inode number, which somebody holds or has held.
    File(u64, Bytes),
    /// Frames have to be loaded first: see [`SnapshotFs::load`].
    Away(Vec<FrameRef>),
    /// There is no other.
    End,
}

impl SnapshotFs {
    /// What may follow a file that was just read.
    pub fn following(&self, ino: u64) -> Option<Following> {
        let Some(Inode::Leaf(dir, position)) = self.inode_at_hand(ino) else { return None };
        let (step, eager) = self.walks.step(dir.ino, position)?;
        Some(Following::new(dir, position, position + 1, step, eager))
    }

    /// What may follow a directory that was just listed from its beginning.
    pub fn following_listing(&self, ino: u64) -> Option<Following> {
        let Some(Inode::Directory(dir)) = self.inode_at_hand(ino) else { return None };
        self.walks.listed(dir.ino).then(|| Following::new(dir, 0, 0, MOST, true))
    }

    /// The next file, as far as it can be had without waiting.
    pub fn give(&self, following: &mut Following) -> Given {
        let given = self.next(following);
        if matches!(given, Given::End) {
            let Following { dir, first, at, step, .. } = following;
            self.walks.given(dir.ino, *first..*at, *step);
        }
        given
    }

    /// Loads frames that a [`Given::Away`] named. What cannot be read will be reported when it is asked for.
    pub async fn load(&self, frames: &[FrameRef]) {
        let _now_in_memory = self.frames.frames(frames, Purpose::Prefetch).await;
    }

    fn next(&self, f: &mut Following) -> Given {
        if f.run.is_none() {
            // Behind the last entry there is none, which is no error here.
            f.run = at_once(self.folders.run_at(f.dir.node(), f.at)).and_then(Result::ok).flatten();
        }
        let Some(run) = f.run.clone() else { return Given::End };
        while f.at < f.end && f.bytes < BYTES {
            let Some(entry) = run.at(f.at) else { break };
            let Some(frames) = self.frames_of_small(entry) else {
                if f.eager {
                    self.prefetch_beginning(entry);
                }
                f.at += 1;
                continue;
            };
            let away = |f: &&FrameRef| !self.frames.memory().holds(Class::Data, &f.key());
            let missing: Vec<FrameRef> = frames.iter().filter(away).cloned().collect();
            if !missing.is_empty() {
                return if f.eager { Given::Away(missing) } else { Given::End };
            }
            let frame = frames.first().map(FrameRef::key);
            if f.frame != frame {
                f.frame = frame;
                self.note_small(entry);
            }
            f.bytes += entry.meta.size;
            f.at += 1;
            if let Some((ino, bytes)) = self.whole(&f.dir, entry, f.at - 1) {
                return Given::File(ino, bytes);
            }
        }
        Given::End
    }

    /// Asks for the first frames of a larger file: it is read in parts, and waits for the first one only.
    fn prefetch_beginning(&self, entry: &Entry) {
        let Detail::Regular(contents) = &entry.detail else { return };
        if entry.meta.size > LARGEST
            && contents.level == 0
            && let Some(Ok(frames)) = at_once(self.folders.vfs().frames_of(contents, 0..BEGINNING))
        {
            self.frames.prefetch(&frames);
        }
    }

    /// The frames of a small file with contents.
    fn frames_of_small(&self, entry: &Entry) -> Option<Vec<FrameRef>> {
        let Detail::Regular(contents) = &entry.detail else { return None };
        if contents.missing || contents.level != 0 || entry.meta.size == 0 || entry.meta.size > LARGEST {
            return None;
        }
        let mut frames = Vec::new();
        for id in contents.items.iter().filter_map(|e| e.id) {
            frames.extend(self.repository.locate(&id).ok()?.frames);
        }
        Some(frames)
    }

    /// A file's number and bytes, if its directory is held and its frames are in memory.
    fn whole(&self, dir: &Dir, entry: &Entry, position: u32) -> Option<(u64, Bytes)> {
        let ino = self.inodes.held(&self.numbers.of_entry(dir, entry, position))?;
        let size = entry.meta.size;
        let bytes = at_once(self.folders.vfs().read(entry, 0..size, Purpose::Prefetch))?.ok()?.joined();
        (bytes.len() as u64 == size).then_some((ino, bytes))
    }
}

impl Following {
    fn new(dir: Arc<Dir>, first: u32, at: u32, step: u32, eager: bool) -> Self {
        Self { dir, first, at, end: at.saturating_add(step), bytes: 0, step, eager, run: None, frame: None }
    }
}

/// What a future gives if it need not wait.
fn at_once<T>(work: impl Future<Output = T>) -> Option<T> {
    match std::pin::pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
