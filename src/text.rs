//! Values as people read them: sizes, counts, durations, modes, names.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use plakar_engine::meta::{Kind, Metadata};
use plakar_mount::words::is_hidden;
pub(crate) use plakar_mount::words::{count, counted, size};

/// `without errors`, `with 3 errors`.
pub(crate) fn with_errors(n: u64) -> String {
    if n == 0 { "without errors".into() } else { format!("with {}", counted(n, "error")) }
}

/// Reads a size as people give it: `96MiB`, `1G`, `1.5 GiB`, `65536`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: give bytes, or a number with KiB, MiB, GiB or TiB");
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().map_err(|_| wrong())?;
    let shift = match text[end..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    Ok((number * f64::from(1_u32 << (shift / 2)) * f64::from(1_u32 << (shift / 2))) as u64)
}

/// A duration with two or three digits that matter: `350µs`, `28.7ms`, `4.2s`, `3m5s`, `2h10m`.
pub(crate) fn duration(d: Duration) -> String {
    let seconds = d.as_secs_f64();
    if d.as_micros() < 1000 {
        format!("{}µs", d.as_micros())
    } else if seconds < 0.9995 {
        format!("{:.1}ms", seconds * 1e3)
    } else if seconds < 59.95 {
        format!("{seconds:.1}s")
    } else {
        whole_seconds(d)
    }
}

/// A duration to the second: `0s`, `12s`, `3m5s`, `2h10m`.
pub(crate) fn whole_seconds(d: Duration) -> String {
    let s = d.as_secs() + u64::from(d.subsec_millis() >= 500);
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        _ => format!("{}h{}m", s / 3600, s % 3600 / 60),
    }
}

/// Type and permissions as `ls -l` shows them.
pub(crate) fn mode(meta: &Metadata) -> String {
    let mut out = String::with_capacity(10);
    out.push(match meta.kind {
        Kind::Missing => return "?---------".into(),
        Kind::Regular => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice => 'c',
        Kind::BlockDevice => 'b',
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = meta.mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (meta.mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// What kind of thing it is, in a word: the `type` of `-json`.
pub(crate) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Missing => "missing",
        Kind::Regular => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice => "char-device",
        Kind::BlockDevice => "block-device",
    }
}

/// Longest name or path that is shown whole.
const LONGEST: usize = 4096;

/// A name with everything that could confuse a terminal or a log written as `\xNN`; a backslash is doubled only
/// beside such, so that ordinary names stay as they are.
///
/// Of what is longer than a path in the system's calls may be, the beginning and the end are shown.
pub(crate) fn printable(name: &[u8]) -> Cow<'_, str> {
    if name.len() > LONGEST {
        let (beginning, end) = (&name[..LONGEST / 4], &name[name.len() - LONGEST / 4..]);
        let left_out = count((name.len() - LONGEST / 2) as u64);
        return format!("{}…({left_out} bytes)…{}", printable(beginning), printable(end)).into();
    }
    let plain = std::str::from_utf8(name).ok().filter(|t| !t.chars().any(is_hidden));
    if let Some(text) = plain {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                c if is_hidden(c) => {
                    let mut utf8 = [0; 4];
                    for b in c.encode_utf8(&mut utf8).bytes() {
                        let _ = write!(out, "\\x{b:02x}");
                    }
                }
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    Cow::Owned(out)
}

/// A word as a shell would take it back.
pub(crate) fn shell_word(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_~-".contains(c);
    if !word.is_empty() && word.chars().all(plain) && !word.starts_with('~') {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

/// The word among `known` that is most like `word`, if any is like it at all.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.len() / 3).max(1);
    let distances = known.into_iter().map(|k| (distance(word, k), k));
    distances.filter(|(d, _)| *d <= limit).min_by_key(|(d, _)| *d).map(|(_, k)| k)
}

/// Letters to insert, delete, change, or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if swapped { best.min(rows[i - 2][j - 2] + 1) } else { best }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal_and_never_reach_1024() {
        let shown: Vec<_> =
            [0, 18, 1023, 1024, 4096, 1_048_524, 1_048_525, 1 << 20, 279_893_606, u64::MAX].map(size).into();
        let wanted = [
            "0 B",
            "18 B",
            "1023 B",
            "1.0 KiB",
            "4.0 KiB",
            "1023.9 KiB",
            "1.0 MiB",
            "1.0 MiB",
            "266.9 MiB",
            "16.0 EiB",
        ];
        assert_eq!(shown, wanted);
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size("96MiB"), Ok(96 << 20));
        assert_eq!(parse_size("1.5 g"), Ok(3 << 29));
        assert_eq!(parse_size("65536"), Ok(65_536));
        assert!(parse_size("much").is_err() && parse_size("1 x").is_err());
    }

    #[test]
    fn counts_are_grouped_and_have_their_noun() {
        assert_eq!(count(81_234), "81,234");
        assert_eq!(count(1_000_000), "1,000,000");
        assert_eq!(counted(1, "entry"), "1 entry");
        assert_eq!(counted(0, "entry"), "0 entries");
        assert_eq!(counted(2, "directory"), "2 directories");
        assert_eq!(counted(999, "key"), "999 keys");
    }

    #[test]
    fn durations_show_what_matters() {
        let shown = [0.00035, 0.0287, 0.9996, 4.24, 59.96, 185.0, 7800.0]
            .map(|s| duration(Duration::from_secs_f64(s)));
        assert_eq!(shown, ["350µs", "28.7ms", "1.0s", "4.2s", "1m0s", "3m5s", "2h10m"]);
        assert_eq!(whole_seconds(Duration::from_millis(287)), "0s");
    }

    #[test]
    fn modes_look_as_in_ls() {
        let with = |kind, mode| super::mode(&Metadata { kind, mode, ..Metadata::directory(0) });
        assert_eq!(with(Kind::Regular, 0o644), "-rw-r--r--");
        assert_eq!(with(Kind::Symlink, 0o777), "lrwxrwxrwx");
        assert_eq!(with(Kind::Regular, 0o4755), "-rwsr-xr-x");
        assert_eq!(with(Kind::Regular, 0o2644), "-rw-r-Sr--");
        assert_eq!(with(Kind::Directory, 0o1777), "drwxrwxrwt");
    }

    #[test]
    fn names_cannot_confuse_a_terminal() {
        assert_eq!(printable(b"C:\\plain"), "C:\\plain");
        assert_eq!(printable("héllo".as_bytes()), "héllo");
        assert_eq!(printable(b"a\nb\x1b[31m\\"), "a\\nb\\x1b[31m\\\\");
        assert_eq!(printable(b"\xff\xc3\xa9"), "\\xffé");
        assert_eq!(printable("a\u{202e}b".as_bytes()), "a\\xe2\\x80\\xaeb");
    }

    #[test]
    fn near_words_are_found() {
        let commands = ["backup", "restore", "ls", "mount", "umount"];
        assert_eq!(nearest("bakcup", commands), Some("backup"));
        assert_eq!(nearest("restor", commands), Some("restore"));
        assert_eq!(nearest("unmount", commands), Some("umount"));
        assert_eq!(nearest("sl", commands), Some("ls"));
        assert_eq!(nearest("frobnicate", commands), None);
    }
}
