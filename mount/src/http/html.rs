//! Text for pages: escaping, and values as people read them.

use std::fmt::Write;

use jiff::tz::TimeZone;
use plakar_engine::meta::Timestamp;

/// Appends text with what HTML would obey taken out of it; fit for elements and quoted attributes.
pub(super) fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
}

/// A name as text: what cannot be seen, turns the writing around, or is no text is written as an escape.
pub(super) fn shown(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                c if c.is_control() || is_invisible(c) => out.extend(c.escape_default()),
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            // A string takes everything.
            let _never_fails = write!(out, "\\x{b:02x}");
        }
    }
    out
}

/// Characters that show nothing, or change how those beside them are shown. The two joiners stay: some scripts and
/// pictures are written with them.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
    )
}

/// Appends an escaped name.
pub(super) fn name(out: &mut String, name: &[u8]) {
    escape(out, &shown(name));
}

/// A size in IEC units: `18 B`, `4.0 KiB`.
pub(super) fn size(bytes: u64) -> String {
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

/// A count with its digits in groups.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count with its noun.
pub(super) fn counted(n: u64, one: &str, more: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { more })
}

/// Appends a time as an element that shows it as the clock here does; nothing for times that no clock shows.
pub(super) fn time(out: &mut String, zone: &TimeZone, time: Timestamp) {
    let nanoseconds = i32::try_from(time.nsec).unwrap_or(0);
    let Ok(time) = jiff::Timestamp::new(time.sec, nanoseconds) else { return };
    let (exact, local) = (time.strftime("%Y-%m-%dT%H:%M:%SZ"), time.to_zoned(zone.clone()));
    let _never_fails =
        write!(out, "<time datetime=\"{exact}\">{}</time>", local.strftime("%Y-%m-%d %H:%M:%S"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(bytes: &[u8]) -> String {
        let mut out = String::new();
        name(&mut out, bytes);
        out
    }

    #[test]
    fn hostile_names_are_text() {
        for (bytes, wanted) in [
            (&b"plain.txt"[..], "plain.txt"),
            (b"<script>alert('x')</script>", "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"),
            (b"\"><b>&amp;", "&quot;&gt;&lt;b&gt;&amp;amp;"),
            (b"new\nline\r\t\0\x1b[31m", "new\\nline\\r\\t\\u{0}\\u{1b}[31m"),
            (b"\xff\xfe", "\\xff\\xfe"),
            ("gpj.\u{202e}exe".as_bytes(), "gpj.\\u{202e}exe"),
            ("Grüße 👩\u{200d}🚀".as_bytes(), "Grüße 👩\u{200d}🚀"),
        ] {
            assert_eq!(escaped(bytes), wanted);
        }
    }

    #[test]
    fn values_are_readable() {
        assert_eq!(
            [0, 1023, 1024, 1_048_525, u64::MAX].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "16.0 EiB"]
        );
        assert_eq!(counted(1, "file", "files"), "1 file");
        assert_eq!(counted(1_234_567, "file", "files"), "1,234,567 files");
        let mut out = String::new();
        time(&mut out, &TimeZone::UTC, Timestamp { sec: -1, nsec: 5 });
        assert_eq!(out, "<time datetime=\"1969-12-31T23:59:59Z\">1969-12-31 23:59:59</time>");
        out.clear();
        time(&mut out, &TimeZone::UTC, Timestamp { sec: i64::MAX, nsec: 0 });
        assert_eq!(out, "");
    }
}
