//! A file over HTTP: whole, in ranges, or not at all because the client has it already.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use headers::{
    ETag, HeaderMapExt, IfMatch, IfModifiedSince, IfNoneMatch, IfRange, IfUnmodifiedSince, LastModified,
};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{HeaderMap, Response, StatusCode, header};

use super::answer::{Body, BodyError, full, set, text};
use super::path::Held;
use super::range::{self, Wanted};
use crate::error::FsError;
use crate::fs::{Attr, SnapshotFs};

/// Bytes that are read at once.
const STEP: u64 = 256 << 10;
/// Reads under way for one client: what is on its way to it, and one more.
const AHEAD: usize = 2;
/// Bytes that tell whether a file without an extension is text.
const TASTE: u32 = 4096;

/// The strong validator of a file: nothing below a snapshot ever changes, so its identity is enough, and size and time
/// are there for what is made by us. What a link leads to tomorrow is another file.
pub(super) fn etag(attr: &Attr) -> String {
    let time = attr.mtime;
    format!("\"{:016x}-{:x}-{:x}.{:x}\"", attr.ino, attr.size, time.sec, time.nsec)
}

/// The time of a file, as far as HTTP can say it: from 1970 to 9999.
pub(super) fn modified(attr: &Attr) -> Option<SystemTime> {
    const YEAR_10000: u64 = 253_402_300_800;
    let seconds = u64::try_from(attr.mtime.sec).ok().filter(|s| *s < YEAR_10000)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Answers GET and HEAD for a regular file.
pub(super) async fn answer(
    fs: &Arc<SnapshotFs>,
    file: Arc<Held>,
    name: &[u8],
    asked: &HeaderMap,
    only_head: bool,
) -> Result<Response<Body>, FsError> {
    let (size, tag, time) = (file.attr.size, etag(&file.attr), modified(&file.attr));
    // Nothing was modified later than now (RFC 9110 §8.8.2).
    let time = time.filter(|t| *t <= SystemTime::now());
    let status = precondition(asked, &tag, time);
    if status == StatusCode::PRECONDITION_FAILED {
        return Ok(text(status, "it is another one than was asked for"));
    }
    let mut response = Response::new(full(""));
    set(&mut response, header::ETAG, &tag);
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    if let Some(time) = time {
        response.headers_mut().typed_insert(LastModified::from(time));
    }
    if status == StatusCode::NOT_MODIFIED {
        *response.status_mut() = status;
        return Ok(response);
    }
    let kind = content_type(fs, &file, name).await?;
    let wanted = if only_head { Wanted::Whole } else { ranges(asked, &tag, time, size) };
    let (parts, length) = match wanted {
        Wanted::Nothing => {
            let mut response =
                text(StatusCode::RANGE_NOT_SATISFIABLE, format_args!("the file has {size} bytes"));
            set(&mut response, header::CONTENT_RANGE, &format!("bytes */{size}"));
            return Ok(response);
        }
        Wanted::Whole => {
            set(&mut response, header::CONTENT_TYPE, &kind);
            (vec![Part::Bytes(0..size)], size)
        }
        Wanted::Parts(ranges) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            match &ranges[..] {
                [one] => {
                    set(&mut response, header::CONTENT_TYPE, &kind);
                    set(&mut response, header::CONTENT_RANGE, &content_range(one, size));
                    (vec![Part::Bytes(one.clone())], one.end - one.start)
                }
                several => {
                    let boundary = boundary();
                    let kind_of_all = format!("multipart/byteranges; boundary={boundary}");
                    set(&mut response, header::CONTENT_TYPE, &kind_of_all);
                    let parts = multipart(several, size, &kind, &boundary);
                    let length = parts.iter().map(Part::len).sum();
                    (parts, length)
                }
            }
        }
    };
    set(&mut response, header::CONTENT_LENGTH, &length.to_string());
    if !only_head {
        *response.body_mut() = body(fs.clone(), file, parts).await?;
    }
    Ok(response)
}

/// 200, 304 or 412, by what the client has (RFC 9110 §13.2.2).
fn precondition(asked: &HeaderMap, tag: &str, time: Option<SystemTime>) -> StatusCode {
    let Ok(tag) = tag.parse::<ETag>() else { return StatusCode::OK };
    let met = match (asked.typed_get::<IfMatch>(), asked.typed_get::<IfUnmodifiedSince>()) {
        (Some(tags), _) => tags.precondition_passes(&tag),
        (None, Some(since)) => time.is_none_or(|t| since.precondition_passes(t)),
        (None, None) => true,
    };
    if !met {
        return StatusCode::PRECONDITION_FAILED;
    }
    let changed = match (asked.typed_get::<IfNoneMatch>(), asked.typed_get::<IfModifiedSince>()) {
        (Some(tags), _) => tags.precondition_passes(&tag),
        (None, Some(since)) => time.is_none_or(|t| since.is_modified(t)),
        (None, None) => true,
    };
    if changed { StatusCode::OK } else { StatusCode::NOT_MODIFIED }
}

/// What is wanted, if the client's beginning is of this file.
fn ranges(asked: &HeaderMap, tag: &str, time: Option<SystemTime>, size: u64) -> Wanted {
    let mut values = asked.get_all(header::RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Wanted::Whole };
    if asked.contains_key(header::IF_RANGE) {
        let (tag, time) = (tag.parse::<ETag>().ok(), time.map(LastModified::from));
        // What cannot be read is not known to be this file.
        let other = asked.typed_get::<IfRange>().is_none_or(|c| c.is_modified(tag.as_ref(), time.as_ref()));
        if other {
            return Wanted::Whole;
        }
    }
    value.to_str().map_or(Wanted::Whole, |v| range::parse(v, size))
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

/// What a file is: by its extension, or if it has none that is known, text if its beginning is.
async fn content_type(fs: &SnapshotFs, file: &Held, name: &[u8]) -> Result<String, FsError> {
    let name = String::from_utf8_lossy(name);
    if let Some(kind) = mime_guess::from_path(&*name).first() {
        let is_text = kind.type_() == "text" && kind.get_param("charset").is_none();
        return Ok(if is_text { format!("{kind}; charset=utf-8") } else { kind.to_string() });
    }
    let beginning = fs.read(file.attr.ino, 0, TASTE).await?.joined();
    Ok(if is_text(&beginning) { "text/plain; charset=utf-8" } else { "application/octet-stream" }.into())
}

fn is_text(bytes: &[u8]) -> bool {
    let whole = match std::str::from_utf8(bytes) {
        Ok(_) => bytes,
        // A character may be cut at the end.
        Err(e) if e.error_len().is_none() => &bytes[..e.valid_up_to()],
        Err(_) => return false,
    };
    whole.iter().all(|b| !b.is_ascii_control() || b"\t\n\r\x0c\x1b".contains(b))
}

/// A part of a body.
#[derive(Clone, Debug)]
enum Part {
    /// These words.
    Words(Bytes),
    /// These bytes of the file.
    Bytes(Range<u64>),
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Words(words) => words.len() as u64,
            Self::Bytes(range) => range.end - range.start,
        }
    }

    /// Cuts it to what is read at once.
    fn steps(self) -> impl Iterator<Item = Self> {
        let (words, range) = match self {
            Self::Words(words) => (Some(Self::Words(words)), 0..0),
            Self::Bytes(range) => (None, range),
        };
        let (starts, end) = (range.clone().step_by(STEP as usize), range.end);
        words.into_iter().chain(starts.map(move |at| Self::Bytes(at..end.min(at + STEP))))
    }
}

/// Several ranges in one body (RFC 9110 §14.6).
fn multipart(ranges: &[Range<u64>], size: u64, kind: &str, boundary: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    for (i, range) in ranges.iter().enumerate() {
        let lead = if i == 0 { "" } else { "\r\n" };
        let range_of = content_range(range, size);
        let words =
            format!("{lead}--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {range_of}\r\n\r\n");
        parts.extend([Part::Words(words.into()), Part::Bytes(range.clone())]);
    }
    parts.push(Part::Words(format!("\r\n--{boundary}--\r\n").into()));
    parts
}

/// A line that no file holds: nobody could know it when the file was written.
fn boundary() -> String {
    let random = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}", random(), random())
}

/// Reads the parts as the client takes them, and no further than a step ahead. The first bytes are read before this
/// returns: a store that does not answer is told by the status. Later failures break the connection.
async fn body(fs: Arc<SnapshotFs>, file: Arc<Held>, parts: Vec<Part>) -> Result<Body, FsError> {
    let read = move |part: Part| {
        let (fs, file) = (fs.clone(), file.clone());
        async move {
            let range = match part {
                Part::Words(words) => return Ok(words),
                Part::Bytes(range) => range,
            };
            let wanted = range.end - range.start;
            let bytes = fs.read(file.attr.ino, range.start, wanted as u32).await?;
            if bytes.len() as u64 == wanted { Ok(bytes.joined()) } else { Err(FsError::Failed) }
        }
    };
    let mut steps = stream::iter(parts.into_iter().flat_map(Part::steps)).map(read).buffered(AHEAD).boxed();
    let mut first = Vec::new();
    // Of several ranges the first step is words.
    for _ in 0..AHEAD {
        match steps.next().await {
            Some(step) => first.push(step?),
            None => break,
        }
    }
    let steps = stream::iter(first).map(Ok).chain(steps);
    Ok(StreamBody::new(steps.map_ok(Frame::data).map_err(BodyError::from)).boxed_unsync())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap_or_else(|_| unreachable!("{value}")));
        }
        headers
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        let time = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let (then, before) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:36 GMT");
        for (pairs, wanted) in [
            (&[][..], 200),
            (&[("if-none-match", "\"a\"")], 304),
            (&[("if-none-match", "W/\"a\"")], 304),
            (&[("if-none-match", "\"x\", \"a\"")], 304),
            (&[("if-none-match", "*")], 304),
            (&[("if-none-match", "\"b\"")], 200),
            (&[("if-modified-since", then)], 304),
            (&[("if-modified-since", before)], 200),
            (&[("if-modified-since", "yesterday")], 200),
            // The tag decides where there is one.
            (&[("if-none-match", "\"b\""), ("if-modified-since", then)], 200),
            (&[("if-match", "\"a\"")], 200),
            (&[("if-match", "\"b\"")], 412),
            (&[("if-match", "W/\"a\"")], 412),
            (&[("if-unmodified-since", then)], 200),
            (&[("if-unmodified-since", before)], 412),
        ] {
            assert_eq!(precondition(&asks(pairs), "\"a\"", Some(time)).as_u16(), wanted, "{pairs:?}");
        }
        assert_eq!(precondition(&asks(&[("if-modified-since", then)]), "\"a\"", None), StatusCode::OK);
    }

    #[test]
    fn a_range_counts_only_if_the_client_has_this_file() {
        let part = Wanted::Parts(vec![Range { start: 1, end: 3 }]);
        let of =
            |condition| ranges(&asks(&[("range", "bytes=1-2"), ("if-range", condition)]), "\"a\"", None, 9);
        assert_eq!(of("\"a\""), part);
        for other in ["\"b\"", "W/\"a\"", "nonsense", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            assert_eq!(of(other), Wanted::Whole, "{other}");
        }
    }

    #[test]
    fn text_is_known_by_its_beginning() {
        assert!(is_text(b"") && is_text("Grüße\n".as_bytes()) && is_text(&"ü".as_bytes()[..1]));
        assert!(!is_text(b"\x7fELF\0") && !is_text(b"\xff\xfe") && !is_text(b"a\xc3b"));
    }

    #[test]
    fn times_that_http_cannot_say_are_left_out() {
        use plakar_engine::meta::{Kind, Timestamp};
        let mut attr = Attr {
            ino: 2,
            kind: Kind::Regular,
            mode: 0,
            uid: 0,
            gid: 0,
            links: 1,
            size: 0,
            blocks: 0,
            rdev: (0, 0),
            mtime: Timestamp::default(),
            volatile: false,
        };
        for (sec, said) in [
            (0, true),
            (1 << 30, true),
            (-1, false),
            (1 << 37, true),
            (253_402_300_799, true),
            (253_402_300_800, false),
            (i64::MIN, false),
            (i64::MAX, false),
        ] {
            attr.mtime = Timestamp { sec, nsec: 0 };
            assert_eq!(modified(&attr).is_some(), said, "{sec}");
        }
    }
}
