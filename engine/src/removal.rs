//! Removals, notes and leases: the small objects beside snapshots. `docs/FORMAT.md` §12.

#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::id::ObjectId;
use crate::wire::{Put, WireError, WireResult, read_fields};

/// What a removal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RemovalKind {
    /// Deletes a snapshot.
    Tombstone = 1,
    /// Takes back a tombstone, which it names.
    Undelete = 2,
    /// Says that a packfile will go.
    Condemned = 3,
    /// Says that a packfile has gone.
    Gone = 4,
    /// Says that a state is contained in another.
    Replaced = 5,
}

/// A removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// What it does.
    pub kind: RemovalKind,
    /// To what.
    pub targets: Vec<ObjectId>,
    /// The state that contains the targets.
    pub successor: Option<ObjectId>,
    /// When, by the writer's clock, ns since 1970; for people only.
    pub time_ns: i64,
    /// Why, for people.
    pub reason: String,
    /// Who.
    pub writer: [u8; 16],
}

fn put_text_field(out: &mut Vec<u8>, tag: u64, text: &str) {
    if !text.is_empty() {
        out.put_field(tag, text.as_bytes());
    }
}

fn put_time_field(out: &mut Vec<u8>, tag: u64, time_ns: i64) {
    let mut v = Vec::new();
    v.put_iv(time_ns);
    out.put_field(tag, &v);
}

impl Removal {
    /// Its fields, to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_field(1, &[self.kind as u8]);
        for id in &self.targets {
            out.put_field(3, &id.0);
        }
        put_time_field(&mut out, 4, self.time_ns);
        if let Some(id) = &self.successor {
            out.put_field(5, &id.0);
        }
        put_text_field(&mut out, 6, &self.reason);
        out.put_field(8, &self.writer);
        out
    }

    /// Reads its fields.
    pub fn decode(bytes: &[u8]) -> WireResult<Self> {
        let mut kind = None;
        let (mut targets, mut successor, mut time_ns) = (Vec::new(), None, 0);
        let (mut reason, mut writer) = (String::new(), [0; 16]);
        read_fields(bytes, "removal", |tag, mut r| {
            match tag {
                1 => {
                    kind = Some(match r.u8()? {
                        1 => RemovalKind::Tombstone,
                        2 => RemovalKind::Undelete,
                        3 => RemovalKind::Condemned,
                        4 => RemovalKind::Gone,
                        5 => RemovalKind::Replaced,
                        _ => return Err(WireError::Newer("kind of removal")),
                    });
                }
                3 => targets.push(ObjectId(r.array()?)),
                4 => time_ns = r.iv()?,
                5 => successor = Some(ObjectId(r.array()?)),
                6 => reason = String::from_utf8_lossy(r.take(r.remaining())?).into_owned(),
                8 => writer = r.array()?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let kind = kind.ok_or(WireError::Truncated)?;
        Ok(Self { kind, targets, successor, time_ns, reason, writer })
    }
}

/// What is said of a packfile that goes, each with the store time of the removal that said it first, ns since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doom {
    /// It was condemned.
    pub condemned_ns: Option<i64>,
    /// It was said to be gone.
    pub gone_ns: Option<i64>,
}

/// What all removals of a store say together. Times are those of the store, ns since 1970.
#[derive(Clone, Debug, Default)]
pub struct Removals {
    all: Vec<(ObjectId, i64, Arc<Removal>)>,
    undeleted: HashSet<ObjectId>,
    deleted: HashMap<ObjectId, Vec<(ObjectId, i64)>>,
    doomed: HashMap<ObjectId, Doom>,
    replaced: HashMap<ObjectId, (ObjectId, i64)>,
}

impl Removals {
    /// Adds one, which the store took at a time.
    pub fn add(&mut self, id: ObjectId, listed_ns: i64, removal: Arc<Removal>) {
        let first = |time: &mut Option<i64>| *time = Some(time.map_or(listed_ns, |t| t.min(listed_ns)));
        for target in &removal.targets {
            match removal.kind {
                RemovalKind::Tombstone => self.deleted.entry(*target).or_default().push((id, listed_ns)),
                RemovalKind::Undelete => {
                    self.undeleted.insert(*target);
                }
                RemovalKind::Condemned => first(&mut self.doomed.entry(*target).or_default().condemned_ns),
                RemovalKind::Gone => first(&mut self.doomed.entry(*target).or_default().gone_ns),
                RemovalKind::Replaced => {
                    if let Some(successor) = removal.successor {
                        self.replaced.insert(*target, (successor, listed_ns));
                    }
                }
            }
        }
        self.all.push((id, listed_ns, removal));
    }

    /// All of them: id, store time, what it says.
    pub fn all(&self) -> &[(ObjectId, i64, Arc<Removal>)] {
        &self.all
    }

    /// Whether a snapshot is deleted: some tombstone of it was not taken back.
    pub fn is_deleted(&self, snapshot: &ObjectId) -> bool {
        self.deleted_ns(snapshot).is_some()
    }

    /// Since when a snapshot is deleted: the store time of its first tombstone that was not taken back.
    pub fn deleted_ns(&self, snapshot: &ObjectId) -> Option<i64> {
        self.standing(snapshot).map(|(_, time)| *time).min()
    }

    /// Whether a tombstone was taken back.
    pub fn is_undeleted(&self, tombstone: &ObjectId) -> bool {
        self.undeleted.contains(tombstone)
    }

    /// The tombstones of a snapshot that were not taken back.
    pub fn tombstones(&self, snapshot: &ObjectId) -> Vec<ObjectId> {
        self.standing(snapshot).map(|(id, _)| *id).collect()
    }

    fn standing(&self, snapshot: &ObjectId) -> impl Iterator<Item = &(ObjectId, i64)> {
        let all = self.deleted.get(snapshot).into_iter().flatten();
        all.filter(|(id, _)| !self.undeleted.contains(id))
    }

    /// Whether a packfile is condemned or gone: nothing new may lean on it.
    pub fn is_doomed(&self, packfile: &ObjectId) -> bool {
        self.doomed.contains_key(packfile)
    }

    /// What is said of a packfile.
    pub fn doom(&self, packfile: &ObjectId) -> Option<Doom> {
        self.doomed.get(packfile).copied()
    }

    /// Whether any packfile is condemned or gone.
    pub fn any_doomed(&self) -> bool {
        !self.doomed.is_empty()
    }

    /// The state that stands in for this one, and since when this one is replaced: the first of those that replaced it,
    /// one after the other, that is usable.
    pub fn stand_in(
        &self,
        state: &ObjectId,
        is_usable: impl Fn(&ObjectId) -> bool,
    ) -> Option<(ObjectId, i64)> {
        let (mut next, since_ns) = *self.replaced.get(state)?;
        // A circle, which nobody writes, has an end as well.
        for _ in 0..=self.replaced.len() {
            if is_usable(&next) {
                return Some((next, since_ns));
            }
            next = self.replaced.get(&next)?.0;
        }
        None
    }

    /// Whether a state has replaced others.
    pub fn has_replaced(&self, state: &ObjectId) -> bool {
        self.replaced.values().any(|(successor, _)| successor == state)
    }
}

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NoteKind {
    /// All tags of a snapshot, in place of those of its header.
    Tags = 1,
    /// Protected from removal, if it has a value.
    Pin = 2,
    /// A description.
    Description = 3,
    /// A name, in place of the header's.
    Name = 4,
}

/// A note on a snapshot. For each snapshot and kind the last by (counter, object id) wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is about.
    pub kind: NoteKind,
    /// The snapshot.
    pub snapshot: ObjectId,
    /// Orders notes.
    pub counter: u64,
    /// What it says.
    pub values: Vec<String>,
    /// When, ns since 1970; for people only.
    pub time_ns: i64,
}

impl Note {
    /// Its fields, to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_field(1, &[self.kind as u8]);
        out.put_field(3, &self.snapshot.0);
        put_time_field(&mut out, 4, self.time_ns);
        let mut v = Vec::new();
        v.put_uv(self.counter);
        out.put_field(5, &v);
        for value in &self.values {
            out.put_field(7, value.as_bytes());
        }
        out
    }

    /// Reads its fields.
    pub fn decode(bytes: &[u8]) -> WireResult<Self> {
        let (mut kind, mut snapshot, mut counter) = (None, None, 0);
        let (mut values, mut time_ns) = (Vec::new(), 0);
        read_fields(bytes, "note", |tag, mut r| {
            match tag {
                1 => {
                    kind = Some(match r.u8()? {
                        1 => NoteKind::Tags,
                        2 => NoteKind::Pin,
                        3 => NoteKind::Description,
                        4 => NoteKind::Name,
                        _ => return Err(WireError::Newer("kind of note")),
                    });
                }
                3 => snapshot = Some(ObjectId(r.array()?)),
                4 => time_ns = r.iv()?,
                5 => counter = r.uv()?,
                7 => {
                    let b = r.take(r.remaining())?;
                    values.push(String::from_utf8(b.to_vec()).map_err(|_e| WireError::Malformed("text"))?);
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let (kind, snapshot) = kind.zip(snapshot).ok_or(WireError::Truncated)?;
        Ok(Self { kind, snapshot, counter, values, time_ns })
    }
}

/// A run in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The run.
    pub run: ObjectId,
    /// When it was written by the writer's clock, ns since 1970.
    pub time_ns: i64,
    /// The host.
    pub host: String,
    /// What the run does: "backup", …
    pub purpose: String,
    /// Its process.
    pub process: u32,
}

impl Lease {
    /// Its fields, to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_field(1, &self.run.0);
        put_time_field(&mut out, 2, self.time_ns);
        put_text_field(&mut out, 4, &self.host);
        put_text_field(&mut out, 6, &self.purpose);
        out.put_field(8, &self.process.to_le_bytes());
        out
    }

    /// Reads its fields.
    pub fn decode(bytes: &[u8]) -> WireResult<Self> {
        let mut run = None;
        let (mut time_ns, mut host, mut purpose, mut process) = (0, String::new(), String::new(), 0);
        read_fields(bytes, "lease", |tag, mut r| {
            match tag {
                1 => run = Some(ObjectId(r.array()?)),
                2 => time_ns = r.iv()?,
                4 => host = String::from_utf8_lossy(r.take(r.remaining())?).into_owned(),
                6 => purpose = String::from_utf8_lossy(r.take(r.remaining())?).into_owned(),
                8 => process = r.u32()?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self { run: run.ok_or(WireError::Truncated)?, time_ns, host, purpose, process })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removal(kind: RemovalKind, target: u8) -> Removal {
        let targets = vec![ObjectId([target; 32])];
        Removal { kind, targets, successor: None, time_ns: 1, reason: "r".into(), writer: [1; 16] }
    }

    #[test]
    fn small_objects_round_trip() {
        let r = Removal { successor: Some(ObjectId([9; 32])), ..removal(RemovalKind::Replaced, 1) };
        assert_eq!(Removal::decode(&r.encode()), Ok(r));
        let n = Note {
            kind: NoteKind::Tags,
            snapshot: ObjectId([1; 32]),
            counter: 7,
            values: vec!["a".into(), "b".into()],
            time_ns: 3,
        };
        assert_eq!(Note::decode(&n.encode()), Ok(n));
        let l = Lease {
            run: ObjectId([1; 32]),
            time_ns: -1,
            host: "h".into(),
            purpose: "backup".into(),
            process: 7,
        };
        assert_eq!(Lease::decode(&l.encode()), Ok(l));
    }

    #[test]
    fn a_snapshot_stays_deleted_while_any_tombstone_stands() {
        let mut all = Removals::default();
        let snapshot = ObjectId([1; 32]);
        let add = |all: &mut Removals, id, time, kind, target| {
            all.add(ObjectId([id; 32]), time, Arc::new(removal(kind, target)));
        };
        add(&mut all, 10, 100, RemovalKind::Tombstone, 1);
        assert_eq!(all.deleted_ns(&snapshot), Some(100));
        add(&mut all, 11, 101, RemovalKind::Undelete, 10);
        assert!(!all.is_deleted(&snapshot));
        add(&mut all, 12, 102, RemovalKind::Tombstone, 1);
        assert_eq!(all.deleted_ns(&snapshot), Some(102));
        assert_eq!(all.tombstones(&snapshot), [ObjectId([12; 32])]);
        add(&mut all, 13, 105, RemovalKind::Condemned, 5);
        add(&mut all, 14, 104, RemovalKind::Condemned, 5);
        let doom = Doom { condemned_ns: Some(104), gone_ns: None };
        assert_eq!(all.doom(&ObjectId([5; 32])), Some(doom));
        assert!(!all.is_deleted(&ObjectId([5; 32])));
    }

    #[test]
    fn a_state_is_replaced_by_the_first_that_is_usable() {
        let mut all = Removals::default();
        let id = |n: u8| ObjectId([n; 32]);
        for (target, successor, time) in [(1, 2, 10), (2, 3, 20), (7, 8, 30), (8, 7, 40)] {
            let r = Removal { successor: Some(id(successor)), ..removal(RemovalKind::Replaced, target) };
            all.add(ObjectId::random(), time, Arc::new(r));
        }
        assert_eq!(all.stand_in(&id(1), |_| true), Some((id(2), 10)));
        assert_eq!(all.stand_in(&id(1), |s| *s == id(3)), Some((id(3), 10)));
        assert_eq!(all.stand_in(&id(1), |_| false), None);
        assert_eq!(all.stand_in(&id(3), |_| true), None);
        assert_eq!(all.stand_in(&id(7), |_| false), None);
        assert!(all.has_replaced(&id(2)) && !all.has_replaced(&id(1)));
    }
}
