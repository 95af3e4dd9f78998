//! The catalogue: which snapshots a store has, from listings, the snapshot objects (cached as stored), removals and
//! notes. One that cannot be read does not hide the others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt};

use super::Repository;
use super::index::blocking;
use crate::error::{Error, Result};
use crate::id::ObjectId;
use crate::object::{MAX_SMALL, decode_small};
use crate::removal::{Note, NoteKind, Removal, Removals};
use crate::snapshot::Snapshot;
use crate::storage::{Area, Listed, ObjectName};
use crate::wire::WireError;

/// What a store holds at one moment.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Snapshots that exist, newest first.
    pub snapshots: Vec<Arc<Snapshot>>,
    /// Snapshots that exist and cannot be read, and why.
    pub broken: Vec<(ObjectId, Error)>,
    /// All removals.
    pub removals: Removals,
    /// Removals and notes that cannot be read: nothing may be deleted while there are any.
    pub unreadable: Vec<(ObjectName, Error)>,
    /// Digest of the ids of snapshots and removals.
    pub seen: [u8; 32],
}

impl Catalog {
    /// Whether a snapshot exists and can be read.
    pub fn holds(&self, id: &ObjectId) -> bool {
        self.snapshots.iter().any(|s| s.id == *id)
    }
}

/// Reads the catalogue; objects seen before come from the local cache.
pub(super) async fn load(repository: &Repository) -> Result<Catalog> {
    let store = &repository.store;
    let (snapshots, removals, notes) =
        futures::try_join!(store.list(Area::Snapshots), store.list(Area::Removals), store.list(Area::Notes))?;
    let mut catalog = Catalog { seen: digest(&snapshots, &removals), ..Catalog::default() };
    for (id, removal) in read(repository, Area::Removals, &removals, |_, b| Removal::decode(b)).await? {
        match removal {
            Ok(r) => catalog.removals.add(id, r),
            Err(e) => catalog.unreadable.push((ObjectName::new(Area::Removals, id), e)),
        }
    }
    let mut last: HashMap<(ObjectId, NoteKind), (u64, ObjectId, Note)> = HashMap::new();
    for (id, note) in read(repository, Area::Notes, &notes, |_, b| Note::decode(b)).await? {
        match note {
            Ok(n) => {
                let slot =
                    last.entry((n.snapshot, n.kind)).or_insert_with(|| (0, ObjectId([0; 32]), n.clone()));
                if (slot.0, slot.1) <= (n.counter, id) {
                    *slot = (n.counter, id, n);
                }
            }
            Err(e) => catalog.unreadable.push((ObjectName::new(Area::Notes, id), e)),
        }
    }
    for (id, snapshot) in read(repository, Area::Snapshots, &snapshots, Snapshot::decode).await? {
        if catalog.removals.is_deleted(&id) {
            continue;
        }
        match snapshot {
            Ok(mut s) => {
                if let Some((_, _, note)) = last.get(&(id, NoteKind::Tags)) {
                    s.tags.clone_from(&note.values);
                }
                if let Some(name) = last.get(&(id, NoteKind::Name)).and_then(|n| n.2.values.first()) {
                    s.name.clone_from(name);
                }
                catalog.snapshots.push(Arc::new(s));
            }
            Err(e) => catalog.broken.push((id, e)),
        }
    }
    catalog.snapshots.sort_by_key(|s| (std::cmp::Reverse(s.time_ns), s.id));
    Ok(catalog)
}

fn digest(snapshots: &[Listed], removals: &[Listed]) -> [u8; 32] {
    let mut ids: Vec<_> = snapshots.iter().chain(removals).map(|l| l.id).collect();
    ids.sort_unstable();
    let mut h = blake3::Hasher::new();
    ids.iter().for_each(|id| {
        h.update(&id.0);
    });
    *h.finalize().as_bytes()
}

/// Reads and decodes the objects of an area.
async fn read<T>(
    repository: &Repository,
    area: Area,
    listed: &[Listed],
    decode: impl Fn(ObjectId, &[u8]) -> Result<T, WireError>,
) -> Result<Vec<(ObjectId, Result<T>)>> {
    if listed.is_empty() {
        return Ok(Vec::new());
    }
    let cache = repository.cache.clone();
    let cached: HashMap<ObjectId, Vec<u8>> =
        blocking(move || cache.objects(area)).await.unwrap_or_default().into_iter().collect();
    let open = |id: ObjectId, bytes: &[u8]| {
        let clear = decode_small(repository.key_of(area), area, repository.config.store, id, bytes)?;
        decode(id, &clear)
    };
    let mut out = Vec::with_capacity(listed.len());
    let mut fetch = Vec::new();
    for l in listed {
        // A cached copy that does not open may be damaged where the store's is not.
        match cached.get(&l.id).map(|b| open(l.id, b)) {
            Some(Ok(value)) => out.push((l.id, Ok(value))),
            _ => fetch.push(*l),
        }
    }
    let mut new = Vec::new();
    let mut answers = stream::iter(fetch)
        .map(|l| async move {
            let name = ObjectName::new(area, l.id);
            if l.len > MAX_SMALL {
                return (l.id, Err(Error::damaged(name, WireError::Malformed("length"))));
            }
            (l.id, repository.store.get(name, None).await.map_err(Error::from))
        })
        .buffer_unordered(16);
    while let Some((id, answer)) = answers.next().await {
        let value = answer.and_then(|bytes| {
            let value = open(id, &bytes).map_err(|e| Error::object(ObjectName::new(area, id), e))?;
            new.push((id, bytes.to_vec()));
            Ok(value)
        });
        match value {
            // Deleted since it was listed.
            Err(Error::Store(e)) if e.kind() == crate::storage::StoreErrorKind::NotFound => {}
            value => out.push((id, value)),
        }
    }
    let there: HashSet<ObjectId> = listed.iter().map(|l| l.id).collect();
    let gone: Vec<ObjectId> = cached.into_keys().filter(|id| !there.contains(id)).collect();
    let cache = repository.cache.clone();
    if let Err(e) = blocking(move || cache.update_objects(area, &new, &gone)).await {
        tracing::warn!(%e, "cannot keep objects in the local cache");
    }
    Ok(out)
}
