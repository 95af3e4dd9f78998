//! A file being restored.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plakar_engine::exporter::{Attributes, ExportError, ExportFile, Overwrite};
use rustix::fs::{AtFlags, ftruncate, unlinkat};
use rustix::io::{Errno, pwrite};

use super::attributes::{Object, Setter};
use super::parents::Parent;
use super::{failed, replace};

/// A file under its temporary name.
pub(super) struct FsExportFile {
    fd: OwnedFd,
    parent: Arc<Parent>,
    temporary: Vec<u8>,
    name: Vec<u8>,
    size: u64,
    /// The end of what was written so far.
    written: AtomicU64,
    overwrite: Overwrite,
    setter: Setter,
    placed: bool,
}

impl FsExportFile {
    pub(super) fn new(
        fd: OwnedFd,
        parent: Arc<Parent>,
        temporary: Vec<u8>,
        name: Vec<u8>,
        size: u64,
        overwrite: Overwrite,
        setter: Setter,
    ) -> Self {
        Self {
            fd,
            parent,
            temporary,
            name,
            size,
            written: AtomicU64::new(0),
            overwrite,
            setter,
            placed: false,
        }
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
        let refused = self.setter.set(&Object::open(self.fd.as_fd(), self.parent.gives_acl), attributes);
        replace(&self.parent, &self.temporary, &self.name, self.overwrite)?;
        self.placed = true;
        Ok(refused)
    }
}

impl Drop for FsExportFile {
    fn drop(&mut self) {
        if !self.placed {
            // Where even this fails, a file stays whose name says what it is.
            let _ = unlinkat(&self.parent.fd, self.temporary.as_slice(), AtFlags::empty());
        }
    }
}
