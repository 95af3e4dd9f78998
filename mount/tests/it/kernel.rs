//! Behind a real kernel mount.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use plakar_engine::meta::Kind;
use plakar_engine::snapshot::Description;
use plakar_mount::config::FsConfig;
use plakar_mount::fs::SnapshotFs;
use plakar_mount::session::Holder;
use plakar_mount::{MountConfig, MountError, MountSession, Unmount, What};

use crate::source::Node;
use crate::store::TestStore;

/// A mount that is taken down however its test ends.
pub(crate) struct Mounted {
    pub(crate) runtime: tokio::runtime::Runtime,
    session: Option<MountSession>,
    pub(crate) store: TestStore,
    pub(crate) at: PathBuf,
}

impl Mounted {
    fn new(prepare: impl AsyncFnOnce(&TestStore) -> FsConfig) -> Self {
        Self::with(prepare, |_| ())
    }

    pub(crate) fn with(
        prepare: impl AsyncFnOnce(&TestStore) -> FsConfig,
        change: impl FnOnce(&mut MountConfig),
    ) -> Self {
        assert!(Path::new("/dev/fuse").exists(), "these tests need /dev/fuse");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (store, session, at) = runtime.block_on(async {
            let store = TestStore::new().await;
            let fs = prepare(&store).await;
            let at = store.place.path().join("mnt");
            fs::create_dir(&at).unwrap();
            let mut config = MountConfig { fs, handle_signals: false, ..MountConfig::new(&at) };
            change(&mut config);
            let session = MountSession::start(config, store.repository.clone()).await.unwrap();
            (store, session, at)
        });
        Self { runtime, session: Some(session), store, at }
    }

    /// Of one snapshot whose `/` was backed up.
    fn tree(tree: Node) -> Self {
        Self::new(async move |store| {
            let snapshot = store.backup(tree, &["/"], Description::default()).await.id;
            FsConfig { what: What::Snapshot { snapshot, path: None }, ..FsConfig::default() }
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    fn unmount(&self, how: Unmount) -> Result<(), MountError> {
        self.runtime.block_on(self.session.as_ref().unwrap().unmount(how))
    }

    fn wait(&self) {
        let ended = async {
            tokio::time::timeout(Duration::from_secs(10), self.session.as_ref().unwrap().wait()).await
        };
        self.runtime.block_on(ended).expect("the session ends").unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _a_failed_test_has_said_so = self.unmount(Unmount::Detach);
    }
}

fn is_mounted(at: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|l| l.split(' ').nth(4) == at.to_str())
}

fn run(program: &str, arguments: &[&str], at: &Path) -> (bool, String) {
    let output = Command::new(program).args(arguments).arg(at).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let byte = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as u8
    };
    (0..len).map(byte).collect()
}

#[test]
fn files_read_as_they_were() {
    let contents = noise(3_500_000);
    let m = Mounted::tree(Node::directory([("f", Node::file(contents.clone())), ("empty", Node::file(""))]));
    assert_eq!(fs::read(m.path("f")).unwrap(), contents);
    assert!(fs::read(m.path("empty")).unwrap().is_empty());
    let file = File::open(m.path("f")).unwrap();
    for (offset, len) in [(0, 1), (4095, 2), (1_048_575, 3), (3_499_999, 1), (777_777, 1_500_001)] {
        let mut part = vec![0; len];
        file.read_exact_at(&mut part, offset as u64).unwrap();
        assert_eq!(part, contents[offset..offset + len], "{offset}");
    }
    let mut end = [0; 10];
    assert_eq!(file.read_at(&mut end, 3_499_995).unwrap(), 5);
    assert_eq!(file.read_at(&mut end, 3_500_000).unwrap(), 0);
    // Again, in odd steps from the page cache.
    let dd =
        Command::new("dd").arg(format!("if={}", m.path("f").display())).args(["bs=77777"]).output().unwrap();
    assert_eq!(dd.stdout, contents);
}

#[test]
fn attributes_reach_programs() {
    let m = Mounted::tree(Node::directory([
        ("f", Node::file("hello").mode(0o640).owner(12, 34).time(-5, 250_000_000)),
        ("l", Node::symlink("f")),
        ("p", Node::special(Kind::Fifo, (0, 0))),
        ("s", Node::special(Kind::Socket, (0, 0))),
        ("dev", Node::special(Kind::CharDevice, (5, 300))),
        ("d", Node::directory([("x", Node::file("x"))]).mode(0o2775)),
    ]));
    let f = fs::metadata(m.path("f")).unwrap();
    assert_eq!((f.mode(), f.uid(), f.gid(), f.size(), f.nlink()), (0o100_640, 12, 34, 5, 1));
    assert_eq!((f.mtime(), f.mtime_nsec()), (-5, 250_000_000));
    assert_eq!((f.blocks(), f.blksize()), (1, 128 << 10));
    assert_eq!(fs::read_link(m.path("l")).unwrap(), Path::new("f"));
    assert_eq!(fs::read(m.path("l")).unwrap(), b"hello");
    assert!(fs::symlink_metadata(m.path("p")).unwrap().file_type().is_fifo());
    assert!(fs::symlink_metadata(m.path("s")).unwrap().file_type().is_socket());
    let dev = fs::symlink_metadata(m.path("dev")).unwrap();
    assert!(dev.file_type().is_char_device());
    assert_eq!((rustix::fs::major(dev.rdev()), rustix::fs::minor(dev.rdev())), (5, 300));
    assert_eq!(fs::metadata(m.path("d")).unwrap().mode(), 0o42775);
    assert_eq!(fs::metadata(m.path("none")).unwrap_err().kind(), ErrorKind::NotFound);
    // Again: the kernel has remembered that it is not there.
    assert_eq!(fs::metadata(m.path("none")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_hundred_thousand_entries_list_once_each() {
    const N: usize = 100_000;
    let entries: BTreeMap<_, _> =
        (0..N).map(|i| (format!("entry-{i}").into_bytes(), Node::file(""))).collect();
    let m = Mounted::tree(Node::directory_of(entries));
    let begun = Instant::now();
    let mut names: Vec<_> = fs::read_dir(&m.at).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), N);
    let sizes: u64 = fs::read_dir(&m.at).unwrap().map(|e| e.unwrap().metadata().unwrap().size()).sum();
    assert_eq!(sizes, 0);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn names_of_one_file_are_one_file() {
    let m = Mounted::tree(Node::directory([
        ("a", Node::file("same").linked(1, 2)),
        ("d", Node::directory([("b", Node::file("same").linked(1, 2))])),
    ]));
    let (a, b) = (fs::metadata(m.path("a")).unwrap(), fs::metadata(m.path("d/b")).unwrap());
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    let listed = fs::read_dir(m.path("d")).unwrap().next().unwrap().unwrap();
    assert_eq!(std::os::unix::fs::DirEntryExt::ino(&listed), a.ino());
}

#[test]
fn holes_are_holes() {
    let m =
        Mounted::tree(Node::directory([("sparse", Node::sparse(5 << 30, vec![(1 << 30, noise(200_000))]))]));
    let mut file = File::open(m.path("sparse")).unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 391);
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap(), 1 << 30);
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(1 << 30)).unwrap(), (1 << 30) + 200_000);
    file.seek(SeekFrom::Start((5 << 30) - 3)).unwrap();
    let mut end = Vec::new();
    file.read_to_end(&mut end).unwrap();
    assert_eq!(end, [0, 0, 0]);
}

#[test]
fn extended_attributes_reach_programs() {
    let m = Mounted::tree(Node::directory([("f", Node::file("x").xattr("user.colour", "blue"))]));
    let mut value = [0_u8; 20];
    let n = rustix::fs::getxattr(m.path("f"), "user.colour", &mut value).unwrap();
    assert_eq!(&value[..n], b"blue");
    let n = rustix::fs::listxattr(m.path("f"), &mut value).unwrap();
    assert_eq!(&value[..n], b"user.colour\0");
    let none = rustix::fs::getxattr(m.path("f"), "user.none", &mut value);
    assert_eq!(none, Err(rustix::io::Errno::NODATA));
    assert_eq!(
        rustix::fs::getxattr(m.path("f"), "user.colour", &mut [0_u8; 2]),
        Err(rustix::io::Errno::RANGE)
    );
}

#[test]
fn without_extended_attributes_there_are_none() {
    let m = Mounted::tree(Node::directory([("f", Node::file("x"))]));
    let answer = rustix::fs::getxattr(m.path("f"), "user.a", &mut [0_u8; 9]);
    assert_eq!(answer, Err(rustix::io::Errno::OPNOTSUPP));
}

#[test]
fn nothing_can_be_written() {
    let m = Mounted::tree(Node::directory([("f", Node::file("x")), ("d", Node::directory([]))]));
    let read_only = |what: &str, result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem, "{what}");
    };
    read_only("create", File::create(m.path("new")).map(drop));
    read_only("open", fs::OpenOptions::new().write(true).open(m.path("f")).map(drop));
    read_only("mkdir", fs::create_dir(m.path("new")));
    read_only("unlink", fs::remove_file(m.path("f")));
    read_only("rmdir", fs::remove_dir(m.path("d")));
    read_only("rename", fs::rename(m.path("f"), m.path("g")));
    read_only("link", fs::hard_link(m.path("f"), m.path("g")));
    read_only("symlink", std::os::unix::fs::symlink("x", m.path("g")));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    read_only("chmod", fs::set_permissions(m.path("f"), mode));
    read_only("chown", std::os::unix::fs::chown(m.path("f"), Some(1), None));
    let none = rustix::fs::XattrFlags::empty();
    read_only("setxattr", rustix::fs::setxattr(m.path("f"), "user.a", b"", none).map_err(Into::into));
}

#[test]
fn views_are_live() {
    let tree = || Node::directory([("f", Node::file("x"))]);
    let m = Mounted::with(
        async |store| {
            store.backup(tree(), &["/"], Description::default()).await;
            FsConfig::default()
        },
        |config| config.refresh = Some(Duration::from_millis(100)),
    );
    let latest = fs::read_link(m.path("latest")).unwrap();
    assert_eq!(fs::read(m.path("latest/f")).unwrap(), b"x");
    assert_eq!(fs::read_dir(m.path("snapshots")).unwrap().count(), 1);
    let open = File::open(m.path("latest/f")).unwrap();
    let first = m.store.repository.clone();
    let first = m.runtime.block_on(async move { first.catalog().await.unwrap().snapshots[0].id });
    m.runtime.block_on(m.store.backup(tree(), &["/"], Description::default()));
    let within = Instant::now() + Duration::from_secs(2);
    while fs::read_link(m.path("latest")).unwrap() == latest {
        assert!(Instant::now() < within, "the new snapshot does not show");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(fs::read_dir(m.path("snapshots")).unwrap().count(), 2);
    m.runtime.block_on(m.store.repository.remove_snapshots(&[first], "test")).unwrap();
    while fs::read_dir(m.path("snapshots")).unwrap().count() == 2 {
        assert!(Instant::now() < within + Duration::from_secs(2), "the removed snapshot stays");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Who has just followed a link to it still finds it, for a moment.
    assert!(fs::metadata(m.at.join(&latest)).is_ok());
    while fs::metadata(m.at.join(&latest)).is_ok() {
        assert!(Instant::now() < within + Duration::from_secs(8), "the removed snapshot is still found");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(fs::metadata(m.at.join(latest)).unwrap_err().kind(), ErrorKind::NotFound);
    let mut byte = [0];
    open.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(&byte, b"x");
}

/// Waits until the mount has pushed what it pushes after a read: on a busy machine its thread may not get to it for a
/// while. `before` are the files that it had pushed before that read.
fn settle(fs: &SnapshotFs, before: u64) {
    let (mut last, patience) = (before, Instant::now() + Duration::from_millis(200));
    while Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
        let now = fs.status().pushed_files;
        if now == last && now != before {
            break;
        }
        last = now;
    }
}

/// Reads all files of a directory in the order of their inode numbers, as a `cp` does that is slower than the mount;
/// gives how many the mount was asked for.
fn read_all(m: &Mounted, folder: &str, wanted: &BTreeMap<String, Vec<u8>>) -> u64 {
    let file_system = m.session.as_ref().unwrap().file_system();
    let before = file_system.status().requests.reads;
    let mut entries: Vec<_> = fs::read_dir(m.path(folder)).unwrap().map(|e| e.unwrap()).collect();
    entries.sort_by_key(std::os::unix::fs::DirEntryExt::ino);
    assert_eq!(entries.len(), wanted.len());
    for entry in entries {
        let (name, status) = (entry.file_name().into_string().unwrap(), file_system.status());
        assert_eq!(fs::read(entry.path()).unwrap(), wanted[&name], "{name}");
        if file_system.status().requests.reads > status.requests.reads {
            settle(file_system, status.pushed_files);
        }
    }
    file_system.status().requests.reads - before
}

#[test]
fn files_read_in_turn_come_before_they_are_asked_for() {
    // Sizes around pages; some alike, so that blobs are shared; in the order of names, as they are stored.
    let sizes = [0, 1, 4095, 4096, 4097, 12_288, 20_000, 3, 70_000];
    let files: BTreeMap<String, Vec<u8>> =
        (0..600).map(|i| (format!("f{i:03}"), noise(sizes[i % 9] + i % 7))).collect();
    let tree = files.iter().map(|(n, c)| (n.clone().into_bytes(), Node::file(c.clone()))).collect();
    let m = Mounted::tree(Node::directory([("d", Node::directory_of(tree))]));
    let reads = read_all(&m, "d", &files);
    let fs = m.session.as_ref().unwrap().file_system();
    assert!(fs.status().pushed_files > 300, "{:?}", fs.status());
    assert!(reads < 300, "{reads} of 600 were asked for");
    // What was pushed is the file, to its last byte, and stays.
    assert_eq!(read_all(&m, "d", &files), 0);
}

#[test]
fn numbers_rise_as_names_do() {
    let tree = (0..70_000).map(|i| (format!("{i:05}").into_bytes(), Node::file(""))).collect();
    let m = Mounted::tree(Node::directory_of(tree));
    let mut all: Vec<(u64, String)> = fs::read_dir(&m.at)
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (std::os::unix::fs::DirEntryExt::ino(&e), e.file_name().into_string().unwrap()))
        .collect();
    all.sort();
    all.dedup_by_key(|(ino, _)| *ino);
    assert_eq!(all.len(), 70_000);
    // In each block of 65,536.
    let falls = all.windows(2).filter(|w| w[0].1 > w[1].1).count();
    assert!(falls <= 1, "{falls}");
}

#[test]
fn other_times_are_reached_by_name() {
    let tree = |text: &str| Node::directory([("etc", Node::directory([("motd", Node::file(text))]))]);
    let m = Mounted::new(async |store| {
        for (day, text) in ["old", "new"].into_iter().enumerate() {
            let time_ns = 1_768_046_400_000_000_000 + day as i64 * 86_400_000_000_000;
            store.backup(tree(text), &["/"], Description { time_ns, ..Description::default() }).await;
        }
        FsConfig::default()
    });
    let read = |path: &str| fs::read_to_string(m.path(path)).unwrap();
    assert_eq!(read("latest/etc/motd"), "new");
    assert_eq!(read("latest/etc/motd@2026-01-10"), "old");
    assert_eq!(read("latest/etc@2026-01-10/motd"), "old");
    assert_eq!(read("latest/etc/@2026-01-10/motd"), "old");
    assert_eq!(read("@latest~1/etc/motd"), "old");
    assert_eq!(read("versions/etc/motd/latest"), "new");
    let versions = fs::read_dir(m.path("versions/etc/motd")).unwrap().map(|e| e.unwrap());
    let mut texts: Vec<_> = versions.map(|e| fs::read_to_string(e.path()).unwrap()).collect();
    texts.sort();
    assert_eq!(texts, ["new", "new", "old"]);
    assert_eq!(read("by-path/etc/motd/latest"), "new");
    assert_eq!(fs::read_dir(m.path("latest/etc")).unwrap().count(), 1);
    // The same number: it is the same file.
    let ino = |path: &str| fs::metadata(m.path(path)).unwrap().ino();
    assert_eq!(ino("latest/etc/motd@2026-01-10"), ino("@latest~1/etc/motd"));
    let first: serde_json::Value = serde_json::from_str(&read(".plakar/statistics.json")).unwrap();
    read("latest/etc/motd");
    fs::metadata(m.path("@latest~1/etc/none")).unwrap_err();
    let then: serde_json::Value = serde_json::from_str(&read(".plakar/statistics.json")).unwrap();
    let lookups = |v: &serde_json::Value| v["requests"]["lookups"].as_u64().unwrap();
    assert!(lookups(&then) > lookups(&first), "each reading is a new one: {first} {then}");
}

#[test]
fn it_ends_by_umount() {
    if !rustix::process::geteuid().is_root() {
        // Others have fusermount3 for it.
        return;
    }
    let m = Mounted::tree(Node::directory([]));
    assert_eq!(run("umount", &[], &m.at), (true, String::new()));
    m.wait();
    assert!(!is_mounted(&m.at));
    m.unmount(Unmount::IfUnused).unwrap();
}

#[test]
fn it_ends_by_fusermount() {
    let m = Mounted::tree(Node::directory([]));
    assert_eq!(run("fusermount3", &["-u"], &m.at), (true, String::new()));
    m.wait();
    assert!(!is_mounted(&m.at));
}

#[test]
fn it_ends_by_itself_and_says_who_keeps_it() {
    let m = Mounted::tree(Node::directory([("f", Node::file("x"))]));
    let mut sleeper = Command::new("sleep").arg("60").current_dir(&m.at).spawn().unwrap();
    let busy = m.unmount(Unmount::IfUnused).unwrap_err();
    let holder = |h: &Holder| h.pid == sleeper.id() && h.name == "sleep";
    let named = matches!(&busy, MountError::Busy { holders, .. } if holders.iter().any(holder));
    assert!(named, "{busy}");
    assert!(is_mounted(&m.at));
    m.unmount(Unmount::Detach).unwrap();
    assert!(!is_mounted(&m.at));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    m.wait();
}

#[test]
fn an_old_session_leaves_a_newer_mount_alone() {
    let m = Mounted::tree(Node::directory([("old", Node::file("x"))]));
    assert!(run("fusermount3", &["-u"], &m.at).0);
    m.wait();
    let newer = m.runtime.block_on(async {
        let config = MountConfig::new(&m.at);
        MountSession::start(config, m.store.repository.clone()).await.unwrap()
    });
    m.unmount(Unmount::IfUnused).unwrap();
    assert!(is_mounted(&m.at));
    assert!(m.path("snapshots").is_dir());
    m.runtime.block_on(newer.unmount(Unmount::IfUnused)).unwrap();
    assert!(!is_mounted(&m.at));
}

#[test]
fn places_that_cannot_be_mounted_on_are_refused() {
    let m = Mounted::tree(Node::directory([]));
    let try_at = |at: &Path| {
        let start = MountSession::start(MountConfig::new(at), m.store.repository.clone());
        m.runtime.block_on(start).unwrap_err()
    };
    assert!(matches!(try_at(&m.at), MountError::AlreadyMounted { .. }));
    let place = m.store.place.path();
    assert!(matches!(try_at(&place.join("none")), MountError::Mountpoint { .. }));
    fs::write(place.join("file"), "").unwrap();
    assert!(matches!(try_at(&place.join("file")), MountError::Mountpoint { .. }));
    // The cache lies in it.
    assert!(matches!(try_at(place), MountError::Overlap { .. }));
    let inside = m.store.repository.cache().directory().join("inside");
    fs::create_dir(&inside).unwrap();
    assert!(matches!(try_at(&inside), MountError::Overlap { .. }));
}

#[test]
fn other_users_are_held_to_modes() {
    if !rustix::process::geteuid().is_root() {
        // Only root can become somebody else.
        return;
    }
    let m = Mounted::with(
        async |store| {
            let tree = Node::directory([
                ("private", Node::file("x").mode(0o600).owner(0, 0)),
                ("public", Node::file("x").mode(0o644).owner(0, 0)),
            ]);
            let snapshot = store.backup(tree, &["/"], Description::default()).await.id;
            FsConfig { what: What::Snapshot { snapshot, path: None }, ..FsConfig::default() }
        },
        |config| config.allow_other = true,
    );
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(m.store.place.path(), mode).unwrap();
    let as_nobody = |name: &str| {
        let mut command = Command::new("cat");
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
        std::os::unix::process::CommandExt::gid(&mut command, 65534);
        command.arg(m.path(name)).output().unwrap()
    };
    assert_eq!(as_nobody("public").stdout, b"x");
    let refused = as_nobody("private");
    assert!(!refused.status.success() && refused.stdout.is_empty());
}

#[test]
fn the_system_shows_what_it_is() {
    let m = Mounted::tree(Node::directory([("f", Node::file(noise(1_000_000)))]));
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|l| l.split(' ').nth(4) == m.at.to_str()).unwrap();
    assert!(line.contains(" ro,nosuid,nodev") && line.contains(" - fuse.plakar plakar:mem: "), "{line}");
    let all = rustix::fs::statvfs(&m.at).unwrap();
    assert_eq!((all.f_blocks, all.f_frsize, all.f_bavail, all.f_files), (245, 4096, 0, 1));
}
