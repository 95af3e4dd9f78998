//! Reading many blobs at once: in the order in which they are stored, each frame fetched and decoded once, each blob
//! verified. What restore and check share.

use std::sync::Arc;

use crate::crypto::Keyring;
use crate::error::{Error, Result};
use crate::frame_source::{FrameKey, FrameRef, Located};
use crate::id::BlobId;
use crate::repository::Repository;
use crate::repository::reader::{Fetched, Origin};

/// Clear bytes that are fetched and opened as one piece of work: a large frame, or several small ones.
const BATCH: u64 = 2_000_000;

/// Blobs of one piece of work. A frame of more of them is opened more than once.
const MOST: usize = 16_384;

/// A blob that is wanted, with what the caller wants it for.
#[derive(Debug)]
pub(super) struct Wanted<T> {
    pub(super) id: BlobId,
    pub(super) located: Located,
    pub(super) uses: T,
}

/// Cuts wanted blobs, which are in stored order, into pieces of work. Blobs of one frame stay together, unless they are
/// very many.
pub(super) fn batches<T>(
    wanted: impl Iterator<Item = Result<Wanted<T>>>,
) -> impl Iterator<Item = Result<Vec<Wanted<T>>>> {
    let mut wanted = wanted.peekable();
    std::iter::from_fn(move || {
        let mut batch: Vec<Wanted<T>> = Vec::new();
        let mut bytes = 0;
        let mut last: Option<FrameKey> = None;
        loop {
            match wanted.peek() {
                None => break,
                Some(Err(_)) if !batch.is_empty() => break,
                Some(Ok(w)) => {
                    let first = w.located.frames.first().map(FrameRef::key);
                    if bytes >= BATCH && first != last || batch.len() >= MOST {
                        break;
                    }
                }
                Some(Err(_)) => {}
            }
            match wanted.next() {
                None => break,
                Some(Err(e)) => return Some(Err(e)),
                Some(Ok(w)) => {
                    for f in &w.located.frames {
                        if last != Some(f.key()) {
                            bytes += u64::from(f.record.clear);
                            last = Some(f.key());
                        }
                    }
                    batch.push(w);
                }
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    })
}

/// Something about a wanted blob.
#[derive(Debug)]
pub(super) enum News<'a> {
    /// Some bytes of it, from an offset on. They are authentic; whether they are the blob's own its end tells.
    Bytes(u32, &'a [u8]),
    /// The blob was whole, and is what its id says.
    Verified,
    /// Why it cannot be had. It is not verified after this.
    Failed(Arc<Error>),
}

/// Fetches one batch; then, off the async threads, opens frame after frame and tells `take` what is found of each blob
/// in it, in order. A blob that lies in one frame is verified before any of its bytes are told.
pub(super) async fn read<T: Send + 'static>(
    repository: &Arc<Repository>,
    origin: Origin,
    batch: Vec<Wanted<T>>,
    mut take: impl FnMut(&Wanted<T>, News<'_>) -> Result<()> + Send + 'static,
) -> Result<()> {
    let mut frames: Vec<FrameRef> = Vec::new();
    for f in batch.iter().flat_map(|w| &w.located.frames) {
        if frames.last().is_none_or(|last| last.key() != f.key()) {
            frames.push(f.clone());
        }
    }
    let keys = repository.keys().clone();
    let work = move |fetched: Fetched| {
        let mut rest = batch.iter().peekable();
        let mut sliced: Option<Sliced> = None;
        fetched.open(|frame, clear| {
            while let Some(w) = rest.peek()
                && w.located.frames.iter().any(|f| f.key() == frame.key())
            {
                if w.located.frames.len() == 1 {
                    let news = clear.clone().and_then(|c| verified(&keys, w, c).map_err(Arc::new));
                    match news {
                        Ok(bytes) => {
                            take(w, News::Bytes(0, bytes))?;
                            take(w, News::Verified)?;
                        }
                        Err(e) => take(w, News::Failed(e))?,
                    }
                    rest.next();
                    continue;
                }
                let blob = sliced.get_or_insert_with(|| Sliced::new(&keys, w));
                match clear.clone() {
                    Ok(bytes) => {
                        if blob.failed.is_none() {
                            take(w, News::Bytes(blob.at, bytes))?;
                            blob.hasher.update(bytes);
                        }
                        blob.at = blob.at.saturating_add(bytes.len() as u32);
                    }
                    Err(e) => blob.failed = blob.failed.take().or(Some(e)),
                }
                blob.frames += 1;
                if blob.frames < w.located.frames.len() {
                    break;
                }
                if let Some(blob) = sliced.take() {
                    take(w, blob.verdict(w))?;
                }
                rest.next();
            }
            Ok(())
        })
    };
    repository.bulk(frames, origin, work).await
}

/// A blob in slices, as far as it was seen.
struct Sliced {
    hasher: blake3::Hasher,
    at: u32,
    frames: usize,
    failed: Option<Arc<Error>>,
}

impl Sliced {
    fn new<T>(keys: &Keyring, w: &Wanted<T>) -> Self {
        Self { hasher: keys.identifier(w.located.class), at: 0, frames: 0, failed: None }
    }

    fn verdict<T>(self, w: &Wanted<T>) -> News<'static> {
        match self.failed {
            Some(e) => News::Failed(e),
            None if self.hasher.finalize().as_bytes() == &w.id.0 => News::Verified,
            None => News::Failed(Arc::new(mismatch(w))),
        }
    }
}

/// A blob's bytes in its one frame.
fn verified<'a, T>(keys: &Keyring, w: &Wanted<T>, frame: &'a [u8]) -> Result<&'a [u8]> {
    let (offset, len) = (w.located.offset as usize, w.located.len as usize);
    let bytes = offset.checked_add(len).and_then(|end| frame.get(offset..end));
    bytes.filter(|b| keys.identify(w.located.class, b) == w.id).ok_or_else(|| mismatch(w))
}

fn mismatch<T>(w: &Wanted<T>) -> Error {
    let place = w.located.frames.first().map(|f| format!("packfile {} at {}", f.packfile, f.record.offset));
    Error::DamagedBlob {
        what: format!("blob {}", w.id.short()),
        place: place.unwrap_or_default(),
        source: "its contents do not match its id".into(),
    }
}
