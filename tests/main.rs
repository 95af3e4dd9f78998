//! Tests of the whole: the installed binary as a user runs it, real kernel mounts, the packages' layering.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod caches;
mod changes;
mod common;
mod concurrent;
mod daemon;
mod damage;
mod differential;
mod errors;
mod flags;
mod forgotten;
mod frozen;
mod hostile;
mod inject;
mod interrupted;
mod layering;
mod maintenance;
mod manual;
mod matrix;
mod mounted;
mod named;
mod output;
mod posix;
mod ptar;
mod retention;
mod roundtrip;
mod served;
mod shapes;
mod surroundings;
mod sync;
