//! Opening a store, and what can be known of one before that: CONFIG, its copies and the key slots.
//!
//! `docs/FORMAT.md` §5 and §6. CONFIG is believed only when its MAC verifies under the keys of a slot, or, in a store
//! without slots, under those that anybody has.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::OnceCell;

use super::Repository;
use super::reader::FrameReader;
use crate::blocking::blocking;
use crate::cache::{LocalCache, LocalDirs, WriterState};
use crate::config::Config;
use crate::crypto::Keyring;
use crate::crypto::kdf::KdfParams;
use crate::crypto::secret::Secret;
use crate::error::{Error, Result, report};
use crate::id::ObjectId;
use crate::keyslot::{KeySlot, Stored, UserSecret};
use crate::storage::{Area, ObjectName, Store, StoreErrorKind};
use crate::wire::WireError;

/// What can be known of a store without a secret.
#[derive(Debug)]
pub struct Probe {
    config_bytes: Result<Bytes>,
    slots: Vec<KeySlot>,
    /// Copies of CONFIG that are in no key slot.
    copies: Vec<(ObjectId, Vec<u8>)>,
    /// Objects among the keys that cannot be read, and why.
    unreadable: Vec<(ObjectId, Error)>,
    location: String,
}

/// Key derivations that are tried with one passphrase, all together: KiB of memory times passes. Sixteen times what a slot
/// asks for by default, and some seconds at most: a store that was made to hurt has as many slots as it likes.
const MOST_DERIVING: u64 = 16 * 3 * 64 * 1024;

impl Probe {
    /// Reads CONFIG and the key slots.
    ///
    /// # Errors
    /// There is no store, or only half of one.
    pub async fn read(store: &Arc<dyn Store>) -> Result<Self> {
        let location = store.location();
        let listed = match store.list(Area::Keys).await {
            Ok(l) => l,
            Err(e) if e.kind() == StoreErrorKind::NotFound => return Err(Error::NoStore { location }),
            Err(e) => return Err(e.into()),
        };
        let config_bytes = match store.get(ObjectName::CONFIG, None).await {
            Ok(b) => Ok(b),
            Err(e) if e.kind() == StoreErrorKind::NotFound && listed.is_empty() => {
                return Err(Error::NotAStore { location, reason: "it has no CONFIG".into() });
            }
            // CONFIG was written last: without it and without snapshots nothing was ever in use.
            Err(e)
                if e.kind() == StoreErrorKind::NotFound && store.list(Area::Snapshots).await?.is_empty() =>
            {
                let reason =
                    "it was not made whole, and holds no snapshot: remove it and create it again".into();
                return Err(Error::NotAStore { location, reason });
            }
            Err(e) => Err(e.into()),
        };
        let (mut slots, mut copies, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        for l in listed {
            let name = ObjectName::new(Area::Keys, l.id);
            let stored = match store.get(name, None).await {
                Ok(bytes) => Stored::decode(l.id, &bytes).map_err(|e| Error::object(name, e)),
                Err(e) => Err(e.into()),
            };
            match stored {
                Ok(Stored::Key(slot)) => slots.push(*slot),
                Ok(Stored::ConfigCopy(config)) => copies.push((l.id, config)),
                Err(e) => unreadable.push((l.id, e)),
            }
        }
        Ok(Self { config_bytes, slots, copies, unreadable, location })
    }

    /// Whether a secret is needed to open the store. Without a key that can be read none would help.
    pub fn needs_secret(&self) -> bool {
        !self.slots.is_empty()
    }

    /// The key slots.
    pub fn slots(&self) -> &[KeySlot] {
        &self.slots
    }

    /// The key slot that a secret opens, if any does. Takes the time of opening a store.
    pub fn slot_of(&self, secret: &UserSecret) -> Option<&KeySlot> {
        self.open_slot(secret).ok().map(|(slot, _)| slot)
    }

    /// Where the store is.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// What is wrong with CONFIG itself, seen with these keys.
    pub(super) fn config_fault(&self, keys: &Keyring) -> Option<String> {
        match &self.config_bytes {
            Err(e) => Some(report(e)),
            Ok(bytes) if is_good(bytes, keys).is_some() => None,
            Ok(_) => Some("CONFIG is damaged".into()),
        }
    }

    /// Bytes of CONFIG, or a copy of it, that are good under these keys.
    pub(super) fn good_config(&self, keys: &Keyring) -> Option<&[u8]> {
        let own = self.config_bytes.as_ref().ok().map(|b| &b[..]);
        let of_slots = self.slots.iter().map(|s| s.config.as_slice());
        let others = self.copies.iter().map(|(_, config)| config.as_slice());
        own.into_iter().chain(of_slots).chain(others).find(|bytes| is_good(bytes, keys).is_some())
    }

    /// Copies of CONFIG in no key slot that are damaged, and what else stands among the keys and is; and whether one of the
    /// copies is good. What only cannot be read now, or is of a newer program, is not for this one to judge.
    pub(super) fn faulty_copies(&self, keys: &Keyring) -> (Vec<ObjectId>, bool) {
        let is_faulty = |(_, config): &&(ObjectId, Vec<u8>)| is_good(config, keys).is_none();
        let faulty = self.copies.iter().filter(is_faulty).map(|(id, _)| *id);
        let is_damaged = |(_, e): &&(ObjectId, Error)| matches!(e, Error::DamagedObject { .. });
        let damaged = self.unreadable.iter().filter(is_damaged).map(|(id, _)| *id);
        let faulty: Vec<_> = faulty.chain(damaged).collect();
        (faulty, self.copies.iter().any(|copy| !is_faulty(&copy)))
    }

    /// Finds the slot that a secret opens, and the CONFIG to believe; what the user should know beside.
    pub(super) fn unlock(&self, secret: Option<&UserSecret>) -> Result<(Config, Keyring, Vec<String>)> {
        let mut notices: Vec<String> = self.unreadable.iter().map(|(_, e)| report(e)).collect();
        let keys = match secret {
            None => self.plaintext_keys()?,
            Some(secret) => {
                let (slot, master) = self.open_slot(secret)?;
                for (id, _) in &self.copies {
                    notices.push(format!("{} is a key without a secret, and is ignored", name(*id)));
                }
                Keyring::sealed(slot.store, master)
            }
        };
        for s in self.slots.iter().filter(|s| is_good(&s.config, &keys).is_none()) {
            notices.push(format!("the copy of CONFIG in key slot {} is damaged", s.id.short()));
        }
        for s in self.slots.iter().filter(|s| s.is_authentic(&keys) == Some(false)) {
            let id = s.id.short();
            notices
                .push(format!("what key slot {id} says of itself (label, date) was changed, or is damaged"));
        }
        if let Some(fault) = self.config_fault(&keys) {
            notices.push(format!("{fault}; a copy of it is used: `plakar repair` writes it again"));
        }
        if secret.is_none() {
            let (faulty, _) = self.faulty_copies(&keys);
            let damaged = faulty.iter().filter(|id| self.copies.iter().any(|(copy, _)| copy == *id));
            notices.extend(damaged.map(|id| {
                format!("the copy of CONFIG in {} is damaged: `plakar repair` writes it again", name(*id))
            }));
        }
        let config = self.good_config(&keys).and_then(|bytes| is_good(bytes, &keys));
        let config = config.ok_or_else(|| self.unusable("CONFIG and its copies are damaged".into()))?;
        Ok((config, keys, notices))
    }

    fn unusable(&self, reason: String) -> Error {
        Error::NotAStore { location: self.location.clone(), reason }
    }

    /// Whether a store without key slots is one that needs none.
    ///
    /// # Errors
    /// It is encrypted and has lost them, or what it is cannot be told.
    pub fn is_plaintext(&self) -> Result<()> {
        self.plaintext_keys().map(drop)
    }

    /// The keys of a plaintext store, if this is one.
    fn plaintext_keys(&self) -> Result<Keyring> {
        if self.needs_secret() {
            return Err(Error::SecretNeeded { location: self.location.clone() });
        }
        let own = self.config_bytes.as_ref().ok().map(|b| &b[..]);
        let all = own.into_iter().chain(self.copies.iter().map(|(_, config)| config.as_slice()));
        for bytes in all.clone() {
            let keys = Config::decode(bytes).ok().map(|c| Keyring::plaintext(c.store));
            if let Some(keys) = keys.filter(|keys| is_good(bytes, keys).is_some()) {
                return Ok(keys);
            }
        }
        let mut claims = all.map(Config::decode);
        if claims.clone().any(|c| matches!(c, Err(WireError::Newer(_)))) {
            return Err(Error::Newer { object: "CONFIG".into() });
        }
        if claims.any(|c| c.is_ok_and(|c| c.sealed)) {
            return Err(self.unusable("it is encrypted, and none of its key slots can be read".into()));
        }
        let fault = match &self.config_bytes {
            Err(e) => report(e),
            Ok(_) => "CONFIG is damaged".into(),
        };
        Err(self.unusable(format!("{fault}, and there is no copy of it that is whole")))
    }

    /// The slot that a secret opens, and the master key in it.
    fn open_slot(&self, secret: &UserSecret) -> Result<(&KeySlot, Secret<32>)> {
        if self.slots.is_empty() {
            return Err(match self.plaintext_keys() {
                Ok(_) => Error::Usage(format!(
                    "the store at {} is not encrypted, but a passphrase was given",
                    self.location
                )),
                Err(e) => e,
            });
        }
        if let Ok(bytes) = &self.config_bytes
            && let Err(WireError::Newer(_)) = Config::decode(bytes)
        {
            return Err(Error::Newer { object: "CONFIG".into() });
        }
        // The cheapest first: what is left out then is what nobody asks for by default.
        let cost = |slot: &KeySlot| slot.kdf.as_ref().map_or(0, KdfParams::cost);
        let mut slots: Vec<&KeySlot> = self.slots.iter().collect();
        slots.sort_by_key(|slot| cost(slot));
        let mut spent = 0;
        for slot in slots {
            let derives = matches!(secret, UserSecret::Passphrase(_)) && slot.kdf.is_some();
            spent += if derives { cost(slot) } else { 0 };
            if spent > MOST_DERIVING {
                // Said at once: if none of the others fits, there will be no notices.
                tracing::warn!(slot = %slot.id.short(), "a key slot asks for too much work, and is not tried");
                continue;
            }
            if let Ok(master) = slot.open(secret) {
                return Ok((slot, master));
            }
        }
        Err(Error::WrongSecret { location: self.location.clone() })
    }
}

/// Reads a CONFIG, if it is whole and these keys vouch for it.
fn is_good(bytes: &[u8], keys: &Keyring) -> Option<Config> {
    let config = Config::decode(bytes).ok()?;
    let fits = config.store == keys.store() && config.sealed == keys.is_sealed();
    (fits && Config::verify(bytes, keys)).then_some(config)
}

fn name(id: ObjectId) -> ObjectName {
    ObjectName::new(Area::Keys, id)
}

impl Repository {
    /// Opens a store that was probed.
    ///
    /// # Errors
    /// `SecretNeeded`, `WrongSecret`, a damaged or newer CONFIG.
    pub async fn open(
        store: Arc<dyn Store>,
        probe: Probe,
        secret: Option<UserSecret>,
        dirs: &LocalDirs,
    ) -> Result<Arc<Self>> {
        let dirs = dirs.clone();
        let place = store.local_path().map_or_else(|| store.location(), |p| p.display().to_string());
        let unlocked = blocking(move || {
            let (config, keys, notices) = probe.unlock(secret.as_ref())?;
            let mut writer = WriterState::open(&dirs, config.store);
            if config.sealed {
                writer.note_sealed();
            } else if writer.sealed {
                return Err(Error::NotAStore {
                    location: probe.location().to_owned(),
                    reason:
                        "it was encrypted when it was last seen and is not now: somebody has replaced CONFIG"
                            .into(),
                });
            }
            let cache = LocalCache::open(&dirs, config.store)?;
            cache.note_location(&place);
            Ok((config, keys, notices, writer, cache))
        });
        let (config, keys, notices, writer, cache) = unlocked.await?;
        Ok(Arc::new(Self {
            reader: FrameReader::new(store.clone()),
            store,
            config,
            keys: Arc::new(keys),
            cache: Arc::new(cache),
            writer: Mutex::new(writer),
            index: RwLock::new(None),
            loading: tokio::sync::Mutex::new(()),
            catalog: OnceCell::new(),
            current: RwLock::default(),
            known: RwLock::default(),
            data_keys: Mutex::default(),
            unreadable_states: Mutex::default(),
            notices,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::id::StoreId;

    #[test]
    fn only_what_is_known_to_be_damaged_is_to_be_removed() {
        let config = Config::new(false, 0);
        let keys = Keyring::plaintext(config.store);
        let bytes = config.encode(&keys);
        let [damaged, newer, out_of_reach] = [1, 2, 3].map(|n| ObjectId([n; 32]));
        let refused = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let unreadable = vec![
            (damaged, Error::object(name(damaged), WireError::Truncated)),
            (newer, Error::object(name(newer), WireError::Newer("kind of key slot"))),
            (out_of_reach, Error::from(crate::storage::StoreError::io("read", name(out_of_reach), refused))),
        ];
        let copies = vec![(ObjectId([4; 32]), bytes.clone()), (ObjectId([5; 32]), vec![0; 200])];
        let (config_bytes, location) = (Ok(Bytes::from(bytes)), "here".into());
        let probe = Probe { config_bytes, slots: vec![], copies, unreadable, location };
        assert_eq!(probe.faulty_copies(&keys), (vec![ObjectId([5; 32]), damaged], true));
    }

    #[test]
    fn slots_that_ask_for_the_whole_machine_are_not_tried() {
        let keys = Keyring::sealed(StoreId([1; 16]), Secret::new([2; 32]));
        let right = UserSecret::passphrase("right");
        let cheap = KdfParams { memory_kib: 64, passes: 1, lanes: 1, salt: [4; 32] };
        let slot = |secret: &UserSecret| KeySlot::new(&keys, secret, cheap.clone(), "", 0, vec![]).unwrap();
        let config = Config::new(true, 0);
        let good = slot(&right);
        let mut slots = vec![good.clone()];
        for _ in 0..50 {
            let mut heavy = slot(&UserSecret::passphrase("other"));
            heavy.kdf = Some(KdfParams { memory_kib: 1 << 20, passes: 32, ..cheap.clone() });
            slots.insert(0, heavy);
        }
        let config_bytes = Ok(Bytes::from(config.encode(&keys)));
        let location = "here".into();
        let probe = Probe { config_bytes, slots, copies: vec![], unreadable: vec![], location };
        let begun = Instant::now();
        assert_eq!(probe.open_slot(&right).unwrap().0.id, good.id);
        let wrong = probe.open_slot(&UserSecret::passphrase("wrong"));
        assert!(matches!(wrong, Err(Error::WrongSecret { .. })));
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
