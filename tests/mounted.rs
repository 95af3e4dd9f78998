//! A snapshot in a real kernel mount is the tree that was backed up.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use plakar_engine::tree::{Contents, Detail, Entry};
use rustix::fs::{AtFlags, Mode, XattrFlags};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::common::made::{Builder, file, store};
use crate::common::mount::{eventually, is_mounted, is_running};
use crate::common::sandbox::run_tool;
use crate::common::torture::{self, CROWD, DEEP, DEEP_NAME, SPARSE};
use crate::common::{ALL, Compare, Directory, MountGuard, Outcome, Sandbox, SmallDisk, hex_id};

/// `cp -a` copies everything but the attributes of symlinks.
const COPIED: Compare = Compare { symlink_xattrs: false, ..ALL };

fn copy(from: &Path, to: &Path) {
    // Itself, and not into it.
    run_tool("cp", [OsString::from("-aT"), from.into(), to.into()]);
}

#[test]
fn nothing_is_called_latest_while_the_newest_snapshot_cannot_be_read() {
    let sandbox = Sandbox::with_key_file();
    fs::write(sandbox.path("file"), "old").unwrap();
    sandbox.backup(&sandbox.path("file"));
    let first = sandbox.objects("snapshots");
    fs::write(sandbox.path("file"), "new").unwrap();
    sandbox.backup(&sandbox.path("file"));
    let newest = sandbox.objects("snapshots").into_iter().find(|s| !first.contains(s)).unwrap();
    fs::write(newest, "damaged").unwrap();
    fs::remove_dir_all(sandbox.cache()).unwrap();
    let path = sandbox.path("file");
    let inside = path.strip_prefix("/").unwrap();
    let at = |place: &Path, how: &str| {
        let name = format!("{}@{how}", inside.display());
        fs::read_to_string(
            place.join("snapshots").read_dir().unwrap().next().unwrap().unwrap().path().join(name),
        )
    };
    let mount = MountGuard::new(&sandbox, [""; 0]);
    assert!(fs::symlink_metadata(mount.path().join("latest")).is_err());
    assert!(at(mount.path(), "latest").is_err() && at(mount.path(), "now").is_err());
    assert_eq!(fs::read_dir(mount.path().join("snapshots")).unwrap().count(), 1);
    mount.signal(Signal::TERM);
    mount.ended().says(&["cannot be read", "-skip-damaged"]);
    let mount = MountGuard::new(&sandbox, ["-skip-damaged"]);
    assert_eq!(fs::read_to_string(mount.path().join("latest").join(inside)).unwrap(), "old");
    assert_eq!(at(mount.path(), "latest").unwrap(), "old");
}

#[test]
fn a_mount_in_the_background_needs_no_home_to_write_its_log_to() {
    let sandbox = Sandbox::with_key_file();
    fs::write(sandbox.path("file"), "text").unwrap();
    sandbox.backup(&sandbox.path("file"));
    // Not even root can make a directory there.
    fs::remove_dir_all(sandbox.path("home")).unwrap();
    fs::write(sandbox.path("home"), "no directory").unwrap();
    let at = sandbox.path("mnt");
    fs::create_dir(&at).unwrap();
    let outcome =
        sandbox.run([std::ffi::OsStr::new("mount"), "-background".as_ref(), "-to".as_ref(), at.as_os_str()]);
    let shown = fs::read_dir(at.join("snapshots")).map(Iterator::count);
    sandbox.run([std::ffi::OsStr::new("umount"), at.as_os_str()]).succeeds();
    outcome.succeeds().says(&["its log is", "cannot be written"]);
    assert!(shown.is_ok_and(|n| n == 1));
}

#[test]
fn a_tree_of_everything_is_identical_in_the_mount_and_copied_from_it() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    torture::everything(&source);
    sandbox.backup(&source);
    let mount = MountGuard::new(&sandbox, ["latest"]);
    ALL.check(&source, mount.path());

    // `cp` and `diff` know no paths as long as the one in `deep`: of that the lower half is copied by itself.
    let copied = sandbox.path("copied");
    fs::create_dir(&copied).unwrap();
    for part in ["kinds", "names", "permissions", "times", "attributes", "sizes", "empty"] {
        copy(&mount.path().join(part), &copied.join(part));
        COPIED.check(&source.join(part), &copied.join(part));
    }
    let half = |root: &Path| {
        let mut d = Directory::open(&root.join("deep"));
        for _ in 0..DEEP / 2 {
            d = d.enter(&DEEP_NAME).unwrap();
        }
        d
    };
    let below = copied.join("deep");
    copy(Path::new(&half(mount.path()).short_path()), &below);
    COPIED.check_open(&half(&source), &Directory::open(&below));

    for tree in [mount.path(), &copied] {
        let found = tree.join("sizes/many holes").metadata().unwrap();
        assert!(found.blocks() <= 40 * 16, "{} of {} blocks", found.blocks(), found.len() / 512);
    }
    for part in ["names", "sizes"] {
        let words = ["-r", "--no-dereference", "--"].map(OsString::from).into_iter();
        run_tool("diff", words.chain([source.join(part).into(), mount.path().join(part).into()]));
    }
}

#[test]
fn a_sparse_file_of_5_gib_is_copied_with_its_holes() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    fs::create_dir(&source).unwrap();
    torture::sparse(&Directory::open(&source));
    sandbox.backup(&source);
    let mount = MountGuard::new(&sandbox, ["latest"]);
    ALL.check(&source, mount.path());
    let copied = sandbox.path("copied");
    copy(mount.path(), &copied);
    ALL.check(&source, &copied);
    let found = copied.join("sparse").metadata().unwrap();
    assert_eq!(found.len(), SPARSE);
    assert!(found.blocks() < (10 << 20) / 512, "{} blocks", found.blocks());
}

#[test]
fn a_directory_of_100_000_entries_is_copied_identical() {
    let sandbox = Sandbox::with_key_file();
    // In memory: some disks take minutes to delete so many files again.
    let disk = SmallDisk::new("1g");
    let source = disk.path().join("source");
    fs::create_dir(&source).unwrap();
    torture::crowd(&Directory::open(&source));
    sandbox.backup(&source);
    let mount = MountGuard::new(&sandbox, ["latest"]);
    assert_eq!(ALL.check(&source, mount.path()), u64::from(CROWD) + 1);
    let copied = disk.path().join("copied");
    copy(mount.path(), &copied);
    assert_eq!(COPIED.check(&source, &copied), u64::from(CROWD) + 1);
}

/// A store with a snapshot of a small tree.
fn with_snapshot() -> Sandbox {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("file"), "first").unwrap();
    fs::write(source.join("sub/large"), torture::noise(1, 5 << 20)).unwrap();
    sandbox.backup(&source);
    sandbox
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_mount_of_the_store_shows_snapshots_as_they_come_and_go() {
    let sandbox = with_snapshot();
    let source = sandbox.path("source");
    let mount = MountGuard::new(&sandbox, [""; 0]);
    let root = mount.path();
    let inside = |snapshot: &str| root.join(snapshot).join(source.strip_prefix("/").unwrap());
    assert_eq!(fs::read(inside("latest").join("file")).unwrap(), b"first");
    assert_eq!(names(&root.join("snapshots")).len(), 1);

    fs::write(source.join("file"), "second").unwrap();
    let second = hex_id(&sandbox.backup(&source));
    eventually("latest leads to the new one", || {
        fs::read(inside("latest").join("file")).unwrap() == b"second"
    });
    eventually("the new one is listed", || names(&root.join("snapshots")).len() == 2);
    assert_eq!(fs::read(inside(&format!("ids/{second}")).join("file")).unwrap(), b"second");
    ALL.check(&source, &inside(&second[..8]));

    let open = File::open(inside("latest").join("file")).unwrap();
    sandbox.run(["rm", "-apply", &second]).succeeds();
    eventually("the removed one goes", || names(&root.join("snapshots")).len() == 1);
    eventually("latest leads back", || fs::read(inside("latest").join("file")).unwrap() == b"first");
    let mut content = String::new();
    (&open).read_to_string(&mut content).unwrap();
    assert_eq!(content, "second", "open files go on");
}

#[test]
fn a_part_and_a_choice_of_snapshots_can_be_mounted() {
    let sandbox = with_snapshot();
    sandbox.run(["backup", "-tag", "other", "source"]).succeeds();
    let part = MountGuard::new(&sandbox, ["latest:sub"]);
    assert_eq!(names(part.path()), ["large"]);
    let chosen = MountGuard::new(&sandbox, ["-tag", "other"]);
    assert_eq!(names(&chosen.path().join("snapshots")).len(), 1);
}

#[test]
fn nothing_can_be_changed() {
    let sandbox = with_snapshot();
    let mount = MountGuard::new(&sandbox, ["latest"]);
    let d = Directory::open(mount.path());
    let mode = Mode::from(0o644);
    let refused = [
        ("mkdir", rustix::fs::mkdirat(&d, "new", mode)),
        ("unlink", rustix::fs::unlinkat(&d, "file", AtFlags::empty())),
        ("rmdir", rustix::fs::unlinkat(&d, "sub", AtFlags::REMOVEDIR)),
        ("rename", rustix::fs::renameat(&d, "file", &d, "new")),
        ("link", rustix::fs::linkat(&d, "file", &d, "new", AtFlags::empty())),
        ("symlink", rustix::fs::symlinkat("x", &d, "new")),
        ("chmod", rustix::fs::chmodat(&d, "file", mode, AtFlags::empty())),
        ("truncate", rustix::fs::openat(&d, "file", rustix::fs::OFlags::WRONLY, mode).map(drop)),
        ("xattr", rustix::fs::setxattr(mount.path().join("file"), "user.x", b"1", XattrFlags::empty())),
    ];
    for (what, outcome) in refused {
        assert_eq!(outcome, Err(Errno::ROFS), "{what}");
    }
}

#[test]
fn signals_end_a_mount_cleanly() {
    for signal in [Signal::INT, Signal::TERM] {
        let sandbox = with_snapshot();
        let mount = MountGuard::new(&sandbox, ["latest"]);
        let at = mount.path().to_path_buf();
        assert!(is_mounted(&at));
        mount.signal(signal);
        mount.ended().succeeds();
        assert!(!is_mounted(&at));
        fs::remove_dir(&at).unwrap();
    }
}

#[test]
fn a_mount_ends_however_it_is_unmounted() {
    let sandbox = with_snapshot();
    for program in ["plakar", "umount", "fusermount3"] {
        let mount = MountGuard::new(&sandbox, ["latest"]);
        let at = mount.path().to_path_buf();
        match program {
            "plakar" => drop(sandbox.run(["umount", at.to_str().unwrap()]).succeeds()),
            "umount" => run_tool("umount", [&at]),
            _ => run_tool("fusermount3", ["-u", at.to_str().unwrap()]),
        }
        mount.ended().succeeds();
        assert!(!is_mounted(&at), "{program}");
    }
    sandbox.run(["umount", "source"]).ends_with(1).says(&["no plakar mount", "hint:"]);
}

#[test]
fn a_mount_in_the_background_is_there_when_the_command_returns() {
    let sandbox = with_snapshot();
    let at = sandbox.path("back ground");
    fs::create_dir(&at).unwrap();
    let words = ["mount", "-background", "-to", at.to_str().unwrap(), "latest"];
    let started = sandbox.run(words).succeeds();
    // Whatever fails from here on, it is taken down.
    let looked = std::panic::catch_unwind(|| {
        assert!(started.text().contains("mounted"), "{started}");
        assert_eq!(fs::read(at.join("file")).unwrap(), b"first");
        let listed = sandbox.run(["umount", "-json"]).succeeds().json();
        assert_eq!(listed[0]["mountpoint"], at.to_str().unwrap());
        sandbox.run(words).ends_with(1).says(&["hint:"]);
        listed[0]["process"].as_i64().unwrap()
    });
    let ended = sandbox.run(["umount", at.to_str().unwrap()]);
    if is_mounted(&at) {
        let _ = rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH);
    }
    let pid = looked.unwrap();
    ended.succeeds();
    assert!(!is_running(pid), "its process goes on");
    assert!(sandbox.run(["umount"]).succeeds().stdout.is_empty());
    // What cannot be mounted is said by the command itself.
    let words = ["mount", "-background", "-to", at.to_str().unwrap(), "ffff"];
    sandbox.run(words).ends_with(1).says(&["no snapshot"]);
    let mut command = sandbox.command(["mount", "-background", "-to", at.to_str().unwrap()]);
    fs::write(sandbox.path("key"), "not the key\n").unwrap();
    Outcome::of(&mut command).ends_with(77);
    assert!(!is_mounted(&at));
}

#[test]
fn a_mount_in_use_says_who_uses_it() {
    let sandbox = with_snapshot();
    let mount = MountGuard::new(&sandbox, ["latest"]);
    let at = mount.path().to_path_buf();
    let mut open = File::open(at.join("sub/large")).unwrap();
    let me = std::process::id().to_string();
    sandbox.run(["umount", at.to_str().unwrap()]).ends_with(1).says(&[&me, "hint:", "-detach"]);
    assert!(is_mounted(&at));
    sandbox.run(["umount", "-detach", at.to_str().unwrap()]).succeeds();
    assert!(!is_mounted(&at));
    let mut content = Vec::new();
    open.read_to_end(&mut content).unwrap();
    assert!(content == torture::noise(1, 5 << 20), "open files go on being read");
    drop(open);
    mount.ended().succeeds();
}

#[test]
fn a_mount_never_covers_its_store_or_what_is_no_place_for_it() {
    let sandbox = with_snapshot();
    fs::write(sandbox.path("file"), "x").unwrap();
    let inner = sandbox.store().join("data");
    let own = sandbox.path("");
    let places = [sandbox.store(), inner, own, sandbox.path("file"), sandbox.path("absent")];
    for at in &places {
        // Whether it was refused is looked at before anything else: a mount over the store would be in the way.
        let mut command = sandbox.command(["mount", "-background", "-to", at.to_str().unwrap()]);
        let outcome = Outcome::of(&mut command);
        if is_mounted(at) {
            rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
        outcome.ends_with(1).says(&["mount", "hint:"]);
    }
    let at = sandbox.path("place");
    fs::create_dir(&at).unwrap();
    for words in ["ffff", "latest:absent", "latest:file"] {
        sandbox.run(["mount", "-to", at.to_str().unwrap(), words]).ends_with(1);
    }
    sandbox.run(["check"]).succeeds();
}

#[test]
fn a_place_that_a_killed_mount_has_left_can_be_used_again() {
    let sandbox = with_snapshot();
    let mut mount = MountGuard::new(&sandbox, ["latest"]);
    let at = mount.path().to_path_buf();
    mount.kill();
    assert!(is_mounted(&at), "the kernel keeps it");
    sandbox.run(["umount", at.to_str().unwrap()]).succeeds();
    assert!(!is_mounted(&at));
    drop(mount);

    let mut mount = MountGuard::new(&sandbox, ["latest"]);
    let at = mount.path().to_path_buf();
    mount.kill();
    let again = sandbox.run(["mount", "-background", "-to", at.to_str().unwrap(), "latest"]);
    let read = fs::read(at.join("file"));
    let ended = sandbox.run(["umount", at.to_str().unwrap()]);
    while is_mounted(&at) {
        rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    again.succeeds();
    assert_eq!(read.unwrap(), b"first");
    ended.succeeds();
}

#[test]
fn damaged_files_give_an_error_and_the_others_their_bytes() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    fs::create_dir(&source).unwrap();
    for i in 0..40 {
        fs::write(source.join(format!("file {i}")), torture::noise(i, 150_000)).unwrap();
    }
    sandbox.backup(&source);
    let object = sandbox.objects("data").remove(0);
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    let mount = MountGuard::new(&sandbox, ["latest"]);
    let mut lost = Vec::new();
    for i in 0..40 {
        let name = format!("file {i}");
        match fs::read(mount.path().join(&name)) {
            Ok(content) => assert!(content == torture::noise(i, 150_000), "{name}"),
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(Errno::IO.raw_os_error()), "{name}: {e}");
                lost.push(name);
            }
        }
    }
    assert!((1..20).contains(&lost.len()), "{lost:?}");
    mount.signal(Signal::TERM);
    let outcome = mount.ended();
    for name in &lost {
        assert!(outcome.stderr.contains(name.as_str()), "no word of {name}: {outcome}");
    }
}

#[test]
fn others_see_what_the_modes_let_them_see() {
    let sandbox = Sandbox::for_nobody();
    let source = sandbox.path("source");
    fs::create_dir(&source).unwrap();
    let d = Directory::open(&source);
    d.at("public").file(b"public").mode(0o644);
    d.at("private").file(b"private").mode(0o600);
    sandbox.run(["backup", "source"]).ends_with(3);
    // Root mounts, from a store of root's own: the one above cannot hold what nobody may read.
    let roots = Sandbox::with_key_file();
    roots.backup(&source);
    let at = sandbox.path("mount");
    fs::create_dir(&at).unwrap();
    let to = at.to_str().unwrap();
    roots.run(["mount", "-background", "-allow-other", "-to", to, "latest"]).succeeds();
    let as_nobody = |name: &str| {
        use std::os::unix::process::CommandExt;
        let nobody = crate::common::sandbox::NOBODY;
        Command::new("cat").arg(at.join(name)).uid(nobody).gid(nobody).output().unwrap()
    };
    let (public, private) = (as_nobody("public"), as_nobody("private"));
    roots.run(["umount", to]).succeeds();
    assert_eq!(public.stdout, b"public");
    assert!(!private.status.success() && private.stdout.is_empty());
}

#[test]
fn a_directory_that_could_not_be_listed_does_not_look_empty() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::for_nobody();
    let source = sandbox.path("source");
    for directory in ["closed", "empty", "open"] {
        fs::create_dir_all(source.join(directory)).unwrap();
    }
    for file in ["closed/file", "open/file"] {
        fs::write(source.join(file), "text").unwrap();
    }
    fs::set_permissions(source.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    sandbox.run(["backup", "source"]).ends_with(3);
    let listed = sandbox.run(["ls", "latest"]).succeeds();
    let line = |name: &str| listed.text().lines().find(|l| l.contains(name)).unwrap().to_owned();
    assert!(line(" closed").contains("Permission denied"), "{listed}");
    assert!(line(" open").ends_with(" open"), "{listed}");
    for args in [&["ls", "latest:closed"][..], &["ls", "-recursive", "latest"]] {
        sandbox.run(args).ends_with(3).says(&["closed: not all of it could be listed", "Permission denied"]);
    }
    sandbox.run(["ls", "latest:empty"]).succeeds();
}

#[test]
fn a_directory_that_was_listed_in_part_fails_where_the_rest_would_be() {
    let sandbox = store(|b| {
        let of = |b: &mut Builder, name: &str, names: &[&str], error: Option<&str>, partial: bool| {
            let files: Vec<Entry> = names.iter().map(|n| file(n, Contents::default())).collect();
            let mut directory = b.directory(name, &files);
            directory.error = error.map(String::from);
            if let Detail::Directory { partial: p, .. } = &mut directory.detail {
                *p = partial;
            }
            directory
        };
        let entries = [
            of(b, "broken", &["a", "b"], Some("Input/output error"), true),
            of(b, "closed", &[], Some("Permission denied"), true),
            // Its attributes could not be read, all else could.
            of(b, "odd", &["a"], Some("no attributes"), false),
            // As snapshots say it that have no other way.
            of(b, "old", &[], Some("Permission denied"), false),
            of(b, "whole", &[], None, false),
        ];
        b.directory("", &entries)
    });
    sandbox.run(["ls", "-recursive", "latest"]).ends_with(3).says(&["broken: not all", "closed: not all"]);
    sandbox.run(["check"]).succeeds();
    let mount = MountGuard::new(&sandbox, ["latest:/"]);
    let listed = |name: &str| {
        let all: Vec<_> = fs::read_dir(mount.path().join(name)).unwrap().collect();
        (all.iter().filter(|e| e.is_ok()).count(), all.iter().any(Result::is_err))
    };
    let all = ["broken", "closed", "odd", "old", "whole"].map(listed);
    assert_eq!(all, [(2, true), (0, true), (1, false), (0, true), (0, false)]);
    let mut copy = Command::new("cp");
    let copied = copy.arg("-a").arg(mount.path().join("closed")).arg(sandbox.path("copy")).output();
    assert!(!copied.unwrap().status.success());
}

#[test]
fn a_directory_whose_attributes_could_not_be_read_is_listed_whole() {
    let sandbox = Sandbox::with_key_file();
    fs::create_dir_all(sandbox.path("source/directory")).unwrap();
    fs::write(sandbox.path("source/directory/file"), "text").unwrap();
    let fail = "inject=listxattr,llistxattr,flistxattr:error=EIO";
    let tracer = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", fail];
    Outcome::of(&mut sandbox.under(&tracer, ["backup", "source"])).ends_with(3);
    let listed = sandbox.run(["ls", "latest"]).succeeds();
    assert!(listed.text().contains("Input/output error"), "{listed}");
    sandbox.run(["ls", "-recursive", "latest"]).succeeds();
    let mount = MountGuard::new(&sandbox, ["latest"]);
    let names: Result<Vec<_>, _> = fs::read_dir(mount.path().join("directory")).unwrap().collect();
    assert_eq!(names.unwrap().len(), 1);
}

#[test]
fn a_store_that_is_mounted_in_the_source_is_left_out_unless_it_is_named() {
    let sandbox = Sandbox::with_key_file();
    fs::write(sandbox.path("file"), "text").unwrap();
    sandbox.backup(&sandbox.path("file"));
    let mount = MountGuard::new::<&str>(&sandbox, []);
    let source = mount.path().parent().unwrap();
    let name = mount.path().file_name().unwrap();
    let entries = |path: &Path| {
        let outcome =
            sandbox.run([OsString::from("backup"), "-ignore".into(), "/**/home".into(), path.into()]);
        let outcome = outcome.succeeds();
        let listed = sandbox.run(["ls", "-recursive", "latest"]).succeeds();
        (
            outcome,
            listed.text().lines().count(),
            listed.text().lines().filter(|l| l.contains("mount 0/")).count(),
        )
    };
    for _ in 0..3 {
        let (outcome, _, in_it) = entries(source);
        assert_eq!(in_it, 0);
        outcome.says(&["a store is mounted there", name.to_str().unwrap()]);
        eventually("the new snapshot is shown", || {
            fs::read_dir(mount.path().join("snapshots")).unwrap().count() > 1
        });
    }
    sandbox
        .run([OsString::from("backup"), "-dry-run".into(), source.into()])
        .succeeds()
        .says(&["mounted there"]);
    let (outcome, all, _) = entries(&mount.path().join("latest/"));
    assert!(!outcome.stderr.contains("mounted there") && all > 3, "{outcome}");
}
