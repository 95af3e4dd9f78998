//! What may stand behind `@` in a name: which snapshot is meant.
//!
//! `latest` · `latest~2`, two before it · a point in time (`engine/src/moment.rs`) · a snapshot's directory name or the
//! beginning of its id. Times are local, as the names of snapshots' directories are, and mean the end of what they name:
//! `@2026-01-01` is how things were when that day was over.

use jiff::Zoned;
use plakar_engine::moment;

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
    if let Ok(period) = moment::parse(text, now) {
        return Some(Moment::Before(period.end_ns));
    }
    // `2026-11-20T22-26-57_cb5d5c65`: the id decides.
    let id = text.rsplit_once('_').map_or(text, |(_, id)| id);
    let is_id = (4..=64).contains(&id.len()) && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then(|| Moment::Id(id.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        // A Friday.
        "2026-11-20T15:30:00+01:00[Europe/Paris]".parse().unwrap()
    }

    #[test]
    fn times_mean_the_end_of_what_they_name() {
        let before = |text: &str| match parse(text, &now()) {
            Some(Moment::Before(ns)) => jiff::Timestamp::from_nanosecond(ns.into()).unwrap().to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(before("2026-01-01"), "2026-01-01T23:00:00Z");
        assert_eq!(before("2026-01-01T12:30:15Z"), "2026-01-01T12:30:16Z");
        assert_eq!(before("2h30m"), "2026-11-20T12:00:00Z");
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
