//! Copying snapshots into another store: only what it lacks travels.
//!
//! ```text
//!  snapshots that are not there, oldest first, in groups
//!    │ lacking: what of a group's trees and data is not there, against a copy of an earlier snapshot
//!    ▼
//!  take_over: in the order in which it is stored                         repository/transfer.rs
//!    │ other keys: rewrite: the trees, with the names that everything has there
//!    ▼
//!  commit: the group's snapshots
//! ```
//!
//! Stores that have one master key share the names of all blobs: frames are copied as they are, and so are trees. Otherwise
//! blobs are named anew, where files are cut stays as it is, and a map of names spares reading twice what was copied before.

mod lacking;
mod rewrite;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::error::{Error, Result, is_damage};
use crate::id::{ObjectId, StoreId};
use crate::monitor::{Event, Monitor};
use crate::ops::reach::Reach;
use crate::removal::NoteKind;
use crate::repository::Repository;
use crate::repository::catalog::Catalog;
use crate::repository::transfer::Names;
use crate::repository::writer::Run;
use crate::snapshot::Snapshot;
use lacking::Lacking;
use rewrite::Rewriter;

/// Clear bytes of new blobs after which a group is committed: what an interruption costs is to look for what is there already.
const GROUP_BYTES: u64 = 4 << 30;
/// Snapshots of a group.
const GROUP: usize = 256;

/// What was copied.
#[derive(Clone, Debug, Default)]
pub struct SyncReport {
    /// Snapshots that were copied: the id there, and the copy.
    pub copied: Vec<(ObjectId, Snapshot)>,
    /// Snapshots that could not be copied whole, and were not copied at all; and why.
    pub failed: Vec<(ObjectId, String)>,
    /// Snapshots that the other store had already.
    pub present: u64,
    /// Bytes put into the other store.
    pub added_bytes: u64,
}

/// Copies snapshots of one store into another, but for those that it has.
///
/// # Errors
/// They are the same store. One of them fails. A run was late: what was copied is found by the next. Damage ends nothing:
/// what cannot be copied whole is in the report.
pub async fn sync(
    from: &Arc<Repository>,
    to: &Arc<Repository>,
    snapshots: &[Arc<Snapshot>],
    host: &str,
    monitor: Arc<dyn Monitor>,
    cancel: Cancel,
) -> Result<SyncReport> {
    let (missing, present) = missing(from, to, snapshots).await?;
    let mut report = SyncReport { present, ..SyncReport::default() };
    if missing.is_empty() {
        return Ok(report);
    }
    let reach = Reach::now(from, &cancel).await?;
    let shared = from.keys().are_those_of(to.keys());
    let names = (!shared).then(|| Names::new(to, from.config().store));
    let copying = Copying { reach, to: to.clone(), names, host: host.to_owned(), monitor, cancel };
    let mut queue: VecDeque<Arc<Snapshot>> = missing.into();
    // So many of the first are copied one by one: something in a group of them could not be read.
    let mut alone: usize = 0;
    while let Some(first) = queue.front().cloned() {
        copying.cancel.check()?;
        let limit = if alone > 0 { 1 } else { GROUP };
        let group: Vec<Arc<Snapshot>> = queue.iter().take(limit).cloned().collect();
        match Box::pin(copying.group(&group, &mut report)).await {
            Ok(taken) => {
                queue.drain(..taken);
                alone = alone.saturating_sub(taken);
            }
            Err(e) if is_damage(&e) && group.len() == 1 => {
                report.failed.push((first.id, crate::error::report(&e)));
                queue.pop_front();
                alone = alone.saturating_sub(1);
            }
            Err(e) if is_damage(&e) => {
                tracing::info!(e = crate::error::report(&e), "snapshots are copied one by one");
                alone = group.len();
            }
            Err(e) => return Err(e),
        }
    }
    Ok(report)
}

/// Of some snapshots those that another store has not, oldest first; and how many it has.
///
/// # Errors
/// They are the same store. One of them fails.
pub async fn missing(
    from: &Repository,
    to: &Repository,
    snapshots: &[Arc<Snapshot>],
) -> Result<(Vec<Arc<Snapshot>>, u64)> {
    if from.config().store == to.config().store {
        return Err(Error::Usage(format!(
            "{} and {} are the same store, or one is a plain copy of the other",
            from.store().location(),
            to.store().location()
        )));
    }
    let store = from.config().store;
    let there = identities(&*to.refresh_catalog().await?, to.config().store);
    let mut seen = HashSet::new();
    let all = snapshots.iter().filter(|s| seen.insert(s.id)).cloned();
    let (present, mut missing): (Vec<_>, Vec<_>) = all.partition(|s| there.contains_key(&s.identity(store)));
    missing.sort_by_key(|s| (s.time_ns, s.id));
    Ok((missing, present.len() as u64))
}

/// The snapshots that are in a store, by what they are, wherever they were made.
fn identities(catalog: &Catalog, store: StoreId) -> HashMap<(StoreId, ObjectId), Arc<Snapshot>> {
    catalog.snapshots.iter().map(|s| (s.identity(store), s.clone())).collect()
}

/// What all groups share.
struct Copying {
    reach: Reach,
    to: Arc<Repository>,
    /// Names there of blobs here, unless they are the same.
    names: Option<Names>,
    host: String,
    monitor: Arc<dyn Monitor>,
    cancel: Cancel,
}

impl Copying {
    /// Copies as many of these snapshots, from the first on, as make a group; how many that was.
    ///
    /// # Errors
    /// If it is damage, some of them cannot be copied, and none was.
    async fn group(&self, snapshots: &[Arc<Snapshot>], report: &mut SyncReport) -> Result<usize> {
        let run = Run::begin(&self.to, &self.host, "sync", self.cancel.clone()).await?;
        let done = Box::pin(self.copy(&run, snapshots)).await;
        match done {
            Ok(copies) => {
                report.added_bytes += run.added_bytes();
                let taken = copies.len();
                report.copied.extend(snapshots.iter().map(|s| s.id).zip(copies));
                Ok(taken)
            }
            Err(e) => {
                run.abandon().await;
                report.added_bytes += run.added_bytes();
                Err(e)
            }
        }
    }

    async fn copy(&self, run: &Arc<Run>, snapshots: &[Arc<Snapshot>]) -> Result<Vec<Snapshot>> {
        let there = identities(run.catalog(), self.to.config().store);
        let mut lacking = Lacking::new(&self.reach, run, self.names.as_ref());
        let mut group = Vec::new();
        for s in snapshots {
            let base = self.base(s, &there);
            lacking.add(s, base.as_ref().map(|(own, _)| &**own)).await?;
            group.push((s.clone(), base));
            if lacking.bytes >= GROUP_BYTES {
                break;
            }
        }
        self.monitor.event(Event::Total { entries: group.len() as u64, bytes: lacking.bytes });
        let monitor = &self.monitor;
        let progress = |bytes| monitor.event(Event::Progress { bytes });
        let (from, index) = (&self.reach.repository, &self.reach.index);
        let unreadable = run.take_over(from, index, &lacking.wanted, self.names.as_ref(), progress).await?;
        if let Some((object, reason)) = unreadable.into_iter().next() {
            return Err(Error::Unreadable { object, reason });
        }
        let store = from.config().store;
        let mut headers = Vec::new();
        let mut rewriter = match &self.names {
            Some(names) => Some(Rewriter::new(&self.reach, run, names)?),
            None => None,
        };
        for (s, base) in group {
            let mut header = (*s).clone();
            header.original = Some(s.identity(store));
            header.added_bytes = 0;
            if let Some(rewriter) = &mut rewriter {
                let base = base.as_ref().map(|(own, copy)| (&**own, &**copy));
                (header.root, header.owners) = Box::pin(rewriter.snapshot(&s, base)).await?;
            }
            headers.push(header);
        }
        if let Some(rewriter) = &mut rewriter {
            rewriter.flush()?;
        }
        run.flush().await?;
        if let Some(first) = headers.first_mut() {
            first.added_bytes = run.added_bytes();
        }
        let copies = run.commit_all(&headers).await?.ok_or(Error::Late { missing: 0 })?;
        for (s, copy) in snapshots.iter().zip(&copies) {
            if let Some(text) = self.reach.catalog.descriptions.get(&s.id) {
                self.to
                    .note(run.catalog(), NoteKind::Description, copy.id, std::slice::from_ref(text))
                    .await?;
            }
        }
        Ok(copies)
    }

    /// A snapshot of the same places that the other store has, and its copy there: the last one before this, or another.
    fn base(
        &self,
        s: &Snapshot,
        there: &HashMap<(StoreId, ObjectId), Arc<Snapshot>>,
    ) -> Option<(Arc<Snapshot>, Arc<Snapshot>)> {
        let store = self.reach.repository.config().store;
        let is_like = |o: &&Arc<Snapshot>| o.source == s.source && o.origin == s.origin && o.roots == s.roots;
        let copied = |o: &Arc<Snapshot>| Some((o.clone(), there.get(&o.identity(store))?.clone()));
        let of = |older: bool| {
            let all = self.reach.catalog.snapshots.iter().filter(is_like);
            all.filter(move |o| (o.time_ns <= s.time_ns) == older).find_map(copied)
        };
        of(true).or_else(|| of(false))
    }
}

#[cfg(test)]
mod tests;
