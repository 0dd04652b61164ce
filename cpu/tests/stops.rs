//! Where a debugger stops a CPU, and single steps.

use iced_x86::code_asm::*;
use softmetal_cpu::{Exit, Options, Translate};
use softmetal_cpu_testing::{Level, Machine, assemble, layout::*};

/// As often as the loop of [`machine`] turns.
const TURNS: u64 = 5000;
/// Behind the first instruction, `mov ecx, TURNS`, the loop begins; its second instruction is three bytes on.
const LOOP: u64 = KERNEL_CODE + 5;

/// A loop that adds up, and HLT.
fn machine(options: Options) -> Machine {
    let mut machine = Machine::new(options);
    machine.program(&assemble(KERNEL_CODE, |a| {
        let mut again = a.create_label();
        a.mov(ecx, TURNS as u32)?;
        a.set_label(&mut again)?;
        a.add(rax, rcx)?;
        a.inc(rbx)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    }));
    machine
}

/// The interpreter, and the translator as early as it can.
fn engines() -> Vec<Options> {
    let at_once = Translate { threshold: 0, at_once: true, one_pass: None, paths: None };
    let one_pass = Translate { one_pass: Some(0), paths: Some(3), ..Translate::default() };
    let translated = [at_once, one_pass].map(|jit| Options { jit: Some(jit), ..Options::default() });
    let mut engines = vec![Options::default(), Options { counting: true, ..Options::default() }];
    if softmetal_cpu::HAS_TRANSLATOR {
        engines.extend(translated);
    }
    engines
}

#[test]
fn it_stops_each_time_before_the_instruction() {
    for options in engines() {
        let mut machine = machine(options);
        machine.cpu.set_stops(&[LOOP + 3, LOOP + 3]);
        assert_eq!(machine.cpu.stops(), [LOOP + 3]);
        for turn in 0..TURNS {
            assert_eq!(machine.cpu.run(), Exit::Breakpoint, "turn {turn}");
            let state = machine.cpu.state();
            assert_eq!((state.rip, state.gpr[3], state.gpr[1]), (LOOP + 3, turn, TURNS - turn));
            assert!(machine.cpu.is_passing());
        }
        assert_eq!(machine.cpu.run(), Exit::Halted);
        assert_eq!(
            (machine.cpu.state().gpr[3], machine.cpu.state().gpr[0]),
            (TURNS, TURNS * (TURNS + 1) / 2)
        );
    }
}

#[test]
fn code_that_is_hot_stops_from_the_moment_it_is_asked_to() {
    for options in engines() {
        let mut machine = machine(options);
        assert_eq!(machine.cpu.run_for(4 * 1000 + 1), Exit::Counted);
        machine.cpu.set_stops(&[LOOP]);
        // It is the next one.
        assert_eq!(machine.cpu.run(), Exit::Breakpoint);
        assert_eq!(machine.cpu.state().gpr[3], 1000);
        assert_eq!(machine.cpu.run(), Exit::Breakpoint);
        assert_eq!(machine.cpu.state().gpr[3], 1001);
        machine.cpu.set_stops(&[]);
        assert_eq!(machine.cpu.run(), Exit::Halted);
        assert_eq!(machine.cpu.state().gpr[3], TURNS);
    }
}

#[test]
fn the_same_code_at_another_address_runs_on() {
    const ALIAS: u64 = 0x7000_0000;
    for options in engines() {
        let mut machine = machine(options);
        machine.map(ALIAS, KERNEL_CODE & !0xfff, Level::Small, 3);
        let offset = KERNEL_CODE & 0xfff;
        machine.cpu.set_stops(&[ALIAS + offset + 5]);
        assert_eq!(machine.cpu.run(), Exit::Halted);
        assert_eq!(machine.cpu.state().gpr[3], TURNS);
        let mut state = machine.cpu.state();
        (state.rip, state.activity) = (ALIAS + offset, softmetal_cpu::Activity::Active);
        machine.cpu.set_state(&state);
        for _ in 0..3 {
            assert_eq!(machine.cpu.run(), Exit::Breakpoint);
        }
        assert_eq!((machine.cpu.state().gpr[3], machine.cpu.state().rip), (TURNS + 2, ALIAS + offset + 5));
    }
}

#[test]
fn counts_are_what_they_are_without() {
    let mut machine = machine(Options { counting: true, ..Options::default() });
    machine.cpu.set_stops(&[LOOP + 3]);
    let start = machine.cpu.instructions();
    let mut stops = 0;
    while machine.cpu.instructions() - start < 4001 {
        let left = 4001 - (machine.cpu.instructions() - start);
        stops += u32::from(machine.cpu.run_for(left) == Exit::Breakpoint);
    }
    assert_eq!((machine.cpu.instructions() - start, stops), (4001, 1000));
    assert_eq!(machine.cpu.state().rip, LOOP);
}

#[test]
fn a_step_is_one_instruction_also_where_it_stops() {
    for options in engines() {
        let mut machine = machine(options);
        machine.cpu.set_stops(&[LOOP, LOOP + 3]);
        for rip in [LOOP, LOOP + 3, LOOP + 6, LOOP + 8, LOOP] {
            assert_eq!(machine.cpu.single_step(), Exit::Counted);
            assert_eq!(machine.cpu.state().rip, rip);
        }
        assert_eq!(machine.cpu.stops().len(), 2);
        assert_eq!(machine.cpu.run(), Exit::Breakpoint);
        assert_eq!(machine.cpu.state().rip, LOOP);
    }
}

#[test]
fn an_interrupt_that_waits_comes_behind_the_step() {
    use softmetal_cpu::Bus;
    for options in engines() {
        let mut machine = machine(options);
        let mut state = machine.cpu.state();
        state.rflags |= 0x200;
        machine.cpu.set_state(&state);
        machine.interrupt(0x40);
        assert_eq!(machine.cpu.single_step(), Exit::Counted);
        assert_eq!(machine.cpu.state().rip, LOOP);
        assert!(machine.bus.has_interrupt(0));
        // Nor does one come between the stop and the instruction.
        machine.cpu.set_stops(&[LOOP]);
        machine.cpu.pass_stop();
        machine.cpu.run_for(1);
        assert_eq!(machine.cpu.state().gpr[0], TURNS);
    }
}
