//! What stood at a path, over all snapshots that are shown.
//!
//! `versions/<path>` lists a snapshot for each time that the path had changed. The names below it are not listed, and
//! lead to the versions of what they name. `by-path/<depth>/<path>`, with a path of so many names, lists all names that
//! any snapshot has in a directory; what is no directory is shown as one, of its versions. Each name is a link to its own
//! place, at the next depth: what leads there is not listed, so nobody goes down by listing, and a name costs the same
//! whatever stands there.
//!
//! Trees are compared by node: a directory that is the same in a thousand snapshots is read once, and what lies below
//! it is not looked at again. Nothing is read before somebody looks.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use moka::sync::Cache;
use parking_lot::Mutex;
use plakar_engine::error::{Error, Result, report};
use plakar_engine::id::BlobId;
use plakar_engine::meta::Timestamp;
use plakar_engine::snapshot::Snapshot;
use plakar_engine::tree::{Detail, Entry};

use super::folders::Folders;
use super::names::Gathered;
use super::{Holds, Lookup, SnapshotFs};
use crate::error::FsError;
use crate::view::{self, Folder, HIDDEN, Item, LATEST, Target, View};

/// Directories that are read at once.
const PARALLEL: usize = 16;
/// Bytes of folders that are remembered, and how long after they were last wanted.
const BYTES: u64 = 16 << 20;
const MEMORY: Duration = Duration::from_secs(60);
/// Below it each host has its own.
pub(super) const OF_HOSTS: &[u8] = b"host";

/// A view's generation, and a path in it.
type Key = (u64, Arc<[u8]>);

/// Folders that were made; `None` where no snapshot has anything.
#[derive(Debug)]
pub(super) struct Histories {
    made: Cache<Key, Option<Arc<Folder>>>,
    /// The one that was made last, however large: it is being listed.
    last: Mutex<Option<(Key, Option<Arc<Folder>>)>>,
}

impl Default for Histories {
    fn default() -> Self {
        let bytes = |_: &_, f: &Option<Arc<Folder>>| {
            u32::try_from(100 + f.as_ref().map_or(0, |f| f.weight())).unwrap_or(u32::MAX)
        };
        let made = Cache::builder().max_capacity(BYTES).weigher(bytes).time_to_idle(MEMORY).build();
        Self { made, last: Mutex::default() }
    }
}

impl Histories {
    fn get(&self, key: &Key) -> Option<Option<Arc<Folder>>> {
        let last = self.last.lock();
        match &*last {
            Some((of, folder)) if of == key => Some(folder.clone()),
            _ => self.made.get(key),
        }
    }

    fn put(&self, key: Key, folder: Option<Arc<Folder>>) {
        self.made.insert(key.clone(), folder.clone());
        *self.last.lock() = Some((key, folder));
    }
}

/// What a path in a view asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    lists: Lists,
    /// Only snapshots of this host, by its name in the view.
    host: Option<Vec<u8>>,
    /// The path in the snapshots: empty for `/`, else with a leading `/`.
    path: Vec<u8>,
    /// Directories between it and the root of the mount.
    depth: usize,
}

/// What is listed at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lists {
    /// Nothing: it is on the way.
    Nothing,
    /// Versions.
    Versions,
    /// Versions of what is no directory, and names.
    Names,
}

impl Place {
    /// `None` for other paths.
    fn parse(view_path: &[u8]) -> Option<Self> {
        let parts: Vec<&[u8]> = view_path.split(|b| *b == b'/').collect();
        let depth = parts.len();
        let (hidden, rest) = parts.split_first()?;
        let (host, rest) = match rest {
            [of, host, rest @ ..] if *of == OF_HOSTS => (Some(host.to_vec()), rest),
            rest => (None, rest),
        };
        if *hidden != HIDDEN {
            return None;
        }
        let path_of = |names: &[&[u8]]| names.iter().flat_map(|n| [b"/", *n].concat()).collect();
        let (lists, path) = match rest {
            [of] if *of == OF_HOSTS && host.is_none() => (Lists::Nothing, Vec::new()),
            [] if host.is_some() => (Lists::Nothing, Vec::new()),
            [b"versions", names @ ..] => (Lists::Versions, path_of(names)),
            [b"by-path"] => (Lists::Nothing, Vec::new()),
            [b"by-path", deep, names @ ..] => {
                let deep: usize = std::str::from_utf8(deep).ok()?.parse().ok()?;
                match names.len().cmp(&deep) {
                    Ordering::Less => (Lists::Nothing, path_of(names)),
                    Ordering::Equal => (Lists::Names, path_of(names)),
                    Ordering::Greater => return None,
                }
            }
            _ => return None,
        };
        Some(Self { lists, host, path, depth })
    }

    fn covers(&self, snapshot: &Snapshot) -> bool {
        let here = self.host.as_ref().is_none_or(|h| *h == view::safe_name(snapshot.origin.as_bytes()));
        here && covers(snapshot, &self.path)
    }

    /// From a place of names, where the links to what stands one deeper lead.
    fn deeper(&self) -> Vec<u8> {
        let deep = parts(&self.path).len();
        let mut to = b"../".repeat(deep + 1);
        to.extend_from_slice((deep + 1).to_string().as_bytes());
        to.extend_from_slice(&self.path);
        to.push(b'/');
        to
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
        let mtime = self.folder_time(view, path);
        if place.lists == Lists::Nothing {
            return Ok(Some(Arc::new(Folder::new(Vec::new(), mtime))));
        }
        let key: Key = (view.generation(), path.into());
        if let Some(folder) = self.histories.get(&key) {
            return Ok(folder);
        }
        let (view, folders, named) = (view.clone(), self.folders.clone(), place.path.clone());
        let made = async move {
            let folder = made(&view, &folders, &place, &key.1, mtime).await?;
            // The roots are there when nothing else is.
            let is_there = folder.len() > 0 || place.path.is_empty();
            Ok((key, is_there.then(|| Arc::new(folder))))
        };
        let (key, folder) = self.patiently(&named, made).await?;
        self.histories.put(key, folder.clone());
        Ok(folder)
    }

    /// A name in a directory that does not list it: it leads to a place of its own.
    pub(super) async fn lookup_version(
        &self,
        view: &Arc<View>,
        folder: &[u8],
        name: &[u8],
    ) -> Result<Lookup, FsError> {
        let path: Arc<[u8]> = view::join(folder, name).into();
        Ok(match self.history(view, &path).await? {
            Some(_) => Lookup::Found { attr: self.hold_folder(view, &path), holds: Holds::WithTheView },
            None => Lookup::Missing { holds: Holds::WithTheView },
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
        match tokio::time::timeout(self.time_left(), work).await {
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

async fn made(
    view: &View,
    folders: &Folders,
    place: &Place,
    view_path: &[u8],
    mtime: Timestamp,
) -> Result<Folder> {
    let stood = stood(view, folders, place).await?;
    if place.lists != Lists::Names {
        return Ok(Folder::new(versions(view, place, &stood, |_| true), mtime));
    }
    let items = versions(view, place, &stood, |e| e.directory().is_none());
    let nodes: BTreeSet<BlobId> =
        stood.iter().filter_map(|(_, e)| e.as_ref()?.directory().map(|(node, _)| node)).collect();
    let all = Mutex::new(Gathered::of(nodes.len()));
    stream::iter(nodes)
        .map(|node| gather(folders, node, &all))
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<()>>()
        .await?;
    let all = all.into_inner();
    Ok(Folder::new(items, mtime).with_names(all.end(view_path, place.deeper(), mtime)))
}

/// All names in a directory.
async fn gather(folders: &Folders, node: BlobId, all: &Mutex<Gathered>) -> Result<()> {
    let mut position = 0;
    while let Some(run) = folders.run_at(node, position).await? {
        let mut all = all.lock();
        for entry in run.entries.iter().filter(|e| !matches!(e.detail, Detail::Missing)) {
            if !all.add(&entry.name) {
                return Err(Error::Bug("names of more than 4 GiB in one directory"));
            }
        }
        position = run.start + run.entries.len() as u32;
    }
    Ok(())
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
        let place = |lists, host: Option<&str>, path: &str, depth| Place {
            lists,
            host: host.map(Into::into),
            path: path.into(),
            depth,
        };
        use Lists::{Names, Nothing, Versions};
        for (text, wanted) in [
            (".plakar/versions", Some(place(Versions, None, "", 2))),
            (".plakar/versions/etc/passwd", Some(place(Versions, None, "/etc/passwd", 4))),
            (".plakar/by-path", Some(place(Nothing, None, "", 2))),
            (".plakar/by-path/0", Some(place(Names, None, "", 3))),
            (".plakar/by-path/1/hosts", Some(place(Names, None, "/hosts", 4))),
            (".plakar/by-path/2/hosts", Some(place(Nothing, None, "/hosts", 4))),
            (".plakar/by-path/0/hosts", None),
            (".plakar/by-path/x", None),
            (".plakar/host", Some(place(Nothing, None, "", 2))),
            (".plakar/host/web", Some(place(Nothing, Some("web"), "", 3))),
            (".plakar/host/web/by-path/1/srv", Some(place(Names, Some("web"), "/srv", 6))),
            (".plakar/hosts/web", None),
            (".plakar/hosts", None),
            ("versions", None),
            (".plakar", None),
            ("snapshots", None),
            ("", None),
        ] {
            assert_eq!(Place::parse(text.as_bytes()), wanted, "{text}");
        }
        let deeper = |path: &str| String::from_utf8(place(Names, None, path, 3).deeper()).unwrap();
        assert_eq!(deeper(""), "../1/");
        assert_eq!(deeper("/home/me"), "../../../3/home/me/");
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
