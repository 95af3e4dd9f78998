//! Trees of everything that a file system can hold and a backup program can get wrong. Root makes them: owners,
//! devices and some attributes need it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::FileType;

use super::directory::{At, Directory};

/// Chunks are cut from 128 KiB to 2 MiB, at 512 KiB on average; slices have 256 KiB, frames 1 MiB.
const BORDERS: [u64; 5] = [128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20];

/// The size of the sparse file.
pub(crate) const SPARSE: u64 = 5 << 30;

/// How many entries the crowded directory has.
pub(crate) const CROWD: u32 = 100_000;

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// All parts in one tree but the crowded directory.
pub(crate) fn everything(root: &Path) {
    std::fs::create_dir(root).unwrap();
    let root = Directory::open(root);
    kinds(&root.make("kinds"));
    names(&root.make("names"));
    permissions(&root.make("permissions"));
    times(&root.make("times"));
    attributes(&root.make("attributes"));
    sizes(&root.make("sizes"));
    deep(&root.make("deep"));
    root.make("empty");
    root.at("empty").mtime(1, 1);
    root.at(".").mode(0o1750).owner(12, 34).xattr("user.root", b"of all").mtime(-1, 999_999_999);
}

/// Every kind of object, and hard links to each across directories.
fn kinds(d: &Directory) {
    let other = d.make("links");
    d.at("regular").file(b"content\n").link(other.at("regular")).link(d.at("regular too"));
    d.at("empty").file(b"").link(other.at("empty"));
    d.at("dangling").symlink(b"nowhere/at all").link(other.at("dangling"));
    d.at("absolute").symlink(b"/etc/passwd");
    d.at("to a directory").symlink(b"links/");
    d.at("upwards").symlink(b"../../../../..");
    d.at("to itself").symlink(b"to itself");
    d.at("long").symlink(&[b'x'; 4000]);
    d.at("not text").symlink(b"\xff\n\x01");
    d.at("fifo").node(FileType::Fifo, (0, 0)).link(other.at("fifo"));
    d.at("socket").node(FileType::Socket, (0, 0)).link(other.at("socket"));
    // The devices whose numbers nothing has: they are never opened.
    d.at("char").node(FileType::CharacterDevice, (259, 70_000)).link(other.at("char"));
    d.at("block").node(FileType::BlockDevice, (4095, 1_048_575));
    d.at("whiteout").node(FileType::CharacterDevice, (0, 0));
    let same = d.make("same content, no links");
    same.at("a").file(b"content\n");
    same.at("b").file(b"content\n");
    // A link whose other name is not backed up with it is made one by `link_from_outside`.
}

/// Names that shells, terminals, JSON and path handling trip over.
fn names(d: &Directory) {
    let long = [b'n'; 255];
    let many: [&[u8]; 26] = [
        b"new\nline",
        b"\n",
        b"\xff\xfe invalid",
        b"caf\xc3\xa9",
        b"cafe\xcc\x81",
        b"\xed\xa0\x80 surrogate",
        b"-rf",
        b"--",
        b"-",
        b"*",
        b"?",
        b"trailing ",
        b" leading",
        b" ",
        b"'quote'",
        b"\"quotes\"",
        b"`id`",
        b"$(id)",
        b"back\\slash",
        b"\\",
        b"\x1b[31mred\x1b[0m",
        b"\x07\x08\x7f\r",
        b"...",
        b"a:b",
        b"~",
        b"#% &;|<>(){}[]!^",
    ];
    for name in many {
        d.at(name).file(name);
    }
    d.at(&long).file(&long);
    let directory = d.make([b'd'; 255]);
    directory.at(&[0xff; 255]).symlink(&[b's'; 255]);
    let odd = d.make(b"dir\nwith\xff").make("-x").make(" ").make("'");
    odd.at("\u{202e}right to left").file(b"");
    // As in a store, as a name of this program's own, as a temporary file of it.
    for name in ["CONFIG", ".plakar", "snapshots", "tmp-1", ".plakar-1.tmp"] {
        d.at(name).file(name.as_bytes());
    }
}

/// Modes and owners.
fn permissions(d: &Directory) {
    for mode in [0, 0o1, 0o111, 0o400, 0o644, 0o777, 0o1644, 0o2755, 0o4755, 0o6711, 0o2644, 0o7777] {
        let name = format!("file {mode:04o}");
        d.at(&name).file(name.as_bytes()).owner(1000, 1001).mode(mode);
        let name = format!("dir {mode:04o}");
        let inner = d.make(&name);
        inner.at("in it").file(b"in it").mode(mode & 0o777);
        d.at(&name).owner(1001, 1000).mode(mode);
    }
    d.at("fifo 4600").node(FileType::Fifo, (0, 0)).mode(0o4600);
    d.at("char 0000").node(FileType::CharacterDevice, (0, 0)).mode(0);
    for (uid, gid) in [(0, 1), (1, 0), (65_534, 65_534), (65_535, 65_536), (u32::MAX - 1, u32::MAX - 1)] {
        let name = format!("of {uid} {gid}");
        d.at(&name).file(b"").owner(uid, gid).mode(0o4755);
        d.at(&format!("link {name}")).symlink(b"x").owner(uid, gid);
        d.at(&format!("fifo {name}")).node(FileType::Fifo, (0, 0)).owner(uid, gid);
        d.make(format!("dir {name}"));
        d.at(&format!("dir {name}")).owner(uid, gid).mode(0o2770);
    }
}

/// Times before 1970 and after 2038, as far as ext4 goes.
fn times(d: &Directory) {
    let times: [(i64, i64); 8] = [
        (-2_147_483_648, 1),
        (-1, 999_999_999),
        (0, 0),
        (0, 1),
        (1_700_000_000, 123_456_789),
        (2_147_483_647, 999_999_999),
        (2_147_483_648, 0),
        (15_032_385_535, 999_999_999),
    ];
    for (i, (s, ns)) in times.into_iter().enumerate() {
        d.at(&format!("{i} file")).file(b"x").mtime(s, ns);
        d.at(&format!("{i} link")).symlink(b"x").mtime(s, ns);
        d.at(&format!("{i} fifo")).node(FileType::Fifo, (0, 0)).mtime(s, ns);
        let name = format!("{i} dir");
        let inner = d.make(&name);
        inner.make("in it").at("deeper").file(b"x").mtime(s, ns);
        inner.at("in it").mtime(s, ns);
        d.at(&name).mtime(s, ns);
    }
}

/// A POSIX ACL as the kernel keeps it: the owner, one more user, the group, the mask, others.
fn acl(uid: u32) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1u16, 7u16, u32::MAX), (2, 5, uid), (4, 4, u32::MAX), (16, 5, u32::MAX), (32, 0, u32::MAX)]
    {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// A file capability (cap_net_raw, permitted and effective).
fn capability() -> Vec<u8> {
    let mut value = 0x0200_0001u32.to_le_bytes().to_vec();
    value.extend([0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    value
}

/// Extended attributes and ACLs, on everything that can have them.
fn attributes(d: &Directory) {
    let all = |at: At<'_>| {
        at.xattr("trusted.mark", b"t").xattr("security.plakar-test", b"\0s\xff");
    };
    let more = |at: At<'_>| {
        at.xattr("user.empty", b"").xattr("user.bytes", &[0, 1, 255]).xattr("user.name with space=", b"v");
        all(at);
    };
    more(d.at("file").file(b"x"));
    more(d.at("empty").file(b""));
    d.make("dir");
    more(d.at("dir"));
    all(d.at("link").symlink(b"file"));
    all(d.at("fifo").node(FileType::Fifo, (0, 0)));
    all(d.at("socket").node(FileType::Socket, (0, 0)));
    all(d.at("char").node(FileType::CharacterDevice, (0, 0)));
    let many = d.at("many").file(b"");
    for i in 0..100 {
        many.xattr(&format!("user.{i:03}"), format!("{i}").as_bytes());
    }
    // What fits into a block of ext4 beside the rest.
    d.at("large value").file(b"").xattr("user.large", &noise(7, 3500));
    d.at("long name").file(b"").xattr(&format!("user.{}", "n".repeat(250)), b"v");
    d.at("read-only").file(b"x").xattr("user.x", b"y").mode(0o444);

    d.at("capability").file(b"x").owner(1000, 1000).mode(0o755).xattr("security.capability", &capability());
    d.at("set-uid and capability")
        .file(b"x")
        .owner(1000, 1000)
        .mode(0o6755)
        .xattr("security.capability", &capability());

    const ACCESS: &str = "system.posix_acl_access";
    const DEFAULT: &str = "system.posix_acl_default";
    d.at("acl").file(b"x").xattr(ACCESS, &acl(1234)).owner(1, 2);
    d.at("acl, set-uid").file(b"x").owner(1, 2).xattr(ACCESS, &acl(0)).mode(0o4755);
    let inner = d.make("acls");
    d.at("acls").xattr(ACCESS, &acl(4321)).xattr(DEFAULT, &acl(99));
    inner.at("inherited").file(b"x");
    inner.at("not inherited").file(b"x").without_xattr(ACCESS).mode(0o600);
    inner.at("fifo").node(FileType::Fifo, (0, 0)).without_xattr(ACCESS);
    inner.make("dir inherited").at("file").file(b"x");
    inner.make("dir not inherited").at("file").file(b"x");
    inner.at("dir not inherited").without_xattr(ACCESS).without_xattr(DEFAULT).mode(0o755);
}

/// Files around every border at which contents are cut, of noise and of one byte repeated; small holes.
fn sizes(d: &Directory) {
    let mut sizes: Vec<u64> = vec![0, 1, 2, 4095, 4096, 4097, 3 << 20, (4 << 20) + 1];
    sizes.extend(BORDERS.iter().flat_map(|b| [b - 1, *b, b + 1]));
    for size in sizes {
        d.at(&format!("noise {size}")).file(&noise(size, size as usize));
    }
    for size in BORDERS {
        d.at(&format!("same {size}")).file(&vec![b'a'; size as usize]);
        d.at(&format!("zeros {size}")).file(&vec![0; size as usize]);
    }
    for (name, size, data) in [
        ("hole", 1 << 20, vec![]),
        ("hole of one byte", 1, vec![]),
        ("hole, data", 3 << 20, vec![(2 << 20, 5000)]),
        ("data, hole", (3 << 20) + 5, vec![(0, 5000)]),
        ("data, hole, data", 5 << 20, vec![(4096, 1 << 20), (4 << 20, 1 << 20)]),
        ("many holes", 40 << 20, (0..40).map(|i| ((i << 20) + (i << 12), 4096)).collect()),
    ] {
        let file = d.at(name).create();
        sparse_file(&file, size, &data);
    }
}

/// A file that is holes but for some places.
fn sparse_file(file: &File, size: u64, data: &[(u64, usize)]) {
    file.set_len(size).unwrap();
    for (at, len) in data {
        file.write_all_at(&noise(*at + 1, *len), *at).unwrap();
    }
}

/// A file of 5 GiB with data at its beginning, in the middle and at its end.
pub(crate) fn sparse(d: &Directory) {
    let file = d.at("sparse").create();
    sparse_file(&file, SPARSE, &[(0, 70_000), (SPARSE / 2 - 1000, 300_000), (SPARSE - 1001, 1001)]);
    drop(file);
    d.at("sparse").mtime(1_234_567_890, 987_654_321);
}

/// A path far longer than the kernel takes at once, with something at its end.
pub(crate) const DEEP: usize = 20;

/// The name of each of its directories.
pub(crate) const DEEP_NAME: [u8; 250] = [b'p'; 250];

fn deep(d: &Directory) {
    let mut all = vec![d.make(DEEP_NAME)];
    for _ in 1..DEEP {
        let next = all[all.len() - 1].make(DEEP_NAME);
        all.push(next);
    }
    let last = &all[DEEP - 1];
    last.at("file").file(b"deep down").mode(0o4711).xattr("user.deep", b"1").link(last.at("link"));
    last.at("symlink").symlink(b"file").xattr("trusted.deep", b"1");
    last.at("fifo").node(FileType::Fifo, (0, 0)).mtime(-5, 5);
    last.make("empty");
    for (i, d) in all.iter().enumerate().rev() {
        d.at(".").owner(i as u32, 7).mode(0o2700 + i as u32).mtime(i as i64, 3);
    }
}

/// A directory of 100,000 entries, mostly empty files.
pub(crate) fn crowd(d: &Directory) {
    for i in 0..CROWD {
        let name = format!("{i:06} {}", "entry".repeat(i as usize % 5));
        if i % 50 == 0 {
            d.make(&name);
            continue;
        }
        let at = d.at(&name);
        match i % 50 {
            1 => at.symlink(name.as_bytes()),
            2 => at.file(&noise(i.into(), 3000)),
            3..=9 => at.file(name.as_bytes()),
            _ => at.file(b""),
        };
    }
    d.at(".").mtime(99, 99);
}
