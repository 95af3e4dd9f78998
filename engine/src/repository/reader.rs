//! Reading frames: wanted frames are grouped by packfile, near ones merged into one range, ranges fetched in parallel,
//! frames opened and decompressed once, off the async threads.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};

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
}

/// One request: a range of a packfile, and which of the wanted frames lie in it.
#[derive(Debug, PartialEq, Eq)]
struct Fetch {
    object: ObjectName,
    range: Range<u64>,
    frames: Vec<usize>,
}

/// Merges wanted frames into few ranges, ordered by packfile and offset.
fn plan(wanted: &[FrameRef]) -> Vec<Fetch> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
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

/// Fetches and decodes frames from a store.
pub async fn fetch(store: &Arc<dyn Store>, wanted: &[FrameRef]) -> Vec<Result<Bytes, Arc<Error>>> {
    let fetches = plan(wanted);
    let mut results: HashMap<usize, Result<Bytes, Arc<Error>>> = HashMap::with_capacity(wanted.len());
    let mut answers = stream::iter(fetches)
        .map(|f| {
            let frames: Vec<(usize, FrameRef)> = f.frames.iter().map(|i| (*i, wanted[*i].clone())).collect();
            let store = store.clone();
            async move { fetch_one(store, f, frames).await }
        })
        .buffer_unordered(PARALLEL);
    while let Some(part) = answers.next().await {
        results.extend(part);
    }
    (0..wanted.len()).map(|i| results.remove(&i).unwrap_or_else(|| Err(Arc::new(Error::Cancelled)))).collect()
}

type Part = Vec<(usize, Result<Bytes, Arc<Error>>)>;

async fn fetch_one(store: Arc<dyn Store>, fetch: Fetch, frames: Vec<(usize, FrameRef)>) -> Part {
    let indices: Vec<usize> = fetch.frames.clone();
    let fail = |e: Error| {
        let e = Arc::new(e);
        indices.iter().map(|i| (*i, Err(e.clone()))).collect()
    };
    let stored = match store.get(fetch.object, Some(fetch.range.clone())).await {
        Ok(bytes) => bytes,
        Err(e) => return fail(e.into()),
    };
    let start = fetch.range.start;
    let decoded = tokio::task::spawn_blocking(move || {
        frames
            .iter()
            .map(|(i, frame)| {
                let r = frame.record.range();
                let part = &stored[(r.start - start) as usize..(r.end - start) as usize];
                (*i, decode(frame, part).map_err(Arc::new))
            })
            .collect()
    });
    decoded.await.unwrap_or_else(|_panicked| fail(Error::Cancelled))
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
        let plan: Vec<_> = plan(&wanted).into_iter().map(|f| (f.object.id.0[0], f.range, f.frames)).collect();
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
