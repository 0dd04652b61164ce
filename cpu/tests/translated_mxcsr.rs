//! MXCSR where it changes hands within translated code: XSAVE and its relatives see the flags that translated arithmetic has
//! raised, and what XRSTOR loads is in force behind it.

use iced_x86::code_asm::*;
use softmetal_cpu::{CpuState, Options, state::cr4};
use softmetal_cpu_testing::{End, Machine, assemble, layout::*, options};

/// The area that state is saved to, one, three, and the values that MXCSR takes in turn.
const AREA: u64 = KERNEL_DATA;
const ONE: u64 = AREA + 0x1000;
const THREE: u64 = ONE + 8;
const MODES: u64 = ONE + 16;
const ROUNDS: u32 = 64;

/// How state is saved and loaded.
#[derive(Clone, Copy, Debug)]
enum By {
    Xsave,
    Xsaveopt,
    Xsavec,
    Xsaves,
    Fxsave,
}

/// Divides inexactly, saves, puts the next MXCSR into the area, loads, divides again; RBX gathers what comes out.
fn program(by: By) -> Vec<u8> {
    let [area, one, three, modes] = [AREA, ONE, THREE, MODES].map(|at| at as i32);
    assemble(KERNEL_CODE, |a| {
        let mut top = a.create_label();
        a.mov(edi, ROUNDS)?;
        a.set_label(&mut top)?;
        a.movsd_2(xmm1, qword_ptr(one))?;
        a.divsd(xmm1, qword_ptr(three))?;
        a.mov(eax, 3)?;
        a.xor(edx, edx)?;
        match by {
            By::Xsave => a.xsave(ptr(area))?,
            By::Xsaveopt => a.xsaveopt(ptr(area))?,
            By::Xsavec => a.xsavec(ptr(area))?,
            By::Xsaves => a.xsaves(ptr(area))?,
            By::Fxsave => a.fxsave(ptr(area))?,
        }
        a.mov(eax, dword_ptr(area + 24))?;
        a.add(rbx, rax)?;
        a.rol(rbx, 9)?;
        a.mov(ecx, edi)?;
        a.and(ecx, 7)?;
        a.mov(eax, dword_ptr(modes + rcx * 4))?;
        a.mov(dword_ptr(area + 24), eax)?;
        a.mov(eax, 3)?;
        match by {
            By::Xsave | By::Xsaveopt | By::Xsavec => a.xrstor(ptr(area))?,
            By::Xsaves => a.xrstors(ptr(area))?,
            By::Fxsave => a.fxrstor(ptr(area))?,
        }
        a.movsd_2(xmm1, qword_ptr(one))?;
        a.divsd(xmm1, qword_ptr(three))?;
        a.movq(rax, xmm1)?;
        a.add(rbx, rax)?;
        a.rol(rbx, 7)?;
        a.sub(edi, 1)?;
        a.jne(top)?;
        a.hlt()
    })
}

fn run(by: By, modes: [u32; 8], options: Options) -> (End, CpuState) {
    let mut m = Machine::new(options);
    m.program(&program(by));
    m.write(AREA, &[0; 0x1000]);
    m.write_u64(ONE, 1f64.to_bits());
    m.write_u64(THREE, 3f64.to_bits());
    for (k, mode) in modes.into_iter().enumerate() {
        m.write(MODES + 4 * k as u64, &mode.to_le_bytes());
    }
    let mut state = Machine::supervisor_state();
    state.cr4 |= cr4::OSXMMEXCPT;
    m.cpu.set_state(&state);
    let end = m.run();
    (end, m.cpu.state())
}

fn same_for_all(modes: [u32; 8], expected: impl Fn(End) -> bool) {
    for by in [By::Xsave, By::Xsaveopt, By::Xsavec, By::Xsaves, By::Fxsave] {
        let mut first = None;
        for options in options() {
            let got = run(by, modes, options);
            assert!(expected(got.0), "{by:?}, {options:?}: {:?}", got.0);
            let (end, state) = first.get_or_insert_with(|| got.clone());
            assert_eq!((&got.0, &got.1), (&*end, &*state), "{by:?}, {options:?}");
        }
    }
}

/// What COMISD has found stays so, and raises nothing anew, when LDMXCSR has changed what denormals are and cleared the flags.
#[test]
fn comparisons_before_ldmxcsr() {
    let code = assemble(KERNEL_CODE, |a| {
        let mut top = a.create_label();
        a.mov(edi, ROUNDS)?;
        a.movq(xmm0, qword_ptr(ONE as i32))?;
        a.movq(xmm1, qword_ptr(THREE as i32))?;
        a.set_label(&mut top)?;
        a.ldmxcsr(dword_ptr(MODES as i32))?;
        a.comisd(xmm0, xmm1)?;
        a.ldmxcsr(dword_ptr(MODES as i32 + 4))?;
        a.setb(al)?;
        a.sete(cl)?;
        a.stmxcsr(dword_ptr(AREA as i32))?;
        a.movzx(eax, al)?;
        a.movzx(ecx, cl)?;
        a.lea(rax, qword_ptr(rax + 2 * rcx))?;
        a.add(rbx, rax)?;
        a.mov(eax, dword_ptr(AREA as i32))?;
        a.add(rbx, rax)?;
        a.rol(rbx, 9)?;
        a.sub(edi, 1)?;
        a.jne(top)?;
        a.hlt()
    });
    let mut first = None;
    for options in options() {
        let mut m = Machine::new(options);
        m.program(&code);
        // Denormals, which DAZ makes equal.
        m.write_u64(ONE, 1);
        m.write_u64(THREE, 3);
        m.write(MODES, &0x1f80u32.to_le_bytes());
        m.write(MODES + 4, &0x1fc0u32.to_le_bytes());
        m.cpu.set_state(&Machine::supervisor_state());
        let end = m.run();
        let got = (end, m.cpu.state());
        assert!(matches!(end, End::Halt(_)), "{options:?}: {end:?}");
        assert_eq!(got, *first.get_or_insert_with(|| got.clone()), "{options:?}");
    }
}

/// Each rounding, flags set and clear.
#[test]
fn flags_and_rounding() {
    let modes = [0x1f80, 0x3f80, 0x5f80, 0x7f80, 0x5f85, 0x9fc0, 0x3fa0, 0x1f80];
    same_for_all(modes, |end| matches!(end, End::Halt(_)));
}

/// An exception that becomes unmasked arises in the next division.
#[test]
fn unmasked_exceptions() {
    const XM: u8 = 19;
    // The last of the eight, when code has long been translated.
    let modes = [0x1f80, 0x3f80, 0x5f80, 0x0f80, 0x5f80, 0x7f80, 0x1f80, 0x1f80];
    same_for_all(modes, |end| end == End::Vector(XM));
}

/// An area that is refused changes nothing, and the flags raised before are the guest's.
#[test]
fn refused() {
    const GP: u8 = 13;
    let modes = [0x1f80, 0x3f80, 0x5f80, 0xffff_ffff, 0x5f80, 0x7f80, 0x1f80, 0x1f80];
    same_for_all(modes, |end| end == End::Vector(GP));
}

/// Nothing that is computed about code, where it is counted, translated and dropped while MXCSR is the guest's, raises flags.
#[test]
fn code_that_comes_and_goes_raises_nothing() {
    const TIMES: u32 = 1 << 15;
    let code = assemble(KERNEL_CODE, |a| {
        let (mut top, mut same, mut odd, mut even, mut routine) =
            (a.create_label(), a.create_label(), a.create_label(), a.create_label(), a.create_label());
        a.mov(esi, TIMES)?;
        a.movsd_2(xmm1, qword_ptr(ONE as i32))?;
        a.xorps(xmm0, xmm0)?;
        a.set_label(&mut top)?;
        // Exact: no flag.
        a.addsd(xmm0, xmm1)?;
        a.test(esi, 1)?;
        a.je(even)?;
        a.add(rbx, 3)?;
        a.jmp(odd)?;
        a.set_label(&mut even)?;
        a.add(rbx, 5)?;
        a.set_label(&mut odd)?;
        a.call(routine)?;
        a.add(rbx, rax)?;
        // Seldom enough that it is translated in between.
        a.test(esi, 0x7ff)?;
        a.jne(same)?;
        // By a function that is called with MXCSR as it is.
        a.mov(eax, esi)?;
        a.mov(ecx, 1)?;
        a.lea(rdi, ptr(routine))?;
        a.add(rdi, 1)?;
        a.rep().stosd()?;
        a.set_label(&mut same)?;
        a.sub(esi, 1)?;
        a.jne(top)?;
        a.stmxcsr(dword_ptr(AREA as i32))?;
        a.hlt()?;
        a.set_label(&mut routine)?;
        a.mov(eax, 7)?;
        a.ret()
    });
    let mut first = None;
    for options in options() {
        let mut m = Machine::new(options);
        m.program(&code);
        m.write_u64(ONE, 1f64.to_bits());
        m.cpu.set_state(&Machine::supervisor_state());
        let end = m.run();
        assert!(matches!(end, End::Halt(_)), "{options:?}: {end:?}");
        assert_eq!(m.read_u64(AREA) as u32, 0x1f80, "{options:?}");
        let got = m.cpu.state();
        assert_eq!(got, *first.get_or_insert_with(|| got.clone()), "{options:?}");
    }
}
