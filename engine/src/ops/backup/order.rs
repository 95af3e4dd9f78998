//! Puts back into walk order what many readers bring in any order: files that stand side by side then share a frame,
//! which compresses better, and which a reader of the snapshot finds together.

use std::collections::BTreeMap;

use crossbeam_channel::Sender;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::read::Cuts;
use crate::error::{Error, Result};

/// How many units a reader may be ahead of the slowest one: bounds what waits here.
const AHEAD: u64 = 2 * super::read::READERS as u64;

/// Jobs of a batch, at most: files without much in them would else wait for each other in any number.
const MOST_CUTS: usize = 16;

/// Jobs whose blobs may stand in one frame.
pub(super) type Batch = Vec<Cuts>;

/// Takes each unit's cuts once and passes them on in the order of their numbers, about a frame's worth at a time.
pub(super) struct Order {
    state: Mutex<State>,
    moved: Condvar,
    /// Bytes of a batch, at most, unless those of one unit are more.
    batch_bytes: usize,
}

struct State {
    /// The unit that is passed on next.
    next: u64,
    waiting: BTreeMap<u64, Cuts>,
    batch: Batch,
    bytes: usize,
    /// `None` when nobody takes anything any more.
    out: Option<Sender<Batch>>,
}

/// The right, and the duty, to bring the cuts of one unit: one that is dropped counts as brought, and empty.
pub(super) struct Ticket<'a> {
    order: &'a Order,
    number: u64,
    used: bool,
}

impl Order {
    pub(super) fn new(out: Sender<Batch>, batch_bytes: usize) -> Self {
        let state = State { next: 0, waiting: BTreeMap::new(), batch: Vec::new(), bytes: 0, out: Some(out) };
        Self { state: Mutex::new(state), moved: Condvar::new(), batch_bytes }
    }

    pub(super) fn ticket(&self, number: u64) -> Ticket<'_> {
        Ticket { order: self, number, used: false }
    }

    /// Passes on what is left, when every unit was brought, and lets go of whoever takes it.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        state.send();
        state.out = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Waits while this unit is too far ahead. The next one in turn never waits, so all get on.
    fn bring(&self, number: u64, cuts: Cuts) {
        let mut state = self.lock();
        while state.out.is_some() && number >= state.next + AHEAD {
            self.moved.wait(&mut state);
        }
        state.waiting.insert(number, cuts);
        while let Some(cuts) = state.take_next() {
            if state.bytes + cuts.len() > self.batch_bytes || state.batch.len() >= MOST_CUTS {
                state.send();
            }
            state.bytes += cuts.len();
            state.batch.push(cuts);
        }
        self.moved.notify_all();
    }
}

impl State {
    fn take_next(&mut self) -> Option<Cuts> {
        let cuts = self.waiting.remove(&self.next)?;
        self.next += 1;
        Some(cuts)
    }

    /// Whoever waits here for room among the batches holds the lock: the other readers have to wait as well.
    fn send(&mut self) {
        self.bytes = 0;
        let mut batch = std::mem::take(&mut self.batch);
        batch.retain(|cuts| cuts.len() > 0);
        if !batch.is_empty() && self.out.as_ref().is_some_and(|out| out.send(batch).is_err()) {
            self.out = None;
        }
    }
}

impl Ticket<'_> {
    /// Brings the cuts, which may be empty.
    pub(super) fn bring(mut self, cuts: Cuts) -> Result<()> {
        self.used = true;
        self.order.bring(self.number, cuts);
        if self.order.lock().out.is_some() { Ok(()) } else { Err(Error::Cancelled) }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.used {
            self.order.bring(self.number, Cuts::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(n: u64) -> Cuts {
        let mut cuts = Cuts::default();
        cuts.buffer.extend([n as u8; 100]);
        cuts
    }

    #[test]
    fn jobs_leave_in_order_however_they_come() {
        let (out, batches) = crossbeam_channel::unbounded();
        let order = Order::new(out, 300);
        for number in [3, 1, 0, 2, 6, 5, 4] {
            if number == 5 {
                drop(order.ticket(number));
            } else {
                order.ticket(number).bring(cuts(number)).unwrap();
            }
        }
        order.finish();
        let found: Vec<Vec<u8>> = batches.iter().map(|b| b.iter().map(|j| j.buffer[0]).collect()).collect();
        assert_eq!(found, [vec![0, 1, 2], vec![3, 4, 6]]);
    }

    #[test]
    fn who_is_far_ahead_waits_for_the_slowest_and_not_for_ever() {
        let (out, batches) = crossbeam_channel::unbounded();
        let order = Order::new(out, 100);
        std::thread::scope(|s| {
            let ahead = s.spawn(|| order.ticket(AHEAD).bring(cuts(9)));
            for number in 1..AHEAD {
                order.ticket(number).bring(cuts(1)).unwrap();
            }
            assert!(batches.is_empty() && !ahead.is_finished());
            order.ticket(0).bring(cuts(0)).unwrap();
            ahead.join().unwrap().unwrap();
        });
        drop(batches);
        // Nobody takes what is brought: that is said, and nobody waits.
        assert!(order.ticket(AHEAD + 1).bring(cuts(1)).is_err());
        assert!(order.ticket(10 * AHEAD).bring(cuts(1)).is_err());
    }
}
