//! Restoring: a subtree of a snapshot to a destination.
//!
//! The tree is walked in windows. In each, directories and special files are made; then the files' blobs are read in
//! the order in which they are stored, each frame once, and written wherever they belong; then links are made and
//! directories that are complete get their attributes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures::stream::{self, StreamExt};

use super::Cancel;
use super::gather::{self, Verified, Wanted};
use crate::error::{Error, Result};
use crate::exporter::{Attributes, ExportError, ExportFile, Exporter, Made};
use crate::id::BlobId;
use crate::monitor::{Event, Monitor};
use crate::repository::recent::RecentFrames;
use crate::repository::{Repository, blocking, report};
use crate::snapshot::Snapshot;
use crate::tree::{Contents, Detail, Entry};
use crate::vfs::{Piece, Vfs, is_damage};
use crate::walk::{Step, Walk};

/// A window ends when it has so many files, or pieces of files.
const WINDOW_FILES: usize = 32_768;
const WINDOW_PIECES: usize = 65_536;

/// What a restore did.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct RestoreReport {
    /// Regular files made.
    pub files: u64,
    /// Directories made.
    pub directories: u64,
    /// Symlinks, FIFOs, sockets, devices, further names of files.
    pub others: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Entries left as they were found.
    pub kept: u64,
    /// Entries that failed, or that miss some attribute. The monitor was told of each.
    pub errors: u64,
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
    let job = Arc::new(Job {
        repository: repository.clone(),
        target,
        monitor,
        cancel,
        counts: Counts::default(),
        links: Mutex::default(),
        failing: AtomicBool::new(false),
    });
    let mut walk = Walk::new(vfs.clone(), entry, start);
    let mut made = Vec::new();
    loop {
        let mut window = job.gather(&mut walk, &mut made).await?;
        job.fill(&vfs, std::mem::take(&mut window.files)).await?;
        let (working, links) = (job.clone(), std::mem::take(&mut window.links));
        let unlinked = blocking(move || working.link(links)).await?;
        job.fill(&vfs, unlinked).await?;
        let (working, finished) = (job.clone(), std::mem::take(&mut window.finished));
        blocking(move || working.finish_directories(finished)).await?;
        if window.last {
            break;
        }
    }
    let working = job.clone();
    blocking(move || working.target.finish().map_err(|e| working.fatal(e))).await?;
    Ok(job.counts.report())
}

#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    directories: AtomicU64,
    others: AtomicU64,
    bytes: AtomicU64,
    kept: AtomicU64,
    errors: AtomicU64,
}

impl Counts {
    fn report(&self) -> RestoreReport {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        RestoreReport {
            files: get(&self.files),
            directories: get(&self.directories),
            others: get(&self.others),
            bytes: get(&self.bytes),
            kept: get(&self.kept),
            errors: get(&self.errors),
        }
    }
}

fn add(n: &AtomicU64, by: u64) {
    n.fetch_add(by, Ordering::Relaxed);
}

#[derive(Default)]
struct Window {
    files: Vec<Arc<File>>,
    /// Further names: path, entry, and the first name's path.
    links: Vec<(Vec<u8>, Entry, Vec<u8>)>,
    /// Directories with all in them, deepest first.
    finished: Vec<(Vec<u8>, Entry)>,
    last: bool,
}

/// The first name of a file that has several.
struct First {
    path: Vec<u8>,
    entry: Entry,
    made: Arc<AtomicBool>,
}

struct Job {
    repository: Arc<Repository>,
    target: Arc<dyn Exporter>,
    monitor: Arc<dyn Monitor>,
    cancel: Cancel,
    counts: Counts,
    links: Mutex<HashMap<u64, First>>,
    /// Something has ended the restore.
    failing: AtomicBool,
}

/// A regular file being restored.
struct File {
    path: Vec<u8>,
    entry: Entry,
    contents: Contents,
    /// Pieces still to be written.
    pending: AtomicUsize,
    state: RwLock<FileState>,
    made: Arc<AtomicBool>,
}

enum FileState {
    New,
    Open(Box<dyn ExportFile>),
    /// Kept, failed or finished: nothing more is written.
    Closed,
}

impl Job {
    fn failed(&self, path: &[u8], reason: &str) {
        add(&self.counts.errors, 1);
        self.monitor.event(Event::Failed { path, reason });
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

    /// Walks until a window is full, making all that has no contents. `made` tells of each directory entered and not
    /// left whether it was made by us.
    async fn gather(self: &Arc<Self>, walk: &mut Walk, made: &mut Vec<bool>) -> Result<Window> {
        let mut window = Window::default();
        let mut pieces = 0;
        while window.files.len() + window.links.len() < WINDOW_FILES && pieces < WINDOW_PIECES {
            self.cancel.check()?;
            let Some(step) = walk.next().await else {
                window.last = true;
                break;
            };
            let path = walk.path().to_vec();
            match step {
                Step::Unreadable(e) if is_damage(&e) => self.failed(&path, &report(&e)),
                Step::Unreadable(e) => return Err(e),
                Step::Enter(entry) => {
                    let job = self.clone();
                    let making =
                        blocking(move || Ok(job.target.make_directory(&path).map_err(|e| (path, e))));
                    let done = making.await?;
                    made.push(matches!(done, Ok(Made::Yes)));
                    match done {
                        Ok(Made::Yes) => add(&self.counts.directories, 1),
                        Ok(Made::Kept) => {}
                        Err((path, e)) => {
                            self.entry_failed(&path, e)?;
                            walk.skip();
                        }
                    }
                    if let Some(error) = &entry.error {
                        self.failed(walk.path(), &format!("was not backed up whole: {error}"));
                    }
                }
                Step::Leave(entry) => {
                    if made.pop() == Some(true) {
                        window.finished.push((path, entry));
                    }
                }
                Step::Entry(entry) => {
                    if let Some(first) = self.first_name(&path, &entry) {
                        window.links.push((path, entry, first));
                        continue;
                    }
                    match &entry.detail {
                        Detail::Missing => {
                            let why = entry.error.as_deref().unwrap_or("unknown");
                            self.failed(&path, &format!("was not backed up: {why}"));
                        }
                        Detail::Regular(c) if c.missing => {
                            let why = entry.error.as_deref().unwrap_or("unknown");
                            self.failed(&path, &format!("its contents were not backed up: {why}"));
                        }
                        Detail::Regular(c) => {
                            pieces += c.items.len() << (8 * c.level.min(2));
                            window.files.push(self.file(path, entry));
                        }
                        _ => self.special(path, entry).await?,
                    }
                }
            }
        }
        Ok(window)
    }

    fn file(&self, path: Vec<u8>, entry: Entry) -> Arc<File> {
        let contents = match &entry.detail {
            Detail::Regular(c) => c.clone(),
            _ => Contents::default(),
        };
        let made = self.made_of(&path, &entry);
        Arc::new(File {
            path,
            entry,
            contents,
            pending: AtomicUsize::new(0),
            state: RwLock::new(FileState::New),
            made,
        })
    }

    /// The flag that tells whether an entry was made: shared with those that would link to it.
    fn made_of(&self, path: &[u8], entry: &Entry) -> Arc<AtomicBool> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        entry
            .links
            .and_then(|l| links.get(&l.group))
            .filter(|first| first.path == path)
            .map(|first| first.made.clone())
            .unwrap_or_default()
    }

    /// The path to link to, if an entry is a further name of one met before. Otherwise it is the first one.
    fn first_name(&self, path: &[u8], entry: &Entry) -> Option<Vec<u8>> {
        let group = entry.links?.group;
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        match links.get(&group) {
            Some(first) if first.entry.is_same_file(entry) => Some(first.path.clone()),
            Some(_) => None,
            None => {
                let first = First { path: path.to_vec(), entry: entry.clone(), made: Arc::default() };
                links.insert(group, first);
                None
            }
        }
    }

    async fn special(self: &Arc<Self>, path: Vec<u8>, entry: Entry) -> Result<()> {
        let job = self.clone();
        blocking(move || {
            let target = match &entry.detail {
                Detail::Symlink(target) => Some(target.as_slice()),
                _ => None,
            };
            let attributes = Attributes { meta: &entry.meta, xattrs: &entry.xattrs };
            match job.target.make_special(&path, target, attributes) {
                Ok((Made::Yes, missing)) => {
                    job.made_of(&path, &entry).store(true, Ordering::Relaxed);
                    add(&job.counts.others, 1);
                    job.monitor.event(Event::Entry { path: &path, bytes: 0 });
                    job.incomplete(&path, &missing);
                }
                Ok((Made::Kept, _)) => add(&job.counts.kept, 1),
                Err(e) => job.entry_failed(&path, e)?,
            }
            Ok(())
        })
        .await
    }

    /// Writes the contents of files.
    async fn fill(self: &Arc<Self>, vfs: &Vfs, files: Vec<Arc<File>>) -> Result<()> {
        let mut uses: HashMap<BlobId, Vec<(Arc<File>, u64)>> = HashMap::new();
        let mut whole = Vec::new();
        for file in files {
            let pieces = match vfs.pieces(&file.contents, 0..file.entry.meta.size).await {
                Ok(p) => p,
                Err(e) if is_damage(&e) => {
                    self.failed(&file.path, &report(&e));
                    continue;
                }
                Err(e) => return Err(e),
            };
            let blobs = pieces.iter().filter_map(|Piece { start, extent }| extent.id.map(|id| (id, *start)));
            file.pending.store(blobs.clone().count(), Ordering::Relaxed);
            if file.pending.load(Ordering::Relaxed) == 0 {
                whole.push(file.clone());
            }
            for (id, start) in blobs {
                uses.entry(id).or_default().push((file.clone(), start));
            }
        }
        let job = self.clone();
        blocking(move || whole.iter().try_for_each(|f| job.finish_file(f))).await?;
        let mut wanted = Vec::with_capacity(uses.len());
        let mut retried = false;
        for (id, uses) in uses {
            let mut located = self.repository.locate(&id);
            if located.is_err() && !retried {
                // States may have been merged since the index was read.
                retried = true;
                self.repository.refresh_index().await?;
                located = self.repository.locate(&id);
            }
            match located {
                Ok(located) => wanted.push(Wanted { id, located, uses }),
                Err(e) => self.give_up(&uses, &report(&e)),
            }
        }
        wanted.sort_unstable_by_key(|w| (w.located.frames.first().map(|f| f.key()), w.located.offset));
        let parallel = std::thread::available_parallelism().map_or(2, usize::from) + 2;
        let mut batches = stream::iter(gather::batches(wanted.into_iter().map(Ok)))
            .map(|batch| async {
                if self.failing.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let job = self.clone();
                let source = self.repository.as_ref();
                gather::read(&self.repository, source, batch?, move |w, v| job.write(&w.uses, v)).await
            })
            .buffer_unordered(parallel);
        // After a failure, what is under way is still waited for: its files are closed, and leave nothing behind.
        let mut failure = None;
        while let Some(done) = batches.next().await {
            if let Err(e) = done {
                self.failing.store(true, Ordering::Relaxed);
                failure.get_or_insert(e);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Writes one blob wherever it belongs.
    fn write(&self, uses: &[(Arc<File>, u64)], verified: Verified) -> Result<()> {
        let parts = match verified {
            Ok(parts) => parts,
            Err(e) if is_damage(&e) => {
                self.give_up(uses, &report(&e));
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        for (file, start) in uses {
            self.cancel.check()?;
            let mut at = *start;
            for part in &parts {
                self.write_part(file, part, at)?;
                at += part.len() as u64;
            }
            self.monitor.event(Event::Progress { bytes: at - start });
            if file.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.finish_file(file)?;
            }
        }
        Ok(())
    }

    fn write_part(&self, file: &File, bytes: &[u8], at: u64) -> Result<()> {
        let mut state = file.state.read().unwrap_or_else(PoisonError::into_inner);
        if let FileState::New = *state {
            drop(state);
            self.open(file)?;
            state = file.state.read().unwrap_or_else(PoisonError::into_inner);
        }
        let failure = match &*state {
            FileState::Open(f) => f.write_at(bytes, at).err(),
            _ => None,
        };
        drop(state);
        match failure {
            None => Ok(()),
            Some(e) => {
                self.close(file);
                self.entry_failed(&file.path, e)
            }
        }
    }

    fn open(&self, file: &File) -> Result<()> {
        let mut state = file.state.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*state, FileState::New) {
            return Ok(());
        }
        *state = FileState::Closed;
        match self.target.create_file(&file.path, &file.entry.meta) {
            Ok(Some(f)) => *state = FileState::Open(f),
            Ok(None) => add(&self.counts.kept, 1),
            Err(e) => self.entry_failed(&file.path, e)?,
        }
        Ok(())
    }

    fn close(&self, file: &File) {
        *file.state.write().unwrap_or_else(PoisonError::into_inner) = FileState::Closed;
    }

    /// A blob is damaged: the files that need it are not restored.
    fn give_up(&self, uses: &[(Arc<File>, u64)], reason: &str) {
        for (file, _) in uses {
            let mut state = file.state.write().unwrap_or_else(PoisonError::into_inner);
            if !matches!(*state, FileState::Closed) {
                self.failed(&file.path, reason);
            }
            *state = FileState::Closed;
        }
    }

    fn finish_file(&self, file: &File) -> Result<()> {
        self.open(file)?;
        let state = std::mem::replace(
            &mut *file.state.write().unwrap_or_else(PoisonError::into_inner),
            FileState::Closed,
        );
        let FileState::Open(f) = state else { return Ok(()) };
        let attributes = Attributes { meta: &file.entry.meta, xattrs: &file.entry.xattrs };
        match f.finish(attributes) {
            Ok(missing) => {
                file.made.store(true, Ordering::Release);
                add(&self.counts.files, 1);
                add(&self.counts.bytes, file.entry.meta.size);
                self.monitor.event(Event::Entry { path: &file.path, bytes: file.entry.meta.size });
                self.incomplete(&file.path, &missing);
                Ok(())
            }
            Err(e) => self.entry_failed(&file.path, e),
        }
    }

    /// Makes further names. Returns as files of their own those that cannot be linked.
    fn link(&self, links: Vec<(Vec<u8>, Entry, Vec<u8>)>) -> Result<Vec<Arc<File>>> {
        let mut alone = Vec::new();
        for (path, entry, first) in links {
            self.cancel.check()?;
            let made = self.made_of(&first, &entry).load(Ordering::Acquire);
            match if made { self.target.make_link(&path, &first) } else { Ok(Made::Kept) } {
                Ok(Made::Yes) => {
                    add(&self.counts.others, 1);
                    self.monitor.event(Event::Entry { path: &path, bytes: 0 });
                }
                Ok(Made::Kept) if made => add(&self.counts.kept, 1),
                Err(e) if e.is_fatal() => return Err(self.fatal(e)),
                other => match &entry.detail {
                    Detail::Regular(c) if !c.missing => {
                        let entry = Entry { links: None, ..entry };
                        alone.push(self.file(path, entry));
                    }
                    _ => {
                        let reason = other
                            .err()
                            .map_or_else(|| "its first name was not restored".into(), |e| e.to_string());
                        self.failed(&path, &reason);
                    }
                },
            }
        }
        Ok(alone)
    }

    fn finish_directories(&self, finished: Vec<(Vec<u8>, Entry)>) -> Result<()> {
        for (path, entry) in finished {
            let attributes = Attributes { meta: &entry.meta, xattrs: &entry.xattrs };
            match self.target.finish_directory(&path, attributes) {
                Ok(missing) => self.incomplete(&path, &missing),
                Err(e) => self.entry_failed(&path, e)?,
            }
        }
        Ok(())
    }
}
