//! Which earlier backup a new one is compared with.

use std::sync::Arc;

use crate::cache::CachedSource;
use crate::id::ObjectId;
use crate::repository::catalog::Catalog;
use crate::snapshot::Snapshot;

/// How many sources of the file cache are read together.
const MOST: usize = 8;

/// The snapshot that a backup is compared with: what has not changed since then is not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parent {
    /// The newest of the same places; or else of places that these have something in common with, of the same host or machine.
    #[default]
    Newest,
    /// This one.
    Snapshot(ObjectId),
    /// None: everything is read.
    None,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Parents {
    /// Sources of the file cache, the best first.
    pub(super) cached: Vec<CachedSource>,
    /// The snapshot that the first of them describes, or whose tree serves where there is none; if it is live.
    pub(super) snapshot: Option<Arc<Snapshot>>,
}

/// Chooses what a snapshot in the making, of the source with the name `own`, is compared with.
pub(super) fn parents(
    parent: Parent,
    own: [u8; 16],
    now: &Snapshot,
    cached: &[CachedSource],
    catalog: &Catalog,
) -> Parents {
    let live = |id: ObjectId| catalog.snapshots.iter().find(|s| s.id == id).cloned();
    let found = |cached: Vec<CachedSource>, snapshot: Option<Arc<Snapshot>>| Parents { cached, snapshot };
    match parent {
        Parent::None => Parents::default(),
        Parent::Snapshot(id) => {
            found(cached.iter().filter(|c| c.snapshot == id).copied().collect(), live(id))
        }
        Parent::Newest => {
            if let Some(own) = cached.iter().find(|c| c.source == own) {
                return found(vec![*own], live(own.snapshot));
            }
            // The catalogue begins with the newest.
            let related: Vec<&Arc<Snapshot>> =
                catalog.snapshots.iter().filter(|s| has_places_of(s, now)).collect();
            // The cache is this machine's, whatever it was called.
            let of_machine = related.iter().filter(|s| s.machine == now.machine || s.origin == now.origin);
            let cached: Vec<CachedSource> = of_machine
                .filter_map(|s| cached.iter().find(|c| c.snapshot == s.id).copied())
                .take(MOST)
                .collect();
            if let Some(first) = cached.first() {
                let snapshot = live(first.snapshot);
                return found(cached, snapshot);
            }
            let is_ours = |s: &&&Arc<Snapshot>| {
                s.origin == now.origin || !s.machine.is_empty() && s.machine == now.machine
            };
            let same = related.iter().find(|s| is_same_source(s, now));
            let best = same.or_else(|| related.iter().find(is_ours));
            found(Vec::new(), best.map(|s| (*s).clone()))
        }
    }
}

/// Whether two snapshots are of the same places.
pub(super) fn is_same_source(s: &Snapshot, now: &Snapshot) -> bool {
    s.source == now.source && s.origin == now.origin && s.roots == now.roots
}

/// Whether a place of one snapshot is at, above or below one of the other.
fn has_places_of(s: &Snapshot, now: &Snapshot) -> bool {
    let is_within = |a: &[u8], b: &[u8]| {
        a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || b.ends_with(b"/"))
    };
    let meet = |a: &[u8], b: &[u8]| is_within(a, b) || is_within(b, a);
    s.source == now.source && s.roots.iter().any(|a| now.roots.iter().any(|b| meet(a, b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(origin: &str, machine: &str, roots: &[&str]) -> Snapshot {
        Snapshot {
            source: "fs".into(),
            origin: origin.into(),
            machine: machine.into(),
            roots: roots.iter().map(|r| r.as_bytes().to_vec()).collect(),
            ..Snapshot::empty()
        }
    }

    fn catalog(snapshots: Vec<Snapshot>) -> Catalog {
        let numbered = snapshots.into_iter().zip(1..).map(|(s, n)| Snapshot { id: ObjectId([n; 32]), ..s });
        Catalog { snapshots: numbered.map(Arc::new).collect(), ..Catalog::default() }
    }

    fn choose(now: &Snapshot, cached: &[(u8, u8)], catalog: &Catalog) -> (Vec<u8>, Option<u8>) {
        let cached: Vec<CachedSource> = cached
            .iter()
            .map(|(source, n)| CachedSource { source: [*source; 16], snapshot: ObjectId([*n; 32]) })
            .collect();
        let p = parents(Parent::Newest, [9; 16], now, &cached, catalog);
        (p.cached.iter().map(|c| c.source[0]).collect(), p.snapshot.map(|s| s.id.0[0]))
    }

    #[test]
    fn the_own_records_come_first() {
        let all = catalog(vec![of("h", "m", &["/"]), of("h", "m", &["/a"])]);
        assert_eq!(choose(&of("h", "m", &["/a"]), &[(1, 1), (9, 2)], &all), (vec![9], Some(2)));
        // Of a snapshot that is gone they serve all the same.
        assert_eq!(choose(&of("h", "m", &["/a"]), &[(1, 1), (9, 7)], &all), (vec![9], None));
    }

    #[test]
    fn records_of_places_in_common_serve_the_newest_first() {
        let all = catalog(vec![of("h", "m", &["/b"]), of("h", "m", &["/a"]), of("h", "m", &["/ab"])]);
        let cached = [(1, 1), (2, 2), (3, 3)];
        assert_eq!(choose(&of("h", "m", &["/a", "/b"]), &cached, &all), (vec![1, 2], Some(1)));
        assert_eq!(choose(&of("h", "m", &["/"]), &cached, &all).0, [1, 2, 3]);
        assert_eq!(choose(&of("h", "m", &["/a/x"]), &cached, &all).0, [2]);
        // Renamed, as a container is with each start; and another machine that shares this home directory.
        assert_eq!(choose(&of("new", "m", &["/a"]), &cached, &all).0, [2]);
        assert_eq!(choose(&of("new", "other", &["/a"]), &cached, &all), (vec![], None));
    }

    #[test]
    fn without_records_the_tree_of_the_best_snapshot_serves() {
        let all = catalog(vec![of("x", "", &["/a"]), of("h", "m", &["/"]), of("h", "m", &["/a"])]);
        assert_eq!(choose(&of("h", "m", &["/a"]), &[], &all), (vec![], Some(3)));
        assert_eq!(choose(&of("h2", "m", &["/a"]), &[], &all), (vec![], Some(2)));
        // Without a number any machine might be meant.
        assert_eq!(choose(&of("y", "", &["/a"]), &[], &all), (vec![], None));
    }
}
