//! Reading many blobs at once: in the order in which they are stored, each frame fetched and decoded once, each blob
//! verified. What restore and check share.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::id::BlobId;
use crate::repository::Repository;
use crate::repository::reader::{FrameKey, FrameRef, FrameSource, Purpose};
use crate::vfs::Located;

/// Clear bytes that are fetched and decoded as one piece of work.
const BATCH: u64 = 4 << 20;

/// A blob that is wanted, with what the caller wants it for.
#[derive(Debug)]
pub(super) struct Wanted<T> {
    pub(super) id: BlobId,
    pub(super) located: Located,
    pub(super) uses: T,
}

/// Cuts wanted blobs, which are in stored order, into pieces of work. Blobs of one frame stay together.
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
                    if bytes >= BATCH && first != last {
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

/// A verified blob in its parts (one, or slices), or why it cannot be had.
pub(super) type Verified = Result<Vec<Bytes>, Arc<Error>>;

/// Fetches one batch from a source of frames; then, off the async threads, verifies each blob and hands it to `take`.
pub(super) async fn read<T: Send + 'static>(
    repository: &Arc<Repository>,
    source: &dyn FrameSource,
    batch: Vec<Wanted<T>>,
    take: impl Fn(Wanted<T>, Verified) -> Result<()> + Send + 'static,
) -> Result<()> {
    let mut frames: Vec<FrameRef> = Vec::new();
    let mut at: HashMap<FrameKey, usize> = HashMap::new();
    for f in batch.iter().flat_map(|w| &w.located.frames) {
        at.entry(f.key()).or_insert_with(|| {
            frames.push(f.clone());
            frames.len() - 1
        });
    }
    let clear = source.frames(&frames, Purpose::OnDemand).await;
    let repository = repository.clone();
    crate::repository::blocking(move || {
        for w in batch {
            let parts: Result<Vec<Bytes>, Arc<Error>> =
                w.located.frames.iter().map(|f| clear[at[&f.key()]].clone()).collect();
            let verified = parts.and_then(|parts| verify(&repository, &w, parts).map_err(Arc::new));
            take(w, verified)?;
        }
        Ok(())
    })
    .await
}

fn verify<T>(repository: &Repository, w: &Wanted<T>, mut parts: Vec<Bytes>) -> Result<Vec<Bytes>> {
    let (offset, len) = (w.located.offset as usize, w.located.len as usize);
    if let [frame] = parts.as_mut_slice()
        && let Some(end) = offset.checked_add(len)
        && end <= frame.len()
    {
        *frame = frame.slice(offset..end);
    }
    let mut hasher = repository.keys().identifier(w.located.class);
    for part in &parts {
        hasher.update(part);
    }
    if hasher.finalize().as_bytes() != &w.id.0 {
        let place =
            w.located.frames.first().map(|f| format!("packfile {} at {}", f.packfile, f.record.offset));
        return Err(Error::DamagedBlob {
            what: format!("blob {}", w.id.short()),
            place: place.unwrap_or_default(),
            source: "its contents do not match its id".into(),
        });
    }
    Ok(parts)
}
