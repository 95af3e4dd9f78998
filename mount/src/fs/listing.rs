//! Listing directories, in batches that go on after a cookie.
//!
//! A cookie belongs to an entry. In a snapshot, where nothing changes, it is the entry's position; in a view, where
//! names come and go, it is the name's own.

use std::sync::Arc;

use plakar_engine::meta::Timestamp;
use plakar_engine::snapshot::Snapshot;
use plakar_engine::tree::{Detail, Entry};

use super::attr::Shape;
use super::folders::Run;
use super::inodes::Inode;
use super::names::Names;
use super::tree::Dir;
use super::{Attr, Holds, ROOT, SnapshotFs, name_of};
use crate::error::FsError;
use crate::view::{Folder, Item as ViewItem, Link, Target, View, join};

/// Cookies of `.` and `..`; the first entry's follows.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// Some entries of a directory.
#[derive(Debug)]
pub struct Stretch(Entries);

#[derive(Debug)]
enum Entries {
    /// `.` and `..`: their numbers, and how many of them are skipped.
    Dots([u64; 2], usize),
    /// Entries of a snapshot's directory, from a place in the run.
    Tree { dir: Arc<Dir>, run: Run, from: usize },
    /// Names of a directory of a view, from a place in it.
    View { view: Arc<View>, folder: Arc<Folder>, path: Arc<[u8]>, from: usize },
    /// The directory ends here.
    End,
}

/// One entry of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Where a listing goes on after it.
    pub cookie: u64,
    /// Its attributes; only number and kind mean anything for `.` and `..`, and they are not held.
    pub attr: Attr,
    /// How long the name leads there.
    pub holds: Holds,
    /// Whether it is `.` or `..`.
    pub dot: bool,
}

impl Stretch {
    /// Whether the directory has ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many places it has. Some may be entries that are not shown.
    pub fn len(&self) -> usize {
        match &self.0 {
            Entries::Dots(_, skip) => 2 - skip,
            Entries::Tree { run, from, .. } => run.entries.len() - from,
            Entries::View { folder, from, .. } => folder.len() - from,
            Entries::End => 0,
        }
    }
}

impl SnapshotFs {
    /// The entries of a directory after a cookie, 0 for the first.
    pub async fn list(&self, ino: u64, after: u64) -> Result<Stretch, FsError> {
        self.activity.lists.one();
        let inode = self.inode(ino).await?;
        if after < DOT_DOT {
            let parent = match &inode {
                Inode::Directory(dir) => self.parent_of(ino, dir),
                Inode::Folder(path) => self.parent_of_folder(path),
                Inode::Leaf(..) | Inode::Link(_) | Inode::Text(_) => return Err(FsError::NotDirectory),
            };
            return Ok(Stretch(Entries::Dots([ino, parent], after as usize)));
        }
        match inode {
            Inode::Directory(dir) => {
                // A position past any that can be: the end.
                let Ok(position) = u32::try_from(after - DOT_DOT) else { return Ok(Stretch(Entries::End)) };
                let run = self.within(&dir, None, self.folders.run_at(dir.node(), position)).await?;
                Ok(Stretch(match run {
                    Some(run) => {
                        let from = (position - run.start) as usize;
                        Entries::Tree { dir, run, from }
                    }
                    None if dir.entry.is_partial() => {
                        // Whoever took this for all would remove elsewhere what is missing here.
                        let (snapshot, path) = name_of(&dir, None);
                        let reason = dir.entry.error.as_deref().unwrap_or("for an unknown reason");
                        tracing::error!(
                            snapshot,
                            path,
                            reason,
                            "not all of it could be listed when it was backed up"
                        );
                        return Err(FsError::Failed);
                    }
                    None => Entries::End,
                }))
            }
            Inode::Folder(path) => {
                let view = self.view();
                let folder = self.folder(&view, &path).await?.ok_or(FsError::NotFound)?;
                let from = folder.after(after);
                Ok(Stretch(Entries::View { view, folder, path, from }))
            }
            Inode::Leaf(..) | Inode::Link(_) | Inode::Text(_) => Err(FsError::NotDirectory),
        }
    }

    /// An entry of a batch as a listing with attributes gives it: its inode is held until it is forgotten.
    pub fn hold<'a>(&self, batch: &'a Stretch, place: usize) -> Option<Item<'a>> {
        self.item_with(batch, place, true)
    }

    /// An entry of a batch as a plain listing gives it.
    pub fn item<'a>(&self, batch: &'a Stretch, place: usize) -> Option<Item<'a>> {
        self.item_with(batch, place, false)
    }

    fn item_with<'a>(&self, batch: &'a Stretch, place: usize, hold: bool) -> Option<Item<'a>> {
        match &batch.0 {
            Entries::Dots(numbers, skip) => {
                let i = place + skip;
                let (name, cookie) = [(&b"."[..], DOT), (&b".."[..], DOT_DOT)][i];
                let attr = self.owners.attr_of_view(numbers[i], Shape::Folder, Timestamp::default());
                Some(Item { name, cookie, attr, holds: Holds::Once, dot: true })
            }
            Entries::Tree { dir, run, from } => {
                let entry = run.entries.get(from + place)?;
                if matches!(entry.detail, Detail::Missing) {
                    return None;
                }
                let position = run.start + (from + place) as u32;
                let attr = match hold {
                    true => self.hold_entry(dir, entry, position),
                    false => {
                        let identity = self.numbers.of_entry(dir, entry, position);
                        self.owners.attr(identity.first_number(), entry)
                    }
                };
                let cookie = u64::from(position) + DOT_DOT + 1;
                Some(Item { name: &entry.name, cookie, attr, holds: Holds::ForEver, dot: false })
            }
            Entries::View { view, folder, path, from } => {
                let at = from + place;
                let Some(item) = folder.items().get(at) else {
                    let names = folder.names.as_ref()?;
                    let (rank, cookie) = names.listed(at - folder.items().len())?;
                    let attr = match hold {
                        true => self.hold_name(names, rank),
                        false => {
                            self.attr_of_name(self.numbers.of_name(names, rank).first_number(), names, rank)
                        }
                    };
                    let (name, holds) = (names.name(rank), Holds::WithTheView);
                    return Some(Item { name, cookie, attr, holds, dot: false });
                };
                let attr = match hold {
                    true => self.hold_item(view, path, item),
                    false => self.number_item(path, item),
                };
                let holds = Holds::of(&item.target);
                Some(Item { name: &item.name, cookie: item.cookie, attr, holds, dot: false })
            }
            Entries::End => None,
        }
    }

    /// Holds the inode of an entry of a directory.
    pub(super) fn hold_entry(&self, dir: &Arc<Dir>, entry: &Entry, position: u32) -> Attr {
        let identity = self.numbers.of_entry(dir, entry, position);
        let ino = self.inodes.hold_entry(&identity, dir.ino, position);
        match entry.directory().is_some() && dir.leads_to_root(entry) {
            true => self.owners.attr_above(ino, entry),
            false => self.owners.attr(ino, entry),
        }
    }

    /// Holds the inode of a name in a view.
    pub(super) fn hold_item(&self, view: &View, folder: &[u8], item: &ViewItem) -> Attr {
        match &item.target {
            Target::Link(link) => self.hold_link(&join(folder, &item.name), link),
            Target::Folder(path) => self.hold_folder(view, path),
            Target::Text(text) => {
                let identity = self.numbers.of_text(&join(folder, &item.name), text);
                let ino = self.inodes.hold(&identity, |_| Inode::Text(text.clone()));
                self.owners.attr_of_view(ino, Shape::Text(text.bytes.len()), text.mtime)
            }
            Target::Snapshot(snapshot) => self.hold_snapshot(snapshot),
        }
    }

    /// Holds the inode of a snapshot's recorded `/`.
    pub(super) fn hold_snapshot(&self, snapshot: &Arc<Snapshot>) -> Attr {
        self.attr_of_dir(&self.hold_top(snapshot))
    }

    /// Holds a snapshot's recorded `/`.
    pub(super) fn hold_top(&self, snapshot: &Arc<Snapshot>) -> Arc<Dir> {
        let top = |ino| Dir::top(snapshot.clone(), ino, &self.numbers);
        let ino = self.inodes.hold(&self.numbers.of_snapshot(&snapshot.id), |ino| Inode::Directory(top(ino)));
        top(ino)
    }

    /// Holds the inode of a directory of a view.
    pub(super) fn hold_folder(&self, view: &View, path: &Arc<[u8]>) -> Attr {
        let ino = self.inodes.hold(&self.numbers.of_folder(path), |_| Inode::Folder(path.clone()));
        self.owners.attr_of_view(ino, Shape::Folder, self.folder_time(view, path))
    }

    /// Holds the inode of a link in a view.
    pub(super) fn hold_link(&self, path: &[u8], link: &Arc<Link>) -> Attr {
        let ino = self.inodes.hold(&self.numbers.of_link(path, link), |_| Inode::Link(link.clone()));
        self.owners.attr_of_view(ino, Shape::Link(link.to.len()), link.mtime)
    }

    /// Holds the inode of the link of a rank.
    pub(super) fn hold_name(&self, names: &Arc<Names>, rank: u32) -> Attr {
        let ino = self.inodes.hold_name(&self.numbers.of_name(names, rank), names, rank);
        self.attr_of_name(ino, names, rank)
    }

    fn attr_of_name(&self, ino: u64, names: &Names, rank: u32) -> Attr {
        let link = names.link(rank);
        self.owners.attr_of_view(ino, Shape::Link(link.to.len()), link.mtime)
    }

    /// Number and kind of a name in a view.
    fn number_item(&self, folder: &[u8], item: &ViewItem) -> Attr {
        let path = || join(folder, &item.name);
        let (identity, shape) = match &item.target {
            Target::Link(link) => (self.numbers.of_link(&path(), link), Shape::Link(link.to.len())),
            Target::Text(text) => (self.numbers.of_text(&path(), text), Shape::Text(text.bytes.len())),
            Target::Folder(path) => (self.numbers.of_folder(path), Shape::Folder),
            Target::Snapshot(snapshot) => (self.numbers.of_snapshot(&snapshot.id), Shape::Folder),
        };
        self.owners.attr_of_view(identity.first_number(), shape, Timestamp::default())
    }

    fn parent_of(&self, ino: u64, dir: &Dir) -> u64 {
        if ino == ROOT {
            return ROOT;
        }
        match &dir.parent {
            Some(parent) => parent.ino,
            None => self.folder_number(b"snapshots"),
        }
    }

    fn parent_of_folder(&self, path: &[u8]) -> u64 {
        let up = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
        self.folder_number(&path[..up])
    }
}
