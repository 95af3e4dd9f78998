//! All decoders of stored bytes behind one door, for fuzzing.

use crate::config::Config;
use crate::crypto::Keyring;
use crate::frame::FrameRecord;
use crate::id::{ObjectId, StoreId};
use crate::keyslot::KeySlot;
use crate::object::Preamble;
use crate::packfile;
use crate::removal::{Lease, Note, Removal};
use crate::snapshot::Snapshot;
use crate::state::{self, BlobRecord, Head, PackfileRecord};
use crate::storage::Area;
use crate::tree::{self, Directory, Owners};

/// How many decoders there are.
pub const DECODERS: u8 = 15;

/// Runs one decoder, chosen by number, over bytes. What it says does not matter, only that it comes back. Sealed
/// containers are opened as those of a plaintext store, so that what is behind the seal is reached too.
pub fn decode(which: u8, bytes: &[u8]) {
    let keys = Keyring::plaintext(StoreId([0; 16]));
    let id = ObjectId([0; 32]);
    let preamble = Preamble::new(Area::States, keys.store(), false);
    let sealed = |last| keys.index.seal(&preamble.context(id), 0, last, bytes);
    match which % DECODERS {
        0 => drop(Config::decode(bytes)),
        1 => drop(KeySlot::decode(id, bytes)),
        2 => drop(Directory::decode(bytes)),
        3 => drop(tree::decode_list(bytes, 0, bytes.len() as u64)),
        4 => drop(Owners::decode(bytes)),
        5 => drop(Snapshot::decode(id, bytes)),
        6 => drop(Removal::decode(bytes)),
        7 => drop(Note::decode(bytes)),
        8 => drop(Lease::decode(bytes)),
        9 => drop(bytes.first_chunk().map(FrameRecord::decode)),
        10 => drop(bytes.first_chunk().map(PackfileRecord::decode)),
        11 => drop(bytes.first_chunk().map(BlobRecord::decode)),
        12 => drop(Head::decode(&keys, &preamble.context(id), 40, 0, &sealed(true))),
        13 => drop(packfile::decode_footer(&keys, &preamble, id, &sealed(true))),
        _ => {
            let _ = bytes.first_chunk().map(packfile::decode_trailer);
            let _ = bytes.first_chunk().map(state::decode_trailer);
            let _ = Preamble::decode(Area::States, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Entry, Links};

    /// Something valid for as many decoders as is easy: mutations of it get deep.
    fn seeds() -> Vec<(u8, Vec<u8>)> {
        let config = Config::new(false, 1);
        let keys = Keyring::plaintext(config.store);
        let snapshot = Snapshot { tags: vec!["t".into()], roots: vec![b"/a".to_vec()], ..Snapshot::empty() };
        let mut entry: Entry = snapshot.root.clone();
        entry.name = b"name".to_vec();
        entry.links = Some(Links { group: 1, count: 2 });
        entry.error = Some("why".into());
        let mut node = vec![1, 1, 1];
        entry.encode(&mut node);
        let mut file = Entry { name: b"sparse".to_vec(), ..entry.clone() };
        file.meta.kind = crate::meta::Kind::Regular;
        file.meta.size = 1 << 30;
        let list = tree::Extent { id: Some(crate::id::BlobId([1; 32])), len: 1 << 30 };
        file.detail = tree::Detail::Regular(tree::Contents {
            level: 1,
            items: vec![list],
            data_bytes: 1 << 20,
            missing: false,
        });
        let mut sparse = vec![1, 1, 1];
        file.encode(&mut sparse);
        assert!(Directory::decode(&sparse).is_ok());
        let removal = Removal {
            kind: crate::removal::RemovalKind::Tombstone,
            targets: vec![ObjectId([1; 32])],
            successor: None,
            time_ns: 1,
            reason: "r".into(),
            writer: [0; 16],
        };
        vec![(0, config.encode(&keys)), (2, node), (2, sparse), (5, snapshot.encode()), (6, removal.encode())]
    }

    #[test]
    fn no_decoder_panics_on_mutations() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for (which, seed) in seeds() {
            decode(which, &seed);
            for _ in 0..20_000 {
                let mut bytes = seed.clone();
                for _ in 0..=random() % 4 {
                    let at = random() as usize % bytes.len();
                    match random() % 4 {
                        0 => bytes[at] = random() as u8,
                        1 => bytes[at] ^= 1 << (random() % 8),
                        2 => bytes.truncate(at.max(1)),
                        _ => bytes.insert(at, random() as u8),
                    }
                }
                decode(which, &bytes);
            }
        }
        for which in 0..DECODERS {
            for len in 0..300 {
                let bytes: Vec<u8> = (0..len).map(|_| random() as u8).collect();
                decode(which, &bytes);
            }
        }
    }
}
