//! What came after SSE2, by the host's own instructions where it has them. Which it has is looked up once.
#![allow(unsafe_code)]

use super::{
    TernaryOp, VecOp, strings,
    wide::{self, Wide, shl_bytes, shr_bytes},
};
use core::arch::{asm, x86_64::*};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Extensions of hosts, as bits. SSE2 is what all have.
mod has {
    pub(super) const SSE2: u32 = 1;
    pub(super) const SSSE3: u32 = 1 << 1;
    pub(super) const SSE41: u32 = 1 << 2;
    pub(super) const SSE42: u32 = 1 << 3;
    pub(super) const AES: u32 = 1 << 4;
    pub(super) const PCLMULQDQ: u32 = 1 << 5;
    pub(super) const SHA: u32 = 1 << 6;
    pub(super) const GFNI: u32 = 1 << 7;
    pub(super) const AVX: u32 = 1 << 8;
    pub(super) const AVX2: u32 = 1 << 9;
}

/// The host's extensions; 0 until somebody has asked.
static HOST: AtomicU32 = AtomicU32::new(0);

fn host() -> u32 {
    match HOST.load(Relaxed) {
        0 => look_up(),
        known => known,
    }
}

#[cold]
fn look_up() -> u32 {
    let bit = |on: bool, bit: u32| if on { bit } else { 0 };
    let known = has::SSE2
        | bit(is_x86_feature_detected!("ssse3"), has::SSSE3)
        | bit(is_x86_feature_detected!("sse4.1"), has::SSE41)
        | bit(is_x86_feature_detected!("sse4.2"), has::SSE42)
        | bit(is_x86_feature_detected!("aes"), has::AES)
        | bit(is_x86_feature_detected!("pclmulqdq"), has::PCLMULQDQ)
        | bit(is_x86_feature_detected!("sha"), has::SHA)
        | bit(is_x86_feature_detected!("gfni"), has::GFNI)
        | bit(is_x86_feature_detected!("avx"), has::AVX)
        | bit(is_x86_feature_detected!("avx2"), has::AVX2);
    HOST.store(known, Relaxed);
    known
}

/// The extension that has the instruction for an operation; 0 where it is left to [`VecOp::eval`].
const fn needs(op: VecOp) -> u32 {
    use VecOp as V;
    match op {
        V::BlendW | V::BlendD | V::BlendQ | V::Align => has::SSE2,
        V::InsertB | V::InsertD | V::InsertQ | V::ExtractB | V::ExtractD | V::ExtractQ => has::SSE2,
        V::StringLength => has::SSE2,
        V::ShufB | V::HAddW | V::HAddD | V::HAddSW | V::HSubW | V::HSubD | V::HSubSW => has::SSSE3,
        V::MAddUbSW | V::MulHRsW => has::SSSE3,
        V::SignB | V::SignW | V::SignD | V::AbsB | V::AbsW | V::AbsD => has::SSSE3,
        V::MinSB | V::MaxSB | V::MinUW | V::MaxUW => has::SSE41,
        V::MinSD | V::MaxSD | V::MinUD | V::MaxUD => has::SSE41,
        V::CmpEqQ | V::MulLoD | V::MulDQ | V::PackUsDW | V::HMinPosUW => has::SSE41,
        V::SxBW | V::SxBD | V::SxBQ | V::SxWD | V::SxWQ | V::SxDQ => has::SSE41,
        V::ZxBW | V::ZxBD | V::ZxBQ | V::ZxWD | V::ZxWQ | V::ZxDQ => has::SSE41,
        V::CmpGtQ | V::Crc32B | V::Crc32W | V::Crc32D | V::Crc32Q => has::SSE42,
        V::AesEnc | V::AesEncLast | V::AesDec | V::AesDecLast | V::AesImc | V::AesKeyGenAssist => has::AES,
        V::ClMulQ => has::PCLMULQDQ,
        V::Sha1Rounds | V::Sha1NextE | V::Sha1Msg1 | V::Sha1Msg2 | V::Sha256Msg1 | V::Sha256Msg2 => has::SHA,
        V::Affine | V::AffineInverse | V::MulField => has::GFNI,
        V::LookupD | V::LookupQ => has::AVX,
        V::ShlVarD | V::ShlVarQ | V::ShrVarD | V::ShrVarQ | V::SarVarD => has::AVX2,
        _ => 0,
    }
}
const fn needs3(op: TernaryOp) -> u32 {
    match op {
        TernaryOp::SelectB | TernaryOp::SelectD | TernaryOp::SelectQ => has::SSE2,
        TernaryOp::Sha256Rounds => has::SHA,
        TernaryOp::CompareStrings => has::SSE42,
    }
}

/// Whether the host has instructions for an operation.
pub(crate) fn can(op: VecOp) -> bool {
    host() & needs(op) != 0
}
/// Whether it has them for one with three operands.
pub(crate) fn can3(op: TernaryOp) -> bool {
    host() & needs3(op) != 0
}

/// An operation, where it is known that the host has instructions for it: somebody has asked [`can`].
#[inline(always)]
pub(crate) fn at_once(op: VecOp, a: Wide, b: Wide, imm: u8) -> Option<Wide> {
    // SAFETY: the host has the extension that has the instruction.
    (HOST.load(Relaxed) & needs(op) != 0).then(|| unsafe { run(op, a, b, imm) })
}
/// The same with three operands.
#[inline(always)]
pub(crate) fn at_once3(op: TernaryOp, a: Wide, b: Wide, c: Wide, imm: u8) -> Option<Wide> {
    // SAFETY: the host has the extension that has the instruction.
    (HOST.load(Relaxed) & needs3(op) != 0).then(|| unsafe { run3(op, a, b, c, imm) })
}

/// An instruction whose first operand is also its result.
macro_rules! two {
    ($name:literal, $a:expr, $b:expr) => {{
        let mut v: Wide = $a;
        asm!(
            concat!($name, " {v}, {b}"),
            v = inout(xmm_reg) v, b = in(xmm_reg) $b, options(pure, nomem, nostack, preserves_flags)
        );
        v
    }};
    ($name:literal, $a:expr, $b:expr, $imm:literal) => {{
        let mut v: Wide = $a;
        asm!(
            concat!($name, " {v}, {b}, ", $imm),
            v = inout(xmm_reg) v, b = in(xmm_reg) $b, options(pure, nomem, nostack, preserves_flags)
        );
        v
    }};
}
/// An instruction of AVX with a result of its own.
macro_rules! three {
    ($name:literal, $a:expr, $b:expr) => {{
        let v: Wide;
        asm!(
            concat!($name, " {v}, {a}, {b}"),
            v = lateout(xmm_reg) v, a = in(xmm_reg) $a, b = in(xmm_reg) $b,
            options(pure, nomem, nostack, preserves_flags)
        );
        v
    }};
}
/// An instruction of one operand.
macro_rules! one {
    ($name:literal, $b:expr) => {{
        let v: Wide;
        asm!(
            concat!($name, " {v}, {b}"),
            v = lateout(xmm_reg) v, b = in(xmm_reg) $b, options(pure, nomem, nostack, preserves_flags)
        );
        v
    }};
    ($name:literal, $b:expr, $imm:literal) => {{
        let v: Wide;
        asm!(
            concat!($name, " {v}, {b}, ", $imm),
            v = lateout(xmm_reg) v, b = in(xmm_reg) $b, options(pure, nomem, nostack, preserves_flags)
        );
        v
    }};
}

/// CRC32 on the low lanes.
macro_rules! crc {
    ($data:literal, $crc:literal, $a:expr, $b:expr) => {{
        let mut v = wide::lane($a, 0) & 0xffff_ffff;
        asm!(
            concat!("crc32 ", $crc, ", ", $data),
            v = inout(reg) v, d = in(reg) wide::lane($b, 0), options(pure, nomem, nostack, preserves_flags)
        );
        wide::alone(v & 0xffff_ffff)
    }};
}

/// PCMPESTRM by what bits 5:0 of the immediate say: IntRes2.
///
/// # Safety
/// The host has SSE4.2.
unsafe fn compare_strings(a: Wide, b: Wide, la: usize, lb: usize, imm: u8) -> Wide {
    let v: Wide;
    macro_rules! by_immediate {
        ($($n:literal)*) => {
            match imm & 0x3f {
                // SAFETY: the caller's promise; the instruction touches registers and flags alone.
                $($n => unsafe {
                    asm!(
                        concat!("pcmpestrm {a}, {b}, ", $n),
                        a = in(xmm_reg) a, b = in(xmm_reg) b, in("rax") la, in("rdx") lb, lateout("xmm0") v,
                        options(pure, nomem, nostack)
                    )
                },)*
                _ => v = a,
            }
        };
    }
    by_immediate! {
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
        32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63
    }
    v
}

/// b where `mask` is set, else a.
///
/// # Safety
/// None: SSE2 is part of x86-64.
#[inline(always)]
unsafe fn choose(mask: Wide, a: Wide, b: Wide) -> Wide {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_or_si128(_mm_and_si128(mask, b), _mm_andnot_si128(mask, a)) }
}

/// Masks for all immediates of blends: bit k fills lane k, so many bits wide.
const fn masks<const N: usize>(bits: usize) -> [u128; N] {
    let mut all = [0; N];
    let mut imm = 0;
    while imm < N {
        let mut lane = 0;
        while lane < 128 / bits {
            if imm >> lane & 1 != 0 {
                all[imm] |= (u128::MAX >> (128 - bits)) << (bits * lane);
            }
            lane += 1;
        }
        imm += 1;
    }
    all
}
static BLEND_W: [u128; 256] = masks(16);
static BLEND_D: [u128; 16] = masks(32);
static BLEND_Q: [u128; 4] = masks(64);

/// # Safety
/// The host has what [`needs`] says.
#[inline(always)]
unsafe fn run(op: VecOp, a: Wide, b: Wide, imm: u8) -> Wide {
    use VecOp as V;
    let n = usize::from(imm);
    // SAFETY: the caller's promise; none of the instructions touches memory or flags.
    unsafe {
        match op {
            V::BlendW => choose(wide::from_bits(BLEND_W[n]), a, b),
            V::BlendD => choose(wide::from_bits(BLEND_D[n & 15]), a, b),
            V::BlendQ => choose(wide::from_bits(BLEND_Q[n & 3]), a, b),
            V::Align if imm == 0 => b,
            V::Align if imm < 16 => _mm_or_si128(shr_bytes(b, imm), shl_bytes(a, 16 - imm)),
            V::Align => shr_bytes(a, imm - 16),
            V::InsertB => insert(a, b, imm & 15, 0xff, 3),
            V::InsertD => insert(a, b, imm & 3, 0xffff_ffff, 5),
            V::InsertQ => wide::with_lane(a, imm, wide::lane(b, 0)),
            V::ExtractB => wide::alone(wide::lane(a, imm >> 3) >> (8 * (imm & 7)) & 0xff),
            V::ExtractD => wide::alone(wide::lane(a, imm >> 1) >> (32 * (imm & 1)) & 0xffff_ffff),
            V::ExtractQ => wide::alone(wide::lane(a, imm)),
            V::ShufB => two!("pshufb", a, b),
            V::HAddW => two!("phaddw", a, b),
            V::HAddD => two!("phaddd", a, b),
            V::HAddSW => two!("phaddsw", a, b),
            V::HSubW => two!("phsubw", a, b),
            V::HSubD => two!("phsubd", a, b),
            V::HSubSW => two!("phsubsw", a, b),
            V::MAddUbSW => two!("pmaddubsw", a, b),
            V::MulHRsW => two!("pmulhrsw", a, b),
            V::SignB => two!("psignb", a, b),
            V::SignW => two!("psignw", a, b),
            V::SignD => two!("psignd", a, b),
            V::AbsB => one!("pabsb", b),
            V::AbsW => one!("pabsw", b),
            V::AbsD => one!("pabsd", b),
            V::MinSB => two!("pminsb", a, b),
            V::MaxSB => two!("pmaxsb", a, b),
            V::MinUW => two!("pminuw", a, b),
            V::MaxUW => two!("pmaxuw", a, b),
            V::MinSD => two!("pminsd", a, b),
            V::MaxSD => two!("pmaxsd", a, b),
            V::MinUD => two!("pminud", a, b),
            V::MaxUD => two!("pmaxud", a, b),
            V::CmpEqQ => two!("pcmpeqq", a, b),
            V::CmpGtQ => two!("pcmpgtq", a, b),
            V::MulLoD => two!("pmulld", a, b),
            V::MulDQ => two!("pmuldq", a, b),
            V::PackUsDW => two!("packusdw", a, b),
            V::HMinPosUW => one!("phminposuw", b),
            V::SxBW => one!("pmovsxbw", b),
            V::SxBD => one!("pmovsxbd", b),
            V::SxBQ => one!("pmovsxbq", b),
            V::SxWD => one!("pmovsxwd", b),
            V::SxWQ => one!("pmovsxwq", b),
            V::SxDQ => one!("pmovsxdq", b),
            V::ZxBW => one!("pmovzxbw", b),
            V::ZxBD => one!("pmovzxbd", b),
            V::ZxBQ => one!("pmovzxbq", b),
            V::ZxWD => one!("pmovzxwd", b),
            V::ZxWQ => one!("pmovzxwq", b),
            V::ZxDQ => one!("pmovzxdq", b),
            V::AesEnc => two!("aesenc", a, b),
            V::AesEncLast => two!("aesenclast", a, b),
            V::AesDec => two!("aesdec", a, b),
            V::AesDecLast => two!("aesdeclast", a, b),
            V::AesImc => one!("aesimc", b),
            V::AesKeyGenAssist => {
                let constant = _mm_set_epi32(imm.into(), 0, imm.into(), 0);
                _mm_xor_si128(one!("aeskeygenassist", b, 0), constant)
            }
            V::ClMulQ => match imm & 0x11 {
                0 => two!("pclmulqdq", a, b, 0),
                1 => two!("pclmulqdq", a, b, 1),
                0x10 => two!("pclmulqdq", a, b, 16),
                _ => two!("pclmulqdq", a, b, 17),
            },
            V::Sha1Rounds => match imm & 3 {
                0 => two!("sha1rnds4", a, b, 0),
                1 => two!("sha1rnds4", a, b, 1),
                2 => two!("sha1rnds4", a, b, 2),
                _ => two!("sha1rnds4", a, b, 3),
            },
            V::Sha1NextE => two!("sha1nexte", a, b),
            V::Sha1Msg1 => two!("sha1msg1", a, b),
            V::Sha1Msg2 => two!("sha1msg2", a, b),
            V::Sha256Msg1 => two!("sha256msg1", a, b),
            V::Sha256Msg2 => two!("sha256msg2", a, b),
            V::Crc32B => crc!("{d:l}", "{v:e}", a, b),
            V::Crc32W => crc!("{d:x}", "{v:e}", a, b),
            V::Crc32D => crc!("{d:e}", "{v:e}", a, b),
            V::Crc32Q => crc!("{d}", "{v}", a, b),
            V::StringLength => {
                let zero = _mm_setzero_si128();
                let wide_elements = imm & 1 != 0;
                let ends = if wide_elements { _mm_cmpeq_epi16(a, zero) } else { _mm_cmpeq_epi8(a, zero) };
                let first = (_mm_movemask_epi8(ends) as u32 | 1 << 16).trailing_zeros();
                wide::alone((first >> u32::from(wide_elements)).into())
            }
            // The constant is added to each byte.
            V::Affine => _mm_xor_si128(two!("gf2p8affineqb", a, b, 0), _mm_set1_epi8(imm as i8)),
            V::AffineInverse => _mm_xor_si128(two!("gf2p8affineinvqb", a, b, 0), _mm_set1_epi8(imm as i8)),
            V::MulField => two!("gf2p8mulb", a, b),
            V::LookupD => three!("vpermilps", a, b),
            V::LookupQ => three!("vpermilpd", a, b),
            V::ShlVarD => three!("vpsllvd", a, b),
            V::ShlVarQ => three!("vpsllvq", a, b),
            V::ShrVarD => three!("vpsrlvd", a, b),
            V::ShrVarQ => three!("vpsrlvq", a, b),
            V::SarVarD => three!("vpsravd", a, b),
            _ => a,
        }
    }
}

/// Lane `n`, 1 << `shift` bits wide, of a replaced by b's low bits.
#[inline(always)]
fn insert(a: Wide, b: Wide, n: u8, mask: u64, shift: u8) -> Wide {
    let at = u32::from(n) << shift;
    let half = (at >> 6) as u8;
    let kept = wide::lane(a, half) & !(mask << (at & 63));
    wide::with_lane(a, half, kept | (wide::lane(b, 0) & mask) << (at & 63))
}

/// # Safety
/// The host has what [`needs3`] says.
#[inline(always)]
unsafe fn run3(op: TernaryOp, a: Wide, b: Wide, c: Wide, imm: u8) -> Wide {
    // SAFETY: the caller's promise; none of the instructions touches memory or flags.
    unsafe {
        match op {
            TernaryOp::SelectB => choose(_mm_cmpgt_epi8(_mm_setzero_si128(), c), a, b),
            TernaryOp::SelectD => choose(_mm_srai_epi32::<31>(c), a, b),
            TernaryOp::SelectQ => choose(_mm_srai_epi32::<31>(_mm_shuffle_epi32::<0xf5>(c)), a, b),
            TernaryOp::Sha256Rounds => {
                let mut v = a;
                asm!(
                    "sha256rnds2 {v}, {b}",
                    v = inout(xmm_reg) v, b = in(xmm_reg) b, in("xmm0") c,
                    options(pure, nomem, nostack, preserves_flags)
                );
                v
            }
            TernaryOp::CompareStrings => {
                let (la, lb) = strings::lengths(wide::bits(c), imm);
                let v = compare_strings(a, b, la, lb, imm);
                wide::from_bits(strings::told(wide::lane(v, 0) as u32, la, lb, imm))
            }
        }
    }
}
