//! Operations on a repository, each with its options and its report: what the command line, and later others, call.

pub mod backup;
pub mod check;
mod gather;
pub mod maintenance;
mod reach;
pub mod restore;
pub mod sync;
