//! Mounts in the background: the test program runs itself again as the process behind the mount.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use plakar_mount::daemon::{self, Readiness, Record, Registration, StartError, State};
use plakar_mount::{MountConfig, MountError, MountSession, Unmount};

use crate::source::Node;
use crate::store::TestStore;

/// Names the directory of a test to the process behind its mount.
const PLACE: &str = "PLAKAR_TEST_PLACE";

/// Not a test of its own: what runs in the background. It does nothing unless it was started by one.
#[test]
fn background_side() {
    let Some(readiness) = Readiness::from_env() else { return };
    let place = std::env::var_os(PLACE).unwrap();
    let place = Path::new(&place);
    let secret = readiness.secret().unwrap();
    if secret != b"open sesame" {
        readiness.failed("wrong passphrase", 77);
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (store, _) = TestStore::with(Node::directory([("f", Node::file("x"))]), &["/"]).await;
        let session =
            MountSession::start(MountConfig::new(place.join("mnt")), store.repository.clone()).await.unwrap();
        let fs = session.file_system().clone();
        let record = Record::new(session.mountpoint(), "mem:");
        let status = move || daemon::status::of(&fs);
        let registration = Registration::new(&place.join("state"), &record, status).unwrap();
        readiness.ready().unwrap();
        session.serve(|e| eprintln!("{e}")).await.unwrap();
        drop(registration);
    });
}

fn log(state: &Path) -> std::path::PathBuf {
    state.join("mounts/log")
}

fn this_program(place: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "daemon::background_side", "--nocapture"]).env(PLACE, place);
    command
}

/// Detaches whatever is left at the end of a test.
struct Guard<'a>(&'a Path);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let _gone_already = daemon::umount(&self.0.join("mnt"), &self.0.join("state"), Unmount::Detach);
    }
}

#[test]
fn a_mount_in_the_background_lives_until_it_is_unmounted() {
    let place = tempfile::tempdir().unwrap();
    let (place, _guard) = (place.path(), Guard(place.path()));
    let (mountpoint, state) = (place.join("mnt"), place.join("state"));
    fs::create_dir(&mountpoint).unwrap();
    let pid = daemon::start(this_program(place), Some(b"open sesame"), &mountpoint, &log(&state)).unwrap();
    assert_eq!(fs::read(mountpoint.join("latest/f")).unwrap(), b"x");
    let listed = daemon::list(&state).unwrap();
    assert_eq!(listed.len(), 1);
    let (record, how) = &listed[0];
    assert_eq!((record.pid, record.store.as_str()), (pid, "mem:"));
    assert_eq!(record.mountpoint, mountpoint.canonicalize().unwrap());
    let State::Alive(status) = how else { panic!("{how:?}") };
    assert!(status["frames"]["loaded"].as_u64() > Some(0) && status["inodes"].as_u64() > Some(0), "{status}");
    assert!(log(&state).exists());
    // It leads a session of its own, so that it outlives the terminal.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert_eq!(stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3), Some(pid.to_string().as_str()));

    let mut sleeper = Command::new("sleep").arg("60").current_dir(&mountpoint).spawn().unwrap();
    let busy = daemon::umount(&mountpoint, &state, Unmount::IfUnused).unwrap_err();
    assert!(busy.to_string().contains(&format!("sleep ({})", sleeper.id())), "{busy}");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    daemon::umount(&mountpoint, &state, Unmount::IfUnused).unwrap();
    assert_eq!(daemon::list(&state).unwrap(), []);
    let again = daemon::umount(&mountpoint, &state, Unmount::IfUnused).unwrap_err();
    assert!(matches!(again, MountError::NotMounted { .. }), "{again}");
}

#[test]
fn why_there_is_no_mount_comes_back() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    fs::create_dir(place.join("mnt")).unwrap();
    let start =
        |command, secret| daemon::start(command, secret, &place.join("mnt"), &log(&place.join("state")));
    match start(this_program(place), Some(b"guess")).unwrap_err() {
        StartError::Failed { text, code } => assert_eq!((text.as_str(), code), ("wrong passphrase", 77)),
        other => assert_eq!(other.to_string(), "a failure with its text"),
    }
    let died = start(Command::new("false"), None).unwrap_err();
    assert!(matches!(died, StartError::Died { .. }), "{died}");
    assert!(matches!(start(Command::new("/no/such/program"), None), Err(StartError::Spawn(_))));
}

#[test]
fn a_mount_whose_process_died_is_cleared_away_by_the_next() {
    let place = tempfile::tempdir().unwrap();
    let (place, _guard) = (place.path(), Guard(place.path()));
    let (mountpoint, state) = (place.join("mnt"), place.join("state"));
    fs::create_dir(&mountpoint).unwrap();
    let pid = daemon::start(this_program(place), Some(b"open sesame"), &mountpoint, &log(&state)).unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    // Not an empty directory: a mirroring job must not take it for one. What was asked for while the
    // process died is ECONNABORTED (103), what is asked for later ENOTCONN (107).
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match fs::read_dir(&mountpoint).map(|entries| entries.map(Result::unwrap).count()) {
            Err(e) if e.raw_os_error() == Some(107) => break,
            Err(e) => assert_eq!(e.raw_os_error(), Some(103), "{e}"),
            Ok(entries) => assert_ne!(entries, 0),
        }
        assert!(Instant::now() < deadline, "the process does not die");
        std::thread::sleep(Duration::from_millis(10));
    }
    let listed = daemon::list(&state).unwrap();
    assert_eq!((listed.len(), &listed[0].1), (1, &State::Dead));
    daemon::start(this_program(place), Some(b"open sesame"), &mountpoint, &log(&state)).unwrap();
    assert_eq!(fs::read(mountpoint.join("latest/f")).unwrap(), b"x");
    daemon::umount(&mountpoint, &state, Unmount::IfUnused).unwrap();
    assert_eq!(fs::read_dir(&mountpoint).unwrap().count(), 0);
}

#[test]
fn a_signal_unmounts() {
    let place = tempfile::tempdir().unwrap();
    let (place, _guard) = (place.path(), Guard(place.path()));
    let (mountpoint, state) = (place.join("mnt"), place.join("state"));
    fs::create_dir(&mountpoint).unwrap();
    let pid = daemon::start(this_program(place), Some(b"open sesame"), &mountpoint, &log(&state)).unwrap();
    assert!(Command::new("kill").arg(pid.to_string()).status().unwrap().success());
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::metadata(mountpoint.join("latest")).is_ok() {
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(fs::read_dir(&mountpoint).unwrap().count(), 0);
}

#[test]
fn records_of_mounts_are_plain_and_go_with_them() {
    let place = tempfile::tempdir().unwrap();
    let record = Record::new(place.path(), "s3://bucket");
    let registration = Registration::new(place.path(), &record, || serde_json::json!({})).unwrap();
    let files = fs::read_dir(place.path().join("mounts")).unwrap().map(|f| f.unwrap().path());
    let file = files.into_iter().find(|f| f.extension().is_some_and(|e| e == "json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(record["store"], "s3://bucket");
    assert_eq!(record["pid"], std::process::id());
    // Its process runs, and nothing is mounted.
    assert_eq!(daemon::list(place.path()).unwrap()[0].1, State::Detached);
    drop(registration);
    assert_eq!(fs::read_dir(place.path().join("mounts")).unwrap().count(), 0);
}

#[test]
fn a_user_who_is_not_root_mounts_by_the_helper() {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        // Then every test here does.
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (place, _guard) = (place.path(), Guard(place.path()));
    let (mountpoint, state) = (place.join("mnt"), place.join("state"));
    fs::create_dir(&mountpoint).unwrap();
    fs::create_dir_all(state.join("mounts")).unwrap();
    // Where this program lies others may not get to.
    let program = place.join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for path in [place, &mountpoint, &state, &state.join("mounts")] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut command = Command::new(program);
    command
        .args(["--exact", "daemon::background_side", "--nocapture"])
        .env(PLACE, place)
        .env("TMPDIR", place);
    command.uid(NOBODY).gid(NOBODY);
    let started = daemon::start(command, Some(b"open sesame"), &mountpoint, &log(&state));
    let log = fs::read_to_string(log(&state)).unwrap();
    if fs::metadata("/dev/fuse").unwrap().mode() & 0o006 != 0o006 {
        // A machine that lets only root use it: the helper was asked, and its words came back.
        assert!(started.is_err() && log.contains("/dev/fuse: Permission denied"), "{started:?}\n{log}");
        return;
    }
    assert!(started.is_ok(), "{started:?}\n{log}");
    let as_nobody = |program: &str, arguments: &[&str], path: &Path| {
        let mut command = Command::new(program);
        command.args(arguments).arg(path).uid(NOBODY).gid(NOBODY).output().unwrap()
    };
    assert_eq!(as_nobody("cat", &[], &mountpoint.join("latest/f")).stdout, b"x");
    // Not even root may look: the mount is the user's alone.
    assert_eq!(fs::metadata(&mountpoint).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    let ended = as_nobody("fusermount3", &["-u"], &mountpoint);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(fs::read_dir(&mountpoint).unwrap().count(), 0);
}
