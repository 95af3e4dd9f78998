//! The last frames that were read, kept in clear: walking a tree meets neighbours, and neighbours share frames.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lru::LruCache;
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

#[derive(Debug)]
struct Kept {
    frames: LruCache<FrameKey, Bytes>,
    bytes: usize,
}

impl RecentFrames {
    /// Empty, in front of a source of frames, such as a repository.
    pub fn new(source: Arc<dyn FrameSource>) -> Self {
        Self { source, kept: Mutex::new(Kept { frames: LruCache::unbounded(), bytes: 0 }) }
    }
}

#[async_trait]
impl FrameSource for RecentFrames {
    async fn frames(&self, wanted: &[FrameRef], purpose: Purpose) -> Vec<Result<Bytes, Arc<Error>>> {
        let mut found: Vec<Option<Result<Bytes, Arc<Error>>>> = {
            let mut kept = self.kept.lock();
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
        self.bytes -= self.frames.put(key, bytes).map_or(0, |old| old.len());
        while self.bytes > LIMIT
            && let Some((_, oldest)) = self.frames.pop_lru()
        {
            self.bytes -= oldest.len();
        }
    }
}
