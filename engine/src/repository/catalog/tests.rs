//! What a change of the store costs to notice, in calls of the store.

use super::*;
use crate::removal::RemovalKind;
use crate::storage::memory::MemoryStore;
use crate::testing::watched::{Call, WatchedStore};
use crate::testing::{local_dirs, new_store, open};

#[tokio::test]
async fn one_new_snapshot_among_many_costs_one_read() {
    const MANY: usize = 3000;
    let temporary = tempfile::tempdir().unwrap();
    let dirs = local_dirs(temporary.path());
    let (watched, repository) = WatchedStore::with_repository(&dirs).await.unwrap();
    let put = async |time_ns| {
        let snapshot = Snapshot { time_ns, tags: vec!["first".into()], ..Snapshot::empty() };
        repository.put_small(Area::Snapshots, &snapshot.encode()).await.unwrap().0
    };
    for n in 0..MANY {
        put(n as i64).await;
    }
    let gets = || -> Vec<ObjectName> {
        let calls = watched.take_calls().into_iter();
        calls.filter_map(|c| if let Call::Get(name, _) = c { Some(name) } else { None }).collect()
    };
    let lists = |calls: &[Call]| calls.iter().filter(|c| matches!(c, Call::List(_))).count();
    let first = repository.refresh_catalog().await.unwrap();
    assert_eq!(first.snapshots.len(), MANY);
    watched.take_calls();

    assert!(repository.catalog_since(&first.listing).await.unwrap().is_none());
    let calls = watched.take_calls();
    assert_eq!((calls.len(), lists(&calls)), (3, 3), "nothing has changed: {calls:?}");

    let new = put(MANY as i64).await;
    let second = repository.catalog_since(&first.listing).await.unwrap().unwrap();
    assert_eq!(gets(), [ObjectName::new(Area::Snapshots, new)]);
    assert_eq!((second.snapshots.len(), second.snapshots[0].id), (MANY + 1, new));
    for (a, b) in first.snapshots.iter().zip(&second.snapshots[1..]) {
        assert!(Arc::ptr_eq(a, b), "it was not decoded again");
    }

    let tombstone = Removal {
        kind: RemovalKind::Tombstone,
        targets: vec![new],
        successor: None,
        time_ns: 1,
        reason: String::new(),
        writer: [0; 16],
    };
    let (tombstone, ..) = repository.put_small(Area::Removals, &tombstone.encode()).await.unwrap();
    let third = repository.catalog_since(&second.listing).await.unwrap().unwrap();
    assert_eq!(gets(), [ObjectName::new(Area::Removals, tombstone)]);
    assert!(!third.holds(&new) && third.snapshots.len() == MANY);

    // Another process finds all of it in the local cache, and a change by anybody else is only that change.
    let store = repository.store().clone();
    drop(repository);
    let again = open(&store, &dirs).await.unwrap();
    watched.take_calls();
    assert_eq!(again.catalog().await.unwrap().snapshots.len(), MANY);
    assert_eq!(gets(), []);
    store.delete(ObjectName::new(Area::Snapshots, third.snapshots[5].id)).await.unwrap();
    let fewer = again.catalog_since(&third.listing).await.unwrap().unwrap();
    assert_eq!((fewer.snapshots.len(), gets()), (MANY - 1, vec![]));
}

#[tokio::test]
async fn notes_change_what_is_shown_and_their_absence_brings_it_back() {
    let memory = MemoryStore::new();
    let store: Arc<dyn Store> = Arc::new(memory.clone());
    new_store(&store).await.unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let repository = open(&store, &local_dirs(temporary.path())).await.unwrap();
    let snapshot = Snapshot { tags: vec!["first".into()], ..Snapshot::empty() };
    let (id, ..) = repository.put_small(Area::Snapshots, &snapshot.encode()).await.unwrap();
    let tags = |c: &Catalog| c.snapshots[0].tags.join(",");
    let before = repository.refresh_catalog().await.unwrap();
    assert_eq!(tags(&before), "first");
    let note = |counter, tag: &str| Note {
        kind: NoteKind::Tags,
        snapshot: id,
        counter,
        values: vec![tag.into()],
        time_ns: 0,
    };
    let (newer, ..) = repository.put_small(Area::Notes, &note(2, "newer").encode()).await.unwrap();
    repository.put_small(Area::Notes, &note(1, "older").encode()).await.unwrap();
    let noted = repository.catalog_since(&before.listing).await.unwrap().unwrap();
    assert_eq!(tags(&noted), "newer");
    store.delete(ObjectName::new(Area::Notes, newer)).await.unwrap();
    assert_eq!(tags(&repository.refresh_catalog().await.unwrap()), "older");
    // A pin holds while its last note has a value.
    let pin = |counter, values: &[&str]| Note {
        kind: NoteKind::Pin,
        snapshot: id,
        counter,
        values: values.iter().map(ToString::to_string).collect(),
        time_ns: 0,
    };
    repository.put_small(Area::Notes, &pin(1, &["yes"]).encode()).await.unwrap();
    assert!(repository.refresh_catalog().await.unwrap().pinned.contains(&id));
    repository.put_small(Area::Notes, &pin(2, &[]).encode()).await.unwrap();
    assert!(repository.refresh_catalog().await.unwrap().pinned.is_empty());
    // One that cannot be read does not hide the others, and is no reason to read all again and again.
    memory.tamper(ObjectName::new(Area::Snapshots, id), |b| b[50] ^= 1);
    std::fs::remove_dir_all(temporary.path()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let repository = open(&store, &local_dirs(elsewhere.path())).await.unwrap();
    let broken = repository.refresh_catalog().await.unwrap();
    assert_eq!((broken.snapshots.len(), broken.broken.len()), (0, 1));
    assert!(repository.catalog_since(&broken.listing).await.unwrap().is_none());
}
