//! A store that holds its answers back shows who comes first: by the calls that reach it, not by the clock.

use super::*;
use crate::crypto::Class;
use crate::error::{Error, Result};
use crate::frame::FrameEncoder;
use crate::frame_source::{FrameRef, FrameSource};
use crate::id::ObjectId;
use crate::repository::Repository;
use crate::storage::{Area, ObjectName, put_bytes};
use crate::testing::local_dirs;
use crate::testing::watched::{Call, WatchedStore};

/// A packfile of frames without an index: frame n holds n, a hundred times.
async fn frames(repository: &Repository, n: u8) -> Vec<FrameRef> {
    let key = Arc::new(repository.keys().new_data_key());
    let packfile = ObjectId::random();
    let mut encoder = FrameEncoder::new(None).unwrap();
    let (mut bytes, mut frames) = (Vec::new(), Vec::new());
    for i in 0..n {
        let sealed = encoder.encode(&key, Class::Data, &[i; 100]);
        let record = crate::frame::FrameRecord { offset: bytes.len() as u32, ..sealed.record };
        bytes.extend_from_slice(&sealed.bytes);
        frames.push(FrameRef { packfile, class: Class::Data, record, key: key.clone() });
    }
    put_bytes(repository.store().as_ref(), ObjectName::new(Area::Data, packfile), bytes.into())
        .await
        .unwrap();
    frames
}

type Reading = tokio::task::JoinHandle<Vec<Result<bytes::Bytes, Arc<Error>>>>;

fn read(repository: &Arc<Repository>, frame: &FrameRef, purpose: Purpose) -> Reading {
    let (repository, frame) = (repository.clone(), frame.clone());
    tokio::spawn(async move { repository.frames(&[frame], purpose).await })
}

async fn content(reading: Reading) -> u8 {
    let answers = reading.await.unwrap();
    let bytes = answers[0].as_ref().unwrap();
    assert_eq!(bytes.len(), 100);
    bytes[0]
}

fn is_for(call: &Call, frame: &FrameRef) -> bool {
    *call == Call::Get(ObjectName::new(Area::Data, frame.packfile), Some(frame.record.range()))
}

#[tokio::test]
async fn what_somebody_waits_for_is_not_behind_prefetch() {
    let temporary = tempfile::tempdir().unwrap();
    let dirs = local_dirs(temporary.path());
    let (watched, repository) = WatchedStore::with_repository(&dirs).await.unwrap();
    let frames = frames(&repository, 103).await;
    watched.hold();
    let prefetches: Vec<Reading> =
        frames[..100].iter().map(|f| read(&repository, f, Purpose::Prefetch)).collect();
    let asked = watched.until_calls(PREFETCH_REQUESTS).await;
    assert!(!asked.iter().any(|c| is_for(c, &frames[99])), "they take turns in the order in which they come");

    // The answers to prefetch are still held back: one more delay, its own, is all that this one waits for.
    let wanted = read(&repository, &frames[100], Purpose::OnDemand);
    let asked = watched.until_calls(PREFETCH_REQUESTS + 1).await;
    assert!(is_for(&asked[PREFETCH_REQUESTS], &frames[100]));
    watched.release(PREFETCH_REQUESTS);
    assert_eq!(content(wanted).await, 100);
    assert_eq!(watched.calls().len(), PREFETCH_REQUESTS + 1, "no prefetch went in between");

    // A prefetch that waits for its turn, and is now waited for, goes on at once.
    repository.raise(&frames[99..100]);
    let asked = watched.until_calls(PREFETCH_REQUESTS + 2).await;
    assert!(is_for(&asked[PREFETCH_REQUESTS + 1], &frames[99]));

    // So does one that is raised before it comes to wait, but not the next one.
    repository.raise(&frames[101..102]);
    let early = read(&repository, &frames[101], Purpose::Prefetch);
    let asked = watched.until_calls(PREFETCH_REQUESTS + 3).await;
    assert!(is_for(&asked[PREFETCH_REQUESTS + 2], &frames[101]));
    let late = read(&repository, &frames[102], Purpose::Prefetch);

    // When a prefetch ends the next one has its turn.
    watched.release(0);
    watched.until_calls(PREFETCH_REQUESTS + 4).await;
    watched.release_all();
    for (n, prefetch) in prefetches.into_iter().enumerate() {
        assert_eq!(usize::from(content(prefetch).await), n);
    }
    assert_eq!((content(early).await, content(late).await), (101, 102));
    assert_eq!(watched.calls().len(), 103, "each was asked for once");
    assert!(repository.reader.turns.are_free());
}

#[tokio::test]
async fn a_prefetch_that_is_given_up_gives_its_turn_back() {
    let turns = Turns::new();
    let key = |n| FrameKey { packfile: ObjectId([1; 32]), offset: n };
    let mut held = Vec::new();
    for n in 0..PREFETCH_REQUESTS as u32 {
        held.push(turns.request(&[key(n)], Purpose::Prefetch).await);
    }
    let waiting = [key(100)];
    {
        let mut turn = std::pin::pin!(turns.request(&waiting, Purpose::Prefetch));
        assert!(futures::poll!(&mut turn).is_pending());
        turns.raise(waiting.iter().copied());
        assert_eq!(turn.await.purpose, Purpose::OnDemand);
    }
    {
        let mut turn = std::pin::pin!(turns.request(&waiting, Purpose::Prefetch));
        assert!(futures::poll!(&mut turn).is_pending());
    }
    drop(held);
    assert!(turns.are_free());
}

#[tokio::test]
async fn frames_are_handed_over_as_they_come() {
    let temporary = tempfile::tempdir().unwrap();
    let dirs = local_dirs(temporary.path());
    let (watched, repository) = WatchedStore::with_repository(&dirs).await.unwrap();
    // Of several packfiles, so that there are several requests.
    let mut wanted = Vec::new();
    for _ in 0..3 {
        wanted.extend(frames(&repository, 2).await);
    }
    watched.hold();
    let (came, mut coming) = tokio::sync::mpsc::unbounded_channel();
    let (all, reader) = (wanted.clone(), repository.clone());
    let reading = tokio::spawn(async move {
        let mut take = |i: usize, answer: Result<bytes::Bytes, Arc<Error>>| {
            came.send((i, answer.unwrap()[0])).unwrap();
        };
        reader.each(&all, Purpose::OnDemand, &mut take).await;
    });
    let calls = watched.until_calls(3).await;
    let of = |call: &Call| wanted.iter().position(|f| matches!(call, Call::Get(n, _) if n.id == f.packfile));
    for n in [2, 0, 1] {
        let first = of(&calls[n]).unwrap();
        watched.release(n);
        assert_eq!(coming.recv().await, Some((first, 0)));
        assert_eq!(coming.recv().await, Some((first + 1, 1)));
    }
    reading.await.unwrap();
    assert_eq!(coming.recv().await, None, "each once");
    watched.release_all();
    let answers = repository.frames(&wanted, Purpose::OnDemand).await;
    assert!(answers.iter().enumerate().all(|(i, a)| a.as_ref().unwrap()[0] as usize == i % 2));
}
