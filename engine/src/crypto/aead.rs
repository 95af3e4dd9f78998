//! XChaCha20-Poly1305 over buffers, in place, with detached tags.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};

use super::NotAuthentic;

/// Length of a nonce.
pub const NONCE: usize = 24;
/// Length of a tag.
pub const TAG: usize = 16;

/// A keyed cipher; the key is wiped on drop by the library.
pub struct Cipher(XChaCha20Poly1305);

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher(…)")
    }
}

impl Cipher {
    /// Keys the cipher.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(XChaCha20Poly1305::new(key.into()))
    }

    /// Encrypts in place and returns the tag. The nonce must be new for this key.
    pub fn seal(&self, nonce: &[u8; NONCE], associated: &[u8], bytes: &mut [u8]) -> [u8; TAG] {
        #[expect(
            clippy::expect_used,
            reason = "fails only for messages over 256 GiB; decoders and writers stop at 64 MiB"
        )]
        let tag = self
            .0
            .encrypt_inout_detached(&XNonce::from(*nonce), associated, bytes.into())
            .expect("message length is within the cipher's limit");
        tag.into()
    }

    /// Decrypts in place if the tag fits; else the bytes are left as they were.
    pub fn open(
        &self,
        nonce: &[u8; NONCE],
        associated: &[u8],
        bytes: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), NotAuthentic> {
        self.0
            .decrypt_inout_detached(&XNonce::from(*nonce), associated, bytes.into(), &Tag::from(*tag))
            .map_err(|_opaque| NotAuthentic)
    }
}
