//! MMX, SSE, SSE2 and x87 instructions, compared with the host's own CPU: random forms of every one, from random registers,
//! with exceptions masked and unmasked.

mod float_host;

use iced_x86::{Code, CpuidFeature as F, Mnemonic as M, OpKind};
use softmetal_cpu::{
    float::{Class, F80},
    testing::User,
};
use softmetal_cpu_testing::{
    Random,
    compare::{Pair, blank, register},
    forms,
    host::host_has,
    layout::*,
    random::cases,
    translated,
    ulp::distance,
};
use std::collections::BTreeMap;

/// A float pattern, or an integer one.
fn lane(random: &mut Random, floats: &mut float_host::Random, other: u64) -> u64 {
    match random.below(4) {
        0 => random.operand(),
        1 => floats.float(8, 23, other) | floats.float(8, 23, other >> 32) << 32,
        _ => floats.float(11, 52, other),
    }
}

fn xmm(random: &mut Random, floats: &mut float_host::Random, other: u128) -> u128 {
    let (low, high) = (lane(random, floats, other as u64), lane(random, floats, (other >> 64) as u64));
    u128::from(low) | u128::from(high) << 64
}

/// MXCSR: mostly with all exceptions masked.
fn mxcsr(random: &mut Random) -> u32 {
    let v = random.next() as u32 & 0xffff;
    match random.below(8) {
        0 => v,
        1 => 0x1f80,
        2 => v | 0x1f00,
        _ => v | 0x1f80,
    }
}

struct Run {
    pair: Pair,
    random: Random,
    floats: float_host::Random,
    cases: u64,
    differences: u64,
    by_code: BTreeMap<String, (u64, String)>,
}

impl Run {
    fn new(seed: u64) -> Option<Run> {
        Run::with(seed, Pair::new()?)
    }

    fn with(seed: u64, pair: Pair) -> Option<Run> {
        Some(Run {
            pair,
            random: Random::new(seed),
            floats: float_host::Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            cases: 0,
            differences: 0,
            by_code: BTreeMap::new(),
        })
    }

    fn user(&mut self, form: &forms::Form) -> User {
        let mut user = forms::aim(form, &mut self.random, &blank());
        let mut other = 0;
        for r in user.xmm.iter_mut().chain(&mut user.ymm_high) {
            other = xmm(&mut self.random, &mut self.floats, other);
            *r = other;
        }
        user.mxcsr = mxcsr(&mut self.random);
        user.x87 = float_host::x87(&mut self.random, &mut self.floats);
        forms::aim_indices(form, &mut self.random, &mut user);
        let insn = &form.insn;
        if string_comparison(insn.mnemonic()) {
            self.strings(&mut user);
        }
        if matches!(insn.mnemonic(), M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip) {
            // They clear C1 says the manual; AMD leaves it.
            user.x87.status &= !0x200;
        }
        if (0..insn.op_count()).any(|k| insn.op_kind(k) == OpKind::MemorySegRDI) {
            user.gpr[7] = DATA + self.random.below(0x3100);
        }
        user
    }

    /// Strings of few letters and lengths near those of a register, now and then.
    fn strings(&mut self, user: &mut User) {
        let random = &mut self.random;
        let letters =
            [0x0101_0101_0101_0101, 0x0003_0003_0003_0003, 0x8381_8381_8381_8381, 0x0307_0307_0307_0307];
        if !random.once_in(4) {
            let mask = random.pick(&letters);
            for r in &mut user.xmm {
                // Zeros are rare: they end strings.
                let lane = |random: &mut Random| {
                    let zeros = if random.once_in(3) { 0xff << (8 * random.below(8)) } else { 0 };
                    (random.next() & mask
                        | 0x0202_0202_0202_0202 & random.next()
                        | 0x0400_0400_0400_0400 & mask << 8)
                        & !zeros
                };
                *r = u128::from(lane(random)) | u128::from(lane(random)) << 64;
            }
        }
        for r in [0, 2] {
            if !random.once_in(4) {
                let length = random.below(36).wrapping_sub(18);
                let high = if random.once_in(4) { random.next() << 32 } else { 0 };
                user.gpr[r] = length ^ high;
            }
        }
    }

    /// Something to read for memory operands: words in which floats of every size are found.
    fn fill_scratch(&mut self) {
        let mut bytes = Vec::new();
        let mut other = 0;
        while bytes.len() < SCRATCH_SIZE as usize {
            if self.random.once_in(4) {
                let v = float_host::extended(&mut self.random, &mut self.floats, F80::ZERO);
                bytes.extend(v.significand.to_le_bytes());
                other = v.sign_exponent.into();
            } else {
                other = lane(&mut self.random, &mut self.floats, other);
            }
            bytes.extend(other.to_le_bytes());
        }
        bytes.truncate(SCRATCH_SIZE as usize);
        self.pair.set_scratch(&bytes);
    }

    /// Runs one case; of each code's differences the first is kept.
    fn check(&mut self, code: Code, user: &User) {
        // AMD has one bit more in MXCSR: loads that set it are no case for comparison.
        let mxcsr_at = match code.mnemonic() {
            M::Ldmxcsr | M::Vldmxcsr => Some(0),
            M::Fxrstor | M::Fxrstor64 => Some(24),
            _ => None,
        };
        if mxcsr_at.is_some_and(|offset| self.loads_amd_bit(user, offset)) {
            return;
        }
        // Where an operand of several accesses does not lie in one page, makers begin at different ends.
        let long = environment(code)
            || matches!(code.mnemonic(), M::Fxsave | M::Fxrstor | M::Fxsave64 | M::Fxrstor64);
        if long && self.crosses(user) {
            return;
        }
        self.cases += 1;
        if let Err(report) = self.pair.check(user) {
            if only_amd_mask(code, &report) || self.misaligned_sha(user) {
                return;
            }
            self.differences += 1;
            self.by_code.entry(format!("{code:?}")).or_insert((0, report)).0 += 1;
        }
    }

    /// SDM 2B "SHA1MSG1" wants operands in memory aligned, as all of SSE does; AMD's silicon does not.
    fn misaligned_sha(&self, user: &User) -> bool {
        let insn = self.pair.insn();
        let memory = insn.op1_kind() == OpKind::Memory;
        let at = insn.virtual_address(1, 0, |r, _, _| register(user, r)).unwrap_or(0);
        insn.cpuid_features().contains(&F::SHA) && memory && at & 15 != 0
    }

    fn crosses(&self, user: &User) -> bool {
        let at = self.pair.insn().virtual_address(0, 0, |r, _, _| register(user, r)).unwrap_or(0);
        at & 0xfff > 0x1000 - 512 || at & !0xfff == SCRATCH_READ_ONLY || at >= SCRATCH + SCRATCH_SIZE
    }

    fn loads_amd_bit(&mut self, user: &User, offset: u64) -> bool {
        const MISALIGNED_MASK: u8 = 1 << 1;
        let at = self.pair.insn().virtual_address(0, 0, |r, _, _| register(user, r)).unwrap_or(0);
        let bits = at.wrapping_sub(SCRATCH).wrapping_add(offset + 2);
        self.pair.host.scratch().get(bits as usize).is_some_and(|b| b & MISALIGNED_MASK != 0)
    }

    fn assert_none(&self) {
        assert!(self.cases > 0, "no case ran");
        let reports: Vec<String> =
            self.by_code.iter().map(|(code, (n, first))| format!("{code}, {n} times: {first}")).collect();
        assert!(
            reports.is_empty(),
            "{} of {} cases differ from the host:\n{}",
            self.differences,
            self.cases,
            reports.join("\n")
        );
    }

    fn all(&mut self, codes: &[Code], per_code: u64) {
        for &code in codes {
            self.fill_scratch();
            let mut made = 0;
            for _ in 0..per_code {
                // Not every combination of registers has an encoding.
                let Some(form) = forms::form(code, &mut self.random) else { continue };
                // The forms with WAIT in front are two instructions.
                if form.insn.code() != code {
                    break;
                }
                made += 1;
                self.pair.load(&form.bytes);
                for _ in 0..8 {
                    let user = self.user(&form);
                    if self.pair.confined(&user) {
                        self.check(code, &user);
                    }
                }
            }
            assert!(made > 0 || code.op_code().fwait(), "no form of {code:?}");
        }
    }
}

/// FXSAVE stores MXCSR_MASK, in which AMD has that one bit more.
fn only_amd_mask(code: Code, report: &str) -> bool {
    let mut memory = report.lines().filter(|line| line.starts_with("  ["));
    matches!(code.mnemonic(), M::Fxsave | M::Fxsave64)
        && memory.next().is_some_and(|line| line.ends_with("e]: 00, host 02"))
        && memory.next().is_none()
        && !report.contains("  ended")
}

fn string_comparison(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Pcmpestri | M::Pcmpestrm | M::Pcmpistri | M::Pcmpistrm | M::Pcmpestri64 | M::Pcmpestrm64
    )
}

fn codes(features: &[F], wanted: impl Fn(Code) -> bool) -> Vec<Code> {
    let codes: Vec<Code> = forms::codes(features).into_iter().filter(|&code| wanted(code)).collect();
    assert!(!codes.is_empty());
    codes
}

/// Approximations have bits of their own on every maker's silicon.
fn approximate(code: Code) -> bool {
    use M::{Rcpps, Rcpss, Rsqrtps, Rsqrtss, Vrcpps, Vrcpss, Vrsqrtps, Vrsqrtss};
    matches!(code.mnemonic(), Rcpps | Rcpss | Rsqrtps | Rsqrtss | Vrcpps | Vrcpss | Vrsqrtps | Vrsqrtss)
}

#[test]
fn random_forms_of_mmx_and_sse() {
    let Some(mut run) = Run::new(11) else { return };
    let features = [F::MMX, F::SSE, F::SSE2, F::X64, F::INTEL386];
    let own = |code: Code| code.cpuid_features().iter().any(|f| [F::MMX, F::SSE, F::SSE2].contains(f));
    let list = codes(&features, |code| own(code) && !approximate(code));
    run.all(&list, cases(60));
    println!("{} codes, {} cases", list.len(), run.cases);
    run.assert_none();
}

/// The extensions after SSE2 as far as they have legacy encodings. FISTTP belongs to the x87 unit.
fn later(feature: F) {
    if !softmetal_cpu_testing::host::judges() {
        return;
    }
    let Some(mut run) = Run::new(0x100 + feature as u64) else { return };
    let features = [F::SSE, F::X64, F::INTEL386, feature];
    let list =
        codes(&features, |code| code.cpuid_features().contains(&feature) && code.mnemonic() != M::Fisttp);
    if !list.iter().all(|&code| host_has(code)) {
        return;
    }
    run.all(&list, cases(120));
    println!("{feature:?}: {} codes, {} cases", list.len(), run.cases);
    run.assert_none();
}

#[test]
fn random_forms_of_sse3() {
    later(F::SSE3);
}

#[test]
fn random_forms_of_ssse3() {
    later(F::SSSE3);
}

#[test]
fn random_forms_of_sse4_1() {
    later(F::SSE4_1);
}

#[test]
fn random_forms_of_sse4_2() {
    later(F::SSE4_2);
}

#[test]
fn random_forms_of_aes_and_pclmulqdq() {
    later(F::AES);
    later(F::PCLMULQDQ);
}

#[test]
fn random_forms_of_sha() {
    later(F::SHA);
}

#[test]
fn random_forms_of_gfni() {
    later(F::GFNI);
}

#[test]
fn random_forms_of_avx() {
    if !softmetal_cpu_testing::host::judges() {
        return;
    }
    let Some(mut run) = Run::new(15) else { return };
    if !std::arch::is_x86_feature_detected!("avx2") || !std::arch::is_x86_feature_detected!("fma") {
        return;
    }
    let own = [F::AVX, F::AVX2, F::FMA, F::F16C, F::VAES, F::VPCLMULQDQ];
    let features = [&own[..], &[F::X64, F::AES, F::PCLMULQDQ, F::GFNI]].concat();
    let list =
        codes(&features, |code| code.cpuid_features().iter().any(|f| own.contains(f)) && !approximate(code));
    run.all(&list, cases(40));
    println!("{} codes, {} cases", list.len(), run.cases);
    run.assert_none();
}

/// A few forms of each, run by the translator.
#[test]
fn translated_forms() {
    if !softmetal_cpu_testing::host::judges() {
        return;
    }
    let features =
        [F::MMX, F::SSE, F::SSE2, F::SSE3, F::SSSE3, F::SSE4_1, F::SSE4_2, F::AVX, F::AVX2, F::FMA, F::FPU];
    let Some(mut run) = Pair::with_options(translated(0)).and_then(|pair| Run::with(16, pair)) else {
        return;
    };
    let list = codes(&features, |code| {
        host_has(code) && !approximate(code) && !transcendental(code) && !environment(code)
    });
    run.all(&list, cases(3));
    println!("{} codes, {} cases", list.len(), run.cases);
    run.assert_none();
}

fn transcendental(code: Code) -> bool {
    matches!(
        code.mnemonic(),
        M::F2xm1 | M::Fyl2x | M::Fyl2xp1 | M::Fptan | M::Fpatan | M::Fsin | M::Fcos | M::Fsincos
    )
}

#[test]
fn environment_instructions() {
    let Some(mut run) = Run::new(13) else { return };
    let list = codes(&[F::FPU, F::FPU387], environment);
    run.all(&list, cases(60));
    println!("{} codes, {} cases", list.len(), run.cases);
    run.assert_none();
}

#[test]
fn fxsave_and_fxrstor() {
    let Some(mut run) = Run::new(14) else { return };
    let list = codes(&[F::FXSR, F::X64], |code| code.cpuid_features().contains(&F::FXSR));
    run.all(&list, cases(200));
    println!("{} codes, {} cases", list.len(), run.cases);
    run.assert_none();
}

/// They store or load the last-instruction pointers, which differ between makers.
fn environment(code: Code) -> bool {
    matches!(code.mnemonic(), M::Fnstenv | M::Fldenv | M::Fnsave | M::Frstor | M::Fstenv | M::Fsave)
}

#[test]
fn random_forms_of_x87() {
    let Some(mut run) = Run::new(12) else { return };
    let features = [F::FPU, F::FPU287, F::FPU387, F::CMOV, F::SSE3];
    let own = |code: Code| format!("{code:?}").starts_with('F');
    let list = codes(&features, |code| own(code) && !transcendental(code) && !environment(code));
    run.all(&list, cases(60));
    println!("{} codes, {} cases", list.len(), run.cases);
    run.assert_none();
}

/// Whether the manual says what a transcendental instruction gives: F2XM1 and FYL2XP1 have a range.
fn in_range(code: Code, user: &User) -> bool {
    let x = &user.x87;
    let st0 = x.regs[x.physical(0)];
    let least_beyond = match code.mnemonic() {
        M::F2xm1 => 0x3fff,
        M::Fyl2xp1 => 0x3ffd,
        _ => return true,
    };
    let beyond = matches!(st0.class(), Class::Normal | Class::Infinity);
    !(beyond && st0.sign_exponent & 0x7fff >= least_beyond)
}

/// Silicon computes these approximately: results may be one unit apart, and then C1 and UE too. All else is compared, the
/// stack and the other flags.
#[test]
fn random_forms_of_transcendental_x87() {
    if !softmetal_cpu_testing::host::judges() {
        return;
    }
    let Some(mut run) = Run::new(15) else { return };
    let (mut compared, mut masked) = (0u64, 0u64);
    for code in codes(&[F::FPU, F::FPU387], transcendental) {
        let form = forms::form(code, &mut run.random).expect("they have no operands");
        run.pair.load(&form.bytes);
        for _ in 0..cases(20_000) {
            let before = run.user(&form);
            if !in_range(code, &before) {
                continue;
            }
            let (mut ours, mut host) = (before, before);
            let our_fault = run.pair.machine.run_user(&mut ours).err().map(|fault| fault.vector);
            let host_fault = run.pair.host.run(&mut host).err().map(|fault| fault.vector);
            let apart = (0..8).map(|k| distance(ours.x87.regs[k], host.x87.regs[k])).max().unwrap_or(0);
            let free = if apart == 0 { 0x200 } else { 0x210 };
            let same = our_fault == host_fault
                && apart <= 1
                && (ours.x87.status ^ host.x87.status) & !free == 0
                && (ours.x87.tags, ours.x87.control) == (host.x87.tags, host.x87.control)
                && (ours.gpr, ours.rip, ours.mxcsr) == (host.gpr, host.rip, host.mxcsr);
            assert!(
                same,
                "{code:?}\n from {:x?}\n gives {:x?} {our_fault:?}\n host  {:x?} {host_fault:?}",
                before.x87, ours.x87, host.x87
            );
            compared += 1;
            masked += u64::from(our_fault.is_none() && ours.x87.status & 0x80 == 0);
        }
    }
    assert!(masked > compared / 2 && masked < compared, "{masked} of {compared}");
}
