//! The names at the root of a mount of a whole store.
//!
//! ```text
//! latest -> snapshots/2026-11-20T22-26-57_cb5d5c65
//! snapshots/2026-11-20T22-26-57_cb5d5c65/      the recorded tree from /
//! ids/<64 digits> -> ../snapshots/…
//! hosts/<origin>/<same names>, latest
//! tags/<tag>/<same names>, latest
//! sources/<path backed up>/<same names>, latest
//! ```
//!
//! Directories of snapshots stand in one place only, everything else is relative symlinks to them: one directory inode
//! may have one name, or the kernel would move it between them. A [`View`] is a value made from the catalogue; a
//! changed store gives a new one.

mod names;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use plakar_engine::id::ObjectId;
use plakar_engine::meta::Timestamp;
use plakar_engine::repository::catalog::Catalog;
use plakar_engine::snapshot::Snapshot;

use crate::config::Filter;

pub use names::{escape_path, safe_name};

/// Fewest digits of an id that resolve at the root.
const MIN_PREFIX: usize = 4;
/// Cookies below are the kernel's and those of `.` and `..`.
const FIRST_COOKIE: u64 = 8;

/// What a name in a view stands for.
#[derive(Clone, Debug)]
pub enum Target {
    /// Another directory of the view, by its path from the root.
    Folder(Arc<[u8]>),
    /// A symlink.
    Link(Arc<[u8]>),
    /// The tree of a snapshot.
    Snapshot(Arc<Snapshot>),
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
    pub items: Vec<Item>,
    by_name: HashMap<Arc<[u8]>, usize>,
    /// Changes whenever a name in it does.
    pub mtime: Timestamp,
}

impl Folder {
    /// A name in it.
    pub fn item(&self, name: &[u8]) -> Option<&Item> {
        self.by_name.get(name).map(|i| &self.items[*i])
    }

    /// The names after a cookie.
    pub fn after(&self, cookie: u64) -> &[Item] {
        &self.items[self.items.partition_point(|i| i.cookie <= cookie)..]
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

/// All names at the root of a mount, at one moment.
#[derive(Debug, Default)]
pub struct View {
    folders: HashMap<Arc<[u8]>, Folder>,
    /// Snapshots with their names, by id.
    shown: BTreeMap<ObjectId, (Arc<[u8]>, Arc<Snapshot>)>,
}

impl View {
    /// The names for the snapshots that a filter shows.
    pub fn new(catalog: &Catalog, filter: &Filter) -> Self {
        let mut snapshots: Vec<_> = catalog.snapshots.iter().filter(|s| filter.shows(s)).collect();
        snapshots.sort_by_key(|s| (s.time_ns, s.id));
        let names = names::of_snapshots(&snapshots);
        let mut tree = Builder::default();
        for fixed in ["snapshots", "ids", "hosts", "tags", "sources"] {
            tree.folder(&[fixed.as_bytes()]);
        }
        let mut shown = BTreeMap::new();
        for (snapshot, name) in snapshots.iter().zip(names) {
            let cookie = cookie_of(snapshot);
            tree.put(&[b"snapshots"], &name, cookie, Target::Snapshot((*snapshot).clone()));
            let id = snapshot.id.to_string();
            tree.put(&[b"ids"], id.as_bytes(), cookie, link(1, &name));
            let host = safe_name(snapshot.origin.as_bytes());
            let mut places: Vec<[Vec<u8>; 2]> = vec![[b"hosts".to_vec(), host]];
            places.extend(snapshot.tags.iter().map(|t| [b"tags".to_vec(), safe_name(t.as_bytes())]));
            places.extend(snapshot.roots.iter().map(|r| [b"sources".to_vec(), escape_path(r)]));
            for place in &places {
                let place = [&place[0][..], &place[1][..]];
                tree.put(&place, &name, cookie, link(2, &name));
                // Oldest first: the last one stays.
                tree.put(&place, b"latest", FIRST_COOKIE, link(2, &name));
            }
            tree.put(&[], b"latest", FIRST_COOKIE, link(0, &name));
            shown.insert(snapshot.id, (name.into(), (*snapshot).clone()));
        }
        let newest = snapshots.last().map_or(0, |s| s.time_ns);
        Self { folders: tree.finish(timestamp(newest)), shown }
    }

    /// Takes over the times of directories that are the same in an older view, gives the others a newer one than they
    /// had, and says what differs.
    pub fn succeed(&mut self, older: &Self, now_ns: i64) -> Vec<Change> {
        let mut changes = Vec::new();
        for (path, folder) in &mut self.folders {
            let Some(old) = older.folders.get(path) else { continue };
            folder.mtime = old.mtime;
            if folder.is_like(old) {
                continue;
            }
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
        changes
    }

    /// A directory, by its path from the root; the root's is empty.
    pub fn folder(&self, path: &[u8]) -> Option<&Folder> {
        self.folders.get(path)
    }

    /// Snapshots that are shown.
    pub fn snapshots(&self) -> impl ExactSizeIterator<Item = &Arc<Snapshot>> {
        self.shown.values().map(|(_, s)| s)
    }

    /// An id, or the beginning of one that fits a single snapshot, as a link to it: Plakar's own layout, not listed.
    pub fn by_prefix(&self, digits: &[u8]) -> Option<Arc<[u8]>> {
        let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if !(MIN_PREFIX..=64).contains(&digits.len()) || !digits.iter().all(hex) {
            return None;
        }
        let mut first = [b'0'; 64];
        first[..digits.len()].copy_from_slice(digits);
        let first = ObjectId::from_hex(std::str::from_utf8(&first).ok()?)?;
        let mut fits =
            self.shown.range(first..).take_while(|(id, _)| id.to_string().as_bytes().starts_with(digits));
        let (_, (name, _)) = fits.next()?;
        fits.next().is_none().then(|| match link(0, name) {
            Target::Link(to) => to,
            Target::Folder(_) | Target::Snapshot(_) => name.clone(),
        })
    }
}

/// A link to a snapshot's directory from so many directories below the root.
fn link(depth: usize, name: &[u8]) -> Target {
    let mut to = b"../".repeat(depth);
    to.extend_from_slice(b"snapshots/");
    to.extend_from_slice(name);
    Target::Link(to.into())
}

/// Listings go by time: microseconds, and eight bits that tell snapshots of one moment apart.
fn cookie_of(snapshot: &Snapshot) -> u64 {
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
    folders: BTreeMap<Vec<u8>, Names>,
}

/// Names of a folder: cookie and target of each.
type Names = BTreeMap<Vec<u8>, (u64, Target)>;

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
                self.folders.insert(at.clone(), Names::new());
                // Names that are not snapshots: any order will do, as long as it is theirs.
                let hash = blake3::hash(part);
                let cookie = hash.as_bytes().first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
                let cookie = (cookie >> 2).max(FIRST_COOKIE + 1);
                let target = Target::Folder(at.as_slice().into());
                self.folders.entry(above).or_default().insert(part.to_vec(), (cookie, target));
            }
        }
        at
    }

    fn put(&mut self, folder: &[&[u8]], name: &[u8], cookie: u64, target: Target) {
        let path = self.folder(folder);
        self.folders.entry(path).or_default().insert(name.to_vec(), (cookie, target));
    }

    fn finish(self, mtime: Timestamp) -> HashMap<Arc<[u8]>, Folder> {
        let close = |names: Names| {
            let mut items: Vec<Item> = names
                .into_iter()
                .map(|(name, (cookie, target))| Item { name: name.into(), cookie, target })
                .collect();
            items.sort_by(|a, b| (a.cookie, &a.name).cmp(&(b.cookie, &b.name)));
            for i in 1..items.len() {
                items[i].cookie = items[i].cookie.max(items[i - 1].cookie + 1);
            }
            let by_name = items.iter().enumerate().map(|(i, item)| (item.name.clone(), i)).collect();
            Folder { items, by_name, mtime }
        };
        self.folders.into_iter().map(|(path, names)| (path.into(), close(names))).collect()
    }
}

#[cfg(test)]
mod tests;
