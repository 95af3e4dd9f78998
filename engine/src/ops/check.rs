//! Checking: every blob that snapshots need is there, and, unless only the index is asked, opens and matches its id.
//!
//! First the trees are walked, each subtree once, and the data blobs that they need marked in the index; then the
//! marked blobs are read in the order in which they are stored. Only if something is wrong are the trees walked again,
//! to say which paths it concerns.

mod tally;

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;

use super::gather::{self, News, Wanted};
use crate::cancel::Cancel;
use crate::crypto::Class;
use crate::error::{Error, Result, is_damage, report};
use crate::id::BlobId;
use crate::monitor::{Event, Monitor};
use crate::repository::catalog::Catalog;
use crate::repository::reader::Origin;
use crate::repository::recent::RecentFrames;
use crate::repository::{Index, Marks, Repository, Row, StoreFrames};
use crate::snapshot::Snapshot;
use crate::storage::{Area, ObjectName};
use crate::tree::{Contents, Detail, Entry};
use crate::vfs::{Item, Vfs};
use crate::walk::{Step, Walk};
use tally::{Found, Tally};

/// Bytes of problems that the report holds.
const MOST_KEPT: usize = 8 << 20;
/// Paths that are named: a store that was made to have more of them than can be counted has an end as well.
const MOST_NAMED: u64 = 100_000;

/// How deep to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Read the trees, and look every data blob up in the index.
    Fast,
    /// Read, open and verify every blob too.
    Full,
}

/// How far to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The given trees, and every object of the store that no tree leads to.
    Store,
    /// The given trees only, and what is needed for them.
    Trees,
}

/// What a check found.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct CheckReport {
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Those of them with damage.
    pub damaged_snapshots: u64,
    /// Entries walked, each subtree once.
    pub entries: u64,
    /// Blobs verified, or looked up.
    pub blobs: u64,
    /// Clear bytes verified.
    pub bytes: u64,
    /// How much damage was met, by paths and objects. The monitor was told of each.
    pub found: u64,
    /// The first of it, as much as fits into memory: path (or object) and reason.
    pub problems: Vec<(String, String)>,
}

/// Checks subtrees of snapshots: each is a snapshot and an absolute path in it (`/` for all).
/// Damage does not end it and is no error: it is in the report.
///
/// # Errors
/// A store that cannot be reached, an interruption, a path that does not exist.
pub async fn check(
    repository: &Arc<Repository>,
    what: &[(Arc<Snapshot>, Vec<u8>)],
    depth: Depth,
    scope: Scope,
    monitor: Arc<dyn Monitor>,
    cancel: Cancel,
) -> Result<CheckReport> {
    let index = repository.refresh_index().await?;
    let catalog = repository.catalog().await?;
    let source = Arc::new(StoreFrames(repository.clone()));
    let vfs = Vfs::new(repository.clone(), Arc::new(RecentFrames::new(source)));
    let mut check = Check {
        repository: repository.clone(),
        monitor,
        cancel,
        vfs,
        nodes: index.marks(),
        data: index.marks(),
        index,
        catalog,
        report: CheckReport { snapshots: what.len() as u64, ..CheckReport::default() },
        bad: HashMap::new(),
        bad_nodes: HashMap::new(),
        lists: HashMap::new(),
        found: Found::new(),
        is_wrong: false,
        kept: 0,
    };
    if scope == Scope::Store {
        check.objects(depth).await?;
    }
    let mut starts = Vec::new();
    for (snapshot, path) in what {
        match check.vfs.resolve(snapshot, path).await {
            Ok(entry) => starts.push((snapshot.clone(), path.clone(), entry)),
            Err(e) if is_damage(&e) => {
                check.report.damaged_snapshots += 1;
                check.problem(&named(snapshot, path), &report(&e));
            }
            Err(e) => return Err(e),
        }
    }
    let bytes = starts.iter().map(|(.., e)| e.directory().map_or(e.meta.size, |(_, s)| s.bytes)).max();
    check.monitor.event(Event::Total { entries: 0, bytes: bytes.unwrap_or(0) });
    for (snapshot, path, entry) in &starts {
        check.monitor.event(Event::Snapshot { id: snapshot.id });
        check.walk(entry.clone(), path.clone()).await?;
        if path == b"/"
            && let Err(e) = check.vfs.owners(snapshot).await
        {
            check.tree_failure(snapshot.owners.unwrap_or(BlobId([0; 32])), e)?;
        }
    }
    if depth == Depth::Full {
        check.read_all().await?;
    }
    if check.is_wrong || !(check.bad.is_empty() && check.bad_nodes.is_empty()) {
        for (snapshot, path, entry) in starts {
            let before = check.report.found;
            check.name_paths(&snapshot, entry, path).await?;
            if let Some(reason) = snapshot.owners.and_then(|id| check.bad_nodes.get(&id).cloned()) {
                check.problem(&named(&snapshot, b"(owner names)"), &reason);
            }
            check.report.damaged_snapshots += u64::from(check.report.found > before);
        }
    }
    Ok(check.report)
}

struct Check {
    repository: Arc<Repository>,
    monitor: Arc<dyn Monitor>,
    cancel: Cancel,
    vfs: Vfs,
    index: Arc<Index>,
    catalog: Arc<Catalog>,
    /// Metadata blobs that were walked.
    nodes: Marks,
    /// Data blobs that are needed.
    data: Marks,
    report: CheckReport,
    /// Data blobs that are missing or damaged, and why.
    bad: HashMap<BlobId, String>,
    /// Nodes, lists and tables that cannot be read, and why.
    bad_nodes: HashMap<BlobId, String>,
    /// Extent lists that were read, as ones that cover so much, and how much of each is in no hole.
    lists: HashMap<List, u64>,
    /// What was found in directories that were walked.
    found: Found,
    /// Some entry says what is not so.
    is_wrong: bool,
    /// Bytes of problems that the report would hold if it held all.
    kept: usize,
}

/// How much of a file is in no hole, where an entry says something else.
fn data_bytes_differ(found: u64) -> Error {
    let source =
        format!("it says how much of the file is no hole, and is wrong: that is {found} bytes").into();
    Error::DamagedBlob { what: "a directory".into(), place: "tree".into(), source }
}

fn named(snapshot: &Snapshot, path: &[u8]) -> Vec<u8> {
    [snapshot.id.short().as_bytes(), b":", path].concat()
}

impl Check {
    /// Looks at the objects themselves: those that could not be read, and in a full check every state and the two
    /// ends of every packfile, which no tree leads to.
    async fn objects(&mut self, depth: Depth) -> Result<()> {
        let repository = self.repository.clone();
        let mut problems: Vec<(String, String)> = Vec::new();
        let notices = repository.notices().iter();
        problems.extend(notices.map(|n| ("the store's keys".to_owned(), n.clone())));
        let faults = repository.store().faults().await?;
        problems.extend(faults.into_iter().map(|fault| (repository.store().location(), fault)));
        problems
            .extend(repository.unreadable_states().into_iter().map(|(id, e)| (format!("states/{id}"), e)));
        let broken = self.catalog.broken.iter();
        problems.extend(broken.map(|(id, e)| (ObjectName::new(Area::Snapshots, *id).to_string(), report(e))));
        problems.extend(self.catalog.unreadable.iter().map(|(name, e)| (name.to_string(), report(e))));
        if depth == Depth::Full {
            problems.extend(repository.damaged_small_objects().await?);
            problems.extend(repository.damaged_states().await?);
            problems.extend(repository.damaged_packfiles(&self.index).await?);
        }
        problems.sort();
        problems.dedup_by(|a, b| a.0 == b.0);
        self.report.snapshots += self.catalog.broken.len() as u64;
        self.report.damaged_snapshots += self.catalog.broken.len() as u64;
        for (object, reason) in problems {
            self.problem(object.as_bytes(), &reason);
        }
        Ok(())
    }

    fn problem(&mut self, path: &[u8], reason: &str) {
        self.monitor.event(Event::Failed { path, reason });
        self.report.found += 1;
        self.kept += path.len() + reason.len() + 2 * size_of::<String>();
        if self.kept <= MOST_KEPT {
            self.report.problems.push((String::from_utf8_lossy(path).into_owned(), reason.into()));
        }
    }

    fn tree_failure(&mut self, id: BlobId, e: Error) -> Result<()> {
        if !is_damage(&e) && !matches!(e, Error::Newer { .. }) {
            return Err(e);
        }
        self.bad_nodes.insert(id, report(&e));
        Ok(())
    }

    /// Whether a metadata blob was not met before.
    fn is_new(&mut self, id: &BlobId) -> Result<bool> {
        Ok(match self.index.row(id, &self.catalog.removals)? {
            Some(row) => self.nodes.mark(row),
            // Reading it will tell.
            None => !self.bad_nodes.contains_key(id),
        })
    }

    async fn walk(&mut self, entry: Entry, path: Vec<u8>) -> Result<()> {
        let mut walk = Walk::new(self.vfs.clone(), entry, path);
        let mut tally = Tally::default();
        while let Some(step) = walk.next().await {
            self.cancel.check()?;
            match step {
                Step::Enter(entry) => {
                    tally.enter(&entry);
                    if self.is_new(&tally.node().unwrap_or(BlobId([0; 32])))? {
                        self.count(walk.path());
                    } else {
                        walk.skip();
                        tally.pass_over();
                    }
                }
                Step::Leave(_) => self.is_wrong |= tally.leave(&mut self.found).is_some(),
                Step::Unreadable(e) => {
                    tally.lose();
                    self.tree_failure(tally.node().unwrap_or(BlobId([0; 32])), e)?;
                }
                Step::Entry(entry) => {
                    tally.add(&entry);
                    self.count(walk.path());
                    self.need(&entry).await?;
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, path: &[u8]) {
        self.report.entries += 1;
        self.monitor.event(Event::Entry { path, bytes: 0 });
    }

    /// Marks a file's blobs as needed. Each extent list is read once, however many files have it.
    async fn need(&mut self, entry: &Entry) -> Result<()> {
        let Detail::Regular(contents) = &entry.detail else { return Ok(()) };
        let mut pieces = self.vfs.pieces(contents, 0..entry.meta.size);
        let mut sums = Sums::default();
        loop {
            match pieces.step().await {
                Ok(None) => break,
                Ok(Some(Item::List(id, len))) => match self.lists.get(&(id, len)) {
                    Some(bytes) => {
                        pieces.skip();
                        sums.add(*bytes);
                    }
                    None if self.bad_nodes.contains_key(&id) => {
                        pieces.skip();
                        sums.unknown = true;
                    }
                    None => sums.open.push(((id, len), 0)),
                },
                Ok(Some(Item::End)) => {
                    if let Some((list, bytes)) = sums.end() {
                        self.lists.insert(list, bytes);
                    }
                }
                Ok(Some(Item::Piece(piece))) => {
                    self.cancel.check()?;
                    if let Some(id) = piece.extent.id {
                        sums.add(piece.extent.len);
                        self.need_blob(id, piece.extent.len)?;
                    }
                }
                Err(e) => {
                    let list = sums.open.pop().map_or(BlobId([0; 32]), |((id, _), _)| id);
                    sums.unknown = true;
                    self.tree_failure(list, e)?;
                }
            }
        }
        self.is_wrong |= sums.compare(contents).is_some();
        Ok(())
    }

    fn need_blob(&mut self, id: BlobId, len: u64) -> Result<()> {
        match self.index.row(&id, &self.catalog.removals)? {
            Some(row) => {
                if self.data.mark(row) {
                    self.report.blobs += 1;
                    self.report.bytes += len;
                }
            }
            None => {
                self.bad.insert(id, "no state of the store knows it".into());
            }
        }
        Ok(())
    }

    /// The first thing that is wrong with a file's contents. `clean` are extent lists in which nothing is, and how much
    /// of each is in no hole.
    async fn fault(&self, entry: &Entry, clean: &mut HashMap<List, u64>) -> Option<String> {
        let Detail::Regular(contents) = &entry.detail else { return None };
        let mut pieces = self.vfs.pieces(contents, 0..entry.meta.size);
        let mut sums = Sums::default();
        loop {
            match pieces.step().await {
                Ok(None) => return sums.compare(contents).map(|e| report(&e)),
                Ok(Some(Item::List(id, len))) => match clean.get(&(id, len)) {
                    Some(bytes) => {
                        pieces.skip();
                        sums.add(*bytes);
                    }
                    None => sums.open.push(((id, len), 0)),
                },
                Ok(Some(Item::End)) => clean.extend(sums.end()),
                Ok(Some(Item::Piece(piece))) => {
                    let Some(id) = piece.extent.id else { continue };
                    if let Some(reason) = self.bad.get(&id) {
                        return Some(reason.clone());
                    }
                    sums.add(piece.extent.len);
                }
                Err(e) => return Some(report(&e)),
            }
        }
    }

    /// Reads and verifies what is needed.
    async fn read_all(&mut self) -> Result<()> {
        let rows = self.index.in_stored_order(&self.data);
        let bad: Arc<Mutex<Vec<(BlobId, String)>>> = Arc::default();
        let wanted = rows.map(|row| {
            let (id, located) = self.repository.locate_row(&self.index, row?)?;
            Ok(Wanted { id, located, uses: () })
        });
        let parallel = std::thread::available_parallelism().map_or(2, usize::from) + 2;
        stream::iter(gather::batches(wanted))
            .map(|batch| async {
                self.cancel.check()?;
                let (bad, monitor) = (bad.clone(), self.monitor.clone());
                gather::read(&self.repository, Origin::Store, batch?, move |w, news| {
                    let problem = match news {
                        News::Bytes(..) => return Ok(()),
                        News::Verified if w.located.class == Class::Data => None,
                        News::Verified => Some("it is no data".into()),
                        News::Failed(e) if is_damage(&e) => Some(report(&*e)),
                        News::Failed(e) => return Err(e.into()),
                    };
                    monitor.event(Event::Progress { bytes: w.located.len.into() });
                    if let Some(problem) = problem {
                        bad.lock().push((w.id, problem));
                    }
                    Ok(())
                })
                .await
            })
            .buffer_unordered(parallel)
            .try_collect::<Vec<()>>()
            .await?;
        self.bad.extend(std::mem::take(&mut *bad.lock()));
        Ok(())
    }

    fn row_of(&self, node: Option<BlobId>) -> Result<Option<Row>> {
        node.map_or(Ok(None), |node| self.index.row(&node, &self.catalog.removals))
    }

    /// Says which paths of a snapshot are concerned.
    async fn name_paths(&mut self, snapshot: &Snapshot, entry: Entry, path: Vec<u8>) -> Result<()> {
        let (mut clean, mut clean_lists) = (self.index.marks(), HashMap::new());
        let mut walk = Walk::new(self.vfs.clone(), entry, path);
        // What was found before each of the directories that are open.
        let (mut before, mut tally) = (Vec::new(), Tally::default());
        while let Some(step) = walk.next().await {
            self.cancel.check()?;
            if self.report.found >= MOST_NAMED {
                self.problem(&named(snapshot, walk.path()), "what follows is not looked at: it is too much");
                return Ok(());
            }
            match step {
                Step::Enter(entry) => {
                    tally.enter(&entry);
                    before.push(self.report.found);
                    if let Some(row) = self.row_of(tally.node())?
                        && clean.is_marked(row)
                    {
                        walk.skip();
                        tally.pass_over();
                    }
                }
                Step::Leave(_) => {
                    if before.pop() == Some(self.report.found)
                        && let Some(row) = self.row_of(tally.node())?
                    {
                        clean.mark(row);
                    }
                    if let Some(reason) = tally.leave(&mut self.found) {
                        self.problem(&named(snapshot, walk.path()), &reason);
                    }
                }
                Step::Unreadable(e) => {
                    tally.lose();
                    self.problem(&named(snapshot, walk.path()), &report(&e));
                }
                Step::Entry(entry) => {
                    tally.add(&entry);
                    if let Some(reason) = self.fault(&entry, &mut clean_lists).await {
                        self.problem(&named(snapshot, walk.path()), &reason);
                    }
                }
            }
        }
        Ok(())
    }
}

/// An extent list as an entry or another list names it: its blob, and the bytes that it is to cover.
type List = (BlobId, u64);

/// Adds up how much of a file is in no hole, list by list.
#[derive(Default)]
struct Sums {
    /// Lists that were begun and not ended.
    open: Vec<(List, u64)>,
    all: u64,
    /// Some list could not be read.
    unknown: bool,
}

impl Sums {
    fn add(&mut self, bytes: u64) {
        let sum = self.open.last_mut().map_or(&mut self.all, |(_, sum)| sum);
        *sum = sum.saturating_add(bytes);
    }

    /// Ends a list; what is in it, if all of that is known.
    fn end(&mut self) -> Option<(List, u64)> {
        let (list, bytes) = self.open.pop()?;
        self.add(bytes);
        (!self.unknown).then_some((list, bytes))
    }

    fn compare(&self, contents: &Contents) -> Option<Error> {
        let differs = !self.unknown && !contents.missing && self.all != contents.data_bytes;
        differs.then(|| data_bytes_differ(self.all))
    }
}

#[cfg(test)]
mod tests;
