//! Frames on this machine, exactly as the store has them, still sealed: what was fetched once need not be fetched
//! again by the next mount or restore.
//!
//! * One file for each frame, in 256 folders, named by a hash of packfile and offset. It is written under a temporary
//!   name and renamed, never changed, and not synced: whoever reads a frame checks its tag, so that a damaged file is
//!   a miss, and is then replaced.
//! * Any number of processes share a directory without a lock. Each adds up what is there, by listing it, when it
//!   begins and again after every sixteenth of the limit that it has added itself, and removes what was not used for
//!   longest down to nine tenths of the limit.
//! * Writing is done by a thread of its own, whose queue is short: what does not fit into it is not kept. Nobody waits
//!   for it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::make_private;
use crate::error::{Error, Result};
use crate::frame_source::{FrameKey, FrameRef};

/// Bytes that may wait to be written.
const QUEUE: u64 = 8 << 20;
/// A use is noted, in the file's time, when the last one noted is older.
const NOTED: Duration = Duration::from_secs(60);
/// No write takes as long: a temporary file of this age was left behind.
const LEFT_BEHIND: Duration = Duration::from_secs(600);
/// How temporary names begin.
const TEMPORARY: &str = "tmp-";

/// What a cache has done since it was opened, and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct FrameCacheStats {
    /// Frames that were there.
    pub hits: u64,
    /// Frames that were not.
    pub misses: u64,
    /// Stored bytes of frames that were there.
    pub hit_bytes: u64,
    /// Files that were not what they should be, and were removed.
    pub damaged: u64,
    /// Frames written.
    pub added: u64,
    /// Frames that were not kept, since the queue was full or the disk refused them.
    pub dropped: u64,
    /// Frames removed for room.
    pub evicted: u64,
    /// Bytes of all frames, also of other processes, as far as known.
    pub held_bytes: u64,
    /// The limit.
    pub limit_bytes: u64,
}

/// A directory of frames, bounded in bytes.
#[derive(Debug)]
pub struct FrameCache {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Errand>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    limit: u64,
    queued: AtomicU64,
    held: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    hit_bytes: AtomicU64,
    damaged: AtomicU64,
    added: AtomicU64,
    dropped: AtomicU64,
    evicted: AtomicU64,
    /// The disk has refused a frame: no more are written.
    refused: AtomicBool,
}

enum Errand {
    Add(FrameKey, Bytes),
    Flush(mpsc::Sender<()>),
}

impl FrameCache {
    /// Opens, or makes, a directory of frames that may hold `limit` bytes.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(directory: &Path, limit: u64) -> Result<Self> {
        make_private(directory)?;
        let shared = Arc::new(Shared {
            directory: directory.into(),
            limit,
            queued: AtomicU64::new(0),
            held: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            hit_bytes: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            added: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            refused: AtomicBool::new(false),
        });
        let (queue, errands) = mpsc::channel();
        let writer = Writer { shared: shared.clone(), added: 0 };
        std::thread::Builder::new()
            .name("frame cache".into())
            .spawn(move || writer.run(&errands))
            .map_err(|e| Error::io("start the writer of", directory, e))?;
        Ok(Self { shared, queue })
    }

    /// The stored bytes of a frame, if they are here: as many as there should be, not checked otherwise.
    pub fn get(&self, frame: &FrameRef) -> Option<Bytes> {
        let found = self.shared.read(frame);
        match &found {
            Some(bytes) => {
                add(&self.shared.hits, 1);
                add(&self.shared.hit_bytes, bytes.len() as u64);
            }
            None => add(&self.shared.misses, 1),
        }
        found
    }

    /// Keeps the stored bytes of a frame, which must have been checked. Returns at once; it may also forget them.
    pub fn put(&self, frame: &FrameRef, stored: Bytes) {
        let s = &self.shared;
        let len = stored.len() as u64;
        if len > s.limit || s.refused.load(Ordering::Relaxed) {
            return add(&s.dropped, 1);
        }
        if s.queued.fetch_add(len, Ordering::Relaxed) + len > QUEUE
            || self.queue.send(Errand::Add(frame.key(), stored)).is_err()
        {
            s.queued.fetch_sub(len, Ordering::Relaxed);
            add(&s.dropped, 1);
        }
    }

    /// What [`FrameCache::get`] gave for a frame is not that frame: forgets it.
    pub fn reject(&self, frame: &FrameRef) {
        let s = &self.shared;
        s.hits.fetch_sub(1, Ordering::Relaxed);
        s.hit_bytes.fetch_sub(frame.record.stored.into(), Ordering::Relaxed);
        add(&s.misses, 1);
        s.forget(&s.path(&frame.key()));
    }

    /// Waits until all that was put is written or forgotten, and the limit kept.
    pub fn flush(&self) {
        let (done, wait) = mpsc::channel();
        if self.queue.send(Errand::Flush(done)).is_ok() {
            // An error says that the writer has ended, and so that there is nothing to wait for.
            let _ = wait.recv();
        }
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.shared.limit
    }

    /// What it has done and holds.
    pub fn stats(&self) -> FrameCacheStats {
        let s = &self.shared;
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        FrameCacheStats {
            hits: get(&s.hits),
            misses: get(&s.misses),
            hit_bytes: get(&s.hit_bytes),
            damaged: get(&s.damaged),
            added: get(&s.added),
            dropped: get(&s.dropped),
            evicted: get(&s.evicted),
            held_bytes: get(&s.held),
            limit_bytes: s.limit,
        }
    }
}

fn add(n: &AtomicU64, by: u64) {
    n.fetch_add(by, Ordering::Relaxed);
}

impl Shared {
    fn path(&self, key: &FrameKey) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&key.packfile.0).update(&key.offset.to_le_bytes());
        let name = hex::encode(&hasher.finalize().as_bytes()[..16]);
        self.directory.join(&name[..2]).join(&name[2..])
    }

    fn read(&self, frame: &FrameRef) -> Option<Bytes> {
        let path = self.path(&frame.key());
        super::make_way(&path);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) => {
                if e.kind() != ErrorKind::NotFound {
                    tracing::debug!(%e, path = %path.display(), "a cached frame cannot be opened");
                }
                return None;
            }
        };
        let len = frame.record.stored as usize;
        let mut stored = vec![0; len];
        let whole = file.metadata().and_then(|m| {
            if m.len() != len as u64 {
                return Ok(false);
            }
            file.read_exact(&mut stored)?;
            let used = m.modified()?;
            let now = SystemTime::now();
            // A time in the future would keep the frame for ever.
            if used > now || now.duration_since(used).is_ok_and(|age| age > NOTED) {
                // A use that cannot be noted only makes the frame go earlier.
                let _ = file.set_modified(now);
            }
            Ok(true)
        });
        match whole {
            Ok(true) => Some(stored.into()),
            Ok(false) | Err(_) => {
                self.forget(&path);
                None
            }
        }
    }

    fn forget(&self, path: &Path) {
        add(&self.damaged, 1);
        tracing::debug!(path = %path.display(), "a cached frame is damaged and is fetched again");
        // If it stays it is found damaged again, and replaced.
        let _ = fs::remove_file(path);
    }
}

/// The thread that writes and removes.
struct Writer {
    shared: Arc<Shared>,
    /// Bytes added since the directory was last listed.
    added: u64,
}

impl Writer {
    fn run(mut self, errands: &mpsc::Receiver<Errand>) {
        self.tidy();
        for errand in errands {
            match errand {
                Errand::Add(key, stored) => {
                    let len = stored.len() as u64;
                    if self.shared.refused.load(Ordering::Relaxed) {
                        add(&self.shared.dropped, 1);
                    } else if let Err(e) = self.write(&key, &stored) {
                        self.shared.refused.store(true, Ordering::Relaxed);
                        add(&self.shared.dropped, 1);
                        let directory = self.shared.directory.display();
                        tracing::warn!(%e, %directory, "frames are no longer cached: writing one has failed");
                    } else {
                        self.added += len;
                        add(&self.shared.added, 1);
                        add(&self.shared.held, len);
                    }
                    self.shared.queued.fetch_sub(len, Ordering::Relaxed);
                    let (held, limit) = (self.shared.held.load(Ordering::Relaxed), self.shared.limit);
                    if held > limit || self.added > limit / 16 {
                        self.tidy();
                    }
                }
                // Nobody may wait any more.
                Errand::Flush(done) => drop(done.send(())),
            }
        }
    }

    fn write(&self, key: &FrameKey, stored: &[u8]) -> std::io::Result<()> {
        let path = self.shared.path(key);
        let name = format!("{TEMPORARY}{}", hex::encode(crate::random_bytes::<8>()));
        let temporary = self.shared.directory.join(name);
        let write = || {
            let mut options = File::options();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            options.open(&temporary)?.write_all(stored)?;
            fs::rename(&temporary, &path)
        };
        let written = write().or_else(|e| {
            // The first of its folder, or somebody has cleared the cache.
            if e.kind() != ErrorKind::NotFound {
                return Err(e);
            }
            let folder = path.parent().unwrap_or(&self.shared.directory);
            make_private(folder).map_err(std::io::Error::other)?;
            if temporary.exists() { fs::rename(&temporary, &path) } else { write() }
        });
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Adds up what is there, removes what was left behind, and makes room.
    fn tidy(&mut self) {
        self.added = 0;
        let now = SystemTime::now();
        let mut frames: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        let mut held = 0;
        for entry in list(&self.shared.directory) {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(TEMPORARY) {
                let age = entry.metadata().and_then(|m| m.modified()).ok();
                if age.and_then(|t| now.duration_since(t).ok()).is_some_and(|age| age > LEFT_BEHIND) {
                    // Another process may have removed it.
                    let _ = fs::remove_file(entry.path());
                }
            } else if is_hex(&name, 2) {
                for frame in list(&entry.path()) {
                    let Ok(meta) = frame.metadata() else { continue };
                    if meta.is_file() && is_hex(&frame.file_name().to_string_lossy(), 30) {
                        held += meta.len();
                        let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                        frames.push((used, meta.len(), frame.path()));
                    }
                }
            }
        }
        let limit = self.shared.limit;
        if held > limit {
            frames.sort_unstable();
            for (_, len, path) in frames {
                if held <= limit / 10 * 9 {
                    break;
                }
                match fs::remove_file(&path) {
                    Ok(()) => add(&self.shared.evicted, 1),
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) => {
                        tracing::debug!(%e, path = %path.display(), "a cached frame cannot be removed");
                        continue;
                    }
                }
                held -= len;
            }
        }
        self.shared.held.store(held, Ordering::Relaxed);
    }
}

fn is_hex(name: &str, len: usize) -> bool {
    name.len() == len && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What a directory holds. One that has gone, or cannot be listed, holds nothing that could be removed.
fn list(directory: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(directory).into_iter().flatten().flatten()
}

#[cfg(test)]
mod tests;
