//! How long vector and x87 instructions take: a report, for those who change their handlers. SPEED_OF chooses lines, SPEED_WITH
//! the engine: jit, t1 (the translator in one pass), or else the interpreter.

use iced_x86::code_asm::*;
use softmetal_cpu::{Options, Translate};
use softmetal_cpu_testing::{End, Machine, layout::*};
use std::time::Instant;

/// Destinations one after the other, so that no instruction waits for the one before.
const XMM: [AsmRegisterXmm; 8] = [xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7];
const GENERAL: [AsmRegister64; 8] = [rax, rbx, rbp, r8, r9, r10, r11, r12];

/// Runs `body` often and prints nanoseconds per instruction of it.
fn time(name: &str, count: u32, body: impl Fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) {
    if std::env::var("SPEED_OF").is_ok_and(|only| !name.contains(&only)) {
        return;
    }
    let (threshold, one_pass) = match std::env::var("SPEED_WITH").as_deref() {
        Ok("jit") => (0, None),
        Ok("t1") => (u32::MAX, Some(0)),
        _ => (u32::MAX, None),
    };
    // Enough of them that translating is no part of it.
    let turns = if threshold == 0 { 6_000_000 } else { 300_000 };
    let jit = (threshold == 0 || one_pass.is_some()).then_some(Translate {
        threshold,
        one_pass,
        paths: None,
        at_once: true,
    });
    let mut machine = Machine::new(Options { cpus: 1, jit, ..Options::default() });
    let assemble = || -> Result<Vec<u8>, iced_x86::IcedError> {
        let mut a = CodeAssembler::new(64)?;
        a.mov(rsi, KERNEL_DATA)?;
        a.mov(rdi, KERNEL_DATA + 0x1000)?;
        a.mov(ecx, turns)?;
        a.fninit()?;
        a.fld1()?;
        a.fldz()?;
        a.fld1()?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        body(&mut a)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()?;
        a.assemble(KERNEL_CODE)
    };
    let program = assemble().expect("a program");
    // The best of some runs: others use the machine too.
    let best = (0..7).map(|_| {
        machine.program(&program);
        machine.cpu.set_state(&Machine::supervisor_state());
        let start = Instant::now();
        let end = machine.run();
        assert!(matches!(end, End::Halt(_)), "{name} ended with {end:?}");
        start.elapsed().as_nanos()
    });
    let best = best.min().unwrap_or(0);
    println!("{name:24} {:6.2} ns", best as f64 / f64::from(turns) / f64::from(count + 2));
}

#[test]
#[ignore = "prints timings, checks nothing"]
fn speed() {
    time("integer add", 8, |a| (0..8).try_for_each(|k| a.add(GENERAL[k], rdx)));
    time("movups load", 8, |a| (0..8).try_for_each(|k| a.movups(XMM[k], xmmword_ptr(rsi + 16 * k as u64))));
    time("movups store", 8, |a| (0..8).try_for_each(|k| a.movups(xmmword_ptr(rdi + 16 * k as u64), XMM[k])));
    time("movaps load", 8, |a| (0..8).try_for_each(|k| a.movaps(XMM[k], xmmword_ptr(rsi + 16 * k as u64))));
    time("movdqa register", 8, |a| (0..8).try_for_each(|k| a.movdqa(XMM[k], xmm9)));
    time("pxor", 8, |a| (0..8).try_for_each(|k| a.pxor(XMM[k], xmm9)));
    time("paddd", 8, |a| (0..8).try_for_each(|k| a.paddd(XMM[k], xmm9)));
    time("paddq", 8, |a| (0..8).try_for_each(|k| a.paddq(XMM[k], xmm9)));
    time("pcmpeqb memory", 8, |a| {
        (0..8).try_for_each(|k| a.pcmpeqb(XMM[k], xmmword_ptr(rsi + 16 * k as u64)))
    });
    time("pmovmskb", 8, |a| (0..8).try_for_each(|_| a.pmovmskb(eax, xmm9)));
    time("pminub", 8, |a| (0..8).try_for_each(|k| a.pminub(XMM[k], xmm9)));
    time("punpcklbw", 8, |a| (0..8).try_for_each(|k| a.punpcklbw(XMM[k], xmm9)));
    time("pshufd", 8, |a| (0..8).try_for_each(|k| a.pshufd(XMM[k], xmm9, 0x1b)));
    time("psrldq", 8, |a| (0..8).try_for_each(|k| a.psrldq(XMM[k], 3)));
    time("pmaddwd", 8, |a| (0..8).try_for_each(|k| a.pmaddwd(XMM[k], xmm9)));
    time("packuswb", 8, |a| (0..8).try_for_each(|k| a.packuswb(XMM[k], xmm9)));
    time("movq xmm, r64", 8, |a| (0..8).try_for_each(|k| a.movq(XMM[k], rax)));
    time("movsd load", 8, |a| (0..8).try_for_each(|k| a.movsd_2(XMM[k], qword_ptr(rsi + 8 * k as u64))));
    time("addsd", 8, |a| (0..8).try_for_each(|k| a.addsd(XMM[k], xmm9)));
    time("mulsd", 8, |a| (0..8).try_for_each(|k| a.mulsd(XMM[k], xmm9)));
    time("addps", 8, |a| (0..8).try_for_each(|k| a.addps(XMM[k], xmm9)));
    time("ucomisd", 8, |a| (0..8).try_for_each(|k| a.ucomisd(XMM[k], xmm9)));
    time("cvtsi2sd", 8, |a| (0..8).try_for_each(|k| a.cvtsi2sd(XMM[k], ecx)));
    time("cvttsd2si", 8, |a| (0..8).try_for_each(|_| a.cvttsd2si(eax, xmm0)));
    time("fld, fstp", 8, |a| {
        (0..4).try_for_each(|k| {
            a.fld(qword_ptr(rsi + 8 * k as u64))?;
            a.fstp(qword_ptr(rdi + 8 * k as u64))
        })
    });
    time("fld, fadd, fmul, fstp", 8, |a| {
        (0..2).try_for_each(|k| {
            a.fld(qword_ptr(rsi + 8 * k as u64))?;
            a.fadd(qword_ptr(rsi + 8 * k as u64))?;
            a.fmul(qword_ptr(rsi + 8 * k as u64))?;
            a.fstp(qword_ptr(rdi + 8 * k as u64))
        })
    });
    time("fadd", 8, |a| (0..8).try_for_each(|_| a.fadd_2(st0, st1)));
    time("fmul", 8, |a| (0..8).try_for_each(|_| a.fmul_2(st0, st1)));
    time("fdiv", 8, |a| (0..8).try_for_each(|_| a.fdiv_2(st0, st1)));
    time("fsqrt", 8, |a| (0..8).try_for_each(|_| a.fsqrt()));
    time("fadd m64", 8, |a| (0..8).try_for_each(|k| a.fadd(qword_ptr(rsi + 8 * k as u64))));
    time("fld m64, fstp st0", 8, |a| {
        (0..4).try_for_each(|k| {
            a.fld(qword_ptr(rsi + 8 * k as u64))?;
            a.fstp(st0)
        })
    });
    time("fxch", 8, |a| (0..8).try_for_each(|_| a.fxch(st0, st1)));
    time("fld m80, fstp m80", 8, |a| {
        (0..4).try_for_each(|_| {
            a.fld(tbyte_ptr(rsi))?;
            a.fstp(tbyte_ptr(rdi))
        })
    });
    time("fild, fistp", 8, |a| {
        (0..4).try_for_each(|k| {
            a.fild(dword_ptr(rsi + 8 * k as u64))?;
            a.fistp(dword_ptr(rdi + 8 * k as u64))
        })
    });
    time("fcomi", 8, |a| (0..8).try_for_each(|_| a.fcomi(st0, st1)));
    time("fnstsw", 8, |a| (0..8).try_for_each(|_| a.fnstsw(ax)));
    time("fnstcw, fldcw", 8, |a| {
        (0..4).try_for_each(|_| {
            a.fnstcw(word_ptr(rdi))?;
            a.fldcw(word_ptr(rdi))
        })
    });
    time("rcpps", 8, |a| (0..8).try_for_each(|k| a.rcpps(XMM[k], xmm9)));
    time("vcvtph2ps", 8, |a| (0..8).try_for_each(|k| a.vcvtph2ps(XMM[k], xmm9)));
    time("vcvtps2ph", 8, |a| (0..8).try_for_each(|k| a.vcvtps2ph(XMM[k], xmm9, 0)));
    time("vpsllvd", 8, |a| (0..8).try_for_each(|k| a.vpsllvd(XMM[k], xmm9, xmm10)));
    time("pshufb", 8, |a| (0..8).try_for_each(|k| a.pshufb(XMM[k], xmm9)));
    time("palignr", 8, |a| (0..8).try_for_each(|k| a.palignr(XMM[k], xmm9, 4)));
    time("pmovzxbw memory", 8, |a| {
        (0..8).try_for_each(|k| a.pmovzxbw(XMM[k], qword_ptr(rsi + 8 * k as u64)))
    });
    time("pextrq", 8, |a| (0..8).try_for_each(|_| a.pextrq(rax, xmm9, 1)));
    time("pinsrd", 8, |a| (0..8).try_for_each(|k| a.pinsrd(XMM[k], eax, 2)));
    time("pblendvb", 8, |a| (0..8).try_for_each(|k| a.pblendvb(XMM[k], xmm9)));
    time("ptest", 8, |a| (0..8).try_for_each(|k| a.ptest(XMM[k], xmm9)));
    time("roundsd", 8, |a| (0..8).try_for_each(|k| a.roundsd(XMM[k], xmm9, 1)));
    time("haddps", 8, |a| (0..8).try_for_each(|k| a.haddps(XMM[k], xmm9)));
    time("dpps", 8, |a| (0..8).try_for_each(|k| a.dpps(XMM[k], xmm9, 0x71)));
    time("pcmpistrm", 8, |a| (0..8).try_for_each(|k| a.pcmpistrm(XMM[k], xmm9, 0x1a)));
    time("crc32", 8, |a| (0..8).try_for_each(|_| a.crc32(rax, rdx)));
    time("aesenc", 8, |a| (0..8).try_for_each(|k| a.aesenc(XMM[k], xmm9)));
    time("pclmulqdq", 8, |a| (0..8).try_for_each(|k| a.pclmulqdq(XMM[k], xmm9, 0x10)));
    time("sha256rnds2", 8, |a| (0..8).try_for_each(|k| a.sha256rnds2(XMM[k], xmm9)));
    time("paddb mm", 8, |a| (0..8).try_for_each(|_| a.paddb(mm0, mm1)));
}
