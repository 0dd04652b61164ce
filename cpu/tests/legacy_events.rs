//! Interrupts and returns outside of long mode: 16-bit gates, virtual interrupt flags, PDPTEs, what IRET refuses.

mod legacy_machine;

use iced_x86::code_asm::*;
use legacy_machine::*;
use softmetal_cpu::{
    Request,
    state::{cr0, cr4, efer},
};
use softmetal_cpu_testing::{
    End, Machine, flag,
    layout::{HANDLERS, IDT, KERNEL_CODE, KERNEL_DATA, STACK},
    options,
};

const VIF: u64 = 1 << 19;
const VIP: u64 = 1 << 20;

fn word(m: &Machine, n: u64) -> u16 {
    read16(m, m.cpu.state().gpr[4] + 2 * n)
}

fn double(m: &Machine, n: u64) -> u32 {
    read32(m, m.cpu.state().gpr[4] + 4 * n)
}

/// SDM 3A "IDT Descriptors": a 16-bit gate pushes words, and has an offset of 16 bits.
#[test]
fn a_16_bit_interrupt_gate_pushes_words() {
    for options in options() {
        let mut m = protected(options);
        m.write_u64(IDT + 8 * 0x33, gate(CODE, HANDLERS + 0x330, 0xe6, 0));
        m.write_u64(IDT + 8 * 13, gate(CODE, HANDLERS + 0xd0, 0x87, 0));
        m.cpu.set_state(&user_state());
        m.write(USER_PROGRAM, &[0xcd, 0x33]);
        assert_eq!(m.run(), End::Vector(0x33));
        assert_eq!(m.cpu.state().gpr[4], RING0_STACK - 10);
        let frame: Vec<u16> = (0..5).map(|n| word(&m, n)).collect();
        assert_eq!(frame, [USER_PROGRAM as u16 + 2, USER_CODE, 0x202, RING3_STACK as u16, USER_DATA]);
        assert_eq!(m.cpu.state().rflags & flag::IF, 0);
        // A trap gate of 16 bits with an error code, IF untouched.
        let mut m = protected(options);
        m.write_u64(IDT + 8 * 13, gate(CODE, HANDLERS + 0xd0, 0x87, 0));
        m.cpu.set_state(&user_state());
        m.write(USER_PROGRAM, &[0xf4]);
        assert_eq!(m.run(), End::Vector(13));
        assert_eq!((word(&m, 0), word(&m, 1)), (0, USER_PROGRAM as u16));
        assert_ne!(m.cpu.state().rflags & flag::IF, 0);
    }
}

#[test]
fn a_push_beyond_an_inner_stack_names_its_selector() {
    for options in options() {
        let mut m = protected(options);
        // Room for two words of the frame in SMALL, whose limit is Fh.
        write32(&mut m, TSS_A + 4, 8);
        write32(&mut m, TSS_A + 8, SMALL.into());
        m.write_u64(IDT + 8 * 12, gate(TASK_B, 0, 0x85, 0));
        m.write(TASK_B_CODE, &[0xf4]);
        m.cpu.set_state(&user_state());
        m.write(USER_PROGRAM, &[0xcd, 0x40]);
        assert_eq!(m.run(), End::Halt(TASK_B_CODE + 1));
        assert_eq!(double(&m, 0), u32::from(SMALL));
        assert_eq!(read32(&m, TSS_A + 32), USER_PROGRAM as u32, "the INT has not happened");
        assert_eq!(read32(&m, TSS_A + 56), RING3_STACK as u32);
        assert_eq!(read16(&m, TSS_A + 80), USER_DATA);
    }
}

/// SDM 2A "IRET", with VME and without I/O privilege.
#[test]
fn iret_of_a_virtual_8086_program_sets_vif() {
    for options in options() {
        // The image of FLAGS, VIP, then the vector, VIF and IP.
        for (image, pending, vector, virtual_if) in
            [(0x0202u16, 0, 3, true), (0x0002, 0, 3, false), (0x0202, VIP, 13, false), (0x0102, 0, 13, false)]
        {
            let mut m = protected(options);
            let mut state = v86_state(0);
            state.cr4 = cr4::VME;
            state.rflags |= pending;
            m.cpu.set_state(&state);
            m.write(V86_PROGRAM, &[0xcf]);
            let mut frame = 0x100u16.to_le_bytes().to_vec();
            frame.extend(((V86_PROGRAM >> 4) as u16).to_le_bytes());
            frame.extend(image.to_le_bytes());
            m.write(V86_PROGRAM + 0x1000, &frame);
            m.write(V86_PROGRAM + 0x100, &[0xcc]);
            assert_eq!(m.run(), End::Vector(vector), "{image:#x} {pending:#x}");
            if vector == 3 {
                assert_eq!(double(&m, 0), 0x101);
                let flags = u64::from(double(&m, 2));
                assert_eq!(flags & VIF != 0, virtual_if);
                assert_ne!(flags & flag::IF, 0, "IF is the monitor's");
                assert_eq!(double(&m, 3), 0x1006);
            } else {
                assert_eq!(double(&m, 1), 0);
            }
        }
    }
}

/// SDM 3B "Protected-Mode Virtual Interrupts".
#[test]
fn pvi_gives_user_code_a_virtual_interrupt_flag() {
    for options in options() {
        for (control, pending, vector) in [(cr4::PVI, 0, 3), (0, 0, 13), (cr4::PVI, VIP, 13)] {
            let mut m = protected(options);
            let mut state = user_state();
            state.cr4 = control;
            state.rflags |= pending;
            m.cpu.set_state(&state);
            m.write(USER_PROGRAM, &[0xfb, 0xcc]);
            assert_eq!(m.run(), End::Vector(vector));
            if vector == 3 {
                assert_ne!(u64::from(double(&m, 2)) & VIF, 0);
            }
        }
    }
}

/// SDM 3B "Class 2—Maskable Hardware Interrupt Handling in Virtual-8086 Mode Using the Virtual Interrupt Mechanism": VIF and
/// VIP at the beginning of an instruction.
#[test]
fn a_virtual_interrupt_that_waits_stops_the_next_instruction() {
    for options in options() {
        // The mode, IOPL, and the vector: #GP at once, or the program's INT3.
        for (v86, control, iopl, vector) in [
            (true, cr4::VME, 0, 13),
            (true, cr4::VME, 3, 3),
            (true, 0, 0, 3),
            (false, cr4::PVI, 0, 13),
            (false, cr4::PVI, 3, 3),
            (false, cr4::VME, 0, 3),
        ] {
            let mut m = protected(options);
            let mut state = if v86 { v86_state(iopl) } else { user_state() };
            state.cr4 = control;
            state.rflags |= VIF | VIP | iopl << 12;
            m.cpu.set_state(&state);
            m.write(if v86 { V86_PROGRAM } else { USER_PROGRAM }, &[0xcc]);
            assert_eq!(m.run(), End::Vector(vector), "V86 {v86}, CR4 {control:#x}, IOPL {iopl}");
            if vector == 13 {
                let start = if v86 { 0 } else { USER_PROGRAM as u32 };
                assert_eq!((double(&m, 0), double(&m, 1)), (0, start));
            }
        }
    }
}

#[test]
fn iret_to_virtual_8086_mode_checks_its_ip() {
    for options in options() {
        let mut m = protected(options);
        m.program(&code(32, KERNEL_CODE, |a| {
            for _ in 0..6 {
                a.push(0x1000)?;
            }
            a.push(0x2_0202)?;
            a.push(0x1000)?;
            a.push(0x1_0000)?;
            a.iretd()
        }));
        assert_eq!(m.run(), End::Vector(13));
        assert_eq!(double(&m, 0), 0);
    }
}

/// SDM 3A "Handling Multiple NMIs": IRET ends the blocking, a faulting one too.
#[test]
fn a_faulting_iret_unblocks_nmis() {
    for options in options() {
        let mut m = protected(options);
        // The NMI handler returns to a null selector; #GP's handler halts, and the next NMI comes there.
        m.write(HANDLERS + 0x20, &[0x83, 0x64, 0x24, 0x04, 0x00, 0xcf]);
        m.program(&[0x90, 0xf4]);
        m.cpu.attention().request(Request::NMI);
        assert_eq!(m.run(), End::Vector(13));
        assert!(!m.cpu.state().nmi_blocked);
    }
}

/// SDM 3A "PDPTE Registers".
#[test]
fn pdptes_are_registers() {
    for options in options() {
        let mut m = protected(options);
        let (table, directory) = (0x40_0020u64, 0x40_1000);
        m.write_u64(table, directory | 1);
        for k in 0..4u64 {
            m.write_u64(directory + 8 * k, k << 21 | 0x83);
        }
        let mut state = state();
        state.cr3 = table;
        state.cr4 |= cr4::PAE;
        m.cpu.set_state(&state);
        m.program(&code(32, KERNEL_CODE, |a| {
            a.mov(eax, cr0)?;
            a.or(eax, 0x8000_0000u32 as i32)?;
            a.mov(cr0, eax)?;
            // What memory says does not matter before CR3 is loaded.
            a.mov(dword_ptr(table as u32), 0)?;
            a.mov(ecx, dword_ptr(KERNEL_DATA as u32))?;
            a.hlt()
        }));
        m.write(KERNEL_DATA, &[0x44, 0x33, 0x22, 0x11]);
        assert!(matches!(m.run(), End::Halt(_)));
        assert_eq!(m.cpu.state().gpr[1], 0x1122_3344);
        assert_eq!(m.cpu.state().pdptrs[0], directory | 1);
    }
}

/// SDM 3A "Initializing IA-32e Mode": TR may not hold a 16-bit TSS.
#[test]
fn long_mode_refuses_a_16_bit_tss() {
    for (rights, goes) in [(0x8b, true), (0x83, false)] {
        for options in options() {
            let mut m = protected(options);
            let (pml4, pdpt) = (0x40_0000u64, 0x40_1000u64);
            m.write_u64(pml4, pdpt | 3);
            m.write_u64(pdpt, 0x83);
            let mut state = state();
            state.cr3 = pml4;
            state.cr4 |= cr4::PAE;
            state.efer |= efer::LME;
            state.tr.attributes = rights;
            m.cpu.set_state(&state);
            m.program(&code(32, KERNEL_CODE, |a| {
                a.mov(eax, cr0)?;
                a.or(eax, 0x8000_0000u32 as i32)?;
                a.mov(cr0, eax)?;
                a.hlt()
            }));
            let end = m.run();
            assert_eq!(matches!(end, End::Halt(_)), goes, "{end:?}");
            assert_eq!(m.cpu.state().cr0 & cr0::PG != 0, goes);
            assert!(goes || end == End::Vector(13) && m.cpu.state().gpr[4] < STACK);
        }
    }
}
