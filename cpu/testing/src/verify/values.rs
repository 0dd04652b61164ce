//! Operands: integers near every boundary, floats of every kind and those that meet at rounding, overflow and cancellation,
//! x87 states of every kind.

use crate::Random;
use softmetal_cpu::{float::F80, state::X87};

/// What the lanes of a vector operand are read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// Integers of so many bits.
    Int(u32),
    /// Floats: bits of exponent and of fraction.
    Float(u32, u32),
}

impl Lanes {
    /// Half precision.
    pub const HALF: Lanes = Lanes::Float(5, 10);
    /// Single precision.
    pub const SINGLE: Lanes = Lanes::Float(8, 23);
    /// Double precision.
    pub const DOUBLE: Lanes = Lanes::Float(11, 52);

    fn bits(self) -> u32 {
        match self {
            Lanes::Int(bits) => bits,
            Lanes::Float(exponent, fraction) => 1 + exponent + fraction,
        }
    }
}

fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

/// `bits` bits: dense, sparse, runs of ones, single bits, so that ties and exact results are common.
fn pattern(random: &mut Random, bits: u32) -> u64 {
    let r = random.next();
    let at = |r: u64| 1u64 << (r % u64::from(bits));
    mask(bits)
        & match r >> 60 {
            0 => 0,
            1 => u64::MAX,
            2 => at(r),
            3 => at(r) | at(r >> 8),
            4 => at(r).wrapping_sub(1),
            5 => !(at(r) - 1),
            6 => at(r).wrapping_neg() ^ at(r >> 8),
            7 => random.next() << (r % u64::from(bits)),
            _ => random.next(),
        }
}

/// An exponent field: at a limit, near another operand's, or near the middle, where results stay in range.
fn exponent(random: &mut Random, bits: u32, near: u64) -> u64 {
    let top = mask(bits);
    let r = random.next();
    let spread = (r >> 8 & 0x7f).min(top / 2);
    match r & 15 {
        0 => 0,
        1 => 1,
        2 => top,
        3 => top - 1,
        4 => spread,
        5 => top - spread,
        6 | 7 => r >> 16 & top,
        8..=11 => (near + spread).saturating_sub(64.min(top / 4)).min(top),
        _ => (top / 2 + spread).saturating_sub(64.min(top / 4)).min(top),
    }
}

/// A float that has something in common with `other`: exponent, fraction, all but the sign, or nothing.
fn float(random: &mut Random, exponent_bits: u32, fraction_bits: u32, other: u64) -> u64 {
    let all = 1 + exponent_bits + fraction_bits;
    let r = random.next();
    match r >> 60 {
        // Operands that cancel, or nearly.
        0 => (other ^ (r & 1) << (all - 1)).wrapping_add(r >> 8 & 3) & mask(all),
        // Quiet and signalling NaNs with payloads.
        1 => (mask(exponent_bits) << fraction_bits | pattern(random, fraction_bits)) | (r & 1) << (all - 1),
        _ => {
            let near = other >> fraction_bits & mask(exponent_bits);
            let exponent = exponent(random, exponent_bits, near);
            let fraction = if r >> 57 & 7 == 0 { other } else { pattern(random, fraction_bits) };
            (r & 1) << (all - 1) | exponent << fraction_bits | fraction & mask(fraction_bits)
        }
    }
}

/// 64 bits of such lanes. Half of the time lanes are made by kind; else they are whatever.
pub fn word(random: &mut Random, lanes: Lanes, other: u64) -> u64 {
    let bits = lanes.bits();
    if bits >= 64 {
        return match lanes {
            Lanes::Float(e, f) => float(random, e, f, other),
            Lanes::Int(_) => random.operand(),
        };
    }
    let mut v = 0;
    for at in (0..64).step_by(bits as usize) {
        let lane = match lanes {
            Lanes::Float(e, f) => float(random, e, f, other >> at),
            Lanes::Int(_) => integer(random, bits, other >> at),
        };
        v |= (lane & mask(bits)) << at;
    }
    v
}

/// An integer of so many bits: boundaries, and values near another's.
fn integer(random: &mut Random, bits: u32, other: u64) -> u64 {
    let r = random.next();
    match r & 15 {
        0 => 0,
        1 => u64::MAX,
        2 => 1,
        3 => 1 << (bits - 1),
        4 => (1 << (bits - 1)) - 1,
        5 => other,
        6 => other.wrapping_add(1),
        7 => !other,
        8 => 1 << (r >> 8 & u64::from(bits - 1)),
        9 => r >> 8 & 0xff,
        _ => r >> 16,
    }
}

/// A vector register's 128 bits.
pub fn vector(random: &mut Random, lanes: Lanes, other: u128) -> u128 {
    let (low, high) = (other as u64, (other >> 64) as u64);
    let lanes = match random.next() >> 60 {
        0 => Lanes::Int(64),
        1 => Lanes::SINGLE,
        2 => Lanes::DOUBLE,
        _ => lanes,
    };
    u128::from(word(random, lanes, low)) | u128::from(word(random, lanes, high)) << 64
}

/// Any encoding of an extended value, mostly valid ones.
pub fn extended(random: &mut Random, other: F80) -> F80 {
    let r = random.next();
    let exponent = exponent(random, 15, u64::from(other.sign_exponent & 0x7fff));
    let fraction = match r & 7 {
        0 => other.significand,
        1 => pattern(random, 24) << 39,
        2 => pattern(random, 53) << 10,
        // Integers, for what converts and for BCD.
        3 => pattern(random, 63) & !(mask(63) >> (r >> 8 & 63)),
        _ => pattern(random, 63),
    };
    // Unnormals, pseudo-denormals and the like.
    let integer_bit = (exponent != 0) != (r >> 16 & 31 == 0);
    F80 {
        significand: fraction & mask(63) | u64::from(integer_bit) << 63,
        sign_exponent: (r >> 32) as u16 & 0x8000 | exponent as u16,
    }
}

/// An x87 state: registers of every kind, tags, TOP, control word, flags that are already set.
pub fn x87(random: &mut Random) -> X87 {
    let mut x = X87::default();
    let mut other = F80::ZERO;
    for r in &mut x.regs {
        other = extended(random, other);
        *r = other;
    }
    let r = random.next();
    let top = if r & 3 == 0 { r >> 8 & 7 } else { 0 } as u16;
    let tags = match r >> 2 & 3 {
        0 => (r >> 16) as u8,
        1 => 0xff,
        // Room for a push.
        _ => 0x7f,
    };
    x.tags = tags.rotate_left(top.into());
    let word = (r >> 24) as u16;
    x.control = 0x40 | word & 0xf00 | if r >> 40 & 7 == 0 { word & 0x3f } else { 0x3f };
    x.status = top << 11 | (r >> 48) as u16 & 0x4700;
    if r >> 43 & 3 == 0 {
        x.status |= (r >> 50) as u16 & 0x7f;
    }
    if r >> 45 & 63 != 0 {
        // Nothing pending.
        x.status &= !0x3f | x.control;
    }
    x.refresh_summary();
    x
}

/// MXCSR: every rounding mode, DAZ, FTZ and sticky flags; now and then with exceptions that are not masked.
pub fn mxcsr(random: &mut Random) -> u32 {
    let r = random.next();
    let v = r as u32 & 0xffff;
    match r >> 58 {
        0 => v,
        1..=15 => 0x1f80,
        _ => v | 0x1f80,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every class of a format's values is met within a few thousand draws.
    #[test]
    fn floats_of_every_class() {
        let mut random = Random::new(1);
        let mut met = std::collections::BTreeSet::new();
        let mut other = 0;
        for _ in 0..4000 {
            other = float(&mut random, 8, 23, other);
            let v = f32::from_bits(other as u32);
            let quiet = other >> 22 & 1 == 1;
            met.insert((format!("{:?}", v.classify()), v.is_nan() && quiet, v.is_sign_negative()));
        }
        // Zero, subnormal, normal, infinite, two kinds of NaN, of both signs.
        assert_eq!(met.len(), 12, "{met:?}");
    }

    #[test]
    fn lanes_fill_the_word() {
        let mut random = Random::new(2);
        for lanes in [Lanes::Int(8), Lanes::Int(16), Lanes::Int(32), Lanes::HALF, Lanes::SINGLE] {
            let all = (0..200).fold(0, |all, _| all | word(&mut random, lanes, 0));
            assert_eq!(all, u64::MAX, "{lanes:?}");
        }
    }
}
