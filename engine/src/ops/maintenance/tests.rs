//! Histories of backups, removals, copies, maintenance and time, with interruptions, slow runs and listings that lag, against a
//! model: what should be there is there, whole, whatever happened. And the promises of single steps.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::monitor::Silent;
use crate::ops::backup::BackupReport;
use crate::ops::check::{Depth, Scope, check};
use crate::ops::sync::sync;
use crate::repository::Repository;
use crate::storage::memory::MemoryStore;
use crate::storage::{PutObject, Store, StoreError};
use crate::testing::faulty::FaultyStore;
use crate::testing::{Fixture, What, back_up, local_dirs, new_store, open, read_tree};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const GRACE_DAYS: u32 = 7;

/// Files by path.
type Files = BTreeMap<Vec<u8>, Vec<u8>>;

fn files_of(fixture: &Fixture, at: &[u8], out: &mut Files) {
    match &fixture.what {
        What::File(bytes) => drop(out.insert(at.to_vec(), bytes.clone())),
        What::Directory(children) => {
            for (name, child) in children {
                let path = if at.is_empty() { name.clone() } else { [at, b"/", name].concat() };
                files_of(child, &path, out);
            }
        }
        _ => {}
    }
}

async fn files_in(repository: &Arc<Repository>, snapshot: &crate::snapshot::Snapshot) -> Files {
    let tree = read_tree(repository, snapshot).await.unwrap();
    let is_file = |e: &crate::tree::Entry| e.meta.kind == crate::meta::Kind::Regular;
    tree.into_iter().filter(|(_, (e, _))| is_file(e)).map(|(path, (_, bytes))| (path, bytes)).collect()
}

/// Paths that are not the same in both.
fn differences(one: &Files, other: &Files) -> Vec<String> {
    let all: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differ = all.into_iter().filter(|path| one.get(*path) != other.get(*path));
    let len = |files: &Files, path: &Vec<u8>| files.get(path).map(Vec::len);
    let words = |p: &Vec<u8>| format!("{} {:?} {:?}", String::from_utf8_lossy(p), len(one, p), len(other, p));
    differ.map(words).collect()
}

/// Small numbers, the same for each seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len() as u64) as usize].clone()
    }
}

/// A store as some run sees it: listings show nothing that is newer than a while, and a put waits to be let go on.
#[derive(Clone, Debug)]
struct Seen {
    below: MemoryStore,
    lag: Duration,
    /// Puts before the one that waits; none waits when it is negative.
    puts: Arc<AtomicI64>,
    waits: Arc<Notify>,
    go_on: Arc<Notify>,
}

impl Seen {
    fn new(below: &MemoryStore, lag: Duration, puts: i64) -> Self {
        let (waits, go_on) = (Arc::default(), Arc::default());
        Self { below: below.clone(), lag, puts: Arc::new(AtomicI64::new(puts)), waits, go_on }
    }
}

#[async_trait]
impl Store for Seen {
    fn location(&self) -> String {
        self.below.location()
    }

    fn local_path(&self) -> Option<&Path> {
        None
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.below.prepare().await
    }

    async fn list(&self, area: Area) -> Result<Vec<Listed>, StoreError> {
        let newest = self.below.now_ns() - self.lag.as_nanos() as i64;
        let mut listed = self.below.list(area).await?;
        listed.retain(|l| l.modified_ns <= newest || self.lag.is_zero());
        Ok(listed)
    }

    async fn get(&self, name: ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.below.get(name, range).await
    }

    async fn stat(&self, name: ObjectName) -> Result<Listed, StoreError> {
        self.below.stat(name).await
    }

    async fn put(&self, name: ObjectName) -> Result<Box<dyn PutObject>, StoreError> {
        if self.puts.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.waits.notify_one();
            self.go_on.notified().await;
        }
        self.below.put(name).await
    }

    async fn delete(&self, name: ObjectName) -> Result<(), StoreError> {
        self.below.delete(name).await
    }
}

/// A backup that is under way.
struct Slow {
    store: Seen,
    running: JoinHandle<Result<BackupReport>>,
    files: Files,
    /// What was found of it already: it may yet take that back.
    seen: HashSet<ObjectId>,
}

struct History {
    dice: Dice,
    store: MemoryStore,
    lag: Duration,
    local: tempfile::TempDir,
    caches: u64,
    source: Fixture,
    seeds: u64,
    live: HashMap<ObjectId, Files>,
    /// Deleted, and when by the store's clock.
    deleted: HashMap<ObjectId, (Files, i64)>,
    slow: Option<Slow>,
    /// Another store, and what was backed up into it.
    other: MemoryStore,
    elsewhere: HashMap<ObjectId, Files>,
    log: Vec<String>,
}

impl History {
    async fn new(seed: u64, lag: Duration) -> Self {
        let store = MemoryStore::new();
        let plain: Arc<dyn Store> = Arc::new(store.clone());
        new_store(&plain).await.unwrap();
        let other = MemoryStore::new();
        let plain: Arc<dyn Store> = Arc::new(other.clone());
        new_store(&plain).await.unwrap();
        let mut h = Self {
            dice: Dice(seed),
            store,
            lag,
            local: tempfile::tempdir().unwrap(),
            caches: 0,
            source: Fixture::directory::<&str>([]),
            seeds: seed * 1_000_000,
            live: HashMap::new(),
            deleted: HashMap::new(),
            slow: None,
            other,
            elsewhere: HashMap::new(),
            log: Vec::new(),
        };
        for _ in 0..12 {
            h.change();
        }
        h.store.pass(lag);
        h
    }

    fn seen(&self, puts: i64) -> Seen {
        Seen::new(&self.store, self.lag, puts)
    }

    /// A repository over a store, with caches of this machine or of another.
    async fn open(&mut self, store: Arc<dyn Store>) -> Result<Arc<Repository>> {
        if self.dice.roll(6) == 0 {
            self.caches += 1;
        }
        let dirs = local_dirs(&self.local.path().join(self.caches.to_string()));
        open(&store, &dirs).await
    }

    async fn open_alone(&mut self, store: Arc<dyn Store>) -> Result<Arc<Repository>> {
        self.caches += 1;
        let dirs = local_dirs(&self.local.path().join(format!("own {}", self.caches)));
        open(&store, &dirs).await
    }

    fn change(&mut self) {
        self.seeds += 1;
        let (directory, name) = (self.dice.roll(4), self.dice.roll(12));
        let directory = format!("d{directory}");
        if !matches!(&self.source.what, What::Directory(all) if all.contains_key(directory.as_bytes())) {
            self.source.put(&directory, Fixture::directory::<&str>([]));
        }
        let there = self.source.at(&directory);
        let name = format!("f{name}");
        let mut file = match self.dice.roll(5) {
            0 => {
                if let What::Directory(children) = &mut there.what {
                    children.remove(name.as_bytes());
                }
                return;
            }
            // What was there before, perhaps long ago.
            1 => Fixture::noise(40_000, self.dice.roll(5)),
            2 => Fixture::file(b"small".repeat(self.dice.roll(50) as usize)),
            _ => Fixture::noise(1000 + self.dice.roll(150_000) as usize, self.seeds),
        };
        file.meta.mtime.sec += self.seeds as i64;
        there.put(&name, file);
    }

    fn files(&self) -> Files {
        let mut files = Files::new();
        files_of(&self.source, b"", &mut files);
        files
    }

    async fn back_up(&mut self) {
        for _ in 0..self.dice.roll(6) {
            self.change();
        }
        let repository = self.open(Arc::new(self.seen(-1))).await.unwrap();
        match back_up(&repository, &self.source).await {
            Ok(done) => {
                self.log.push(format!("made {}", done.snapshot.id.short()));
                self.live.insert(done.snapshot.id, self.files());
            }
            Err(Error::InUse { .. }) => {}
            Err(e) => unreachable!("{e}"),
        }
    }

    /// One that fails somewhere. It may have been committed all the same.
    async fn back_up_interrupted(&mut self) {
        self.change();
        let calls = self.dice.roll(60) as i64;
        let store = FaultyStore::new(Arc::new(self.seen(-1)), calls);
        let files = self.files();
        if let Ok(repository) = self.open_alone(Arc::new(store)).await {
            let _ = back_up(&repository, &self.source).await;
        }
        self.learn(&files).await;
    }

    /// Takes over what was committed though nobody said so.
    async fn learn(&mut self, files: &Files) {
        let repository = self.open_alone(Arc::new(self.store.clone())).await.unwrap();
        let slow = self.slow.as_ref().map(|s| s.files.clone());
        for s in &repository.catalog().await.unwrap().snapshots {
            if !self.live.contains_key(&s.id) {
                let found = files_in(&repository, s).await;
                let is_slow = slow.as_ref() == Some(&found);
                let is_copy = s.original.is_some_and(|(_, id)| self.elsewhere.get(&id) == Some(&found));
                assert!(found == *files || is_slow || is_copy, "{:?}", self.log);
                if let Some(slow) = self.slow.as_mut().filter(|_| is_slow) {
                    slow.seen.insert(s.id);
                    self.log.push(format!("slow was {}", s.id.short()));
                }
                self.live.insert(s.id, found);
            }
        }
    }

    /// Copies what another store has, and then to it; with interruptions.
    async fn copy(&mut self) {
        let other: Arc<dyn Store> = Arc::new(self.other.clone());
        let peer = self.open(other).await.unwrap();
        if self.dice.roll(2) == 0 {
            self.change();
            let done = back_up(&peer, &self.source).await.unwrap();
            self.elsewhere.insert(done.snapshot.id, self.files());
        }
        let seen: Arc<dyn Store> = Arc::new(self.seen(-1));
        let calls = (self.dice.roll(2) == 0).then(|| self.dice.roll(100) as i64);
        let store = calls.map_or(seen.clone(), |calls| Arc::new(FaultyStore::new(seen, calls)));
        let Ok(own) = self.open_alone(store).await else { return };
        for (from, to) in [(&peer, &own), (&own, &peer)] {
            let Ok(catalog) = from.refresh_catalog().await else { continue };
            let natives: Vec<_> =
                catalog.snapshots.iter().filter(|s| s.original.is_none()).cloned().collect();
            if from.refresh_index().await.is_err() {
                continue;
            }
            match sync(from, to, &natives, "host", Arc::new(Silent), Cancel::default()).await {
                Ok(report) => {
                    assert!(calls.is_some() || report.failed.is_empty(), "{report:?} {:?}", self.log);
                }
                Err(Error::InUse { .. }) => {}
                Err(e) => assert!(calls.is_some(), "{} {:?}", report(&e), self.log),
            }
        }
        for s in &peer.refresh_catalog().await.unwrap().snapshots {
            if let Some(files) = s.original.and_then(|(_, id)| self.live.get(&id)) {
                let found = files_in(&peer, s).await;
                assert!(found == *files, "{:?}: {:?}", differences(&found, files), self.log);
            }
        }
        let files = self.files();
        self.learn(&files).await;
    }

    /// Begins one that waits in the middle, or goes on with the one that does.
    async fn slow(&mut self) {
        if let Some(Slow { store, running, files, seen }) = self.slow.take() {
            store.go_on.notify_one();
            match running.await.unwrap() {
                Ok(done) => {
                    self.log.push(format!("slow made {}", done.snapshot.id.short()));
                    // If it was seen, it may have been removed since.
                    if !seen.contains(&done.snapshot.id) {
                        self.live.insert(done.snapshot.id, files);
                    }
                }
                Err(Error::Late { .. } | Error::InUse { .. }) => {
                    let repository = self.open_alone(Arc::new(self.store.clone())).await.unwrap();
                    let catalog = repository.catalog().await.unwrap();
                    self.live.retain(|id, _| !seen.contains(id) || catalog.holds(id));
                }
                Err(e) => unreachable!("{e} {:?}", self.log),
            }
            return;
        }
        self.change();
        let puts = 1 + self.dice.roll(5) as i64;
        let (store, source) = (self.seen(puts), self.source.clone());
        let repository = self.open_alone(Arc::new(store.clone())).await.unwrap();
        let running = tokio::spawn(async move { back_up(&repository, &source).await });
        let files = self.files();
        let waiting = tokio::time::timeout(Duration::from_secs(5), store.waits.notified());
        let ended = async {
            while !running.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            done = waiting => done.unwrap(),
            () = ended => {}
        }
        self.slow = Some(Slow { store, running, files, seen: HashSet::new() });
    }

    async fn remove(&mut self) {
        let mut all: Vec<ObjectId> = self.live.keys().copied().collect();
        all.sort_unstable();
        if all.len() < 2 {
            return;
        }
        let id = self.dice.one_of(&all);
        let repository = self.open(Arc::new(self.store.clone())).await.unwrap();
        repository.remove_snapshots(&[id], "").await.unwrap();
        self.log.push(format!("removed {}", id.short()));
        let files = self.live.remove(&id).unwrap();
        self.deleted.insert(id, (files, self.store.now_ns()));
    }

    async fn undelete(&mut self) {
        let soon = self.store.now_ns() - (DAY * GRACE_DAYS).as_nanos() as i64 + HOUR.as_nanos() as i64;
        let mut all: Vec<ObjectId> =
            self.deleted.iter().filter(|(_, (_, at))| *at > soon).map(|(id, _)| *id).collect();
        all.sort_unstable();
        if all.is_empty() {
            return;
        }
        let id = self.dice.one_of(&all);
        let repository = self.open(Arc::new(self.store.clone())).await.unwrap();
        let catalog = repository.refresh_catalog().await.unwrap();
        repository.undelete_snapshots(&catalog, &[id]).await.unwrap();
        self.log.push(format!("back {}", id.short()));
        self.live.insert(id, self.deleted.remove(&id).unwrap().0);
    }

    async fn maintain(&mut self, options: MaintenanceOptions, calls: Option<i64>) {
        let seen: Arc<dyn Store> = Arc::new(self.seen(-1));
        let store = calls.map_or(seen.clone(), |calls| Arc::new(FaultyStore::new(seen, calls)));
        let Ok(repository) = self.open_alone(store).await else { return };
        match maintain(&repository, "host", options, Arc::new(Silent), Cancel::default()).await {
            Ok(report) => {
                assert_eq!(report.missing, 0, "{:?}", self.log);
                assert_eq!(report.unreadable, [], "{:?}", self.log);
                if options.exclusive {
                    // What could be brought back cannot any more.
                    self.deleted.clear();
                }
            }
            Err(Error::InUse { .. }) => {}
            Err(e) => assert!(calls.is_some(), "{} {:?}", report(&e), self.log),
        }
    }

    async fn step(&mut self) {
        let kind = self.dice.roll(22);
        self.log.push(format!("{kind}"));
        match kind {
            0..4 => self.back_up().await,
            4 => self.back_up_interrupted().await,
            5..7 => self.slow().await,
            7..10 => self.remove().await,
            10 => self.undelete().await,
            11..14 => {
                let time = self.dice.one_of(&[HOUR, DAY, 3 * DAY, 8 * DAY]);
                self.log.push(format!("{time:?}"));
                self.store.pass(time);
            }
            14..17 => self.maintain(MaintenanceOptions::default(), None).await,
            17 => {
                let calls = self.dice.roll(150) as i64;
                self.maintain(MaintenanceOptions::default(), Some(calls)).await;
            }
            18 if self.lag.is_zero() => {
                let options = MaintenanceOptions { grace_ns: Some(0), exclusive: true };
                let calls = (self.dice.roll(2) == 0).then(|| self.dice.roll(200) as i64);
                self.maintain(options, calls).await;
                // Interrupted or not, it may have begun to delete.
                self.deleted.clear();
            }
            19..21 => self.copy().await,
            _ => {
                let seen: Arc<dyn Store> = Arc::new(self.seen(-1));
                let (one, other) = (self.open_alone(seen.clone()).await, self.open_alone(seen).await);
                let (one, other) = (one.unwrap(), other.unwrap());
                self.change();
                let none = MaintenanceOptions::default();
                let (backup, maintenance) = tokio::join!(
                    back_up(&one, &self.source),
                    maintain(&other, "host", none, Arc::new(Silent), Cancel::default())
                );
                // Somebody who had to be alone was killed.
                match backup {
                    Ok(done) => drop(self.live.insert(done.snapshot.id, self.files())),
                    Err(e) => assert!(matches!(e, Error::InUse { .. }), "{e}"),
                }
                assert!(matches!(maintenance, Ok(_) | Err(Error::InUse { .. })), "{maintenance:?}");
            }
        }
        // So much a listing may lag behind, and no step begins before the one before is listed.
        self.store.pass(self.lag);
    }

    /// Everything that should be there is, and a check finds nothing.
    async fn verify(&mut self) {
        // The slow one may have ended without having had to wait.
        if let Some(files) = self.slow.as_ref().map(|s| s.files.clone()) {
            self.learn(&files).await;
        }
        let repository = self.open_alone(Arc::new(self.store.clone())).await.unwrap();
        let catalog = repository.refresh_catalog().await.unwrap();
        let there: HashSet<ObjectId> = catalog.snapshots.iter().map(|s| s.id).collect();
        let wanted: HashSet<ObjectId> = self.live.keys().copied().collect();
        let other: Vec<_> = there.symmetric_difference(&wanted).map(|id| id.short()).collect();
        assert!(other.is_empty(), "{other:?} {:?}", self.log);
        let all: Vec<_> = catalog.snapshots.iter().map(|s| (s.clone(), b"/".to_vec())).collect();
        let (silent, cancel) = (Arc::new(Silent), Cancel::default());
        let found = check(&repository, &all, Depth::Full, Scope::Store, silent, cancel).await.unwrap();
        assert_eq!(found.found, 0, "{:?} {:?}", found.problems, self.log);
        for s in &catalog.snapshots {
            let other = differences(&files_in(&repository, s).await, &self.live[&s.id]);
            assert!(other.is_empty(), "{}: {other:?} {:?}", s.id.short(), self.log);
        }
    }

    /// In the end all that nobody needs goes.
    async fn tidy(&mut self) -> (u64, u64) {
        if self.slow.is_some() {
            self.slow().await;
        }
        for _ in 0..5 {
            self.store.pass(DAY * (GRACE_DAYS + 1));
            self.maintain(MaintenanceOptions::default(), None).await;
        }
        let seen: Arc<dyn Store> = Arc::new(self.store.clone());
        let repository = self.open_alone(seen).await.unwrap();
        let report = foresee(&repository, MaintenanceOptions::default(), Cancel::default()).await.unwrap();
        assert_eq!((report.waiting.count, report.deleted.count), (0, 0), "{:?}", self.log);
        (report.packfiles.bytes - report.live_bytes, report.packfiles.bytes)
    }
}

async fn run_history(seed: u64, lag: Duration, steps: u64) {
    let mut h = History::new(seed, lag).await;
    h.back_up().await;
    for i in 0..steps {
        h.step().await;
        if i % 10 == 9 {
            h.verify().await;
        }
    }
    h.verify().await;
    let (waste, bytes) = h.tidy().await;
    h.verify().await;
    let areas = |area| h.store.names().iter().filter(|n| n.area == area).count();
    assert_eq!(areas(Area::Snapshots), h.live.len(), "{:?}", h.log);
    assert!(waste <= bytes / 10, "{waste} of {bytes} bytes nobody needs, {:?}", h.log);
    let (states, removals) = (areas(Area::States), areas(Area::Removals));
    assert!(states < 20 && removals < 20, "{states} states, {removals} removals");
}

/// Steps of each history: `PLAKAR_STEPS`, for `make histories`.
fn steps() -> u64 {
    std::env::var("PLAKAR_STEPS").ok().and_then(|n| n.parse().ok()).unwrap_or(40)
}

/// Runs histories; one that fails leaves nobody waiting.
fn run_histories(seeds: Range<u64>, lag: Duration) {
    struct Ends(Option<tokio::runtime::Runtime>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.take().into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ends = Ends(Some(runtime));
    for seed in seeds {
        ends.0.as_ref().unwrap().block_on(run_history(seed, lag, steps()));
    }
}

#[test]
fn whatever_happens_what_should_be_there_is() {
    run_histories(0..4, Duration::ZERO);
}

#[test]
fn also_where_listings_lag() {
    run_histories(100..104, HOUR / 2);
}

async fn prepared() -> (MemoryStore, tempfile::TempDir, Arc<Repository>) {
    let (store, local) = (MemoryStore::new(), tempfile::tempdir().unwrap());
    let plain: Arc<dyn Store> = Arc::new(store.clone());
    new_store(&plain).await.unwrap();
    let repository = open(&plain, &local_dirs(local.path())).await.unwrap();
    (store, local, repository)
}

#[tokio::test]
async fn whoever_must_be_alone_meets_nobody_and_nobody_meets_him() {
    let (store, _local, repository) = prepared().await;
    let begin = |purpose| Run::begin(&repository, "host", purpose, Cancel::default());
    let backup = begin("backup").await.unwrap();
    assert!(matches!(begin(EXCLUSIVE).await, Err(Error::InUse { .. })));
    let other = begin("backup").await.unwrap();
    other.abandon().await;
    backup.abandon().await;
    let alone = begin(EXCLUSIVE).await.unwrap();
    let refused = begin("backup").await;
    assert!(matches!(&refused, Err(Error::InUse { by }) if by.contains("host")), "{refused:?}");
    assert!(matches!(begin(EXCLUSIVE).await, Err(Error::InUse { .. })));
    alone.abandon().await;
    // Nothing is left of those that were refused.
    assert!(!store.names().iter().any(|n| n.area == Area::Leases));
    begin("backup").await.unwrap().abandon().await;
}

/// A backup that has put its lease and waits.
async fn fall_asleep(store: &MemoryStore, tree: &Fixture) -> (Seen, JoinHandle<Result<BackupReport>>) {
    let slow = Seen::new(store, Duration::ZERO, 1);
    let seen: Arc<dyn Store> = Arc::new(slow.clone());
    let (local, tree) = (tempfile::tempdir().unwrap(), tree.clone());
    let asleep = open(&seen, &local_dirs(local.path())).await.unwrap();
    let running = tokio::spawn(async move {
        let _local = local;
        back_up(&asleep, &tree).await
    });
    slow.waits.notified().await;
    (slow, running)
}

#[tokio::test]
async fn a_run_that_was_taken_for_dead_looks_again_at_what_it_needs() {
    let (store, _local, repository) = prepared().await;
    let tree = Fixture::directory([("f", Fixture::noise(50_000, 1))]);
    let first = back_up(&repository, &tree).await.unwrap().snapshot;
    repository.remove_snapshots(&[first.id], "").await.unwrap();
    // It knows of the packfiles, and its machine sleeps for a night.
    let (slow, running) = fall_asleep(&store, &tree).await;
    store.pass(4 * HOUR);
    let options = MaintenanceOptions { grace_ns: Some(0), exclusive: true };
    let report =
        maintain(&repository, "elsewhere", options, Arc::new(Silent), Cancel::default()).await.unwrap();
    assert!(report.deleted.count > 0, "{report:?}");
    slow.go_on.notify_one();
    let late = running.await.unwrap();
    assert!(matches!(late, Err(Error::Late { missing: 1.. })), "{late:?}");
    let catalog = repository.refresh_catalog().await.unwrap();
    assert_eq!(catalog.snapshots.len(), 0);
    let snapshot = back_up(&repository, &tree).await.unwrap().snapshot;
    repository.refresh_index().await.unwrap();
    let files = files_in(&repository, &snapshot).await;
    assert_eq!(files.values().map(Vec::len).collect::<Vec<_>>(), [50_000]);
}

#[tokio::test]
async fn a_late_run_does_not_rely_on_what_is_condemned() {
    let (store, _local, repository) = prepared().await;
    let tree = Fixture::directory([("f", Fixture::noise(50_000, 1))]);
    let first = back_up(&repository, &tree).await.unwrap().snapshot;
    let (slow, running) = fall_asleep(&store, &tree).await;
    repository.remove_snapshots(&[first.id], "").await.unwrap();
    store.pass(DAY * (GRACE_DAYS + 1));
    let none = MaintenanceOptions::default();
    let report = maintain(&repository, "elsewhere", none, Arc::new(Silent), Cancel::default()).await.unwrap();
    // It is there, and can be read; a week later it is not.
    assert!(report.condemned.count > 0 && report.deleted.count == 0, "{report:?}");
    slow.go_on.notify_one();
    let late = running.await.unwrap();
    assert!(matches!(late, Err(Error::Late { missing: 1.. })), "{late:?}");
    let snapshot = back_up(&repository, &tree).await.unwrap().snapshot;
    store.pass(DAY * (GRACE_DAYS + 1));
    for _ in 0..2 {
        maintain(&repository, "elsewhere", none, Arc::new(Silent), Cancel::default()).await.unwrap();
    }
    repository.refresh_index().await.unwrap();
    let files = files_in(&repository, &snapshot).await;
    assert_eq!(files.values().map(Vec::len).collect::<Vec<_>>(), [50_000]);
}

#[tokio::test]
async fn nothing_goes_while_it_is_not_known_what_is_needed() {
    let (store, _local, repository) = prepared().await;
    let tree = |seed| Fixture::directory([("f", Fixture::noise(50_000, seed))]);
    let first = back_up(&repository, &tree(1)).await.unwrap().snapshot;
    back_up(&repository, &tree(2)).await.unwrap();
    repository.remove_snapshots(&[first.id], "").await.unwrap();
    store.pass(DAY * 30);
    let whole = store.snapshot();
    for area in [Area::Snapshots, Area::Removals, Area::States, Area::Meta] {
        for damage in [0, 1] {
            let store = whole.snapshot();
            for name in store.names().into_iter().filter(|n| n.area == area && n.id != first.id) {
                store.tamper(name, |bytes| {
                    let middle = bytes.len() / 2;
                    if damage == 0 { bytes[middle] ^= 1 } else { bytes.truncate(middle) }
                });
            }
            let before = store.names().len();
            let local = tempfile::tempdir().unwrap();
            let plain: Arc<dyn Store> = Arc::new(store.clone());
            let repository = open(&plain, &local_dirs(local.path())).await.unwrap();
            let options = MaintenanceOptions { grace_ns: Some(0), exclusive: true };
            let done = maintain(&repository, "host", options, Arc::new(Silent), Cancel::default()).await;
            assert!(matches!(done, Err(Error::Unsafe { .. })), "{area:?} {done:?}");
            assert_eq!(store.names().len(), before, "{area:?}");
        }
    }
}

#[tokio::test]
async fn what_is_needed_and_cannot_be_read_keeps_its_packfile() {
    let (store, _local, repository) = prepared().await;
    let file = |seed| Fixture::noise(40_000, seed);
    let both = Fixture::directory([("a", file(1)), ("b", file(2)), ("c", file(3)), ("d", file(4))]);
    let first = back_up(&repository, &both).await.unwrap().snapshot;
    let one = Fixture::directory([("a", file(1))]);
    let second = back_up(&repository, &one).await.unwrap().snapshot;
    repository.remove_snapshots(&[first.id], "").await.unwrap();
    store.pass(DAY * 30);
    // Every byte of data that is there may be wrong: what is needed cannot be moved.
    let data: Vec<ObjectName> = store.names().into_iter().filter(|n| n.area == Area::Data).collect();
    for name in &data {
        store.tamper(*name, |bytes| bytes[100..].iter_mut().for_each(|b| *b ^= 1));
    }
    let options = MaintenanceOptions { grace_ns: Some(0), exclusive: true };
    let report = maintain(&repository, "host", options, Arc::new(Silent), Cancel::default()).await.unwrap();
    assert!(!report.unreadable.is_empty() && report.missing == 0, "{report:?}");
    assert!(data.iter().all(|name| store.names().contains(name)));
    for name in &data {
        store.tamper(*name, |bytes| bytes[100..].iter_mut().for_each(|b| *b ^= 1));
    }
    let report = maintain(&repository, "host", options, Arc::new(Silent), Cancel::default()).await.unwrap();
    assert!(report.deleted.count > 0 && report.unreadable.is_empty(), "{report:?}");
    repository.refresh_index().await.unwrap();
    assert_eq!(files_in(&repository, &second).await.len(), 1);
}
