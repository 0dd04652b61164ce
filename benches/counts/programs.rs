//! Guest programs that are counted both interpreted and translated.

use iced_x86::code_asm::*;
use softmetal_cpu_testing::workloads::Loop;
use softmetal_cpu_testing::{Machine, assemble, layout::*};

/// How many jumps a turn of [`jumps`] has.
pub(crate) const JUMPS: u64 = 200;
/// How many pages a turn of [`far_jumps`] goes through.
pub(crate) const PAGES: u64 = 16;

/// Blocks of one jump to the next.
pub(crate) fn jumps(machine: Machine) -> Loop {
    Loop::on(machine, |a| {
        for _ in 0..JUMPS {
            let mut next = a.create_label();
            a.jmp(next)?;
            a.set_label(&mut next)?;
        }
        Ok(())
    })
}

/// Jumps from page to page, each link of which must know that the page is still there.
pub(crate) fn far_jumps(machine: Machine) -> Loop {
    let mut program = Loop::on(machine, |a| {
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
    program
}

/// A call and its return.
pub(crate) fn calls(machine: Machine) -> Loop {
    Loop::on(machine, |a| {
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

/// Calls of eight functions in turn by a table, as interpreters make them.
pub(crate) fn indirect_calls(machine: Machine) -> Loop {
    const FUNCTION: u64 = KERNEL_CODE + 0x800;
    let mut program = Loop::on(machine, |a| {
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
    program
}

/// An instruction is changed and then run.
pub(crate) fn rewritten(machine: Machine) -> Loop {
    const FUNCTION: u64 = KERNEL_CODE + 0x1000;
    let mut program = Loop::on(machine, |a| {
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
    program
}
