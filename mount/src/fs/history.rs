//! What stood at a path, over all snapshots that are shown.
//!
//! `versions/<path>` lists a snapshot for each time that the path had changed. The names below it are not listed, and
//! lead to the versions of what they name. `by-path/<path>` lists all names that any snapshot has in a directory; what
//! is no directory is shown as one, of its versions.
//!
//! Trees are compared by node: a directory that is the same in a thousand snapshots is read once, and what lies below
//! it is not looked at again. Nothing is read before somebody looks.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use moka::sync::Cache;
use plakar_engine::error::{Error, Result};
use plakar_engine::id::BlobId;
use plakar_engine::repository::report;
use plakar_engine::snapshot::Snapshot;
use plakar_engine::tree::{Detail, Entry};

use super::folders::Folders;
use super::{Holds, Lookup, SnapshotFs};
use crate::error::FsError;
use crate::view::{self, Folder, HISTORIES, Item, LATEST, Target, View};

/// Directories that are read at once.
const PARALLEL: usize = 16;
/// Names that are remembered, and how long after they were last wanted.
const NAMES: u64 = 100_000;
const MEMORY: Duration = Duration::from_secs(60);

/// A view's generation, and a path in it.
type Key = (u64, Arc<[u8]>);

/// Folders that were made; `None` where no snapshot has anything.
#[derive(Debug)]
pub(super) struct Histories(Cache<Key, Option<Arc<Folder>>>);

impl Default for Histories {
    fn default() -> Self {
        let names = |_: &_, f: &Option<Arc<Folder>>| {
            f.as_ref().map_or(1, |f| u32::try_from(f.items().len() + 1).unwrap_or(u32::MAX))
        };
        Self(Cache::builder().max_capacity(NAMES).weigher(names).time_to_idle(MEMORY).build())
    }
}

/// What a path in a view asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// Whether names are listed, or only versions.
    by_path: bool,
    /// Only snapshots of this host, by its name in the view.
    host: Option<Vec<u8>>,
    /// The path in the snapshots: empty for `/`, else with a leading `/`.
    path: Vec<u8>,
    /// Directories between it and the root of the mount.
    depth: usize,
}

impl Place {
    /// `None` for other paths.
    fn parse(view_path: &[u8]) -> Option<Self> {
        let parts: Vec<&[u8]> = view_path.split(|b| *b == b'/').collect();
        let (host, rest) = match parts.as_slice() {
            [b"hosts", host, rest @ ..] => (Some(host.to_vec()), rest),
            rest => (None, rest),
        };
        let (kind, names) = rest.split_first()?;
        let kind = HISTORIES.iter().position(|h| h.as_bytes() == *kind)?;
        let path = names.iter().flat_map(|n| [b"/", *n].concat()).collect();
        Some(Self { by_path: kind == 1, host, path, depth: parts.len() })
    }

    fn covers(&self, snapshot: &Snapshot) -> bool {
        let here = self.host.as_ref().is_none_or(|h| *h == view::safe_name(snapshot.origin.as_bytes()));
        here && covers(snapshot, &self.path)
    }
}

/// Whether a path lies in what was backed up, or leads to it.
pub(super) fn covers(snapshot: &Snapshot, path: &[u8]) -> bool {
    let lies_in = |inner: &[u8], outer: &[u8]| {
        let outer = outer.strip_suffix(b"/").unwrap_or(outer);
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    };
    snapshot.roots.is_empty() || snapshot.roots.iter().any(|r| lies_in(path, r) || lies_in(r, path))
}

/// The names in a path.
pub(super) fn parts(path: &[u8]) -> Vec<&[u8]> {
    path.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect()
}

/// What stood at a path in one snapshot, by its place in the view.
type Stood = (usize, Option<Arc<Entry>>);

impl SnapshotFs {
    /// The names of a directory of `versions` or `by-path`; `None` if no snapshot has it, or the path is none of
    /// theirs.
    pub(super) async fn history(
        &self,
        view: &Arc<View>,
        path: &[u8],
    ) -> Result<Option<Arc<Folder>>, FsError> {
        let Some(place) = Place::parse(path) else { return Ok(None) };
        let key: Key = (view.generation(), path.into());
        if let Some(folder) = self.histories.0.get(&key) {
            return Ok(folder);
        }
        let mtime = self.folder_time(view, path);
        let (view, folders, named) = (view.clone(), self.folders.clone(), place.path.clone());
        let made = async move {
            let items = items(&view, &folders, &place, &key.1).await?;
            Ok((key, (!items.is_empty()).then(|| Arc::new(Folder::new(items, mtime)))))
        };
        let (key, folder) = self.patiently(&named, made).await?;
        self.histories.0.insert(key, folder.clone());
        Ok(folder)
    }

    /// A name in a directory of `versions`, which lists none.
    pub(super) async fn lookup_version(
        &self,
        view: &Arc<View>,
        folder: &[u8],
        name: &[u8],
    ) -> Result<Lookup, FsError> {
        let missing = Lookup::Missing { holds: Holds::WithTheView };
        if Place::parse(folder).is_none_or(|p| p.by_path) {
            return Ok(missing);
        }
        let path: Arc<[u8]> = view::join(folder, name).into();
        Ok(match self.history(view, &path).await? {
            Some(_) => Lookup::Found { attr: self.hold_folder(view, &path), holds: Holds::WithTheView },
            None => missing,
        })
    }

    /// Waits for what may read many directories. It goes on when the wait is over: who asks again finds it further.
    pub(super) async fn patiently<T: Send + 'static>(
        &self,
        path: &[u8],
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T, FsError> {
        let repository = self.repository.clone();
        let work = self.runtime.spawn(async move {
            repository.index().await?;
            work.await
        });
        let path = String::from_utf8_lossy(path);
        match tokio::time::timeout(self.config.deadline, work).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(e))) => {
                self.activity.failed.one();
                tracing::error!(%path, error = report(&e), "cannot read what stood there");
                Err(FsError::Failed)
            }
            Ok(Err(e)) => {
                self.activity.failed.one();
                tracing::error!(%path, error = %e, "cannot read what stood there");
                Err(FsError::Failed)
            }
            Err(_elapsed) => {
                self.activity.timed_out.one();
                tracing::error!(%path, "reading what stood there takes longer than a request may; it goes on");
                Err(FsError::TimedOut)
            }
        }
    }
}

async fn items(view: &View, folders: &Folders, place: &Place, view_path: &[u8]) -> Result<Vec<Item>> {
    let stood = stood(view, folders, place).await?;
    if !place.by_path {
        return Ok(versions(view, place, &stood, |_| true));
    }
    let mut items = versions(view, place, &stood, |e| e.directory().is_none());
    let nodes: BTreeSet<BlobId> =
        stood.iter().filter_map(|(_, e)| e.as_ref()?.directory().map(|(node, _)| node)).collect();
    let listed: Vec<BTreeSet<Vec<u8>>> =
        stream::iter(nodes).map(|node| names(folders, node)).buffer_unordered(PARALLEL).try_collect().await?;
    let all: BTreeSet<Vec<u8>> = listed.into_iter().flatten().collect();
    items.extend(all.into_iter().map(|name| {
        let target = Target::Folder(view::join(view_path, &name).into());
        Item { cookie: view::cookie_of_name(&name), name: name.into(), target }
    }));
    Ok(items)
}

/// All names in a directory.
async fn names(folders: &Folders, node: BlobId) -> Result<BTreeSet<Vec<u8>>> {
    let mut names = BTreeSet::new();
    let mut position = 0;
    while let Some(run) = folders.run_at(node, position).await? {
        let shown = run.entries.iter().filter(|e| !matches!(e.detail, Detail::Missing));
        names.extend(shown.map(|e| e.name.clone()));
        position = run.start + run.entries.len() as u32;
    }
    Ok(names)
}

/// A link for each time that what stood there had changed since its host's snapshot before, and one to the newest.
fn versions(view: &View, place: &Place, stood: &[Stood], which: impl Fn(&Entry) -> bool) -> Vec<Item> {
    let mut before: HashMap<&str, &Entry> = HashMap::new();
    let mut items = Vec::new();
    for (i, entry) in stood {
        let shown = &view.snapshots()[*i];
        let origin = shown.snapshot.origin.as_str();
        let Some(entry) = entry.as_deref().filter(|e| which(e)) else {
            before.remove(origin);
            continue;
        };
        if before.insert(origin, entry) == Some(entry) {
            continue;
        }
        let link = Arc::new(view::link(place.depth, &shown.name, &place.path, &shown.snapshot));
        let cookie = view::cookie_of(&shown.snapshot);
        items.push(Item { name: shown.name.clone(), cookie, target: Target::Link(link) });
    }
    if let Some(newest) = items.last().filter(|_| !view.is_partial()) {
        let (name, target) = (LATEST.into(), newest.target.clone());
        items.insert(0, Item { name, cookie: view::FIRST_COOKIE, target });
    }
    items
}

/// What stood at a path in each snapshot that covers it, oldest first.
async fn stood(view: &View, folders: &Folders, place: &Place) -> Result<Vec<Stood>> {
    let all = view.snapshots().iter().enumerate().filter(|(_, s)| place.covers(&s.snapshot));
    let mut stood: Vec<Stood> = all.map(|(i, s)| (i, Some(Arc::new(s.snapshot.root.clone())))).collect();
    for name in parts(&place.path) {
        let node = |entry: &Option<Arc<Entry>>| entry.as_ref()?.directory().map(|(node, _)| node);
        let nodes: BTreeSet<BlobId> = stood.iter().filter_map(|(_, e)| node(e)).collect();
        let found: HashMap<BlobId, Option<Arc<Entry>>> = stream::iter(nodes)
            .map(|node| async move {
                let found = folders.find(node, name).await?;
                let entry = found.as_ref().and_then(|(run, position)| run.at(*position));
                let entry = entry.filter(|e| !matches!(e.detail, Detail::Missing));
                Ok::<_, Error>((node, entry.map(|e| Arc::new(e.clone()))))
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        for (_, entry) in &mut stood {
            *entry = node(entry).and_then(|node| found.get(&node).cloned().flatten());
        }
    }
    Ok(stood)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_views_say_what_they_ask_for() {
        let place = |by_path, host: Option<&str>, path: &str, depth| Place {
            by_path,
            host: host.map(Into::into),
            path: path.into(),
            depth,
        };
        for (text, wanted) in [
            ("versions", Some(place(false, None, "", 1))),
            ("versions/etc/passwd", Some(place(false, None, "/etc/passwd", 3))),
            ("by-path/hosts", Some(place(true, None, "/hosts", 2))),
            ("hosts/web/by-path/srv", Some(place(true, Some("web"), "/srv", 4))),
            ("hosts/web", None),
            ("hosts", None),
            ("snapshots", None),
            ("", None),
        ] {
            assert_eq!(Place::parse(text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn a_snapshot_covers_what_it_backed_up_and_what_leads_there() {
        let of = |roots: &[&str]| Snapshot {
            roots: roots.iter().map(|r| r.as_bytes().to_vec()).collect(),
            ..Snapshot::empty()
        };
        let home = of(&["/home/me"]);
        for path in ["", "/home", "/home/me", "/home/me/x"] {
            assert!(covers(&home, path.as_bytes()), "{path}");
        }
        for path in ["/home/meg", "/etc", "/homely"] {
            assert!(!covers(&home, path.as_bytes()), "{path}");
        }
        assert!(covers(&of(&["/"]), b"/etc/passwd") && covers(&of(&[]), b"/x"));
    }
}
