//! Scanning: walks the source in order, decides what has changed, hands changed files to the readers in units.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::ahead::{Ahead, Job};
use super::assemble::{Assembly, Begin, Directory, Slot, join, missing};
use super::exclude::Excludes;
use super::previous::PreviousDirectory;
use super::read::{FileTask, Unit};
use crate::error::{Error, Result};
use crate::id::BlobId;
use crate::importer::{ImportError, Listed, SourceDirectory, SourceEntry, Stamp};
use crate::meta::{Kind, Metadata};
use crate::monitor::Event;
use crate::tree::{Contents, Detail, Entry};

/// A unit is handed out when its files reach this size, or this number.
const UNIT_BYTES: u64 = 256 << 10;
const UNIT_FILES: usize = 256;

/// A directory to walk.
struct Todo {
    parent: Option<(Arc<Directory>, usize)>,
    path: Vec<u8>,
    /// Its entry, without node; its stamp stands in the parent's slot.
    own: Entry,
    previous: Option<BlobId>,
    what: What,
}

enum What {
    /// Shows only the way to the roots.
    Way(Way),
    /// A root: opened by path.
    Root,
    /// Anything below.
    Below(Arc<Job>),
    /// Another file system, which stays empty.
    MountPoint,
}

/// The part of the tree above the roots.
#[derive(Default)]
struct Way {
    below: BTreeMap<Vec<u8>, Self>,
    root: bool,
}

impl Way {
    fn to(roots: &[Vec<u8>]) -> Self {
        let mut top = Self::default();
        for root in roots {
            let mut at = &mut top;
            for part in root.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
                at = at.below.entry(part.to_vec()).or_default();
            }
            at.root = true;
        }
        top
    }
}

/// Walks the whole source. Ends early when the run fails or is cancelled.
pub(super) fn scan(assembly: &Arc<Assembly>, excludes: &Excludes, units: Sender<Unit>) -> Result<()> {
    let ahead = Ahead::default();
    std::thread::scope(|s| {
        ahead.start(s);
        let mut walk =
            Walk { assembly, excludes, units, unit: Unit::default(), ahead: &ahead, stack: Vec::new() };
        let walked = walk.run();
        ahead.close();
        walked
    })
}

struct Walk<'a> {
    assembly: &'a Arc<Assembly>,
    excludes: &'a Excludes,
    units: Sender<Unit>,
    unit: Unit,
    ahead: &'a Ahead,
    stack: Vec<Todo>,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        let source = &self.assembly.source;
        let way = Way::to(source.roots());
        let mut own = self.own_entry(&source.entry(b"/").unwrap_or_else(|_e| plain_directory(b"")));
        own.name = b".".to_vec();
        let what = if way.root { What::Root } else { What::Way(way) };
        let previous = self.assembly.previous.root();
        self.stack.push(Todo { parent: None, path: b"/".to_vec(), own, previous, what });
        while let Some(todo) = self.stack.pop() {
            self.assembly.run.check()?;
            self.directory(todo)?;
        }
        self.hand_out()
    }

    fn own_entry(&self, now: &SourceEntry) -> Entry {
        let node = BlobId([0; 32]);
        self.assembly.entry(now, Detail::Directory { node, below: Default::default() })
    }

    /// Begins one directory: everything in it that needs no reading is settled here.
    fn directory(&mut self, todo: Todo) -> Result<()> {
        let Todo { parent, path, mut own, previous, what } = todo;
        let assembly = self.assembly.clone();
        let (opened, cached) = match what {
            What::Way(way) => return self.way(Begun { parent, path, own, previous }, way),
            What::MountPoint => {
                let begin =
                    Begin { parent, path, own, slots: vec![], changed: true, node: None, cached: false };
                return Directory::begin(begin).done(&assembly);
            }
            What::Root => {
                let opened = assembly.source.directory(&path).and_then(|d| {
                    own.xattrs = self.xattrs(&path, d.own_xattrs(), &mut own.error);
                    let listed = d.list()?;
                    Ok((d, listed))
                });
                (opened, true)
            }
            What::Below(job) => (self.ahead.take(&job), true),
        };
        let (handle, listed) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                assembly.report(&path, &e.to_string());
                own.error = Some(e.to_string());
                let begin =
                    Begin { parent, path, own, slots: vec![], changed: true, node: None, cached: false };
                return Directory::begin(begin).done(&assembly);
            }
        };
        assembly.monitor.event(Event::Entry { path: &path, bytes: 0 });
        let before = assembly.previous.directory(&path, previous);
        self.settle(Begun { parent, path, own, previous: None }, &handle, listed, before, cached)
    }

    /// A directory that shows only the way to roots.
    fn way(&mut self, begun: Begun, way: Way) -> Result<()> {
        let Begun { parent, path, mut own, previous } = begun;
        let assembly = self.assembly.clone();
        let source = &assembly.source;
        if let Ok(d) = source.directory(&path) {
            own.xattrs = d.own_xattrs().unwrap_or_default();
        }
        let before = assembly.previous.directory(&path, previous);
        let node_of = |name: &[u8]| {
            let entries = &before.as_ref()?.entries;
            let i = entries.binary_search_by(|(_, e)| e.name.as_slice().cmp(name)).ok()?;
            entries[i].1.directory().map(|(node, _)| node)
        };
        let mut nows = Vec::new();
        for (name, below) in way.below {
            let at = join(&path, &name);
            let mut now = match source.entry(&at) {
                Ok(now) => now,
                Err(e) if below.root => {
                    return Err(Error::Import { what: String::from_utf8_lossy(&at).into_owned(), source: e });
                }
                Err(_) => plain_directory(&name),
            };
            now.name = name;
            nows.push((now, below));
        }
        let slots = nows.iter().map(|(now, _)| Slot { stamp: now.stamp, ..Slot::default() }).collect();
        let begin =
            Begin { parent, path: path.clone(), own, slots, changed: true, node: None, cached: false };
        let directory = Directory::begin(begin);
        for (slot, (now, below)) in nows.into_iter().enumerate().rev() {
            let at = join(&path, &now.name);
            if now.meta.kind == Kind::Directory {
                let what = if below.root { What::Root } else { What::Way(below) };
                let (own, previous) = (self.own_entry(&now), node_of(&now.name));
                self.stack.push(Todo {
                    parent: Some((directory.clone(), slot)),
                    path: at,
                    own,
                    previous,
                    what,
                });
                continue;
            }
            let handle = source.directory(&path).map_err(|e| Error::Import {
                what: String::from_utf8_lossy(&path).into_owned(),
                source: e,
            })?;
            self.changed(&directory, &handle, slot, now)?;
        }
        directory.done(&assembly)
    }

    /// Compares what is there with what was there.
    fn settle(
        &mut self,
        begun: Begun,
        handle: &Arc<dyn SourceDirectory>,
        listed: Vec<Listed>,
        before: Option<PreviousDirectory>,
        cached: bool,
    ) -> Result<()> {
        let Begun { parent, path, own, .. } = begun;
        let assembly = self.assembly.clone();
        let node = before.as_ref().map(|b| b.node);
        let mut then = before.map(|b| b.entries).unwrap_or_default().into_iter().peekable();
        let mut changed = node.is_none();
        let mut slots = Vec::with_capacity(listed.len());
        let mut open: Vec<(usize, SourceEntry, Option<BlobId>)> = Vec::new();
        for (name, now) in listed {
            if !crate::tree::is_valid_name(&name) {
                assembly.report(&join(&path, &name), "its name is too long for the store's format");
                continue;
            }
            let directory = matches!(&now, Ok(n) if n.meta.kind == Kind::Directory);
            if self.excludes.excludes(&join(&path, &name), directory) {
                continue;
            }
            // What was there and stands before this name is gone.
            while let Some((_, e)) = then.next_if(|(_, e)| e.name < name) {
                changed = true;
                self.forget(&path, &e);
            }
            let was = then.next_if(|(_, e)| e.name == name);
            let now = match now {
                Ok(now) => now,
                Err(e) => {
                    assembly.report(&join(&path, &name), &e.to_string());
                    changed = true;
                    slots.push(Slot { entry: Some(missing(&name, &e)), ..Slot::default() });
                    continue;
                }
            };
            let stamp = now.stamp;
            if now.meta.kind == Kind::Directory {
                let was = was.filter(|(_, e)| e.directory().is_some());
                let below = was.as_ref().and_then(|(_, e)| e.directory()).map(|(node, _)| node);
                open.push((slots.len(), now, below));
                slots.push(Slot { entry: None, expected: was.map(|(_, e)| e), stamp });
                continue;
            }
            if let Some((then_stamp, entry)) = was {
                if assembly.previous.is_unchanged(then_stamp, &entry, &now, |id| assembly.run.is_known(id))? {
                    let at = join(&path, &name);
                    assembly.monitor.event(Event::Entry { path: &at, bytes: entry.meta.size });
                    slots.push(Slot { entry: Some(entry), expected: None, stamp });
                    continue;
                }
                self.forget(&path, &entry);
            }
            changed = true;
            open.push((slots.len(), now, None));
            slots.push(Slot { stamp, ..Slot::default() });
        }
        for (_, e) in then {
            changed = true;
            self.forget(&path, &e);
        }
        let begin = Begin { parent, path, own, slots, changed, node, cached };
        let directory = Directory::begin(begin);
        let mut jobs = Vec::new();
        let first = self.stack.len();
        for (slot, now, previous) in open {
            if now.meta.kind != Kind::Directory {
                self.changed(&directory, handle, slot, now)?;
                continue;
            }
            let at = directory.path_of(&now.name);
            let mut own = self.own_entry(&now);
            own.xattrs = self.xattrs(&at, handle.xattrs(&now.name), &mut own.error);
            let what = if now.mount_point {
                What::MountPoint
            } else {
                let job = Arc::new(Job::new(handle.clone(), now.name));
                jobs.push(job.clone());
                What::Below(job)
            };
            self.stack.push(Todo { parent: Some((directory.clone(), slot)), path: at, own, previous, what });
        }
        // The first by name is walked first, and so is its listing.
        self.stack[first..].reverse();
        self.ahead.push(jobs.into_iter().rev());
        directory.done(&assembly)
    }

    fn forget(&self, parent: &[u8], entry: &Entry) {
        if entry.directory().is_some() {
            self.assembly.previous.forget(&join(parent, &entry.name));
        }
    }

    /// Something new or changed that is no directory.
    fn changed(
        &mut self,
        directory: &Arc<Directory>,
        handle: &Arc<dyn SourceDirectory>,
        slot: usize,
        now: SourceEntry,
    ) -> Result<()> {
        if now.meta.kind == Kind::Regular && now.meta.size > 0 {
            self.unit.bytes += now.meta.size;
            self.unit.files.push(FileTask {
                directory: directory.clone(),
                handle: handle.clone(),
                slot,
                now,
            });
            if self.unit.bytes >= UNIT_BYTES || self.unit.files.len() >= UNIT_FILES {
                self.hand_out()?;
            }
            return Ok(());
        }
        let path = directory.path_of(&now.name);
        let detail = match (now.meta.kind, &now.target) {
            (Kind::Regular, _) => Detail::Regular(Contents::default()),
            (_, Some(target)) => Detail::Symlink(target.clone()),
            _ => Detail::Special,
        };
        let mut entry = self.assembly.entry(&now, detail);
        entry.xattrs = self.xattrs(&path, handle.xattrs(&now.name), &mut entry.error);
        self.assembly.monitor.event(Event::Entry { path: &path, bytes: 0 });
        directory.fill(self.assembly, slot, entry)
    }

    fn xattrs(
        &self,
        path: &[u8],
        read: Result<Vec<crate::meta::Xattr>, ImportError>,
        error: &mut Option<String>,
    ) -> Vec<crate::meta::Xattr> {
        super::read::usable_xattrs(self.assembly, path, read, error)
    }

    fn hand_out(&mut self) -> Result<()> {
        if self.unit.files.is_empty() {
            return Ok(());
        }
        let next = Unit { number: self.unit.number + 1, ..Unit::default() };
        let unit = std::mem::replace(&mut self.unit, next);
        // Readers leave only when the run has failed.
        self.units.send(unit).map_err(|_closed| Error::Cancelled)
    }
}

struct Begun {
    parent: Option<(Arc<Directory>, usize)>,
    path: Vec<u8>,
    own: Entry,
    previous: Option<BlobId>,
}

fn plain_directory(name: &[u8]) -> SourceEntry {
    SourceEntry {
        name: name.to_vec(),
        meta: Metadata::directory(0o755),
        stamp: Stamp::default(),
        links: 1,
        sparse: false,
        target: None,
        mount_point: false,
    }
}
