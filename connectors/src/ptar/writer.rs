//! Writing a ptar: a store that only grows, into a file or a pipe.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use plakar_engine::ptar::{self, Directory, HEAD, Object, PART, PartHead};
use plakar_engine::storage::{Area, Listed, ObjectName, PutObject, Store, StoreError, StoreErrorKind};

use super::{blocking, listed, missing, read};

/// A ptar that is being written. Clones write the same one.
#[derive(Clone, Debug)]
pub struct PtarWriter {
    location: String,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    out: Box<dyn Write + Send>,
    /// To read what was written, where that is possible.
    back: Option<File>,
    at: u64,
    directory: Directory,
    /// Small objects, of which a program that writes reads some again. Leases are nowhere else: nobody else writes here.
    small: HashMap<ObjectName, (Bytes, i64)>,
    /// Something could not be written: nothing behind it would be found.
    broken: bool,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("at", &self.at).finish_non_exhaustive()
    }
}

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64)
}

fn unwritten(place: impl fmt::Display, e: std::io::Error) -> StoreError {
    let is_pipe = e.kind() == std::io::ErrorKind::BrokenPipe;
    let e = StoreError::io("write", place, e);
    // Nobody reads it any more: trying again is of no use.
    if is_pipe { e.with_kind(StoreErrorKind::Other) } else { e }
}

/// Whether objects of an area are few and small.
fn is_small(area: Area) -> bool {
    !matches!(area, Area::Data | Area::Meta | Area::States)
}

impl PtarWriter {
    /// Begins one: into a file, which is read again too, or into whatever else takes bytes.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(
        location: String,
        mut out: Box<dyn Write + Send>,
        back: Option<File>,
    ) -> Result<Self, StoreError> {
        out.write_all(&ptar::head()).map_err(|e| unwritten(&location, e))?;
        let inner = Inner {
            out,
            back,
            at: HEAD as u64,
            directory: Directory::new(),
            small: HashMap::new(),
            broken: false,
        };
        Ok(Self { location, inner: Arc::new(Mutex::new(inner)) })
    }

    /// Writes the end. Nothing can be put after that.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn finish(&self) -> Result<u64, StoreError> {
        let (inner, location) = (self.inner.clone(), self.location.clone());
        let work = move || inner.lock().finish().map_err(|e| unwritten(location, e));
        blocking(&self.location, work).await
    }
}

impl Inner {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.broken {
            return Err(std::io::Error::other("an earlier part could not be written"));
        }
        self.out.write_all(bytes).inspect_err(|_| self.broken = true)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Writes a part, and says where its bytes are.
    fn part(&mut self, head: PartHead, pieces: &[Bytes]) -> std::io::Result<(u64, u32)> {
        self.write(&head.encode())?;
        let at = self.at;
        pieces.iter().try_for_each(|piece| self.write(piece))?;
        debug_assert_eq!(self.at, at + u64::from(head.length));
        Ok((at, head.length))
    }

    fn finish(&mut self) -> std::io::Result<u64> {
        let (at, directory) = (self.at, ptar::encode_directory(&self.directory));
        self.write(&directory)?;
        self.write(&ptar::trailer(at, &directory))?;
        self.out.flush()?;
        self.broken = true;
        Ok(self.at)
    }
}

#[async_trait]
impl Store for PtarWriter {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn local_path(&self) -> Option<&Path> {
        None
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn list(&self, area: Area) -> Result<Vec<Listed>, StoreError> {
        let inner = self.inner.lock();
        if is_small(area) {
            let of = inner.small.iter().filter(|(name, _)| name.area == area);
            let listed = |(name, (bytes, time)): (&ObjectName, &(Bytes, i64))| Listed {
                id: name.id,
                len: bytes.len() as u64,
                modified_ns: *time,
            };
            return Ok(of.map(listed).collect());
        }
        let of = inner.directory.iter().filter(|(name, _)| name.area == area);
        Ok(of.map(|(name, object)| listed(*name, object)).collect())
    }

    async fn get(&self, name: ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let (object, back) = {
            let inner = self.inner.lock();
            if let Some((bytes, _)) = inner.small.get(&name) {
                return match range {
                    None => Ok(bytes.clone()),
                    Some(r) if r.start <= r.end && r.end <= bytes.len() as u64 => {
                        Ok(bytes.slice(r.start as usize..r.end as usize))
                    }
                    Some(_) => {
                        Err(StoreError::new(StoreErrorKind::OutOfRange, "read", name, "it is shorter"))
                    }
                };
            }
            let object = inner.directory.get(&name).cloned().ok_or_else(|| missing("read", name))?;
            let back = inner.back.as_ref().map(File::try_clone);
            (object, back)
        };
        let Some(back) = back else {
            let why = "what went into a pipe cannot be read again";
            return Err(StoreError::new(StoreErrorKind::Unreadable, "read", name, why));
        };
        let back = back.map_err(|e| StoreError::io("read", name, e))?;
        blocking(&self.location, move || read(&back, name, &object, range)).await
    }

    async fn stat(&self, name: ObjectName) -> Result<Listed, StoreError> {
        let inner = self.inner.lock();
        if let Some((bytes, time)) = inner.small.get(&name) {
            return Ok(Listed { id: name.id, len: bytes.len() as u64, modified_ns: *time });
        }
        inner.directory.get(&name).map(|o| listed(name, o)).ok_or_else(|| missing("look at", name))
    }

    async fn put(&self, name: ObjectName) -> Result<Box<dyn PutObject>, StoreError> {
        let (pieces, held, all) = (Vec::new(), 0, Vec::new());
        let object = Object::default();
        Ok(Box::new(Put { store: self.clone(), name, object, pieces, held, all }))
    }

    async fn delete(&self, name: ObjectName) -> Result<(), StoreError> {
        let mut inner = self.inner.lock();
        inner.small.remove(&name);
        inner.directory.remove(&name);
        Ok(())
    }
}

struct Put {
    store: PtarWriter,
    name: ObjectName,
    object: Object,
    /// What makes the next part.
    pieces: Vec<Bytes>,
    held: usize,
    /// All of a small object.
    all: Vec<u8>,
}

impl Put {
    async fn part(&mut self, is_last: bool) -> Result<(), StoreError> {
        let pieces = std::mem::take(&mut self.pieces);
        let head = PartHead { name: self.name, length: std::mem::take(&mut self.held) as u32, is_last };
        let (inner, name) = (self.store.inner.clone(), self.name);
        let work = move || inner.lock().part(head, &pieces).map_err(|e| unwritten(name, e));
        self.object.extents.push(blocking(&self.store.location, work).await?);
        Ok(())
    }
}

#[async_trait]
impl PutObject for Put {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), StoreError> {
        if is_small(self.name.area) {
            self.all.extend_from_slice(&bytes);
        }
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PART - self.held));
            self.held += piece.len();
            self.pieces.push(piece);
            if self.held == PART {
                self.part(false).await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Listed, StoreError> {
        let now = now_ns();
        if self.name.area != Area::Leases {
            self.part(true).await?;
        }
        self.object.modified_ns = now;
        let done = Listed { id: self.name.id, len: self.object.len(), modified_ns: now };
        let mut inner = self.store.inner.lock();
        if is_small(self.name.area) {
            inner.small.insert(self.name, (std::mem::take(&mut self.all).into(), now));
        }
        if self.name.area != Area::Leases {
            inner.directory.insert(self.name, std::mem::take(&mut self.object));
        }
        Ok(done)
    }

    async fn abort(self: Box<Self>) {}
}
