//! AES: FIPS 197. The state is sixteen bytes, four to a column, the first column lowest.

use std::array::from_fn;

/// x times the polynomial x, modulo x^8 + x^4 + x^3 + x + 1.
const fn double(x: u8) -> u8 {
    x << 1 ^ (x >> 7) * 0x1b
}

/// SubBytes of every byte and its inverse.
const fn substitutions() -> ([u8; 256], [u8; 256]) {
    let (mut there, mut back) = ([0; 256], [0; 256]);
    // p runs through all powers of 3, q through those of its inverse.
    let (mut p, mut q) = (1u8, 1u8);
    let mut n = 0;
    while n < 256 {
        let x = if n == 255 { 0 } else { p };
        let inverse = if n == 255 { 0 } else { q };
        let s = inverse
            ^ inverse.rotate_left(1)
            ^ inverse.rotate_left(2)
            ^ inverse.rotate_left(3)
            ^ inverse.rotate_left(4)
            ^ 0x63;
        there[x as usize] = s;
        back[s as usize] = x;
        p ^= double(p);
        q ^= q << 1;
        q ^= q << 2;
        q ^= q << 4;
        q ^= (q >> 7) * 0x09;
        n += 1;
    }
    (there, back)
}

static SUBSTITUTE: [u8; 256] = substitutions().0;
static SUBSTITUTE_BACK: [u8; 256] = substitutions().1;

/// Row r moves r columns to the left, each byte substituted.
#[inline(always)]
fn sub_and_shift(v: u128) -> [u8; 16] {
    let v = v.to_le_bytes();
    from_fn(|k| SUBSTITUTE[usize::from(v[(k + 4 * (k & 3)) & 15])])
}
/// Its inverse.
#[inline(always)]
fn sub_and_shift_back(v: u128) -> [u8; 16] {
    let v = v.to_le_bytes();
    from_fn(|k| SUBSTITUTE_BACK[usize::from(v[(k + 12 * (k & 3)) & 15])])
}

/// Each column times the matrix whose first row is 2 3 1 1.
#[inline(always)]
fn mix_columns(v: [u8; 16]) -> [u8; 16] {
    from_fn(|k| {
        let at = |n: usize| v[k & !3 | (k + n) & 3];
        double(at(0) ^ at(1)) ^ at(1) ^ at(2) ^ at(3)
    })
}
/// Times the inverse of that matrix, which is the matrix times the one whose first row is 5 0 4 0.
#[inline(always)]
fn mix_columns_back(v: [u8; 16]) -> [u8; 16] {
    mix_columns(from_fn(|k| v[k] ^ double(double(v[k] ^ v[k ^ 2]))))
}

#[inline(always)]
pub(super) fn encrypt(a: u128, b: u128, _: u8) -> u128 {
    u128::from_le_bytes(mix_columns(sub_and_shift(a))) ^ b
}
#[inline(always)]
pub(super) fn encrypt_last(a: u128, b: u128, _: u8) -> u128 {
    u128::from_le_bytes(sub_and_shift(a)) ^ b
}
#[inline(always)]
pub(super) fn decrypt(a: u128, b: u128, _: u8) -> u128 {
    u128::from_le_bytes(mix_columns_back(sub_and_shift_back(a))) ^ b
}
#[inline(always)]
pub(super) fn decrypt_last(a: u128, b: u128, _: u8) -> u128 {
    u128::from_le_bytes(sub_and_shift_back(a)) ^ b
}
#[inline(always)]
pub(super) fn mix_back(_: u128, b: u128, _: u8) -> u128 {
    u128::from_le_bytes(mix_columns_back(b.to_le_bytes()))
}
/// SubWord of 32-bit lanes 1 and 3 of b in lanes 0 and 2; above each the same rotated, with the round constant.
#[inline(always)]
pub(super) fn key_assist(_: u128, b: u128, imm: u8) -> u128 {
    let half = |word: u128| {
        let s = u32::from_le_bytes((word as u32).to_le_bytes().map(|x| SUBSTITUTE[usize::from(x)]));
        u128::from(s) | u128::from(s.rotate_right(8) ^ u32::from(imm)) << 32
    };
    half(b >> 32) | half(b >> 96) << 64
}
