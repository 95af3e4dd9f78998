//! A directory as a page.
//!
//! It is sent while it is read: directories first, then the rest, by going through the entries twice, so that a crowd
//! of them needs no more memory than a few. Only views, which stand in memory anyway, are sorted. All links are
//! relative: the page works behind any proxy.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, header};
use jiff::tz::TimeZone;
use maud::{DOCTYPE, Markup, PreEscaped, Render, html};
use plakar_engine::meta::Kind;
use plakar_engine::snapshot::Snapshot;

use super::About;
use super::answer::{Body, BodyError, full, set};
use super::entries::{Entries, Entry};
use super::html::{Name, Time, shown};
use super::path::{Place, encode};
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
                let row = html! { tr.n.e { td colspan="4" { "The list breaks off here: " (e) } } };
                row.render_to(&mut self.out);
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
        let slash = if attr.kind == Kind::Directory { "/" } else { "" };
        let bytes = match snapshot {
            Some(snapshot) => Some(snapshot.summary().bytes),
            None => (attr.kind == Kind::Regular).then_some(attr.size),
        };
        let time = snapshot.map_or(attr.mtime, |s| crate::view::timestamp(s.time_ns));
        let row = html! {
            tr class=[(!class.is_empty()).then_some(class)] {
                td {
                    @match opens {
                        true => a href={ (encode(name)) (slash) } { (Name(name)) },
                        false => (Name(name)),
                    }
                    @match (snapshot, target) {
                        (Some(snapshot), _) => (about_snapshot(snapshot)),
                        (None, Some(target)) => { " " i { "→ " (Name(target)) } },
                        (None, None) => {},
                    }
                }
                @match bytes {
                    Some(n) => td title=(words::counted(n, "byte")) { (words::size(n)) },
                    None => td {},
                }
                td { (Time(time, &self.zone)) }
                td {
                    @match self.is_top.then(|| what_view(name)).flatten() {
                        Some(what) => (what),
                        None => (what(entry, snapshot.is_some(), outside)),
                    }
                }
            }
        };
        row.render_to(&mut self.out);
        self.out.push('\n');
    }

    /// Writes all that comes before the rows; the table stays open.
    fn head(&mut self, names: &[Vec<u8>]) {
        let head = html! {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title {
                    @if let Some(last) = names.last() { (shown(last)) " – " }
                    "plakar"
                }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
        };
        let path = html! {
            header { nav aria-label="Path" { ol {
                @for (i, name) in std::iter::once(&b"plakar"[..]).chain(names.iter().map(Vec::as_slice)).enumerate() {
                    li {
                        @match names.len() - i {
                            0 => span aria-current="page" { (Name(name)) },
                            up => a href=("../".repeat(up)) { (Name(name)) },
                        }
                    }
                }
            } } }
        };
        let columns = html! {
            thead { tr {
                @for column in ["Name", "Size", "Modified", "Type"] { th scope="col" { (column) } }
            } }
        };
        let parts =
            [DOCTYPE.0, "<html lang=\"en\">\n", &head.0, "\n<body>", &path.0, "\n<main><table>", &columns.0];
        self.out.extend(parts);
        self.out.push_str("\n<tbody>\n");
    }

    fn foot(&mut self) {
        if self.directories + self.files + self.others == 0 {
            html! { tr.n { td colspan="4" { "Nothing is in here." } } }.render_to(&mut self.out);
        }
        let zone = self.zone.iana_name().unwrap_or("this machine");
        let foot = html! {
            footer {
                span {
                    @if !self.place.attr().volatile {
                        (words::counted(self.directories, "folder")) ", " (words::counted(self.files, "file"))
                        " (" (words::size(self.bytes)) ")"
                        @if self.others > 0 { ", " (words::counted(self.others, "other")) }
                        " · "
                    }
                    "times of " (zone)
                }
                span {
                    bdi { (self.about.store) } " · "
                    @match &self.about.snapshot {
                        Some(id) => { "snapshot " (id) },
                        None => (words::counted(self.fs.view().snapshots().len() as u64, "snapshot")),
                    }
                    " · read-only"
                }
            }
        };
        self.out.extend(["</tbody></table></main>\n", &foot.0, "</body></html>\n"]);
    }
}

/// The time that a name begins with, if it does: `2026-11-20T22-26-57`.
fn moment(name: &[u8]) -> Option<&[u8]> {
    let form = |(b, form): (&u8, &u8)| if *form == b'0' { b.is_ascii_digit() } else { b == form };
    name.get(..19).filter(|t| t.iter().zip(b"0000-00-00T00-00-00").all(form))
}

/// Where a snapshot is from, and its tags.
fn about_snapshot(snapshot: &Snapshot) -> Markup {
    html! {
        small {
            (Name(snapshot.origin.as_bytes()))
            @for root in &snapshot.roots { " · " (Name(root)) }
            @for tag in &snapshot.tags { " " b { (shown(tag.as_bytes())) } }
        }
    }
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
