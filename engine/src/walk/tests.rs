//! Walks that may keep next to nothing see what walks that keep all see.

use std::sync::Arc;

use super::*;
use crate::repository::recent::RecentFrames;
use crate::storage::Store;
use crate::storage::memory::MemoryStore;
use crate::testing::{Fixture, back_up, local_dirs, new_store, open};

/// What was met, in order.
async fn steps(mut walk: Walk) -> Vec<(&'static str, Vec<u8>, Option<Entry>)> {
    let mut out = Vec::new();
    while let Some(step) = walk.next().await {
        let (what, entry) = match step {
            Step::Enter(e) => ("enter", Some(e)),
            Step::Entry(e) => ("entry", Some(e)),
            Step::Leave(e) => {
                assert_eq!(walk.left().path(b"/start"), walk.path());
                ("leave", Some(e.unwrap()))
            }
            Step::Unreadable(_) => ("unreadable", None),
        };
        if what == "entry" {
            assert_eq!(walk.trail().path_of(b"/start", &entry.as_ref().unwrap().name), walk.path());
        }
        out.push((what, walk.path().to_vec(), entry));
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_let_go_is_read_again() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    new_store(&store).await.unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let repository = open(&store, &local_dirs(temporary.path())).await.unwrap();
    let mut tree = Fixture::file("bottom");
    for depth in 0..20 {
        let wide = if depth % 7 == 3 { 5000 } else { 3 };
        let mut here = Fixture::directory((0..wide).map(|i| (format!("{i:04}"), Fixture::file("x"))));
        here.put("0001 below", tree);
        here.put("2500", Fixture::directory([("one", Fixture::symlink("two"))]));
        tree = here;
    }
    let report = back_up(&repository, &tree).await.unwrap();
    assert_eq!(report.errors, 0);
    repository.index().await.unwrap();
    let vfs = Vfs::new(repository.clone(), Arc::new(RecentFrames::new(repository.clone())));
    let entry = vfs.resolve(&report.snapshot, b"/srv/data").await.unwrap();
    let all = steps(Walk::new(vfs.clone(), entry.clone(), b"/start".to_vec())).await;
    assert_eq!(all.iter().filter(|(what, ..)| *what == "enter").count(), 40);
    let mut little = Walk::new(vfs, entry, b"/start".to_vec());
    little.most = 2000;
    assert!(steps(little).await == all);
}
