//! Translated code: what it costs in itself, to enter and to leave, and to make. Everything is translated on the CPU's own
//! thread when it has run twice, and looked at by Cranelift's verifier, which is part of what making it costs.

use iced_x86::{IcedError, code_asm::*};
use softmetal_cpu::Options;
use softmetal_cpu_testing::workloads::{self, Loop};
use softmetal_cpu_testing::{Level, Machine, assemble, layout::*, program, pte};

use crate::work::{Entry, Work};

pub(crate) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("translated/make", "instruction", make),
        Entry::new("translated/loop", "turn", || looped(|a| a.add(rax, rcx))),
        Entry::new("translated/load", "turn", || looped(|a| a.mov(rax, qword_ptr(rsi)))),
        Entry::new("translated/store", "turn", || looped(|a| a.mov(qword_ptr(rsi), rax))),
        Entry::new("translated/tlb-miss", "page", tlb_miss),
        Entry::new("translated/jump", "jump", jumps),
        Entry::new("translated/jump-to-other-page", "jump", far_jumps),
        Entry::new("translated/call-and-return", "pair", calls),
        Entry::new("translated/indirect-call", "pair", indirect_calls),
        Entry::new("translated/leave-and-enter", "turn", leave_and_enter),
        Entry::new("translated/call-rust", "turn", || looped(|a| a.lock().cmpxchg16b(xmmword_ptr(rbx)))),
        Entry::new("translated/start-and-halt", "run", start_and_halt),
        Entry::new("translated/straight", "instruction", straight),
        Entry::new("translated/written-and-run", "write", rewritten),
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
    const PAGES: u64 = 1024;
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

/// More jumps than a region has blocks: some are jumps within it, some are linked.
fn jumps() -> Work {
    const JUMPS: u64 = 200;
    let program = Loop::on(machine(), |a| {
        for _ in 0..JUMPS {
            let mut next = a.create_label();
            a.jmp(next)?;
            a.set_label(&mut next)?;
        }
        Ok(())
    });
    warm(program, 100).times(JUMPS)
}

fn far_jumps() -> Work {
    const PAGES: u64 = 16;
    let mut program = Loop::on(machine(), |a| {
        a.jmp(FRAMES)?;
        // Behind the way back from the last page.
        a.nop()
    });
    let back = KERNEL_CODE + 5;
    for k in 0..PAGES {
        let at = FRAMES + 0x1000 * k;
        let target = if k == PAGES - 1 { back } else { at + 0x1000 };
        let code = assemble(at, |a| a.jmp(target));
        program.machine.write(at, &code);
    }
    warm(program, 100).times(PAGES + 1)
}

fn calls() -> Work {
    looped(|a| {
        let mut function = a.create_label();
        let mut over = a.create_label();
        a.call(function)?;
        a.jmp(over)?;
        a.set_label(&mut function)?;
        a.ret()?;
        a.set_label(&mut over)?;
        a.nop()
    })
}

/// Calls of eight functions in turn by a table.
fn indirect_calls() -> Work {
    const FUNCTION: u64 = KERNEL_CODE + 0x800;
    let mut program = Loop::on(machine(), |a| {
        a.mov(edx, ecx)?;
        a.and(edx, 7)?;
        a.call(qword_ptr(rbx + rdx * 8))
    });
    for k in 0..8 {
        let at = FUNCTION + 16 * k;
        let code = assemble(at, |a| {
            a.inc(rax)?;
            a.ret()
        });
        program.machine.write(at, &code);
        program.machine.write_u64(KERNEL_DATA + 8 * k, at);
    }
    warm(program, 1000)
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

/// Code that is changed is interpreted again until it is hot: here, after two runs.
fn rewritten() -> Work {
    const FUNCTION: u64 = KERNEL_CODE + 0x1000;
    let mut program = Loop::on(machine(), |a| {
        a.mov(dword_ptr(rbp), ecx)?;
        a.call(FUNCTION)
    });
    let code = assemble(FUNCTION, |a| {
        a.mov(eax, 0)?;
        a.add(edx, eax)?;
        a.ret()
    });
    program.machine.write(FUNCTION, &code);
    // The immediate operand of the MOV.
    program.state.gpr[5] = FUNCTION + 1;
    warm(program, 100)
}
