//! How long vector instructions take: a report, for those who change their handlers. SPEED_OF chooses a line.

use iced_x86::code_asm::*;
use softmetal_cpu_testing::{End, Machine, layout::*};
use std::time::Instant;

/// Runs `body` some hundred thousand times and prints nanoseconds per instruction of it.
fn time(name: &str, count: u32, body: impl Fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) {
    if std::env::var("SPEED_OF").is_ok_and(|only| !name.contains(&only)) {
        return;
    }
    const TURNS: u32 = 300_000;
    let mut machine = Machine::default();
    let assemble = || -> Result<Vec<u8>, iced_x86::IcedError> {
        let mut a = CodeAssembler::new(64)?;
        a.mov(rsi, KERNEL_DATA)?;
        a.mov(rdi, KERNEL_DATA + 0x1000)?;
        a.mov(ecx, TURNS)?;
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
    println!("{name:24} {:6.2} ns", best as f64 / f64::from(TURNS) / f64::from(count + 2));
}

#[test]
#[ignore = "a report"]
fn speed() {
    time("integer add", 8, |a| (0..8).try_for_each(|_| a.add(rax, rdx)));
    time("movups load", 8, |a| (0..8).try_for_each(|k| a.movups(xmm0, xmmword_ptr(rsi + 16 * k))));
    time("movups store", 8, |a| (0..8).try_for_each(|k| a.movups(xmmword_ptr(rdi + 16 * k), xmm0)));
    time("movaps load", 8, |a| (0..8).try_for_each(|k| a.movaps(xmm0, xmmword_ptr(rsi + 16 * k))));
    time("movdqa register", 8, |a| (0..8).try_for_each(|_| a.movdqa(xmm0, xmm1)));
    time("pxor", 8, |a| (0..8).try_for_each(|_| a.pxor(xmm0, xmm1)));
    time("paddd", 8, |a| (0..8).try_for_each(|_| a.paddd(xmm0, xmm1)));
    time("paddq", 8, |a| (0..8).try_for_each(|_| a.paddq(xmm0, xmm1)));
    time("pcmpeqb memory", 8, |a| (0..8).try_for_each(|k| a.pcmpeqb(xmm0, xmmword_ptr(rsi + 16 * k))));
    time("pmovmskb", 8, |a| (0..8).try_for_each(|_| a.pmovmskb(eax, xmm1)));
    time("pminub", 8, |a| (0..8).try_for_each(|_| a.pminub(xmm0, xmm1)));
    time("punpcklbw", 8, |a| (0..8).try_for_each(|_| a.punpcklbw(xmm0, xmm1)));
    time("pshufd", 8, |a| (0..8).try_for_each(|_| a.pshufd(xmm0, xmm1, 0x1b)));
    time("psrldq", 8, |a| (0..8).try_for_each(|_| a.psrldq(xmm0, 3)));
    time("pmaddwd", 8, |a| (0..8).try_for_each(|_| a.pmaddwd(xmm0, xmm1)));
    time("packuswb", 8, |a| (0..8).try_for_each(|_| a.packuswb(xmm0, xmm1)));
    time("movq xmm, r64", 8, |a| (0..8).try_for_each(|_| a.movq(xmm0, rax)));
    time("movsd load", 8, |a| (0..8).try_for_each(|k| a.movsd_2(xmm0, qword_ptr(rsi + 8 * k))));
    time("addsd", 8, |a| (0..8).try_for_each(|_| a.addsd(xmm0, xmm1)));
    time("mulsd", 8, |a| (0..8).try_for_each(|_| a.mulsd(xmm0, xmm1)));
    time("addps", 8, |a| (0..8).try_for_each(|_| a.addps(xmm0, xmm1)));
    time("ucomisd", 8, |a| (0..8).try_for_each(|_| a.ucomisd(xmm0, xmm1)));
    time("cvtsi2sd", 8, |a| (0..8).try_for_each(|_| a.cvtsi2sd(xmm0, ecx)));
    time("cvttsd2si", 8, |a| (0..8).try_for_each(|_| a.cvttsd2si(eax, xmm0)));
    time("fld, fstp", 8, |a| {
        (0..4).try_for_each(|k| {
            a.fld(qword_ptr(rsi + 8 * k))?;
            a.fstp(qword_ptr(rdi + 8 * k))
        })
    });
    time("fld, fadd, fmul, fstp", 8, |a| {
        (0..2).try_for_each(|k| {
            a.fld(qword_ptr(rsi + 8 * k))?;
            a.fadd(qword_ptr(rsi + 8 * k))?;
            a.fmul(qword_ptr(rsi + 8 * k))?;
            a.fstp(qword_ptr(rdi + 8 * k))
        })
    });
    time("paddb mm", 8, |a| (0..8).try_for_each(|_| a.paddb(mm0, mm1)));
}
