//! Reading objects for their own sake: what no tree leads to, and only a check would notice.

use std::collections::HashMap;

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::Repository;
use super::index::Index;
use super::states::{RecordSink, StateReader};
use crate::error::{Error, Result, is_damage, report};
use crate::object::{MAX_SMALL, PREAMBLE, Preamble, decode_small};
use crate::packfile::{TRAILER, area_of, decode_footer, decode_trailer};
use crate::removal::{Note, Removal};
use crate::snapshot::Snapshot;
use crate::state::{PackfileRecord, Table};
use crate::storage::{Area, Listed, ObjectName, StoreErrorKind};
use crate::wire::WireError;

/// Bytes fetched with a packfile's end: most footers are shorter.
const END: u64 = 64 << 10;
/// Objects looked at side by side.
const PARALLEL: usize = 8;

/// An object's name and what is wrong with it.
type Damage = (String, String);

struct Discard;

impl RecordSink for Discard {
    fn record(&mut self, _table: Table, _record: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Sorts damage from failures of the store.
fn damage(name: ObjectName, done: Result<()>) -> Result<Option<Damage>> {
    match done {
        Ok(()) => Ok(None),
        Err(e) if is_damage(&e) || matches!(e, Error::Newer { .. }) => {
            Ok(Some((name.to_string(), report(&e))))
        }
        Err(e) => Err(e),
    }
}

impl Repository {
    /// Reads every state whole, from the store.
    pub(crate) async fn damaged_states(&self) -> Result<Vec<Damage>> {
        let mut problems = Vec::new();
        let listed = self.listed(Area::States, &mut problems).await?.unwrap_or_default();
        let all = stream::iter(listed).map(|l| async move {
            let read = async {
                StateReader::open(&self.store, &self.keys, l).await?.read(&self.keys, &mut Discard).await
            };
            damage(ObjectName::new(Area::States, l.id), read.await)
        });
        problems.extend(collect(all.buffer_unordered(PARALLEL)).await?);
        Ok(problems)
    }

    /// What is in an area; `None`, with a problem more, if its listing is damaged.
    async fn listed(&self, area: Area, problems: &mut Vec<Damage>) -> Result<Option<Vec<Listed>>> {
        match self.store.list(area).await.map_err(Error::from) {
            Ok(listed) => Ok(Some(listed)),
            Err(e) if is_damage(&e) => {
                problems.push((area.name().to_owned(), report(&e)));
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Reads every snapshot, removal and note from the store, whatever is cached.
    pub(crate) async fn damaged_small_objects(&self) -> Result<Vec<Damage>> {
        let mut all = Vec::new();
        for area in [Area::Snapshots, Area::Removals, Area::Notes] {
            let listed = self.listed(area, &mut all).await?.unwrap_or_default();
            let found = stream::iter(listed).map(|l| async move {
                let name = ObjectName::new(area, l.id);
                damage(name, self.look_at_small(name, l).await)
            });
            all.extend(collect(found.buffer_unordered(PARALLEL)).await?);
        }
        Ok(all)
    }

    async fn look_at_small(&self, name: ObjectName, listed: Listed) -> Result<()> {
        if listed.len > MAX_SMALL {
            return Err(Error::object(name, WireError::Malformed("length")));
        }
        let bytes = self.store.get(name, None).await?;
        let key = self.key_of(name.area);
        let clear = decode_small(key, name.area, self.config.store, name.id, &bytes);
        let decoded = clear.and_then(|clear| match name.area {
            Area::Snapshots => Snapshot::decode(name.id, &clear).map(drop),
            Area::Removals => Removal::decode(&clear).map(drop),
            _ => Note::decode(&clear).map(drop),
        });
        decoded.map_err(|e| Error::object(name, e))
    }

    /// Looks at length, beginning and footer of every packfile of the index.
    pub(crate) async fn damaged_packfiles(&self, index: &Index) -> Result<Vec<Damage>> {
        let mut problems = Vec::new();
        let mut there = HashMap::new();
        for area in [Area::Data, Area::Meta] {
            // Of an area that cannot be listed each packfile is asked for by name.
            if let Some(listed) = self.listed(area, &mut problems).await? {
                let by_id: HashMap<_, Listed> = listed.into_iter().map(|l| (l.id, l)).collect();
                there.insert(area.name(), by_id);
            }
        }
        let packfiles = index.all_packfiles()?;
        let all = stream::iter(packfiles).map(|p| {
            let name = ObjectName::new(area_of(p.class), p.id);
            let listed = there.get(name.area.name());
            async move {
                let listed = match listed {
                    Some(all) => Ok(all.get(&p.id).copied()),
                    None => self.stat_packfile(name).await,
                };
                damage(name, async { self.look_at_packfile(&p, listed?).await }.await)
            }
        });
        problems.extend(collect(all.buffer_unordered(PARALLEL)).await?);
        Ok(problems)
    }

    async fn stat_packfile(&self, name: ObjectName) -> Result<Option<Listed>> {
        match self.store.stat(name).await {
            Ok(listed) => Ok(Some(listed)),
            Err(e) if e.kind() == StoreErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    async fn look_at_packfile(&self, p: &PackfileRecord, listed: Option<Listed>) -> Result<()> {
        let area = area_of(p.class);
        let name = ObjectName::new(area, p.id);
        let bad = |what| Error::object(name, WireError::Malformed(what));
        match listed {
            None if self.removals_now().removals.is_doomed(&p.id) => return Ok(()),
            None => return Err(Error::damaged(name, "it is missing")),
            Some(l) if l.len != p.length => return Err(bad("length")),
            Some(_) => {}
        }
        let mut start = p.length.saturating_sub(END);
        let mut end: Bytes = self.store.get(name, Some(start..p.length)).await?;
        let trailer = end.last_chunk::<TRAILER>().ok_or_else(|| bad("trailer"))?;
        let footer = u64::from(decode_trailer(trailer).map_err(|e| Error::object(name, e))?);
        let footer_start = (p.length - TRAILER as u64).checked_sub(footer).ok_or_else(|| bad("footer"))?;
        if footer_start < start {
            start = footer_start;
            end = self.store.get(name, Some(start..p.length)).await?;
        }
        let first = self.store.get(name, Some(0..PREAMBLE as u64)).await?;
        let (preamble, _) = Preamble::decode(area, &first).map_err(|e| Error::object(name, e))?;
        let stored = &end[(footer_start - start) as usize..end.len() - TRAILER];
        let footer =
            decode_footer(&self.keys, &preamble, p.id, stored).map_err(|e| Error::object(name, e))?;
        if footer.frames.len() != p.frames as usize || footer.class != p.class {
            return Err(bad("footer: it and the state differ"));
        }
        Ok(())
    }
}

async fn collect(found: impl stream::Stream<Item = Result<Option<Damage>>>) -> Result<Vec<Damage>> {
    let found: Vec<_> = found.collect().await;
    found.into_iter().filter_map(Result::transpose).collect()
}
