//! Which bytes of a file a `Range` header asks for (RFC 9110 §14).

use std::ops::Range;

/// More parts than any honest reader asks for: small ones would cost more than the file.
const MOST: usize = 32;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it: no range was given, or none that makes sense.
    Whole,
    /// These parts, none of them empty, in the order they were asked for; together no more than the file.
    Parts(Vec<Range<u64>>),
    /// Only what lies behind the end.
    Nothing,
}

/// Reads the value of a header for a file of `size` bytes.
pub(super) fn parse(value: &str, size: u64) -> Wanted {
    let Some((unit, specs)) = value.split_once('=') else { return Wanted::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let mut parts = Vec::new();
    for spec in specs.split(',').map(str::trim).filter(|s| !s.is_empty()) {
        let Some(range) = part(spec, size) else { return Wanted::Whole };
        if range.start < range.end {
            parts.push(range);
        }
    }
    let bytes = parts.iter().fold(0_u64, |n, r| n.saturating_add(r.end - r.start));
    match parts.len() {
        0 if specs.trim_matches([' ', ',', '\t']).is_empty() => Wanted::Whole,
        0 => Wanted::Nothing,
        n if n > MOST || bytes > size => Wanted::Whole,
        _ => Wanted::Parts(parts),
    }
}

/// One range, cut to the file; `None` if it is none.
fn part(spec: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let count = number(last)?;
        return Some(size.saturating_sub(count)..size);
    }
    let first = number(first)?;
    if last.is_empty() {
        return Some(first.min(size)..size);
    }
    let last = number(last)?;
    (first <= last).then(|| first.min(size)..last.saturating_add(1).min(size))
}

/// Digits only; what is too large for a number lies behind every end.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(value: &str, size: u64) -> Vec<Range<u64>> {
        match parse(value, size) {
            Wanted::Parts(parts) => parts,
            other => unreachable!("{value}: {other:?}"),
        }
    }

    #[test]
    fn ranges_are_cut_to_the_file() {
        for (value, wanted) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-", 0..100),
            ("Bytes = 7-9", 7..10),
            ("bytes=99-", 99..100),
            ("bytes=50-1000", 50..100),
            ("bytes=50-99999999999999999999999", 50..100),
            ("bytes=-1", 99..100),
            ("bytes=-100", 0..100),
            ("bytes=-1000", 0..100),
        ] {
            assert_eq!(parts(value, 100), [wanted], "{value}");
        }
        assert_eq!(parts("bytes=5-9, 1-2 ,-3", 100), [5..10, 1..3, 97..100]);
        assert_eq!(parts("bytes=200-300,1-1", 100), [Range { start: 1, end: 2 }]);
    }

    #[test]
    fn what_lies_behind_the_end_is_nothing() {
        for value in
            ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999-", "bytes=100-,200-"]
        {
            assert_eq!(parse(value, 100), Wanted::Nothing, "{value}");
        }
        assert_eq!(parse("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(parse("bytes=-5", 0), Wanted::Nothing);
    }

    #[test]
    fn what_makes_no_sense_or_would_cost_more_than_the_file_is_all_of_it() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=2-1",
            "bytes=+1-2",
            "lines=1-2",
            "bytes=1-2-3",
            "bytes=0-,0-",
            "bytes=1-2,x",
        ] {
            assert_eq!(parse(value, 100), Wanted::Whole, "{value}");
        }
        assert_eq!(parse(&format!("bytes={}", "0-0,".repeat(MOST + 1)), 100), Wanted::Whole);
    }
}
