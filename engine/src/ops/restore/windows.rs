//! Gathering: the tree is walked, and whatever has no contents made on the way, a window at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use super::fill::{File, Plan, Unplanned};
use super::{Job, add};
use crate::error::Result;
use crate::exporter::{Attributes, Made};
use crate::monitor::Event;
use crate::repository::report;
use crate::tree::{Detail, Entry};
use crate::vfs::is_damage;
use crate::walk::{Step, Walk};

/// A window ends when it has so many entries that wait for something, or pieces of files. The first one is small, so
/// that filling can begin, and each may be four times as large as the one before: frames that hold pieces of two
/// windows are opened twice.
const FIRST_ENTRIES: usize = 1024;
const MOST_ENTRIES: usize = 16_384;
const MOST_PIECES: usize = 32_768;

/// A part of the tree: what is left to do in it.
#[derive(Default)]
pub(super) struct Window {
    pub(super) plan: Plan,
    pub(super) links: Vec<Link>,
    /// Directories with all in them, deepest first.
    pub(super) finished: Vec<(Vec<u8>, Entry)>,
}

/// A further name of a file.
pub(super) struct Link {
    pub(super) path: Vec<u8>,
    pub(super) entry: Entry,
    /// The path of its first name.
    pub(super) first: Vec<u8>,
}

/// Walks, on a thread of its own: most steps need nothing but the processor.
pub(super) struct Gatherer {
    job: Arc<Job>,
    walk: Walk,
    /// Of each directory entered and not left, whether it was made by us.
    made: Vec<bool>,
    entries: usize,
    is_done: bool,
}

impl Gatherer {
    pub(super) fn new(job: Arc<Job>, entry: Entry, start: Vec<u8>) -> Self {
        let walk = Walk::new(job.vfs.clone(), entry, start);
        Self { job, walk, made: Vec::new(), entries: FIRST_ENTRIES, is_done: false }
    }

    /// Gathers all windows, each when there is room for it.
    pub(super) fn run(mut self, windows: &mpsc::Sender<Window>) -> Result<()> {
        while !self.is_done {
            // Nobody takes one any more when filling has failed.
            let Ok(room) = self.job.runtime.block_on(windows.reserve()) else { return Ok(()) };
            let window = self.window();
            if window.is_err() {
                self.job.failing.store(true, Ordering::Relaxed);
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
        let job = self.job.clone();
        let mut window = Window::default();
        let mut files = Vec::new();
        let mut pieces = 0;
        while files.len() + window.links.len() + window.finished.len() < self.entries && pieces < MOST_PIECES
        {
            job.cancel.check()?;
            if job.failing.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let Some(step) = job.runtime.block_on(self.walk.next()) else {
                self.is_done = true;
                break;
            };
            match step {
                Step::Unreadable(e) if is_damage(&e) => job.damaged(self.walk.path(), &report(&e)),
                Step::Unreadable(e) => return Err(e),
                Step::Enter(entry) => self.enter(&entry)?,
                Step::Leave(entry) => {
                    if self.made.pop() == Some(true) {
                        window.finished.push((self.walk.path().to_vec(), entry));
                    }
                }
                Step::Entry(entry) => {
                    let path = self.walk.path();
                    if let Some(first) = job.first_name(path, &entry) {
                        window.links.push(Link { path: path.to_vec(), entry, first });
                        continue;
                    }
                    let why = entry.error.as_deref().unwrap_or("unknown");
                    match entry.detail {
                        Detail::Missing => job.failed(path, &format!("was not backed up: {why}")),
                        Detail::Regular(c) if c.missing => {
                            job.failed(path, &format!("its contents were not backed up: {why}"));
                        }
                        Detail::Regular(_) => {
                            let made = job.made_of(path, &entry);
                            let Detail::Regular(contents) = entry.detail else { continue };
                            pieces += contents.items.len() << (8 * contents.level.min(2));
                            let file = File::new(path.to_vec(), entry.meta, entry.xattrs, made);
                            files.push(Unplanned { file, contents });
                        }
                        _ => job.special(path, &entry)?,
                    }
                }
            }
        }
        self.entries = (self.entries * 4).min(MOST_ENTRIES);
        window.plan = job.plan(files)?;
        Ok(Some(window))
    }

    fn enter(&mut self, entry: &Entry) -> Result<()> {
        let (job, path) = (&self.job, self.walk.path());
        let made = job.target.make_directory(path);
        self.made.push(matches!(made, Ok(Made::Yes)));
        if let Some(error) = &entry.error {
            job.failed(path, &format!("was not backed up whole: {error}"));
        }
        match made {
            Ok(Made::Yes) => add(&job.counts.directories, 1),
            Ok(Made::Kept) => {}
            Err(e) => {
                job.entry_failed(path, e)?;
                self.walk.skip();
            }
        }
        Ok(())
    }
}

impl Job {
    fn special(&self, path: &[u8], entry: &Entry) -> Result<()> {
        let target = match &entry.detail {
            Detail::Symlink(target) => Some(target.as_slice()),
            _ => None,
        };
        let attributes = Attributes { meta: &entry.meta, xattrs: &entry.xattrs };
        match self.target.make_special(path, target, attributes) {
            Ok((Made::Yes, missing)) => {
                if let Some(made) = self.made_of(path, entry) {
                    made.store(true, Ordering::Release);
                }
                add(&self.counts.others, 1);
                self.monitor.event(Event::Entry { path, bytes: 0 });
                self.incomplete(path, &missing);
            }
            Ok((Made::Kept, _)) => add(&self.counts.kept, 1),
            Err(e) => self.entry_failed(path, e)?,
        }
        Ok(())
    }
}
