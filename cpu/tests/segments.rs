//! Segments, far transfers, changes of mode, and the state instructions.

use iced_x86::{IcedError, code_asm::*};
use softmetal_cpu::{
    CpuState,
    state::{Segment, cr0, cr4, efer},
};
use softmetal_cpu_testing::{End, Level, Machine, assemble, assemble_for, layout::*, options, pte};

/// A machine with a program at [`KERNEL_CODE`], under each set of options.
fn each(
    build: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    prepare: impl Fn(&mut Machine),
    test: impl Fn(&mut Machine, End),
) {
    let code = assemble(KERNEL_CODE, build);
    for options in options() {
        let mut m = Machine::new(options);
        m.program(&code);
        prepare(&mut m);
        let end = m.run();
        test(&mut m, end);
    }
}

#[test]
fn far_returns_within_the_supervisor_and_to_user_code() {
    each(
        |a| {
            a.push(8)?;
            a.mov(rax, KERNEL_CODE + 0x100)?;
            a.push(rax)?;
            a.db(&[0x48, 0xcb])
        },
        |m| m.write(KERNEL_CODE + 0x100, &[0xf4]),
        |m, end| {
            assert_eq!(end, End::Halt(KERNEL_CODE + 0x101));
            assert_eq!(m.cpu.user().gpr[4], STACK - 0x1000);
        },
    );
    each(
        |a| {
            a.push(0x23)?;
            a.push(USER_STACK as i32)?;
            a.push(0x2b)?;
            a.push(INSN as i32)?;
            a.db(&[0x48, 0xcb])
        },
        |m| m.load(&[0xcd, 0x50]),
        |m, end| {
            assert_eq!(end, End::Vector(0x50));
            let frame = m.pushed(0x50);
            assert_eq!((frame.cs, frame.ss, frame.rsp, frame.rip), (0x2b, 0x23, USER_STACK, INSN + 2));
            let segments = m.cpu.state().segments;
            for s in [0, 3, 4, 5] {
                assert_eq!(segments[s].selector, 0, "data segments of the supervisor are taken away");
                assert_ne!(segments[s].attributes & Segment::UNUSABLE, 0);
            }
        },
    );
}

#[test]
fn far_jumps_and_calls_through_memory() {
    each(
        |a| {
            a.mov(rbx, KERNEL_DATA)?;
            // CALL m16:64 with REX.W.
            a.db(&[0x48, 0xff, 0x1b])?;
            a.hlt()
        },
        |m| {
            m.write_u64(KERNEL_DATA, KERNEL_CODE + 0x100);
            m.write_u64(KERNEL_DATA + 8, 8);
            // inc eax; lretq
            m.write(KERNEL_CODE + 0x100, &[0xff, 0xc0, 0x48, 0xcb]);
        },
        |m, end| {
            assert_eq!(end, End::Halt(KERNEL_CODE + 14));
            assert_eq!(m.cpu.user().gpr[0], 1);
        },
    );
    each(
        |a| {
            a.mov(rbx, KERNEL_DATA)?;
            // JMP m16:32 without.
            a.db(&[0xff, 0x2b])
        },
        |m| {
            m.write_u64(KERNEL_DATA, KERNEL_CODE + 0x100 | 8 << 32);
            m.write(KERNEL_CODE + 0x100, &[0xf4]);
        },
        |_, end| assert_eq!(end, End::Halt(KERNEL_CODE + 0x101)),
    );
    // To a data segment.
    each(
        |a| {
            a.mov(rbx, KERNEL_DATA)?;
            a.db(&[0xff, 0x2b])
        },
        |m| m.write_u64(KERNEL_DATA, KERNEL_CODE | 0x10 << 32),
        |m, end| {
            assert_eq!(end, End::Vector(13));
            assert_eq!(m.pushed(13).error, Some(0x10));
            assert_eq!(m.pushed(13).rip, KERNEL_CODE + 10);
        },
    );
}

/// 64-bit code jumps to 32-bit code at CPL 0, where 40h is INC EAX and not a prefix, and comes back.
#[test]
fn compatibility_mode_and_back() {
    each(
        |a| {
            a.mov(rax, -1i64 as u64)?;
            a.mov(rbx, KERNEL_DATA)?;
            a.db(&[0xff, 0x2b])
        },
        |m| {
            m.write_u64(KERNEL_DATA, KERNEL_CODE + 0x100 | u64::from(selector::CODE32) << 32);
            let code = assemble_for(32, KERNEL_CODE + 0x100, |a| {
                a.db(&[0x40, 0x40])?;
                a.push(eax)?;
                a.mov(ecx, esp)?;
                a.pop(edx)?;
                a.mov(dword_ptr(KERNEL_DATA as u32 + 0x40), eax)?;
                // JMP 8:there
                a.db(&[0xea, 0, 2, 0x20, 0, 8, 0])
            });
            m.write(KERNEL_CODE + 0x100, &code);
            m.write(KERNEL_CODE + 0x200, &[0xf4]);
        },
        |m, end| {
            assert_eq!(end, End::Halt(KERNEL_CODE + 0x201));
            let regs = m.cpu.user();
            assert_eq!((regs.gpr[0], regs.gpr[2]), (1, 1));
            assert_eq!(regs.gpr[1], STACK - 0x1004);
            assert_eq!(m.bytes(KERNEL_DATA + 0x40, 4), [1, 0, 0, 0]);
        },
    );
}

#[test]
fn user_code_of_32_bits() {
    each(
        |a| {
            a.push(0x23)?;
            a.push(USER_STACK as i32)?;
            a.push(2)?;
            a.push(0x1b)?;
            a.push(INSN as i32)?;
            a.iretq()
        },
        |m| {
            let code = assemble_for(32, INSN, |a| {
                a.mov(eax, -1)?;
                a.inc(eax)?;
                a.dec(eax)?;
                a.call(INSN + 0x40)?;
                a.int(0x50)
            });
            m.load(&code);
            m.write(CODE_FRAME + 0x840, &[0x58, 0x50, 0xc3]);
        },
        |m, end| {
            assert_eq!(end, End::Vector(0x50));
            let frame = m.pushed(0x50);
            assert_eq!((frame.cs, frame.rip, frame.rsp), (0x1b, INSN + 14, USER_STACK));
            assert_eq!(m.cpu.user().gpr[0], INSN + 12, "the return address was on the stack");
        },
    );
    // SYSCALL does not exist there on Intel's processors.
    each(
        |a| {
            a.push(0x23)?;
            a.push(USER_STACK as i32)?;
            a.push(2)?;
            a.push(0x1b)?;
            a.push(INSN as i32)?;
            a.iretq()
        },
        |m| m.load(&[0x0f, 0x05]),
        |_, end| assert_eq!(end, End::Vector(6)),
    );
}

#[test]
fn call_gates_to_the_supervisor() {
    for options in options() {
        let mut m = Machine::new(options);
        // A 64-bit call gate with DPL 3 at 60h.
        let target = KERNEL_CODE;
        m.write_u64(GDT + 0x60, target & 0xffff | 8 << 16 | 0xec00 << 32 | (target & 0xffff_0000) << 32);
        m.write_u64(GDT + 0x68, target >> 32);
        let entry = assemble(KERNEL_CODE, |a| {
            a.mov(rax, cr0)?;
            a.db(&[0x48, 0xcb])
        });
        m.program(&entry);
        m.load(&[0x48, 0xff, 0x1b, 0xcd, 0x50]);
        m.write_u64(SCRATCH_FRAME + 0x1000, 0);
        m.write_u64(SCRATCH_FRAME + 0x1008, 0x63);
        let mut state = Machine::user_state();
        state.gpr[3] = DATA;
        m.cpu.set_state(&state);
        assert_eq!(m.run(), End::Vector(0x50));
        assert_eq!(m.pushed(0x50).rsp, USER_STACK);
        assert_eq!(m.cpu.user().gpr[0], state.cr0);
        // A gate that is not for CPL 3.
        let low = m.read_u64(GDT + 0x60);
        m.write_u64(GDT + 0x60, low & !(3 << 45));
        m.cpu.set_state(&state);
        assert_eq!(m.run(), End::Vector(13));
        assert_eq!(m.pushed(13).error, Some(0x60));
    }
}

#[test]
fn loads_mark_descriptors_accessed() {
    each(
        |a| {
            a.mov(eax, 0x10)?;
            a.mov(ds, eax)?;
            a.mov(fs, eax)?;
            a.hlt()
        },
        |m| {
            let clean = m.read_u64(GDT + 0x10) & !(1 << 40);
            m.write_u64(GDT + 0x10, clean);
        },
        |m, end| {
            assert!(matches!(end, End::Halt(_)));
            assert_ne!(m.read_u64(GDT + 0x10) & 1 << 40, 0);
        },
    );
}

#[test]
fn the_local_descriptor_table_and_the_task_register() {
    each(
        |a| {
            a.mov(eax, 0x60)?;
            a.lldt(ax)?;
            a.mov(eax, 0xc)?;
            a.mov(fs, eax)?;
            a.mov(rcx, qword_ptr(0x10).fs())?;
            // The TSS must be available to be loaded.
            a.mov(eax, 0x50)?;
            a.ltr(ax)?;
            a.str(edx)?;
            a.hlt()
        },
        |m| {
            // The LDT, of two entries, at KERNEL_DATA; entry 1 is data at KERNEL_DATA + 100h.
            let base = KERNEL_DATA;
            m.write_u64(GDT + 0x60, 15 | (base & 0xff_ffff) << 16 | 0x8200 << 32);
            m.write_u64(GDT + 0x68, 0);
            m.write_u64(KERNEL_DATA + 8, 0x00cf_9200_0000_ffff | ((base + 0x100) & 0xff_ffff) << 16);
            m.write_u64(KERNEL_DATA + 0x110, 0x1234_5678);
            let tss = m.read_u64(GDT + 0x50);
            m.write_u64(GDT + 0x50, tss & !(2 << 40));
        },
        |m, end| {
            assert!(matches!(end, End::Halt(_)), "{end:?}");
            let regs = m.cpu.user();
            assert_eq!((regs.gpr[1], regs.gpr[2]), (0x1234_5678, 0x50));
            assert_ne!(m.read_u64(GDT + 0x50) & 2 << 40, 0, "the TSS is busy");
            assert_eq!(m.cpu.state().tr.base, TSS);
        },
    );
}

/// Real mode to 64-bit mode, as an application processor starts.
#[test]
fn from_real_mode_to_long_mode() {
    for options in options() {
        let mut m = Machine::new(options);
        let start = 0xf000u64;
        m.write_u64(start + 0x100, u64::from(selector::LIMIT) | GDT << 16);
        let code = assemble_for(16, 0, |a| {
            a.cli()?;
            a.mov(ax, cs)?;
            a.mov(ds, ax)?;
            // LGDT [100h] with a 32-bit base.
            a.db(&[0x66, 0x0f, 0x01, 0x16, 0x00, 0x01])?;
            a.mov(eax, (cr4::PAE | cr4::PGE) as u32)?;
            a.mov(cr4, eax)?;
            a.mov(eax, PML4 as u32)?;
            a.mov(cr3, eax)?;
            a.mov(ecx, 0xc000_0080u32)?;
            a.rdmsr()?;
            a.or(eax, (efer::LME | efer::NXE | efer::SCE) as u32)?;
            a.wrmsr()?;
            a.mov(eax, (cr0::PE | cr0::PG | cr0::WP | cr0::NE) as u32)?;
            a.mov(cr0, eax)?;
            // JMP 8:KERNEL_CODE with a 32-bit offset.
            a.db(&[0x66, 0xea, 0, 0, 0x20, 0, 8, 0])
        });
        m.write(start, &code);
        let there = assemble(KERNEL_CODE, |a| {
            a.mov(eax, 0x10)?;
            a.mov(ss, eax)?;
            a.mov(rsp, STACK)?;
            a.mov(rcx, 0x1122_3344_5566_7788u64)?;
            a.push(rcx)?;
            a.hlt()
        });
        m.program(&there);
        let mut state = CpuState::reset();
        state.segments[1] = Segment { attributes: 0x9b, ..Segment::real(0xf00) };
        state.rip = 0;
        m.cpu.set_state(&state);
        assert_eq!(m.run(), End::Halt(KERNEL_CODE + there.len() as u64));
        assert_eq!(m.read_u64(STACK - 8), 0x1122_3344_5566_7788);
        let state = m.cpu.state();
        assert_eq!(state.efer, efer::LME | efer::LMA | efer::NXE | efer::SCE);
        assert_ne!(state.segments[1].attributes & Segment::LONG, 0);
    }
}

/// Protected mode with 32-bit paging: 4 KiB and 4 MiB pages, accessed and dirty bits, INVLPG of a 4 MiB page.
#[test]
fn paging_of_32_bits() {
    for options in options() {
        let mut m = Machine::new(options);
        let (directory, table, frame) = (m.frame(), m.frame(), m.frame());
        let entry = |m: &mut Machine, at: u64, v: u32| m.write(at, &v.to_le_bytes());
        // The first 4 MiB by one page, 80000000h by 4 KiB pages, C0000000h by a 4 MiB page on the second 4 MiB.
        entry(&mut m, directory, 0x83);
        entry(&mut m, directory + 4, 0x40_0083);
        entry(&mut m, directory + 0x200 * 4, table as u32 | 3);
        entry(&mut m, directory + 0x300 * 4, 0x40_0083);
        entry(&mut m, table + 5 * 4, frame as u32 | 3);
        m.write_u64(frame + 0x10, 0x55);
        m.write_u64(0x40_0000 + 0x30_0010, 0x77);
        let code = assemble_for(32, KERNEL_CODE, |a| {
            a.mov(eax, dword_ptr(0x8000_5010u32))?;
            a.mov(ebx, dword_ptr(0xc030_0010u32))?;
            a.mov(ecx, dword_ptr(0xc010_0010u32))?;
            a.inc(dword_ptr(0x8000_5010u32))?;
            // The 4 MiB page moves to the first 4 MiB; one INVLPG anywhere in it drops it all.
            a.mov(edi, (directory + 0x300 * 4) as u32)?;
            a.mov(dword_ptr(edi), 0x83)?;
            a.mov(esi, 0xc020_0000u32)?;
            a.invlpg(ptr(esi))?;
            a.mov(edx, dword_ptr(0xc030_0010u32))?;
            a.hlt()
        });
        m.program(&code);
        m.write_u64(KERNEL_DATA + 0x10, 0x99);
        let mut state = Machine::supervisor_state();
        state.efer = 0;
        state.cr4 = cr4::PSE;
        state.cr3 = directory;
        for (k, s) in state.segments.iter_mut().enumerate() {
            s.attributes = if k == 1 { 0xc09b } else { 0xc093 };
        }
        m.cpu.set_state(&state);
        assert_eq!(m.run(), End::Halt(KERNEL_CODE + code.len() as u64));
        let regs = m.cpu.user();
        assert_eq!((regs.gpr[0], regs.gpr[3], regs.gpr[2]), (0x55, 0x77, 0x99));
        assert_eq!(m.read_u64(frame + 0x10), 0x56);
        let flags = |at: u64| m.read_u64(at & !7) >> (8 * (at & 4)) & 0x60;
        assert_eq!(flags(table + 5 * 4), 0x60);
        assert_eq!(flags(directory + 0x200 * 4), 0x20, "D is for pages");
    }
}

/// PAE paging outside of long mode: PDPTEs are registers, loaded with CR3.
#[test]
fn paging_with_pae() {
    for options in options() {
        let mut m = Machine::new(options);
        let (pdpt, directory, table, frame) = (m.frame(), m.frame(), m.frame(), m.frame());
        m.write_u64(pdpt, directory | 1);
        m.write_u64(pdpt + 16, directory | 1);
        for k in 0..4 {
            m.write_u64(directory + 8 * k, k << 21 | 0x83);
        }
        m.write_u64(directory + 8 * 7, table | 3);
        m.write_u64(table + 8 * 3, frame | 3);
        m.write_u64(frame + 8, 0x55);
        let code = assemble_for(32, KERNEL_CODE, |a| {
            a.mov(eax, pdpt as u32)?;
            a.mov(cr3, eax)?;
            a.mov(eax, (cr4::PAE) as u32)?;
            a.mov(cr4, eax)?;
            a.mov(eax, (cr0::PE | cr0::PG | cr0::NE) as u32)?;
            a.mov(cr0, eax)?;
            a.mov(ecx, dword_ptr(0x80e0_3008u32))?;
            a.mov(edx, dword_ptr(0x4000_0000u32))?;
            a.hlt()
        });
        m.program(&code);
        let mut state = Machine::supervisor_state();
        state.efer = 0;
        state.cr4 = 0;
        state.cr0 = cr0::PE;
        for (k, s) in state.segments.iter_mut().enumerate() {
            s.attributes = if k == 1 { 0xc09b } else { 0xc093 };
        }
        m.cpu.set_state(&state);
        // The read of 40000000h faults; its handler is a 64-bit one, so the CPU shuts down.
        let _ = m.run();
        let state = m.cpu.state();
        assert_eq!(state.gpr[1], 0x55);
        assert_eq!(state.cr2, 0x4000_0000);
        assert_eq!(state.pdptrs, [directory | 1, 0, directory | 1, 0]);
    }
}

#[test]
fn fxsave_and_xsave_round_trips() {
    for options in options() {
        let mut m = Machine::new(options);
        let code = assemble(KERNEL_CODE, |a| {
            a.mov(rdi, KERNEL_DATA)?;
            a.mov(eax, 3)?;
            a.xor(edx, edx)?;
            a.fld1()?;
            a.fldpi()?;
            a.fxsave64(ptr(rdi))?;
            a.xsave64(ptr(rdi + 0x400))?;
            a.fninit()?;
            a.pxor(xmm3, xmm3)?;
            a.ldmxcsr(dword_ptr(rdi + 0x1000))?;
            a.hlt()?;
            a.fxrstor64(ptr(rdi))?;
            a.hlt()?;
            a.fninit()?;
            a.pxor(xmm3, xmm3)?;
            a.xrstor64(ptr(rdi + 0x400))?;
            a.hlt()?;
            // Only SSE: x87 stays.
            a.fninit()?;
            a.mov(eax, 2)?;
            a.pxor(xmm3, xmm3)?;
            a.xrstor64(ptr(rdi + 0x400))?;
            a.hlt()?;
            // A component that XSTATE_BV says is initial becomes so.
            a.mov(qword_ptr(rdi + 0x600), 1)?;
            a.mov(eax, 3)?;
            a.xrstor64(ptr(rdi + 0x400))?;
            a.hlt()?;
            // A reserved bit of the header.
            a.mov(qword_ptr(rdi + 0x608), 1)?;
            a.nop()?;
            a.xrstor64(ptr(rdi + 0x400))?;
            a.hlt()
        });
        m.program(&code);
        m.write(KERNEL_DATA + 0x1000, &[0x80, 0x1f, 0, 0]);
        let mut state = Machine::supervisor_state();
        state.cr4 |= cr4::OSXSAVE;
        state.xcr0 = 3;
        state.mxcsr = 0x5fa0;
        state.xmm[3] = 0x1111_2222_3333_4444_5555_6666_7777_8888;
        m.cpu.set_state(&state);
        let go = |m: &mut Machine| {
            m.cpu.wake();
            m.run()
        };
        assert!(matches!(m.run(), End::Halt(_)));
        assert_eq!((m.cpu.user().xmm[3], m.cpu.user().x87.tags), (0, 0));
        for _ in 0..2 {
            assert!(matches!(go(&mut m), End::Halt(_)));
            let user = m.cpu.user();
            assert_eq!((user.xmm[3], user.mxcsr), (state.xmm[3], 0x5fa0));
            assert_eq!((user.x87.top(), user.x87.tags), (6, 0xc0));
            assert_eq!(user.x87.regs[7].significand, 1 << 63);
            assert_eq!(user.x87.regs[6].significand, 0xc90f_daa2_2168_c235);
        }
        assert!(matches!(go(&mut m), End::Halt(_)));
        assert_eq!((m.cpu.user().xmm[3], m.cpu.user().x87.tags), (state.xmm[3], 0));
        assert!(matches!(go(&mut m), End::Halt(_)));
        assert_eq!((m.cpu.user().xmm[3], m.cpu.user().x87.tags), (0, 0xc0));
        assert_eq!(go(&mut m), End::Vector(13));
    }
}

/// A user page that only the supervisor's GDT makes reachable: descriptor reads are supervisor accesses, SMAP or not.
#[test]
fn system_tables_are_read_as_the_supervisor_does() {
    for options in options() {
        let mut m = Machine::new(options);
        let gdt = 0x9000_0000u64;
        m.map(gdt, GDT, Level::Small, pte::P | pte::W);
        let mut state = Machine::user_state();
        state.gdtr.base = gdt;
        m.cpu.set_state(&state);
        // MOV ES, 23h at CPL 3 reads the GDT, which CPL 3 cannot.
        m.load(&[0xb8, 0x23, 0, 0, 0, 0x8e, 0xc0, 0xcd, 0x50]);
        assert_eq!(m.run(), End::Vector(0x50));
        // In a user page, with SMAP, the same read faults.
        m.map(gdt, GDT, Level::Small, pte::P | pte::W | pte::U);
        state.cr4 |= cr4::SMAP;
        m.cpu.set_state(&state);
        m.load(&[0xb8, 0x23, 0, 0, 0, 0x8e, 0xc0, 0xcd, 0x50]);
        // So does the read of the handler's code segment: a double fault, and a triple one.
        assert_eq!(m.run(), End::Shutdown);
        assert_eq!(m.cpu.state().cr2 & !0xfff, gdt);
    }
}
