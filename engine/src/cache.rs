//! What is kept on this machine for a store: the index, snapshots as stored, the file cache, frames. All of it can be
//! thrown away at any time; what has names in it is sealed.

pub mod frames;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::{Error, Result};
use crate::id::{BlobId, ObjectId, StoreId};
use crate::storage::Area;

/// Directories of this program for this user.
#[derive(Clone, Debug)]
pub struct LocalDirs {
    /// May be cleared at any time: `~/.cache/plakar`.
    pub cache: PathBuf,
    /// Must not be cleared lightly (which stores were sealed, counters): `~/.local/state/plakar`.
    pub state: PathBuf,
}

/// The layouts' versions: another one is another directory.
const CACHE_VERSION: &str = "v3";
const STATE_VERSION: &str = "v1";

/// The directory of frames in the cache of a store.
pub const FRAMES: &str = "frames";

/// The file in the cache of a store that says where that is.
pub const LOCATION: &str = "location";

/// The local cache of one store.
#[derive(Debug)]
pub struct LocalCache {
    directory: PathBuf,
    index: PathBuf,
    database: Mutex<Connection>,
    /// Keeps a directory for this process alone, when the user's cannot be written.
    own: Option<tempfile::TempDir>,
    /// Where the index went when its own place could not be written, the last one used.
    moved: Mutex<Vec<tempfile::TempDir>>,
}

/// Places for what this process needs and nobody keeps, in the order in which they are tried: the second is memory.
fn scratch_places() -> [PathBuf; 2] {
    [std::env::temp_dir(), PathBuf::from("/dev/shm")]
}

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS objects (
        area INTEGER NOT NULL, id BLOB NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (area, id)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS sources (
        source BLOB PRIMARY KEY, snapshot BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS source_states (
        source BLOB NOT NULL, state BLOB NOT NULL, PRIMARY KEY (source, state)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS directories (
        directory INTEGER PRIMARY KEY, source BLOB NOT NULL, parent INTEGER NOT NULL, record BLOB NOT NULL);
    CREATE INDEX IF NOT EXISTS children ON directories (source, parent);
    CREATE TABLE IF NOT EXISTS ids (
        store BLOB NOT NULL, there BLOB NOT NULL, here BLOB NOT NULL, PRIMARY KEY (store, there)) WITHOUT ROWID;
";
/// Most records of directories lie whole in a page of this size, and are read by one call.
const PAGE_BYTES: u32 = 16 << 10;

/// A directory of the file cache as it was: itself and its parent as hashes, its record.
pub(crate) type DirectoryRow = (i64, i64, Vec<u8>);

/// A source in the file cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CachedSource {
    /// Its name.
    pub(crate) source: [u8; 16],
    /// The snapshot that its directories were written with.
    pub(crate) snapshot: ObjectId,
}

/// A file without a name for this process, where there is a place for it.
pub(crate) fn scratch_file() -> Option<std::fs::File> {
    scratch_places().iter().find_map(|place| tempfile::tempfile_in(place).ok())
}

impl LocalCache {
    /// Opens, or makes, the cache of a store. A damaged database is thrown away. Where the user's cache cannot be
    /// written, a temporary one serves for this process.
    pub fn open(dirs: &LocalDirs, store: StoreId) -> Result<Self> {
        let directory = dirs.cache.join(CACHE_VERSION).join(store.to_string());
        match Self::open_at(&directory) {
            Ok(cache) => Ok(cache),
            Err(e) => {
                tracing::warn!(%e, directory = %directory.display(), "the local cache cannot be used; working without");
                let in_scratch = |place: PathBuf| {
                    let own = tempfile::tempdir_in(&place).map_err(|e| Error::io("write in", &place, e))?;
                    let mut cache = Self::open_at(own.path())?;
                    cache.own = Some(own);
                    Ok(cache)
                };
                let [first, second] = scratch_places();
                in_scratch(first).or_else(|e: Error| in_scratch(second).map_err(|_| e))
            }
        }
    }

    fn open_at(directory: &Path) -> Result<Self> {
        let index = directory.join("index");
        make_private(&index)?;
        let path = directory.join("cache.db");
        let database = match connect(&path) {
            Ok(c) => c,
            Err(e) if is_broken(&e) => {
                tracing::warn!(%e, "the local database is damaged and is made anew");
                for end in ["", "-wal", "-shm"] {
                    let _ = std::fs::remove_file(directory.join(format!("cache.db{end}")));
                }
                connect(&path)?
            }
            Err(e) => return Err(e.into()),
        };
        Ok(Self {
            directory: directory.into(),
            index,
            database: Mutex::new(database),
            own: None,
            moved: Mutex::default(),
        })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Notes where the store is, for people who look at the cache.
    pub(crate) fn note_location(&self, location: &str) {
        let path = self.directory.join(LOCATION);
        let is_known = std::fs::read(&path).is_ok_and(|known| known == location.as_bytes());
        let write = || {
            use std::io::Write;
            let mut file = private_file(&path)?;
            file.set_len(0)?;
            file.write_all(location.as_bytes())
        };
        if !is_known && let Err(e) = write() {
            tracing::debug!(%e, "the cache does not say whose it is");
        }
    }

    /// Where frames are.
    pub fn frames_directory(&self) -> PathBuf {
        self.directory.join(FRAMES)
    }

    /// Whether it is this process's alone, and goes with it.
    pub fn is_temporary(&self) -> bool {
        self.own.is_some()
    }

    /// Where index segments are.
    pub fn index_directory(&self) -> PathBuf {
        let moved = self.moved.lock();
        moved.last().map_or_else(|| self.index.clone(), |m| m.path().to_owned())
    }

    /// The index cannot be written where it is: moves it, empty, to the next place where this process may keep it.
    /// `false` when there is none left.
    pub(crate) fn move_index(&self) -> bool {
        let mut moved = self.moved.lock();
        let places = scratch_places();
        let next = places.iter().skip(moved.len()).find_map(|place| tempfile::tempdir_in(place).ok());
        let found = next.is_some();
        moved.extend(next);
        found
    }

    /// Removes what is this process's alone. It goes with this value too, which not every process lives to drop.
    pub fn clear_away(&self) {
        let moved = self.moved.lock();
        for place in moved.iter().chain(&self.own) {
            let _ = std::fs::remove_dir_all(place.path());
        }
    }

    fn database(&self) -> MutexGuard<'_, Connection> {
        self.database.lock()
    }

    /// Small objects of an area as the store has them, still sealed.
    pub fn objects(&self, area: Area) -> Result<Vec<(ObjectId, Vec<u8>)>> {
        let db = self.database();
        let mut query = db.prepare_cached("SELECT id, bytes FROM objects WHERE area = ?1")?;
        let rows = query.query_map([area as u8], |r| Ok((ObjectId(r.get(0)?), r.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// What blobs of another store are called in this one, as far as it was noted; nobody vouches for it yet.
    pub(crate) fn names_here(&self, store: StoreId, there: &[BlobId]) -> Result<Vec<Option<Vec<u8>>>> {
        let db = self.database();
        let mut query = db.prepare_cached("SELECT here FROM ids WHERE store = ?1 AND there = ?2")?;
        let get = |id: &BlobId| query.query_row(params![store.0, id.0], |r| r.get(0)).optional();
        Ok(there.iter().map(get).collect::<rusqlite::Result<_>>()?)
    }

    /// Notes them.
    pub(crate) fn note_names(&self, store: StoreId, names: &[(BlobId, Vec<u8>)]) -> Result<()> {
        let mut db = self.database();
        let transaction = db.transaction()?;
        {
            let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO ids VALUES (?1, ?2, ?3)")?;
            for (there, here) in names {
                put.execute(params![store.0, there.0, here])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Of some objects of an area those that are here.
    pub(crate) fn some_objects(&self, area: Area, ids: &[ObjectId]) -> Result<Vec<(ObjectId, Vec<u8>)>> {
        let db = self.database();
        let mut query = db.prepare_cached("SELECT bytes FROM objects WHERE area = ?1 AND id = ?2")?;
        let mut found = Vec::new();
        for id in ids {
            let bytes = query.query_row(params![area as u8, &id.0[..]], |r| r.get(0)).optional()?;
            found.extend(bytes.map(|b| (*id, b)));
        }
        Ok(found)
    }

    /// Keeps new objects of an area and forgets others.
    pub fn update_objects(&self, area: Area, new: &[(ObjectId, Vec<u8>)], gone: &[ObjectId]) -> Result<()> {
        if new.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let mut db = self.database();
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        for (id, bytes) in new {
            tx.prepare_cached("INSERT OR REPLACE INTO objects VALUES (?1, ?2, ?3)")?.execute(params![
                area as u8,
                &id.0[..],
                bytes
            ])?;
        }
        for id in gone {
            tx.prepare_cached("DELETE FROM objects WHERE area = ?1 AND id = ?2")?
                .execute(params![area as u8, &id.0[..]])?;
        }
        Ok(tx.commit()?)
    }

    /// The sources that the file cache knows.
    pub(crate) fn sources(&self) -> Result<Vec<CachedSource>> {
        let db = self.database();
        let mut query = db.prepare_cached("SELECT source, snapshot FROM sources")?;
        let row =
            |r: &rusqlite::Row<'_>| Ok(CachedSource { source: r.get(0)?, snapshot: ObjectId(r.get(1)?) });
        Ok(query.query_map([], row)?.collect::<rusqlite::Result<_>>()?)
    }

    /// The states that the index held when the directories of a source were written.
    pub(crate) fn source_states(&self, source: &[u8; 16]) -> Result<HashSet<ObjectId>> {
        let db = self.database();
        let mut query = db.prepare_cached("SELECT state FROM source_states WHERE source = ?1")?;
        let states = query.query_map([&source[..]], |r| Ok(ObjectId(r.get(0)?)))?;
        Ok(states.collect::<rusqlite::Result<_>>()?)
    }

    /// The record of a directory, of whatever source: the hash names both.
    pub(crate) fn directory_record(&self, directory: i64) -> Result<Option<Vec<u8>>> {
        let db = self.database();
        let mut query = db.prepare_cached("SELECT record FROM directories WHERE directory = ?1")?;
        Ok(query.query_row([directory], |r| r.get(0)).optional()?)
    }

    /// Replaces what the file cache knows of a source, in one transaction: removes directories with everything below
    /// them, keeps new records, names the new snapshot and the states that the index has come to hold. `base` is the
    /// snapshot that all this builds on; without one, all that was known is forgotten first. Does nothing if the cache has
    /// moved on to another snapshot since.
    pub(crate) fn update_source<'a>(
        &self,
        source: &[u8; 16],
        snapshot: ObjectId,
        base: Option<ObjectId>,
        states: impl Iterator<Item = &'a ObjectId>,
        removed: &[i64],
        rows: impl Iterator<Item = Result<DirectoryRow>>,
    ) -> Result<()> {
        let mut db = self.database();
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        match base {
            None => {
                tx.execute("DELETE FROM directories WHERE source = ?1", [&source[..]])?;
                tx.execute("DELETE FROM source_states WHERE source = ?1", [&source[..]])?;
            }
            Some(base) => {
                let query = "SELECT snapshot FROM sources WHERE source = ?1";
                let now = tx.query_row(query, [&source[..]], |r| r.get::<_, [u8; 32]>(0)).optional()?;
                if now != Some(base.0) {
                    return Ok(());
                }
            }
        }
        for directory in removed {
            tx.prepare_cached(
                "WITH RECURSIVE below(d) AS (VALUES (?2) UNION
                     SELECT directory FROM directories, below WHERE source = ?1 AND parent = d)
                 DELETE FROM directories WHERE directory IN below",
            )?
            .execute(params![&source[..], directory])?;
        }
        for row in rows {
            let (directory, parent, record) = row?;
            tx.prepare_cached("INSERT OR REPLACE INTO directories VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![directory, &source[..], parent, record])?;
        }
        for state in states {
            tx.prepare_cached("INSERT OR IGNORE INTO source_states VALUES (?1, ?2)")?
                .execute([&source[..], &state.0[..]])?;
        }
        tx.prepare_cached("INSERT OR REPLACE INTO sources VALUES (?1, ?2)")?
            .execute([&source[..], &snapshot.0[..]])?;
        Ok(tx.commit()?)
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    for end in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(end);
        make_way(Path::new(&file));
    }
    // SQLite would make it readable for all; its other files follow it. If it cannot be made, opening says why.
    let _ = private_file(path);
    let db = Connection::open(path)?;
    db.busy_timeout(std::time::Duration::from_secs(20))?;
    // Of a new database.
    db.pragma_update(None, "page_size", PAGE_BYTES)?;
    // Losing the last transactions to a crash is harmless; waiting for the disk at each is not.
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.execute_batch(SCHEMA)?;
    Ok(db)
}

fn is_broken(e: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, Unknown};
    matches!(e.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase | Unknown))
}

/// Removes what stands in the place of one of our files and is none: a FIFO would be waited on for ever. What cannot be
/// removed is in the way when the file is opened.
pub(crate) fn make_way(path: &Path) {
    let Ok(there) = std::fs::symlink_metadata(path) else { return };
    if std::fs::metadata(path).is_ok_and(|m| m.is_file()) {
        return;
    }
    tracing::warn!(path = %path.display(), "it is no file and is removed");
    let removed = if there.is_dir() { std::fs::remove_dir(path) } else { std::fs::remove_file(path) };
    if let Err(e) = removed {
        tracing::warn!(%e, path = %path.display(), "it cannot be removed");
    }
}

/// Opens a file for writing, which is made for this user alone if it is not there.
fn private_file(path: &Path) -> std::io::Result<std::fs::File> {
    make_way(path);
    let mut options = std::fs::File::options();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

/// Makes a directory, and missing parents, for this user alone.
pub(crate) fn make_private(path: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|e| Error::io("make", path, e))
}

/// What must outlive the cache, one small file for each store under `~/.local/state/plakar`: that the store was seen
/// sealed, this writer's id, and its counter.
#[derive(Clone, Debug)]
pub struct WriterState {
    path: PathBuf,
    /// This user's id on this machine, in this store.
    pub writer: [u8; 16],
    /// The last sequence number used.
    pub sequence: u64,
    /// The last snapshot written, and BLAKE3 of its stored bytes.
    pub last: Option<(ObjectId, [u8; 32])>,
    /// Whether the store was ever seen sealed.
    pub sealed: bool,
    known: bool,
}

impl WriterState {
    /// Reads the file, or begins anew.
    pub fn open(dirs: &LocalDirs, store: StoreId) -> Self {
        let path = dirs.state.join(STATE_VERSION).join(store.to_string());
        let mut s = Self {
            path,
            writer: crate::random_bytes(),
            sequence: 0,
            last: None,
            sealed: false,
            known: false,
        };
        s.read();
        s
    }

    fn read(&mut self) {
        make_way(&self.path);
        let Ok(text) = std::fs::read_to_string(&self.path) else { return };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("writer"), Some(hex), _) => {
                    self.known = hex::decode_to_slice(hex, &mut self.writer).is_ok();
                }
                (Some("sequence"), Some(n), _) => self.sequence = n.parse().unwrap_or(0),
                (Some("last"), Some(id), Some(hash)) => {
                    self.last = ObjectId::from_hex(id).zip(ObjectId::from_hex(hash)).map(|(i, h)| (i, h.0));
                }
                (Some("sealed"), ..) => self.sealed = true,
                _ => {}
            }
        }
    }

    /// Notes that the store is sealed.
    pub fn note_sealed(&mut self) {
        if !(self.sealed && self.known) {
            self.sealed = true;
            self.save();
        }
    }

    /// Waits for other processes of this user that are committing to the same store, and reads the file again.
    pub(crate) fn lock_and_reload(self) -> LockedState {
        let lock_path = self.path.with_extension("lock");
        let lock = self
            .path
            .parent()
            .and_then(|d| make_private(d).ok())
            .and_then(|()| private_file(&lock_path).ok())
            .filter(|f| f.lock().is_ok());
        let mut data = self;
        if data.known {
            data.read();
        }
        LockedState { data, _lock: lock }
    }

    /// Writes the file; a failure costs only what it guards against, and is logged.
    pub fn save(&mut self) {
        let mut text = format!("writer {}\nsequence {}\n", hex::encode(self.writer), self.sequence);
        if let Some((id, hash)) = &self.last {
            text += &format!("last {id} {}\n", hex::encode(hash));
        }
        if self.sealed {
            text += "sealed\n";
        }
        let write = || -> std::io::Result<()> {
            let directory = self.path.parent().unwrap_or(Path::new("."));
            make_private(directory).map_err(|e| std::io::Error::other(e.to_string()))?;
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            std::io::Write::write_all(&mut file, text.as_bytes())?;
            // Before it gets its name: a crash must not leave an empty file where the writer's id was.
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            Ok(())
        };
        match write() {
            Ok(()) => self.known = true,
            Err(e) => tracing::warn!(%e, path = %self.path.display(), "cannot keep the writer's state"),
        }
    }
}

/// The writer's state while no other process of this user may commit to the same store.
pub(crate) struct LockedState {
    pub(crate) data: WriterState,
    _lock: Option<std::fs::File>,
}
