//! Exceptions, and the ways between kernel and user code.

use iced_x86::code_asm::*;
use softmetal_cpu_testing::workloads::Loop;
use softmetal_cpu_testing::{Machine, assemble, layout::*};

use crate::work::{Entry, Work};

pub(crate) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("events/int-and-iret", "pair", int_and_iret),
        Entry::new("events/page-fault-and-iret", "pair", page_fault),
        Entry::new("events/iret-to-user-and-int", "pair", iret_to_user),
        Entry::new("events/sysret-and-syscall", "pair", sysret_and_syscall),
    ]
}

/// Where handlers are put.
const HANDLER: u64 = KERNEL_CODE + 0x1000;
/// Nothing is mapped there.
const NOWHERE: u64 = 0x7000_0000;

fn int_and_iret() -> Work {
    let mut program = Loop::new(|a| a.int(0x80));
    let handler = assemble(HANDLER, |a| a.iretq());
    program.machine.write(HANDLER, &handler);
    program.machine.gate(0x80, HANDLER, 0, 3, 0xe);
    Work::turns(program, 1000)
}

/// The handler goes on behind the instruction.
fn page_fault() -> Work {
    let read = |a: &mut CodeAssembler| a.mov(rax, qword_ptr(rbp));
    let length = assemble(KERNEL_CODE, read).len() as i32;
    let mut program = Loop::new(read);
    program.state.gpr[5] = NOWHERE;
    let handler = assemble(HANDLER, |a| {
        a.add(rsp, 8)?;
        a.add(qword_ptr(rsp), length)?;
        a.iretq()
    });
    program.machine.write(HANDLER, &handler);
    program.machine.gate(14, HANDLER, 0, 0, 0xe);
    Work::turns(program, 1000)
}

/// To an INT in user code, whose handler is the next instruction of the kernel.
fn iret_to_user() -> Work {
    let leave = |a: &mut CodeAssembler| {
        a.mov(rsp, rbp)?;
        a.iretq()
    };
    let back = KERNEL_CODE + assemble(KERNEL_CODE, leave).len() as u64;
    let mut program = with_user_code(leave, &assemble(CODE, |a| a.int(0x80)));
    let frame = [CODE, selector::USER_CODE64.into(), 2, USER_STACK, selector::USER_DATA.into()];
    for (k, word) in (0..).zip(frame) {
        program.machine.write_u64(KERNEL_DATA + 8 * k, word);
    }
    program.state.gpr[5] = KERNEL_DATA;
    program.machine.gate(0x80, back, 0, 3, 0xe);
    Work::turns(program, 1000)
}

fn sysret_and_syscall() -> Work {
    let leave = |a: &mut CodeAssembler| {
        a.mov(r15, rcx)?;
        a.mov(rcx, rbp)?;
        a.mov(r11d, 2)?;
        a.sysretq()
    };
    let back = KERNEL_CODE + assemble(KERNEL_CODE, leave).len() as u64;
    let whole = |a: &mut CodeAssembler| {
        leave(a)?;
        a.mov(rcx, r15)
    };
    let mut program = with_user_code(whole, &assemble(CODE, |a| a.syscall()));
    program.state.gpr[5] = CODE;
    let bases = u64::from(selector::USER_CODE32) << 48 | u64::from(selector::CODE64) << 32;
    program.state.msrs.star = bases;
    program.state.msrs.lstar = back;
    Work::turns(program, 1000)
}

/// A loop of the kernel, and code at [`CODE`] for the user.
fn with_user_code(
    body: impl FnMut(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
    code: &[u8],
) -> Loop {
    let mut machine = Machine::default();
    machine.write(CODE_FRAME, code);
    Loop::on(machine, body)
}
