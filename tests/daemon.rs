//! Mounts in the background and what belongs to them: how they begin, are listed, end, and what they leave when they
//! are killed; mounts by mount(8).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::mount::{eventually, is_mounted, is_running};
use crate::common::sandbox::{NOBODY, read_until, run_tool};
use crate::common::{Outcome, Sandbox, SmallDisk};

/// A store with a snapshot of a file that all may read and one that only its owner may.
fn with_snapshot() -> Sandbox {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    fs::create_dir(&source).unwrap();
    for (name, mode) in [("public", 0o644), ("private", 0o600)] {
        fs::write(source.join(name), name).unwrap();
        fs::set_permissions(source.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    sandbox.backup(&source);
    sandbox
}

/// A mount in the background, which ends with the test.
struct Background {
    at: PathBuf,
    pid: i64,
}

impl Background {
    /// Mounts the newest snapshot at a directory.
    #[track_caller]
    fn new(sandbox: &Sandbox, at: &Path, options: &[&str]) -> Self {
        Self::by(sandbox.command(["mount"]).args(options), at)
    }

    /// The same by `plakar mount` with what is wanted beside.
    #[track_caller]
    fn by(command: &mut Command, at: &Path) -> Self {
        command.args(["-json", "-background", "-to"]).arg(at).arg("latest");
        let said = Outcome::of(command).succeeds().summary();
        Self { at: at.to_owned(), pid: said["process"].as_i64().unwrap() }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid as i32).unwrap(), signal).unwrap();
    }

    fn kill(&self) {
        self.signal(Signal::KILL);
        eventually("it dies", || !is_running(self.pid));
    }

    fn read(&self) -> Vec<u8> {
        fs::read(self.at.join("public")).unwrap()
    }

    #[track_caller]
    fn has_ended(&self) {
        eventually("it ends", || !is_running(self.pid));
        assert!(!is_mounted(&self.at));
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        while is_mounted(&self.at) {
            let _ = unmount(&self.at, UnmountFlags::DETACH | UnmountFlags::FORCE);
        }
        if is_running(self.pid) {
            self.signal(Signal::KILL);
        }
    }
}

fn directory(sandbox: &Sandbox, name: impl AsRef<OsStr>) -> PathBuf {
    let at = sandbox.path(Path::new(name.as_ref()));
    fs::create_dir(&at).unwrap();
    at
}

/// What `mount -list` says, in at most the time that it may take.
#[track_caller]
fn list(sandbox: &Sandbox) -> Vec<Value> {
    let begun = Instant::now();
    let listed = sandbox.run(["mount", "-list", "-json"]).succeeds().json();
    assert!(begun.elapsed() < Duration::from_secs(10), "it waits for a mount: {:?}", begun.elapsed());
    listed
}

fn records(sandbox: &Sandbox) -> Vec<String> {
    let entries = fs::read_dir(sandbox.path("home/.local/state/plakar/mounts")).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| !n.contains(".log")).collect()
}

#[test]
fn it_ends_however_it_is_asked_to_and_leaves_nothing() {
    let sandbox = with_snapshot();
    let at = directory(&sandbox, "mnt");
    let (pid_file, log) = (sandbox.path("pid"), sandbox.path("log"));
    for way in ["plakar", "umount", "fusermount3", "TERM", "INT"] {
        let options = ["-pid-file", pid_file.to_str().unwrap(), "-log-file", log.to_str().unwrap()];
        let mount = Background::new(&sandbox, &at, &options);
        assert_eq!(mount.read(), b"public");
        assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{}\n", mount.pid));
        assert!(log.exists());
        match way {
            "plakar" => drop(sandbox.run([OsStr::new("umount"), at.as_os_str()]).succeeds()),
            "umount" => run_tool("umount", [&at]),
            "fusermount3" => run_tool("fusermount3", [OsStr::new("-u"), at.as_os_str()]),
            "TERM" => mount.signal(Signal::TERM),
            _ => mount.signal(Signal::INT),
        }
        mount.has_ended();
        // Nothing was wrong, so nothing is said to be.
        let said = fs::read_to_string(&log).unwrap();
        assert!(!said.contains("ERROR") && !said.contains("WARN"), "{way}: {said}");
        assert!(!pid_file.exists(), "{way}");
        assert_eq!(records(&sandbox), [""; 0], "{way}");
        assert_eq!(list(&sandbox), [Value::Null; 0], "{way}");
    }
}

#[test]
fn it_outlives_its_terminal_and_holds_nothing_of_its_caller() {
    let sandbox = with_snapshot();
    let at = directory(&sandbox, "mnt");
    let lock = sandbox.path("lock");
    // As a script does that must run once at a time.
    let script = "exec 9>lock; flock 9; \"$@\"";
    let mut command = sandbox.under(&["sh", "-c", script, "sh"], ["mount"]);
    let mount = Background::by(&mut command, &at);
    run_tool("flock", [OsStr::new("-n"), lock.as_os_str(), OsStr::new("true")]);
    let leads = |fd: &str| fs::read_link(format!("/proc/{}/fd/{fd}", mount.pid)).unwrap();
    // It lets go of them when the command has heard that it is ready.
    eventually("it has let go of its pipes", || ["0", "1"].map(leads) == [Path::new("/dev/null"); 2]);
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", mount.pid)).unwrap(), Path::new("/"));
    for _ in 0..3 {
        mount.signal(Signal::HUP);
        // What it was asked before has been taken when it answers.
        assert_eq!(list(&sandbox)[0]["state"], "alive");
    }
    assert_eq!(mount.read(), b"public");
    // Nothing was begun by them: the first of these ends it, as it does where nobody uses the mount.
    mount.signal(Signal::TERM);
    mount.has_ended();
}

#[test]
fn its_log_never_grows_beyond_its_limit() {
    let sandbox = with_snapshot();
    let at = directory(&sandbox, "mnt");
    let log = sandbox.path("a.log");
    let full = vec![b'x'; 3 << 20];
    fs::write(&log, &full).unwrap();
    let mount =
        Background::by(sandbox.command(["mount"]).arg("-log-file").arg(&log).env("PLAKAR_IGNORED", "1"), &at);
    let open = File::open(at.join("public")).unwrap();
    mount.signal(Signal::TERM);
    let me = format!("({})", std::process::id());
    eventually("it says who keeps it", || fs::read_to_string(&log).unwrap().contains(&me));
    assert!(fs::metadata(&log).unwrap().len() < 10_000);
    assert_eq!(fs::metadata(sandbox.path("a.log.1")).unwrap().len(), full.len() as u64);
    drop(open);
    mount.signal(Signal::TERM);
    mount.has_ended();
    sandbox.run(["mount", "-log-file", "x"]).ends_with(2).says(&["-background"]);
}

#[test]
fn a_file_that_holds_no_number_is_not_made_one() {
    let sandbox = with_snapshot();
    let at = directory(&sandbox, "mnt");
    fs::write(sandbox.path("precious"), "words").unwrap();
    for more in [&[][..], &["-background"]] {
        let outcome =
            sandbox.run([&["mount", "-pid-file", "precious", "-to", at.to_str().unwrap()], more].concat());
        assert!(!is_mounted(&at));
        outcome.ends_with(1).says(&["precious", "hint:"]);
    }
    assert_eq!(fs::read(sandbox.path("precious")).unwrap(), b"words");
}

#[test]
fn a_service_manager_hears_of_its_beginning_and_end() {
    let sandbox = with_snapshot();
    let path = sandbox.path("notify");
    let name = format!("plakar-test-{}", std::process::id());
    let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let by_path = UnixDatagram::bind(&path).unwrap();
    for (socket, value) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let hear = || {
            let mut bytes = [0; 1000];
            let n = socket.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..n].to_vec()).unwrap()
        };
        let at = sandbox.path("mnt");
        let _ = fs::create_dir(&at);
        let mut command = sandbox.command(["mount", "-to"]);
        let child = command.arg(&at).arg("latest").env("NOTIFY_SOCKET", value).spawn().unwrap();
        let mount = Background { at, pid: child.id().into() };
        let ready = hear();
        assert!(
            ready.contains("READY=1\n") && ready.contains(&format!("MAINPID={}\n", mount.pid)),
            "{ready}"
        );
        assert_eq!(mount.read(), b"public");
        mount.signal(Signal::TERM);
        assert_eq!(hear(), "STOPPING=1");
        Outcome::when_ended(child, &command).succeeds();
        mount.has_ended();
    }
}

#[test]
fn owners_and_permissions_are_what_was_asked_for() {
    let sandbox = with_snapshot();
    // Where everybody gets to.
    let place = tempfile::Builder::new().prefix("plakar-it-").tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let at = place.path().join("mnt");
    fs::create_dir(&at).unwrap();
    let shown = |name: &str| {
        let m = fs::metadata(at.join(name)).unwrap();
        (m.uid(), m.gid(), m.mode() & 0o7777)
    };
    let can_read = |name: &str| {
        let mut cat = Command::new("cat");
        cat.arg(at.join(name)).uid(NOBODY).gid(NOBODY).stderr(Stdio::null());
        cat.output().unwrap().stdout == name.as_bytes()
    };
    {
        let _mount = Background::new(&sandbox, &at, &["-allow-other", "-uid", "65534", "-umask", "027"]);
        assert_eq!(shown("public"), (NOBODY, 0, 0o640));
        assert_eq!(shown("private"), (NOBODY, 0, 0o600));
        assert!(can_read("public") && can_read("private"));
    }
    {
        let _mount = Background::new(&sandbox, &at, &["-allow-other", "-umask", "007"]);
        assert_eq!(shown("public"), (0, 0, 0o640));
        assert!(!can_read("public") && !can_read("private"));
    }
    {
        let options = ["-allow-other", "-owner", "1:2", "-gid", "3", "-umask", "777"];
        let _mount = Background::new(&sandbox, &at, &options);
        assert_eq!((shown("public"), shown("")), ((1, 3, 0), (1, 3, 0)));
    }
    sandbox.run(["mount", "-umask", "9"]).ends_with(2).says(&["-umask"]);
}

#[test]
fn a_list_tells_how_each_mount_is() {
    let sandbox = with_snapshot();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|n| directory(&sandbox, n));
    let alive = Background::new(&sandbox, &a, &[]);
    let stopped = Background::new(&sandbox, &b, &[]);
    let dead = Background::new(&sandbox, &c, &[]);
    let detached = Background::new(&sandbox, &d, &[]);
    assert_eq!(alive.read(), b"public");
    let open = File::open(d.join("public")).unwrap();
    stopped.signal(Signal::STOP);
    dead.kill();
    sandbox.run(["umount", "-lazy", d.to_str().unwrap()]).succeeds();
    let listed = list(&sandbox);
    let states: Vec<_> = listed.iter().map(|m| m["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["alive", "not answering", "dead", "detached"]);
    assert_eq!(listed[0]["mountpoint"], a.to_str().unwrap());
    assert_eq!(listed[0]["store"], sandbox.store().to_str().unwrap());
    assert_eq!(listed[0]["shows"], "latest");
    assert_eq!(listed[0]["process"], alive.pid);
    let status = &listed[0]["status"];
    assert!(
        status["frames"]["data_bytes"].as_u64() > Some(0) && status["requests"]["reads"] == 1,
        "{status}"
    );
    assert!(listed[0]["log"].as_str().unwrap().ends_with(".log"));
    let shown = sandbox.run(["mount", "-list"]).succeeds().says(&["umount DIR", "umount -force DIR"]);
    let lines: Vec<_> = shown.text().lines().collect();
    assert!(
        lines.len() == 4 && lines[0].contains(" alive ") && lines[0].ends_with(a.to_str().unwrap()),
        "{shown}"
    );

    // Each goes by the command that the list names.
    sandbox.run(["umount", "-force", b.to_str().unwrap()]).succeeds();
    stopped.has_ended();
    sandbox.run(["umount", c.to_str().unwrap()]).succeeds();
    assert!(!is_mounted(&c));
    drop(open);
    detached.has_ended();
    sandbox.run(["umount", a.to_str().unwrap()]).succeeds();
    alive.has_ended();
    assert_eq!(list(&sandbox), [Value::Null; 0]);
    assert_eq!(records(&sandbox), [""; 0]);
}

#[test]
fn the_disk_cache_is_as_large_as_was_asked_for() {
    let sandbox = with_snapshot();
    let at = directory(&sandbox, "mnt");
    {
        let mount = Background::new(&sandbox, &at, &["-disk-cache-size", "8MiB"]);
        assert_eq!(mount.read(), b"public");
        let cache = || list(&sandbox)[0]["status"]["disk_cache"].clone();
        assert_eq!(cache()["limit_bytes"], 8 << 20);
        eventually("what was read is kept", || cache()["held_bytes"].as_u64() > Some(0));
    }
    let mount = Background::new(&sandbox, &at, &["-disk-cache-size", "0"]);
    assert_eq!(mount.read(), b"public");
    assert_eq!(list(&sandbox)[0]["status"]["disk_cache"], Value::Null);
}

#[test]
fn whoever_waits_for_a_mount_that_does_not_answer_is_freed_by_force() {
    let sandbox = with_snapshot();
    let at = directory(&sandbox, "mnt");
    let mount = Background::new(&sandbox, &at, &[]);
    mount.signal(Signal::STOP);
    let mut waits = Command::new("cat").arg(at.join("public")).stderr(Stdio::piped()).spawn().unwrap();
    let state = || fs::read_to_string(format!("/proc/{}/wchan", waits.id())).unwrap_or_default();
    eventually("it waits", || {
        !is_running(waits.id().into()) || state().contains("fuse") || state().contains("request")
    });
    sandbox.run(["mount", "-to", at.to_str().unwrap()]).ends_with(1).says(&["mounted already"]);
    sandbox.run(["umount", "-force", at.to_str().unwrap()]).succeeds();
    assert!(!waits.wait().unwrap().success());
    mount.has_ended();
}

#[test]
fn the_next_mount_clears_away_a_dead_one_whose_root_was_looked_at() {
    let sandbox = with_snapshot();
    let at = directory(&sandbox, "mnt");
    let mount = Background::new(&sandbox, &at, &[]);
    // From here on the kernel knows the root's attributes by itself.
    assert!(fs::metadata(&at).unwrap().is_dir());
    mount.kill();
    assert!(fs::metadata(&at).is_ok(), "the kernel asks, and this shows nothing");
    let next = Background::new(&sandbox, &at, &[]);
    assert_eq!(next.read(), b"public");
    sandbox.run(["umount", at.to_str().unwrap()]).succeeds();
    next.has_ended();
}

#[test]
fn a_directory_that_was_made_for_a_killed_mount_goes_with_it() {
    let sandbox = with_snapshot();
    let place = directory(&sandbox, "cwd");
    let begin = || {
        let mut child = sandbox.command(["mount"]).current_dir(&place).spawn().unwrap();
        let said = read_until(child.stdout.as_mut().unwrap(), b"\n");
        let at = String::from_utf8(said).unwrap();
        let at = PathBuf::from(at.trim_end().split_once(" at ").unwrap().1);
        assert_eq!(at.parent(), Some(&*place.canonicalize().unwrap()));
        (Background { at, pid: child.id().into() }, child)
    };
    let end = |mut child: std::process::Child| child.wait().unwrap();
    let (mount, child) = begin();
    mount.signal(Signal::KILL);
    end(child);
    let at = mount.at.clone();
    assert!(is_mounted(&at));
    sandbox.run(["umount", at.to_str().unwrap()]).succeeds();
    assert!(!at.exists());
    assert_eq!(records(&sandbox), [""; 0]);

    // Or with the next one that is begun there.
    let killed = begin();
    killed.0.signal(Signal::KILL);
    end(killed.1);
    let next = begin();
    let found: Vec<_> = fs::read_dir(&place).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(found, [&*next.0.at]);
    next.0.signal(Signal::TERM);
    end(next.1);
    assert!(fs::read_dir(&place).unwrap().next().is_none());
}

#[test]
fn one_that_is_killed_while_it_starts_leaves_nothing_in_the_way() {
    let sandbox = with_snapshot();
    let at = directory(&sandbox, "mnt");
    // The process behind a mount, which waits for its secret.
    let begin = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plakar"));
        command
            .args(["mount", "-background", "-to"])
            .arg(&at)
            .env_clear()
            .env("HOME", sandbox.path("home"))
            .env("PLAKAR_REPOSITORY", sandbox.store())
            .env("PLAKAR_MOUNT_IN_BACKGROUND", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut child = begin();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!is_mounted(&at));

    // Whoever started it goes before it is ready.
    let mut child = begin();
    drop(child.stdout.take());
    let secret = fs::read(sandbox.path("key")).unwrap();
    child.stdin.take().unwrap().write_all(&secret).unwrap();
    let pid = i64::from(child.id());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    let mount = Background { at: at.clone(), pid };
    mount.has_ended();
    assert!(!status.success() && said.contains("nobody waits"), "{said}");
    drop(mount);

    let mount = Background::new(&sandbox, &at, &[]);
    assert_eq!(mount.read(), b"public");
}

#[test]
fn a_mountpoint_may_have_any_name() {
    let sandbox = with_snapshot();
    let names: [&[u8]; 6] =
        [b"a b", b"a,b", b"a\nb", b"a\\040b", b"\xff\xfe", "h\u{e9}\t\u{202e}".as_bytes()];
    for name in names {
        let at = directory(&sandbox, OsString::from_vec(name.to_vec()));
        let mount = Background::new(&sandbox, &at, &[]);
        assert_eq!(mount.read(), b"public");
        let listed = list(&sandbox);
        assert_eq!((listed.len(), &listed[0]["state"]), (1, &Value::from("alive")), "{listed:?}");
        if std::str::from_utf8(name).is_err() {
            let hex: String = at.as_os_str().as_bytes().iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(listed[0]["mountpoint_hex"], hex);
        }
        let words = [OsStr::new("mount"), OsStr::new("-to"), at.as_os_str()];
        let by = format!("by process {}", mount.pid);
        sandbox.run(words).ends_with(1).says(&["mounted already", sandbox.store().to_str().unwrap(), &by]);
        sandbox.run([OsStr::new("umount"), at.as_os_str()]).succeeds();
        mount.has_ended();
    }
    // By a symlink as by its own name.
    let at = directory(&sandbox, "real");
    symlink(&at, sandbox.path("link")).unwrap();
    let mount = Background::new(&sandbox, &sandbox.path("link"), &[]);
    assert_eq!(list(&sandbox)[0]["mountpoint"], at.to_str().unwrap());
    sandbox.run(["umount", "link"]).succeeds();
    mount.has_ended();
    assert!(!is_mounted(&at));
}

#[test]
fn what_is_hidden_is_said_and_nothing_is_written_around_it() {
    let sandbox = with_snapshot();
    let at = directory(&sandbox, "mnt");
    fs::write(at.join("mine"), "x").unwrap();
    let to = at.to_str().unwrap();
    let outcome = sandbox.run(["mount", "-background", "-to", to, "latest"]);
    let seen = at.join("mine").exists();
    sandbox.run(["umount", to]).succeeds();
    outcome.succeeds().says(&["is not empty"]);
    assert!(!seen && at.join("mine").exists());

    let disk = SmallDisk::new("1m");
    let at = disk.path().join("mnt");
    fs::create_dir(&at).unwrap();
    run_tool("mount", [OsStr::new("-o"), OsStr::new("remount,ro"), disk.path().as_os_str()]);
    let mount = Background::new(&sandbox, &at, &[]);
    assert_eq!(mount.read(), b"public");
    sandbox.run([OsStr::new("umount"), at.as_os_str()]).succeeds();
    mount.has_ended();
    let mut command = sandbox.command(["mount"]);
    Outcome::of(command.current_dir(disk.path())).ends_with(1).says(&["cannot make", "Read-only"]);
}

/// The program under the name that mount(8) looks for.
fn helper(sandbox: &Sandbox, args: &[&OsStr]) -> Outcome {
    let name = sandbox.path("mount.plakar");
    if !name.exists() {
        symlink(env!("CARGO_BIN_EXE_plakar"), &name).unwrap();
    }
    let mut command = Command::new(name);
    command.args(args).env_clear().env("HOME", sandbox.path("home")).env("PATH", "/usr/bin:/bin");
    Outcome::of(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

#[test]
fn the_helper_mounts_as_mount_asks_and_ends_with_its_codes() {
    let sandbox = with_snapshot();
    let at = directory(&sandbox, "m p");
    let (store, key) = (sandbox.store(), sandbox.path("key"));
    let run = |options: &str| {
        helper(&sandbox, &[store.as_os_str(), at.as_os_str(), "-o".as_ref(), options.as_ref()])
    };
    let good = format!(
        "rw,noexec,nosuid,nodev,snapshot=latest,keyfile={},umask=077,_netdev,nofail,users",
        key.display()
    );
    helper(&sandbox, &[store.as_os_str(), at.as_os_str(), "-f".as_ref(), "-o".as_ref(), good.as_ref()])
        .succeeds();
    assert!(!is_mounted(&at), "it was only to be tried out");
    let silent = run(&good).succeeds();
    let mount = Background { at: at.clone(), pid: list(&sandbox)[0]["process"].as_i64().unwrap() };
    assert!(silent.stdout.is_empty() && silent.stderr.is_empty(), "{silent}");
    assert_eq!(fs::metadata(at.join("public")).unwrap().mode() & 0o777, 0o600);
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|l| l.contains("m\\040p")).unwrap();
    assert!(line.starts_with(store.to_str().unwrap()) && line.contains(" ro,nosuid,nodev,noexec"), "{line}");
    run(&good).ends_with(32).says(&["mounted already"]);
    sandbox.run([OsStr::new("umount"), at.as_os_str()]).succeeds();
    mount.has_ended();

    run("rw,passphrase=geheim").ends_with(1).says(&["everybody may read", "keyfile="]);
    run("rw,alow_other").ends_with(1).says(&["alow_other", "allow_other"]);
    run("rw,umask=9").ends_with(1).says(&["umask"]);
    run("rw,keyfile=/absent").ends_with(32).says(&["/absent"]);
    run(&format!("rw,keyfile={},snapshot=ffff", key.display())).ends_with(32).says(&["no snapshot"]);
    helper(&sandbox, &["/no/such/store".as_ref(), at.as_os_str()]).ends_with(32).says(&["no store"]);
    helper(&sandbox, &[store.as_os_str()]).ends_with(1).says(&["mount -t plakar"]);
    assert!(!is_mounted(&at));
}

#[test]
fn mount_and_fstab_find_the_helper() {
    let sandbox = with_snapshot();
    let at = directory(&sandbox, "m p");
    let at_in_fstab = at.to_str().unwrap().replace(' ', "\\040");
    let options = format!("snapshot=latest,keyfile={},nofail,_netdev", sandbox.path("key").display());
    let store = sandbox.store();
    let line =
        |kind: &str| format!("{} {at_in_fstab} {kind} {options},x-systemd.automount 0 0\n", store.display());
    fs::write(sandbox.path("fstab"), line("plakar")).unwrap();
    fs::write(sandbox.path("fstab.fuse"), line("fuse.plakar")).unwrap();
    // In a table of mounts of its own, with a directory of helpers of its own.
    let script = r#"
        set -eu
        program=$1 store=$2 at=$3 options=$4
        sbin=$(realpath /sbin) fuse=$(realpath /sbin/mount.fuse3)
        cp "$fuse" mount.fuse3
                mount -t tmpfs none "$sbin"
        cp mount.fuse3 "$sbin"; ln -s mount.fuse3 "$sbin/mount.fuse"
        ln -s "$program" "$sbin/mount.plakar"; ln -s "$program" "$sbin/plakar"
        look() { cat "$at/public"; echo " $1"; }

        mount -t plakar "$store" "$at" -o "$options"
        look type; umount "$at"
        mount -a -T fstab
        mount -a -T fstab
        grep -c "m.040p fuse.plakar" /proc/self/mounts
        look fstab; umount "$at"
        mount -T fstab "$at"
        look place; umount "$at"
        PATH=$PATH:$sbin mount -t fuse.plakar "$store" "$at" -o "$options"
        look mount.fuse3; umount "$at"
        PATH=$PATH:$sbin mount -t fuse "plakar#$store" "$at" -o "$options"
        look hash; umount "$at"
        ln -s "$program" "$sbin/mount.fuse.plakar"
        mount -a -T fstab.fuse
        look fuse.plakar; umount "$at"
        if mount -t plakar "$store" "$at" -o frobnicate; then exit 1; else echo "code $?"; fi
        if mount -t plakar /no/store "$at"; then exit 1; else echo "code $?"; fi
    "#;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_plakar")])
        .args([&store, &at])
        .arg(&options)
        .env_clear()
        .env("HOME", sandbox.path("home"))
        .env("PATH", "/usr/bin:/bin")
        .current_dir(sandbox.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let outcome = Outcome::of(&mut command);
    // What a failure has left holds the other table of mounts, and is not to be seen from here.
    for m in list(&sandbox) {
        let pid = m["process"].as_i64().unwrap();
        if !outcome.stderr.is_empty() && is_running(pid) {
            let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL);
        }
    }
    let outcome = outcome.succeeds();
    let said: Vec<_> = outcome.text().lines().collect();
    assert_eq!(
        said,
        [
            "public type",
            "1",
            "public fstab",
            "public place",
            "public mount.fuse3",
            "public hash",
            "public fuse.plakar",
            "code 1",
            "code 32"
        ],
        "{outcome}"
    );
    assert!(outcome.stderr.contains("frobnicate") && outcome.stderr.contains("/no/store"), "{outcome}");
}

#[test]
fn systemd_takes_the_unit() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else { return };
    assert!(version.status.success());
    let place = tempfile::tempdir().unwrap();
    let unit =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd/plakar-mount@.service"));
    // It looks whether the program is there.
    let unit = unit.unwrap().replace("/usr/bin/plakar", env!("CARGO_BIN_EXE_plakar"));
    let file = place.path().join("plakar-mount@mnt-backups.service");
    fs::write(&file, unit).unwrap();
    run_tool("systemd-analyze", [OsStr::new("verify"), file.as_os_str()]);
}
