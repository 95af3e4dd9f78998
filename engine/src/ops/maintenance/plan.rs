//! Which packfiles are to go: the policy, over nothing but their weights.
//!
//! Dead ones go. Of those in part dead the deadest go first, their live part being written again, as long as that costs
//! at most [`COST`] bytes for each byte that comes free in all, or more than a [`SHARE`] of the store would be dead, and
//! until no more than [`TOLERATED`] of the dead bytes would be left. Small ones of one class go together, once there are [`FEW`] of them.

use crate::crypto::Class;

/// Bytes written again for each byte that comes free, at most, in hundredths.
const COST: u64 = 115;
/// Dead bytes that may stay, in hundredths of all that are dead.
const TOLERATED: u64 = 2;
/// Dead bytes that may stay for the sake of [`COST`], in hundredths of all bytes.
const SHARE: u64 = 10;
/// A packfile that is so many times smaller than what writers aim at is small.
const SMALL: u64 = 4;
/// So many small ones are worth joining.
const FEW: usize = 8;

/// A packfile that may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) class: Class,
    /// Its length.
    pub(super) length: u64,
    /// Clear bytes of its blobs, and of those that are live.
    pub(super) bytes: u64,
    pub(super) live: u64,
}

impl Candidate {
    /// Stored bytes that would be written again: as much of it as is live.
    pub(super) fn kept(&self) -> u64 {
        let kept = u128::from(self.length) * u128::from(self.live) / u128::from(self.bytes.max(1));
        u64::try_from(kept).unwrap_or(self.length).min(self.length)
    }

    /// Stored bytes that would come free.
    pub(super) fn freed(&self) -> u64 {
        self.length - self.kept()
    }
}

/// The numbers of those that are to go. `target` is the packfile size that writers aim at.
pub(super) fn choose(all: &[Candidate], target: u64) -> Vec<usize> {
    let (mut gone, mut partly): (Vec<usize>, Vec<usize>) = (0..all.len()).partition(|i| all[*i].live == 0);
    // Shares of the length: more dead ones first, of equals the larger.
    let share = |c: &Candidate| u128::from(c.freed()) * u128::from(u64::MAX) / u128::from(c.length.max(1));
    partly.retain(|i| all[*i].freed() > 0);
    partly.sort_by_key(|i| std::cmp::Reverse((share(&all[*i]), all[*i].length)));
    let dead: u64 = all.iter().map(Candidate::freed).sum();
    let bytes: u64 = all.iter().map(|c| c.length).sum();
    let mut freed: u64 = gone.iter().map(|i| all[*i].freed()).sum();
    let mut written = 0_u64;
    for i in partly {
        let c = &all[i];
        let left = dead - freed;
        let is_dear = (written + c.kept()) * 100 > (freed + c.freed()) * COST;
        if left <= dead / 100 * TOLERATED || is_dear && left <= bytes / 100 * SHARE {
            break;
        }
        written += c.kept();
        freed += c.freed();
        gone.push(i);
    }
    gone.sort_unstable();
    for class in [Class::Data, Class::Meta] {
        let is_small = |c: &Candidate| c.class == class && c.live > 0 && c.length < target / SMALL;
        let small: Vec<usize> =
            (0..all.len()).filter(|i| is_small(&all[*i]) && gone.binary_search(i).is_err()).collect();
        if small.len() >= FEW {
            gone.extend(small);
            gone.sort_unstable();
        }
    }
    gone
}

/// States are merged so that each is at least so many times as large as all smaller ones: how many of the smallest are to
/// be merged, given their sizes in rising order.
pub(super) fn tier(sizes: &[u64]) -> usize {
    const RATIO: u64 = 2;
    let (mut sum, mut merged) = (0, 0);
    for (i, size) in sizes.iter().enumerate() {
        if i > 0 && *size < RATIO * sum {
            merged = i + 1;
        }
        sum += size;
    }
    if merged < FEW { 0 } else { merged }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn pack(length: u64, live: u64) -> Candidate {
        Candidate { class: Class::Data, length, bytes: length * 2, live: live * 2 }
    }

    fn sums(all: &[Candidate], gone: &[usize]) -> (u64, u64, u64) {
        let of = |f: fn(&Candidate) -> u64| gone.iter().map(|i| f(&all[*i])).sum();
        (all.iter().map(Candidate::freed).sum(), of(Candidate::freed), of(Candidate::kept))
    }

    #[test]
    fn half_of_everything_dead_comes_free_at_little_cost() {
        // Packfiles of which each lost about half, at random: 20 to 80 %.
        for seed in 0..50_u64 {
            let mut x = seed * 2 + 1;
            let mut random = || {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                x >> 33
            };
            let all: Vec<Candidate> =
                (0..300).map(|_| pack(32 * MIB, 32 * MIB * (35 + random() % 31) / 100)).collect();
            let (dead, freed, written) = sums(&all, &choose(&all, 32 * MIB));
            assert!(freed * 100 >= dead * 95, "{seed}: {freed} of {dead}");
            assert!(written * 100 <= freed * 120, "{seed}: {written} for {freed}");
        }
    }

    #[test]
    fn no_more_than_a_tenth_of_a_store_stays_dead() {
        let all = vec![pack(32 * MIB, 26 * MIB); 100];
        let (dead, freed, _) = sums(&all, &choose(&all, 32 * MIB));
        let left = dead - freed;
        assert!((300 * MIB..=320 * MIB).contains(&left), "{}", left / MIB);
        let all = vec![pack(32 * MIB, 29 * MIB); 100];
        assert_eq!(choose(&all, 32 * MIB), [0; 0]);
    }

    #[test]
    fn what_is_hardly_dead_stays_and_what_is_wholly_dead_goes() {
        let all =
            [pack(32 * MIB, 31 * MIB), pack(32 * MIB, 0), pack(32 * MIB, 32 * MIB), pack(32 * MIB, 4 * MIB)];
        assert_eq!(choose(&all, 32 * MIB), [1, 3]);
        assert_eq!(choose(&all[..1], 32 * MIB), [0; 0]);
        assert_eq!(choose(&[], 32 * MIB), [0; 0]);
        // An unknown length of blobs is no reason to divide by zero.
        assert_eq!(choose(&[Candidate { bytes: 0, ..pack(5, 0) }], 32 * MIB), [0]);
    }

    #[test]
    fn small_ones_go_together_and_only_if_there_are_some() {
        let small = vec![pack(MIB, MIB); FEW];
        assert_eq!(choose(&small, 32 * MIB), (0..FEW).collect::<Vec<_>>());
        assert_eq!(choose(&small[1..], 32 * MIB), [0; 0]);
        let other = Candidate { class: Class::Meta, ..pack(MIB, MIB) };
        let mixed = [&small[1..], &[other]].concat();
        assert_eq!(choose(&mixed, 32 * MIB), [0; 0]);
    }

    #[test]
    fn states_are_merged_in_tiers() {
        assert_eq!(tier(&[]), 0);
        assert_eq!(tier(&[1; 7]), 0);
        assert_eq!(tier(&[1; 8]), 8);
        assert_eq!(tier(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 1000]), 9);
        assert_eq!(tier(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 17]), 10);
    }
}
