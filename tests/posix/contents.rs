//! Reading files, in all the ways there are.

use std::fs::File;
use std::io::{IoSliceMut, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use memmap2::{Advice, Mmap, MmapOptions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Advice as Advise, FlockOperation, OFlags, SeekFrom, fcntl_lock, flock};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, pipe, splice};

use super::{Check, LARGE, PAGE, Place, SPARSE, TAIL, gives};
use crate::common::torture::noise;

pub(super) const CHECKS: &[Check] = &[
    ("read, pread and readv at any place", reading),
    ("two readers of one file keep their own places", own_places),
    ("O_DIRECT gives the same bytes", direct),
    ("a shared mapping shows the file and takes no writes", shared_mapping),
    ("a private mapping can be written, the file stays", private_mapping),
    ("a mapping past the end is zeros up to the page's end", mapping_past_the_end),
    ("a mapping outlives its descriptor", mapping_without_descriptor),
    ("splice, sendfile and copy_file_range", without_copying),
    ("lseek finds data, holes and the end", seeking),
    ("holes read as zeros", holes),
    ("locks are as on a local file system", locks),
    ("a file is always ready", ready),
    ("advice is taken", advice),
    ("ioctls answer", ioctls),
];

fn reading(p: &Place) {
    let (file, all) = (p.file("large"), noise(1, LARGE));
    for at in [0, 1, 4095, 4096, (256 << 10) - 1, (1 << 20) - 3, (2 << 20) + 7, LARGE - 10] {
        for len in [1, 9, 4097, 700_001] {
            let mut part = vec![0; len];
            let end = LARGE.min(at + len);
            let mut n = 0;
            while n < end - at {
                let got = file.read_at(&mut part[n..], (at + n) as u64).unwrap();
                assert!(got > 0, "{at} {len}");
                n += got;
            }
            assert!(part[..n] == all[at..end], "{at} {len}");
        }
    }
    let mut byte = [0];
    for past in [LARGE as u64, LARGE as u64 + 1, 1 << 40, i64::MAX as u64 - 1] {
        assert_eq!(file.read_at(&mut byte, past).unwrap(), 0, "{past}");
    }
    let (mut a, mut b) = ([0; 1000], [0; 3000]);
    let n = (&file).read_vectored(&mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)]).unwrap();
    assert_eq!(n, 4000);
    assert!(a == all[..1000] && b == all[1000..4000]);
    assert_eq!((&file).read(&mut []).unwrap(), 0);
    assert!(p.file("empty").read_to_end(&mut Vec::new()).unwrap() == 0);
}

fn own_places(p: &Place) {
    let (mut a, mut b, mut all) = (p.file("tail"), p.file("tail"), Vec::new());
    let mut shared = a.try_clone().unwrap();
    a.read_exact(&mut [0; 100]).unwrap();
    assert_eq!((b.stream_position().unwrap(), shared.stream_position().unwrap()), (0, 100));
    b.read_to_end(&mut all).unwrap();
    assert!(all == noise(2, TAIL));
    all.clear();
    shared.read_to_end(&mut all).unwrap();
    assert!(all == noise(2, TAIL)[100..]);
    assert_eq!(a.stream_position().unwrap(), TAIL as u64);
}

fn direct(p: &Place) {
    let file: File = p.open("large", OFlags::RDONLY | OFlags::DIRECT).unwrap().into();
    let all = noise(1, LARGE);
    let mut room = vec![0; (3 << 20) + PAGE];
    let aligned = room.as_ptr().align_offset(PAGE);
    for (at, len) in [(0, PAGE), (PAGE, 8 * PAGE), (1 << 20, 3 << 20), (5 << 20, PAGE)] {
        let part = &mut room[aligned..aligned + len];
        let n = file.read_at(part, at as u64).unwrap();
        assert_eq!(n, len.min(LARGE - at), "{at} {len}");
        assert!(part[..n] == all[at..at + n], "{at} {len}");
    }
    // Between pages it may be refused, but gives nothing wrong.
    for (at, len) in [(1, 10), (77, PAGE), (PAGE - 1, 2), (LARGE - 5, 100)] {
        match file.read_at(&mut room[aligned + 1..aligned + 1 + len], at as u64) {
            Ok(n) => {
                assert_eq!(n, len.min(LARGE - at));
                assert!(room[aligned + 1..aligned + 1 + n] == all[at..at + n], "{at} {len}");
            }
            Err(e) => assert_eq!(e.raw_os_error(), Some(Errno::INVAL.raw_os_error())),
        }
    }
    // What was read so is the same by other ways afterwards.
    assert!(std::fs::read(p.path("large")).unwrap() == all);
}

/// A mapping for reading.
#[expect(unsafe_code, reason = "mapping is what is tested")]
fn map(file: &File, len: usize) -> Mmap {
    // SAFETY: the file lies on a mount that nobody can write through, and what is behind it stays untouched as long as
    // the test runs. Nobody reads past the page in which it ends.
    unsafe { MmapOptions::new().len(len).map(file) }.unwrap()
}

fn shared_mapping(p: &Place) {
    let (file, all) = (p.file("large"), noise(1, LARGE));
    let mapped = map(&file, LARGE);
    mapped.advise(Advice::Random).unwrap();
    for at in (0..LARGE).step_by(PAGE * 17).rev() {
        assert_eq!(mapped[at], all[at], "{at}");
    }
    mapped.advise(Advice::Sequential).unwrap();
    assert!(mapped[..] == all[..]);
    // SAFETY: as in `map`; it is refused anyhow.
    #[expect(unsafe_code, reason = "mapping is what is tested")]
    let writable = unsafe { MmapOptions::new().len(TAIL).map_mut(&p.file("tail")) };
    assert_eq!(writable.unwrap_err().raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
    // SAFETY: as in `map`; it is refused anyhow.
    #[expect(unsafe_code, reason = "mapping is what is tested")]
    let of_directory = unsafe { MmapOptions::new().len(PAGE).map(&p.file("dir")) };
    assert_eq!(of_directory.unwrap_err().raw_os_error(), Some(Errno::NODEV.raw_os_error()));
}

fn private_mapping(p: &Place) {
    let all = noise(2, TAIL);
    // SAFETY: as in `map`.
    #[expect(unsafe_code, reason = "mapping is what is tested")]
    let mut private = unsafe { MmapOptions::new().len(TAIL).map_copy(&p.file("tail")) }.unwrap();
    assert!(private[..] == all[..]);
    private.fill(b'x');
    assert!(private.iter().all(|b| *b == b'x'));
    assert!(std::fs::read(p.path("tail")).unwrap() == all);
}

fn mapping_past_the_end(p: &Place) {
    // Two pages more than the file has: those are never touched.
    let mapped = map(&p.file("tail"), 5 * PAGE);
    assert!(mapped[..TAIL] == noise(2, TAIL)[..]);
    assert!(mapped[TAIL..3 * PAGE].iter().all(|b| *b == 0));
}

fn mapping_without_descriptor(p: &Place) {
    let file = p.file("large");
    let mapped = map(&file, LARGE);
    drop(file);
    assert!(mapped[..] == noise(1, LARGE)[..]);
}

fn without_copying(p: &Place) {
    let all = noise(1, LARGE);
    // Through a pipe, from the middle.
    let (out, into) = pipe().unwrap();
    let (mut at, mut found) = ((1 << 20) + 5_u64, Vec::new());
    while found.len() < 300_000 {
        let wanted = (300_000 - found.len()).min(64 << 10);
        let file = p.file("large");
        let n = splice(&file, Some(&mut at), &into, None, wanted, SpliceFlags::empty()).unwrap();
        assert!(n > 0);
        let mut part = vec![0; n];
        File::from(out.try_clone().unwrap()).read_exact(&mut part).unwrap();
        found.extend(part);
    }
    assert!(found[..] == all[(1 << 20) + 5..(1 << 20) + 300_005]);

    let mut copied = tempfile::tempfile().unwrap();
    let (file, mut sent) = (p.file("large"), 0);
    while sent < LARGE {
        sent += rustix::fs::sendfile(&copied, &file, None, LARGE).unwrap();
    }
    assert_eq!(rustix::fs::sendfile(&copied, &file, None, LARGE), Ok(0), "at the end");
    let mut content = Vec::new();
    copied.rewind().unwrap();
    copied.read_to_end(&mut content).unwrap();
    assert!(content == all);

    // Between file systems it may be refused; `cp` reads and writes then.
    let (mut from, to) = (4096, tempfile::tempfile().unwrap());
    match rustix::fs::copy_file_range(p.file("large"), Some(&mut from), &to, None, 100_000) {
        Ok(n) => {
            let mut part = vec![0; n];
            to.read_exact_at(&mut part, 0).unwrap();
            assert!(n > 0 && part[..] == all[4096..4096 + n]);
        }
        Err(e) => assert_eq!(e, Errno::XDEV),
    }
    // A program that does what `cp` does.
    assert_eq!(
        std::io::copy(&mut p.file("large"), &mut tempfile::tempfile().unwrap()).unwrap(),
        LARGE as u64
    );
}

fn seeking(p: &Place) {
    const MIB: u64 = 1 << 20;
    let seek = |name: &str, to| rustix::fs::seek(p.file(name), to);
    let places = [
        (SeekFrom::Data(0), MIB),
        (SeekFrom::Data(MIB), MIB),
        (SeekFrom::Data(MIB + 5), MIB + 5),
        (SeekFrom::Hole(0), 0),
        (SeekFrom::Hole(MIB), 2 * MIB),
        (SeekFrom::Data(2 * MIB), 7 * MIB),
        (SeekFrom::Hole(7 * MIB), SPARSE),
        (SeekFrom::End(0), SPARSE),
        (SeekFrom::End(-5), SPARSE - 5),
        (SeekFrom::End(5), SPARSE + 5),
        (SeekFrom::Start(1 << 40), 1 << 40),
    ];
    for (to, found) in places {
        assert_eq!(seek("sparse", to), Ok(found), "{to:?}");
    }
    for to in [SeekFrom::Data(SPARSE), SeekFrom::Hole(SPARSE), SeekFrom::Data(1 << 40)] {
        gives("past the end", seek("sparse", to), Errno::NXIO);
    }
    gives("before the beginning", seek("sparse", SeekFrom::End(-(SPARSE as i64) - 1)), Errno::INVAL);
    assert_eq!(seek("large", SeekFrom::Data(77)), Ok(77));
    assert_eq!(seek("large", SeekFrom::Hole(77)), Ok(LARGE as u64));
    gives("no data", seek("empty", SeekFrom::Data(0)), Errno::NXIO);
    gives("of a pipe", seek_of_pipe(), Errno::SPIPE);
}

fn seek_of_pipe() -> rustix::io::Result<u64> {
    rustix::fs::seek(pipe()?.0, SeekFrom::Start(0))
}

fn holes(p: &Place) {
    let mut expected = vec![0; SPARSE as usize];
    expected[1 << 20..2 << 20].copy_from_slice(&noise(3, 1 << 20));
    expected[7 << 20..].copy_from_slice(&noise(4, 1 << 20));
    assert!(std::fs::read(p.path("sparse")).unwrap() == expected);
    assert!(map(&p.file("sparse"), SPARSE as usize)[..] == expected[..]);
}

fn locks(p: &Place) {
    use FlockOperation::{
        NonBlockingLockExclusive as Exclusive, NonBlockingLockShared as Shared, NonBlockingUnlock as Unlock,
    };
    let (a, b) = (p.file("file"), p.file("file"));
    assert_eq!((flock(&a, Shared), flock(&b, Shared)), (Ok(()), Ok(())));
    gives("beside a shared one", flock(&a, Exclusive), Errno::WOULDBLOCK);
    assert_eq!((flock(&a, Unlock), flock(&b, Exclusive)), (Ok(()), Ok(())), "though it cannot be written");
    gives("beside an exclusive one", flock(&a, Shared), Errno::WOULDBLOCK);
    drop(b);
    assert_eq!(flock(&a, Shared), Ok(()), "the lock goes with its descriptor");
    assert_eq!((fcntl_lock(&a, Shared), fcntl_lock(&a, Unlock)), (Ok(()), Ok(())));
    gives("to write needs a descriptor to write", fcntl_lock(&a, Exclusive), Errno::BADF);
}

fn ready(p: &Place) {
    let file = p.file("large");
    let mut polled = [PollFd::new(&file, PollFlags::IN | PollFlags::PRI)];
    assert_eq!(poll(&mut polled, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })), Ok(1));
    assert!(polled[0].revents().contains(PollFlags::IN));
}

fn advice(p: &Place) {
    let file = p.file("large");
    for how in [
        Advise::Normal,
        Advise::Sequential,
        Advise::Random,
        Advise::NoReuse,
        Advise::WillNeed,
        Advise::DontNeed,
    ] {
        assert_eq!(rustix::fs::fadvise(&file, 0, None, how), Ok(()), "{how:?}");
    }
    // SAFETY: it takes numbers only, and the descriptor is open.
    #[expect(unsafe_code, reason = "there is no safe call for it")]
    let read_ahead = unsafe { libc::readahead(std::os::fd::AsRawFd::as_raw_fd(&file), 0, 1 << 20) };
    assert_eq!(read_ahead, 0, "{}", std::io::Error::last_os_error());
    let mut part = vec![0; 1 << 20];
    file.read_exact_at(&mut part, 0).unwrap();
    assert!(part[..] == noise(1, LARGE)[..1 << 20]);
    assert_eq!((rustix::fs::fsync(&file), rustix::fs::fdatasync(&file)), (Ok(()), Ok(())));
    rustix::fs::syncfs(p.root.as_fd()).unwrap();
}

fn ioctls(p: &Place) {
    let mut file = p.file("large");
    file.seek(std::io::SeekFrom::Start(77)).unwrap();
    assert_eq!(rustix::io::ioctl_fionread(&file), Ok(LARGE as u64 - 77));
    gives("of terminals", rustix::termios::tcgetattr(&file), Errno::NOTTY);
    let flags = rustix::fs::ioctl_getflags(&file).map(drop);
    assert!(matches!(flags, Ok(()) | Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS)), "{flags:?}");
    // Where the blocks of a file lie is nobody's business.
    let mut request = [0_u64; 4];
    request[1] = u64::MAX;
    const FIEMAP: libc::Ioctl = 0xC020_660B_u32 as libc::Ioctl;
    let raw = std::os::fd::AsRawFd::as_raw_fd(&file);
    // SAFETY: the request is the 32 bytes of a `struct fiemap` that leaves no room for extents.
    #[expect(unsafe_code, reason = "there is no safe call for it")]
    let answer = unsafe { libc::ioctl(raw, FIEMAP, request.as_mut_ptr()) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    let refused = [Errno::NOTTY, Errno::OPNOTSUPP].map(|e| Some(e.raw_os_error()));
    assert!(answer == -1 && refused.contains(&errno), "{answer} {errno:?}");
    file.flush().unwrap();
}
