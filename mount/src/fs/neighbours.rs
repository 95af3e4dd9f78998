//! Small files that stand beside one that is read.
//!
//! Whoever reads one file of a directory most often reads the next ones too, and their bytes lie in the frame that has
//! just been decoded. What a small file costs is not its bytes but the kernel's message that asks for them: so an
//! adapter that can put contents into the kernel's page cache asks here, after each answer, what it may put there.
//!
//! At first only what is in memory is given, and little of it: it costs no more than a copy. A reader who goes on gets
//! more with each step, and the frames that come next are loaded ahead of him.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;
use plakar_engine::crypto::Class;
use plakar_engine::repository::reader::{FrameRef, Purpose};
use plakar_engine::tree::{Detail, Entry};

use super::SnapshotFs;
use super::folders::Run;
use super::inodes::Inode;
use super::tree::Dir;

/// Files above this are not given: reading them takes few messages for their bytes.
const LARGEST: u64 = 256 << 10;
/// Files given in the first step, in any step, and their bytes.
const FIRST: u32 = 32;
const MOST: u32 = 256;
const BYTES: u64 = 1 << 20;
/// Readers that are remembered, and how long.
const READERS: u64 = 4096;
const MEMORY: Duration = Duration::from_secs(10);

/// Where a reader of a directory's files is.
#[derive(Clone, Copy, Debug)]
struct Walk {
    /// Positions that were given.
    given: Range32,
    /// Files of the next step.
    step: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range32 {
    start: u32,
    end: u32,
}

/// The readers, by directory.
#[derive(Debug)]
pub(crate) struct Walks(Cache<u64, Walk>);

impl Default for Walks {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(READERS).time_to_idle(MEMORY).build())
    }
}

impl Walks {
    /// Takes a file that was read; gives how many to look at from there on, and whether the reader has gone on from
    /// what he was given before. `None` when this one was already given, or is about to be.
    fn step(&self, dir: u64, position: u32) -> Option<(u32, bool)> {
        let before = self.0.get(&dir);
        if before.is_some_and(|w| (w.given.start..w.given.end).contains(&position)) {
            return None;
        }
        let goes_on = before.is_some_and(|w| position >= w.given.end && position - w.given.end <= w.step);
        let files = before.filter(|_| goes_on).map_or(FIRST, |w| (w.step * 2).min(MOST));
        // Until it is known how far it goes, all that comes counts as given.
        let given = Range32 { start: position, end: u32::MAX };
        self.0.insert(dir, Walk { given, step: files });
        Some((files, goes_on))
    }

    fn given(&self, dir: u64, files: Range<u32>, step: u32) {
        let given = Range32 { start: files.start, end: files.end };
        self.0.insert(dir, Walk { given, step });
    }
}

/// What may be given after a read.
#[derive(Debug)]
pub struct Following {
    dir: Arc<Dir>,
    position: u32,
    files: u32,
    goes_on: bool,
}

impl SnapshotFs {
    /// Whether something may follow the file that was just read.
    pub fn following(&self, ino: u64) -> Option<Following> {
        let Ok(Inode::Leaf(dir, position)) = self.inodes.inode(ino) else { return None };
        let (files, goes_on) = self.walks.step(dir.identity.first_number(), position)?;
        Some(Following { dir, position, files, goes_on })
    }

    /// Whole files with their inode numbers, which somebody holds: those that the reader will most likely want next.
    pub async fn files_following(&self, after: Following) -> Vec<(u64, Bytes)> {
        let Following { dir, position, files, goes_on } = after;
        let mut out = Vec::new();
        let mut end = position + 1;
        if let Ok(run) = self.run(&dir, position).await {
            let mut wanted = Vec::new();
            let mut bytes = 0;
            let last = (position + 1).saturating_add(files);
            while end < last && bytes < BYTES {
                let Some(entry) = run.at(end) else { break };
                let Some(frames) = self.frames_of_small(entry) else {
                    end += 1;
                    continue;
                };
                let here = frames.iter().all(|f| self.frames.memory().holds(Class::Data, &f.key()));
                if !here && !goes_on {
                    break;
                }
                bytes += entry.meta.size;
                wanted.push(end);
                end += 1;
            }
            for position in wanted {
                out.extend(self.whole(&dir, &run, position).await);
            }
        }
        self.walks.given(dir.identity.first_number(), position..end, files);
        out
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

    /// A file's number and bytes, if it is held. What cannot be read will be reported when it is asked for.
    async fn whole(&self, dir: &Dir, run: &Run, position: u32) -> Option<(u64, Bytes)> {
        let entry = run.at(position)?;
        let ino = self.inodes.held(&self.numbers.of_entry(dir, entry, position))?;
        let size = entry.meta.size;
        let bytes = self.folders.vfs().read(entry, 0..size, Purpose::Prefetch).await.ok()?;
        (bytes.len() as u64 == size).then_some((ino, bytes))
    }
}
