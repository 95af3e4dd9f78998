//! What may stand behind `@` in a name: which snapshot is meant.
//!
//! `latest` · `latest~2`, two before it · `now`, `today`, `yesterday`, `monday` … the last one · `3d`, `2h30m`, `1w`,
//! `6mo`, `1y` ago · `2026-01-01`, `2026-01-01T12:00`, `2026-01`, `2026` · a snapshot's directory name or the beginning
//! of its id. Times are local, as the names of snapshots' directories are, unless they end in `Z` or an offset; a time
//! means the end of what it names: `@2026-01-01` is how things were when that day was over.

use jiff::civil::{Date, DateTime, Time};
use jiff::{Span, Timestamp, ToSpan, Unit, Zoned};

/// Which snapshot is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The newest, or so many before it.
    Latest(usize),
    /// The newest that is older than this, ns since 1970.
    Before(i64),
    /// The one whose id begins so.
    Id(String),
}

/// Splits a name at its last `@` that is followed by a moment.
pub(crate) fn split<'a>(name: &'a [u8], now: &Zoned) -> Option<(&'a [u8], Moment)> {
    let at = name.iter().rposition(|b| *b == b'@')?;
    let text = std::str::from_utf8(&name[at + 1..]).ok()?;
    Some((&name[..at], parse(text, now)?))
}

/// Reads what stands behind `@`.
pub fn parse(text: &str, now: &Zoned) -> Option<Moment> {
    if let Some(rest) = text.strip_prefix("latest") {
        return match rest.strip_prefix('~') {
            Some(back) => back.parse().ok().map(Moment::Latest),
            None => rest.is_empty().then_some(Moment::Latest(0)),
        };
    }
    let before = |end: Option<Zoned>| {
        let ns = i64::try_from(end?.timestamp().as_nanosecond()).ok()?;
        Some(Moment::Before(ns))
    };
    let day = |date: Option<Date>| before(end_of_day(date?, now));
    match text {
        "now" => return before(Some(now.clone())),
        "today" => return day(Some(now.date())),
        "yesterday" => return day(now.date().yesterday().ok()),
        _ => {}
    }
    if let Some(days) = days_since(text, now) {
        return day(now.date().checked_sub(days.days()).ok());
    }
    if let Some(date) = calendar(text, now) {
        return before(Some(date));
    }
    if let Some(span) = ago(text) {
        return before(now.checked_sub(span).ok());
    }
    // `2026-11-20T22-26-57_cb5d5c65`: the id decides.
    let id = text.rsplit_once('_').map_or(text, |(_, id)| id);
    let is_id = (4..=64).contains(&id.len()) && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then(|| Moment::Id(id.into()))
}

fn end_of_day(date: Date, now: &Zoned) -> Option<Zoned> {
    date.tomorrow().ok()?.to_zoned(now.time_zone().clone()).ok()
}

/// How many days ago a weekday was: 1 to 7.
fn days_since(text: &str, now: &Zoned) -> Option<i64> {
    const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let wanted = DAYS.iter().position(|d| *d == text)? as i64;
    let today = i64::from(now.weekday().to_monday_zero_offset());
    Some((today - wanted + 6) % 7 + 1)
}

/// A date, perhaps with a time: the end of what it names.
fn calendar(text: &str, now: &Zoned) -> Option<Zoned> {
    if let Ok(exact) = text.parse::<Timestamp>() {
        // A second that is named is over after it.
        return exact.checked_add(1.second()).ok().map(|t| t.to_zoned(now.time_zone().clone()));
    }
    let (date, time) = match text.split_once(['T', ' ', '_']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let mut parts = date.split(['-', '/']);
    let year: i16 = digits(parts.next()?, 4)?;
    let month: Option<i8> = parts.next().map(|m| digits(m, 2)).map_or(Some(None), |m| m.map(Some))?;
    let day: Option<i8> = parts.next().map(|d| digits(d, 2)).map_or(Some(None), |d| d.map(Some))?;
    if parts.next().is_some() || (day.is_none() && time.is_some()) {
        return None;
    }
    let first = Date::new(year, month.unwrap_or(1), day.unwrap_or(1)).ok()?;
    let (start, length) = match (month, day, time) {
        (None, ..) => (first.to_datetime(Time::midnight()), 1.year()),
        (_, None, _) => (first.to_datetime(Time::midnight()), 1.month()),
        (.., None) => (first.to_datetime(Time::midnight()), 1.day()),
        (.., Some(time)) => clock(first, time)?,
    };
    start.checked_add(length).ok()?.to_zoned(now.time_zone().clone()).ok()
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

/// `3d`, `2h30m`: how long ago.
fn ago(text: &str) -> Option<Span> {
    let mut span = Span::new();
    let mut rest = text;
    let mut last = Unit::Year;
    let mut first = true;
    while !rest.is_empty() {
        let number = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: i64 = rest[..number].parse().ok()?;
        rest = &rest[number..];
        let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
        let unit = match &rest[..letters] {
            "y" => Unit::Year,
            "mo" => Unit::Month,
            "w" => Unit::Week,
            "d" => Unit::Day,
            "h" => Unit::Hour,
            "m" | "min" => Unit::Minute,
            "s" => Unit::Second,
            _ => return None,
        };
        rest = &rest[letters..];
        // Larger units first, each once.
        if !first && unit >= last {
            return None;
        }
        (first, last) = (false, unit);
        span = match unit {
            Unit::Year => span.try_years(count),
            Unit::Month => span.try_months(count),
            Unit::Week => span.try_weeks(count),
            Unit::Day => span.try_days(count),
            Unit::Hour => span.try_hours(count),
            Unit::Minute => span.try_minutes(count),
            _ => span.try_seconds(count),
        }
        .ok()?;
    }
    (!first).then_some(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        // A Friday.
        "2026-11-20T15:30:00+01:00[Europe/Paris]".parse().unwrap()
    }

    fn before(text: &str) -> String {
        match parse(text, &now()) {
            Some(Moment::Before(ns)) => Timestamp::from_nanosecond(ns.into()).unwrap().to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn times_are_local_and_mean_the_end_of_what_they_name() {
        for (text, end) in [
            ("2026-01-01", "2026-01-01T23:00:00Z"),
            ("2026-07-01", "2026-07-01T22:00:00Z"),
            ("2026/01/01", "2026-01-01T23:00:00Z"),
            ("2026-01", "2026-01-31T23:00:00Z"),
            ("2025", "2025-12-31T23:00:00Z"),
            ("2026-01-01T12", "2026-01-01T12:00:00Z"),
            ("2026-01-01T12:30", "2026-01-01T11:31:00Z"),
            ("2026-01-01 12:30", "2026-01-01T11:31:00Z"),
            ("2026-01-01T12-30-15", "2026-01-01T11:30:16Z"),
            ("2026-01-01T12:30:15Z", "2026-01-01T12:30:16Z"),
            ("now", "2026-11-20T14:30:00Z"),
            ("today", "2026-11-20T23:00:00Z"),
            ("yesterday", "2026-11-19T23:00:00Z"),
            ("thursday", "2026-11-19T23:00:00Z"),
            ("friday", "2026-11-13T23:00:00Z"),
            ("saturday", "2026-11-14T23:00:00Z"),
            ("3d", "2026-11-17T14:30:00Z"),
            ("2h30m", "2026-11-20T12:00:00Z"),
            ("1w", "2026-11-13T14:30:00Z"),
            ("1mo", "2026-10-20T13:30:00Z"),
            ("1y2d", "2025-11-18T14:30:00Z"),
        ] {
            assert_eq!(before(text), end, "{text}");
        }
    }

    #[test]
    fn snapshots_are_meant_by_age_or_id() {
        let moment = |text| parse(text, &now());
        assert_eq!(moment("latest"), Some(Moment::Latest(0)));
        assert_eq!(moment("latest~2"), Some(Moment::Latest(2)));
        assert_eq!(moment("cb5d"), Some(Moment::Id("cb5d".into())));
        assert_eq!(moment("2026-11-20T22-26-57_cb5d5c65"), Some(Moment::Id("cb5d5c65".into())));
        for text in [
            "",
            "latest~",
            "latestx",
            "babel",
            "abc",
            "3",
            "d",
            "3m3m",
            "1h2d",
            "2026-13-01",
            "2026-1-1",
            "CB5D",
        ] {
            assert_eq!(moment(text), None, "{text}");
        }
    }

    #[test]
    fn the_last_at_sign_counts() {
        let now = now();
        assert_eq!(split(b"a@b@latest", &now), Some((&b"a@b"[..], Moment::Latest(0))));
        assert_eq!(split(b"@latest~1", &now), Some((&b""[..], Moment::Latest(1))));
        assert_eq!(split(b"user@example.org", &now), None);
        assert_eq!(split(b"plain", &now), None);
        assert_eq!(split(b"x@\xff", &now), None);
    }
}
