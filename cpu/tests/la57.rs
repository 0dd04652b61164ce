//! 5-level paging: SDM 3A "4-Level Paging and 5-Level Paging".

use iced_x86::{IcedError, code_asm::*};
use softmetal_cpu::state::cr4;
use softmetal_cpu_testing::{
    End, Machine, assemble,
    layout::{KERNEL_CODE, KERNEL_DATA, PML4},
    options, pte,
};

type Build = fn(&mut CodeAssembler) -> Result<(), IcedError>;

const PML5: u64 = 0x40_0000;
/// The same memory again, reached by the last entry of the PML5.
const HIGH: u64 = 0xffff_0000_0000_0000;

/// A machine with five levels (or four) that runs a program at CPL 0.
fn run(la57: bool, build: Build, mut test: impl FnMut(&mut Machine, End)) {
    let code = assemble(KERNEL_CODE, build);
    for options in options() {
        let mut m = Machine::new(options);
        m.program(&code);
        m.write_u64(PML5, PML4 | pte::P | pte::W | pte::U);
        m.write_u64(PML5 + 511 * 8, PML4 | pte::P | pte::W);
        m.write_u64(PML5 + 510 * 8, PML4 | pte::P | pte::W | pte::PS);
        if la57 {
            let mut state = m.cpu.state();
            state.cr4 |= cr4::LA57;
            state.cr3 = PML5;
            m.cpu.set_state(&state);
        }
        let end = m.run();
        test(&mut m, end);
    }
}

#[test]
fn the_fifth_level_translates() {
    run(
        true,
        |a| {
            a.mov(rbx, HIGH + KERNEL_DATA)?;
            a.mov(dword_ptr(rbx), 0x1234)?;
            a.mov(rbx, KERNEL_DATA)?;
            a.mov(eax, dword_ptr(rbx))?;
            a.hlt()
        },
        |m, end| {
            assert!(matches!(end, End::Halt(_)), "{end:?}");
            assert_eq!(m.cpu.state().gpr[0], 0x1234);
            assert_eq!(m.read_u64(PML5 + 511 * 8) & pte::A, pte::A);
        },
    );
}

#[test]
fn faults_of_the_fifth_level() {
    let cases: &[(Build, u8, u64, u64)] = &[
        (|a| read(a, 0x0001_0000_0000_0000), 14, 0, 0x0001_0000_0000_0000),
        (|a| read(a, 0xfffe_0000_0000_0000), 14, 9, 0xfffe_0000_0000_0000),
        (|a| read(a, 0x0100_0000_0000_0000), 13, 0, 0),
        (|a| read(a, 0xfe00_0000_0000_0000), 13, 0, 0),
        (|a| read(a, 0x00ff_ffff_ffff_fffc), 13, 0, 0),
    ];
    for &(build, vector, error, address) in cases {
        run(true, build, |m, end| {
            assert_eq!(end, End::Vector(vector), "{address:#x}");
            assert_eq!((m.pushed(vector).error, m.cpu.state().cr2), (Some(error), address));
        });
    }
}

fn read(a: &mut CodeAssembler, at: u64) -> Result<(), IcedError> {
    a.mov(rbx, at)?;
    a.mov(rax, qword_ptr(rbx))
}

#[test]
fn la57_cannot_change_in_long_mode() {
    let toggle: Build = |a| {
        a.mov(rax, cr4)?;
        a.xor(rax, 0x1000)?;
        a.mov(cr4, rax)
    };
    for la57 in [false, true] {
        run(la57, toggle, |_, end| assert_eq!(end, End::Vector(13)));
    }
}

/// Bases and MSRs take 57 bits whatever CR4.LA57 says; accesses through them check what it says.
#[test]
fn bases_are_checked_for_57_bits() {
    for la57 in [false, true] {
        let good: Build = |a| {
            a.mov(ecx, 0xc000_0101u32)?;
            a.mov(edx, 0x00fe_0000)?;
            a.xor(eax, eax)?;
            a.wrmsr()?;
            a.lgdt(ptr(KERNEL_DATA))?;
            a.hlt()
        };
        let code = assemble(KERNEL_CODE, good);
        for options in options() {
            let mut m = Machine::new(options);
            m.program(&code);
            m.write(KERNEL_DATA, &[0xff, 0, 0, 0x40, 0, 0, 0, 0, 0xfe, 0xff]);
            m.write_u64(PML5, PML4 | pte::P | pte::W | pte::U);
            let mut state = m.cpu.state();
            if la57 {
                state.cr4 |= cr4::LA57;
                state.cr3 = PML5;
            }
            m.cpu.set_state(&state);
            assert!(matches!(m.run(), End::Halt(_)));
            assert_eq!(m.cpu.state().segments[5].base, 0x00fe_0000_0000_0000);
            assert_eq!(m.cpu.state().gdtr.base, 0xfffe_0000_0000_4000);
        }
        let bad: &[Build] = &[
            |a| write_msr(a, 0xc000_0100, 0x0100_0000),
            |a| write_msr(a, 0xc000_0101, 0xfe00_0000),
            |a| write_msr(a, 0xc000_0102, 0x0100_0000),
            |a| write_msr(a, 0xc000_0082, 0x0100_0000),
            |a| write_msr(a, 0x175, 0x0100_0000),
            |a| write_msr(a, 0x176, 0x0100_0000),
        ];
        for &build in bad {
            run(la57, build, |m, end| {
                assert_eq!(end, End::Vector(13));
                assert_eq!(m.pushed(13).error, Some(0));
            });
        }
    }
    run(
        false,
        |a| {
            write_msr(a, 0xc000_0101, 0x00fe_0000)?;
            a.mov(eax, dword_ptr(0).gs())
        },
        |_, end| assert_eq!(end, End::Vector(13)),
    );
}

fn write_msr(a: &mut CodeAssembler, msr: u32, high: u32) -> Result<(), IcedError> {
    a.mov(ecx, msr)?;
    a.mov(edx, high)?;
    a.xor(eax, eax)?;
    a.wrmsr()
}
