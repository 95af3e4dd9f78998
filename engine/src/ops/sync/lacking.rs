//! What another store lacks of snapshots.
//!
//! Trees are read level by level, together with that of an earlier snapshot which is in the other store: what that one leads
//! to is there, and is not gone into again. In memory are a few bits for each row of the index.

use std::sync::Arc;

use crate::crypto::Class;
use crate::error::{Error, Result, is_damage};
use crate::id::BlobId;
use crate::ops::reach::{Named, Reach, missing};
use crate::repository::transfer::Names;
use crate::repository::writer::Run;
use crate::repository::{Marks, Row};
use crate::snapshot::Snapshot;

/// The earlier tree is gone on with as long as so many of its blobs are read for one of the new one's, and so many more.
const RATIO: u64 = 4;
const MORE: u64 = 1000;

/// What is lacking of some snapshots.
pub(super) struct Lacking {
    reach: Reach,
    run: Arc<Run>,
    names: Option<Names>,
    /// Met, in whichever of the snapshots.
    seen: Marks,
    /// Rows of blobs that the other store lacks: data, and metadata if that has the same names there.
    pub(super) wanted: Marks,
    /// How many bytes that is, in clear.
    pub(super) bytes: u64,
}

impl Lacking {
    pub(super) fn new(reach: &Reach, run: &Arc<Run>, names: Option<&Names>) -> Self {
        let (seen, wanted) = (reach.index.marks(), reach.index.marks());
        Self { reach: reach.clone(), run: run.clone(), names: names.cloned(), seen, wanted, bytes: 0 }
    }

    /// Adds what is lacking of a snapshot; `base` is one of which nothing is.
    ///
    /// # Errors
    /// Metadata cannot be read; data that it needs is missing.
    pub(super) async fn add(&mut self, snapshot: &Snapshot, base: Option<&Snapshot>) -> Result<()> {
        let mut there = self.reach.index.marks();
        let mut level_there = self.reach.index.marks();
        for id in base.into_iter().flat_map(Snapshot::tops) {
            // The earlier snapshot may be damaged: then it only helps less.
            if let Ok(row) = self.reach.row(&id) {
                there.mark(row);
                level_there.mark(row);
            }
        }
        let mut level = self.reach.index.marks();
        let tops = snapshot.tops().map(|id| Ok((Class::Meta, id, Some(self.reach.row(&id)?))));
        let tops: Vec<Named> = tops.collect::<Result<_>>()?;
        self.judge(tops, &there, &mut level)?;
        let reach = self.reach.clone();
        while !level.is_empty() {
            let mut next_there = reach.index.marks();
            if level_there.count() <= RATIO * level.count() + MORE {
                let read = reach.led_to(&level_there, |found| {
                    for (class, _, row) in found {
                        if let Some(row) = row
                            && there.mark(row)
                            && class == Class::Meta
                        {
                            next_there.mark(row);
                        }
                    }
                    Ok(())
                });
                match read.await {
                    Err(e) if !is_damage(&e) => return Err(e),
                    _ => {}
                }
            }
            let mut next = reach.index.marks();
            reach
                .led_to(&level, |found| {
                    // What both lead to need not be read of either.
                    for (_, _, row) in &found {
                        row.iter().for_each(|row| next_there.unmark(*row));
                    }
                    self.judge(found, &there, &mut next)
                })
                .await?;
            (level, level_there) = (next, next_there);
        }
        Ok(())
    }

    fn judge(&mut self, found: Vec<Named>, there: &Marks, next: &mut Marks) -> Result<()> {
        let mut unsure: Vec<(BlobId, Row)> = Vec::new();
        for (class, id, row) in found {
            let row = row.ok_or_else(|| match class {
                Class::Meta => missing(&id),
                Class::Data => Error::MissingBlob { what: format!("data {}", id.short()) },
            })?;
            if there.is_marked(row) || !self.seen.mark(row) {
                continue;
            }
            if class == Class::Meta {
                next.mark(row);
            }
            match (&self.names, class) {
                (None, _) if !self.run.is_known(&id) => self.want(row)?,
                (Some(_), Class::Data) => unsure.push((id, row)),
                _ => {}
            }
        }
        if let Some(names) = &self.names {
            let ids: Vec<BlobId> = unsure.iter().map(|(id, _)| *id).collect();
            for ((_, row), name) in unsure.into_iter().zip(names.get(&ids)?) {
                if !name.is_some_and(|name| self.run.is_known(&name)) {
                    self.want(row)?;
                }
            }
        }
        Ok(())
    }

    fn want(&mut self, row: Row) -> Result<()> {
        self.wanted.mark(row);
        self.bytes += u64::from(self.reach.index.length(row)?);
        Ok(())
    }
}
