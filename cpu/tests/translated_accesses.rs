//! Loops of accesses beside each other, translated and interpreted: they walk over the ends of pages, into one that cannot be
//! written and one that is not there. After the same number of instructions both are in the same state.

use iced_x86::{IcedError, code_asm::*};
use softmetal_cpu::{CpuState, Exit, Model, Options, Translate};
use softmetal_cpu_testing::{Machine, Random, Segments, assemble, layout::*, random::cases};

const COUNTING: Options = Options {
    jit: None,
    no_chain: false,
    no_specialise: false,
    no_fuse: false,
    no_tlb: false,
    model: Model::Max,
    lacking: softmetal_cpu::Lacking::NONE,
    cpus: 1,
    counting: true,
};

/// One access at RBX, or at RBX and RCX, some bytes on; or one on the stack.
fn access(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    let disp = random.below(72) as i32 - 24;
    let at = if random.once_in(3) { rbx + rcx * 4 + disp } else { rbx + disp };
    match random.below(16) {
        0 => a.mov(rax, qword_ptr(at)),
        1 => a.add(rax, qword_ptr(at)),
        2 => a.mov(edx, dword_ptr(at)),
        3 => a.movzx(edx, word_ptr(at)),
        4 => a.xor(al, byte_ptr(at)),
        5 => a.mov(qword_ptr(at), rax),
        6 => a.mov(dword_ptr(at), edx),
        7 => a.mov(word_ptr(at), ax),
        8 => a.mov(byte_ptr(at), dl),
        9 => a.add(qword_ptr(at), rdx),
        10 => a.inc(byte_ptr(at)),
        11 => a.movups(xmm0, xmmword_ptr(at)),
        12 => a.movups(xmmword_ptr(at), xmm0),
        13 => a.vmovups(ymm1, ymmword_ptr(at)),
        14 => {
            a.push(rax)?;
            a.mov(qword_ptr(rsp - 16), rdx)?;
            a.pop(rdx)
        }
        _ => {
            // What the address begins with moves.
            a.add(rbx, 8)?;
            a.mov(rsi, qword_ptr(rbx + disp - 8))?;
            a.mov(rdi, qword_ptr(rbx + disp))?;
            a.sub(rbx, 8)?;
            a.add(rax, rsi)?;
            a.add(rax, rdi)
        }
    }
}

fn program(random: &mut Random) -> Vec<u8> {
    let (accesses, stride) = (2 + random.below(10), random.below(90) as i32 - 20);
    assemble(CODE, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        for _ in 0..accesses {
            access(a, random)?;
        }
        a.add(rbx, stride)?;
        a.dec(ebp)?;
        a.jnz(again)?;
        a.jmp(again)
    })
}

fn after(m: &mut Machine, instructions: u64) -> (Exit, u64, CpuState, Vec<u8>) {
    let exit = m.cpu.run_for(instructions);
    let memory = m.bytes(SCRATCH_FRAME, SCRATCH_SIZE as usize);
    (exit, m.cpu.instructions(), m.cpu.state(), memory)
}

#[test]
fn loops_of_accesses() {
    let (mut faults, mut entered, mut regions) = (0, 0, 0);
    for n in 0..cases(300) {
        let mut random = Random::new(n);
        let code = program(&mut random);
        let mut state = Machine::user_state_in(Segments::LONG);
        state.gpr[3] = SCRATCH + random.below(SCRATCH_SIZE + 64);
        state.gpr[1] = random.below(20);
        state.gpr[4] = USER_STACK - random.below(0x100);
        state.gpr[5] = 3000;
        state.rip = CODE;
        let (threshold, one_pass) =
            [(3, None), (40, None), (30, Some(2)), (u32::MAX, Some(1))][n as usize % 4];
        let jit = Some(Translate { threshold, at_once: true, one_pass, paths: one_pass.map(|n| n + 2) });
        let mut machines = [COUNTING, Options { jit, ..COUNTING }].map(|options| {
            let mut m = Machine::new(options);
            m.write(CODE_FRAME, &code);
            for at in (0..SCRATCH_SIZE).step_by(8) {
                m.write_u64(SCRATCH_FRAME + at, at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n);
            }
            m.cpu.set_state(&state);
            m
        });
        for slice in [500, 3000, 9000] {
            let [want, got] = machines.each_mut().map(|m| after(m, slice));
            let differing: Vec<usize> =
                (0..want.3.len()).filter(|&k| want.3[k] != got.3[k]).take(20).collect();
            assert!(
                want == got,
                "program {n} with thresholds {one_pass:?}, {threshold}: {:?} after {} and {:?} after {}\n{}\ntranslated:\n{}\nmemory \
                 that differs: {differing:x?}",
                want.0,
                want.1,
                got.0,
                got.1,
                want.2,
                got.2
            );
            if want.0 != Exit::Counted {
                faults += 1;
                break;
            }
        }
        let done = machines[1].cpu.translations().map(|(counters, _)| counters).unwrap_or_default();
        (entered, regions) = (entered + done.entered, regions + done.translated);
    }
    println!("{faults} faults; {regions} regions, translated code entered {entered} times");
    assert!(faults > 10, "some walk off the pages that are there");
}

/// A function in a page of data has run, then the data is written many times, and the function runs again.
#[test]
fn code_that_runs_no_more_gives_way_to_data() {
    const WRITES: u64 = 40_000;
    let code = assemble(CODE, |a| {
        let (mut again, mut written) = (a.create_label(), a.create_label());
        a.set_label(&mut again)?;
        a.call(rax)?;
        a.mov(ebp, WRITES as i32)?;
        a.set_label(&mut written)?;
        a.add(qword_ptr(rbx), 1)?;
        a.dec(ebp)?;
        a.jnz(written)?;
        a.jmp(again)
    });
    let function = assemble(SCRATCH + 0x800, |a| {
        a.inc(rdx)?;
        a.ret()
    });
    let mut state = Machine::user_state_in(Segments::LONG);
    (state.gpr[0], state.gpr[3], state.gpr[4]) = (SCRATCH + 0x800, SCRATCH, USER_STACK);
    state.rip = CODE;
    let jit = Some(Translate { at_once: true, one_pass: Some(2), paths: Some(4), threshold: u32::MAX });
    let mut machines = [COUNTING, Options { jit, ..COUNTING }].map(|options| {
        let mut m = Machine::new(options);
        m.write(CODE_FRAME, &code);
        m.write(SCRATCH_FRAME + 0x800, &function);
        m.cpu.set_state(&state);
        m
    });
    for _ in 0..3 {
        let [want, got] = machines.each_mut().map(|m| after(m, 3 * WRITES + 5));
        assert!(want == got, "{}\ntranslated:\n{}", want.2, got.2);
    }
    let misses = machines[1].cpu.statistics().tlb_misses;
    assert!(misses < WRITES / 2, "{misses} of {} writes missed the TLB", 3 * WRITES);
    // Written, it is another.
    let other = assemble(SCRATCH + 0x800, |a| {
        a.sub(rdx, 5)?;
        a.ret()
    });
    for m in &mut machines {
        m.write(SCRATCH_FRAME + 0x800, &other);
    }
    let [want, got] = machines.each_mut().map(|m| after(m, 3 * WRITES + 5));
    assert!(want == got, "{}\ntranslated:\n{}", want.2, got.2);
}
