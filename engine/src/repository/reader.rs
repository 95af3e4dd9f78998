//! Reading frames: wanted frames are grouped by packfile, near ones merged into one range, ranges fetched in parallel,
//! frames opened and decompressed once, off the async threads. What a cache on this machine holds is not fetched.

mod bulk;

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::turns::Turns;
use crate::cache::frames::FrameCache;
use crate::crypto::DataKey;
use crate::error::{Error, Result};
use crate::frame::{FrameDecoder, FrameError, SealedFrame};
use crate::frame_source::{FrameKey, FrameRef, Purpose, Take};
use crate::storage::{ObjectName, Store};
pub(crate) use bulk::Fetched;

/// Unwanted bytes that are rather read than skipped: a request costs more than these.
const MAX_GAP: u64 = 64 << 10;
/// The longest range of one request.
const MAX_RANGE: u64 = 4 << 20;
/// Requests in flight for one call.
const PARALLEL: usize = 6;
/// Clear bytes that are decoded as one piece of work.
const GROUP: u64 = 1 << 20;

/// One request: a range of a packfile, and which of the wanted frames lie in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The packfile.
    pub object: ObjectName,
    /// The range.
    pub range: Range<u64>,
    /// Numbers of the frames among those wanted, by offset.
    pub frames: Vec<usize>,
}

/// Merges some of the wanted frames, given by their numbers, into few ranges, ordered by packfile and offset.
pub fn plan(wanted: &[FrameRef], which: impl IntoIterator<Item = usize>) -> Vec<Fetch> {
    let mut order: Vec<(FrameKey, usize)> = which.into_iter().map(|i| (wanted[i].key(), i)).collect();
    order.sort_unstable();
    let mut out: Vec<Fetch> = Vec::new();
    for (_, i) in order {
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

/// Decoders that nobody uses at the moment, the one used last on top. Not one for each thread: there are many more
/// threads that may do this work than do it at one time, and a decoder has buffers.
static DECODERS: Mutex<Vec<FrameDecoder>> = Mutex::new(Vec::new());

/// Opens and decompresses one frame on this thread.
pub fn decode(frame: &FrameRef, stored: &[u8]) -> Result<Bytes> {
    with_decoder(|decoder| {
        let clear = decoder.and_then(|d| d.decode(&frame.key, frame.class, &frame.record, stored));
        clear.map_err(|e| damaged(frame, e))
    })
}

/// Opens a frame where it is stored in memory, and has it looked at.
pub(super) fn open_in_place<T>(
    frame: &FrameRef,
    stored: &mut [u8],
    look: impl FnOnce(&[u8]) -> Result<T>,
) -> Result<T> {
    with_decoder(|decoder| {
        let clear = decoder.and_then(|d| d.decode_in_place(&frame.key, frame.class, &frame.record, stored));
        look(clear.map_err(|e| damaged(frame, e))?)
    })
}

/// Sees whether a frame is what was sealed; the bytes are of no use afterwards.
pub(super) fn authenticate(frame: &FrameRef, stored: &mut [u8]) -> Result<()> {
    frame
        .key
        .open(frame.class, &frame.record.nonce, &frame.record.tag, stored)
        .map_err(|_e| damaged(frame, FrameError::NotAuthentic))
}

/// Seals a frame for another packfile under another key, as compressed as it is.
pub(super) fn seal_anew(frame: &FrameRef, stored: &mut [u8], key: &DataKey) -> Result<SealedFrame> {
    crate::frame::seal_anew(&frame.key, key, frame.class, &frame.record, stored)
        .map_err(|e| damaged(frame, e))
}

fn with_decoder<T>(work: impl FnOnce(Result<&mut FrameDecoder, FrameError>) -> T) -> T {
    let idle = || DECODERS.lock();
    let free = idle().pop();
    let Some(mut decoder) = free.or_else(|| FrameDecoder::new().ok()) else {
        return work(Err(FrameError::Decompress));
    };
    let done = work(Ok(&mut decoder));
    idle().push(decoder);
    done
}

fn damaged(frame: &FrameRef, e: FrameError) -> Error {
    Error::DamagedBlob {
        what: "a frame".into(),
        place: format!("{} at {}", frame.object(), frame.record.offset),
        source: e.into(),
    }
}

type Answer = Result<Bytes, Arc<Error>>;
/// Where answers go, each with its number.
type Answers = mpsc::UnboundedSender<(usize, Answer)>;

/// Where frames may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
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
        *self.disk.write() = cache.map(Arc::new);
    }

    pub(super) fn disk(&self) -> Option<Arc<FrameCache>> {
        self.disk.read().clone()
    }

    pub(super) fn raise(&self, wanted: &[FrameRef]) {
        self.turns.raise(wanted.iter().map(FrameRef::key));
    }

    /// The clear bytes of frames, in the order asked for.
    pub(super) async fn frames(&self, wanted: &[FrameRef], purpose: Purpose, origin: Origin) -> Vec<Answer> {
        let mut all: Vec<Option<Answer>> = vec![None; wanted.len()];
        self.each(wanted, purpose, origin, &mut |i, answer| all[i] = Some(answer)).await;
        all.into_iter().map(|a| a.unwrap_or_else(|| Err(Arc::new(Error::Cancelled)))).collect()
    }

    /// The clear bytes of frames, as they come; each is answered once.
    pub(super) async fn each(&self, wanted: &[FrameRef], purpose: Purpose, origin: Origin, take: Take<'_>) {
        let mut answered = vec![false; wanted.len()];
        let mut note = |answered: &mut [bool], i: usize, answer| {
            answered[i] = true;
            take(i, answer);
        };
        let disk = self.disk().filter(|_| origin == Origin::Anywhere);
        if let Some(cache) = &disk {
            let (answers, arriving) = mpsc::unbounded_channel();
            let look = |g| self.look_up(cache, g, wanted, purpose, answers.clone());
            let parts = groups(wanted.iter()).into_iter().map(look).collect();
            hand_over(parts, arriving, &mut |i, a| note(&mut answered, i, a)).await;
        }
        let missing: Vec<usize> = (0..wanted.len()).filter(|i| !answered[*i]).collect();
        if !missing.is_empty() {
            let (answers, arriving) = mpsc::unbounded_channel();
            let fetch = |f| self.fetch(f, wanted, purpose, disk.clone(), answers.clone());
            let parts = plan(wanted, missing).into_iter().map(fetch).collect();
            hand_over(parts, arriving, &mut |i, a| note(&mut answered, i, a)).await;
        }
        // A worker has ended early: whoever waits must not wait for ever.
        for i in (0..wanted.len()).filter(|i| !answered[*i]).collect::<Vec<_>>() {
            note(&mut answered, i, Err(Arc::new(Error::Cancelled)));
        }
    }

    /// Answers for those of some frames that the cache holds.
    async fn look_up(
        &self,
        cache: &Arc<FrameCache>,
        group: Range<usize>,
        wanted: &[FrameRef],
        purpose: Purpose,
        answers: Answers,
    ) {
        let frames = wanted[group.clone()].to_vec();
        let keys: Vec<FrameKey> = frames.iter().map(FrameRef::key).collect();
        let _turn = self.turns.decode(&keys, purpose).await;
        let cache = cache.clone();
        let looked = tokio::task::spawn_blocking(move || {
            for (i, frame) in group.zip(&frames) {
                let Some(stored) = cache.get(frame) else { continue };
                match decode(frame, &stored) {
                    // Nobody takes it any more if the reader has given up.
                    Ok(clear) => drop(answers.send((i, Ok(clear)))),
                    Err(_damaged) => cache.reject(frame),
                }
            }
        });
        // What is not answered here, for whatever reason, is fetched.
        let _ = looked.await;
    }

    /// One request, and answers for all that it is to bring.
    async fn fetch(
        &self,
        fetch: Fetch,
        wanted: &[FrameRef],
        purpose: Purpose,
        disk: Option<Arc<FrameCache>>,
        answers: Answers,
    ) {
        let frames: Vec<(usize, FrameRef)> = fetch.frames.iter().map(|i| (*i, wanted[*i].clone())).collect();
        let keys: Vec<FrameKey> = frames.iter().map(|(_, f)| f.key()).collect();
        // Held until all is decoded: bytes that wait for that take memory.
        let turn = self.turns.request(&keys, purpose).await;
        let stored = match self.store.get(fetch.object, Some(fetch.range.clone())).await {
            Ok(bytes) => bytes,
            Err(e) => {
                let e = Arc::new(Error::from(e));
                fetch.frames.iter().for_each(|i| drop(answers.send((*i, Err(e.clone())))));
                return;
            }
        };
        let groups = groups(frames.iter().map(|(_, f)| f)).into_iter();
        let parts = groups.map(|g| {
            let part = (stored.clone(), fetch.range.start);
            self.open(frames[g].to_vec(), part, turn.purpose, disk.clone(), answers.clone())
        });
        join_all(parts).await;
    }

    /// Decodes some of the frames in a range of a packfile, which begins at an offset there.
    async fn open(
        &self,
        frames: Vec<(usize, FrameRef)>,
        (stored, start): (Bytes, u64),
        purpose: Purpose,
        disk: Option<Arc<FrameCache>>,
        answers: Answers,
    ) {
        let keys: Vec<FrameKey> = frames.iter().map(|(_, f)| f.key()).collect();
        let _turn = self.turns.decode(&keys, purpose).await;
        let decoded = tokio::task::spawn_blocking(move || {
            for (i, frame) in frames {
                let r = frame.record.range();
                let part = (r.start - start) as usize..(r.end - start) as usize;
                let clear = decode(&frame, &stored[part.clone()]);
                if let (Ok(_), Some(cache)) = (&clear, &disk) {
                    cache.put(&frame, stored.slice(part));
                }
                // Nobody takes it any more if the reader has given up.
                drop(answers.send((i, clear.map_err(Arc::new))));
            }
        });
        if let Err(e) = decoded.await {
            tracing::error!(%e, "frames could not be decoded");
        }
    }
}

/// Lets parts of the work go on, few at once, and hands over what they answer.
async fn hand_over(
    parts: Vec<impl Future<Output = ()>>,
    mut arriving: mpsc::UnboundedReceiver<(usize, Answer)>,
    take: Take<'_>,
) {
    let mut parts = stream::iter(parts).buffer_unordered(PARALLEL);
    loop {
        tokio::select! {
            biased;
            Some((i, answer)) = arriving.recv() => take(i, answer),
            done = parts.next() => if done.is_none() { break },
        }
    }
    while let Ok((i, answer)) = arriving.try_recv() {
        take(i, answer);
    }
}

/// Cuts frames into pieces of work for one thread.
fn groups<'a>(frames: impl Iterator<Item = &'a FrameRef>) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    let mut clear = 0;
    for (i, frame) in frames.enumerate() {
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
    use crate::crypto::{Class, Keyring};
    use crate::frame::{Codec, FrameRecord};
    use crate::id::{ObjectId, StoreId};

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
        let plan: Vec<_> =
            plan(&wanted, 0..6).into_iter().map(|f| (f.object.id.0[0], f.range, f.frames)).collect();
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
