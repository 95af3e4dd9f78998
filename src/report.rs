//! How a failure is shown: what failed and on which thing, the causes below it, and what to do next.
//!
//! Errors of the engine say what happened; advice is added here, by kind, and nowhere else.

use std::fmt;

use plakar_engine::error::{Error, ErrorKind};
use plakar_engine::storage::{Area, StoreError, StoreErrorKind};
use serde_json::json;

use crate::exit_code::ExitCode;
use crate::text::shell_word;
use crate::{cli, screen};

/// A failure that the command line itself finds.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    code: ExitCode,
    page: Option<Vec<String>>,
}

impl Failure {
    /// Something that could not be done.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: ExitCode::Failed, page: None }
    }

    /// A command line that makes no sense; `path` names the command whose usage is to be shown.
    pub(crate) fn usage(message: impl Into<String>, path: Option<&[String]>) -> Self {
        Self { code: ExitCode::Usage, page: path.map(<[String]>::to_vec), ..Self::new(message) }
    }

    /// Adds what to do about it.
    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Ends the program with another code.
    pub(crate) fn with_code(self, code: ExitCode) -> Self {
        Self { code, ..self }
    }

    /// The exit code.
    #[cfg(test)]
    pub(crate) fn code(&self) -> ExitCode {
        self.code
    }

    #[cfg(test)]
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    #[cfg(test)]
    pub(crate) fn page(&self) -> Option<String> {
        self.page.as_deref().map(cli::usage)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Says, around an error, that it happened while the store was being opened: whatever it is, the code is 66.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) location: String,
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot open the store at {}", self.location)
    }
}

/// What is shown of a failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// What failed.
    pub(crate) message: String,
    /// Why, from the outside in.
    pub(crate) causes: Vec<String>,
    /// What to do next.
    pub(crate) hint: Option<String>,
    /// How a command is used.
    usage: Option<String>,
    /// The exit code.
    pub(crate) code: ExitCode,
}

impl Report {
    /// Describes a failure; `store` is the store in use, as one would type it.
    pub(crate) fn of(error: &anyhow::Error, store: Option<&str>) -> Self {
        let mut chain = error.chain().map(|e| tidy(&e.to_string()));
        let message = chain.next().unwrap_or_default();
        let mut causes: Vec<String> = Vec::new();
        for cause in chain {
            let said = causes.last().unwrap_or(&message);
            // A cause that the line above quotes already would only be read twice.
            if !said.ends_with(&cause) {
                causes.push(cause);
            }
        }
        // As the failure itself, or as the context of another.
        let failure = error.downcast_ref::<Failure>();
        let engine = error.chain().find_map(|e| e.downcast_ref::<Error>());
        let opening = error.downcast_ref::<Opening>().is_some();
        let code = match (failure, engine) {
            (Some(f), _) => f.code,
            (None, Some(e)) => code_of(e.kind(), opening),
            (None, None) => ExitCode::Failed,
        };
        let hint = match (failure, engine) {
            (Some(f), _) => f.hint.clone(),
            (None, Some(e)) => hint_for(e, error, store),
            (None, None) => None,
        };
        let usage = failure.and_then(|f| f.page.as_deref()).map(cli::usage);
        let usage = usage.filter(|_| code == ExitCode::Usage);
        let page = failure.and_then(|f| f.page.as_ref()).filter(|p| !p.is_empty());
        let hint = hint.or_else(|| Some(format!("`plakar help {}` tells more", page?.join(" "))));
        Self { message, causes, hint, usage, code }
    }

    /// As it is shown on stderr.
    pub(crate) fn text(&self) -> String {
        let mut lines = vec![format!("plakar: {}", self.message)];
        lines.extend(self.causes.iter().map(|c| format!("  cause: {c}")));
        if let Some(usage) = &self.usage {
            lines.push(format!("  usage: {usage}"));
        }
        if let Some(hint) = &self.hint {
            // Further lines of a hint stand under its first.
            lines.push(format!("  hint: {}", hint.replace('\n', "\n        ")));
        }
        lines.join("\n")
    }

    /// As one JSON object on stderr.
    pub(crate) fn json(&self) -> String {
        json!({
            "type": "failure",
            "message": self.message,
            "causes": self.causes,
            "hint": self.hint,
            "exit_code": self.code as u8,
        })
        .to_string()
    }

    /// Prints it.
    pub(crate) fn print(&self, as_json: bool) {
        screen::line(&if as_json { self.json() } else { self.text() });
    }
}

/// What `latest` finds in a store without snapshots.
pub(crate) const EMPTY_STORE: &str = "is in the store";

/// Without what the standard library adds for programmers.
pub(crate) fn tidy(text: &str) -> String {
    const BEGINS: &str = " (os error ";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once(BEGINS) {
        let Some((number, after)) = behind.split_once(')') else { break };
        out.push_str(before);
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            out.push_str(BEGINS);
            rest = behind;
            continue;
        }
        rest = after;
    }
    out + rest
}

fn code_of(kind: ErrorKind, opening: bool) -> ExitCode {
    match kind {
        ErrorKind::WrongSecret | ErrorKind::SecretNeeded => ExitCode::WrongSecret,
        ErrorKind::Newer => ExitCode::Newer,
        ErrorKind::Cancelled => ExitCode::Interrupted,
        ErrorKind::NoStore => ExitCode::NoStore,
        _ if opening => ExitCode::NoStore,
        ErrorKind::Damaged => ExitCode::Damaged,
        ErrorKind::NotFound
        | ErrorKind::Ambiguous
        | ErrorKind::Store
        | ErrorKind::Io
        | ErrorKind::Usage
        | ErrorKind::Bug => ExitCode::Failed,
    }
}

fn hint_for(e: &Error, whole: &anyhow::Error, store: Option<&str>) -> Option<String> {
    let at = store.map(|s| format!("at {} ", shell_word(s))).unwrap_or_default();
    let hint = match e.kind() {
        ErrorKind::NoStore => match e {
            Error::NoStore { .. } => format!(
                "make one there with `plakar {at}create`, or say which store is meant: `plakar at STORE …` or PLAKAR_REPOSITORY"
            ),
            Error::NotAStore { reason, .. } if reason.contains("no CONFIG") => 
                "if nothing was ever backed up there, choose an empty directory and `plakar at STORE create`; otherwise bring back the file CONFIG or the directory keys"
                    .into(),
            Error::NotAStore { .. } => "do not back up into it before you know what happened to it".into(),
            _ => {
                "a store is a directory: say which one is meant with `plakar at STORE …` or PLAKAR_REPOSITORY"
                    .into()
            }
        },
        ErrorKind::WrongSecret => format!(
            "check -keyfile, -passphrase-cmd, PLAKAR_PASSPHRASE and PLAKAR_PASSPHRASE_CMD; `plakar {at}key ls` shows which keys the store has"
        ),
        ErrorKind::SecretNeeded => crate::secret::WAYS.into(),
        ErrorKind::NotFound => match e {
            Error::NoSnapshot { what } if what == EMPTY_STORE => {
                format!("make the first one with `plakar {at}backup DIR`")
            }
            Error::NoPath { snapshot, .. } => format!("`plakar {at}ls {snapshot}` shows what is in it"),
            _ => format!("`plakar {at}ls` lists the snapshots there are"),
        },
        ErrorKind::Ambiguous => "give more digits of the id".into(),
        ErrorKind::Damaged => match e {
            Error::DamagedIndex { .. } => "it is made again by itself: run the command once more".into(),
            Error::DamagedObject { object, .. } if object.area == Area::Snapshots => format!(
                "it may be the one that is meant: name one by its id (`plakar {at}ls` shows them), or choose among the others with -skip-damaged"
            ),
            _ => format!("`plakar {at}check` shows which snapshots are hit and which are whole"),
        },
        ErrorKind::Newer => "this store, or a part of it, needs a newer version of plakar: update it".into(),
        ErrorKind::Cancelled | ErrorKind::Bug => return None,
        ErrorKind::Store => return store_hint(whole, &at),
        ErrorKind::Io => return io_hint(e),
        ErrorKind::Usage => return usage_hint(&e.to_string()),
    };
    Some(hint)
}

fn store_hint(whole: &anyhow::Error, at: &str) -> Option<String> {
    let kind = whole.chain().find_map(|e| {
        let inside = e.downcast_ref::<Error>().and_then(store_error);
        e.downcast_ref::<StoreError>().or(inside).map(StoreError::kind)
    })?;
    let hint = match kind {
        StoreErrorKind::NoSpace => {
            "make room for the store and run the command again: what was written is kept and is not written twice"
        }
        StoreErrorKind::PermissionDenied => "check who owns the store's files, and who you are",
        StoreErrorKind::AlreadyExists => "choose a place that is empty or does not exist yet",
        StoreErrorKind::TimedOut | StoreErrorKind::Unavailable => "try again when the store can be reached",
        StoreErrorKind::NotFound | StoreErrorKind::OutOfRange | StoreErrorKind::Unreadable => {
            return Some(format!("`plakar {at}check` shows which snapshots are hit and which are whole"));
        }
        StoreErrorKind::Unusable => "a store is a directory: name one, or a place where one can be made",
        StoreErrorKind::Other => return None,
    };
    Some(hint.into())
}

pub(crate) fn store_error(e: &Error) -> Option<&StoreError> {
    match e {
        Error::Store(e) => Some(e),
        Error::Shared(e) => store_error(e),
        _ => None,
    }
}

fn io_hint(e: &Error) -> Option<String> {
    match e {
        Error::Cache(_) => Some(
            "`plakar cache clear -apply` throws the local cache away; it is made again from the store".into(),
        ),
        Error::Export { .. } => Some("choose another destination with -to".into()),
        Error::Import { .. } => Some("check the paths to back up".into()),
        _ => None,
    }
}

fn usage_hint(message: &str) -> Option<String> {
    message.contains("not encrypted").then(|| {
        "if it is meant to be a plaintext store, leave out -keyfile and -passphrase-cmd; if not, somebody has replaced it".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    fn show(e: impl Into<anyhow::Error>) -> String {
        let report = Report::of(&e.into(), Some("/srv/my store"));
        format!("{}\n= {}", report.text(), report.code as u8)
    }

    #[test]
    fn errors_say_what_why_and_what_next() {
        assert_eq!(
            show(Error::NoStore { location: "/srv/my store".into() }),
            "plakar: there is no store at /srv/my store\n  hint: make one there with `plakar at '/srv/my store' create`, or say which store is meant: `plakar at STORE …` or PLAKAR_REPOSITORY\n= 66"
        );
        let io = std::io::Error::from_raw_os_error(28);
        assert_eq!(
            show(Error::from(StoreError::io("write", "data/ab/ab12", io))),
            "plakar: cannot write data/ab/ab12\n  cause: No space left on device\n  hint: make room for the store and run the command again: what was written is kept and is not written twice\n= 1"
        );
        let refused = StoreError::io("list", "keys", std::io::Error::from_raw_os_error(13));
        let e = Err::<(), _>(Error::from(refused)).context(Opening { location: "/s".into() }).unwrap_err();
        assert_eq!(
            show(e),
            "plakar: cannot open the store at /s\n  cause: cannot list keys\n  cause: Permission denied\n  hint: check who owns the store's files, and who you are\n= 66"
        );
        assert_eq!(
            show(Error::Ambiguous { prefix: "ab".into(), matches: vec!["ab01".into(), "ab02".into()] }),
            "plakar: ab fits 2 snapshots: ab01, ab02\n  hint: give more digits of the id\n= 1"
        );
        assert_eq!(
            show(Failure::usage("`plakar cat` has no option -x", Some(&["cat".into()]))),
            "plakar: `plakar cat` has no option -x\n  usage: plakar [at STORE] cat SNAPSHOT:PATH...\n  hint: `plakar help cat` tells more\n= 2"
        );
    }

    #[test]
    fn every_kind_has_its_code() {
        let code = |e: Error| Report::of(&e.into(), None).code as u8;
        assert_eq!(code(Error::WrongSecret { location: "x".into() }), 77);
        assert_eq!(code(Error::SecretNeeded { location: "x".into() }), 77);
        assert_eq!(code(Error::Newer { object: "CONFIG".into() }), 78);
        assert_eq!(code(Error::MissingBlob { what: "blob".into() }), 65);
        assert_eq!(code(Error::Cancelled), 130);
        assert_eq!(code(Error::NotAStore { location: "x".into(), reason: "r".into() }), 66);
        assert_eq!(code(Error::NoSnapshot { what: "is in the store".into() }), 1);
        assert_eq!(code(Error::WrongPath { path: "p".into(), reason: "not a regular file" }), 1);
    }
}
