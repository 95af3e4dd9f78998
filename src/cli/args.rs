//! From what was typed to what clap reads: options with one dash or two, before and after other arguments, `-flag=false`,
//! values that begin with a dash. What clap would say in its own words is said in ours.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use crate::location;
use crate::report::Failure;
use crate::text::{nearest, shell_word};

/// Commands of Plakar that are still to come.
const LATER: [&str; 13] = [
    "archive", "diag", "diff", "digest", "dup", "locate", "login", "logout", "pkg", "server", "service",
    "token", "ui",
];

/// What other programs call commands, and what that is here.
const ELSEWHERE: [(&str, &str); 15] = [
    ("delete", "rm"),
    ("dump", "cat"),
    ("extract", "restore"),
    ("find", "ls -recursive"),
    ("forget", "rm"),
    ("init", "create"),
    ("list", "ls"),
    ("new", "create"),
    ("passwd", "key passwd"),
    ("remove", "rm"),
    ("save", "backup"),
    ("show", "info"),
    ("snapshots", "ls"),
    ("unmount", "umount"),
    ("verify", "check"),
];

/// Short options of other programs, and what is meant here, where there is such an option.
const SHORT: [(&str, &str); 7] = [
    ("R", "recursive"),
    ("e", "ignore"),
    ("n", "dry-run"),
    ("q", "quiet"),
    ("r", "recursive"),
    ("t", "tag"),
    ("y", "apply"),
];

/// The command of Plakar that is meant by a word and does not exist yet, or under another name.
pub(crate) fn not_here(name: &str) -> Option<Failure> {
    if LATER.contains(&name) {
        return Some(Failure::usage(format!("`plakar {name}` is not in this version yet"), None));
    }
    let (_, here) = ELSEWHERE.iter().find(|(there, _)| *there == name)?;
    let failure = Failure::usage(format!("there is no command `plakar {name}`"), None);
    Some(failure.with_hint(format!("here it is `plakar {here}`")))
}

/// A command line in one form.
#[derive(Debug)]
pub(super) struct Line {
    /// The word behind `at`.
    pub(super) store: Option<OsString>,
    /// The command and, if it has such, its own: `key`, `add`.
    pub(super) path: Vec<String>,
    /// For clap: the program, the command, options with two dashes and `=`, `--`, the rest.
    pub(super) words: Vec<OsString>,
    /// Help was asked for.
    pub(super) help: bool,
    options: Vec<(String, Option<OsString>)>,
    rest: Vec<OsString>,
}

/// The longest command line that is recorded.
const MAX_RECORDED: usize = 4096;

/// Brings a command line into one form.
pub(super) fn normalize(grammar: &Command, words: Vec<OsString>) -> Result<Line, Failure> {
    let mut line = Line {
        store: None,
        path: Vec::new(),
        words: Vec::new(),
        help: false,
        options: Vec::new(),
        rest: Vec::new(),
    };
    let mut scope = vec![grammar];
    let mut words = words.into_iter();
    let mut only_arguments = false;
    while let Some(word) = words.next() {
        if only_arguments {
            line.rest.push(word);
        } else if word == "--" {
            only_arguments = true;
        } else if let Some((name, value)) = option(&word) {
            if matches!(name.as_str(), "h" | "help") {
                line.help = true;
                continue;
            }
            if line.path.is_empty() && matches!(name.as_str(), "version" | "V") {
                enter(&mut scope, &mut line, "version".into())?;
                continue;
            }
            let Some(arg) = find(&scope, &name) else {
                return Err(unknown_option(&scope, &line.path, &name));
            };
            let long = arg.get_long().unwrap_or_default().to_owned();
            if arg.get_action().takes_values() {
                let value = value.or_else(|| words.next());
                let value = value.ok_or_else(|| {
                    let what = arg.get_value_names().and_then(|n| n.first()).map_or("VALUE", |n| n.as_str());
                    Failure::usage(format!("option -{name} needs a value: -{name} {what}"), Some(&line.path))
                })?;
                line.options.push((long, Some(value)));
                continue;
            }
            match value.as_deref().map(OsStr::as_bytes) {
                None | Some(b"true" | b"1") => line.options.push((long, None)),
                Some(b"false" | b"0") => line.options.retain(|(n, _)| *n != long),
                Some(_) => {
                    let text = format!("option -{name} is yes or no: -{name}, or -{name}=false");
                    return Err(Failure::usage(text, Some(&line.path)));
                }
            }
        } else if line.path.is_empty() && line.store.is_none() && word == "at" {
            let missing = || Failure::usage("`at` needs a STORE and a command behind it", None);
            line.store = Some(words.next().ok_or_else(missing)?);
        } else if scope[scope.len() - 1].has_subcommands() {
            enter(&mut scope, &mut line, word)?;
        } else {
            line.rest.push(word);
        }
    }
    let last = scope[scope.len() - 1];
    if !line.path.is_empty() && last.is_subcommand_required_set() && !line.help {
        let known: Vec<_> =
            last.get_subcommands().map(|c| format!("{} {}", line.path[0], c.get_name())).collect();
        let text = format!("{} needs one of: {}", line.path[0], known.join(", "));
        return Err(Failure::usage(text, Some(&line.path)));
    }
    line.words = assemble(&line);
    Ok(line)
}

/// Takes a word as command, or as command of a command.
fn enter(scope: &mut Vec<&Command>, line: &mut Line, word: OsString) -> Result<(), Failure> {
    let here = scope[scope.len() - 1];
    let name = word.to_string_lossy().into_owned();
    if let Some(command) = here.get_subcommands().find(|c| c.get_name() == name) {
        scope.push(command);
        line.path.push(name);
        return Ok(());
    }
    let prefix = line.path.first().map(|p| format!("{p} ")).unwrap_or_default();
    if prefix.is_empty()
        && let Some(failure) = not_here(&name)
    {
        return Err(failure);
    }
    let known = here.get_subcommands().map(Command::get_name);
    let failure = Failure::usage(
        format!("there is no command `plakar {prefix}{name}`"),
        Some(line.path.as_slice()).filter(|p| !p.is_empty()),
    );
    Err(match nearest(&name, known) {
        Some(near) => failure.with_hint(format!("did you mean `plakar {prefix}{near}`?")),
        None => failure.with_hint(format!("`plakar help{}` lists what there is", prefix_of_help(&prefix))),
    })
}

fn prefix_of_help(prefix: &str) -> String {
    if prefix.is_empty() { String::new() } else { format!(" {}", prefix.trim_end()) }
}

fn assemble(line: &Line) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["plakar".into()];
    words.extend(line.path.iter().map(OsString::from));
    for (name, value) in &line.options {
        let mut word = format!("--{name}").into_bytes();
        if let Some(value) = value {
            word.push(b'=');
            word.extend_from_slice(value.as_bytes());
        }
        words.push(OsString::from_vec(word));
    }
    if !line.rest.is_empty() {
        words.push("--".into());
        words.extend(line.rest.iter().cloned());
    }
    words
}

/// Splits `-name=value` and `--name=value`. A dash alone is an argument.
fn option(word: &OsStr) -> Option<(String, Option<OsString>)> {
    let bytes = word.as_bytes().strip_prefix(b"-")?;
    let bytes = bytes.strip_prefix(b"-").unwrap_or(bytes);
    if bytes.is_empty() {
        return None;
    }
    let (name, value) = match bytes.iter().position(|b| *b == b'=') {
        Some(i) => (&bytes[..i], Some(OsString::from_vec(bytes[i + 1..].to_vec()))),
        None => (bytes, None),
    };
    Some((String::from_utf8_lossy(name).into_owned(), value))
}

fn names(arg: &Arg) -> impl Iterator<Item = &str> {
    arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default())
}

fn find<'a>(scope: &[&'a Command], name: &str) -> Option<&'a Arg> {
    scope.iter().rev().flat_map(|c| c.get_arguments()).find(|a| names(a).any(|n| n == name))
}

fn unknown_option(scope: &[&Command], path: &[String], name: &str) -> Failure {
    let known = scope.iter().flat_map(|c| c.get_arguments()).filter(|a| !a.is_hide_set());
    let mut known = known.filter_map(Arg::get_long);
    // One letter is near to any other.
    let near = match SHORT.iter().find(|(short, _)| *short == name) {
        Some((_, meant)) => known.find(|k| k == meant),
        None if name.len() == 1 => None,
        None => nearest(name, known),
    };
    if path.is_empty() {
        // It may be an option of the command that stands behind it.
        let text = format!("there is no global option -{name}");
        let failure = Failure::usage(text, None);
        return match near {
            Some(near) => failure.with_hint(format!("did you mean -{near}?")),
            None => failure.with_hint("options of a command stand behind it: `plakar help` lists both"),
        };
    }
    let failure = Failure::usage(format!("`plakar {}` has no option -{name}", path.join(" ")), Some(path));
    match near {
        Some(near) => failure.with_hint(format!("did you mean -{near}?")),
        None if name == "l" && path == ["ls"] => {
            failure.with_hint("`plakar ls` shows times, modes and sizes anyway")
        }
        None => failure,
    }
}

/// What was typed as one line for the snapshot's header: without values that are, or could hold, secrets.
pub(super) fn without_secrets(line: &Line) -> String {
    let mut words = vec!["plakar".to_owned()];
    if let Some(store) = &line.store {
        words.push("at".into());
        words.push(shell_word(&location::without_secrets(&store.to_string_lossy())).into_owned());
    }
    words.extend(line.path.iter().cloned());
    for (name, value) in &line.options {
        words.push(format!("-{name}"));
        match value {
            None => {}
            Some(_) if name == "passphrase-cmd" => words.push("…".into()),
            Some(value) if name == "o" => {
                let text = value.to_string_lossy();
                words.push(format!("{}=…", shell_word(text.split('=').next().unwrap_or_default())));
            }
            Some(value) => words.push(shell_word(&value.to_string_lossy()).into_owned()),
        }
    }
    words.extend(
        line.rest.iter().map(|w| shell_word(&location::without_secrets(&w.to_string_lossy())).into_owned()),
    );
    let mut text = words.join(" ");
    if text.len() > MAX_RECORDED {
        text.truncate(text.floor_char_boundary(MAX_RECORDED));
        text.push('…');
    }
    text
}

/// Says in our words what clap found wrong.
pub(crate) fn explain(e: &clap::Error, path: &[String]) -> Failure {
    let text = |kind| match e.get(kind) {
        Some(ContextValue::String(s)) => s.clone(),
        Some(ContextValue::Strings(s)) => s.join(", "),
        _ => String::new(),
    };
    // clap names options as `--name <VALUE>` and arguments as `<NAME>...` or `[NAME]`.
    let one_dash =
        |name: String| name.replace("--", "-").replace("...", " …").replace(['<', '>', '[', ']'], "");
    let arg = one_dash(text(ContextKind::InvalidArg));
    let value = text(ContextKind::InvalidValue);
    let message = match e.kind() {
        ErrorKind::MissingRequiredArgument => format!("missing: {arg}"),
        ErrorKind::ArgumentConflict => {
            format!("{arg} and {} exclude each other", one_dash(text(ContextKind::PriorArg)))
        }
        ErrorKind::UnknownArgument => format!("one argument too many: {arg}"),
        ErrorKind::InvalidValue => {
            let option = arg.split(' ').next().unwrap_or_default();
            format!("{option} cannot be {value:?}: it is one of {}", text(ContextKind::ValidValue))
        }
        ErrorKind::ValueValidation => {
            let option = arg.split(' ').next().unwrap_or_default();
            match std::error::Error::source(e) {
                Some(cause) => format!("{option}: {cause}"),
                None => format!("{option} cannot be {value:?}"),
            }
        }
        _ => {
            let text = e.render().to_string();
            text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    };
    Failure::usage(message, Some(path))
}
