//! The status flags, kept as four words from which any flag follows in an operation or two.
//!
//! ZF is `z == 0`; SF is bit 63 of `s`, PF the parity of its low byte; with `d = l - t`, CF is `l < t` unsigned, OF the sign
//! of `(l ^ t) & (l ^ d)`, and AF bit 4 of `l ^ t ^ d`. A subtraction stores its operands in l and t, an addition its result
//! and one operand, so no flag costs anything when it is made. Below 64 bits, l and t are shifted to the top of the word,
//! with their low four bits repeated at the bottom for AF ([`place`]).

use crate::width::Width;
use serde::{Deserialize, Serialize};

/// Bits of RFLAGS.
#[allow(missing_docs, reason = "the names are the manual's")]
pub(crate) mod bits {
    pub(crate) const CF: u64 = 1;
    pub(crate) const FIXED: u64 = 2;
    pub(crate) const PF: u64 = 4;
    pub(crate) const AF: u64 = 0x10;
    pub(crate) const ZF: u64 = 0x40;
    pub(crate) const SF: u64 = 0x80;
    pub(crate) const TF: u64 = 0x100;
    pub(crate) const IF: u64 = 0x200;
    pub(crate) const DF: u64 = 0x400;
    pub(crate) const OF: u64 = 0x800;
    pub(crate) const IOPL: u64 = 0x3000;
    pub(crate) const NT: u64 = 0x4000;
    pub(crate) const RF: u64 = 0x1_0000;
    pub(crate) const VM: u64 = 0x2_0000;
    pub(crate) const AC: u64 = 0x4_0000;
    pub(crate) const VIF: u64 = 0x8_0000;
    pub(crate) const VIP: u64 = 0x10_0000;
    pub(crate) const ID: u64 = 0x20_0000;
    /// OF SF ZF AF PF CF.
    pub(crate) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
}
use bits::*;

/// What an instruction did to the status flags. Operands are zero-extended values of the width given along.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arith<V, B> {
    /// r = a + b.
    Add {
        /// First operand.
        a: V,
        /// Result.
        r: V,
    },
    /// r = a - b.
    Sub {
        /// Minuend.
        a: V,
        /// Subtrahend.
        b: V,
        /// Result.
        r: V,
    },
    /// AND, OR, XOR, TEST: CF, OF and AF are 0.
    Logic {
        /// Result.
        r: V,
    },
    /// ZF, SF and PF from r, the others given.
    Explicit {
        /// Result.
        r: V,
        /// Carry.
        cf: B,
        /// Overflow.
        of: B,
        /// Auxiliary carry.
        af: B,
    },
}

/// The four words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub(crate) struct Flags {
    /// ZF is `z == 0`.
    pub z: u64,
    /// SF from bit 63, PF from the low byte.
    pub s: u64,
    /// Left side of the comparison that gives CF, OF, AF.
    pub l: u64,
    /// Right side.
    pub t: u64,
}

/// Words l, t for any CF, OF, AF; the index is `af << 2 | of << 1 | cf`.
pub(crate) static CARRIES: [[u64; 2]; 8] = [
    [0, 0],
    [0, 0x20],
    [1 << 63, 0x20],
    [0x7fff_ffff_ffff_ffe0, 1 << 63],
    [0x20, 1],
    [0, 1],
    [1 << 63, 1],
    [0x7fff_ffff_ffff_ffe0, 1 << 63 | 1],
];

/// `v` as it stands in l or t.
#[inline(always)]
const fn place(w: Width, v: u64) -> u64 {
    if w.0 == 8 { v } else { v << (64 - w.bits()) | v & 15 }
}

impl Flags {
    /// Notes what an instruction did.
    #[inline(always)]
    pub(crate) fn set(&mut self, w: Width, what: Arith<u64, bool>) {
        let (r, l, t) = match what {
            Arith::Add { a, r } => (r, place(w, r), place(w, a)),
            Arith::Sub { a, b, r } => (r, place(w, a), place(w, b)),
            Arith::Logic { r } => (r, 0, 0),
            Arith::Explicit { r, cf, of, af } => {
                let [l, t] = CARRIES[(af as usize) << 2 | (of as usize) << 1 | cf as usize];
                (r, l, t)
            }
        };
        let r = w.sext(r);
        *self = Flags { z: r, s: r, l, t };
    }
    /// CF.
    #[inline(always)]
    pub(crate) fn cf(&self) -> bool {
        self.l < self.t
    }
    /// OF.
    #[inline(always)]
    pub(crate) fn of(&self) -> bool {
        ((self.l ^ self.t) & (self.l ^ self.l.wrapping_sub(self.t))) >> 63 != 0
    }
    /// AF.
    #[inline(always)]
    pub(crate) fn af(&self) -> bool {
        (self.l ^ self.t ^ self.l.wrapping_sub(self.t)) & AF != 0
    }
    /// SF.
    #[inline(always)]
    pub(crate) fn sf(&self) -> bool {
        (self.s as i64) < 0
    }
    /// PF.
    #[inline(always)]
    pub(crate) fn pf(&self) -> bool {
        (self.s as u8).count_ones() & 1 == 0
    }
    /// Sets CF, OF and AF, leaves the others.
    #[inline(always)]
    pub(crate) fn set_carries(&mut self, cf: bool, of: bool, af: bool) {
        [self.l, self.t] = CARRIES[(af as usize) << 2 | (of as usize) << 1 | cf as usize];
    }
    /// Sets CF alone.
    #[inline(always)]
    pub(crate) fn set_cf(&mut self, cf: bool) {
        self.set_carries(cf, self.of(), self.af());
    }
    /// Sets ZF alone.
    #[inline(always)]
    pub(crate) fn set_zf(&mut self, zf: bool) {
        self.z = !zf as u64;
    }
    /// The condition of Jcc, SETcc, CMOVcc; `cc` is the low nibble of the opcode.
    #[inline(always)]
    pub(crate) fn condition(&self, cc: u8) -> bool {
        let v = match cc >> 1 & 7 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.z == 0,
            3 => self.z == 0 || self.cf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.z == 0 || self.sf() != self.of(),
        };
        v ^ (cc & 1 != 0)
    }
    /// The six status flags at their places in RFLAGS.
    pub(crate) fn to_bits(self) -> u64 {
        let bit = |on: bool, at: u64| if on { at } else { 0 };
        bit(self.cf(), CF)
            | bit(self.pf(), PF)
            | bit(self.af(), AF)
            | bit(self.z == 0, ZF)
            | bit(self.sf(), SF)
            | bit(self.of(), OF)
    }
    /// The words for given status flags.
    pub(crate) fn from_bits(v: u64) -> Self {
        let mut flags = Flags {
            z: (v & ZF == 0) as u64,
            s: ((v & SF != 0) as u64) << 63 | (v & PF == 0) as u64,
            ..Flags::default()
        };
        flags.set_carries(v & CF != 0, v & OF != 0, v & AF != 0);
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_combination_of_status_flags_survives() {
        for n in 0..64u64 {
            let v = (0..6).map(|k| (n >> k & 1) * [CF, PF, AF, ZF, SF, OF][k]).sum::<u64>();
            assert_eq!(Flags::from_bits(v).to_bits(), v);
        }
    }
}
