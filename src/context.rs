//! What every command is given: options, environment, the store and how to open it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use plakar_connectors::fs::FsStore;
use plakar_connectors::ptar::PtarStore;
use plakar_engine::cache::LocalDirs;
use plakar_engine::error::{Error, ErrorKind};
use plakar_engine::keyslot::UserSecret;
use plakar_engine::repository::{Probe, Repository};
use plakar_engine::storage::Store;
use plakar_engine::storage::retry::RetryingStore;

use crate::cli::Globals;
use crate::env::Env;
use crate::location::Place;
use crate::report::{Failure, Opening};
use crate::settings::{Section, Settings};
use crate::{location, screen, secret};

/// The surroundings of one command.
#[derive(Debug)]
pub(crate) struct AppContext {
    /// Options of every command.
    pub(crate) globals: Globals,
    /// The environment.
    pub(crate) env: Env,
    /// What stood behind `at`.
    pub(crate) store: Option<OsString>,
    /// The command line without secrets.
    pub(crate) command_line: String,
    /// The command and its arguments in one form, for another process of this program.
    pub(crate) words: Vec<OsString>,
}

/// The user's home directory.
pub(crate) fn home(env: &Env) -> Result<PathBuf, Failure> {
    let home = env.get("HOME").map(PathBuf::from).or_else(std::env::home_dir);
    home.filter(|h| h.is_absolute()).ok_or_else(|| {
        Failure::new("this user has no home directory")
            .with_hint("set HOME, or give -cachedir and `at STORE`")
    })
}

/// Says of an error, unless it does so itself, that it is the store that cannot be opened.
fn opening(e: Error, store: &dyn Store) -> anyhow::Error {
    let by_itself = matches!(
        e.kind(),
        ErrorKind::NoStore | ErrorKind::WrongSecret | ErrorKind::SecretNeeded | ErrorKind::Usage
    );
    if by_itself && !matches!(e, Error::Store(_)) {
        return e.into();
    }
    anyhow::Error::new(e).context(Opening { location: store.location() })
}

impl AppContext {
    /// Whether results are JSON.
    pub(crate) fn json(&self) -> bool {
        self.globals.json
    }

    /// Whether notices are shown.
    pub(crate) fn is_talkative(&self) -> bool {
        !self.globals.quiet && !self.globals.silent
    }

    /// Tells something that is no error.
    pub(crate) fn notice(&self, text: &str) {
        if self.is_talkative() {
            match self.json() {
                true => screen::line(&serde_json::json!({ "type": "notice", "text": text }).to_string()),
                false => screen::line(&format!("note: {text}")),
            }
        }
    }

    /// Which store is meant, as it was typed.
    pub(crate) fn store_name(&self) -> OsString {
        let named = self.store.clone().or_else(|| self.env.get("PLAKAR_REPOSITORY").map(OsString::from));
        named.or_else(|| self.default_store()).unwrap_or_else(|| "fs:~/.plakar".into())
    }

    /// The store that is configured for when none is named. Where that cannot be read, `store` says so.
    fn default_store(&self) -> Option<OsString> {
        let directory = self.configuration_directory().ok()?;
        let name = Settings::read(&directory, Section::Store).ok()?.default()?;
        Some(format!("@{name}").into())
    }

    /// The store as a hint should name it: as it was typed, and not where it goes without saying.
    pub(crate) fn store_hint(&self) -> Option<String> {
        self.store.as_ref().map(|s| s.to_string_lossy().into_owned())
    }

    /// The store that is meant; it need not exist.
    pub(crate) fn store(&self) -> anyhow::Result<Arc<dyn Store>> {
        self.store_at(&self.store_place()?)
    }

    /// A store at a place; it need not exist.
    pub(crate) fn store_at(&self, place: &Place) -> anyhow::Result<Arc<dyn Store>> {
        let path = location::local(&place.location, &self.env)?;
        let store: Arc<dyn Store> = match PtarStore::is_one(&path) {
            true => Arc::new(PtarStore::new(path)),
            false => Arc::new(FsStore::new(path)),
        };
        Ok(Arc::new(RetryingStore::new(store)))
    }

    /// Where the store is that is meant, and what is configured for it.
    pub(crate) fn store_place(&self) -> anyhow::Result<Place> {
        self.place(&self.store_name(), Section::Store)
    }

    /// What a word means as a place of some kind.
    pub(crate) fn place(&self, text: &OsStr, section: Section) -> anyhow::Result<Place> {
        // Who names nothing needs no configuration, nor a home for it.
        let directory = match text.as_bytes().first() {
            Some(b'@') => self.configuration_directory()?,
            _ => PathBuf::new(),
        };
        let place = location::resolve(text, section, &directory)?;
        let known = location::known_options(&place.location, section);
        if let Some(known) = known {
            for key in place.options.keys().filter(|key| !known.contains(key)) {
                let (word, name) = (section.word(), text.to_string_lossy());
                self.notice(&format!("{word} {name}: its option {key} is unknown and has no effect"));
            }
        }
        Ok(place)
    }

    /// A place of this machine, as a word means it.
    pub(crate) fn local(&self, text: &OsStr, section: Section) -> anyhow::Result<PathBuf> {
        Ok(location::local(&self.place(text, section)?.location, &self.env)?)
    }

    /// The configuration directory.
    pub(crate) fn configuration_directory(&self) -> Result<PathBuf, Failure> {
        self.directory(self.globals.configdir.as_ref(), "XDG_CONFIG_HOME", ".config")
    }

    /// A directory of this program: an option, an XDG variable, or its place below the home directory.
    fn directory(&self, option: Option<&PathBuf>, xdg: &str, below_home: &str) -> Result<PathBuf, Failure> {
        if let Some(given) = option {
            return Ok(std::path::absolute(given).unwrap_or_else(|_| given.clone()));
        }
        match self.env.get(xdg).map(PathBuf::from).filter(|d| d.is_absolute()) {
            Some(d) => Ok(d.join("plakar")),
            None => Ok(home(&self.env)?.join(below_home).join("plakar")),
        }
    }

    /// The cache directory.
    pub(crate) fn cache_directory(&self) -> Result<PathBuf, Failure> {
        self.directory(self.globals.cachedir.as_ref(), "XDG_CACHE_HOME", ".cache")
    }

    /// Where local files are.
    pub(crate) fn dirs(&self) -> Result<LocalDirs, Failure> {
        let cache = self.cache_directory()?;
        let state = match self.directory(None, "XDG_STATE_HOME", ".local/state") {
            Ok(state) => state,
            // Without a home directory it stands beside the cache that was given, not in it: caches get cleared.
            Err(_) => cache.with_file_name("plakar-state"),
        };
        Ok(LocalDirs { cache, state })
    }

    /// What can be known of the store without its secret.
    pub(crate) async fn probe(&self) -> anyhow::Result<Probe> {
        let store = self.store()?;
        Probe::read(&store).await.map_err(|e| opening(e, store.as_ref()))
    }

    /// Opens the store.
    pub(crate) async fn open(&self) -> anyhow::Result<Arc<Repository>> {
        Ok(self.open_with_secret().await?.0)
    }

    /// Opens the store, and gives the secret that did it.
    pub(crate) async fn open_with_secret(&self) -> anyhow::Result<(Arc<Repository>, Option<UserSecret>)> {
        self.store()?;
        self.open_given(secret::given(self)?).await
    }

    /// Opens the store with a secret, or asks for one if it needs one.
    pub(crate) async fn open_given(
        &self,
        given: Option<UserSecret>,
    ) -> anyhow::Result<(Arc<Repository>, Option<UserSecret>)> {
        let store = self.store()?;
        let probe = Probe::read(&store).await.map_err(|e| opening(e, store.as_ref()))?;
        let is_needless = given.is_some() && !secret::is_explicit(self) && probe.is_plaintext().is_ok();
        if is_needless {
            self.notice("the store is not encrypted: the passphrase in the environment is not needed");
        }
        self.open_probed(store, probe, given.filter(|_| !is_needless)).await
    }

    /// Opens another store beside the one that is meant: by what was given for it, or what is configured for it, or by the
    /// secret of the other one where that fits; or asks.
    pub(crate) async fn open_peer(
        &self,
        name: &OsStr,
        given: Option<UserSecret>,
        other: Option<UserSecret>,
    ) -> anyhow::Result<Arc<Repository>> {
        let place = self.place(name, Section::Store)?;
        let store = self.store_at(&place)?;
        let mut probe = Probe::read(&store).await.map_err(|e| opening(e, store.as_ref()))?;
        let given = match given {
            Some(given) => Some(given),
            None => secret::of_place(self, &place)?.filter(|_| probe.needs_secret()),
        };
        if given.is_none() && other.is_some() && probe.needs_secret() {
            match self.open_probed(store.clone(), probe, other).await {
                Err(e) if e.downcast_ref().is_some_and(|e: &Error| e.kind() == ErrorKind::WrongSecret) => {}
                opened => return Ok(opened?.0),
            }
            probe = Probe::read(&store).await.map_err(|e| opening(e, store.as_ref()))?;
        }
        Ok(self.open_probed(store, probe, given).await?.0)
    }

    async fn open_probed(
        &self,
        store: Arc<dyn Store>,
        probe: Probe,
        given: Option<UserSecret>,
    ) -> anyhow::Result<(Arc<Repository>, Option<UserSecret>)> {
        let dirs = self.dirs()?;
        let failed = |e| opening(e, store.as_ref());
        let repository = if given.is_some() || !probe.needs_secret() || !secret::can_ask() {
            let secret = given.clone();
            (Box::pin(Repository::open(store.clone(), probe, secret, &dirs)).await.map_err(failed)?, given)
        } else {
            self.ask_and_open(&store, probe, &dirs).await.map_err(|e| match e.downcast::<Error>() {
                Ok(e) => failed(e),
                Err(e) => e,
            })?
        };
        for notice in store.notice().iter().chain(repository.0.notices()) {
            if !self.globals.silent {
                screen::event("notice", &format!("warning: {notice}"));
            }
        }
        Ok(repository)
    }

    async fn ask_and_open(
        &self,
        store: &Arc<dyn Store>,
        mut probe: Probe,
        dirs: &LocalDirs,
    ) -> anyhow::Result<(Arc<Repository>, Option<UserSecret>)> {
        let mut left = 3;
        loop {
            let typed = secret::ask(&format!("Passphrase for {}: ", store.location()))?;
            let secret = UserSecret::passphrase(typed.as_bytes());
            left -= 1;
            match Box::pin(Repository::open(store.clone(), probe, Some(secret.clone()), dirs)).await {
                Ok(repository) => return Ok((repository, Some(secret))),
                Err(e) if e.kind() == ErrorKind::WrongSecret && left > 0 => {
                    screen::line("That is not it.");
                    probe = Probe::read(store).await?;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(vars: &[(&str, &str)], globals: Globals) -> AppContext {
        AppContext {
            globals,
            env: vars.iter().copied().collect(),
            store: None,
            command_line: String::new(),
            words: vec![],
        }
    }

    #[test]
    fn the_store_is_named_by_at_then_the_environment_then_home() {
        let mut c = context(&[("HOME", "/home/me"), ("PLAKAR_REPOSITORY", "/srv/s")], Globals::default());
        assert_eq!(c.store().unwrap().location(), "/srv/s");
        c.store = Some("fs:/other".into());
        assert_eq!(c.store().unwrap().location(), "/other");
        let c = context(&[("HOME", "/home/me")], Globals::default());
        assert_eq!(c.store().unwrap().location(), "/home/me/.plakar");
    }

    #[test]
    fn directories_follow_options_then_xdg_then_home() {
        let c = context(&[("HOME", "/home/me"), ("XDG_CACHE_HOME", "/xdg/cache")], Globals::default());
        let dirs = c.dirs().unwrap();
        assert_eq!(dirs.cache, PathBuf::from("/xdg/cache/plakar"));
        assert_eq!(dirs.state, PathBuf::from("/home/me/.local/state/plakar"));
        let globals = Globals { cachedir: Some("/c".into()), ..Globals::default() };
        assert_eq!(context(&[("XDG_CACHE_HOME", "/x")], globals).dirs().unwrap().cache, PathBuf::from("/c"));
    }
}
