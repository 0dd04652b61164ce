//! Protection keys: SDM 3A "Protection Keys".

use iced_x86::code_asm::*;
use softmetal_cpu::state::{cr0, cr4};
use softmetal_cpu_testing::{
    End, Level, Machine, assemble,
    layout::{DATA, INSN, KERNEL_CODE, KERNEL_DATA, SCRATCH_FRAME},
    options, pte,
};

const KEY: u64 = 5;
/// The page of [`DATA`] in physical memory.
const FRAME: u64 = SCRATCH_FRAME + 0x1000;

/// A machine whose page of [`DATA`] has key 5.
fn machine(options: softmetal_cpu::Options, pkru: u32, user: bool) -> Machine {
    let mut m = Machine::new(options);
    m.map(DATA, FRAME, Level::Small, pte::P | pte::W | pte::U | KEY << 59);
    let mut state = if user { Machine::user_state() } else { Machine::supervisor_state() };
    state.cr4 |= cr4::PKE;
    state.pkru = pkru;
    state.gpr[3] = DATA + 8;
    m.cpu.set_state(&state);
    m
}

#[test]
fn keys_deny_reads_and_writes_of_user_pages() {
    // PKRU, a store, the error code if it is denied: at CPL 3 and at CPL 0 with WP.
    let cases = [
        (0, false, None),
        (0, true, None),
        (1 << (2 * KEY), false, Some(0x21)),
        (1 << (2 * KEY), true, Some(0x23)),
        (2 << (2 * KEY), false, None),
        (2 << (2 * KEY), true, Some(0x23)),
        (!(3 << (2 * KEY)) & !3, true, None),
    ];
    for options in options() {
        for (pkru, write, error) in cases {
            for user in [true, false] {
                let mut m = machine(options, pkru, user);
                let code: &[u8] = if write { &[0x88, 0x03, 0xcc] } else { &[0x8a, 0x03, 0xcc] };
                m.load(code);
                m.program(code);
                match error {
                    None => assert_eq!(m.run(), End::Vector(3), "{pkru:#x} {write} {user}"),
                    Some(code) => {
                        assert_eq!(m.run(), End::Vector(14), "{pkru:#x} {write} {user}");
                        let code = code | if user { 4 } else { 0 };
                        assert_eq!((m.pushed(14).error, m.cpu.state().cr2), (Some(code), DATA + 8));
                        assert_eq!(m.pushed(14).rip, if user { INSN } else { KERNEL_CODE });
                    }
                }
            }
        }
    }
}

#[test]
fn without_wp_the_supervisor_may_write() {
    for options in options() {
        let mut m = machine(options, 2 << (2 * KEY), false);
        let mut state = m.cpu.state();
        state.cr0 &= !cr0::WP;
        m.cpu.set_state(&state);
        m.program(&[0x88, 0x03, 0xcc]);
        assert_eq!(m.run(), End::Vector(3));
    }
}

/// A page that was used stays denied or allowed as PKRU says at each access, key 0 too.
#[test]
fn wrpkru_takes_effect_at_once() {
    for options in options() {
        for key in [0, KEY] {
            let mut m = machine(options, 0, false);
            m.map(DATA, FRAME, Level::Small, pte::P | pte::W | pte::U | key << 59);
            let denied = 1u32 << (2 * key);
            m.program(&assemble(KERNEL_CODE, |a| {
                a.mov(byte_ptr(rbx), 1)?;
                a.xor(ecx, ecx)?;
                a.xor(edx, edx)?;
                a.mov(eax, denied)?;
                a.wrpkru()?;
                a.xor(eax, eax)?;
                a.rdpkru()?;
                a.mov(byte_ptr(rbx), 2)
            }));
            assert_eq!(m.run(), End::Vector(14), "key {key}");
            assert_eq!(m.pushed(14).error, Some(0x23));
            assert_eq!((m.cpu.state().gpr[0], m.cpu.state().pkru), (denied.into(), denied));
            let mut byte = [0];
            m.read(FRAME + 8, &mut byte);
            assert_eq!(byte, [1]);
        }
    }
}

#[test]
fn rdpkru_and_wrpkru_fault() {
    let cases = [(false, 0, 0, 6), (true, 1, 0, 13), (true, 0, 1, 13)];
    for options in options() {
        for (enabled, count, upper, vector) in cases {
            let mut m = machine(options, 0, true);
            let mut state = m.cpu.state();
            state.cr4 &= if enabled { u64::MAX } else { !cr4::PKE };
            (state.gpr[1], state.gpr[2]) = (count, upper);
            m.cpu.set_state(&state);
            m.load(&[0x0f, 0x01, 0xef]);
            assert_eq!(m.run(), End::Vector(vector));
        }
    }
}

#[test]
fn xsave_and_xrstor_carry_pkru() {
    for options in options() {
        let mut m = Machine::new(options);
        let mut state = Machine::supervisor_state();
        state.cr4 |= cr4::PKE | cr4::OSXSAVE;
        state.xcr0 = 0x203;
        state.pkru = 0x5555_5554;
        m.cpu.set_state(&state);
        m.program(&assemble(KERNEL_CODE, |a| {
            a.mov(rbx, KERNEL_DATA)?;
            a.mov(eax, 0x200)?;
            a.xor(edx, edx)?;
            a.xsave(ptr(rbx))?;
            a.xor(ecx, ecx)?;
            a.xor(eax, eax)?;
            a.wrpkru()?;
            a.mov(eax, 0x200)?;
            a.xrstor(ptr(rbx))?;
            a.hlt()
        }));
        assert!(matches!(m.run(), End::Halt(_)));
        assert_eq!(m.cpu.state().pkru, 0x5555_5554);
        assert_eq!(m.read_u64(KERNEL_DATA + 2688), 0x5555_5554);
        assert_eq!(m.read_u64(KERNEL_DATA + 512), 0x200);
    }
}
