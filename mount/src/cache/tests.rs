use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use plakar_engine::crypto::{Class, Keyring};
use plakar_engine::frame::{Codec, FrameRecord};
use plakar_engine::id::{ObjectId, StoreId};

use super::*;

/// Gives frames filled with their offset; counts calls and frames; fails while told to.
#[derive(Debug, Default)]
struct Source {
    calls: AtomicUsize,
    frames: AtomicUsize,
    fails: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl FrameSource for Source {
    async fn frames(&self, wanted: &[FrameRef], _purpose: Purpose) -> Vec<Answer> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.frames.fetch_add(wanted.len(), Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let fails = self.fails.load(Ordering::SeqCst);
        let answer = |f: &FrameRef| match fails {
            true => Err(Arc::new(Error::Cancelled)),
            false => Ok(Bytes::from(vec![f.record.offset as u8; f.record.clear as usize])),
        };
        wanted.iter().map(answer).collect()
    }
}

fn frame(class: Class, offset: u32, clear: u32) -> FrameRef {
    FrameRef {
        packfile: ObjectId([1; 32]),
        class,
        record: FrameRecord { nonce: [0; 24], tag: [0; 16], offset, stored: 1, clear, codec: Codec::Raw },
        key: Arc::new(Keyring::plaintext(StoreId([0; 16])).new_data_key()),
    }
}

fn cache(source: &Arc<Source>, data_bytes: u64) -> CachedFrames {
    CachedFrames::new(source.clone(), data_bytes, 1 << 20, Handle::current())
}

fn bytes(answers: Vec<Answer>) -> Vec<u8> {
    answers.into_iter().map(|a| a.expect("a frame")[0]).collect()
}

#[tokio::test]
async fn a_frame_is_loaded_once_for_all_who_want_it() {
    let source = Arc::new(Source::default());
    let cache = cache(&source, 1 << 20);
    let one = [frame(Class::Data, 5, 10)];
    let all = join_all((0..20).map(|_| cache.frames(&one, Purpose::OnDemand))).await;
    assert!(all.into_iter().all(|a| bytes(a) == [5]));
    assert_eq!(source.frames.load(Ordering::SeqCst), 1);
    assert_eq!(bytes(cache.frames(&one, Purpose::OnDemand).await), [5]);
    assert_eq!(source.frames.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_misses_of_a_call_go_down_together_and_in_order() {
    let source = Arc::new(Source::default());
    let cache = cache(&source, 1 << 20);
    let some = [frame(Class::Data, 2, 10), frame(Class::Meta, 4, 10)];
    cache.frames(&some, Purpose::OnDemand).await;
    let more: Vec<_> = (1..6).map(|o| frame(Class::Data, o, 10)).collect();
    assert_eq!(bytes(cache.frames(&more, Purpose::OnDemand).await), [1, 2, 3, 4, 5]);
    assert_eq!(source.calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_reader_that_gives_up_leaves_its_load_to_the_next() {
    let source = Arc::new(Source::default());
    let cache = cache(&source, 1 << 20);
    let one = [frame(Class::Data, 3, 10)];
    let impatient = tokio::time::timeout(Duration::from_millis(1), cache.frames(&one, Purpose::OnDemand));
    assert!(impatient.await.is_err());
    assert_eq!(bytes(cache.frames(&one, Purpose::OnDemand).await), [3]);
    assert_eq!(source.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn failures_are_not_kept() {
    let source = Arc::new(Source::default());
    source.fails.store(true, Ordering::SeqCst);
    let cache = cache(&source, 1 << 20);
    let one = [frame(Class::Data, 3, 10)];
    assert!(cache.frames(&one, Purpose::OnDemand).await[0].is_err());
    source.fails.store(false, Ordering::SeqCst);
    assert_eq!(bytes(cache.frames(&one, Purpose::OnDemand).await), [3]);
}

#[tokio::test]
async fn a_prefetched_frame_is_waited_for_and_not_loaded_again() {
    let source = Arc::new(Source::default());
    let cache = cache(&source, 1 << 20);
    let one = [frame(Class::Data, 3, 10)];
    cache.prefetch(&one);
    cache.prefetch(&one);
    assert_eq!(bytes(cache.frames(&one, Purpose::OnDemand).await), [3]);
    cache.prefetch(&one);
    assert_eq!(source.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn memory_is_bounded_and_data_does_not_push_out_metadata() {
    let source = Arc::new(Source::default());
    let cache = cache(&source, 1 << 20);
    let directory = [frame(Class::Meta, 1, 1000)];
    cache.frames(&directory, Purpose::OnDemand).await;
    for offset in 0..100 {
        cache.frames(&[frame(Class::Data, offset, 200_000)], Purpose::OnDemand).await;
        assert!(cache.memory().bytes().0 <= 1 << 20, "{:?}", cache.memory().bytes());
    }
    assert!(cache.memory().holds(Class::Meta, &directory[0].key()));
    assert!(cache.memory().holds(Class::Data, &frame(Class::Data, 99, 0).key()));
    assert!(!cache.memory().holds(Class::Data, &frame(Class::Data, 1, 0).key()));
}
