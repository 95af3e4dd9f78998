//! How an operation is asked to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Stops an operation from outside: a signal handler sets it, the operation notices at its next step.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    is_asked: AtomicBool,
    moves: AtomicU64,
}

impl Cancel {
    /// Asks the operation to stop.
    pub fn cancel(&self) {
        self.0.is_asked.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_asked.load(Ordering::Relaxed)
    }

    /// Fails if it was asked to.
    pub fn check(&self) -> Result<()> {
        if !self.is_cancelled() {
            return Ok(());
        }
        self.moved();
        Err(Error::Cancelled)
    }

    /// Notes that something got on: on its way to an end an operation may still have much to write.
    pub(crate) fn moved(&self) {
        self.0.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that changes as long as an operation that was asked to stop gets on with that.
    pub fn moves(&self) -> u64 {
        self.0.moves.load(Ordering::Relaxed)
    }
}
