//! Reproducible random operands, those near every boundary often.

/// xorshift64*, seeded, so that every run is the same.
pub struct Random(u64);

impl Random {
    /// A generator; equal seeds give equal sequences.
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 64 random bits.
    #[allow(clippy::should_implement_trait, reason = "a stream without an end is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of a slice that is not empty.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// An integer operand: boundaries of every width, single bits, runs, small numbers, and dense ones.
    pub fn operand(&mut self) -> u64 {
        match self.below(8) {
            0 => self.pick(&[
                0,
                1,
                2,
                0x7f,
                0x80,
                0xff,
                0x7fff,
                0x8000,
                0xffff,
                0x7fff_ffff,
                0x8000_0000,
                0xffff_ffff,
            ]),
            1 => {
                self.pick(&[u64::MAX, i64::MAX as u64, i64::MIN as u64, u64::MAX - 1, 0x5555_5555_5555_5555])
            }
            2 => 1 << self.below(64),
            3 => (1u64 << self.below(64)).wrapping_sub(1),
            4 => self.below(256),
            5 => self.next() >> self.below(64),
            _ => self.next(),
        }
    }
}

/// How many cases a test runs, times the factor in SOFTMETAL_ORACLE_FACTOR.
pub fn cases(default: u64) -> u64 {
    let factor = std::env::var("SOFTMETAL_ORACLE_FACTOR").ok().and_then(|n| n.parse::<f64>().ok());
    (default as f64 * factor.unwrap_or(1.0)) as u64
}
