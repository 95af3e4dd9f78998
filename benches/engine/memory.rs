//! Anonymous memory of this process, as `/proc` tells it: what a run needs beside pages of files.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What a piece of work did to `RssAnon`, in bytes.
pub(crate) struct Anonymous {
    pub(crate) before: u64,
    pub(crate) peak: u64,
    pub(crate) after: u64,
}

/// Does a piece of work while a thread beside it looks every other millisecond.
pub(crate) fn watch<T>(work: impl FnOnce() -> T) -> (T, Anonymous) {
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = now();
    let result = std::thread::scope(|s| {
        s.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(now(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    });
    let after = now();
    (result, Anonymous { before, peak: peak.into_inner().max(after), after })
}

/// 0 where the system does not say.
fn now() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().map_or(0, |kib: u64| kib << 10)
}
