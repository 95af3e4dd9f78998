//! The progress bar: one line on stderr, drawn ten times a second.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

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
            speed: speed.lock().at(now, bytes),
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

/// The line, as wide as it fits: in a narrow one the bar goes first, then the rate, the entries, the totals. How long it
/// will take stays.
fn draw(work: &str, s: &State, width: usize) -> String {
    let width = width.saturating_sub(1);
    // Totals are those of the previous backup, or of the largest snapshot to check: passed, they mean nothing.
    let total = Some(s.total_bytes).filter(|t| *t > 0 && s.bytes <= *t);
    let share = total.map(|total| s.bytes as f64 / total as f64);
    let head = match share {
        Some(share) => format!("{work} {:3.0}% ", (share * 100.0).floor()),
        None => {
            const TURNS: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
            format!("{work} {} ", TURNS[(s.elapsed.as_millis() / 100) as usize % TURNS.len()])
        }
    };
    let length = |text: &str| text.chars().count();
    let numbers = (0..4).map(|left_out| numbers(s, total, left_out));
    let fitting = |numbers: &String| length(&head) + length(numbers) <= width;
    let numbers = numbers.into_iter().find(fitting).unwrap_or_else(|| time(s, total));
    let room = width.saturating_sub(length(&head) + length(&numbers) + 2).min(30);
    let bar = share.filter(|_| room >= 8).map(|share| format!("{}  ", bar(share, room))).unwrap_or_default();
    format!("{head}{bar}{numbers}").chars().take(width).collect()
}

/// What is counted, some of it left out: 1 the rate, 2 the entries too, 3 totals too.
fn numbers(s: &State, total: Option<u64>, left_out: u32) -> String {
    let mut parts = Vec::new();
    match total.filter(|_| left_out < 3) {
        Some(total) => parts.push(format!("{} of {}", text::size(s.bytes), text::size(total))),
        None => parts.push(text::size(s.bytes)),
    }
    match Some(s.total_entries).filter(|t| *t >= s.entries && total.is_some()) {
        _ if left_out >= 2 => {}
        Some(t) => parts.push(format!("{} of {}", text::count(s.entries), text::counted(t, "entry"))),
        None => parts.push(text::counted(s.entries, "entry")),
    }
    if s.failures > 0 {
        parts.push(text::counted(s.failures, "error"));
    }
    if let Some(speed) = s.speed.filter(|_| left_out < 1) {
        parts.push(format!("{}/s", text::size(speed as u64)));
    }
    parts.push(time(s, total));
    parts.join(" · ")
}

/// How long it will take, or has taken.
fn time(s: &State, total: Option<u64>) -> String {
    let left = total.zip(s.speed).filter(|(_, speed)| *speed >= 1.0 && s.elapsed.as_secs() >= 2);
    match left {
        // The last pieces go to where they belong, directories get their times.
        Some((total, _)) if total == s.bytes => "finishing".into(),
        Some((total, speed)) => {
            let seconds = ((total - s.bytes) as f64 / speed).min(1e7);
            format!("{} left", text::whole_seconds(Duration::from_secs_f64(seconds)))
        }
        None => text::whole_seconds(s.elapsed),
    }
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
        for (width, line) in [
            (
                90,
                "backup  50% ━━━━━━━━━╶─────────  1.0 GiB of 2.0 GiB · 12,345 of 80,000 entries · 2 errors · 6s left",
            ),
            (80, "backup  50% 1.0 GiB of 2.0 GiB · 12,345 of 80,000 entries · 2 errors · 6s left"),
            (60, "backup  50% ━━━━━  1.0 GiB of 2.0 GiB · 2 errors · 6s left"),
            (40, "backup  50% 1.0 GiB · 2 errors · 6s left"),
        ] {
            let drawn = draw("backup", &s, width);
            assert!(drawn.chars().count() < width && drawn.ends_with("6s left"), "{drawn}");
            assert_eq!(drawn.contains("entries"), line.contains("entries"), "{drawn}");
            assert!(!drawn.contains("/s"), "{drawn}");
        }
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
