//! The cache alone, and a repository that reads through it: damage of every kind is a miss and heals.

use std::collections::BTreeMap;

use super::*;
use crate::cancel::Cancel;
use crate::crypto::{Class, Keyring};
use crate::frame::{Codec, FrameRecord};
use crate::id::{ObjectId, StoreId};
use crate::repository::Repository;
use crate::storage::memory::MemoryStore;
use crate::storage::{Area, ObjectName, Store};
use crate::testing::faulty::FaultyStore;
use crate::testing::{Fixture, back_up, local_dirs, new_store, open, read_tree};

fn frame(n: u32, stored: u32) -> FrameRef {
    let key = Arc::new(Keyring::plaintext(StoreId([0; 16])).new_data_key());
    let (nonce, tag, codec) = ([0; 24], [0; 16], Codec::Raw);
    let record = FrameRecord { nonce, tag, offset: n, stored, clear: stored, codec };
    FrameRef { packfile: ObjectId([9; 32]), class: Class::Data, record, key }
}

fn files(directory: &Path) -> BTreeMap<PathBuf, u64> {
    let mut all = BTreeMap::new();
    for entry in list(directory) {
        match entry.metadata() {
            Ok(m) if m.is_dir() => all.extend(files(&entry.path())),
            Ok(m) => drop(all.insert(entry.path(), m.len())),
            // Another process has removed it.
            Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound),
        }
    }
    all
}

fn age(path: &Path, by: Duration) {
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - by).unwrap();
}

#[test]
fn a_frame_is_found_again_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let cache = FrameCache::open(directory.path(), 1 << 20).unwrap();
    assert_eq!(cache.get(&frame(1, 5)), None);
    cache.put(&frame(1, 5), Bytes::from_static(b"first"));
    cache.put(&frame(2, 6), Bytes::from_static(b"second"));
    cache.flush();
    assert_eq!(cache.get(&frame(1, 5)).as_deref(), Some(&b"first"[..]));
    drop(cache);
    let cache = FrameCache::open(directory.path(), 1 << 20).unwrap();
    assert_eq!(cache.get(&frame(2, 6)).as_deref(), Some(&b"second"[..]));
    cache.flush();
    let s = cache.stats();
    assert_eq!((s.hits, s.misses, s.hit_bytes, s.held_bytes, s.limit_bytes), (1, 0, 6, 11, 1 << 20));
}

#[test]
fn what_was_used_last_stays_and_the_limit_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let cache = FrameCache::open(directory.path(), 100_000).unwrap();
    for n in 0..9 {
        cache.put(&frame(n, 10_000), vec![n as u8; 10_000].into());
    }
    cache.flush();
    for (n, path) in (0..9).map(|n| (n, cache.shared.path(&frame(n, 0).key()))) {
        age(&path, Duration::from_secs(10_000 - u64::from(n)));
    }
    // The oldest is used, which makes it the youngest.
    assert!(cache.get(&frame(0, 10_000)).is_some());
    for n in 9..12 {
        cache.put(&frame(n, 10_000), vec![n as u8; 10_000].into());
    }
    cache.flush();
    let there: Vec<u32> = (0..12).filter(|n| cache.get(&frame(*n, 10_000)).is_some()).collect();
    assert_eq!(there[0], 0, "{there:?}");
    assert!(!there.contains(&1) && there.contains(&11), "{there:?}");
    let held: u64 = files(directory.path()).values().sum();
    assert!((80_000..=100_000).contains(&held), "{held}");
    assert_eq!(cache.stats().held_bytes, held);
    assert_eq!(cache.stats().evicted, 12 - there.len() as u64);
    cache.put(&frame(50, 200_000), vec![0; 200_000].into());
    cache.flush();
    assert_eq!(cache.get(&frame(50, 200_000)), None, "larger than all there is room for");
}

#[test]
fn several_share_a_directory_and_its_limit() {
    let directory = tempfile::tempdir().unwrap();
    let limit = 400_000;
    let caches: Vec<_> = (0..4).map(|_| FrameCache::open(directory.path(), limit).unwrap()).collect();
    std::thread::scope(|scope| {
        for (i, cache) in caches.iter().enumerate() {
            scope.spawn(move || {
                for n in 0..200 {
                    // Half of the frames are everybody's.
                    let n = if n % 2 == 0 { n } else { n + 1000 * i as u32 };
                    cache.put(&frame(n, 4000), vec![n as u8; 4000].into());
                    let again = cache.get(&frame(n, 4000));
                    assert!(again.is_none_or(|b| b == vec![n as u8; 4000]));
                }
                cache.flush();
            });
        }
    });
    // Each may have added a sixteenth, and a frame, without knowing of what the others did.
    let held: u64 = files(directory.path()).values().sum();
    assert!(held <= limit + 4 * (limit / 16 + 4000), "{held}");
    assert!(held >= limit / 2, "{held}");
    drop(caches);
    let cache = FrameCache::open(directory.path(), limit / 4).unwrap();
    cache.flush();
    assert!(cache.stats().held_bytes <= limit / 4);
}

#[test]
fn what_an_interrupted_write_left_is_removed_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("ab")).unwrap();
    for name in ["tmp-old", "tmp-new", "README", "ab/foreign"] {
        fs::write(at(name), [1; 1000]).unwrap();
    }
    age(&at("tmp-old"), LEFT_BEHIND * 2);
    age(&at("README"), LEFT_BEHIND * 2);
    let cache = FrameCache::open(directory.path(), 1).unwrap();
    cache.flush();
    assert_eq!(
        files(directory.path()).into_keys().collect::<Vec<_>>(),
        [at("README"), at("ab/foreign"), at("tmp-new")]
    );
    assert_eq!(cache.stats().held_bytes, 0);
}

#[test]
fn a_disk_that_refuses_ends_the_writing_and_not_the_reading() {
    let directory = tempfile::tempdir().unwrap();
    let cache = FrameCache::open(directory.path(), 1 << 20).unwrap();
    cache.put(&frame(1, 5), Bytes::from_static(b"first"));
    cache.flush();
    // A file in the place of the folder: neither root nor anybody can write there.
    let path = cache.shared.path(&frame(2, 6).key());
    fs::write(path.parent().unwrap(), "").unwrap();
    for n in 2..5 {
        cache.put(&frame(n, 6), Bytes::from_static(b"second"));
        cache.flush();
    }
    assert_eq!((cache.stats().added, cache.stats().dropped), (1, 3));
    assert_eq!(cache.get(&frame(1, 5)).as_deref(), Some(&b"first"[..]));
    let left = files(directory.path()).into_keys().filter(|p| p.to_string_lossy().contains(TEMPORARY));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_cache_that_is_cleared_meanwhile_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("frames");
    let cache = FrameCache::open(&below, 1 << 20).unwrap();
    cache.put(&frame(1, 5), Bytes::from_static(b"first"));
    cache.flush();
    fs::remove_dir_all(&below).unwrap();
    assert_eq!(cache.get(&frame(1, 5)), None);
    cache.put(&frame(1, 5), Bytes::from_static(b"first"));
    cache.flush();
    assert!(cache.get(&frame(1, 5)).is_some());
}

/// A store with one snapshot, and what its tree should read as.
struct Bench {
    store: Arc<dyn Store>,
    temporary: tempfile::TempDir,
}

/// Does something to a file, given its bytes.
type Harm = Box<dyn Fn(&Path, &mut Vec<u8>)>;

const SECRET: &[u8] = b"nobody may read this without the key. ";

impl Bench {
    async fn new(sealed: bool) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        if sealed {
            new_store(&store).await.unwrap();
        } else {
            let options = crate::testing::small_chunks();
            crate::repository::create(&store, None, &options).await.unwrap();
        }
        let temporary = tempfile::tempdir().unwrap();
        // Noise does not compress, so that what is in it would show in clear frames.
        let Fixture { what: crate::testing::What::File(noise), .. } = Fixture::noise(1 << 20, 3) else {
            unreachable!()
        };
        let telling: Vec<u8> = noise.chunks(500).flat_map(|c| [SECRET, c].concat()).collect();
        let tree = Fixture::directory([
            ("telling", Fixture::file(telling)),
            ("noise", Fixture::noise(2 << 20, 4)),
            ("text", Fixture::file("text ".repeat(50_000))),
        ]);
        back_up(&open(&store, &local_dirs(temporary.path())).await.unwrap(), &tree).await.unwrap();
        Self { store, temporary }
    }

    /// A repository over a store below, whose disk cache is on.
    async fn cached(&self, store: Arc<dyn Store>) -> Arc<Repository> {
        let repository = open(&store, &local_dirs(self.temporary.path())).await.unwrap();
        repository.use_disk_cache(64 << 20).unwrap();
        repository
    }

    /// Reads all through the cache; gives the tree and what the cache says.
    async fn read(&self) -> (crate::testing::PlainTree, FrameCacheStats) {
        let repository = self.cached(self.store.clone()).await;
        let catalog = repository.catalog().await.unwrap();
        let tree = read_tree(&repository, &catalog.snapshots[0]).await.unwrap();
        repository.flush_disk_cache().await;
        (tree, repository.disk_cache_stats().unwrap())
    }

    fn frames(&self, repository: &Repository) -> BTreeMap<PathBuf, u64> {
        files(&repository.cache().frames_directory())
    }
}

#[tokio::test]
async fn a_second_reading_needs_nothing_of_the_packfiles() {
    for sealed in [true, false] {
        let bench = Bench::new(sealed).await;
        let (first, stats) = bench.read().await;
        assert_eq!(stats.hits, 0);
        assert_eq!((stats.misses, stats.dropped), (stats.added, 0));
        // A store without any packfile.
        let without = MemoryStore::new();
        let objects: Vec<ObjectName> = {
            let mut all = vec![ObjectName::CONFIG];
            for area in Area::ALL.into_iter().filter(|a| !matches!(a, Area::Config | Area::Data | Area::Meta))
            {
                all.extend(bench.store.list(area).await.unwrap().iter().map(|l| ObjectName::new(area, l.id)));
            }
            all
        };
        for name in objects {
            let bytes = bench.store.get(name, None).await.unwrap();
            crate::storage::put_bytes(&without, name, bytes).await.unwrap();
        }
        let repository = bench.cached(Arc::new(without)).await;
        let catalog = repository.catalog().await.unwrap();
        let again = read_tree(&repository, &catalog.snapshots[0]).await.unwrap();
        assert!(again == first);
        let again = repository.disk_cache_stats().unwrap();
        assert_eq!((again.misses, again.damaged), (0, 0));
        assert!(again.hits >= stats.added);
    }
}

#[tokio::test]
async fn damage_of_every_kind_is_a_miss_and_heals() {
    for sealed in [true, false] {
        let bench = Bench::new(sealed).await;
        let (first, stats) = bench.read().await;
        let frames = bench.frames(&*bench.cached(bench.store.clone()).await);
        assert!(frames.len() >= 3 && frames.len() as u64 == stats.added, "{}", frames.len());
        let flip = |at: fn(usize) -> usize| {
            move |path: &Path, bytes: &mut Vec<u8>| {
                let i = at(bytes.len());
                bytes[i] ^= 1;
                fs::write(path, bytes).unwrap();
            }
        };
        let harms: Vec<(&str, Harm)> = vec![
            ("first byte", Box::new(flip(|_| 0))),
            ("middle", Box::new(flip(|len| len / 2))),
            ("last byte", Box::new(flip(|len| len - 1))),
            ("shorter by one", Box::new(|p, b| fs::write(p, &b[..b.len() - 1]).unwrap())),
            ("half", Box::new(|p, b| fs::write(p, &b[..b.len() / 2]).unwrap())),
            ("empty", Box::new(|p, _| fs::write(p, "").unwrap())),
            ("longer", Box::new(|p, b| fs::write(p, [&b[..], b"x"].concat()).unwrap())),
            ("zeros", Box::new(|p, b| fs::write(p, vec![0; b.len()]).unwrap())),
            ("gone", Box::new(|p, _| fs::remove_file(p).unwrap())),
            ("a directory", Box::new(|p, _| fs::remove_file(p).and_then(|()| fs::create_dir(p)).unwrap())),
        ];
        for (what, harm) in harms {
            for path in frames.keys() {
                harm(path, &mut fs::read(path).unwrap());
            }
            let (tree, stats) = bench.read().await;
            assert!(tree == first, "{what}");
            assert_eq!(stats.hits, 0, "{what}");
            let (tree, stats) = bench.read().await;
            assert!(tree == first, "{what}");
            assert_eq!(stats.misses, 0, "{what} heals");
        }
        // Each holds what belongs to another.
        let mut all: Vec<Vec<u8>> = frames.keys().map(|p| fs::read(p).unwrap()).collect();
        all.rotate_left(1);
        frames.keys().zip(all).for_each(|(p, b)| fs::write(p, b).unwrap());
        let (tree, stats) = bench.read().await;
        assert!(tree == first && stats.hits == 0);
    }
}

#[tokio::test]
async fn nothing_lies_there_in_clear_and_checking_reads_the_store() {
    let bench = Bench::new(true).await;
    bench.read().await;
    let repository = bench.cached(bench.store.clone()).await;
    for path in bench.frames(&repository).keys() {
        let bytes = fs::read(path).unwrap();
        assert!(!bytes.windows(20).any(|w| w == &SECRET[..20]), "{}", path.display());
        #[cfg(unix)]
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o77,
            0
        );
    }
    // All is cached, and yet a check must notice that the store has lost it.
    let catalog = repository.catalog().await.unwrap();
    repository.index().await.unwrap();
    for l in bench.store.list(Area::Data).await.unwrap() {
        bench.store.delete(ObjectName::new(Area::Data, l.id)).await.unwrap();
    }
    use crate::ops::check;
    let what = [(catalog.snapshots[0].clone(), b"/".to_vec())];
    let report = check::check(
        &repository,
        &what,
        check::Depth::Full,
        check::Scope::Trees,
        Arc::new(crate::monitor::Silent),
        Cancel::default(),
    );
    assert!(!report.await.unwrap().problems.is_empty());
}

#[tokio::test]
async fn a_failing_store_fails_as_without_a_cache() {
    let bench = Bench::new(true).await;
    let faulty = FaultyStore::new(bench.store.clone(), i64::MAX);
    let repository = bench.cached(Arc::new(faulty.clone())).await;
    let catalog = repository.catalog().await.unwrap();
    repository.index().await.unwrap();
    faulty.fail_now();
    assert!(read_tree(&repository, &catalog.snapshots[0]).await.is_err());
    assert_eq!(repository.disk_cache_stats().unwrap().added, 0);
}

const CHILD: &str = "PLAKAR_TEST_FRAMES";

/// What [`processes_may_be_killed_at_any_moment`] runs as processes of its own: puts and gets frames without end.
#[test]
fn put_frames_without_end() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let cache = FrameCache::open(Path::new(&directory), 2_000_000).unwrap();
    for n in (0..500).cycle() {
        let len = 100 + 40 * n;
        cache.put(&frame(n, len), vec![n as u8; len as usize].into());
        let other = (n * 7 + std::process::id()) % 500;
        let found = cache.get(&frame(other, 100 + 40 * other));
        if found.is_some_and(|b| b.iter().any(|b| *b != other as u8)) {
            std::process::abort();
        }
        if n % 20 == 0 {
            cache.flush();
        }
    }
}

/// A process that is killed when the test is over, however that ends.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}

#[test]
fn processes_may_be_killed_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..10 {
        let start = || {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "cache::frames::tests::put_frames_without_end"]);
            Child(command.env(CHILD, directory.path()).stdout(std::process::Stdio::null()).spawn().unwrap())
        };
        let mut children = [start(), start(), start()];
        let newest =
            || files(directory.path()).keys().filter_map(|p| p.metadata().ok()?.modified().ok()).max();
        let begun = newest();
        // Until they are at work: each tidies when it begins, and writes then.
        while newest() == begun || files(directory.path()).len() < 100 {
            assert!(
                children.iter_mut().all(|c| c.0.try_wait().unwrap().is_none()),
                "one has found wrong bytes"
            );
            std::thread::yield_now();
        }
        drop(children);
    }
    let cache = FrameCache::open(directory.path(), 2_000_000).unwrap();
    cache.flush();
    let found = (0..500).filter(|n| {
        let bytes = cache.get(&frame(*n, 100 + 40 * n));
        bytes.is_some_and(|b| b.iter().all(|b| *b == *n as u8))
    });
    assert!(found.count() > 50);
    assert_eq!(cache.stats().damaged, 0, "names appear only over whole files");
    assert!(cache.stats().held_bytes <= 2_000_000);
}
