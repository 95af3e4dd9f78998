//! The catalogue: which snapshots a store has, from listings, the snapshot objects (cached as stored), removals and
//! notes. One that cannot be read does not hide the others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt};

use super::{Repository, now_ns};
use crate::blocking::blocking;
use crate::error::{Error, Result, is_damage};
use crate::id::ObjectId;
use crate::object::{MAX_SMALL, decode_small};
use crate::removal::{Note, NoteKind, Removal, RemovalKind, Removals};
use crate::snapshot::Snapshot;
use crate::storage::{Area, Listed, ObjectName, Store};
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
    /// Snapshots that are not to be removed.
    pub pinned: HashSet<ObjectId>,
    /// What people said of snapshots afterwards.
    pub descriptions: HashMap<ObjectId, String>,
    /// Snapshots that are deleted and still there.
    pub deleted: Vec<ObjectId>,
    /// All notes: id, store time in ns since 1970, the snapshot.
    pub notes: Vec<(ObjectId, i64, ObjectId)>,
    /// The counter of the last note on each snapshot, by kind.
    pub counters: HashMap<(ObjectId, NoteKind), u64>,
    /// Removals and notes that cannot be read: nothing may be deleted while there are any.
    pub unreadable: Vec<(ObjectName, Error)>,
    /// Digest of the ids of snapshots and removals.
    pub seen: [u8; 32],
    /// Digest of the listings it was read from, for [`Repository::catalog_since`]; zeros if something could not be
    /// read that may be readable the next time.
    pub listing: [u8; 32],
}

impl Catalog {
    /// Whether a snapshot exists and can be read.
    pub fn holds(&self, id: &ObjectId) -> bool {
        self.snapshots.iter().any(|s| s.id == *id)
    }
}

/// What was decoded of listed objects: the next reading takes it over.
#[derive(Debug, Default)]
pub(super) struct Known {
    snapshots: HashMap<ObjectId, Arc<Snapshot>>,
    removals: HashMap<ObjectId, Arc<Removal>>,
    notes: HashMap<ObjectId, Arc<Note>>,
}

/// What decides which snapshots there are.
pub(super) struct Listing {
    snapshots: Vec<Listed>,
    removals: Vec<Listed>,
    notes: Vec<Listed>,
}

impl Listing {
    pub(super) async fn read(store: &dyn Store) -> Result<Self> {
        let (snapshots, removals, notes) = futures::try_join!(
            store.list(Area::Snapshots),
            store.list(Area::Removals),
            store.list(Area::Notes)
        )?;
        Ok(Self { snapshots, removals, notes })
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for area in [&self.snapshots, &self.removals, &self.notes] {
            hasher.update(&digest(area.iter()));
        }
        *hasher.finalize().as_bytes()
    }
}

/// Reads the catalogue. What was decoded before is taken over; what was read before comes from the local cache.
pub(super) async fn load(
    repository: &Repository,
    listing: Listing,
    before: &Known,
) -> Result<(Catalog, Known)> {
    let mut catalog = Catalog::default();
    let mut known = Known::default();
    let Listing { snapshots, removals, notes } = &listing;
    catalog.seen = digest(snapshots.iter().chain(removals));
    let times: HashMap<ObjectId, i64> = removals.iter().chain(notes).map(|l| (l.id, l.modified_ns)).collect();
    let decode = |_, b: &[u8]| Removal::decode(b);
    for (id, removal) in read(repository, Area::Removals, removals, &before.removals, decode).await? {
        match removal {
            Ok(r) => {
                catalog.removals.add(id, times.get(&id).copied().unwrap_or(i64::MAX), r.clone());
                known.removals.insert(id, r);
            }
            Err(e) => catalog.unreadable.push((ObjectName::new(Area::Removals, id), e)),
        }
    }
    let mut last: HashMap<(ObjectId, NoteKind), (u64, ObjectId, Arc<Note>)> = HashMap::new();
    let decode = |_, b: &[u8]| Note::decode(b);
    for (id, note) in read(repository, Area::Notes, notes, &before.notes, decode).await? {
        match note {
            Ok(n) => {
                catalog.notes.push((id, times.get(&id).copied().unwrap_or(i64::MAX), n.snapshot));
                known.notes.insert(id, n.clone());
                let slot =
                    last.entry((n.snapshot, n.kind)).or_insert_with(|| (0, ObjectId([0; 32]), n.clone()));
                if (slot.0, slot.1) <= (n.counter, id) {
                    *slot = (n.counter, id, n);
                }
            }
            Err(e) => catalog.unreadable.push((ObjectName::new(Area::Notes, id), e)),
        }
    }
    let pins =
        last.iter().filter(|((_, kind), (.., note))| *kind == NoteKind::Pin && !note.values.is_empty());
    catalog.pinned = pins.map(|((snapshot, _), _)| *snapshot).collect();
    let said = last.iter().filter(|((_, kind), _)| *kind == NoteKind::Description);
    let said = said.filter_map(|((of, _), (.., note))| Some((*of, note.values.first()?.clone())));
    catalog.descriptions = said.collect();
    catalog.counters = last.iter().map(|(what, (counter, ..))| (*what, *counter)).collect();
    let (deleted, live): (Vec<Listed>, Vec<Listed>) =
        snapshots.iter().copied().partition(|l| catalog.removals.is_deleted(&l.id));
    catalog.deleted = deleted.into_iter().map(|l| l.id).collect();
    for (id, snapshot) in
        read(repository, Area::Snapshots, &live, &before.snapshots, Snapshot::decode).await?
    {
        match snapshot {
            Ok(s) => {
                known.snapshots.insert(id, s.clone());
                let tags = last.get(&(id, NoteKind::Tags)).map(|n| &n.2.values);
                let name = last.get(&(id, NoteKind::Name)).and_then(|n| n.2.values.first());
                catalog.snapshots.push(if tags.is_none() && name.is_none() {
                    s
                } else {
                    let mut noted = (*s).clone();
                    noted.tags = tags.cloned().unwrap_or(noted.tags);
                    noted.name = name.cloned().unwrap_or(noted.name);
                    Arc::new(noted)
                });
            }
            Err(e) => catalog.broken.push((id, e)),
        }
    }
    let failures = catalog.broken.iter().map(|(_, e)| e).chain(catalog.unreadable.iter().map(|(_, e)| e));
    let lasts = |e: &Error| is_damage(e) && !matches!(e, Error::Store(_)) || matches!(e, Error::Newer { .. });
    if failures.into_iter().all(lasts) {
        catalog.listing = listing.digest();
    }
    catalog.snapshots.sort_by_key(|s| (std::cmp::Reverse(s.time_ns), s.id));
    Ok((catalog, known))
}

fn digest<'a>(listed: impl Iterator<Item = &'a Listed>) -> [u8; 32] {
    let mut ids: Vec<_> = listed.map(|l| l.id).collect();
    ids.sort_unstable();
    let mut h = blake3::Hasher::new();
    ids.iter().for_each(|id| {
        h.update(&id.0);
    });
    *h.finalize().as_bytes()
}

/// Reads and decodes the objects of an area, but for those that are known.
async fn read<T>(
    repository: &Repository,
    area: Area,
    listed: &[Listed],
    known: &HashMap<ObjectId, Arc<T>>,
    decode: impl Fn(ObjectId, &[u8]) -> Result<T, WireError>,
) -> Result<Vec<(ObjectId, Result<Arc<T>>)>> {
    let mut out: Vec<(ObjectId, Result<Arc<T>>)> = Vec::with_capacity(listed.len());
    let mut missing = Vec::new();
    for l in listed {
        match known.get(&l.id) {
            Some(value) => out.push((l.id, Ok(value.clone()))),
            None => missing.push(*l),
        }
    }
    if missing.is_empty() && out.len() == known.len() {
        return Ok(out);
    }
    let cache = repository.cache.clone();
    // The first time all are read, and it shows which have gone; after that only the few that are new.
    let few: Option<Vec<ObjectId>> = (!known.is_empty()).then(|| missing.iter().map(|l| l.id).collect());
    let cached = blocking(move || match few {
        None => cache.objects(area),
        Some(ids) => cache.some_objects(area, &ids),
    });
    let cached: HashMap<ObjectId, Vec<u8>> = cached.await.unwrap_or_default().into_iter().collect();
    let open = |id: ObjectId, bytes: &[u8]| {
        let clear = decode_small(repository.key_of(area), area, repository.config.store, id, bytes)?;
        decode(id, &clear).map(Arc::new)
    };
    let mut fetch = Vec::new();
    for l in missing {
        // A cached copy that does not open may be damaged where the store's is not.
        match cached.get(&l.id).map(|b| open(l.id, b)) {
            Some(Ok(value)) => out.push((l.id, Ok(value))),
            _ => fetch.push(l),
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
    let gone =
        cached.into_keys().chain(known.keys().copied()).filter(|id| !there.contains(id)).collect::<Vec<_>>();
    let cache = repository.cache.clone();
    if let Err(e) = blocking(move || cache.update_objects(area, &new, &gone)).await {
        tracing::warn!(%e, "cannot keep objects in the local cache");
    }
    Ok(out)
}

impl Repository {
    /// The headers of snapshots that are deleted and still there.
    pub async fn deleted_snapshots(&self, catalog: &Catalog) -> Vec<(ObjectId, Result<Snapshot>)> {
        let read = |id: ObjectId| async move {
            let name = ObjectName::new(Area::Snapshots, id);
            let bytes = match self.store.get(name, None).await {
                Ok(bytes) => bytes,
                Err(e) => return (id, Err(e.into())),
            };
            let key = self.key_of(Area::Snapshots);
            let clear = decode_small(key, Area::Snapshots, self.config.store, id, &bytes);
            let decoded = clear.and_then(|clear| Snapshot::decode(id, &clear));
            (id, decoded.map_err(|e| Error::object(name, e)))
        };
        stream::iter(catalog.deleted.iter().copied()).map(read).buffer_unordered(16).collect().await
    }

    /// Takes back the deletion of snapshots.
    pub async fn undelete_snapshots(&self, catalog: &Catalog, ids: &[ObjectId]) -> Result<()> {
        for id in ids {
            let targets = catalog.removals.tombstones(id);
            self.remove(RemovalKind::Undelete, targets, "plakar undelete").await?;
        }
        Ok(())
    }

    /// Writes a note on a snapshot, in place of the last one of its kind.
    pub async fn note(
        &self,
        catalog: &Catalog,
        kind: NoteKind,
        snapshot: ObjectId,
        values: &[String],
    ) -> Result<()> {
        let counter = catalog.counters.get(&(snapshot, kind)).map_or(0, |last| last + 1);
        let note = Note { kind, snapshot, counter, values: values.to_vec(), time_ns: now_ns() };
        self.put_small(Area::Notes, &note.encode()).await.map(drop)
    }

    /// Reads which snapshots there are, from the store's listings. Only objects that are new are read.
    pub async fn refresh_catalog(&self) -> Result<Arc<Catalog>> {
        self.load_catalog(Listing::read(self.store.as_ref()).await?).await
    }

    /// The catalogue, if the store's listings are no longer those that a catalogue was read from: its
    /// [`listing`](Catalog::listing). Where nothing has changed it costs three listings.
    pub async fn catalog_since(&self, listing: &[u8; 32]) -> Result<Option<Arc<Catalog>>> {
        let now = Listing::read(self.store.as_ref()).await?;
        if now.digest() == *listing {
            return Ok(None);
        }
        self.load_catalog(now).await.map(Some)
    }

    async fn load_catalog(&self, listing: Listing) -> Result<Arc<Catalog>> {
        let known = self.known.read().clone();
        let (catalog, known) = load(self, listing, &known).await?;
        *self.known.write() = Arc::new(known);
        let catalog = Arc::new(catalog);
        *self.current.write() = catalog.clone();
        let _ = self.catalog.set(());
        Ok(catalog)
    }

    /// The catalogue as last read; read now if it was not yet.
    pub async fn catalog(&self) -> Result<Arc<Catalog>> {
        if !self.catalog.initialized() {
            return self.refresh_catalog().await;
        }
        Ok(self.current.read().clone())
    }
}

#[cfg(test)]
mod tests;
