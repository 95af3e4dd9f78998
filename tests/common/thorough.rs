//! How many cases of a matrix are tried: a sample of them in each run of the tests, all when asked for.

use std::collections::BTreeSet;

/// Tries cases of a matrix, each by itself, and fails in the end with all that failed. With `PLAKAR_CASES=all` those are
/// all, with a number so many, else a sample, spread over the whole matrix; `PLAKAR_SEED` decides which, the same each
/// time.
#[track_caller]
pub(crate) fn each<T>(
    matrix: &str,
    sample: usize,
    all: impl IntoIterator<Item = T>,
    what: impl Fn(&T) -> String,
    mut one: impl FnMut(T),
) {
    let all: Vec<T> = all.into_iter().collect();
    let (len, wanted) = (all.len(), wanted(matrix, sample, all.len()));
    let mut failed = Vec::new();
    for (_, case) in all.into_iter().enumerate().filter(|(i, _)| wanted.contains(i)) {
        let what = what(&case);
        if let Err(why) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one(case))) {
            let text = why.downcast_ref::<String>().map(String::as_str);
            failed.push(format!("{what}: {}", text.or(why.downcast_ref().copied()).unwrap_or_default()));
        }
    }
    eprintln!("{matrix}: {} of {len} cases", wanted.len());
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), wanted.len(), failed.join("\n\n"));
}

/// Which of so many cases are tried.
fn wanted(matrix: &str, sample: usize, len: usize) -> BTreeSet<usize> {
    let most = match std::env::var("PLAKAR_CASES").ok().as_deref() {
        None => sample,
        Some("all") => return (0..len).collect(),
        Some(number) => number.parse().unwrap(),
    };
    let most = most.min(len).max(1);
    let seed = std::env::var("PLAKAR_SEED").unwrap_or_default();
    let one_of_each_part = |i: usize| {
        let hash = blake3::hash(format!("{seed} {matrix} {i}").as_bytes());
        let random = u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap());
        let (from, to) = (i * len / most, (i + 1) * len / most);
        from + random as usize % (to - from).max(1)
    };
    (0..most).map(one_of_each_part).collect()
}
