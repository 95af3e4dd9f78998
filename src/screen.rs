//! The two streams: lines on stderr above the progress bar, and results on stdout.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;
use parking_lot::Mutex;
use plakar_mount::daemon::Log;
use serde::Serialize;

/// The bar that is drawn, if one is: a line written past it would be drawn over.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// The log that stderr leads to, in the background: it has to be kept small.
static LOG: OnceLock<Log> = OnceLock::new();

/// Says that stderr is a log from now on.
pub(crate) fn set_log(log: Log) {
    let _only_once = LOG.set(log);
}

/// Names the bar that is drawn from now on.
pub(crate) fn set_bar(bar: Option<ProgressBar>) {
    *BAR.lock() = bar;
}

/// Writes a line to stderr. That it cannot be written is no reason to fail.
pub(crate) fn line(text: &str) {
    if let Some(log) = LOG.get() {
        log.make_room();
    }
    let bar = BAR.lock().clone();
    let write = || {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(b'\n');
        let _ = io::stderr().write_all(&bytes);
    };
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Whether all that is written are JSON objects.
static JSON: AtomicBool = AtomicBool::new(false);

/// Says that all that is written from now on are JSON objects.
pub(crate) fn set_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// Tells something that is no error, from wherever it is known.
pub(crate) fn notice(text: &str) {
    event("notice", text);
}

/// Writes what happened as a line, or as an object of that type.
pub(crate) fn event(kind: &str, text: &str) {
    if JSON.load(Ordering::Relaxed) {
        line(&serde_json::json!({ "type": kind, "text": text }).to_string());
    } else {
        line(text);
    }
}

/// Columns of the terminal, or a width that reads well.
pub(crate) fn width() -> usize {
    let of = |fd: std::os::fd::BorrowedFd<'_>| {
        rustix::termios::tcgetwinsize(fd).ok().map(|s| usize::from(s.ws_col))
    };
    use std::os::fd::AsFd;
    of(io::stdout().as_fd()).or_else(|| of(io::stderr().as_fd())).filter(|w| *w > 0).unwrap_or(100)
}

/// Results on stdout, buffered. A reader that has gone away ends the command quietly: see [`is_closed`].
#[derive(Debug)]
pub(crate) struct Output {
    stdout: io::BufWriter<io::Stdout>,
    /// Names are shown for a person: nothing that a terminal would obey is written.
    pub(crate) is_terminal: bool,
}

impl Output {
    /// Stdout.
    pub(crate) fn new() -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Self { stdout: io::BufWriter::with_capacity(1 << 16, stdout), is_terminal }
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, text: impl Display) -> anyhow::Result<()> {
        Ok(writeln!(self.stdout, "{text}")?)
    }

    /// Writes a line whose last part is a name: as it is into a pipe, readable on a terminal.
    pub(crate) fn named(&mut self, text: impl Display, name: &[u8]) -> anyhow::Result<()> {
        write!(self.stdout, "{text}")?;
        if self.is_terminal {
            write!(self.stdout, "{}", crate::text::printable(name))?;
        } else {
            self.stdout.write_all(name)?;
        }
        Ok(self.stdout.write_all(b"\n")?)
    }

    /// Writes a value as JSON on a line.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.stdout, value).map_err(io::Error::from)?;
        Ok(self.stdout.write_all(b"\n")?)
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stdout.write_all(bytes)?)
    }

    /// Hands everything over.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.stdout.flush()?)
    }
}

/// Whether an error says that nobody reads stdout any more, as in `plakar ls | head`.
pub(crate) fn is_closed(error: &anyhow::Error) -> bool {
    let broken = |e: &(dyn std::error::Error + 'static)| {
        e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    // Only what writing to stdout gives is a bare I/O error; those of stores and files stand in errors of the engine.
    error.chain().count() == 1 && error.chain().any(broken)
}
