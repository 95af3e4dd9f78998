//! Watches a store for snapshots that come and go while it is shown.
//!
//! The store is only listed; of the catalogue no more is read than what is new. Whoever shows it learns which names
//! differ: a kernel has to forget them, others need nothing.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fs::SnapshotFs;
use crate::view::Change;
use plakar_engine::error::report;

const LOCAL: Duration = Duration::from_secs(1);
const REMOTE: Duration = Duration::from_secs(10);
/// Of the time, so much may go into listing.
const SHARE: u32 = 50;

/// Looks again and again, until it is stopped. `every`: how often; `None`: as suits the store; zero: never.
pub(crate) async fn keep_fresh<T>(
    fs: Arc<SnapshotFs>,
    every: Option<Duration>,
    tell: impl Fn(Vec<Change>) -> T + Send,
) where
    T: Future<Output = ()> + Send,
{
    let local = fs.repository().store().local_path().is_some();
    let every = every.unwrap_or(if local { LOCAL } else { REMOTE });
    if every.is_zero() {
        return;
    }
    let (mut wait, mut failing) = (every, false);
    loop {
        tokio::time::sleep(wait).await;
        let begun = Instant::now();
        match fs.refresh().await {
            Ok(changes) => {
                failing = false;
                tell(changes).await;
            }
            // Once, not every second that the store is away.
            Err(_) if failing => {}
            Err(e) => {
                failing = true;
                tracing::warn!(error = report(&e), "cannot look for new snapshots; trying again");
            }
        }
        // A store that is slow to list is listed less often.
        wait = every.max(begun.elapsed() * SHARE);
    }
}
