//! What is seen of long work: a bar on a terminal, JSON lines with -json, nothing in a pipe; failures always, as they
//! happen, on stderr.

mod bar;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use parking_lot::Mutex;
use plakar_engine::id::ObjectId;
use plakar_engine::monitor::{Event, Monitor};
use serde_json::{Value, json};

use crate::context::AppContext;
use crate::screen::Output;
use crate::{json, screen, text};

/// Failures that are shown again at the end.
pub(crate) const KEPT_FAILURES: usize = 20;

/// How much was done, and of how much.
#[derive(Debug, Default)]
struct Counters {
    entries: AtomicU64,
    /// Sizes of entries that are done.
    entry_bytes: AtomicU64,
    /// Bytes worked on, also of entries that are not done yet.
    worked_bytes: AtomicU64,
    total_entries: AtomicU64,
    total_bytes: AtomicU64,
    failures: AtomicU64,
    /// Failures of each kind in [`TOLD_ONCE`].
    told_once: [AtomicU64; TOLD_ONCE.len()],
}

/// Kinds of failures of which each entry may be one, without root or on another file system: how their reasons begin, and
/// what they are about. The first is told, the others are counted.
const TOLD_ONCE: [(&str, &str); 3] =
    [("owner ", "the owner"), ("inode flag ", "an inode flag"), ("project ", "the project")];

impl Counters {
    /// Entries that were taken over unread count by their size, large ones in the making by what was read of them.
    fn bytes(&self) -> u64 {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        get(&self.entry_bytes).max(get(&self.worked_bytes))
    }
}

/// Whether a line may wait for others. On a terminal none does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flush {
    Now,
    Later,
}

/// How events are shown.
#[derive(Debug)]
enum Show {
    Lines,
    Bar(ProgressBar),
    Json(Mutex<Instant>),
}

/// Listens to an operation.
#[derive(Debug)]
pub(crate) struct Progress {
    work: &'static str,
    counters: Arc<Counters>,
    show: Show,
    began: Instant,
    /// List every entry.
    lists: bool,
    /// Show failures as they happen.
    failures_shown: bool,
    notices_shown: bool,
    failed: Mutex<Vec<(Vec<u8>, String)>>,
    /// Whose entries are told, where there are several.
    snapshot: Mutex<Option<ObjectId>>,
    out: Mutex<Output>,
}

/// Whether to draw a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bar {
    /// If there is a terminal.
    Wanted,
    /// Not even then.
    Unwanted,
}

impl Progress {
    /// Begins; `work` is what is done: `backup`. `lists` shows each entry.
    pub(crate) fn begin(context: &AppContext, work: &'static str, bar: Bar, lists: bool) -> Arc<Self> {
        let globals = &context.globals;
        let terminal = std::io::stderr().is_terminal() && context.env.text("TERM") != Some("dumb");
        let drawn = terminal
            && bar == Bar::Wanted
            && context.is_talkative()
            && !globals.stdio
            && globals.trace.is_empty()
            && !lists;
        let counters = Arc::<Counters>::default();
        let show = match (context.json(), drawn) {
            (true, _) => Show::Json(Mutex::new(Instant::now())),
            (false, true) => Show::Bar(bar::start(work, counters.clone())),
            (false, false) => Show::Lines,
        };
        Arc::new(Self {
            work,
            counters,
            show,
            began: Instant::now(),
            lists: lists && !globals.silent,
            failures_shown: !globals.silent,
            notices_shown: context.is_talkative(),
            failed: Mutex::default(),
            snapshot: Mutex::default(),
            out: Mutex::new(Output::new()),
        })
    }

    /// Ends: takes the bar away.
    pub(crate) fn end(&self) {
        self.print(Flush::Now, |_| Ok(()));
        if let Show::Bar(bar) = &self.show {
            screen::set_bar(None);
            bar.finish_and_clear();
        }
    }

    /// Whether somebody looks at a bar that does not know yet how much there is to do.
    pub(crate) fn wants_total(&self) -> bool {
        matches!(self.show, Show::Bar(_)) && self.counters.total_entries.load(Ordering::Relaxed) == 0
    }

    /// How long it has been.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The first failures.
    pub(crate) fn failed(&self) -> Vec<(Vec<u8>, String)> {
        self.failed.lock().clone()
    }

    /// How many entries there were, and the bytes in them.
    pub(crate) fn entries(&self) -> (u64, u64) {
        (self.counters.entries.load(Ordering::Relaxed), self.counters.bytes())
    }

    /// At the end: what was counted and not named, and where all failures can be seen.
    pub(crate) fn sum_up_failures(&self, count: u64, all: Option<&str>) {
        if count == 0 || !self.failures_shown || matches!(self.show, Show::Json(_)) {
            return;
        }
        for ((_, what), count) in TOLD_ONCE.iter().zip(&self.counters.told_once) {
            let count = count.load(Ordering::Relaxed);
            if count > 1 {
                let rest = text::counted(count - 1, "other entry");
                screen::line(&format!("error: {what} of {rest} could not be set either"));
            }
        }
        if let Some(all) = all {
            screen::line(&format!("hint: {all} lists what could not be backed up whole"));
        }
    }

    /// Writes to stdout. A reader that has gone away is noticed when the result is written.
    fn print(&self, flush: Flush, write: impl FnOnce(&mut Output) -> anyhow::Result<()>) {
        let mut out = self.out.lock();
        let written = write(&mut out);
        if written.is_ok() && (flush == Flush::Now || out.is_terminal) {
            let _ = out.flush();
        }
    }

    fn emit(&self, value: &Value) {
        self.print(Flush::Now, |out| out.json(value));
    }

    /// At most once a second: how far it is.
    fn tick(&self) {
        let Show::Json(last) = &self.show else { return };
        if !self.notices_shown {
            return;
        }
        let Some(mut last) = last.try_lock() else { return };
        if last.elapsed() < Duration::from_secs(1) {
            return;
        }
        *last = Instant::now();
        let total = |n: &AtomicU64| Some(n.load(Ordering::Relaxed)).filter(|n| *n > 0);
        self.emit(&json!({
            "type": "progress",
            "command": self.work,
            "entries": self.counters.entries.load(Ordering::Relaxed),
            "bytes": self.counters.bytes(),
            "total_entries": total(&self.counters.total_entries),
            "total_bytes": total(&self.counters.total_bytes),
            "errors": self.counters.failures.load(Ordering::Relaxed),
            "elapsed_seconds": self.began.elapsed().as_secs_f64(),
        }));
    }

    fn list(&self, path: &[u8], bytes: u64) {
        let snapshot = *self.snapshot.lock();
        if let Show::Json(_) = self.show {
            let mut event = json!({ "type": "entry", "bytes": bytes });
            if let Some(id) = snapshot {
                event["snapshot"] = id.to_string().into();
            }
            json::put_bytes(&mut event, "path", path);
            self.print(Flush::Later, |out| out.json(&event));
        } else {
            let snapshot = snapshot.map(|id| format!("{}:", id.short())).unwrap_or_default();
            self.print(Flush::Later, |out| out.named(&snapshot, path));
        }
    }

    /// Whether a failure is one of a kind that is told once, and counted: without root each entry may have it.
    fn is_told(&self, reason: &str) -> bool {
        let kind = TOLD_ONCE.iter().position(|(begins, _)| reason.starts_with(begins));
        kind.is_some_and(|kind| self.counters.told_once[kind].fetch_add(1, Ordering::Relaxed) > 0)
    }

    fn fail(&self, path: &[u8], reason: &str) {
        let reason = crate::report::tidy(reason);
        // A restore's paths are relative to its destination, which has none itself.
        let path = if path.is_empty() { b"." } else { path };
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        if self.failures_shown {
            if let Show::Json(_) = self.show {
                let mut event = json!({ "type": "error", "reason": reason });
                json::put_bytes(&mut event, "path", path);
                self.emit(&event);
            } else if !self.is_told(&reason) {
                // What was listed before it belongs before it.
                self.print(Flush::Now, |_| Ok(()));
                screen::line(&format!("error: {}: {reason}", text::printable(path)));
            }
        }
        let mut failed = self.failed.lock();
        if failed.len() < KEPT_FAILURES {
            failed.push((path.to_vec(), reason));
        }
    }
}

impl Monitor for Progress {
    fn event(&self, event: Event<'_>) {
        let add = |n: &AtomicU64, more| n.fetch_add(more, Ordering::Relaxed);
        match event {
            Event::Snapshot { id } => *self.snapshot.lock() = Some(id),
            Event::Entry { path, bytes } => {
                add(&self.counters.entries, 1);
                add(&self.counters.entry_bytes, bytes);
                if self.lists {
                    self.list(path, bytes);
                }
                self.tick();
            }
            Event::Progress { bytes } => {
                add(&self.counters.worked_bytes, bytes);
                self.tick();
            }
            Event::Total { entries, bytes } => {
                self.counters.total_entries.store(entries, Ordering::Relaxed);
                self.counters.total_bytes.store(bytes, Ordering::Relaxed);
            }
            Event::Failed { path, reason } => self.fail(path, reason),
            Event::LeftOut { path, by } if self.lists => match self.show {
                Show::Json(_) => {
                    let mut event = json!({ "type": "left_out", "by": by });
                    json::put_bytes(&mut event, "path", path);
                    self.print(Flush::Later, |out| out.json(&event));
                }
                _ => {
                    self.print(Flush::Now, |_| Ok(()));
                    screen::line(&format!("left out: {} ({by})", text::printable(path)));
                }
            },
            Event::LeftOut { .. } => {}
            Event::Notice { text } if self.notices_shown => match self.show {
                Show::Json(_) => self.emit(&json!({ "type": "notice", "text": text })),
                _ => screen::line(&format!("note: {text}")),
            },
            Event::Notice { .. } => {}
        }
    }
}

/// The speed over the last seconds: steadier than the last moment, newer than the average.
#[derive(Debug, Default)]
struct Speed(VecDeque<(Instant, u64)>);

impl Speed {
    const WINDOW: Duration = Duration::from_secs(8);

    /// Notes how far it is at a moment, and gives bytes a second, once there is enough to tell.
    fn at(&mut self, now: Instant, done: u64) -> Option<f64> {
        while self.0.front().is_some_and(|(t, _)| now.duration_since(*t) > Self::WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back((now, done));
        let (then, before) = *self.0.front()?;
        let seconds = now.duration_since(then).as_secs_f64();
        (seconds >= 0.5).then(|| done.saturating_sub(before) as f64 / seconds)
    }
}
