//! Removals, notes and leases: the small objects beside snapshots. `docs/FORMAT.md` §12.

#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

use std::collections::{HashMap, HashSet};

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

/// What all removals of a store say together.
#[derive(Clone, Debug, Default)]
pub struct Removals {
    undeleted: HashSet<ObjectId>,
    deleted: HashMap<ObjectId, Vec<ObjectId>>,
    doomed: HashSet<ObjectId>,
    replaced: HashMap<ObjectId, ObjectId>,
}

impl Removals {
    /// Adds one.
    pub fn add(&mut self, id: ObjectId, removal: Removal) {
        for target in &removal.targets {
            match removal.kind {
                RemovalKind::Tombstone => self.deleted.entry(*target).or_default().push(id),
                RemovalKind::Undelete => {
                    self.undeleted.insert(*target);
                }
                RemovalKind::Condemned | RemovalKind::Gone => {
                    self.doomed.insert(*target);
                }
                RemovalKind::Replaced => {
                    if let Some(successor) = removal.successor {
                        self.replaced.insert(*target, successor);
                    }
                }
            }
        }
    }

    /// Whether a snapshot is deleted: some tombstone of it was not taken back.
    pub fn is_deleted(&self, snapshot: &ObjectId) -> bool {
        self.deleted.get(snapshot).is_some_and(|t| t.iter().any(|t| !self.undeleted.contains(t)))
    }

    /// The tombstones of a snapshot that were not taken back.
    pub fn tombstones(&self, snapshot: &ObjectId) -> Vec<ObjectId> {
        let all = self.deleted.get(snapshot).into_iter().flatten();
        all.filter(|t| !self.undeleted.contains(t)).copied().collect()
    }

    /// Whether a packfile is condemned or gone: nothing new may lean on it.
    pub fn is_doomed(&self, packfile: &ObjectId) -> bool {
        self.doomed.contains(packfile)
    }

    /// Whether any packfile is condemned or gone.
    pub fn any_doomed(&self) -> bool {
        !self.doomed.is_empty()
    }

    /// The state that replaces this one.
    pub fn successor(&self, state: &ObjectId) -> Option<ObjectId> {
        self.replaced.get(state).copied()
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
        all.add(ObjectId([10; 32]), removal(RemovalKind::Tombstone, 1));
        assert!(all.is_deleted(&snapshot));
        all.add(ObjectId([11; 32]), removal(RemovalKind::Undelete, 10));
        assert!(!all.is_deleted(&snapshot));
        all.add(ObjectId([12; 32]), removal(RemovalKind::Tombstone, 1));
        assert!(all.is_deleted(&snapshot));
        all.add(ObjectId([13; 32]), removal(RemovalKind::Condemned, 5));
        assert!(all.is_doomed(&ObjectId([5; 32])) && !all.is_deleted(&ObjectId([5; 32])));
    }
}
