//! The number of a process, in a file, for those who end it by that.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file with this process's number; it goes with the value.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// Writes it, in place of one that was left behind.
    ///
    /// # Errors
    /// It cannot be written; or something else stands there than a number, which is not overwritten.
    pub fn create(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(m) if m.is_file() && is_number(path)? => {}
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "something else than a process's number stands there",
                ));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        // Never to be seen half written.
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(format!(".{}.new", std::process::id()));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&unfinished)?;
        let written = writeln!(file, "{}", std::process::id()).and_then(|()| fs::rename(&unfinished, path));
        if let Err(e) = written {
            let _the_first_error_counts = fs::remove_file(&unfinished);
            return Err(e);
        }
        Ok(Self(path.to_owned()))
    }
}

/// Whether a file holds a number, or nothing.
fn is_number(path: &Path) -> io::Result<bool> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(32).read_to_end(&mut bytes)?;
    Ok(bytes.trim_ascii().iter().all(u8::is_ascii_digit))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Another process may have put its own there by now.
        if fs::read_to_string(&self.0).is_ok_and(|t| t.trim() == std::process::id().to_string()) {
            let _stale_numbers_are_checked = fs::remove_file(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_the_number_and_goes_with_its_process() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("pid");
        fs::write(&path, "99999999\n").unwrap();
        let file = PidFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        let file = PidFile::create(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n", "another's stays");
    }

    #[test]
    fn nothing_else_is_overwritten() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("precious");
        for content in ["root:x:0:0", "12 monkeys\n", "\u{fffd}"] {
            fs::write(&path, content).unwrap();
            assert!(PidFile::create(&path).is_err());
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert!(PidFile::create(&place.path().join("absent/pid")).is_err());
        assert!(PidFile::create(place.path()).is_err());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
