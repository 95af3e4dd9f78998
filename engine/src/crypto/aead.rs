//! XChaCha20-Poly1305 over buffers, in place, with detached tags.
//!
//! As its draft defines it: HChaCha20 makes a subkey of the key and 16 bytes of the nonce, under which
//! ChaCha20-Poly1305 (RFC 8439) seals with the other 8. The latter is `ring`'s, which takes half the time of others:
//! `docs/decisions/0005-ring-seals-frames.md`.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroize;

use super::NotAuthentic;
use super::secret::Secret;

/// Length of a nonce.
pub const NONCE: usize = 24;
/// Length of a tag.
pub const TAG: usize = 16;

/// A keyed cipher; the key is wiped on drop.
pub struct Cipher(Secret<32>);

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher(…)")
    }
}

impl Cipher {
    /// Keys the cipher.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Secret::new(*key))
    }

    /// The key and nonce of the inner cipher that a nonce leads to.
    fn inner(&self, nonce: &[u8; NONCE]) -> (LessSafeKey, Nonce) {
        let (mut head, mut tail) = ([0; 16], [0; 12]);
        head.copy_from_slice(&nonce[..16]);
        tail[4..].copy_from_slice(&nonce[16..]);
        let key = self.0.expose().into();
        let mut subkey: [u8; 32] = chacha20::hchacha::<chacha20::R20>(key, &head.into()).into();
        #[expect(clippy::expect_used, reason = "fails only for keys of another length than 32")]
        let key = UnboundKey::new(&CHACHA20_POLY1305, &subkey).expect("the subkey has 32 bytes");
        subkey.zeroize();
        (LessSafeKey::new(key), Nonce::assume_unique_for_key(tail))
    }

    /// Encrypts in place and returns the tag. The nonce must be new for this key.
    pub fn seal(&self, nonce: &[u8; NONCE], associated: &[u8], bytes: &mut [u8]) -> [u8; TAG] {
        let (key, nonce) = self.inner(nonce);
        #[expect(
            clippy::expect_used,
            reason = "fails only for messages over 256 GiB; decoders and writers stop at 64 MiB"
        )]
        let sealed = key
            .seal_in_place_separate_tag(nonce, Aad::from(associated), bytes)
            .expect("message length is within the cipher's limit");
        let mut tag = [0; TAG];
        tag.copy_from_slice(sealed.as_ref());
        tag
    }

    /// Decrypts in place if the tag fits; else nothing in `bytes` may be used.
    pub fn open(
        &self,
        nonce: &[u8; NONCE],
        associated: &[u8],
        bytes: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), NotAuthentic> {
        let (key, nonce) = self.inner(nonce);
        key.open_in_place_separate_tag(nonce, Aad::from(associated), (*tag).into(), bytes, 0..)
            .map(|_clear| ())
            .map_err(|_opaque| NotAuthentic)
    }
}

#[cfg(test)]
mod tests {
    use chacha20poly1305::aead::{AeadInOut, KeyInit};
    use chacha20poly1305::{XChaCha20Poly1305, XNonce};

    use super::*;

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn the_drafts_example_is_sealed_as_it_says() {
        let hex = |text: &str| hex::decode(text).unwrap();
        let key = hex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f");
        let nonce = hex("404142434445464748494a4b4c4d4e4f5051525354555657");
        let associated = hex("50515253c0c1c2c3c4c5c6c7");
        let clear = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
                      future, sunscreen would be it.";
        let sealed = hex("bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb\
                          731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452\
                          2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9\
                          21f9664c97637da9768812f615c68b13b52e");
        let cipher = Cipher::new(key[..].try_into().unwrap());
        let nonce: [u8; NONCE] = nonce[..].try_into().unwrap();
        let mut bytes = clear.to_vec();
        let tag = cipher.seal(&nonce, &associated, &mut bytes);
        assert_eq!(bytes, sealed);
        assert_eq!(hex::encode(tag), "c0875924c1c7987947deafd8780acf49");
        cipher.open(&nonce, &associated, &mut bytes, &tag).unwrap();
        assert_eq!(bytes, clear);
    }

    #[test]
    fn another_implementation_gives_the_same_bytes() {
        let mut noise = blake3::Hasher::new().finalize_xof();
        for len in [0, 1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 511, 513, 1023, 1025, 4096, 65_537, 1 << 20]
        {
            let (mut key, mut nonce, mut associated) = ([0; 32], [0; NONCE], [0; 59]);
            let mut clear = vec![0; len];
            [&mut key[..], &mut nonce, &mut associated, &mut clear].into_iter().for_each(|b| noise.fill(b));
            let associated = &associated[..len % 60];
            let reference = XChaCha20Poly1305::new(&key.into());
            let mut expected = clear.clone();
            let expected_tag = reference
                .encrypt_inout_detached(&XNonce::from(nonce), associated, expected.as_mut_slice().into())
                .unwrap();
            let (cipher, mut bytes) = (Cipher::new(&key), clear.clone());
            let tag = cipher.seal(&nonce, associated, &mut bytes);
            assert_eq!((&bytes, tag), (&expected, expected_tag.into()), "{len}");
            for flipped in [0, 9, 23] {
                let mut other = nonce;
                other[flipped] ^= 1;
                assert!(cipher.open(&other, associated, &mut bytes.clone(), &tag).is_err());
            }
            cipher.open(&nonce, associated, &mut bytes, &tag).unwrap();
            assert_eq!(bytes, clear);
        }
    }
}
