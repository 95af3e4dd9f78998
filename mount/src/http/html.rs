//! Text for pages: escaping, names, times.

use std::fmt::Write;

use jiff::tz::TimeZone;
use plakar_engine::meta::Timestamp;

use crate::words::is_hidden;

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
                c if is_hidden(c) => out.extend(c.escape_default()),
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

/// Appends an escaped name.
pub(super) fn name(out: &mut String, name: &[u8]) {
    escape(out, &shown(name));
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
    fn times_are_readable() {
        let mut out = String::new();
        time(&mut out, &TimeZone::UTC, Timestamp { sec: -1, nsec: 5 });
        assert_eq!(out, "<time datetime=\"1969-12-31T23:59:59Z\">1969-12-31 23:59:59</time>");
        out.clear();
        time(&mut out, &TimeZone::UTC, Timestamp { sec: i64::MAX, nsec: 0 });
        assert_eq!(out, "");
    }
}
