//! What a mount says of itself: the directory `.plakar` at the root, which is not listed, and `user.plakar.*`.
//!
//! ```text
//! .plakar/statistics.json, statistics.txt    what it has done so far; another file each time
//! .plakar/snapshots/<name>.json              the header of each snapshot
//! .plakar/hosts, ids, …                      the views, to which links at the root lead
//! ```
//!
//! The attributes are given when asked for by name and never listed, or copies would carry them along:
//! `user.plakar.snapshot`, `.path`, `.born`, `.blobs`, `.verified`.

use std::fmt::Write as _;
use std::sync::Arc;

use plakar_engine::cache::frames::FrameCacheStats;
use plakar_engine::frame_source::Purpose;
use plakar_engine::meta::Timestamp;
use plakar_engine::snapshot::Snapshot;
use plakar_engine::tree::{Detail, Entry};
use serde::Serialize;
use serde_json::json;

use super::SnapshotFs;
use super::inodes::Inode;
use super::tree::Dir;
use crate::cache::FrameCounts;
use crate::error::FsError;
use crate::view::{Folder, HIDDEN, Item, Shown, Target, Text, View, cookie_of, cookie_of_name, timestamp};
use crate::words;

/// The directory.
pub(super) const FOLDER: &[u8] = HIDDEN;
const SNAPSHOTS: &[u8] = b".plakar/snapshots";
const PREFIX: &[u8] = b"user.plakar.";
/// Bytes of a file that are verified under one deadline.
const STEP: u64 = 4 << 20;

/// What a mount has done so far, and what it holds now.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Status {
    /// Seconds since it was opened.
    pub seconds: u64,
    /// Snapshots that are shown.
    pub snapshots: usize,
    /// Inodes that the kernel holds.
    pub inodes: usize,
    /// Requests by kind.
    pub requests: Requests,
    /// Requests that failed because of the store.
    pub failures: Failures,
    /// Bytes of files that were read.
    pub read_bytes: u64,
    /// Files that were put into the kernel's cache before it asked.
    pub pushed_files: u64,
    /// Their bytes.
    pub pushed_bytes: u64,
    /// Frames: pieces of the store, fetched and decoded whole.
    pub frames: FrameCounts,
    /// The cache of frames on this machine's disk, where it is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_cache: Option<FrameCacheStats>,
}

/// Requests by kind.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Requests {
    /// Names that were looked up.
    pub lookups: u64,
    /// Times that attributes were asked for.
    pub attributes: u64,
    /// Parts of directories that were listed.
    pub lists: u64,
    /// Parts of files that were read.
    pub reads: u64,
    /// Links that were followed.
    pub links: u64,
    /// Extended attributes, or lists of them.
    pub xattrs: u64,
}

/// Requests that failed because of the store.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Failures {
    /// The store, or what is in it, failed.
    pub failed: u64,
    /// The store did not answer in time.
    pub timed_out: u64,
}

impl Status {
    /// As lines of text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let json = serde_json::to_value(self).unwrap_or_default();
        for (name, value) in json.as_object().into_iter().flatten() {
            match value.as_object() {
                None => _ = writeln!(out, "{name:<24}{value:>16}"),
                Some(group) => {
                    for (field, value) in group {
                        _ = writeln!(out, "{:<24}{value:>16}", format!("{name}.{field}"));
                    }
                }
            }
        }
        out
    }
}

impl SnapshotFs {
    /// What it has done so far.
    pub fn status(&self) -> Status {
        let a = &self.activity;
        Status {
            seconds: self.opened.elapsed().as_secs(),
            snapshots: self.shown().len(),
            inodes: self.inodes.len(),
            requests: Requests {
                lookups: a.lookups.read(),
                attributes: a.attributes.read(),
                lists: a.lists.read(),
                reads: a.reads.read(),
                links: a.links.read(),
                xattrs: a.xattrs.read(),
            },
            failures: Failures { failed: a.failed.read(), timed_out: a.timed_out.read() },
            read_bytes: a.read_bytes.read(),
            pushed_files: a.pushed_files.read(),
            pushed_bytes: a.pushed_bytes.read(),
            frames: self.frames.counts(),
            disk_cache: self.repository.disk_cache_stats(),
        }
    }

    /// The snapshots that are shown, also where only one is.
    fn shown(&self) -> Vec<Shown> {
        match self.inodes.root() {
            Some(root) => {
                let snapshot = root.tree.snapshot.clone();
                vec![Shown { name: snapshot.id.short().into_bytes().into(), snapshot }]
            }
            None => self.view().snapshots().to_vec(),
        }
    }

    /// The names of a directory of `.plakar`; `None` for other paths.
    pub(super) fn about(&self, view: &View, path: &[u8]) -> Option<Folder> {
        let now = now();
        let text = |name: &str, bytes: Vec<u8>, mtime| {
            let target = Target::Text(Arc::new(Text { bytes: bytes.into(), mtime }));
            Item { name: name.as_bytes().into(), cookie: cookie_of_name(name.as_bytes()), target }
        };
        let items = match path {
            FOLDER => {
                let status = self.status();
                let folder = Target::Folder(SNAPSHOTS.into());
                let views = view.folder(FOLDER).map(|f| f.items().to_vec()).unwrap_or_default();
                let own = [
                    text("statistics.json", pretty(&status), now),
                    text("statistics.txt", status.text().into_bytes(), now),
                    Item {
                        name: b"snapshots"[..].into(),
                        cookie: cookie_of_name(b"snapshots"),
                        target: folder,
                    },
                ];
                own.into_iter().chain(views).collect()
            }
            SNAPSHOTS => {
                let header = |shown: &Shown| {
                    let name = format!("{}.json", String::from_utf8_lossy(&shown.name));
                    let header = pretty(&describe(&shown.snapshot));
                    let item = text(&name, header, timestamp(shown.snapshot.time_ns));
                    Item { cookie: cookie_of(&shown.snapshot), ..item }
                };
                self.shown().iter().map(header).collect()
            }
            _ => return None,
        };
        let time = if path == FOLDER { now } else { self.folder_time(view, b"snapshots") };
        Some(Folder::new(items, time))
    }

    /// The value of an attribute that is made here; `None` for other names.
    pub(super) async fn made_xattr(&self, inode: &Inode, name: &[u8]) -> Option<Result<Vec<u8>, FsError>> {
        let name = name.strip_prefix(PREFIX)?;
        let (dir, entry) = match inode {
            Inode::Directory(dir) => (dir.clone(), None),
            Inode::Leaf(dir, position) => match self.entry(dir, *position).await {
                Ok(entry) => (dir.clone(), Some(entry)),
                Err(e) => return Some(Err(e)),
            },
            Inode::Folder(_) | Inode::Link(_) | Inode::Text(_) => return None,
        };
        let value = match (name, &entry) {
            (b"snapshot", _) => dir.tree.snapshot.id.to_string().into_bytes(),
            (b"path", Some(entry)) => dir.path_of(&entry.name),
            (b"path", None) => dir.path(),
            (b"born", _) => {
                let born = entry.as_ref().unwrap_or(&dir.entry).meta.born?;
                words::time(born).into_bytes()
            }
            (b"blobs", Some(entry)) => match self.blobs(&dir, entry).await {
                Ok(blobs) => blobs,
                Err(e) => return Some(Err(e)),
            },
            (b"blobs", None) => dir.node().to_string().into_bytes(),
            (b"verified", Some(entry)) => match self.verify(&dir, entry).await {
                Ok(()) => b"yes".to_vec(),
                Err(e) => return Some(Err(e)),
            },
            _ => return None,
        };
        Some(Ok(value))
    }

    /// The ids of a file's blobs, one on a line; `-` stands for a hole.
    async fn blobs(&self, dir: &Dir, entry: &Entry) -> Result<Vec<u8>, FsError> {
        /// The kernel takes no longer value.
        const LONGEST: usize = 64 << 10;
        let Detail::Regular(contents) = &entry.detail else { return Ok(Vec::new()) };
        let mut pieces = self.folders.vfs().pieces(contents, 0..entry.meta.size);
        let mut out = String::new();
        while let Some(piece) = self.within(dir, Some(&entry.name), pieces.next()).await? {
            let id = piece.extent.id.map_or_else(|| "-".into(), |id| id.to_string());
            if out.len() + id.len() + 5 > LONGEST {
                out.push_str("…\n");
                break;
            }
            out.push_str(&id);
            out.push('\n');
        }
        Ok(out.into_bytes())
    }

    /// Reads a file from the store and compares its blobs with their ids.
    async fn verify(&self, dir: &Dir, entry: &Entry) -> Result<(), FsError> {
        let Detail::Regular(contents) = &entry.detail else { return Ok(()) };
        if contents.missing {
            return Err(FsError::Failed);
        }
        let vfs = self.folders.vfs();
        let mut at = 0;
        while at < entry.meta.size {
            let end = (at + STEP).min(entry.meta.size);
            let mut pieces = vfs.pieces(contents, at..end);
            while let Some(piece) = self.request(self.within(dir, Some(&entry.name), pieces.next())).await? {
                // Reading a whole blob compares it with its id.
                let (begins_here, Some(id)) = (piece.start >= at, piece.extent.id) else { continue };
                if begins_here {
                    let whole = vfs.blob(plakar_engine::crypto::Class::Data, id, Purpose::OnDemand);
                    // However long all of them take: that is what was asked for.
                    self.request(self.within(dir, Some(&entry.name), whole)).await?;
                }
            }
            at = end;
        }
        Ok(())
    }
}

/// A snapshot's header for people and programs.
fn describe(s: &Snapshot) -> serde_json::Value {
    let text = |b: &Vec<u8>| String::from_utf8_lossy(b).into_owned();
    let below = s.summary();
    let time = jiff::Timestamp::from_nanosecond(i128::from(s.time_ns)).unwrap_or_default();
    json!({
        "id": s.id.to_string(),
        "time": time.to_string(),
        "seconds": s.duration_ns / 1_000_000_000,
        "name": s.name,
        "tags": s.tags,
        "source": s.source,
        "origin": s.origin,
        "roots": s.roots.iter().map(text).collect::<Vec<_>>(),
        "host": s.host,
        "user": s.user,
        "system": s.system,
        "client": s.client,
        "category": s.category,
        "environment": s.environment,
        "perimeter": s.perimeter,
        "job": s.job,
        "contents": below,
        "read_bytes": s.read_bytes,
        "added_bytes": s.added_bytes,
    })
}

fn pretty(value: &impl Serialize) -> Vec<u8> {
    let mut out = serde_json::to_vec_pretty(value).unwrap_or_default();
    out.push(b'\n');
    out
}

fn now() -> Timestamp {
    timestamp(super::now_ns())
}
