//! What is left out: gitignore patterns, and the store itself.
//!
//! A pattern with a slash in it belongs to a place: it fits from `/`, and from each of the places that are backed up.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::error::{Error, Result};

/// A gitignore pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pattern {
    /// As it was written.
    pub text: String,
    /// The folder of the file that it stands in, from which it fits too.
    pub folder: Option<Vec<u8>>,
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self { text: text.into(), folder: None }
    }
}

/// Rules for leaving out.
#[derive(Debug)]
pub(super) struct Excludes {
    rules: Option<Gitignore>,
    patterns: Vec<Pattern>,
    /// Of each pattern, whether it decided about anything.
    decided: Vec<AtomicBool>,
    roots: Vec<Vec<u8>>,
    store: Option<PathBuf>,
}

/// Why something is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why<'a> {
    /// It is the store.
    Store,
    /// A pattern fits it.
    Pattern(&'a str),
}

impl Excludes {
    /// Compiles patterns; later ones overrule earlier ones.
    ///
    /// # Errors
    /// A pattern that is not valid, named.
    pub(super) fn new(patterns: &[Pattern], roots: &[Vec<u8>], store: Option<&Path>) -> Result<Self> {
        let mut builder = GitignoreBuilder::new("/");
        for (number, Pattern { text, folder }) in patterns.iter().enumerate() {
            let places = folder.iter().chain(roots);
            let lines = places.filter_map(|place| anchored_at(text, place));
            for line in std::iter::once(text.clone()).chain(lines) {
                // What fits is asked for where it came from.
                builder
                    .add_line(Some(number.to_string().into()), &line)
                    .map_err(|e| Error::Usage(format!("the ignore pattern {text:?} is not valid: {e}")))?;
            }
        }
        let rules = builder.build().map_err(|e| Error::Usage(format!("ignore patterns: {e}")))?;
        let store = store.map(|s| s.canonicalize().unwrap_or_else(|_e| s.to_owned()));
        Ok(Self {
            rules: (!rules.is_empty()).then_some(rules),
            decided: patterns.iter().map(|_| AtomicBool::new(false)).collect(),
            patterns: patterns.to_vec(),
            roots: roots.to_vec(),
            store,
        })
    }

    /// Whether a path is left out, and everything below it.
    pub(super) fn excludes(&self, path: &[u8], directory: bool) -> bool {
        self.why(path, directory).is_some()
    }

    /// Why a path is left out; `None` if it is not.
    pub(super) fn why(&self, path: &[u8], directory: bool) -> Option<Why<'_>> {
        let path = as_path(path);
        if directory && self.store.as_deref() == Some(&path) {
            return Some(Why::Store);
        }
        let matched = self.rules.as_ref()?.matched(&path, directory);
        let number: usize = matched.inner()?.from()?.to_str()?.parse().ok()?;
        self.decided.get(number)?.store(true, Ordering::Relaxed);
        matched.is_ignore().then(|| Why::Pattern(&self.patterns[number].text))
    }

    /// The patterns that decided about nothing so far, each with the likely cause.
    pub(super) fn without_effect(&self) -> Vec<(String, Option<&'static str>)> {
        let idle = self.patterns.iter().zip(&self.decided).filter(|(_, d)| !d.load(Ordering::Relaxed));
        idle.map(|(p, _)| (p.text.clone(), likely_cause(&p.text, &self.roots))).collect()
    }
}

/// Why a pattern may have fitted nothing, and what to do; `None` if there is nothing with such a name, as far as is known.
fn likely_cause(pattern: &str, roots: &[Vec<u8>]) -> Option<&'static str> {
    let body = pattern.strip_prefix('!').unwrap_or(pattern);
    let is_quoted = |c| body.len() > 1 && body.starts_with(c) && body.ends_with(c);
    let is_below = |root: &Vec<u8>| root.starts_with(body.as_bytes()) || body.as_bytes().starts_with(root);
    let is_windows = |i: usize| body.as_bytes().get(i + 1).is_some_and(u8::is_ascii_alphanumeric);
    if body.starts_with("./") || body.starts_with("../") {
        Some("begin it with / or with a name: it is no path from the current directory")
    } else if body.starts_with('~') {
        Some("write the directory out: ~ is the shell's")
    } else if is_quoted('"') || is_quoted('\'') {
        Some("take the quotes away: they are part of the pattern")
    } else if body.match_indices('\\').any(|(i, _)| is_windows(i)) {
        Some("separate directories by /: \\ only takes the meaning from a character")
    } else if body.ends_with(char::is_whitespace) || body.starts_with(char::is_whitespace) {
        Some("take the blanks away: they are part of the pattern")
    } else if pattern.starts_with('!') {
        Some(
            "nothing that it would keep was left out; what lies in a directory that is left out cannot be kept",
        )
    } else if body.matches('/').count() > 1 && body.starts_with('/') && !roots.iter().any(is_below) {
        Some("a path has its symlinks resolved, and begins at / or at what is backed up")
    } else if body.ends_with('/') {
        Some("with a slash at the end it fits directories only")
    } else {
        None
    }
}

/// A gitignore pattern that belongs to a place, for a directory as that place; `None` for one that fits anywhere, and where
/// the directory's name is no text.
fn anchored_at(pattern: &str, directory: &[u8]) -> Option<String> {
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
        let patterns = ["*.o", "!keep.o", "/srv/data/tmp/", "cache/"].map(Pattern::from);
        let x = Excludes::new(&patterns, &[], Some(Path::new("/nonexistent/store"))).unwrap();
        assert!(x.excludes(b"/a/b.o", false));
        assert!(!x.excludes(b"/a/keep.o", false));
        assert!(x.excludes(b"/srv/data/tmp", true));
        assert!(!x.excludes(b"/srv/data/tmp", false), "a trailing slash means directories");
        assert!(!x.excludes(b"/other/srv/data/tmp", true), "a leading slash anchors");
        assert!(x.excludes(b"/x/y/cache", true));
        assert!(x.excludes(b"/nonexistent/store", true));
        assert!(x.excludes(b"/odd\xff.o", false));
        assert_eq!(x.why(b"/a/b.o", false), Some(Why::Pattern("*.o")));
        assert_eq!(x.without_effect(), []);
    }

    #[test]
    fn patterns_of_a_place_fit_from_the_root_and_from_what_is_backed_up() {
        let patterns = ["/name", "b/**", "c/keep.log", "!/name/not", "*.o", "d/"].map(Pattern::from);
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
    fn patterns_without_effect_are_told_with_the_likely_cause() {
        let in_file = Pattern { text: "/mine".into(), folder: Some(b"/srv/deep".to_vec()) };
        let texts = ["*.o", "./a", "~/b", "\"c\"", "d\\e", "!f", "/var/log/x", "g/", "h", "/srv/i"];
        let patterns: Vec<Pattern> = texts.map(Pattern::from).into_iter().chain([in_file]).collect();
        let x = Excludes::new(&patterns, &[b"/srv".to_vec()], None).unwrap();
        assert!(x.excludes(b"/srv/deep/mine", false) && x.excludes(b"/srv/a.o", false));
        let idle = x.without_effect();
        let names: Vec<&str> = idle.iter().map(|(p, _)| p.as_str()).collect();
        assert_eq!(names, texts[1..]);
        let without = idle.iter().filter(|(_, cause)| cause.is_none()).map(|(p, _)| p.as_str());
        assert_eq!(without.collect::<Vec<_>>(), ["h", "/srv/i"]);
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let e = Excludes::new(&["a[z-a]".into()], &[], None).unwrap_err();
        assert!(e.to_string().contains("a[z-a]"));
    }
}
