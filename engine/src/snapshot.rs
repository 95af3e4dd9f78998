//! Snapshots: the commit point of a backup and the root of its tree. `docs/FORMAT.md` §11.

#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

use crate::id::{BlobId, ObjectId, StoreId};
use crate::tree::{Entry, Summary};
use crate::wire::{Put, Reader, WireError, WireResult, read_fields};

/// Longest text in a header.
const MAX_TEXT: usize = 64 << 10;

/// What is said of a backup by whoever makes it; the rest of its snapshot follows from what is backed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// When it began, ns since 1970; 0 is now.
    pub time_ns: i64,
    /// Its name.
    pub name: String,
    /// Free classification.
    pub category: String,
    /// Free classification.
    pub environment: String,
    /// Free classification.
    pub perimeter: String,
    /// Free classification.
    pub job: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Where it is made.
    pub host: String,
    /// By whom.
    pub user: String,
    /// Operating system.
    pub system: String,
    /// Architecture.
    pub architecture: String,
    /// Machine id, if the system has one.
    pub machine: String,
    /// The command line, without secrets.
    pub command_line: String,
    /// Program and version.
    pub client: String,
}

/// A snapshot's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id: the object's name, not stored in it.
    pub id: ObjectId,
    /// The entry `.` of the recorded root `/`.
    pub root: Entry,
    /// When the backup began, ns since 1970.
    pub time_ns: i64,
    /// How long it took, ns.
    pub duration_ns: u64,
    /// Its name, `default` unless given.
    pub name: String,
    /// Free classification.
    pub category: String,
    /// Free classification.
    pub environment: String,
    /// Free classification.
    pub perimeter: String,
    /// Free classification.
    pub job: String,
    /// Tags given at the backup.
    pub tags: Vec<String>,
    /// Type of the source: `fs`, …
    pub source: String,
    /// Where the source is: the host for `fs`.
    pub origin: String,
    /// What was backed up: absolute paths in the source.
    pub roots: Vec<Vec<u8>>,
    /// Where and by whom it was made.
    pub host: String,
    /// The user.
    pub user: String,
    /// Operating system.
    pub system: String,
    /// Architecture.
    pub architecture: String,
    /// Machine id, if the system has one.
    pub machine: String,
    /// The command line, without secrets.
    pub command_line: String,
    /// Program and version.
    pub client: String,
    /// Who wrote it: one id for each user of a machine.
    pub writer: [u8; 16],
    /// Counts this writer's snapshots in this store.
    pub sequence: u64,
    /// The writer's snapshot before this one, and BLAKE3 of its stored bytes.
    pub predecessor: Option<(ObjectId, [u8; 32])>,
    /// Digest of the snapshots and removals that the run saw.
    pub seen: [u8; 32],
    /// The run.
    pub run: ObjectId,
    /// The owner table.
    pub owners: Option<BlobId>,
    /// Bytes added to the store.
    pub added_bytes: u64,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Exclude patterns in force.
    pub excludes: Vec<String>,
    /// The snapshot that this is a copy of, in another store: the first one, of copies of copies.
    pub original: Option<(StoreId, ObjectId)>,
}

impl Snapshot {
    /// What the tree holds.
    pub fn summary(&self) -> Summary {
        self.root.directory().map(|(_, s)| *s).unwrap_or_default()
    }

    /// The path that stands for the whole: the one root, or the deepest directory that holds all roots.
    pub fn base(&self) -> Vec<u8> {
        let mut roots = self.roots.iter();
        let Some(first) = roots.next() else { return b"/".to_vec() };
        let mut base: Vec<&[u8]> = first.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
        for root in roots {
            let parts = root.split(|b| *b == b'/').filter(|p| !p.is_empty());
            let same = base.iter().zip(parts).take_while(|(a, b)| **a == *b).count();
            base.truncate(same);
        }
        let mut path = b"/".to_vec();
        path.extend_from_slice(&base.join(&b'/'));
        path
    }

    /// Its fields, to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut v = Vec::new();
        let mut field = |tag: u64, fill: &dyn Fn(&mut Vec<u8>)| {
            v.clear();
            fill(&mut v);
            out.put_field(tag, &v);
        };
        let texts = |v: &mut Vec<u8>, texts: &[&str]| texts.iter().for_each(|t| v.put_bytes(t.as_bytes()));
        field(1, &|v| self.root.encode(v));
        field(2, &|v| v.put_iv(self.time_ns));
        field(4, &|v| v.put_uv(self.duration_ns));
        field(6, &|v| v.extend_from_slice(self.name.as_bytes()));
        field(8, &|v| texts(v, &[&self.category, &self.environment, &self.perimeter, &self.job]));
        for tag in &self.tags {
            field(10, &|v| v.extend_from_slice(tag.as_bytes()));
        }
        field(12, &|v| texts(v, &[&self.source, &self.origin]));
        for root in &self.roots {
            field(14, &|v| v.extend_from_slice(root));
        }
        field(16, &|v| texts(v, &[&self.host, &self.user]));
        field(18, &|v| texts(v, &[&self.system, &self.architecture, &self.machine]));
        field(20, &|v| v.extend_from_slice(self.command_line.as_bytes()));
        field(22, &|v| v.extend_from_slice(self.client.as_bytes()));
        field(24, &|v| v.extend_from_slice(&self.writer));
        field(26, &|v| v.put_uv(self.sequence));
        if let Some((id, hash)) = &self.predecessor {
            field(28, &|v| {
                v.extend_from_slice(&id.0);
                v.extend_from_slice(hash);
            });
        }
        field(30, &|v| v.extend_from_slice(&self.seen));
        field(32, &|v| v.extend_from_slice(&self.run.0));
        if let Some(owners) = &self.owners {
            field(34, &|v| v.extend_from_slice(&owners.0));
        }
        field(36, &|v| v.put_uv(self.summary().errors));
        field(38, &|v| {
            v.put_uv(self.added_bytes);
            v.put_uv(self.read_bytes);
        });
        for pattern in &self.excludes {
            field(40, &|v| v.extend_from_slice(pattern.as_bytes()));
        }
        if let Some((store, id)) = &self.original {
            field(46, &|v| {
                v.extend_from_slice(&store.0);
                v.extend_from_slice(&id.0);
            });
        }
        out
    }

    /// Reads the fields of the snapshot with that id.
    pub fn decode(id: ObjectId, bytes: &[u8]) -> WireResult<Self> {
        let mut root = None;
        let mut s = Self { id, ..Self::empty() };
        let text = |r: &mut Reader<'_>| r.text(MAX_TEXT, "text").map(String::from);
        let rest = |r: &mut Reader<'_>| {
            let b = r.take(r.remaining())?;
            String::from_utf8(b.to_vec()).map_err(|_e| WireError::Malformed("text"))
        };
        read_fields(bytes, "snapshot", |tag, mut r| {
            match tag {
                1 => root = Some(Entry::decode_root(r.take(r.remaining())?)?),
                2 => s.time_ns = r.iv()?,
                4 => s.duration_ns = r.uv()?,
                6 => s.name = rest(&mut r)?,
                8 => {
                    for t in [&mut s.category, &mut s.environment, &mut s.perimeter, &mut s.job] {
                        *t = text(&mut r)?;
                    }
                }
                10 => s.tags.push(rest(&mut r)?),
                12 => (s.source, s.origin) = (text(&mut r)?, text(&mut r)?),
                14 => s.roots.push(r.take(r.remaining())?.to_vec()),
                16 => (s.host, s.user) = (text(&mut r)?, text(&mut r)?),
                18 => (s.system, s.architecture, s.machine) = (text(&mut r)?, text(&mut r)?, text(&mut r)?),
                20 => s.command_line = rest(&mut r)?,
                22 => s.client = rest(&mut r)?,
                24 => s.writer = r.array()?,
                26 => s.sequence = r.uv()?,
                28 => s.predecessor = Some((ObjectId(r.array()?), r.array()?)),
                30 => s.seen = r.array()?,
                32 => s.run = ObjectId(r.array()?),
                34 => s.owners = Some(BlobId(r.array()?)),
                // The number of errors; the root's summary says the same.
                36 => {}
                38 => (s.added_bytes, s.read_bytes) = (r.uv()?, r.uv()?),
                40 => s.excludes.push(rest(&mut r)?),
                46 => s.original = Some((StoreId(r.array()?), ObjectId(r.array()?))),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        s.root = root.ok_or(WireError::Truncated)?;
        Ok(s)
    }

    /// The header of a backup that begins.
    pub fn begin(said: Description) -> Self {
        Self {
            time_ns: said.time_ns,
            name: said.name,
            category: said.category,
            environment: said.environment,
            perimeter: said.perimeter,
            job: said.job,
            tags: said.tags,
            host: said.host,
            user: said.user,
            system: said.system,
            architecture: said.architecture,
            machine: said.machine,
            command_line: said.command_line,
            client: said.client,
            ..Self::empty()
        }
    }

    /// A header without anything in it, to be filled.
    pub fn empty() -> Self {
        let detail = crate::tree::Detail::Directory {
            node: BlobId([0; 32]),
            below: Summary::default(),
            partial: false,
        };
        let meta = crate::meta::Metadata::directory(0o755);
        let root = Entry::new(*b".", meta, detail);
        Self {
            id: ObjectId([0; 32]),
            root,
            time_ns: 0,
            duration_ns: 0,
            name: String::new(),
            category: String::new(),
            environment: String::new(),
            perimeter: String::new(),
            job: String::new(),
            tags: vec![],
            source: String::new(),
            origin: String::new(),
            roots: vec![],
            host: String::new(),
            user: String::new(),
            system: String::new(),
            architecture: String::new(),
            machine: String::new(),
            command_line: String::new(),
            client: String::new(),
            writer: [0; 16],
            sequence: 0,
            predecessor: None,
            seen: [0; 32],
            run: ObjectId([0; 32]),
            owners: None,
            added_bytes: 0,
            read_bytes: 0,
            excludes: vec![],
            original: None,
        }
    }

    /// The metadata blobs from which all of it is reached.
    pub fn tops(&self) -> impl Iterator<Item = BlobId> {
        self.root.directory().map(|(node, _)| node).into_iter().chain(self.owners)
    }

    /// What it is, wherever it was copied to.
    pub fn identity(&self, store: StoreId) -> (StoreId, ObjectId) {
        self.original.unwrap_or((store, self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        let s = Snapshot {
            id: ObjectId([1; 32]),
            time_ns: -5,
            name: "n".into(),
            job: "j".into(),
            tags: vec!["a".into(), "b".into()],
            source: "fs".into(),
            origin: "host".into(),
            roots: vec![b"/srv/\xff".to_vec(), b"/srv/x".to_vec()],
            predecessor: Some((ObjectId([2; 32]), [3; 32])),
            owners: Some(BlobId([4; 32])),
            excludes: vec!["*.o".into()],
            original: Some((StoreId([5; 16]), ObjectId([6; 32]))),
            ..Snapshot::empty()
        };
        assert_eq!(Snapshot::decode(s.id, &s.encode()), Ok(s.clone()));
        assert_eq!(s.base(), b"/srv");
        let bytes = s.encode();
        for n in 0..bytes.len() {
            let _ = Snapshot::decode(s.id, &bytes[..n]);
        }
    }

    #[test]
    fn the_base_of_roots_is_what_they_share() {
        let with = |roots: &[&[u8]]| {
            Snapshot { roots: roots.iter().map(|r| r.to_vec()).collect(), ..Snapshot::empty() }.base()
        };
        assert_eq!(with(&[b"/a/b"]), b"/a/b");
        assert_eq!(with(&[b"/a/b", b"/a/bc"]), b"/a");
        assert_eq!(with(&[b"/a", b"/b"]), b"/");
        assert_eq!(with(&[b"/"]), b"/");
    }
}
