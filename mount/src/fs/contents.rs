//! What is in files, links and extended attributes.

use std::sync::Arc;

use bytes::Bytes;
use plakar_engine::repository::reader::Purpose;
use plakar_engine::tree::{Detail, Entry, Extent};

use super::inodes::Inode;
use super::tree::Dir;
use super::{SnapshotFs, name_of};
use crate::error::FsError;

/// Where to seek to in a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next data.
    Data,
    /// The next hole, or the end.
    Hole,
}

impl SnapshotFs {
    /// Where a symlink leads.
    pub async fn read_link(&self, ino: u64) -> Result<Bytes, FsError> {
        match self.inodes.inode(ino)? {
            Inode::Link(to) => Ok(Bytes::copy_from_slice(&to)),
            Inode::Leaf(dir, position) => match self.entry(&dir, position).await?.detail {
                Detail::Symlink(target) => Ok(target.into()),
                _ => Err(FsError::Invalid),
            },
            Inode::Directory(_) | Inode::Folder(_) => Err(FsError::Invalid),
        }
    }

    /// Bytes of a regular file; fewer than asked for only at its end.
    pub async fn read(&self, ino: u64, offset: u64, len: u32) -> Result<Bytes, FsError> {
        let (dir, position) = self.leaf(ino)?;
        let run = self.run(&dir, position).await?;
        let entry = run.at(position).ok_or(FsError::Failed)?;
        let Detail::Regular(contents) = &entry.detail else { return Err(FsError::Invalid) };
        if contents.missing {
            let reason = entry.error.as_deref().unwrap_or("for an unknown reason");
            let (snapshot, path) = name_of(&dir, Some(&entry.name));
            tracing::error!(snapshot, path, reason, "the contents could not be read when it was backed up");
            return Err(FsError::Failed);
        }
        let range = offset..offset.saturating_add(u64::from(len)).min(entry.meta.size);
        if range.start >= range.end {
            return Ok(Bytes::new());
        }
        self.readahead.note(ino, &range, entry.meta.size, contents);
        self.readahead.note_neighbour(&dir, &run, position);
        let bytes = self.folders.vfs().read(entry, range, Purpose::OnDemand);
        self.within(&dir, Some(&entry.name), bytes).await
    }

    /// The next data or hole of a regular file at or after an offset.
    pub async fn seek(&self, ino: u64, offset: u64, what: Seek) -> Result<u64, FsError> {
        /// Bytes of a file whose extents are looked at in one go.
        const STEP: u64 = 1 << 30;
        let (dir, position) = self.leaf(ino)?;
        let entry = self.entry(&dir, position).await?;
        let Detail::Regular(contents) = &entry.detail else { return Err(FsError::Invalid) };
        let size = entry.meta.size;
        if offset >= size {
            return Err(FsError::NoData);
        }
        // Nothing is known of missing contents: all of it is data, whose reading fails.
        if contents.missing {
            return Ok(if what == Seek::Data { offset } else { size });
        }
        let mut at = offset;
        while at < size {
            let range = at..at.saturating_add(STEP).min(size);
            let pieces = self.folders.vfs().pieces(contents, range.clone());
            for piece in self.within(&dir, Some(&entry.name), pieces).await? {
                let Extent { id, .. } = piece.extent;
                if id.is_some() == (what == Seek::Data) {
                    return Ok(piece.start.max(offset));
                }
            }
            at = range.end;
        }
        if what == Seek::Hole { Ok(size) } else { Err(FsError::NoData) }
    }

    /// Names of the extended attributes of an inode.
    pub async fn xattr_names(&self, ino: u64) -> Result<Vec<Vec<u8>>, FsError> {
        self.xattrs_of(ino, |e| e.xattrs.iter().map(|x| x.name.clone()).collect()).await
    }

    /// The value of an extended attribute.
    pub async fn xattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let value = |e: &Entry| e.xattrs.iter().find(|x| x.name == name).map(|x| x.value.clone());
        self.xattrs_of(ino, value).await?.ok_or(FsError::NoAttribute)
    }

    async fn xattrs_of<T: Default>(&self, ino: u64, of: impl FnOnce(&Entry) -> T) -> Result<T, FsError> {
        if !self.xattrs {
            return Err(FsError::Unsupported);
        }
        match self.inodes.inode(ino)? {
            Inode::Directory(dir) => Ok(of(&dir.entry)),
            Inode::Leaf(dir, position) => {
                let run = self.run(&dir, position).await?;
                Ok(of(run.at(position).ok_or(FsError::Failed)?))
            }
            Inode::Folder(_) | Inode::Link(_) => Ok(T::default()),
        }
    }

    fn leaf(&self, ino: u64) -> Result<(Arc<Dir>, u32), FsError> {
        match self.inodes.inode(ino)? {
            Inode::Leaf(dir, position) => Ok((dir, position)),
            Inode::Directory(_) | Inode::Folder(_) => Err(FsError::IsDirectory),
            Inode::Link(_) => Err(FsError::Invalid),
        }
    }
}
