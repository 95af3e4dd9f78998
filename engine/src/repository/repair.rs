//! Repairing a store. So far: CONFIG and its copies.

use super::Repository;
use super::create::put_config_copy;
use super::opening::Probe;
use crate::error::{Error, Result};
use crate::id::ObjectId;
use crate::storage::{Area, ObjectName, put_bytes};

/// Something that is wrong with a store and can be mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// CONFIG is missing or damaged, for this reason; a copy of it is whole.
    Config(String),
    /// A plaintext store has no whole copy of its CONFIG.
    NoCopy,
    /// This object among the keys should be a copy of CONFIG, and is damaged.
    Copy(ObjectId),
}

impl Repository {
    /// What can be mended.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn faults(&self) -> Result<Vec<Fault>> {
        let probe = Probe::read(&self.store).await?;
        let mut faults: Vec<Fault> = probe.config_fault(&self.keys).map(Fault::Config).into_iter().collect();
        if !self.keys.is_sealed() {
            let (faulty, has_copy) = probe.faulty_copies(&self.keys);
            faults.extend((!has_copy).then_some(Fault::NoCopy));
            faults.extend(faulty.into_iter().map(Fault::Copy));
        }
        Ok(faults)
    }

    /// Mends what [`Repository::faults`] found. Whatever is interrupted here leaves one whole CONFIG at least.
    ///
    /// # Errors
    /// The store cannot be written, or what stands in the place of an object cannot be removed.
    pub async fn mend(&self, faults: &[Fault]) -> Result<()> {
        let probe = Probe::read(&self.store).await?;
        let config = probe.good_config(&self.keys).ok_or(Error::Bug("opened without a CONFIG"))?.to_vec();
        for fault in faults {
            match fault {
                Fault::Config(_) => {
                    // Nothing is ever written over.
                    self.store.delete(ObjectName::CONFIG).await?;
                    put_bytes(self.store.as_ref(), ObjectName::CONFIG, config.clone().into()).await?;
                }
                Fault::NoCopy => put_config_copy(&self.store, self.config.store, &config).await?,
                Fault::Copy(id) => self.store.delete(ObjectName::new(Area::Keys, *id)).await?,
            }
        }
        Ok(())
    }
}
