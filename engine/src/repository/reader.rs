//! Reading frames: wanted frames are grouped by packfile, near ones merged into one range, ranges fetched in parallel,
//! frames opened and decompressed once, off the async threads. What a cache on this machine holds is not fetched.

use std::cell::RefCell;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::turns::Turns;
use crate::cache::frames::FrameCache;
use crate::crypto::{Class, DataKey};
use crate::error::{Error, Result};
use crate::frame::{FrameDecoder, FrameError, FrameRecord};
use crate::id::ObjectId;
use crate::packfile::area_of;
use crate::storage::{ObjectName, Store};

/// Unwanted bytes that are rather read than skipped: a request costs more than these.
const MAX_GAP: u64 = 64 << 10;
/// The longest range of one request.
const MAX_RANGE: u64 = 4 << 20;
/// Requests in flight for one call.
const PARALLEL: usize = 6;
/// Clear bytes that are taken from the cache on disk as one piece of work.
const GROUP: u64 = 1 << 20;

/// A frame's name: where it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameKey {
    /// The packfile.
    pub packfile: ObjectId,
    /// Offset in it.
    pub offset: u32,
}

/// A frame and all that is needed to read it.
#[derive(Clone, Debug)]
pub struct FrameRef {
    /// Its packfile.
    pub packfile: ObjectId,
    /// Data or metadata.
    pub class: Class,
    /// Place, nonce, tag.
    pub record: FrameRecord,
    /// The key that opens it.
    pub key: Arc<DataKey>,
}

impl FrameRef {
    /// Its name.
    pub fn key(&self) -> FrameKey {
        FrameKey { packfile: self.packfile, offset: self.record.offset }
    }

    fn object(&self) -> ObjectName {
        ObjectName::new(area_of(self.class), self.packfile)
    }
}

/// Who waits for a read: on-demand reads overtake prefetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody waits.
    OnDemand,
    /// It may be wanted soon.
    Prefetch,
}

/// Gives clear bytes of frames, authenticated. Implemented by the repository, which fetches and decodes, and by caches in front of it.
#[async_trait]
pub trait FrameSource: Send + Sync + std::fmt::Debug {
    /// The clear bytes of frames, in the order asked for.
    async fn frames(&self, wanted: &[FrameRef], purpose: Purpose) -> Vec<Result<Bytes, Arc<Error>>>;

    /// Somebody has come to wait for frames whose prefetch is under way: where it still waits for its turn, it goes
    /// on at once. Never waits. A source that has no turns has nothing to do.
    fn raise(&self, _wanted: &[FrameRef]) {}
}

/// One request: a range of a packfile, and which of the wanted frames lie in it.
#[derive(Debug, PartialEq, Eq)]
struct Fetch {
    object: ObjectName,
    range: Range<u64>,
    frames: Vec<usize>,
}

/// Merges some of the wanted frames into few ranges, ordered by packfile and offset.
fn plan(wanted: &[FrameRef], mut order: Vec<usize>) -> Vec<Fetch> {
    order.sort_unstable_by_key(|i| (wanted[*i].packfile, wanted[*i].record.offset));
    let mut out: Vec<Fetch> = Vec::new();
    for i in order {
        let (object, range) = (wanted[i].object(), wanted[i].record.range());
        if let Some(last) = out.last_mut()
            && last.object == object
            && range.start <= last.range.end + MAX_GAP
            && range.end.max(last.range.end) - last.range.start <= MAX_RANGE
        {
            last.range.end = last.range.end.max(range.end);
            last.frames.push(i);
        } else {
            out.push(Fetch { object, range, frames: vec![i] });
        }
    }
    out
}

thread_local! {
    static DECODER: RefCell<Option<FrameDecoder>> = const { RefCell::new(None) };
}

/// Opens and decompresses one frame on this thread.
pub fn decode(frame: &FrameRef, stored: &[u8]) -> Result<Bytes> {
    let clear = DECODER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = FrameDecoder::new().ok();
        }
        let decoder = slot.as_mut().ok_or(FrameError::Decompress)?;
        decoder.decode(&frame.key, frame.class, &frame.record, stored)
    });
    clear.map_err(|e| Error::DamagedBlob {
        what: "a frame".into(),
        place: format!("{} at {}", frame.object(), frame.record.offset),
        source: e.into(),
    })
}

type Answer = Result<Bytes, Arc<Error>>;
/// Answers for some of the wanted frames, by their number.
type Part = Vec<(usize, Answer)>;

/// Where frames may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The cache on this machine, or the store.
    Anywhere,
    /// The store, whatever is cached: to find out what it really holds.
    Store,
}

/// Fetches and decodes frames, from the cache on disk if there is one, else from the store.
#[derive(Debug)]
pub(super) struct FrameReader {
    store: Arc<dyn Store>,
    disk: RwLock<Option<Arc<FrameCache>>>,
    pub(super) turns: Turns,
}

impl FrameReader {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, disk: RwLock::default(), turns: Turns::new() }
    }

    pub(super) fn set_disk(&self, cache: Option<FrameCache>) {
        *self.disk.write().unwrap_or_else(PoisonError::into_inner) = cache.map(Arc::new);
    }

    pub(super) fn disk(&self) -> Option<Arc<FrameCache>> {
        self.disk.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn raise(&self, wanted: &[FrameRef]) {
        self.turns.raise(wanted.iter().map(FrameRef::key));
    }

    /// The clear bytes of frames, in the order asked for.
    pub(super) async fn frames(&self, wanted: &[FrameRef], purpose: Purpose, origin: Origin) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = vec![None; wanted.len()];
        let disk = self.disk().filter(|_| origin == Origin::Anywhere);
        if let Some(cache) = &disk {
            let groups: Vec<_> =
                groups(wanted).into_iter().map(|g| self.from_disk(cache, g, wanted, purpose)).collect();
            collect(&mut answers, groups).await;
        }
        let missing: Vec<usize> = (0..wanted.len()).filter(|i| answers[*i].is_none()).collect();
        let fetches: Vec<_> = plan(wanted, missing)
            .into_iter()
            .map(|f| self.from_store(f, wanted, purpose, disk.clone()))
            .collect();
        collect(&mut answers, fetches).await;
        answers.into_iter().map(|a| a.unwrap_or_else(|| Err(Arc::new(Error::Cancelled)))).collect()
    }

    /// Those of some frames that the cache holds.
    async fn from_disk(
        &self,
        cache: &Arc<FrameCache>,
        group: Range<usize>,
        wanted: &[FrameRef],
        purpose: Purpose,
    ) -> Part {
        let frames = wanted[group.clone()].to_vec();
        let keys: Vec<FrameKey> = frames.iter().map(FrameRef::key).collect();
        let _turn = self.turns.decode(&keys, purpose).await;
        let cache = cache.clone();
        let found = tokio::task::spawn_blocking(move || {
            let one = |frame: &FrameRef| match decode(frame, &cache.get(frame)?) {
                Ok(clear) => Some(Ok(clear)),
                Err(_damaged) => {
                    cache.reject(frame);
                    None
                }
            };
            group.zip(&frames).filter_map(|(i, frame)| Some((i, one(frame)?))).collect()
        });
        // What is not answered here is fetched.
        found.await.unwrap_or_default()
    }

    /// One request, and what it brings.
    async fn from_store(
        &self,
        fetch: Fetch,
        wanted: &[FrameRef],
        purpose: Purpose,
        disk: Option<Arc<FrameCache>>,
    ) -> Part {
        let frames: Vec<(usize, FrameRef)> = fetch.frames.iter().map(|i| (*i, wanted[*i].clone())).collect();
        let keys: Vec<FrameKey> = frames.iter().map(|(_, f)| f.key()).collect();
        let fail = |e: Error| {
            let e = Arc::new(e);
            fetch.frames.iter().map(|i| (*i, Err(e.clone()))).collect()
        };
        // Held until all is decoded: bytes that wait for that take memory.
        let turn = self.turns.request(&keys, purpose).await;
        let stored = match self.store.get(fetch.object, Some(fetch.range.clone())).await {
            Ok(bytes) => bytes,
            Err(e) => return fail(e.into()),
        };
        let _decoding = self.turns.decode(&keys, turn.purpose).await;
        let start = fetch.range.start;
        let decoded = tokio::task::spawn_blocking(move || {
            let one = |frame: &FrameRef| {
                let r = frame.record.range();
                let part = (r.start - start) as usize..(r.end - start) as usize;
                let clear = decode(frame, &stored[part.clone()])?;
                if let Some(cache) = &disk {
                    cache.put(frame, stored.slice(part));
                }
                Ok(clear)
            };
            frames.iter().map(|(i, frame)| (*i, one(frame).map_err(Arc::new))).collect()
        });
        decoded.await.unwrap_or_else(|_panicked| fail(Error::Cancelled))
    }
}

/// Waits for parts of the answer, few at once.
async fn collect(answers: &mut [Option<Answer>], parts: Vec<impl Future<Output = Part>>) {
    let mut parts = stream::iter(parts).buffer_unordered(PARALLEL);
    while let Some(part) = parts.next().await {
        for (i, answer) in part {
            answers[i] = Some(answer);
        }
    }
}

/// Cuts wanted frames into pieces of work for the cache on disk.
fn groups(wanted: &[FrameRef]) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    let mut clear = 0;
    for (i, frame) in wanted.iter().enumerate() {
        match out.last_mut() {
            Some(last) if clear < GROUP => last.end = i + 1,
            _ => {
                clear = 0;
                out.push(i..i + 1);
            }
        }
        clear += u64::from(frame.record.clear);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Keyring;
    use crate::frame::Codec;
    use crate::id::StoreId;

    #[test]
    fn near_frames_become_one_range_and_far_ones_do_not() {
        let key = Arc::new(Keyring::plaintext(StoreId([0; 16])).new_data_key());
        let frame = |packfile: u8, offset: u32, stored: u32| FrameRef {
            packfile: ObjectId([packfile; 32]),
            class: Class::Data,
            record: FrameRecord {
                nonce: [0; 24],
                tag: [0; 16],
                offset,
                stored,
                clear: stored,
                codec: Codec::Raw,
            },
            key: key.clone(),
        };
        let wanted = [
            frame(1, 1_000_000, 10),
            frame(2, 0, 10),
            frame(1, 0, 100),
            frame(1, 150, 50),
            frame(1, 1_000_000, 10),
            frame(1, 2_000_000, 4_000_000),
        ];
        let plan: Vec<_> = plan(&wanted, (0..6).collect())
            .into_iter()
            .map(|f| (f.object.id.0[0], f.range, f.frames))
            .collect();
        assert_eq!(
            plan,
            [
                (1, 0..200, vec![2, 3]),
                (1, 1_000_000..1_000_010, vec![0, 4]),
                (1, 2_000_000..6_000_000, vec![5]),
                (2, 0..10, vec![1]),
            ]
        );
    }
}
