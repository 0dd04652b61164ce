//! The test machine without long mode: paging off, 32-bit protected mode at CPL 0, tables of its own.
#![allow(dead_code, reason = "each test file uses a part")]

use iced_x86::{IcedError, code_asm::CodeAssembler};
use softmetal_cpu::{
    CpuState, Options,
    state::{Segment, TableRegister, cr0},
};
use softmetal_cpu_testing::{Machine, layout::*};

/// Selectors.
pub(crate) const CODE: u16 = 0x08;
pub(crate) const DATA32: u16 = 0x10;
pub(crate) const USER_CODE: u16 = 0x1b;
pub(crate) const USER_DATA: u16 = 0x23;
pub(crate) const TASK_A: u16 = 0x28;
pub(crate) const TASK_B: u16 = 0x30;
pub(crate) const TASK_NARROW: u16 = 0x38;
pub(crate) const LDT: u16 = 0x40;
/// A wide call gate of DPL 3 with two parameters.
pub(crate) const GATE: u16 = 0x48;
/// The same, narrow.
pub(crate) const GATE_NARROW: u16 = 0x50;
/// A task gate of DPL 3 to [`TASK_B`].
pub(crate) const TASK_GATE: u16 = 0x58;
pub(crate) const EXPAND_DOWN: u16 = 0x60;
pub(crate) const READ_ONLY: u16 = 0x68;
pub(crate) const EXECUTE_ONLY: u16 = 0x70;
/// Sixteen bytes of data.
pub(crate) const SMALL: u16 = 0x78;
pub(crate) const CODE16: u16 = 0x80;
pub(crate) const DATA16: u16 = 0x88;
/// Code whose last byte is that of [`SMALL_CODE_LAST`].
pub(crate) const SMALL_CODE: u16 = 0x90;
pub(crate) const NOT_PRESENT: u16 = 0x98;
pub(crate) const CONFORMING: u16 = 0xa0;

pub(crate) const SMALL_CODE_LAST: u64 = KERNEL_CODE + 0x1f;
pub(crate) const TSS_A: u64 = 0x7000;
/// Over two pages.
pub(crate) const TSS_B: u64 = 0x8fd0;
pub(crate) const TSS_NARROW: u64 = 0xa000;
pub(crate) const TASK_B_CODE: u64 = KERNEL_CODE + 0x4000;
pub(crate) const TASK_B_STACK: u64 = KERNEL_DATA + 0x4000;
pub(crate) const RING0_STACK: u64 = KERNEL_DATA + 0x8000;
pub(crate) const USER_PROGRAM: u64 = KERNEL_CODE + 0x8000;
pub(crate) const RING3_STACK: u64 = KERNEL_DATA + 0xc000;
/// Where call gates lead.
pub(crate) const GATE_CODE: u64 = KERNEL_CODE + 0x2000;

pub(crate) fn descriptor(base: u64, limit: u64, rights: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | rights << 40
        | (limit & 0xf_0000) << 32
        | (base >> 24 & 0xff) << 56
}

pub(crate) fn gate(selector: u16, offset: u64, kind: u64, parameters: u64) -> u64 {
    offset & 0xffff | u64::from(selector) << 16 | parameters << 32 | kind << 40 | (offset & 0xffff_0000) << 32
}

/// Assembles code of 16 or 32 bits.
pub(crate) fn code(
    bits: u32,
    at: u64,
    build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).expect("a bitness");
    build(&mut a).expect("the test's instructions exist");
    a.assemble(at).expect("the test's branches reach")
}

pub(crate) fn read32(m: &Machine, at: u64) -> u32 {
    let mut out = [0; 4];
    m.read(at, &mut out);
    u32::from_le_bytes(out)
}

pub(crate) fn read16(m: &Machine, at: u64) -> u16 {
    read32(m, at) as u16
}

pub(crate) fn write32(m: &mut Machine, at: u64, v: u32) {
    m.write(at, &v.to_le_bytes());
}

/// A descriptor's type field.
pub(crate) fn kind_of(m: &Machine, selector: u16) -> u64 {
    m.read_u64(GDT + u64::from(selector & !7)) >> 40 & 15
}

/// Flat 32-bit protected mode at CPL 0, code at [`KERNEL_CODE`], task A current.
pub(crate) fn protected(options: Options) -> Machine {
    let mut m = Machine::new(options);
    let table = [
        0,
        descriptor(0, 0xf_ffff, 0xc09b),
        descriptor(0, 0xf_ffff, 0xc093),
        descriptor(0, 0xf_ffff, 0xc0fb),
        descriptor(0, 0xf_ffff, 0xc0f3),
        descriptor(TSS_A, 0x100, 0x8b),
        descriptor(TSS_B, 0x67, 0x89),
        descriptor(TSS_NARROW, 0x2b, 0x81),
        descriptor(0xb000, 0x17, 0x82),
        gate(CODE, GATE_CODE, 0xec, 2),
        gate(CODE16, GATE_CODE - KERNEL_CODE, 0xe4, 2),
        gate(TASK_B, 0, 0xe5, 0),
        descriptor(0, 0x0ff, 0xc097),
        descriptor(0, 0xf_ffff, 0xc091),
        descriptor(0, 0xf_ffff, 0xc099),
        descriptor(KERNEL_DATA, 0xf, 0x4093),
        descriptor(KERNEL_CODE, 0xffff, 0x009b),
        descriptor(KERNEL_DATA, 0xffff, 0x0093),
        descriptor(0, SMALL_CODE_LAST, 0x409b),
        descriptor(0, 0xf_ffff, 0xc013),
        descriptor(0, 0xf_ffff, 0xc09f),
    ];
    // Limits above 1 MiB need the granularity bit; the small code segment begins at its code.
    for (k, d) in table.iter().enumerate() {
        m.write_u64(GDT + 8 * k as u64, *d);
    }
    m.write_u64(GDT + u64::from(SMALL_CODE), descriptor(KERNEL_CODE, 0x1f, 0x409b));
    m.write_u64(0xb008, descriptor(0, 0xf_ffff, 0xc093));
    for v in 0..=255u64 {
        m.write_u64(IDT + 8 * v, gate(CODE, HANDLERS + 16 * v, 0xee, 0));
    }
    write32(&mut m, TSS_A + 4, RING0_STACK as u32);
    write32(&mut m, TSS_A + 8, DATA32.into());
    // The interrupt redirection map, then the I/O map, which allows nothing.
    write32(&mut m, TSS_A + 100, 0x88 << 16);
    m.write(TSS_A + 0x68, &[0; 32]);
    m.write(TSS_A + 0x88, &[0xff; 0x79]);
    task(&mut m, TSS_B, TASK_B_CODE, TASK_B_STACK, CODE, DATA32);
    m.cpu.set_state(&state());
    m
}

/// Fills a wide TSS.
pub(crate) fn task(m: &mut Machine, tss: u64, ip: u64, sp: u64, cs: u16, data: u16) {
    m.write(tss, &[0; 104]);
    write32(m, tss + 32, ip as u32);
    write32(m, tss + 36, 2);
    for k in 0..8 {
        write32(m, tss + 40 + 4 * k, 0x100 + k as u32);
    }
    write32(m, tss + 56, sp as u32);
    for (k, selector) in [data, cs, data, data, data, data].into_iter().enumerate() {
        write32(m, tss + 72 + 4 * k as u64, selector.into());
    }
}

pub(crate) fn state() -> CpuState {
    let data = Segment { selector: DATA32, base: 0, limit: u32::MAX, attributes: 0xc093 };
    let mut segments = [data; 6];
    segments[1] = Segment { selector: CODE, attributes: 0xc09b, ..data };
    CpuState {
        gpr: std::array::from_fn(|k| if k == 4 { STACK - 0x800 } else { 0 }),
        rip: KERNEL_CODE,
        rflags: 2,
        segments,
        tr: Segment { selector: TASK_A, base: TSS_A, limit: 0x100, attributes: 0x8b },
        ldtr: Segment { attributes: Segment::UNUSABLE, ..Segment::default() },
        gdtr: TableRegister { base: GDT, limit: 0xa7 },
        idtr: TableRegister { base: IDT, limit: 0x7ff },
        cr0: cr0::PE | cr0::MP | cr0::ET | cr0::NE,
        ..CpuState::reset()
    }
}

/// At CPL 3, at [`USER_PROGRAM`].
pub(crate) fn user_state() -> CpuState {
    let mut state = state();
    let data = Segment { selector: USER_DATA, base: 0, limit: u32::MAX, attributes: 0xc0f3 };
    state.segments = [data; 6];
    state.segments[1] = Segment { selector: USER_CODE, attributes: 0xc0fb, ..data };
    state.rip = USER_PROGRAM;
    state.gpr[4] = RING3_STACK;
    state.rflags = 0x202;
    state
}

/// A virtual-8086 program, within reach of its segments.
pub(crate) const V86_PROGRAM: u64 = 0x8_0000;

/// At IP 0 of a virtual-8086 program at [`V86_PROGRAM`], its stack in the same segment.
pub(crate) fn v86_state(iopl: u64) -> CpuState {
    let mut state = state();
    let selector = (V86_PROGRAM >> 4) as u16;
    let segment = Segment { attributes: 0xf3, ..Segment::real(0) };
    state.segments = [Segment { selector, base: u64::from(selector) << 4, ..segment }; 6];
    state.rip = 0;
    state.gpr[4] = 0x1000;
    state.rflags = 0x2_0202 | iopl << 12;
    state
}

/// At CS:IP = selector:0 in real mode, the vector table at [`IDT`]: each vector leads to its HLT.
pub(crate) fn real(options: Options) -> Machine {
    let mut m = Machine::new(options);
    for v in 0..=255u64 {
        write32(&mut m, IDT + 4 * v, ((HANDLERS + 16 * v) >> 4 << 16) as u32);
    }
    let mut state = CpuState::reset();
    state.idtr = TableRegister { base: IDT, limit: 0x3ff };
    let segment = |selector| Segment { attributes: 0x93, ..Segment::real(selector) };
    state.segments = [segment(0x1000); 6];
    state.segments[2] = segment(0x2000);
    state.rip = 0;
    state.gpr = [0; 16];
    state.gpr[4] = 0x1000;
    m.cpu.set_state(&state);
    m
}

/// Where [`real`] begins.
pub(crate) const REAL_CODE: u64 = 0x1_0000;
pub(crate) const REAL_STACK: u64 = 0x2_0000;
