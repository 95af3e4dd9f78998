//! The second backup: what has not changed is neither read nor stored, and every change is seen.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use serde_json::Value;

use crate::common::image::{self, Image};
use crate::common::sandbox::{NOBODY, run_tool};
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
    // What was left out, and by which pattern; and patterns that do nothing, with what may be wrong.
    let args =
        ["backup", "-dry-run", "-ignore-file", "rules", "-ignore", "*.log", "-ignore", "./deep", "source"];
    sandbox.run(args).succeeds().says(&[
        "source/first (pattern /first)",
        "source/c/keep.log (pattern *.log)",
        "the pattern ./deep fitted nothing: begin it with /",
    ]);
    // Of places that are named those that a pattern fits are left out; not all of them can be.
    let out = sandbox.run(["backup", "-ignore", "first", "source/first", "source/kept"]).succeeds();
    assert!(!out.text().contains("fitted nothing"), "{out}");
    let listed = sandbox.run(["ls", "-recursive", "latest"]).succeeds();
    assert!(listed.text().contains("/source/kept") && !listed.text().contains("/source/first"), "{listed}");
    sandbox.run(["backup", "-ignore", "fir*", "source/first"]).ends_with(1).says(&["fir*", "named"]);
}

/// A tree of a few files that are old enough to be trusted, and what to say of a backup of it.
fn small(root: &Path) {
    std::fs::create_dir_all(root.join("dir")).unwrap();
    for name in ["a", "b", "dir/c"] {
        std::fs::write(root.join(name), name.repeat(5000)).unwrap();
    }
    std::fs::hard_link(root.join("a"), root.join("dir/link")).unwrap();
}

fn backup<const N: usize>(sandbox: &Sandbox, options: [&str; N], places: &[&Path]) -> u64 {
    let mut args: Vec<std::ffi::OsString> = vec!["backup".into(), "-json".into()];
    args.extend(options.iter().map(Into::into));
    args.extend(places.iter().map(|p| p.as_os_str().to_owned()));
    let done = sandbox.run(args).succeeds();
    files_read(&done.summary())
}

#[test]
fn other_attributes_are_recorded_without_reading_contents() {
    let sandbox = Sandbox::with_key_file();
    let root = sandbox.path("source");
    small(&root);
    let_it_age();
    assert!(backup(&sandbox, [], &[&root]) > 0);
    run_tool("chmod", ["-R".as_ref(), "go-rwx".as_ref(), root.as_os_str()]);
    std::fs::hard_link(root.join("b"), root.join("dir/b too")).unwrap();
    rustix::fs::chown(root.join("dir/c"), Some(rustix::fs::Uid::from_raw(7)), None).unwrap();
    let watch = Watch::new(&root);
    // The new name is new; of the files that were there none is read.
    assert_eq!(backup(&sandbox, [], &[&root]), 1);
    assert_eq!(watch.read_files(), ["b too"]);
    ALL.check(&root, &sandbox.restore("latest"));
    let_it_age();
    backup(&sandbox, [], &[&root]);
    // Written in place with its time put back: read, for no attribute explains it, as is what has other extended attributes.
    let d = Directory::open(&root);
    let before = d.at("a").stat();
    std::fs::write(root.join("a"), "A".repeat(5000)).unwrap();
    #[expect(clippy::unnecessary_cast, reason = "their types differ between systems")]
    d.at("a").mtime(before.st_mtime as i64, before.st_mtime_nsec as i64);
    run_tool("setfattr", ["-n", "user.x", "-v", "1", root.join("b").to_str().unwrap()]);
    assert_eq!(backup(&sandbox, [], &[&root]), 4);
    ALL.check(&root, &sandbox.restore("latest"));
    sandbox
        .run(["backup", "-change-by", "colour", root.to_str().unwrap()])
        .ends_with(2)
        .says(&["unexplained-ctime"]);
}

#[test]
fn places_in_common_and_another_host_name_are_known_again() {
    let sandbox = Sandbox::with_key_file();
    let root = sandbox.path("source");
    let other = sandbox.path("other");
    small(&root);
    small(&other);
    let_it_age();
    let all = backup(&sandbox, [], &[&root]);
    assert_eq!(all, 4);
    // One more place, the one above, one of those within.
    assert_eq!(backup(&sandbox, [], &[&root, &other]), all);
    let_it_age();
    let above = sandbox.path("above");
    std::fs::create_dir(&above).unwrap();
    assert_eq!(backup(&sandbox, [], &[&root, &other, &above]), 0);
    assert_eq!(backup(&sandbox, [], &[&root.join("dir")]), 0);
    sandbox.run(["check"]).succeeds();
    // Each now knows its own, and a change is seen.
    std::fs::write(root.join("dir/c"), "changed").unwrap();
    assert_eq!(backup(&sandbox, [], &[&root, &other]), 1);
    assert_eq!(backup(&sandbox, ["-parent", "none"], &[&root, &other]), 2 * all);
    assert_eq!(backup(&sandbox, ["-parent", "latest"], &[&root, &other]), 1);
    sandbox.run(["backup", "-parent", "beef", root.to_str().unwrap()]).ends_with(1).says(&["beef"]);
    // As a container with each start.
    let_it_age();
    assert_eq!(backup(&sandbox, [], &[&root]), 1);
    let renamed = ["unshare", "--uts", "sh", "-c", "hostname elsewhere && exec \"$0\" \"$@\""];
    let args = ["backup", "-json", root.to_str().unwrap()];
    let done = crate::common::Outcome::of(&mut sandbox.under(&renamed, args)).succeeds().summary();
    assert_eq!(done["snapshot"]["origin"], "elsewhere", "{done}");
    assert_eq!(files_read(&done), 0);
    ALL.check(&root, &sandbox.restore("latest"));
    // By the tree alone, the file cache being lost.
    std::fs::remove_dir_all(sandbox.path("home/.cache")).unwrap();
    assert_eq!(backup(&sandbox, [], &[&root, &other]), 0);
    sandbox.run(["check"]).succeeds();
}

#[test]
fn a_file_system_is_known_again_whatever_its_device_number() {
    let sandbox = Sandbox::with_key_file();
    let (one, two, at) = (sandbox.path("one.img"), sandbox.path("two.img"), sandbox.path("at"));
    std::fs::create_dir(&at).unwrap();
    // Without checksums another number can be given to it unchecked.
    let fresh = |image: &Path| image::make(image, 16 << 20, &["mkfs.ext4", "-qFO", "^metadata_csum"]);
    fresh(&one);
    let mounted = Image::mount(&one, &at);
    small(&at);
    let number = Directory::open(&at).at("a").stat().st_dev;
    let_it_age();
    let all = backup(&sandbox, [], &[&at]);
    assert_eq!(all, 4);
    assert_eq!(backup(&sandbox, [], &[&at]), 0);
    drop(mounted);
    // Another image takes the device that it had.
    fresh(&two);
    let between = sandbox.path("between");
    std::fs::create_dir(&between).unwrap();
    let taken = Image::mount(&two, &between);
    let mounted = Image::mount(&one, &at);
    assert_ne!(Directory::open(&at).at("a").stat().st_dev, number, "the same device again shows nothing");
    assert_eq!(backup(&sandbox, [], &[&at]), 0);
    ALL.check(&at, &sandbox.restore("latest"));
    drop((mounted, taken));
    // A replaced disk: the same names, numbers, sizes and times, ctimes too, and other contents.
    let mut bytes = std::fs::read(&one).unwrap();
    let block = [b'b'; 1024];
    let found: Vec<usize> =
        (0..bytes.len()).step_by(1024).filter(|i| bytes[*i..].starts_with(&block)).collect();
    assert!(!found.is_empty());
    found.into_iter().for_each(|i| bytes[i..i + 1024].fill(b'B'));
    std::fs::write(&two, bytes).unwrap();
    let quiet =
        std::process::Command::new("tune2fs").args(["-f", "-U", "random"]).arg(&two).output().unwrap();
    assert!(quiet.status.success(), "{quiet:?}");
    let mounted = Image::mount(&two, &at);
    assert_eq!(backup(&sandbox, [], &[&at]), all);
    ALL.check(&at, &sandbox.restore("latest"));
    drop(mounted);
}

/// A mount of any kind, until this is dropped.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        run_tool("umount", [self.0]);
    }
}

#[test]
fn an_overlay_is_one_file_system_and_is_known_again() {
    let sandbox = Sandbox::with_key_file();
    let [below, above, at] = ["below", "above", "at"].map(|name| sandbox.path(name));
    for directory in [&below, &above, &at] {
        std::fs::create_dir(directory).unwrap();
    }
    // Layers on two file systems, whose numbers the kernel is told not to make into one: each file has the device of
    // its layer.
    let image = sandbox.path("image");
    image::make(&image, 16 << 20, &["mkfs.ext4", "-q"]);
    let layer = Image::mount(&image, &above);
    small(&below);
    for name in ["upper", "work"] {
        std::fs::create_dir(above.join(name)).unwrap();
    }
    let options = format!(
        "xino=off,lowerdir={},upperdir={},workdir={}",
        below.display(),
        above.join("upper").display(),
        above.join("work").display()
    );
    let mount = || {
        run_tool("mount", ["-t", "overlay", "overlay", "-o", &options, at.to_str().unwrap()]);
        Mounted(&at)
    };
    let mounted = mount();
    std::fs::write(at.join("upper"), "in the upper layer").unwrap();
    let device = |name: &str| Directory::open(&at).at(name).stat().st_dev;
    assert_ne!(device("a"), device("upper"));
    let_it_age();
    assert_eq!(backup(&sandbox, ["-one-file-system"], &[&at]), 5);
    ALL.check(&at, &sandbox.restore("latest"));
    drop(mounted);
    let mounted = mount();
    assert_eq!(backup(&sandbox, ["-one-file-system"], &[&at]), 0);
    // A file comes into the upper layer with its attributes, and then with its contents.
    run_tool("chmod", ["600".as_ref(), at.join("b").as_os_str()]);
    assert_eq!(backup(&sandbox, [], &[&at]), 0);
    std::fs::write(at.join("b"), "B".repeat(5000)).unwrap();
    let_it_age();
    assert_eq!(backup(&sandbox, [], &[&at]), 1);
    ALL.check(&at, &sandbox.restore("latest"));
    drop(mounted);
    // What came into the upper layer has the number that it has there from the next mount on: it is read once more.
    for read in [1, 0] {
        let mounted = mount();
        assert_eq!(backup(&sandbox, [], &[&at]), read);
        drop(mounted);
    }
    drop(layer);
}

#[test]
fn a_file_system_that_numbers_files_as_they_are_looked_up_is_known_again() {
    let sandbox = Sandbox::with_key_file();
    let [source, image, at] = ["source", "image", "at"].map(|name| sandbox.path(name));
    small(&source);
    std::fs::create_dir(&at).unwrap();
    let_it_age();
    let made =
        std::process::Command::new("mksquashfs").args([&source, &image]).arg("-quiet").output().unwrap();
    assert!(made.status.success(), "{made:?}");
    // The names that are looked up first get the first numbers.
    let numbers = |names: [&str; 3]| {
        run_tool("squashfuse", [&image, &at]);
        let d = Directory::open(&at);
        let mut numbers = names.map(|name| (name.to_owned(), d.at(name).stat().st_ino));
        numbers.sort();
        (Mounted(&at), numbers)
    };
    let (mounted, before) = numbers(["a", "b", "dir"]);
    let all = backup(&sandbox, [], &[&at]);
    assert_eq!(all, 4);
    drop(mounted);
    let (mounted, after) = numbers(["dir", "b", "a"]);
    assert_ne!(before, after, "numbers that last show nothing");
    assert_eq!(backup(&sandbox, [], &[&at]), 0);
    assert_eq!(backup(&sandbox, ["-change-by", "mtime,ctime,inode"], &[&at]), 0);
    drop(mounted);
}

#[test]
fn what_its_owner_may_no_longer_open_is_known_all_the_same_and_told_once() {
    let sandbox = Sandbox::for_nobody();
    let root = sandbox.path("source");
    std::fs::create_dir_all(root.join("closed")).unwrap();
    std::fs::write(root.join("file"), "known").unwrap();
    let owner = format!("{NOBODY}:{NOBODY}");
    run_tool("chown", ["-R".as_ref(), owner.as_ref(), root.as_os_str()]);
    let_it_age();
    sandbox.backup(&root);
    run_tool("chmod", ["000".as_ref(), root.join("file").as_os_str()]);
    let_it_age();
    assert_eq!(files_read(&sandbox.backup(&root)), 0);
    run_tool("chmod", ["000".as_ref(), root.join("closed").as_os_str()]);
    let done = sandbox.run(["backup".as_ref(), "-json".as_ref(), root.as_os_str()]).ends_with(3);
    assert_eq!(done.summary()["errors"], 1, "{done}");
}
