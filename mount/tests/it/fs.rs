//! The filesystem without a kernel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plakar_engine::id::ObjectId;
use plakar_engine::meta::{Kind, Timestamp};
use plakar_engine::snapshot::{Description, Snapshot};
use plakar_mount::config::FsConfig;
use plakar_mount::fs::{Attr, Lookup, ROOT, Seek, SnapshotFs};
use plakar_mount::{Filter, FsError, Owner, What, Xattrs};

use crate::random::Random;
use crate::source::Node;
use crate::store::{TestStore, Trouble};

pub(crate) async fn open(store: &TestStore, config: FsConfig) -> Arc<SnapshotFs> {
    SnapshotFs::open(store.repository.clone(), config).await.unwrap()
}

pub(crate) fn of(snapshot: &Snapshot) -> FsConfig {
    of_id(snapshot.id)
}

fn of_id(snapshot: ObjectId) -> FsConfig {
    FsConfig { what: What::Snapshot { snapshot, path: Some(b"/".to_vec()) }, ..FsConfig::default() }
}

/// Walks a path as the kernel does: links on the way are followed, the last one is not.
pub(crate) async fn find(fs: &Arc<SnapshotFs>, path: &str) -> Result<Attr, FsError> {
    // Where each directory on the way is, the root first.
    let mut way = vec![fs.attributes(ROOT).await?];
    let mut rest: Vec<String> = path.split('/').rev().map(String::from).collect();
    while let Some(name) = rest.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                way.truncate(way.len().saturating_sub(1).max(1));
                continue;
            }
            _ => {}
        }
        let here = way.last().unwrap().ino;
        let Lookup::Found { attr, .. } = fs.lookup(here, name.as_bytes()).await? else {
            return Err(FsError::NotFound);
        };
        if attr.kind == Kind::Symlink && !rest.is_empty() {
            let target = String::from_utf8(fs.read_link(attr.ino).await?.to_vec()).unwrap();
            rest.extend(target.split('/').rev().map(String::from));
        } else {
            way.push(attr);
        }
    }
    Ok(*way.last().unwrap())
}

/// Names, cookies and numbers, listed in parts of at most `step` entries.
async fn list(fs: &Arc<SnapshotFs>, ino: u64, step: usize) -> Vec<(String, u64, u64)> {
    let mut out = Vec::new();
    let mut after = 0;
    loop {
        let batch = fs.list(ino, after).await.unwrap();
        if batch.is_empty() {
            return out;
        }
        for item in (0..batch.len().min(step)).filter_map(|i| fs.item(&batch, i)) {
            after = item.cookie;
            out.push((String::from_utf8_lossy(item.name).into_owned(), item.cookie, item.attr.ino));
        }
    }
}

pub(crate) async fn names(fs: &Arc<SnapshotFs>, path: &str) -> Vec<String> {
    // What it leads to, as `ls` with a slash at the end.
    let ino = find(fs, &format!("{path}/.")).await.unwrap().ino;
    list(fs, ino, 1000).await.into_iter().map(|(n, ..)| n).filter(|n| n != "." && n != "..").collect()
}

pub(crate) async fn link(fs: &Arc<SnapshotFs>, path: &str) -> String {
    let attr = find(fs, path).await.unwrap();
    String::from_utf8(fs.read_link(attr.ino).await.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn attributes_are_those_that_were_recorded() {
    let tree = Node::directory([
        ("file", Node::file("hello").mode(0o4751).owner(5, 6).time(-1, 999_999_999)),
        ("far", Node::file("").time(1 << 34, 1)),
        ("dir", Node::directory([]).mode(0o1777)),
        ("link", Node::symlink("../x")),
        ("null", Node::special(Kind::CharDevice, (1, 3))),
        ("pipe", Node::special(Kind::Fifo, (0, 0))),
    ]);
    let (store, snapshot) = TestStore::with(tree, &["/"]).await;
    let fs = open(&store, of(&snapshot)).await;
    let file = find(&fs, "file").await.unwrap();
    assert_eq!((file.kind, file.mode, file.uid, file.gid), (Kind::Regular, 0o4751, 5, 6));
    assert_eq!((file.size, file.blocks, file.links), (5, 1, 1));
    assert_eq!(file.mtime, Timestamp { sec: -1, nsec: 999_999_999 });
    assert_eq!(find(&fs, "far").await.unwrap().mtime, Timestamp { sec: 1 << 34, nsec: 1 });
    let dir = find(&fs, "dir").await.unwrap();
    assert_eq!((dir.kind, dir.mode, dir.links), (Kind::Directory, 0o1777, 1));
    let symlink = find(&fs, "link").await.unwrap();
    assert_eq!((symlink.kind, symlink.size), (Kind::Symlink, 4));
    assert_eq!(link(&fs, "link").await, "../x");
    let null = find(&fs, "null").await.unwrap();
    assert_eq!((null.kind, null.rdev), (Kind::CharDevice, (1, 3)));
    assert_eq!(find(&fs, "pipe").await.unwrap().kind, Kind::Fifo);
    assert_eq!(find(&fs, "other").await, Err(FsError::NotFound));
    assert_eq!(find(&fs, "file/below").await, Err(FsError::NotDirectory));
    assert_eq!(fs.attributes(file.ino).await, Ok(file));
}

#[tokio::test]
async fn owners_can_be_mapped() {
    let tree = Node::directory([("file", Node::file("x").owner(5, 6))]);
    let (store, snapshot) = TestStore::with(tree, &["/"]).await;
    let mapped = |owner| FsConfig { owner, ..of(&snapshot) };
    let file = find(&open(&store, mapped(Owner::Ids(7, 8))).await, "file").await.unwrap();
    assert_eq!((file.uid, file.gid), (7, 8));
    let file = find(&open(&store, mapped(Owner::Mounter)).await, "file").await.unwrap();
    assert_eq!(file.uid, rustix::process::geteuid().as_raw());
}

#[tokio::test]
async fn names_of_one_file_share_its_number_and_others_do_not() {
    let tree = Node::directory([
        ("a", Node::file("same").linked(9, 3)),
        ("b", Node::directory([("c", Node::file("same").linked(9, 3))])),
        ("d", Node::file("changed").linked(9, 3)),
        ("e", Node::file("same")),
    ]);
    let (store, snapshot) = TestStore::with(tree, &["/"]).await;
    let fs = open(&store, of(&snapshot)).await;
    let a = find(&fs, "a").await.unwrap();
    let c = find(&fs, "b/c").await.unwrap();
    assert_eq!((a.ino, a.links), (c.ino, 3));
    assert_ne!(a.ino, find(&fs, "d").await.unwrap().ino);
    assert_ne!(a.ino, find(&fs, "e").await.unwrap().ino);
    assert_eq!(&fs.read(c.ino, 0, 10).await.unwrap().joined()[..], b"same");
}

#[tokio::test]
async fn numbers_are_the_same_in_every_mount_and_differ_between_snapshots() {
    let tree = Node::directory([("d", Node::directory([("f", Node::file("x"))]))]);
    let (store, first) = TestStore::with(tree.clone(), &["/"]).await;
    let second = store.backup(tree, &["/"], Description::default()).await;
    let number = async |id| find(&open(&store, of_id(id)).await, "d/f").await.unwrap().ino;
    assert_eq!(number(first.id).await, number(first.id).await);
    assert_ne!(number(first.id).await, number(second.id).await);
    let whole = open(&store, FsConfig::default()).await;
    let name = link(&whole, "latest").await;
    assert_eq!(find(&whole, &format!("{name}/d/f")).await.unwrap().ino, number(second.id).await);
}

#[tokio::test]
async fn forgotten_inodes_are_let_go() {
    let tree = Node::directory([("f", Node::file("x"))]);
    let (store, snapshot) = TestStore::with(tree, &["/"]).await;
    let fs = open(&store, of(&snapshot)).await;
    let file = find(&fs, "f").await.unwrap();
    find(&fs, "f").await.unwrap();
    assert_eq!(fs.held_inodes(), 2);
    fs.forget(file.ino, 1);
    assert!(fs.attributes(file.ino).await.is_ok());
    fs.forget(file.ino, 1);
    assert_eq!(fs.attributes(file.ino).await, Err(FsError::Stale));
    fs.forget(ROOT, 1000);
    assert!(fs.attributes(ROOT).await.is_ok());
}

#[tokio::test]
async fn any_range_of_a_file_reads_back() {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state
    };
    let contents: Vec<u8> = (0..5_000_000).map(|_| (next() >> 40) as u8).collect();
    let tree = Node::directory([("f", Node::file(contents.clone()))]);
    let (store, snapshot) = TestStore::with(tree, &["/"]).await;
    let fs = open(&store, of(&snapshot)).await;
    let ino = find(&fs, "f").await.unwrap().ino;
    for _ in 0..60 {
        let (offset, len) = (next() % 5_100_000, next() % 700_000);
        let expected = &contents[(offset as usize).min(5_000_000)..((offset + len) as usize).min(5_000_000)];
        assert_eq!(&fs.read(ino, offset, len as u32).await.unwrap().joined()[..], expected, "{offset} {len}");
    }
    assert!(fs.read(ino, u64::MAX - 1, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn holes_read_as_zeros_and_can_be_found() {
    let tree = Node::directory([
        ("sparse", Node::sparse(3_000_000, vec![(1_000_000, vec![7; 500_000])])),
        ("hole", Node::sparse(1 << 40, vec![])),
    ]);
    let (store, snapshot) = TestStore::with(tree, &["/"]).await;
    let fs = open(&store, of(&snapshot)).await;
    let sparse = find(&fs, "sparse").await.unwrap();
    assert_eq!((sparse.size, sparse.blocks), (3_000_000, 977));
    let bytes = fs.read(sparse.ino, 999_998, 4).await.unwrap();
    assert_eq!(&bytes.joined()[..], [0, 0, 7, 7]);
    assert_eq!(fs.seek(sparse.ino, 0, Seek::Data).await, Ok(1_000_000));
    assert_eq!(fs.seek(sparse.ino, 1_200_000, Seek::Data).await, Ok(1_200_000));
    assert_eq!(fs.seek(sparse.ino, 1_200_000, Seek::Hole).await, Ok(1_500_000));
    assert_eq!(fs.seek(sparse.ino, 10, Seek::Hole).await, Ok(10));
    assert_eq!(fs.seek(sparse.ino, 1_500_000, Seek::Data).await, Err(FsError::NoData));
    assert_eq!(fs.seek(sparse.ino, 3_000_000, Seek::Hole).await, Err(FsError::NoData));
    let hole = find(&fs, "hole").await.unwrap();
    assert_eq!((hole.size, hole.blocks), (1 << 40, 0));
    assert_eq!(fs.seek(hole.ino, 0, Seek::Data).await, Err(FsError::NoData));
}

#[tokio::test]
async fn a_huge_directory_lists_once_and_finds_each_name() {
    let entries: BTreeMap<_, _> =
        (0..20_000).map(|i| (format!("name-{i:06}").into_bytes(), Node::file(""))).collect();
    let (store, snapshot) = TestStore::with(Node::directory_of(entries), &["/"]).await;
    let fs = open(&store, of(&snapshot)).await;
    let whole = list(&fs, ROOT, usize::MAX).await;
    assert_eq!(whole.len(), 20_002);
    assert_eq!(list(&fs, ROOT, 7).await, whole);
    for (name, cookie, ino) in whole.iter().skip(2).step_by(997) {
        assert_eq!(find(&fs, name).await.unwrap().ino, *ino);
        let next = fs.list(ROOT, *cookie).await.unwrap();
        let following = fs.item(&next, 0).map(|i| i.name.to_vec());
        let at = whole.iter().position(|(n, ..)| n == name).unwrap();
        assert_eq!(following, whole.get(at + 1).map(|(n, ..)| n.clone().into_bytes()));
    }
    assert_eq!(find(&fs, "name-9").await, Err(FsError::NotFound));
    assert!(fs.list(ROOT, u64::MAX >> 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_could_not_be_backed_up_fails_or_hides() {
    let tree = Node::directory([
        ("gone", Node::missing()),
        ("secret", Node::file("secret").unreadable()),
        ("z", Node::file("z")),
    ]);
    let (store, snapshot) = TestStore::with(tree, &["/"]).await;
    let fs = open(&store, of(&snapshot)).await;
    assert_eq!(names(&fs, "").await, ["secret", "z"]);
    assert_eq!(find(&fs, "gone").await, Err(FsError::NotFound));
    let secret = find(&fs, "secret").await.unwrap();
    assert_eq!(secret.size, 6);
    assert_eq!(fs.read(secret.ino, 0, 6).await, Err(FsError::Failed));
}

#[tokio::test]
async fn extended_attributes_show_when_there_are_any() {
    let plain = Node::directory([("f", Node::file("x"))]);
    let (store, snapshot) = TestStore::with(plain, &["/"]).await;
    let fs = open(&store, of(&snapshot)).await;
    assert!(!fs.shows_xattrs());
    assert_eq!(fs.xattr_names(ROOT).await, Err(FsError::Unsupported));

    let tree = Node::directory([("f", Node::file("x").xattr("user.a", "1").xattr("user.b", "2"))]);
    let snapshot = store.backup(tree, &["/"], Description::default()).await;
    let fs = open(&store, of(&snapshot)).await;
    let file = find(&fs, "f").await.unwrap();
    assert_eq!(fs.xattr_names(file.ino).await, Ok(vec![b"user.a".to_vec(), b"user.b".to_vec()]));
    assert_eq!(fs.xattr(file.ino, b"user.b").await, Ok(b"2".to_vec()));
    assert_eq!(fs.xattr(file.ino, b"user.c").await, Err(FsError::NoAttribute));
    let fs = open(&store, FsConfig { xattrs: Xattrs::Off, ..of(&snapshot) }).await;
    assert!(!fs.shows_xattrs());
}

#[tokio::test]
async fn views_lead_to_snapshots() {
    let tree = || Node::directory([("srv", Node::directory([("data", Node::directory([]))]))]);
    let store = TestStore::new().await;
    let header = |host: &str, tags: &[&str], time| Description {
        host: host.into(),
        tags: tags.iter().map(|t| (*t).into()).collect(),
        time_ns: time,
        ..Description::default()
    };
    let old = store.backup(tree(), &["/srv/data"], header("a/b", &["daily"], 1_000_000_000)).await;
    let new = store.backup(tree(), &["/srv/data"], header("host", &[], 2_000_000_000)).await;
    let fs = open(&store, FsConfig::default()).await;
    let mut root = names(&fs, "").await;
    root.sort();
    assert_eq!(root, ["by-path", "hosts", "ids", "latest", "snapshots", "sources", "tags", "versions"]);
    let snapshots = names(&fs, "snapshots").await;
    assert_eq!(snapshots.len(), 2);
    assert!(snapshots[0].ends_with(&format!("_{}", old.id.short())), "{snapshots:?}");
    assert!(snapshots[0].starts_with("1970-01-01T"), "{snapshots:?}");
    assert_eq!(link(&fs, "latest").await, format!("snapshots/{}", snapshots[1]));
    assert_eq!(link(&fs, "ids").await, ".plakar/ids");
    assert_eq!(
        link(&fs, &format!(".plakar/ids/{}", old.id)).await,
        format!("../../snapshots/{}", snapshots[0])
    );
    let mut host = names(&fs, ".plakar/hosts/a%2Fb").await;
    host.sort();
    assert_eq!(host, [&snapshots[0][..], "by-path", "latest", "versions"]);
    assert_eq!(link(&fs, ".plakar/hosts/host/latest").await, format!("../../../snapshots/{}", snapshots[1]));
    assert_eq!(names(&fs, ".plakar/tags").await, ["daily"]);
    assert_eq!(names(&fs, ".plakar/sources").await, ["srv_data"]);
    assert_eq!(names(&fs, ".plakar/sources/srv_data").await.len(), 3);
    // As in Plakar, unlisted.
    assert_eq!(link(&fs, &new.id.short()).await, format!("snapshots/{}", snapshots[1]));
    assert_eq!(link(&fs, &new.id.to_string()).await, format!("snapshots/{}", snapshots[1]));
    assert_eq!(find(&fs, "0000").await, Err(FsError::NotFound));
    assert_eq!(names(&fs, &format!("snapshots/{}/srv", snapshots[0])).await, ["data"]);

    let only = FsConfig { filter: Filter::new(|s| s.tags.contains(&"daily".into())), ..FsConfig::default() };
    assert_eq!(names(&open(&store, only).await, "snapshots").await, snapshots[..1]);
}

#[tokio::test]
async fn the_imported_directory_is_the_root_of_one_snapshot() {
    let tree =
        Node::directory([("srv", Node::directory([("data", Node::directory([("f", Node::file("x"))]))]))]);
    let (store, snapshot) = TestStore::with(tree, &["/srv/data"]).await;
    let at = |path: Option<&str>| FsConfig {
        what: What::Snapshot { snapshot: snapshot.id, path: path.map(|p| p.as_bytes().to_vec()) },
        ..FsConfig::default()
    };
    assert_eq!(names(&open(&store, at(None)).await, "").await, ["f"]);
    let fs = open(&store, at(Some("/srv"))).await;
    assert_eq!(names(&fs, "").await, ["data"]);
    let data = find(&fs, "data").await.unwrap();
    assert_eq!(list(&fs, data.ino, 9).await[1], ("..".into(), 2, ROOT));
    let error = SnapshotFs::open(store.repository.clone(), at(Some("/srv/data/f"))).await.unwrap_err();
    assert!(error.to_string().contains("not a directory"), "{error}");
    assert!(SnapshotFs::open(store.repository.clone(), at(Some("/none"))).await.is_err());
    assert!(SnapshotFs::open(store.repository.clone(), of_id(ObjectId([0; 32]))).await.is_err());
}

#[tokio::test]
async fn new_and_removed_snapshots_change_the_views_and_nothing_else() {
    let tree = || Node::directory([("f", Node::file("x"))]);
    let (store, first) = TestStore::with(tree(), &["/"]).await;
    let fs = open(&store, FsConfig::default()).await;
    let before = fs.attributes(ROOT).await.unwrap();
    let old = link(&fs, "latest").await;
    let file = find(&fs, &format!("{old}/f")).await.unwrap();
    assert!(fs.refresh().await.unwrap().is_empty());
    assert_eq!(fs.attributes(ROOT).await.unwrap(), before);

    store.backup(tree(), &["/"], Description::default()).await;
    let changes = fs.refresh().await.unwrap();
    let root = changes.iter().find(|c| c.folder.is_empty()).unwrap();
    assert_eq!(root.names, [Arc::from(&b"latest"[..])]);
    assert_ne!(link(&fs, "latest").await, old);
    assert!(fs.attributes(ROOT).await.unwrap().mtime > before.mtime);
    assert_eq!(names(&fs, "snapshots").await.len(), 2);

    store.repository.remove_snapshots(&[first.id], "test").await.unwrap();
    fs.refresh().await.unwrap();
    assert_eq!(names(&fs, "snapshots").await.len(), 1);
    // Whoever has it open goes on.
    assert_eq!(&fs.read(file.ino, 0, 9).await.unwrap().joined()[..], b"x");
}

#[tokio::test]
async fn a_listing_goes_on_while_snapshots_come_and_go() {
    let tree = || Node::directory([("f", Node::file("x"))]);
    let store = TestStore::new().await;
    let mut ids = Vec::new();
    for i in 1..=6 {
        let header = Description { time_ns: i * 1_000_000_000, ..Description::default() };
        ids.push(store.backup(tree(), &["/"], header).await.id);
    }
    let fs = open(&store, FsConfig::default()).await;
    let all = names(&fs, "snapshots").await;
    let snapshots = find(&fs, "snapshots").await.unwrap();
    let batch = fs.list(snapshots.ino, 2).await.unwrap();
    let third = fs.item(&batch, 2).unwrap().cookie;
    store.repository.remove_snapshots(&[ids[1], ids[2], ids[4]], "test").await.unwrap();
    fs.refresh().await.unwrap();
    let rest = fs.list(snapshots.ino, third).await.unwrap();
    let rest: Vec<_> = (0..rest.len()).filter_map(|i| fs.item(&rest, i)).map(|i| i.name.to_vec()).collect();
    assert_eq!(rest, [all[3].as_bytes(), all[5].as_bytes()]);
}

#[tokio::test]
async fn a_failing_store_gives_an_error_and_later_the_bytes() {
    let tree = Node::directory([("f", Node::file("x"))]);
    let (store, snapshot) = TestStore::with(tree, &["/"]).await;
    let fs = open(&store, of(&snapshot)).await;
    let file = find(&fs, "f").await.unwrap();
    store.store.set(Trouble::Fail);
    assert_eq!(fs.read(file.ino, 0, 1).await, Err(FsError::Failed));
    store.store.set(Trouble::None);
    assert_eq!(&fs.read(file.ino, 0, 1).await.unwrap().joined()[..], b"x");
    // What was looked at is answered without the store.
    store.store.set(Trouble::Fail);
    assert!(find(&fs, "f").await.is_ok());
    assert!(fs.read(file.ino, 0, 1).await.is_ok());
}

#[tokio::test]
async fn a_store_that_does_not_answer_gives_an_error_in_time() {
    let tree = Node::directory([("f", Node::file("x"))]);
    let (store, snapshot) = TestStore::with(tree, &["/"]).await;
    let fs = open(&store, FsConfig { deadline: Duration::from_millis(50), ..of(&snapshot) }).await;
    let file = find(&fs, "f").await.unwrap();
    store.store.set(Trouble::Delay(Duration::from_millis(300)));
    let begun = Instant::now();
    assert_eq!(fs.read(file.ino, 0, 1).await, Err(FsError::TimedOut));
    assert!(begun.elapsed() < Duration::from_millis(250));
    // The load went on: the next reader finds it.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(&fs.read(file.ino, 0, 1).await.unwrap().joined()[..], b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_waits_of_a_request_together_end_in_time() {
    let noise = |seed| {
        let mut random = Random(seed);
        Node::file((0..3 << 20).map(|_| random.next() as u8).collect::<Vec<u8>>())
    };
    let (store, snapshot) =
        TestStore::with(Node::directory([("a", noise(1)), ("b", noise(2))]), &["/"]).await;
    let fs = open(&store, FsConfig { deadline: Duration::from_millis(500), ..of(&snapshot) }).await;
    let (a, b) = (find(&fs, "a").await.unwrap(), find(&fs, "b").await.unwrap());
    store.store.set(Trouble::Delay(Duration::from_millis(350)));
    let begun = Instant::now();
    let both = async { (fs.read(a.ino, 0, 1).await, fs.read(b.ino, 0, 1).await) };
    let (first, second) = fs.request(both).await;
    assert_eq!((first.map(|bytes| bytes.len()), second), (Ok(1), Err(FsError::TimedOut)));
    assert!(begun.elapsed() < Duration::from_millis(690), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_one_file_load_it_once() {
    let tree = Node::directory([("f", Node::file("same bytes for all"))]);
    let (store, snapshot) = TestStore::with(tree, &["/"]).await;
    let fs = open(&store, of(&snapshot)).await;
    let file = find(&fs, "f").await.unwrap();
    store.store.set(Trouble::Delay(Duration::from_millis(50)));
    let before = store.store.gets();
    let reads = (0..64).map(|_| {
        let fs = fs.clone();
        tokio::spawn(async move { fs.read(file.ino, 0, 100).await.unwrap() })
    });
    for read in futures::future::join_all(reads).await {
        assert_eq!(&read.unwrap().joined()[..], b"same bytes for all");
    }
    assert_eq!(store.store.gets() - before, 1);
}

#[tokio::test]
async fn statistics_add_up() {
    let tree = Node::directory([("f", Node::file("12345")), ("d", Node::directory([]))]);
    let (store, snapshot) = TestStore::with(tree.clone(), &["/"]).await;
    store.backup(tree, &["/"], Description::default()).await;
    let one = open(&store, of(&snapshot)).await.statistics();
    assert_eq!((one.bytes, one.files), (5, 2));
    let all = open(&store, FsConfig::default()).await.statistics();
    assert_eq!((all.bytes, all.files), (10, 4));
}
