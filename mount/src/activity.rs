//! What a mount has done so far: counts that only rise, kept without locks.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that others add to.
#[derive(Debug, Default)]
pub(crate) struct Sum(AtomicU64);

impl Sum {
    /// One more.
    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one mount.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    pub(crate) lookups: Sum,
    pub(crate) attributes: Sum,
    pub(crate) lists: Sum,
    pub(crate) reads: Sum,
    pub(crate) links: Sum,
    pub(crate) xattrs: Sum,
    /// Requests that failed because of the store, or what is in it.
    pub(crate) failed: Sum,
    /// Requests that the store did not answer in time.
    pub(crate) timed_out: Sum,
    /// Bytes of files that were read.
    pub(crate) read_bytes: Sum,
    /// Files, and their bytes, that were put into the kernel's cache unasked.
    pub(crate) pushed_files: Sum,
    pub(crate) pushed_bytes: Sum,
}
