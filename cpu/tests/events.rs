//! Exceptions, interrupts and the instructions that enter and leave handlers.

use iced_x86::{IcedError, code_asm::*};
use softmetal_cpu::{
    Request,
    state::{Segment, cr0, cr4, efer},
};
use softmetal_cpu_testing::{End, Machine, assemble, flag, layout::*, options};

type Build = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// A machine with a program at [`KERNEL_CODE`], under each set of options.
fn each(build: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>, mut test: impl FnMut(&mut Machine)) {
    let code = assemble(KERNEL_CODE, build);
    for options in options() {
        let mut m = Machine::new(options);
        m.program(&code);
        test(&mut m);
    }
}

#[test]
fn exceptions_push_their_frame() {
    // What, vector, error code, offset of the pushed RIP.
    let cases: &[(Build, u8, Option<u64>, u64)] = &[
        (|a| a.ud2(), 6, None, 0),
        (|a| a.div(cl), 0, None, 0),
        (|a| a.int3(), 3, None, 1),
        (|a| a.int(0x80), 0x80, None, 2),
        (|a| a.db(&[0xf1]), 1, None, 1),
        (
            |a| {
                a.mov(rbx, 0x8000_0000_0000u64)?;
                a.mov(rax, qword_ptr(rbx))
            },
            13,
            Some(0),
            10,
        ),
        (
            |a| {
                a.mov(rbp, 0x8000_0000_0000u64)?;
                a.mov(rax, qword_ptr(rbp))
            },
            12,
            Some(0),
            10,
        ),
        (
            |a| {
                a.mov(rbx, 0x7000_0000u64)?;
                a.mov(qword_ptr(rbx), rax)
            },
            14,
            Some(2),
            10,
        ),
        (
            |a| {
                a.mov(eax, 0x1234)?;
                a.mov(ds, eax)
            },
            13,
            Some(0x1234),
            5,
        ),
        (
            |a| {
                a.mov(eax, 0x48)?;
                a.mov(ds, eax)
            },
            11,
            Some(0x48),
            5,
        ),
        (
            |a| {
                a.mov(eax, 0x48)?;
                a.mov(ss, eax)
            },
            12,
            Some(0x48),
            5,
        ),
        (
            |a| {
                a.xor(eax, eax)?;
                a.mov(cr0, rax)?;
                a.nop()
            },
            13,
            Some(0),
            2,
        ),
        // Fifteen prefixes make an instruction too long.
        (|a| a.db(&[0x66; 16]), 13, Some(0), 0),
        // Sixteen bytes with prefixes that all look as if they said something: the repetition is a hint, REX.W has the width.
        (
            |a| {
                a.db(&[0xf0, 0x67, 0xf3, 0x66, 0x48, 0x81, 0x1c, 0x25])?;
                a.db(&[0, 0, 0x30, 0, 1, 0, 0, 0])
            },
            13,
            Some(0),
            0,
        ),
        // LOCK where it may not be.
        (|a| a.db(&[0xf0, 0x01, 0xc0]), 6, None, 0),
    ];
    for (n, &(build, vector, error, offset)) in cases.iter().enumerate() {
        each(build, |m| {
            let stack = m.cpu.user().gpr[4];
            assert_eq!(m.run(), End::Vector(vector), "case {n}");
            let frame = m.pushed(vector);
            assert_eq!((frame.error, frame.rip), (error, KERNEL_CODE + offset), "case {n}");
            assert_eq!((frame.rsp, frame.ss, frame.cs), (stack, 0x10, 8), "case {n}");
            let software = matches!(vector, 1 | 3 | 0x80);
            assert_eq!(frame.rflags & flag::RF != 0, !software, "case {n}: faults set RF in the image");
            if vector == 14 {
                assert_eq!(m.cpu.state().cr2, 0x7000_0000);
            }
        });
    }
}

#[test]
fn a_fault_in_user_code_switches_to_rsp0() {
    for options in options() {
        let mut m = Machine::new(options);
        m.cpu.set_state(&Machine::user_state());
        m.load(&[0xf4]);
        assert_eq!(m.run(), End::Vector(13));
        let frame = m.pushed(13);
        assert_eq!(frame.rip, INSN);
        assert_eq!((frame.cs, frame.ss, frame.rsp), (0x2b, 0x23, USER_STACK));
        let state = m.cpu.state();
        assert_eq!(state.gpr[4], STACK - 48);
        assert_eq!(state.segments[2].selector, 0, "SS is null after a change of privilege");
        assert_eq!(state.rflags & flag::IF, 0);
    }
}

#[test]
fn the_interrupt_stack_table_and_trap_gates() {
    each(
        |a| {
            a.sti()?;
            a.int(0x40)
        },
        |m| {
            m.gate(0x40, HANDLERS + 0x400, 1, 0, 0xf);
            assert_eq!(m.run(), End::Vector(0x40));
            let state = m.cpu.state();
            assert_eq!(state.gpr[4], IST1 - 40);
            assert_ne!(state.rflags & flag::IF, 0, "a trap gate leaves IF");
        },
    );
}

#[test]
fn software_interrupts_respect_the_gates_dpl() {
    for options in options() {
        let mut m = Machine::new(options);
        m.gate(0x41, HANDLERS + 0x410, 0, 0, 0xe);
        m.cpu.set_state(&Machine::user_state());
        m.load(&[0xcd, 0x41]);
        assert_eq!(m.run(), End::Vector(13));
        assert_eq!(m.pushed(13).error, Some(0x41 << 3 | 2));
        assert_eq!(m.pushed(13).rip, INSN);
    }
}

#[test]
fn faults_while_delivering_become_double_and_triple_faults() {
    // #GP whose gate is not present: #NP is contributory after #GP, so #DF.
    each(
        |a| {
            a.mov(eax, 0x1234)?;
            a.mov(ds, eax)
        },
        |m| {
            m.write_u64(IDT + 16 * 13, 0);
            assert_eq!(m.run(), End::Vector(8));
            assert_eq!(m.pushed(8).error, Some(0));
            assert_eq!(m.pushed(8).rip, KERNEL_CODE + 5);
        },
    );
    // #UD is benign: the fault of its delivery is delivered itself.
    each(
        |a| a.ud2(),
        |m| {
            m.write_u64(IDT + 16 * 6, 0);
            assert_eq!(m.run(), End::Vector(13));
            assert_eq!(m.pushed(13).error, Some(6 << 3 | 3));
            assert_eq!(m.pushed(13).rip, KERNEL_CODE);
        },
    );
    // #PF whose stack faults: #DF on IST2; CR2 is the second fault's.
    each(
        |a| {
            a.mov(rsp, 0x7800_0000u64)?;
            a.mov(rax, qword_ptr(0x7000_0000u64))
        },
        |m| {
            m.gate(8, HANDLERS + 0x80, 2, 0, 0xe);
            assert_eq!(m.run(), End::Vector(8));
            assert_eq!(m.cpu.state().gpr[4], IST2 - 48);
            assert_eq!(m.cpu.state().cr2, 0x7800_0000 - 8);
            assert_eq!(m.pushed(8).rsp, 0x7800_0000);
        },
    );
    // No #DF gate: shutdown.
    each(
        |a| {
            a.mov(eax, 0x1234)?;
            a.mov(ds, eax)
        },
        |m| {
            m.write_u64(IDT + 16 * 13, 0);
            m.write_u64(IDT + 16 * 8, 0);
            assert_eq!(m.run(), End::Shutdown);
        },
    );
}

/// User code is left by INT and entered by IRETQ, registers and flags whole.
#[test]
fn iretq_to_user_code_and_back() {
    each(
        |a| {
            a.push(0x23)?;
            a.push(USER_STACK as i32)?;
            a.push(0x40ed7)?;
            a.push(0x2b)?;
            a.push(INSN as i32)?;
            a.iretq()
        },
        |m| {
            m.load(&[0xcd, 0x50]);
            assert_eq!(m.run(), End::Vector(0x50));
            let frame = m.pushed(0x50);
            assert_eq!(frame.rip, INSN + 2);
            assert_eq!((frame.cs, frame.ss, frame.rsp), (0x2b, 0x23, USER_STACK));
            assert_eq!(frame.rflags, 0x40ed7);
        },
    );
}

#[test]
fn iretq_checks_what_it_pops() {
    // SS, CS, RIP, the fault's error code.
    for (stack, code, to, error) in [
        (0x23, 0x1234, INSN, 0x1234),
        (0x23, 0x28, INSN, 0x28),
        (0x20, 0x2b, INSN, 0x20),
        (0x10, 0x2b, INSN, 0x10),
        (0, 0x2b, INSN, 0),
        (0x23, 0, INSN, 0),
        (0x23, 0x2b, 0x8000_0000_0000u64, 0),
        (0x10, 0x10, INSN, 0x10),
    ] {
        each(
            |a| {
                a.push(stack)?;
                a.push(USER_STACK as i32)?;
                a.push(2)?;
                a.push(code)?;
                a.mov(rax, to)?;
                a.push(rax)?;
                a.nop()?;
                a.iretq()
            },
            |m| {
                assert_eq!(m.run(), End::Vector(13), "ss {stack:x} cs {code:x}");
                let frame = m.pushed(13);
                assert_eq!(frame.error, Some(error), "ss {stack:x} cs {code:x}");
                assert_eq!((frame.cs, frame.ss), (8, 0x10));
                assert_eq!(frame.rsp, STACK - 0x1000 - 40, "nothing is popped");
            },
        );
    }
}

#[test]
fn syscall_and_sysret() {
    for options in options() {
        let mut m = Machine::new(options);
        let entry = assemble(KERNEL_CODE, |a| {
            a.mov(rsp, 0xa800u64)?;
            a.mov(rax, qword_ptr(KERNEL_DATA))?;
            a.inc(rax)?;
            a.mov(qword_ptr(KERNEL_DATA), rax)?;
            a.sysretq()
        });
        m.program(&entry);
        let mut state = Machine::user_state();
        state.msrs.star = 0x18 << 48 | 8 << 32;
        state.msrs.lstar = KERNEL_CODE;
        state.msrs.fmask = 0x4_0700;
        state.rflags = 0x40ed7;
        m.cpu.set_state(&state);
        // Twice, then INT.
        m.load(&[0x0f, 0x05, 0x0f, 0x05, 0xcd, 0x50]);
        assert_eq!(m.run(), End::Vector(0x50));
        let frame = m.pushed(0x50);
        assert_eq!((frame.rip, frame.cs, frame.ss), (INSN + 6, 0x2b, 0x23));
        assert_eq!(frame.rflags, 0x40ed7);
        let state = m.cpu.state();
        assert_eq!((state.gpr[1], state.gpr[11]), (INSN + 4, 0x40ed7));
        assert_eq!(m.read_u64(KERNEL_DATA), 2);
        // SYSCALL needs EFER.SCE.
        let mut state = Machine::user_state();
        state.efer &= !efer::SCE;
        m.cpu.set_state(&state);
        assert_eq!(m.run(), End::Vector(6));
        // SYSRET to an address that is not canonical faults with the supervisor's privilege.
        let code = assemble(KERNEL_CODE, |a| {
            a.mov(rcx, 0x8000_0000_0000u64)?;
            a.sysretq()
        });
        m.program(&code);
        m.cpu.set_state(&Machine::supervisor_state());
        assert_eq!(m.run(), End::Vector(13));
        assert_eq!(m.pushed(13).cs, 8);
    }
}

#[test]
fn interrupts_wait_for_the_instruction_after_sti() {
    each(
        |a| {
            a.cli()?;
            a.sti()?;
            a.inc(eax)?;
            a.inc(eax)?;
            a.hlt()
        },
        |m| {
            m.interrupt(0x60);
            assert_eq!(m.run(), End::Vector(0x60));
            assert_eq!(m.pushed(0x60).rip, KERNEL_CODE + 4);
            assert_eq!(m.cpu.user().gpr[0], 1);
        },
    );
}

#[test]
fn interrupts_wait_for_the_instruction_after_mov_ss() {
    each(
        |a| {
            a.mov(ebx, 0x10)?;
            a.sti()?;
            a.mov(ss, ebx)?;
            a.inc(eax)?;
            a.inc(eax)?;
            a.hlt()
        },
        |m| {
            m.interrupt(0x61);
            assert_eq!(m.run(), End::Vector(0x61));
            assert_eq!(m.cpu.user().gpr[0], 1, "MOV SS stood in the shadow of STI and cast its own");
        },
    );
}

#[test]
fn sti_hlt_wakes() {
    each(
        |a| {
            a.sti()?;
            a.hlt()?;
            a.inc(eax)?;
            a.cli()?;
            a.hlt()
        },
        |m| {
            m.write(HANDLERS + 16 * 0x62, &[0x48, 0xcf]);
            assert_eq!(m.run(), End::Halt(KERNEL_CODE + 2));
            assert_eq!(m.run(), End::Halt(KERNEL_CODE + 2), "nothing woke it");
            m.interrupt(0x62);
            assert_eq!(m.run(), End::Halt(KERNEL_CODE + 6));
            assert_eq!(m.cpu.user().gpr[0], 1);
            // With interrupts off a HLT sleeps through them, but not through an NMI.
            m.interrupt(0x63);
            assert_eq!(m.run(), End::Halt(KERNEL_CODE + 6));
            m.cpu.attention().request(Request::NMI);
            assert_eq!(m.run(), End::Vector(2));
            assert!(m.cpu.state().nmi_blocked);
        },
    );
}

#[test]
fn nmis_are_blocked_until_iret() {
    each(
        |a| {
            a.mov(ecx, 100_000)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.hlt()
        },
        |m| {
            let handler = assemble(HANDLERS + 0x20, |a| {
                a.inc(eax)?;
                a.hlt()?;
                a.iretq()
            });
            m.write(HANDLERS + 0x20, &handler);
            m.cpu.attention().request(Request::NMI);
            assert_eq!(m.run(), End::Halt(HANDLERS + 0x23));
            m.cpu.attention().request(Request::NMI);
            assert_eq!(m.run(), End::Halt(HANDLERS + 0x23), "a HLT in the handler sleeps through NMIs");
            m.cpu.wake();
            assert_eq!(m.run(), End::Halt(HANDLERS + 0x23), "the second NMI came after IRET");
            assert_eq!(m.cpu.user().gpr[0], 2);
            m.cpu.wake();
            assert_eq!(m.run(), End::Halt(KERNEL_CODE + 10));
        },
    );
}

#[test]
fn cr8_holds_back_lower_priorities() {
    each(
        |a| {
            a.mov(eax, 6)?;
            a.mov(cr8, rax)?;
            a.sti()?;
            a.nop()?;
            a.nop()?;
            a.mov(ebx, 1)?;
            a.xor(eax, eax)?;
            a.mov(cr8, rax)?;
            a.nop()?;
            a.hlt()
        },
        |m| {
            m.interrupt(0x61);
            assert_eq!(m.run(), End::Vector(0x61));
            assert_eq!(m.cpu.user().gpr[3], 1);
        },
    );
}

#[test]
fn single_stepping_traps_after_each_instruction() {
    let program: Build = |a| {
        a.pushfq()?;
        a.or(qword_ptr(rsp), 0x100)?;
        a.popfq()?;
        a.nop()?;
        a.inc(eax)?;
        a.mov(ecx, 3)?;
        a.mov(edi, KERNEL_DATA as u32)?;
        a.rep().stosb()?;
        a.mov(ebx, 0x10)?;
        a.mov(ss, ebx)?;
        a.nop()?;
        a.int(0x50)?;
        a.pushfq()?;
        a.and(qword_ptr(rsp), !0x100)?;
        a.popfq()?;
        a.nop()?;
        a.hlt()
    };
    each(program, |m| {
        // The handler of #DB counts, and notes where it came from.
        let handler = assemble(HANDLERS + 0x1000, |a| {
            a.mov(rdx, qword_ptr(rsp))?;
            a.mov(qword_ptr(rsi), rdx)?;
            a.add(rsi, 8)?;
            a.iretq()
        });
        m.write(0xf000, &handler);
        m.gate(1, 0xf000, 1, 0, 0xe);
        m.write(HANDLERS + 16 * 0x50, &[0x48, 0xcf]);
        let mut regs = m.cpu.user();
        regs.gpr[6] = KERNEL_DATA + 0x100;
        m.cpu.load_user(&regs);
        assert!(matches!(m.run(), End::Halt(_)));
        let n = (m.cpu.user().gpr[6] - KERNEL_DATA - 0x100) / 8;
        let rips: Vec<u64> = (0..n).map(|k| m.read_u64(KERNEL_DATA + 0x100 + 8 * k) - KERNEL_CODE).collect();
        let code = assemble(KERNEL_CODE, program);
        let mut decoder = iced_x86::Decoder::with_ip(64, &code, 0, 0);
        let ends: Vec<u64> =
            std::iter::from_fn(|| decoder.can_decode().then(|| decoder.decode().next_ip())).collect();
        // From the NOP on (3); REP STOSB traps after each of its three iterations; MOV SS (9) casts a shadow over its
        // trap; INT (11) is followed by no trap but what the handler returns to has TF again.
        let rep = ends[6];
        let mut want = vec![ends[3], ends[4], ends[5], ends[6]];
        want.extend([rep, rep, ends[7]]);
        want.extend([ends[8], ends[10]]);
        // After IRETQ from INT's handler, the next instruction traps.
        want.extend([ends[12], ends[13], ends[14]]);
        assert_eq!(rips, want);
        assert_ne!(m.cpu.state().dr[6] & 1 << 14, 0);
    });
}

/// The trap flag set by POPF while an interrupt waits in a shadow must not be lost.
#[test]
fn popf_in_a_shadow_starts_single_stepping() {
    each(
        |a| {
            a.push(0x302)?;
            a.sti()?;
            a.popfq()?;
            a.nop()?;
            a.nop()?;
            a.nop()?;
            a.hlt()
        },
        |m| {
            m.write(HANDLERS + 16 * 0x64, &[0x48, 0xcf]);
            m.interrupt(0x64);
            // The interrupt comes after POPF; its IRETQ brings TF back, and the NOP traps.
            assert_eq!(m.run(), End::Vector(1));
            assert_eq!(m.pushed(1).rip, KERNEL_CODE + 8);
        },
    );
}

#[test]
fn rep_movs_stops_where_it_faults() {
    for options in options() {
        for (down, count, size) in
            [(false, 0x500u64, 1u64), (true, 0x500, 1), (false, 0x100, 8), (true, 0x100, 8)]
        {
            let mut m = Machine::new(options);
            m.cpu.set_state(&Machine::user_state());
            m.load(if size == 1 { &[0xf3, 0xa4] } else { &[0xf3, 0x48, 0xa5] });
            let mut regs = m.cpu.user();
            regs.gpr[1] = count;
            // Up: from the middle of the RW pages into the read-only one. Down: out of the scratch memory's start.
            let room = 0x123 * size;
            regs.gpr[7] = if down { SCRATCH + room - size } else { SCRATCH_READ_ONLY - room };
            regs.gpr[6] = if down { SCRATCH + 0x3000 } else { SCRATCH + 0x800 };
            regs.rflags |= if down { flag::DF } else { 0 };
            let before = regs;
            let done = room / size;
            let moved = if down { (done * size).wrapping_neg() } else { done * size };
            if count <= done {
                assert_eq!(m.run_user(&mut regs), Ok(()));
                continue;
            }
            let fault = m.run_user(&mut regs).expect_err("the destination ends");
            let (error, at) = if down { (6, SCRATCH - size) } else { (7, SCRATCH_READ_ONLY) };
            assert_eq!((fault.vector, fault.error_code, fault.address), (14, Some(error), at));
            assert_eq!(regs.gpr[1], count - done);
            assert_eq!(regs.gpr[6], before.gpr[6].wrapping_add(moved));
            assert_eq!(regs.gpr[7], before.gpr[7].wrapping_add(moved));
            assert_eq!(regs.rip, INSN);
        }
    }
}

/// A long REP looks for interrupts on its way, and goes on after them.
#[test]
fn rep_is_interrupted_and_resumed() {
    each(
        |a| {
            a.sti()?;
            a.mov(ecx, 0x10_0000)?;
            a.mov(edi, FRAMES as u32)?;
            a.mov(al, 0x5a)?;
            a.rep().stosb()?;
            a.cli()?;
            a.hlt()
        },
        |m| {
            m.write(HANDLERS + 16 * 0x65, &[0xff, 0xc2, 0x48, 0xcf]);
            m.interrupt(0x65);
            assert!(matches!(m.run(), End::Halt(rip) if !(HANDLERS..=HANDLERS + 0x1000).contains(&rip)));
            let regs = m.cpu.user();
            assert_eq!((regs.gpr[1], regs.gpr[2], regs.gpr[7]), (0, 1, FRAMES + 0x10_0000));
            assert!(m.bytes(FRAMES, 0x10_0000).iter().all(|&b| b == 0x5a));
        },
    );
}

#[test]
fn page_faults_of_the_fetch() {
    each(
        |a| {
            a.mov(rbx, 0x7000_0123u64)?;
            a.jmp(rbx)
        },
        |m| {
            assert_eq!(m.run(), End::Vector(14));
            assert_eq!(m.pushed(14).rip, 0x7000_0123);
            assert_eq!(m.pushed(14).error, Some(0x10));
            assert_eq!(m.cpu.state().cr2, 0x7000_0123);
        },
    );
    // The second page of an instruction.
    for options in options() {
        let mut m = Machine::new(options);
        m.write(CODE_FRAME + 0xffe, &[0xb8, 1]);
        let mut state = Machine::user_state();
        state.rip = CODE + 0xffe;
        m.cpu.set_state(&state);
        assert_eq!(m.run(), End::Vector(14));
        assert_eq!(m.pushed(14).rip, CODE + 0xffe);
        assert_eq!(m.cpu.state().cr2, CODE + 0x1000);
        assert_eq!(m.pushed(14).error, Some(0x14));
    }
}

#[test]
fn branches_to_non_canonical_addresses_fault_before_they_jump() {
    let cases: &[Build] = &[
        |a| {
            a.mov(rbx, 0x8000_0000_0000u64)?;
            a.jmp(rbx)
        },
        |a| {
            a.mov(rbx, 0x8000_0000_0000u64)?;
            a.call(rbx)
        },
        |a| {
            a.mov(rbx, 0x8000_0000_0000u64)?;
            a.push(rbx)?;
            a.ret()
        },
    ];
    for (n, &build) in cases.iter().enumerate() {
        each(build, |m| {
            assert_eq!(m.run(), End::Vector(13));
            let stack = STACK - 0x1000 - if n == 2 { 8 } else { 0 };
            assert_eq!(m.pushed(13).rsp, stack);
            assert_eq!(m.pushed(13).rip, KERNEL_CODE + if n == 2 { 11 } else { 10 });
        });
    }
}

#[test]
fn device_not_available_and_undefined_by_control_registers() {
    // CR0 bits set, CR4 bits cleared, the instruction, the vector.
    let fld1: &[u8] = &[0xd9, 0xe8];
    let wait: &[u8] = &[0x9b];
    let addps: &[u8] = &[0x0f, 0x58, 0xc1];
    let emms: &[u8] = &[0x0f, 0x77];
    for (set, clear, code, vector) in [
        (cr0::TS, 0, fld1, 7),
        (cr0::EM, 0, fld1, 7),
        (cr0::TS, 0, wait, 7),
        (cr0::TS, 0, addps, 7),
        (cr0::EM, 0, addps, 6),
        (0, cr4::OSFXSR, addps, 6),
        (cr0::TS, 0, emms, 7),
        (cr0::EM, 0, emms, 6),
    ] {
        for options in options() {
            let mut m = Machine::new(options);
            let mut state = Machine::supervisor_state();
            state.cr0 |= set;
            state.cr4 &= !clear;
            m.cpu.set_state(&state);
            m.program(code);
            assert_eq!(m.run(), End::Vector(vector), "{code:x?} cr0 {set:x}");
        }
    }
}

#[test]
fn ports_obey_iopl_and_the_bitmap() {
    for options in options() {
        let mut m = Machine::new(options);
        m.load(&[0xec, 0xcd, 0x50]);
        for (iopl, port, allowed) in
            [(0u64, 0x3f8u64, false), (3, 0x3f8, true), (0, 0x80, true), (0, 0x81, false)]
        {
            // The bitmap allows port 80h.
            m.write(TSS + 104 + 0x10, &[0xfe]);
            let mut state = Machine::user_state();
            state.rflags |= iopl << 12;
            state.gpr[2] = port;
            m.cpu.set_state(&state);
            assert_eq!(m.run(), End::Vector(if allowed { 0x50 } else { 13 }), "port {port:x} iopl {iopl}");
            if allowed {
                assert_eq!(m.cpu.user().gpr[0], port & 0xff);
            }
        }
    }
}

#[test]
fn state_survives_a_round_trip_in_the_middle_of_a_shadow() {
    let mut m = Machine::default();
    let code = assemble(KERNEL_CODE, |a| {
        a.sti()?;
        a.nop()?;
        a.hlt()
    });
    m.program(&code);
    m.cpu.step().expect("STI does not fault");
    let saved = m.cpu.state();
    assert_ne!(saved.shadow, softmetal_cpu::state::Shadow::None);
    let mut other = Machine::default();
    other.program(&code);
    other.cpu.set_state(&saved);
    assert_eq!(other.cpu.state(), saved);
    other.interrupt(0x66);
    assert_eq!(other.run(), End::Vector(0x66));
    assert_eq!(other.pushed(0x66).rip, KERNEL_CODE + 2);
    // CPL comes with the segments.
    let mut m = Machine::default();
    m.cpu.set_state(&Machine::user_state());
    assert_eq!(m.cpu.state().segments[2].attributes & Segment::UNUSABLE, 0);
    m.load(&[0xf4]);
    assert_eq!(m.run(), End::Vector(13));
}
