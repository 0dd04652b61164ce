//! FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ.

use super::super::env::{Env, Rounding};
use super::F80;

/// A constant that an instruction loads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Constant {
    /// FLD1.
    One,
    /// FLDL2T: log2(10).
    Log2Of10,
    /// FLDL2E: log2(e).
    Log2OfE,
    /// FLDPI.
    Pi,
    /// FLDLG2: log10(2).
    Log10Of2,
    /// FLDLN2: ln(2).
    LnOf2,
    /// FLDZ.
    Zero,
}

/// The constant, rounded from silicon's longer form by the rounding control; precision control does not matter, and
/// PE is not raised.
pub fn constant(which: Constant, env: &Env) -> F80 {
    // The significand cut off after 64 bits, and whether the nearest one is the next.
    let (field, cut, nearest_is_next) = match which {
        Constant::One => return F80::new(false, 0x3fff, 1 << 63),
        Constant::Zero => return F80::ZERO,
        Constant::Log2Of10 => (0x4000, 0xd49a_784b_cd1b_8afe, false),
        Constant::Log2OfE => (0x3fff, 0xb8aa_3b29_5c17_f0bb, true),
        Constant::Pi => (0x4000, 0xc90f_daa2_2168_c234, true),
        Constant::Log10Of2 => (0x3ffd, 0x9a20_9a84_fbcf_f798, true),
        Constant::LnOf2 => (0x3ffe, 0xb172_17f7_d1cf_79ab, true),
    };
    let next = match env.rounding() {
        Rounding::Nearest => nearest_is_next,
        Rounding::Up => true,
        Rounding::Down | Rounding::Zero => false,
    };
    F80::new(false, field, cut + u64::from(next))
}
