//! Reading files and naming their blobs. Many readers wait for files and cut them; a few workers identify, compress and
//! seal. Buffers go round between them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Condvar, Mutex};

use super::assemble::{Assembly, FileInWork, Page};
use super::order::{Batch, Order};
use crate::crypto::Class;
use crate::error::Result;
use crate::importer::{ImportError, SourceDirectory, SourceEntry, SourceFile};
use crate::meta::{InodeFlags, Metadata, Xattr};
use crate::monitor::Event;
use crate::repository::writer::Framer;
use crate::tree::{Contents, Detail, Extent, xattrs_fit};

/// Threads that wait for files: small files from a cold disk need depth, not processors.
pub(super) const READERS: usize = 16;
/// Files up to this size are read whole, several into one buffer; larger ones take turns.
const SMALL: u64 = 1 << 20;
/// A buffer of a large file is handed on when it holds so much.
const FULL: usize = 1 << 20;

/// How much is read behind where a file should have ended.
const BEYOND: u64 = 64 << 10;

/// A hole up to this size is read as zeros where it is no more than one part in so many of the data before it.
const SMALL_HOLE: u64 = 64 << 10;
const SMALL_PART: u64 = 16;

/// Files to read, in walk order.
#[derive(Default)]
pub(super) struct Unit {
    /// Counts from 0.
    pub(super) number: u64,
    pub(super) files: Vec<FileTask>,
    pub(super) bytes: u64,
}

/// One file to read.
pub(super) struct FileTask {
    pub(super) page: Arc<Page>,
    pub(super) handle: Arc<dyn SourceDirectory>,
    pub(super) slot: usize,
    pub(super) now: SourceEntry,
}

/// Clear bytes on their way to becoming blobs.
#[derive(Default)]
pub(super) struct Cuts {
    pub(super) buffer: Vec<u8>,
    pieces: Vec<Piece>,
}

impl Cuts {
    /// Its bytes.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }
}

struct Piece {
    file: Arc<FileInWork>,
    offset: u64,
    range: Range<usize>,
}

/// Used buffers.
pub(super) struct Buffers(Sender<Vec<u8>>, Receiver<Vec<u8>>);

impl Buffers {
    pub(super) fn new(n: usize) -> Self {
        let (s, r) = crossbeam_channel::bounded(n);
        Self(s, r)
    }

    fn take(&self) -> Vec<u8> {
        self.1.try_recv().unwrap_or_default()
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        // Large ones would make all of them large in time.
        if buffer.capacity() <= 2 * FULL {
            let _ = self.0.try_send(buffer);
        }
    }
}

/// Lets few at once.
pub(super) struct Turns(Mutex<usize>, Condvar);

impl Turns {
    pub(super) fn new(n: usize) -> Self {
        Self(Mutex::new(n), Condvar::new())
    }

    fn take<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut free = self.0.lock();
        while *free == 0 {
            self.1.wait(&mut free);
        }
        *free -= 1;
        drop(free);
        let result = work();
        *self.0.lock() += 1;
        self.1.notify_one();
        result
    }
}

/// Attributes that can be stored; what cannot be read or is beyond the format's limits is reported.
pub(super) fn usable_xattrs(
    assembly: &Assembly,
    path: &[u8],
    read: Result<Vec<Xattr>, ImportError>,
    error: &mut Option<String>,
) -> Vec<Xattr> {
    let reason = match read {
        Ok(xattrs) if xattrs_fit(&xattrs) => return xattrs,
        Ok(_) => "its extended attributes are larger than the store's format allows".into(),
        // It vanished: whoever opens it next says so.
        Err(e) if e.is_vanished() => return Vec::new(),
        Err(e) => format!("extended attributes: {e}"),
    };
    assembly.report(path, &reason);
    *error = Some(reason);
    Vec::new()
}

/// Inode flags; that they cannot be read is reported.
pub(super) fn usable_flags(
    assembly: &Assembly,
    path: &[u8],
    read: Result<InodeFlags, ImportError>,
    error: &mut Option<String>,
) -> InodeFlags {
    read.unwrap_or_else(|e| {
        if !e.is_vanished() {
            assembly.report(path, &e.to_string());
            *error = Some(e.to_string());
        }
        InodeFlags::default()
    })
}

/// A reader's life.
pub(super) fn read(
    assembly: &Assembly,
    units: Receiver<Unit>,
    order: &Order,
    large_files: Sender<Batch>,
    buffers: &Buffers,
    large: &Turns,
) {
    let mut reader = Reader { assembly, large_files, buffers, cuts: Cuts::default() };
    for unit in units {
        let ticket = order.ticket(unit.number);
        for task in unit.files {
            if assembly.run.check().is_err() {
                break;
            }
            let done = if task.now.meta.size > SMALL || task.now.sparse {
                // It goes its own way, past those that wait for their turn.
                let small = reader.take();
                let done = large.take(|| reader.file(task).and_then(|()| reader.hand_on()));
                buffers.give(std::mem::replace(&mut reader.cuts, small).buffer);
                done
            } else {
                reader.file(task)
            };
            if let Err(e) = done {
                assembly.run.fail(e);
            }
        }
        if let Err(e) = ticket.bring(reader.take()) {
            assembly.run.fail(e);
        }
    }
}

struct Reader<'a> {
    assembly: &'a Assembly,
    large_files: Sender<Batch>,
    buffers: &'a Buffers,
    cuts: Cuts,
}

impl Reader<'_> {
    /// Reads one file. Its own failures become part of its entry; those of the run are returned.
    fn file(&mut self, task: FileTask) -> Result<()> {
        let FileTask { page, handle, slot, now } = task;
        let path = page.directory.path_of(&now.name);
        let work = FileInWork::new(page, slot);
        let mut entry = self.assembly.entry(&now, Detail::Regular(Contents::default()));
        let read = match handle.open_file(&now.name) {
            Ok(mut file) => self.contents(&work, &mut *file, &now).map(|r| r.map(|n| (n, file))),
            Err(e) => Ok(Err(e)),
        };
        match read? {
            Ok((bytes, file)) => {
                let expected = now.meta.size;
                let is_now =
                    |(meta, ctime): &(Metadata, i64)| *meta == now.meta && *ctime == now.stamp.ctime_ns;
                let reason = match file.now() {
                    Ok(then) if bytes == expected && is_now(&then) => None,
                    _ if file.is_made_up() => None,
                    // More than was expected is all that there is; less may have been lost.
                    Ok(then) if is_now(&then) => {
                        (bytes < expected).then(|| format!("it ended after {bytes} of {expected} bytes"))
                    }
                    Ok((meta, _)) => {
                        entry.meta = meta;
                        Some("it changed while it was read".into())
                    }
                    Err(e) => Some(e.to_string()),
                };
                entry.meta.size = bytes;
                if let Some(reason) = reason {
                    self.assembly.report(&path, &reason);
                    entry.error = Some(reason);
                }
                self.assembly.files_read.fetch_add(1, Ordering::Relaxed);
                let xattrs = handle.xattrs(&now.name);
                entry.xattrs = usable_xattrs(self.assembly, &path, xattrs, &mut entry.error);
                entry.flags = usable_flags(self.assembly, &path, file.flags(), &mut entry.error);
            }
            Err(e) => {
                let reason = if e.is_vanished() {
                    "it vanished before it could be read".into()
                } else {
                    e.to_string()
                };
                self.assembly.report(&path, &reason);
                entry.error = Some(reason);
                entry.detail = Detail::Regular(Contents { missing: true, ..Contents::default() });
            }
        }
        work.read(entry);
        work.done(self.assembly)
    }

    /// Reads and cuts a file's bytes, and returns how many there were. The outer failure is the run's.
    fn contents(
        &mut self,
        work: &Arc<FileInWork>,
        file: &mut dyn SourceFile,
        now: &SourceEntry,
    ) -> Result<Result<u64, ImportError>> {
        if !now.sparse {
            return self.stretch(work, file, 0, now.meta.size, true);
        }
        let mut at = 0;
        loop {
            let hole = |from: u64, to: u64| work.set(from, Extent { id: None, len: to - from });
            let (start, end) = match next_run(file, at) {
                Ok(Some(data)) => data,
                Ok(None) => {
                    if at < now.meta.size {
                        hole(at, now.meta.size);
                    }
                    let end = now.meta.size.max(at);
                    return self.stretch(work, file, end, end, true);
                }
                Err(e) => return Ok(Err(e)),
            };
            if start > at {
                hole(at, start);
            }
            let end = end.max(start);
            match self.stretch(work, file, start, end, false)? {
                Ok(read_to) if read_to == end && end > start => at = end,
                // It ended where data was announced: it changed.
                other => return Ok(other),
            }
        }
    }

    /// Reads bytes `start..end` of a file, from its current position, and cuts them; returns where it got to. With `on`
    /// it reads to where the file ends, wherever that is.
    fn stretch(
        &mut self,
        work: &Arc<FileInWork>,
        file: &mut dyn SourceFile,
        start: u64,
        end: u64,
        on: bool,
    ) -> Result<Result<u64, ImportError>> {
        let chunker = &self.assembly.chunker;
        let most = chunker.sizes().max as usize;
        let mut at = start;
        // Where the next read begins, and whether there is nothing more to read.
        let mut next = start;
        let mut ended = start == end && !on;
        // Where the bytes that are not cut yet begin.
        let mut open = self.cuts.buffer.len();
        loop {
            // Enough for the longest chunk, and for what follows it to be read in large steps. One byte more than there
            // should be shows whether that is the end; of what should have none, enough for what is read at once or never
            // (`/proc`).
            let left = end.saturating_sub(next);
            let expected = match (on, left) {
                (false, _) => left,
                (true, 0) => BEYOND,
                (true, _) => left + 1,
            };
            let room = (2 * most).saturating_sub(self.cuts.buffer.len() - open) as u64;
            let want = if ended { 0 } else { expected.min(room) as usize };
            if want > 0 {
                let old = self.cuts.buffer.len();
                self.cuts.buffer.reserve_exact(want);
                self.cuts.buffer.resize(old + want, 0);
                let n = match file.read(&mut self.cuts.buffer[old..]) {
                    Ok(n) => n,
                    Err(e) => {
                        self.cuts.buffer.truncate(open);
                        return Ok(Err(e));
                    }
                };
                self.cuts.buffer.truncate(old + n);
                next += n as u64;
                ended = n < want || !on && next == end;
                self.assembly.read_bytes.fetch_add(n as u64, Ordering::Relaxed);
                self.assembly.monitor.event(Event::Progress { bytes: n as u64 });
            }
            while self.cuts.buffer.len() > open && (ended || self.cuts.buffer.len() - open >= most) {
                let n = chunker.cut(&self.cuts.buffer[open..]);
                work.expect();
                self.cuts.pieces.push(Piece { file: work.clone(), offset: at, range: open..open + n });
                at += n as u64;
                open += n;
            }
            if open >= FULL {
                let rest = self.cuts.buffer.split_off(open);
                self.hand_on()?;
                self.cuts.buffer.extend_from_slice(&rest);
                open = 0;
            }
            if ended && open == self.cuts.buffer.len() {
                return Ok(Ok(at));
            }
        }
    }

    /// Gives what was read of a large file to the workers.
    fn hand_on(&mut self) -> Result<()> {
        self.assembly.cancel.check()?;
        let cuts = self.take();
        if cuts.pieces.is_empty() {
            return Ok(());
        }
        self.large_files.send(vec![cuts]).map_err(|_closed| crate::error::Error::Cancelled)
    }

    /// What was read and not handed on.
    fn take(&mut self) -> Cuts {
        let next = Cuts { buffer: self.buffers.take(), pieces: Vec::new() };
        std::mem::replace(&mut self.cuts, next)
    }
}

/// The next data of a sparse file at or behind an offset, with the small holes in it, which are read as zeros. Cutting at
/// each would make chunks that no later version of the file has again: whatever copies an image moves its small holes.
/// The file is left at the beginning of the data.
fn next_run(file: &mut dyn SourceFile, at: u64) -> Result<Option<(u64, u64)>, ImportError> {
    let Some((start, mut end)) = file.next_data(at)? else { return Ok(None) };
    let is_small = |hole: u64, run: u64| hole <= SMALL_HOLE && hole * SMALL_PART <= run;
    while let Some((next, next_end)) = file.next_data(end)?
        && next_end > next
        && is_small(next - end, end - start)
    {
        end = next_end;
    }
    Ok(file.next_data(start)?.map(|(start, _)| (start, end)))
}

/// A worker's life.
pub(super) fn identify(assembly: &Assembly, batches: Receiver<Batch>, buffers: &Buffers) {
    let mut framer = match assembly.run.framer(Class::Data) {
        Ok(f) => f,
        Err(e) => return assembly.run.fail(e),
    };
    let keys = assembly.run.repository().keys().clone();
    let work = |cuts: &mut Cuts, framer: &mut Framer| {
        std::mem::take(&mut cuts.pieces).into_iter().try_for_each(|piece| {
            let clear = &cuts.buffer[piece.range];
            let id = keys.identify(Class::Data, clear);
            if assembly.run.claim(&id) {
                framer.push(&assembly.run, id, clear)?;
            }
            piece.file.set(piece.offset, Extent { id: Some(id), len: clear.len() as u64 });
            piece.file.done(assembly)
        })
    };
    for batch in batches {
        for mut cuts in batch {
            if assembly.run.check().is_err() {
                continue;
            }
            if let Err(e) = work(&mut cuts, &mut framer) {
                assembly.run.fail(e);
            }
            buffers.give(cuts.buffer);
        }
        if let Err(e) = framer.settle(&assembly.run) {
            assembly.run.fail(e);
        }
    }
    if let Err(e) = framer.flush(&assembly.run) {
        assembly.run.fail(e);
    }
}
