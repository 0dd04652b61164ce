//! Code in states that no kernel would bring about: what tests and fuzzers of robustness run.

use crate::{Machine, Random, flag, layout::*};
use softmetal_cpu::{
    CpuState, Options,
    state::{Segment, cr0, cr4, efer},
};

/// A state in any mode, with registers that point near memory as often as not.
pub fn state(random: &mut Random) -> CpuState {
    let mut s = if random.once_in(2) { Machine::user_state() } else { Machine::supervisor_state() };
    s.rip = INSN;
    for r in &mut s.gpr {
        *r = match random.below(4) {
            0 => DATA + random.below(0x3000),
            1 => KERNEL_DATA + random.below(0x1000),
            _ => random.operand(),
        };
    }
    if random.once_in(2) {
        s.gpr[4] = if s.segments[2].dpl() == 3 { USER_STACK } else { STACK - 0x1000 };
    }
    s.rflags = 2 | random.next() & 0x24_4fd5 | random.below(4) << 12;
    if random.once_in(2) {
        s.rflags &= !flag::TF;
    }
    s.xmm.iter_mut().for_each(|v| *v = u128::from(random.operand()) << 64 | u128::from(random.operand()));
    s.mxcsr = random.next() as u32 & 0xffff;
    s.x87.control = random.next() as u16 & 0x1f7f | 0x40;
    s.x87.status = random.next() as u16;
    s.x87.tags = random.next() as u8;
    s.x87.refresh_summary();
    s.cr4 |= random.next()
        & (cr4::OSXSAVE | cr4::FSGSBASE | cr4::SMAP | cr4::SMEP | cr4::UMIP | cr4::TSD | cr4::DE);
    s.xcr0 = 3;
    s.cr0 |= random.next() & (cr0::AM | if random.once_in(8) { cr0::TS | cr0::EM } else { 0 });
    s.msrs.star = 0x18 << 48 | 8 << 32;
    s.msrs.lstar = HANDLERS;
    s.msrs.sysenter_cs = 8;
    if random.once_in(4) {
        s.dr = [0; 8].map(|_: u64| DATA + random.below(0x3000));
        (s.dr[6], s.dr[7]) = (0xffff_0ff0, random.next() & 0xffff_2bff | 0x400);
    }
    if random.once_in(4) {
        s.cr4 |= cr4::PKE;
        s.pkru = random.next() as u32;
    }
    match random.below(6) {
        // 32- or 16-bit protected mode, or real mode, without paging.
        0 | 1 => {
            s.efer &= !(efer::LME | efer::LMA);
            s.cr0 &= !cr0::PG;
            let big = if random.once_in(2) { Segment::BIG } else { 0 };
            for (k, segment) in s.segments.iter_mut().enumerate() {
                let dpl = u32::from(segment.dpl()) << 5;
                segment.attributes = if k == 1 { 0x809b } else { 0x8093 } | big | dpl;
                if random.once_in(3) {
                    segment.limit = random.operand() as u32;
                    segment.base = random.operand() as u32 as u64;
                }
            }
            if random.once_in(3) {
                s.cr0 &= !cr0::PE;
            } else if random.once_in(4) {
                s.rflags |= 0x2_0000;
            }
            s.rip = CODE_FRAME + 0x800;
            // A TSS of 32 bits, whose words are as they come; its link leads to the TSS of 64 bits.
            s.tr.attributes = 0x8b;
            s.idtr.limit = random.below(0x1000) as u16;
        }
        // Compatibility mode.
        2 => s.segments[1].attributes = s.segments[1].attributes & !Segment::LONG | Segment::BIG,
        _ => {}
    }
    s
}

/// Runs the code, which is not empty, from so many places and states, in one machine whose tables suffer from what ran
/// before. Nothing of it may panic.
pub fn run(random: &mut Random, code: &[u8], options: Options, states: u32) {
    let mut m = Machine::new(options);
    m.write(CODE_FRAME + 0x800, code);
    for _ in 0..states {
        let mut from = state(random);
        from.rip += random.below(code.len() as u64);
        m.cpu.set_state(&from);
        let single = random.once_in(2);
        for _ in 0..60 {
            if !m.cpu.turn(single, 300) {
                break;
            }
        }
        let saved = m.cpu.state();
        m.cpu.set_state(&saved);
        assert_eq!(m.cpu.state(), saved, "the state is whole");
    }
}
