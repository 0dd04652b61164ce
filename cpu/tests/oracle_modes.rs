//! 16- and 32-bit code of protected mode, compared with the host's own CPU.

use iced_x86::{Code, CpuidFeature as F, Instruction, Mnemonic as M, OpKind};
use softmetal_cpu::testing::User;
use softmetal_cpu_testing::{
    Random, Segments,
    compare::{Differences, Pair, blank},
    forms,
    layout::*,
    options,
    sweep::Sweep,
    translated,
    verify::values::{self, Lanes},
};

fn integer(code: Code) -> bool {
    let sse2 = code.cpuid_features().contains(&F::SSE2);
    let vendors_differ = matches!(
        code,
        // 0F 0D with a register is a NOP on Intel and undefined on AMD.
        Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D
    );
    !vendors_differ && (!sse2 || matches!(code.mnemonic(), M::Movnti | M::Pause | M::Lfence | M::Mfence))
}

#[test]
fn random_forms_of_every_integer_instruction() {
    if !softmetal_cpu_testing::host::judges() {
        return;
    }
    for (k, segments) in Segments::LEGACY.into_iter().enumerate() {
        let codes: Vec<Code> = forms::codes_for(segments.bitness(), forms::INTEGER)
            .into_iter()
            .filter(|&code| integer(code))
            .collect();
        for (options, forms) in [(options()[0], 40), (translated(0), 3)] {
            let sweep = Sweep {
                codes: &codes,
                seed: 100 + k as u64,
                forms,
                states: 8,
                prepare: &|_, _, _| (),
                strict: false,
                options,
            };
            let Some(swept) = sweep.run_in(segments) else { continue };
            println!(
                "{segments:x?}: {} codes, {} cases, {} codes that do not run there",
                swept.ran.len(),
                swept.differences.cases,
                swept.skipped.len()
            );
            swept.differences.assert_none();
            assert!(swept.ran.len() > 480, "all codes that may run on the host have forms");
        }
    }
}

/// Instructions that store or load an environment, whose long operands makers access from different ends.
const ENVIRONMENT: [M; 4] = [M::Fnstenv, M::Fldenv, M::Fnsave, M::Frstor];

const VECTOR: &[F] = &[
    F::FPU,
    F::FPU287,
    F::FPU387,
    F::CMOV,
    F::MMX,
    F::SSE,
    F::SSE2,
    F::SSE3,
    F::SSSE3,
    F::SSE4_1,
    F::SSE4_2,
    F::AES,
    F::PCLMULQDQ,
    F::GFNI,
    F::AVX,
    F::AVX2,
    F::FMA,
    F::F16C,
    F::VAES,
    F::VPCLMULQDQ,
    F::INTEL386,
];

/// Codes of x87, MMX, SSE and AVX whose results do not depend on the maker.
fn vector(code: Code) -> bool {
    let own = !code.cpuid_features().iter().all(|f| [F::INTEL386, F::CMOV].contains(f))
        || format!("{code:?}").starts_with('F');
    let approximate = matches!(
        code.mnemonic(),
        M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss | M::Vrcpps | M::Vrcpss | M::Vrsqrtps | M::Vrsqrtss
    );
    let transcendental = matches!(
        code.mnemonic(),
        M::F2xm1 | M::Fyl2x | M::Fyl2xp1 | M::Fptan | M::Fpatan | M::Fsin | M::Fcos | M::Fsincos
    );
    // AMD has one bit more in MXCSR.
    let mxcsr = matches!(code.mnemonic(), M::Ldmxcsr | M::Vldmxcsr);
    // With WAIT in front they are two instructions.
    let two = code.op_code().fwait();
    own && !two && !approximate && !transcendental && !mxcsr && !ENVIRONMENT.contains(&code.mnemonic())
}

/// Vector and x87 registers of every kind.
fn fill(user: &mut User, random: &mut Random, insn: &Instruction) {
    let lanes = random.pick(&[Lanes::SINGLE, Lanes::DOUBLE, Lanes::HALF, Lanes::Int(8), Lanes::Int(32)]);
    let mut other = 0;
    for r in user.xmm.iter_mut().take(8).chain(user.ymm_high.iter_mut().take(8)) {
        other = values::vector(random, lanes, other);
        *r = other;
    }
    user.mxcsr = values::mxcsr(random);
    user.x87 = values::x87(random);
    if matches!(insn.mnemonic(), M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip) {
        // They clear C1 says the manual; AMD leaves it.
        user.x87.status &= !0x200;
    }
}

#[test]
fn random_forms_of_x87_mmx_sse_and_avx() {
    if !softmetal_cpu_testing::host::judges() {
        return;
    }
    for (k, segments) in [Segments::FLAT32, Segments::LOCAL16, Segments::LOCAL32].into_iter().enumerate() {
        let codes: Vec<Code> =
            forms::codes_for(segments.bitness(), VECTOR).into_iter().filter(|&code| vector(code)).collect();
        for (options, forms) in [(options()[0], 12), (translated(0), 2)] {
            let sweep = Sweep {
                codes: &codes,
                seed: 200 + k as u64,
                forms,
                states: 8,
                prepare: &fill,
                strict: false,
                options,
            };
            let Some(swept) = sweep.run_in(segments) else { continue };
            println!("{segments:x?}: {} codes, {} cases", swept.ran.len(), swept.differences.cases);
            swept.differences.assert_none();
            assert!(swept.ran.len() > 1100, "all codes but gathers have forms");
        }
    }
}

/// FNSTENV, FLDENV, FNSAVE and FRSTOR with both operand sizes: 14, 28, 94 and 108 bytes.
#[test]
fn environments_of_both_sizes() {
    if !softmetal_cpu_testing::host::judges() {
        return;
    }
    let Some(mut pair) = Pair::new() else { return };
    let mut differences = Differences::default();
    let mut random = Random::new(7);
    for segments in [Segments::FLAT32, Segments::LOCAL16] {
        if !pair.enter(segments) {
            continue;
        }
        // [EBX] and [BX].
        let rm = if segments.bitness() == 32 { 3 } else { 7 };
        for (opcode, digit) in [(0xd9, 6), (0xd9, 4), (0xdd, 6), (0xdd, 4)] {
            for prefix in [None, Some(0x66)] {
                let mut bytes: Vec<u8> = prefix.into_iter().collect();
                bytes.extend([opcode, digit << 3 | rm]);
                pair.load(&bytes);
                assert_eq!(pair.insn().op0_kind(), OpKind::Memory);
                for _ in 0..400 {
                    let mut image = vec![0; 108];
                    image.iter_mut().for_each(|byte| *byte = random.next() as u8);
                    pair.poke(DATA, &image);
                    let mut user = blank();
                    let insn = *pair.insn();
                    fill(&mut user, &mut random, &insn);
                    user.rip = segments.ip();
                    user.gpr[3] = DATA - segments.base(segments.ds);
                    user.gpr[4] = USER_STACK - segments.base(segments.ss);
                    differences.check(&mut pair, &user);
                }
            }
        }
    }
    if differences.cases > 0 {
        differences.assert_none();
    }
}
