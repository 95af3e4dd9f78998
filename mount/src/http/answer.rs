//! Responses: their bodies, the headers that all of them have, and what is said of a failure.

use std::error::Error;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::access::Denied;
use super::path::PathError;
use crate::error::FsError;

/// What ends a body too early: the connection breaks, so that nobody takes a part for the whole.
pub(super) type BodyError = Box<dyn Error + Send + Sync>;
/// Bytes of a response, as they come.
pub(super) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// What can be asked.
pub(super) const METHODS: &str = "OPTIONS, GET, HEAD, PROPFIND";

/// What a browser may do with a file. It may be any page of anybody: it runs no script, sends no form, opens nothing,
/// and loads only from here.
const FILE_POLICY: &str = "sandbox allow-same-origin; default-src 'self' data: 'unsafe-inline'; script-src 'none'; form-action 'none'";

/// A body that is there already.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A response of text.
pub(super) fn text(status: StatusCode, words: impl std::fmt::Display) -> Response<Body> {
    let mut response = Response::new(full(format!("{words}\n")));
    *response.status_mut() = status;
    set(&mut response, header::CONTENT_TYPE, "text/plain; charset=utf-8");
    response
}

/// Sets a header to text that is known to be fit for one; anything else leaves it out.
pub(super) fn set<B>(response: &mut Response<B>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Adds what every response says.
pub(super) fn finish(mut response: Response<Body>) -> Response<Body> {
    const FOR_ALL: [(HeaderName, &str); 4] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // No page from elsewhere shows or runs what is here.
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        // `latest` leads elsewhere tomorrow: ask again each time, which an ETag makes cheap.
        (header::CACHE_CONTROL, "private, no-cache"),
    ];
    for (name, value) in FOR_ALL {
        set(&mut response, name, value);
    }
    if !response.headers().contains_key(header::CONTENT_SECURITY_POLICY) {
        set(&mut response, header::CONTENT_SECURITY_POLICY, FILE_POLICY);
    }
    response
}

/// What is said to somebody who may not ask.
pub(super) fn denied(why: &Denied) -> Response<Body> {
    match why {
        Denied::Token => {
            let mut response = text(
                StatusCode::UNAUTHORIZED,
                "a token is needed: as the password, with any user name, or as `Authorization: Bearer TOKEN`",
            );
            set(&mut response, header::WWW_AUTHENTICATE, "Basic realm=\"plakar\", charset=\"UTF-8\"");
            response
        }
        Denied::Host => text(
            StatusCode::MISDIRECTED_REQUEST,
            "this server is meant for its own machine: ask for it as localhost or 127.0.0.1 with its port, or start it with a token",
        ),
    }
}

/// What is said to somebody who wants to change something.
pub(super) fn read_only() -> Response<Body> {
    let words = format!("snapshots are read-only; what can be asked is {METHODS}");
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, words);
    set(&mut response, header::ALLOW, METHODS);
    response
}

/// What is said of a failure. That a store failed is never told as "not found".
pub(super) fn failure(e: &PathError) -> Response<Body> {
    let status = match e {
        PathError::Malformed(_) => StatusCode::BAD_REQUEST,
        PathError::Outside(_) => StatusCode::FORBIDDEN,
        PathError::Loop => StatusCode::LOOP_DETECTED,
        PathError::Fs(e) => match e {
            FsError::NotFound | FsError::Stale | FsError::NotDirectory => StatusCode::NOT_FOUND,
            FsError::NameTooLong => StatusCode::URI_TOO_LONG,
            FsError::ReadOnly => StatusCode::METHOD_NOT_ALLOWED,
            FsError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            FsError::Failed => StatusCode::BAD_GATEWAY,
            FsError::IsDirectory
            | FsError::Invalid
            | FsError::NoAttribute
            | FsError::NoData
            | FsError::TooSmall
            | FsError::Unsupported => StatusCode::INTERNAL_SERVER_ERROR,
        },
    };
    match e {
        PathError::Fs(FsError::Failed) => text(
            status,
            "the store failed, or what it gave is damaged, or this could not be read when it was backed up; what `plakar mount` logged says more",
        ),
        e => text(status, e),
    }
}
