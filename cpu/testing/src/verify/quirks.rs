//! Where processors differ from one another: what the manuals leave undefined or do not fix, and what AMD's do in other ways.
//! The emulated CPU does what Intel's do; on other hosts exactly this is tolerated. Everything else must be the same.

use super::{
    Maker,
    difference::{FLAGS, Outcome, Part, parts},
    subject::Subject,
};
use crate::{Segments, machine::flag, undefined::is_wide_selector_push};
use iced_x86::{Code, MemorySize, Mnemonic as M, OpKind};
use softmetal_cpu::{float::F80, testing::User};

/// What a difference is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A fault of one side.
    Wrong,
    /// What processors do differently.
    Allowed,
    /// A result that need not be exact, near enough.
    Near,
}

/// Whether an encoding means something else, or nothing, on the maker's processors.
pub(super) fn comparable(maker: Maker, subject: &Subject) -> bool {
    let prefetch = matches!(
        subject.code,
        Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D | Code::Reservednop_rm64_r64_0F0D
    );
    // 0F 0D with a register is a NOP on Intel's, and no instruction on AMD's.
    let absent = prefetch && subject.insn.op0_kind() == OpKind::Register;
    !(maker == Maker::Amd && absent)
}

/// Whether all processors do the same with an instruction, so that it may stand among others.
pub(super) fn everywhere_alike(subject: &Subject) -> bool {
    let mnemonic = subject.insn.mnemonic();
    let differs = matches!(
        mnemonic,
        M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip | M::Ldmxcsr | M::Vldmxcsr | M::Movsxd | M::Reservednop
    );
    let sha = matches!(
        mnemonic,
        M::Sha1msg1
            | M::Sha1msg2
            | M::Sha1nexte
            | M::Sha1rnds4
            | M::Sha256msg1
            | M::Sha256msg2
            | M::Sha256rnds2
    );
    let unaligned = sha && !subject.touches.is_empty();
    !differs
        && !unaligned
        && amd_flags(mnemonic) == 0
        && !approximate(mnemonic)
        && !transcendental(mnemonic)
        && !in_steps(subject)
        && comparable(Maker::Amd, subject)
}

/// Flags that manuals leave undefined, and AMD's processors leave in another way than Intel's.
fn amd_flags(mnemonic: M) -> u64 {
    match mnemonic {
        // 0, where Intel's have the result's sign.
        M::Bextr => flag::SF,
        M::Aaa | M::Aas => flag::OF | flag::SF | flag::ZF | flag::PF,
        M::Aad | M::Aam => flag::OF | flag::AF | flag::CF,
        M::Daa | M::Das => flag::OF,
        _ => 0,
    }
}

/// Operands that processors access in several steps, from whichever end: of those that reach into a page that faults, the
/// address of the fault differs.
fn in_steps(subject: &Subject) -> bool {
    matches!(
        subject.insn.memory_size(),
        MemorySize::FpuEnv14
            | MemorySize::FpuEnv28
            | MemorySize::FpuState94
            | MemorySize::FpuState108
            | MemorySize::Fxsave_512Byte
            | MemorySize::Fxsave64_512Byte
            | MemorySize::Xsave
            | MemorySize::Xsave64
            | MemorySize::Float80
            | MemorySize::Bcd
    ) || matches!(subject.insn.mnemonic(), M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu)
}

/// AMD's MXCSR has a bit for misaligned operands (MISALIGNSSE), which is reserved in Intel's.
const MISALIGNED_MASK: u32 = 1 << 17;

/// Judges two outcomes that are not the same.
pub(super) fn judge(maker: Maker, subject: &Subject, ours: &Outcome, theirs: &Outcome) -> Verdict {
    if approximate(subject.insn.mnemonic()) && near(ours, theirs) {
        return Verdict::Near;
    }
    if transcendental(subject.insn.mnemonic()) && within_an_ulp(ours, theirs) {
        return Verdict::Near;
    }
    if let (Some(a), Some(b)) = (ours.fault, theirs.fault)
        && in_steps(subject)
    {
        // Of several pages, or of a page and a segment's end, any may be found first.
        let pages = (a.vector, a.error) == (14, b.error) && b.vector == 14 && a.cr2 >> 16 == b.cr2 >> 16;
        let segment = matches!((a.vector, b.vector), (12 | 13, 14) | (14, 12 | 13));
        if pages || segment && subject.segments != Segments::LONG {
            return Verdict::Allowed;
        }
    }
    if maker == Maker::Amd && amd_differs(subject, ours, theirs) { Verdict::Allowed } else { Verdict::Wrong }
}

fn amd_differs(subject: &Subject, ours: &Outcome, theirs: &Outcome) -> bool {
    let vector = |outcome: &Outcome| outcome.fault.map(|fault| fault.vector);
    // A misaligned operand is found before the stack segment's end.
    if subject.alignment > 1 && (vector(ours), vector(theirs)) == (Some(12), Some(13)) {
        return true;
    }
    match subject.insn.mnemonic() {
        // It is an instruction outside of long mode too.
        M::Sysret | M::Sysretq => (vector(ours), vector(theirs)) == (Some(6), Some(13)),
        // The opcodes end the decoding: what stands behind them counts for no length.
        M::Ud0 | M::Ud1 => vector(ours) == Some(13) && vector(theirs) == Some(6),
        // LOCK makes MOV CR8 of MOV CR0.
        M::INVALID if subject.code.mnemonic() == M::Mov => {
            subject.bytes.contains(&0xf0) && (vector(ours), vector(theirs)) == (Some(6), Some(13))
        }
        M::INVALID if matches!(subject.code.mnemonic(), M::Ud0 | M::Ud1) => {
            vector(ours) == Some(13) && vector(theirs) == Some(6)
        }
        // Their operands need no alignment.
        M::Sha1msg1
        | M::Sha1msg2
        | M::Sha1nexte
        | M::Sha1rnds4
        | M::Sha256msg1
        | M::Sha256msg2
        | M::Sha256rnds2 => vector(ours) == Some(13) && matches!(vector(theirs), None | Some(12 | 14)),
        // Of a selector pushed with 32 bits, AMD's write the upper half too.
        M::Push if is_wide_selector_push(&subject.insn) => {
            matches!((vector(ours), vector(theirs)), (None | Some(14), Some(12 | 14)))
        }
        // MOVSXD of 16 bits reads four bytes of memory.
        M::Movsxd => {
            subject.code == Code::Movsxd_r16_rm16 && vector(ours).is_none() && vector(theirs) == Some(14)
        }
        // C1 stays.
        M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip => {
            let c1 = 1 << 9;
            let mut like = theirs.clone();
            like.user.x87.status &= !c1;
            let mut our = ours.clone();
            our.user.x87.status &= !c1;
            parts(&our, &like).is_empty()
        }
        M::Ldmxcsr | M::Vldmxcsr | M::Fxrstor | M::Fxrstor64 => {
            vector(ours) == Some(13) && vector(theirs).is_none() && theirs.user.mxcsr & MISALIGNED_MASK != 0
        }
        mnemonic => {
            let free = amd_flags(mnemonic);
            let different = (ours.user.rflags ^ theirs.user.rflags) & FLAGS;
            free != 0 && different & !free == 0 && matches!(parts(ours, theirs)[..], [Part::Flags(_)])
        }
    }
}

/// Whether memory differs only by what AMD's processors do differently: FXSAVE stores MXCSR_MASK, which tells of
/// MISALIGNSSE.
pub(super) fn memory_allowed(maker: Maker, subject: &Subject, ours: &[u8], theirs: &[u8]) -> bool {
    if maker == Maker::Amd && is_wide_selector_push(&subject.insn) {
        return ours.iter().zip(theirs).filter(|(a, b)| a != b).all(|(_, b)| *b == 0);
    }
    let saves = matches!(subject.insn.mnemonic(), M::Fxsave | M::Fxsave64);
    let mut different = ours.iter().zip(theirs).filter(|(a, b)| a != b);
    maker == Maker::Amd
        && saves
        && different.next().is_some_and(|(a, b)| a ^ b == (MISALIGNED_MASK >> 16) as u8)
        && different.next().is_none()
}

/// SDM 1 "Reciprocal": the error is at most 1.5 * 2^-12 of the result, and which one it is is the processor's choice.
pub(super) fn approximate(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss | M::Vrcpps | M::Vrcpss | M::Vrsqrtps | M::Vrsqrtss
    )
}

/// Whether two approximations differ by no more than two errors of either sign, and in nothing else.
fn near(ours: &Outcome, theirs: &Outcome) -> bool {
    let lanes = |user: &User| {
        let all = user.xmm.iter().chain(&user.ymm_high);
        all.flat_map(|v| (0..4).map(move |k| f32::from_bits((v >> (32 * k)) as u32))).collect::<Vec<_>>()
    };
    let close = |(a, b): (f32, f32)| {
        a.to_bits() == b.to_bits()
            || a.is_normal() && b.is_normal() && (a - b).abs() <= b.abs() * (3.0 / 4096.0)
            // What would be denormal is zero.
            || a.is_sign_positive() == b.is_sign_positive() && a.abs().max(b.abs()) <= f32::MIN_POSITIVE * 1.001
    };
    let vectors = |part: &Part| matches!(part, Part::Xmm(_) | Part::YmmHigh(_));
    parts(ours, theirs).iter().all(vectors)
        && lanes(&ours.user).into_iter().zip(lanes(&theirs.user)).all(close)
}

/// The instructions whose results need not be the nearest.
pub(super) fn transcendental(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::F2xm1 | M::Fyl2x | M::Fyl2xp1 | M::Fptan | M::Fpatan | M::Fsin | M::Fcos | M::Fsincos
    )
}

/// Whether x87 results differ by one unit in the last place, and nothing else does but C1, which tells the rounding.
fn within_an_ulp(ours: &Outcome, theirs: &Outcome) -> bool {
    let line =
        |v: F80| i128::from(v.sign_exponent & 0x7fff) << 63 | i128::from(v.significand & u64::MAX >> 1);
    let same_sign = |a: F80, b: F80| (a.sign_exponent ^ b.sign_exponent) & 0x8000 == 0;
    let close = |a: F80, b: F80| same_sign(a, b) && (line(a) - line(b)).abs() <= 1;
    let (a, b) = (&ours.user.x87, &theirs.user.x87);
    parts(ours, theirs).iter().all(|part| match *part {
        Part::St(k) => close(a.regs[usize::from(k)], b.regs[usize::from(k)]),
        Part::Status => a.status ^ b.status == 1 << 9,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::blank;

    fn outcome(change: impl Fn(&mut User)) -> Outcome {
        let mut user = blank();
        change(&mut user);
        Outcome { user, fault: None, selectors: None }
    }

    #[test]
    fn an_ulp_and_no_more() {
        let st = |significand: u64, sign_exponent: u16| {
            outcome(|user| user.x87.regs[0] = F80 { significand, sign_exponent })
        };
        let one = st(1 << 63, 0x3fff);
        assert!(within_an_ulp(&one, &st(1 << 63 | 1, 0x3fff)));
        assert!(within_an_ulp(&one, &st(u64::MAX, 0x3ffe)), "across a power of two");
        assert!(!within_an_ulp(&one, &st(1 << 63 | 2, 0x3fff)));
        assert!(!within_an_ulp(&one, &st(1 << 63, 0xbfff)));
        assert!(!within_an_ulp(&one, &outcome(|user| user.gpr[0] = 1)));
    }

    #[test]
    fn approximations_are_near() {
        let lane = |v: f32| outcome(|user| user.xmm[3] = v.to_bits().into());
        assert!(near(&lane(1.0), &lane(1.0005)));
        assert!(!near(&lane(1.0), &lane(1.001)));
        assert!(!near(&lane(f32::INFINITY), &lane(f32::MAX)));
        assert!(!near(&lane(1.0), &outcome(|user| user.rflags ^= flag::CF)));
    }
}
