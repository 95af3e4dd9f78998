//! Merging states: one that says what several said, but for packfiles that are gone. `docs/FORMAT.md` §10, §12.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::index::Index;
use super::segment::{Blobs, Segment};
use super::states::StateWriter;
use super::{Repository, now_ns};
use crate::crypto::WRAPPED_KEY;
use crate::error::{Error, Result};
use crate::id::ObjectId;
use crate::removal::{Removal, RemovalKind};
use crate::state::{PackfileRecord, Table};
use crate::storage::{Area, Listed};

/// A packfile that the merged state names: which rows are its frames in a segment, and where they come to stand.
struct Kept {
    record: PackfileRecord,
    segment: usize,
    /// Its first frame in the segment.
    from: u32,
}

impl Repository {
    /// Writes a state that says what these say, but nothing of packfiles that are gone, and has it replace them.
    ///
    /// The states are read into a local index of their own and merged as streams: in memory are 96 bytes for each
    /// packfile.
    ///
    /// # Errors
    /// One of them cannot be read: then nothing is replaced.
    pub(crate) async fn merge_states(
        &self,
        states: &[Listed],
        gone: &HashSet<ObjectId>,
        run: ObjectId,
    ) -> Result<ObjectId> {
        let near = self.cache.index_directory();
        let failed = |e| Error::io("make a directory in", &near, e);
        let directory = tempfile::Builder::new().prefix("merge-").tempdir_in(&near).map_err(failed)?;
        let (index, unreadable) =
            Index::load(directory.path(), &self.store, &self.keys, states, true).await?;
        if let Some((_, e)) = unreadable.into_iter().next() {
            return Err(e);
        }
        let writer = self.writer.lock().writer;
        let mut out = StateWriter::begin(&self.store, &self.keys, writer, run, now_ns()).await?;
        if let Err(e) = write(&mut out, index.segments(), gone).await {
            out.abort().await;
            return Err(e);
        }
        let successor = out.finish().await?.id;
        let targets = states.iter().map(|l| l.id).collect();
        self.put_removal(Removal {
            kind: RemovalKind::Replaced,
            targets,
            successor: Some(successor),
            time_ns: now_ns(),
            reason: "plakar maintenance".into(),
            writer,
        })
        .await?;
        Ok(successor)
    }
}

async fn write(out: &mut StateWriter<'_>, segments: &[Arc<Segment>], gone: &HashSet<ObjectId>) -> Result<()> {
    let mut kept: Vec<Kept> = Vec::new();
    let mut keys: Vec<[u8; WRAPPED_KEY]> = Vec::new();
    let mut key_rows: HashMap<[u8; WRAPPED_KEY], u32> = HashMap::new();
    let (mut seen, mut frames) = (HashSet::new(), 0_u32);
    for (segment, s) in segments.iter().enumerate() {
        for i in 0..s.packfiles() {
            let record = s.packfile(i)?;
            // Two states may say the same of one, where an earlier merge was interrupted.
            if gone.contains(&record.id) || !seen.insert(record.id) {
                continue;
            }
            let wrapped = s.wrapped_key(record.key.into())?;
            let key = *key_rows.entry(wrapped).or_insert_with(|| {
                keys.push(wrapped);
                keys.len() as u32 - 1
            });
            let from = record.first_frame;
            kept.push(Kept { record: PackfileRecord { key, first_frame: frames, ..record }, segment, from });
            frames = frames.checked_add(record.frames).ok_or(Error::Bug("a state of too many frames"))?;
        }
    }
    out.table(Table::Keys).await?;
    for key in &keys {
        out.record(key).await?;
    }
    out.table(Table::Packfiles).await?;
    for k in &kept {
        out.record(&k.record.encode()).await?;
    }
    out.table(Table::Frames).await?;
    let mut record = Vec::with_capacity(Table::Frames.record());
    for k in &kept {
        for i in 0..k.record.frames {
            record.clear();
            segments[k.segment].frame(u64::from(k.from) + u64::from(i))?.encode(&mut record);
            out.record(&record).await?;
        }
    }
    out.table(Table::Blobs).await?;
    // In each segment the packfiles that are kept, by where their frames begin there.
    let mut places: Vec<Vec<&Kept>> = segments.iter().map(|_| Vec::new()).collect();
    kept.iter().for_each(|k| places[k.segment].push(k));
    let mut blobs = Blobs::new(segments)?;
    while let Some((segment, blob)) = blobs.next()? {
        let there = &places[segment];
        let i = there.partition_point(|k| k.from <= blob.frame);
        let Some(k) = i.checked_sub(1).map(|i| there[i]) else { continue };
        let within = blob.frame - k.from;
        if within < k.record.frames {
            let moved = crate::state::BlobRecord { frame: k.record.first_frame + within, ..blob };
            out.record(&moved.encode()).await?;
        }
    }
    Ok(())
}

impl Repository {
    /// The states that the store lists and that no other stands in for, and those that are replaced by one that the
    /// index has read, each with when it was.
    pub(crate) async fn states_now(&self, index: &Index) -> Result<(Vec<Listed>, Vec<(ObjectId, i64)>)> {
        let catalog = self.catalog().await?;
        let (mut standing, mut replaced) = (Vec::new(), Vec::new());
        for listed in self.store.list(Area::States).await? {
            match catalog.removals.stand_in(&listed.id, |s| index.states().contains(s)) {
                Some((_, since_ns)) => replaced.push((listed.id, since_ns)),
                None => standing.push(listed),
            }
        }
        Ok((standing, replaced))
    }
}
