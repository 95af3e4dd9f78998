//! Gathering: the tree is walked, and whatever has no contents made on the way, a window at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use super::fill::{Among, Draft, LongFile, Plan};
use super::links::{Fate, Name};
use super::{Restore, add};
use crate::error::{Result, is_damage, report};
use crate::exporter::Made;
use crate::monitor::Event;
use crate::trail::Trail;
use crate::tree::{Detail, Entry};
use crate::walk::{Step, Walk};

/// A window ends when it has so many entries that wait for something, or bytes of them, or its draft is full. The first
/// one is small, so that filling can begin, and each may be four times as large as the one before: frames that hold
/// pieces of two windows are opened twice.
const FIRST_ENTRIES: usize = 1024;
const MOST_ENTRIES: usize = 16_384;
const MOST_BYTES: usize = 16 << 20;

/// A part of the tree: what is left to do in it.
#[derive(Default)]
pub(super) struct Window {
    pub(super) plan: Plan,
    pub(super) links: Vec<Link>,
    /// Directories with all in them, deepest first.
    pub(super) finished: Vec<Finished>,
}

/// A further name of a file.
pub(super) struct Link {
    pub(super) directory: Trail,
    pub(super) entry: Entry,
    /// The group of names that it belongs to.
    pub(super) group: u64,
}

/// A directory that is to get its attributes.
pub(super) struct Finished {
    pub(super) trail: Trail,
    pub(super) entry: Entry,
}

/// Walks, on a thread of its own: most steps need nothing but the processor.
pub(super) struct Gatherer {
    restore: Arc<Restore>,
    walk: Walk,
    /// Of each directory entered and not left, whether it was made by us.
    made: Vec<bool>,
    /// A file whose pieces did not fit into the window before.
    long: Option<LongFile>,
    entries: usize,
    is_done: bool,
}

impl Gatherer {
    pub(super) fn new(restore: Arc<Restore>, entry: Entry, start: Vec<u8>) -> Self {
        let walk = Walk::new(restore.vfs.clone(), entry, start);
        Self { restore, walk, made: Vec::new(), long: None, entries: FIRST_ENTRIES, is_done: false }
    }

    /// Gathers all windows, each when there is room for it.
    pub(super) fn run(mut self, windows: &mpsc::Sender<Window>) -> Result<()> {
        while !self.is_done {
            // Nobody takes one any more when filling has failed.
            let Ok(room) = self.restore.runtime.block_on(windows.reserve()) else { return Ok(()) };
            let window = self.window();
            if window.is_err() {
                self.restore.failing.store(true, Ordering::Relaxed);
            }
            match window? {
                Some(window) => room.send(window),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Walks until a window is full. None if filling has failed.
    fn window(&mut self) -> Result<Option<Window>> {
        let restore = self.restore.clone();
        let (mut window, mut draft) = (Window::default(), Draft::default());
        let mut bytes = 0;
        loop {
            let entries = draft.files() + window.links.len() + window.finished.len();
            if entries >= self.entries || bytes >= MOST_BYTES || !draft.has_room() {
                break;
            }
            restore.cancel.check()?;
            if restore.failing.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if let Some(long) = self.long.take() {
                self.long = restore.draw_up_long(long, &mut draft)?;
                continue;
            }
            let Some(step) = restore.runtime.block_on(self.walk.next()) else {
                self.is_done = true;
                break;
            };
            match step {
                Step::Unreadable(e) if is_damage(&e) => restore.damaged(self.walk.path(), &report(&e)),
                Step::Unreadable(e) => return Err(e),
                Step::Enter(entry) => self.enter(&entry)?,
                Step::Leave(entry) => {
                    let made = self.made.pop() == Some(true);
                    match entry {
                        Ok(entry) if made => {
                            bytes += entry.weight() + 64;
                            window.finished.push(Finished { trail: self.walk.left().clone(), entry });
                        }
                        Err(e) if is_damage(&e) => restore.damaged(self.walk.path(), &report(&e)),
                        Err(e) => return Err(e),
                        Ok(_) => {}
                    }
                }
                Step::Entry(entry) => self.entry(entry, &mut window, &mut draft, &mut bytes)?,
            }
        }
        self.entries = (self.entries * 4).min(MOST_ENTRIES);
        window.plan = restore.plan(draft)?;
        Ok(Some(window))
    }

    fn entry(
        &mut self,
        entry: Entry,
        window: &mut Window,
        draft: &mut Draft,
        bytes: &mut usize,
    ) -> Result<()> {
        let (restore, path) = (&self.restore, self.walk.path());
        let why = entry.error.as_deref().unwrap_or("unknown");
        match &entry.detail {
            Detail::Missing => {
                restore.failed(path, &format!("was not backed up: {why}"));
                return Ok(());
            }
            Detail::Regular(c) if c.missing => {
                restore.failed(path, &format!("its contents were not backed up: {why}"));
                return Ok(());
            }
            _ => {}
        }
        let directory = self.walk.trail();
        let group = match restore.names.meet(&directory, &entry) {
            Name::Further(group) => {
                *bytes += entry.weight() + 64;
                window.links.push(Link { directory, entry, group });
                return Ok(());
            }
            Name::First(group) => Some(group),
            Name::Only => None,
        };
        if let Detail::Regular(_) = &entry.detail {
            self.long = restore.draw_up(directory, entry, group.map_or(Among::None, Among::First), draft)?;
            return Ok(());
        }
        restore.special(path, &entry, group).map(|_| ())
    }

    fn enter(&mut self, entry: &Entry) -> Result<()> {
        let (restore, path) = (&self.restore, self.walk.path());
        let made = restore.target.make_directory(path, entry.flags);
        self.made.push(matches!(made, Ok(Made::Yes)));
        restore.recorded(path, entry.error.as_deref());
        match made {
            Ok(Made::Yes) => add(&restore.counts.directories, 1),
            Ok(Made::Kept) => {}
            Err(e) => {
                restore.entry_failed(path, e)?;
                self.walk.skip();
            }
        }
        Ok(())
    }
}

impl Restore {
    /// Makes what has no contents; tells whether it did.
    pub(super) fn special(&self, path: &[u8], entry: &Entry, group: Option<u64>) -> Result<Made> {
        let target = match &entry.detail {
            Detail::Symlink(target) => Some(target.as_slice()),
            _ => None,
        };
        match self.target.make_special(path, target, entry.into()) {
            Ok((Made::Yes, missing)) => {
                group.into_iter().for_each(|group| self.names.settle(group, Fate::Made));
                add(&self.counts.others, 1);
                self.monitor.event(Event::Entry { path, bytes: 0 });
                self.incomplete(path, &missing);
                self.recorded(path, entry.error.as_deref());
                Ok(Made::Yes)
            }
            Ok((Made::Kept, _)) => {
                group.into_iter().for_each(|group| self.names.settle(group, Fate::Kept));
                add(&self.counts.kept, 1);
                Ok(Made::Kept)
            }
            Err(e) => self.entry_failed(path, e).map(|()| Made::Kept),
        }
    }
}
