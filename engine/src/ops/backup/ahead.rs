//! Listings read ahead of the walk by a few threads, and compared with what is known of each directory. A listing that
//! has been read brings those below it into the queue, so that the threads go on by themselves, in about the order in
//! which the walk will want them, and not further than a number of entries and of open directories.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::assemble::join;
use super::compare::{Found, compare};
use super::exclude::Excludes;
use super::previous::Previous;
use crate::id::BlobId;
use crate::importer::{ImportError, SourceDirectory};
use crate::repository::writer::Run;
use crate::tree::Entry;

/// Threads that read listings ahead.
const LISTERS: usize = 6;
/// Entries that may be listed and not yet walked.
const AHEAD_ENTRIES: usize = 20_000;
/// Directories that may be open for that.
const AHEAD_DIRECTORIES: usize = 256;

/// An open directory and what is in it.
pub(super) struct Opened {
    pub(super) handle: Arc<dyn SourceDirectory>,
    /// Its node in the previous snapshot, if it was there.
    pub(super) node: Option<BlobId>,
    pub(super) entries: Vec<Found>,
    /// The listings of the directories in it, but for mount points, by name.
    below: VecDeque<Arc<Job>>,
}

impl Opened {
    /// The listing of a directory in it; asked for in the order of names.
    pub(super) fn below(&mut self, name: &[u8]) -> Option<Arc<Job>> {
        self.below.front().is_some_and(|job| job.name == name).then(|| self.below.pop_front()).flatten()
    }
}

/// A listing that somebody will read: a lister, or the walk itself when it gets there first.
pub(super) struct Job {
    parent: Arc<dyn SourceDirectory>,
    name: Vec<u8>,
    path: Vec<u8>,
    /// Its node in the previous snapshot, as its parent's entry there has it.
    node: Option<BlobId>,
    state: Mutex<JobState>,
    changed: Condvar,
}

enum JobState {
    Waiting,
    Running,
    Done(Result<Opened, ImportError>),
    Taken,
}

impl Job {
    fn new(parent: Arc<dyn SourceDirectory>, name: Vec<u8>, path: Vec<u8>, node: Option<BlobId>) -> Self {
        Self { parent, name, path, node, state: Mutex::new(JobState::Waiting), changed: Condvar::new() }
    }
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Arc<Job>>,
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
    run: &'a Run,
    previous: &'a Previous,
    excludes: &'a Excludes,
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl<'a> Ahead<'a> {
    pub(super) fn new(run: &'a Run, previous: &'a Previous, excludes: &'a Excludes) -> Self {
        Self { run, previous, excludes, queue: Mutex::default(), wake: Condvar::new() }
    }

    /// Lists an open directory; `node` is its own in the previous snapshot, if its parent there is known. What is below
    /// it is listed from now on.
    pub(super) fn list(
        &self,
        handle: Arc<dyn SourceDirectory>,
        path: &[u8],
        node: Option<BlobId>,
    ) -> Result<Opened, ImportError> {
        let listed = handle.list()?;
        let before = self.previous.directory(path, node);
        let node = before.as_ref().map(|b| b.node);
        let known = |id: &BlobId| self.run.is_known(id);
        let entries = compare(path, listed, before, self.excludes, self.previous, known);
        let mut below = VecDeque::new();
        for found in &entries {
            if let Found::Directory { now, was, .. } = found
                && !now.mount_point
            {
                let node = was.as_ref().and_then(Entry::directory).map(|(node, _)| node);
                below.push_back(Arc::new(Job::new(
                    handle.clone(),
                    now.name.clone(),
                    join(path, &now.name),
                    node,
                )));
            }
        }
        self.push(&below);
        Ok(Opened { handle, node, entries, below })
    }

    fn list_job(&self, job: &Job) -> Result<Opened, ImportError> {
        self.list(job.parent.open_directory(&job.name)?, &job.path, job.node)
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds listings; the first one is wanted first, and before all that were added earlier.
    fn push(&self, jobs: &VecDeque<Arc<Job>>) {
        if jobs.is_empty() {
            return;
        }
        let idle = {
            let mut q = self.queue();
            q.jobs.extend(jobs.iter().rev().cloned());
            q.idle
        };
        // Waking somebody costs more than most listings: none is woken for nothing.
        (0..jobs.len().min(idle)).for_each(|_| self.wake.notify_one());
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
            let job = {
                let mut q = self.queue();
                loop {
                    if q.closed {
                        return;
                    }
                    if q.has_room()
                        && let Some(job) = q.jobs.pop()
                    {
                        q.ahead_directories += 1;
                        break job;
                    }
                    q.idle += 1;
                    q = self.wake.wait(q).unwrap_or_else(PoisonError::into_inner);
                    q.idle -= 1;
                }
            };
            {
                let mut state = job.state.lock().unwrap_or_else(PoisonError::into_inner);
                if !matches!(*state, JobState::Waiting) {
                    self.queue().ahead_directories -= 1;
                    continue;
                }
                *state = JobState::Running;
            }
            let listed = self.list_job(&job);
            self.queue().ahead_entries += listed.as_ref().map_or(0, |o| o.entries.len());
            *job.state.lock().unwrap_or_else(PoisonError::into_inner) = JobState::Done(listed);
            job.changed.notify_all();
        }
    }

    /// A listing, now.
    pub(super) fn take(&self, job: &Job) -> Result<Opened, ImportError> {
        let mut state = job.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match std::mem::replace(&mut *state, JobState::Taken) {
                JobState::Waiting | JobState::Taken => {
                    drop(state);
                    return self.list_job(job);
                }
                JobState::Running => {
                    *state = JobState::Running;
                    state = job.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                JobState::Done(listed) => {
                    drop(state);
                    let mut q = self.queue();
                    let had_room = q.has_room();
                    q.ahead_directories -= 1;
                    q.ahead_entries -= listed.as_ref().map_or(0, |o| o.entries.len());
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
