//! What MMX, SSE and x87 instructions do in modes and with control bits that a user process cannot have, and the state that
//! they keep.

use softmetal_cpu::{
    CpuState, Fault,
    state::{Segment, X87, cr0, cr4},
};
use softmetal_cpu_testing::{Machine, layout::*};

const UD: u8 = 6;
const NM: u8 = 7;
const GP: u8 = 13;
const MF: u8 = 16;
const XM: u8 = 19;

/// Runs one instruction at CPL 0 from a state made from the usual one; its exception's vector, if any, and the state after.
fn run(insn: &[u8], change: impl Fn(&mut CpuState)) -> (Option<u8>, CpuState) {
    let mut machine = Machine::default();
    machine.program(insn);
    let mut state = Machine::supervisor_state();
    change(&mut state);
    machine.cpu.set_state(&state);
    let vector = machine.step().err().map(|fault: Fault| fault.vector);
    (vector, machine.cpu.state())
}

/// An instruction of each kind.
const FWAIT: &[u8] = &[0x9b];
const FLD1: &[u8] = &[0xd9, 0xe8];
const FNSTCW_STACK: &[u8] = &[0xd9, 0x3c, 0x24];
const EMMS: &[u8] = &[0x0f, 0x77];
const PADDB_MM: &[u8] = &[0x0f, 0xfc, 0xc1];
const PADDB_XMM: &[u8] = &[0x66, 0x0f, 0xfc, 0xc1];
const ADDPS: &[u8] = &[0x0f, 0x58, 0xc1];
const CVTPI2PS: &[u8] = &[0x0f, 0x2a, 0xc1];
const STMXCSR_STACK: &[u8] = &[0x0f, 0xae, 0x1c, 0x24];
const FXSAVE_STACK: &[u8] = &[0x0f, 0xae, 0x04, 0x24];
const SFENCE: &[u8] = &[0x0f, 0xae, 0xf8];
const MOVNTI_STACK: &[u8] = &[0x0f, 0xc3, 0x04, 0x24];

#[test]
fn control_registers_forbid_what_the_manual_says() {
    type Row = (&'static str, &'static [u8], [Option<u8>; 4]);
    // CR0.EM; CR0.TS without MP; CR0.TS with MP; CR4.OSFXSR clear.
    let rows: &[Row] = &[
        ("fwait", FWAIT, [None, None, Some(NM), None]),
        ("fld1", FLD1, [Some(NM), Some(NM), Some(NM), None]),
        ("fnstcw", FNSTCW_STACK, [Some(NM), Some(NM), Some(NM), None]),
        ("emms", EMMS, [Some(UD), Some(NM), Some(NM), None]),
        ("paddb mm", PADDB_MM, [Some(UD), Some(NM), Some(NM), None]),
        ("paddb xmm", PADDB_XMM, [Some(UD), Some(NM), Some(NM), Some(UD)]),
        ("addps", ADDPS, [Some(UD), Some(NM), Some(NM), Some(UD)]),
        ("cvtpi2ps", CVTPI2PS, [Some(UD), Some(NM), Some(NM), Some(UD)]),
        ("stmxcsr", STMXCSR_STACK, [Some(UD), Some(NM), Some(NM), Some(UD)]),
        ("fxsave", FXSAVE_STACK, [Some(NM), Some(NM), Some(NM), None]),
        ("sfence", SFENCE, [None; 4]),
        ("movnti", MOVNTI_STACK, [None; 4]),
    ];
    for &(name, insn, expected) in rows {
        let changes: [fn(&mut CpuState); 4] = [
            |s| s.cr0 |= cr0::EM,
            |s| s.cr0 = s.cr0 & !cr0::MP | cr0::TS,
            |s| s.cr0 |= cr0::TS | cr0::MP,
            |s| s.cr4 &= !cr4::OSFXSR,
        ];
        for (k, change) in changes.into_iter().enumerate() {
            assert_eq!(run(insn, change).0, expected[k], "{name}, change {k}");
        }
    }
}

#[test]
fn numeric_exceptions_are_undefined_opcodes_without_osxmmexcpt() {
    let divide = |s: &mut CpuState| {
        s.mxcsr = 0x1d80;
        s.xmm[0] = 1.0f64.to_bits().into();
    };
    let divsd = [0xf2, 0x0f, 0x5e, 0xc1];
    let (vector, state) = run(&divsd, divide);
    assert_eq!((vector, state.mxcsr), (Some(XM), 0x1d84));
    assert_eq!(state.xmm[0], 1.0f64.to_bits().into(), "the destination stays");
    let (vector, _) = run(&divsd, |s| {
        divide(s);
        s.cr4 &= !cr4::OSXMMEXCPT;
    });
    assert_eq!(vector, Some(UD));
}

#[test]
fn unaligned_operands_fault_through_any_segment() {
    // MOVAPS xmm0, [rsp + 8]; MOVUPS; ADDPS; MOVNTPS; MOVQ, which has 8 bytes.
    let rows: [(&[u8], Option<u8>); 5] = [
        (&[0x0f, 0x28, 0x44, 0x24, 0x08], Some(GP)),
        (&[0x0f, 0x10, 0x44, 0x24, 0x08], None),
        (&[0x0f, 0x58, 0x44, 0x24, 0x08], Some(GP)),
        (&[0x0f, 0x2b, 0x44, 0x24, 0x08], Some(GP)),
        (&[0xf3, 0x0f, 0x7e, 0x44, 0x24, 0x08], None),
    ];
    for (insn, expected) in rows {
        assert_eq!(run(insn, |_| {}).0, expected, "{insn:02x?}");
    }
}

/// An exception that is left pending is delivered by the next instruction that waits.
#[test]
fn pending_x87_exceptions_wait_for_the_next_instruction() {
    let mut machine = Machine::default();
    // FLD1; FLDZ; FDIVP; FNSTSW AX; FLD1.
    machine.program(&[0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0xdf, 0xe0, 0xd9, 0xe8]);
    let mut state = Machine::supervisor_state();
    state.x87.control = 0x37b;
    machine.cpu.set_state(&state);
    for _ in 0..4 {
        assert_eq!(machine.step(), Ok(()));
    }
    let ax = machine.cpu.state().gpr[0] as u16;
    assert_eq!(ax & 0x80ff, 0x8084, "ES, B and ZE");
    assert_eq!(machine.step().map_err(|fault| fault.vector), Err(MF));
    let state = machine.cpu.state();
    assert_eq!(state.rip, KERNEL_CODE + 8);
    // The division has left its operands, and its place is known.
    assert_eq!((state.x87.tags, state.x87.top()), (0xc0, 6));
    assert_eq!((state.x87.ip, state.x87.opcode), (KERNEL_CODE + 4, 0x6f9));
}

#[test]
fn pointers_name_the_last_instruction_that_is_no_control_instruction() {
    let mut machine = Machine::default();
    // FADD dword [rbx + 4]; FNSTCW [rsp]; FNSTENV [rdi].
    machine.program(&[0xd8, 0x43, 0x04, 0xd9, 0x3c, 0x24, 0xd9, 0x37]);
    let mut state = Machine::supervisor_state();
    state.gpr[3] = KERNEL_DATA;
    state.gpr[7] = KERNEL_DATA + 0x100;
    state.x87.tags = 1;
    machine.cpu.set_state(&state);
    for _ in 0..3 {
        assert_eq!(machine.step(), Ok(()));
    }
    let words: Vec<u32> = machine
        .bytes(KERNEL_DATA + 0x100, 28)
        .chunks(4)
        .map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]))
        .collect();
    let expected = [
        0xffff_037f,
        0xffff_0000,
        0xffff_fffd,
        KERNEL_CODE as u32,
        0x0043_0000,
        KERNEL_DATA as u32 + 4,
        0xffff_0000,
    ];
    assert_eq!(words, expected);
}

#[test]
fn transcendental_instructions_are_last_instructions() {
    for (second, opcode) in [
        (0xf0, 0x1f0), // F2XM1
        (0xf1, 0x1f1), // FYL2X
        (0xf2, 0x1f2), // FPTAN
        (0xf3, 0x1f3), // FPATAN
        (0xf9, 0x1f9), // FYL2XP1
        (0xfb, 0x1fb), // FSINCOS
        (0xfe, 0x1fe), // FSIN
        (0xff, 0x1ff), // FCOS
    ] {
        let mut machine = Machine::default();
        // The instruction; FISTTP word [rbx]; FNSTCW [rdi].
        machine.program(&[0xd9, second, 0xdf, 0x0b, 0xd9, 0x3f]);
        let mut state = Machine::supervisor_state();
        (state.gpr[3], state.gpr[7]) = (KERNEL_DATA, KERNEL_DATA + 0x100);
        state.x87.tags = 3;
        machine.cpu.set_state(&state);
        assert_eq!(machine.step(), Ok(()));
        let x87 = machine.cpu.state().x87;
        assert_eq!((x87.ip, x87.dp, x87.opcode), (KERNEL_CODE, 0, opcode));
        assert_eq!((machine.step(), machine.step()), (Ok(()), Ok(())));
        let x87 = machine.cpu.state().x87;
        assert_eq!((x87.ip, x87.dp, x87.opcode), (KERNEL_CODE + 2, KERNEL_DATA, 0x70b));
    }
}

/// Real mode: pointers are linear, in two formats.
#[test]
fn real_mode_environment() {
    let mut machine = Machine::default();
    let code = 0x2_0000;
    // FADD dword [0010]; FNSTENV [0100]; 32-bit FNSTENV [0200].
    machine
        .write(code + 0x30, &[0xd8, 0x06, 0x10, 0x00, 0xd9, 0x36, 0x00, 0x01, 0x66, 0xd9, 0x36, 0x00, 0x02]);
    let mut state = CpuState::reset();
    state.segments = [Segment::real(0x3000); 6];
    state.segments[1] = Segment { attributes: 0x9b, ..Segment::real((code >> 4) as u16) };
    state.rip = 0x30;
    state.x87 = X87 { tags: 1, ..X87::default() };
    machine.cpu.set_state(&state);
    for _ in 0..3 {
        assert_eq!(machine.step(), Ok(()));
    }
    let short: Vec<u16> =
        machine.bytes(0x3_0100, 14).chunks(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
    assert_eq!(short, [0x037f, 0, 0xfffd, 0x0030, 0x2006, 0x0010, 0x3000]);
    let long: Vec<u32> =
        machine.bytes(0x3_0200, 28).chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    // The first FNSTENV has masked what was masked already.
    let expected =
        [0xffff_037f, 0xffff_0000, 0xffff_fffd, 0xffff_0030, 0x0000_2006, 0xffff_0010, 0x0000_3000];
    assert_eq!(long, expected);
}

/// XSAVE and XRSTOR in the standard format, with parts that are in their initial state.
#[test]
fn xsave_area() {
    let mut machine = Machine::default();
    // XSAVE [rdi]; XRSTOR [rdi].
    machine.program(&[0x0f, 0xae, 0x27, 0x0f, 0xae, 0x2f]);
    let mut state = Machine::supervisor_state();
    state.cr4 |= cr4::OSXSAVE;
    state.xcr0 = 3;
    state.gpr[0] = 3;
    state.gpr[7] = KERNEL_DATA;
    state.xmm[15] = 0x1234_5678_9abc_def0_0fed_cba9_8765_4321;
    state.mxcsr = 0x1fa0;
    machine.write(KERNEL_DATA, &[0xcc; 1024]);
    machine.write(KERNEL_DATA + 512, &[0; 64]);
    machine.cpu.set_state(&state);
    assert_eq!(machine.step(), Ok(()));
    assert_eq!(machine.read_u64(KERNEL_DATA + 512), 2, "x87 is in its initial state");
    assert_eq!(machine.bytes(KERNEL_DATA + 400, 16), state.xmm[15].to_le_bytes());
    assert_eq!(
        machine.bytes(KERNEL_DATA + 416, 96),
        [0xcc; 96],
        "nobody writes the rest of the legacy region"
    );
    assert_eq!(machine.bytes(KERNEL_DATA + 24, 8), [0xa0, 0x1f, 0, 0, 0xff, 0xff, 0, 0]);

    // Without the bit, x87 returns to its initial state, whatever the area holds.
    let mut other = machine.cpu.state();
    other.x87 = X87 { control: 0x40, status: 0x3800, tags: 0xff, ..X87::default() };
    other.xmm[15] = 0;
    machine.cpu.set_state(&other);
    assert_eq!(machine.step(), Ok(()));
    let after = machine.cpu.state();
    assert_eq!((after.x87, after.xmm[15], after.mxcsr), (X87::default(), state.xmm[15], 0x1fa0));

    // Reserved bits in the header, a component that XCR0 does not have, reserved bits of MXCSR; bytes that nobody checks.
    let base = KERNEL_DATA;
    for (at, v, faults) in
        [(base + 512, 4, true), (base + 520, 1, true), (base + 528, 1, true), (base + 536, 1, false)]
    {
        let old = machine.read_u64(at);
        machine.write_u64(at, v);
        machine.cpu.set_state(&other);
        assert_eq!(
            machine.step().map_err(|fault| fault.vector),
            if faults { Err(GP) } else { Ok(()) },
            "{at:x}"
        );
        machine.write_u64(at, old);
    }
    machine.write(base + 24, &[0, 0, 1, 0]);
    machine.cpu.set_state(&other);
    assert_eq!(machine.step().map_err(|fault| fault.vector), Err(GP));
}

/// MASKMOVDQU in 32-bit code uses DS:EDI, and every chosen byte alone is written.
#[test]
fn maskmovdqu_writes_chosen_bytes() {
    let mut machine = Machine::default();
    machine.program(&[0x66, 0x0f, 0xf7, 0xc1]);
    let mut state = Machine::supervisor_state();
    state.gpr[7] = KERNEL_DATA;
    state.xmm[0] = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
    state.xmm[1] = 0x80 << 8 | 0xff << 40 | 0x80 << 120;
    machine.write(KERNEL_DATA, &[0xcc; 16]);
    machine.cpu.set_state(&state);
    assert_eq!(machine.step(), Ok(()));
    let mut expected = [0xcc; 16];
    (expected[1], expected[5], expected[15]) = (1, 5, 15);
    assert_eq!(machine.bytes(KERNEL_DATA, 16), expected);
}
