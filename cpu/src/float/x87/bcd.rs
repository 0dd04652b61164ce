//! Packed decimal integers: FBLD and FBSTP. SDM 1 "Packed BCD Integers": 18 digits, the sign in the top bit.

use super::super::env::{Env, IE, PE};
use super::super::format::{Class, Unpacked};
use super::super::round::round_to_integer;
use super::F80;

const DIGITS: u32 = 18;
const LIMIT: u64 = 10u64.pow(DIGITS);
/// SDM 1 "Packed BCD Integers": packed BCD integer indefinite.
const INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

/// FBLD. Always exact. Invalid digits are not checked; they count as 10 to 15 of their place.
pub fn from_bcd(bytes: [u8; 10]) -> F80 {
    let [digits @ .., sign] = bytes;
    let sign = sign & 0x80 != 0;
    let magnitude = digits
        .iter()
        .rev()
        .fold(0u64, |sum, &pair| sum * 100 + u64::from(pair >> 4) * 10 + u64::from(pair & 15));
    let value = Unpacked::from_magnitude(sign, magnitude);
    if value.is_zero() { F80::zero(sign) } else { F80::assemble(sign, value.exponent, value.significand) }
}

/// FBSTP: rounds to an integer; more than 18 digits, infinities and NaNs are invalid.
pub fn to_bcd(value: F80, env: &mut Env) -> [u8; 10] {
    env.set_rounded_up(false);
    let value = value.unpack();
    let rounded = match value.class {
        Class::Zero | Class::Normal | Class::Denormal => round_to_integer(&value, env.rounding()),
        _ => None,
    };
    let Some(integer) = rounded.filter(|integer| integer.magnitude < LIMIT) else {
        env.raise(IE);
        return INDEFINITE;
    };
    if integer.inexact {
        env.raise(PE);
        env.set_rounded_up(integer.up);
    }
    let mut bytes = [0; 10];
    let [digits @ .., sign] = &mut bytes;
    let mut rest = integer.magnitude;
    for pair in digits {
        let two = (rest % 100) as u8;
        *pair = (two / 10) << 4 | (two % 10);
        rest /= 100;
    }
    *sign = if value.sign { 0x80 } else { 0 };
    bytes
}
