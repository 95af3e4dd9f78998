//! Backing up: a source becomes a snapshot.
//!
//! ```text
//! scan ──► read ──► identify, frame, seal ──► packers ──► store          (blobs of files)
//!   └────────────────────► assemble: a directory is done when all in it is ──► node blobs ──► snapshot
//! ```
//!
//! `scan` walks in order with listings read ahead; `read` has many threads, since small files are waited for, not worked
//! on; `identify` has one for each processor. All queues are bounded: memory does not grow with the source. What has
//! not changed since the previous backup (`previous`) is neither opened nor encoded again.

mod ahead;
mod assemble;
mod change;
mod compare;
mod dry_run;
mod exclude;
mod order;
mod parent;
mod previous;
mod read;
mod scan;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::reach::Reach;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::importer::Importer;
use crate::meta::Kind;
use crate::monitor::{Event, Monitor};
use crate::repository::writer::Run;
use crate::repository::{Repository, now_ns};
use crate::snapshot::{Description, Snapshot};
use assemble::Assembly;
use exclude::{Excludes, Why};
use order::Order;
use previous::Previous;

pub use change::{ChangeBy, Ctime};
pub use exclude::Pattern;
pub use parent::Parent;

/// What to write into the snapshot, and how to go about it.
#[derive(Clone, Debug, Default)]
pub struct BackupOptions {
    /// What the snapshot says of itself.
    pub description: Description,
    /// What is left out; later patterns overrule earlier ones.
    pub ignore: Vec<Pattern>,
    /// The backup that this one is compared with.
    pub parent: Parent,
    /// What tells that a file has changed since then.
    pub change_by: ChangeBy,
    /// List what would be backed up, through the monitor, and store nothing.
    pub dry_run: bool,
}

/// What a backup did.
#[derive(Debug)]
pub struct BackupReport {
    /// The snapshot; in a dry run it has no id.
    pub snapshot: Snapshot,
    /// Paths that could not be backed up whole. The monitor was told of each.
    pub errors: u64,
    /// Files read, as against taken over unread.
    pub files_read: u64,
    /// Bytes put into the store, the snapshot itself among them.
    pub written_bytes: u64,
    /// Patterns that fitted nothing, each with the likely cause if one is known.
    pub idle_patterns: Vec<(String, Option<&'static str>)>,
}

/// Backs up a source.
///
/// # Errors
/// Whatever ends the run: the store, the source as a whole, an interruption. What cannot be read is no error of the
/// run: it is in the report and in the snapshot.
pub async fn backup(
    repository: &Arc<Repository>,
    source: Arc<dyn Importer>,
    options: BackupOptions,
    monitor: Arc<dyn Monitor>,
    cancel: Cancel,
) -> Result<BackupReport> {
    let excludes = Arc::new(Excludes::new(&options.ignore, source.roots(), repository.store().local_path())?);
    let mut snapshot = Snapshot::begin(options.description.clone());
    if snapshot.time_ns == 0 {
        snapshot.time_ns = now_ns();
    }
    snapshot.source = source.kind().into();
    snapshot.origin = source.origin().into();
    snapshot.roots = wanted_roots(&source, &excludes).await?;
    snapshot.excludes = options.ignore.iter().map(|p| p.text.clone()).collect();
    if options.dry_run {
        let (roots, rules) = (snapshot.roots.clone(), excludes.clone());
        let list = move || dry_run::list(&*source, &roots, &rules, &*monitor, &cancel);
        let errors = crate::blocking::blocking(list).await?;
        let idle_patterns = excludes.without_effect();
        return Ok(BackupReport { snapshot, errors, files_read: 0, written_bytes: 0, idle_patterns });
    }
    let begun = Instant::now();
    let run = Run::begin(repository, &snapshot.host, "backup", cancel.clone()).await?;
    // On the heap: whoever waits for a backup need not have room for all its stages.
    let done = Box::pin(async {
        let previous = Previous::find(&run, &snapshot, options.parent).await?;
        if let Some(totals) = previous.totals() {
            monitor.event(Event::Total { entries: totals.entries(), bytes: totals.bytes });
        }
        let assembly =
            Assembly::new(run.clone(), source, monitor.clone(), cancel.clone(), previous, options.change_by)?;
        let assembly = Arc::new(assembly);
        let (working, rules, roots) = (assembly.clone(), excludes.clone(), snapshot.roots.clone());
        crate::blocking::blocking(move || work(&working, &roots, &rules)).await?;
        snapshot.root = assembly.take_root()?;
        snapshot.owners = Some(assembly.owners()?);
        assembly.flush()?;
        snapshot.read_bytes = assembly.read_bytes.load(Ordering::Relaxed);
        snapshot.duration_ns = begun.elapsed().as_nanos() as u64;
        let snapshot = commit(&run, snapshot, &cancel).await?;
        if let Err(e) = assembly.keep_for_next(snapshot.id).await {
            tracing::warn!(%e, "the file cache was not updated; the next backup is slower");
        }
        let errors = assembly.errors.load(Ordering::Relaxed);
        let files_read = assembly.files_read.load(Ordering::Relaxed);
        let (written_bytes, idle_patterns) = (run.added_bytes(), excludes.without_effect());
        Ok(BackupReport { snapshot, errors, files_read, written_bytes, idle_patterns })
    });
    let done = done.await;
    if done.is_err() {
        run.abandon().await;
    }
    done
}

/// The places of a source but those that a pattern fits: it was asked for both, and who names many by one word of the shell
/// means the pattern.
async fn wanted_roots(source: &Arc<dyn Importer>, excludes: &Arc<Excludes>) -> Result<Vec<Vec<u8>>> {
    let (source, excludes) = (source.clone(), excludes.clone());
    crate::blocking::blocking(move || {
        let (mut wanted, mut by) = (Vec::new(), None);
        for root in source.roots() {
            let is_directory = source.entry(root).is_ok_and(|e| e.meta.kind == Kind::Directory);
            match excludes.why(root, is_directory) {
                Some(Why::Pattern(pattern)) => by = Some(pattern),
                Some(Why::Store) | None => wanted.push(root.clone()),
            }
        }
        match by {
            Some(pattern) if wanted.is_empty() => Err(Error::Usage(format!(
                "there is nothing to back up: the pattern {pattern:?} leaves out what was named"
            ))),
            _ => Ok(wanted),
        }
    })
    .await
}

/// How often a run that is late begins anew.
const ATTEMPTS: usize = 3;

/// Commits a snapshot. A run that took so long that what it relied on may have been removed looks at all of it again.
async fn commit(run: &Arc<Run>, snapshot: Snapshot, cancel: &Cancel) -> Result<Snapshot> {
    for _ in 0..ATTEMPTS {
        if let Some(committed) = run.commit(&snapshot).await? {
            return Ok(committed);
        }
        tracing::info!(
            "the backup took longer than half the grace period; all that it needs is looked up again"
        );
        run.begin_anew().await?;
        let reach = Reach::now(run.repository(), cancel).await?;
        // That it can be read now is not enough: what is condemned will be deleted.
        let missing = Box::pin(reach.unsound(&snapshot)).await?;
        if missing > 0 {
            return Err(Error::Late { missing });
        }
    }
    Err(Error::Late { missing: 0 })
}

/// Runs the stages to their end.
fn work(assembly: &Arc<Assembly>, roots: &[Vec<u8>], excludes: &Excludes) -> Result<()> {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let (units, unit_queue) = crossbeam_channel::bounded(2 * read::READERS);
    let (batches, batch_queue) = crossbeam_channel::bounded(processors);
    let order = Order::new(batches.clone(), assembly.run.repository().config().frame_bytes as usize);
    let buffers = read::Buffers::new(read::READERS);
    let large = read::Turns::new(processors.clamp(2, 4));
    let ok = std::thread::scope(|s| {
        let mut workers = Vec::new();
        for _ in 0..processors {
            let queue = batch_queue.clone();
            workers.push(s.spawn(|| read::identify(assembly, queue, &buffers)));
        }
        drop(batch_queue);
        let mut readers = Vec::new();
        for _ in 0..read::READERS {
            let (queue, large_files) = (unit_queue.clone(), batches.clone());
            readers.push(s.spawn(|| read::read(assembly, queue, &order, large_files, &buffers, &large)));
        }
        drop((unit_queue, batches));
        if let Err(e) = scan::scan(assembly, roots, excludes, units) {
            assembly.run.fail(e);
        }
        let read = readers.into_iter().all(|t| t.join().is_ok());
        order.finish();
        workers.into_iter().all(|t| t.join().is_ok()) && read
    });
    assembly.run.check()?;
    if ok { Ok(()) } else { Err(Error::Bug("a reader or worker ended early")) }
}

#[cfg(test)]
mod tests;
