//! What is left out: gitignore patterns against absolute paths, and the store itself.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::error::{Error, Result};

/// Rules for leaving out.
#[derive(Debug)]
pub(super) struct Excludes {
    patterns: Option<Gitignore>,
    store: Option<PathBuf>,
}

impl Excludes {
    /// Compiles patterns; later ones overrule earlier ones.
    ///
    /// # Errors
    /// A pattern that is not valid, named.
    pub(super) fn new(patterns: &[String], store: Option<&Path>) -> Result<Self> {
        let mut builder = GitignoreBuilder::new("/");
        for pattern in patterns {
            builder
                .add_line(None, pattern)
                .map_err(|e| Error::Usage(format!("the ignore pattern {pattern:?} is not valid: {e}")))?;
        }
        let patterns = builder.build().map_err(|e| Error::Usage(format!("ignore patterns: {e}")))?;
        let store = store.map(|s| s.canonicalize().unwrap_or_else(|_e| s.to_owned()));
        Ok(Self { patterns: (!patterns.is_empty()).then_some(patterns), store })
    }

    /// Whether a path is left out, and everything below it.
    pub(super) fn excludes(&self, path: &[u8], directory: bool) -> bool {
        let path = as_path(path);
        if directory && self.store.as_deref() == Some(&path) {
            return true;
        }
        self.patterns.as_ref().is_some_and(|p| p.matched(&path, directory).is_ignore())
    }
}

#[cfg(unix)]
fn as_path(bytes: &[u8]) -> std::borrow::Cow<'_, Path> {
    let text: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(bytes);
    std::borrow::Cow::Borrowed(Path::new(text))
}

#[cfg(not(unix))]
fn as_path(bytes: &[u8]) -> std::borrow::Cow<'_, Path> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    std::borrow::Cow::Owned(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_follow_gitignore() {
        let patterns = ["*.o", "!keep.o", "/srv/data/tmp/", "cache/"].map(String::from);
        let x = Excludes::new(&patterns, Some(Path::new("/nonexistent/store"))).unwrap();
        assert!(x.excludes(b"/a/b.o", false));
        assert!(!x.excludes(b"/a/keep.o", false));
        assert!(x.excludes(b"/srv/data/tmp", true));
        assert!(!x.excludes(b"/srv/data/tmp", false), "a trailing slash means directories");
        assert!(!x.excludes(b"/other/srv/data/tmp", true), "a leading slash anchors");
        assert!(x.excludes(b"/x/y/cache", true));
        assert!(x.excludes(b"/nonexistent/store", true));
        assert!(x.excludes(b"/odd\xff.o", false));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let e = Excludes::new(&["a[z-a]".into()], None).unwrap_err();
        assert!(e.to_string().contains("a[z-a]"));
    }
}
