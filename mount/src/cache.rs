//! Clear frames in memory, in front of a source of frames.
//!
//! * Weighed in bytes; metadata apart from data, so that reading a large file does not push out the directories.
//! * One load for each frame: whoever wants a frame that is being loaded waits for that load. A load goes on when its
//!   reader has given up, so that the next one finds it.
//! * A load that never ends is given up, so that it keeps nobody from asking again.
//! * Misses of one call go down in one call, so that the engine can merge ranges.
//! * Failures are not kept: the next reader tries again.

mod memory;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{Shared, join_all};
use parking_lot::Mutex;
use plakar_engine::error::{Error, Result};
use plakar_engine::frame_source::{FrameKey, FrameRef, FrameSource, Purpose};
use plakar_engine::storage::{StoreError, StoreErrorKind};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::activity::Sum;

pub use memory::MemoryFrames;

type Answer = Result<Bytes, Arc<Error>>;
type Load = Shared<oneshot::Receiver<Answer>>;

/// A load under way.
#[derive(Clone, Debug)]
struct UnderWay {
    load: Load,
    /// When somebody first came to wait for it.
    wanted: Option<Instant>,
}

/// A [`FrameSource`] that remembers.
#[derive(Debug)]
pub struct CachedFrames {
    inner: Arc<dyn FrameSource>,
    memory: Arc<MemoryFrames>,
    loads: Arc<Mutex<HashMap<FrameKey, UnderWay>>>,
    counters: Arc<Counters>,
    runtime: Handle,
    patience: Duration,
}

/// How often frames were wanted, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FrameCounts {
    /// Found in memory.
    pub hits: u64,
    /// Not found there: waited for.
    pub misses: u64,
    /// Asked for before anybody wanted them.
    pub prefetched: u64,
    /// Decoded, whoever wanted them.
    pub loaded: u64,
    /// Their bytes, as stored.
    pub loaded_bytes: u64,
    /// Could not be read.
    pub failed: u64,
    /// On their way now.
    pub under_way: u64,
    /// Bytes in memory, of files.
    pub data_bytes: u64,
    /// Bytes in memory, of directories.
    pub meta_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hits: Sum,
    misses: Sum,
    prefetched: Sum,
    loaded: Sum,
    loaded_bytes: Sum,
    failed: Sum,
}

/// How long readers wait for a load unless said otherwise.
const PATIENCE: Duration = Duration::from_secs(15);
/// No load is given up before that, however short readers wait.
const SHORTEST_LIMIT: Duration = Duration::from_secs(4);

impl CachedFrames {
    /// In front of `inner`, with room for `data_bytes` and `meta_bytes`. Loads run on `runtime`.
    pub fn new(inner: Arc<dyn FrameSource>, data_bytes: u64, meta_bytes: u64, runtime: Handle) -> Self {
        let memory = Arc::new(MemoryFrames::new(data_bytes, meta_bytes));
        Self { inner, memory, loads: Arc::default(), counters: Arc::default(), runtime, patience: PATIENCE }
    }

    /// For readers who wait so long: a load that somebody has waited for that long fails those who come later at once.
    /// The load itself is given up well after that, since what comes late still serves the next one.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Loads that take longer are given up.
    fn limit(&self) -> Duration {
        (self.patience * 4).max(SHORTEST_LIMIT)
    }

    /// What is remembered.
    pub fn memory(&self) -> &MemoryFrames {
        &self.memory
    }

    /// What came of what was wanted so far.
    pub fn counts(&self) -> FrameCounts {
        let (data_bytes, meta_bytes) = self.memory.bytes();
        let c = &self.counters;
        FrameCounts {
            hits: c.hits.read(),
            misses: c.misses.read(),
            prefetched: c.prefetched.read(),
            loaded: c.loaded.read(),
            loaded_bytes: c.loaded_bytes.read(),
            failed: c.failed.read(),
            under_way: self.loads.lock().len() as u64,
            data_bytes,
            meta_bytes,
        }
    }

    /// Begins to load frames that are neither here nor on their way, and waits for none.
    pub fn prefetch(&self, wanted: &[FrameRef]) {
        let missing: Vec<FrameRef> =
            wanted.iter().filter(|f| !self.memory.holds(f.class, &f.key())).cloned().collect();
        if !missing.is_empty() {
            self.counters.prefetched.add(missing.len() as u64);
            self.begin(&missing, Purpose::Prefetch);
        }
    }

    /// The loads of frames that are not here: those under way, and one new one for the rest.
    fn begin(&self, missing: &[FrameRef], purpose: Purpose) -> Vec<Load> {
        let (mut begun, mut senders) = (Vec::new(), Vec::new());
        let mut on_their_way = Vec::new();
        let loads = {
            let mut under_way = self.loads.lock();
            let mut load_of = |frame: &FrameRef| {
                let (done, load) = oneshot::channel();
                let load = load.shared();
                let now = Instant::now();
                let wanted = (purpose == Purpose::OnDemand).then_some(now);
                if let Some(before) = under_way.get_mut(&frame.key()) {
                    if before.wanted.is_some_and(|since| now - since > self.patience) {
                        let _nobody_waits = done.send(Err(no_answer(frame, self.patience)));
                        return load;
                    }
                    before.wanted = before.wanted.or(wanted);
                    on_their_way.push(frame.clone());
                    return before.load.clone();
                }
                // It may have arrived since it was missed.
                if let Some(bytes) = self.memory.get(frame.class, &frame.key()) {
                    let _nobody_waits = done.send(Ok(bytes));
                } else {
                    under_way.insert(frame.key(), UnderWay { load: load.clone(), wanted });
                    begun.push(frame.clone());
                    senders.push(Some(done));
                }
                load
            };
            missing.iter().map(&mut load_of).collect()
        };
        if purpose == Purpose::OnDemand && !on_their_way.is_empty() {
            self.inner.raise(&on_their_way);
        }
        if !begun.is_empty() {
            let flight = Flight {
                frames: begun,
                senders,
                loads: self.loads.clone(),
                memory: self.memory.clone(),
                counters: self.counters.clone(),
            };
            self.runtime.spawn(flight.run(self.inner.clone(), purpose, self.limit()));
        }
        loads
    }
}

/// Frames on their way.
struct Flight {
    frames: Vec<FrameRef>,
    /// Whom to tell of each; taken when it has come.
    senders: Vec<Option<oneshot::Sender<Answer>>>,
    loads: Arc<Mutex<HashMap<FrameKey, UnderWay>>>,
    memory: Arc<MemoryFrames>,
    counters: Arc<Counters>,
}

impl Flight {
    async fn run(mut self, inner: Arc<dyn FrameSource>, purpose: Purpose, limit: Duration) {
        let frames = self.frames.clone();
        let mut take = |i: usize, answer: Answer| self.land(i, answer);
        let all = inner.each(&frames, purpose, &mut take);
        if tokio::time::timeout(limit, all).await.is_err() {
            for (i, frame) in frames.iter().enumerate() {
                self.land(i, Err(no_answer(frame, limit)));
            }
        }
    }

    /// One frame has come, or will not come.
    fn land(&mut self, i: usize, answer: Answer) {
        let (frame, Some(done)) = (&self.frames[i], self.senders[i].take()) else { return };
        let answer = match answer {
            Ok(bytes) => {
                self.counters.loaded.one();
                self.counters.loaded_bytes.add(u64::from(frame.record.stored));
                self.memory.insert(frame.class, frame.key(), bytes.clone());
                Ok(bytes)
            }
            Err(e) => {
                self.counters.failed.one();
                Err(e)
            }
        };
        // Only now: a reader finds the frame in memory or its load in the table, never neither.
        self.loads.lock().remove(&frame.key());
        let _nobody_waits = done.send(answer);
    }
}

/// Takes what has not come out of the table, however it ended.
impl Drop for Flight {
    fn drop(&mut self) {
        let mut under_way = self.loads.lock();
        for (frame, sender) in self.frames.iter().zip(&self.senders) {
            if sender.is_some() {
                under_way.remove(&frame.key());
            }
        }
    }
}

fn no_answer(frame: &FrameRef, limit: Duration) -> Arc<Error> {
    let reason = format!("no answer within {limit:?}");
    let what = format!("a frame of packfile {}", frame.packfile.short());
    Arc::new(StoreError::new(StoreErrorKind::TimedOut, "read", what, reason).into())
}

#[async_trait]
impl FrameSource for CachedFrames {
    async fn frames(&self, wanted: &[FrameRef], purpose: Purpose) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> =
            wanted.iter().map(|f| self.memory.get(f.class, &f.key()).map(Ok)).collect();
        let missing: Vec<usize> = (0..wanted.len()).filter(|i| answers[*i].is_none()).collect();
        self.counters.hits.add((wanted.len() - missing.len()) as u64);
        if !missing.is_empty() {
            self.counters.misses.add(missing.len() as u64);
            let frames: Vec<FrameRef> = missing.iter().map(|i| wanted[*i].clone()).collect();
            let loaded = join_all(self.begin(&frames, purpose)).await;
            for (i, answer) in missing.into_iter().zip(loaded) {
                answers[i] = Some(answer.unwrap_or_else(|_gone| Err(Arc::new(Error::Cancelled))));
            }
        }
        answers.into_iter().map(|a| a.unwrap_or_else(|| Err(Arc::new(Error::Cancelled)))).collect()
    }
}

#[cfg(test)]
mod tests;
