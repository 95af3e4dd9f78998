//! Moving blobs into new packfiles: what maintenance wants to keep of packfiles that are to go.
//!
//! A frame of which all blobs are wanted is sealed anew as compressed as it is; of others the wanted blobs are framed
//! anew, so that nothing that was dropped can leak.

use std::collections::HashSet;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use parking_lot::Mutex;

use super::Repository;
use super::index::{Index, Marks};
use super::reader::{Fetched, Origin, open_in_place, seal_anew};
use super::writer::{Framer, Group, Run};
use crate::blocking::blocking;
use crate::crypto::Class;
use crate::error::{Error, Result, is_damage};
use crate::frame_source::FrameRef;
use crate::id::{BlobId, ObjectId};
use crate::state::BlobRecord;

/// Clear bytes of frames that are fetched as one piece of work.
const LOT: u64 = 4 << 20;

/// What became of a move.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// Blobs that were moved.
    pub(crate) blobs: u64,
    /// Packfiles of which something could not be read: they must stay. And why, of each the first failure.
    pub(crate) unreadable: Vec<(ObjectId, String)>,
}

/// Frames that belong together, the wanted blobs in them, and whether these are all.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) frames: usize,
    pub(super) blobs: Vec<BlobRecord>,
    pub(super) is_whole: bool,
}

/// One piece of work.
#[derive(Debug, Default)]
pub(super) struct Lot {
    pub(super) frames: Vec<FrameRef>,
    pub(super) pieces: Vec<Piece>,
    pub(super) clear: u64,
}

impl Lot {
    fn push(&mut self, frames: Vec<FrameRef>, mut blobs: Vec<BlobRecord>) {
        blobs.sort_unstable_by_key(|b| b.offset);
        let clear: u64 = frames.iter().map(|f| u64::from(f.record.clear)).sum();
        let wanted: u64 = blobs.iter().map(|b| u64::from(b.len)).sum();
        self.clear += clear;
        self.pieces.push(Piece { frames: frames.len(), blobs, is_whole: wanted == clear });
        self.frames.extend(frames);
    }
}

/// Cuts marked blobs, in stored order, into pieces of work.
pub(super) fn lots<'a>(
    repository: &'a Repository,
    index: &'a Index,
    marks: &'a Marks,
) -> impl Iterator<Item = Result<Lot>> + 'a {
    let mut rows = index.in_stored_order(marks).peekable();
    let mut held: Option<(Vec<FrameRef>, Vec<BlobRecord>)> = None;
    std::iter::from_fn(move || {
        let mut lot = Lot::default();
        loop {
            let located = match rows.next() {
                None => break,
                Some(row) => row.and_then(|row| repository.locate_row(index, row)),
            };
            let (id, located) = match located {
                Ok(located) => located,
                Err(e) => return Some(Err(e)),
            };
            let blob = BlobRecord {
                id,
                frame: 0,
                offset: located.offset,
                len: located.len,
                sliced: located.frames.len() > 1,
                class: located.class,
            };
            match &mut held {
                Some((frames, blobs))
                    if !blob.sliced
                        && frames.first().map(FrameRef::key) == located.frames.first().map(FrameRef::key) =>
                {
                    blobs.push(blob);
                }
                _ => {
                    if let Some((frames, blobs)) = held.replace((located.frames, vec![blob])) {
                        lot.push(frames, blobs);
                        if lot.clear >= LOT {
                            return Some(Ok(lot));
                        }
                    }
                }
            }
        }
        if let Some((frames, blobs)) = held.take() {
            lot.push(frames, blobs);
        }
        (!lot.pieces.is_empty()).then_some(Ok(lot))
    })
}

/// Framers that nobody uses at the moment: what one piece of work leaves in them the next one fills up.
#[derive(Debug, Default)]
pub(super) struct Framers([Mutex<Vec<Framer>>; 2]);

impl Framers {
    fn of(&self, class: Class) -> &Mutex<Vec<Framer>> {
        &self.0[class as usize - 1]
    }

    pub(super) fn push(&self, run: &Run, class: Class, id: BlobId, clear: &[u8]) -> Result<()> {
        let free = self.of(class).lock().pop();
        let mut framer = free.map_or_else(|| run.framer(class), Ok)?;
        let pushed = framer.push(run, id, clear);
        self.of(class).lock().push(framer);
        pushed
    }

    pub(super) fn flush(&self, run: &Run) -> Result<()> {
        for class in [Class::Data, Class::Meta] {
            let all = std::mem::take(&mut *self.of(class).lock());
            all.into_iter().try_for_each(|mut framer| framer.flush(run))?;
        }
        Ok(())
    }
}

impl Run {
    /// Writes the marked blobs of an index into new packfiles. They count when the run has been flushed. What cannot be
    /// read is named and ends nothing; the store itself failing does.
    pub(crate) async fn move_blobs(
        self: &Arc<Self>,
        index: &Index,
        marks: &Marks,
        progress: impl Fn(u64) + Sync,
    ) -> Result<Moved> {
        let framers = Arc::new(Framers::default());
        let parallel = std::thread::available_parallelism().map_or(2, usize::from) + 1;
        let mut moving = stream::iter(lots(self.repository(), index, marks))
            .map(|lot| async {
                self.check()?;
                let Lot { frames, pieces, clear } = lot?;
                let (run, framers) = (self.clone(), framers.clone());
                let work = move |fetched: Fetched| move_lot(&run, &framers, pieces, fetched);
                let done = self.repository().bulk(frames, Origin::Store, work).await?;
                progress(clear);
                Ok::<Moved, Error>(done)
            })
            .buffer_unordered(parallel);
        let mut all = Moved::default();
        let mut named = HashSet::new();
        while let Some(done) = moving.next().await {
            let done = done?;
            all.blobs += done.blobs;
            all.unreadable.extend(done.unreadable.into_iter().filter(|(id, _)| named.insert(*id)));
        }
        drop(moving);
        let run = self.clone();
        blocking(move || framers.flush(&run)).await?;
        Ok(all)
    }
}

fn move_lot(run: &Run, framers: &Framers, pieces: Vec<Piece>, fetched: Fetched) -> Result<Moved> {
    let mut moved = Moved::default();
    let mut pieces = pieces.into_iter();
    let mut now: Option<Piece> = None;
    let (mut group, mut failed) = (Group::default(), false);
    let keys = run.repository().keys().clone();
    fetched.hand_over(|frame, stored| {
        let piece = match now.take() {
            Some(piece) => piece,
            None => pieces.next().ok_or(Error::Bug("a frame belongs to no piece"))?,
        };
        let done = stored.map_err(Error::from).and_then(|stored| match piece.is_whole {
            true => seal_anew(frame, stored, run.key()).map(|sealed| group.frames.push(sealed)),
            false => open_in_place(frame, stored, |clear| {
                for blob in &piece.blobs {
                    let range = blob.offset as usize..blob.offset as usize + blob.len as usize;
                    let bytes = clear.get(range).filter(|b| keys.identify(blob.class, b) == blob.id);
                    let bytes = bytes.ok_or_else(|| Error::DamagedBlob {
                        what: format!("blob {}", blob.id.short()),
                        place: format!("{} at {}", frame.object(), frame.record.offset),
                        source: "its contents do not match its id".into(),
                    })?;
                    framers.push(run, blob.class, blob.id, bytes)?;
                    moved.blobs += 1;
                }
                Ok(())
            }),
        });
        match done {
            Ok(()) => {}
            Err(e) if is_damage(&e) => {
                failed = true;
                moved.unreadable.push((frame.packfile, crate::error::report(&e)));
            }
            Err(e) => return Err(e),
        }
        if piece.frames > 1 {
            now = Some(Piece { frames: piece.frames - 1, ..piece });
            return Ok(());
        }
        let frames = std::mem::take(&mut group.frames);
        if piece.is_whole && !std::mem::take(&mut failed) {
            moved.blobs += piece.blobs.len() as u64;
            run.submit(frame.class, Group { frames, blobs: piece.blobs, key: None })?;
        }
        failed = false;
        Ok(())
    })?;
    Ok(moved)
}
