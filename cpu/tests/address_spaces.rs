//! What address spaces cost: instructions at CPL 3 and the ways out of it.

use iced_x86::code_asm::*;
use softmetal_cpu::{Exit, Request, Trap};
use softmetal_cpu_testing::{Machine, assemble, layout::*};

/// Not mapped.
const NOTHING: u64 = SCRATCH + SCRATCH_SIZE;

#[test]
fn user_instructions_and_traps_are_counted_by_address_space() {
    let mut machine = Machine::default();
    let second = machine.frame();
    let top = machine.bytes(PML4, 0x1000);
    machine.write(second, &top);

    // INT 80h changes to the second address space. #PF skips the instruction. An interrupt just returns.
    let handlers = [(0x80, 3), (14, 0), (0x30, 0)];
    for (k, (vector, dpl)) in handlers.into_iter().enumerate() {
        let at = KERNEL_CODE + 0x100 * k as u64;
        machine.gate(vector, at, 0, dpl, 0xe);
        let code = assemble(at, |a| {
            match vector {
                0x80 => {
                    a.mov(rax, second)?;
                    a.mov(cr3, rax)?;
                }
                14 => {
                    a.add(rsp, 8)?;
                    a.add(qword_ptr(rsp), 3)?;
                }
                _ => a.nop()?,
            }
            a.iretq()
        });
        machine.write(at, &code);
    }
    let code = assemble(INSN, |a| {
        let (mut first, mut then) = (a.create_label(), a.create_label());
        a.mov(ecx, 1000)?;
        a.set_label(&mut first)?;
        a.dec(ecx)?;
        a.jne(first)?;
        a.mov(rbx, NOTHING)?;
        a.mov(rdx, qword_ptr(rbx))?;
        a.int(0x80)?;
        a.mov(ecx, 50)?;
        a.set_label(&mut then)?;
        a.dec(ecx)?;
        a.jne(then)?;
        a.mov(rdx, qword_ptr(rbx))?;
        a.hlt()
    });
    machine.write(CODE_FRAME + (INSN - CODE), &code);
    machine.cpu.set_state(&Machine::user_state());
    machine.bus.interrupt(0x30);
    machine.cpu.attention().request(Request::INTERRUPT);
    // HLT is not allowed at CPL 3: its #GP halts.
    assert_eq!(machine.cpu.run(), Exit::Halted);

    let spaces = machine.cpu.address_spaces();
    assert_eq!(spaces.len(), 2, "{spaces:?}");
    assert_eq!((spaces[0].root, spaces[1].root), (Some(PML4), Some(second)));
    // The instruction that faults is none; INT is one.
    assert_eq!((spaces[0].instructions, spaces[1].instructions), (1 + 2000 + 1 + 1, 1 + 100));
    // The interrupt came before the first instruction: CPL 3 had not begun.
    assert_eq!((spaces[0].entries, spaces[1].entries), (2, 2));
    let traps = |space: usize, trap| spaces[space].traps[trap as usize];
    assert_eq!(Trap::ALL.map(|trap| traps(0, trap)), [1, 1, 0, 0, 0]);
    assert_eq!(Trap::ALL.map(|trap| traps(1, trap)), [0, 1, 1, 0, 0]);
}
