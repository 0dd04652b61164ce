//! 128 bits as the interpreter holds them on x86-64 hosts: in a vector register from load to store, because a value that
//! is stored in two halves and loaded whole stalls the host. What SSE2 has as one instruction is that instruction; the rest
//! goes through [`VecOp::eval`], which says for both what is right.
#![allow(unsafe_code)]

use super::{TernaryOp, VecOp, instructions, portable, portable3};
use core::arch::{asm, x86_64::*};

pub(crate) use instructions::{at_once, at_once3, can, can3};

/// 128 bits.
pub(crate) type Wide = __m128i;

#[inline(always)]
pub(crate) fn from_bits(v: u128) -> Wide {
    // SAFETY: both are 128 plain bits.
    unsafe { std::mem::transmute(v) }
}
#[inline(always)]
pub(crate) fn bits(v: Wide) -> u128 {
    // SAFETY: both are 128 plain bits.
    unsafe { std::mem::transmute(v) }
}
/// 64-bit lane n.
#[inline(always)]
pub(crate) fn lane(v: Wide, n: u8) -> u64 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_cvtsi128_si64(if n & 1 == 0 { v } else { _mm_unpackhi_epi64(v, v) }) as u64 }
}
/// v with its 64-bit lane n replaced.
#[inline(always)]
pub(crate) fn with_lane(v: Wide, n: u8, x: u64) -> Wide {
    // SAFETY: SSE2 is part of x86-64.
    unsafe {
        let x = _mm_cvtsi64_si128(x as i64);
        if n & 1 == 0 {
            _mm_castpd_si128(_mm_move_sd(_mm_castsi128_pd(v), _mm_castsi128_pd(x)))
        } else {
            _mm_unpacklo_epi64(v, x)
        }
    }
}
/// x in the low lane, zeros above.
#[inline(always)]
pub(crate) fn alone(x: u64) -> Wide {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_cvtsi64_si128(x as i64) }
}

/// Whether the host has an instruction for it. Those with immediates inside would need too many instructions for too
/// little use, and silicon's approximations differ between makers.
#[inline(always)]
const fn by_instruction(op: VecOp) -> bool {
    // What stands behind RSQRTPS in the list came after SSE2.
    (op as u8) < VecOp::RcpPs as u8
        && !matches!(
            op,
            VecOp::ShufLoW
                | VecOp::ShufHiW
                | VecOp::ShufPs
                | VecOp::ShufPd
                | VecOp::InsertW
                | VecOp::ExtractW
        )
}

/// A vector operation.
#[inline(always)]
pub(crate) fn eval(op: VecOp, a: Wide, b: Wide, imm: u8) -> Wide {
    if by_instruction(op) {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { by_host(op, a, b, imm) }
    } else if (op as u8) < VecOp::RcpPs as u8 {
        from_bits(op.eval(bits(a), bits(b), imm))
    } else if can(op) {
        at_once(op, a, b, imm).unwrap_or(a)
    } else {
        from_bits(portable(op, bits(a), bits(b), imm))
    }
}

/// An operation on three vectors.
#[inline(always)]
pub(crate) fn eval3(op: TernaryOp, a: Wide, b: Wide, c: Wide, imm: u8) -> Wide {
    if can3(op) {
        at_once3(op, a, b, c, imm).unwrap_or(a)
    } else {
        from_bits(portable3(op, bits(a), bits(b), bits(c), imm))
    }
}

/// What the host has an instruction for; zero for the rest.
///
/// # Safety
/// The host has SSE2. (An attribute that says so would keep the function from being inlined, and its operands in memory.)
#[inline(always)]
unsafe fn by_host(op: VecOp, a: Wide, b: Wide, imm: u8) -> Wide {
    // SAFETY: the caller's promise.
    unsafe {
        let count = _mm_cvtsi32_si128(imm.into());
        match op {
            VecOp::And => _mm_and_si128(a, b),
            VecOp::AndNot => _mm_andnot_si128(a, b),
            VecOp::Or => _mm_or_si128(a, b),
            VecOp::Xor => _mm_xor_si128(a, b),
            VecOp::ShlW => _mm_sll_epi16(a, b),
            VecOp::ShlD => _mm_sll_epi32(a, b),
            VecOp::ShlQ => _mm_sll_epi64(a, b),
            VecOp::ShrW => _mm_srl_epi16(a, b),
            VecOp::ShrD => _mm_srl_epi32(a, b),
            VecOp::ShrQ => _mm_srl_epi64(a, b),
            VecOp::SarW => _mm_sra_epi16(a, b),
            VecOp::SarD => _mm_sra_epi32(a, b),
            VecOp::ShlImmW => _mm_sll_epi16(a, count),
            VecOp::ShlImmD => _mm_sll_epi32(a, count),
            VecOp::ShlImmQ => _mm_sll_epi64(a, count),
            VecOp::ShrImmW => _mm_srl_epi16(a, count),
            VecOp::ShrImmD => _mm_srl_epi32(a, count),
            VecOp::ShrImmQ => _mm_srl_epi64(a, count),
            VecOp::SarImmW => _mm_sra_epi16(a, count),
            VecOp::SarImmD => _mm_sra_epi32(a, count),
            VecOp::ShlBytes => shl_bytes(a, imm),
            VecOp::ShrBytes => shr_bytes(a, imm),
            VecOp::AddB => _mm_add_epi8(a, b),
            VecOp::AddW => _mm_add_epi16(a, b),
            VecOp::AddD => _mm_add_epi32(a, b),
            VecOp::AddQ => _mm_add_epi64(a, b),
            VecOp::SubB => _mm_sub_epi8(a, b),
            VecOp::SubW => _mm_sub_epi16(a, b),
            VecOp::SubD => _mm_sub_epi32(a, b),
            VecOp::SubQ => _mm_sub_epi64(a, b),
            VecOp::AddSB => _mm_adds_epi8(a, b),
            VecOp::AddSW => _mm_adds_epi16(a, b),
            VecOp::SubSB => _mm_subs_epi8(a, b),
            VecOp::SubSW => _mm_subs_epi16(a, b),
            VecOp::AddUsB => _mm_adds_epu8(a, b),
            VecOp::AddUsW => _mm_adds_epu16(a, b),
            VecOp::SubUsB => _mm_subs_epu8(a, b),
            VecOp::SubUsW => _mm_subs_epu16(a, b),
            VecOp::AvgB => _mm_avg_epu8(a, b),
            VecOp::AvgW => _mm_avg_epu16(a, b),
            VecOp::MinUB => _mm_min_epu8(a, b),
            VecOp::MaxUB => _mm_max_epu8(a, b),
            VecOp::MinSW => _mm_min_epi16(a, b),
            VecOp::MaxSW => _mm_max_epi16(a, b),
            VecOp::CmpEqB => _mm_cmpeq_epi8(a, b),
            VecOp::CmpEqW => _mm_cmpeq_epi16(a, b),
            VecOp::CmpEqD => _mm_cmpeq_epi32(a, b),
            VecOp::CmpGtB => _mm_cmpgt_epi8(a, b),
            VecOp::CmpGtW => _mm_cmpgt_epi16(a, b),
            VecOp::CmpGtD => _mm_cmpgt_epi32(a, b),
            VecOp::MulLoW => _mm_mullo_epi16(a, b),
            VecOp::MulHiW => _mm_mulhi_epi16(a, b),
            VecOp::MulHiUW => _mm_mulhi_epu16(a, b),
            VecOp::MulUDQ => _mm_mul_epu32(a, b),
            VecOp::MAddWD => _mm_madd_epi16(a, b),
            VecOp::SadBW => _mm_sad_epu8(a, b),
            VecOp::UnpackLoB => _mm_unpacklo_epi8(a, b),
            VecOp::UnpackLoW => _mm_unpacklo_epi16(a, b),
            VecOp::UnpackLoD => _mm_unpacklo_epi32(a, b),
            VecOp::UnpackLoQ => _mm_unpacklo_epi64(a, b),
            VecOp::UnpackHiB => _mm_unpackhi_epi8(a, b),
            VecOp::UnpackHiW => _mm_unpackhi_epi16(a, b),
            VecOp::UnpackHiD => _mm_unpackhi_epi32(a, b),
            VecOp::UnpackHiQ => _mm_unpackhi_epi64(a, b),
            VecOp::PackSWB => _mm_packs_epi16(a, b),
            VecOp::PackSDW => _mm_packs_epi32(a, b),
            VecOp::PackUsWB => _mm_packus_epi16(a, b),
            VecOp::ShufD => shuf_d(b, imm),
            VecOp::MaskB => _mm_cvtsi32_si128(_mm_movemask_epi8(a)),
            VecOp::MaskD => _mm_cvtsi32_si128(_mm_movemask_ps(_mm_castsi128_ps(a))),
            VecOp::MaskQ => _mm_cvtsi32_si128(_mm_movemask_pd(_mm_castsi128_pd(a))),
            VecOp::MergeD => _mm_castps_si128(_mm_move_ss(_mm_castsi128_ps(a), _mm_castsi128_ps(b))),
            VecOp::MergeQ => _mm_castpd_si128(_mm_move_sd(_mm_castsi128_pd(a), _mm_castsi128_pd(b))),
            _ => _mm_setzero_si128(),
        }
    }
}

/// A match on each immediate, as the host's instructions have them inside.
macro_rules! each {
    ($imm:ident, $f:ident($v:ident): $($n:literal)*) => {
        match $imm { $($n => $f::<$n>($v),)* _ => _mm_setzero_si128() }
    };
}

#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn shl_bytes(v: Wide, imm: u8) -> Wide {
    each!(imm, _mm_slli_si128(v): 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
}

#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn shr_bytes(v: Wide, imm: u8) -> Wide {
    each!(imm, _mm_srli_si128(v): 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
}

/// Two shuffles by two lanes each, chosen by four bits, make one by four lanes.
#[inline]
#[target_feature(enable = "sse2")]
fn shuf_d(v: Wide, imm: u8) -> Wide {
    // The lanes that fields 0 and 1 name, in the low half; fields 2 and 3 take part with another value.
    let pair = |n: u8| match n & 15 {
        0 => _mm_shuffle_epi32::<0>(v),
        1 => _mm_shuffle_epi32::<1>(v),
        2 => _mm_shuffle_epi32::<2>(v),
        3 => _mm_shuffle_epi32::<3>(v),
        4 => _mm_shuffle_epi32::<4>(v),
        5 => _mm_shuffle_epi32::<5>(v),
        6 => _mm_shuffle_epi32::<6>(v),
        7 => _mm_shuffle_epi32::<7>(v),
        8 => _mm_shuffle_epi32::<8>(v),
        9 => _mm_shuffle_epi32::<9>(v),
        10 => _mm_shuffle_epi32::<10>(v),
        11 => _mm_shuffle_epi32::<11>(v),
        12 => _mm_shuffle_epi32::<12>(v),
        13 => _mm_shuffle_epi32::<13>(v),
        14 => _mm_shuffle_epi32::<14>(v),
        _ => _mm_shuffle_epi32::<15>(v),
    };
    _mm_unpacklo_epi64(pair(imm), pair(imm >> 4))
}

/// # Safety
/// `p` points to 16 readable bytes of guest RAM.
#[inline(always)]
pub(crate) unsafe fn load(p: *const u8) -> Wide {
    let v;
    // SAFETY: reads 16 bytes at p, which the caller vouches for; writes one register. Others may write there meanwhile.
    unsafe {
        asm!("movups {v}, [{p}]", v = out(xmm_reg) v, p = in(reg) p, options(nostack, preserves_flags, readonly));
    }
    v
}

/// # Safety
/// `p` points to 16 writable bytes of guest RAM.
#[inline(always)]
pub(crate) unsafe fn store(p: *mut u8, v: Wide) {
    // SAFETY: writes 16 bytes at p, which the caller vouches for.
    unsafe {
        asm!("movups [{p}], {v}", v = in(xmm_reg) v, p = in(reg) p, options(nostack, preserves_flags));
    }
}
