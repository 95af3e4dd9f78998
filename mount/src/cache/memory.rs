//! Frames in two pools weighed in bytes. Least recently used go first: a new frame is always taken, since it will be
//! asked for again at once (the kernel reads a frame in parts), which a cache that admits by frequency would refuse.

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use plakar_engine::crypto::Class;
use plakar_engine::frame::footprint;
use plakar_engine::frame_source::FrameKey;

/// What a frame costs beside its bytes.
const OVERHEAD: usize = 200;

/// Clear frames.
#[derive(Debug)]
pub struct MemoryFrames {
    data: Cache<FrameKey, Bytes>,
    meta: Cache<FrameKey, Bytes>,
}

fn pool(name: &str, bytes: u64) -> Cache<FrameKey, Bytes> {
    Cache::builder()
        .name(name)
        .max_capacity(bytes)
        .weigher(|_, frame: &Bytes| u32::try_from(footprint(frame.len()) + OVERHEAD).unwrap_or(u32::MAX))
        .eviction_policy(EvictionPolicy::lru())
        .build()
}

impl MemoryFrames {
    /// With room for so many bytes of each.
    pub fn new(data_bytes: u64, meta_bytes: u64) -> Self {
        let (data, meta) = (pool("data frames", data_bytes), pool("metadata frames", meta_bytes));
        Self { data, meta }
    }

    fn pool(&self, class: Class) -> &Cache<FrameKey, Bytes> {
        match class {
            Class::Data => &self.data,
            Class::Meta => &self.meta,
        }
    }

    /// A frame, if it is here.
    pub fn get(&self, class: Class, key: &FrameKey) -> Option<Bytes> {
        self.pool(class).get(key)
    }

    /// Whether a frame is here; does not count as a use.
    pub fn holds(&self, class: Class, key: &FrameKey) -> bool {
        self.pool(class).contains_key(key)
    }

    /// Keeps a frame. It must not be a part of something larger, which would stay whole.
    pub fn insert(&self, class: Class, key: FrameKey, frame: Bytes) {
        let pool = self.pool(class);
        pool.insert(key, frame);
        // Left to itself the pool evicts only after 64 inserts, which may be as many MiB above its limit.
        pool.run_pending_tasks();
    }

    /// Bytes held: data, metadata.
    pub fn bytes(&self) -> (u64, u64) {
        (self.data.weighted_size(), self.meta.weighted_size())
    }

    /// Room for data.
    pub fn data_capacity(&self) -> u64 {
        self.data.policy().max_capacity().unwrap_or(0)
    }
}
