//! How far results are apart, for functions that silicon computes approximately.

use softmetal_cpu::float::{Class, F80};

/// How many numbers lie between two, one of them counted; `u64::MAX` if they are not numbers of one sign.
pub fn distance(a: F80, b: F80) -> u64 {
    if a == b {
        return 0;
    }
    let integer_bit = 1 << 63;
    let place =
        |v: F80| i128::from(v.sign_exponent & 0x7fff) << 63 | i128::from(v.significand & !integer_bit);
    let number = |v: F80| !matches!(v.class(), Class::QuietNan | Class::SignallingNan | Class::Unsupported);
    if a.is_negative() == b.is_negative() && number(a) && number(b) {
        (place(a) - place(b)).unsigned_abs().min(u64::MAX.into()) as u64
    } else {
        u64::MAX
    }
}
