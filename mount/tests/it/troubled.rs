//! Many readers at once, and stores that are slow, fail or stop, behind a real kernel mount.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use plakar_engine::snapshot::Description;
use plakar_mount::config::FsConfig;
use plakar_mount::{MountConfig, What};
use rustix::io::Errno;

use crate::kernel::Mounted;
use crate::random::Random;
use crate::source::Node;
use crate::store::Trouble;

/// Longer than a file that is read ahead with its neighbours.
const LEN: usize = 300_000;
const READERS: usize = 64;

/// What a file of a number holds.
fn bytes(number: usize) -> Vec<u8> {
    Random(number as u64).noise(LEN)
}

fn files(n: usize) -> Node {
    let file = |i: usize| (format!("{i:03}").into_bytes(), Node::file(bytes(i)));
    Node::directory_of((0..n).map(file).collect())
}

/// A mount of one snapshot.
fn mounted(tree: Node, deadline: Duration, change: impl FnOnce(&mut MountConfig)) -> Mounted {
    Mounted::with(
        async move |store| {
            let snapshot = store.backup(tree, &["/"], Description::default()).await.id;
            let what = What::Snapshot { snapshot, path: None };
            FsConfig { what, deadline, ..FsConfig::default() }
        },
        change,
    )
}

#[track_caller]
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_io_error(e: &io::Error) -> bool {
    e.raw_os_error() == Some(Errno::IO.raw_os_error())
}

/// Makes the kernel forget what it has of a file, so that the mount is asked again.
fn read_anew(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut content = vec![0; LEN];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

#[test]
fn many_readers_of_one_file_and_of_many() {
    const LARGE: usize = 6_000_000;
    let large = Random(77).noise(LARGE);
    let tree = Node::directory([("files", files(READERS)), ("large", Node::file(large.clone()))]);
    let m = mounted(tree, Duration::from_secs(60), |_| ());
    let before = m.store.store.bytes();
    std::thread::scope(|scope| {
        for i in 0..READERS {
            let (m, large) = (&m, &large);
            scope.spawn(move || {
                // From another place each, around and back to it.
                let (file, first) = (File::open(m.path("large")).unwrap(), LARGE / READERS * i);
                let mut part = vec![0; 90_000];
                for at in (first..LARGE).step_by(part.len()).chain((0..first).step_by(part.len())) {
                    let n = part.len().min(LARGE - at);
                    file.read_exact_at(&mut part[..n], at as u64).unwrap();
                    assert!(part[..n] == large[at..at + n], "reader {i} at {at}");
                }
                assert!(fs::read(m.path(&format!("files/{i:03}"))).unwrap() == bytes(i), "file {i}");
            });
        }
    });
    // One load for each frame, whoever asks; some of what lies between comes along.
    let (fetched, all) = (m.store.store.bytes() - before, (LARGE + READERS * LEN) as u64);
    assert!(fetched < all + all / 4, "{fetched} bytes for {all}");
}

#[test]
fn listings_are_whole_while_snapshots_come_and_go() {
    let tree = || Node::directory([("f", Node::file("x"))]);
    let m = Mounted::with(
        async |store| {
            for i in 1..=4 {
                let header = Description { time_ns: i * 2_000_000_000, ..Description::default() };
                store.backup(tree(), &["/"], header).await;
            }
            FsConfig::default()
        },
        |config| config.refresh = Some(Duration::from_millis(5)),
    );
    let snapshots = m.path("snapshots");
    let list = || {
        let entries = fs::read_dir(&snapshots).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let stay = list();
    assert_eq!(stay.len(), 4);
    let (done, listed) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let names = list();
                    for name in &stay {
                        let times = names.iter().filter(|n| *n == name).count();
                        assert_eq!(times, 1, "{name} in {names:?}");
                        assert_eq!(fs::read(snapshots.join(name).join("f")).unwrap(), b"x");
                    }
                    // It leads to one that stays.
                    assert_eq!(fs::read(m.path("latest/f")).unwrap(), b"x");
                    listed.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for i in 0..7 {
            let _stop = StopOnPanic(&done);
            // Before, between and after those, but for the newest.
            let header = Description { time_ns: (2 * i % 7 + 1) * 1_000_000_000, ..Description::default() };
            let id = m.runtime.block_on(m.store.backup(tree(), &["/"], header)).id;
            let short = id.short().to_string();
            let shows = || list().iter().any(|n| n.ends_with(&short));
            eventually("it shows", shows);
            m.runtime.block_on(m.store.repository.remove_snapshots(&[id], "test")).unwrap();
            eventually("it goes", || !shows());
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(listed.load(Ordering::SeqCst) > 0);
}

/// Lets the other threads of a failed test end.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

#[test]
fn a_store_that_takes_two_seconds_is_slow_and_not_broken() {
    let m = mounted(files(40), Duration::from_secs(60), |_| ());
    assert!(fs::read(m.path("000")).unwrap() == bytes(0));
    eventually("nothing is read ahead", || m.store.store.waiting() == 0);
    m.store.store.set(Trouble::Delay(Duration::from_secs(2)));
    std::thread::scope(|scope| {
        // So far behind that nobody has read it ahead.
        let slow = scope.spawn(|| fs::read(m.path("039")).unwrap());
        eventually("it is asked for", || m.store.store.waiting() > 0);
        // Meanwhile.
        assert_eq!(fs::read_dir(&m.at).unwrap().count(), 40);
        assert!(read_anew(&m.path("000")).unwrap() == bytes(0));
        assert!(!slow.is_finished());
        assert!(slow.join().unwrap() == bytes(39));
    });
}

#[test]
fn a_read_that_the_store_does_not_answer_in_time_fails_alone_and_its_load_serves_the_next() {
    let m = mounted(files(40), Duration::from_millis(300), |_| ());
    assert!(fs::read(m.path("000")).unwrap() == bytes(0));
    eventually("nothing is read ahead", || m.store.store.waiting() == 0);
    m.store.store.set(Trouble::Delay(Duration::from_secs(2)));
    // So far behind that nobody has read it ahead.
    let before = m.store.store.gets();
    let failed = fs::read(m.path("039")).unwrap_err();
    assert!(is_io_error(&failed), "{failed}");
    assert!(read_anew(&m.path("000")).unwrap() == bytes(0), "the other is not affected");
    eventually("all loads have ended", || m.store.store.waiting() == 0);
    m.store.store.set(Trouble::None);
    let asked = m.store.store.gets() - before;
    eventually("it can be read", || fs::read(m.path("039")).is_ok_and(|content| content == bytes(39)));
    assert!((1..=3).contains(&asked), "{asked} requests for one file");
    assert_eq!(m.store.store.gets() - before, asked, "what came late is used");
}

#[test]
fn a_store_that_fails_every_tenth_time_fails_only_what_it_does_not_give() {
    // Many frames, so that there are some tens of requests.
    const N: usize = 600;
    let m = mounted(files(N), Duration::from_secs(60), |_| ());
    assert_eq!(fs::read_dir(&m.at).unwrap().count(), N);
    m.store.store.set(Trouble::FailSome);
    let mut left: BTreeMap<usize, usize> = (0..N).map(|i| (i, 0)).collect();
    let mut failures = 0;
    while !left.is_empty() {
        left.retain(|i, tries| match fs::read(m.path(&format!("{i:03}"))) {
            Ok(content) => {
                assert!(content == bytes(*i), "file {i} has other bytes");
                false
            }
            Err(e) => {
                assert!(is_io_error(&e), "{e}");
                (failures, *tries) = (failures + 1, *tries + 1);
                true
            }
        });
        assert!(left.values().all(|tries| *tries < 10), "it does not get better: {left:?}");
    }
    assert!((1..N / 2).contains(&failures), "{failures} failures");
}

/// With every thread's worth of reads waiting for a store that does not answer, what is in memory is answered, and
/// nothing has to be mounted again afterwards.
#[test]
fn a_store_that_stops_stops_only_what_needs_it() {
    const N: usize = 200;
    const FIRST: usize = 40;
    let tree = Node::directory([("cached", files(3)), ("files", files(N))]);
    let m = mounted(tree, Duration::from_secs(8), |config| config.threads = Some(2));
    for directory in ["cached", "files"] {
        assert!(fs::read_dir(m.path(directory)).unwrap().count() >= 3);
    }
    for i in 0..3 {
        assert!(fs::read(m.path(&format!("cached/{i:03}"))).unwrap() == bytes(i));
    }
    let store = &m.store.store;
    // What was asked for ahead, and what is about to be: readers that wait for one request of that would not count.
    eventually("nothing is under way any more", || {
        (0..50).all(|_| {
            std::thread::sleep(Duration::from_millis(10));
            store.waiting() == 0
        })
    });
    store.set(Trouble::Stop);
    let path = |i: usize| m.path(&format!("files/{i:03}"));
    let ended = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        // The first three have the same contents as what is cached, and some behind them stand in the same frames.
        let readers: Vec<_> = (FIRST..N)
            .map(|i| {
                let (path, ended) = (path(i), &ended);
                scope.spawn(move || {
                    let read = fs::read(path);
                    ended.lock().unwrap().push((i, read.as_ref().map(Vec::len).map_err(io::Error::kind)));
                    read
                })
            })
            .collect();
        // More than there are threads, and more than the kernel lets wait in the background.
        eventually("they wait", || store.waiting() >= 64);
        for i in 0..100 {
            // Nothing that the kernel could know by itself.
            let absent = fs::metadata(m.path(&format!("cached/absent {i}"))).unwrap_err();
            assert_eq!(absent.kind(), io::ErrorKind::NotFound);
            assert_eq!(fs::metadata(path(FIRST + i)).unwrap().len(), LEN as u64);
        }
        assert_eq!(fs::read_dir(m.path("files")).unwrap().count(), N);
        assert!(rustix::fs::statvfs(&m.at).is_ok());
        for i in 0..3 {
            assert!(read_anew(&m.path(&format!("cached/{i:03}"))).unwrap() == bytes(i));
        }
        // A few may stand in frames that are in memory. All of that while the others waited.
        let so_far = ended.lock().unwrap().clone();
        assert!(so_far.len() < 20 && so_far.iter().all(|(_, read)| read.is_ok()), "{so_far:?}");
        let reads: Vec<_> = readers.into_iter().map(|r| r.join().unwrap()).collect();
        let failed: Vec<_> = reads.iter().filter_map(|r| r.as_ref().err()).collect();
        assert!(failed.len() > 100 && failed.iter().all(|e| is_io_error(e)), "{failed:?}");
    });
    store.set(Trouble::None);
    for i in 0..N {
        // Loads that were begun in the trouble come to their end first.
        eventually("a file is read after the trouble", || {
            fs::read(path(i)).is_ok_and(|content| content == bytes(i))
        });
    }
}

#[test]
fn what_is_never_answered_is_asked_for_again() {
    let m = mounted(files(3), Duration::from_millis(300), |_| ());
    m.store.store.set(Trouble::Lose);
    let failed = fs::read(m.path("001")).unwrap_err();
    assert!(is_io_error(&failed), "{failed}");
    m.store.store.set(Trouble::None);
    eventually("it can be read", || fs::read(m.path("001")).is_ok_and(|content| content == bytes(1)));
    assert!(fs::read(m.path("002")).unwrap() == bytes(2));
}
