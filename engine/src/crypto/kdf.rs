//! Argon2id: from a passphrase to the key that wraps the master key.

use zeroize::Zeroizing;

use super::secret::Secret;

/// Argon2id's cost and salt, as a key slot stores them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KdfParams {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// Salt.
    pub salt: [u8; 32],
}

impl KdfParams {
    /// RFC 9106's second recommended choice (64 MiB, 3 passes, 4 lanes) with a new salt.
    pub fn recommended() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 4, salt: crate::random_bytes() }
    }

    /// Whether the values lie within what a reader accepts: a hostile slot must not eat the machine.
    pub fn is_acceptable(&self) -> bool {
        (8..=1 << 20).contains(&self.memory_kib)
            && (1..=32).contains(&self.passes)
            && (1..=64).contains(&self.lanes)
            && self.memory_kib >= 8 * self.lanes
    }

    /// Derives the wrapping key. `None` when the parameters are outside the limits.
    pub fn derive(&self, passphrase: &[u8]) -> Option<Secret<32>> {
        if !self.is_acceptable() {
            return None;
        }
        let params = argon2::Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).ok()?;
        let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        // Whoever finds these blocks in memory later needs no passphrase.
        let mut blocks = Zeroizing::new(vec![argon2::Block::default(); argon.params().block_count()]);
        let mut key = Zeroizing::new([0; 32]);
        argon.hash_password_into_with_memory(passphrase, &self.salt, &mut key[..], &mut blocks[..]).ok()?;
        Some(Secret::new(*key))
    }

    /// What deriving costs: KiB of memory times passes over it.
    pub fn cost(&self) -> u64 {
        u64::from(self.memory_kib) * u64::from(self.passes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_parameters_are_refused() {
        let good = KdfParams { memory_kib: 64, passes: 1, lanes: 1, salt: [0; 32] };
        assert!(good.derive(b"x").is_some());
        for bad in [
            KdfParams { memory_kib: u32::MAX, ..good.clone() },
            KdfParams { passes: 1000, ..good.clone() },
            KdfParams { passes: 0, ..good.clone() },
            KdfParams { lanes: 65, ..good.clone() },
        ] {
            assert!(bad.derive(b"x").is_none());
        }
    }
}
