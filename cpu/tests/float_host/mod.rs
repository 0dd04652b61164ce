//! Operands for the tests that compare with the host CPU: random ones, and those near every boundary.

// Each test program uses a part of this.
#![allow(dead_code)]

use softmetal_cpu::{float::F80, state::X87};
use softmetal_cpu_testing as testing;

/// How many random cases per operation and mode: more with `SOFTMETAL_FLOAT_CASES`.
pub(crate) fn cases(default: u32) -> u32 {
    std::env::var("SOFTMETAL_FLOAT_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// xorshift64*, seeded so that every run is the same.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// `bits` bits: dense, sparse, runs of ones, or single bits, so that ties and exact results are common.
    pub(crate) fn pattern(&mut self, bits: u32) -> u64 {
        let mask = u64::MAX >> (64 - bits);
        let at = |r: &mut Self| 1u64 << r.below(u64::from(bits));
        mask & match self.below(10) {
            0 => 0,
            1 => mask,
            2 => at(self),
            3 => at(self) | at(self),
            4 => at(self).wrapping_sub(1),
            5 => !(at(self) - 1),
            6 => at(self).wrapping_neg() ^ at(self),
            7 => self.next() << self.below(u64::from(bits)),
            _ => self.next(),
        }
    }

    /// An exponent field of `bits` bits: often at a limit, often near the middle, where results stay in range.
    pub(crate) fn exponent(&mut self, bits: u32, near: u64) -> u64 {
        let top = (1u64 << bits) - 1;
        match self.below(12) {
            0 => 0,
            1 => 1,
            2 => top,
            3 => top - 1,
            4 => self.below(70).min(top),
            5 => top - self.below(70).min(top),
            6 => self.next() & top,
            7 => (near + self.below(140)).saturating_sub(70).min(top),
            _ => (top / 2 + self.below(70)).saturating_sub(35),
        }
    }

    /// Bits of a value in a format with a hidden leading bit; `other` is a value that it may be close to.
    pub(crate) fn float(&mut self, exponent_bits: u32, fraction_bits: u32, other: u64) -> u64 {
        let near = other >> fraction_bits & ((1 << exponent_bits) - 1);
        let exponent = self.exponent(exponent_bits, near);
        let fraction = if self.below(8) == 0 { other } else { self.pattern(fraction_bits) };
        let fraction = fraction & ((1 << fraction_bits) - 1);
        let sign = self.next() & 1;
        sign << (exponent_bits + fraction_bits) | exponent << fraction_bits | fraction
    }
}

/// Any encoding of an extended value, mostly valid ones.
pub(crate) fn extended(random: &mut testing::Random, floats: &mut Random, other: F80) -> F80 {
    let near = u64::from(other.sign_exponent & 0x7fff);
    let exponent = floats.exponent(15, near);
    let fraction = match random.below(8) {
        0 => other.significand,
        1 => floats.pattern(24) << 39,
        2 => floats.pattern(53) << 10,
        _ => floats.pattern(63),
    };
    let integer_bit = (exponent != 0) != random.once_in(24);
    F80 {
        significand: fraction & (u64::MAX >> 1) | u64::from(integer_bit) << 63,
        sign_exponent: (random.next() as u16 & 0x8000) | exponent as u16,
    }
}

/// Registers, tags, control and status words of the x87 unit, now and then with an exception pending.
pub(crate) fn x87(random: &mut testing::Random, floats: &mut Random) -> X87 {
    let mut x = X87::default();
    let mut other = F80::ZERO;
    for r in &mut x.regs {
        other = extended(random, floats, other);
        *r = other;
    }
    x.tags = match random.below(4) {
        0 => random.next() as u8,
        1 => 0xff,
        // Room for a push.
        _ => 0x7f,
    };
    let top = if random.once_in(4) { random.below(8) as u16 } else { 0 };
    x.tags = x.tags.rotate_left(top.into());
    let word = random.next() as u16;
    x.control = 0x40 | word & 0xf00 | if random.once_in(4) { word & 0x3f } else { 0x3f };
    x.status = top << 11 | (random.next() as u16 & 0x4700);
    if random.once_in(4) {
        x.status |= random.next() as u16 & 0x7f;
    }
    if !random.once_in(16) {
        // Nothing pending.
        x.status &= !0x3f | x.control;
    }
    x.refresh_summary();
    x
}
