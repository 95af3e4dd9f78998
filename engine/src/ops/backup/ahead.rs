//! Listings read ahead of the walk by a few threads, and compared with what is known of each directory. A listing that
//! has been read brings those below it into the queue, so that the threads go on by themselves, in about the order in
//! which the walk will want them, and not further than a number of entries and of open directories. Of a huge directory
//! only the beginning is read ahead, and the rest some names at a time as the walk gets there.

use std::collections::VecDeque;
use std::sync::Arc;

use super::compare::{Beside, Comparison, Found};
use super::previous::Known;
use crate::id::BlobId;
use crate::importer::{ImportError, Listing, SourceDirectory};
use crate::trail::Trail;
use crate::tree::{Entry, build};
use parking_lot::{Condvar, Mutex};

/// Threads that read listings ahead.
const LISTERS: usize = 6;
/// Names that are asked for at once.
const SOME: usize = 4096;
/// Entries that may be listed and not yet walked.
const AHEAD_ENTRIES: usize = 20_000;
/// Directories that may be open for that.
const AHEAD_DIRECTORIES: usize = 256;

/// An open directory and what is in it.
pub(super) struct Opened {
    pub(super) handle: Arc<dyn SourceDirectory>,
    trail: Trail,
    /// `None` when it has ended.
    listing: Option<Box<dyn Listing>>,
    comparison: Comparison,
    /// What was compared and not yet taken.
    ready: VecDeque<Found>,
    /// The listings of the directories among that, but for mount points, by name.
    below: VecDeque<Arc<Visit>>,
    /// A page was taken.
    begun: bool,
}

/// Some entries of a directory, which become a page of its node.
pub(super) struct Entries {
    pub(super) found: Vec<Found>,
    /// They are all that it has.
    pub(super) all: bool,
}

impl Opened {
    /// What the file cache holds of it.
    pub(super) fn known(&self) -> Option<Known> {
        self.comparison.known()
    }

    /// Whether something that was in it, as far as it was taken, is not any more.
    pub(super) fn is_less(&self) -> bool {
        self.comparison.is_less
    }

    /// The listing of a directory in it; asked for in the order of names.
    pub(super) fn below(&mut self, name: &[u8]) -> Option<Arc<Visit>> {
        self.below.front().is_some_and(|visit| visit.name == name).then(|| self.below.pop_front()).flatten()
    }

    /// The entries of the next page. The first one may have none; `None` behind the last one.
    pub(super) fn next_page(
        &mut self,
        ahead: &Ahead<'_>,
        page_key: &[u8; 32],
    ) -> Result<Option<Entries>, ImportError> {
        if self.listing.is_none() && !self.begun && self.ready.len() < build::PAGE_LEAST {
            self.begun = true;
            return Ok(Some(Entries { found: std::mem::take(&mut self.ready).into(), all: true }));
        }
        let (mut found, mut held) = (Vec::with_capacity(self.ready.len()), 0);
        loop {
            while let Some(next) = self.ready.front() {
                if next.is_kept() {
                    if build::ends_page(page_key, held, next.name()) {
                        self.begun = true;
                        return Ok(Some(Entries { found, all: false }));
                    }
                    held += 1;
                }
                found.extend(self.ready.pop_front());
            }
            if !ahead.read_on(self)? {
                let first = !std::mem::replace(&mut self.begun, true);
                return Ok((first || !found.is_empty()).then_some(Entries { found, all: first }));
            }
        }
    }
}

/// A listing that somebody will read: a lister, or the walk itself when it gets there first.
pub(super) struct Visit {
    parent: Arc<dyn SourceDirectory>,
    name: Vec<u8>,
    trail: Trail,
    /// Its node in the previous snapshot, as its parent's entry there has it.
    node: Option<BlobId>,
    state: Mutex<VisitState>,
    changed: Condvar,
}

enum VisitState {
    Waiting,
    Running,
    Done(Box<Result<Opened, ImportError>>),
    Taken,
}

impl Visit {
    fn new(parent: Arc<dyn SourceDirectory>, above: &Trail, name: &[u8], node: Option<BlobId>) -> Self {
        let (state, changed) = (Mutex::new(VisitState::Waiting), Condvar::new());
        Self { parent, name: name.to_vec(), trail: above.join(name), node, state, changed }
    }

    /// Where the directory is.
    pub(super) fn trail(&self) -> &Trail {
        &self.trail
    }
}

#[derive(Default)]
struct Queue {
    visits: Vec<Arc<Visit>>,
    ahead_entries: usize,
    ahead_directories: usize,
    /// Threads that wait.
    idle: usize,
    closed: bool,
}

impl Queue {
    fn has_room(&self) -> bool {
        self.ahead_entries < AHEAD_ENTRIES && self.ahead_directories < AHEAD_DIRECTORIES
    }
}

/// Reads listings ahead.
pub(super) struct Ahead<'a> {
    beside: Beside<'a>,
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl<'a> Ahead<'a> {
    pub(super) fn new(beside: Beside<'a>) -> Self {
        Self { beside, queue: Mutex::default(), wake: Condvar::new() }
    }

    /// Lists an open directory; `node` is its own in the previous snapshot, if its parent there is known. What is below
    /// it is listed from now on.
    pub(super) fn list(
        &self,
        handle: Arc<dyn SourceDirectory>,
        trail: &Trail,
        node: Option<BlobId>,
    ) -> Result<Opened, ImportError> {
        let mut opened = Opened {
            listing: Some(handle.clone().list()?),
            handle,
            trail: trail.clone(),
            comparison: Comparison::new(self.beside.previous.directory(&trail.path(b"/"), node)),
            ready: VecDeque::new(),
            below: VecDeque::new(),
            begun: false,
        };
        self.read_on(&mut opened)?;
        Ok(opened)
    }

    /// Compares some more of a directory; `false` at its end.
    fn read_on(&self, opened: &mut Opened) -> Result<bool, ImportError> {
        let Some(listing) = &mut opened.listing else { return Ok(false) };
        let listed = listing.more(SOME)?;
        let before = opened.ready.len();
        opened.ready.reserve(listed.len());
        let is_end = listed.len() < SOME;
        let at = opened.trail.path_of(b"/", b"");
        opened.comparison.next(at, listed, &self.beside, &mut opened.ready);
        if is_end {
            opened.listing = None;
            opened.comparison.end(self.beside.previous, &mut opened.ready);
        }
        let mut visits = Vec::new();
        for found in opened.ready.range(before..) {
            if let Found::Directory { now, was, .. } = found
                && now.left_out.is_none()
            {
                let node = was.as_ref().and_then(Entry::directory).map(|(node, _)| node);
                visits.push(Arc::new(Visit::new(opened.handle.clone(), &opened.trail, &now.name, node)));
            }
        }
        self.push(&visits);
        opened.below.extend(visits);
        Ok(true)
    }

    fn list_visit(&self, visit: &Visit) -> Result<Opened, ImportError> {
        self.list(visit.parent.open_directory(&visit.name)?, &visit.trail, visit.node)
    }

    fn queue(&self) -> parking_lot::MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Adds listings; the first one is wanted first, and before all that were added earlier.
    fn push(&self, visits: &[Arc<Visit>]) {
        if visits.is_empty() {
            return;
        }
        let idle = {
            let mut q = self.queue();
            q.visits.extend(visits.iter().rev().cloned());
            q.idle
        };
        // Waking somebody costs more than most listings: none is woken for nothing.
        for _ in 0..visits.len().min(idle) {
            self.wake.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.queue().closed = true;
        self.wake.notify_all();
    }

    /// Starts the threads; they end when it is closed.
    pub(super) fn start<'s>(&'s self, scope: &'s std::thread::Scope<'s, '_>) {
        for _ in 0..LISTERS {
            scope.spawn(|| self.work());
        }
    }

    fn work(&self) {
        loop {
            let visit = {
                let mut q = self.queue();
                loop {
                    if q.closed {
                        return;
                    }
                    if q.has_room()
                        && let Some(visit) = q.visits.pop()
                    {
                        q.ahead_directories += 1;
                        break visit;
                    }
                    q.idle += 1;
                    self.wake.wait(&mut q);
                    q.idle -= 1;
                }
            };
            {
                let mut state = visit.state.lock();
                if !matches!(*state, VisitState::Waiting) {
                    self.queue().ahead_directories -= 1;
                    continue;
                }
                *state = VisitState::Running;
            }
            let listed = self.list_visit(&visit);
            self.queue().ahead_entries += listed.as_ref().map_or(0, |o| o.ready.len());
            *visit.state.lock() = VisitState::Done(Box::new(listed));
            visit.changed.notify_all();
        }
    }

    /// A listing, now.
    pub(super) fn take(&self, visit: &Visit) -> Result<Opened, ImportError> {
        let mut state = visit.state.lock();
        loop {
            match std::mem::replace(&mut *state, VisitState::Taken) {
                VisitState::Waiting | VisitState::Taken => {
                    drop(state);
                    return self.list_visit(visit);
                }
                VisitState::Running => {
                    *state = VisitState::Running;
                    visit.changed.wait(&mut state);
                }
                VisitState::Done(listed) => {
                    let listed = *listed;
                    drop(state);
                    let mut q = self.queue();
                    let had_room = q.has_room();
                    q.ahead_directories -= 1;
                    q.ahead_entries -= listed.as_ref().map_or(0, |o| o.ready.len());
                    let wake = !had_room && q.has_room();
                    drop(q);
                    if wake {
                        self.wake.notify_all();
                    }
                    return listed;
                }
            }
        }
    }
}
