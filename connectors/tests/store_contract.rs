//! What every store promises, checked on each implementation, and what only a directory can get wrong.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use plakar_connectors::fs::FsStore;
use plakar_engine::id::ObjectId;
use plakar_engine::storage::memory::MemoryStore;
use plakar_engine::storage::{Area, ObjectName, Store, StoreError, StoreErrorKind, put_bytes};

fn name(area: Area, byte: u8) -> ObjectName {
    match area {
        Area::Config => ObjectName::CONFIG,
        _ => ObjectName::new(area, ObjectId([byte; 32])),
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, StoreError>) -> StoreErrorKind {
    result.unwrap_err().kind()
}

/// Puts, reads, lists, looks at and removes objects of every area. The store must be new.
async fn keeps_objects(store: &dyn Store) {
    store.prepare().await.unwrap();
    store.prepare().await.unwrap();
    for area in Area::ALL {
        let name = name(area, 0xab);
        assert_eq!(store.list(area).await.unwrap(), []);
        assert_eq!(kind(store.get(name, None).await), StoreErrorKind::NotFound);
        assert_eq!(kind(store.stat(name).await), StoreErrorKind::NotFound);
        store.delete(name).await.unwrap();

        let content = Bytes::from(name.path());
        let put = put_bytes(store, name, content.clone()).await.unwrap();
        assert_eq!((put.id, put.len), (name.id, content.len() as u64));
        assert!(put.modified_ns > 0);
        assert_eq!(store.get(name, None).await.unwrap(), content);
        assert_eq!(store.stat(name).await.unwrap(), put);
        assert_eq!(store.list(area).await.unwrap(), [put]);
        // The same id in another area is another object.
        for other in Area::ALL {
            assert_eq!(store.list(other).await.unwrap().is_empty(), other > area, "{other:?}");
        }
    }
    assert_eq!(kind(store.prepare().await), StoreErrorKind::AlreadyExists);
    for area in Area::ALL {
        store.delete(name(area, 0xab)).await.unwrap();
        store.delete(name(area, 0xab)).await.unwrap();
        assert_eq!(store.list(area).await.unwrap(), []);
    }
}

/// Gives exactly the range that was asked for, or none.
async fn reads_ranges(store: &dyn Store) {
    let name = name(Area::Data, 1);
    let content: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let end = content.len() as u64;
    put_bytes(store, name, content.clone().into()).await.unwrap();
    for range in [0..0, 0..1, 0..end, 5..5, 17..4_000, end - 1..end, end..end] {
        let expected = &content[range.start as usize..range.end as usize];
        assert_eq!(store.get(name, Some(range.clone())).await.unwrap(), expected, "{range:?}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake must not be a panic")]
    for range in [0..end + 1, end - 1..end + 1, end..end + 1, end + 1..end + 1, 0..u64::MAX, 9..3] {
        let got = store.get(name, Some(range.clone())).await;
        assert_eq!(kind(got), StoreErrorKind::OutOfRange, "{range:?}");
    }
    store.delete(name).await.unwrap();

    put_bytes(store, name, Bytes::new()).await.unwrap();
    assert_eq!(store.get(name, None).await.unwrap(), Bytes::new());
    assert_eq!(store.get(name, Some(0..0)).await.unwrap(), Bytes::new());
    assert_eq!(kind(store.get(name, Some(0..1)).await), StoreErrorKind::OutOfRange);
    store.delete(name).await.unwrap();
}

/// Shows an object whole or not at all.
async fn shows_only_what_is_finished(store: &dyn Store) {
    for area in [Area::Data, Area::Snapshots, Area::Config] {
        let name = name(area, 2);
        let mut put = store.put(name).await.unwrap();
        put.write(Bytes::from_static(b"one ")).await.unwrap();
        put.write(Bytes::new()).await.unwrap();
        put.write(Bytes::from_static(b"two")).await.unwrap();
        assert_eq!(store.list(area).await.unwrap(), []);
        assert_eq!(kind(store.get(name, None).await), StoreErrorKind::NotFound);
        let listed = put.finish().await.unwrap();
        assert_eq!(store.get(name, None).await.unwrap(), "one two");
        assert_eq!(store.list(area).await.unwrap(), [listed]);
        store.delete(name).await.unwrap();

        let mut aborted = store.put(name).await.unwrap();
        aborted.write(Bytes::from_static(b"never")).await.unwrap();
        aborted.abort().await;
        let mut dropped = store.put(name).await.unwrap();
        dropped.write(Bytes::from_static(b"never")).await.unwrap();
        drop(dropped);
        assert_eq!(store.list(area).await.unwrap(), []);
        assert_eq!(kind(store.get(name, None).await), StoreErrorKind::NotFound);
    }
}

/// Takes many objects at once, into the same shards.
async fn takes_concurrent_puts(store: Arc<dyn Store>) {
    let names: Vec<ObjectName> = (0..60u8)
        .map(|i| {
            let mut id = [i % 3; 32];
            id[31] = i;
            ObjectName::new(if i % 2 == 0 { Area::Data } else { Area::States }, ObjectId(id))
        })
        .collect();
    let tasks: Vec<_> = names
        .iter()
        .map(|name| {
            let (store, name) = (store.clone(), *name);
            tokio::spawn(async move { put_bytes(&*store, name, Bytes::from(name.path().repeat(50))).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    for area in [Area::Data, Area::States] {
        let mut listed: Vec<_> = store.list(area).await.unwrap().into_iter().map(|l| l.id).collect();
        let mut expected: Vec<_> = names.iter().filter(|n| n.area == area).map(|n| n.id).collect();
        listed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(listed, expected);
    }
    for name in &names {
        assert_eq!(store.get(*name, None).await.unwrap(), name.path().repeat(50));
        store.delete(*name).await.unwrap();
    }
}

/// Never exchanges an object for another one.
async fn refuses_to_replace(store: Arc<dyn Store>) {
    let name = name(Area::Snapshots, 3);
    let first = put_bytes(&*store, name, Bytes::from_static(b"first")).await.unwrap();
    let second = put_bytes(&*store, name, Bytes::from_static(b"second")).await;
    assert_eq!(kind(second), StoreErrorKind::AlreadyExists);
    assert_eq!(store.list(Area::Snapshots).await.unwrap(), [first]);
    assert_eq!(store.get(name, None).await.unwrap(), "first");
    store.delete(name).await.unwrap();

    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move { put_bytes(&*store, name, Bytes::from(format!("writer {i}"))).await })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => won += 1,
            Err(e) => assert_eq!(e.kind(), StoreErrorKind::AlreadyExists),
        }
    }
    assert_eq!(won, 1);
    store.delete(name).await.unwrap();
}

async fn contract(store: Arc<dyn Store>) {
    keeps_objects(&*store).await;
    reads_ranges(&*store).await;
    shows_only_what_is_finished(&*store).await;
    takes_concurrent_puts(store).await;
}

fn new_store() -> (tempfile::TempDir, Arc<FsStore>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(FsStore::new(dir.path().join("a/b/store")));
    (dir, store)
}

/// All files below a directory.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    contract(Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_the_contract() {
    let (_dir, store) = new_store();
    contract(store.clone()).await;
    refuses_to_replace(store.clone()).await;
    assert_eq!(files(store.local_path().unwrap()), [] as [&Path; 0], "no temporary files stay");
}

#[tokio::test]
async fn objects_are_private_and_where_the_format_says() {
    let (_dir, store) = new_store();
    store.prepare().await.unwrap();
    let root = store.local_path().unwrap();
    for area in Area::ALL {
        let name = name(area, 0x5f);
        let listed = put_bytes(&*store, name, Bytes::from_static(b"x")).await.unwrap();
        let path = root.join(name.path());
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o600);
        assert_eq!(listed.modified_ns, meta.mtime() * 1_000_000_000 + meta.mtime_nsec());
        for above in path.ancestors().skip(1).take_while(|a| a.starts_with(root)) {
            assert_eq!(fs::metadata(above).unwrap().mode() & 0o7777, 0o700, "{}", above.display());
        }
    }
    assert!(root.join(format!("data/5f/{}", "5f".repeat(32))).is_file());
    assert!(root.join(format!("snapshots/{}", "5f".repeat(32))).is_file());
}

#[tokio::test]
async fn a_shared_store_is_its_groups_whatever_the_umask() {
    let (dir, store) = new_store();
    store.prepare().await.unwrap();
    let root = store.local_path().unwrap().to_owned();
    FsStore::share(&root).unwrap();
    // One that is opened from now on.
    let store = FsStore::new(root.clone());
    for area in Area::ALL {
        let path = root.join(name(area, 0x5f).path());
        put_bytes(&store, name(area, 0x5f), Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
        for above in path.ancestors().skip(1).take_while(|a| a.starts_with(&root)) {
            assert_eq!(fs::metadata(above).unwrap().mode() & 0o7777, 0o2770, "{}", above.display());
        }
    }
    drop(dir);
}

#[tokio::test]
async fn foreign_files_are_not_listed() {
    let (_dir, store) = new_store();
    store.prepare().await.unwrap();
    let root = store.local_path().unwrap();
    let kept = put_bytes(&*store, name(Area::Data, 0xaa), Bytes::from_static(b"x")).await.unwrap();
    let state = put_bytes(&*store, name(Area::States, 0xaa), Bytes::from_static(b"x")).await.unwrap();
    for foreign in [
        format!("data/aa/tmp-{}", "a".repeat(60)),
        "data/aa/README".into(),
        format!("data/aa/{}", "AA".repeat(32)),
        format!("data/aa/{}", "bb".repeat(32)),
        format!("data/{}", "aa".repeat(32)),
        "data/bb".into(),
        format!("states/{}", "a".repeat(63)),
        format!("states/{}.part", "ab".repeat(32)),
    ] {
        fs::write(root.join(foreign), "foreign").unwrap();
    }
    for dir in ["data/AA", "data/+a", "data/a", "data/aaa"] {
        fs::create_dir(root.join(dir)).unwrap();
        fs::write(root.join(dir).join("aa".repeat(32)), "foreign").unwrap();
    }
    assert_eq!(store.list(Area::Data).await.unwrap(), [kept]);
    assert_eq!(store.list(Area::States).await.unwrap(), [state]);
}

#[tokio::test]
async fn what_stands_in_the_place_of_an_object_is_listed_and_unreadable() {
    let (_dir, store) = new_store();
    store.prepare().await.unwrap();
    let states = store.local_path().unwrap().join("states");
    fs::create_dir_all(states.join("cd".repeat(32))).unwrap();
    symlink("nowhere", states.join("ef".repeat(32))).unwrap();
    let mut found: Vec<_> = store.list(Area::States).await.unwrap().iter().map(|l| l.id).collect();
    found.sort();
    assert_eq!(found, [ObjectId([0xcd; 32]), ObjectId([0xef; 32])]);
    let directory = ObjectName::new(Area::States, ObjectId([0xcd; 32]));
    assert_eq!(kind(store.stat(directory).await), StoreErrorKind::Unreadable);
    assert_eq!(kind(store.get(directory, None).await), StoreErrorKind::Unreadable);
}

#[tokio::test]
async fn a_missing_place_is_not_an_empty_store() {
    let (dir, store) = new_store();
    for area in Area::ALL {
        assert_eq!(kind(store.list(area).await), StoreErrorKind::NotFound, "{area:?}");
        let put = store.put(name(area, 1)).await.map(drop);
        assert_eq!(kind(put), StoreErrorKind::NotFound, "{area:?}");
    }
    assert!(!dir.path().join("a").exists(), "only preparing makes the place");
}

#[tokio::test]
async fn a_file_cannot_be_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "content").unwrap();
    let store = FsStore::new(path.clone());
    assert_eq!(kind(store.prepare().await), StoreErrorKind::Unusable);
    for area in Area::ALL {
        assert_eq!(kind(store.list(area).await), StoreErrorKind::Unusable, "{area:?}");
        let put = store.put(name(area, 1)).await.map(drop);
        assert_eq!(kind(put), StoreErrorKind::Unusable, "{area:?}");
    }
    assert_eq!(fs::read(path).unwrap(), b"content");
}

#[tokio::test]
async fn preparing_refuses_what_holds_anything() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".hidden"), "").unwrap();
    let store = FsStore::new(dir.path().to_path_buf());
    assert_eq!(kind(store.prepare().await), StoreErrorKind::AlreadyExists);
    assert_eq!(store.location(), dir.path().to_str().unwrap());
}

#[tokio::test]
async fn areas_that_vanish_are_made_again() {
    let (_dir, store) = new_store();
    store.prepare().await.unwrap();
    let name = name(Area::Data, 9);
    for _ in 0..2 {
        put_bytes(&*store, name, Bytes::from_static(b"x")).await.unwrap();
        fs::remove_dir_all(store.local_path().unwrap().join("data")).unwrap();
    }
}

#[tokio::test]
async fn a_failed_put_leaves_nothing() {
    let (_dir, store) = new_store();
    store.prepare().await.unwrap();
    let name = name(Area::States, 7);
    let mut put = store.put(name).await.unwrap();
    put.write(Bytes::from_static(b"x")).await.unwrap();
    // Somebody else's folder stands where the object should.
    fs::create_dir(store.local_path().unwrap().join(name.path())).unwrap();
    assert_eq!(kind(put.finish().await), StoreErrorKind::AlreadyExists);
    assert!(files(store.local_path().unwrap()).is_empty());
}

#[tokio::test]
async fn an_interrupted_write_cannot_be_finished() {
    let (_dir, store) = new_store();
    store.prepare().await.unwrap();
    // Polled once and dropped, as a timeout would do. A write that is done by then shows nothing: then the next one.
    for byte in 0..100 {
        let mut put = store.put(name(Area::States, byte)).await.unwrap();
        let was_done = tokio::select! {
            biased;
            result = put.write(Bytes::from(vec![0; 8 << 20])) => { result.unwrap(); true }
            () = std::future::ready(()) => false,
        };
        if !was_done {
            assert_eq!(kind(put.write(Bytes::from_static(b"more")).await), StoreErrorKind::Other);
            assert_eq!(kind(put.finish().await), StoreErrorKind::Other);
            assert_eq!(store.list(Area::States).await.unwrap(), []);
            return;
        }
    }
    unreachable!("no write was interrupted");
}

#[tokio::test]
async fn a_store_may_be_read_only() {
    let (_dir, store) = new_store();
    store.prepare().await.unwrap();
    let name = name(Area::Keys, 1);
    put_bytes(&*store, name, Bytes::from_static(b"key")).await.unwrap();
    let path = store.local_path().unwrap().join(name.path());
    fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(store.get(name, Some(1..3)).await.unwrap(), "ey");
}
