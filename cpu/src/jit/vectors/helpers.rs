//! What translated code calls for operations that Cranelift has none for: operands and result in vector registers. Each
//! function is one operation, so that the host's instruction, where it has one, is all there is to run.
#![expect(
    improper_ctypes_definitions,
    reason = "vectors are passed in vector registers, as the System V convention has it; they just are no type of C's"
)]

use super::Helper;
use crate::{
    state::Mxcsr,
    vector::{
        FloatOp, Lanes, TernaryOp, VecOp,
        wide::{self, Wide, can, can3},
    },
};
use core::arch::asm;

/// Whether there is something for every operation: Cranelift's own want SSE4.1 at times.
pub(in crate::jit) fn every_operation() -> bool {
    is_x86_feature_detected!("sse4.1")
}

/// An operation that the host has an instruction for.
extern "sysv64" fn by_instruction<const OP: u8>(a: Wide, b: Wide, imm: u64) -> Wide {
    wide::at_once(VecOp::from_number(OP), a, b, imm as u8).unwrap_or(a)
}

/// Any operation: its number stands above the immediate.
extern "sysv64" fn any(a: Wide, b: Wide, imm: u64) -> Wide {
    wide::eval(VecOp::from_number((imm >> 8) as u8), a, b, imm as u8)
}

extern "sysv64" fn any_ternary(a: Wide, b: Wide, c: Wide, imm: u64) -> Wide {
    wide::eval3(TernaryOp::from_number((imm >> 8) as u8), a, b, c, imm as u8)
}

extern "sysv64" fn sha256_rounds(a: Wide, b: Wide, c: Wide, imm: u64) -> Wide {
    wide::at_once3(TernaryOp::Sha256Rounds, a, b, c, imm as u8).unwrap_or(a)
}

/// RCPPS or RSQRTPS, which compute under no MXCSR that the guest knows of. Through the two instructions goes what is computed
/// on and what has been, so that it is computed between them.
extern "sysv64" fn approximately<const OP: u8>(_: Wide, b: Wide, _: u64) -> Wide {
    let (mut guest, own) = (0u32, Mxcsr::RESET);
    let mut v = b;
    // SAFETY: stores MXCSR and loads a valid one; nothing computes under another than its own.
    unsafe {
        asm!(
            "stmxcsr [{guest}]", "ldmxcsr [{own}]", "/* {v} */",
            guest = in(reg) &raw mut guest, own = in(reg) &raw const own, v = inout(xmm_reg) v, options(nostack),
        );
    }
    v = wide::eval(VecOp::from_number(OP), v, v, 0);
    // SAFETY: what was there before.
    unsafe {
        asm!("ldmxcsr [{guest}]", "/* {v} */", guest = in(reg) &raw const guest, v = inout(xmm_reg) v, options(nostack));
    }
    v
}

/// The function for an operation.
pub(super) fn binary(op: VecOp) -> Option<Helper> {
    macro_rules! hot {
        ($($name:ident)*) => {
            match op {
                $(VecOp::$name if can(op) => by_instruction::<{ VecOp::$name as u8 }> as *const () as usize,)*
                _ => any as *const () as usize,
            }
        };
    }
    let address = hot! {
        AesEnc AesEncLast AesDec AesDecLast AesImc ClMulQ Sha1Rounds Sha1NextE Sha1Msg1 Sha1Msg2 Sha256Msg1 Sha256Msg2
        Affine AffineInverse MulField Crc32B Crc32W Crc32D Crc32Q SignB SignW SignD HSubSW HAddSW HMinPosUW StringLength
        LookupD LookupQ ShlVarD ShlVarQ ShrVarD ShrVarQ SarVarD
    };
    let address = match op {
        VecOp::RcpPs => approximately::<{ VecOp::RcpPs as u8 }> as *const () as usize,
        VecOp::RsqrtPs => approximately::<{ VecOp::RsqrtPs as u8 }> as *const () as usize,
        _ => address,
    };
    Some(Helper { address, number: op as u8 })
}

/// The function for an operation on three operands.
pub(super) fn ternary(op: TernaryOp) -> Option<Helper> {
    let address = match op {
        TernaryOp::Sha256Rounds if can3(op) => sha256_rounds as *const () as usize,
        _ => any_ternary as *const () as usize,
    };
    Some(Helper { address, number: op as u8 })
}

/// Whether Cranelift has FMA instructions here.
pub(super) fn has_fma() -> bool {
    is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx")
}

/// Instructions under the guest's MXCSR, which is the host's while translated code runs. That they read it and raise flags
/// in it, `asm!` must not know otherwise: none is `pure`.
macro_rules! instructions {
    ($($name:ident: $text:literal ($form:ident);)*) => {
        $(extern "sysv64" fn $name(a: Wide, b: Wide, _: u64) -> Wide {
            instructions!($form $text, a, b)
        })*
    };
    (packed $text:literal, $a:ident, $b:ident) => {{
        let _ = $a;
        let v;
        // SAFETY: an instruction of SSE2, on registers alone.
        unsafe { asm!(concat!($text, " {v}, {b}"), v = out(xmm_reg) v, b = in(xmm_reg) $b, options(nomem, nostack)) };
        v
    }};
    (both $text:literal, $a:ident, $b:ident) => {{
        let mut v = $a;
        // SAFETY: an instruction of SSE3, which hosts with SSE4.1 have, on registers alone.
        unsafe { asm!(concat!($text, " {v}, {b}"), v = inout(xmm_reg) v, b = in(xmm_reg) $b, options(nomem, nostack)) };
        v
    }};
    (dword $text:literal, $a:ident, $b:ident) => {{
        let _ = $a;
        let v: u64;
        // SAFETY: an instruction of SSE2, on registers alone; it clears the upper half of its target.
        unsafe { asm!(concat!($text, " {v:e}, {b}"), v = out(reg) v, b = in(xmm_reg) $b, options(nomem, nostack)) };
        wide::alone(v)
    }};
    (qword $text:literal, $a:ident, $b:ident) => {{
        let _ = $a;
        let v: u64;
        // SAFETY: an instruction of SSE2, on registers alone.
        unsafe { asm!(concat!($text, " {v}, {b}"), v = out(reg) v, b = in(xmm_reg) $b, options(nomem, nostack)) };
        wide::alone(v)
    }};
}

instructions! {
    cvtss2si_d: "cvtss2si" (dword);
    cvtss2si_q: "cvtss2si" (qword);
    cvtsd2si_d: "cvtsd2si" (dword);
    cvtsd2si_q: "cvtsd2si" (qword);
    cvtps2dq: "cvtps2dq" (packed);
    cvtpd2dq: "cvtpd2dq" (packed);
    cvttpd2dq: "cvttpd2dq" (packed);
    addsubps: "addsubps" (both);
    addsubpd: "addsubpd" (both);
    haddps: "haddps" (both);
    haddpd: "haddpd" (both);
    hsubps: "hsubps" (both);
    hsubpd: "hsubpd" (both);
}

/// ROUNDPS and its relatives, by [`Lanes`] and the immediate.
extern "sysv64" fn round<const LANES: u8, const IMM: u8>(_: Wide, b: Wide, _: u64) -> Wide {
    let v;
    macro_rules! instruction {
        ($text:literal) => {
            asm!(
                concat!($text, " {v}, {b}, {imm}"), v = out(xmm_reg) v, b = in(xmm_reg) b, imm = const IMM,
                options(nomem, nostack)
            )
        };
    }
    // SAFETY: instructions of SSE4.1, which every host has that translates such instructions, on registers alone.
    unsafe {
        match Lanes::from_number(LANES) {
            Lanes::Ss => instruction!("roundss"),
            Lanes::Sd => instruction!("roundsd"),
            Lanes::Ps => instruction!("roundps"),
            Lanes::Pd => instruction!("roundpd"),
        }
    }
    v
}

/// VCVTPH2PS.
extern "sysv64" fn widen_half(_: Wide, b: Wide, _: u64) -> Wide {
    let v;
    // SAFETY: an instruction of F16C, where [`has_half`], on registers alone.
    unsafe { asm!("vcvtph2ps {v}, {b}", v = out(xmm_reg) v, b = in(xmm_reg) b, options(nomem, nostack)) };
    v
}

/// VCVTPS2PH, by the immediate.
extern "sysv64" fn narrow_half<const IMM: u8>(_: Wide, b: Wide, _: u64) -> Wide {
    let v;
    // SAFETY: as above.
    unsafe {
        asm!("vcvtps2ph {v}, {b}, {imm}", v = out(xmm_reg) v, b = in(xmm_reg) b, imm = const IMM, options(nomem, nostack));
    }
    v
}

/// Whether the host has F16C.
pub(super) fn has_half() -> bool {
    is_x86_feature_detected!("f16c")
}

/// DPPS or DPPD: which products are added stands in `FACTORS`, bits 7:4 of the immediate; where the sum goes, in bits 3:0.
extern "sysv64" fn dot<const LANES: u8, const FACTORS: u8>(a: Wide, b: Wide, imm: u64) -> Wide {
    let mut v = a;
    let place = match Lanes::from_number(LANES) {
        Lanes::Pd => VecOp::BlendQ,
        _ => VecOp::BlendD,
    };
    // SAFETY: instructions of SSE4.1, which every host has that translates such instructions, on registers alone.
    unsafe {
        match Lanes::from_number(LANES) {
            Lanes::Pd => asm!(
                "dppd {v}, {b}, {imm}", v = inout(xmm_reg) v, b = in(xmm_reg) b, imm = const FACTORS << 4 | 15,
                options(nomem, nostack)
            ),
            _ => asm!(
                "dpps {v}, {b}, {imm}", v = inout(xmm_reg) v, b = in(xmm_reg) b, imm = const FACTORS << 4 | 15,
                options(nomem, nostack)
            ),
        }
    }
    wide::eval(place, wide::alone(0), v, imm as u8 & 15)
}

/// The function for a floating-point operation.
pub(super) fn float(op: FloatOp, lanes: Lanes, imm: u8) -> Option<Helper> {
    use FloatOp as F;
    macro_rules! rounds {
        ($lanes:ident: $($n:literal)*) => {
            match imm & 15 {
                $($n => round::<{ Lanes::$lanes as u8 }, $n> as *const (),)*
                _ => return None,
            }
        };
    }
    macro_rules! factors {
        ($lanes:ident: $($n:literal)*) => {
            match imm >> 4 {
                $($n => dot::<{ Lanes::$lanes as u8 }, $n> as *const (),)*
                _ => return None,
            }
        };
    }
    macro_rules! narrows {
        ($($n:literal)*) => {
            match imm & 7 {
                $($n => narrow_half::<$n> as *const (),)*
                _ => return None,
            }
        };
    }
    let function = match (op, lanes) {
        (F::WidenHalf, _) => widen_half as *const (),
        (F::NarrowHalf, _) => narrows!(0 1 2 3 4 5 6 7),
        (F::Dot, Lanes::Ps) => factors!(Ps: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
        (F::Dot, Lanes::Pd) => factors!(Pd: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
        (F::ToD, Lanes::Ss) => cvtss2si_d as *const (),
        (F::ToQ, Lanes::Ss) => cvtss2si_q as *const (),
        (F::ToD, Lanes::Sd) => cvtsd2si_d as *const (),
        (F::ToQ, Lanes::Sd) => cvtsd2si_q as *const (),
        (F::ToD, Lanes::Ps) => cvtps2dq as *const (),
        (F::ToD, Lanes::Pd) => cvtpd2dq as *const (),
        (F::ToDTruncated, Lanes::Pd) => cvttpd2dq as *const (),
        (F::AddSub, Lanes::Ps) => addsubps as *const (),
        (F::AddSub, Lanes::Pd) => addsubpd as *const (),
        (F::HAdd, Lanes::Ps) => haddps as *const (),
        (F::HAdd, Lanes::Pd) => haddpd as *const (),
        (F::HSub, Lanes::Ps) => hsubps as *const (),
        (F::HSub, Lanes::Pd) => hsubpd as *const (),
        (F::Round, Lanes::Ss) => rounds!(Ss: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
        (F::Round, Lanes::Sd) => rounds!(Sd: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
        (F::Round, Lanes::Ps) => rounds!(Ps: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
        (F::Round, Lanes::Pd) => rounds!(Pd: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
        _ => return None,
    };
    Some(Helper { address: function as usize, number: 0 })
}
