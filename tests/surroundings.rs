//! Sources, stores and homes that are not what one expects: they change, nest, are read-only, or reach limits.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::AtFlags;
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};

use crate::common::torture::{self, noise};
use crate::common::{ALL, Directory, MountGuard, Outcome, Sandbox, SmallDisk, hex_id};

#[test]
fn files_that_are_made_up_when_they_are_read_are_read_to_their_end() {
    let sandbox = Sandbox::with_key_file();
    // Sizes of 0 and of 4096, whatever is in them.
    for place in ["/proc/sys/kernel/random", "/sys/kernel/mm/transparent_hugepage"] {
        let outcome = sandbox.run(["backup", place]);
        let failed: Vec<&str> = outcome.text().lines().filter(|l| l.contains("changed")).collect();
        assert!(failed.is_empty(), "{outcome}");
        // Some of them nobody may read.
        assert!(matches!(outcome.code, Some(0 | 3)), "{outcome}");
        sandbox.run(["restore", "-to", "to", &format!("latest:{place}")]);
    }
    for (place, name) in
        [("/proc/sys/kernel/random", "poolsize"), ("/sys/kernel/mm/transparent_hugepage", "enabled")]
    {
        let there = fs::read(Path::new(place).join(name)).unwrap();
        assert!(!there.is_empty());
        let restored = fs::read(sandbox.path("to").join(name)).unwrap();
        assert_eq!(String::from_utf8_lossy(&restored), String::from_utf8_lossy(&there), "{name}");
    }
}

#[test]
fn one_missing_place_among_several_does_not_keep_the_others_from_being_saved() {
    let sandbox = Sandbox::with_key_file();
    for name in ["one", "two"] {
        fs::create_dir(sandbox.path(name)).unwrap();
        fs::write(sandbox.path(name).join("file"), name).unwrap();
    }
    let missing = sandbox.path("missing");
    sandbox.run(["backup", "one", "missing", "two"]).ends_with(3).says(&[missing.to_str().unwrap()]);
    sandbox.run(["restore", "-to", "to", "latest:/"]).ends_with(3).says(&["/missing: was not backed up"]);
    for name in ["one", "two"] {
        let from = sandbox.path(name);
        let restored = sandbox.path("to").join(from.strip_prefix("/").unwrap()).join("file");
        assert_eq!(fs::read_to_string(restored).unwrap(), name);
    }
    // With nothing to save at all there is no snapshot.
    sandbox.run(["backup", "missing", "nowhere"]).ends_with(1).says(&["missing"]);
    assert_eq!(sandbox.objects("snapshots").len(), 1);
    // It is the same source when it is there again.
    fs::create_dir(&missing).unwrap();
    fs::write(missing.join("file"), "missing").unwrap();
    let again = sandbox.summary(["backup", "one", "missing", "two"]);
    assert_eq!((&again["errors"], &again["snapshot"]["summary"]["files"]), (&0.into(), &3.into()), "{again}");
}

#[test]
fn a_store_that_is_gone_in_the_middle_of_a_backup_is_not_called_damaged() {
    for leaves_an_empty_directory in [false, true] {
        let sandbox = Sandbox::with_key_file();
        fs::create_dir(sandbox.path("source")).unwrap();
        // Several packfiles.
        fs::write(sandbox.path("source/large"), noise(1, 200 << 20)).unwrap();
        let mut command = sandbox.command(["backup", "source"]);
        let child = command.spawn().unwrap();
        while sandbox.objects("data").is_empty() {
            std::thread::yield_now();
        }
        fs::rename(sandbox.store(), sandbox.path("taken away")).unwrap();
        if leaves_an_empty_directory {
            fs::create_dir(sandbox.store()).unwrap();
        }
        let outcome = Outcome::when_ended(child, &command);
        outcome.ends_with(1).says(&["everything in it is gone: was the disk unmounted?"]);
        if leaves_an_empty_directory {
            let below = fs::read_dir(sandbox.store()).unwrap().count();
            assert_eq!(below, 0, "it was written to the disk below");
            fs::remove_dir(sandbox.store()).unwrap();
        }
        fs::rename(sandbox.path("taken away"), sandbox.store()).unwrap();
        sandbox.backup(&sandbox.path("source"));
        sandbox.run(["check"]).succeeds();
    }
}

#[test]
fn further_names_whose_first_one_is_kept_all_become_files_of_their_own() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    fs::create_dir(&source).unwrap();
    // So many pieces that they are in a list.
    let long = fs::File::create(source.join("1")).unwrap();
    for i in 0..200 {
        std::os::unix::fs::FileExt::write_all_at(&long, format!("piece {i}").as_bytes(), i << 17).unwrap();
    }
    for (name, text) in [("3", "three"), ("5", "five")] {
        fs::write(source.join(name), text).unwrap();
    }
    for (first, second) in [("1", "2"), ("3", "4"), ("5", "6")] {
        fs::hard_link(source.join(first), source.join(second)).unwrap();
    }
    sandbox.backup(&source);
    fs::create_dir(sandbox.path("to")).unwrap();
    for kept in ["1", "3", "5"] {
        fs::write(sandbox.path("to").join(kept), "there before").unwrap();
    }
    sandbox.run(["restore", "-overwrite", "never", "-to", "to", "latest"]).succeeds();
    for name in ["2", "4", "6"] {
        let [was, is] = [&source, &sandbox.path("to")].map(|d| fs::read(d.join(name)).unwrap());
        assert!(was == is, "{name}");
    }
    assert_eq!(fs::read(sandbox.path("to/1")).unwrap(), b"there before");
}

#[test]
fn a_file_that_changed_while_it_was_read_is_named_when_it_is_restored() {
    let sandbox = Sandbox::with_key_file();
    fs::create_dir(sandbox.path("source")).unwrap();
    let log = sandbox.path("source/log");
    fs::write(&log, noise(1, 20 << 20)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
            while !stop.load(Ordering::Relaxed) {
                std::io::Write::write_all(&mut file, b"another line\n").unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let outcome = sandbox.run(["backup", "source"]);
        stop.store(true, Ordering::Relaxed);
        outcome.ends_with(3).says(&["log", "it changed while it was read"]);
    });
    sandbox
        .run(["restore", "-to", "to", "latest"])
        .ends_with(3)
        .says(&["log", "it changed while it was read"]);
    assert!(fs::metadata(sandbox.path("to/log")).unwrap().len() >= 20 << 20);
}

#[test]
fn a_source_that_changes_while_it_is_read_damages_nothing() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    for i in 0..20 {
        fs::create_dir_all(source.join(format!("{i}/still"))).unwrap();
        fs::write(source.join(format!("{i}/still/file")), noise(i, 50_000)).unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..2_u64 {
            let (source, stop) = (&source, &stop);
            scope.spawn(move || {
                for n in (worker..).step_by(2) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let dir = source.join(format!("{}", n % 20));
                    let name = |what: &str| dir.join(format!("{what} {worker} {}", n % 7));
                    fs::write(name("grown"), noise(n, (n % 50) as usize * 20_000)).unwrap();
                    let file =
                        fs::OpenOptions::new().write(true).create(true).truncate(false).open(name("cut"));
                    file.unwrap().set_len(n * 1000 % 3_000_000).unwrap();
                    let _there = fs::rename(name("grown"), name("renamed"));
                    let _there = fs::remove_file(name("gone"));
                    let _there = fs::rename(name("cut"), name("gone"));
                    let _there = fs::remove_dir_all(name("tree"));
                    fs::create_dir_all(name("tree").join("a/b/c")).unwrap();
                    let _there = fs::remove_file(name("kind"));
                    let _there = fs::remove_dir(name("kind"));
                    let _any = match n % 3 {
                        0 => fs::create_dir(name("kind")),
                        1 => fs::write(name("kind"), "x"),
                        _ => std::os::unix::fs::symlink("x", name("kind")),
                    };
                }
            });
        }
        for _ in 0..8 {
            let outcome = sandbox.run(["backup", "source"]);
            let fine = matches!(outcome.code, Some(0 | 3));
            if !fine {
                stop.store(true, Ordering::Relaxed);
            }
            assert!(fine, "{outcome}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    // Whatever was seen is whole in itself, and what stood still is right.
    sandbox.run(["check"]).succeeds();
    let to = sandbox.path("to");
    let outcome = sandbox.run(["restore", "-to", "to", "latest"]);
    assert!(matches!(outcome.code, Some(0 | 3)), "{outcome}");
    for i in 0..20 {
        assert!(fs::read(to.join(format!("{i}/still/file"))).unwrap() == noise(i, 50_000));
    }
    // Once it stands still, all of it is.
    let id = hex_id(&sandbox.backup(&source));
    ALL.check(&source, &sandbox.restore(&id));
}

#[test]
fn a_store_within_its_source_is_left_out() {
    let sandbox = Sandbox::with_key_file();
    fs::write(sandbox.path("beside"), "beside").unwrap();
    let here = sandbox.path("");
    sandbox.backup(&here);
    let before = sandbox.stored_bytes();
    sandbox.backup(&here);
    sandbox.run(["check"]).succeeds();
    // What the cache in the home has grown by, and not the store itself.
    assert!(sandbox.stored_bytes() - before < 1 << 20);
    let to = sandbox.restore("latest");
    assert_eq!(fs::read(to.join("beside")).unwrap(), b"beside");
    assert!(!to.join("store/CONFIG").exists());
}

#[test]
fn a_store_that_is_read_only_can_be_read() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    torture::everything(&source);
    sandbox.backup(&source);
    let store = sandbox.store();
    mount_bind(&store, &store).unwrap();
    mount_remount(&store, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
    let looked = std::panic::catch_unwind(|| {
        sandbox.run(["ls"]).succeeds();
        sandbox.run(["check"]).succeeds();
        ALL.check(&source, &sandbox.restore("latest"));
        fs::remove_dir_all(sandbox.path("home/.cache")).unwrap();
        sandbox.run(["info"]).succeeds();
        assert_eq!(sandbox.run(["cat", "latest:kinds/regular"]).succeeds().stdout, b"content\n");
        let mount = MountGuard::new(&sandbox, ["latest"]);
        ALL.check(&source.join("sizes"), &mount.path().join("sizes"));
        sandbox.run(["backup", "source"]).ends_with(1).says(&["Read-only file system"]);
        sandbox.run(["rm", "-apply", "latest"]).ends_with(1).says(&["Read-only file system"]);
    });
    unmount(&store, UnmountFlags::DETACH).unwrap();
    looked.unwrap();
    assert_eq!(sandbox.run(["ls"]).succeeds().text().lines().count(), 1);
}

#[test]
fn a_home_that_cannot_be_written_is_done_without() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), noise(1, 100_000)).unwrap();
    for words in [&["backup", "source"][..], &["ls"], &["check"], &["restore", "-to", "restored", "latest"]] {
        let mut command = sandbox.command(words);
        Outcome::of(command.env("HOME", "/proc/none")).succeeds();
    }
    ALL.check(&source, &sandbox.path("restored"));
    let mut command = sandbox.command(["ls", "-cachedir", "elsewhere"]);
    Outcome::of(command.env_remove("HOME")).succeeds();
    assert!(sandbox.path("elsewhere").is_dir());
}

#[test]
fn the_default_store_is_in_the_home() {
    let sandbox = Sandbox::empty();
    let run = |words: &[&str]| Outcome::of(sandbox.command(words).env_remove("PLAKAR_REPOSITORY"));
    run(&["ls"]).ends_with(66).says(&["home/.plakar"]);
    run(&["create", "-weak-passphrase"]).succeeds();
    fs::create_dir(sandbox.path("source")).unwrap();
    run(&["backup", "source"]).succeeds();
    run(&["check"]).succeeds();
    assert!(sandbox.path("home/.plakar/CONFIG").is_file());
    // Nobody else can look into what is made for the user alone.
    use std::os::unix::fs::MetadataExt;
    for private in ["home/.cache/plakar", "home/.local/state/plakar"] {
        assert_eq!(sandbox.path(private).metadata().unwrap().mode() & 0o077, 0, "{private}");
    }
}

#[test]
fn stores_may_have_any_name() {
    let sandbox = Sandbox::empty();
    fs::create_dir(sandbox.path("source")).unwrap();
    fs::write(sandbox.path("source/file"), "x").unwrap();
    for name in [&b"with \xff\n"[..], b"with blank", b"comma,colon:", b"-dash"] {
        let at = |words: &[&str]| {
            let mut command = sandbox.command(["at"]);
            command.arg(sandbox.path(OsStr::from_bytes(name))).args(words);
            Outcome::of(&mut command)
        };
        at(&["create", "-weak-passphrase", "-json"]).succeeds().json();
        at(&["backup", "-json", "source"]).succeeds().summary();
        assert_eq!(at(&["ls", "-json"]).succeeds().json().len(), 1);
        at(&["check"]).succeeds();
        let place = sandbox.path("mounted");
        fs::create_dir_all(&place).unwrap();
        at(&["mount", "-background", "-to", place.to_str().unwrap(), "latest"]).succeeds();
        let read = fs::read(place.join("file"));
        sandbox.run(["umount", place.to_str().unwrap()]).succeeds();
        assert_eq!(read.unwrap(), b"x");
    }
}

#[test]
fn a_snapshot_of_a_mounted_snapshot_is_the_same_tree() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    torture::everything(&source);
    sandbox.backup(&source);
    let mount = MountGuard::new(&sandbox, ["latest"]);
    let before = sandbox.stored_bytes();
    let second = hex_id(&sandbox.backup(mount.path()));
    drop(mount);
    // The contents are there already; hard links are other groups, so that nodes are new.
    assert!(sandbox.stored_bytes() - before < 256 << 10);
    ALL.check(&source, &sandbox.restore(&second));
}

#[test]
fn attributes_beyond_what_a_snapshot_holds_do_not_spoil_it() {
    let sandbox = Sandbox::with_key_file();
    let disk = SmallDisk::new("64m");
    let source = disk.path().join("source");
    fs::create_dir(&source).unwrap();
    let d = Directory::open(&source);
    d.at("good").file(b"good");
    let inner = d.make("inner");
    let monster = inner.at("monster").file(b"monster");
    // The format takes 2 MiB of attributes for one entry.
    for i in 0..40 {
        monster.xattr(&format!("trusted.{i}"), &noise(i, 60 << 10));
    }
    inner.at("also good").file(b"also good");
    let outcome = sandbox.run(["backup", source.to_str().unwrap()]).ends_with(3);
    outcome.says(&["monster"]);
    sandbox.run(["check"]).succeeds();
    sandbox.run(["ls", "-recursive", "latest"]).succeeds();
    let to = disk.path().join("restored");
    let outcome = sandbox.run(["restore", "-to", to.to_str().unwrap(), "latest"]);
    assert!(matches!(outcome.code, Some(0 | 3)), "{outcome}");
    assert_eq!(fs::read(to.join("good")).unwrap(), b"good");
    assert_eq!(fs::read(to.join("inner/also good")).unwrap(), b"also good");
}

#[test]
fn a_tree_of_3000_levels_is_restored() {
    const LEVELS: usize = 3000;
    let sandbox = Sandbox::with_key_file();
    let disk = SmallDisk::new("64m");
    let source = disk.path().join("source");
    fs::create_dir(&source).unwrap();
    let mut d = Directory::open(&source);
    for _ in 0..LEVELS {
        d = d.make("d");
    }
    d.at("file").file(b"at the bottom").mtime(7, 7);
    sandbox.backup(&source);
    sandbox.backup(&source);
    sandbox.run(["check"]).succeeds();
    let listed = sandbox.run(["ls", "-recursive", "latest"]).succeeds();
    assert_eq!(listed.text().lines().count(), LEVELS + 1);
    let to = disk.path().join("restored");
    sandbox.run(["restore", "-to", to.to_str().unwrap(), "latest"]).succeeds();
    let bottom = |root: &Path| {
        let mut d = Directory::open(root);
        for _ in 0..LEVELS {
            d = d.enter(b"d").unwrap();
        }
        d
    };
    ALL.check_open(&bottom(&source), &bottom(&to));
    let mount = MountGuard::new(&sandbox, ["latest"]);
    ALL.check_open(&bottom(&source), &bottom(mount.path()));
}

#[test]
fn paths_given_twice_or_in_one_another_are_backed_up_once() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    fs::create_dir_all(source.join("inner")).unwrap();
    fs::write(source.join("inner/file"), "x").unwrap();
    fs::write(source.join("file"), "y").unwrap();
    std::os::unix::fs::symlink(&source, sandbox.path("way")).unwrap();
    sandbox
        .run(["backup", "source/inner", "source", "source/inner/file", "./source/../source", "way"])
        .succeeds();
    let to = sandbox.restore(&format!("latest:{}", source.display()));
    ALL.check(&source, &to);
    let summary = &sandbox.run(["info", "-json", "latest"]).succeeds().json()[0]["summary"];
    assert_eq!(summary["files"], 2, "{summary}");
}

#[test]
fn the_last_key_that_opens_a_store_cannot_be_removed() {
    let sandbox = Sandbox::with_key_file();
    let own = sandbox.objects("keys").remove(0);
    sandbox.run(["key", "add", "-new-keyfile", "second"]).succeeds();
    let second = sandbox.objects("keys").into_iter().find(|k| *k != own).unwrap();
    // It is still listed in the store, and opens nothing any more.
    fs::write(&second, vec![0; 200]).unwrap();
    let id = own.file_name().unwrap().to_str().unwrap();
    let outcome = sandbox.run(["key", "rm", "-apply", id]);
    assert!(own.exists(), "the store is lost: {outcome}");
    assert_ne!(outcome.code, Some(0), "{outcome}");
}

#[test]
fn a_file_that_vanishes_is_no_damage() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    fs::create_dir(&source).unwrap();
    let d = Directory::open(&source);
    for i in 0..3000 {
        d.at(&format!("{i:04}")).file(format!("{i}").as_bytes());
    }
    let mut command = sandbox.command(["backup", "source"]);
    let child = command.spawn().unwrap();
    for i in (0..3000).rev() {
        rustix::fs::unlinkat(&d, format!("{i:04}"), AtFlags::empty()).unwrap();
    }
    let outcome = Outcome::when_ended(child, &command);
    assert!(matches!(outcome.code, Some(0 | 3)), "{outcome}");
    sandbox.run(["check"]).succeeds();
    let to = sandbox.path("to");
    let outcome = sandbox.run(["restore", "-to", "to", "latest"]);
    assert!(matches!(outcome.code, Some(0 | 3)), "{outcome}");
    for file in crate::common::sandbox::files_below(&to) {
        let name: u32 = file.file_name().unwrap().to_str().unwrap().parse().unwrap();
        assert_eq!(fs::read(&file).unwrap(), name.to_string().as_bytes());
    }
}

#[test]
fn two_users_of_one_group_share_a_store() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    const GROUP: u32 = 4242;
    let sandbox = Sandbox::for_nobody();
    let store = sandbox.path("shared");
    fs::create_dir(&store).unwrap();
    chown(&store, Some(1001), Some(GROUP)).unwrap();
    fs::create_dir(sandbox.path("source")).unwrap();
    fs::write(sandbox.path("source/file"), "text").unwrap();
    let as_user = |user: u32, args: &[&str]| {
        let home = sandbox.path(format!("home of {user}"));
        if !home.exists() {
            fs::create_dir(&home).unwrap();
            chown(&home, Some(user), Some(user)).unwrap();
        }
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            &user.to_string(),
            "--regid",
            &GROUP.to_string(),
            "--clear-groups",
            "sh",
            "-c",
        ]);
        command.arg("umask 077 && exec \"$0\" \"$@\"").arg(sandbox.path("plakar"));
        command.args(["at", store.to_str().unwrap()]).args(args).env_clear().env("HOME", &home);
        command.env("PATH", std::env::var_os("PATH").unwrap()).current_dir(sandbox.path("")).uid(0);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        Outcome::of(&mut command)
    };
    as_user(1001, &["create", "-plaintext", "-shared"]).succeeds();
    as_user(1001, &["backup", "source"]).succeeds();
    as_user(1002, &["backup", "source"]).succeeds();
    as_user(1001, &["backup", "source"]).succeeds();
    for user in [1001, 1002] {
        as_user(user, &["check"]).succeeds();
        assert_eq!(as_user(user, &["ls"]).succeeds().text().lines().count(), 3);
    }
    for file in crate::common::sandbox::files_below(&store) {
        let meta = fs::metadata(&file).unwrap();
        assert_eq!((meta.gid(), meta.permissions().mode() & 0o777), (GROUP, 0o660), "{}", file.display());
    }
}
