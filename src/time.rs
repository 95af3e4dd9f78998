//! Points in time as people give them and as they are shown: always UTC.
//!
//! Accepted: RFC 3339; `2026-11-20`, `2026/11/20`, with ` 12:00` or ` 12:00:00` behind it; `now`, `today`,
//! `yesterday`; and how long ago: `2h`, `2h30m`, `1.5d`, `3 months`, `1 day and 2 hours`, `half an hour`.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};
pub(crate) use plakar_mount::words::time as exact;

/// A time to the second, as in lists: `2026-11-20T22:26:57Z`.
pub(crate) fn show(sec: i64) -> String {
    match Timestamp::from_second(sec) {
        Ok(t) => t.to_string(),
        // Before year −9999 or after 9999: no calendar, but the truth.
        Err(_) => format!("@{sec}"),
    }
}

/// A time in ns since 1970, to the second.
pub(crate) fn show_ns(ns: i64) -> String {
    show(ns.div_euclid(1_000_000_000))
}

/// A time in ns since 1970 with all its digits.
pub(crate) fn exact_ns(ns: i64) -> String {
    Timestamp::from_nanosecond(i128::from(ns)).map_or_else(|_| format!("@{ns}ns"), |t| t.to_string())
}

/// A time for names of files: `20261120222657`.
pub(crate) fn compact(t: Timestamp) -> String {
    t.strftime("%Y%m%d%H%M%S").to_string()
}

/// Reads a time that an option gives, in ns since 1970.
pub(crate) fn parse_argument(text: &str) -> Result<i64, String> {
    let time = parse(text, Timestamp::now())?;
    i64::try_from(time.as_nanosecond()).map_err(|_| format!("{text} is too far away"))
}

/// Reads a time relative to `now`.
fn parse(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let text = text.trim();
    let utc = |at: DateTime| at.to_zoned(TimeZone::UTC).map(|z| z.timestamp()).map_err(|e| e.to_string());
    let today = now.to_zoned(TimeZone::UTC).date();
    match text.to_ascii_lowercase().as_str() {
        "" => return Err("no time given".into()),
        "now" => return Ok(now),
        "today" => return utc(today.to_datetime(Time::midnight())),
        "yesterday" => {
            return utc(today.yesterday().map_err(|e| e.to_string())?.to_datetime(Time::midnight()));
        }
        _ => {}
    }
    if let Some(at) = calendar(text) {
        return utc(at?);
    }
    if let Ok(t) = text.parse::<Timestamp>() {
        return Ok(t);
    }
    let looks_like_a_date = text.contains(['/', '-']) || text.contains(':');
    let ago = if looks_like_a_date { None } else { ago(text, now).transpose()? };
    ago.ok_or_else(|| {
        format!(
            "{text:?} is not a time: give a date (2026-11-20, \"2026-11-20 12:00\", RFC 3339), how long ago (2h, 3 days, 1mo), today, or yesterday"
        )
    })
}

/// A date, with or without a time of day. `None` when it does not begin like one or has a zone behind it.
fn calendar(text: &str) -> Option<Result<DateTime, String>> {
    let (date, time) = match text.split_once(' ') {
        Some((d, t)) => (d, Some(t.trim())),
        None => (text, None),
    };
    let mut parts = date.split(['-', '/']);
    let (y, m, d) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || y.len() != 4 || date.contains('-') && date.contains('/') {
        return None;
    }
    let (y, m, d) = (y.parse().ok()?, m.parse().ok()?, d.parse().ok()?);
    let read = || {
        let date = Date::new(y, m, d).map_err(|_| format!("there is no day {date}"))?;
        let Some(time) = time else { return Ok(date.to_datetime(Time::midnight())) };
        let mut numbers = time.split(':').map(|n| if n.len() == 2 { n.parse::<i8>().ok() } else { None });
        let (hour, minute) = (numbers.next().flatten(), numbers.next().flatten());
        let (second, more) = (numbers.next().unwrap_or(Some(0)), numbers.next());
        let time = match (hour, minute, second, more) {
            (Some(h), Some(m), Some(s), None) => Time::new(h, m, s, 0).ok(),
            _ => None,
        };
        Ok(date.to_datetime(time.ok_or_else(|| format!("{text:?} has no time of day that I can read"))?))
    };
    // `2026-11-20 12:00:00Z` and the like have a zone and are for RFC 3339.
    if time.is_some_and(|t| t.contains(['Z', 'z', '+', '-'])) {
        return None;
    }
    Some(read())
}

/// How much of what, as read from `2h30m` or `1 day and 2 hours`.
#[derive(Debug, Default)]
struct Ago {
    months: i64,
    fixed: SignedDuration,
}

/// A time that long before now. `None` when it is not a duration at all.
fn ago(text: &str, now: Timestamp) -> Option<Result<Timestamp, String>> {
    let lower = text.to_ascii_lowercase();
    let words = lower.strip_suffix(" ago").unwrap_or(&lower);
    let total = if words.starts_with(|c: char| c.is_ascii_digit()) && !words.contains(' ') {
        // One word: the case of M (months) counts.
        compact_duration(text.split(' ').next().unwrap_or(text))
    } else {
        spoken_duration(words)
    };
    let total = match total? {
        Ok(t) => t,
        Err(e) => return Some(Err(e)),
    };
    let before = now
        .to_zoned(TimeZone::UTC)
        .checked_sub(Span::new().months(total.months))
        .and_then(|z| z.timestamp().checked_sub(total.fixed));
    Some(before.map_err(|_| format!("{text:?} is too long ago")))
}

/// `2h30m`, `1.5d`, `90min`.
fn compact_duration(text: &str) -> Option<Result<Ago, String>> {
    let mut parts: Vec<(f64, &str)> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        parts.push((number, &rest[..letters]));
        rest = &rest[letters..];
    }
    let mut total = Ago::default();
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
        if let Err(e) = total.add(*number, &unit.to_ascii_lowercase())? {
            return Some(Err(e));
        }
    }
    Some(Ok(total))
}

/// `3 months`, `1 day and 2 hours`, `an hour`, `half an hour`.
fn spoken_duration(text: &str) -> Option<Result<Ago, String>> {
    let mut words = text.split([' ', ',']).filter(|w| !w.is_empty() && *w != "and").peekable();
    words.peek()?;
    let mut total = Ago::default();
    while let Some(word) = words.next() {
        let (number, unit) = match word {
            "half" => (0.5, words.next().filter(|w| matches!(*w, "a" | "an")).and_then(|_| words.next())?),
            "a" | "an" => (1.0, words.next()?),
            word => (word.parse().ok()?, words.next()?),
        };
        if let Err(e) = total.add(number, unit)? {
            return Some(Err(e));
        }
    }
    Some(Ok(total))
}

impl Ago {
    fn add(&mut self, number: f64, unit: &str) -> Option<Result<(), String>> {
        let seconds = match unit {
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hour" | "hours" => 3600.0,
            "d" | "day" | "days" => 86_400.0,
            "w" | "week" | "weeks" => 7.0 * 86_400.0,
            "mo" | "mon" | "month" | "months" | "y" | "yr" | "year" | "years" => {
                let months = number * if unit.starts_with('m') { 1.0 } else { 12.0 };
                if months.fract() != 0.0 || months > 240_000.0 {
                    return Some(Err(format!("{number} {unit} is no whole number of months")));
                }
                self.months += months as i64;
                return Some(Ok(()));
            }
            _ => return None,
        };
        let Ok(fixed) = SignedDuration::try_from_secs_f64(number * seconds) else {
            return Some(Err(format!("{number} {unit} is too long")));
        };
        self.fixed = self.fixed.saturating_add(fixed);
        Some(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let now: Timestamp = "2026-11-20T22:26:57Z".parse().unwrap();
        parse(text, now).map(|t| t.to_string())
    }

    #[test]
    fn every_form_that_plakar_takes() {
        for (text, wanted) in [
            ("2h", "2026-11-20T20:26:57Z"),
            ("2h30m", "2026-11-20T19:56:57Z"),
            ("1.5h", "2026-11-20T20:56:57Z"),
            ("1d", "2026-11-19T22:26:57Z"),
            ("2d3h", "2026-11-18T19:26:57Z"),
            ("1w", "2026-11-13T22:26:57Z"),
            ("1y", "2025-11-20T22:26:57Z"),
            ("1mo", "2026-10-20T22:26:57Z"),
            ("1M", "2026-10-20T22:26:57Z"),
            ("30s", "2026-11-20T22:26:27Z"),
            ("90min", "2026-11-20T20:56:57Z"),
            ("3 months", "2026-08-20T22:26:57Z"),
            ("1 year", "2025-11-20T22:26:57Z"),
            ("1 day and 2 hours", "2026-11-19T20:26:57Z"),
            ("an hour", "2026-11-20T21:26:57Z"),
            ("half an hour", "2026-11-20T21:56:57Z"),
            ("a month", "2026-10-20T22:26:57Z"),
            ("2 days ago", "2026-11-18T22:26:57Z"),
            ("2026-11-20", "2026-11-20T00:00:00Z"),
            ("2026/11/20", "2026-11-20T00:00:00Z"),
            ("2026-11-20 12:00", "2026-11-20T12:00:00Z"),
            ("2026-11-20 12:00:01", "2026-11-20T12:00:01Z"),
            ("2026-11-20T12:00:00Z", "2026-11-20T12:00:00Z"),
            ("2026-11-20T12:00:00+02:00", "2026-11-20T10:00:00Z"),
            ("now", "2026-11-20T22:26:57Z"),
            ("today", "2026-11-20T00:00:00Z"),
            ("Yesterday", "2026-11-19T00:00:00Z"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        let e = read("90m").unwrap_err();
        assert!(e.contains("90min") && e.contains("90mo"), "{e}");
        assert!(read("1y2m").is_err());
        for text in
            ["", "two days", "20/11/2026", "2026-02-30", "2026-11-20 25:00", "soon", "1.5mo", "5", "h"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_shown_in_utc_whatever_they_are() {
        assert_eq!(show_ns(-1), "1969-12-31T23:59:59Z");
        assert_eq!(show(i64::MAX), "@9223372036854775807");
        assert_eq!(exact_ns(1_500_000_000), "1970-01-01T00:00:01.5Z");
    }
}
