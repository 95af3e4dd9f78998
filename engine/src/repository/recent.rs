//! The last frames that were read, kept in clear: walking a tree meets neighbours, and neighbours share frames.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::frame_source::{FrameKey, FrameRef, FrameSource, Purpose};

/// Clear bytes that are kept.
const LIMIT: usize = 8 << 20;

/// Frames of a source, the last ones kept.
#[derive(Debug)]
pub struct RecentFrames {
    source: Arc<dyn FrameSource>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    frames: HashMap<FrameKey, Bytes>,
    order: VecDeque<FrameKey>,
    bytes: usize,
}

impl RecentFrames {
    /// Empty, in front of a source of frames, such as a repository.
    pub fn new(source: Arc<dyn FrameSource>) -> Self {
        Self { source, kept: Mutex::default() }
    }
}

#[async_trait]
impl FrameSource for RecentFrames {
    async fn frames(&self, wanted: &[FrameRef], purpose: Purpose) -> Vec<Result<Bytes, Arc<Error>>> {
        let mut found: Vec<Option<Result<Bytes, Arc<Error>>>> = {
            let kept = self.kept.lock();
            wanted.iter().map(|f| kept.frames.get(&f.key()).cloned().map(Ok)).collect()
        };
        let missing: Vec<usize> = (0..wanted.len()).filter(|i| found[*i].is_none()).collect();
        if missing.is_empty() {
            return found.into_iter().flatten().collect();
        }
        let fetch: Vec<FrameRef> = missing.iter().map(|i| wanted[*i].clone()).collect();
        let answers = self.source.frames(&fetch, purpose).await;
        let mut kept = self.kept.lock();
        for (i, answer) in missing.into_iter().zip(answers) {
            if let Ok(bytes) = &answer {
                kept.keep(wanted[i].key(), bytes.clone());
            }
            found[i] = Some(answer);
        }
        found.into_iter().flatten().collect()
    }
}

impl Kept {
    fn keep(&mut self, key: FrameKey, bytes: Bytes) {
        self.bytes += bytes.len();
        if self.frames.insert(key, bytes).is_some_and(|old| {
            self.bytes -= old.len();
            true
        }) {
            return;
        }
        self.order.push_back(key);
        while self.bytes > LIMIT
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.frames.remove(&oldest).map_or(0, |b| b.len());
        }
    }
}
