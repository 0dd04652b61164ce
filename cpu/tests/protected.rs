//! Segments, gates and tasks of 16- and 32-bit protected mode, virtual-8086 mode, real mode.

mod legacy_machine;

use iced_x86::{IcedError, code_asm::*};
use legacy_machine::*;
use softmetal_cpu::state::{Segment, TableRegister, cr0, cr4};
use softmetal_cpu_testing::{
    End, Machine, flag,
    layout::{GDT, HANDLERS, IDT, KERNEL_CODE, KERNEL_DATA, STACK},
    options,
};

type Build = fn(&mut CodeAssembler) -> Result<(), IcedError>;
/// A name, what runs, and the fault it ends with.
type Case = (&'static str, Build, Option<(u8, u32)>);

const VM: u32 = 1 << 17;
const VIF: u32 = 1 << 19;
const VIP: u32 = 1 << 20;

/// How a 32-bit machine ended; the test runs a program at CPL 0.
fn run(build: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>, mut test: impl FnMut(&mut Machine, End)) {
    for options in options() {
        let mut m = protected(options);
        let bytes = code(32, KERNEL_CODE, &build);
        m.program(&bytes);
        let end = m.run();
        test(&mut m, end);
    }
}

/// Words of 32 bits on the current stack.
fn stack(m: &Machine, n: u64) -> Vec<u32> {
    let top = m.cpu.state().gpr[4];
    (0..n).map(|k| read32(m, top + 4 * k)).collect()
}

/// SDM 3A "Limit Checking", "Type Checking", "Segment Loading Instructions in IA-32e Mode".
#[test]
fn segments_check_limits_types_and_what_is_loaded() {
    let cases: &[Case] = &[
        (
            "the last byte of a small segment",
            |a| {
                a.mov(eax, u32::from(SMALL))?;
                a.mov(ds, eax)?;
                a.mov(al, byte_ptr(15))?;
                a.mov(eax, dword_ptr(12))?;
                a.hlt()
            },
            None,
        ),
        (
            "beyond a small segment",
            |a| {
                a.mov(eax, u32::from(SMALL))?;
                a.mov(ds, eax)?;
                a.mov(eax, dword_ptr(13))
            },
            Some((13, 0)),
        ),
        (
            "a string from a small segment while the others are flat",
            |a| {
                a.mov(eax, u32::from(SMALL))?;
                a.mov(fs, eax)?;
                a.xor(esi, esi)?;
                a.mov(edi, KERNEL_DATA as u32)?;
                a.mov(ecx, 5)?;
                // REP MOVSD from FS:[ESI]: four fit.
                a.db(&[0x64, 0xf3, 0xa5])
            },
            Some((13, 0)),
        ),
        (
            "MASKMOVQ to the code segment",
            |a| {
                a.mov(edi, KERNEL_DATA as u32)?;
                a.db(&[0x2e, 0x0f, 0xf7, 0xc0])
            },
            Some((13, 0)),
        ),
        (
            "below an expand-down stack",
            |a| {
                a.mov(eax, u32::from(EXPAND_DOWN))?;
                a.mov(ss, eax)?;
                a.mov(esp, 0x30_0000)?;
                a.mov(ebp, 0x1000)?;
                a.mov(eax, dword_ptr(ebp))
            },
            Some((12, 0)),
        ),
        (
            "at the limit of an expand-down segment",
            |a| {
                a.mov(eax, u32::from(EXPAND_DOWN))?;
                a.mov(ds, eax)?;
                a.mov(eax, dword_ptr(0x10_0000))?;
                a.mov(al, byte_ptr(0xf_ffff))
            },
            Some((13, 0)),
        ),
        (
            "a store through read-only data",
            |a| {
                a.mov(eax, u32::from(READ_ONLY))?;
                a.mov(ds, eax)?;
                a.mov(ecx, dword_ptr(0x30_0000))?;
                a.mov(dword_ptr(0x30_0000), ecx)
            },
            Some((13, 0)),
        ),
        (
            "a store through CS",
            |a| {
                a.mov(ecx, dword_ptr(0x30_0000).cs())?;
                a.mov(dword_ptr(0x30_0000).cs(), ecx)
            },
            Some((13, 0)),
        ),
        (
            "a null segment may be loaded, not used",
            |a| {
                a.xor(eax, eax)?;
                a.mov(es, eax)?;
                a.mov(al, byte_ptr(0).es())
            },
            Some((13, 0)),
        ),
        (
            "a null SS",
            |a| {
                a.xor(eax, eax)?;
                a.mov(ss, eax)
            },
            Some((13, 0)),
        ),
        (
            "SS with another RPL",
            |a| {
                a.mov(eax, u32::from(DATA32) | 1)?;
                a.mov(ss, eax)
            },
            Some((13, DATA32.into())),
        ),
        (
            "SS of another DPL",
            |a| {
                a.mov(eax, u32::from(USER_DATA) & !3)?;
                a.mov(ss, eax)
            },
            Some((13, u32::from(USER_DATA) & !3)),
        ),
        (
            "read-only SS",
            |a| {
                a.mov(eax, u32::from(READ_ONLY))?;
                a.mov(ss, eax)
            },
            Some((13, READ_ONLY.into())),
        ),
        (
            "execute-only code as data",
            |a| {
                a.mov(eax, u32::from(EXECUTE_ONLY))?;
                a.mov(ds, eax)
            },
            Some((13, EXECUTE_ONLY.into())),
        ),
        (
            "data that is not present",
            |a| {
                a.mov(eax, u32::from(NOT_PRESENT))?;
                a.mov(es, eax)
            },
            Some((11, NOT_PRESENT.into())),
        ),
        (
            "a stack that is not present",
            |a| {
                a.mov(eax, u32::from(NOT_PRESENT))?;
                a.mov(ss, eax)
            },
            Some((12, NOT_PRESENT.into())),
        ),
        (
            "beyond the GDT",
            |a| {
                a.mov(eax, 0xa8)?;
                a.mov(es, eax)
            },
            Some((13, 0xa8)),
        ),
        (
            "a TSS as data",
            |a| {
                a.mov(eax, u32::from(TASK_B))?;
                a.mov(es, eax)
            },
            Some((13, TASK_B.into())),
        ),
        (
            "the LDT, never loaded",
            |a| {
                a.mov(eax, 0x0c)?;
                a.mov(es, eax)
            },
            Some((13, 0x0c)),
        ),
        (
            "LAR through the LDT, never loaded: ZF clear",
            |a| {
                a.mov(eax, 0x0c)?;
                a.lar(ecx, eax)?;
                a.db(&[0x75, 0x02, 0x0f, 0x0b])?;
                a.hlt()
            },
            None,
        ),
        (
            "the LDT, loaded",
            |a| {
                a.mov(eax, u32::from(LDT))?;
                a.lldt(ax)?;
                a.mov(eax, 0x0c)?;
                a.mov(es, eax)?;
                a.hlt()
            },
            None,
        ),
        (
            "ARPL raises the RPL",
            |a| {
                a.mov(eax, 0x10)?;
                a.mov(ecx, 3)?;
                a.arpl(ax, cx)?;
                a.db(&[0x74, 0x02, 0x0f, 0x0b])?;
                a.cmp(eax, 0x13)?;
                a.db(&[0x74, 0x02, 0x0f, 0x0b])?;
                a.arpl(ax, cx)?;
                a.db(&[0x75, 0x02, 0x0f, 0x0b])?;
                a.hlt()
            },
            None,
        ),
        (
            "code up to the limit of its segment",
            |a| {
                a.db(&[0xea, 0x18, 0, 0, 0, SMALL_CODE as u8, 0])?;
                a.nops_with_size(0x18 - 7)?;
                a.nops_with_size(7)?;
                a.hlt()
            },
            None,
        ),
        (
            "code beyond the limit of its segment",
            |a| {
                a.db(&[0xea, 0x18, 0, 0, 0, SMALL_CODE as u8, 0])?;
                a.nops_with_size(0x18 - 7)?;
                a.nops_with_size(8)
            },
            Some((13, 0)),
        ),
        (
            "an instruction across the limit of its segment",
            |a| {
                a.db(&[0xea, 0x18, 0, 0, 0, SMALL_CODE as u8, 0])?;
                a.nops_with_size(0x18 - 7)?;
                a.nops_with_size(6)?;
                a.db(&[0xb8, 0, 0, 0, 0])
            },
            Some((13, 0)),
        ),
        (
            "a jump beyond the limit of its segment",
            |a| a.db(&[0xea, 0x20, 0, 0, 0, SMALL_CODE as u8, 0]),
            Some((13, 0)),
        ),
        ("a jump to data", |a| a.db(&[0xea, 0, 0, 0, 0, DATA32 as u8, 0]), Some((13, DATA32.into()))),
        ("a jump to a null selector", |a| a.db(&[0xea, 0, 0, 0, 0, 3, 0]), Some((13, 0))),
        (
            "a jump to outer code",
            |a| a.db(&[0xea, 0, 0, 0, 0, USER_CODE as u8, 0]),
            Some((13, u32::from(USER_CODE) & !3)),
        ),
        ("a jump to a busy task", |a| a.db(&[0xea, 0, 0, 0, 0, TASK_A as u8, 0]), Some((13, TASK_A.into()))),
        (
            "LTR of a busy task",
            |a| {
                a.mov(eax, u32::from(TASK_A))?;
                a.ltr(ax)
            },
            Some((13, TASK_A.into())),
        ),
    ];
    for &(text, build, fault) in cases {
        run(build, |m, end| match fault {
            None => assert!(matches!(end, End::Halt(_)), "{text}: {end:?}, {:x?}", stack(m, 4)),
            Some((vector, error)) => {
                assert_eq!(end, End::Vector(vector), "{text}: {:x?}", stack(m, 4));
                assert_eq!(stack(m, 1)[0], error, "{text}");
            }
        });
    }
}

/// SDM 3A "Call Gates", "Stack Switching".
#[test]
fn a_call_gate_switches_stacks_and_copies_parameters() {
    for options in options() {
        for (gate, wide) in [(GATE, true), (GATE_NARROW, false)] {
            let mut m = protected(options);
            m.cpu.set_state(&user_state());
            let user = code(32, USER_PROGRAM, |a| {
                if wide {
                    a.push(0x1111)?;
                    a.push(0x2222)?;
                } else {
                    a.db(&[0x66, 0x68, 0x11, 0x11, 0x66, 0x68, 0x22, 0x22])?;
                }
                a.db(&[0x9a, 0, 0, 0, 0, gate as u8, 0])?;
                a.hlt()
            });
            m.write(USER_PROGRAM, &user);
            // RETF 8 or 4: back to CPL 3, where HLT is privileged.
            m.write(GATE_CODE, if wide { &[0xca, 8, 0] } else { &[0xca, 4, 0] });
            assert_eq!(m.cpu.step(), Ok(()));
            assert_eq!(m.cpu.step(), Ok(()));
            assert_eq!(m.cpu.step(), Ok(()));
            let state = m.cpu.state();
            let selector = if wide { CODE } else { CODE16 };
            assert_eq!((state.segments[1].selector, state.segments[2].selector), (selector, DATA32));
            let next = (USER_PROGRAM as u32) + user.len() as u32 - 1;
            if wide {
                assert_eq!(state.gpr[4], RING0_STACK - 24);
                let top = RING3_STACK as u32 - 8;
                let frame = [next, USER_CODE.into(), 0x2222, 0x1111, top, USER_DATA.into()];
                assert_eq!(stack(&m, 6), frame);
            } else {
                assert_eq!(state.gpr[4], RING0_STACK - 12);
                let frame: Vec<u16> = (0..6).map(|k| read16(&m, state.gpr[4] + 2 * k)).collect();
                let top = (RING3_STACK as u16).wrapping_sub(4);
                assert_eq!(frame, [next as u16, USER_CODE, 0x2222, 0x1111, top, USER_DATA]);
                continue;
            }
            assert_eq!(m.cpu.step(), Ok(()));
            let state = m.cpu.state();
            assert_eq!((state.rip, state.gpr[4]), (next.into(), RING3_STACK), "parameters are released");
            assert_eq!((state.segments[1].selector, state.segments[2].selector), (USER_CODE, USER_DATA));
        }
    }
}

#[test]
fn gates_check_their_dpl_and_presence() {
    for (gate_descriptor, vector) in
        [(gate(CODE, GATE_CODE, 0x8c, 0), 13), (gate(CODE, GATE_CODE, 0x6c, 0), 11)]
    {
        for options in options() {
            let mut m = protected(options);
            m.write_u64(GDT + u64::from(GATE), gate_descriptor);
            m.cpu.set_state(&user_state());
            m.write(USER_PROGRAM, &[0x9a, 0, 0, 0, 0, GATE as u8, 0]);
            assert_eq!(m.run(), End::Vector(vector));
            assert_eq!(stack(&m, 2), [u32::from(GATE), USER_PROGRAM as u32]);
        }
    }
}

/// SDM 3A "Task Switching", "Task Linking".
#[test]
fn tasks_are_called_and_return() {
    let ways: &[&[u8]] =
        &[&[0x9a, 0, 0, 0, 0, TASK_B as u8, 0], &[0x9a, 0, 0, 0, 0, TASK_GATE as u8, 0], &[0xcd, 0x30]];
    for options in options() {
        for way in ways {
            let mut m = protected(options);
            m.write_u64(IDT + 8 * 0x30, gate(TASK_B, 0, 0xe5, 0));
            let mut bytes = way.to_vec();
            bytes.extend([0x40, 0xf4]);
            m.program(&bytes);
            // IRET, then UD2 where the task would go on.
            m.write(TASK_B_CODE, &[0x43, 0xcf, 0x0f, 0x0b]);
            let mut state = state();
            state.gpr[0] = 7;
            state.dr[7] = 0x755;
            m.cpu.set_state(&state);
            assert_eq!(m.cpu.step(), Ok(()));
            let inside = m.cpu.state();
            assert_eq!(
                (inside.rip, inside.gpr[4], inside.gpr[0]),
                (TASK_B_CODE, TASK_B_STACK, 0x100),
                "{way:x?}"
            );
            assert_ne!(inside.rflags & flag::NT, 0);
            assert_ne!(inside.cr0 & cr0::TS, 0);
            assert_eq!(inside.dr[7], 0x600, "local breakpoints go, GE stays");
            assert_eq!((inside.tr.selector, inside.tr.attributes), (TASK_B, 0x8b));
            assert_eq!(read16(&m, TSS_B), TASK_A, "the link");
            assert_eq!((kind_of(&m, TASK_A), kind_of(&m, TASK_B)), (11, 11), "both are busy");
            assert_eq!(read32(&m, TSS_A + 40), 7);
            assert_eq!(read32(&m, TSS_A + 32), KERNEL_CODE as u32 + way.len() as u32);
            let End::Halt(rip) = m.run() else { panic!("{way:x?}: the first task does not go on") };
            assert_eq!(rip, KERNEL_CODE + way.len() as u64 + 2);
            let back = m.cpu.state();
            assert_eq!((back.gpr[0], back.tr.selector, back.rflags & flag::NT), (8, TASK_A, 0));
            assert_eq!((kind_of(&m, TASK_A), kind_of(&m, TASK_B)), (11, 9));
            assert_eq!(read32(&m, TSS_B + 32), TASK_B_CODE as u32 + 2, "the task goes on behind its IRET");
            assert_eq!(read32(&m, TSS_B + 36) & flag::NT as u32, 0);
            assert_eq!(read32(&m, TSS_B + 52), 0x104);
        }
    }
}

#[test]
fn a_jump_to_a_task_ends_the_old_one_and_its_t_bit_traps() {
    for options in options() {
        let mut m = protected(options);
        write32(&mut m, TSS_B + 100, 0x88 << 16 | 1);
        m.program(&[0xea, 0, 0, 0, 0, TASK_B as u8, 0]);
        m.write(TASK_B_CODE, &[0xf4]);
        assert_eq!(m.run(), End::Vector(1));
        assert_eq!((kind_of(&m, TASK_A), kind_of(&m, TASK_B)), (9, 11));
        let state = m.cpu.state();
        assert_eq!(state.dr[6], 0xffff_0ff0 | 1 << 15);
        assert_eq!(
            stack(&m, 3),
            [TASK_B_CODE as u32, CODE.into(), 2],
            "before its first instruction, NT clear"
        );
        assert_eq!(read16(&m, TSS_B), 0, "no link");
    }
}

#[test]
fn an_exception_through_a_task_gate_pushes_its_error_code_there() {
    for options in options() {
        let mut m = protected(options);
        m.write_u64(IDT + 8 * 13, gate(TASK_B, 0, 0x85, 0));
        m.program(&[0x31, 0xc0, 0x8e, 0xd0]);
        m.write(TASK_B_CODE, &[0xf4]);
        assert_eq!(m.run(), End::Halt(TASK_B_CODE + 1));
        assert_eq!(m.cpu.state().gpr[4], TASK_B_STACK - 4);
        assert_eq!(stack(&m, 1), [0]);
        assert_eq!(read32(&m, TSS_A + 32), KERNEL_CODE as u32 + 2, "a fault: RIP is that of the instruction");
        assert_ne!(read32(&m, TSS_A + 36) & flag::RF as u32, 0, "RF is set in the image of a fault");
    }
}

#[test]
fn what_is_wrong_in_a_new_task_faults_there() {
    // Where in the TSS, what, vector and error code.
    let cases = [
        (80, u32::from(USER_DATA), 10, u32::from(USER_DATA) & !3),
        (76, u32::from(DATA32), 10, DATA32.into()),
        (76, 0, 10, 0),
        (84, u32::from(NOT_PRESENT), 11, NOT_PRESENT.into()),
        (80, u32::from(NOT_PRESENT), 12, NOT_PRESENT.into()),
        (96, 0x0c, 10, 0x0c),
        (96, u32::from(DATA32), 10, DATA32.into()),
    ];
    for options in options() {
        for (at, what, vector, error) in cases {
            let (vector, error): (u8, u32) = (vector, error);
            let mut m = protected(options);
            write32(&mut m, TSS_B + at, what);
            // The handler is a task, for its stack does not depend on what is wrong.
            task(&mut m, TSS_NARROW, HANDLERS, STACK, CODE, DATA32);
            m.write_u64(GDT + u64::from(TASK_NARROW), descriptor(TSS_NARROW, 0x67, 0x89));
            m.write_u64(IDT + 8 * u64::from(vector), gate(TASK_NARROW, 0, 0x85, 0));
            m.program(&[0xea, 0, 0, 0, 0, TASK_B as u8, 0]);
            assert_eq!(m.run(), End::Vector(0), "{at} {what:#x}");
            assert_eq!(stack(&m, 1), [error], "{at} {what:#x}");
            assert_eq!(read16(&m, TSS_NARROW), TASK_B, "the fault is the new task's");
            assert_eq!(read32(&m, TSS_B + 32), TASK_B_CODE as u32);
        }
    }
}

#[test]
fn tasks_that_cannot_be_entered_leave_the_old_one_as_it_is() {
    let cases = [
        (descriptor(TSS_B, 0x66, 0x89), 10),
        (descriptor(TSS_B, 0x67, 0x09), 11),
        (descriptor(TSS_B, 0x67, 0x8b), 13),
    ];
    for options in options() {
        for (d, vector) in cases {
            let mut m = protected(options);
            m.write_u64(GDT + u64::from(TASK_B), d);
            m.program(&[0x9a, 0, 0, 0, 0, TASK_B as u8, 0]);
            assert_eq!(m.run(), End::Vector(vector));
            assert_eq!(stack(&m, 2), [TASK_B.into(), KERNEL_CODE as u32]);
            assert_eq!((m.cpu.state().tr.selector, kind_of(&m, TASK_A)), (TASK_A, 11));
        }
    }
}

#[test]
fn a_16_bit_task_has_16_bit_state() {
    for options in options() {
        let mut m = protected(options);
        m.write(TSS_NARROW, &[0; 44]);
        let mut put = |at: u64, v: u16| m.write(TSS_NARROW + at, &v.to_le_bytes());
        put(14, 0x4000);
        put(16, 2);
        put(18, 0x1234);
        put(26, 0x800);
        put(34, DATA16);
        put(36, CODE16);
        put(38, DATA16);
        put(40, DATA16);
        m.program(&[0x9a, 0, 0, 0, 0, TASK_NARROW as u8, 0, 0xf4]);
        m.write(KERNEL_CODE + 0x4000, &[0x40, 0xcf]);
        assert_eq!(m.cpu.step(), Ok(()));
        let state = m.cpu.state();
        assert_eq!((state.rip, state.gpr[0] & 0xffff, state.gpr[4] & 0xffff), (0x4000, 0x1234, 0x800));
        assert_eq!((state.tr.attributes, read16(&m, TSS_NARROW)), (0x83, TASK_A));
        assert_eq!(m.run(), End::Halt(KERNEL_CODE + 8));
        assert_eq!(read16(&m, TSS_NARROW + 18), 0x1235);
        assert_eq!(m.cpu.state().gpr[4], STACK - 0x800, "the wide task keeps its whole registers");
    }
}

/// A virtual-8086 program and how it ends: SDM 3B "8086 Emulation".
fn v86(iopl: u64, control: u64, build: Build, mut test: impl FnMut(&mut Machine)) {
    for options in options() {
        let mut m = protected(options);
        let mut state = v86_state(iopl);
        state.cr4 = control;
        m.cpu.set_state(&state);
        m.write(V86_PROGRAM, &code(16, 0, build));
        test(&mut m);
    }
}

#[test]
fn virtual_8086_programs_are_entered_by_iret_and_left_through_gates() {
    for options in options() {
        let mut m = protected(options);
        let base = (V86_PROGRAM >> 4) as u32;
        m.program(&code(32, KERNEL_CODE, |a| {
            for v in [5, 4, 3, 2] {
                a.push(0x1000 * v)?;
            }
            a.push(base as i32)?;
            a.push(0x1000)?;
            a.push((VM | 0x3202) as i32)?;
            a.push(base as i32)?;
            a.push(0x10)?;
            a.iretd()
        }));
        m.write(V86_PROGRAM + 0x10, &[0xcd, 0x40]);
        assert_eq!(m.run(), End::Vector(0x40));
        let state = m.cpu.state();
        assert_eq!(state.gpr[4], RING0_STACK - 36);
        let frame = [0x12, base, VM | 0x3202, 0x1000, base, 0x2000, 0x3000, 0x4000, 0x5000];
        assert_eq!(stack(&m, 9), frame, "EIP CS EFLAGS ESP SS ES DS FS GS");
        for s in [0, 3, 4, 5] {
            assert_eq!((state.segments[s].selector, state.segments[s].attributes >> 16 & 1), (0, 1));
        }
        assert_eq!(state.rflags & u64::from(VM), 0);
    }
}

#[test]
fn instructions_that_need_iopl_in_virtual_8086_mode() {
    let sensitive: &[Build] =
        &[|a| a.cli(), |a| a.sti(), |a| a.pushf(), |a| a.popf(), |a| a.int(0x21), |a| a.iret()];
    for (n, &build) in sensitive.iter().enumerate() {
        v86(0, 0, build, |m| {
            assert_eq!(m.run(), End::Vector(13), "{n}");
            assert_eq!(stack(m, 2), [0, 0], "{n}: error code and IP");
        });
    }
    // INT3 and INTO are not among them; ports obey the map whatever IOPL is.
    v86(0, 0, |a| a.int3(), |m| assert_eq!(m.run(), End::Vector(3)));
    v86(3, 0, |a| a.in_(al, 0x60), |m| assert_eq!(m.run(), End::Vector(13)));
}

/// SDM 3B "Virtual-8086 Mode Extensions": VIF for IF, and the redirection map.
#[test]
fn vme_keeps_a_virtual_interrupt_flag() {
    v86(
        0,
        cr4::VME,
        |a| {
            a.sti()?;
            a.pushf()?;
            a.cli()?;
            a.pushf()?;
            a.int3()
        },
        |m| {
            assert_eq!(m.run(), End::Vector(3));
            let frame = stack(m, 4);
            assert_eq!(frame[2] & (VIF | 0x200), 0x200, "VIF was cleared, IF was not touched");
            let words = (read16(m, V86_PROGRAM + 0xffe), read16(m, V86_PROGRAM + 0xffc));
            assert_eq!(words, (0x3202, 0x3002), "IF is VIF's image, IOPL reads 3");
        },
    );
    // An interrupt is pending: STI and a POPF that sets IF must be seen by the monitor.
    for build in [(|a| a.sti()) as Build, |a| a.popf()] {
        for options in options() {
            let mut m = protected(options);
            let mut state = v86_state(0);
            state.cr4 = cr4::VME;
            state.rflags |= u64::from(VIP);
            m.cpu.set_state(&state);
            m.write(V86_PROGRAM, &code(16, 0, build));
            m.write(V86_PROGRAM + 0x1000, &[0x02, 0x02]);
            assert_eq!(m.run(), End::Vector(13));
        }
    }
}

#[test]
fn vme_redirects_software_interrupts() {
    // Vector 21h leads into the program's own table at 0; 22h has its bit set.
    let prepare = |m: &mut Machine| {
        write32(m, 0x21 * 4, (V86_PROGRAM >> 4 << 16) as u32 | 0x100);
        m.write(TSS_A + 0x68 + 4, &[1 << 2]);
        m.write(V86_PROGRAM + 0x100, &[0xcc]);
    };
    for iopl in [0, 3] {
        v86(
            iopl,
            cr4::VME,
            |a| a.int(0x21),
            |m| {
                prepare(m);
                assert_eq!(m.run(), End::Vector(3), "IOPL {iopl}");
                let frame = stack(m, 4);
                assert_eq!((frame[0], frame[3]), (0x101, 0xffa), "IOPL {iopl}");
                let flags = u32::from(read16(m, V86_PROGRAM + 0xffe));
                assert_eq!(flags, if iopl == 3 { 0x3202 } else { 0x3002 }, "IOPL {iopl}");
                assert_eq!(frame[2] & 0x200 != 0, iopl == 0, "IF goes with IOPL 3, VIF without");
                assert_eq!(read16(m, V86_PROGRAM + 0xffa), 2);
            },
        );
    }
    v86(
        0,
        cr4::VME,
        |a| a.int(0x22),
        |m| {
            prepare(m);
            assert_eq!(m.run(), End::Vector(13));
        },
    );
    v86(
        3,
        cr4::VME,
        |a| a.int(0x22),
        |m| {
            prepare(m);
            assert_eq!(m.run(), End::Vector(0x22));
        },
    );
}

/// SDM 3B "Real-Address Mode Operation".
#[test]
fn real_mode_interrupts_and_limits() {
    for options in options() {
        let mut m = real(options);
        m.write(REAL_CODE, &[0xfb, 0xcd, 0x21]);
        assert_eq!(m.run(), End::Halt(1));
        let state = m.cpu.state();
        assert_eq!(u64::from(state.segments[1].selector) << 4, HANDLERS + 16 * 0x21);
        assert_eq!((state.gpr[4], state.rflags & flag::IF), (0xffa, 0));
        let frame: Vec<u16> = (0..3).map(|k| read16(&m, REAL_STACK + 0xffa + 2 * k)).collect();
        assert_eq!(frame, [3, 0x1000, 0x202]);
        // A word at offset FFFFh is beyond the limit: #GP, without an error code.
        let mut m = real(options);
        m.write(REAL_CODE, &[0xa1, 0xff, 0xff]);
        assert_eq!(m.run(), End::Halt(1));
        let state = m.cpu.state();
        assert_eq!(u64::from(state.segments[1].selector) << 4, HANDLERS + 16 * 13);
        assert_eq!((state.gpr[4], read16(&m, REAL_STACK + 0xffa)), (0xffa, 0));
    }
}

/// A limit loaded in protected mode stays in real mode.
#[test]
fn unreal_mode() {
    for options in options() {
        let mut m = real(options);
        let mut state = m.cpu.state();
        state.gdtr = TableRegister { base: GDT, limit: 0xff };
        m.cpu.set_state(&state);
        m.write_u64(GDT + 0x10, descriptor(0, 0xf_ffff, 0xc093));
        m.write(KERNEL_DATA, &[0x5a]);
        let program = code(16, 0, |a| {
            a.mov(eax, cr0)?;
            a.or(al, 1)?;
            a.mov(cr0, eax)?;
            a.mov(bx, 0x10)?;
            a.mov(ds, ebx)?;
            a.and(al, 0xfeu32 as i32)?;
            a.mov(cr0, eax)?;
            a.xor(bx, bx)?;
            a.mov(ds, ebx)?;
            a.mov(ebx, KERNEL_DATA as u32)?;
            a.mov(cl, byte_ptr(ebx))?;
            a.hlt()
        });
        m.write(REAL_CODE, &program);
        assert_eq!(m.run(), End::Halt(program.len() as u64));
        assert_eq!(m.cpu.state().gpr[1] as u8, 0x5a);
    }
}

/// SDM 2B "SYSENTER", "SYSEXIT".
#[test]
fn sysenter_and_sysexit_outside_of_long_mode() {
    for options in options() {
        let mut m = protected(options);
        let mut state = user_state();
        state.msrs.sysenter_cs = CODE.into();
        state.msrs.sysenter_esp = RING0_STACK;
        state.msrs.sysenter_eip = GATE_CODE;
        state.gpr[1] = RING3_STACK - 0x100;
        state.gpr[2] = USER_PROGRAM + 0x40;
        m.cpu.set_state(&state);
        m.write(USER_PROGRAM, &[0x0f, 0x34]);
        m.write(GATE_CODE, &[0x0f, 0x35]);
        assert_eq!(m.cpu.step(), Ok(()));
        let state = m.cpu.state();
        assert_eq!((state.rip, state.gpr[4], state.rflags & flag::IF), (GATE_CODE, RING0_STACK, 0));
        assert_eq!((state.segments[1].selector, state.segments[2].selector), (CODE, DATA32));
        assert_eq!(m.cpu.step(), Ok(()));
        let state = m.cpu.state();
        assert_eq!((state.rip, state.gpr[4]), (USER_PROGRAM + 0x40, RING3_STACK - 0x100));
        assert_eq!((state.segments[1].selector, state.segments[2].selector), (USER_CODE, USER_DATA));
        assert_eq!(state.segments[2].dpl(), 3);
    }
}

/// SDM 3A "32-Bit Paging": 4 KiB pages, 4 MiB pages above 4 GiB's reach of the format by PSE-36, the reserved bit.
#[test]
fn paging_of_32_bits() {
    const DIRECTORY: u64 = 0x40_0000;
    for options in options() {
        let mut m = protected(options);
        write32(&mut m, DIRECTORY, 0x83);
        write32(&mut m, DIRECTORY + 4, 0x83 | 0x40_0000);
        // 8 MiB: a table; 12 MiB: the reserved bit 21; 16 MiB: read-only by the directory.
        write32(&mut m, DIRECTORY + 8, 0x40_1003);
        write32(&mut m, DIRECTORY + 12, 0x83 | 1 << 21);
        write32(&mut m, DIRECTORY + 16, 0x40_1001);
        write32(&mut m, 0x40_1004, 0x40_2003);
        // 20 MiB at 4 GiB + 4 MiB: no RAM there.
        write32(&mut m, DIRECTORY + 20, 0x83 | 0x40_0000 | 1 << 13);
        let mut state = state();
        state.cr0 |= cr0::PG | cr0::WP;
        state.cr3 = DIRECTORY;
        state.cr4 |= cr4::PSE;
        for (build, vector, error, address) in [
            ((|a: &mut CodeAssembler| a.mov(dword_ptr(0x80_1234), eax)) as Build, None, 0, 0),
            (|a| a.mov(eax, dword_ptr(0x80_2000)), Some(14), 0, 0x80_2000),
            (|a| a.mov(eax, dword_ptr(0xc0_0010)), Some(14), 9, 0xc0_0010),
            (|a| a.mov(dword_ptr(0x100_1000), eax), Some(14), 3, 0x100_1000),
            (|a| a.mov(eax, dword_ptr(0x140_0008)), None, 0, 0),
        ] {
            let mut bytes = code(32, KERNEL_CODE, build);
            bytes.push(0xf4);
            m.program(&bytes);
            m.cpu.set_state(&state);
            m.cpu.wake();
            m.bus.take();
            match vector {
                None => assert!(matches!(m.run(), End::Halt(_))),
                Some(v) => {
                    assert_eq!(m.run(), End::Vector(v));
                    assert_eq!((stack(&m, 1)[0], m.cpu.state().cr2), (error, address));
                }
            }
        }
        assert_eq!(read32(&m, 0x40_1004) & 0x60, 0x60, "accessed and dirty");
        let seen = m.bus.take();
        assert_eq!(seen, [softmetal_cpu_testing::bus::Access::MmioRead(0x1_0040_0008, 4)]);
    }
}

/// SDM 3A "PAE Paging": the PDPTEs are registers.
#[test]
fn pdptes_are_loaded_with_cr3_and_checked() {
    for options in options() {
        let mut m = protected(options);
        let (table, directory) = (0x40_0020, 0x40_1000);
        m.write_u64(table, directory | 1);
        for k in 0..4u64 {
            m.write_u64(directory + 8 * k, k << 21 | 0x83);
        }
        m.program(&code(32, KERNEL_CODE, |a| {
            a.mov(eax, table as u32)?;
            a.mov(cr3, eax)?;
            a.mov(eax, cr4::PAE as u32)?;
            a.mov(cr4, eax)?;
            a.mov(eax, cr0)?;
            a.or(eax, 0x8000_0000u32 as i32)?;
            a.mov(cr0, eax)?;
            // A change of the table in memory is not seen before CR3 is loaded.
            a.mov(dword_ptr(table as u32), 0)?;
            a.mov(ecx, dword_ptr(KERNEL_DATA as u32))?;
            a.mov(dword_ptr(table as u32), 0x40_1003)?;
            a.mov(eax, cr3)?;
            a.mov(cr3, eax)?;
            a.hlt()
        }));
        assert_eq!(m.run(), End::Vector(13), "bit 1 of a PDPTE is reserved");
        assert_eq!(m.cpu.state().pdptrs[0], directory | 1, "the old ones stay");
    }
}

#[test]
fn a_null_ss_of_an_inner_level_is_an_invalid_tss() {
    for options in options() {
        let mut m = protected(options);
        write32(&mut m, TSS_A + 8, 0);
        // The handler of #TS needs no stack of the TSS: a task.
        m.write_u64(IDT + 8 * 10, gate(TASK_B, 0, 0x85, 0));
        m.write(TASK_B_CODE, &[0xf4]);
        m.cpu.set_state(&user_state());
        m.write(USER_PROGRAM, &[0xcd, 0x40]);
        assert_eq!(m.run(), End::Halt(TASK_B_CODE + 1));
        assert_eq!(stack(&m, 1), [0]);
    }
}

#[test]
fn real_segments_have_their_shape() {
    let real = Segment::real(0x1234);
    assert_eq!((real.base, real.limit, real.is_flat(false)), (0x1_2340, 0xffff, false));
}
