//! What is left out: gitignore patterns, and the store itself.
//!
//! A pattern with a slash in it belongs to a place: it fits from `/`, and from each of the places that are backed up.

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
    pub(super) fn new(patterns: &[String], roots: &[Vec<u8>], store: Option<&Path>) -> Result<Self> {
        let mut builder = GitignoreBuilder::new("/");
        for pattern in patterns {
            let in_roots = roots.iter().filter_map(|root| anchored_at(pattern, root));
            for line in std::iter::once(pattern.clone()).chain(in_roots) {
                builder
                    .add_line(None, &line)
                    .map_err(|e| Error::Usage(format!("the ignore pattern {pattern:?} is not valid: {e}")))?;
            }
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

/// A gitignore pattern that belongs to a place, for a directory as that place; `None` for one that fits anywhere, and where
/// the directory's name is no text.
pub fn anchored_at(pattern: &str, directory: &[u8]) -> Option<String> {
    let (not, body) = pattern.strip_prefix('!').map_or(("", pattern), |body| ("!", body));
    let is_anchored = body.trim_end_matches('/').contains('/') && !body.starts_with("**/");
    if !is_anchored || pattern.starts_with('#') {
        return None;
    }
    let directory = std::str::from_utf8(directory).ok()?;
    let mut line = not.to_owned();
    for c in directory.trim_end_matches('/').chars() {
        if matches!(c, '\\' | '*' | '?' | '[' | ']' | '{' | '}') {
            line.push('\\');
        }
        line.push(c);
    }
    line.push('/');
    line.push_str(body.trim_start_matches('/'));
    Some(line)
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
        let x = Excludes::new(&patterns, &[], Some(Path::new("/nonexistent/store"))).unwrap();
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
    fn patterns_of_a_place_fit_from_the_root_and_from_what_is_backed_up() {
        let patterns = ["/name", "b/**", "c/keep.log", "!/name/not", "*.o", "d/"].map(String::from);
        let roots = [b"/home/me [1]".to_vec(), b"/srv".to_vec()];
        let x = Excludes::new(&patterns, &roots, None).unwrap();
        for (path, directory, is_out) in [
            ("/name", false, true),
            ("/home/me [1]/name", false, true),
            ("/home/me 1/name", false, false),
            ("/srv/name", false, true),
            ("/srv/x/name", false, false),
            ("/srv/b/x", false, true),
            ("/srv/b", true, false),
            ("/srv/c/keep.log", false, true),
            ("/srv/x/c/keep.log", false, false),
            ("/srv/name/not", false, false),
            ("/srv/x/y.o", false, true),
            ("/srv/x/d", true, true),
        ] {
            assert_eq!(x.excludes(path.as_bytes(), directory), is_out, "{path}");
        }
        assert_eq!(anchored_at("!/a/b", b"/r*/"), Some("!/r\\*/a/b".into()));
        assert_eq!(anchored_at("a", b"/r"), None);
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let e = Excludes::new(&["a[z-a]".into()], &[], None).unwrap_err();
        assert!(e.to_string().contains("a[z-a]"));
    }
}
