//! The damage matrix: every kind of object, damaged in every way, with and without local caches. Damage is found and
//! named, what is not concerned is read as before, and no wrong byte is ever handed out.

use std::sync::Arc;

use super::*;
use crate::monitor::Silent;
use crate::ops::backup::{BackupOptions, backup};
use crate::storage::memory::MemoryStore;
use crate::storage::{Area, ObjectName, Store};
use crate::testing::{Fixture, FixtureImporter, PlainTree, local_dirs, new_store, open, read_tree};

fn tree(seed: u64) -> Fixture {
    Fixture::directory([
        ("large", Fixture::noise(1 << 20, seed)),
        ("small", Fixture::file(format!("{seed}"))),
        (
            "d",
            Fixture::directory([
                ("shared", Fixture::noise(300_000, 99)),
                ("own", Fixture::noise(500, seed + 50)),
            ]),
        ),
    ])
}

async fn run(store: &Arc<dyn Store>, dirs: &crate::cache::LocalDirs, tree: &Fixture) -> Snapshot {
    let repository = open(store, dirs).await.unwrap();
    let source = Arc::new(FixtureImporter::new(tree.clone()));
    let options = BackupOptions::default();
    backup(&repository, source, options, Arc::new(Silent), Cancel::default()).await.unwrap().snapshot
}

#[derive(Clone, Copy, Debug)]
enum Action {
    FlipFirst,
    FlipMiddle,
    FlipLast,
    Truncate,
    Empty,
    Zero,
    Extend,
    Delete,
    Swap,
}

const ACTIONS: [Action; 9] = [
    Action::FlipFirst,
    Action::FlipMiddle,
    Action::FlipLast,
    Action::Truncate,
    Action::Empty,
    Action::Zero,
    Action::Extend,
    Action::Delete,
    Action::Swap,
];

async fn apply(action: Action, store: &MemoryStore, name: ObjectName, other: Option<ObjectName>) {
    match action {
        Action::Delete => store.delete(name).await.unwrap(),
        Action::Swap => {
            let Some(other) = other else { return };
            let (a, b) = (store.get(name, None).await.unwrap(), store.get(other, None).await.unwrap());
            store.tamper(name, |v| *v = b.to_vec());
            store.tamper(other, |v| *v = a.to_vec());
        }
        action => store.tamper(name, |v| {
            let (middle, last) = (v.len() / 2, v.len() - 1);
            match action {
                Action::FlipFirst => v[0] ^= 1,
                Action::FlipMiddle => v[middle] ^= 0x10,
                Action::FlipLast => v[last] ^= 0x80,
                Action::Truncate => v.truncate(middle),
                Action::Empty => v.clear(),
                Action::Zero => v[middle..].fill(0),
                _ => v.push(0),
            }
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_found_and_contained() {
    let original = MemoryStore::new();
    let store: Arc<dyn Store> = Arc::new(original.clone());
    new_store(&store).await.unwrap();
    let base = tempfile::tempdir().unwrap();
    let dirs = local_dirs(base.path());
    let trees = [tree(1), tree(2)];
    let mut whole = Vec::new();
    for tree in &trees {
        let snapshot = run(&store, &dirs, tree).await;
        let repository = open(&store, &dirs).await.unwrap();
        whole.push((snapshot.id, read_tree(&repository, &snapshot).await.unwrap()));
    }
    let names = original.names();
    assert!(names.len() >= 10, "{names:?}");
    for name in &names {
        let other = names.iter().find(|n| n.area == name.area && n.id != name.id).copied();
        for action in ACTIONS {
            for keep_cache in [true, false] {
                let damaged = original.snapshot();
                if matches!(action, Action::Swap) && other.is_none() {
                    continue;
                }
                apply(action, &damaged, *name, other).await;
                let store: Arc<dyn Store> = Arc::new(damaged);
                let temporary = tempfile::tempdir().unwrap();
                let dirs = if keep_cache { dirs.clone() } else { local_dirs(temporary.path()) };
                let found = look(&store, &dirs, &whole).await;
                let case = format!("{action:?} {name} cache {keep_cache}: {found:?}");
                let (area, lost) = (name.area, found.as_ref().map_or(0, |f| f.lost));
                match found {
                    // The only key slot: nothing can be opened, and nothing is.
                    None => assert_eq!(area, Area::Keys, "{case}"),
                    Some(f) => {
                        // Only the listing tells that a snapshot existed.
                        let silent = area == Area::Snapshots && matches!(action, Action::Delete);
                        assert!(f.problems > 0 || silent, "not found: {case}");
                        assert!(
                            lost <= if area == Area::Snapshots && matches!(action, Action::Swap) {
                                2
                            } else {
                                1
                            } || matches!(area, Area::States | Area::Meta | Area::Data),
                            "{case}"
                        );
                    }
                }
            }
        }
    }
}

#[derive(Debug)]
struct Found {
    problems: usize,
    /// Snapshots that cannot be read whole.
    lost: usize,
}

/// Opens, lists, checks and reads all that can be read. `None` if the store does not open.
async fn look(
    store: &Arc<dyn Store>,
    dirs: &crate::cache::LocalDirs,
    whole: &[(crate::id::ObjectId, PlainTree)],
) -> Option<Found> {
    let repository = open(store, dirs).await.ok()?;
    let catalog = repository.refresh_catalog().await.unwrap();
    let what: Vec<_> = catalog.snapshots.iter().map(|s| (s.clone(), b"/".to_vec())).collect();
    let report = check(&repository, &what, Depth::Full, Scope::Store, Arc::new(Silent), Cancel::default())
        .await
        .unwrap();
    let mut lost = 0;
    for (id, tree) in whole {
        let Some(snapshot) = catalog.snapshots.iter().find(|s| s.id == *id) else {
            lost += 1;
            continue;
        };
        match read_tree(&repository, snapshot).await {
            Ok(read) => assert!(read == *tree, "wrong bytes were handed out"),
            Err(e) => {
                assert!(is_damage(&e), "{e}");
                lost += 1;
            }
        }
    }
    Some(Found { problems: report.problems.len(), lost })
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_names_the_paths_that_need_the_blob_and_no_others() {
    let memory = MemoryStore::new();
    let store: Arc<dyn Store> = Arc::new(memory.clone());
    new_store(&store).await.unwrap();
    let base = tempfile::tempdir().unwrap();
    let dirs = local_dirs(base.path());
    run(&store, &dirs, &tree(1)).await;
    let second = run(&store, &dirs, &tree(2)).await;
    let before = memory.names();
    // Only the second snapshot's own data is in the packfile that the second run made.
    let repository = open(&store, &dirs).await.unwrap();
    let index = repository.index().await.unwrap();
    let keys = repository.keys();
    let id = keys.identify(Class::Data, b"2");
    let located = repository.locate(&id).unwrap();
    let name = ObjectName::new(Area::Data, located.frames[0].packfile);
    assert!(before.contains(&name));
    drop(index);
    memory.tamper(name, |v| v[located.frames[0].record.offset as usize] ^= 1);
    let catalog = repository.refresh_catalog().await.unwrap();
    let what: Vec<_> = catalog.snapshots.iter().map(|s| (s.clone(), b"/".to_vec())).collect();
    let report = check(&repository, &what, Depth::Full, Scope::Store, Arc::new(Silent), Cancel::default())
        .await
        .unwrap();
    assert_eq!(report.damaged_snapshots, 1);
    let paths: Vec<&str> = report.problems.iter().map(|(p, _)| p.as_str()).collect();
    assert!(paths.contains(&format!("{}:/srv/data/small", second.id.short()).as_str()), "{paths:?}");
    assert!(paths.iter().all(|p| p.starts_with(&second.id.short()) && !p.ends_with("shared")), "{paths:?}");
    let fast = check(&repository, &what, Depth::Fast, Scope::Store, Arc::new(Silent), Cancel::default())
        .await
        .unwrap();
    assert_eq!(fast.problems, [], "a fast check reads no data");
}

#[test]
fn an_entry_that_misstates_its_data_bytes_is_damaged() {
    let mut sums = Sums::default();
    sums.add(60);
    sums.open.push(((BlobId([1; 32]), 40), 0));
    sums.add(40);
    assert_eq!(sums.end(), Some(((BlobId([1; 32]), 40), 40)));
    let contents = |data_bytes| Contents { level: 1, data_bytes, ..Contents::default() };
    assert!(sums.compare(&contents(100)).is_none());
    assert!(sums.compare(&contents(200)).is_some_and(|e| is_damage(&e)));
    sums.unknown = true;
    assert!(sums.compare(&contents(200)).is_none(), "not all of it could be read");
}
