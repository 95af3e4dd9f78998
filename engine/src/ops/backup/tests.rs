//! Backups of fixtures: round trips, what is not read again, crashes at every call of the store, two at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::cache::LocalDirs;
use crate::monitor::Silent;
use crate::ops::check::{Depth, Scope, check};
use crate::repository::{CreateOptions, create};
use crate::storage::memory::MemoryStore;
use crate::storage::{Area, ObjectName, Store};
use crate::testing::faulty::FaultyStore;
use crate::testing::{
    Fixture, FixtureImporter, What, cheap_kdf, local_dirs, open, read_tree, secret, small_chunks,
};

struct Bench {
    memory: MemoryStore,
    store: Arc<dyn Store>,
    dirs: LocalDirs,
    _temporary: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        Self::with(&small_chunks()).await
    }

    async fn with(options: &CreateOptions) -> Self {
        let memory = MemoryStore::new();
        let store: Arc<dyn Store> = Arc::new(memory.clone());
        create(&store, Some(&secret()), options).await.unwrap();
        let temporary = tempfile::tempdir().unwrap();
        Self { memory, store, dirs: local_dirs(temporary.path()), _temporary: temporary }
    }

    async fn open(&self) -> Arc<Repository> {
        open(&self.store, &self.dirs).await.unwrap()
    }

    async fn backup(&self, tree: &Fixture) -> (BackupReport, usize) {
        let source = FixtureImporter::new(tree.clone());
        let report = run(&self.open().await, &source).await.unwrap();
        (report, source.files_opened())
    }

    fn forget_cache(&self) {
        std::fs::remove_dir_all(&self.dirs.cache).unwrap();
    }

    async fn check(&self) {
        let repository = self.open().await;
        let catalog = repository.refresh_catalog().await.unwrap();
        assert!(catalog.broken.is_empty());
        let all: Vec<_> = catalog.snapshots.iter().map(|s| (s.clone(), b"/".to_vec())).collect();
        let report = check(&repository, &all, Depth::Full, Scope::Store, Arc::new(Silent), Cancel::default())
            .await
            .unwrap();
        assert_eq!(report.problems, []);
    }
}

async fn run(repository: &Arc<Repository>, source: &FixtureImporter) -> Result<BackupReport> {
    backup(
        repository,
        Arc::new(source.clone()),
        BackupOptions::default(),
        Arc::new(Silent),
        Cancel::default(),
    )
    .await
}

fn tree() -> Fixture {
    let mut linked = Fixture::file("linked");
    linked.links = 2;
    let mut tagged = Fixture::noise(3000, 9);
    tagged.xattrs.push(crate::meta::Xattr { name: b"user.tag".to_vec(), value: vec![1, 2, 3] });
    Fixture::directory([
        ("a.txt", Fixture::file("hello")),
        ("empty", Fixture::file("")),
        ("large", Fixture::noise(3 << 20, 1)),
        ("copy of large", Fixture::noise(3 << 20, 1)),
        ("link", Fixture::symlink("a.txt")),
        ("pipe", Fixture::fifo()),
        ("one", linked.clone()),
        ("two", linked),
        (
            "sub",
            Fixture::directory([
                ("tagged", tagged),
                ("deeper", Fixture::directory([("leaf", Fixture::noise(100_000, 3))])),
                ("nothing", Fixture::directory::<&str>([])),
            ]),
        ),
        ("many", Fixture::directory((0..3000).map(|i| (format!("f{i:05}"), Fixture::file(format!("{i}")))))),
    ])
}

fn contents(fixture: &Fixture) -> BTreeMap<Vec<u8>, Vec<u8>> {
    fn add(out: &mut BTreeMap<Vec<u8>, Vec<u8>>, path: Vec<u8>, f: &Fixture) {
        let bytes = match &f.what {
            What::File(b) => b.clone(),
            What::Directory(children) => {
                for (name, child) in children {
                    let mut at = path.clone();
                    if !at.is_empty() {
                        at.push(b'/');
                    }
                    at.extend_from_slice(name);
                    add(out, at, child);
                }
                vec![]
            }
            _ => vec![],
        };
        out.insert(path, bytes);
    }
    let mut out = BTreeMap::new();
    add(&mut out, vec![], fixture);
    out
}

async fn assert_holds(repository: &Arc<Repository>, snapshot: &Snapshot, fixture: &Fixture) {
    let read = read_tree(repository, snapshot).await.unwrap();
    let bytes: BTreeMap<_, _> = read.iter().map(|(path, (_, bytes))| (path.clone(), bytes.clone())).collect();
    assert!(bytes == contents(fixture), "the snapshot holds something else");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_backed_up_is_what_is_read_back() {
    let bench = Bench::new().await;
    let (report, _) = bench.backup(&tree()).await;
    assert_eq!(report.errors, 0);
    let repository = bench.open().await;
    assert_holds(&repository, &report.snapshot, &tree()).await;
    let read = read_tree(&repository, &report.snapshot).await.unwrap();
    let (one, two) = (&read[&b"one"[..]].0, &read[&b"two"[..]].0);
    assert_eq!(one.links.unwrap().group, two.links.unwrap().group);
    assert_eq!(read[&b"sub/tagged"[..]].0.xattrs.len(), 1);
    assert_eq!(report.snapshot.summary().files, 3008);
    assert!(report.snapshot.summary().xattrs);
    bench.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_tree_is_not_read_again_with_or_without_the_cache() {
    let bench = Bench::new().await;
    let tree = tree();
    let (first, opened) = bench.backup(&tree).await;
    assert_eq!(opened, 3008, "every file, and the empty one too: its size may not be known");
    for forget in [false, true, false] {
        if forget {
            bench.forget_cache();
        }
        let (again, opened) = bench.backup(&tree).await;
        assert_eq!(opened, 0, "without the cache: {forget}");
        assert_eq!(again.snapshot.root.directory(), first.snapshot.root.directory());
        assert!(again.snapshot.added_bytes < 64 << 10, "{}", again.snapshot.added_bytes);
    }
    bench.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_is_read() {
    let bench = Bench::new().await;
    let mut tree = tree();
    bench.backup(&tree).await;
    *tree.at("sub/deeper/leaf") = Fixture::noise(100_000, 4);
    tree.at("a.txt").ctime_ns += 1;
    tree.put("new", Fixture::file("new"));
    if let What::Directory(c) = &mut tree.what {
        c.remove(&b"link"[..]);
        let sub = c.remove(&b"many"[..]).unwrap();
        c.insert(b"moved".to_vec(), sub);
    }
    let (report, opened) = bench.backup(&tree).await;
    // A moved directory is read again, but stored only once.
    assert_eq!(opened, 3 + 3000);
    assert!(report.snapshot.added_bytes < 400_000, "{}", report.snapshot.added_bytes);
    assert_holds(&bench.open().await, &report.snapshot, &tree).await;
    let (_, opened) = bench.backup(&tree).await;
    assert_eq!(opened, 0);
    bench.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_clock_may_hide_is_not_trusted() {
    let bench = Bench::new().await;
    let mut tree = tree();
    tree.at("a.txt").ctime_ns = now_ns();
    bench.backup(&tree).await;
    let (_, opened) = bench.backup(&tree).await;
    assert_eq!(opened, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_recorded_and_tried_again() {
    let bench = Bench::new().await;
    let mut tree = tree();
    tree.put("secret", Fixture::unreadable(5));
    tree.put("of unknown size", Fixture::unreadable(0));
    let (report, _) = bench.backup(&tree).await;
    assert_eq!((report.errors, report.snapshot.summary().errors), (2, 2));
    bench.check().await;
    let (report, opened) = bench.backup(&tree).await;
    assert_eq!((report.errors, opened), (2, 2));
    for name in ["secret", "of unknown size"] {
        *tree.at(name) = Fixture::file("open now");
    }
    let (report, _) = bench.backup(&tree).await;
    assert_eq!(report.errors, 0);
    assert_holds(&bench.open().await, &report.snapshot, &tree).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_a_removed_snapshot_are_not_taken_on_trust() {
    let bench = Bench::new().await;
    let tree = tree();
    let (first, _) = bench.backup(&tree).await;
    bench.open().await.remove_snapshots(&[first.snapshot.id], "test").await.unwrap();
    let (again, opened) = bench.backup(&tree).await;
    // The cache's stamps still spare most reading, but each blob was looked up, and long lists are made again.
    assert_eq!(opened, 2);
    assert_holds(&bench.open().await, &again.snapshot, &tree).await;
    bench.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_state_took_is_not_vouched_for_where_it_was_not_seen() {
    let bench = Bench::new().await;
    let whole = Fixture::directory([
        ("a", Fixture::noise(5_000, 1)),
        ("d", Fixture::directory([("b", Fixture::noise(6_000, 2))])),
    ]);
    bench.backup(&whole).await;
    for state in bench.store.list(Area::States).await.unwrap() {
        bench.store.delete(ObjectName::new(Area::States, state.id)).await.unwrap();
    }
    // The next backup stores again what it sees, which is not all.
    let mut part = whole.clone();
    part.at("d").what = What::Unreadable(0);
    let (report, opened) = bench.backup(&part).await;
    assert_eq!((report.errors, opened), (1, 1));
    // The file cache still has the time stamps of the rest, and its blobs are gone.
    let (report, opened) = bench.backup(&whole).await;
    assert_eq!((report.errors, opened), (0, 1));
    assert_holds(&bench.open().await, &report.snapshot, &whole).await;
    let (report, opened) = bench.backup(&whole).await;
    assert_eq!((report.errors, opened), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_put_back_to_an_older_state_loses_nothing_new() {
    let bench = Bench::new().await;
    let mut tree = tree();
    bench.backup(&tree).await;
    let old = bench.memory.snapshot();
    tree.put("new", Fixture::noise(50_000, 77));
    bench.backup(&tree).await;
    // The local caches remember blobs that the old store does not have.
    let back = Bench { store: Arc::new(old.clone()), memory: old, ..bench };
    let (report, _) = back.backup(&tree).await;
    assert_holds(&back.open().await, &report.snapshot, &tree).await;
    back.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_call_leaves_a_store_that_checks_and_takes_the_next_backup() {
    let small = Fixture::directory([
        ("a", Fixture::noise(50_000, 1)),
        ("d", Fixture::directory([("b", Fixture::noise(400_000, 2)), ("c", Fixture::file("x"))])),
    ]);
    let base = Bench::new().await;
    let (first, _) = base.backup(&Fixture::directory([("old", Fixture::noise(9000, 5))])).await;
    let mut crashes = 0;
    for calls in 0.. {
        let memory = base.memory.snapshot();
        let temporary = tempfile::tempdir().unwrap();
        let bench = Bench {
            store: Arc::new(memory.clone()),
            memory,
            dirs: local_dirs(temporary.path()),
            _temporary: temporary,
        };
        let faulty = FaultyStore::new(bench.store.clone(), calls);
        let store: Arc<dyn Store> = Arc::new(faulty.clone());
        let outcome =
            async { run(&open(&store, &bench.dirs).await?, &FixtureImporter::new(small.clone())).await };
        let outcome = outcome.await;
        if outcome.is_err() {
            crashes += 1;
            assert!(faulty.has_failed());
        }
        bench.check().await;
        let (report, _) = bench.backup(&small).await;
        let repository = bench.open().await;
        assert_holds(&repository, &report.snapshot, &small).await;
        assert!(repository.catalog().await.unwrap().holds(&first.snapshot.id));
        bench.check().await;
        if !faulty.has_failed() {
            break;
        }
    }
    assert!(crashes > 15, "{crashes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_is_found_by_the_next() {
    let bench = Bench::new().await;
    let tree = Fixture::directory((0..40).map(|i| (format!("f{i}"), Fixture::noise(1 << 20, i))));
    let repository = bench.open().await;
    let run = Run::begin(&repository, "host", "backup", Cancel::default()).await.unwrap();
    let mut framer = run.framer(crate::crypto::Class::Data).unwrap();
    let chunker = crate::chunker::Chunker::new(repository.config().chunks, repository.keys().chunker());
    let What::Directory(files) = &tree.what else { unreachable!() };
    for file in files.values().take(20) {
        let What::File(mut bytes) = file.what.clone() else { unreachable!() };
        while !bytes.is_empty() {
            let rest = bytes.split_off(chunker.cut(&bytes));
            let id = repository.keys().identify(crate::crypto::Class::Data, &bytes);
            if run.claim(&id) {
                let (id, bytes) = (id, bytes.clone());
                framer = tokio::task::block_in_place(|| {
                    framer.push(&run, id, &bytes).unwrap();
                    framer
                });
            }
            bytes = rest;
        }
    }
    tokio::task::block_in_place(|| framer.flush(&run).unwrap());
    run.abandon().await;
    let (report, _) = bench.backup(&tree).await;
    let added = report.snapshot.added_bytes;
    assert!((20 << 20..22 << 20).contains(&added), "half of it was there already: {added}");
    bench.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_backups_at_once_go_into_one_store() {
    let bench = Arc::new(Bench::new().await);
    let mut running = tokio::task::JoinSet::new();
    for i in 0..6 {
        let bench = bench.clone();
        running.spawn(async move {
            let tree = Fixture::directory([
                ("shared", Fixture::noise(2 << 20, 1)),
                ("own", Fixture::noise(1 << 20, 100 + i)),
            ]);
            let (report, _) = bench.backup(&tree).await;
            assert_holds(&bench.open().await, &report.snapshot, &tree).await;
        });
    }
    running.join_all().await;
    assert_eq!(bench.open().await.catalog().await.unwrap().snapshots.len(), 6);
    bench.check().await;
    bench.forget_cache();
    bench.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_index_stays_small_in_number_and_right_over_many_backups() {
    let bench = Bench::new().await;
    let mut tree = Fixture::directory::<&str>([]);
    for i in 0..30 {
        tree.put(&format!("f{i}"), Fixture::noise(20_000 + i as usize, i));
        bench.backup(&tree).await;
    }
    let segments = std::fs::read_dir(bench.open().await.cache().index_directory()).unwrap().count();
    assert!(segments <= 8, "{segments}");
    bench.check().await;
    bench.forget_cache();
    bench.check().await;
    let catalog = bench.open().await.catalog().await.unwrap();
    assert_eq!(catalog.snapshots.len(), 30);
    let sequences: Vec<u64> = catalog.snapshots.iter().rev().map(|s| s.sequence).collect();
    assert_eq!(sequences, (1..=30).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_backup_commits_nothing() {
    let bench = Bench::new().await;
    let cancel = Cancel::default();
    cancel.cancel();
    let source = Arc::new(FixtureImporter::new(tree()));
    let repository = bench.open().await;
    let outcome = backup(&repository, source, BackupOptions::default(), Arc::new(Silent), cancel).await;
    assert_eq!(outcome.unwrap_err().kind(), crate::error::ErrorKind::Cancelled);
    assert!(repository.refresh_catalog().await.unwrap().snapshots.is_empty());
    bench.check().await;
}

/// Lets something happen when the first entry is met.
struct Once<F: Fn() + Send + Sync>(std::sync::Once, F);

impl<F: Fn() + Send + Sync> Monitor for Once<F> {
    fn event(&self, event: Event<'_>) {
        if let Event::Entry { .. } = event {
            self.0.call_once(&self.1);
        }
    }
}

async fn run_while(
    bench: &Bench,
    tree: &Fixture,
    happens: impl Fn() + Send + Sync + 'static,
) -> Result<BackupReport> {
    let source = Arc::new(FixtureImporter::new(tree.clone()));
    let monitor = Arc::new(Once(std::sync::Once::new(), happens));
    backup(&bench.open().await, source, BackupOptions::default(), monitor, Cancel::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_run_takes_a_new_beginning_by_the_clock_of_the_store() {
    let bench = Bench::new().await;
    let mut tree = tree();
    bench.backup(&tree).await;
    tree.put("new", Fixture::noise(50_000, 77));
    let days = |n: u64| std::time::Duration::from_secs(n * 24 * 3600);
    let memory = bench.memory.clone();
    let report = run_while(&bench, &tree, move || memory.pass(days(5))).await.unwrap();
    let repository = bench.open().await;
    let catalog = repository.refresh_catalog().await.unwrap();
    assert_eq!(catalog.snapshots.iter().filter(|s| s.id == report.snapshot.id).count(), 1);
    assert_eq!(catalog.snapshots.len(), 2, "the one that was late is taken back");
    assert_holds(&repository, &report.snapshot, &tree).await;
    bench.check().await;
    // A clock that is ahead of this machine's by any amount makes nobody late.
    bench.memory.pass(days(1000));
    bench.backup(&tree).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_run_whose_blobs_have_gone_says_so_and_commits_nothing() {
    let bench = Bench::new().await;
    let mut tree = tree();
    bench.backup(&tree).await;
    tree.put("new", Fixture::noise(50_000, 77));
    let memory = bench.memory.clone();
    let happens = move || {
        memory.pass(std::time::Duration::from_secs(5 * 24 * 3600));
        // As maintenance does with a state: what it names is not to be relied on any more.
        memory.names().into_iter().filter(|n| n.area == Area::States).for_each(|n| memory.lose(n));
    };
    let e = run_while(&bench, &tree, happens).await.unwrap_err();
    assert!(matches!(e, Error::Late { missing: 1.. }), "{e}");
    let repository = bench.open().await;
    assert_eq!(repository.refresh_catalog().await.unwrap().snapshots.len(), 1);
    // The next one reads again what it needs.
    let (report, _) = bench.backup(&tree).await;
    assert_holds(&bench.open().await, &report.snapshot, &tree).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_leave_out_files_and_whole_directories() {
    let bench = Bench::new().await;
    let source = Arc::new(FixtureImporter::new(tree()));
    let options = BackupOptions { ignore: vec!["many/".into(), "*.txt".into()], ..BackupOptions::default() };
    let repository = bench.open().await;
    let report = backup(&repository, source, options, Arc::new(Silent), Cancel::default()).await.unwrap();
    let read = read_tree(&repository, &report.snapshot).await.unwrap();
    assert!(!read.contains_key(&b"a.txt"[..]) && !read.contains_key(&b"many"[..]));
    assert!(read.contains_key(&b"sub/deeper/leaf"[..]));
    assert_eq!(report.snapshot.excludes, ["many/", "*.txt"]);
}

#[tokio::test]
async fn a_file_of_many_holes_says_how_much_is_in_none() {
    let bench = Bench::new().await;
    let mut bytes = vec![0; 100 * 16_384];
    for (n, part) in bytes.chunks_mut(16_384).enumerate() {
        part[4096 * (n % 3)] = 1;
    }
    let mut many = Fixture::file(bytes.clone());
    let mut few = Fixture::file(&bytes[..5 * 16_384]);
    (many.sparse, few.sparse) = (true, true);
    let all = Fixture::file(bytes);
    let tree = Fixture::directory([("many", many), ("few", few), ("all", all)]);
    let (report, _) = bench.backup(&tree).await;
    // Once more: what the file cache takes over says the same.
    let (again, opened) = bench.backup(&tree).await;
    assert_eq!((opened, again.snapshot.root), (0, report.snapshot.root.clone()));
    let repository = bench.open().await;
    repository.index().await.unwrap();
    let vfs = crate::vfs::Vfs::new(repository.clone(), repository.clone());
    let mut found = Vec::new();
    for name in ["many", "few", "all"] {
        let path = format!("/srv/data/{name}");
        let entry = vfs.resolve(&report.snapshot, path.as_bytes()).await.unwrap();
        let c = contents_of(&entry);
        found.push((c.level > 0, c.data_bytes));
    }
    assert_eq!(found, [(true, 100 * 4096), (false, 5 * 4096), (true, 100 * 16_384)]);
    bench.check().await;
    let read = read_tree(&repository, &report.snapshot).await.unwrap();
    assert!(read[&b"many"[..]].1 == read[&b"all"[..]].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_holes_that_come_and_go_change_no_chunk() {
    const MIB: usize = 1 << 20;
    let bench = Bench::new().await;
    let What::File(mut bytes) = Fixture::noise(8 * MIB, 1).what else { unreachable!() };
    // One hole that is kept, and between the two halves of the file no other.
    bytes[4 * MIB..5 * MIB].fill(0);
    let image = |bytes: &[u8]| {
        let mut image = Fixture::file(bytes);
        image.sparse = true;
        Fixture::directory([("image", image)])
    };
    let (first, _) = bench.backup(&image(&bytes)).await;
    // Pages that were written since: in the source they are no holes, in its copy they are.
    let zeros = |bytes: &mut [u8]| (1..4).for_each(|i| bytes[i * MIB..i * MIB + 12_288].fill(0));
    zeros(&mut bytes);
    let mut source = Fixture::file(bytes.as_slice());
    source.sparse = false;
    let (second, _) = bench.backup(&Fixture::directory([("image", source)])).await;
    let (third, _) = bench.backup(&image(&bytes)).await;
    let added = [&first, &second, &third].map(|r| r.snapshot.added_bytes);
    assert!(added[0] > 7 << 20, "{added:?}");
    // Around the large hole, and the zeros themselves.
    assert!(added[2] < 1 << 20, "{added:?}");
    let repository = bench.open().await;
    let vfs = crate::vfs::Vfs::new(repository.clone(), repository.clone());
    let entry = vfs.resolve(&third.snapshot, b"/srv/data/image").await.unwrap();
    assert_eq!(contents_of(&entry).data_bytes, 7 << 20, "the large hole is one, the small ones are zeros");
    let read = read_tree(&repository, &third.snapshot).await.unwrap();
    assert!(read[&b"image"[..]].1 == bytes);
    bench.check().await;
}

/// The files of a tree by the frame that their first blob is in, in the order of their names.
async fn frames(repository: &Arc<Repository>, report: &BackupReport, names: &[String]) -> Vec<u32> {
    repository.index().await.unwrap();
    let vfs = crate::vfs::Vfs::new(repository.clone(), repository.clone());
    let mut found = Vec::new();
    for name in names {
        let path = format!("/srv/data/{name}");
        let entry = vfs.resolve(&report.snapshot, path.as_bytes()).await.unwrap();
        let located = repository.locate(&contents_of(&entry).items[0].id.unwrap()).unwrap();
        found.push(located.frames[0].record.offset);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn files_share_frames_with_their_neighbours() {
    let bench = Bench::new().await;
    let names: Vec<String> = (0..2000).map(|i| format!("{i:04}")).collect();
    let files = names.iter().enumerate().map(|(i, n)| (n.clone(), Fixture::noise(5000 + i, i as u64)));
    let tree = Fixture::directory(files.collect::<Vec<_>>().iter().map(|(n, f)| (n.as_str(), f.clone())));
    let (report, _) = bench.backup(&tree).await;
    let mut runs = frames(&bench.open().await, &report, &names).await;
    runs.dedup();
    let all: std::collections::BTreeSet<_> = runs.iter().collect();
    assert!(all.len() >= 5, "12 MB are several frames: {runs:?}");
    assert_eq!(runs.len(), all.len(), "no frame holds files from here and from there");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_are_sliced_unless_they_compress_well() {
    let bench = Bench::with(&CreateOptions { kdf: Some(cheap_kdf()), ..CreateOptions::default() }).await;
    // 32 bytes of noise for each page, over and over.
    let page = |i: u32| blake3::hash(&i.to_le_bytes()).as_bytes().repeat(128);
    let text: Vec<u8> = (0..16 << 8).flat_map(page).collect();
    let mut sliced = Vec::new();
    for file in [Fixture::noise(text.len(), 1), Fixture::file(text)] {
        let (report, _) = bench.backup(&Fixture::directory([("file", file)])).await;
        let repository = bench.open().await;
        repository.index().await.unwrap();
        let vfs = crate::vfs::Vfs::new(repository.clone(), repository.clone());
        let entry = vfs.resolve(&report.snapshot, b"/srv/data/file").await.unwrap();
        let mut extents = Vec::new();
        let mut pieces = vfs.pieces(&contents_of(&entry), 0..entry.meta.size);
        while let Some(piece) = pieces.next().await.unwrap() {
            extents.push(piece);
        }
        let slice = u64::from(repository.config().slice_bytes);
        let large = extents.iter().filter(|p| p.extent.len > slice);
        let frames = large.map(|p| repository.locate(&p.extent.id.unwrap()).unwrap().frames.len());
        sliced.push(frames.map(|n| n > 1).collect::<Vec<_>>());
    }
    assert!(sliced[0].len() > 8 && sliced[0].iter().all(|s| *s), "{sliced:?}");
    // Each worker has to learn it from a first one.
    let workers = std::thread::available_parallelism().unwrap().get();
    let of_text = sliced[1].iter().filter(|s| **s).count();
    assert!(of_text <= workers.min(sliced[1].len() / 2), "{sliced:?}");
    bench.check().await;
}

fn contents_of(entry: &crate::tree::Entry) -> crate::tree::Contents {
    let crate::tree::Detail::Regular(contents) = &entry.detail else { unreachable!() };
    contents.clone()
}
