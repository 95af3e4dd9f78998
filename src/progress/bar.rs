//! The progress bar: one line on stderr, drawn ten times a second.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Counters, Speed};
use crate::{screen, text};

const TEMPLATE: &str = "{line}";

/// What the line shows.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    entries: u64,
    bytes: u64,
    total_entries: u64,
    total_bytes: u64,
    failures: u64,
    speed: Option<f64>,
    elapsed: Duration,
}

/// Begins to draw.
pub(super) fn start(work: &'static str, counters: Arc<Counters>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    let speed = Arc::new(Mutex::new(Speed::default()));
    let began = Instant::now();
    let line = move |_: &indicatif::ProgressState, out: &mut dyn Write| {
        let now = Instant::now();
        let bytes = counters.bytes();
        let state = State {
            entries: counters.entries.load(Ordering::Relaxed),
            bytes,
            total_entries: counters.total_entries.load(Ordering::Relaxed),
            total_bytes: counters.total_bytes.load(Ordering::Relaxed),
            failures: counters.failures.load(Ordering::Relaxed),
            speed: speed.lock().unwrap_or_else(PoisonError::into_inner).at(now, bytes),
            elapsed: now.duration_since(began),
        };
        let _ = out.write_str(&draw(work, &state, screen::width()));
    };
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style.with_key("line", line));
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    screen::set_bar(Some(bar.clone()));
    bar
}

/// The line, as wide as it fits.
fn draw(work: &str, s: &State, width: usize) -> String {
    // Totals are those of the previous backup, or of the largest snapshot to check: passed, they mean nothing.
    let total = Some(s.total_bytes).filter(|t| *t > 0 && s.bytes <= *t);
    let mut parts = Vec::new();
    match total {
        Some(total) => parts.push(format!("{} of {}", text::size(s.bytes), text::size(total))),
        None => parts.push(text::size(s.bytes)),
    }
    match Some(s.total_entries).filter(|t| *t >= s.entries && total.is_some()) {
        Some(t) => parts.push(format!("{} of {}", text::count(s.entries), text::counted(t, "entry"))),
        None => parts.push(text::counted(s.entries, "entry")),
    }
    if s.failures > 0 {
        parts.push(text::counted(s.failures, "error"));
    }
    if let Some(speed) = s.speed {
        parts.push(format!("{}/s", text::size(speed as u64)));
    }
    let left = total.zip(s.speed).filter(|(_, speed)| *speed >= 1.0 && s.elapsed.as_secs() >= 2);
    match left {
        // The last pieces go to where they belong, directories get their times.
        Some((total, _)) if total == s.bytes => parts.push("finishing".into()),
        Some((total, speed)) => {
            let seconds = ((total - s.bytes) as f64 / speed).min(1e7);
            parts.push(format!("{} left", text::whole_seconds(Duration::from_secs_f64(seconds))));
        }
        None => parts.push(text::whole_seconds(s.elapsed)),
    }
    let mut line = format!("{work} ");
    let numbers = parts.join(" · ");
    match total {
        Some(total) => {
            let share = s.bytes as f64 / total as f64;
            let _ = write!(line, "{:3.0}% ", (share * 100.0).floor());
            let room = width.saturating_sub(line.chars().count() + numbers.chars().count() + 3).min(30);
            if room >= 8 {
                line.push_str(&bar(share, room));
                line.push_str("  ");
            }
        }
        None => {
            const TURNS: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
            line.push(TURNS[(s.elapsed.as_millis() / 100) as usize % TURNS.len()]);
            line.push(' ');
        }
    }
    line.push_str(&numbers);
    line.chars().take(width.saturating_sub(1)).collect()
}

fn bar(share: f64, width: usize) -> String {
    let halves = (share.clamp(0.0, 1.0) * (2 * width) as f64) as usize;
    let full = halves / 2;
    let mut out = "━".repeat(full);
    if full < width {
        out.push(if halves % 2 == 1 { '╸' } else { '╶' });
        out.push_str(&"─".repeat(width - full - 1));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_how_fast_and_how_long() {
        let s = State {
            entries: 12_345,
            bytes: 1 << 30,
            total_entries: 80_000,
            total_bytes: 2 << 30,
            failures: 2,
            speed: Some(180.0 * 1024.0 * 1024.0),
            elapsed: Duration::from_secs(6),
        };
        assert_eq!(
            draw("backup", &s, 130),
            "backup  50% ━━━━━━━━━━━━━━━╶──────────────  1.0 GiB of 2.0 GiB · 12,345 of 80,000 entries · 2 errors · 180.0 MiB/s · 6s left"
        );
        assert_eq!(draw("backup", &s, 60).chars().count(), 59);
        let unknown = State { total_bytes: 0, failures: 0, ..s };
        assert_eq!(draw("backup", &unknown, 120), "backup ⠋ 1.0 GiB · 12,345 entries · 180.0 MiB/s · 6s");
        let beyond = State { bytes: 3 << 30, ..s };
        assert!(!draw("backup", &beyond, 120).contains('%'));
    }

    #[test]
    fn the_bar_is_as_wide_as_it_is_told() {
        for share in [0.0, 0.01, 0.5, 0.99, 1.0] {
            assert_eq!(bar(share, 10).chars().count(), 10, "{share}");
        }
        assert_eq!(bar(1.0, 4), "━━━━");
    }
}
