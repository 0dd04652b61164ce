//! Polynomials over two elements: carry-less products, CRC-32C, and the field of 256 elements that AES uses.

use super::lanes::{each_b, from_qwords, qwords};

/// The product of the 64-bit lanes that bits 0 and 4 choose, without carries.
#[inline(always)]
pub(super) fn carry_less(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (qwords(a)[usize::from(imm & 1)], qwords(b)[usize::from(imm >> 4 & 1)]);
    (0..64).fold(0, |sum, k| sum ^ (u128::from(a) << k) & 0u128.wrapping_sub(u128::from(b >> k & 1)))
}

/// The product modulo x^8 + x^4 + x^3 + x + 1.
#[inline(always)]
fn product(x: u8, y: u8) -> u8 {
    let (mut sum, mut x) = (0, x);
    for k in 0..8 {
        sum ^= x & 0u8.wrapping_sub(y >> k & 1);
        x = x << 1 ^ (x >> 7) * 0x1b;
    }
    sum
}
/// x to the power of 254: the inverse, and 0 of 0.
#[inline(always)]
fn inverse(x: u8) -> u8 {
    let mut power = x;
    for _ in 0..6 {
        // 1, 3, 7, .. 127.
        power = product(product(power, power), x);
    }
    product(power, power)
}
/// The matrix, a row for each bit, the first row highest, times the vector x.
#[inline(always)]
fn transform(matrix: u64, x: u8, constant: u8) -> u8 {
    (0..8).fold(constant, |all, bit| {
        let row = (matrix >> (8 * (7 - bit))) as u8;
        all ^ ((row & x).count_ones() as u8 & 1) << bit
    })
}
/// Each byte of a by the matrix in its half of b.
#[inline(always)]
fn transform_all(a: u128, b: u128, f: impl Fn(u64, u8) -> u8) -> u128 {
    let (a, b) = (qwords(a), qwords(b));
    from_qwords([0, 1].map(|k| u64::from_le_bytes(a[k].to_le_bytes().map(|x| f(b[k], x)))))
}
#[inline(always)]
pub(super) fn affine(a: u128, b: u128, imm: u8) -> u128 {
    transform_all(a, b, |matrix, x| transform(matrix, x, imm))
}
#[inline(always)]
pub(super) fn affine_inverse(a: u128, b: u128, imm: u8) -> u128 {
    transform_all(a, b, |matrix, x| transform(matrix, inverse(x), imm))
}
#[inline(always)]
pub(super) fn mul_field(a: u128, b: u128, _: u8) -> u128 {
    each_b(a, b, product)
}

/// CRC-32C of each byte, the polynomial 11EDC6F41h with its bits in reverse.
static CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut v = n as u32;
        let mut k = 0;
        while k < 8 {
            v = v >> 1 ^ (v & 1) * 0x82f6_3b78;
            k += 1;
        }
        table[n] = v;
        n += 1;
    }
    table
};

/// Over the low `bytes` of b, from a on.
#[inline(always)]
fn crc32(a: u128, b: u128, bytes: usize) -> u128 {
    let next = |crc: u32, x: &u8| crc >> 8 ^ CRC[usize::from(crc as u8 ^ x)];
    b.to_le_bytes().iter().take(bytes).fold(a as u32, next).into()
}
#[inline(always)]
pub(super) fn crc32_b(a: u128, b: u128, _: u8) -> u128 {
    crc32(a, b, 1)
}
#[inline(always)]
pub(super) fn crc32_w(a: u128, b: u128, _: u8) -> u128 {
    crc32(a, b, 2)
}
#[inline(always)]
pub(super) fn crc32_d(a: u128, b: u128, _: u8) -> u128 {
    crc32(a, b, 4)
}
#[inline(always)]
pub(super) fn crc32_q(a: u128, b: u128, _: u8) -> u128 {
    crc32(a, b, 8)
}
