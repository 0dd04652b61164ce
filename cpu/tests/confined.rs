//! Stretches that run in the place of another engine, which has the local APIC and the devices.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use softmetal_cpu::state::Shadow;
use softmetal_cpu::{Activity, Apart, Bus, Exit, Fault, Options};
use softmetal_cpu_testing::{Level, Machine, assemble, layout::*};
use vm_memory::{Bytes, GuestAddress};

/// An address behind the RAM, mapped with it.
const DEVICE: u64 = 0x4000_0000;
/// One that test programs reach it by.
const WINDOW: u64 = 0x3000_0000;

/// In the place of an engine that has the local APIC and the TSC.
const APART: Apart = Apart { system_only: true, interrupt: false, local_apic: 0xfee0_0000 };

type Build = fn(&mut CodeAssembler) -> Result<(), IcedError>;

fn machine(build: Build) -> Machine {
    let mut machine = Machine::new(Options::default());
    machine.map(WINDOW, DEVICE, Level::Small, 3);
    machine.program(&assemble(KERNEL_CODE, |a| {
        a.mov(ebx, 7)?;
        build(a)?;
        a.mov(ebx, 9)?;
        a.hlt()
    }));
    machine
}

#[test]
fn what_reaches_outside_has_not_run() {
    let outside: [(&str, Build); 10] = [
        ("HLT", |a| a.hlt()),
        ("IN", |a| a.in_(al, 0x60)),
        ("OUT", |a| a.out(0x60, al)),
        ("OUTS", |a| a.rep().outsb()),
        ("RDMSR", |a| a.rdmsr()),
        ("WRMSR", |a| a.wrmsr()),
        ("MOV to CR8", |a| a.mov(cr8, rax)),
        ("MOV from CR8", |a| a.mov(rax, cr8)),
        ("a device read", |a| a.mov(eax, dword_ptr(WINDOW))),
        ("a device read and written", |a| a.add(dword_ptr(WINDOW), 1)),
    ];
    for (name, build) in outside {
        let mut machine = machine(build);
        let start = machine.cpu.state();
        assert_eq!(machine.cpu.run_confined(1000), Exit::Outside, "{name}");
        let stopped = machine.cpu.state();
        assert_eq!((stopped.gpr[3], stopped.rip), (7, start.rip + 5), "{name}");
        assert_eq!(stopped.activity, Activity::Active, "{name}");
        assert!(machine.bus.take().is_empty(), "{name}");
        // There it stays.
        assert_eq!(machine.cpu.run_confined(1000), Exit::Outside, "{name}");
        assert_eq!(machine.cpu.state(), stopped, "{name}");
    }
}

#[test]
fn interrupts_wait_and_what_was_interrupted_is_delivered() {
    let mut machine = machine(|a| {
        a.sti()?;
        a.nop()?;
        a.inc(ecx)
    });
    machine.interrupt(0x41);
    assert_eq!(machine.cpu.run_confined(1000), Exit::Outside);
    assert_eq!((machine.cpu.state().gpr[3], machine.cpu.instructions()), (9, 5));

    for fault in [Fault::UD, Fault::new(0x80)] {
        let mut state = Machine::supervisor_state();
        state.injected = Some(fault);
        machine.cpu.set_state(&state);
        assert_eq!(machine.cpu.run_confined(1000), Exit::Outside);
        // The handler is a HLT.
        let state = machine.cpu.state();
        assert_eq!((state.rip, state.injected), (HANDLERS + 16 * u64::from(fault.vector), None));
    }
}

#[test]
fn system_code_ends_where_user_code_begins() {
    let mut machine = machine(|a| {
        a.push(i32::from(selector::USER_DATA))?;
        a.push(DATA as i32)?;
        a.push(2)?;
        a.push(i32::from(selector::USER_CODE64))?;
        a.push(CODE as i32)?;
        a.iretq()
    });
    assert_eq!(machine.cpu.run_apart(1000, APART), Exit::Outside);
    let state = machine.cpu.state();
    assert_eq!((state.rip, state.segments[2].dpl(), machine.cpu.instructions()), (CODE, 3, 7));
    // There it stays, but for what is to be delivered.
    assert_eq!(machine.cpu.run_apart(1000, APART), Exit::Outside);
    assert_eq!(machine.cpu.state(), state);
    machine.cpu.set_state(&softmetal_cpu::CpuState { injected: Some(Fault::UD), ..state });
    // The handler is a HLT.
    assert_eq!(machine.cpu.run_apart(1000, APART), Exit::Halted);
    assert_eq!(machine.cpu.state().rip, HANDLERS + 16 * u64::from(Fault::UD.vector) + 1);
}

#[test]
fn a_shadow_is_not_lost() {
    let mut machine = machine(|a| a.nop());
    let mut state = machine.cpu.state();
    state.rip += 6 + 5;
    state.shadow = Shadow::Sti;
    machine.cpu.set_state(&state);
    assert_eq!(machine.cpu.run_confined(1000), Exit::Outside);
    assert_eq!(machine.cpu.state(), state);
}

#[test]
fn memory_may_change_behind_the_cpu() {
    let mut machine = machine(|a| a.nop());
    let start = machine.cpu.state();
    assert_eq!(machine.cpu.run_confined(1000), Exit::Outside);
    assert_eq!(machine.cpu.state().gpr[3], 9);
    // The immediate of the last MOV, without a word to the CPU.
    machine.ram().memory().write_obj(33_u8, GuestAddress(KERNEL_CODE + 7)).unwrap();
    machine.cpu.set_state(&start);
    assert_eq!(machine.cpu.run_confined(1000), Exit::Outside);
    assert_eq!(machine.cpu.state().gpr[3], 33);
    assert_eq!(machine.cpu.run_confined(0), Exit::Counted);
}

#[test]
fn the_translator_comes_and_goes() {
    if !softmetal_cpu::HAS_TRANSLATOR {
        return;
    }
    let mut machine = Machine::new(Options::default());
    machine.program(&assemble(KERNEL_CODE, |a| {
        let mut again = a.create_label();
        a.mov(ecx, 3_000_000)?;
        a.set_label(&mut again)?;
        a.add(ebx, ecx)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    }));
    let start = machine.cpu.state();
    let mut sums = Vec::new();
    let wanted = softmetal_cpu::Translate::default();
    for translate in [None, Some(wanted), None, Some(wanted), Some(wanted)] {
        assert!(machine.cpu.set_translate(translate));
        machine.cpu.set_state(&start);
        while machine.cpu.run() != Exit::Halted {}
        sums.push(machine.cpu.state().gpr[3]);
    }
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    let (counters, _) = machine.cpu.translations().expect("it has had a translator");
    assert!(counters.regions + counters.one_pass > 0, "{counters}");
}

#[test]
fn a_deadline_that_has_passed_is_due_whatever_the_tsc_was_set_to() {
    const TSC_DEADLINE: u32 = 0x6e0;
    let mut machine = Machine::new(Options::default());
    machine.program(&assemble(KERNEL_CODE, |a| {
        a.mov(ecx, TSC_DEADLINE)?;
        a.wrmsr()?;
        a.hlt()
    }));
    let start = machine.cpu.state();
    let mut deadline = |offset: u64, value: u64| {
        let mut state = start.clone();
        state.tsc_offset = offset;
        (state.gpr[0], state.gpr[2]) = (value & 0xffff_ffff, value >> 32);
        machine.cpu.set_state(&state);
        assert_eq!(machine.cpu.run(), Exit::Halted);
        machine.bus.tsc_deadline(0)
    };
    assert_eq!(deadline(0, 0), 0);
    for offset in [0, 1 << 40, 1 << 62] {
        assert_eq!(deadline(offset, 1), 1, "{offset:#x}");
        assert_eq!(deadline(offset, offset + (1 << 50)), 1 << 50, "{offset:#x}");
        assert_eq!(deadline(offset, u64::MAX), u64::MAX - offset, "{offset:#x}");
    }
}

#[test]
fn apart_it_reaches_what_the_other_engine_does_not_have() {
    let reached: [Build; 4] = [
        |a| a.in_(al, 0x60),
        |a| a.out(0x60, al),
        |a| a.mov(eax, dword_ptr(WINDOW)),
        |a| {
            a.mov(ecx, 0xc000_0101_u32)?;
            a.rdmsr()
        },
    ];
    for (number, build) in reached.into_iter().enumerate() {
        let mut machine = machine(build);
        assert_eq!(machine.cpu.run_apart(1000, APART), Exit::Halted, "{number}");
        let state = machine.cpu.state();
        assert_eq!((state.gpr[3], state.activity), (9, Activity::Halted), "{number}");
        // The MSR is this CPU's own.
        assert_eq!(machine.bus.take().is_empty(), number == 3, "{number}");
        // There it stays.
        assert_eq!(machine.cpu.run_apart(1000, APART), Exit::Halted, "{number}");
        assert_eq!(machine.cpu.state(), state, "{number}");
    }
    let outside: [Build; 5] = [
        |a| a.mov(rax, cr8),
        |a| a.mov(eax, dword_ptr(WINDOW)),
        |a| {
            a.mov(ecx, 0x10)?;
            a.rdmsr()
        },
        |a| {
            a.mov(ecx, 0x1b)?;
            a.wrmsr()
        },
        |a| {
            a.mov(ecx, 0x808)?;
            a.rdmsr()
        },
    ];
    for (number, build) in outside.into_iter().enumerate() {
        let mut machine = machine(build);
        let apart = Apart { local_apic: DEVICE, ..APART };
        assert_eq!(machine.cpu.run_apart(1000, apart), Exit::Outside, "{number}");
        assert_eq!(machine.cpu.state().gpr[3], 7, "{number}");
        assert!(machine.bus.take().is_empty(), "{number}");
    }
}

#[test]
fn apart_it_ends_where_an_interrupt_can_be_taken() {
    let build: Build = |a| {
        a.sti()?;
        a.nop()?;
        a.inc(ecx)
    };
    let mut waiting = machine(build);
    let apart = Apart { interrupt: true, ..APART };
    assert_eq!(waiting.cpu.run_apart(1000, apart), Exit::Counted);
    // Behind the shadow of STI.
    assert_eq!((waiting.cpu.state().gpr[3], waiting.cpu.instructions()), (7, 3));
    assert_eq!(waiting.cpu.state().shadow, Shadow::None);
    let mut none = machine(build);
    assert_eq!(none.cpu.run_apart(1000, APART), Exit::Halted);
    assert_eq!(none.cpu.state().gpr[3], 9);
}
