//! Translated code: what it costs in itself, to enter and to leave, and to make. Everything is translated on the CPU's own
//! thread when it has run twice, and looked at by Cranelift's verifier, which is part of what making it costs.

use iced_x86::{IcedError, code_asm::*};
use softmetal_cpu::Options;
use softmetal_cpu_testing::workloads::{self, Loop};
use softmetal_cpu_testing::{Level, Machine, layout::*, program, pte};

use crate::programs;
use crate::work::{Entry, Work};

pub(crate) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("translated/make", "instruction", make),
        Entry::new("translated/loop", "turn", || looped(|a| a.add(rax, rcx))),
        Entry::new("translated/load", "turn", || looped(|a| a.mov(rax, qword_ptr(rsi)))),
        Entry::new("translated/store", "turn", || looped(|a| a.mov(qword_ptr(rsi), rax))),
        Entry::new("translated/tlb-miss", "page", tlb_miss),
        // More than a region has blocks: some are jumps within it, some are linked.
        Entry::new("translated/jump", "jump", || {
            warm(programs::jumps(machine()), 100).times(programs::JUMPS)
        }),
        Entry::new("translated/jump-to-other-page", "jump", || {
            warm(programs::far_jumps(machine()), 100).times(programs::PAGES + 1)
        }),
        Entry::new("translated/call-and-return", "pair", || warm(programs::calls(machine()), 1000)),
        Entry::new("translated/indirect-call", "pair", || warm(programs::indirect_calls(machine()), 1000)),
        Entry::new("translated/leave-and-enter", "turn", leave_and_enter),
        Entry::new("translated/call-rust", "turn", || looped(|a| a.lock().cmpxchg16b(xmmword_ptr(rbx)))),
        Entry::new("translated/start-and-halt", "run", start_and_halt),
        Entry::new("translated/straight", "instruction", straight),
        // Code that is changed is interpreted again until it is hot: here, after two runs.
        Entry::new("translated/written-and-run", "write", || warm(programs::rewritten(machine()), 100)),
    ]
}

fn options() -> Options {
    program::translated(2)
}

fn machine() -> Machine {
    Machine::new(options())
}

/// A thousand turns that have been translated.
fn looped(body: impl FnMut(&mut CodeAssembler) -> Result<(), IcedError>) -> Work {
    warm(Loop::on(machine(), body), 1000)
}

/// So many turns of what has been translated.
fn warm(mut program: Loop, turns: u64) -> Work {
    // What is called for the first time becomes hot in the next turn, and its caller is linked to it in the one behind.
    for _ in 0..3 {
        program.prepare(turns);
        program.run();
    }
    Work::turns(program, turns)
}

/// Regions of typical code, which run once.
fn make() -> Work {
    // The first translation of a process makes Cranelift's tables.
    let mut other = Loop::on(Machine::new(program::translated(0)), |a| workloads::typical(a, 40));
    other.prepare(1);
    other.run();
    let mut program = Loop::on(Machine::new(program::translated(0)), |a| workloads::typical(a, 1000));
    program.prepare(1);
    Work::new(program.per_turn(), move || program.run())
}

fn straight() -> Work {
    let program = Loop::on(machine(), |a| workloads::typical(a, 1000));
    let units = program.per_turn();
    warm(program, 10).times(units)
}

/// Twice as many pages as the first TLB holds, half as many as the second.
fn tlb_miss() -> Work {
    const PAGES: u64 = 2048;
    const AT: u64 = 0x4000_0000;
    let mut machine = machine();
    for k in 0..PAGES {
        machine.map(AT + 0x1000 * k, FRAMES + 0x1000 * (k % 256), Level::Small, pte::P | pte::W);
    }
    let mut program = Loop::on(machine, |a| {
        a.mov(rax, qword_ptr(rsi))?;
        a.add(rsi, 0x1000)
    });
    program.state.gpr[6] = AT;
    warm(program, PAGES)
}

/// An instruction that the interpreter runs.
fn leave_and_enter() -> Work {
    looped(|a| a.clts())
}

/// From the dispatcher into code, and back.
fn start_and_halt() -> Work {
    const RUNS: u64 = 100;
    let mut program = Loop::on(machine(), |a| a.nop());
    let mut runs = move || {
        for _ in 0..RUNS {
            program.prepare(1);
            program.run();
        }
    };
    runs();
    Work::new(RUNS, runs)
}
