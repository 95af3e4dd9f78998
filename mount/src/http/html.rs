//! Names and times on pages.

use std::fmt::Write;

use jiff::tz::TimeZone;
use maud::{Markup, Render, html};
use plakar_engine::meta::Timestamp;

use crate::words::is_hidden;

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

/// A name of anything, in an element that keeps its direction of writing to itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a>(pub(super) &'a [u8]);

impl Render for Name<'_> {
    fn render(&self) -> Markup {
        html! { bdi { (shown(self.0)) } }
    }
}

/// A time as an element that shows it as the clock here does; nothing for times that no clock shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time<'a>(pub(super) Timestamp, pub(super) &'a TimeZone);

impl Render for Time<'_> {
    fn render(&self) -> Markup {
        let Self(time, zone) = self;
        let nanoseconds = i32::try_from(time.nsec).unwrap_or(0);
        let time = jiff::Timestamp::new(time.sec, nanoseconds).ok();
        html! {
            @if let Some(time) = time {
                time datetime=(time.strftime("%Y-%m-%dT%H:%M:%SZ")) {
                    (time.to_zoned((*zone).clone()).strftime("%Y-%m-%d %H:%M:%S"))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_text() {
        for (bytes, wanted) in [
            (&b"plain.txt"[..], "plain.txt"),
            (b"<script>alert('x')</script>", "&lt;script&gt;alert('x')&lt;/script&gt;"),
            (b"\"><b>&amp;", "&quot;&gt;&lt;b&gt;&amp;amp;"),
            (b"new\nline\r\t\0\x1b[31m", "new\\nline\\r\\t\\u{0}\\u{1b}[31m"),
            (b"\xff\xfe", "\\xff\\xfe"),
            ("gpj.\u{202e}exe".as_bytes(), "gpj.\\u{202e}exe"),
            ("Grüße 👩\u{200d}🚀".as_bytes(), "Grüße 👩\u{200d}🚀"),
        ] {
            assert_eq!(Name(bytes).render().0, format!("<bdi>{wanted}</bdi>"));
        }
    }

    #[test]
    fn times_are_readable() {
        let shown = |sec, nsec| Time(Timestamp { sec, nsec }, &TimeZone::UTC).render().0;
        assert_eq!(shown(-1, 5), "<time datetime=\"1969-12-31T23:59:59Z\">1969-12-31 23:59:59</time>");
        assert_eq!(shown(i64::MAX, 0), "");
    }
}
