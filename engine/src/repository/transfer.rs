//! Taking blobs over from another store, in the order in which they are stored there.
//!
//! Where both stores have the same master key, blobs have the same names in both, and frames of which all blobs are wanted are
//! copied as they are, under their own keys. Otherwise each blob gets its name in this store; a frame of which all blobs are new
//! here is sealed anew as compressed as it is. Of other frames the wanted blobs are framed anew.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::Repository;
use super::index::{Index, Marks};
use super::mover::{Framers, Lot, Piece, lots};
use super::reader::{Fetched, Origin, authenticate, open_in_place};
use super::writer::{Group, Run};
use crate::blocking::blocking;
use crate::error::{Error, Result, is_damage, report};
use crate::frame::{FrameRecord, SealedFrame};
use crate::frame_source::FrameRef;
use crate::id::{BlobId, StoreId};
use crate::state::BlobRecord;

/// What blobs of another store are called in this one. What is noted outlives the process; what was changed since then, by
/// whomever, is not believed.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    here: Arc<Repository>,
    there: StoreId,
    key: [u8; 32],
}

impl Names {
    pub(crate) fn new(here: &Arc<Repository>, there: StoreId) -> Self {
        Self { here: here.clone(), there, key: here.keys.local("names of blobs elsewhere") }
    }

    fn vouch(&self, there: &BlobId, here: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&self.there.0).update(&there.0).update(here);
        let mut tag = [0; 16];
        hasher.finalize_xof().fill(&mut tag);
        tag
    }

    /// The names of blobs, as far as they are known.
    pub(crate) fn get(&self, there: &[BlobId]) -> Result<Vec<Option<BlobId>>> {
        let noted = self.here.cache.names_here(self.there, there)?;
        let checked = |(id, bytes): (&BlobId, Option<Vec<u8>>)| {
            let bytes = bytes?;
            let (here, tag) = bytes.split_last_chunk::<16>()?;
            let here: [u8; 32] = here.try_into().ok()?;
            (self.vouch(id, &here) == *tag).then_some(BlobId(here))
        };
        Ok(there.iter().zip(noted).map(checked).collect())
    }

    /// Notes names.
    pub(crate) fn put(&self, mut names: Vec<(BlobId, BlobId)>) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        names.sort_unstable();
        let with_tag = |(there, here): (BlobId, BlobId)| {
            let mut bytes = here.0.to_vec();
            bytes.extend_from_slice(&self.vouch(&there, &here.0));
            (there, bytes)
        };
        let rows: Vec<_> = names.into_iter().map(with_tag).collect();
        self.here.cache.note_names(self.there, &rows)
    }
}

/// What could not be taken over: objects of the other store, and of each the first reason.
pub(crate) type Unreadable = Vec<(String, String)>;

impl Run {
    /// Takes the marked blobs of another store's index over. They count when this run has been flushed. `names` are needed
    /// where the stores have different keys, and are noted then.
    ///
    /// What cannot be read there is named and ends nothing; a store that fails does.
    pub(crate) async fn take_over(
        self: &Arc<Self>,
        from: &Arc<Repository>,
        index: &Index,
        marks: &Marks,
        names: Option<&Names>,
        progress: impl Fn(u64) + Sync,
    ) -> Result<Unreadable> {
        let framers = Arc::new(Framers::default());
        let parallel = std::thread::available_parallelism().map_or(2, usize::from) + 1;
        let mut taking = stream::iter(lots(from, index, marks))
            .map(|lot| async {
                self.check()?;
                let Lot { frames, pieces, clear } = lot?;
                let taking = Taking {
                    run: self.clone(),
                    framers: framers.clone(),
                    source: from.clone(),
                    names: names.cloned(),
                    named: Vec::new(),
                    unreadable: Vec::new(),
                };
                let work = move |fetched: Fetched| taking.work(pieces, fetched);
                // What is copied is what the store itself has.
                let unreadable = from.bulk(frames, Origin::Store, work).await?;
                progress(clear);
                Ok::<Unreadable, Error>(unreadable)
            })
            .buffer_unordered(parallel);
        let mut all = Unreadable::new();
        let mut named = HashSet::new();
        while let Some(done) = taking.next().await {
            all.extend(done?.into_iter().filter(|(object, _)| named.insert(object.clone())));
        }
        drop(taking);
        let run = self.clone();
        blocking(move || framers.flush(&run)).await?;
        Ok(all)
    }
}

/// One piece of work.
struct Taking {
    run: Arc<Run>,
    framers: Arc<Framers>,
    source: Arc<Repository>,
    names: Option<Names>,
    named: Vec<(BlobId, BlobId)>,
    unreadable: Unreadable,
}

/// A piece whose frames are being opened.
struct Open {
    piece: Piece,
    left: usize,
    /// Its frames as they are to be stored, if it is taken over whole.
    group: Group,
    /// Of a blob in slices: its name there and here, as far as it was read.
    slices: Option<(blake3::Hasher, blake3::Hasher)>,
    failed: bool,
}

impl Taking {
    fn work(mut self, pieces: Vec<Piece>, fetched: Fetched) -> Result<Unreadable> {
        let mut pieces = pieces.into_iter();
        let mut now: Option<Open> = None;
        fetched.hand_over(|frame, stored| {
            let mut open = match now.take() {
                Some(open) => open,
                None => self.begin(pieces.next().ok_or(Error::Bug("a frame belongs to no piece"))?),
            };
            open.left -= 1;
            let done = stored.map_err(Error::from).and_then(|stored| match self.names {
                None => self.copy(&mut open, frame, stored),
                Some(_) => self.rename(&mut open, frame, stored),
            });
            match done {
                Ok(()) => {}
                Err(e) if is_damage(&e) => {
                    self.unreadable.push((frame.object().to_string(), report(&e)));
                    open.failed = true;
                }
                Err(e) => return Err(e),
            }
            if open.left > 0 {
                now = Some(open);
                return Ok(());
            }
            if open.failed { Ok(()) } else { self.end(open, frame) }
        })?;
        if let Some(names) = &self.names {
            names.put(std::mem::take(&mut self.named))?;
        }
        Ok(self.unreadable)
    }

    fn begin(&self, piece: Piece) -> Open {
        let class = piece.blobs.first().map(|b| b.class);
        let slices = class
            .filter(|_| piece.blobs.iter().any(|b| b.sliced))
            .map(|class| (self.source.keys.identifier(class), self.run.repository.keys.identifier(class)));
        Open { left: piece.frames, piece, group: Group::default(), slices, failed: false }
    }

    /// Same keys: the frame as it is, seen to be what was sealed; or, of its blobs, the wanted ones.
    fn copy(&self, open: &mut Open, frame: &FrameRef, stored: &mut [u8]) -> Result<()> {
        if !open.piece.is_whole {
            return open_in_place(frame, stored, |clear| {
                for blob in &open.piece.blobs {
                    let bytes = self.blob(frame, clear, blob)?;
                    if self.run.claim(&blob.id) {
                        self.framers.push(&self.run, blob.class, blob.id, bytes)?;
                    }
                }
                Ok(())
            });
        }
        let bytes = Bytes::copy_from_slice(stored);
        authenticate(frame, stored)?;
        open.group.frames.push(SealedFrame { record: FrameRecord { offset: 0, ..frame.record }, bytes });
        open.group.key = Some(frame.key.clone());
        Ok(())
    }

    /// Other keys: each blob is checked against its name there and gets one here.
    fn rename(&mut self, open: &mut Open, frame: &FrameRef, stored: &mut [u8]) -> Result<()> {
        let run = self.run.clone();
        let here = &run.repository.keys;
        let mut fresh = Vec::new();
        let mut is_new = true;
        open_in_place(frame, stored, |clear| {
            if let Some((theirs, ours)) = &mut open.slices {
                theirs.update(clear);
                ours.update(clear);
                return Ok(());
            }
            for blob in &open.piece.blobs {
                let bytes = self.blob(frame, clear, blob)?;
                let id = here.identify(blob.class, bytes);
                self.named.push((blob.id, id));
                let claimed = run.claim(&id);
                is_new &= claimed;
                if claimed {
                    fresh.push(BlobRecord { id, ..*blob });
                }
            }
            if open.piece.is_whole && is_new {
                return Ok(());
            }
            for blob in fresh.drain(..) {
                let range = blob.offset as usize..(blob.offset + blob.len) as usize;
                let bytes = clear.get(range).ok_or(Error::Bug("a blob lies outside of its frame"))?;
                self.framers.push(&run, blob.class, blob.id, bytes)?;
            }
            Ok(())
        })?;
        if open.slices.is_some() || !fresh.is_empty() {
            let (nonce, tag) = run.key().seal(frame.class, stored);
            let record = FrameRecord { nonce, tag, offset: 0, ..frame.record };
            open.group.frames.push(SealedFrame { record, bytes: Bytes::copy_from_slice(stored) });
            open.group.blobs = fresh;
        }
        Ok(())
    }

    /// A blob's bytes in its frame, if they are what its name there says.
    fn blob<'a>(&self, frame: &FrameRef, clear: &'a [u8], blob: &BlobRecord) -> Result<&'a [u8]> {
        let range = blob.offset as usize..blob.offset as usize + blob.len as usize;
        let bytes = clear.get(range).filter(|b| self.source.keys.identify(blob.class, b) == blob.id);
        bytes.ok_or_else(|| mismatch(frame, blob))
    }

    /// All frames of a piece were seen.
    fn end(&mut self, mut open: Open, frame: &FrameRef) -> Result<()> {
        if self.names.is_none() {
            if open.piece.is_whole {
                // Whoever asks from now on is told that they are here.
                for blob in &open.piece.blobs {
                    self.run.claim(&blob.id);
                }
                open.group.blobs = open.piece.blobs;
                self.run.submit(frame.class, open.group)?;
            }
            return Ok(());
        }
        if let (Some((theirs, ours)), [blob]) = (open.slices, &open.piece.blobs[..]) {
            if *theirs.finalize().as_bytes() != blob.id.0 {
                let e = mismatch(frame, blob);
                self.unreadable.push((frame.object().to_string(), report(&e)));
                return Ok(());
            }
            let id = BlobId(*ours.finalize().as_bytes());
            self.named.push((blob.id, id));
            if !self.run.claim(&id) {
                return Ok(());
            }
            open.group.blobs = vec![BlobRecord { id, ..*blob }];
        }
        if open.group.blobs.is_empty() { Ok(()) } else { self.run.submit(frame.class, open.group) }
    }
}

fn mismatch(frame: &FrameRef, blob: &BlobRecord) -> Error {
    Error::DamagedBlob {
        what: format!("blob {}", blob.id.short()),
        place: format!("{} at {}", frame.object(), frame.record.offset),
        source: "its contents do not match its id".into(),
    }
}
