//! Packing: streams groups of frames into packfiles of one class, on a thread of its own, and has them acknowledged
//! while the next is filled.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::writer::{Group, Packed, Run};
use crate::crypto::{Class, WRAPPED_KEY};
use crate::error::Result;
use crate::frame::FrameRecord;
use crate::id::ObjectId;
use crate::object::{PREAMBLE, Preamble};
use crate::packfile::{area_of, encode_end};
use crate::state::PackfileRecord;
use crate::storage::{ObjectName, PutObject};

/// Packfiles that may wait for their acknowledgement while the next is filled.
const UNACKNOWLEDGED: usize = 2;
/// Packfiles that are filled side by side, one for each key: only what comes from another store has others than the run's.
const OPEN: usize = 4;

/// Streams groups into packfiles of one class, on a thread of its own.
pub(super) struct Packer {
    run: Arc<Run>,
    class: Class,
    handle: Handle,
    /// The one that was begun first leads.
    open: Vec<Open>,
    finishing: JoinSet<()>,
}

struct Open {
    put: Box<dyn PutObject>,
    preamble: Preamble,
    hash: blake3::Hasher,
    length: u64,
    packed: Packed,
}

impl Packer {
    pub(super) fn new(run: Arc<Run>, class: Class, handle: Handle) -> Self {
        Self { run, class, handle, open: Vec::new(), finishing: JoinSet::new() }
    }

    /// Works until all senders are gone. After a failure it goes on taking, so that nobody waits for it.
    pub(super) fn work(mut self, groups: &Receiver<Group>) {
        for group in groups {
            if self.run.failure.get().is_some() {
                continue;
            }
            if let Err(e) = self.add(group) {
                self.run.fail(e);
            }
        }
        while self.run.failure.get().is_none() && !self.open.is_empty() {
            if let Err(e) = self.close(0) {
                self.run.fail(e);
            }
        }
        for open in std::mem::take(&mut self.open) {
            self.handle.block_on(open.put.abort());
        }
        while self.handle.block_on(self.finishing.join_next()).is_some() {}
    }

    fn add(&mut self, group: Group) -> Result<()> {
        let run = self.run.clone();
        let config = &run.repository.config;
        let room: u64 = group.frames.iter().map(|f| f.bytes.len() as u64).sum();
        let key = group.key.as_deref().map_or(run.key().id, |key| key.id);
        let is_of_key = |open: &Open| open.packed.wrapped[..16] == key;
        if let Some(i) = self.open.iter().position(is_of_key)
            && self.open[i].length + room > config.packfile_bytes
            && self.open[i].length > PREAMBLE as u64
        {
            self.close(i)?;
        }
        if !self.open.iter().any(is_of_key) {
            if self.open.len() >= OPEN {
                self.close(0)?;
            }
            let wrapped = group.key.as_deref().map_or(run.wrapped, |key| run.repository.keys.wrap(key));
            let begun = self.begin(wrapped)?;
            self.open.push(begun);
        }
        let Some(open) = self.open.iter_mut().find(|open| is_of_key(open)) else { return Ok(()) };
        let first = open.packed.frames.len() as u32;
        for frame in group.frames {
            open.packed.frames.push(FrameRecord { offset: open.length as u32, ..frame.record });
            open.write(&self.handle, frame.bytes)?;
            run.cancel.moved();
        }
        open.packed.blobs.extend(group.blobs.iter().map(|b| b.behind(first)));
        Ok(())
    }

    fn begin(&self, wrapped: [u8; WRAPPED_KEY]) -> Result<Open> {
        let id = ObjectId::random();
        let area = area_of(self.class);
        let keys = &self.run.repository.keys;
        let preamble = Preamble::new(area, keys.store(), keys.is_sealed());
        let record = PackfileRecord {
            id,
            checksum: [0; 32],
            length: 0,
            first_frame: 0,
            frames: 0,
            key: 0,
            class: self.class,
        };
        let mut open = Open {
            put: self.handle.block_on(self.run.repository.store.put(ObjectName::new(area, id)))?,
            preamble,
            hash: blake3::Hasher::new(),
            length: 0,
            packed: Packed { wrapped, record, frames: Vec::new(), blobs: Vec::new(), stored_ns: 0 },
        };
        open.write(&self.handle, Bytes::copy_from_slice(&preamble.encode()))?;
        Ok(open)
    }

    /// Ends an open packfile. Its acknowledgement is waited for elsewhere, up to a few at once.
    fn close(&mut self, i: usize) -> Result<()> {
        let mut open = self.open.remove(i);
        let run = self.run.clone();
        let id = open.packed.record.id;
        let keys = &run.repository.keys;
        let end = encode_end(keys, &open.preamble, id, self.class, &open.packed.wrapped, &open.packed.frames);
        if let Err(e) = open.write(&self.handle, end.into()) {
            self.handle.block_on(open.put.abort());
            return Err(e);
        }
        let Open { put, hash, length, mut packed, .. } = open;
        packed.record.checksum = *hash.finalize().as_bytes();
        packed.record.length = length;
        packed.record.frames = packed.frames.len() as u32;
        while self.finishing.len() >= UNACKNOWLEDGED {
            self.handle.block_on(self.finishing.join_next());
        }
        let finish = async move {
            let done = async {
                packed.stored_ns = put.finish().await?.modified_ns;
                run.added_bytes.fetch_add(length, Ordering::Relaxed);
                run.acknowledge(packed).await
            };
            if let Err(e) = done.await {
                run.fail(e);
            }
        };
        self.finishing.spawn_on(finish, &self.handle);
        Ok(())
    }
}

impl Open {
    fn write(&mut self, handle: &Handle, bytes: Bytes) -> Result<()> {
        self.hash.update(&bytes);
        self.length += bytes.len() as u64;
        Ok(handle.block_on(self.put.write(bytes))?)
    }
}
