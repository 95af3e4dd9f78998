//! Maintenance: what no snapshot needs any more goes, in steps that are a grace period apart, beside running backups.
//! `docs/FORMAT.md` §14.
//!
//! One run finds what is live; moves live blobs out of packfiles that are condemned already or that it chooses to be;
//! condemns those; deletes what was condemned a grace period ago, and snapshots and states that have been deleted or
//! replaced for long; and merges states. Each step leaves a whole store behind: a run that is interrupted anywhere is
//! gone on with by the next.

mod live;
mod plan;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, TryStreamExt};

use crate::cancel::Cancel;
use crate::error::{Error, Result, is_damage, report};
use crate::id::ObjectId;
use crate::monitor::{Event, Monitor};
use crate::packfile::area_of;
use crate::removal::RemovalKind;
use crate::repository::catalog::Catalog;
use crate::repository::writer::{EXCLUSIVE, Run};
use crate::repository::{Index, Repository, Weight};
use crate::storage::{Area, Listed, ObjectName};
use live::Live;
use plan::Candidate;

/// Ids in one removal: an object of one block has room for more.
const TARGETS: usize = 10_000;
/// Objects deleted side by side.
const PARALLEL: usize = 16;
/// States are all merged when so much of what they say, in hundredths, is about packfiles that are gone.
const STALE: u64 = 10;
const REASON: &str = "plakar maintenance";

/// How maintenance is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct MaintenanceOptions {
    /// In place of the store's grace period, in ns.
    pub grace_ns: Option<i64>,
    /// Nobody else is at work, which is proved first: what is condemned is deleted at once if the grace period is 0.
    pub exclusive: bool,
}

/// Packfiles, and their bytes in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Packfiles {
    /// How many.
    pub count: u64,
    /// Stored bytes.
    pub bytes: u64,
}

impl Packfiles {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What maintenance did, or, in a dry run, would do.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct MaintenanceReport {
    /// All packfiles before.
    pub packfiles: Packfiles,
    /// Stored bytes of them that something needs, as far as that can be told without reading them.
    pub live_bytes: u64,
    /// Condemned by this run.
    pub condemned: Packfiles,
    /// What was written again because it is live and lay in packfiles that go.
    pub moved_bytes: u64,
    /// Condemned by an earlier run, and not yet due.
    pub waiting: Packfiles,
    /// Deleted.
    pub deleted: Packfiles,
    /// Snapshots, states, and removals and notes that were of no use any more, deleted.
    pub deleted_snapshots: u64,
    /// See there.
    pub deleted_states: u64,
    /// See there.
    pub deleted_notes: u64,
    /// States that were merged into one.
    pub merged_states: u64,
    /// When what is condemned now, or was, may be deleted: store time, ns since 1970, the last of them.
    pub due_ns: Option<i64>,
    /// Pieces of data that snapshots need and the store does not have.
    pub missing: u64,
    /// Packfiles that must stay because something in them that is needed cannot be read, and why.
    pub unreadable: Vec<(String, String)>,
}

/// Everything that one run decides upon.
struct Survey {
    catalog: Arc<Catalog>,
    index: Arc<Index>,
    now_ns: i64,
    grace_ns: i64,
    live: Live,
    weights: HashMap<ObjectId, Weight>,
    /// Packfiles that are there, with their areas.
    there: HashMap<ObjectId, (Area, Listed)>,
    /// Packfiles that are not there and that live snapshots need.
    lost: HashSet<ObjectId>,
    /// Snapshots that are deleted: since when.
    deleted: Vec<(ObjectId, i64)>,
    /// To be condemned.
    chosen: HashSet<ObjectId>,
    /// Condemned, and due.
    due: HashSet<ObjectId>,
}

/// Stored bytes that nobody would need any more if these snapshots were removed: about what maintenance then gives back.
/// Those that are removed already count as gone. `None` where it cannot be told, because something is damaged.
///
/// # Errors
/// The store fails.
pub async fn needed_only_by(
    repository: &Arc<Repository>,
    snapshots: &[ObjectId],
    cancel: &Cancel,
) -> Result<Option<u64>> {
    let catalog = repository.catalog().await?;
    let index = repository.index().await?;
    let (leaving, kept): (Vec<_>, Vec<_>) =
        catalog.snapshots.iter().cloned().partition(|s| snapshots.contains(&s.id));
    let mut live = Live::none(&index);
    let mut bytes = Vec::new();
    for these in [kept, leaving] {
        match live.add(repository, &index, &catalog, &these, cancel).await {
            Err(e) if is_damage(&e) => return Ok(None),
            done => done?,
        }
        let (index, marks) = (index.clone(), live.marks.clone());
        let weights = crate::blocking::blocking(move || index.weigh(&marks)).await?;
        bytes.push(weights.values().map(|w| Candidate::of(w, w.record.length).kept()).sum::<u64>());
    }
    Ok(Some(bytes[1].saturating_sub(bytes[0])))
}

/// What maintenance would do now.
///
/// # Errors
/// As [`maintain`].
pub async fn foresee(
    repository: &Arc<Repository>,
    options: MaintenanceOptions,
    cancel: Cancel,
) -> Result<MaintenanceReport> {
    let catalog = repository.refresh_catalog().await?;
    let index = repository.refresh_index().await?;
    let now_ns = crate::repository::now_ns();
    let survey = survey(repository, catalog, index, now_ns, options, &cancel).await?;
    Ok(survey.report(options.exclusive))
}

/// Does it.
///
/// # Errors
/// Something that says what is needed is unreadable or from a newer program: then nothing is deleted. The store fails.
/// Somebody else is at work where nobody may be. What was done until then is whole.
pub async fn maintain(
    repository: &Arc<Repository>,
    host: &str,
    options: MaintenanceOptions,
    monitor: Arc<dyn Monitor>,
    cancel: Cancel,
) -> Result<MaintenanceReport> {
    let purpose = if options.exclusive { EXCLUSIVE } else { "maintenance" };
    let run = Run::begin(repository, host, purpose, cancel.clone()).await?;
    let done = Box::pin(work(&run, options, &*monitor, &cancel)).await;
    run.abandon().await;
    done
}

async fn work(
    run: &Arc<Run>,
    options: MaintenanceOptions,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<MaintenanceReport> {
    let repository = run.repository();
    // Local files decide here what is deleted: each is verified first.
    let index = repository.refresh_index().await?;
    let catalog = run.catalog().clone();
    let mut survey = survey(repository, catalog, index, run.t0_ns(), options, cancel).await?;
    let mut report = survey.report(options.exclusive);
    survey.rescue(run, monitor, &mut report).await?;
    cancel.check()?;
    // Before their data, so that nobody finds one without.
    report.deleted_snapshots = survey.delete_snapshots(repository, cancel).await?;
    let chosen: Vec<ObjectId> = survey.chosen.iter().copied().collect();
    for targets in chosen.chunks(TARGETS) {
        repository.remove(RemovalKind::Condemned, targets.to_vec(), REASON).await?;
    }
    if options.exclusive && survey.grace_ns == 0 {
        survey.due.extend(chosen);
    }
    report.deleted = survey.sum(&survey.due);
    survey.delete_packfiles(repository, cancel).await?;
    survey.merge_states(run, options, cancel, &mut report).await?;
    report.deleted_notes = survey.delete_notes(repository, cancel).await?;
    Ok(report)
}

/// Looks at everything; changes nothing.
async fn survey(
    repository: &Arc<Repository>,
    catalog: Arc<Catalog>,
    index: Arc<Index>,
    now_ns: i64,
    options: MaintenanceOptions,
    cancel: &Cancel,
) -> Result<Survey> {
    is_all_readable(repository, &catalog)?;
    let configured = i64::try_from(repository.config().grace_seconds).unwrap_or(i64::MAX);
    let grace_ns = options.grace_ns.unwrap_or(configured.saturating_mul(1_000_000_000));
    let mut live = Live::none(&index);
    let found = live.add(repository, &index, &catalog, &catalog.snapshots, cancel).await;
    found.map_err(|e| match e {
        e if is_damage(&e) || matches!(e, Error::Newer { .. }) => {
            Error::Unsafe { what: format!("metadata of snapshots cannot be read: {}", report(&e)) }
        }
        e => e,
    })?;
    let (missing, needed) = (live.missing, live.marks.clone());
    let mut deleted = Vec::new();
    for (id, snapshot) in repository.deleted_snapshots(&catalog).await {
        let since_ns = catalog.removals.deleted_ns(&id).unwrap_or(now_ns);
        deleted.push((id, since_ns));
        if now_ns.saturating_sub(since_ns) >= grace_ns {
            continue;
        }
        // It can still be brought back, unless it is damaged, or went with a shorter grace period.
        let found = match snapshot {
            Ok(s) => live.add(repository, &index, &catalog, &[Arc::new(s)], cancel).await,
            Err(e) => Err(e),
        };
        match found {
            Err(e) if !is_damage(&e) => return Err(e),
            _ => {}
        }
    }
    live.missing = missing;
    let weights = {
        let (index, marks) = (index.clone(), live.marks);
        let weighed = crate::blocking::blocking(move || index.weigh(&marks).map(|w| (w, marks))).await?;
        (weighed.0, Live { marks: weighed.1, missing: live.missing })
    };
    let (weights, live) = weights;
    let mut there = HashMap::new();
    for area in [Area::Data, Area::Meta] {
        let listed = repository.store().list(area).await?;
        there.extend(listed.into_iter().map(|l| (l.id, (area, l))));
    }
    let absent: HashSet<ObjectId> = weights.keys().filter(|id| !there.contains_key(*id)).copied().collect();
    let lost = index.packfiles_of(&index.marked_in(&needed, &absent)?)?;
    let mut survey = Survey {
        lost,
        catalog,
        index,
        now_ns,
        grace_ns,
        live,
        weights,
        there,
        deleted,
        chosen: HashSet::new(),
        due: HashSet::new(),
    };
    survey.choose(repository.config().packfile_bytes);
    Ok(survey)
}

/// Fails if anything that may say what is needed cannot be read.
fn is_all_readable(repository: &Repository, catalog: &Catalog) -> Result<()> {
    let refuse = |what: String| Err(Error::Unsafe { what });
    if let Some((id, e)) = catalog.broken.first() {
        return refuse(format!("snapshot {} cannot be read: {}", id.short(), report(e)));
    }
    if let Some((name, e)) = catalog.unreadable.first() {
        return refuse(format!("{name} cannot be read: {}", report(e)));
    }
    if let Some((id, e)) = repository.unreadable_states().first() {
        return refuse(format!("states/{id} cannot be read: {e}"));
    }
    Ok(())
}

impl Candidate {
    fn of(w: &Weight, length: u64) -> Self {
        Self { class: w.record.class, length, bytes: w.bytes, live: w.live }
    }
}

impl Survey {
    fn age_ns(&self, since_ns: i64) -> i64 {
        self.now_ns.saturating_sub(since_ns)
    }

    /// Decides which packfiles go: none that is younger than the grace period, since what it holds may be on its way into a
    /// snapshot.
    fn choose(&mut self, target: u64) {
        let (mut ids, mut candidates) = (Vec::new(), Vec::new());
        // A state may be lost, and with it the names of what is missed: `repair` can find it by the packfiles' footers.
        let is_state_lost = self.live.missing > 0;
        for (id, (_, listed)) in &self.there {
            if is_state_lost && !self.weights.contains_key(id) {
                continue;
            }
            if let Some(doom) = self.catalog.removals.doom(id) {
                let since = doom.condemned_ns.into_iter().chain(doom.gone_ns).min();
                if since.is_some_and(|since| self.age_ns(since) >= self.grace_ns) {
                    self.due.insert(*id);
                }
                continue;
            }
            if self.age_ns(listed.modified_ns) < self.grace_ns {
                continue;
            }
            match self.weights.get(id) {
                // No state knows it: an interrupted run left it, and nobody can ever use it.
                None => _ = self.chosen.insert(*id),
                Some(w) => {
                    ids.push(*id);
                    candidates.push(Candidate::of(w, listed.len));
                }
            }
        }
        // Their order in the map is random.
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|i| ids[*i]);
        let sorted: Vec<Candidate> = order.iter().map(|i| candidates[*i]).collect();
        self.chosen.extend(plan::choose(&sorted, target).into_iter().map(|i| ids[order[i]]));
    }

    fn sum(&self, ids: &HashSet<ObjectId>) -> Packfiles {
        let mut sum = Packfiles::default();
        ids.iter().filter_map(|id| self.there.get(id)).for_each(|(_, l)| sum.add(l.len));
        sum
    }

    /// Stored bytes of a packfile that are live.
    fn kept(&self, id: &ObjectId) -> u64 {
        match (self.weights.get(id), self.there.get(id)) {
            (Some(w), Some((_, listed))) => Candidate::of(w, listed.len).kept(),
            _ => 0,
        }
    }

    fn report(&self, at_once: bool) -> MaintenanceReport {
        let mut report = MaintenanceReport { missing: self.live.missing, ..MaintenanceReport::default() };
        for id in &self.lost {
            let area = self.weights.get(id).map_or(Area::Data, |w| area_of(w.record.class));
            report.unreadable.push((ObjectName::new(area, *id).to_string(), "it is missing".into()));
        }
        for (id, (_, listed)) in &self.there {
            report.packfiles.add(listed.len);
            report.live_bytes += self.kept(id);
            if self.catalog.removals.is_doomed(id) && !self.due.contains(id) {
                report.waiting.add(listed.len);
            }
        }
        report.condemned = self.sum(&self.chosen);
        report.deleted = self.sum(&self.due);
        report.moved_bytes = self.chosen.iter().chain(&self.due).map(|id| self.kept(id)).sum();
        let at_once = at_once && self.grace_ns == 0;
        if at_once {
            report.deleted.count += report.condemned.count;
            report.deleted.bytes += report.condemned.bytes;
        }
        let waiting = self.there.keys().filter(|id| !self.due.contains(*id));
        let condemned = waiting.filter_map(|id| self.catalog.removals.doom(id)?.condemned_ns);
        let now = (!self.chosen.is_empty() && !at_once).then_some(self.now_ns);
        report.due_ns = condemned.chain(now).max().map(|since| since.saturating_add(self.grace_ns));
        report
    }

    /// Writes what is live and lies in packfiles that are condemned, or chosen, into others. Those that cannot be read
    /// whole stay.
    async fn rescue(
        &mut self,
        run: &Arc<Run>,
        monitor: &dyn Monitor,
        report: &mut MaintenanceReport,
    ) -> Result<()> {
        let before = run.added_bytes();
        let is_leaving = |id: &&ObjectId| self.catalog.removals.is_doomed(id) && self.there.contains_key(*id);
        let doomed = self.weights.keys().filter(is_leaving);
        let leaving: HashSet<ObjectId> = self.chosen.iter().chain(doomed).copied().collect();
        let moving = self.index.marked_in(&self.live.marks, &leaving)?;
        if moving.is_empty() {
            report.moved_bytes = 0;
            return Ok(());
        }
        monitor.event(Event::Total { entries: 0, bytes: report.moved_bytes });
        let progress = |bytes| monitor.event(Event::Progress { bytes });
        let moved = run.move_blobs(&self.index, &moving, progress).await?;
        run.flush().await?;
        report.moved_bytes = run.added_bytes() - before;
        let failed: HashSet<ObjectId> = moved.unreadable.iter().map(|(id, _)| *id).collect();
        // A packfile that seems to be of no use may hold the only good copy.
        let copies = self.index.copies(&self.index.marked_in(&moving, &failed)?)?;
        for id in &copies {
            self.chosen.remove(id);
            self.due.remove(id);
        }
        for (id, reason) in moved.unreadable {
            let area = self.there.get(&id).map_or(Area::Data, |(area, _)| *area);
            report.unreadable.push((ObjectName::new(area, id).to_string(), reason));
        }
        report.condemned = self.sum(&self.chosen);
        Ok(())
    }

    /// Says that packfiles are gone, and deletes them.
    async fn delete_packfiles(&self, repository: &Repository, cancel: &Cancel) -> Result<()> {
        let removals = &self.catalog.removals;
        let unsaid = |id: &&ObjectId| removals.doom(id).is_none_or(|d| d.gone_ns.is_none());
        let unsaid: Vec<ObjectId> = self.due.iter().filter(unsaid).copied().collect();
        for targets in unsaid.chunks(TARGETS) {
            repository.remove(RemovalKind::Gone, targets.to_vec(), REASON).await?;
        }
        let area = |id: &ObjectId| {
            let listed = self.there.get(id).map(|(area, _)| *area);
            listed.or_else(|| self.weights.get(id).map(|w| area_of(w.record.class)))
        };
        let names = self.due.iter().filter_map(|id| Some(ObjectName::new(area(id)?, *id)));
        delete(repository, names.collect(), cancel).await.map(drop)
    }

    /// Deletes the objects of snapshots that cannot be brought back any more. Twice the grace period, since somebody may
    /// have brought one back whose note was not listed yet.
    async fn delete_snapshots(&self, repository: &Repository, cancel: &Cancel) -> Result<u64> {
        let is_due = |since: i64| self.age_ns(since) >= self.grace_ns.saturating_mul(2);
        let due = self.deleted.iter().filter(|(_, since)| is_due(*since));
        let names = due.map(|(id, _)| ObjectName::new(Area::Snapshots, *id)).collect();
        delete(repository, names, cancel).await
    }

    /// Merges states where there are many, or much in them is of no use any more, and deletes those that were replaced a
    /// grace period ago.
    async fn merge_states(
        &self,
        run: &Run,
        options: MaintenanceOptions,
        cancel: &Cancel,
        report: &mut MaintenanceReport,
    ) -> Result<()> {
        let repository = run.repository();
        cancel.check()?;
        let gone: HashSet<ObjectId> = {
            let said = self.weights.keys().filter(|id| {
                let is_gone = self.catalog.removals.doom(id).is_some_and(|d| d.gone_ns.is_some());
                is_gone && !self.there.contains_key(*id)
            });
            said.chain(&self.due).copied().collect()
        };
        let (all, stale) = self.weights.iter().fold((0, 0), |(all, stale), (id, w)| {
            let frames = u64::from(w.record.frames);
            (all + frames, if gone.contains(id) { stale + frames } else { stale })
        });
        let index = run.index();
        let (mut standing, replaced) = repository.states_now(&index).await?;
        standing.sort_by_key(|l| (l.len, l.id));
        let sizes: Vec<u64> = standing.iter().map(|l| l.len).collect();
        let at_once = options.exclusive && self.grace_ns == 0;
        let merged =
            match stale * 100 >= all * STALE && stale > 0 || at_once && (stale > 0 || sizes.len() > 1) {
                true => sizes.len(),
                false => plan::tier(&sizes),
            };
        let mut due: Vec<ObjectId> = replaced
            .iter()
            .filter(|(_, since)| self.age_ns(*since) >= self.grace_ns)
            .map(|(id, _)| *id)
            .collect();
        if merged > 0 {
            let successor = repository.merge_states(&standing[..merged], &gone, run.id).await?;
            tracing::debug!(state = %successor.short(), merged, "states are merged");
            report.merged_states = merged as u64;
            if at_once {
                due.extend(standing[..merged].iter().map(|l| l.id));
            }
        }
        let names = due.into_iter().map(|id| ObjectName::new(Area::States, id)).collect();
        report.deleted_states = delete(repository, names, cancel).await?;
        Ok(())
    }

    /// Deletes removals and notes that are about nothing that is there, twice a grace period after they were written: so
    /// long a listing may lag.
    async fn delete_notes(&self, repository: &Repository, cancel: &Cancel) -> Result<u64> {
        let is_old = |listed_ns: i64| self.age_ns(listed_ns) >= self.grace_ns.saturating_mul(2);
        let states: HashSet<ObjectId> =
            repository.store().list(Area::States).await?.into_iter().map(|l| l.id).collect();
        let snapshots: HashSet<ObjectId> = self
            .catalog
            .snapshots
            .iter()
            .map(|s| s.id)
            .chain(self.deleted.iter().map(|(id, _)| *id))
            .collect();
        let removals: HashSet<ObjectId> = self.catalog.removals.all().iter().map(|(id, ..)| *id).collect();
        let is_there = |kind: RemovalKind, id: &ObjectId| match kind {
            RemovalKind::Tombstone => snapshots.contains(id),
            RemovalKind::Undelete => removals.contains(id),
            RemovalKind::Condemned | RemovalKind::Gone => {
                self.there.contains_key(id) || self.weights.contains_key(id)
            }
            RemovalKind::Replaced => states.contains(id),
        };
        let all = &self.catalog.removals;
        let useless = all.all().iter().filter(|(id, listed_ns, removal)| {
            // A tombstone that was taken back goes before what took it back.
            let is_void = removal.kind == RemovalKind::Tombstone && all.is_undeleted(id);
            is_old(*listed_ns) && (is_void || !removal.targets.iter().any(|id| is_there(removal.kind, id)))
        });
        let mut names: Vec<ObjectName> =
            useless.map(|(id, ..)| ObjectName::new(Area::Removals, *id)).collect();
        let notes = self
            .catalog
            .notes
            .iter()
            .filter(|(_, listed_ns, of)| is_old(*listed_ns) && !snapshots.contains(of));
        names.extend(notes.map(|(id, ..)| ObjectName::new(Area::Notes, *id)));
        delete(repository, names, cancel).await
    }
}

/// Deletes objects; gives their number.
async fn delete(repository: &Repository, names: Vec<ObjectName>, cancel: &Cancel) -> Result<u64> {
    let count = names.len() as u64;
    stream::iter(names.into_iter().map(Ok))
        .try_for_each_concurrent(PARALLEL, |name| async move {
            cancel.check()?;
            repository.store().delete(name).await.map_err(Error::from)
        })
        .await?;
    Ok(count)
}

#[cfg(test)]
mod tests;
