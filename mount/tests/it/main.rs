//! Tests of the mount: the filesystem without a kernel, and behind a real one.
//!
//! The tests behind a kernel need `/dev/fuse` and fail without it: a machine that cannot mount has shown nothing.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../../tests/common/http.rs"]
mod client;
mod daemon;
mod fs;
mod http;
mod kernel;
mod model;
mod random;
mod source;
mod store;
mod travel;
mod troubled;
