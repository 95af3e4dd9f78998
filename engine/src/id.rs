//! Names of things: 32-byte ids, one type per kind so that they cannot be mixed up.

use std::fmt;

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The first eight hexadecimal digits, for people.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }

            /// Reads 64 hexadecimal digits, lower case only (the form of names in a store).
            pub fn from_hex(text: &str) -> Option<Self> {
                if text.len() != 64 || text.bytes().any(|b| b.is_ascii_uppercase()) {
                    return None;
                }
                let mut id = [0; 32];
                hex::decode_to_slice(text, &mut id).ok()?;
                Some(Self(id))
            }

            /// A new random id.
            pub fn random() -> Self {
                Self(crate::random_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }
    };
}

id_type! {
    /// A blob: keyed BLAKE3 of its clear bytes.
    BlobId
}
id_type! {
    /// An object of a store: 32 random bytes. Packfiles, states, snapshots, key slots and the rest.
    ObjectId
}

/// A store's own id: 16 random bytes, the same in each of its objects.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    /// As a UUID is written: 8-4-4-4-12.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let h = hex::encode(self.0);
        write!(f, "{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip_and_refusals() {
        let id = ObjectId::random();
        assert_eq!(ObjectId::from_hex(&id.to_string()), Some(id));
        assert_eq!(ObjectId::from_hex("ab"), None);
        assert_eq!(ObjectId::from_hex(&"AB".repeat(32)), None);
        assert_eq!(ObjectId::from_hex(&"zz".repeat(32)), None);
    }
}
