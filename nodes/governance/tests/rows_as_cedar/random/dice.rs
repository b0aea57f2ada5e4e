//! The same dice on every machine (SplitMix64).

#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The dice of one case among those of a seed.
    pub fn of(seed: u64, case: u64) -> Self {
        let mut dice = Self(seed);
        let seed = dice.roll();
        Self(seed ^ case.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `n - 1`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.roll() % n.max(1) as u64) as usize
    }

    pub fn percent(&mut self, p: u64) -> bool {
        self.roll() % 100 < p
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    pub fn word<'a>(&mut self, all: &[&'a str]) -> &'a str {
        self.pick::<&'a str>(all)
    }

    /// Index of one of these weights.
    pub fn weighted(&mut self, weights: &[u64]) -> usize {
        let mut at = self.roll() % weights.iter().sum::<u64>().max(1);
        for (index, weight) in weights.iter().enumerate() {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return index,
            }
        }
        0
    }
}
