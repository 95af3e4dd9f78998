//! Over HTTP, from a store in memory that fails when it is told to.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plakar_engine::meta::Kind;
use plakar_engine::snapshot::Description;
use plakar_mount::config::FsConfig;
use plakar_mount::fs::SnapshotFs;
use plakar_mount::http::{HttpConfig, HttpError, HttpServer};
use plakar_mount::{Filter, What};
use tokio::sync::oneshot;

use crate::client::{Reply, ask, multistatus, receive, send};
use crate::source::Node;
use crate::store::{TestStore, Trouble};

/// A server that ends with its test.
struct Served {
    store: TestStore,
    fs: Arc<SnapshotFs>,
    at: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn new(store: TestStore, fs: FsConfig) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = HttpConfig { address, token: None, fs, refresh: Some(Duration::ZERO) };
        let server = HttpServer::start(config, store.repository.clone()).await.unwrap();
        let (fs, at) = (server.file_system().clone(), server.address());
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(server.serve(async move {
            let _either_way = stopped.await;
        }));
        Self { store, fs, at, stop: Some(stop), ended }
    }

    /// Of one snapshot whose `/` was backed up.
    async fn tree(tree: Node, change: impl FnOnce(&mut FsConfig)) -> Self {
        let (store, snapshot) = TestStore::with(tree, &["/"]).await;
        let what = What::Snapshot { snapshot: snapshot.id, path: None };
        let mut config = FsConfig { what, ..FsConfig::default() };
        change(&mut config);
        Self::new(store, config).await
    }

    async fn ask(&self, method: &'static str, path: &str, headers: &[(&'static str, &'static str)]) -> Reply {
        let (at, path, headers) = (self.at, path.to_owned(), headers.to_vec());
        tokio::task::spawn_blocking(move || ask(at, method, &path, &headers)).await.unwrap()
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[]).await
    }

    async fn propfind(&self, path: &str) -> Reply {
        self.ask("PROPFIND", path, &[("Depth", "1")]).await
    }

    /// Waits until nobody holds an inode but the root.
    async fn lets_go(&self) {
        let begun = Instant::now();
        while self.fs.held_inodes() != 1 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{} are held", self.fs.held_inodes());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ends(mut self) {
        let _listens = self.stop.take().map(|s| s.send(()));
        self.ended.await.unwrap();
    }
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut reader = blake3::Hasher::new().finalize_xof();
    reader.fill(&mut bytes);
    bytes
}

fn names(reply: &Reply) -> Vec<String> {
    multistatus(reply).into_iter().map(|(path, _)| path).collect()
}

fn linked() -> Node {
    Node::directory([
        ("dir", Node::directory([("file", Node::file("inside")), ("up", Node::symlink("../other/../dir"))])),
        (
            "other",
            Node::directory([("back", Node::symlink("../dir/file")), ("far", Node::symlink("../../x"))]),
        ),
        ("to-file", Node::symlink("dir/file")),
        ("to-dir", Node::symlink("./dir//")),
        ("chain", Node::symlink("to-dir/file")),
        ("self", Node::symlink(".")),
        ("loop-a", Node::symlink("loop-b")),
        ("loop-b", Node::symlink("loop-a")),
        ("absolute", Node::symlink("/dir/file")),
        ("above", Node::symlink("../dir/file")),
        ("nowhere", Node::symlink("dir/missing")),
        ("through", Node::symlink("dir/file/x")),
        ("pipe", Node::special(Kind::Fifo, (0, 0))),
        ("gone", Node::missing()),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_followed_as_long_as_they_stay_inside() {
    let served = Served::tree(linked(), |_| ()).await;
    for path in
        ["/to-file", "/to-dir/file", "/chain", "/other/back", "/self/chain", "/dir//file", "/./dir/file"]
    {
        let reply = served.get(path).await;
        assert_eq!((reply.status, &reply.body[..]), (200, &b"inside"[..]), "{path}");
    }
    for (path, status) in [
        ("/absolute", 403),
        ("/above", 403),
        ("/other/far", 403),
        ("/self/above", 403),
        ("/nowhere", 404),
        ("/through", 404),
        ("/to-file/", 200),
        ("/to-file/x", 404),
        ("/loop-a", 508),
        ("/loop-b/x", 508),
        ("/pipe", 403),
        ("/gone", 404),
        ("/dir/../dir/file", 400),
        ("/dir/%2e%2e/dir/file", 400),
        ("/dir%2ffile", 400),
        ("/%", 400),
    ] {
        assert_eq!(served.get(path).await.status, status, "{path}");
    }
    served.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_walks_in_a_circle() {
    let served = Served::tree(linked(), |_| ()).await;
    // A browser is led back to the straight way.
    for (path, wanted) in [
        ("/self/", "./../"),
        ("/self", "./"),
        ("/dir/up/", "./../../dir/"),
        ("/self/self/dir/up/up", "./../../../../dir/"),
        ("/dir", "dir/"),
    ] {
        let reply = served.get(path).await;
        assert_eq!((reply.status, reply.header("location")), (302, wanted), "{path}");
    }
    assert_eq!(served.propfind("/self/").await.status, 508);
    // Whoever goes through all collections by WebDAV comes to an end, having seen each file by each way there is.
    let (mut ahead, mut files) = (vec!["/".to_owned()], Vec::new());
    while let Some(path) = ahead.pop() {
        let reply = served.propfind(&path).await;
        assert_eq!((reply.status, reply.whole), (207, true), "{path}");
        for (path, is_collection) in multistatus(&reply).into_iter().skip(1) {
            if is_collection { ahead.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    assert_eq!(files, ["/chain", "/dir/file", "/other/back", "/pipe", "/to-dir/file", "/to-file"]);
    served.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_inode_is_held_after_an_answer() {
    let big = noise(24 << 20);
    let Node { what: crate::source::What::Directory(mut top), .. } = linked() else { unreachable!() };
    top.insert(b"big".to_vec(), Node::file(big));
    let (store, _) = TestStore::with(Node::directory_of(top), &["/"]).await;
    let served = Served::new(store, FsConfig { filter: Filter::all(), ..FsConfig::default() }).await;
    for path in [
        "/",
        "/latest",
        "/latest/",
        "/snapshots/",
        "/latest/dir/",
        "/latest/self/",
        "/latest/loop-a",
        "/nothing",
    ] {
        served.get(path).await;
        served.ask("HEAD", path, &[]).await;
        served.propfind(path).await;
        served.ask("PROPFIND", path, &[("Depth", "0")]).await;
        served.ask("PUT", path, &[]).await;
    }
    for path in ["/latest/chain", "/latest/big"] {
        served.get(path).await;
        served.ask("GET", path, &[("Range", "bytes=0-1,3-4,-1")]).await;
        served.ask("GET", path, &[("Range", "bytes=99999999-")]).await;
        served.ask("GET", path, &[("If-None-Match", "*")]).await;
    }
    served.lets_go().await;
    // Clients that go away in the middle of it.
    for path in ["/latest/big", "/latest/"] {
        let mut stream = send(served.at, "GET", path, &[], b"");
        let mut first = [0; 100];
        stream.read_exact(&mut first).unwrap();
        if path == "/latest/big" {
            assert!(served.fs.held_inodes() > 1, "it is being read");
        }
        drop(stream);
        served.lets_go().await;
    }
    served.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_is_never_told_as_missing_or_empty() {
    let tree = || Node::directory([("d", Node::directory([("file", Node::file(noise(1 << 20)))]))]);
    let short = Duration::from_millis(300);
    for (trouble, status) in [(Trouble::Fail, 502), (Trouble::Delay(Duration::from_secs(60)), 504)] {
        for path in ["/d/file", "/d/"] {
            let served = Served::tree(tree(), |c| c.deadline = short).await;
            served.store.store.set(trouble);
            for reply in [served.get(path).await, served.propfind(path).await] {
                assert_eq!(
                    (reply.status, reply.whole),
                    (status, true),
                    "{trouble:?} {path}: {}",
                    reply.text()
                );
                assert!(reply.text().contains("store"), "{}", reply.text());
            }
            served.ends().await;
        }
    }
    let unreadable = Node::directory([("file", Node::file("text").unreadable())]);
    let served = Served::tree(unreadable, |_| ()).await;
    assert_eq!(names(&served.propfind("/").await), ["/", "/file"]);
    assert_eq!(served.get("/file").await.status, 502);
    served.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_in_the_middle_breaks_the_connection() {
    let crowd = (0..60_000).map(|i| (format!("{i:09}-{:x}", i * 7919_u64).into_bytes(), Node::file("")));
    let crowd = Node::directory_of(crowd.collect::<BTreeMap<_, _>>());
    let tree = Node::directory([("big", Node::file(noise(48 << 20))), ("crowd", crowd)]);
    // Nothing may be at hand but what memory holds.
    let small = |c: &mut FsConfig| (c.cache_bytes, c.disk_cache_bytes) = (2 << 20, Some(0));
    let served = Served::tree(tree, small).await;
    for (method, path) in [("GET", "/big"), ("PROPFIND", "/crowd/"), ("GET", "/crowd/")] {
        served.store.store.set(Trouble::None);
        let stream = send(served.at, method, path, &[("Depth", "1")], b"");
        stream.peek(&mut [0]).unwrap();
        served.store.store.set(Trouble::Fail);
        let reply = tokio::task::spawn_blocking(move || receive(stream, method)).await.unwrap();
        assert!(matches!(reply.status, 200 | 207), "{method} {path}: {}", reply.status);
        assert!(!reply.whole, "{method} {path}: {} bytes", reply.body.len());
        served.lets_go().await;
    }
    served.store.store.set(Trouble::None);
    let reply = served.propfind("/crowd/").await;
    assert_eq!((reply.whole, names(&reply).len()), (true, 60_001));
    let reply = served.get("/crowd/").await;
    assert_eq!((reply.whole, reply.text().matches("<a href=\"0").count()), (true, 60_000));
    served.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_would_cost_too_much_are_refused() {
    let served = Served::tree(linked(), |_| ()).await;
    for (body, status) in [
        ("<a>".repeat(5000).into_bytes(), 400),
        (vec![b' '; 1 << 20], 413),
        (b"<?xml version=\"1.0\"?><!-- nothing -->".to_vec(), 400),
        (b"<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;\">]><x>&b;</x>".to_vec(), 400),
        (b"<D:propfind xmlns:D=\"DAV:\"><D:prop><D:getetag/></D:prop></D:propfind>".to_vec(), 207),
    ] {
        let at = served.at;
        let asked = tokio::task::spawn_blocking(move || {
            receive(send(at, "PROPFIND", "/", &[("Depth", "1")], &body), "PROPFIND")
        });
        assert_eq!(asked.await.unwrap().status, status);
    }
    for headers in
        [&[][..], &[("Depth", "infinity")], &[("Depth", "2")], &[("Depth", "infinity"), ("X-Litmus", "1")]]
    {
        let reply = served.ask("PROPFIND", "/", headers).await;
        assert_eq!(reply.status, 403, "{headers:?}");
        assert!(reply.text().contains("propfind-finite-depth"));
    }
    assert_eq!(served.get("/dir/file").await.status, 200);
    served.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_go_by_time_and_say_what_they_are() {
    let store = TestStore::new().await;
    for (tag, file) in [("a<b", "one"), ("c", "two")] {
        let header = Description { tags: vec![tag.into()], host: "h&h".into(), ..Description::default() };
        store.backup(Node::directory([("file", Node::file(file))]), &["/"], header).await;
    }
    let served = Served::new(store, FsConfig::default()).await;
    let page = served.get("/").await.text();
    let places: Vec<_> = ["latest", "hosts", "ids", "snapshots/", "tags"]
        .map(|name| page.find(&format!("<a href=\"{name}\">")).unwrap())
        .to_vec();
    assert!(places.is_sorted(), "{places:?}");
    assert!(page.contains("2 snapshots") && page.contains("h&amp;h"));
    let page = served.get("/snapshots/").await.text();
    // The newest first.
    assert!(page.find("<b>c</b>").unwrap() < page.find("<b>a&lt;b</b>").unwrap());
    assert_eq!(served.get("/latest/file").await.body, b"two");
    assert_eq!(served.get("/tags/a%3Cb/latest/file").await.body, b"one");
    served.lets_go().await;
    served.ends().await;
}

#[tokio::test]
async fn other_machines_need_a_token() {
    let store = TestStore::new().await;
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let address = address.parse().unwrap();
        let config = HttpConfig { address, token: None, fs: FsConfig::default(), refresh: None };
        let e = HttpServer::start(config, store.repository.clone()).await.map(|_| ()).unwrap_err();
        assert!(matches!(e, HttpError::Open { .. }), "{e}");
    }
}
