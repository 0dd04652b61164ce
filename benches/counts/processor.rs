//! Decoding, dispatch and instructions.

use iced_x86::code_asm::*;
use softmetal_cpu::{Cpu, Options};
use softmetal_cpu_testing::workloads::{self, Loop};
use softmetal_cpu_testing::{Machine, assemble, layout::*};

use crate::programs;
use crate::work::{Entry, Work, looped};

pub(crate) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("decode/blocks", "instruction", decode),
        Entry::new("decode/code-run-once", "instruction", run_once),
        Entry::new("dispatch/loop-sum", "instruction", || counted_loop("sum")),
        Entry::new("dispatch/loop-bytes", "instruction", || counted_loop("bytes")),
        Entry::new("dispatch/loop-hash", "instruction", || counted_loop("hash")),
        Entry::new("dispatch/straight", "instruction", || Work::instructions(workloads::straight(4000), 5)),
        Entry::new("links/jump", "jump", || per_turn(programs::jumps(machine()), programs::JUMPS)),
        Entry::new("links/jump-to-other-page", "jump", || {
            per_turn(programs::far_jumps(machine()), programs::PAGES + 1)
        }),
        Entry::new("links/call-and-return", "pair", || Work::turns(programs::calls(machine()), 1000)),
        Entry::new("links/indirect-call", "pair", || Work::turns(programs::indirect_calls(machine()), 1000)),
        Entry::new("code/written-and-run", "write", || Work::turns(programs::rewritten(machine()), 100)),
        Entry::new("code/data-beside-code", "write", beside_code),
        Entry::new("code/across-pages", "call", across_pages),
        Entry::new("integer/divide", "turn", divide),
        Entry::new("integer/lock-xadd", "turn", lock_xadd),
        Entry::new("float/scalar-f64", "turn", scalar_f64),
        Entry::new("float/packed-f32", "turn", packed_f32),
        Entry::new("float/x87", "turn", x87),
        Entry::new("vector/packed-integer", "turn", packed_integer),
        Entry::new("vector/shuffle-bytes", "turn", shuffle_bytes),
        Entry::new("strings/rep-movsb-4096", "operation", || rep_movsb(4096)),
        Entry::new("strings/rep-movsb-16", "operation", || rep_movsb(16)),
        Entry::new("strings/rep-stosq-4096", "operation", rep_stosq),
        Entry::new("processor/create", "processor", create),
        Entry::new("processor/cpuid", "turn", || {
            looped(|a| {
                a.mov(r8, rcx)?;
                a.mov(eax, 1)?;
                a.cpuid()?;
                a.mov(rcx, r8)
            })
        }),
    ]
}

fn machine() -> Machine {
    Machine::default()
}

/// 64-bit code with flat segments at CPL 0: the CPU's bits of mode LONG, FLAT and PROTECTED.
const LONG_MODE: u16 = 1 | 0x20 | 0x2000;

/// Blocks of typical code.
fn decode() -> Work {
    let code = assemble(0, |a| workloads::typical(a, 4000));
    let mut pieces = Vec::new();
    let mut at = 0;
    while at + 1024 < code.len() {
        let piece = code[at..at + 1024].to_vec();
        let lengths = softmetal_cpu::testing::decode(&piece, 0, LONG_MODE);
        at += lengths.iter().map(|&len| usize::from(len)).sum::<usize>();
        pieces.push((piece, lengths.len() as u64));
    }
    let units = pieces.iter().map(|(_, count)| count).sum();
    Work::new(units, move || {
        for (piece, count) in &pieces {
            let lengths = softmetal_cpu::testing::decode(piece, 0, LONG_MODE);
            assert_eq!(lengths.len() as u64, *count);
        }
    })
}

/// Code that is seen for the first time: decoded, kept, linked, run.
fn run_once() -> Work {
    // The first instruction that a process decodes makes the decoder's tables: before the work.
    let mut other = workloads::straight(1);
    other.prepare(1);
    other.run();
    let mut program = workloads::straight(4000);
    program.prepare(1);
    Work::new(program.per_turn(), move || program.run())
}

fn counted_loop(name: &str) -> Work {
    let (_, make) = workloads::loops()
        .into_iter()
        .find(|(loop_name, _)| *loop_name == name)
        .expect("a loop of this name");
    Work::instructions(make(), 1000)
}

/// A counter in the page of the code that counts.
fn beside_code() -> Work {
    let mut program = Loop::new(|a| a.inc(qword_ptr(rbp)));
    program.state.gpr[5] = KERNEL_CODE + 0x800;
    Work::turns(program, 1000)
}

/// A function whose first instruction lies in two pages.
fn across_pages() -> Work {
    const FUNCTION: u64 = FRAMES + 0xffe;
    let mut program = Loop::new(|a| a.call(FUNCTION));
    let code = assemble(FUNCTION, |a| {
        a.mov(eax, 1)?;
        a.ret()
    });
    program.machine.write(FUNCTION, &code);
    Work::turns(program, 1000)
}

fn divide() -> Work {
    looped(|a| {
        a.mov(rax, 0x1234_5678_9abc_def0u64)?;
        a.xor(edx, edx)?;
        a.div(rcx)
    })
}

fn lock_xadd() -> Work {
    looped(|a| a.lock().xadd(qword_ptr(rbx), rax))
}

/// One after the other, with a conversion and a compare.
fn scalar_f64() -> Work {
    looped(|a| {
        a.cvtsi2sd(xmm0, rcx)?;
        a.movapd(xmm1, xmm0)?;
        a.mulsd(xmm1, xmm0)?;
        a.addsd(xmm1, xmm0)?;
        a.sqrtsd(xmm2, xmm1)?;
        a.divsd(xmm1, xmm2)?;
        a.ucomisd(xmm1, xmm0)?;
        a.cvttsd2si(rax, xmm1)
    })
}

fn packed_f32() -> Work {
    looped(|a| {
        a.movd(xmm0, ecx)?;
        a.pshufd(xmm0, xmm0, 0)?;
        a.cvtdq2ps(xmm0, xmm0)?;
        a.movaps(xmm1, xmm0)?;
        a.mulps(xmm1, xmm0)?;
        a.addps(xmm1, xmm0)?;
        a.divps(xmm1, xmm0)?;
        a.movaps(xmmword_ptr(rbx), xmm1)
    })
}

fn x87() -> Work {
    looped(|a| {
        a.mov(qword_ptr(rbx), rcx)?;
        a.fild(qword_ptr(rbx))?;
        a.fld(st0)?;
        a.fmul_2(st0, st1)?;
        a.fadd_2(st0, st1)?;
        a.fdivrp(st1, st0)?;
        a.fstp(qword_ptr(rbx))
    })
}

fn packed_integer() -> Work {
    looped(|a| {
        a.movdqu(xmm0, xmmword_ptr(rbx))?;
        a.paddd(xmm0, xmm1)?;
        a.pxor(xmm1, xmm0)?;
        a.pmuludq(xmm0, xmm1)?;
        a.movdqu(xmmword_ptr(rbx), xmm0)
    })
}

fn shuffle_bytes() -> Work {
    looped(|a| {
        a.movdqu(xmm0, xmmword_ptr(rbx))?;
        a.pshufb(xmm0, xmm1)?;
        a.palignr(xmm1, xmm0, 3)?;
        a.pcmpeqb(xmm0, xmm1)?;
        a.pmovmskb(eax, xmm0)
    })
}

fn rep_movsb(bytes: u64) -> Work {
    let mut program = Loop::new(move |a| {
        a.mov(r8, rcx)?;
        a.mov(rsi, rbx)?;
        a.mov(rdi, rbp)?;
        a.mov(ecx, bytes as u32)?;
        a.rep().movsb()?;
        a.mov(rcx, r8)
    });
    program.state.gpr[5] = FRAMES;
    Work::turns(program, 100)
}

fn rep_stosq() -> Work {
    let mut program = Loop::new(|a| {
        a.mov(r8, rcx)?;
        a.mov(rdi, rbp)?;
        a.mov(ecx, 512)?;
        a.rep().stosq()?;
        a.mov(rcx, r8)
    });
    program.state.gpr[5] = FRAMES;
    Work::turns(program, 100)
}

/// A CPU beside another.
fn create() -> Work {
    let machine = machine();
    let options = Options { cpus: 1, ..Options::default() };
    Work::new(1, move || {
        let cpu = Cpu::new(1, options, machine.ram().clone(), machine.bus.clone());
        std::hint::black_box(cpu);
    })
}

/// A hundred turns, of so many units each.
fn per_turn(program: Loop, units: u64) -> Work {
    Work::turns(program, 100).times(units)
}
