//! A TSS over two pages that do not lie side by side: SDM 3A "Task-State Segment (TSS)".

use softmetal_cpu_testing::{
    End, Level, Machine,
    layout::{INSN, STACK, TSS},
    options, pte,
};

/// Two pages where nothing is.
const PAGES: u64 = 0x5000_0000;

/// A machine whose TSS begins so that byte `at` of it is the first of the second page.
fn machine(options: softmetal_cpu::Options, at: u64) -> (Machine, [u64; 2]) {
    let mut m = Machine::new(options);
    let tss = m.bytes(TSS, 0x400);
    let base = PAGES + 0x1000 - at;
    m.frame();
    let first = m.frame();
    m.frame();
    let second = m.frame();
    for (page, frame) in [(PAGES, first), (PAGES + 0x1000, second)] {
        m.map(page, frame, Level::Small, pte::P | pte::W);
    }
    m.write(first + 0x1000 - at, &tss[..at as usize]);
    m.write(second, &tss[at as usize..]);
    let mut state = Machine::user_state();
    state.tr.base = base;
    m.cpu.set_state(&state);
    (m, [first, second])
}

#[test]
fn stack_pointers_are_put_together() {
    for options in options() {
        for at in 5..12 {
            let (mut m, _) = machine(options, at);
            m.load(&[0xcd, 0x40]);
            assert_eq!(m.run(), End::Vector(0x40));
            assert_eq!(m.cpu.state().gpr[4], STACK - 40);
        }
    }
}

#[test]
fn so_are_the_maps_offset_and_the_map() {
    for options in options() {
        for at in [103, 104 + 0xe, 104 + 0xf] {
            let (mut m, [first, second]) = machine(options, at);
            let mut put = |offset: u64, byte: u8| {
                let physical = if offset < at { first + 0x1000 - at + offset } else { second + offset - at };
                m.write(physical, &[byte]);
            };
            // Ports 78h and 79h are allowed, 7Ah is not.
            put(104 + 0xf, 0xfc);
            m.load(&[0xe4, 0x78, 0xe4, 0x7a]);
            assert_eq!(m.run(), End::Vector(13), "{at}");
            assert_eq!(m.pushed(13).rip, INSN + 2, "the first IN is allowed, with the map cut at {at}");
            assert_eq!(m.cpu.state().gpr[0], 0x78);
        }
    }
}

#[test]
fn a_missing_second_page_is_a_page_fault_of_the_instruction() {
    for options in options() {
        let (mut m, _) = machine(options, 104 + 0xf);
        m.map(PAGES + 0x1000, 0, Level::Small, 0);
        m.cpu.flush();
        m.load(&[0xe4, 0x78]);
        assert_eq!(m.run(), End::Vector(14));
        let frame = m.pushed(14);
        assert_eq!((frame.rip, frame.error, m.cpu.state().cr2), (INSN, Some(0), PAGES + 0x1000));
    }
}
