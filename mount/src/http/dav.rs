//! PROPFIND, by the library `dav-server`, over the filesystem as it wants it.
//!
//! The library reads requests and writes properties. What it does not do is tell a store that fails from a directory
//! that ends: its listings leave out what gives an error. So each request has a place where a failure is kept, and its
//! body breaks when there is one. What it says of files by GET is not used: see `file`.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use dav_server::davpath::DavPath;
use dav_server::fs::{
    DavDirEntry, DavFile, DavFileSystem, DavMetaData, FsError as DavError, FsFuture, FsStream, OpenOptions,
    ReadDirMeta,
};
use dav_server::{DavHandler, DavMethodSet};
use futures::{FutureExt, stream};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::{HeaderMap, Request, Response, StatusCode, header};
use plakar_engine::meta::Kind;

use super::answer::{Body, BodyError, failure, text};
use super::entries::Entries;
use super::file::{etag, modified};
use super::path::{PathError, Place};
use crate::error::FsError;
use crate::fs::{Attr, SnapshotFs};

/// Longest request: the longest of real clients has about 1 KiB.
const LONGEST: usize = 16 << 10;
/// Most tags in a request. The library's parser goes as deep as they do.
const MOST_TAGS: usize = 256;

/// Answers PROPFIND for what a path leads to.
pub(super) async fn propfind(
    fs: &Arc<SnapshotFs>,
    place: Place,
    request: Request<Incoming>,
) -> Response<Body> {
    match depth(request.headers()) {
        Some(0) => {}
        // A listing that fails at once is told by the status.
        Some(1) if place.is_directory() => {
            if let Err(e) = Entries::open(fs, place.held().clone()).await {
                return failure(&e.into());
            }
        }
        Some(1) => {}
        _ => return infinite(),
    }
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, LONGEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return text(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long or broke off"),
    };
    if body.iter().filter(|b| **b == b'<').count() > MOST_TAGS {
        return text(StatusCode::BAD_REQUEST, "the request has too many elements");
    }
    let failed = Failed::default();
    let tree = Tree { fs: fs.clone(), place, failed: failed.clone() };
    let handler = DavHandler::builder()
        .filesystem(Box::new(tree))
        .methods(DavMethodSet::WEBDAV_RO)
        // A link is shown as what it leads to.
        .hide_symlinks(false)
        .build_handler();
    let answer = handler.handle(Request::from_parts(parts, Full::new(body))).await;
    if let Some(e) = failed.0.get() {
        return failure(e);
    }
    answer.map(|body| Breaking { body, failed }.boxed_unsync())
}

fn depth(headers: &HeaderMap) -> Option<u8> {
    match headers.get("depth")?.as_bytes() {
        b"0" => Some(0),
        b"1" => Some(1),
        _ => None,
    }
}

/// Without a depth, or with an endless one: a whole store in one answer helps nobody.
fn infinite() -> Response<Body> {
    let words = "<?xml version=\"1.0\" encoding=\"utf-8\"?><D:error xmlns:D=\"DAV:\"><D:propfind-finite-depth/></D:error>";
    let mut response = text(StatusCode::FORBIDDEN, words);
    super::answer::set(&mut response, header::CONTENT_TYPE, "application/xml; charset=utf-8");
    response
}

/// The first failure of a request.
#[derive(Clone, Debug, Default)]
struct Failed(Arc<OnceLock<PathError>>);

impl Failed {
    /// Keeps a failure; gives what the library is told.
    fn keep(&self, e: PathError) -> DavError {
        let told = match e {
            PathError::Fs(FsError::NotFound | FsError::Stale | FsError::NotDirectory) => DavError::NotFound,
            _ => DavError::GeneralFailure,
        };
        let _the_first_counts = self.0.set(e);
        told
    }
}

/// The filesystem for one request, which has found its place already.
#[derive(Clone, Debug)]
struct Tree {
    fs: Arc<SnapshotFs>,
    place: Place,
    failed: Failed,
}

impl DavFileSystem for Tree {
    fn open<'a>(&'a self, _path: &'a DavPath, _options: OpenOptions) -> FsFuture<'a, Box<dyn DavFile>> {
        std::future::ready(Err(DavError::Forbidden)).boxed()
    }

    fn metadata<'a>(&'a self, _path: &'a DavPath) -> FsFuture<'a, Box<dyn DavMetaData>> {
        std::future::ready(Ok(boxed(self.place.attr()))).boxed()
    }

    fn read_dir<'a>(
        &'a self,
        _path: &'a DavPath,
        _meta: ReadDirMeta,
    ) -> FsFuture<'a, FsStream<Box<dyn DavDirEntry>>> {
        async move {
            let entries = Entries::open(&self.fs, self.place.held().clone()).await;
            let entries = entries.map_err(|e| self.failed.keep(e.into()))?;
            let listed = stream::unfold((entries, self.clone()), async |(mut entries, tree)| {
                let entry = tree.next(&mut entries).await?;
                Some((Ok(Box::new(entry) as Box<dyn DavDirEntry>), (entries, tree)))
            });
            Ok(Box::pin(listed) as FsStream<Box<dyn DavDirEntry>>)
        }
        .boxed()
    }
}

impl Tree {
    /// The next entry that leads somewhere. Links that lead outside, nowhere or round in a circle are left out: whoever
    /// copies a tree by WebDAV could do nothing with them.
    async fn next(&self, entries: &mut Entries) -> Option<Child> {
        loop {
            let entry = match entries.next(|_| true).await {
                Ok(entry) => entry?,
                Err(e) => {
                    self.failed.keep(e.into());
                    return None;
                }
            };
            if entry.attr.kind != Kind::Symlink {
                return Some(Child { name: entry.name, attr: entry.attr });
            }
            let mut place = self.place.clone();
            match place.step(&entry.name).await {
                Ok(()) if !place.goes_round() => {
                    return Some(Child { name: entry.name, attr: *place.attr() });
                }
                Ok(()) | Err(PathError::Outside(_) | PathError::Loop) => {}
                Err(PathError::Fs(FsError::NotFound | FsError::NotDirectory | FsError::NameTooLong)) => {}
                Err(e) => {
                    self.failed.keep(e);
                    return None;
                }
            }
        }
    }
}

/// An entry with what it leads to.
#[derive(Clone, Debug)]
struct Child {
    name: Vec<u8>,
    attr: Attr,
}

impl DavDirEntry for Child {
    fn name(&self) -> Vec<u8> {
        self.name.clone()
    }

    fn metadata(&self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        std::future::ready(Ok(boxed(&self.attr))).boxed()
    }
}

fn boxed(attr: &Attr) -> Box<dyn DavMetaData> {
    Box::new(Properties(*attr))
}

#[derive(Clone, Debug)]
struct Properties(Attr);

impl DavMetaData for Properties {
    fn len(&self) -> u64 {
        self.0.size
    }

    fn modified(&self) -> Result<SystemTime, DavError> {
        modified(&self.0).ok_or(DavError::NotImplemented)
    }

    fn is_dir(&self) -> bool {
        self.0.kind == Kind::Directory
    }

    fn etag(&self) -> Option<String> {
        (self.0.kind == Kind::Regular).then(|| etag(&self.0))
    }

    fn executable(&self) -> Result<bool, DavError> {
        match self.0.kind {
            Kind::Regular => Ok(self.0.mode & 0o111 != 0),
            _ => Err(DavError::NotImplemented),
        }
    }
}

/// A body that breaks instead of ending when something has failed.
struct Breaking {
    body: dav_server::body::Body,
    failed: Failed,
}

impl HttpBody for Breaking {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match (self.failed.0.get(), polled) {
            (_, Poll::Pending) => Poll::Pending,
            (Some(e), Poll::Ready(_)) => Poll::Ready(Some(Err(e.clone().into()))),
            (None, Poll::Ready(frame)) => Poll::Ready(frame.map(|f| f.map_err(BodyError::from))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        HttpBody::size_hint(&self.body)
    }
}
