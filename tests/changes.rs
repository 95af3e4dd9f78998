//! The second backup: what has not changed is neither read nor stored, and every change is seen.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use serde_json::Value;

use crate::common::torture;
use crate::common::{ALL, Directory, Sandbox, hex_id};

/// An unchanged tree may add this much to the store.
const LEAST: u64 = 64 << 10;

/// Lets the clock go on until what was just written is old enough for its times to be trusted: a change within two
/// seconds of a backup may leave no trace in them, so that such entries are always read again.
fn let_it_age() {
    let written = SystemTime::now();
    let enough = Duration::from_millis(2100);
    while let Some(left) = enough.checked_sub(written.elapsed().unwrap_or_default()) {
        std::thread::sleep(left);
    }
}

fn files_read(summary: &Value) -> u64 {
    summary["files_read"].as_u64().unwrap()
}

/// Sees every file below a directory that is read.
struct Watch(OwnedFd);

impl Watch {
    fn new(root: &Path) -> Self {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let mut directories = vec![root.to_path_buf()];
        while let Some(directory) = directories.pop() {
            inotify::add_watch(&watch, &directory, WatchFlags::ACCESS | WatchFlags::DONT_FOLLOW).unwrap();
            let entries = std::fs::read_dir(&directory).unwrap().map(|e| e.unwrap());
            directories.extend(entries.filter(|e| e.file_type().unwrap().is_dir()).map(|e| e.path()));
        }
        let watch = Self(watch);
        // Reading the directories just now was seen as well.
        watch.read_files();
        watch
    }

    /// Names of files that were read since the last call.
    fn read_files(&self) -> Vec<String> {
        let mut room = vec![MaybeUninit::uninit(); 64 << 10];
        let mut events = inotify::Reader::new(&self.0, &mut room);
        let mut found = Vec::new();
        loop {
            match events.next() {
                Ok(event) => {
                    assert!(!event.events().contains(ReadFlags::QUEUE_OVERFLOW));
                    if !event.events().contains(ReadFlags::ISDIR) {
                        let name = event.file_name().map(CStr::to_string_lossy).unwrap_or_default();
                        found.push(name.into_owned());
                    }
                }
                Err(Errno::AGAIN) => return found,
                Err(e) => unreachable!("{e}"),
            }
        }
    }
}

/// A source that holds everything, short of the path that only relative steps reach (for the watches).
fn source(sandbox: &Sandbox) -> std::path::PathBuf {
    let source = sandbox.path("source");
    torture::everything(&source);
    std::fs::rename(source.join("deep"), sandbox.path("deep")).unwrap();
    let_it_age();
    source
}

#[test]
fn an_unchanged_tree_is_not_read_and_adds_next_to_nothing() {
    let sandbox = Sandbox::with_key_file();
    let source = source(&sandbox);
    let watch = Watch::new(&source);
    let first = sandbox.backup(&source);
    assert!(files_read(&first) > 50, "{first}");
    assert!(!watch.read_files().is_empty(), "the watch sees nothing");
    let before = sandbox.stored_bytes();
    let second = sandbox.backup(&source);
    assert_eq!(files_read(&second), 0, "{second}");
    assert_eq!(watch.read_files(), [""; 0]);
    let added = sandbox.stored_bytes() - before;
    assert!(added < LEAST, "{added} bytes");
    assert_ne!(hex_id(&first), hex_id(&second));
    ALL.check(&source, &sandbox.restore(&hex_id(&second)));
    sandbox.run(["check"]).succeeds();
}

#[test]
fn what_was_written_just_now_is_read_again() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    let d = Directory::open(&source);
    // However soon the second backup comes after the first, a change in between is seen.
    for i in 0..5 {
        let path = source.join("file");
        std::fs::write(&path, format!("{i}")).unwrap();
        d.at("file").mtime(1_000_000_000, 0);
        sandbox.backup(&source);
        assert_eq!(std::fs::read(sandbox.restore("latest").join("file")).unwrap(), format!("{i}").as_bytes());
    }
}

#[test]
fn a_lost_cache_costs_no_space() {
    let sandbox = Sandbox::with_key_file();
    let source = source(&sandbox);
    sandbox.backup(&source);
    for lost in [".cache", ".local"] {
        std::fs::remove_dir_all(sandbox.path("home").join(lost)).unwrap();
        let before = sandbox.stored_bytes();
        let again = sandbox.backup(&source);
        let added = sandbox.stored_bytes() - before;
        assert!(added < LEAST, "{lost}: {added} bytes");
        ALL.check(&source, &sandbox.restore(&hex_id(&again)));
    }
    // Nothing is taken over that another store had.
    std::fs::rename(sandbox.store(), sandbox.path("old store")).unwrap();
    sandbox.run(["create"]).succeeds();
    let anew = sandbox.backup(&source);
    ALL.check(&source, &sandbox.restore(&hex_id(&anew)));
    sandbox.run(["check"]).succeeds();
}

#[test]
fn a_damaged_cache_is_made_again() {
    let sandbox = Sandbox::with_key_file();
    let source = source(&sandbox);
    sandbox.backup(&source);
    let cached = || crate::common::sandbox::files_below(&sandbox.cache());
    assert!(!cached().is_empty());
    let harms: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.clear(),
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.fill(0),
        |bytes| bytes.iter_mut().step_by(97).for_each(|b| *b ^= 0x10),
    ];
    for harm in harms {
        for file in cached() {
            let mut bytes = std::fs::read(&file).unwrap();
            harm(&mut bytes);
            std::fs::write(&file, bytes).unwrap();
        }
        sandbox.run(["ls"]).succeeds();
        let again = sandbox.backup(&source);
        ALL.check(&source, &sandbox.restore(&hex_id(&again)));
        sandbox.run(["check"]).succeeds();
    }
}

type Change = fn(&Directory);

/// Each change alone, between two backups of a tree that is old enough to be trusted.
#[test]
fn every_change_is_seen() {
    let sandbox = Sandbox::with_key_file();
    let root = sandbox.path("source");
    std::fs::create_dir(&root).unwrap();
    let source = Directory::open(&root);
    let changes: Vec<(&str, Change)> = vec![
        ("nothing", |_| {}),
        ("content grew", |d| write(d, "content\nmore")),
        ("content, same size and mtime", |d| {
            let before = d.at("file").stat();
            write(d, "CONTENT\n");
            #[expect(clippy::unnecessary_cast, reason = "their types differ between systems")]
            d.at("file").mtime(before.st_mtime as i64, before.st_mtime_nsec as i64);
        }),
        ("replaced, same size and mtime", |d| {
            let before = d.at("file").stat();
            rustix::fs::unlinkat(d, "file", rustix::fs::AtFlags::empty()).unwrap();
            #[expect(clippy::unnecessary_cast, reason = "their types differ between systems")]
            d.at("file").file(b"CONTENT\n").mtime(before.st_mtime as i64, before.st_mtime_nsec as i64);
        }),
        ("mtime of a file", |d| {
            d.at("file").mtime(5, 5);
        }),
        ("mtime of a directory", |d| {
            d.at("dir").mtime(5, 5);
        }),
        ("mtime of a symlink", |d| {
            d.at("link").mtime(5, 5);
        }),
        ("mode", |d| {
            d.at("file").mode(0o4700);
        }),
        ("mode of a directory", |d| {
            d.at("dir").mode(0o700);
        }),
        ("owner", |d| {
            d.at("file").owner(7, 8);
        }),
        ("owner of a symlink", |d| {
            d.at("link").owner(7, 8);
        }),
        ("xattr", |d| {
            d.at("file").xattr("user.x", b"new");
        }),
        ("xattr of a directory", |d| {
            d.at("dir").xattr("user.x", b"new");
        }),
        ("xattr of a symlink", |d| {
            d.at("link").xattr("trusted.x", b"new");
        }),
        ("new file", |d| {
            d.enter(b"dir").unwrap().at("new").file(b"new");
        }),
        ("new empty directory", |d| {
            d.enter(b"dir").unwrap().make("new");
        }),
        ("deleted file", |d| rustix::fs::unlinkat(d, "file", rustix::fs::AtFlags::empty()).unwrap()),
        ("deleted directory", |d| {
            let inner = d.enter(b"dir").unwrap();
            rustix::fs::unlinkat(&inner, "inner", rustix::fs::AtFlags::empty()).unwrap();
            rustix::fs::unlinkat(d, "dir", rustix::fs::AtFlags::REMOVEDIR).unwrap();
        }),
        ("renamed file", |d| rustix::fs::renameat(d, "file", d, "fil").unwrap()),
        ("renamed directory", |d| rustix::fs::renameat(d, "dir", d, "did").unwrap()),
        ("two directories changed places", |d| {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(d, "dir", d, "other", flags).unwrap();
        }),
        ("moved between directories", |d| {
            rustix::fs::renameat(d.enter(b"dir").unwrap(), "inner", d.enter(b"other").unwrap(), "inner")
                .unwrap();
        }),
        ("file became a directory", |d| {
            rustix::fs::unlinkat(d, "file", rustix::fs::AtFlags::empty()).unwrap();
            d.make("file").at("x").file(b"x");
        }),
        ("file became a symlink", |d| {
            rustix::fs::unlinkat(d, "file", rustix::fs::AtFlags::empty()).unwrap();
            d.at("file").symlink(b"content\n");
        }),
        ("target of a symlink", |d| {
            let before = d.at("link").stat();
            rustix::fs::unlinkat(d, "link", rustix::fs::AtFlags::empty()).unwrap();
            #[expect(clippy::unnecessary_cast, reason = "their types differ between systems")]
            d.at("link").symlink(b"elif").mtime(before.st_mtime as i64, before.st_mtime_nsec as i64);
        }),
        ("hard link added", |d| {
            d.at("file").link(d.enter(b"other").unwrap().at("linked"));
        }),
        ("hard link became a copy", |d| {
            let before = d.at("linked").stat();
            rustix::fs::unlinkat(d, "linked too", rustix::fs::AtFlags::empty()).unwrap();
            #[expect(clippy::unnecessary_cast, reason = "their types differ between systems")]
            d.at("linked too").file(b"linked").mtime(before.st_mtime as i64, before.st_mtime_nsec as i64);
        }),
    ];
    for (name, _) in &changes {
        let d = source.make(name);
        d.at("file").file(b"content\n").mtime(1_000_000_000, 1);
        d.at("link").symlink(b"file");
        d.at("linked").file(b"linked").mtime(1, 1).link(d.at("linked too"));
        d.make("dir").at("inner").file(b"inner");
        d.make("other").at("also inner").file(b"also inner");
    }
    let_it_age();
    sandbox.backup(&root);
    for (name, change) in &changes {
        change(&source.enter(name.as_bytes()).unwrap());
    }
    sandbox.backup(&root);
    ALL.check(&root, &sandbox.restore("latest"));
    // The same once more by the snapshot's own tree: everything that is not in size and mtime alone.
    let_it_age();
    for (name, change) in
        changes.iter().filter(|(name, _)| name.starts_with("mode") || name.contains("owner"))
    {
        let again = source.make(format!("{name} again"));
        again.at("file").file(b"content\n");
        again.at("link").symlink(b"file");
        again.make("dir");
        sandbox.backup(&root);
        std::fs::remove_dir_all(sandbox.path("home/.cache")).unwrap();
        change(&again);
        sandbox.backup(&root);
    }
    ALL.check(&root, &sandbox.restore("latest"));
    sandbox.run(["check"]).succeeds();
}

fn write(d: &Directory, content: &str) {
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::TRUNC | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(d, "file", flags, rustix::fs::Mode::empty()).unwrap();
    rustix::io::write(&file, content.as_bytes()).unwrap();
}

#[test]
fn a_change_in_a_large_file_is_stored_as_a_change() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    let mut bytes = torture::noise(1, 24 << 20);
    std::fs::write(source.join("image"), &bytes).unwrap();
    sandbox.backup(&source);
    // One byte put in shifts all behind it.
    bytes.insert(12 << 20, b'!');
    std::fs::write(source.join("image"), &bytes).unwrap();
    let before = sandbox.stored_bytes();
    sandbox.backup(&source);
    let added = sandbox.stored_bytes() - before;
    assert!(added < 5 << 20, "{added} bytes: two chunks are enough");
    // A copy under another name and in another backup takes no room.
    std::fs::create_dir(sandbox.path("elsewhere")).unwrap();
    std::fs::write(sandbox.path("elsewhere/copy"), &bytes).unwrap();
    let before = sandbox.stored_bytes();
    sandbox.backup(&sandbox.path("elsewhere"));
    assert!(sandbox.stored_bytes() - before < LEAST);
    ALL.check(&source, &sandbox.restore(&format!("latest~1:{}", source.display())));
}

#[test]
fn patterns_with_a_slash_belong_to_what_is_backed_up_and_to_the_folder_of_their_file() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    for name in ["first", "kept", "b/x", "c/keep.log", "c/other.log", "deep/first", "deep/mine"] {
        let file = source.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "text").unwrap();
    }
    // As Windows' editor writes it.
    std::fs::write(sandbox.path("rules"), "\u{feff}/first\nb/**\n").unwrap();
    std::fs::write(source.join("deep/rules"), "/mine\n").unwrap();
    let args =
        ["backup", "-ignore-file", "rules", "-ignore-file", "source/deep/rules", "-ignore", "c/keep.log"];
    sandbox.run(args.into_iter().chain(["source"])).succeeds();
    let listed = sandbox.run(["ls", "-recursive", "latest"]).succeeds();
    let has = |name: &str| listed.text().lines().any(|l| l.ends_with(&format!("/source/{name}")));
    let names = ["first", "kept", "b/x", "c/keep.log", "c/other.log", "deep/first", "deep/mine"];
    assert_eq!(names.map(has), [false, true, false, false, true, true, false], "{listed}");
}
