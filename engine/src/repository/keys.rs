//! The keys that open a store: added and removed.

use super::{Repository, now_ns};
use crate::blocking::blocking;
use crate::config::Config;
use crate::crypto::kdf::KdfParams;
use crate::error::{Error, Result, report};
use crate::id::ObjectId;
use crate::keyslot::{KeySlot, UserSecret};
use crate::storage::{Area, ObjectName, put_bytes};

impl Repository {
    /// Adds a key slot.
    pub async fn add_key(&self, secret: &UserSecret, label: &str, kdf: KdfParams) -> Result<KeySlot> {
        if !self.keys.is_sealed() {
            return Err(Error::Usage("a store that is not encrypted has no keys".into()));
        }
        let config = self.config.encode(&self.keys);
        let (keys, secret, label) = (self.keys.clone(), secret.clone(), label.to_owned());
        let slot = blocking(move || {
            KeySlot::new(&keys, &secret, kdf, &label, now_ns(), config)
                .map_err(|e| Error::Usage(e.to_string()))
        })
        .await?;
        let name = ObjectName::new(Area::Keys, slot.id);
        let stored = async {
            put_bytes(self.store.as_ref(), name, slot.encode().into()).await?;
            let back = self.store.get(name, None).await?;
            KeySlot::decode(slot.id, &back).map_err(|e| Error::object(name, e))
        };
        if let Err(e) = stored.await {
            // It may be there. Its secret is given to nobody now.
            if let Err(left) = self.store.delete(name).await {
                tracing::warn!(slot = %slot.id.short(), error = report(&left), "a key that opens nothing may be left");
            }
            return Err(e);
        }
        Ok(slot)
    }

    /// Removes a key slot; never the last one that is whole.
    pub async fn remove_key(&self, id: ObjectId) -> Result<()> {
        let slots = self.store.list(Area::Keys).await?;
        if !slots.iter().any(|l| l.id == id) {
            return Err(Error::Usage(format!("there is no key {}", id.short())));
        }
        let mut others = 0;
        for l in slots.iter().filter(|l| l.id != id) {
            let bytes = self.store.get(ObjectName::new(Area::Keys, l.id), None).await?;
            let slot = KeySlot::decode(l.id, &bytes).ok();
            others += usize::from(slot.is_some_and(|s| Config::verify(&s.config, &self.keys)));
        }
        if others == 0 {
            return Err(Error::Usage(
                "this is the only key that is whole: without it nobody could open the store again".into(),
            ));
        }
        Ok(self.store.delete(ObjectName::new(Area::Keys, id)).await?)
    }
}
