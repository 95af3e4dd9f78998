//! Listings read ahead of the walk by a few threads, in the order in which it will want them, and not further than a
//! number of entries and of open directories.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::importer::{ImportError, Listed, SourceDirectory};

/// Threads that read listings ahead.
const LISTERS: usize = 6;
/// Entries that may be listed and not yet walked.
const AHEAD_ENTRIES: usize = 20_000;
/// Directories that may be open for that.
const AHEAD_DIRECTORIES: usize = 256;
/// An open directory and what is in it.
pub(super) type Opened = (Arc<dyn SourceDirectory>, Vec<Listed>);

/// A listing that somebody will read: a lister, or the walk itself when it gets there first.
pub(super) struct Job {
    parent: Arc<dyn SourceDirectory>,
    name: Vec<u8>,
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
    /// The listing of a directory in an open one.
    pub(super) fn new(parent: Arc<dyn SourceDirectory>, name: Vec<u8>) -> Self {
        Self { parent, name, state: Mutex::new(JobState::Waiting), changed: Condvar::new() }
    }

    fn list(&self) -> Result<Opened, ImportError> {
        let directory = self.parent.open_directory(&self.name)?;
        let listed = directory.list()?;
        Ok((directory, listed))
    }
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Arc<Job>>,
    ahead_entries: usize,
    ahead_directories: usize,
    closed: bool,
}

/// Reads listings ahead.
#[derive(Default)]
pub(super) struct Ahead {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Ahead {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds listings; the last one is wanted first.
    pub(super) fn push(&self, jobs: impl Iterator<Item = Arc<Job>>) {
        self.queue().jobs.extend(jobs);
        self.wake.notify_all();
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
                    let room = q.ahead_entries < AHEAD_ENTRIES && q.ahead_directories < AHEAD_DIRECTORIES;
                    if room && let Some(job) = q.jobs.pop() {
                        q.ahead_directories += 1;
                        break job;
                    }
                    q = self.wake.wait(q).unwrap_or_else(PoisonError::into_inner);
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
            let listed = job.list();
            self.queue().ahead_entries += listed.as_ref().map_or(0, |(_, l)| l.len());
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
                    return job.list();
                }
                JobState::Running => {
                    *state = JobState::Running;
                    state = job.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                JobState::Done(listed) => {
                    drop(state);
                    let mut q = self.queue();
                    q.ahead_directories -= 1;
                    q.ahead_entries -= listed.as_ref().map_or(0, |(_, l)| l.len());
                    drop(q);
                    self.wake.notify_one();
                    return listed;
                }
            }
        }
    }
}
