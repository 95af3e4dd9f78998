//! Scanning: walks the source in order, decides what has changed, hands changed files to the readers in units.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::ahead::{Ahead, Job, Opened};
use super::assemble::{Assembly, Begin, Directory, Slot, join, missing};
use super::compare::Found;
use super::exclude::Excludes;
use super::read::{FileTask, Unit};
use crate::error::{Error, Result};
use crate::id::BlobId;
use crate::importer::{ImportError, SourceDirectory, SourceEntry, Stamp};
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
    let ahead = Ahead::new(&assembly.run, &assembly.previous, excludes);
    std::thread::scope(|s| {
        ahead.start(s);
        let mut walk = Walk { assembly, units, unit: Unit::default(), ahead: &ahead, stack: Vec::new() };
        let walked = walk.run();
        ahead.close();
        walked
    })
}

struct Walk<'a> {
    assembly: &'a Arc<Assembly>,
    units: Sender<Unit>,
    unit: Unit,
    ahead: &'a Ahead<'a>,
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
        let opened = match what {
            What::Way(way) => return self.way(Begun { parent, path, own, previous }, way),
            What::MountPoint => {
                let begin =
                    Begin { parent, path, own, slots: vec![], changed: true, node: None, cached: false };
                return Directory::begin(begin).done(&assembly);
            }
            What::Root => assembly.source.directory(&path).and_then(|handle| {
                own.xattrs = self.xattrs(&path, handle.own_xattrs(), &mut own.error);
                self.ahead.list(handle, &path, previous)
            }),
            What::Below(job) => self.ahead.take(&job),
        };
        let opened = match opened {
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
        self.settle(Begun { parent, path, own, previous: None }, opened)
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

    /// Takes over what is as it was, and sees to the rest.
    fn settle(&mut self, begun: Begun, mut opened: Opened) -> Result<()> {
        let Begun { parent, path, own, .. } = begun;
        let assembly = self.assembly.clone();
        let mut changed = opened.node.is_none();
        let mut slots = Vec::with_capacity(opened.entries.len());
        let mut files: Vec<(usize, SourceEntry)> = Vec::new();
        let mut directories = Vec::new();
        // The path of each entry in turn.
        let mut at = join(&path, b"");
        let above = at.len();
        for found in std::mem::take(&mut opened.entries) {
            at.truncate(above);
            at.extend_from_slice(found.name());
            match found {
                Found::Unchanged(stamp, entry) => {
                    assembly.monitor.event(Event::Entry { path: &at, bytes: entry.meta.size });
                    slots.push(Slot { entry: Some(entry), expected: None, stamp });
                }
                Found::Directory { now, was, untouched } => {
                    let node = was.as_ref().and_then(Entry::directory).map(|(node, _)| node);
                    let xattrs = was.as_ref().filter(|_| untouched).map(|was| was.xattrs.clone());
                    let stamp = now.stamp;
                    directories.push((slots.len(), now, node, xattrs));
                    slots.push(Slot { entry: None, expected: was.map(Box::new), stamp });
                }
                Found::Changed(now) => {
                    changed = true;
                    let stamp = now.stamp;
                    files.push((slots.len(), now));
                    slots.push(Slot { stamp, ..Slot::default() });
                }
                Found::Failed(name, e) => {
                    changed = true;
                    assembly.report(&at, &e.to_string());
                    slots.push(Slot { entry: Some(missing(&name, &e)), ..Slot::default() });
                }
                Found::Unstorable(_) => {
                    assembly.report(&at, "its name is too long for the store's format");
                }
                Found::Gone(entry) => {
                    changed = true;
                    if entry.directory().is_some() {
                        assembly.previous.forget(&at);
                    }
                }
            }
        }
        let node = opened.node;
        let begin = Begin { parent, path, own, slots, changed, node, cached: true };
        let directory = Directory::begin(begin);
        let first = self.stack.len();
        for (slot, now) in files {
            self.changed(&directory, &opened.handle, slot, now)?;
        }
        for (slot, now, previous, xattrs) in directories {
            let at = directory.path_of(&now.name);
            let mut own = self.own_entry(&now);
            own.xattrs = match xattrs {
                Some(xattrs) => xattrs,
                None => self.xattrs(&at, opened.handle.xattrs(&now.name), &mut own.error),
            };
            let what = match opened.below(&now.name) {
                Some(job) => What::Below(job),
                None if now.mount_point => What::MountPoint,
                None => return Err(Error::Bug("a directory was not listed")),
            };
            self.stack.push(Todo { parent: Some((directory.clone(), slot)), path: at, own, previous, what });
        }
        // The first by name is walked first.
        self.stack[first..].reverse();
        directory.done(&assembly)
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
