//! What is in files, links and extended attributes.

use std::sync::Arc;

use bytes::Bytes;
use plakar_engine::frame_source::Purpose;
use plakar_engine::meta::InodeFlags;
use plakar_engine::tree::{Detail, Entry, Extent};
use plakar_engine::vfs::Parts;

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
        self.activity.links.one();
        match self.inode(ino).await? {
            Inode::Link(link) => Ok(Bytes::copy_from_slice(&link.to)),
            Inode::Leaf(dir, position) => match self.entry(&dir, position).await?.detail {
                Detail::Symlink(target) => Ok(target.into()),
                _ => Err(FsError::Invalid),
            },
            Inode::Directory(_) | Inode::Folder(_) | Inode::Text(_) => Err(FsError::Invalid),
        }
    }

    /// Bytes of a regular file; fewer than asked for only at its end.
    pub async fn read(&self, ino: u64, offset: u64, len: u32) -> Result<Parts, FsError> {
        self.activity.reads.one();
        let bytes = match self.inode(ino).await? {
            Inode::Text(text) => {
                let end = offset.saturating_add(u64::from(len)).min(text.bytes.len() as u64);
                text.bytes.slice(offset.min(end) as usize..end as usize).into()
            }
            Inode::Leaf(dir, position) => self.read_leaf(ino, &dir, position, offset, len).await?,
            other => return Err(not_a_file(&other)),
        };
        self.activity.read_bytes.add(bytes.len() as u64);
        Ok(bytes)
    }

    async fn read_leaf(
        &self,
        ino: u64,
        dir: &Arc<Dir>,
        position: u32,
        offset: u64,
        len: u32,
    ) -> Result<Parts, FsError> {
        let run = self.run(dir, position).await?;
        let entry = run.at(position).ok_or(FsError::Failed)?;
        let Detail::Regular(contents) = &entry.detail else { return Err(FsError::Invalid) };
        if contents.missing {
            let reason = entry.error.as_deref().unwrap_or("for an unknown reason");
            let (snapshot, path) = name_of(dir, Some(&entry.name));
            tracing::error!(snapshot, path, reason, "the contents could not be read when it was backed up");
            return Err(FsError::Failed);
        }
        let range = offset..offset.saturating_add(u64::from(len)).min(entry.meta.size);
        if range.start >= range.end {
            return Ok(Parts::default());
        }
        self.readahead.note(ino, &range, entry.meta.size, contents);
        if range.start == 0 {
            self.note_small(entry);
        }
        let bytes = self.folders.vfs().read(entry, range, Purpose::OnDemand);
        self.within(dir, Some(&entry.name), bytes).await
    }

    /// Notes that a file is read from its beginning, or will be: what is stored behind it may be wanted next.
    pub(super) fn note_small(&self, entry: &Entry) {
        if let Detail::Regular(contents) = &entry.detail
            && contents.level == 0
            && let Some(first) = contents.items.iter().find_map(|e| e.id)
        {
            self.readahead.note_small(&first);
        }
    }

    /// The next data or hole of a regular file at or after an offset.
    pub async fn seek(&self, ino: u64, offset: u64, what: Seek) -> Result<u64, FsError> {
        /// Bytes of a file whose extents are looked at in one go.
        const STEP: u64 = 1 << 30;
        let (dir, position) = match self.inode(ino).await? {
            Inode::Leaf(dir, position) => (dir, position),
            Inode::Text(text) => {
                let size = text.bytes.len() as u64;
                let there = offset < size;
                return if there {
                    Ok(if what == Seek::Data { offset } else { size })
                } else {
                    Err(FsError::NoData)
                };
            }
            other => return Err(not_a_file(&other)),
        };
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
            let mut pieces = self.folders.vfs().pieces(contents, range.clone());
            while let Some(piece) = self.within(&dir, Some(&entry.name), pieces.next()).await? {
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
        self.activity.xattrs.one();
        self.xattrs_of(ino, |e| e.xattrs.iter().map(|x| x.name.clone()).collect()).await
    }

    /// The value of an extended attribute.
    pub async fn xattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, FsError> {
        self.activity.xattrs.one();
        let value = |e: &Entry| e.xattrs.iter().find(|x| x.name == name).map(|x| x.value.clone());
        if let Some(recorded) = self.xattrs_of(ino, value).await? {
            return Ok(recorded);
        }
        self.made_xattr(&self.inode(ino).await?, name).await.unwrap_or(Err(FsError::NoAttribute))
    }

    /// Inode flags and project.
    pub async fn flags(&self, ino: u64) -> Result<InodeFlags, FsError> {
        self.activity.attributes.one();
        self.recorded(ino, |e| e.flags).await
    }

    async fn xattrs_of<T: Default>(&self, ino: u64, of: impl FnOnce(&Entry) -> T) -> Result<T, FsError> {
        if !self.xattrs {
            return Err(FsError::Unsupported);
        }
        self.recorded(ino, of).await
    }

    /// Something of what was recorded; nothing of what is made by the mount.
    async fn recorded<T: Default>(&self, ino: u64, of: impl FnOnce(&Entry) -> T) -> Result<T, FsError> {
        match self.inode(ino).await? {
            Inode::Directory(dir) => Ok(of(&dir.entry)),
            Inode::Leaf(dir, position) => {
                let run = self.run(&dir, position).await?;
                Ok(of(run.at(position).ok_or(FsError::Failed)?))
            }
            Inode::Folder(_) | Inode::Link(_) | Inode::Text(_) => Ok(T::default()),
        }
    }
}

fn not_a_file(inode: &Inode) -> FsError {
    match inode {
        Inode::Directory(_) | Inode::Folder(_) => FsError::IsDirectory,
        Inode::Leaf(..) | Inode::Link(_) | Inode::Text(_) => FsError::Invalid,
    }
}
