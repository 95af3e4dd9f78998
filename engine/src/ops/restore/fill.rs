//! Filling: the contents of a window's files, read in the order in which they are stored and written by several
//! threads at once.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use futures::stream::{self, StreamExt};

use super::{Job, add};
use crate::error::{Error, Result};
use crate::exporter::{Attributes, ExportFile};
use crate::id::BlobId;
use crate::meta::{Metadata, Xattr};
use crate::monitor::Event;
use crate::ops::gather::{self, News, Wanted};
use crate::repository::reader::Origin;
use crate::repository::{Index, Row, report};
use crate::tree::Contents;
use crate::vfs::is_damage;

/// A regular file being restored.
pub(super) struct File {
    path: Vec<u8>,
    meta: Metadata,
    xattrs: Vec<Xattr>,
    /// Pieces still to be written.
    pending: AtomicUsize,
    state: RwLock<FileState>,
    /// Told to further names of it.
    made: Option<Arc<AtomicBool>>,
}

enum FileState {
    New,
    Open(Box<dyn ExportFile>),
    /// Kept, failed or finished: nothing more is written.
    Closed,
}

impl File {
    pub(super) fn new(
        path: Vec<u8>,
        meta: Metadata,
        xattrs: Vec<Xattr>,
        made: Option<Arc<AtomicBool>>,
    ) -> Self {
        let state = RwLock::new(FileState::New);
        Self { path, meta, xattrs, pending: AtomicUsize::new(0), state, made }
    }

    fn attributes(&self) -> Attributes<'_> {
        Attributes { meta: &self.meta, xattrs: &self.xattrs }
    }
}

/// A file whose blobs were not looked up yet.
pub(super) struct Unplanned {
    pub(super) file: File,
    pub(super) contents: Contents,
}

/// How some files are filled.
#[derive(Default)]
pub(super) struct Plan {
    files: Arc<Files>,
    /// In stored order.
    blobs: Vec<Planned>,
    index: Option<Arc<Index>>,
}

/// A blob that cannot be had: where it belongs, and why.
type Lost = (Range<u32>, Error);

#[derive(Default)]
struct Files {
    files: Vec<File>,
    /// Where blobs belong, those of each blob together.
    uses: Vec<Use>,
}

#[derive(Clone, Copy)]
struct Use {
    file: u32,
    start: u64,
}

struct Planned {
    /// Its packfile's place in the index, its frame, and its place in that.
    order: (usize, u32, u32),
    row: Row,
    /// Where it belongs, among the uses.
    uses: Range<u32>,
}

impl Job {
    /// Looks up where the contents of files are stored. Files that have none, or cannot have them, are dealt with at
    /// once.
    pub(super) fn plan(&self, unplanned: Vec<Unplanned>) -> Result<Plan> {
        let mut files = Vec::with_capacity(unplanned.len());
        let mut pieces: Vec<(BlobId, Use)> = Vec::with_capacity(unplanned.len());
        for Unplanned { mut file, contents } in unplanned {
            let before = pieces.len();
            let number = files.len() as u32;
            if let Err(e) = self.pieces(&contents, file.meta.size, |id, start| {
                pieces.push((id, Use { file: number, start }));
            }) {
                if !is_damage(&e) {
                    return Err(e);
                }
                self.damaged(&file.path, &report(&e));
                continue;
            }
            *file.pending.get_mut() = pieces.len() - before;
            if pieces.len() == before {
                self.finish_file(&file)?;
            } else {
                files.push(file);
            }
        }
        // The uses of one blob come to stand together.
        pieces.sort_unstable_by_key(|(id, u)| (*id, u.file, u.start));
        let files = Files { files, uses: pieces.iter().map(|(_, u)| *u).collect() };
        let mut index = self.runtime.block_on(self.repository.index())?;
        let (mut blobs, mut missing) = self.look_up(&index, &pieces)?;
        if !missing.is_empty() {
            // States may have been merged since the index was read.
            index = self.runtime.block_on(self.repository.refresh_index())?;
            (blobs, missing) = self.look_up(&index, &pieces)?;
        }
        for (uses, e) in missing {
            self.give_up(&files, uses, &report(&e));
        }
        blobs.sort_unstable_by_key(|b| b.order);
        Ok(Plan { files: Arc::new(files), blobs, index: Some(index) })
    }

    /// Tells of all blobs of a file.
    fn pieces(&self, contents: &Contents, size: u64, mut tell: impl FnMut(BlobId, u64)) -> Result<()> {
        if contents.level == 0 {
            let mut start = 0;
            for item in &contents.items {
                item.id.into_iter().for_each(|id| tell(id, start));
                start += item.len;
            }
            return Ok(());
        }
        for piece in self.runtime.block_on(self.vfs.pieces(contents, 0..size))? {
            piece.extent.id.into_iter().for_each(|id| tell(id, piece.start));
        }
        Ok(())
    }

    /// Finds blobs in the index; gives those that it has, and why others cannot be had.
    fn look_up(&self, index: &Index, pieces: &[(BlobId, Use)]) -> Result<(Vec<Planned>, Vec<Lost>)> {
        let catalog = self.runtime.block_on(self.repository.catalog())?;
        let (mut found, mut lost) = (Vec::with_capacity(pieces.len()), Vec::new());
        let mut next = 0;
        for same in pieces.chunk_by(|(a, _), (b, _)| a == b) {
            let (id, uses) = (&same[0].0, next..next + same.len() as u32);
            next = uses.end;
            let placed = index
                .row(id, &catalog.removals)
                .and_then(|row| {
                    row.ok_or_else(|| Error::MissingBlob { what: format!("blob {}", id.short()) })
                })
                .and_then(|row| {
                    // Whatever is looked at when it is read is looked at now, while a damaged index can still be mended.
                    self.repository.locate_row(index, row)?;
                    Ok(Planned { order: index.stored_at(row)?, row, uses: uses.clone() })
                });
            match placed {
                Ok(planned) => found.push(planned),
                Err(e) => lost.push((uses, e)),
            }
        }
        Ok((found, lost))
    }

    /// Writes the contents of files.
    pub(super) async fn fill(self: &Arc<Self>, plan: Plan) -> Result<()> {
        let Plan { files, blobs, index: Some(index) } = plan else { return Ok(()) };
        let wanted = blobs.into_iter().filter_map(|b| match self.repository.locate_row(&index, b.row) {
            Ok((id, located)) => Some(Ok(Wanted { id, located, uses: b.uses })),
            Err(e) => {
                self.give_up(&files, b.uses, &report(&e));
                None
            }
        });
        let parallel = std::thread::available_parallelism().map_or(2, usize::from) + 2;
        let mut batches = stream::iter(gather::batches(wanted))
            .map(|batch| async {
                if self.failing.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let (job, files) = (self.clone(), files.clone());
                let take = move |w: &Wanted<Range<u32>>, news: News<'_>| job.take(&files, w, news);
                gather::read(&self.repository, Origin::Anywhere, batch?, take).await
            })
            .buffer_unordered(parallel);
        // After a failure, what is under way is still waited for: its files are closed, and leave nothing behind.
        let mut failure = None;
        while let Some(done) = batches.next().await {
            if let Err(e) = done {
                self.failing.store(true, Ordering::Relaxed);
                failure.get_or_insert(e);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Writes some bytes of a blob wherever they belong, and finishes the files that are complete with it.
    fn take(&self, files: &Files, w: &Wanted<Range<u32>>, news: News<'_>) -> Result<()> {
        let uses = files.of(w.uses.clone());
        match news {
            News::Bytes(at, bytes) => {
                for (file, start) in uses {
                    self.cancel.check()?;
                    self.write(file, bytes, start + u64::from(at))?;
                    self.monitor.event(Event::Progress { bytes: bytes.len() as u64 });
                }
            }
            News::Verified => {
                for (file, _) in uses {
                    if file.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
                        self.finish_file(file)?;
                    }
                }
            }
            News::Failed(e) if is_damage(&e) => self.give_up(files, w.uses.clone(), &report(&e)),
            News::Failed(e) => return Err(e.into()),
        }
        Ok(())
    }

    fn write(&self, file: &File, bytes: &[u8], at: u64) -> Result<()> {
        let mut state = file.state.read().unwrap_or_else(PoisonError::into_inner);
        if let FileState::New = *state {
            drop(state);
            self.open(file)?;
            state = file.state.read().unwrap_or_else(PoisonError::into_inner);
        }
        let failure = match &*state {
            FileState::Open(f) => f.write_at(bytes, at).err(),
            _ => None,
        };
        drop(state);
        match failure {
            None => Ok(()),
            Some(e) => {
                *file.state.write().unwrap_or_else(PoisonError::into_inner) = FileState::Closed;
                self.entry_failed(&file.path, e)
            }
        }
    }

    fn open(&self, file: &File) -> Result<()> {
        let mut state = file.state.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*state, FileState::New) {
            return Ok(());
        }
        *state = FileState::Closed;
        match self.target.create_file(&file.path, file.attributes()) {
            Ok(Some(f)) => *state = FileState::Open(f),
            Ok(None) => add(&self.counts.kept, 1),
            Err(e) => self.entry_failed(&file.path, e)?,
        }
        Ok(())
    }

    /// A blob cannot be had: the files that need it are not restored.
    fn give_up(&self, files: &Files, uses: Range<u32>, reason: &str) {
        for (file, _) in files.of(uses) {
            let mut state = file.state.write().unwrap_or_else(PoisonError::into_inner);
            if !matches!(*state, FileState::Closed) {
                self.damaged(&file.path, reason);
            }
            *state = FileState::Closed;
        }
    }

    fn finish_file(&self, file: &File) -> Result<()> {
        self.open(file)?;
        let state = std::mem::replace(
            &mut *file.state.write().unwrap_or_else(PoisonError::into_inner),
            FileState::Closed,
        );
        let FileState::Open(f) = state else { return Ok(()) };
        match f.finish(file.attributes()) {
            Ok(missing) => {
                if let Some(made) = &file.made {
                    made.store(true, Ordering::Release);
                }
                add(&self.counts.files, 1);
                add(&self.counts.bytes, file.meta.size);
                self.monitor.event(Event::Entry { path: &file.path, bytes: file.meta.size });
                self.incomplete(&file.path, &missing);
                Ok(())
            }
            Err(e) => self.entry_failed(&file.path, e),
        }
    }
}

impl Files {
    fn of(&self, uses: Range<u32>) -> impl Iterator<Item = (&File, u64)> {
        let uses = &self.uses[uses.start as usize..uses.end as usize];
        uses.iter().map(|u| (&self.files[u.file as usize], u.start))
    }
}
