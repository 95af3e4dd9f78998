//! The local file system as a source.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsStr;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plakar_connectors::fs::{FsImportOptions, FsImporter};
use plakar_engine::importer::{ImportError, Importer, ListedName, SourceDirectory, SourceEntry, SourceFile};
use plakar_engine::meta::{Kind, Xattr};
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags, mkdirat, mknodat, openat};

fn import(path: &Path) -> FsImporter {
    FsImporter::new(vec![path.to_path_buf()], FsImportOptions::default()).unwrap()
}

fn open(path: &Path) -> Arc<dyn SourceDirectory> {
    let importer = import(path);
    importer.directory(&importer.roots()[0]).unwrap()
}

/// All that is in a directory.
fn list(directory: &Arc<dyn SourceDirectory>) -> Result<Vec<ListedName>, ImportError> {
    directory.clone().list()?.more(usize::MAX)
}

fn entries(directory: &Arc<dyn SourceDirectory>) -> Vec<SourceEntry> {
    let list = list(directory).unwrap();
    assert!(list.is_sorted_by(|a, b| a.0 < b.0));
    list.into_iter()
        .map(|(name, entry)| {
            let entry = entry.unwrap();
            assert_eq!(entry.name, name);
            entry
        })
        .collect()
}

fn only(path: &Path) -> SourceEntry {
    let mut all = entries(&open(path));
    assert_eq!(all.len(), 1);
    all.pop().unwrap()
}

fn read_all(file: &mut dyn SourceFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1000];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return bytes,
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

#[test]
fn names_are_any_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let names: [&[u8]; 8] = [
        b" ",
        b"-rf",
        b"...",
        b"line\nbreak",
        b"\xff\xfe invalid",
        "ünïcode".as_bytes(),
        b"\x01\x1b[31m",
        &[b'x'; 255],
    ];
    for name in names {
        fs::write(dir.path().join(OsStr::from_bytes(name)), name).unwrap();
    }
    let directory = open(dir.path());
    let listed = entries(&directory);
    assert_eq!(listed.len(), names.len());
    for name in names {
        assert!(listed.iter().any(|e| e.name == name));
        assert_eq!(read_all(&mut *directory.open_file(name).unwrap()), name);
        assert_eq!(directory.xattrs(name).unwrap(), []);
    }
    // A second listing starts at the beginning again.
    assert_eq!(entries(&directory).len(), names.len());
}

#[test]
fn large_directories_are_listed_whole() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..5000 {
        fs::write(dir.path().join(format!("a rather long name of a file to fill the buffer {i:040}")), "")
            .unwrap();
    }
    assert_eq!(entries(&open(dir.path())).len(), 5000);
}

#[test]
fn directories_of_any_depth_are_reached() {
    let dir = tempfile::tempdir().unwrap();
    let name = "d".repeat(200);
    let mut fd = openat(CWD, dir.path(), OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..40 {
        mkdirat(&fd, &name, Mode::from(0o755)).unwrap();
        fd = openat(&fd, &name, OFlags::PATH, Mode::empty()).unwrap();
    }
    let file = openat(&fd, "file", OFlags::CREATE | OFlags::WRONLY, Mode::from(0o644)).unwrap();
    rustix::fs::fsetxattr(&file, "user.deep", b"down", XattrFlags::empty()).unwrap();

    let mut directory = open(dir.path());
    for _ in 0..40 {
        assert_eq!(entries(&directory).len(), 1);
        directory = directory.open_directory(name.as_bytes()).unwrap();
    }
    assert_eq!(entries(&directory)[0].name, b"file");
    let xattr = Xattr { name: b"user.deep".to_vec(), value: b"down".to_vec() };
    assert_eq!(directory.xattrs(b"file").unwrap(), [xattr]);
}

#[test]
fn metadata_is_what_stat_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "12345").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6751)).unwrap();
    fs::hard_link(&path, dir.path().join("other")).unwrap();
    let stat = fs::metadata(&path).unwrap();
    let listed = entries(&open(dir.path()));
    let entry = &listed[0];
    assert_eq!(entry.meta.kind, Kind::Regular);
    assert_eq!(entry.meta.mode, 0o6751);
    assert_eq!((entry.meta.uid, entry.meta.gid), (stat.uid(), stat.gid()));
    assert_eq!((entry.meta.mtime.sec, i64::from(entry.meta.mtime.nsec)), (stat.mtime(), stat.mtime_nsec()));
    assert_eq!(entry.meta.size, 5);
    assert_eq!(entry.stamp.ctime_ns, stat.ctime() * 1_000_000_000 + stat.ctime_nsec());
    assert_eq!((entry.stamp.inode, entry.file), (stat.ino(), (stat.dev(), stat.ino())));
    assert_eq!((entry.links, listed[1].links), (2, 2));
    assert_eq!(entry.stamp, listed[1].stamp);
    assert_eq!(entry.left_out, None);
    let file = open(dir.path()).open_file(b"file").unwrap();
    assert_eq!(file.now().unwrap(), (entry.meta.clone(), entry.stamp.ctime_ns));
}

#[test]
fn times_before_1970_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let file = fs::File::create(dir.path().join("old")).unwrap();
    let time = std::time::UNIX_EPOCH - std::time::Duration::new(1000, 250);
    file.set_modified(time).unwrap();
    let entry = only(dir.path());
    assert_eq!((entry.meta.mtime.sec, entry.meta.mtime.nsec), (-1001, 999_999_750));
}

#[test]
fn symlinks_are_read_and_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let long = "t".repeat(4000);
    symlink(&long, dir.path().join("long")).unwrap();
    symlink("/etc", dir.path().join("away")).unwrap();
    let directory = open(dir.path());
    let listed = entries(&directory);
    assert_eq!(listed[0].target.as_deref(), Some(&b"/etc"[..]));
    assert_eq!(listed[1].target.as_deref(), Some(long.as_bytes()));
    assert_eq!(listed[1].meta.kind, Kind::Symlink);
    assert_eq!(listed[1].meta.size, 0);
    assert!(directory.open_directory(b"away").is_err());
    assert!(directory.open_file(b"away").is_err());
    assert_eq!(directory.xattrs(b"away").unwrap(), []);
    symlink("x", dir.path().join("dangling")).unwrap();
    assert_eq!(directory.xattrs(b"dangling").unwrap(), []);
}

#[test]
fn special_files_are_listed_and_never_opened() {
    let dir = tempfile::tempdir().unwrap();
    mknodat(CWD, dir.path().join("fifo"), FileType::Fifo, Mode::from(0o640), 0).unwrap();
    let _socket = UnixListener::bind(dir.path().join("socket")).unwrap();
    let directory = open(dir.path());
    let kinds: Vec<Kind> = entries(&directory).iter().map(|e| e.meta.kind).collect();
    assert_eq!(kinds, [Kind::Fifo, Kind::Socket]);
    // A FIFO without a writer would block whoever opens it without care.
    assert_eq!(directory.open_file(b"fifo").err().unwrap().to_string(), "no longer a regular file");
    assert!(directory.open_file(b"socket").is_err());
    assert!(directory.open_file(b".").is_err());
}

#[test]
fn attributes_of_everything_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "").unwrap();
    let large = vec![7; 3000];
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
    };
    set(&path, "user.b", b"");
    set(&path, "user.a", &large);
    for i in 0..40 {
        set(dir.path(), &format!("user.a name to make the list of names longer than usual {i}"), b"x");
    }
    let directory = open(dir.path());
    let expected = [
        Xattr { name: b"user.a".to_vec(), value: large },
        Xattr { name: b"user.b".to_vec(), value: Vec::new() },
    ];
    assert_eq!(directory.xattrs(b"file").unwrap(), expected);
    let own = directory.own_xattrs().unwrap();
    assert_eq!(own.len(), 40);
    assert!(own.is_sorted());

    let options = FsImportOptions { xattrs: false, ..FsImportOptions::default() };
    let importer = FsImporter::new(vec![dir.path().to_path_buf()], options).unwrap();
    let directory = importer.directory(&importer.roots()[0]).unwrap();
    assert_eq!(directory.xattrs(b"file").unwrap(), []);
    assert_eq!(directory.own_xattrs().unwrap(), []);
}

#[test]
fn file_systems_without_attributes_have_none() {
    let directory = open(Path::new("/proc/self"));
    assert_eq!(directory.own_xattrs().unwrap(), []);
    assert_eq!(directory.xattrs(b"status").unwrap(), []);
}

#[test]
fn files_that_claim_to_be_empty_are_read() {
    let directory = open(Path::new("/proc/self"));
    assert!(!read_all(&mut *directory.open_file(b"status").unwrap()).is_empty());
}

#[test]
fn holes_are_found() {
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let mut file = fs::File::create(dir.path().join("sparse")).unwrap();
    file.seek(SeekFrom::Start(2 * MIB)).unwrap();
    file.write_all(&[1; 65536]).unwrap();
    file.set_len(8 * MIB).unwrap();
    fs::write(dir.path().join("zdense"), vec![1; 65536]).unwrap();
    file.sync_all().unwrap();
    fs::File::open(dir.path().join("zdense")).unwrap().sync_all().unwrap();
    let directory = open(dir.path());
    let listed = entries(&directory);
    assert_eq!((listed[0].sparse, listed[1].sparse), (true, false));

    let mut file = directory.open_file(b"sparse").unwrap();
    let (start, end) = file.next_data(0).unwrap().unwrap();
    // File systems know their holes to a block only.
    assert!((MIB..=2 * MIB).contains(&start), "{start}..{end}");
    assert!((2 * MIB + 65536..3 * MIB).contains(&end), "{start}..{end}");
    let mut buffer = vec![0; (end - start) as usize];
    assert_eq!(file.read(&mut buffer).unwrap(), buffer.len());
    assert_eq!(buffer[(2 * MIB - start) as usize], 1);
    assert_eq!(file.next_data(end).unwrap(), None);
    assert_eq!(file.read(&mut buffer).unwrap(), 0);

    let mut dense = directory.open_file(b"zdense").unwrap();
    assert_eq!(dense.next_data(0).unwrap(), Some((0, 65536)));
    assert_eq!(dense.next_data(10).unwrap(), Some((10, 65536)));
    assert_eq!(dense.next_data(65536).unwrap(), None);
}

#[test]
fn what_vanished_is_told_from_what_failed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("gone")).unwrap();
    let directory = open(dir.path());
    let gone = directory.open_directory(b"gone").unwrap();
    fs::remove_dir(dir.path().join("gone")).unwrap();
    assert!(directory.open_file(b"gone").err().unwrap().is_vanished());
    assert!(directory.open_directory(b"gone").err().unwrap().is_vanished());
    assert!(directory.xattrs(b"gone").err().unwrap().is_vanished());
    // Still open: nothing is in it any more.
    assert!(list(&gone).map_or_else(|e| e.is_vanished(), |names| names.is_empty()));
    fs::write(dir.path().join("file"), "").unwrap();
    let error = directory.open_directory(b"file").err().unwrap();
    assert!(!error.is_vanished());
    assert!(error.to_string().starts_with("open: "), "{error}");
}

#[test]
fn reading_twice_at_once_gives_every_name_twice() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..3000 {
        fs::write(dir.path().join(format!("{i:050}")), "").unwrap();
    }
    let directory = open(dir.path());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(entries(&directory).len(), 3000));
        }
    });
}

#[test]
fn roots_are_absolute_resolved_and_apart() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    for sub in ["a/b", "a-b", "c"] {
        fs::create_dir_all(base.join(sub)).unwrap();
    }
    fs::write(base.join("c/file"), "").unwrap();
    symlink(base.join("c"), base.join("link")).unwrap();
    let roots = |paths: &[&str]| {
        let paths = paths.iter().map(|p| base.join(p)).collect();
        let importer = FsImporter::new(paths, FsImportOptions::default()).unwrap();
        let strip = |r: &Vec<u8>| {
            let path = PathBuf::from(std::ffi::OsString::from_vec(r.clone()));
            path.strip_prefix(&base).unwrap().to_str().unwrap().to_owned()
        };
        importer.roots().iter().map(strip).collect::<Vec<_>>()
    };
    assert_eq!(roots(&["a/b", "a", "a-b", "a/b/../b/."]), ["a", "a-b"]);
    assert_eq!(roots(&["link"]), ["c"]);
    assert_eq!(roots(&["link/file", "a/../c/file"]), ["c/file"]);
    assert_eq!(roots(&["c/file", ""]), [""]);

    let relative = FsImporter::new(vec![PathBuf::from(".")], FsImportOptions::default()).unwrap();
    let here = std::env::current_dir().unwrap().canonicalize().unwrap();
    assert_eq!(relative.roots(), [here.into_os_string().into_vec()]);

    let missing = FsImporter::new(vec![base.join("nowhere")], FsImportOptions::default()).unwrap_err();
    assert!(missing.to_string().starts_with(&base.join("nowhere").display().to_string()), "{missing}");
    assert!(FsImporter::new(vec![], FsImportOptions::default()).is_err());
}

#[test]
fn a_root_may_be_a_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "content").unwrap();
    let importer = import(&dir.path().join("file"));
    let root = importer.roots()[0].clone();
    let entry = importer.entry(&root).unwrap();
    assert_eq!((entry.name.as_slice(), entry.meta.size), (&b"file"[..], 7));
    assert!(importer.directory(&root).is_err());
    let parent = Path::new(OsStr::from_bytes(&root)).parent().unwrap().as_os_str().as_bytes();
    assert_eq!(importer.entry(parent).unwrap().meta.kind, Kind::Directory);
    let directory = importer.directory(parent).unwrap();
    assert_eq!(read_all(&mut *directory.open_file(b"file").unwrap()), b"content");
    assert_eq!(importer.entry(b"/").unwrap().name, b"");
}

#[test]
fn the_source_says_who_and_where_it_is() {
    let importer = import(Path::new("/"));
    assert_eq!(importer.kind(), "fs");
    assert_eq!(importer.origin(), fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim_end());
    assert_eq!(importer.user_name(0).as_deref(), Some("root"));
    assert_eq!(importer.group_name(0).as_deref(), Some("root"));
    assert_eq!(importer.user_name(3_999_999_999), None);
    assert_eq!(importer.group_name(3_999_999_999), None);
}

#[test]
fn mount_points_are_marked_when_asked_for() {
    let options = FsImportOptions { one_file_system: true, ..FsImportOptions::default() };
    let marked = |paths: &[&str]| {
        let paths = paths.iter().map(PathBuf::from).collect();
        let importer = FsImporter::new(paths, options).unwrap();
        assert_eq!(importer.roots(), [b"/"]);
        let list = entries(&importer.directory(b"/").unwrap());
        list.iter().find(|e| e.name == b"proc").unwrap().left_out.is_some()
    };
    assert!(marked(&["/"]));
    // Asked for by its own name, it belongs to the source, although the other root covers it.
    assert!(!marked(&["/", "/proc/self/task"]));
    assert!(entries(&open(Path::new("/"))).iter().all(|e| e.left_out.is_none()));
}
