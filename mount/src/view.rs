//! The names at the root of a mount of a whole store.
//!
//! ```text
//! latest -> snapshots/2026-11-20T22-26-57_cb5d5c65
//! snapshots/2026-11-20T22-26-57_cb5d5c65/      the recorded tree from /
//! hosts -> .plakar/hosts                       and ids, tags, sources, versions, by-path
//!
//! .plakar/ids/<64 digits> -> ../../snapshots/…
//! .plakar/hosts/<origin>/<same names>, latest, versions, by-path
//! .plakar/tags/<tag>/<same names>, latest
//! .plakar/sources/<path backed up>/<same names>, latest
//! .plakar/versions/<path>/<same names>, latest     what stood at a path, each time that it had changed
//! .plakar/by-path/<depth>/<path>/                  all that ever stood there, by name; a file is a directory of its versions
//! .plakar/host/<origin>/versions, by-path          the same of one host
//! ```
//!
//! Whoever goes through all that is at the root meets every entry of every snapshot once: real directories stand in
//! `snapshots/` only, and `.plakar` is not listed. Names in `by-path` are links as well, to a place one deeper, so that
//! nobody gets from one to the next by listing. `versions` and `by-path` read the store and are made in `fs::history`.
//!
//! One directory inode may have one name, or the kernel would move it between them. A [`View`] is a value made from the
//! catalogue; a changed store gives a new one.

pub mod moment;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use plakar_engine::id::ObjectId;
use plakar_engine::meta::Timestamp;
use plakar_engine::repository::catalog::Catalog;
use plakar_engine::snapshot::Snapshot;

use crate::config::Filter;
use crate::fs::names::Names;
use moment::Moment;

pub use names::{escape_path, safe_name};

/// The link to the newest.
pub(crate) const LATEST: &[u8] = b"latest";
/// Where views are, which no listing shows.
pub(crate) const HIDDEN: &[u8] = b".plakar";
/// Views of the snapshots; each has a link at the root.
const VIEWS: [&[u8]; 4] = [b"ids", b"hosts", b"tags", b"sources"];
/// What is made of the history of paths, with where it begins.
pub(crate) const HISTORIES: [(&[u8], &[u8]); 2] = [(b"versions", b"versions"), (b"by-path", b"by-path/0")];
/// Fewest digits of an id that resolve at the root.
const MIN_PREFIX: usize = 4;
/// How long a snapshot that is shown no more is still found by name: as long as the kernel keeps links to it, and a
/// moment more.
const FAREWELL_NS: i64 = 2_000_000_000;
/// Cookies below are the kernel's and those of `.` and `..`.
pub(crate) const FIRST_COOKIE: u64 = 8;

/// What a name in a view stands for.
#[derive(Clone, Debug)]
pub enum Target {
    /// Another directory of the view, by its path from the root.
    Folder(Arc<[u8]>),
    /// A symlink.
    Link(Arc<Link>),
    /// A file made here.
    Text(Arc<Text>),
    /// The tree of a snapshot.
    Snapshot(Arc<Snapshot>),
}

/// A symlink in a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where it leads.
    pub to: Box<[u8]>,
    /// The time of the snapshot that it leads to.
    pub mtime: Timestamp,
}

/// A file made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// What is in it.
    pub bytes: Bytes,
    /// When it was made.
    pub mtime: Timestamp,
}

/// One name in a directory of the view.
#[derive(Clone, Debug)]
pub struct Item {
    /// The name.
    pub name: Arc<[u8]>,
    /// Where a listing goes on after it. It belongs to the name, so that a listing during which names come and go
    /// gives every other name exactly once.
    pub cookie: u64,
    /// What it stands for.
    pub target: Target,
}

/// One directory of the view.
#[derive(Debug)]
pub struct Folder {
    /// Its names, by cookie.
    items: Vec<Item>,
    by_name: HashMap<Arc<[u8]>, usize>,
    /// Further names, which stand behind those.
    pub(crate) names: Option<Arc<Names>>,
    /// Changes whenever a name in it does.
    pub mtime: Timestamp,
}

impl Folder {
    /// With further names.
    pub(crate) fn with_names(self, names: Names) -> Self {
        Self { names: Some(Arc::new(names)), ..self }
    }

    /// How many names it has.
    pub(crate) fn len(&self) -> usize {
        self.items.len() + self.names.as_ref().map_or(0, |n| n.len())
    }

    /// Bytes of memory, near enough.
    pub(crate) fn weight(&self) -> usize {
        200 + 250 * self.items.len() + self.names.as_ref().map_or(0, |n| n.weight())
    }

    /// A name in it.
    pub fn item(&self, name: &[u8]) -> Option<&Item> {
        self.by_name.get(name).map(|i| &self.items[*i])
    }

    /// With names in any order.
    pub(crate) fn new(mut items: Vec<Item>, mtime: Timestamp) -> Self {
        items.sort_by(|a, b| (a.cookie, &a.name).cmp(&(b.cookie, &b.name)));
        for i in 1..items.len() {
            items[i].cookie = items[i].cookie.max(items[i - 1].cookie + 1);
        }
        let by_name = items.iter().enumerate().map(|(i, item)| (item.name.clone(), i)).collect();
        Self { items, by_name, names: None, mtime }
    }

    /// Its names, by cookie.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Where the names after a cookie begin.
    pub fn after(&self, cookie: u64) -> usize {
        let items = self.items.partition_point(|i| i.cookie <= cookie);
        items + self.names.as_ref().map_or(0, |n| n.after(cookie))
    }

    fn is_like(&self, other: &Self) -> bool {
        self.items.len() == other.items.len()
            && self.items.iter().zip(&other.items).all(|(a, b)| {
                a.name == b.name
                    && match (&a.target, &b.target) {
                        (Target::Link(a), Target::Link(b)) => a == b,
                        _ => true,
                    }
            })
    }
}

/// What changed between two views: the kernel is told to forget it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The directory's path from the root.
    pub folder: Arc<[u8]>,
    /// Names that are gone, or are links that lead elsewhere now.
    pub names: Vec<Arc<[u8]>>,
}

/// A snapshot with the name of its directory.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The name in `snapshots/`.
    pub name: Arc<[u8]>,
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
}

/// All names at the root of a mount, at one moment.
#[derive(Debug, Default)]
pub struct View {
    folders: HashMap<Arc<[u8]>, Arc<Folder>>,
    /// What is shown, oldest first.
    shown: Vec<Shown>,
    by_id: BTreeMap<ObjectId, usize>,
    /// What is shown no more, and since when: who has just followed a link still finds it.
    departed: Vec<(i64, Shown)>,
    /// Rises with every change of the snapshots that are shown.
    generation: u64,
    /// A digest of the listings that it was made from.
    listing: [u8; 32],
    /// A snapshot cannot be read, and may be the newest: nothing is chosen by time. An older one in its place would be
    /// taken for it.
    is_partial: bool,
}

impl View {
    /// The names for the snapshots that a filter shows. Names that are chosen by time are left out while a snapshot
    /// cannot be read, unless those are to be skipped.
    pub fn new(catalog: &Catalog, filter: &Filter, skip_damaged: bool) -> Self {
        let is_partial = !catalog.broken.is_empty() && !skip_damaged;
        let mut snapshots: Vec<_> = catalog.snapshots.iter().filter(|s| filter.shows(s)).collect();
        snapshots.sort_by_key(|s| (s.time_ns, s.id));
        let names = names::of_snapshots(&snapshots);
        let mut tree = Builder::default();
        tree.folder(&[b"snapshots"]);
        for view in VIEWS {
            tree.folder(&[HIDDEN, view]);
            tree.link(&[], view, [HIDDEN, b"/", view].concat());
        }
        for (name, at) in HISTORIES {
            tree.link(&[], name, [HIDDEN, b"/", at].concat());
            let target = Target::Folder(join(HIDDEN, name).into());
            tree.put(&[HIDDEN], name, cookie_of_name(name), target);
        }
        let mut shown = Vec::with_capacity(snapshots.len());
        for (snapshot, name) in snapshots.iter().zip(names) {
            let cookie = cookie_of(snapshot);
            let link = |depth| Target::Link(Arc::new(link(depth, &name, b"", snapshot)));
            tree.put(&[b"snapshots"], &name, cookie, Target::Snapshot((*snapshot).clone()));
            let id = snapshot.id.to_string();
            tree.put(&[HIDDEN, b"ids"], id.as_bytes(), cookie, link(2));
            let host = safe_name(snapshot.origin.as_bytes());
            let mut places: Vec<[Vec<u8>; 2]> = vec![[b"hosts".to_vec(), host]];
            places.extend(snapshot.tags.iter().map(|t| [b"tags".to_vec(), safe_name(t.as_bytes())]));
            places.extend(snapshot.roots.iter().map(|r| [b"sources".to_vec(), escape_path(r)]));
            for place in &places {
                let place = [HIDDEN, &place[0][..], &place[1][..]];
                tree.put(&place, &name, cookie, link(3));
                // Oldest first: the last one stays.
                if !is_partial {
                    tree.put(&place, LATEST, FIRST_COOKIE, link(3));
                }
            }
            let host = &places[0][1][..];
            for (name, at) in HISTORIES {
                tree.link(&[HIDDEN, b"hosts", host], name, [b"../../host/", host, b"/", at].concat());
            }
            if !is_partial {
                tree.put(&[], LATEST, FIRST_COOKIE, link(0));
            }
            shown.push(Shown { name: name.into(), snapshot: (*snapshot).clone() });
        }
        let by_id = shown.iter().enumerate().map(|(i, s)| (s.snapshot.id, i)).collect();
        Self {
            folders: tree.finish(timestamp(snapshots.last().map_or(0, |s| s.time_ns))),
            shown,
            by_id,
            departed: Vec::new(),
            generation: 0,
            listing: catalog.listing,
            is_partial,
        }
    }

    /// Whether nothing can be chosen by time.
    pub(crate) fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Takes over the times of directories that are the same in an older view, gives the others a newer one than they
    /// had, and says what differs.
    pub fn succeed(&mut self, older: &Self, now_ns: i64) -> Vec<Change> {
        let mut changes = Vec::new();
        for (path, folder) in &mut self.folders {
            let Some(old) = older.folders.get(path) else { continue };
            if folder.is_like(old) {
                *folder = old.clone();
                continue;
            }
            let Some(folder) = Arc::get_mut(folder) else { continue };
            folder.mtime = timestamp(now_ns.max(nanoseconds(old.mtime).saturating_add(1)));
            let names = old
                .items
                .iter()
                .filter(|was| match (&was.target, folder.item(&was.name).map(|i| &i.target)) {
                    (Target::Link(a), Some(Target::Link(b))) => a != b,
                    (_, is) => is.is_none(),
                })
                .map(|was| was.name.clone())
                .collect();
            changes.push(Change { folder: path.clone(), names });
        }
        let gone = older.shown.iter().filter(|s| !self.by_id.contains_key(&s.snapshot.id));
        let before = older.departed.iter().filter(|(since, _)| now_ns - since < FAREWELL_NS).cloned();
        self.departed = before.chain(gone.map(|s| (now_ns, s.clone()))).collect();
        self.generation = older.generation + u64::from(!changes.is_empty());
        changes
    }

    /// A directory, by its path from the root; the root's is empty.
    pub fn folder(&self, path: &[u8]) -> Option<&Arc<Folder>> {
        self.folders.get(path)
    }

    /// A digest of the listings that it was made from.
    pub(crate) fn listing(&self) -> &[u8; 32] {
        &self.listing
    }

    /// Rises with every change of the snapshots that are shown.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Snapshots that are shown, oldest first.
    pub fn snapshots(&self) -> &[Shown] {
        &self.shown
    }

    /// A snapshot that is shown.
    pub fn snapshot(&self, id: &ObjectId) -> Option<&Shown> {
        self.by_id.get(id).map(|i| &self.shown[*i])
    }

    /// A snapshot that has just gone, by the name of its directory.
    pub(crate) fn departed(&self, name: &[u8], now_ns: i64) -> Option<&Arc<Snapshot>> {
        let just = |(since, s): &&(i64, Shown)| *s.name == *name && now_ns - since < FAREWELL_NS;
        self.departed.iter().find(just).map(|(_, s)| &s.snapshot)
    }

    /// The one snapshot whose id begins with these digits.
    pub(crate) fn by_prefix(&self, digits: &str) -> Option<&Shown> {
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if !(MIN_PREFIX..=64).contains(&digits.len()) || !digits.bytes().all(hex) {
            return None;
        }
        let first = ObjectId::from_hex(&format!("{digits:0<64}"))?;
        let mut fits = self.by_id.range(first..).take_while(|(id, _)| id.to_string().starts_with(digits));
        let (_, one) = fits.next()?;
        fits.next().is_none().then(|| &self.shown[*one])
    }

    /// The snapshot that a moment means, among those that fit.
    pub(crate) fn at(&self, moment: &Moment, fits: impl Fn(&Snapshot) -> bool) -> Option<&Shown> {
        let mut newest_first = self.shown.iter().rev().filter(|s| fits(&s.snapshot));
        match moment {
            Moment::Latest(_) | Moment::Before(_) if self.is_partial => None,
            Moment::Latest(back) => newest_first.nth(*back),
            Moment::Before(ns) => newest_first.find(|s| s.snapshot.time_ns < *ns),
            Moment::Id(digits) => self.by_prefix(digits),
        }
    }
}

/// A link to something in a snapshot's directory, from so many directories below the root.
pub(crate) fn link(depth: usize, name: &[u8], path: &[u8], snapshot: &Snapshot) -> Link {
    let mut to = b"../".repeat(depth);
    to.extend_from_slice(b"snapshots/");
    to.extend_from_slice(name);
    to.extend_from_slice(path);
    Link { to: to.into(), mtime: timestamp(snapshot.time_ns) }
}

/// A cookie for a name that is no snapshot's: any order will do, as long as it is the name's own.
pub(crate) fn cookie_of_name(name: &[u8]) -> u64 {
    let hash = blake3::hash(name);
    let cookie = hash.as_bytes().first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    (cookie >> 2).max(FIRST_COOKIE + 1)
}

/// Listings go by time: microseconds, and eight bits that tell snapshots of one moment apart.
pub(crate) fn cookie_of(snapshot: &Snapshot) -> u64 {
    let micros = u64::try_from(snapshot.time_ns / 1000).unwrap_or(0);
    ((micros << 8) | u64::from(snapshot.id.0[0])).clamp(FIRST_COOKIE + 1, i64::MAX as u64 / 2)
}

pub(crate) fn timestamp(ns: i64) -> Timestamp {
    Timestamp { sec: ns.div_euclid(1_000_000_000), nsec: ns.rem_euclid(1_000_000_000) as u32 }
}

fn nanoseconds(t: Timestamp) -> i64 {
    t.sec.saturating_mul(1_000_000_000).saturating_add(i64::from(t.nsec))
}

/// Folders while they are filled.
#[derive(Default)]
struct Builder {
    folders: BTreeMap<Vec<u8>, Items>,
}

/// Names of a folder: cookie and target of each.
type Items = BTreeMap<Vec<u8>, (u64, Target)>;

impl Builder {
    /// Makes sure that a folder and those above it are there; gives its path.
    fn folder(&mut self, path: &[&[u8]]) -> Vec<u8> {
        let mut at: Vec<u8> = Vec::new();
        self.folders.entry(Vec::new()).or_default();
        for part in path {
            let above = at.clone();
            if !at.is_empty() {
                at.push(b'/');
            }
            at.extend_from_slice(part);
            if !self.folders.contains_key(&at) {
                self.folders.insert(at.clone(), Items::new());
                if at == HIDDEN {
                    continue;
                }
                let target = Target::Folder(at.as_slice().into());
                self.folders.entry(above).or_default().insert(part.to_vec(), (cookie_of_name(part), target));
            }
        }
        at
    }

    fn put(&mut self, folder: &[&[u8]], name: &[u8], cookie: u64, target: Target) {
        let path = self.folder(folder);
        self.folders.entry(path).or_default().insert(name.to_vec(), (cookie, target));
    }

    /// A link that never changes: it has no time, so that nobody who knows it has to forget it.
    fn link(&mut self, folder: &[&[u8]], name: &[u8], to: Vec<u8>) {
        let link = Link { to: to.into(), mtime: Timestamp::default() };
        self.put(folder, name, cookie_of_name(name), Target::Link(Arc::new(link)));
    }

    fn finish(self, mtime: Timestamp) -> HashMap<Arc<[u8]>, Arc<Folder>> {
        let item = |(name, (cookie, target)): (Vec<u8>, _)| Item { name: name.into(), cookie, target };
        let close = |names: Items| Arc::new(Folder::new(names.into_iter().map(item).collect(), mtime));
        self.folders.into_iter().map(|(path, names)| (path.into(), close(names))).collect()
    }
}

/// A name in a folder of a view, as a path from the root.
pub(crate) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = folder.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests;
