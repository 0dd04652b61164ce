//! Breakpoints, alignment checks and the ends of segments: SDM 3B "Debug Exceptions", SDM 3A "Interrupt 17—Alignment Check
//! Exception (#AC)".

use iced_x86::{IcedError, code_asm::*};
use softmetal_cpu::state::{cr0, cr4};
use softmetal_cpu_testing::{End, Machine, assemble, flag, layout::*, options};

/// A machine with a program at [`KERNEL_CODE`] and DR7 set, under each set of options.
fn each(
    control: u64,
    address: u64,
    build: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    mut test: impl FnMut(&mut Machine),
) {
    let code = assemble(KERNEL_CODE, build);
    for options in options() {
        let mut m = Machine::new(options);
        m.program(&code);
        let mut state = m.cpu.state();
        (state.dr[0], state.dr[7]) = (address, 0x400 | control);
        state.cr4 |= cr4::DE;
        m.cpu.set_state(&state);
        test(&mut m);
    }
}

/// DR7 for breakpoint 0: R/W and LEN.
fn on(rw: u64, len: u64) -> u64 {
    1 | rw << 16 | len << 18
}

const DR6: u64 = 0xffff_0ff0;

#[test]
fn a_data_breakpoint_traps_behind_the_store() {
    each(
        on(1, 3),
        KERNEL_DATA,
        |a| {
            a.mov(rbx, KERNEL_DATA)?;
            a.mov(eax, dword_ptr(rbx))?;
            a.mov(dword_ptr(rbx + 4), eax)?;
            a.mov(byte_ptr(rbx + 3), 7)?;
            a.nop()?;
            a.hlt()
        },
        |m| {
            assert_eq!(m.run(), End::Vector(1));
            let frame = m.pushed(1);
            let behind = assemble(KERNEL_CODE, |a| {
                a.mov(rbx, KERNEL_DATA)?;
                a.mov(eax, dword_ptr(rbx))?;
                a.mov(dword_ptr(rbx + 4), eax)?;
                a.mov(byte_ptr(rbx + 3), 7)
            });
            assert_eq!(
                frame.rip,
                KERNEL_CODE + behind.len() as u64,
                "a trap: RIP is that of the next instruction"
            );
            assert_eq!(frame.rflags & flag::RF, 0);
            assert_eq!(m.cpu.state().dr[6], DR6 | 1);
            assert_eq!(m.read_u64(KERNEL_DATA), 7 << 24, "the store is done");
        },
    );
}

#[test]
fn a_read_hits_an_access_breakpoint_and_not_one_for_writes() {
    for (rw, end) in [(1, End::Halt(KERNEL_CODE + 9)), (3, End::Vector(1))] {
        each(
            on(rw, 2),
            KERNEL_DATA + 8,
            |a| {
                a.mov(ebx, KERNEL_DATA as u32 + 7)?;
                a.mov(cx, word_ptr(rbx))?;
                a.hlt()
            },
            |m| assert_eq!(m.run(), end, "two bytes, the second in the range"),
        );
    }
}

#[test]
fn a_data_breakpoint_stops_a_repeated_store_after_its_iteration() {
    each(
        on(1, 0),
        KERNEL_DATA + 5,
        |a| {
            a.mov(edi, KERNEL_DATA as u32)?;
            a.mov(ecx, 16)?;
            a.rep().stosb()?;
            a.hlt()
        },
        |m| {
            assert_eq!(m.run(), End::Vector(1));
            assert_eq!(m.cpu.state().gpr[1], 10, "six iterations are done");
            let frame = m.pushed(1);
            assert_eq!(frame.rip, KERNEL_CODE + 10, "RIP is that of the instruction, which goes on");
            assert_ne!(frame.rflags & flag::RF, 0, "with RF set in the image");
        },
    );
}

#[test]
fn a_data_breakpoint_behind_mov_ss_waits_for_one_instruction() {
    each(
        on(3, 1),
        KERNEL_DATA,
        |a| {
            a.mov(ebx, KERNEL_DATA as u32)?;
            a.mov(word_ptr(rbx + 2), 0x10)?;
            a.mov(word_ptr(rbx + 2), 0x10)?;
            a.mov(ss, word_ptr(rbx))?;
            a.nop()?;
            a.nop()?;
            a.hlt()
        },
        |m| {
            m.write_u64(KERNEL_DATA, 0x10);
            assert_eq!(m.run(), End::Vector(1));
            let code = m.bytes(KERNEL_CODE, 64);
            let nop = code.iter().position(|&b| b == 0x90).expect("the NOP") as u64;
            assert_eq!(m.pushed(1).rip, KERNEL_CODE + nop + 1);
            assert_eq!(m.cpu.state().dr[6], DR6 | 1);
        },
    );
}

#[test]
fn an_instruction_breakpoint_is_a_fault_that_rf_lets_pass() {
    each(
        on(0, 0),
        KERNEL_CODE + 1,
        |a| {
            a.nop()?;
            a.inc(eax)?;
            a.hlt()
        },
        |m| {
            assert_eq!(m.run(), End::Vector(1));
            let frame = m.pushed(1);
            assert_eq!(frame.rip, KERNEL_CODE + 1);
            assert_eq!(
                frame.rflags & flag::RF,
                0,
                "the image of RF is not set for an instruction breakpoint"
            );
            assert_eq!((m.cpu.state().gpr[0], m.cpu.state().dr[6]), (0, DR6 | 1));
            // Back to it with RF set.
            let mut state = m.cpu.state();
            state.rip = KERNEL_CODE + 1;
            state.rflags |= flag::RF;
            m.cpu.set_state(&state);
            m.cpu.wake();
            assert_eq!(m.run(), End::Halt(KERNEL_CODE + 4));
            assert_eq!(m.cpu.state().rflags & flag::RF, 0);
        },
    );
}

#[test]
fn mov_ss_suppresses_an_instruction_breakpoint_behind_it() {
    each(
        on(0, 0),
        KERNEL_CODE + 4,
        |a| {
            a.mov(ecx, ss)?;
            a.mov(ss, ecx)?;
            a.nop()?;
            a.hlt()
        },
        |m| assert_eq!(m.run(), End::Halt(KERNEL_CODE + 6)),
    );
}

#[test]
fn an_io_breakpoint_traps_behind_the_port_access() {
    each(
        on(2, 0),
        0x81,
        |a| {
            a.in_(al, 0x82)?;
            a.out(0x80, ax)?;
            a.hlt()
        },
        |m| {
            assert_eq!(m.run(), End::Vector(1));
            assert_eq!(m.pushed(1).rip, KERNEL_CODE + 5);
            assert_eq!(m.cpu.state().dr[6], DR6 | 1);
            assert_eq!(m.bus.take().len(), 2, "each port was used once");
        },
    );
}

#[test]
fn general_detect_guards_the_debug_registers_and_goes_with_the_exception() {
    each(
        1 << 13,
        0,
        |a| {
            a.mov(rax, dr0)?;
            a.hlt()
        },
        |m| {
            assert_eq!(m.run(), End::Vector(1));
            assert_eq!(m.pushed(1).rip, KERNEL_CODE);
            assert_ne!(m.pushed(1).rflags & flag::RF, 0);
            let state = m.cpu.state();
            assert_eq!((state.dr[6], state.dr[7]), (DR6 | 1 << 13, 0x400));
        },
    );
}

#[test]
fn breakpoints_that_are_off_and_far_away_do_nothing() {
    for control in [0, 2 << 2 | 1 << 20] {
        each(
            control,
            KERNEL_DATA,
            |a| {
                a.mov(dword_ptr(KERNEL_DATA), 5)?;
                a.hlt()
            },
            |m| {
                let End::Halt(_) = m.run() else { panic!("a breakpoint that is not on struck") };
                assert_eq!(m.cpu.state().dr[6], DR6);
            },
        );
    }
}

/// Instructions with an operand of the given size at RBX, or on the stack.
const UNALIGNED: &[(&[u8], &str)] = &[
    (&[0x8b, 0x03], "mov eax, [rbx]"),
    (&[0x48, 0x89, 0x03], "mov [rbx], rax"),
    (&[0x66, 0x01, 0x03], "add [rbx], ax"),
    (&[0xf0, 0x0f, 0xb1, 0x0b], "lock cmpxchg [rbx], ecx"),
    (&[0x50], "push rax"),
    (&[0x58], "pop rax"),
    (&[0xe8, 0, 0, 0, 0], "call"),
    (&[0xc3], "ret"),
    (&[0xc9], "leave"),
    (&[0xa5], "movsd"),
    (&[0xf3, 0xab], "rep stosd"),
    (&[0xdd, 0x03], "fld qword [rbx]"),
    (&[0xf3, 0x0f, 0x10, 0x03], "movss xmm0, [rbx]"),
    (&[0xff, 0x13], "call [rbx]"),
    (&[0xff, 0x33], "push [rbx]"),
];

#[test]
fn alignment_is_checked_at_cpl_3_with_am_and_ac() {
    for options in options() {
        for &(code, text) in UNALIGNED {
            for (am, ac, odd, faults) in [
                (true, true, 1, true),
                (false, true, 1, false),
                (true, false, 1, false),
                (true, true, 0, false),
            ] {
                let mut m = Machine::new(options);
                let mut state = Machine::user_state();
                let at = DATA + 0x100 + odd;
                for k in [3, 4, 5, 6, 7] {
                    state.gpr[k] = at;
                }
                state.gpr[1] = 2;
                state.cr0 |= if am { cr0::AM } else { 0 };
                state.rflags |= if ac { flag::AC } else { 0 };
                m.cpu.set_state(&state);
                m.load(code);
                let vector = match m.run() {
                    End::Vector(v) => v,
                    end => panic!("{text}: {end:?}"),
                };
                assert_eq!(
                    vector == 17,
                    faults,
                    "{text} with AM {am}, AC {ac}, off by {odd}: vector {vector}"
                );
                if faults {
                    assert_eq!((m.pushed(17).error, m.pushed(17).rip), (Some(0), INSN), "{text}");
                }
            }
        }
    }
}

#[test]
fn an_access_across_the_end_of_the_canonical_half_is_not_a_page_fault() {
    for (register, vector) in [(rbx, 13), (rbp, 12)] {
        each(
            0,
            0,
            |a| {
                a.mov(register, 0x7fff_ffff_fffcu64)?;
                a.mov(rax, qword_ptr(register))
            },
            |m| {
                assert_eq!(m.run(), End::Vector(vector));
                assert_eq!(m.pushed(vector).error, Some(0));
            },
        );
    }
}
