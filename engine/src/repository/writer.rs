//! The writing side of a repository: one run, from its lease to its snapshot.
//!
//! Blobs are claimed (is it new?), framed, sealed by their producer, and handed as groups of frames to a packer for
//! each class, which streams them into packfiles. When a packfile is acknowledged its contents count; from time to
//! time, and at the end, they are written as a state. `docs/FORMAT.md` §13 is the order that must hold.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Sender, bounded};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;

use super::catalog::Catalog;
use super::index::Index;
use super::packer::Packer;
use super::states::{self, Rows};
use super::{Repository, leftovers, now_ns};
use crate::blocking::blocking;
use crate::cache::WriterState;
use crate::cancel::Cancel;
use crate::crypto::{Class, DataKey, WRAPPED_KEY};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::{FrameEncoder, FrameRecord, SealedFrame};
use crate::id::{BlobId, ObjectId};
use crate::packfile::area_of;
use crate::removal::{Lease, RemovalKind};
use crate::snapshot::Snapshot;
use crate::state::{BlobRecord, PackfileRecord};
use crate::storage::{Area, ObjectName, StoreErrorKind};

/// Blobs that are gathered before a state is written in the middle of a run: bounds memory, and what an interrupted
/// run loses.
const CHECKPOINT_BLOBS: usize = 100_000;
/// Or bytes of packfiles.
const CHECKPOINT_BYTES: u64 = 256 << 20;
/// Or this long after the last one: on a slow link that is less.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(120);
/// A longer run renews its lease.
const LEASE_EVERY: Duration = Duration::from_secs(3600);
/// After so long a run looks at the store's clock before it commits.
const LONG: Duration = Duration::from_secs(600);
/// Nodes are looked up one by one more often than files are: their frames stay smaller.
const META_FRAME: u32 = 1 << 20;
/// Blobs of one frame, at most: who reads the frame keeps an account of each.
const FRAME_BLOBS: usize = 8192;
/// A frame that was made so many times smaller is compact.
const COMPACT: u64 = 8;
/// Groups waiting for a packer; each is about a frame.
const QUEUE: usize = 4;

/// What a run does that must be alone: no other begins while its lease is there.
pub const EXCLUSIVE: &str = "exclusive maintenance";

/// Frames that must stand together in one packfile, and the blobs in them.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) frames: Vec<SealedFrame>,
    /// What they are sealed under, if not the run's own key.
    pub(super) key: Option<Arc<DataKey>>,
    /// `frame` counts within the group.
    pub(super) blobs: Vec<BlobRecord>,
}

/// A packfile that the store has acknowledged.
#[derive(Debug)]
pub(super) struct Packed {
    /// The key of its frames, wrapped.
    pub(super) wrapped: [u8; WRAPPED_KEY],
    /// `first_frame` and `key` are set when it joins a batch.
    pub(super) record: PackfileRecord,
    pub(super) frames: Vec<FrameRecord>,
    pub(super) blobs: Vec<BlobRecord>,
    /// When the store took it, by the store's clock.
    pub(super) stored_ns: i64,
}

/// Acknowledged packfiles of which no state says anything yet.
#[derive(Debug)]
struct Batch {
    rows: Rows,
    /// When the last state was written.
    since: Instant,
    /// When the store took the first of them: by its own clock, and by the one on the wall here.
    first: Option<(i64, SystemTime)>,
}

/// A run that writes.
#[derive(Debug)]
pub struct Run {
    pub(super) repository: Arc<Repository>,
    /// Its id.
    pub id: ObjectId,
    /// t₀, store time in ns since 1970, and the digest of the snapshots and removals that were seen then.
    since: Mutex<(i64, [u8; 32])>,
    lease: Mutex<(Vec<ObjectId>, Instant)>,
    /// By the clock on the wall, which goes on while the machine sleeps.
    began: SystemTime,
    purpose: (String, String),
    key: Arc<DataKey>,
    pub(super) wrapped: [u8; WRAPPED_KEY],
    catalog: Arc<Catalog>,
    index: RwLock<Arc<Index>>,
    /// Blobs of this run that `index` does not hold yet.
    pending: Mutex<HashSet<BlobId>>,
    packers: Mutex<Option<Packers>>,
    batch: tokio::sync::Mutex<Batch>,
    pub(super) failure: OnceLock<Arc<Error>>,
    pub(super) cancel: Cancel,
    pub(super) added_bytes: AtomicU64,
}

#[derive(Debug)]
struct Packers {
    senders: [Sender<Group>; 2],
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Run {
    /// Begins a run: writes its lease, whose store time is t₀, then reads removals, snapshots and states.
    ///
    /// `cancel` ends the run at its next step.
    pub async fn begin(
        repository: &Arc<Repository>,
        host: &str,
        purpose: &str,
        cancel: Cancel,
    ) -> Result<Arc<Self>> {
        let id = ObjectId::random();
        tracing::debug!(run = %id.short(), purpose, "a run begins");
        let (lease, t0_ns) = put_lease(repository, id, host, purpose).await?;
        if let Err(e) = make_way(repository, id, lease, t0_ns, host, purpose).await {
            repository.give_back(lease).await;
            return Err(e);
        }
        let catalog = repository.refresh_catalog().await?;
        let index = repository.refresh_index_lazily().await?;
        let key = Arc::new(repository.keys.new_data_key());
        let run = Arc::new(Self {
            repository: repository.clone(),
            id,
            since: Mutex::new((t0_ns, catalog.seen)),
            lease: Mutex::new((vec![lease], Instant::now())),
            began: SystemTime::now(),
            purpose: (host.into(), purpose.into()),
            wrapped: repository.keys.wrap(&key),
            key,
            catalog,
            index: RwLock::new(index),
            pending: Mutex::default(),
            packers: Mutex::new(None),
            batch: tokio::sync::Mutex::new(Batch {
                rows: Rows::default(),
                since: Instant::now(),
                first: None,
            }),
            failure: OnceLock::new(),
            cancel,
            added_bytes: AtomicU64::new(0),
        });
        let mut threads = Vec::new();
        let senders = [Class::Data, Class::Meta].map(|class| {
            let (sender, receiver) = bounded(QUEUE);
            let (run, handle) = (run.clone(), Handle::current());
            threads.push(std::thread::spawn(move || Packer::new(run, class, handle).work(&receiver)));
            sender
        });
        *run.packers.lock() = Some(Packers { senders, threads });
        Ok(run)
    }

    /// The repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// The catalogue as of t₀.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The index as of t₀, with what this run has added.
    pub fn index(&self) -> Arc<Index> {
        self.index.read().clone()
    }

    /// Bytes put into the store so far.
    pub fn added_bytes(&self) -> u64 {
        self.added_bytes.load(Ordering::Relaxed)
    }

    /// Fails if the run was cancelled or a packer failed.
    pub fn check(&self) -> Result<()> {
        if let Some(e) = self.failure.get() {
            return Err(e.clone().into());
        }
        self.cancel.check()
    }

    /// Ends the run at its next step with this failure; the first one counts. An interruption is none: what is
    /// packed already shall still be kept.
    pub fn fail(&self, e: Error) {
        if e.kind() != ErrorKind::Cancelled {
            let _ = self.failure.set(Arc::new(e));
        }
    }

    /// Whether the store has this blob, by what this run may rely on.
    pub fn is_known(&self, id: &BlobId) -> bool {
        self.pending.lock().contains(id) || self.index().is_known(id, &self.catalog.removals)
    }

    /// Claims a blob: `true` means that it is new and the caller must frame it.
    pub fn claim(&self, id: &BlobId) -> bool {
        // Two workers may be here with one blob; or a checkpoint has just moved it from `pending` to the next index.
        // The first costs nothing; the second a duplicate.
        !self.is_known(id) && self.pending.lock().insert(*id)
    }

    /// A framer for one worker and class.
    pub fn framer(&self, class: Class) -> Result<Framer> {
        let config = &self.repository.config;
        let encoder = FrameEncoder::new(config.zstd_level)
            .map_err(|e| Error::io("prepare compression for", std::path::Path::new("frames"), e))?;
        let most = if class == Class::Meta { META_FRAME } else { u32::MAX };
        Ok(Framer {
            class,
            encoder,
            frame_bytes: config.frame_bytes.min(most) as usize,
            slice_bytes: config.slice_bytes as usize,
            alone: config.slice_bytes as usize,
            buffer: Vec::new(),
            blobs: Vec::new(),
        })
    }

    /// t₀, store time in ns since 1970.
    pub fn t0_ns(&self) -> i64 {
        self.since.lock().0
    }

    pub(super) fn key(&self) -> &DataKey {
        &self.key
    }

    pub(super) fn submit(&self, class: Class, group: Group) -> Result<()> {
        self.check()?;
        let sender = {
            let packers = self.packers.lock();
            packers.as_ref().map(|p| p.senders[class as usize - 1].clone())
        };
        // A packer that has gone left its reason.
        match sender.map(|s| s.send(group)) {
            Some(Ok(())) => Ok(()),
            _ => self.check().and(Err(Error::Bug("the packers are gone"))),
        }
    }

    /// Adds an acknowledged packfile to what the next state will say, and writes that when it is much or late.
    pub(super) async fn acknowledge(&self, packed: Packed) -> Result<()> {
        self.cancel.moved();
        let (record, frames) = (&packed.record, packed.frames.len());
        tracing::debug!(packfile = %record.id.short(), bytes = record.length, frames, "stored");
        let mut batch = self.batch.lock().await;
        batch.first.get_or_insert((packed.stored_ns, SystemTime::now()));
        let b = &mut batch.rows;
        let key = b.keys.iter().position(|k| k[..16] == packed.wrapped[..16]).unwrap_or_else(|| {
            b.keys.push(packed.wrapped);
            b.keys.len() - 1
        });
        let first_frame = b.frames.len() as u32;
        b.packfiles.push(PackfileRecord { first_frame, key: key as u32, ..packed.record });
        b.frames.extend(packed.frames);
        b.blobs.extend(packed.blobs.iter().map(|r| r.behind(first_frame)));
        let bytes: u64 = b.packfiles.iter().map(|p| p.length).sum();
        let is_much = b.blobs.len() >= CHECKPOINT_BLOBS || bytes >= CHECKPOINT_BYTES;
        if is_much || batch.since.elapsed() >= CHECKPOINT_EVERY {
            self.write_state(&mut batch).await?;
        }
        Ok(())
    }

    /// Writes what was gathered as a state, and moves it from `pending` to the index.
    async fn write_state(&self, batch: &mut Batch) -> Result<()> {
        let Some((first_ns, first)) = batch.first else { return Ok(()) };
        batch.rows.sort();
        // A machine that slept in between may have packfiles that were removed meanwhile, as nobody knew what is in them.
        let half_grace = self.repository.config.grace_seconds / 2;
        let is_late = first.elapsed().is_ok_and(|time| time.as_secs() > half_grace);
        if is_late {
            self.say_what_is_gone(&batch.rows).await?;
        }
        let writer = self.repository.writer.lock().writer;
        let r = &self.repository;
        let listed = states::write(&r.store, &r.keys, &batch.rows, writer, self.id, now_ns()).await?;
        if !is_late && listed.modified_ns - first_ns > half_grace as i64 * 1_000_000_000 {
            self.say_what_is_gone(&batch.rows).await?;
        }
        self.cancel.moved();
        (batch.first, batch.since) = (None, Instant::now());
        let mut done = std::mem::take(&mut batch.rows);
        tracing::debug!(state = %listed.id.short(), blobs = done.blobs.len(), bytes = listed.len, "stored");
        self.added_bytes.fetch_add(listed.len, Ordering::Relaxed);
        done.states.push(listed.id);
        let ids: Vec<BlobId> = done.blobs.iter().map(|b| b.id).collect();
        let index = self.index();
        match blocking(move || index.with(done).map(Arc::new)).await {
            Ok(index) => {
                *self.index.write() = index.clone();
                self.repository.set_index(index);
                let mut pending = self.pending.lock();
                for id in &ids {
                    pending.remove(id);
                }
            }
            // The state is in the store, which is what counts; this run goes on knowing its blobs from `pending`.
            Err(e) => tracing::warn!(%e, "the local index was not extended; the next command does it"),
        }
        self.renew_lease().await
    }

    /// Says of packfiles that are not there any more, and of which a state is to tell, that they are gone.
    async fn say_what_is_gone(&self, rows: &Rows) -> Result<()> {
        let mut gone = Vec::new();
        for p in &rows.packfiles {
            match self.repository.store.stat(ObjectName::new(area_of(p.class), p.id)).await {
                Err(e) if e.kind() == StoreErrorKind::NotFound => gone.push(p.id),
                found => drop(found?),
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        self.repository.remove(RemovalKind::Gone, gone, "a run that was late").await
    }

    async fn renew_lease(&self) -> Result<()> {
        let due = self.lease.lock().1.elapsed() >= LEASE_EVERY;
        if due {
            let (id, _) = put_lease(&self.repository, self.id, &self.purpose.0, &self.purpose.1).await?;
            let mut lease = self.lease.lock();
            lease.0.push(id);
            lease.1 = Instant::now();
        }
        Ok(())
    }

    /// Closes the packfiles and writes the last state. Called at the end of every run, also of one that failed or was
    /// cancelled: what is in the store already is then found by the next run.
    pub async fn flush(&self) -> Result<()> {
        let packers = self.packers.lock().take();
        if let Some(Packers { senders, threads }) = packers {
            drop(senders);
            let joined = tokio::task::spawn_blocking(move || threads.into_iter().all(|t| t.join().is_ok()));
            if !joined.await.unwrap_or(false) {
                self.fail(Error::Bug("a packer ended early"));
            }
        }
        let written = {
            let mut batch = self.batch.lock().await;
            self.write_state(&mut batch).await
        };
        if let Some(e) = self.failure.get() {
            return Err(e.clone().into());
        }
        written
    }

    /// Ends a run without a snapshot.
    pub async fn abandon(&self) {
        if let Err(e) = self.flush().await {
            tracing::debug!(%e, "an abandoned run could not write its state");
        }
        self.release().await;
    }

    /// Writes the snapshot: the commit point. Fills in writer, sequence, predecessor, digest and run.
    ///
    /// `None` when that was later than half the grace period after t₀, by the store's clock, or somebody took this run for
    /// dead (its machine slept), so that maintenance may not have waited for it: then it is taken back. After [`Run::begin_anew`], and once it is sure that all that the
    /// snapshot needs is there, it can be committed again.
    pub async fn commit(&self, snapshot: &Snapshot) -> Result<Option<Snapshot>> {
        let mut snapshot = snapshot.clone();
        self.flush().await?;
        snapshot.added_bytes = self.added_bytes();
        Ok(self.commit_all(&[snapshot]).await?.and_then(|mut all| all.pop()))
    }

    /// The same for several snapshots, in order. If one cannot be put, those before it count; if it is late, none does.
    pub async fn commit_all(&self, snapshots: &[Snapshot]) -> Result<Option<Vec<Snapshot>>> {
        self.flush().await?;
        self.check()?;
        let repository = &self.repository;
        let half_grace = repository.config.grace_seconds as i64 / 2 * 1_000_000_000;
        // Before as well as after: one that dies right after the put has nobody to take it back.
        if self.began.elapsed().is_ok_and(|time| time > LONG) {
            let (id, now_ns) = put_lease(repository, self.id, &self.purpose.0, &self.purpose.1).await?;
            let is_late = now_ns - self.since.lock().0 > half_grace || !self.is_counted_upon().await;
            self.lease.lock().0.push(id);
            if is_late {
                return Ok(None);
            }
        }
        let state = repository.writer.lock().clone();
        let mut state = blocking(move || Ok(state.lock_and_reload())).await?;
        let (t0_ns, seen) = *self.since.lock();
        let before = state.data.last;
        let keep = |data: &mut WriterState| {
            data.save();
            *repository.writer.lock() = data.clone();
        };
        let (mut committed, mut last_ns) = (Vec::new(), t0_ns);
        for snapshot in snapshots {
            state.data.sequence += 1;
            let mut snapshot = Snapshot {
                writer: state.data.writer,
                sequence: state.data.sequence,
                predecessor: state.data.last,
                seen,
                run: self.id,
                ..snapshot.clone()
            };
            let (id, bytes, time_ns) = match repository.put_small(Area::Snapshots, &snapshot.encode()).await {
                Ok(put) => put,
                // Those before it are whole, and stay.
                Err(e) => {
                    keep(&mut state.data);
                    return Err(e);
                }
            };
            snapshot.id = id;
            tracing::debug!(snapshot = %id.short(), "committed");
            self.added_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            state.data.last = Some((id, *blake3::hash(&bytes).as_bytes()));
            last_ns = time_ns;
            committed.push(snapshot);
        }
        // Looked at after the put: who takes the lease away from now on lists snapshots after that.
        let late = last_ns - t0_ns > half_grace;
        if late || !self.is_counted_upon().await {
            let reason = if late { "after half the grace period" } else { "without a lease" };
            let ids: Vec<ObjectId> = committed.iter().map(|s| s.id).collect();
            repository.remove_snapshots(&ids, &format!("committed {reason}")).await?;
            state.data.last = before;
            keep(&mut state.data);
            return Ok(None);
        }
        keep(&mut state.data);
        drop(state);
        self.release().await;
        Ok(Some(committed))
    }

    /// Whether a lease of this run is still there; also if that cannot be told.
    async fn is_counted_upon(&self) -> bool {
        let leases = self.lease.lock().0.clone();
        for id in leases {
            match self.repository.store.stat(ObjectName::new(Area::Leases, id)).await {
                Err(e) if e.kind() == StoreErrorKind::NotFound => {}
                _ => return true,
            }
        }
        false
    }

    /// Takes a new t₀: a new lease, and removals, snapshots and states as they are now. What this run knew before is to be
    /// looked up again.
    pub async fn begin_anew(&self) -> Result<()> {
        let (lease, t0_ns) = put_lease(&self.repository, self.id, &self.purpose.0, &self.purpose.1).await?;
        {
            let mut leases = self.lease.lock();
            leases.0.push(lease);
            leases.1 = Instant::now();
        }
        let (host, purpose) = &self.purpose;
        make_way(&self.repository, self.id, lease, t0_ns, host, purpose).await?;
        let catalog = self.repository.refresh_catalog().await?;
        self.repository.refresh_index().await?;
        *self.since.lock() = (t0_ns, catalog.seen);
        Ok(())
    }

    /// Removes the lease, if the store lets us.
    async fn release(&self) {
        let ids = std::mem::take(&mut self.lease.lock().0);
        for id in ids {
            self.repository.give_back(id).await;
        }
    }
}

impl Repository {
    async fn give_back(&self, lease: ObjectId) {
        if let Err(e) = self.store.delete(ObjectName::new(Area::Leases, lease)).await {
            tracing::debug!(%e, "the lease stays");
        }
    }
}

/// Clears what the dead have left, and sees whether somebody is at work who must be alone, or whom this run must not
/// meet. Whoever puts his lease first and looks then sees the other, or is seen by him.
async fn make_way(
    repository: &Repository,
    run: ObjectId,
    lease: ObjectId,
    t0_ns: i64,
    host: &str,
    purpose: &str,
) -> Result<()> {
    let others = match leftovers::clear(repository, lease, t0_ns, host).await {
        Ok(others) => others,
        Err(e) if purpose == EXCLUSIVE => return Err(e),
        Err(e) => {
            tracing::debug!(%e, "leases cannot be read");
            return Ok(());
        }
    };
    let in_the_way = |o: &&Lease| o.run != run && (purpose == EXCLUSIVE || o.purpose == EXCLUSIVE);
    match others.iter().find(in_the_way) {
        None => Ok(()),
        Some(Lease { purpose, host, process, .. }) => {
            Err(Error::InUse { by: format!("{purpose} on {host}, process {process}") })
        }
    }
}

async fn put_lease(
    repository: &Repository,
    run: ObjectId,
    host: &str,
    purpose: &str,
) -> Result<(ObjectId, i64)> {
    let lease = Lease {
        run,
        time_ns: now_ns(),
        host: host.into(),
        purpose: purpose.into(),
        process: std::process::id(),
    };
    let (id, _, time) = repository.put_small(Area::Leases, &lease.encode()).await?;
    Ok((id, time))
}

/// Turns one worker's blobs into sealed frames: small ones together, large ones in slices.
#[derive(Debug)]
pub struct Framer {
    class: Class,
    encoder: FrameEncoder,
    frame_bytes: usize,
    slice_bytes: usize,
    /// Larger blobs are sliced: either of the two above, by how well the last frame was compressed.
    alone: usize,
    buffer: Vec<u8>,
    blobs: Vec<BlobRecord>,
}

impl Framer {
    /// Adds a claimed blob; blocks while the packer is behind.
    pub fn push(&mut self, run: &Run, id: BlobId, clear: &[u8]) -> Result<()> {
        let (len, class) = (clear.len() as u32, self.class);
        let record = |offset, sliced| BlobRecord { id, frame: 0, offset, len, sliced, class };
        if clear.len() > self.alone {
            let blobs = vec![record(0, true)];
            let frames: Vec<SealedFrame> = clear
                .chunks(self.slice_bytes)
                .map(|slice| self.encoder.encode(&run.key, self.class, slice))
                .collect();
            frames.last().into_iter().for_each(|f| self.learn(f));
            return run.submit(self.class, Group { frames, blobs, key: None });
        }
        if self.buffer.len() + clear.len() > self.frame_bytes || self.blobs.len() >= FRAME_BLOBS {
            self.flush(run)?;
        }
        self.blobs.push(record(self.buffer.len() as u32, false));
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(self.frame_bytes);
        }
        self.buffer.extend_from_slice(clear);
        Ok(())
    }

    /// Seals what is gathered if it makes a frame: what comes next stands elsewhere in the source.
    pub fn settle(&mut self, run: &Run) -> Result<()> {
        if self.buffer.len() < self.frame_bytes / 2 { Ok(()) } else { self.flush(run) }
    }

    /// What compresses well is as fast to decode in whole frames as the rest is in slices.
    fn learn(&mut self, frame: &SealedFrame) {
        let compact = u64::from(frame.record.stored) * COMPACT <= u64::from(frame.record.clear);
        self.alone = if compact { self.frame_bytes } else { self.slice_bytes };
    }

    /// Seals what is gathered.
    pub fn flush(&mut self, run: &Run) -> Result<()> {
        if self.blobs.is_empty() {
            return Ok(());
        }
        let frame = self.encoder.encode(&run.key, self.class, &self.buffer);
        self.learn(&frame);
        self.buffer.clear();
        let blobs = std::mem::take(&mut self.blobs);
        run.submit(self.class, Group { frames: vec![frame], blobs, key: None })
    }
}
