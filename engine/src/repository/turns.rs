//! Who goes first: reads that somebody waits for overtake prefetch.
//!
//! Prefetch takes turns, a few requests and a few decodes at a time. What is wanted on demand never waits for a turn,
//! and while it is under way it uses one that is free, so that less is left to prefetch. A prefetch that waits for its
//! turn while somebody comes to wait for one of its frames is raised: it goes on at once.

use crate::frame_source::{FrameKey, Purpose};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// Requests that prefetch has in flight, at most.
pub(super) const PREFETCH_REQUESTS: usize = 6;
/// Frames that are remembered as raised before their prefetch came to wait.
const EARLY: usize = 256;

/// The turns of one repository.
#[derive(Debug)]
pub(super) struct Turns {
    requests: Semaphore,
    decodes: Semaphore,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: HashMap<FrameKey, Arc<Notify>>,
    early: VecDeque<FrameKey>,
}

/// A turn, until it is dropped: with a permit, or, on demand, without.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _permit: Option<SemaphorePermit<'a>>,
    /// What it is for, now: a prefetch that was raised is on demand.
    pub(super) purpose: Purpose,
}

impl Turns {
    pub(super) fn new() -> Self {
        let decodes = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            requests: Semaphore::new(PREFETCH_REQUESTS),
            decodes: Semaphore::new(decodes),
            queue: Mutex::default(),
        }
    }

    /// A turn to send one request for some frames.
    pub(super) async fn request(&self, frames: &[FrameKey], purpose: Purpose) -> Turn<'_> {
        self.take(&self.requests, frames, purpose).await
    }

    /// A turn to decode some frames.
    pub(super) async fn decode(&self, frames: &[FrameKey], purpose: Purpose) -> Turn<'_> {
        self.take(&self.decodes, frames, purpose).await
    }

    async fn take<'a>(&self, turns: &'a Semaphore, frames: &[FrameKey], purpose: Purpose) -> Turn<'a> {
        let free = turns.try_acquire().ok();
        if purpose == Purpose::OnDemand || free.is_some() {
            return Turn { _permit: free, purpose };
        }
        let waiting = Waiting::new(&self.queue, frames);
        tokio::select! {
            biased;
            () = waiting.raised.notified() => Turn { _permit: None, purpose: Purpose::OnDemand },
            permit = turns.acquire() => Turn { _permit: permit.ok(), purpose },
        }
    }

    /// Whether nobody has a turn or waits for one.
    #[cfg(test)]
    pub(super) fn are_free(&self) -> bool {
        let decodes = std::thread::available_parallelism().map_or(2, usize::from);
        let waiting = self.queue.lock().waiting.len();
        let free = (self.requests.available_permits(), self.decodes.available_permits());
        free == (PREFETCH_REQUESTS, decodes) && waiting == 0
    }

    /// Somebody waits for these frames now: prefetches of them that wait for a turn go on.
    pub(super) fn raise(&self, frames: impl Iterator<Item = FrameKey>) {
        let mut queue = self.queue.lock();
        for frame in frames {
            match queue.waiting.get(&frame) {
                Some(raised) => raised.notify_one(),
                // It is under way, or will come to wait in a moment.
                None => {
                    queue.early.push_back(frame);
                    if queue.early.len() > EARLY {
                        queue.early.pop_front();
                    }
                }
            }
        }
    }
}

/// Frames whose prefetch waits for a turn.
struct Waiting<'a> {
    queue: &'a Mutex<Queue>,
    frames: &'a [FrameKey],
    raised: Arc<Notify>,
}

impl<'a> Waiting<'a> {
    fn new(queue: &'a Mutex<Queue>, frames: &'a [FrameKey]) -> Self {
        let raised = Arc::new(Notify::new());
        let mut q = queue.lock();
        let before = q.early.len();
        q.early.retain(|f| !frames.contains(f));
        if q.early.len() < before {
            raised.notify_one();
        }
        q.waiting.extend(frames.iter().map(|f| (*f, raised.clone())));
        drop(q);
        Self { queue, frames, raised }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut queue = self.queue.lock();
        for frame in self.frames {
            // Another prefetch of the same frame may have taken its place.
            if queue.waiting.get(frame).is_some_and(|r| Arc::ptr_eq(r, &self.raised)) {
                queue.waiting.remove(frame);
            }
        }
    }
}

#[cfg(test)]
mod tests;
