//! What runs that were killed have left behind: their leases, and files that they were writing.

use std::path::Path;

use super::Repository;
use crate::error::{Error, Result};
use crate::id::ObjectId;
use crate::object::decode_small;
use crate::removal::Lease;
use crate::storage::{Area, Listed, ObjectName, StoreErrorKind};

/// A run renews its lease each hour: one that is so old, by store time, is nobody's.
const DEAD_AFTER_NS: i64 = 3 * 3600 * 1_000_000_000;

/// Takes away leases of the dead and, if there were any, what they were writing; gives the leases of others who are at
/// work. `own` is the lease of the run that does it, `now_ns` its store time.
///
/// # Errors
/// Leases cannot be listed or read. What cannot be taken away costs nothing but room: the next run tries again.
pub(super) async fn clear(
    repository: &Repository,
    own: ObjectId,
    now_ns: i64,
    host: &str,
) -> Result<Vec<Lease>> {
    let (mut dead, mut others) = (Vec::new(), Vec::new());
    for listed in repository.store.list(Area::Leases).await? {
        if listed.id == own {
            continue;
        }
        let is_old = now_ns.saturating_sub(listed.modified_ns) > DEAD_AFTER_NS;
        match lease(repository, &listed).await {
            _ if is_old => dead.push(listed.id),
            Ok(lease) if lease.host == host && has_ended(lease.process) => dead.push(listed.id),
            Ok(lease) => others.push(lease),
            // Just removed.
            Err(Error::Store(e)) if e.kind() == StoreErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    if !dead.is_empty() {
        let store = &repository.store;
        // The leases last: they are what tells that there is something to do.
        match store.remove_unfinished(now_ns).await {
            Ok(0) => {
                for id in dead {
                    if let Err(e) = store.delete(ObjectName::new(Area::Leases, id)).await {
                        tracing::debug!(%e, "the lease of a killed run stays");
                    }
                }
            }
            Ok(left) => tracing::debug!(left, "what may be unfinished stays for now"),
            Err(e) => tracing::debug!(%e, "what killed runs were writing stays"),
        }
    }
    Ok(others)
}

async fn lease(repository: &Repository, listed: &Listed) -> Result<Lease> {
    let name = ObjectName::new(Area::Leases, listed.id);
    let bytes = repository.store.get(name, None).await?;
    let key = repository.key_of(Area::Leases);
    let clear = decode_small(key, name.area, repository.config.store, name.id, &bytes);
    clear.and_then(|clear| Lease::decode(&clear)).map_err(|e| Error::object(name, e))
}

/// Whether there is no process with this number, where the system shows its processes as files.
fn has_ended(process: u32) -> bool {
    let processes = Path::new("/proc");
    processes.join("self").exists() && !processes.join(process.to_string()).exists()
}
