//! Points in time as people give them.
//!
//! Accepted: RFC 3339; `2026`, `2026-01`, `2026-11-20`, `2026/11/20`, with `T12`, `T12:00`, ` 12:00:30` or `_12-00-30` behind
//! it; `now`, `today`, `yesterday`, `monday` … the last one; and how long ago: `2h`, `2h30m`, `1.5d`, `1mo`, `3 months`,
//! `1 day and 2 hours`, `half an hour`. What has no zone is in that of the clock that is passed in.

use jiff::civil::{Date, DateTime, Time};
use jiff::{SignedDuration, Span, Timestamp, ToSpan, Zoned};

/// What a text names: a day, a minute, an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its beginning, ns since 1970.
    pub start_ns: i64,
    /// When it is over: of an instant that is named to the second, after that second.
    pub end_ns: i64,
}

impl Period {
    fn new(start: Timestamp, end: Timestamp) -> Option<Self> {
        let ns = |t: Timestamp| i64::try_from(t.as_nanosecond()).ok();
        Some(Self { start_ns: ns(start)?, end_ns: ns(end)? })
    }

    fn instant(at: Timestamp) -> Option<Self> {
        Self::new(at, at)
    }

    /// From a time of the calendar on, as long as a span.
    fn civil(start: DateTime, length: Span, now: &Zoned) -> Option<Self> {
        let zoned = |at: DateTime| at.to_zoned(now.time_zone().clone()).ok().map(|z| z.timestamp());
        Self::new(zoned(start)?, zoned(start.checked_add(length).ok()?)?)
    }

    fn day(date: Date, now: &Zoned) -> Option<Self> {
        Self::civil(date.to_datetime(Time::midnight()), 1.day(), now)
    }
}

/// Reads a text, relative to a clock.
///
/// # Errors
/// It names no time, or more than one; in words for whoever gave it.
pub fn parse(text: &str, now: &Zoned) -> Result<Period, String> {
    let text = text.trim();
    let lower = text.to_ascii_lowercase();
    let far = || format!("{text:?} is too far away");
    match lower.as_str() {
        "" => return Err("no time given".into()),
        "now" => return Period::instant(now.timestamp()).ok_or_else(far),
        "today" => return Period::day(now.date(), now).ok_or_else(far),
        "yesterday" => {
            return now.date().yesterday().ok().and_then(|day| Period::day(day, now)).ok_or_else(far);
        }
        _ => {}
    }
    if let Some(days) = days_since(&lower, now) {
        return now.date().checked_sub(days.days()).ok().and_then(|d| Period::day(d, now)).ok_or_else(far);
    }
    if let Ok(exact) = text.parse::<Timestamp>() {
        let end = exact.checked_add(1.second()).ok();
        return end.and_then(|end| Period::new(exact, end)).ok_or_else(far);
    }
    if let Some(read) = calendar(text) {
        let (start, length) = read?;
        return Period::civil(start, length, now).ok_or_else(far);
    }
    if let Some(ago) = ago(text, &lower) {
        let ago = ago?;
        let at = now.checked_sub(Span::new().months(ago.months)).and_then(|z| z.checked_sub(ago.fixed));
        return at.ok().and_then(|z| Period::instant(z.timestamp())).ok_or_else(far);
    }
    Err(format!(
        "{text:?} is not a time: give a date (2026-11-20, 2026-11-20T12:00, 2026-11, RFC 3339), how long ago (2h, 3 days, 1mo), today, yesterday or a weekday"
    ))
}

/// How many days ago a weekday was: 1 to 7.
fn days_since(text: &str, now: &Zoned) -> Option<i64> {
    const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let wanted = DAYS.iter().position(|d| *d == text)? as i64;
    let today = i64::from(now.weekday().to_monday_zero_offset());
    Some((today - wanted + 6) % 7 + 1)
}

/// A date, perhaps with a time of day: where it begins, and how long it is. `None` if it does not look like one.
fn calendar(text: &str) -> Option<Result<(DateTime, Span), String>> {
    let (date, time) = match text.split_once(['T', ' ', '_']) {
        Some((date, time)) => (date, Some(time.trim())),
        None => (text, None),
    };
    let mut parts = date.split(['-', '/']);
    let year: i16 = digits(parts.next()?, 4)?;
    let month: Option<i8> = parts.next().map(|m| digits(m, 2)).map_or(Some(None), |m| m.map(Some))?;
    let day: Option<i8> = parts.next().map(|d| digits(d, 2)).map_or(Some(None), |d| d.map(Some))?;
    if parts.next().is_some() || date.contains('-') && date.contains('/') || day.is_none() && time.is_some() {
        return None;
    }
    let read = || {
        let first = Date::new(year, month.unwrap_or(1), day.unwrap_or(1));
        let first = first.map_err(|_| format!("there is no day {date}"))?;
        let midnight = first.to_datetime(Time::midnight());
        match (month, day, time) {
            (None, ..) => Ok((midnight, 1.year())),
            (_, None, _) => Ok((midnight, 1.month())),
            (.., None) => Ok((midnight, 1.day())),
            (.., Some(time)) => {
                clock(first, time).ok_or_else(|| format!("{text:?} has no time of day that I can read"))
            }
        }
    };
    Some(read())
}

/// `12`, `12:00`, `12-00-30`: where it begins, and how long it is.
fn clock(date: Date, text: &str) -> Option<(DateTime, Span)> {
    let mut parts = text.split([':', '-']);
    let hour = digits(parts.next()?, 2)?;
    let minute = parts.next().map(|m| digits(m, 2)).map_or(Some(None), |m| m.map(Some))?;
    let second = parts.next().map(|s| digits(s, 2)).map_or(Some(None), |s| s.map(Some))?;
    let time = Time::new(hour, minute.unwrap_or(0), second.unwrap_or(0), 0).ok()?;
    let length = match (minute, second) {
        (None, _) => 1.hour(),
        (_, None) => 1.minute(),
        (_, Some(_)) => 1.second(),
    };
    parts.next().is_none().then(|| (date.to_datetime(time), length))
}

fn digits<T: std::str::FromStr>(text: &str, count: usize) -> Option<T> {
    (text.len() == count && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// How much of what, as read from `2h30m` or `1 day and 2 hours`.
#[derive(Debug, Default)]
struct Ago {
    months: i64,
    fixed: SignedDuration,
}

/// How long ago, in one word or several. `None` when it is not that at all.
fn ago(text: &str, lower: &str) -> Option<Result<Ago, String>> {
    let words = lower.strip_suffix(" ago").unwrap_or(lower);
    if words.starts_with(|c: char| c.is_ascii_digit()) && !words.contains(' ') {
        // The case of M (months) counts.
        one_word(text.split(' ').next().unwrap_or(text))
    } else {
        spoken(words)
    }
}

/// `2h30m`, `1.5d`, `90min`: larger units first, each once.
fn one_word(text: &str) -> Option<Result<Ago, String>> {
    let mut parts: Vec<(f64, &str)> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let count: f64 = rest[..number].parse().ok()?;
        rest = &rest[number..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        parts.push((count, &rest[..letters]));
        rest = &rest[letters..];
    }
    let mut total = Ago::default();
    let mut last = f64::INFINITY;
    for (i, (number, unit)) in parts.iter().enumerate() {
        let unit = match *unit {
            "M" => "mo",
            // Between hours and seconds it can only be minutes.
            "m" if i > 0 && parts[i - 1].1 == "h" || parts.get(i + 1).is_some_and(|p| p.1 == "s") => "min",
            "m" => {
                return Some(Err(format!(
                    "{text:?} could be minutes or months: write {number}min or {number}mo"
                )));
            }
            unit => unit,
        };
        match total.add(*number, &unit.to_ascii_lowercase())? {
            Ok(size) if size < last => last = size,
            Ok(_) => return None,
            Err(e) => return Some(Err(e)),
        }
    }
    Some(Ok(total))
}

/// `3 months`, `1 day and 2 hours`, `an hour`, `half an hour`.
fn spoken(text: &str) -> Option<Result<Ago, String>> {
    let mut words = text.split([' ', ',']).filter(|w| !w.is_empty() && *w != "and").peekable();
    words.peek()?;
    let mut total = Ago::default();
    while let Some(word) = words.next() {
        let (number, unit) = match word {
            "half" => (0.5, words.next().filter(|w| matches!(*w, "a" | "an")).and_then(|_| words.next())?),
            "a" | "an" => (1.0, words.next()?),
            word => (word.parse().ok().filter(|n: &f64| *n >= 0.0)?, words.next()?),
        };
        if let Err(e) = total.add(number, unit)? {
            return Some(Err(e));
        }
    }
    Some(Ok(total))
}

impl Ago {
    /// Adds so many of a unit, and gives about how many seconds one has. `None` if it is no unit.
    fn add(&mut self, number: f64, unit: &str) -> Option<Result<f64, String>> {
        const DAY: f64 = 86_400.0;
        let seconds = match unit {
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hour" | "hours" => 3600.0,
            "d" | "day" | "days" => DAY,
            "w" | "week" | "weeks" => 7.0 * DAY,
            "mo" | "mon" | "month" | "months" => 30.0 * DAY,
            "y" | "yr" | "year" | "years" => 365.0 * DAY,
            _ => return None,
        };
        if seconds >= 30.0 * DAY {
            let months = number * if seconds > 30.0 * DAY { 12.0 } else { 1.0 };
            if months.fract() != 0.0 || !(0.0..=240_000.0).contains(&months) {
                return Some(Err(format!("{number} {unit} is no whole number of months")));
            }
            self.months += months as i64;
            return Some(Ok(seconds));
        }
        let Ok(fixed) = SignedDuration::try_from_secs_f64(number * seconds) else {
            return Some(Err(format!("{number} {unit} is too long")));
        };
        self.fixed = self.fixed.saturating_add(fixed);
        Some(Ok(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Friday.
    const NOW: &str = "2026-11-20T15:30:00+01:00[Europe/Paris]";

    fn read(text: &str) -> Result<(String, String), String> {
        let show = |ns: i64| Timestamp::from_nanosecond(ns.into()).unwrap().to_string();
        parse(text, &NOW.parse().unwrap()).map(|p| (show(p.start_ns), show(p.end_ns)))
    }

    #[test]
    fn what_is_named_begins_and_ends_in_the_zone_of_the_clock() {
        for (text, start, end) in [
            ("2026-01-01", "2025-12-31T23:00:00Z", "2026-01-01T23:00:00Z"),
            ("2026-07-01", "2026-06-30T22:00:00Z", "2026-07-01T22:00:00Z"),
            ("2026/01/01", "2025-12-31T23:00:00Z", "2026-01-01T23:00:00Z"),
            ("2026-01", "2025-12-31T23:00:00Z", "2026-01-31T23:00:00Z"),
            ("2025", "2024-12-31T23:00:00Z", "2025-12-31T23:00:00Z"),
            ("2026-01-01T12", "2026-01-01T11:00:00Z", "2026-01-01T12:00:00Z"),
            ("2026-01-01T12:30", "2026-01-01T11:30:00Z", "2026-01-01T11:31:00Z"),
            ("2026-01-01 12:30", "2026-01-01T11:30:00Z", "2026-01-01T11:31:00Z"),
            ("2026-01-01_12-30-15", "2026-01-01T11:30:15Z", "2026-01-01T11:30:16Z"),
            ("2026-01-01T12:30:15Z", "2026-01-01T12:30:15Z", "2026-01-01T12:30:16Z"),
            ("2026-01-01 12:30:15+02:00", "2026-01-01T10:30:15Z", "2026-01-01T10:30:16Z"),
            ("today", "2026-11-19T23:00:00Z", "2026-11-20T23:00:00Z"),
            ("Yesterday", "2026-11-18T23:00:00Z", "2026-11-19T23:00:00Z"),
            ("thursday", "2026-11-18T23:00:00Z", "2026-11-19T23:00:00Z"),
            ("friday", "2026-11-12T23:00:00Z", "2026-11-13T23:00:00Z"),
            ("saturday", "2026-11-13T23:00:00Z", "2026-11-14T23:00:00Z"),
        ] {
            assert_eq!(read(text), Ok((start.into(), end.into())), "{text}");
        }
    }

    #[test]
    fn how_long_ago_is_an_instant() {
        for (text, wanted) in [
            ("now", "2026-11-20T14:30:00Z"),
            ("2h", "2026-11-20T12:30:00Z"),
            ("2h30m", "2026-11-20T12:00:00Z"),
            ("1.5h", "2026-11-20T13:00:00Z"),
            ("3d", "2026-11-17T14:30:00Z"),
            ("2d3h", "2026-11-18T11:30:00Z"),
            ("1w", "2026-11-13T14:30:00Z"),
            ("1y", "2025-11-20T14:30:00Z"),
            ("1y2d", "2025-11-18T14:30:00Z"),
            // By the clock there, which was an hour ahead then.
            ("1mo", "2026-10-20T13:30:00Z"),
            ("1M", "2026-10-20T13:30:00Z"),
            ("30s", "2026-11-20T14:29:30Z"),
            ("90min", "2026-11-20T13:00:00Z"),
            ("3 months", "2026-08-20T13:30:00Z"),
            ("1 year", "2025-11-20T14:30:00Z"),
            ("1 day and 2 hours", "2026-11-19T12:30:00Z"),
            ("an hour", "2026-11-20T13:30:00Z"),
            ("half an hour", "2026-11-20T14:00:00Z"),
            ("2 days ago", "2026-11-18T14:30:00Z"),
        ] {
            assert_eq!(read(text), Ok((wanted.into(), wanted.into())), "{text}");
        }
    }

    #[test]
    fn what_could_mean_two_things_or_nothing_is_refused() {
        let e = read("90m").unwrap_err();
        assert!(e.contains("90min") && e.contains("90mo"), "{e}");
        for text in [
            "",
            "two days",
            "20/11/2026",
            "2026-02-30",
            "2026-11-20 25:00",
            "2026-13-01",
            "2026-1-1",
            "soon",
            "1.5mo",
            "5",
            "h",
            "1y2m",
            "3h3h",
            "1h2d",
            "-1 days",
            "babel",
            "999999999999 years",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
