//! Key slots: the master key wrapped under a passphrase or a key file. `docs/FORMAT.md` §6.

#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

use crate::config::Config;
use crate::crypto::aead::{Cipher, NONCE, TAG};
use crate::crypto::kdf::KdfParams;
use crate::crypto::secret::Secret;
use crate::crypto::{Keyring, NotAuthentic, VERSION};
use crate::id::{ObjectId, StoreId};
use crate::object::Preamble;
use crate::storage::Area;
use crate::wire::{Put, WireError, WireResult, read_fields};
use zeroize::Zeroizing;

/// What opens a slot.
#[derive(Clone)]
pub enum UserSecret {
    /// Words; hardened by Argon2id.
    Passphrase(Zeroizing<Vec<u8>>),
    /// 32 random bytes from a key file.
    KeyFile(Secret<32>),
}

const KEY_FILE_WORD: &str = "PLAKAR-KEY-1 ";

impl UserSecret {
    /// A passphrase.
    pub fn passphrase(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Passphrase(Zeroizing::new(bytes.into()))
    }

    /// What a file holds: a key file of ours, or a passphrase (without one trailing newline).
    pub fn from_file_contents(mut bytes: Vec<u8>) -> Self {
        if let Some(key) = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|t| t.trim_end().strip_prefix(KEY_FILE_WORD))
            .and_then(ObjectId::from_hex)
        {
            return Self::KeyFile(Secret::new(key.0));
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        Self::passphrase(bytes)
    }

    /// A new random key for a key file.
    pub fn new_key_file() -> Self {
        Self::KeyFile(Secret::new(crate::random_bytes()))
    }

    /// The text of a key file; `None` for a passphrase.
    pub fn key_file_text(&self) -> Option<Zeroizing<String>> {
        match self {
            Self::KeyFile(key) => {
                let hex = Zeroizing::new(hex::encode(key.expose()));
                Some(Zeroizing::new(format!("{KEY_FILE_WORD}{}\n", *hex)))
            }
            Self::Passphrase(_) => None,
        }
    }
}

impl std::fmt::Debug for UserSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(…)",
            Self::KeyFile(_) => "KeyFile(…)",
        })
    }
}

/// One key slot.
#[derive(Clone, Debug)]
pub struct KeySlot {
    /// Its name in the store.
    pub id: ObjectId,
    /// Its store.
    pub store: StoreId,
    /// Cost and salt; `None` for a key file.
    pub kdf: Option<KdfParams>,
    /// When it was made, ns since 1970.
    pub created_ns: i64,
    /// What the user calls it.
    pub label: String,
    /// A copy of CONFIG.
    pub config: Vec<u8>,
    wrapped: [u8; NONCE + 32 + TAG],
    /// The MAC of all this but CONFIG, which has its own; slots of older programs have none.
    mac: Option<[u8; 32]>,
}

/// What stands among the keys.
#[derive(Clone, Debug)]
pub enum Stored {
    /// A key.
    Key(Box<KeySlot>),
    /// No key, but a copy of CONFIG, in a plaintext store.
    ConfigCopy(Vec<u8>),
}

const KIND_COPY: u8 = 3;

impl Stored {
    /// Reads what has this name among the keys.
    pub fn decode(id: ObjectId, bytes: &[u8]) -> WireResult<Self> {
        if bytes.len() > 128 << 10 {
            return Err(WireError::Malformed("length"));
        }
        let (preamble, fields) = Preamble::decode(Area::Keys, bytes)?;
        let (mut kind, mut kdf, mut wrapped) = (0, None, None);
        let (mut created_ns, mut label, mut config, mut mac) = (0, String::new(), Vec::new(), None);
        read_fields(fields, "key slot", |tag, mut r| {
            match tag {
                1 => kind = r.u8()?,
                2 => created_ns = r.iv()?,
                3 => {
                    if r.u8()? != 1 {
                        return Err(WireError::Newer("key derivation"));
                    }
                    let (memory_kib, passes, lanes) = (r.u32()?, r.u32()?, r.u32()?);
                    kdf = Some(KdfParams { memory_kib, passes, lanes, salt: r.array()? });
                }
                4 => {
                    let b = r.take(r.remaining().min(MAX_LABEL))?;
                    label = String::from_utf8_lossy(b).into_owned();
                }
                5 => wrapped = Some(r.array()?),
                6 => config = r.take(r.remaining())?.to_vec(),
                8 => mac = Some(r.array()?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        match kind {
            KIND_COPY => {
                let is_of_another = Config::decode(&config).is_ok_and(|c| c.store != preamble.store);
                return if is_of_another {
                    Err(WireError::Malformed("store id of a copy of CONFIG"))
                } else {
                    Ok(Self::ConfigCopy(config))
                };
            }
            1 if kdf.as_ref().is_some_and(KdfParams::is_acceptable) => {}
            1 => return Err(WireError::Malformed("key derivation parameters")),
            2 => kdf = None,
            _ => return Err(WireError::Newer("kind of key slot")),
        }
        let wrapped = wrapped.ok_or(WireError::Truncated)?;
        let slot = KeySlot { id, store: preamble.store, kdf, created_ns, label, config, wrapped, mac };
        Ok(Self::Key(Box::new(slot)))
    }
}

/// The bytes of an object among the keys that only repeats CONFIG.
pub fn encode_config_copy(store: StoreId, config: &[u8]) -> Vec<u8> {
    let mut out = Preamble::new(Area::Keys, store, false).encode().to_vec();
    out.put_field(1, &[KIND_COPY]);
    out.put_field(6, config);
    out
}

/// Longest label, in bytes.
pub const MAX_LABEL: usize = 255;

fn associated(store: StoreId, id: ObjectId) -> [u8; 50] {
    let mut a = [0; 50];
    a[0] = VERSION;
    a[1] = b'S';
    a[2..18].copy_from_slice(&store.0);
    a[18..].copy_from_slice(&id.0);
    a
}

fn wrapping_key(secret: &UserSecret, kdf: Option<&KdfParams>) -> Option<Secret<32>> {
    match (secret, kdf) {
        (UserSecret::Passphrase(p), Some(kdf)) => kdf.derive(p),
        (UserSecret::KeyFile(k), None) => {
            Some(Secret::new(blake3::derive_key("plakar-rs 2026 format 1: key file", k.expose())))
        }
        _ => None,
    }
}

impl KeySlot {
    /// Wraps the master key. Takes Argon2id's time for a passphrase.
    ///
    /// # Errors
    /// Parameters outside the format's limits.
    pub fn new(
        keys: &Keyring,
        secret: &UserSecret,
        kdf: KdfParams,
        label: &str,
        created_ns: i64,
        config: Vec<u8>,
    ) -> WireResult<Self> {
        let (id, store) = (ObjectId::random(), keys.store());
        let kdf = matches!(secret, UserSecret::Passphrase(_)).then_some(kdf);
        let key =
            wrapping_key(secret, kdf.as_ref()).ok_or(WireError::Malformed("key derivation parameters"))?;
        if label.len() > MAX_LABEL {
            return Err(WireError::Malformed("label: it is longer than 255 bytes"));
        }
        let nonce: [u8; NONCE] = crate::random_bytes();
        let mut body = Zeroizing::new(*keys.master().expose());
        let tag = Cipher::new(key.expose()).seal(&nonce, &associated(store, id), &mut body[..]);
        let mut wrapped = [0; NONCE + 32 + TAG];
        wrapped[..NONCE].copy_from_slice(&nonce);
        wrapped[NONCE..NONCE + 32].copy_from_slice(&body[..]);
        wrapped[NONCE + 32..].copy_from_slice(&tag);
        let mut slot = Self { id, store, kdf, created_ns, label: label.into(), config, wrapped, mac: None };
        slot.mac = Some(*keys.slot_mac(&slot.bound()).as_bytes());
        Ok(slot)
    }

    /// Whether what it says in clear (its label, its date) is what was written by somebody who had a key; `None` for a
    /// slot of a program that did not vouch for that yet.
    pub fn is_authentic(&self, keys: &Keyring) -> Option<bool> {
        // `blake3::Hash` compares in constant time.
        self.mac.map(|mac| keys.slot_mac(&self.bound()) == blake3::Hash::from_bytes(mac))
    }

    /// What the MAC is about.
    fn bound(&self) -> Vec<u8> {
        let mut out = self.id.0.to_vec();
        self.put_fields(&mut out);
        out
    }

    /// Unwraps the master key. A secret of the other kind is refused without the cost of trying.
    pub fn open(&self, secret: &UserSecret) -> Result<Secret<32>, NotAuthentic> {
        let key = wrapping_key(secret, self.kdf.as_ref()).ok_or(NotAuthentic)?;
        let (nonce, rest) = self.wrapped.split_first_chunk::<NONCE>().ok_or(NotAuthentic)?;
        let (body, tag) = rest.split_last_chunk::<TAG>().ok_or(NotAuthentic)?;
        let mut master = Zeroizing::new([0; 32]);
        master.copy_from_slice(body);
        Cipher::new(key.expose()).open(nonce, &associated(self.store, self.id), &mut master[..], tag)?;
        Ok(Secret::new(*master))
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Preamble::new(Area::Keys, self.store, false).encode().to_vec();
        self.put_fields(&mut out);
        out.put_field(6, &self.config);
        if let Some(mac) = &self.mac {
            out.put_field(8, mac);
        }
        out
    }

    /// All fields but the copy of CONFIG and the MAC.
    fn put_fields(&self, out: &mut Vec<u8>) {
        out.put_field(1, &[if self.kdf.is_some() { 1 } else { 2 }]);
        let mut v = Vec::new();
        v.put_iv(self.created_ns);
        out.put_field(2, &v);
        if let Some(kdf) = &self.kdf {
            v = vec![1];
            for n in [kdf.memory_kib, kdf.passes, kdf.lanes] {
                v.put_u32(n);
            }
            v.extend_from_slice(&kdf.salt);
            out.put_field(3, &v);
        }
        out.put_field(4, self.label.as_bytes());
        out.put_field(5, &self.wrapped);
    }

    /// Reads a slot.
    pub fn decode(id: ObjectId, bytes: &[u8]) -> WireResult<Self> {
        match Stored::decode(id, bytes)? {
            Stored::Key(slot) => Ok(*slot),
            Stored::ConfigCopy(_) => Err(WireError::Newer("kind of key slot")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap() -> KdfParams {
        KdfParams { memory_kib: 64, passes: 1, lanes: 1, salt: [4; 32] }
    }

    #[test]
    fn a_slot_opens_with_its_secret_only() {
        let store = StoreId([1; 16]);
        let master = Secret::new([5; 32]);
        let words = UserSecret::passphrase("correct horse");
        let keys = Keyring::sealed(store, master.clone());
        let slot = KeySlot::new(&keys, &words, cheap(), "mine", 7, vec![1, 2]).unwrap();
        let read = KeySlot::decode(slot.id, &slot.encode()).unwrap();
        assert_eq!(read.open(&words).unwrap().expose(), master.expose());
        assert_eq!((read.label.as_str(), read.config.as_slice()), ("mine", &[1, 2][..]));
        assert!(read.open(&UserSecret::passphrase("wrong")).is_err());
        assert!(read.open(&UserSecret::new_key_file()).is_err());
        assert_eq!(read.is_authentic(&keys), Some(true));
        for other in [
            KeySlot { label: "yours".into(), ..read.clone() },
            KeySlot { created_ns: 8, ..read.clone() },
            KeySlot { id: ObjectId([9; 32]), ..read.clone() },
        ] {
            let read = KeySlot::decode(other.id, &other.encode()).unwrap();
            assert_eq!(read.is_authentic(&keys), Some(false));
        }
        assert_eq!(KeySlot { mac: None, ..read.clone() }.is_authentic(&keys), None);
        let moved = KeySlot { id: ObjectId([9; 32]), ..read };
        assert!(moved.open(&words).is_err(), "a slot is bound to its name");
    }

    #[test]
    fn key_files_round_trip_through_their_text() {
        let key = UserSecret::new_key_file();
        let text = key.key_file_text().unwrap();
        let slot = KeySlot::new(
            &Keyring::sealed(StoreId([1; 16]), Secret::new([5; 32])),
            &key,
            cheap(),
            "",
            0,
            vec![],
        )
        .unwrap();
        let again = UserSecret::from_file_contents(text.as_bytes().to_vec());
        assert!(KeySlot::decode(slot.id, &slot.encode()).unwrap().open(&again).is_ok());
        assert!(
            matches!(UserSecret::from_file_contents(b"hello\n".to_vec()), UserSecret::Passphrase(p) if p[..] == *b"hello")
        );
    }
}
