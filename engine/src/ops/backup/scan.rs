//! Scanning: walks the source in order, decides what has changed, hands changed files to the readers in units.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::ahead::{Ahead, Entries, Opened, Visit};
use super::assemble::{Assembly, Begin, Directory, Page, Slot, missing};
use super::compare::{Beside, Found};
use super::exclude::Excludes;
use super::read::{FileTask, Unit, usable_flags, usable_xattrs};
use crate::error::{Error, Result};
use crate::id::BlobId;
use crate::importer::{LeftOut, SourceDirectory, SourceEntry, Stamp};
use crate::meta::{Kind, Metadata};
use crate::monitor::{Event, Monitor};
use crate::trail::Trail;
use crate::tree::{Detail, Entry};

/// A unit is handed out when its files reach this size, or this number.
const UNIT_BYTES: u64 = 256 << 10;
const UNIT_FILES: usize = 256;

/// A directory to walk.
struct Todo {
    parent: Option<(Arc<Page>, usize)>,
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
    Below(Arc<Visit>),
    /// It stays empty.
    Empty,
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
pub(super) fn scan(
    assembly: &Arc<Assembly>,
    roots: &[Vec<u8>],
    excludes: &Excludes,
    units: Sender<Unit>,
) -> Result<()> {
    let ahead = Ahead::new(Beside {
        run: &assembly.run,
        previous: &assembly.previous,
        excludes,
        change_by: assembly.change_by,
    });
    std::thread::scope(|s| {
        ahead.start(s);
        let mut walk = Walk { assembly, units, unit: Unit::default(), ahead: &ahead, stack: Vec::new() };
        let walked = walk.run(roots);
        ahead.close();
        walked
    })
}

/// A directory that is being walked.
struct Level {
    directory: Arc<Directory>,
    /// What is still to come of it; `None` if that was all.
    opened: Option<Opened>,
    /// Pages that were begun.
    pages: usize,
    /// The directories of the last of them that are still to be walked.
    todo: VecDeque<Todo>,
}

struct Walk<'a> {
    assembly: &'a Arc<Assembly>,
    units: Sender<Unit>,
    unit: Unit,
    ahead: &'a Ahead<'a>,
    stack: Vec<Level>,
}

impl Walk<'_> {
    fn run(&mut self, roots: &[Vec<u8>]) -> Result<()> {
        let source = &self.assembly.source;
        let way = Way::to(roots);
        self.find_one(roots)?;
        let mut own = self.own_entry(&source.entry(b"/").unwrap_or_else(|_e| plain_directory(b"")));
        own.name = b".".to_vec();
        let what = if way.root { What::Root } else { What::Way(way) };
        let previous = self.assembly.previous.root();
        self.enter(Todo { parent: None, own, previous, what })?;
        while let Some(level) = self.stack.last_mut() {
            self.assembly.run.check()?;
            if let Some(todo) = level.todo.pop_front() {
                self.enter(todo)?;
            } else if !self.next_page()?
                && let Some(level) = self.stack.pop()
            {
                level.directory.end(self.assembly)?;
            }
        }
        self.hand_out()
    }

    /// Fails if there is none of the roots: with one of them at least there is something to back up.
    fn find_one(&self, roots: &[Vec<u8>]) -> Result<()> {
        let mut failure = None;
        for root in roots {
            match self.assembly.source.entry(root) {
                Ok(_) => return Ok(()),
                Err(e) => failure = failure.or(Some((root, e))),
            }
        }
        let Some((root, source)) = failure else { return Ok(()) };
        Err(Error::Import { what: String::from_utf8_lossy(root).into_owned(), source })
    }

    fn own_entry(&self, now: &SourceEntry) -> Entry {
        let node = BlobId([0; 32]);
        self.assembly.entry(now, Detail::Directory { node, below: Default::default(), partial: false })
    }

    /// Begins one directory.
    fn enter(&mut self, todo: Todo) -> Result<()> {
        let Todo { parent, mut own, previous, what } = todo;
        let assembly = self.assembly.clone();
        let trail = match (&parent, &what) {
            (_, What::Below(visit)) => visit.trail().clone(),
            (Some((page, _)), _) => page.directory.trail.join(&own.name),
            (None, _) => Trail::default(),
        };
        let path = trail.path(b"/");
        tracing::trace!(path = %String::from_utf8_lossy(&path), "enters");
        let opened = match what {
            What::Way(way) => return self.way(Begin { parent, trail, own }, &path, previous, way),
            What::Empty => return self.empty(Begin { parent, trail, own }),
            What::Root => assembly.source.directory(&path).and_then(|handle| {
                own.xattrs = usable_xattrs(self.assembly, &path, handle.own_xattrs(), &mut own.error);
                self.ahead.list(handle, &trail, previous)
            }),
            What::Below(visit) => self.ahead.take(&visit),
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(e) => {
                assembly.report(&path, &e.to_string());
                own.error = Some(e.to_string());
                let (node, below) = (BlobId([0; 32]), Default::default());
                own.detail = Detail::Directory { node, below, partial: true };
                return self.empty(Begin { parent, trail, own });
            }
        };
        own.flags = usable_flags(self.assembly, &path, opened.handle.own_flags(), &mut own.error);
        assembly.monitor.event(Event::Entry { path: &path, bytes: 0 });
        let known = opened.known().unwrap_or_default();
        let directory = Directory::begin(Begin { parent, trail, own }, known);
        self.stack.push(Level { directory, opened: Some(opened), pages: 0, todo: VecDeque::new() });
        Ok(())
    }

    /// A directory that stays empty.
    fn empty(&self, begin: Begin) -> Result<()> {
        let directory = Directory::partial(begin);
        Page::begin(&directory, 0, true, Vec::new()).done(self.assembly)?;
        directory.end(self.assembly)
    }

    /// A directory that shows only the way to roots.
    fn way(&mut self, begin: Begin, path: &[u8], previous: Option<BlobId>, way: Way) -> Result<()> {
        let assembly = self.assembly.clone();
        let source = &assembly.source;
        let mut begin = begin;
        if let Ok(d) = source.directory(path) {
            begin.own.xattrs = d.own_xattrs().unwrap_or_default();
            begin.own.flags = d.own_flags().unwrap_or_default();
        }
        let mut before = assembly.previous.directory(path, previous);
        // Asked for in the order of names.
        let mut node_of = |name: &[u8]| {
            let before = before.as_mut()?;
            while before.next_if(&assembly.previous, |e| e.name.as_slice() < name).is_some() {}
            let (_, was) = before.next_if(&assembly.previous, |e| e.name == name)?;
            was.directory().map(|(node, _)| node)
        };
        let directory = Directory::partial(begin);
        let (mut nows, mut slots) = (Vec::new(), Vec::new());
        for (name, below) in way.below {
            let at = directory.path_of(&name);
            let mut now = match source.entry(&at) {
                Ok(now) => now,
                Err(e) if below.root => {
                    assembly.report(&at, &e.to_string());
                    slots.push(Slot { entry: Some(missing(&name, &e)), ..Slot::default() });
                    continue;
                }
                Err(_) => plain_directory(&name),
            };
            now.name = name;
            let slot = Slot { stamp: now.stamp, ..Slot::default() };
            nows.push((slots.len(), now, below));
            slots.push(slot);
        }
        let page = Page::begin(&directory, 0, true, slots);
        let mut todo = VecDeque::new();
        for (slot, now, below) in nows {
            if now.meta.kind == Kind::Directory {
                let what = if below.root { What::Root } else { What::Way(below) };
                let (own, previous) = (self.own_entry(&now), node_of(&now.name));
                todo.push_back(Todo { parent: Some((page.clone(), slot)), own, previous, what });
                continue;
            }
            let handle = source
                .directory(path)
                .map_err(|e| Error::Import { what: String::from_utf8_lossy(path).into_owned(), source: e })?;
            self.changed(&page, &handle, slot, now)?;
        }
        page.done(&assembly)?;
        self.stack.push(Level { directory, opened: None, pages: 1, todo });
        Ok(())
    }

    /// Settles some more of the directory entered last: all that needs no reading. `false` if there is no more.
    fn next_page(&mut self) -> Result<bool> {
        let assembly = self.assembly.clone();
        let Some(level) = self.stack.last_mut() else { return Ok(false) };
        let Some(mut opened) = level.opened.take() else { return Ok(false) };
        let (directory, number) = (level.directory.clone(), level.pages);
        let key = assembly.run.repository().keys().chunker();
        let page = match opened.next_page(self.ahead, key) {
            Ok(page) => page,
            Err(e) => {
                assembly.report(&directory.trail.path(b"/"), &e.to_string());
                directory.is_broken(e.to_string());
                (number == 0).then_some(Entries { found: Vec::new(), all: true })
            }
        };
        if opened.is_less() {
            directory.is_changed();
        }
        let Some(Entries { found, all }) = page else { return Ok(false) };
        let todo = self.settle(&directory, &mut opened, number, found, all)?;
        if let Some(level) = self.stack.last_mut() {
            level.pages += 1;
            level.todo = todo;
            level.opened = (!all).then_some(opened);
        }
        Ok(true)
    }

    /// Takes over what is as it was, and sees to the rest; gives the directories that are to be walked.
    fn settle(
        &mut self,
        directory: &Arc<Directory>,
        opened: &mut Opened,
        number: usize,
        found: Vec<Found>,
        all: bool,
    ) -> Result<VecDeque<Todo>> {
        let assembly = self.assembly.clone();
        let mut slots = Vec::with_capacity(found.len());
        let mut files: Vec<(usize, SourceEntry)> = Vec::new();
        let mut directories = Vec::new();
        // The path of each entry in turn.
        let mut at = directory.path_of(b"");
        let above = at.len();
        for found in found {
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
                    let extra = was.as_ref().and_then(|was| was.extra.clone());
                    let stamp = now.stamp;
                    directories.push((slots.len(), now, node, xattrs, extra));
                    slots.push(Slot { entry: None, expected: was.map(Box::new), stamp });
                }
                Found::Contents(now, was) => {
                    directory.is_changed();
                    let mut entry = assembly.entry(&now, was.detail);
                    entry.extra = was.extra;
                    let read = opened.handle.xattrs(&now.name);
                    entry.xattrs = usable_xattrs(self.assembly, &at, read, &mut entry.error);
                    let read = opened.handle.flags(&now.name).map(|found| found.unwrap_or(was.flags));
                    entry.flags = usable_flags(self.assembly, &at, read, &mut entry.error);
                    assembly.monitor.event(Event::Entry { path: &at, bytes: entry.meta.size });
                    slots.push(Slot { entry: Some(entry), expected: None, stamp: now.stamp });
                }
                Found::Changed(now) => {
                    directory.is_changed();
                    let stamp = now.stamp;
                    files.push((slots.len(), now));
                    slots.push(Slot { stamp, ..Slot::default() });
                }
                Found::Failed(name, e) => {
                    directory.is_changed();
                    assembly.report(&at, &e.to_string());
                    slots.push(Slot { entry: Some(missing(&name, &e)), ..Slot::default() });
                }
                Found::Unstorable(_) => {
                    assembly.report(&at, "its name is too long for the store's format");
                }
                Found::Gone(_) => assembly.previous.forget(&at),
            }
        }
        let page = Page::begin(directory, number, all, slots);
        for (slot, now) in files {
            self.changed(&page, &opened.handle, slot, now)?;
        }
        let mut todo = VecDeque::with_capacity(directories.len());
        for (slot, now, previous, xattrs, extra) in directories {
            let mut own = Entry { extra, ..self.own_entry(&now) };
            own.xattrs = match xattrs {
                Some(xattrs) => xattrs,
                None => {
                    let at = directory.path_of(&now.name);
                    let read = opened.handle.xattrs(&now.name);
                    usable_xattrs(self.assembly, &at, read, &mut own.error)
                }
            };
            let what = match opened.below(&now.name) {
                Some(visit) => What::Below(visit),
                None if now.left_out.is_some() => {
                    if now.left_out == Some(LeftOut::OwnMount) {
                        own_mount_left_out(assembly.monitor.as_ref(), &directory.path_of(&now.name));
                    }
                    What::Empty
                }
                None => return Err(Error::Bug("a directory was not listed")),
            };
            todo.push_back(Todo { parent: Some((page.clone(), slot)), own, previous, what });
        }
        page.done(&assembly)?;
        Ok(todo)
    }

    /// Something new or changed that is no directory.
    fn changed(
        &mut self,
        page: &Arc<Page>,
        handle: &Arc<dyn SourceDirectory>,
        slot: usize,
        now: SourceEntry,
    ) -> Result<()> {
        // Also where the size says that there is nothing in it: some sources cannot know.
        if now.meta.kind == Kind::Regular {
            self.unit.bytes += now.meta.size;
            self.unit.files.push(FileTask { page: page.clone(), handle: handle.clone(), slot, now });
            if self.unit.bytes >= UNIT_BYTES || self.unit.files.len() >= UNIT_FILES {
                self.hand_out()?;
            }
            return Ok(());
        }
        let path = page.directory.path_of(&now.name);
        let detail = match &now.target {
            Some(target) => Detail::Symlink(target.clone()),
            None => Detail::Special,
        };
        let mut entry = self.assembly.entry(&now, detail);
        entry.xattrs = usable_xattrs(self.assembly, &path, handle.xattrs(&now.name), &mut entry.error);
        self.assembly.monitor.event(Event::Entry { path: &path, bytes: 0 });
        page.fill(self.assembly, slot, entry)
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

/// Says that a mount of a store stays empty.
pub(super) fn own_mount_left_out(monitor: &dyn Monitor, path: &[u8]) {
    let path = String::from_utf8_lossy(path);
    let text = format!("{path} is left out: a store is mounted there (name it to back it up)");
    monitor.event(Event::Notice { text: &text });
}

fn plain_directory(name: &[u8]) -> SourceEntry {
    SourceEntry {
        name: name.to_vec(),
        meta: Metadata::directory(0o755),
        stamp: Stamp::default(),
        file: (0, 0),
        links: 1,
        sparse: false,
        target: None,
        left_out: None,
    }
}
