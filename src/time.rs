//! Points in time: as they are shown, always in UTC, and as options give them, local unless they say otherwise.

use jiff::{Timestamp, Zoned};
use plakar_engine::moment;
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

/// Reads a time that an option gives, in ns since 1970: of a day, its beginning.
pub(crate) fn parse_argument(text: &str) -> Result<i64, String> {
    Ok(moment::parse(text, &Zoned::now())?.start_ns)
}

/// Lets through what [`moment::parse`] will read when its moment is known.
pub(crate) fn check(text: &str) -> Result<String, String> {
    moment::parse(text, &Zoned::now()).map(|_| text.to_owned())
}

/// The instant at which something begins, by a clock and in its zone.
pub(crate) fn at(text: &str, now: &Zoned) -> Result<Zoned, String> {
    let start = moment::parse(text, now)?.start_ns;
    let at = Timestamp::from_nanosecond(start.into()).map_err(|e| e.to_string())?;
    Ok(at.to_zoned(now.time_zone().clone()))
}

/// Reads how long something lasts: `7d`, `36h`, `1w 2d`, `0`.
pub(crate) fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(std::time::Duration::ZERO);
    }
    let span: Option<jiff::Span> = text.parse().ok();
    let fixed = span.and_then(|s| s.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok());
    fixed
        .and_then(|d| std::time::Duration::try_from(d).ok())
        .ok_or_else(|| format!("{text:?} is no length of time: give for example 7d, 36h, or 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_utc_whatever_they_are() {
        assert_eq!(show_ns(-1), "1969-12-31T23:59:59Z");
        assert_eq!(show(i64::MAX), "@9223372036854775807");
        assert_eq!(exact_ns(1_500_000_000), "1970-01-01T00:00:01.5Z");
    }
}
