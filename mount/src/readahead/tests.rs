use super::*;

const SIZE: u64 = 1 << 30;
const STEP: u64 = 128 << 10;

fn read(stream: &mut Stream, offset: u64) -> Option<Range<u64>> {
    stream.step(&(offset..offset + STEP), SIZE, LARGEST_WINDOW)
}

#[test]
fn reading_on_asks_for_more_each_time_and_for_nothing_twice() {
    let mut stream = Stream::default();
    let (mut asked, mut offset) = (STEP, 0);
    let mut largest = 0;
    while offset < 256 << 20 {
        if let Some(range) = read(&mut stream, offset) {
            assert_eq!(range.start, asked.max(offset + STEP));
            largest = largest.max(range.end - range.start);
            asked = range.end;
        }
        offset += STEP;
        // From the second request on there is always something under way.
        assert!(asked >= offset);
    }
    assert!(largest >= LARGEST_WINDOW / 2, "{largest}");
    assert!(asked <= offset + LARGEST_WINDOW);
}

#[test]
fn requests_out_of_order_go_on() {
    let mut stream = Stream::default();
    let mut asked = 0;
    for i in [0, 2, 1, 3, 5, 4, 7, 6, 9, 8] {
        asked += read(&mut stream, i * STEP).map_or(0, |r| r.end - r.start);
    }
    assert!(asked >= 2 << 20, "{asked}");
}

#[test]
fn jumping_about_asks_for_nothing() {
    let mut stream = Stream::default();
    for i in 1..100 {
        assert_eq!(read(&mut stream, (i * 37 % 101) * (10 << 20)), None);
    }
}

#[test]
fn nothing_is_asked_for_past_the_end() {
    let mut stream = Stream::default();
    let size = 3 << 20;
    let mut end = 0;
    for i in 0..24 {
        if let Some(range) = stream.step(&(i * STEP..(i + 1) * STEP), size, LARGEST_WINDOW) {
            end = range.end;
        }
    }
    assert_eq!(end, size);
}

#[test]
fn a_walk_from_frame_to_frame_gets_the_next_ones() {
    let mut walker = Walker::default();
    let asked: Vec<u64> = [7, 7, 8, 9, 12, 10, 10, 13].into_iter().map(|at| walker.step(at)).collect();
    assert_eq!(asked, [0, 0, 0, 1, 2, 3, 0, 4]);
    // Here and there is no walk.
    let mut walker = Walker::default();
    assert!([5, 100, 33, 180, 77, 6, 150, 60].into_iter().all(|at| walker.step(at) == 0));
}
