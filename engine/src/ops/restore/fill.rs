//! Filling: the contents of a window's files, read in the order in which they are stored and written by several
//! threads at once.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream::{self, StreamExt};
use parking_lot::RwLock;

use super::links::Fate;
use super::{Restore, add};
use crate::error::{Error, Result, is_damage, report};
use crate::exporter::{Attributes, ExportFile};
use crate::id::BlobId;
use crate::meta::{InodeFlags, Metadata, Xattr};
use crate::monitor::Event;
use crate::ops::gather::{self, News, Wanted};
use crate::repository::reader::Origin;
use crate::repository::{Index, Row};
use crate::trail::Trail;
use crate::tree::{Detail, Entry};
use crate::vfs::Pieces;

/// A draft ends when it has so many pieces, or bytes of memory.
const MOST_PIECES: usize = 32_768;
const MOST_BYTES: usize = 16 << 20;

/// A regular file being restored. Its pieces may come in several windows.
pub(super) struct File {
    directory: Trail,
    name: Box<[u8]>,
    meta: Metadata,
    xattrs: Vec<Xattr>,
    flags: InodeFlags,
    /// What was not right when it was backed up.
    error: Option<Box<str>>,
    /// Pieces still to be written, and one until all of them were told.
    pending: AtomicUsize,
    state: RwLock<FileState>,
    among: Among,
}

/// What a file is among the names of one file.
pub(super) enum Among {
    /// It has no other, or those are different now.
    None,
    /// The first of the group with this number.
    First(u64),
    /// A further one, of which the first, at this path, was there already: joined to it if it is the same.
    Beside(Box<[u8]>),
}

enum FileState {
    New,
    Open(Box<dyn ExportFile>),
    /// Kept, failed or finished: nothing more is written.
    Closed,
}

impl File {
    fn path(&self) -> Vec<u8> {
        self.directory.path_of(b"", &self.name)
    }

    fn attributes(&self) -> Attributes<'_> {
        Attributes { meta: &self.meta, xattrs: &self.xattrs, flags: self.flags }
    }
}

/// Files whose blobs were not looked up yet.
#[derive(Default)]
pub(super) struct Draft {
    files: Vec<Arc<File>>,
    pieces: Vec<(BlobId, Use)>,
    /// Bytes of memory that the files take.
    bytes: usize,
}

impl Draft {
    /// How many files it has.
    pub(super) fn files(&self) -> usize {
        self.files.len()
    }

    /// Whether another file fits into it.
    pub(super) fn has_room(&self) -> bool {
        self.pieces.len() < MOST_PIECES && self.bytes < MOST_BYTES
    }

    /// Takes a file whose pieces follow.
    fn begin(&mut self, file: &Arc<File>) {
        self.bytes += size_of::<File>() + 64 + file.xattrs.iter().map(|x| 80 + x.value.len()).sum::<usize>();
        self.files.push(file.clone());
    }

    /// Takes a piece of the file that was begun last.
    fn add(&mut self, id: BlobId, start: u64) {
        let Some(number) = self.files.len().checked_sub(1) else { return };
        self.files[number].pending.fetch_add(1, Ordering::Relaxed);
        self.pieces.push((id, Use { file: number as u32, start }));
    }
}

/// A file of so many pieces that they do not fit into one window.
pub(super) struct LongFile {
    file: Arc<File>,
    pieces: Pieces,
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
    files: Vec<Arc<File>>,
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

impl Restore {
    /// Adds a file with contents to a draft. Gives it back if its pieces are in extent lists, which are to be read.
    pub(super) fn draw_up(
        &self,
        directory: Trail,
        entry: Entry,
        among: Among,
        draft: &mut Draft,
    ) -> Result<Option<LongFile>> {
        let Entry { name, meta, detail: Detail::Regular(contents), xattrs, flags, error, .. } = entry else {
            return Err(Error::Bug("a file without contents"));
        };
        let size = meta.size;
        let file = Arc::new(File {
            directory,
            name: name.into(),
            meta,
            xattrs,
            flags,
            error: error.map(String::into_boxed_str),
            pending: AtomicUsize::new(1),
            state: RwLock::new(FileState::New),
            among,
        });
        if contents.level > 0 {
            let pieces = self.vfs.pieces(&contents, 0..size);
            return Ok(Some(LongFile { file, pieces }));
        }
        draft.begin(&file);
        let mut start = 0;
        for item in &contents.items {
            item.id.into_iter().for_each(|id| draft.add(id, start));
            start += item.len;
        }
        self.one_done(&file)?;
        Ok(None)
    }

    /// Adds pieces of a long file to a draft, until that is full. Gives it back if there are more.
    pub(super) fn draw_up_long(&self, mut long: LongFile, draft: &mut Draft) -> Result<Option<LongFile>> {
        draft.begin(&long.file);
        while draft.pieces.len() < MOST_PIECES {
            self.cancel.check()?;
            match self.runtime.block_on(long.pieces.next()) {
                Ok(Some(piece)) => piece.extent.id.into_iter().for_each(|id| draft.add(id, piece.start)),
                Ok(None) => {
                    self.one_done(&long.file)?;
                    return Ok(None);
                }
                Err(e) if is_damage(&e) => {
                    self.lost(&long.file, &report(&e));
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Some(long))
    }

    /// Looks up where the contents of files are stored.
    pub(super) fn plan(&self, draft: Draft) -> Result<Plan> {
        let Draft { files, mut pieces, .. } = draft;
        if pieces.is_empty() {
            return Ok(Plan::default());
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
                let (restore, files) = (self.clone(), files.clone());
                let take = move |w: &Wanted<Range<u32>>, news: News<'_>| restore.take(&files, w, news);
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
                    self.one_done(file)?;
                }
            }
            News::Failed(e) if is_damage(&e) => self.give_up(files, w.uses.clone(), &report(&e)),
            News::Failed(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// One piece less to wait for; after the last one the file is finished.
    fn one_done(&self, file: &File) -> Result<()> {
        match file.pending.fetch_sub(1, Ordering::AcqRel) {
            1 => self.finish_file(file),
            _ => Ok(()),
        }
    }

    fn write(&self, file: &File, bytes: &[u8], at: u64) -> Result<()> {
        let mut state = file.state.read();
        if let FileState::New = *state {
            drop(state);
            self.open(file)?;
            state = file.state.read();
        }
        let failure = match &*state {
            FileState::Open(f) => f.write_at(bytes, at).err(),
            _ => None,
        };
        drop(state);
        match failure {
            None => Ok(()),
            Some(e) => {
                *file.state.write() = FileState::Closed;
                self.entry_failed(&file.path(), e)
            }
        }
    }

    fn open(&self, file: &File) -> Result<()> {
        let mut state = file.state.write();
        if !matches!(*state, FileState::New) {
            return Ok(());
        }
        *state = FileState::Closed;
        match self.target.create_file(&file.path(), file.attributes()) {
            Ok(Some(f)) => *state = FileState::Open(f),
            Ok(None) => {
                if let Among::First(group) = file.among {
                    self.names.settle(group, Fate::Kept);
                }
                add(&self.counts.kept, 1);
            }
            Err(e) => self.entry_failed(&file.path(), e)?,
        }
        Ok(())
    }

    /// A blob cannot be had: the files that need it are not restored.
    fn give_up(&self, files: &Files, uses: Range<u32>, reason: &str) {
        for (file, _) in files.of(uses) {
            self.lost(file, reason);
        }
    }

    /// A file cannot be restored, since what it needs is damaged or missing in the store.
    fn lost(&self, file: &File, reason: &str) {
        let mut state = file.state.write();
        if !matches!(*state, FileState::Closed) {
            self.damaged(&file.path(), reason);
        }
        *state = FileState::Closed;
    }

    fn finish_file(&self, file: &File) -> Result<()> {
        self.open(file)?;
        let state = std::mem::replace(&mut *file.state.write(), FileState::Closed);
        let FileState::Open(f) = state else { return Ok(()) };
        match f.finish(file.attributes()) {
            Ok(missing) => {
                match &file.among {
                    Among::First(group) => self.names.settle(*group, Fate::Made),
                    Among::Beside(first) => self.join(&file.path(), first)?,
                    Among::None => {}
                }
                add(&self.counts.files, 1);
                add(&self.counts.bytes, file.meta.size);
                let path = file.path();
                self.monitor.event(Event::Entry { path: &path, bytes: file.meta.size });
                self.incomplete(&path, &missing);
                self.recorded(&path, file.error.as_deref());
                Ok(())
            }
            Err(e) => self.entry_failed(&file.path(), e),
        }
    }
}

impl Files {
    fn of(&self, uses: Range<u32>) -> impl Iterator<Item = (&Arc<File>, u64)> {
        let uses = &self.uses[uses.start as usize..uses.end as usize];
        uses.iter().map(|u| (&self.files[u.file as usize], u.start))
    }
}
