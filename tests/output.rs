//! What is printed: for scripts in a pipe, for people on a terminal, as JSON.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::Value;

use crate::common::mount::is_mounted;
use crate::common::sandbox::{PASSPHRASE, read_until};
use crate::common::{Directory, Outcome, Sandbox, hex_id};

/// Names that would move the cursor, colour, ring, reorder, or look like another line.
const HOSTILE: [&[u8]; 8] = [
    b"\x1b[31mred\x1b[0m",
    b"\x1b]0;title\x07",
    b"line\nplakar: all is well",
    b"carriage\rreturn",
    b"bell\x07\x08\x7f",
    "\u{202e}gnp.exe".as_bytes(),
    b"\xff\xfe",
    b"\xc2\x9b31mc1",
];

fn hostile() -> Sandbox {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    let d = Directory::open(&source);
    for name in HOSTILE {
        d.at(name).file(b"x");
        d.at(&[b"link ", name].concat()).symlink(name);
        d.at(&[b"closed ", name].concat()).file(b"x").mode(0);
    }
    let caps = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"];
    let outcome = Outcome::of(&mut sandbox.under(&caps, ["backup", "source"])).ends_with(3);
    harmless(outcome.stderr.as_bytes());
    sandbox
}

/// Nothing that a terminal would obey, but ends of lines.
#[track_caller]
fn harmless(shown: &[u8]) {
    let text = std::str::from_utf8(shown).unwrap();
    let bad =
        |c: &char| (c.is_control() && !matches!(c, '\n' | '\r')) || ('\u{202a}'..='\u{202e}').contains(c);
    assert_eq!(text.chars().find(bad), None, "{text:?}");
}

/// Runs the program on a terminal of its own; gives what it showed.
fn on_terminal<S: AsRef<OsStr>>(sandbox: &Sandbox, words: &[S]) -> Vec<u8> {
    let (child, _) = terminal(sandbox, words);
    child.wait_with_output().unwrap().stdout
}

/// Starts the program on a terminal of its own, with pipes at the other end.
fn terminal<S: AsRef<OsStr>>(sandbox: &Sandbox, words: &[S]) -> (Child, Command) {
    // `script` runs a line of the shell.
    let quote = |w: &OsStr| [b"'", w.as_bytes().escape_ascii().to_string().as_bytes(), b"'"].concat();
    let program = sandbox.command(words);
    let mut line = quote(program.get_program());
    for word in program.get_args() {
        line.push(b' ');
        line.extend(quote(word));
    }
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c"]).arg(OsStr::from_bytes(&line)).arg("/dev/null").env_clear();
    let set = program.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.envs(set).env("TERM", "xterm").env("SHELL", "/bin/sh");
    command.current_dir(sandbox.path("")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    (command.spawn().unwrap(), command)
}

#[test]
fn names_are_raw_in_a_pipe() {
    let sandbox = hostile();
    let listed = sandbox.run(["ls", "latest"]).succeeds();
    for name in HOSTILE {
        assert!(listed.stdout.windows(name.len()).any(|w| w == name), "{}", name.escape_ascii());
    }
}

#[test]
fn names_do_nothing_to_a_terminal() {
    let sandbox = hostile();
    let shown = on_terminal(&sandbox, &["ls", "latest"]);
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("red") && shown.contains("x1b"), "{shown}");
    // One line for each, whatever is in the names.
    assert_eq!(shown.lines().count(), 3 * HOSTILE.len(), "{shown}");
    for words in [
        &["ls", "latest"][..],
        &["ls", "-recursive", "latest:/"],
        &["info", "-errors", "latest"],
        &["info", "latest"],
        &["check", "-v", "-no-progress"],
        &["backup", "-v", "-no-progress", "-ignore", "closed *", "source"],
        &["backup", "-dry-run", "source"],
        &["cat", "latest:\u{1b}[5m absent"],
    ] {
        let shown = on_terminal(&sandbox, words);
        assert!(!shown.is_empty(), "{words:?}");
        harmless(&shown);
    }
}

#[test]
fn progress_is_shown_on_a_terminal_only() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    for i in 0..200 {
        std::fs::write(source.join(i.to_string()), crate::common::torture::noise(i, 200_000)).unwrap();
    }
    let piped = sandbox.run(["backup", "source"]).succeeds();
    assert!(piped.stderr.is_empty() && piped.text().lines().count() == 1, "{piped}");
    let shown = on_terminal(&sandbox, &["restore", "-to", "restored", "latest"]);
    assert!(shown.contains(&0x1b), "{}", shown.escape_ascii());
    for quiet in ["-quiet", "-stdio", "-no-progress"] {
        let shown = on_terminal(&sandbox, &["check", quiet]);
        harmless(&shown);
    }
    assert!(on_terminal(&sandbox, &["check", "-silent"]).is_empty());
}

#[test]
fn a_passphrase_is_asked_for_and_not_shown() {
    let sandbox = Sandbox::new();
    let (child, command) = {
        let mut program = sandbox.command(["ls"]);
        program.env_remove("PLAKAR_PASSPHRASE");
        let line = format!("{} ls", env!("CARGO_BIN_EXE_plakar"));
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", &line, "/dev/null"]).env_clear();
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("SHELL", "/bin/sh").current_dir(sandbox.path(""));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        (command.spawn().unwrap(), command)
    };
    let mut child = child;
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    for typed in ["not it", PASSPHRASE] {
        read_until(&mut stdout, b"Passphrase for");
        wait_until_hidden(&child);
        stdin.write_all(format!("{typed}\n").as_bytes()).unwrap();
    }
    let mut shown = Vec::new();
    stdout.read_to_end(&mut shown).unwrap();
    drop(stdin);
    let outcome = Outcome::when_ended(child, &command).succeeds();
    let shown = String::from_utf8_lossy(&shown);
    assert!(!shown.contains("not it") && !shown.contains(PASSPHRASE), "{shown} {outcome}");
}

/// Waits until the terminal that a child of `script` reads from shows nothing of what is typed.
fn wait_until_hidden(script: &Child) {
    loop {
        if let Some(terminal) = terminal_below(script.id())
            && let Ok(modes) = tcgetattr(&terminal)
            && !modes.local_modes.contains(LocalModes::ECHO)
        {
            return;
        }
        std::thread::yield_now();
    }
}

/// The terminal of a process that another one has started.
fn terminal_below(parent: u32) -> Option<OwnedFd> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let child = children.split_whitespace().next()?;
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{child}/fd/0"), flags, Mode::empty()).ok()
}

/// Every command, as the overview lists them.
fn commands(sandbox: &Sandbox) -> BTreeSet<String> {
    let overview = sandbox.run(["help"]).succeeds();
    let mut lines = overview.text().lines().skip_while(|l| *l != "Commands:").skip(1);
    let names =
        lines.by_ref().take_while(|l| !l.is_empty()).filter(|l| l.starts_with("  ") && !l.starts_with("   "));
    names.map(|l| l.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn every_command_answers_in_json() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    let d = Directory::open(&source);
    for name in HOSTILE {
        d.at(name).file(b"x");
    }
    let at = sandbox.path("mounted");
    std::fs::create_dir(&at).unwrap();
    let to = at.to_str().unwrap();
    let runs: &[&[&str]] = &[
        &["at", "new", "create"],
        &["backup", "source"],
        &["backup", "-v", "source"],
        &["backup", "-dry-run", "source"],
        &["ls"],
        &["ls", "latest"],
        &["ls", "-recursive", "latest:/"],
        &["info"],
        &["info", "latest"],
        &["info", "latest:."],
        &["info", "-errors", "latest"],
        &["restore", "-to", "restored", "latest"],
        &["restore", "-v", "-to", "restored too", "latest"],
        &["check"],
        &["check", "-fast", "-v", "latest"],
        &["store", "add", "new", "new"],
        &["store", "show"],
        &["store", "default", "new"],
        &["store", "ping", "new"],
        &["store", "rm", "new"],
        &["source", "add", "s", "source"],
        &["destination", "add", "d", "restored"],
        &["policy", "add", "p", "per-day=1"],
        &["policy", "test", "-every", "1d", "p"],
        &["prune", "-policy", "p"],
        &["ptar", "-o", "x.ptar", "source"],
        &["sync", "-dry-run", "to", "new"],
        &["sync", "-check", "to", "new"],
        &["key", "ls"],
        &["key", "add", "-new-keyfile", "new key"],
        &["repair"],
        &["rm", "latest"],
        &["prune", "-per-day", "1"],
        &["pin", "latest"],
        &["unpin", "latest"],
        &["tag", "-add", "a,b", "latest"],
        &["describe", "latest", "words"],
        &["undelete"],
        &["maintenance"],
        &["maintenance", "-dry-run"],
        &["cache"],
        &["version"],
        &["umount"],
        &["mount", "-background", "-to", to, "latest"],
        &["umount", to],
        &["rm", "-apply", "latest"],
    ];
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for words in runs.iter().copied() {
        for dashes in ["-json", "--json"] {
            if dashes == "--json" && !matches!(words[0], "ls" | "info" | "version" | "cache") {
                continue;
            }
            let mut command = sandbox.command(words);
            let outcome = Outcome::of(command.arg(dashes));
            if words[0] == "umount" && is_mounted(&at) {
                rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
            }
            let values = outcome.succeeds().json();
            assert!(values.iter().all(Value::is_object), "{words:?}");
            let none = [&["info", "-errors", "latest"][..], &["umount"]];
            assert!(!values.is_empty() || none.contains(&words), "{words:?}");
        }
        seen.insert(words[if words[0] == "at" { 2 } else { 0 }].to_owned());
    }
    // These hand over bytes and text, whatever is asked for.
    seen.extend(["cat", "help"].map(String::from));
    assert_eq!(seen, commands(&sandbox));
}

#[test]
fn json_has_every_name_whole() {
    let sandbox = hostile();
    let listed = sandbox.run(["ls", "-json", "latest"]).succeeds().json();
    for name in HOSTILE {
        let hex: String = name.iter().map(|b| format!("{b:02x}")).collect();
        let is_it = |v: &Value| match std::str::from_utf8(name) {
            Ok(text) => v["name"] == text,
            Err(_) => v["name_hex"] == hex.as_str(),
        };
        assert!(listed.iter().any(is_it), "{}", name.escape_ascii());
    }
}

#[test]
fn failures_are_json_too() {
    let sandbox = Sandbox::with_key_file();
    for (words, code) in [(&["ls", "ffff"][..], 1), (&["at", "absent", "ls"], 66), (&["ls", "-frob"], 2)] {
        let mut command = sandbox.command(words);
        let outcome = Outcome::of(command.arg("-json")).ends_with(code);
        let failure: Value = serde_json::from_str(outcome.stderr.trim()).unwrap();
        assert_eq!(failure["type"], "failure");
        assert_eq!(failure["exit_code"], code);
        assert!(failure["message"].as_str().is_some_and(|m| !m.is_empty()));
        assert!(outcome.stdout.is_empty(), "{outcome}");
    }
}

#[test]
fn options_have_one_dash_or_two_and_stand_anywhere() {
    let sandbox = Sandbox::with_key_file();
    std::fs::create_dir(sandbox.path("source")).unwrap();
    std::fs::write(sandbox.path("source/-dash"), "x").unwrap();
    sandbox.run(["backup", "source", "-tag", "one,two", "--name=named"]).succeeds();
    for words in [
        &["ls", "-tag", "one"][..],
        &["ls", "--tag", "one"],
        &["ls", "-tag=one", "--name", "named"],
        &["-quiet", "ls", "--tag=two"],
        &["ls", "-tag", "!three"],
    ] {
        assert_eq!(sandbox.run(words).succeeds().text().lines().count(), 1, "{words:?}");
    }
    assert!(sandbox.run(["ls", "-tag", "!one"]).succeeds().stdout.is_empty());
    sandbox.run(["restore", "latest", "--to", "behind"]).succeeds();
    sandbox.run(["restore", "-to=before", "latest"]).succeeds();
    sandbox.run(["restore", "-to", "with colon", "--", "latest:-dash"]).succeeds();
    assert!(sandbox.path("with colon/-dash").exists());
    let store = sandbox.store();
    sandbox.run([OsStr::new("at"), store.as_os_str(), OsStr::new("ls")]).succeeds();
    sandbox.run(["at", &format!("fs:{}", store.display()), "ls", "-uuid"]).succeeds();
}

#[test]
fn every_command_has_help() {
    let sandbox = Sandbox::empty();
    for name in commands(&sandbox) {
        let page = sandbox.run(["help", &name]).succeeds();
        assert!(page.text().contains("Usage: plakar"), "{page}");
        for dashes in ["-help", "--help", "-h"] {
            assert_eq!(sandbox.run([name.as_str(), dashes]).succeeds().stdout, page.stdout);
        }
    }
    sandbox.run(["help", "frobnicate"]).ends_with(2);
    sandbox.run([""; 0]).ends_with(1).says(&["Usage"]);
}

#[test]
fn a_reader_that_has_had_enough_is_no_error() {
    let sandbox = Sandbox::with_key_file();
    std::fs::create_dir(sandbox.path("source")).unwrap();
    for i in 0..5000 {
        std::fs::write(sandbox.path(format!("source/{i}")), "").unwrap();
    }
    sandbox.run(["backup", "source"]).succeeds();
    let mut command = sandbox.command(["ls", "latest"]);
    let mut child = command.spawn().unwrap();
    let mut some = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let outcome = Outcome::when_ended(child, &command).succeeds();
    assert!(outcome.stderr.is_empty(), "{outcome}");
}

/// Every line on both streams, as objects of a type each.
#[track_caller]
fn objects(outcome: &Outcome) -> Vec<Value> {
    let stdout = std::str::from_utf8(&outcome.stdout).unwrap();
    let mut objects = Vec::new();
    for line in stdout.lines().chain(outcome.stderr.lines()) {
        let object: Value =
            serde_json::from_str(line).unwrap_or_else(|e| unreachable!("{e}: {line}\n{outcome}"));
        assert!(object["type"].is_string(), "{line}");
        objects.push(object);
    }
    objects
}

#[test]
fn with_json_there_is_nothing_but_objects_of_a_type_each() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "text").unwrap();
    std::os::unix::fs::symlink("file", source.join("link")).unwrap();
    let types = |args: &[&str]| {
        let outcome = sandbox.run(["-json"].iter().chain(args));
        let objects = objects(&outcome);
        assert!(!objects.is_empty(), "{args:?}");
        objects.iter().map(|o| o["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let last = |args: &[&str]| types(args).pop().unwrap();
    assert_eq!(last(&["backup", "-ignore", "nothing", "source"]), "summary");
    assert_eq!(types(&["backup", "-ignore", "nothing", "source"])[0], "notice");
    assert_eq!(last(&["backup", "-dry-run", "-ignore", "file", "source"]), "summary");
    assert_eq!(types(&["ls"])[0], "snapshot");
    assert_eq!(types(&["ls", "latest"]), ["entry", "entry"]);
    assert_eq!(last(&["info", "latest"]), "snapshot");
    assert_eq!(last(&["info", "latest:file"]), "entry");
    assert_eq!(last(&["info"]), "store");
    assert_eq!(last(&["key", "ls"]), "key");
    assert_eq!(last(&["cache"]), "summary");
    assert_eq!(last(&["version"]), "version");
    assert_eq!(last(&["help", "ls"]), "page");
    assert_eq!(last(&["check", "-v"]), "summary");
    let checked = sandbox.run(["check", "-v", "-json"]).succeeds().json();
    let entries: Vec<_> = checked.iter().filter(|o| o["type"] == "entry").collect();
    assert!(!entries.is_empty() && entries.iter().all(|o| o["snapshot"].as_str().unwrap().len() == 64));
    assert_eq!(last(&["-time", "restore", "-to", "there"]), "notice");
    assert_eq!(last(&["umount"]), "notice");
    let id = hex_id(&sandbox.backup(&source));
    assert_eq!(last(&["rm", &id]), "summary");
    assert_eq!(last(&["frobnicate"]), "failure");
    assert_eq!(last(&["-trace", "colour", "ls"]), "failure");
    // What is logged is, too; and what is traced is said.
    let logged = types(&["-trace", "storage,repository", "backup", "source"]);
    assert!(logged.iter().filter(|t| *t == "log").count() > 5, "{logged:?}");
    let listed = objects(&sandbox.run(["-json", "ls", "latest"]));
    let link = listed.iter().find(|o| o["kind"] == "symlink").unwrap();
    assert_eq!(link["bytes"], 4);
    // Damaged states are warned of many times over.
    for state in sandbox.objects("states") {
        std::fs::write(state, "damaged").unwrap();
    }
    std::fs::remove_dir_all(sandbox.cache()).unwrap();
    objects(&sandbox.run(["-json", "check"]));
    let quiet = sandbox.run(["-quiet", "check"]);
    assert!(!quiet.stderr.contains("WARN"), "{quiet}");
}

#[test]
fn hints_fit_what_happened() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "text").unwrap();
    std::os::unix::fs::symlink("source", sandbox.path("way")).unwrap();
    sandbox
        .run(["backup", "-tag", "a", "way"])
        .succeeds()
        .says(&["way is a symlink", "source, where it leads"]);
    let id = &hex_id(&sandbox.summary(["backup", "source"]))[..8];
    sandbox.run(["ls", "-tag", "a", id]).ends_with(1).says(&["fits the other options"]);
    let missing = sandbox.run(["umount", "nowhere"]).ends_with(1);
    assert!(missing.stderr.contains("does not exist") && !missing.stderr.contains("mkdir"), "{missing}");
    // Two restores within one second have places of their own.
    let restored = || sandbox.run(["restore"]).succeeds();
    for _ in 0..3 {
        restored();
    }
    let places = std::fs::read_dir(sandbox.path("")).unwrap();
    let names = places.map(|p| p.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|n| n.starts_with("plakar-")).count(), 3);
    let to = ["restore", "-to", "there", "latest"];
    sandbox.run(to).succeeds();
    std::fs::remove_file(sandbox.path("there/file")).unwrap();
    std::fs::create_dir(sandbox.path("there/file")).unwrap();
    let never = sandbox.run(["restore", "-overwrite", "ask-by-error", "-to", "there", "latest"]);
    assert!(!never.stderr.contains("ask-by-error"), "{never}");
    assert!(sandbox.run(["check", "-fast"]).succeeds().text().contains("none of it read"));
    assert!(sandbox.run(["cache"]).succeeds().text().contains(sandbox.store().to_str().unwrap()));
    sandbox.run(["-trace", "colour", "ls"]).ends_with(2).says(&["colour", "storage"]);
    sandbox.run(["-trace", "storage", "ls"]).succeeds().says(&["plakar_engine::storage"]);
}

#[test]
fn snapshots_are_named_by_points_in_time_as_in_a_mount() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("old"), "old").unwrap();
    sandbox.run(["backup", "-force-timestamp", "2026-01-01 12:00", "source"]).succeeds();
    std::fs::rename(source.join("old"), source.join("new")).unwrap();
    sandbox.run(["backup", "source"]).succeeds();
    for (name, holds) in [
        ("latest", "new"),
        ("latest@now", "new"),
        ("latest@2026-01-02", "old"),
        ("2026-01-02", "old"),
        ("latest@2026-01", "old"),
        ("latest@latest~1", "old"),
    ] {
        let listed = sandbox.run(["ls", name]).succeeds();
        assert!(listed.text().contains(holds), "{name}: {listed}");
        sandbox.run(["cat", &format!("{name}:{holds}")]).succeeds();
    }
    sandbox.run(["ls", "2025"]).ends_with(1);
    sandbox.run(["ls", "latest@2025"]).ends_with(1).says(&["latest@2025"]);
    sandbox.run(["ls", "latest@soon"]).ends_with(1).says(&["soon", "yesterday"]);
}
