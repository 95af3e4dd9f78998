//! A directory as a page.
//!
//! It is sent while it is read: directories first, then the rest, by going through the entries twice, so that a crowd
//! of them needs no more memory than a few. Only views, which stand in memory anyway, are sorted. All links are
//! relative: the page works behind any proxy.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, header};
use jiff::tz::TimeZone;
use plakar_engine::meta::Kind;
use plakar_engine::snapshot::Snapshot;

use super::answer::{Body, BodyError, full, set};
use super::entries::{Entries, Entry};
use super::path::{Place, encode};
use super::{About, html};
use crate::error::FsError;
use crate::fs::SnapshotFs;
use crate::view::Target;
use crate::words;

const STYLE: &str = include_str!("page.css");
/// A clock that goes backwards.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 20 20' fill='none' stroke='%231f8f6a' stroke-width='2' stroke-linecap='round'%3E%3Cpath d='M4 4v4h4M4.4 8A6.7 6.7 0 1 1 3.6 12M10 7v3.4l2.4 1.6'/%3E%3C/svg%3E";
/// Nothing is loaded and nothing runs.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Bytes of a page that are sent at once.
const PIECE: usize = 32 << 10;

/// Answers GET and HEAD for a directory; `names` are those of the URL.
pub(super) async fn answer(
    fs: &Arc<SnapshotFs>,
    about: &Arc<About>,
    place: Place,
    names: &[Vec<u8>],
    only_head: bool,
) -> Result<Response<Body>, FsError> {
    // A failure at the beginning is told by the status.
    let entries = Entries::open(fs, place.held().clone()).await?;
    let mut response = Response::new(full(""));
    set(&mut response, header::CONTENT_TYPE, "text/html; charset=utf-8");
    set(&mut response, header::CONTENT_SECURITY_POLICY, POLICY);
    if !only_head {
        let page = Page::new(fs.clone(), about.clone(), place, entries, names);
        *response.body_mut() = page.body();
    }
    Ok(response)
}

/// What is sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// All of a view.
    View,
    Directories,
    Rest,
    Foot,
    /// The connection breaks, after the page has said why.
    Broken(FsError),
    End,
}

/// A page that is being written.
#[derive(Debug)]
struct Page {
    fs: Arc<SnapshotFs>,
    about: Arc<About>,
    place: Place,
    entries: Entries,
    /// Whether it is the root of a whole store.
    is_top: bool,
    zone: TimeZone,
    next: Next,
    out: String,
    directories: u64,
    files: u64,
    others: u64,
    bytes: u64,
}

impl Page {
    fn new(
        fs: Arc<SnapshotFs>,
        about: Arc<About>,
        place: Place,
        entries: Entries,
        names: &[Vec<u8>],
    ) -> Self {
        let is_view = place.attr().volatile;
        let next = if is_view { Next::View } else { Next::Directories };
        let mut page = Self {
            fs,
            about,
            place,
            entries,
            is_top: is_view && names.is_empty(),
            zone: TimeZone::system(),
            next,
            out: String::with_capacity(PIECE + 4096),
            directories: 0,
            files: 0,
            others: 0,
            bytes: 0,
        };
        page.head(names);
        page
    }

    fn body(self) -> Body {
        let pieces = stream::unfold(self, async |mut page| {
            let piece = page.piece().await?;
            Some((piece.map(Frame::data), page))
        });
        StreamBody::new(pieces.boxed()).boxed_unsync()
    }

    /// Writes until there is enough to be sent.
    async fn piece(&mut self) -> Option<Result<Bytes, BodyError>> {
        while self.out.len() < PIECE {
            let written = match self.next {
                Next::View => self.view().await,
                Next::Directories => self.one(|k| k == Kind::Directory, Next::Rest).await,
                Next::Rest => self.one(|k| k != Kind::Directory, Next::Foot).await,
                Next::Foot => {
                    self.foot();
                    self.next = Next::End;
                    Ok(())
                }
                Next::Broken(e) if self.out.is_empty() => {
                    self.next = Next::End;
                    return Some(Err(e.into()));
                }
                Next::Broken(_) | Next::End => break,
            };
            if let Err(e) = written {
                self.out.push_str("<tr class=\"n e\"><td colspan=\"4\">The list breaks off here: ");
                html::escape(&mut self.out, &e.to_string());
                self.out.push_str("</td></tr>\n");
                self.next = Next::Broken(e);
            }
        }
        let sent = Bytes::copy_from_slice(self.out.as_bytes());
        self.out.clear();
        (!sent.is_empty()).then_some(Ok(sent))
    }

    /// Writes one entry, or goes on to what comes after them.
    async fn one(&mut self, wanted: impl Fn(Kind) -> bool, then: Next) -> Result<(), FsError> {
        match self.entries.next(wanted).await? {
            Some(entry) => self.row(&entry, None),
            None => {
                self.next = then;
                if then != Next::Foot {
                    self.entries = Entries::open(&self.fs, self.place.held().clone()).await?;
                }
            }
        }
        Ok(())
    }

    /// Writes a view: `latest` first, names that begin with a time by time, newest first, the others by name.
    async fn view(&mut self) -> Result<(), FsError> {
        let mut entries = Vec::new();
        while let Some(entry) = self.entries.next(|_| true).await? {
            entries.push(entry);
        }
        // They come oldest first: where names say the same moment, that order counts.
        entries.reverse();
        entries.sort_by(|a, b| {
            let others = |e: &Entry| e.name != b"latest";
            let by_name = match (moment(&a.name), moment(&b.name)) {
                (Some(a), Some(b)) => b.cmp(a),
                _ => a.name.cmp(&b.name),
            };
            others(a).cmp(&others(b)).then(by_name)
        });
        let view = self.fs.view();
        for entry in &entries {
            let name = entry.target.as_deref().and_then(|t| t.rsplit(|b| *b == b'/').next());
            let item = view.folder(b"snapshots").and_then(|f| f.item(name.unwrap_or(&entry.name)));
            match item.map(|i| &i.target) {
                Some(Target::Snapshot(snapshot)) => self.row(entry, Some(snapshot)),
                _ => self.row(entry, None),
            }
        }
        self.next = Next::Foot;
        Ok(())
    }

    fn row(&mut self, entry: &Entry, snapshot: Option<&Arc<Snapshot>>) {
        let Entry { name, attr, target } = entry;
        match attr.kind {
            Kind::Directory => self.directories += 1,
            Kind::Regular => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(attr.size);
            }
            _ => self.others += 1,
        }
        let class = match attr.kind {
            _ if snapshot.is_some() => "s",
            Kind::Directory => "d",
            Kind::Symlink => "l",
            Kind::Regular => "",
            _ => "o",
        };
        let outside = target.as_ref().is_some_and(|t| self.place.leaves_by(t));
        let opens = match attr.kind {
            Kind::Directory | Kind::Regular => true,
            Kind::Symlink => !outside,
            _ => false,
        };
        let mut row = String::new();
        row.push_str("<tr");
        if !class.is_empty() {
            row.extend([" class=\"", class, "\""]);
        }
        row.push_str("><td>");
        if opens {
            let slash = if attr.kind == Kind::Directory { "/" } else { "" };
            row.extend(["<a href=\"", &encode(name), slash, "\">"]);
        }
        row.push_str("<bdi>");
        html::name(&mut row, name);
        row.push_str("</bdi>");
        if opens {
            row.push_str("</a>");
        }
        if let (Some(target), None) = (target, snapshot) {
            row.push_str(" <i>→ <bdi>");
            html::name(&mut row, target);
            row.push_str("</bdi></i>");
        }
        if let Some(snapshot) = snapshot {
            about_snapshot(&mut row, snapshot);
        }
        row.push_str("</td>");
        let bytes = match snapshot {
            Some(snapshot) => Some(snapshot.summary().bytes),
            None => (attr.kind == Kind::Regular).then_some(attr.size),
        };
        // A string takes everything.
        let _never_fails = match bytes {
            Some(n) => {
                write!(row, "<td title=\"{}\">{}</td><td>", words::counted(n, "byte"), words::size(n))
            }
            None => write!(row, "<td></td><td>"),
        };
        let time = snapshot.map_or(attr.mtime, |s| crate::view::timestamp(s.time_ns));
        html::time(&mut row, &self.zone, time);
        row.push_str("</td><td>");
        match self.is_top.then(|| what_view(name)).flatten() {
            Some(what) => row.push_str(what),
            None => row.push_str(&what(entry, snapshot.is_some(), outside)),
        }
        row.push_str("</td></tr>\n");
        self.out.push_str(&row);
    }

    fn head(&mut self, names: &[Vec<u8>]) {
        let out = &mut self.out;
        out.push_str("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n");
        out.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>");
        if let Some(last) = names.last() {
            html::name(out, last);
            out.push_str(" – ");
        }
        out.extend(["plakar</title>\n<link rel=\"icon\" href=\"", ICON, "\">\n<style>\n", STYLE, "</style>"]);
        out.push_str("</head>\n<body><header><nav aria-label=\"Path\"><ol>");
        let steps = std::iter::once(&b"plakar"[..]).chain(names.iter().map(Vec::as_slice));
        for (i, name) in steps.enumerate() {
            out.push_str("<li>");
            let here = i == names.len();
            match here {
                true => out.push_str("<span aria-current=\"page\">"),
                false => out.extend(["<a href=\"", &"../".repeat(names.len() - i), "\">"]),
            }
            out.push_str("<bdi>");
            html::name(out, name);
            out.push_str(if here { "</bdi></span></li>" } else { "</bdi></a></li>" });
        }
        out.push_str("</ol></nav></header>\n<main><table><thead><tr><th scope=\"col\">Name</th>");
        out.push_str("<th scope=\"col\">Size</th><th scope=\"col\">Modified</th>");
        out.push_str("<th scope=\"col\">Type</th></tr></thead>\n<tbody>\n");
    }

    fn foot(&mut self) {
        let out = &mut self.out;
        if self.directories + self.files + self.others == 0 {
            out.push_str("<tr class=\"n\"><td colspan=\"4\">Nothing is in here.</td></tr>\n");
        }
        out.push_str("</tbody></table></main>\n<footer><span>");
        if !self.place.attr().volatile {
            out.push_str(&words::counted(self.directories, "folder"));
            out.extend([", ", &words::counted(self.files, "file")]);
            out.extend([" (", &words::size(self.bytes), ")"]);
            if self.others > 0 {
                out.extend([", ", &words::counted(self.others, "other")]);
            }
            out.push_str(" · ");
        }
        let zone = self.zone.iana_name().unwrap_or("this machine");
        out.extend(["times of ", zone, "</span><span>"]);
        out.push_str("<bdi>");
        html::escape(out, &self.about.store);
        out.push_str("</bdi> · ");
        match &self.about.snapshot {
            Some(id) => out.extend(["snapshot ", id]),
            None => {
                let snapshots = self.fs.view().snapshots().len() as u64;
                out.push_str(&words::counted(snapshots, "snapshot"));
            }
        }
        out.push_str(" · read-only</span></footer></body></html>\n");
    }
}

/// The time that a name begins with, if it does: `2026-11-20T22-26-57`.
fn moment(name: &[u8]) -> Option<&[u8]> {
    let form = |(b, form): (&u8, &u8)| if *form == b'0' { b.is_ascii_digit() } else { b == form };
    name.get(..19).filter(|t| t.iter().zip(b"0000-00-00T00-00-00").all(form))
}

/// Where a snapshot is from, and its tags.
fn about_snapshot(row: &mut String, snapshot: &Snapshot) {
    row.push_str("<small><bdi>");
    html::name(row, snapshot.origin.as_bytes());
    row.push_str("</bdi>");
    for root in &snapshot.roots {
        row.push_str(" · <bdi>");
        html::name(row, root);
        row.push_str("</bdi>");
    }
    for tag in &snapshot.tags {
        row.push_str(" <b>");
        html::name(row, tag.as_bytes());
        row.push_str("</b>");
    }
    row.push_str("</small>");
}

/// What a view at the root is for.
fn what_view(name: &[u8]) -> Option<&'static str> {
    Some(match name {
        b"latest" => "The newest snapshot",
        b"snapshots" => "All snapshots, by time",
        b"ids" => "All snapshots, by id",
        b"hosts" => "By the host they are from",
        b"tags" => "By their tags",
        b"sources" => "By the path backed up",
        b"versions" => "Every version of a path",
        b"by-path" => "All that ever was at a path",
        _ => return None,
    })
}

fn what(entry: &Entry, is_snapshot: bool, outside: bool) -> String {
    match entry.attr.kind {
        _ if is_snapshot => "Snapshot".into(),
        Kind::Directory => "Folder".into(),
        Kind::Symlink if outside => "Link, leads outside".into(),
        Kind::Symlink => "Link".into(),
        Kind::Fifo => "Pipe".into(),
        Kind::Socket => "Socket".into(),
        Kind::CharDevice | Kind::BlockDevice => "Device".into(),
        Kind::Regular | Kind::Missing => {
            let kind = mime_guess::from_path(String::from_utf8_lossy(&entry.name).as_ref()).first_raw();
            kind.unwrap_or("File").into()
        }
    }
}
