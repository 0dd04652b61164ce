//! RCPPS and RSQRTPS. The manual promises a relative error of at most 1.5 * 2^-12 and silicon keeps that promise in bits
//! of its own, which differ between makers. Here the result is the exact one rounded to 12 bits of fraction, computed with
//! correctly rounded f64 operations, so that it is the same on every host. MXCSR plays no part: denormal operands count as
//! zeros, results that would be denormal become zeros, nothing is raised.

use super::lanes::{dwords, from_dwords};

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0x7f80_0000;
const QUIET: u32 = 0x0040_0000;
const INDEFINITE: u32 = 0xffc0_0000;
const LEAST_NORMAL: u32 = 0x0080_0000;

/// A positive, normal f64 as an f32 with 12 bits of fraction; zero below f32's normal range.
#[inline(always)]
fn cut(v: f64) -> u32 {
    const DROPPED: u32 = 52 - 12;
    let rounded = (v.to_bits() + (1 << (DROPPED - 1))) & !((1 << DROPPED) - 1);
    let bits = (f64::from_bits(rounded) as f32).to_bits();
    if bits < LEAST_NORMAL { 0 } else { bits }
}

fn reciprocal(x: u32) -> u32 {
    let (sign, magnitude) = (x & SIGN, x & !SIGN);
    match magnitude {
        0..LEAST_NORMAL => sign | INFINITY,
        INFINITY => sign,
        m if m > INFINITY => x | QUIET,
        m => sign | cut(1.0 / f64::from(f32::from_bits(m))),
    }
}

fn reciprocal_root(x: u32) -> u32 {
    let (sign, magnitude) = (x & SIGN, x & !SIGN);
    match magnitude {
        0..LEAST_NORMAL => sign | INFINITY,
        m if m > INFINITY => x | QUIET,
        _ if sign != 0 => INDEFINITE,
        INFINITY => 0,
        m => cut(1.0 / f64::from(f32::from_bits(m)).sqrt()),
    }
}

pub(super) fn rcp_ps(_: u128, b: u128, _: u8) -> u128 {
    from_dwords(dwords(b).map(reciprocal))
}
pub(super) fn rsqrt_ps(_: u128, b: u128, _: u8) -> u128 {
    from_dwords(dwords(b).map(reciprocal_root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_stay_within_the_promise() {
        let mut x = 1u32;
        for _ in 0..200_000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Away from the ends of the range, where results flush or overflow.
            let bits = (x % 0x7000_0000).max(0x0100_0000);
            let v = f64::from(f32::from_bits(bits));
            let error = |ours: u32, exact: f64| (f64::from(f32::from_bits(ours)) - exact).abs() / exact;
            assert!(error(reciprocal(bits), 1.0 / v) <= 1.5 / 4096.0, "rcp {bits:08x}");
            assert!(error(reciprocal_root(bits), 1.0 / v.sqrt()) <= 1.5 / 4096.0, "rsqrt {bits:08x}");
        }
    }

    #[test]
    fn special_operands() {
        let rows = [
            (0x0000_0000, 0x7f80_0000, 0x7f80_0000),
            (0x8000_0000, 0xff80_0000, 0xff80_0000),
            (0x0000_0001, 0x7f80_0000, 0x7f80_0000),
            (0x8000_0001, 0xff80_0000, 0xff80_0000),
            (0x7f80_0000, 0x0000_0000, 0x0000_0000),
            (0xff80_0000, 0x8000_0000, INDEFINITE),
            (0x7f80_0001, 0x7fc0_0001, 0x7fc0_0001),
            (0xffc1_2345, 0xffc1_2345, 0xffc1_2345),
            (0x7f7f_ffff, 0x0000_0000, 0x1f80_0000),
            (0xbf80_0000, 0xbf80_0000, INDEFINITE),
        ];
        for (x, rcp, rsqrt) in rows {
            assert_eq!(reciprocal(x), rcp, "rcp {x:08x}");
            assert_eq!(reciprocal_root(x), rsqrt, "rsqrt {x:08x}");
        }
    }
}
