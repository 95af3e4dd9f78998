//! Numbers, times and names as people read them, on pages and on terminals alike.

use plakar_engine::meta::Timestamp;

/// A size in IEC units: `18 B`, `4.0 KiB`, `266.9 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    // What would be rounded up to 1024.0 is 1.0 of the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A time in UTC with all its digits: `2026-11-20T22:26:57.5Z`.
pub fn time(t: Timestamp) -> String {
    let nsec = i32::try_from(t.nsec).unwrap_or(0);
    match jiff::Timestamp::new(t.sec, nsec) {
        Ok(time) => time.to_string(),
        // A negative second with a fraction is refused: count from the next second down. Before year −9999 and after
        // 9999 there is no calendar, but the truth.
        Err(_) => jiff::Timestamp::new(t.sec.saturating_add(1), nsec - 1_000_000_000)
            .map_or_else(|_| format!("@{}.{nsec:09}", t.sec), |time| time.to_string()),
    }
}

/// A count with its digits in groups: `81,234`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count with its noun: `1 file`, `3 files`, `2 entries`.
pub fn counted(n: u64, noun: &str) -> String {
    let plural = match noun.strip_suffix('y') {
        _ if n == 1 => noun.into(),
        Some(stem) if !stem.ends_with(['a', 'e', 'o']) => format!("{stem}ies"),
        _ => format!("{noun}s"),
    };
    format!("{} {plural}", count(n))
}

/// Whether a character shows nothing that one would see, or changes how those beside it are shown: in a name it is
/// written as an escape. The two joiners stay: some scripts and pictures are written with them.
pub fn is_hidden(c: char) -> bool {
    let is_invisible = matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
    );
    c.is_control() || is_invisible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_utc_whatever_they_are() {
        let shown = |sec, nsec| time(Timestamp { sec, nsec });
        assert_eq!(shown(1, 500_000_000), "1970-01-01T00:00:01.5Z");
        assert_eq!(shown(-1, 999_999_999), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(shown(i64::MAX, 5), "@9223372036854775807.000000005");
    }

    #[test]
    fn values_are_readable() {
        assert_eq!(
            [0, 1023, 1024, 1_048_525, u64::MAX].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "16.0 EiB"]
        );
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(1_234_567, "file"), "1,234,567 files");
        assert_eq!((counted(2, "entry"), counted(0, "day")), ("2 entries".into(), "0 days".into()));
    }

    #[test]
    fn what_hides_is_known() {
        assert!(['\0', '\u{1b}', '\u{61c}', '\u{200b}', '\u{202e}', '\u{feff}'].into_iter().all(is_hidden));
        assert!(!['a', 'é', '\u{200d}', '🚀'].into_iter().any(is_hidden));
    }
}
