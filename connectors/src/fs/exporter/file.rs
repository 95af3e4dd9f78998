//! A file being restored.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plakar_engine::exporter::{Attributes, ExportError, ExportFile, Overwrite};
use rustix::fs::{AtFlags, ftruncate, unlinkat};
use rustix::io::{Errno, pwrite};

use super::attributes::{Object, Setter};
use super::parents::{Beginning, Parent};
use super::{TemporaryNames, failed, replace};

/// A file without a name, or under its temporary one.
pub(super) struct FsExportFile {
    fd: OwnedFd,
    place: Place,
    beginning: Beginning,
    size: u64,
    /// The end of what was written so far.
    written: AtomicU64,
    overwrite: Overwrite,
    setter: Setter,
    placed: bool,
}

/// Where it stands, and is to stand.
pub(super) struct Place {
    pub(super) parent: Arc<Parent>,
    /// The name that it has so far.
    pub(super) temporary: Option<Vec<u8>>,
    pub(super) name: Vec<u8>,
    pub(super) names: Arc<TemporaryNames>,
}

impl FsExportFile {
    pub(super) fn new(
        fd: OwnedFd,
        place: Place,
        beginning: Beginning,
        size: u64,
        overwrite: Overwrite,
        setter: Setter,
    ) -> Self {
        let written = AtomicU64::new(0);
        Self { fd, place, beginning, size, written, overwrite, setter, placed: false }
    }
}

impl ExportFile for FsExportFile {
    fn write_at(&self, mut bytes: &[u8], mut offset: u64) -> Result<(), ExportError> {
        while !bytes.is_empty() {
            match pwrite(&self.fd, bytes, offset) {
                Ok(n) => {
                    bytes = &bytes[n..];
                    offset += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(failed("write", e)),
            }
        }
        self.written.fetch_max(offset, Ordering::Relaxed);
        Ok(())
    }

    fn finish(mut self: Box<Self>, attributes: Attributes<'_>) -> Result<Vec<String>, ExportError> {
        // Most files are written to their end and have their size from that; the others end with a hole.
        if *self.written.get_mut() < self.size {
            ftruncate(&self.fd, self.size).map_err(|e| failed("set the size", e))?;
        }
        let Place { parent, temporary, name, names } = &mut self.place;
        let object = Object::new_file(self.fd.as_fd(), parent, self.beginning);
        let mut refused = self.setter.set(&object, attributes);
        if temporary.is_none() {
            match super::name(self.fd.as_fd(), parent, name) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    *temporary = Some(names.make(|free| super::name(self.fd.as_fd(), parent, free))?.1);
                }
                Err(e) => return Err(failed("create", e)),
            }
        }
        if let Some(temporary) = temporary {
            replace(parent, temporary, name, self.overwrite)?;
        }
        self.placed = true;
        refused.extend(self.setter.lock(self.fd.as_fd(), attributes));
        Ok(refused)
    }
}

impl Drop for FsExportFile {
    fn drop(&mut self) {
        if let Some(temporary) = self.place.temporary.as_deref().filter(|_| !self.placed) {
            // Where even this fails, a file stays whose name says what it is.
            let _ = unlinkat(&self.place.parent.fd, temporary, AtFlags::empty());
        }
    }
}
