//! What the tests stand on: a place of their own with the program in it, mounts that end with the test, trees that hold
//! everything a file system can, and a comparison that overlooks nothing.

pub(crate) mod compare;
pub(crate) mod directory;
pub(crate) mod fault;
pub(crate) mod harm;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod made;
pub(crate) mod mount;
pub(crate) mod sandbox;
pub(crate) mod thorough;
pub(crate) mod torture;

pub(crate) use compare::{ALL, Compare};
pub(crate) use directory::Directory;
pub(crate) use mount::MountGuard;
pub(crate) use sandbox::{Outcome, Sandbox, SmallDisk, copy_tree, hex_id, noise};
