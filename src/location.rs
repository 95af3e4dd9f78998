//! Places as they are typed: `PATH`, `fs:PATH`, `fs://PATH`, and later others.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::context::home;
use crate::env::Env;
use crate::report::Failure;

/// Reads a place on this machine.
///
/// # Errors
/// It is a named one (`@name`), or of a kind that this version does not know.
pub(crate) fn local(text: &OsStr, env: &Env) -> Result<PathBuf, Failure> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(Failure::usage("an empty word is no place", None));
    }
    if bytes[0] == b'@' {
        let name = text.to_string_lossy();
        let text = format!("{name}: named stores, sources and destinations are not in this version yet");
        return Err(Failure::new(text).with_hint("give the place itself"));
    }
    let Some((scheme, rest)) = scheme(bytes) else { return Ok(PathBuf::from(text)) };
    if scheme != b"fs" {
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
        return Err(Failure::usage("fs: needs a path behind it", None));
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
        assert!(read("@nas").unwrap_err().to_string().contains("@nas"));
    }
}
