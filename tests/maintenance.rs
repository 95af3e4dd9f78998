//! `plakar maintenance`: what nobody needs goes, step by step, and nothing else, whatever interrupts it.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::common::sandbox::files_below;
use crate::common::{ALL, Sandbox, hex_id, noise};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Everything in the store is so much older.
fn days_pass(sandbox: &Sandbox, days: u32) {
    for path in files_below(&sandbox.store()) {
        let file = std::fs::File::open(path).unwrap();
        let then = file.metadata().unwrap().modified().unwrap() - DAY * days;
        file.set_times(std::fs::FileTimes::new().set_modified(then)).unwrap();
    }
}

fn maintain<const N: usize>(sandbox: &Sandbox, options: [&str; N]) -> Value {
    let words = ["maintenance", "-json"].into_iter().chain(options);
    sandbox.run(words).succeeds().summary()
}

fn number(summary: &Value, path: &str) -> u64 {
    summary.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| unreachable!("{path} in {summary}"))
}

#[test]
fn what_was_removed_goes_a_week_later_and_until_then_comes_back() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    noise(&source, 0..120);
    let first = hex_id(&sandbox.backup(&source));
    for i in 0..60 {
        std::fs::remove_file(source.join(format!("{i}"))).unwrap();
    }
    noise(&source, 120..130);
    let second = hex_id(&sandbox.backup(&source));
    let full = sandbox.stored_bytes();
    sandbox.run(["rm", "-apply", &first]).succeeds();
    // Nothing of what is young, or can be brought back, goes.
    let plan = maintain(&sandbox, ["-dry-run"]);
    assert_eq!((number(&plan, "/condemned/count"), plan["applied"].as_bool()), (0, Some(false)), "{plan}");
    maintain(&sandbox, []);
    days_pass(&sandbox, 6);
    maintain(&sandbox, []);
    sandbox.run(["undelete", &first]).succeeds();
    assert!(sandbox.restore(&first).join("5").exists());
    sandbox.run(["rm", "-apply", &first]).succeeds();
    days_pass(&sandbox, 8);
    let files = files_below(&sandbox.store());
    let plan = maintain(&sandbox, ["-dry-run"]);
    assert!(number(&plan, "/condemned/count") > 0 && number(&plan, "/deleted/count") == 0, "{plan}");
    assert!(plan["due"].as_str().is_some_and(|due| due.starts_with("20")), "{plan}");
    assert_eq!(files_below(&sandbox.store()), files, "a dry run changes nothing");
    let done = maintain(&sandbox, []);
    assert_eq!(plan["condemned"], done["condemned"], "{plan} {done}");
    assert!(sandbox.stored_bytes() >= full, "nothing is deleted yet");
    // It is condemned, and yet all there.
    sandbox.run(["undelete", &first]).succeeds();
    assert!(sandbox.restore(&first).join("5").exists());
    sandbox.run(["rm", "-apply", &first]).succeeds();
    sandbox.run(["check"]).succeeds();
    days_pass(&sandbox, 8);
    // What was brought back in between was copied out in time; now it goes, too.
    for _ in 0..3 {
        maintain(&sandbox, []);
        days_pass(&sandbox, 8);
    }
    let left = maintain(&sandbox, []);
    assert_eq!(number(&left, "/waiting/count"), 0, "{left}");
    assert!(sandbox.stored_bytes() < full * 6 / 10, "{} of {full}", sandbox.stored_bytes());
    assert_eq!((sandbox.objects("snapshots").len(), sandbox.objects("leases").len()), (1, 0));
    assert!(sandbox.objects("removals").len() <= 4 && sandbox.objects("states").len() <= 2);
    sandbox.run(["check"]).succeeds();
    ALL.check(&source, &sandbox.restore(&second));
    sandbox.run(["undelete", &first]).ends_with(1).says(&["no removed snapshot"]);
    let again = maintain(&sandbox, []);
    assert_eq!(number(&again, "/condemned/count") + number(&again, "/deleted/count"), 0, "{again}");
}

#[test]
fn of_half_of_everything_nearly_all_comes_free_at_little_cost() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    noise(&source, 0..1200);
    let first = hex_id(&sandbox.backup(&source));
    let full = sandbox.stored_bytes();
    let mut dead = 0;
    for i in 0..1200_u64 {
        if blake3::hash(&i.to_le_bytes()).as_bytes()[0] & 1 == 0 {
            let path = source.join(format!("{i}"));
            dead += path.metadata().unwrap().len();
            std::fs::remove_file(path).unwrap();
        }
    }
    sandbox.backup(&source);
    sandbox.run(["rm", "-apply", &first]).succeeds();
    let done = maintain(&sandbox, ["-grace", "0", "-exclusive"]);
    let freed = full - sandbox.stored_bytes();
    assert!(freed * 100 >= dead * 95, "{freed} of {dead}: {done}");
    assert!(number(&done, "/moved_bytes") * 10 <= freed * 12, "for {freed}: {done}");
    sandbox.run(["check"]).succeeds();
    ALL.check(&source, &sandbox.restore("latest"));
}

#[test]
fn plans_say_what_comes_free_and_when() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    noise(&source, 0..100);
    let first = hex_id(&sandbox.backup(&source));
    for i in 0..40 {
        std::fs::remove_file(source.join(format!("{i}"))).unwrap();
    }
    sandbox.backup(&source);
    let shared = sandbox.run(["rm", "-json", "latest"]).succeeds().summary();
    assert!(number(&shared, "/freed_bytes") < 100_000, "{shared}");
    let plan = sandbox.run(["rm", "-json", &first]).succeeds().summary();
    let pruned = sandbox.run(["prune", "-json", "-per-year", "1"]).succeeds().summary();
    assert_eq!(plan["freed_bytes"], pruned["freed_bytes"]);
    assert!(plan["freed_from"].as_str().is_some_and(|from| from.starts_with("20")), "{plan}");
    sandbox.run(["prune", "-per-year", "1"]).succeeds().says(&["come free", "maintenance"]);
    let full = sandbox.stored_bytes();
    sandbox.run(["rm", "-apply", &first]).succeeds().says(&["come free"]);
    maintain(&sandbox, ["-grace", "0", "-exclusive"]);
    let (freed, said) = (full - sandbox.stored_bytes(), number(&plan, "/freed_bytes"));
    assert!(freed.abs_diff(said) * 10 < said, "{said} were foretold, {freed} came free");
}

#[test]
fn a_shorter_grace_period_needs_a_store_of_ones_own() {
    let sandbox = Sandbox::with_key_file();
    for grace in ["0", "6d", "1h"] {
        sandbox.run(["maintenance", "-grace", grace]).ends_with(2).says(&["grace period", "-exclusive"]);
    }
    sandbox.run(["maintenance", "-grace", "soon"]).ends_with(2).says(&["soon", "7d"]);
    sandbox.run(["maintenance", "-grace", "30d"]).succeeds();
    // A backup that waits for its turn, as one does whose machine sleeps.
    let source = sandbox.path("source");
    noise(&source, 0..400);
    let mut backup = sandbox.command([Path::new("backup"), &source]);
    let mut child =
        backup.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let began = SystemTime::now();
    while sandbox.objects("leases").is_empty() {
        assert!(began.elapsed().unwrap() < Duration::from_secs(30) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let refused = sandbox.run(["maintenance", "-grace", "0", "-exclusive"]);
    refused.ends_with(1).says(&["in use", "backup on ", &format!("process {}", child.id())]);
    maintain(&sandbox, []);
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert!(child.wait().unwrap().success());
    maintain(&sandbox, ["-grace", "0", "-exclusive"]);
    sandbox.run(["check"]).succeeds();
    ALL.check(&source, &sandbox.restore("latest"));
}

#[test]
fn killed_at_any_point_it_loses_nothing_and_goes_on() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    noise(&source, 0..500);
    let first = hex_id(&sandbox.backup(&source));
    for i in (0..500).step_by(2) {
        std::fs::remove_file(source.join(format!("{i}"))).unwrap();
    }
    sandbox.backup(&source);
    sandbox.run(["rm", "-apply", &first]).succeeds();
    let (mut killed, mut ended) = (0, 0);
    for round in 0..24_u64 {
        days_pass(&sandbox, 8);
        let mut command = sandbox.command(["maintenance", "-quiet"]);
        let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(15 + round * 9));
        let _ = child.kill();
        match child.wait().unwrap() {
            status if status.signal() == Some(9) => killed += 1,
            status => {
                assert!(status.success(), "{status}");
                ended += 1;
            }
        }
        if round % 4 == 3 {
            sandbox.run(["check"]).succeeds();
            ALL.check(&source, &sandbox.restore("latest"));
        }
        if ended > 3 {
            break;
        }
    }
    assert!(killed > 2, "{killed} killed, {ended} ended");
    for _ in 0..4 {
        days_pass(&sandbox, 8);
        maintain(&sandbox, []);
    }
    let last = maintain(&sandbox, ["-dry-run"]);
    let of = |path| number(&last, path);
    assert_eq!((of("/waiting/count"), of("/deleted/count"), of("/condemned/count")), (0, 0, 0), "{last}");
    assert!(of("/live_bytes") * 10 >= of("/packfiles/bytes") * 9, "{last}");
    sandbox.run(["check"]).succeeds();
    ALL.check(&source, &sandbox.restore("latest"));
}

#[test]
fn it_refuses_where_something_is_damaged_and_says_what_to_do() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    noise(&source, 0..20);
    let first = hex_id(&sandbox.backup(&source));
    noise(&source, 20..30);
    sandbox.backup(&source);
    days_pass(&sandbox, 30);
    let path = sandbox.store().join("snapshots").join(&first);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    std::fs::remove_dir_all(sandbox.path("home/.cache")).unwrap();
    for options in [vec!["maintenance"], vec!["maintenance", "-grace", "0", "-exclusive"]] {
        let refused = sandbox.run(options).ends_with(65);
        refused.says(&["nothing is deleted while snapshot", "check", "rm"]);
    }
    assert_eq!(sandbox.objects("leases").len(), 0);
    sandbox.run(["rm", "-apply", &first]).succeeds();
    maintain(&sandbox, ["-grace", "0", "-exclusive"]);
    sandbox.run(["check"]).succeeds();
    ALL.check(&source, &sandbox.restore("latest"));
}

#[test]
fn a_mount_reads_on_while_its_packfiles_move() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    noise(&source, 0..300);
    let first = hex_id(&sandbox.backup(&source));
    for i in (0..300).step_by(2) {
        std::fs::remove_file(source.join(format!("{i}"))).unwrap();
    }
    let second = hex_id(&sandbox.backup(&source));
    sandbox.run(["rm", "-apply", &first]).succeeds();
    let at = sandbox.path("at");
    std::fs::create_dir(&at).unwrap();
    sandbox.run(["mount", "-background", "-to", at.to_str().unwrap()]).succeeds();
    let there = at.join("snapshots").join(&second[..8]);
    let there = if there.exists() { there } else { at.join("latest") };
    let whole = |i: u64| {
        let inside = there.join(source.strip_prefix("/").unwrap()).join(format!("{i}"));
        let inside = if inside.exists() { inside } else { there.join(format!("{i}")) };
        assert_eq!(std::fs::read(inside).unwrap(), std::fs::read(source.join(format!("{i}"))).unwrap());
    };
    whole(1);
    maintain(&sandbox, ["-grace", "0", "-exclusive"]);
    (0..300).skip(1).step_by(2).for_each(whole);
    sandbox.run(["umount", at.to_str().unwrap()]).succeeds();
}
