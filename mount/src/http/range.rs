//! Which bytes of a file a `Range` header asks for (RFC 9110 §14).

use std::num::NonZeroUsize;
use std::ops::Range;

use http_range_header::{RangeUnsatisfiableError, parse_range_header_with_max_ranges};

/// More parts than any honest reader asks for: small ones would cost more than the file.
const MOST: NonZeroUsize = NonZeroUsize::new(32).unwrap();

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
    let Ok(ranges) = parse_range_header_with_max_ranges(value, MOST) else { return Wanted::Whole };
    let parts: Vec<Range<u64>> = match ranges.validate(size) {
        Ok(ranges) => ranges.into_iter().map(|r| *r.start()..r.end().saturating_add(1)).collect(),
        Err(RangeUnsatisfiableError::Unsatisfiable) => return Wanted::Nothing,
        Err(_) => return Wanted::Whole,
    };
    let bytes = parts.iter().fold(0_u64, |n, r| n.saturating_add(r.end - r.start));
    match parts.len() {
        0 => Wanted::Nothing,
        _ if bytes > size => Wanted::Whole,
        _ => Wanted::Parts(parts),
    }
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
            ("Bytes= 7-9", 7..10),
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
        assert_eq!(parse(&format!("bytes={}", "0-0,".repeat(MOST.get() + 1)), 100), Wanted::Whole);
    }
}
