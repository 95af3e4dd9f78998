//! What runs that were killed have left behind: their leases, and files that they were writing.

use std::path::Path;

use super::Repository;
use crate::error::{Error, Result};
use crate::id::ObjectId;
use crate::object::decode_small;
use crate::removal::Lease;
use crate::storage::{Area, Listed, ObjectName};

/// A run renews its lease each hour: one that is so old, by store time, is nobody's.
const DEAD_AFTER_NS: i64 = 3 * 3600 * 1_000_000_000;

/// Takes away leases of the dead and, if there were any, what they were writing. `own` is the lease of the run that
/// does it, `now_ns` its store time. Failures cost nothing but room: the next run tries again.
pub(super) async fn clear(repository: &Repository, own: ObjectId, now_ns: i64, host: &str) {
    match dead_leases(repository, own, now_ns, host).await {
        Ok(dead) if dead.is_empty() => {}
        Ok(dead) => {
            let store = &repository.store;
            // The leases last: they are what tells that there is something to do.
            match store.remove_unfinished(now_ns).await {
                Ok(0) => {}
                Ok(left) => return tracing::debug!(left, "what may be unfinished stays for now"),
                Err(e) => return tracing::debug!(%e, "what killed runs were writing stays"),
            }
            for id in dead {
                if let Err(e) = store.delete(ObjectName::new(Area::Leases, id)).await {
                    tracing::debug!(%e, "the lease of a killed run stays");
                }
            }
        }
        Err(e) => tracing::debug!(%e, "leases cannot be read"),
    }
}

async fn dead_leases(
    repository: &Repository,
    own: ObjectId,
    now_ns: i64,
    host: &str,
) -> Result<Vec<ObjectId>> {
    let mut dead = Vec::new();
    for listed in repository.store.list(Area::Leases).await? {
        let is_old = now_ns.saturating_sub(listed.modified_ns) > DEAD_AFTER_NS;
        if listed.id != own && (is_old || is_of_the_dead(repository, &listed, host).await) {
            dead.push(listed.id);
        }
    }
    Ok(dead)
}

/// Whether a lease speaks for a process of this machine that is no more, as far as that can be told.
async fn is_of_the_dead(repository: &Repository, listed: &Listed, host: &str) -> bool {
    let name = ObjectName::new(Area::Leases, listed.id);
    let read = async {
        let bytes = repository.store.get(name, None).await?;
        let key = repository.key_of(Area::Leases);
        let clear = decode_small(key, name.area, repository.config.store, name.id, &bytes);
        clear.and_then(|clear| Lease::decode(&clear)).map_err(|e| Error::object(name, e))
    };
    match read.await {
        Ok(lease) => lease.host == host && has_ended(lease.process),
        // Just removed, or damaged: its age will tell.
        Err(_) => false,
    }
}

/// Whether there is no process with this number, where the system shows its processes as files.
fn has_ended(process: u32) -> bool {
    let processes = Path::new("/proc");
    processes.join("self").exists() && !processes.join(process.to_string()).exists()
}
