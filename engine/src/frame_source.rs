//! Frames by name and place, and the port to whoever gives their bytes.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::crypto::{Class, DataKey};
use crate::error::{Error, Result};
use crate::frame::FrameRecord;
use crate::id::ObjectId;
use crate::packfile::area_of;
use crate::storage::ObjectName;

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

    /// The object that it is stored in.
    pub(crate) fn object(&self) -> ObjectName {
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

/// Takes the clear bytes of one of several frames, by its number.
pub type Take<'a> = &'a mut (dyn FnMut(usize, Result<Bytes, Arc<Error>>) + Send);

/// Gives clear bytes of frames, authenticated. Implemented by the repository, which fetches and decodes, and by caches in front of it.
#[async_trait]
pub trait FrameSource: Send + Sync + std::fmt::Debug {
    /// The clear bytes of frames, in the order asked for.
    async fn frames(&self, wanted: &[FrameRef], purpose: Purpose) -> Vec<Result<Bytes, Arc<Error>>>;

    /// The same, each handed over as soon as it is there, in any order: its number among those wanted comes with it.
    /// A source that has them all at once may hand them over at once.
    async fn each(&self, wanted: &[FrameRef], purpose: Purpose, take: Take<'_>) {
        for (i, answer) in self.frames(wanted, purpose).await.into_iter().enumerate() {
            take(i, answer);
        }
    }

    /// Somebody has come to wait for frames whose prefetch is under way: where it still waits for its turn, it goes
    /// on at once. Never waits. A source that has no turns has nothing to do.
    fn raise(&self, _wanted: &[FrameRef]) {}
}

/// Where a blob lies: one frame and an offset in its clear bytes, or slices, which are whole frames in order.
#[derive(Clone, Debug)]
pub struct Located {
    /// Data or metadata.
    pub class: Class,
    /// The frames.
    pub frames: Vec<FrameRef>,
    /// Offset in the first frame.
    pub offset: u32,
    /// Length of the blob.
    pub len: u32,
}

impl Located {
    /// The frames that hold a range of the blob, and where in the blob the first of them begins (for a blob in a
    /// grouped frame: minus its offset). `None` if the frames do not hold it.
    pub(crate) fn cover(&self, range: &Range<u32>) -> Option<(i64, &[FrameRef])> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        if let [one] = self.frames.as_slice() {
            let end = u64::from(self.offset) + u64::from(self.len);
            let fits = end <= u64::from(one.record.clear);
            return fits.then_some((-i64::from(self.offset), &self.frames[..]));
        }
        let mut at = 0_u32;
        let mut first = None;
        for (i, frame) in self.frames.iter().enumerate() {
            let next = at.checked_add(frame.record.clear)?;
            if first.is_none() && range.start < next {
                first = Some((i, at));
            }
            if let Some((f, start)) = first
                && range.end <= next
            {
                return Some((i64::from(start), &self.frames[f..=i]));
            }
            at = next;
        }
        None
    }
}
