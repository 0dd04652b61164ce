//! SHA-1 and SHA-256: FIPS 180, in the steps that the SHA extensions make of them.

use super::lanes::{dwords, from_dwords};

/// Four rounds of SHA-1: A to D from lane 3 down in a, E with the first words of the message in b.
#[inline(always)]
pub(super) fn sha1_rounds(a: u128, b: u128, imm: u8) -> u128 {
    let ([mut d, mut c, mut b_, mut a_], words) = (dwords(a), dwords(b));
    // The first word has E in it.
    let mut e = 0u32;
    for word in words.into_iter().rev() {
        let (f, k) = match imm & 3 {
            0 => (b_ & c ^ !b_ & d, 0x5a82_7999),
            1 => (b_ ^ c ^ d, 0x6ed9_eba1),
            2 => (b_ & c ^ b_ & d ^ c & d, 0x8f1b_bcdc),
            _ => (b_ ^ c ^ d, 0xca62_c1d6),
        };
        let next = f.wrapping_add(a_.rotate_left(5)).wrapping_add(word).wrapping_add(e).wrapping_add(k);
        (a_, b_, c, d, e) = (next, a_, b_.rotate_left(30), c, d);
    }
    from_dwords([d, c, b_, a_])
}
/// E of the next four rounds, which is A of these, rotated, added to b's highest lane.
#[inline(always)]
pub(super) fn sha1_next_e(a: u128, b: u128, _: u8) -> u128 {
    let (a, mut b) = (dwords(a), dwords(b));
    b[3] = b[3].wrapping_add(a[3].rotate_left(30));
    from_dwords(b)
}
#[inline(always)]
pub(super) fn sha1_msg1(a: u128, b: u128, _: u8) -> u128 {
    a ^ (a << 64 | b >> 64)
}
#[inline(always)]
pub(super) fn sha1_msg2(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    let w16 = (a[3] ^ b[2]).rotate_left(1);
    from_dwords([
        (a[0] ^ w16).rotate_left(1),
        (a[1] ^ b[0]).rotate_left(1),
        (a[2] ^ b[1]).rotate_left(1),
        w16,
    ])
}

/// Two rounds of SHA-256: C D G H from lane 3 down in a, A B E F in b, the sums of message and constant in c.
#[inline(always)]
pub(super) fn sha256_rounds(a: u128, b: u128, c: u128, _: u8) -> u128 {
    let ([mut h, mut g, mut d, mut c_], [mut f, mut e, mut b_, mut a_]) = (dwords(a), dwords(b));
    let [wk0, wk1, ..] = dwords(c);
    for wk in [wk0, wk1] {
        let t = (e & f ^ !e & g)
            .wrapping_add(e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25))
            .wrapping_add(wk)
            .wrapping_add(h);
        let next = t
            .wrapping_add(a_ & b_ ^ a_ & c_ ^ b_ & c_)
            .wrapping_add(a_.rotate_right(2) ^ a_.rotate_right(13) ^ a_.rotate_right(22));
        (h, g, f, e) = (g, f, e, t.wrapping_add(d));
        (d, c_, b_, a_) = (c_, b_, a_, next);
    }
    from_dwords([f, e, b_, a_])
}
#[inline(always)]
pub(super) fn sha256_msg1(a: u128, b: u128, _: u8) -> u128 {
    let sigma = |w: u32| w.rotate_right(7) ^ w.rotate_right(18) ^ w >> 3;
    let (a, b) = (dwords(a), dwords(b));
    let sum = |w: u32, next: u32| w.wrapping_add(sigma(next));
    from_dwords([sum(a[0], a[1]), sum(a[1], a[2]), sum(a[2], a[3]), sum(a[3], b[0])])
}
#[inline(always)]
pub(super) fn sha256_msg2(a: u128, b: u128, _: u8) -> u128 {
    let sigma = |w: u32| w.rotate_right(17) ^ w.rotate_right(19) ^ w >> 10;
    let (a, b) = (dwords(a), dwords(b));
    let w16 = a[0].wrapping_add(sigma(b[2]));
    let w17 = a[1].wrapping_add(sigma(b[3]));
    from_dwords([w16, w17, a[2].wrapping_add(sigma(w16)), a[3].wrapping_add(sigma(w17))])
}
