//! Every operation against the host's own instruction.
#![allow(unsafe_code)]

use super::{OPERATIONS, TERNARY, TernaryOp, VecOp, wide};
use std::arch::x86_64::*;

fn host(v: u128) -> __m128i {
    // SAFETY: both are 128 plain bits.
    unsafe { std::mem::transmute(v) }
}

fn back(v: __m128i) -> u128 {
    // SAFETY: both are 128 plain bits.
    unsafe { std::mem::transmute(v) }
}

#[target_feature(enable = "sse2")]
fn ps(v: u128) -> __m128 {
    _mm_castsi128_ps(host(v))
}

#[target_feature(enable = "sse2")]
fn pd(v: u128) -> __m128d {
    _mm_castsi128_pd(host(v))
}

/// What the host makes of it; none for the approximations, whose bits are each maker's own.
#[target_feature(enable = "sse2")]
fn expected(op: VecOp, a: u128, b: u128, imm: u8) -> Option<u128> {
    let (x, y) = (host(a), host(b));
    /// An intrinsic with a constant immediate, for each that it can have.
    macro_rules! by_imm {
        ($f:ident, $v:expr; $($n:literal)*) => {
            match imm { $($n => back($f::<$n>($v)),)* _ => unreachable!() }
        };
    }
    macro_rules! shuffles {
        ($f:ident, $v:expr) => {
            by_imm!($f, $v; 0 1 2 3 7 13 27 57 78 100 147 177 216 228 254 255)
        };
    }
    macro_rules! counts {
        ($f:ident) => { by_imm!($f, x; 0 1 2 3 7 13 27 57 78 100 147 177 216 228 254 255) };
    }
    Some(match op {
        VecOp::And => back(_mm_and_si128(x, y)),
        VecOp::AndNot => back(_mm_andnot_si128(x, y)),
        VecOp::Or => back(_mm_or_si128(x, y)),
        VecOp::Xor => back(_mm_xor_si128(x, y)),
        VecOp::ShlW => back(_mm_sll_epi16(x, y)),
        VecOp::ShlD => back(_mm_sll_epi32(x, y)),
        VecOp::ShlQ => back(_mm_sll_epi64(x, y)),
        VecOp::ShrW => back(_mm_srl_epi16(x, y)),
        VecOp::ShrD => back(_mm_srl_epi32(x, y)),
        VecOp::ShrQ => back(_mm_srl_epi64(x, y)),
        VecOp::SarW => back(_mm_sra_epi16(x, y)),
        VecOp::SarD => back(_mm_sra_epi32(x, y)),
        VecOp::ShlImmW => counts!(_mm_slli_epi16),
        VecOp::ShlImmD => counts!(_mm_slli_epi32),
        VecOp::ShlImmQ => counts!(_mm_slli_epi64),
        VecOp::ShrImmW => counts!(_mm_srli_epi16),
        VecOp::ShrImmD => counts!(_mm_srli_epi32),
        VecOp::ShrImmQ => counts!(_mm_srli_epi64),
        VecOp::SarImmW => counts!(_mm_srai_epi16),
        VecOp::SarImmD => counts!(_mm_srai_epi32),
        VecOp::ShlBytes => counts!(_mm_slli_si128),
        VecOp::ShrBytes => counts!(_mm_srli_si128),
        VecOp::AddB => back(_mm_add_epi8(x, y)),
        VecOp::AddW => back(_mm_add_epi16(x, y)),
        VecOp::AddD => back(_mm_add_epi32(x, y)),
        VecOp::AddQ => back(_mm_add_epi64(x, y)),
        VecOp::SubB => back(_mm_sub_epi8(x, y)),
        VecOp::SubW => back(_mm_sub_epi16(x, y)),
        VecOp::SubD => back(_mm_sub_epi32(x, y)),
        VecOp::SubQ => back(_mm_sub_epi64(x, y)),
        VecOp::AddSB => back(_mm_adds_epi8(x, y)),
        VecOp::AddSW => back(_mm_adds_epi16(x, y)),
        VecOp::SubSB => back(_mm_subs_epi8(x, y)),
        VecOp::SubSW => back(_mm_subs_epi16(x, y)),
        VecOp::AddUsB => back(_mm_adds_epu8(x, y)),
        VecOp::AddUsW => back(_mm_adds_epu16(x, y)),
        VecOp::SubUsB => back(_mm_subs_epu8(x, y)),
        VecOp::SubUsW => back(_mm_subs_epu16(x, y)),
        VecOp::AvgB => back(_mm_avg_epu8(x, y)),
        VecOp::AvgW => back(_mm_avg_epu16(x, y)),
        VecOp::MinUB => back(_mm_min_epu8(x, y)),
        VecOp::MaxUB => back(_mm_max_epu8(x, y)),
        VecOp::MinSW => back(_mm_min_epi16(x, y)),
        VecOp::MaxSW => back(_mm_max_epi16(x, y)),
        VecOp::CmpEqB => back(_mm_cmpeq_epi8(x, y)),
        VecOp::CmpEqW => back(_mm_cmpeq_epi16(x, y)),
        VecOp::CmpEqD => back(_mm_cmpeq_epi32(x, y)),
        VecOp::CmpGtB => back(_mm_cmpgt_epi8(x, y)),
        VecOp::CmpGtW => back(_mm_cmpgt_epi16(x, y)),
        VecOp::CmpGtD => back(_mm_cmpgt_epi32(x, y)),
        VecOp::MulLoW => back(_mm_mullo_epi16(x, y)),
        VecOp::MulHiW => back(_mm_mulhi_epi16(x, y)),
        VecOp::MulHiUW => back(_mm_mulhi_epu16(x, y)),
        VecOp::MulUDQ => back(_mm_mul_epu32(x, y)),
        VecOp::MAddWD => back(_mm_madd_epi16(x, y)),
        VecOp::SadBW => back(_mm_sad_epu8(x, y)),
        VecOp::UnpackLoB => back(_mm_unpacklo_epi8(x, y)),
        VecOp::UnpackLoW => back(_mm_unpacklo_epi16(x, y)),
        VecOp::UnpackLoD => back(_mm_unpacklo_epi32(x, y)),
        VecOp::UnpackLoQ => back(_mm_unpacklo_epi64(x, y)),
        VecOp::UnpackHiB => back(_mm_unpackhi_epi8(x, y)),
        VecOp::UnpackHiW => back(_mm_unpackhi_epi16(x, y)),
        VecOp::UnpackHiD => back(_mm_unpackhi_epi32(x, y)),
        VecOp::UnpackHiQ => back(_mm_unpackhi_epi64(x, y)),
        VecOp::PackSWB => back(_mm_packs_epi16(x, y)),
        VecOp::PackSDW => back(_mm_packs_epi32(x, y)),
        VecOp::PackUsWB => back(_mm_packus_epi16(x, y)),
        VecOp::ShufD => shuffles!(_mm_shuffle_epi32, y),
        VecOp::ShufLoW => shuffles!(_mm_shufflelo_epi16, y),
        VecOp::ShufHiW => shuffles!(_mm_shufflehi_epi16, y),
        VecOp::ShufPs => {
            macro_rules! each {
                ($($n:literal)*) => {
                    match imm { $($n => _mm_shuffle_ps::<$n>(ps(a), ps(b)),)* _ => unreachable!() }
                };
            }
            back(_mm_castps_si128(each!(0 1 2 3 7 13 27 57 78 100 147 177 216 228 254 255)))
        }
        VecOp::ShufPd => back(_mm_castpd_si128(match imm & 3 {
            0 => _mm_shuffle_pd::<0>(pd(a), pd(b)),
            1 => _mm_shuffle_pd::<1>(pd(a), pd(b)),
            2 => _mm_shuffle_pd::<2>(pd(a), pd(b)),
            _ => _mm_shuffle_pd::<3>(pd(a), pd(b)),
        })),
        VecOp::InsertW => match imm & 7 {
            0 => back(_mm_insert_epi16::<0>(x, b as i32)),
            1 => back(_mm_insert_epi16::<1>(x, b as i32)),
            2 => back(_mm_insert_epi16::<2>(x, b as i32)),
            3 => back(_mm_insert_epi16::<3>(x, b as i32)),
            4 => back(_mm_insert_epi16::<4>(x, b as i32)),
            5 => back(_mm_insert_epi16::<5>(x, b as i32)),
            6 => back(_mm_insert_epi16::<6>(x, b as i32)),
            _ => back(_mm_insert_epi16::<7>(x, b as i32)),
        },
        VecOp::ExtractW => {
            (match imm & 7 {
                0 => _mm_extract_epi16::<0>(x),
                1 => _mm_extract_epi16::<1>(x),
                2 => _mm_extract_epi16::<2>(x),
                3 => _mm_extract_epi16::<3>(x),
                4 => _mm_extract_epi16::<4>(x),
                5 => _mm_extract_epi16::<5>(x),
                6 => _mm_extract_epi16::<6>(x),
                _ => _mm_extract_epi16::<7>(x),
            }) as u128
        }
        VecOp::MaskB => _mm_movemask_epi8(x) as u128,
        VecOp::MaskD => _mm_movemask_ps(ps(a)) as u128,
        VecOp::MaskQ => _mm_movemask_pd(pd(a)) as u128,
        VecOp::MergeD => back(_mm_castps_si128(_mm_move_ss(ps(a), ps(b)))),
        VecOp::MergeQ => back(_mm_castpd_si128(_mm_move_sd(pd(a), pd(b)))),
        _ => return None,
    })
}

/// Immediates that tell fields and limits apart.
const IMMEDIATES: [u8; 16] = [0, 1, 2, 3, 7, 13, 27, 57, 78, 100, 147, 177, 216, 228, 254, 255];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    /// 16-bit lanes at and beside their limits, or any.
    fn operand(&mut self) -> u128 {
        const EDGES: [u16; 12] =
            [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x8001, 0xff80, 0x7f80, 0x100];
        (0..8).fold(0, |all, k| {
            let n = self.next();
            let lane = if n & 1 == 0 { EDGES[(n >> 8) as usize % EDGES.len()] } else { (n >> 16) as u16 };
            all | u128::from(lane) << (16 * k)
        })
    }
}

#[test]
fn operations_are_the_hosts() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for &op in OPERATIONS {
        for n in 0..4000 {
            let a = random.operand();
            let mut b = random.operand();
            if n % 8 == 0 {
                b = a ^ 1 << (random.next() % 128);
            }
            let shifts = matches!(
                op,
                VecOp::ShlW
                    | VecOp::ShlD
                    | VecOp::ShlQ
                    | VecOp::ShrW
                    | VecOp::ShrD
                    | VecOp::ShrQ
                    | VecOp::SarW
                    | VecOp::SarD
            );
            if shifts && n % 16 != 0 {
                b = u128::from(random.next() % 70) | b << 64;
            }
            let imm = IMMEDIATES[n % IMMEDIATES.len()];
            // SAFETY: every x86-64 host has SSE2.
            let Some(expected) = (unsafe { expected(op, a, b, imm) }) else { continue };
            let fast = wide::bits(wide::eval(op, wide::from_bits(a), wide::from_bits(b), imm));
            assert_eq!(fast, expected, "{op:?} by the host of {a:032x}, {b:032x}, {imm}");
            assert_eq!(op.eval(a, b, imm), expected, "{op:?} of {a:032x}, {b:032x}, {imm}");
        }
    }
}

/// What the host has an instruction for that came after SSE2, and what is made of several.
#[test]
fn later_operations_are_the_hosts() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut compared = 0;
    for &op in OPERATIONS.iter().filter(|&&op| wide::can(op)) {
        for n in 0..4096 {
            let (a, b) = (random.operand(), random.operand());
            let imm = n as u8;
            let fast = wide::at_once(op, wide::from_bits(a), wide::from_bits(b), imm).map(wide::bits);
            let portable = op.eval(a, b, imm);
            assert_eq!(fast, Some(portable), "{op:?} of {a:032x}, {b:032x}, {imm}");
        }
        compared += 1;
    }
    assert!(compared >= 10, "blends, insertions and extractions need no more than SSE2");
    for &op in TERNARY.iter().filter(|&&op| wide::can3(op)) {
        for n in 0..8192 {
            let (mut a, mut b, mut c) = (random.operand(), random.operand(), random.operand());
            if op == TernaryOp::CompareStrings && n % 8 != 0 {
                // Few letters, lengths near a register's.
                const LETTERS: u128 = 0x0101_0101_0301_0101_8301_0101_0101_0103;
                (a, b) = (a & LETTERS, b & LETTERS);
                c = u128::from(random.next() % 20) | u128::from((random.next() % 20).wrapping_neg()) << 64;
            }
            let imm = n as u8;
            let [x, y, z] = [a, b, c].map(wide::from_bits);
            let fast = wide::at_once3(op, x, y, z, imm).map(wide::bits);
            assert_eq!(fast, Some(op.eval(a, b, c, imm)), "{op:?} of {a:032x}, {b:032x}, {c:032x}, {imm}");
        }
    }
}

/// "123456789" gives the check value of the CRC's catalogues.
#[test]
fn crc_of_the_digits() {
    let crc = b"123456789".iter().fold(0xffff_ffff, |crc, &x| VecOp::Crc32B.eval(crc, x.into(), 0));
    assert_eq!(crc ^ 0xffff_ffff, 0xe306_9283);
}

#[test]
fn numbers_name_operations() {
    for &op in TERNARY {
        assert_eq!(TernaryOp::from_number(op as u8), op);
    }
    for &op in OPERATIONS {
        assert_eq!(VecOp::from_number(op as u8), op);
    }
}
