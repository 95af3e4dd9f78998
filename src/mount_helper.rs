//! The program under the name `mount.plakar`, as mount(8) runs it for a line of /etc/fstab or `mount -t plakar`:
//!
//! ```text
//! mount.plakar  STORE DIR [-sfnv] [-t TYPE] [-N NAMESPACE] [-o OPTIONS]
//! plakar        STORE DIR -o OPTIONS       by mount.fuse3, where there is no mount.fuse.plakar
//! ```
//!
//! It becomes `plakar at STORE mount -background -to DIR …`. Options of the line that mean something to mount(8), to
//! systemd or to other filesystems only are passed over, those that ask for what snapshots are not are refused, and
//! what is not known is named: a misspelt `allow_other` must not go unnoticed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::ExitCode;
use crate::report::Failure;

/// The names under which mount(8) looks for it.
const NAMES: [&str; 2] = ["mount.plakar", "mount.fuse.plakar"];

/// Options of `plakar mount` with a value, `_` for `-`.
const VALUES: [&str; 25] = [
    "keyfile",
    "passphrase_cmd",
    "cachedir",
    "configdir",
    "datadir",
    "cache_size",
    "disk_cache_size",
    "owner",
    "uid",
    "gid",
    "umask",
    "xattr",
    "log_file",
    "pid_file",
    "before",
    "since",
    "name",
    "category",
    "environment",
    "perimeter",
    "job",
    "tag",
    "root",
    "origin",
    "type",
];

/// Its options without one.
const FLAGS: [&str; 3] = ["allow_other", "latest", "noexec"];

/// Options that are not for us, or say what is so in any case. mount(8) says `rw` wherever a line does not say `ro`;
/// mount.fuse3 adds `dev` and `suid` in the same way, and [`translate`] takes these from it alone.
const PASSED_OVER: [&str; 34] = [
    "defaults",
    "ro",
    "rw",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nosuid",
    "nodev",
    "exec",
    "async",
    "sync",
    "dirsync",
    "silent",
    "loud",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "default_permissions",
    "nomand",
    "noiversion",
    "_rnetdev",
];

/// What they begin with.
const PASSED_OVER_PREFIXES: [&str; 6] = ["x-", "X-", "comment=", "user=", "uhelper=", "helper="];

/// Who runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// mount(8), or somebody in its place.
    Mount,
    /// The helper of libfuse, for the type `fuse.plakar`.
    FuseHelper,
}

/// What it comes down to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To run this command line.
    Run(Vec<OsString>),
    /// Nothing more: it was only to be tried out, by `-f`.
    Nothing,
}

/// Who has run the program as a helper, if anybody: by its name, or, for mount.fuse3, by four words that are no command.
pub(crate) fn caller(program: Option<&OsStr>, words: &[OsString]) -> Option<Caller> {
    let name = program.and_then(|p| Path::new(p).file_name()).unwrap_or_default();
    if NAMES.iter().any(|n| name == *n) {
        return Some(Caller::Mount);
    }
    match words {
        [store, _, o, _] if o == "-o" && !store.as_bytes().starts_with(b"-") && !is_command(store) => {
            Some(Caller::FuseHelper)
        }
        _ => None,
    }
}

fn is_command(word: &OsStr) -> bool {
    word == "at" || crate::cli::names().iter().any(|n| word == n.as_str())
}

/// The code that mount(8) knows for one of ours.
pub(crate) fn exit_code(code: ExitCode) -> u8 {
    const USAGE: u8 = 1;
    const INTERRUPTED: u8 = 8;
    const FAILED: u8 = 32;
    match code {
        ExitCode::Ok => 0,
        ExitCode::Usage => USAGE,
        ExitCode::Interrupted => INTERRUPTED,
        ExitCode::Failed
        | ExitCode::CompletedWithErrors
        | ExitCode::Damaged
        | ExitCode::NoStore
        | ExitCode::WrongSecret
        | ExitCode::Newer => FAILED,
    }
}

/// Reads the words behind the program's name.
pub(crate) fn read(words: &[OsString], caller: Caller) -> Result<Asked, Failure> {
    let usage = |text: String| {
        let failure = Failure::usage(text, None);
        failure.with_hint("it is called by mount(8): mount -t plakar STORE DIR -o OPTIONS")
    };
    let (mut places, mut options) = (Vec::new(), Vec::new());
    let (mut only_try, mut sloppy, mut talk) = (false, false, false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(letters) = word.as_bytes().strip_prefix(b"-").filter(|l| !l.is_empty()) else {
            places.push(word);
            continue;
        };
        match letters {
            b"o" | b"t" | b"N" => {
                let value = words.next();
                let value =
                    value.ok_or_else(|| usage(format!("{} needs a value", word.to_string_lossy())))?;
                if letters == b"o" {
                    options.extend(split(value.as_bytes())?);
                }
            }
            letters if letters.iter().all(|l| b"sfnv".contains(l)) => {
                only_try |= letters.contains(&b'f');
                sloppy |= letters.contains(&b's');
                talk |= letters.contains(&b'v');
            }
            _ => return Err(usage(format!("{}: no such option of mount.plakar", word.to_string_lossy()))),
        }
    }
    let [store, place] = places[..] else {
        return Err(usage(format!(
            "a store and a directory are needed, and {} words were given",
            places.len()
        )));
    };
    let mut line: Vec<OsString> = vec!["at".into(), store.into(), "mount".into(), "-background".into()];
    if !talk {
        line.push("-quiet".into());
    }
    line.extend([joined("-to", place.as_bytes()), joined("-fsname", store.as_bytes())]);
    let mut snapshot = None;
    for option in &options {
        match translate(option, caller) {
            Ok(Some(Word::Snapshot(spec))) => snapshot = Some(spec),
            Ok(Some(Word::Option(word))) => line.push(word),
            Ok(None) => {}
            Err(Refused::Unknown) if sloppy => {}
            Err(Refused::Unknown) => {
                let name = String::from_utf8_lossy(name_of(option)).into_owned();
                let failure = Failure::usage(format!("unknown mount option {name:?}"), None);
                let known = VALUES.into_iter().chain(FLAGS).chain(["snapshot"]);
                return Err(match crate::text::nearest(&name, known) {
                    Some(near) => failure.with_hint(format!("did you mean {near:?}?")),
                    None => failure.with_hint(hint()),
                });
            }
            Err(Refused::Because(text)) => return Err(Failure::usage(text, None)),
        }
    }
    if let Some(spec) = snapshot {
        line.extend(["--".into(), spec]);
    }
    Ok(if only_try { Asked::Nothing } else { Asked::Run(line) })
}

fn hint() -> String {
    let flags = FLAGS.iter().map(|n| (*n).to_owned());
    let values = VALUES.iter().map(|n| format!("{n}="));
    let all: Vec<_> = flags.chain(["snapshot=".to_owned()]).chain(values).collect();
    format!("these are known: {}", all.join(", "))
}

/// What an option becomes.
#[derive(Debug)]
enum Word {
    Snapshot(OsString),
    Option(OsString),
}

/// Why one is not taken.
#[derive(Debug)]
enum Refused {
    Unknown,
    Because(String),
}

fn name_of(option: &[u8]) -> &[u8] {
    option.split(|b| *b == b'=').next().unwrap_or_default()
}

/// The option of `plakar mount`.
fn word(name: &str) -> String {
    format!("-{}", name.replace('_', "-"))
}

fn joined(word: &str, value: &[u8]) -> OsString {
    OsString::from_vec([word.as_bytes(), b"=", value].concat())
}

fn translate(option: &[u8], caller: Caller) -> Result<Option<Word>, Refused> {
    let because = |text: &str| Err(Refused::Because(text.to_owned()));
    let name = name_of(option);
    let value = option.get(name.len() + 1..).filter(|v| !v.is_empty());
    let is = |known: &str| known.as_bytes() == option;
    if option.is_empty()
        || PASSED_OVER.iter().any(|k| is(k))
        || PASSED_OVER_PREFIXES.iter().any(|p| option.starts_with(p.as_bytes()))
    {
        return Ok(None);
    }
    if let Some(name) = FLAGS.iter().find(|k| is(k)) {
        return Ok(Some(Word::Option(word(name).into())));
    }
    match name {
        b"dev" | b"suid" if value.is_none() => match caller {
            Caller::FuseHelper => return Ok(None),
            Caller::Mount => {
                return because(
                    "snapshots are mounted nodev and nosuid, always: take dev and suid out of the options",
                );
            }
        },
        b"passphrase" | b"password" | b"pass" => {
            return because(
                "no passphrase among mount options: everybody may read /etc/fstab and the table of mounts. Use keyfile=FILE, a file that only root may read, or passphrase_cmd=COMMAND",
            );
        }
        b"remount" | b"bind" | b"move" | b"rbind" => {
            return because(
                "a mount of snapshots cannot be changed where it stands: unmount it and mount it again",
            );
        }
        _ => {}
    }
    let known = |name: &[u8]| name == b"snapshot" || VALUES.iter().any(|n| n.as_bytes() == name);
    let Some(value) = value else {
        if known(name) {
            let name = String::from_utf8_lossy(name);
            return Err(Refused::Because(format!("mount option {name} needs a value: {name}=…")));
        }
        return Err(Refused::Unknown);
    };
    if name == b"snapshot" {
        return Ok(Some(Word::Snapshot(OsString::from_vec(value.to_vec()))));
    }
    match VALUES.iter().find(|known| known.as_bytes() == name) {
        Some(name) => Ok(Some(Word::Option(joined(&word(name), value)))),
        None => Err(Refused::Unknown),
    }
}

/// Splits at commas, but for those behind a backslash or in double quotes, as mount(8) has them. Both go, and only
/// before a comma, a quote or another backslash is a backslash more than itself.
fn split(options: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut all = vec![Vec::new()];
    let mut quoted = false;
    let mut bytes = options.iter().copied().peekable();
    while let Some(b) = bytes.next() {
        let escaped = bytes.peek().copied().filter(|next| b == b'\\' && b",\\\"".contains(next));
        let last = all.len() - 1;
        match (b, escaped) {
            (_, Some(next)) => {
                bytes.next();
                all[last].push(next);
            }
            (b'"', None) => quoted = !quoted,
            (b',', None) if !quoted => all.push(Vec::new()),
            (b, None) => all[last].push(b),
        }
    }
    match quoted {
        true => Err(Failure::usage("a double quote among the mount options is never closed", None)),
        false => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn ask(options: &str) -> Result<Vec<String>, String> {
        let line = words(&["/s", "/m", "-o", options]);
        match read(&line, Caller::Mount) {
            Ok(Asked::Run(line)) => Ok(line.iter().map(|w| w.to_string_lossy().into_owned()).collect()),
            other => Err(other.map(|_| ()).unwrap_err().to_string()),
        }
    }

    /// Behind `at /s mount -background -quiet -to=/m -fsname=/s`.
    fn more(options: &str) -> Vec<String> {
        ask(options).unwrap().split_off(7)
    }

    #[test]
    fn a_line_of_fstab_becomes_a_command() {
        let line = "rw,noexec,nosuid,nodev,allow_other,snapshot=latest:/home,keyfile=/etc/k,tag=a\\,b,_netdev,nofail,users,x-systemd.automount";
        assert_eq!(
            ask(line).unwrap(),
            [
                "at",
                "/s",
                "mount",
                "-background",
                "-quiet",
                "-to=/m",
                "-fsname=/s",
                "-noexec",
                "-allow-other",
                "-keyfile=/etc/k",
                "-tag=a,b",
                "--",
                "latest:/home"
            ]
        );
        assert_eq!(more("rw"), [""; 0]);
        assert_eq!(more("owner,owner=me,uid=0,,"), ["-owner=me", "-uid=0"]);
    }

    #[test]
    fn the_examples_for_fstab_are_understood() {
        let lines: Vec<_> = include_str!("../packaging/fstab/fstab.example")
            .lines()
            .filter(|l| !l.starts_with('#') && !l.is_empty())
            .map(|l| l.split_whitespace().collect::<Vec<_>>())
            .collect();
        assert!(lines.len() > 1);
        for fields in lines {
            assert_eq!((fields.len(), fields[2]), (6, "plakar"));
            let line = ask(fields[3]).unwrap().into_iter().map(OsString::from).collect();
            assert!(matches!(crate::cli::read(line), Ok(crate::cli::Asked::Run { .. })), "{fields:?}");
        }
    }

    #[test]
    fn every_option_is_one_of_the_command() {
        let values = VALUES.map(|name| match name {
            "uid" | "gid" | "umask" | "cache_size" | "disk_cache_size" => format!("{name}=0"),
            "owner" => "owner=1:2".into(),
            "xattr" => "xattr=on".into(),
            "before" | "since" => format!("{name}=2d"),
            "passphrase_cmd" => String::new(),
            name => format!("{name}=a b"),
        });
        let flags = FLAGS.join(",");
        for options in
            [format!("{},{flags},snapshot=ab:-c", values.join(",")), "passphrase_cmd=pass x".into()]
        {
            let line = ask(&options).unwrap().into_iter().map(OsString::from).collect();
            assert!(matches!(crate::cli::read(line), Ok(crate::cli::Asked::Run { .. })), "{options}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        for (options, said) in [
            ("passphrase=geheim", "everybody may read"),
            ("suid", "nosuid"),
            ("ro,dev", "nodev"),
            ("remount", "unmount it"),
            ("alow_other", "\"alow_other\""),
            ("frobnicate=1", "\"frobnicate\""),
            ("keyfile", "needs a value"),
            ("keyfile=", "needs a value"),
            ("allow_other=yes", "\"allow_other\""),
            ("tag=\"a", "never closed"),
        ] {
            let e = ask(options).unwrap_err();
            assert!(e.contains(said) && !e.contains("geheim"), "{options}: {e}");
        }
        let sloppy = words(&["/s", "/m", "-s", "-o", "frobnicate,allow_other"]);
        assert!(
            matches!(read(&sloppy, Caller::Mount), Ok(Asked::Run(line)) if line.contains(&"-allow-other".into()))
        );
        for bad in [&["/s"][..], &["/s", "/m", "/x"], &["/s", "/m", "-o"], &["/s", "/m", "-x"]] {
            assert!(read(&words(bad), Caller::Mount).is_err(), "{bad:?}");
        }
        assert_eq!(read(&words(&["/s", "/m", "-fnv"]), Caller::Mount).unwrap(), Asked::Nothing);
    }

    #[test]
    fn commas_belong_to_values_behind_a_backslash_or_in_quotes() {
        let split = |o: &str| -> Vec<_> {
            super::split(o.as_bytes()).unwrap().into_iter().map(|o| String::from_utf8(o).unwrap()).collect()
        };
        assert_eq!(split("a=b\\,c,d"), ["a=b,c", "d"]);
        assert_eq!(split("a=\"b,c\",d"), ["a=b,c", "d"]);
        assert_eq!(split("a=\\\\,d"), ["a=\\", "d"]);
        assert_eq!(split("a=\\d"), ["a=\\d"]);
        assert_eq!(split("a=\\\""), ["a=\""]);
    }

    #[test]
    fn it_is_known_by_its_name_or_by_the_words_of_mount_fuse3() {
        let is = |program: &str, line: &[&str]| caller(Some(OsStr::new(program)), &words(line)).is_some();
        assert!(is("/sbin/mount.plakar", &[]) && is("mount.fuse.plakar", &["x"]));
        assert!(is("plakar", &["/s", "/m", "-o", "rw"]));
        for line in [
            &["cat", "/m", "-o", "rw"][..],
            &["at", "/s", "-o", "ls"],
            &["/s", "/m"],
            &["-json", "ls", "-o", "x"],
        ] {
            assert!(!is("plakar", line), "{line:?}");
        }
        let by_fuse = words(&["/s", "/m", "-o", "rw,dev,suid"]);
        assert!(matches!(read(&by_fuse, Caller::FuseHelper), Ok(Asked::Run(_))));
    }
}
