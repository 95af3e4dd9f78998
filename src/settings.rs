//! Named stores, sources, destinations and policies: YAML files in the configuration directory, as Plakar has them. What the
//! user wrote in them, comments and order, stays when this program changes something.
//!
//! ```yaml
//! version: v1.0.0
//! default: home
//! stores:
//!   home:
//!     location: /srv/backups
//!     passphrase_cmd: pass show backups
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};
use yaml_edit::{Document, Mapping, YamlNode};

use crate::report::Failure;
use crate::text::nearest;

/// Keys and values of one name, in the order of their keys.
pub(crate) type Options = BTreeMap<String, String>;

/// The largest file that is read: more is no configuration.
const MAX_FILE: u64 = 16 << 20;

/// The kinds of named things, a file each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Store,
    Source,
    Destination,
    Policy,
}

impl Section {
    /// In the singular: the command.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Policy => "policy",
        }
    }

    /// In the plural: the key in the file, and the file's name.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Store => "stores",
            Self::Source => "sources",
            Self::Destination => "destinations",
            Self::Policy => "policies",
        }
    }
}

/// One file, read.
#[derive(Debug)]
pub(crate) struct Settings {
    section: Section,
    path: PathBuf,
    document: Document,
    /// Held while a change is made.
    _lock: Option<fs::File>,
}

impl Settings {
    /// Reads a file; one that is not there holds nothing.
    ///
    /// # Errors
    /// It cannot be read, or is none of these files.
    pub(crate) fn read(directory: &Path, section: Section) -> anyhow::Result<Self> {
        let path = directory.join(format!("{}.yml", section.key()));
        let text = match fs::File::open(&path) {
            Ok(file) => {
                let text = io::read_to_string(io::Read::take(file, MAX_FILE));
                text.with_context(|| format!("cannot read {}", path.display()))?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(anyhow::Error::new(e).context(format!("cannot read {}", path.display()))),
        };
        let document = parse(&text, section).map_err(|reason| {
            Failure::new(format!("cannot read {}: {reason}", path.display()))
                .with_hint("mend the file by hand; nothing was changed")
        })?;
        Ok(Self { section, path, document, _lock: None })
    }

    /// Reads a file to change it: whoever else does so waits.
    ///
    /// # Errors
    /// As [`Settings::read`]; or the directory cannot be made or locked.
    pub(crate) fn edit(directory: &Path, section: Section) -> anyhow::Result<Self> {
        let what = || format!("cannot use the configuration directory {}", directory.display());
        fs::create_dir_all(directory).with_context(what)?;
        let lock = fs::File::open(directory).with_context(what)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(io::Error::from).with_context(what)?;
        Ok(Self { _lock: Some(lock), ..Self::read(directory, section)? })
    }

    /// Every name, as in the file.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.entries().map(|m| m.keys().filter_map(|k| scalar(&k)).collect());
        names.unwrap_or_default()
    }

    /// What a name stands for.
    pub(crate) fn get(&self, name: &str) -> Option<Options> {
        let entry = self.entries()?.get(name)?;
        let mut out = Options::new();
        flatten(&entry, "", &mut out);
        Some(out)
    }

    /// What a name stands for.
    ///
    /// # Errors
    /// There is no such name: the nearest one is told.
    pub(crate) fn require(&self, name: &str) -> Result<Options, Failure> {
        self.get(name).ok_or_else(|| {
            let word = self.section.word();
            let failure = Failure::new(format!("there is no {word} called {name}"));
            let names = self.names();
            match nearest(name, names.iter().map(String::as_str)) {
                Some(near) => failure.with_hint(format!("did you mean {near}? `plakar {word} show` has all")),
                None if names.is_empty() => {
                    failure.with_hint(format!("`plakar {word} add {name} …` adds it"))
                }
                None => failure
                    .with_hint(format!("`plakar {word} show` has all; `plakar {word} add {name} …` adds it")),
            }
        })
    }

    /// The store that is meant where none is named.
    pub(crate) fn default(&self) -> Option<String> {
        self.document.get("default").and_then(|n| scalar(&n)).filter(|d| !d.is_empty())
    }

    /// Says which one that is.
    pub(crate) fn set_default(&mut self, name: Option<&str>) {
        let top = self.top();
        match name {
            Some(name) => {
                top.set("default", name);
            }
            None => {
                top.remove("default");
            }
        }
    }

    /// Sets keys of a name, which is added where it is not there.
    pub(crate) fn set(&mut self, name: &str, options: &Options) {
        let top = self.top();
        let key = self.section.key();
        let section = child(&top, key);
        if let Some(section) = section
            && let Some(entry) = child(&section, name)
        {
            for (key, value) in options {
                entry.set(key.as_str(), value.as_str());
            }
        }
    }

    /// Takes keys of a name away.
    pub(crate) fn unset(&mut self, name: &str, keys: &[String]) {
        let entry = self.entries().and_then(|m| m.get_mapping(name));
        for key in keys {
            if let Some(entry) = &entry {
                entry.remove(key.as_str());
            }
        }
    }

    /// Takes a name away.
    pub(crate) fn remove(&mut self, name: &str) {
        if let Some(section) = self.entries() {
            section.remove(name);
            if section.is_empty() {
                self.top().set(self.section.key(), Mapping::new());
            }
        }
        if self.default().as_deref() == Some(name) {
            self.set_default(None);
        }
    }

    /// Writes the file anew, for its owner alone: it appears whole or not at all. `wanted` is what the names that were
    /// changed must stand for in it.
    ///
    /// # Errors
    /// It cannot be written; or the change cannot be made in a file that looks like this.
    pub(crate) fn write(&self, wanted: &[(&str, Option<&Options>)]) -> anyhow::Result<()> {
        let mut text = self.document.to_string();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        // Whatever shape a person has given the file: what is written has to say what was meant.
        let again = parse(&text, self.section).ok().map(|document| Self {
            document,
            path: self.path.clone(),
            section: self.section,
            _lock: None,
        });
        let says = |name: &str, options: Option<&Options>| {
            again.as_ref().is_some_and(|again| again.get(name).as_ref() == options)
        };
        if !wanted.iter().all(|(name, options)| says(name, *options)) {
            let text = format!("{} is written in a way that cannot be changed here", self.path.display());
            return Err(Failure::new(text).with_hint("change it by hand; nothing was changed").into());
        }
        // A link to where somebody keeps such files stays one.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        replace(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    }

    fn entries(&self) -> Option<Mapping> {
        self.document.as_mapping()?.get_mapping(self.section.key())
    }

    /// The mapping at the top. What has none was refused when it was read.
    fn top(&self) -> Mapping {
        self.document.as_mapping().unwrap_or_default()
    }
}

const VERSION: &str = "v1.0.0";

/// A file with nothing in it yet but comments.
fn begun(comments: &str) -> Document {
    let gap = if comments.is_empty() { "" } else { "\n" };
    let document = Document::from_str(&format!("{comments}{gap}version: {VERSION}\n"));
    document.unwrap_or_else(|_| Document::new_mapping())
}

/// The mapping under a key, made where there is none.
fn child(parent: &Mapping, key: &str) -> Option<Mapping> {
    if parent.get_mapping(key).is_none() {
        parent.set(key, Mapping::new());
    }
    parent.get_mapping(key)
}

fn parse(text: &str, section: Section) -> Result<Document, String> {
    if text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#')) {
        return Ok(begun(text.trim()));
    }
    let document = Document::from_str(text).map_err(|e| e.to_string())?;
    let top = document.as_mapping().ok_or("it is no mapping of names")?;
    if let Some(version) = top.get("version").and_then(|v| scalar(&v))
        && version != VERSION
    {
        return Err(format!("it is of version {version}, and this program knows {VERSION}"));
    }
    match top.get(section.key()) {
        Some(YamlNode::Mapping(_)) | None => Ok(document),
        Some(node) if scalar(&node).is_some_and(|s| s.is_empty() || s == "null" || s == "~") => Ok(document),
        Some(_) => Err(format!("`{}` is no mapping of names", section.key())),
    }
}

fn scalar(node: &YamlNode) -> Option<String> {
    match node {
        YamlNode::Scalar(s) => Some(s.as_string()),
        _ => None,
    }
}

/// A tree of values as one level, keys joined by dots. A list is its items with commas between them.
fn flatten(node: &YamlNode, prefix: &str, out: &mut Options) {
    match node {
        YamlNode::Mapping(mapping) => {
            for (key, value) in mapping.iter() {
                let Some(key) = scalar(&key) else { continue };
                let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                flatten(&value, &key, out);
            }
        }
        YamlNode::Sequence(list) => {
            let items: Vec<String> = list.values().filter_map(|v| scalar(&v)).collect();
            out.insert(prefix.to_owned(), items.join(","));
        }
        node => {
            if let Some(value) = scalar(node).filter(|_| !prefix.is_empty()) {
                out.insert(prefix.to_owned(), value);
            }
        }
    }
}

/// Reads a text of names and what they stand for, from wherever: YAML or JSON, whether under the section's key or alone.
pub(crate) fn read_yaml(text: &str, section: Section) -> Result<Vec<(String, Options)>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let document = Document::from_str(text).map_err(|e| e.to_string())?;
    let top = document.as_mapping().ok_or("it is no mapping of names")?;
    let entries = top.get_mapping(section.key()).unwrap_or(top);
    let mut out = Vec::new();
    for (name, entry) in entries.iter() {
        let (Some(name), YamlNode::Mapping(_)) = (scalar(&name), &entry) else { continue };
        let mut options = Options::new();
        flatten(&entry, "", &mut options);
        out.push((name, options));
    }
    Ok(out)
}

/// Names and what they stand for, as they stand in a file.
pub(crate) fn to_yaml(section: Section, default: Option<&str>, all: &[(String, Options)]) -> String {
    let document = begun("");
    if let Some(default) = default {
        document.set("default", default);
    }
    if let Some(entries) = document.as_mapping().and_then(|top| child(&top, section.key())) {
        for (name, options) in all {
            let entry = child(&entries, name);
            for (key, value) in options {
                if let Some(entry) = &entry {
                    entry.set(key.as_str(), value.as_str());
                }
            }
        }
    }
    document.to_string()
}

/// Reads a text of `[name]` sections with `key = value` below them.
pub(crate) fn read_ini(text: &str) -> Result<Vec<(String, Options)>, String> {
    let mut out: Vec<(String, Options)> = Vec::new();
    for (i, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            out.push((name.trim().to_owned(), Options::new()));
            continue;
        }
        let (key, value) = line.split_once('=').ok_or(format!("line {} is no key = value", i + 1))?;
        let Some((_, options)) = out.last_mut() else {
            return Err(format!("line {} stands before the first [name]", i + 1));
        };
        options.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(out)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("yml.{}.tmp", std::process::id()));
    let made = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    let written = made.and_then(|mut file| {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |d| fs::File::open(d)?.sync_all())
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn what_was_written_by_hand_stays() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("stores.yml");
        let text = "# mine\nversion: v1.0.0\ndefault: home\nstores:\n  home: # the disk\n    # why\n    location: /srv\n  nas:\n    location: sftp://nas/b\n";
        fs::write(&file, text).unwrap();
        let mut settings = Settings::edit(directory.path(), Section::Store).unwrap();
        assert_eq!(settings.names(), ["home", "nas"]);
        let odd =
            options(&[("location", "/a: b"), ("passphrase", "it's # \"7\"\\"), ("n", "007"), ("t", "yes")]);
        settings.set("new", &odd);
        settings.set("nas", &options(&[("port", "22")]));
        settings.unset("nas", &["location".into()]);
        settings.write(&[("new", Some(&odd)), ("nas", Some(&options(&[("port", "22")])))]).unwrap();
        let now = fs::read_to_string(&file).unwrap();
        assert!(now.starts_with("# mine\nversion: v1.0.0\ndefault: home\nstores:\n  home: # the disk\n    # why\n    location: /srv\n"), "{now}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        drop(settings);
        let mut settings = Settings::edit(directory.path(), Section::Store).unwrap();
        assert_eq!(settings.get("new"), Some(odd));
        for name in ["home", "nas", "new"] {
            settings.remove(name);
        }
        settings.write(&[("home", None), ("nas", None), ("new", None)]).unwrap();
        drop(settings);
        let mut settings = Settings::edit(directory.path(), Section::Store).unwrap();
        assert_eq!((settings.names(), settings.default()), (vec![], None));
        settings.set("again", &options(&[("location", "x")]));
        settings.write(&[("again", Some(&options(&[("location", "x")])))]).unwrap();
    }

    #[test]
    fn files_begin_with_nothing_and_bad_ones_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Settings::edit(directory.path(), Section::Policy).unwrap();
        settings.set("daily", &options(&[("days", "7")]));
        settings.write(&[("daily", Some(&options(&[("days", "7")])))]).unwrap();
        let text = fs::read_to_string(directory.path().join("policies.yml")).unwrap();
        assert_eq!(text, "version: v1.0.0\npolicies:\n  daily:\n    days: '7'\n");
        for bad in ["- a\n", "stores: 5\n", "version: v9.0.0\n", "stores: [a\n b: }", "plain"] {
            fs::write(directory.path().join("stores.yml"), bad).unwrap();
            assert!(Settings::read(directory.path(), Section::Store).is_err(), "{bad}");
        }
        for empty in ["", "# only this\n", "version: v1.0.0\n", "stores:\n", "stores: {}\n", "stores: ~\n"] {
            drop(settings);
            fs::write(directory.path().join("stores.yml"), empty).unwrap();
            settings = Settings::edit(directory.path(), Section::Store).unwrap();
            assert!(settings.names().is_empty(), "{empty}");
            let one = options(&[("location", "/x")]);
            settings.set("a", &one);
            settings.write(&[("a", Some(&one))]).unwrap();
            let now = fs::read_to_string(directory.path().join("stores.yml")).unwrap();
            assert!(empty.is_empty() || !empty.starts_with('#') || now.starts_with('#'), "{now}");
        }
    }

    #[test]
    fn other_forms_are_read() {
        let yaml = read_yaml("stores:\n  a: {location: x, n: 5}\n", Section::Store).unwrap();
        let json = read_yaml("{\"a\": {\"location\": \"x\", \"n\": 5}}", Section::Store).unwrap();
        let ini = read_ini("; c\n[a]\nlocation = x\nn=5\n").unwrap();
        let wanted = vec![("a".to_owned(), options(&[("location", "x"), ("n", "5")]))];
        assert_eq!((&yaml, &json, &ini), (&wanted, &wanted, &wanted));
        assert!(read_ini("a = b").is_err() && read_ini("[x]\nnonsense").is_err());
        let nested = "policies:\n  p:\n    periods:\n      day: {keep: 7, cap: 1}\n    tags: [a, b]\n";
        let wanted = options(&[("periods.day.cap", "1"), ("periods.day.keep", "7"), ("tags", "a,b")]);
        assert_eq!(read_yaml(nested, Section::Policy).unwrap()[0].1, wanted);
    }
}
