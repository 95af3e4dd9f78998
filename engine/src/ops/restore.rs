//! Restoring: a subtree of a snapshot to a destination.
//!
//! The tree is walked in windows (`windows`). For each, directories and special files are made, and it is planned in
//! which order the files' blobs are read: that in which they are stored, each frame once. Meanwhile the window before
//! is filled (`fill`): blobs are written wherever they belong; then links are made, and directories that are complete
//! get their attributes.

mod fill;
mod links;
mod windows;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::blocking::blocking;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::exporter::{ExportError, Exporter, Made};
use crate::monitor::{Event, Monitor};
use crate::repository::Repository;
use crate::repository::recent::RecentFrames;
use crate::snapshot::Snapshot;
use crate::trail::Trail;
use crate::tree::{Contents, Detail, Entry};
use crate::vfs::Vfs;
use fill::{Among, Draft};
use links::{Fate, FirstNames};
use windows::{Finished, Gatherer, Link, Window};

/// What a restore did.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct RestoreReport {
    /// Regular files made.
    pub files: u64,
    /// Directories made.
    pub directories: u64,
    /// Symlinks, FIFOs, sockets, devices.
    pub others: u64,
    /// Further names of files.
    pub links: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Entries left as they were found.
    pub kept: u64,
    /// Entries that failed, or that miss some attribute. The monitor was told of each.
    pub errors: u64,
    /// Those of them that failed since stored data is damaged or missing.
    pub damaged: u64,
}

/// Restores the entry at an absolute path of a snapshot: a directory's contents and attributes become those of the
/// destination; anything else is made in it under its own name.
///
/// # Errors
/// Whatever ends the restore: the store, a full destination, an interruption. What fails for one entry is in the
/// report.
pub async fn restore(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    path: &[u8],
    target: Arc<dyn Exporter>,
    monitor: Arc<dyn Monitor>,
    cancel: Cancel,
) -> Result<RestoreReport> {
    repository.index().await?;
    let vfs = Vfs::new(repository.clone(), Arc::new(RecentFrames::new(repository.clone())));
    let entry = vfs.resolve(snapshot, path).await?;
    let totals = entry.directory().map_or((1, entry.meta.size), |(_, s)| (s.entries(), s.bytes));
    monitor.event(Event::Total { entries: totals.0, bytes: totals.1 });
    let start = if entry.directory().is_some() { Vec::new() } else { entry.name.clone() };
    let restore = Arc::new(Restore {
        repository: repository.clone(),
        vfs,
        runtime: tokio::runtime::Handle::current(),
        target,
        monitor,
        cancel,
        counts: Counts::default(),
        names: FirstNames::default(),
        failing: AtomicBool::new(false),
    });
    // One window is gathered or waits while another is filled.
    let (gathered, mut windows) = mpsc::channel(1);
    let gatherer = Gatherer::new(restore.clone(), entry, start);
    let gathering = tokio::task::spawn_blocking(move || gatherer.run(&gathered));
    let mut filled = Ok(());
    while let Some(window) = windows.recv().await {
        filled = restore.complete(window).await;
        if filled.is_err() {
            restore.failing.store(true, Ordering::Relaxed);
            break;
        }
    }
    drop(windows);
    let gathered = gathering.await.unwrap_or(Err(Error::Bug("a worker ended early")));
    filled.and(gathered)?;
    let working = restore.clone();
    blocking(move || working.target.finish().map_err(|e| working.fatal(e))).await?;
    Ok(restore.counts.report())
}

#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    directories: AtomicU64,
    others: AtomicU64,
    links: AtomicU64,
    bytes: AtomicU64,
    kept: AtomicU64,
    errors: AtomicU64,
    damaged: AtomicU64,
}

impl Counts {
    fn report(&self) -> RestoreReport {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        RestoreReport {
            files: get(&self.files),
            directories: get(&self.directories),
            others: get(&self.others),
            links: get(&self.links),
            bytes: get(&self.bytes),
            kept: get(&self.kept),
            errors: get(&self.errors),
            damaged: get(&self.damaged),
        }
    }
}

fn add(n: &AtomicU64, by: u64) {
    n.fetch_add(by, Ordering::Relaxed);
}

struct Restore {
    repository: Arc<Repository>,
    vfs: Vfs,
    runtime: tokio::runtime::Handle,
    target: Arc<dyn Exporter>,
    monitor: Arc<dyn Monitor>,
    cancel: Cancel,
    counts: Counts,
    names: FirstNames,
    /// Something has ended the restore.
    failing: AtomicBool,
}

impl Restore {
    fn failed(&self, path: &[u8], reason: &str) {
        add(&self.counts.errors, 1);
        self.monitor.event(Event::Failed { path, reason });
    }

    /// What an entry needs is damaged or missing in the store.
    fn damaged(&self, path: &[u8], reason: &str) {
        add(&self.counts.damaged, 1);
        self.failed(path, reason);
    }

    fn fatal(&self, e: ExportError) -> Error {
        Error::Export { what: self.target.location(), source: e }
    }

    /// Reports the failure of one entry, or ends the restore.
    fn entry_failed(&self, path: &[u8], e: ExportError) -> Result<()> {
        if e.is_fatal() {
            return Err(self.fatal(e));
        }
        self.failed(path, &e.to_string());
        Ok(())
    }

    fn incomplete(&self, path: &[u8], missing: &[String]) {
        if !missing.is_empty() {
            self.failed(path, &missing.join("; "));
        }
    }

    /// What was not right about it when it was backed up: who restores it shall know.
    fn recorded(&self, path: &[u8], error: Option<&str>) {
        if let Some(error) = error {
            self.failed(path, &format!("was not backed up whole: {error}"));
        }
    }

    /// Fills a window, and does what had to wait for that.
    async fn complete(self: &Arc<Self>, window: Window) -> Result<()> {
        let Window { plan, links, finished } = window;
        self.fill(plan).await?;
        if self.failing.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !links.is_empty() {
            let restore = self.clone();
            let mut alone = blocking(move || restore.link(links)).await?;
            let mut long = None;
            while long.is_some() || !alone.is_empty() {
                let restore = self.clone();
                let next = blocking(move || {
                    let mut draft = Draft::default();
                    while draft.has_room() {
                        long = if let Some(long) = long.take() {
                            restore.draw_up_long(long, &mut draft)?
                        } else if let Some((directory, entry, among)) = alone.pop_front() {
                            restore.draw_up(directory, entry, among, &mut draft)?
                        } else {
                            break;
                        };
                    }
                    Ok((restore.plan(draft)?, alone, long))
                });
                let plan;
                (plan, alone, long) = next.await?;
                self.fill(plan).await?;
            }
        }
        if !finished.is_empty() {
            let restore = self.clone();
            blocking(move || restore.finish_directories(finished)).await?;
        }
        Ok(())
    }

    /// Makes further names. Returns as files of their own those that cannot be linked.
    fn link(&self, links: Vec<Link>) -> Result<VecDeque<(Trail, Entry, Among)>> {
        let mut alone = VecDeque::new();
        for Link { directory, entry, group } in links {
            self.cancel.check()?;
            let path = directory.path_of(b"", &entry.name);
            let has_contents = matches!(entry.detail, Detail::Regular(Contents { missing: false, .. }));
            match self.names.path(group) {
                Some((first, Fate::Made)) => match self.target.make_link(&path, &first) {
                    Ok(Made::Yes) => {
                        add(&self.counts.links, 1);
                        self.monitor.event(Event::Entry { path: &path, bytes: 0 });
                    }
                    Ok(Made::Kept) => {
                        add(&self.counts.kept, 1);
                        self.join(&path, &first)?;
                    }
                    Err(e) if e.is_fatal() => return Err(self.fatal(e)),
                    Err(e) if has_contents => {
                        self.failed(&path, &format!("it becomes a file of its own: {e}"));
                        alone.push_back((directory, entry, Among::None));
                    }
                    Err(e) => self.failed(&path, &e.to_string()),
                },
                Some((first, Fate::Kept)) if has_contents => {
                    alone.push_back((directory, entry, Among::Beside(first.into())));
                }
                _ if has_contents => alone.push_back((directory, entry, Among::None)),
                Some((first, Fate::Kept)) => {
                    if self.special(&path, &entry, None)? == Made::Yes {
                        self.join(&path, &first)?;
                    }
                }
                _ => {
                    self.special(&path, &entry, None)?;
                }
            }
        }
        Ok(alone)
    }

    /// Makes one name of a file out of two files, if they are the same.
    fn join(&self, path: &[u8], existing: &[u8]) -> Result<()> {
        match self.target.join(path, existing) {
            Ok(()) => Ok(()),
            Err(e) if e.is_fatal() => Err(self.fatal(e)),
            Err(e) => {
                self.failed(path, &format!("it stays a file of its own: {e}"));
                Ok(())
            }
        }
    }

    fn finish_directories(&self, finished: Vec<Finished>) -> Result<()> {
        for Finished { trail, entry } in finished {
            let path = trail.path(b"");
            match self.target.finish_directory(&path, (&entry).into()) {
                Ok(missing) => self.incomplete(&path, &missing),
                Err(e) => self.entry_failed(&path, e)?,
            }
        }
        Ok(())
    }
}
