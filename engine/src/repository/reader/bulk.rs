//! Reading in bulk: frames are fetched, and one worker opens them one after another and does what there is to do with
//! each, while its clear bytes are still in the processor's cache. No frame needs memory of its own.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt};

use super::{FrameReader, Origin, PARALLEL, damaged, plan, with_decoder};
use crate::error::{Error, Result};
use crate::frame_source::{FrameKey, FrameRef, Purpose};

/// Frames that were fetched, to be opened.
#[derive(Debug)]
pub(crate) struct Fetched {
    frames: Vec<(FrameRef, Place)>,
    ranges: Vec<BytesMut>,
}

#[derive(Debug)]
enum Place {
    Missing(Arc<Error>),
    /// It was opened already.
    Clear(Bytes),
    /// Sealed, at an offset in one of the ranges.
    Sealed {
        range: usize,
        at: usize,
    },
}

impl Fetched {
    /// Opens the frames in the order in which they were asked for, and has each looked at, until one is not to
    /// anybody's liking.
    pub(crate) fn open(
        mut self,
        mut look: impl FnMut(&FrameRef, Result<&[u8], Arc<Error>>) -> Result<()>,
    ) -> Result<()> {
        for (frame, place) in self.frames {
            match place {
                Place::Missing(e) => look(&frame, Err(e))?,
                Place::Clear(bytes) => look(&frame, Ok(&bytes))?,
                Place::Sealed { range, at } => {
                    let stored = &mut self.ranges[range][at..at + frame.record.stored as usize];
                    with_decoder(|decoder| {
                        let clear = decoder
                            .and_then(|d| d.decode_in_place(&frame.key, frame.class, &frame.record, stored));
                        look(&frame, clear.map_err(|e| Arc::new(damaged(&frame, e))))
                    })?;
                }
            }
        }
        Ok(())
    }
}

impl Fetched {
    /// Hands over the frames as they are stored, in the order in which they were asked for; the bytes may be written
    /// over. For frames that were fetched from the store itself.
    pub(crate) fn hand_over(
        mut self,
        mut look: impl FnMut(&FrameRef, Result<&mut [u8], Arc<Error>>) -> Result<()>,
    ) -> Result<()> {
        for (frame, place) in self.frames {
            match place {
                Place::Missing(e) => look(&frame, Err(e))?,
                Place::Sealed { range, at } => {
                    look(&frame, Ok(&mut self.ranges[range][at..at + frame.record.stored as usize]))?;
                }
                Place::Clear(_) => return Err(Error::Bug("a frame was wanted as it is stored")),
            }
        }
        Ok(())
    }
}

impl FrameReader {
    /// Fetches frames, none twice, and hands them to a worker.
    pub(in crate::repository) async fn bulk<T: Send + 'static>(
        &self,
        wanted: Vec<FrameRef>,
        origin: Origin,
        work: impl FnOnce(Fetched) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let keys: Vec<FrameKey> = wanted.iter().map(FrameRef::key).collect();
        let _turn = self.turns.request(&keys, Purpose::OnDemand).await;
        let mut ranges = Vec::new();
        let places = if origin == Origin::Anywhere && self.disk().is_some() {
            let clear = self.frames(&wanted, Purpose::OnDemand, origin).await;
            clear.into_iter().map(|c| c.map_or_else(Place::Missing, Place::Clear)).collect()
        } else {
            self.ranges(&wanted, &mut ranges).await
        };
        let fetched = Fetched { frames: wanted.into_iter().zip(places).collect(), ranges };
        crate::blocking::blocking(move || work(fetched)).await
    }

    /// Fetches all frames from the store, in few ranges.
    async fn ranges(&self, wanted: &[FrameRef], ranges: &mut Vec<BytesMut>) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        places.resize_with(wanted.len(), || Place::Missing(Arc::new(Error::Cancelled)));
        let fetches = plan(wanted, 0..wanted.len()).into_iter();
        let mut arriving = stream::iter(fetches.map(|f| async {
            let stored = self.store.get(f.object, Some(f.range.clone())).await;
            (f, stored)
        }))
        .buffer_unordered(PARALLEL);
        while let Some((fetch, stored)) = arriving.next().await {
            match stored {
                Ok(stored) => {
                    for i in fetch.frames {
                        let at = (wanted[i].record.range().start - fetch.range.start) as usize;
                        places[i] = Place::Sealed { range: ranges.len(), at };
                    }
                    // Nobody else has it, unless the store keeps it in memory.
                    ranges.push(stored.try_into_mut().unwrap_or_else(|shared| shared[..].into()));
                }
                Err(e) => {
                    let e = Arc::new(Error::from(e));
                    fetch.frames.iter().for_each(|i| places[*i] = Place::Missing(e.clone()));
                }
            }
        }
        places
    }
}
