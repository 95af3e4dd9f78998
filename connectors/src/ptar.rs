//! A store in one file, `.ptar`: opened as every store is, read only; written in one go, also into a pipe.
//! `docs/FORMAT.md` §15 is what stands in it.

mod writer;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use plakar_engine::ptar::{self, Directory, HEAD, Object, PART_HEAD, PartHead, TRAILER};
use plakar_engine::storage::{Area, Listed, ObjectName, PutObject, Store, StoreError, StoreErrorKind};
use tokio::sync::OnceCell;

pub use writer::PtarWriter;

/// A ptar as a store. Nothing is read before it is used.
#[derive(Debug)]
pub struct PtarStore {
    path: PathBuf,
    location: String,
    open: OnceCell<Arc<Contents>>,
}

#[derive(Debug)]
struct Contents {
    file: File,
    directory: Directory,
    /// The directory cannot be read: what was found without it, in words.
    fault: Option<String>,
}

impl PtarStore {
    /// Names a ptar.
    pub fn new(path: PathBuf) -> Self {
        let location = path.display().to_string();
        let path = std::path::absolute(&path).unwrap_or(path);
        Self { path, location, open: OnceCell::new() }
    }

    /// Whether a path names a ptar: by its name, or as it begins as one does.
    pub fn is_one(path: &Path) -> bool {
        let by_name = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("ptar"));
        let begins = || {
            let mut head = [0; ptar::MAGIC.len()];
            let is_file = path.metadata().is_ok_and(|m| m.is_file());
            is_file
                && File::open(path).and_then(|f| f.read_exact_at(&mut head, 0)).is_ok()
                && head == *ptar::MAGIC
        };
        (by_name && !path.is_dir()) || begins()
    }

    async fn open(&self) -> Result<&Arc<Contents>, StoreError> {
        let make = || async {
            let (path, location) = (self.path.clone(), self.location.clone());
            blocking(&self.location, move || Contents::read_from(&path, &location).map(Arc::new)).await
        };
        self.open.get_or_try_init(make).await
    }
}

/// Runs file-system work where it may block.
async fn blocking<T: Send + 'static>(
    place: &str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(StoreError::new(StoreErrorKind::Other, "use", place, e)))
}

fn missing(operation: &'static str, name: ObjectName) -> StoreError {
    StoreError::new(StoreErrorKind::NotFound, operation, name, "the file has no such object")
}

impl Contents {
    fn read_from(path: &Path, location: &str) -> Result<Self, StoreError> {
        let fail = |e| StoreError::io("open", location, e);
        let unusable = |why: String| StoreError::new(StoreErrorKind::Unusable, "open", location, why);
        let file = File::open(path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        if !meta.is_file() {
            return Err(unusable("it is not a file".into()));
        }
        let len = meta.len();
        let mut head = [0; HEAD];
        match file.read_exact_at(&mut head, 0) {
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(fail(e)),
            _ => {}
        }
        ptar::check_head(&head).map_err(|e| unusable(e.to_string()))?;
        if let Some(directory) = read_directory(&file, len).map_err(fail)? {
            return Ok(Self { file, directory, fault: None });
        }
        let (directory, whole) = scan(&file, len).map_err(fail)?;
        let snapshots = directory.keys().filter(|n| n.area == Area::Snapshots).count();
        let fault = format!(
            "{location} is damaged or was cut off: its end cannot be read; {whole} of its {len} bytes are whole, and {snapshots} snapshots in them"
        );
        Ok(Self { file, directory, fault: Some(fault) })
    }

    fn object(&self, operation: &'static str, name: ObjectName) -> Result<&Object, StoreError> {
        self.directory.get(&name).ok_or_else(|| missing(operation, name))
    }

    fn get(&self, name: ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let object = self.object("read", name)?;
        read(&self.file, name, object, range)
    }

    /// Every part that the directory means begins as it should, and nothing else is in the file.
    fn faults(&self) -> io::Result<Vec<String>> {
        let mut faults: Vec<String> = self.fault.iter().cloned().collect();
        if self.fault.is_some() {
            return Ok(faults);
        }
        let mut parts: Vec<(u64, u32, ObjectName, bool)> = Vec::new();
        for (name, object) in &self.directory {
            let last = object.extents.len().saturating_sub(1);
            parts.extend(
                object.extents.iter().enumerate().map(|(i, (at, len))| (*at, *len, *name, i == last)),
            );
        }
        parts.sort_unstable();
        for (at, length, name, is_last) in parts {
            let wanted = PartHead { name, length, is_last };
            let mut bytes = [0; PART_HEAD];
            self.file.read_exact_at(&mut bytes, at.saturating_sub(PART_HEAD as u64))?;
            if PartHead::decode(&bytes).ok() != Some(wanted) {
                faults.push(format!("what stands before {name} at {at} is damaged"));
            }
        }
        Ok(faults)
    }
}

/// Reads a range of an object, over as many parts as it has.
fn read(
    file: &File,
    name: ObjectName,
    object: &Object,
    range: Option<Range<u64>>,
) -> Result<Bytes, StoreError> {
    let len = object.len();
    let range = range.unwrap_or(0..len);
    if range.start > range.end || range.end > len {
        return Err(StoreError::new(StoreErrorKind::OutOfRange, "read", name, "it is shorter"));
    }
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let mut at = 0;
    for part in object.ranges(range) {
        let n = (part.end - part.start) as usize;
        file.read_exact_at(&mut bytes[at..at + n], part.start)
            .map_err(|e| StoreError::io("read", name, e))?;
        at += n;
    }
    Ok(bytes.into())
}

/// The directory; `None` where the file does not end with a good one.
fn read_directory(file: &File, len: u64) -> io::Result<Option<Directory>> {
    let Some(at) = len.checked_sub(TRAILER as u64).filter(|at| *at > HEAD as u64) else { return Ok(None) };
    let mut trailer = [0; TRAILER];
    file.read_exact_at(&mut trailer, at)?;
    let Ok((range, hash)) = ptar::read_trailer(&trailer, len) else { return Ok(None) };
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start)?;
    if !ptar::is_meant(&bytes, &hash) {
        return Ok(None);
    }
    Ok(ptar::decode_directory(&bytes, range.start).ok())
}

/// Goes from part to part: the objects that are whole, and how far there were parts.
fn scan(file: &File, len: u64) -> io::Result<(Directory, u64)> {
    let (mut whole, mut open) = (Directory::new(), Directory::new());
    let mut at = HEAD as u64;
    while at + PART_HEAD as u64 <= len {
        let mut bytes = [0; PART_HEAD];
        file.read_exact_at(&mut bytes, at)?;
        let Ok(part) = PartHead::decode(&bytes) else { break };
        let begin = at + PART_HEAD as u64;
        let end = begin + u64::from(part.length);
        if end > len {
            break;
        }
        let object = open.entry(part.name).or_default();
        object.extents.push((begin, part.length));
        if part.is_last
            && let Some(object) = open.remove(&part.name)
        {
            whole.insert(part.name, object);
        }
        at = end;
    }
    Ok((whole, at))
}

fn read_only(operation: &'static str, place: impl std::fmt::Display) -> StoreError {
    let why = "a ptar is written once, by `plakar ptar`, and not changed";
    StoreError::new(StoreErrorKind::Other, operation, place, why)
}

#[async_trait]
impl Store for PtarStore {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn local_path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn notice(&self) -> Option<String> {
        self.open.get()?.fault.clone()
    }

    async fn faults(&self) -> Result<Vec<String>, StoreError> {
        let open = self.open().await?.clone();
        let location = self.location.clone();
        blocking(&self.location, move || open.faults().map_err(|e| StoreError::io("read", location, e))).await
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        Err(read_only("create", &self.location))
    }

    async fn list(&self, area: Area) -> Result<Vec<Listed>, StoreError> {
        let open = self.open().await?;
        let of = open.directory.range(ObjectName::new(area, plakar_engine::id::ObjectId([0; 32]))..);
        let listed = of.take_while(|(name, _)| name.area == area).map(|(name, o)| listed(*name, o));
        Ok(listed.collect())
    }

    async fn get(&self, name: ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let open = self.open().await?.clone();
        blocking(&self.location, move || open.get(name, range)).await
    }

    async fn stat(&self, name: ObjectName) -> Result<Listed, StoreError> {
        Ok(listed(name, self.open().await?.object("look at", name)?))
    }

    async fn put(&self, name: ObjectName) -> Result<Box<dyn PutObject>, StoreError> {
        Err(read_only("write", name))
    }

    async fn delete(&self, name: ObjectName) -> Result<(), StoreError> {
        Err(read_only("remove", name))
    }
}

fn listed(name: ObjectName, object: &Object) -> Listed {
    Listed { id: name.id, len: object.len(), modified_ns: object.modified_ns }
}
