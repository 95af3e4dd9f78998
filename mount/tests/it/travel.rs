//! Other times, histories, and what a mount says of itself; without a kernel.

use std::sync::Arc;

use plakar_engine::meta::Kind;
use plakar_engine::snapshot::Description;
use plakar_mount::config::FsConfig;
use plakar_mount::fs::{Holds, Lookup, ROOT, SnapshotFs};
use plakar_mount::{FsError, Xattrs};

use crate::fs::{find, link, names, of, open};
use crate::source::Node;
use crate::store::TestStore;

const DAY: i64 = 86_400_000_000_000;
/// Noon of 10 January 2026, UTC: the same day everywhere but at the date line.
const NOON: i64 = 1_768_046_400_000_000_000;

fn description(host: &str, days: i64) -> Description {
    Description { host: host.into(), time_ns: NOON + days * DAY, ..Description::default() }
}

fn etc<const N: usize>(entries: [(&str, Node); N]) -> Node {
    Node::directory([("etc", Node::directory(entries))])
}

/// Four days of one host, and one of another.
async fn five(store: &TestStore) -> Vec<String> {
    let sub = |text: &str| Node::directory([("deep", Node::file(text))]);
    let trees = [
        ("web", etc([("passwd", Node::file("one")), ("sub", sub("a"))])),
        ("web", etc([("passwd", Node::file("one")), ("sub", sub("b")), ("new", Node::file("x"))])),
        ("db", etc([("passwd", Node::file("other"))])),
        ("web", etc([("sub", sub("b"))])),
        ("web", etc([("passwd", Node::file("two")), ("sub", sub("b")), ("sub@latest", Node::file("real"))])),
    ];
    for (day, (host, tree)) in trees.into_iter().enumerate() {
        store.backup(tree, &["/etc"], description(host, day as i64)).await;
    }
    let fs = open(store, FsConfig::default()).await;
    names(&fs, "snapshots").await
}

async fn text(fs: &Arc<SnapshotFs>, path: &str) -> Result<String, FsError> {
    let attr = find(fs, path).await?;
    Ok(String::from_utf8(fs.read(attr.ino, 0, 1 << 20).await?.joined().to_vec()).unwrap())
}

#[tokio::test]
async fn a_name_with_a_time_is_what_stood_there_then() {
    let store = TestStore::new().await;
    let s = five(&store).await;
    let fs = open(&store, FsConfig::default()).await;
    let etc = format!("snapshots/{}/etc", s[4]);
    for (name, wanted) in [
        ("passwd", Ok("two")),
        ("passwd@2026-01-10", Ok("one")),
        ("passwd@2026-01-11", Ok("one")),
        // The other host's file is not this one's.
        ("passwd@2026-01-12", Ok("one")),
        ("passwd@2026-01-13", Err(FsError::NotFound)),
        ("passwd@2026-01-14", Ok("two")),
        ("passwd@now", Ok("two")),
        ("passwd@2026-01-09", Err(FsError::NotFound)),
        ("passwd@latest", Ok("two")),
        ("passwd@latest~1", Err(FsError::NotFound)),
        ("passwd@latest~2", Ok("one")),
        ("passwd@latest~9", Err(FsError::NotFound)),
        ("none@latest", Err(FsError::NotFound)),
        ("passwd@", Err(FsError::NotFound)),
        // A real name wins.
        ("sub@latest", Ok("real")),
    ] {
        let found = text(&fs, &format!("{etc}/{name}")).await;
        assert_eq!(found, wanted.map(String::from), "{name}");
    }
    let id = s[0].rsplit_once('_').unwrap().1;
    assert_eq!(text(&fs, &format!("{etc}/passwd@{id}")).await, Ok("one".into()));
    assert_eq!(text(&fs, &format!("{etc}/passwd@{}", s[0])).await, Ok("one".into()));
    // Directories are links: one directory has one name.
    assert_eq!(
        link(&fs, &format!("{etc}/sub@2026-01-10")).await,
        format!("../../../snapshots/{}/etc/sub", s[0])
    );
    assert_eq!(link(&fs, &format!("{etc}/@2026-01-11")).await, format!("../../../snapshots/{}/etc", s[1]));
    assert_eq!(
        link(&fs, &format!("snapshots/{}/@latest~3", s[4])).await,
        format!("../../snapshots/{}", s[0])
    );
    // At the root and in the views.
    assert_eq!(link(&fs, "@latest~1").await, format!("snapshots/{}", s[3]));
    assert_eq!(link(&fs, "latest@2026-01-12").await, format!("snapshots/{}", s[2]));
    assert_eq!(link(&fs, "hosts/web/@2026-01-12").await, format!("../../../snapshots/{}", s[1]));
    assert_eq!(link(&fs, "hosts/db/latest@now").await, format!("../../../snapshots/{}", s[2]));
    assert_eq!(find(&fs, "hosts/db/@2026-01-10").await, Err(FsError::NotFound));
    // Never listed, never kept.
    assert_eq!(names(&fs, &etc).await, ["passwd", "sub", "sub@latest"]);
    let ino = find(&fs, &etc).await.unwrap().ino;
    let holds = async |name: &[u8]| match fs.lookup(ino, name).await.unwrap() {
        Lookup::Found { holds, .. } | Lookup::Missing { holds } => holds,
    };
    assert_eq!(holds(b"passwd@2026-01-10").await, Holds::Once);
    assert_eq!(holds(b"none@latest").await, Holds::Once);
    assert_eq!(holds(b"user@example.org").await, Holds::ForEver);
    assert_eq!(holds(b"sub@latest").await, Holds::ForEver);
    // One snapshot has no other times.
    let catalog = store.repository.catalog().await.unwrap();
    let one = open(&store, of(&catalog.snapshots[0])).await;
    assert_eq!(find(&one, "etc/passwd@2026-01-10").await, Err(FsError::NotFound));
}

#[tokio::test]
async fn a_name_with_a_time_opens_no_door() {
    let store = TestStore::new().await;
    let of = |mode, text: &str| {
        let inside = Node::directory([("file", Node::file(text)), ("link", Node::symlink("file"))]);
        Node::directory([("d", inside.mode(mode))])
    };
    store.backup(of(0o700, "secret"), &["/"], description("web", 0)).await;
    store.backup(of(0o755, "public"), &["/"], description("web", 1)).await;
    store.backup(of(0o755, "public too"), &["/"], description("web", 2)).await;
    let fs = open(&store, FsConfig::default()).await;
    let s = names(&fs, "snapshots").await;
    let d = format!("snapshots/{}/d", s[2]);
    // The kernel checks the way to what a link leads to.
    assert_eq!(
        link(&fs, &format!("{d}/file@2026-01-10")).await,
        format!("../../../snapshots/{}/d/file", s[0])
    );
    assert_eq!(text(&fs, &format!("{d}/file@2026-01-11")).await, Ok("public".into()));
    // Its target is meant from where it stands.
    assert_eq!(
        link(&fs, &format!("{d}/link@2026-01-11")).await,
        format!("../../../snapshots/{}/d/link", s[1])
    );
}

#[tokio::test]
async fn versions_list_each_change_once() {
    let store = TestStore::new().await;
    let s = five(&store).await;
    let fs = open(&store, FsConfig::default()).await;
    let versions = async |path: &str| {
        let mut names = names(&fs, path).await;
        names.retain(|n| n != "latest");
        names
    };
    assert_eq!(versions("versions/etc/passwd").await, [&s[0][..], &s[2], &s[4]]);
    assert_eq!(versions("hosts/web/versions/etc/passwd").await, [&s[0][..], &s[4]]);
    assert_eq!(versions("versions/etc/new").await, [&s[1][..]]);
    // As a directory: unchanged between the second day and the fourth.
    assert_eq!(versions("hosts/web/versions/etc/sub").await, [&s[0][..], &s[1]]);
    assert_eq!(versions("versions/etc/sub/deep").await, [&s[0][..], &s[1]]);
    assert_eq!(versions("versions").await.len(), 5);
    let one = format!("versions/etc/passwd/{}", s[2]);
    assert_eq!(link(&fs, &one).await, format!("../../../../snapshots/{}/etc/passwd", s[2]));
    let one = format!("hosts/web/versions/etc/passwd/{}", s[0]);
    assert_eq!(link(&fs, &one).await, format!("../../../../../../snapshots/{}/etc/passwd", s[0]));
    assert_eq!(link(&fs, "versions/etc/new/latest").await, format!("../../../../snapshots/{}/etc/new", s[1]));
    for none in ["versions/etc/none", "versions/passwd", "versions/etc/passwd/x", "hosts/db/versions/etc/sub"]
    {
        assert_eq!(find(&fs, none).await, Err(FsError::NotFound), "{none}");
    }
}

#[tokio::test]
async fn a_known_path_finds_a_file_of_an_unknown_time() {
    let store = TestStore::new().await;
    let s = five(&store).await;
    let fs = open(&store, FsConfig::default()).await;
    let sorted = async |path: &str| {
        let mut names = names(&fs, path).await;
        names.sort();
        names
    };
    assert_eq!(sorted("by-path").await, ["etc"]);
    assert_eq!(sorted("by-path/etc").await, ["new", "passwd", "sub", "sub@latest"]);
    assert_eq!(sorted("hosts/db/by-path/etc").await, ["passwd"]);
    assert_eq!(sorted("by-path/etc/new").await, [&s[1][..], "latest"]);
    assert_eq!(sorted("by-path/etc/sub").await, ["deep"]);
    assert_eq!(link(&fs, "by-path/etc/new").await, "../../2/etc/new");
    assert_eq!(
        link(&fs, "by-path/etc/new/latest").await,
        format!("../../../../../snapshots/{}/etc/new", s[1])
    );
    for none in ["by-path/none", "by-path/etc/none", "by-path/etc/new/none", ".plakar/by-path/1/none"] {
        assert_eq!(find(&fs, none).await, Err(FsError::NotFound), "{none}");
    }
}

/// What is met by whoever goes through all directories below one, and not through links.
async fn met(fs: &Arc<SnapshotFs>, path: &str) -> Vec<String> {
    let (mut met, mut open) = (Vec::new(), vec![path.to_owned()]);
    while let Some(path) = open.pop() {
        for name in names(fs, &path).await {
            let path = format!("{path}/{name}");
            if find(fs, &path).await.unwrap().kind == Kind::Directory {
                open.push(path.clone());
            }
            met.push(path);
        }
    }
    met
}

#[tokio::test]
async fn nothing_derived_is_reached_by_recursion() {
    let store = TestStore::new().await;
    let empty = open(&store, FsConfig::default()).await;
    assert_eq!(met(&empty, "").await.len(), 7);
    for path in ["by-path", "versions", "hosts", ".plakar/host"] {
        assert_eq!(names(&empty, path).await.len(), 0, "{path}");
    }
    five(&store).await;
    let fs = open(&store, FsConfig::default()).await;
    let (all, real) = (met(&fs, "").await, met(&fs, "snapshots").await);
    // And `latest`, `snapshots` and a link for each of the views.
    assert_eq!(all.len(), real.len() + 8);
    // Where somebody begins in what is derived, he does not get far.
    for (path, most) in [("by-path", 1), ("versions", 6), ("hosts/web", 7), ("hosts", 20), (".plakar", 60)] {
        let met = met(&fs, path).await;
        assert!(!met.is_empty() && met.len() <= most, "{path}: {met:?}");
    }
}

#[tokio::test]
async fn histories_follow_new_and_removed_snapshots() {
    let store = TestStore::new().await;
    let s = five(&store).await;
    let fs = open(&store, FsConfig::default()).await;
    assert_eq!(names(&fs, "versions/etc/passwd").await.len(), 4);
    let before = find(&fs, "versions/etc").await.unwrap().mtime;
    store.backup(etc([("passwd", Node::file("three"))]), &["/etc"], description("web", 9)).await;
    fs.refresh().await.unwrap();
    assert_eq!(names(&fs, "versions/etc/passwd").await.len(), 5);
    assert!(find(&fs, "versions/etc").await.unwrap().mtime > before);
    let gone = store.repository.catalog().await.unwrap();
    let gone = gone.snapshots.iter().find(|i| s[0].ends_with(&i.id.short())).unwrap().id;
    store.repository.remove_snapshots(&[gone], "test").await.unwrap();
    fs.refresh().await.unwrap();
    // The second day now is where the first version is first seen.
    assert!(names(&fs, "versions/etc/passwd").await.contains(&s[1]));
}

#[tokio::test]
async fn equal_trees_are_read_once() {
    let store = TestStore::new().await;
    let same = || etc([("sub", Node::directory([("deep", Node::file("same"))]))]);
    for day in 0..40 {
        store.backup(same(), &["/etc"], description("web", day)).await;
    }
    let fs = open(&store, FsConfig::default()).await;
    let before = store.store.gets();
    assert_eq!(names(&fs, "versions/etc/sub/deep").await.len(), 2);
    assert!(store.store.gets() - before <= 3, "{}", store.store.gets() - before);
}

#[tokio::test]
async fn a_mount_tells_about_itself() {
    let store = TestStore::new().await;
    let s = five(&store).await;
    let fs = open(&store, FsConfig { xattrs: Xattrs::On, ..FsConfig::default() }).await;
    assert!(!names(&fs, "").await.contains(&".plakar".into()));
    let mut about = names(&fs, ".plakar").await;
    about.sort();
    let views = ["by-path", "hosts", "ids", "sources", "tags", "versions"];
    about.retain(|name| !views.contains(&name.as_str()));
    assert_eq!(about, ["snapshots", "statistics.json", "statistics.txt"]);
    let read = async |path: &str| text(&fs, path).await.unwrap();
    let first: serde_json::Value = serde_json::from_str(&read(".plakar/statistics.json").await).unwrap();
    read(&format!("snapshots/{}/etc/passwd", s[4])).await;
    let then: serde_json::Value = serde_json::from_str(&read(".plakar/statistics.json").await).unwrap();
    let reads = |v: &serde_json::Value| v["requests"]["reads"].as_u64().unwrap();
    assert!(reads(&then) > reads(&first), "{first} {then}");
    assert!(read(".plakar/statistics.txt").await.contains("requests.reads"));
    let description: serde_json::Value =
        serde_json::from_str(&read(&format!(".plakar/snapshots/{}.json", s[2])).await).unwrap();
    assert_eq!(
        (description["origin"].as_str(), description["roots"][0].as_str()),
        (Some("db"), Some("/etc"))
    );

    let file = find(&fs, &format!("snapshots/{}/etc/passwd", s[4])).await.unwrap().ino;
    let value =
        async |name: &str| fs.xattr(file, name.as_bytes()).await.map(|v| String::from_utf8(v).unwrap());
    assert!(s[4].ends_with(&value("user.plakar.snapshot").await.unwrap()[..8]));
    assert_eq!(value("user.plakar.path").await, Ok("/etc/passwd".into()));
    assert_eq!(value("user.plakar.verified").await, Ok("yes".into()));
    assert_eq!(value("user.plakar.blobs").await.unwrap().len(), 65);
    assert_eq!(value("user.plakar.none").await, Err(FsError::NoAttribute));
    // A copy does not carry them along.
    assert!(fs.xattr_names(file).await.unwrap().is_empty());

    // Nothing of all this is held for good.
    let one = open(&store, FsConfig::default()).await;
    let Lookup::Found { attr, .. } = one.lookup(ROOT, b".plakar").await.unwrap() else { panic!("none") };
    one.forget(attr.ino, 1);
    assert_eq!(one.held_inodes(), 1);
}
