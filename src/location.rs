//! Places as they are typed: `PATH`, `fs:PATH`, `fs://PATH`, `ptar:FILE`, and later others; `@NAME` and `@NAME:PATH` for what is
//! configured under a name.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::context::home;
use crate::env::Env;
use crate::report::Failure;
use crate::secret;
use crate::settings::{Options, Section, Settings};

/// A place, and what is configured for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// `PATH` or `SCHEME:REST`.
    pub(crate) location: OsString,
    /// Its options, without the location.
    pub(crate) options: Options,
}

/// Finds what a word means: itself, or what is configured under its name.
///
/// # Errors
/// There is no such name; or the configuration cannot be read.
pub(crate) fn resolve(text: &OsStr, section: Section, directory: &Path) -> anyhow::Result<Place> {
    let Some(named) = text.as_bytes().strip_prefix(b"@") else {
        return Ok(Place { location: text.into(), options: Options::new() });
    };
    let (name, path) = match named.iter().position(|b| *b == b':') {
        Some(colon) => (&named[..colon], Some(&named[colon + 1..])),
        None => (named, None),
    };
    let name = String::from_utf8_lossy(name);
    let mut options = Settings::read(directory, section)?.require(&name)?;
    let Some(location) = options.remove("location").filter(|l| !l.is_empty()) else {
        let word = section.word();
        let failure = Failure::new(format!("the {word} {name} has no location"));
        return Err(failure
            .with_hint(format!("`plakar {word} set {name} location=…` says where it is"))
            .into());
    };
    let location = match path {
        Some(path) => with_path(location.as_bytes(), path),
        None => location.into_bytes(),
    };
    Ok(Place { location: OsString::from_vec(location), options })
}

/// A location with another path, or one below its own.
fn with_path(location: &[u8], path: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        return location.to_vec();
    }
    // What stands before the path: `fs:`, `sftp://host`.
    let before = match scheme(location) {
        None => 0,
        Some((scheme, rest)) => {
            let begins = scheme.len() + 1;
            match rest.strip_prefix(b"//") {
                Some(authority) => {
                    begins + 2 + authority.iter().position(|b| *b == b'/').unwrap_or(authority.len())
                }
                None => begins,
            }
        }
    };
    if path[0] == b'/' {
        return [&location[..before], path].concat();
    }
    let own = location.strip_suffix(b"/").unwrap_or(location);
    [own, b"/", path].concat()
}

/// The options that places of a kind take; `None` where this version knows nothing of the kind.
pub(crate) fn known_options(location: &OsStr, section: Section) -> Option<Vec<String>> {
    let is_local = scheme(location.as_bytes()).is_none_or(|(scheme, _)| scheme == b"fs" || scheme == b"ptar");
    let mut known = vec!["location".to_owned()];
    match section {
        Section::Store => known.extend(secret::option_names()),
        Section::Source => known.push("dont_traverse_fs".into()),
        Section::Destination | Section::Policy => {}
    }
    is_local.then_some(known)
}

/// A location without what stands between `://` and `@`.
pub(crate) fn without_secrets(location: &str) -> String {
    let masked = location.split_once("://").and_then(|(scheme, rest)| {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (login, host) = authority.rsplit_once('@')?;
        let user = login.split_once(':')?.0;
        Some(format!("{scheme}://{user}:…@{host}{path}"))
    });
    masked.unwrap_or_else(|| location.to_owned())
}

/// Reads a place on this machine.
///
/// # Errors
/// It is of a kind that this version does not know.
pub(crate) fn local(text: &OsStr, env: &Env) -> Result<PathBuf, Failure> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(Failure::usage("an empty word is no place", None));
    }
    let Some((scheme, rest)) = scheme(bytes) else { return Ok(PathBuf::from(text)) };
    if scheme != b"fs" && scheme != b"ptar" {
        let scheme = String::from_utf8_lossy(scheme);
        return Err(Failure::new(format!("cannot use {}: this version knows no {scheme}", text.to_string_lossy()))
            .with_code(crate::ExitCode::NoStore)
            .with_hint(format!(
                "integrations like it are to come (`plakar pkg add {scheme}`); if it is a file's name, write ./{}",
                text.to_string_lossy()
            )));
    }
    let rest = rest.strip_prefix(b"//").unwrap_or(rest);
    // A shell expands ~ only at the beginning of a word.
    if let Some(below) = rest.strip_prefix(b"~").filter(|b| b.is_empty() || b[0] == b'/') {
        let below = below.strip_prefix(b"/").unwrap_or(below);
        return Ok(home(env)?.join(OsStr::from_bytes(below)));
    }
    if rest.is_empty() {
        return Err(Failure::usage("a scheme needs a path behind it", None));
    }
    Ok(PathBuf::from(OsString::from_vec(rest.to_vec())))
}

/// Splits `scheme:rest`. One letter is no scheme, so that `C:\x` stays a path.
fn scheme(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = bytes.iter().position(|b| *b == b':')?;
    let (scheme, rest) = (&bytes[..colon], &bytes[colon + 1..]);
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"+-.".contains(b);
    (colon > 1 && scheme[0].is_ascii_alphabetic() && scheme.iter().all(allowed)).then_some((scheme, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<PathBuf, Failure> {
        local(OsStr::new(text), &Env::from_iter([("HOME", "/home/me")]))
    }

    #[test]
    fn paths_and_fs_locations_are_places() {
        for (text, wanted) in [
            ("/srv/s", "/srv/s"),
            ("s", "s"),
            ("fs:/srv/s", "/srv/s"),
            ("fs:///srv/s", "/srv/s"),
            ("fs:s", "s"),
            ("fs:~/.plakar", "/home/me/.plakar"),
            ("C:x", "C:x"),
            ("./a:b", "./a:b"),
            ("/a:b", "/a:b"),
        ] {
            assert_eq!(read(text).ok(), Some(PathBuf::from(wanted)), "{text}");
        }
    }

    #[test]
    fn other_places_say_when_they_come() {
        assert!(read("s3://host/bucket").unwrap_err().hint().is_some_and(|h| h.contains("pkg add s3")));
    }

    #[test]
    fn a_named_place_may_have_another_path() {
        let of = |location: &str, path: &str| {
            String::from_utf8(with_path(location.as_bytes(), path.as_bytes())).unwrap()
        };
        for (location, path, wanted) in [
            ("/srv/s", "", "/srv/s"),
            ("/srv/s", "sub/x", "/srv/s/sub/x"),
            ("/srv/s/", "sub", "/srv/s/sub"),
            ("/srv/s", "/other", "/other"),
            ("fs:/srv/s", "/other", "fs:/other"),
            ("fs:///srv/s", "/other", "fs:///other"),
            ("sftp://me@host:22/a", "/b/c", "sftp://me@host:22/b/c"),
            ("sftp://me@host", "/b", "sftp://me@host/b"),
            ("s3://host/bucket", "dir", "s3://host/bucket/dir"),
        ] {
            assert_eq!(of(location, path), wanted, "{location} {path}");
        }
    }
}
