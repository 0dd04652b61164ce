//! Instructions counted exactly: a CPU stops where it is told to, whatever it is doing, and does the same in any slices.

use iced_x86::code_asm::*;
use softmetal_cpu::{Activity, Cpu, Exit, Lacking, Model, Options, Translate};
use softmetal_cpu_testing::{Machine, assemble, layout::*};

const COUNTING: Options = Options {
    jit: None,
    no_chain: false,
    no_specialise: false,
    no_fuse: false,
    no_tlb: false,
    model: Model::Max,
    lacking: Lacking::NONE,
    cpus: 1,
    counting: true,
};

/// Loops, string instructions over pages in both directions, faults whose handlers return, code that is written.
fn program() -> Vec<u8> {
    assemble(KERNEL_CODE, |a| {
        let (mut again, mut site, mut odd) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(ebp, 5)?;
        a.set_label(&mut again)?;
        // Across a page, most of it in bulk.
        a.mov(esi, FRAMES as i32 + 3)?;
        a.mov(edi, FRAMES as i32 + 0x4ffb)?;
        a.mov(ecx, 1500)?;
        a.rep().movsd()?;
        // Backwards, a single one, none.
        a.std()?;
        a.mov(ecx, 700)?;
        a.rep().stosw()?;
        a.cld()?;
        a.stosb()?;
        a.mov(edi, FRAMES as i32)?;
        a.rep().stosb()?;
        // Ends early.
        a.mov(rdi, FRAMES)?;
        a.mov(byte_ptr(FRAMES + 77), 0x5a)?;
        a.mov(al, 0x5a)?;
        a.mov(ecx, 5000)?;
        a.repne().scasb()?;
        a.mov(byte_ptr(FRAMES + 77), 0)?;
        // A loop of short blocks; its first instruction changes each time around.
        a.mov(ecx, 40)?;
        a.set_label(&mut site)?;
        a.add(ebx, 1)?;
        a.test(ecx, 1)?;
        a.jne(odd)?;
        a.inc(byte_ptr(site) + 2)?;
        a.lea(rdx, ptr(rbx + rcx * 4))?;
        a.set_label(&mut odd)?;
        a.push(rdx)?;
        a.pop(rdx)?;
        a.dec(ecx)?;
        a.jne(site)?;
        a.ud2()?;
        a.rdtsc()?;
        a.dec(ebp)?;
        a.jne(again)?;
        a.hlt()
    })
}

/// Its handler of #UD skips the instruction.
fn machine(options: Options) -> Machine {
    let mut machine = Machine::new(options);
    let handler = HANDLERS + 16 * 6;
    machine.write(
        handler,
        &assemble(handler, |a| {
            a.add(qword_ptr(rsp), 2)?;
            a.iretq()
        }),
    );
    machine.program(&program());
    machine
}

fn halted(cpu: &Cpu) -> bool {
    cpu.state().activity == Activity::Halted
}

/// Runs in slices of these lengths, over and over, to the end.
fn in_slices(options: Options, slices: impl Iterator<Item = u64>) -> (u64, u64, Vec<u8>) {
    let mut machine = machine(options);
    for slice in slices {
        let before = machine.cpu.instructions();
        match machine.cpu.run_for(slice) {
            Exit::Counted => assert_eq!(machine.cpu.instructions() - before, slice),
            Exit::Halted => {
                assert!(machine.cpu.instructions() - before <= slice);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(halted(&machine.cpu), "{}", machine.cpu.state());
    let entered = machine.cpu.translations().map(|(counters, _)| counters.entered);
    assert!(options.jit.is_none() || entered > Some(0), "what is to be translated is");
    (machine.cpu.instructions(), machine.cpu.digest(), machine.bytes(FRAMES, 0x8000))
}

#[test]
fn any_slices_give_the_same_count_and_state() {
    let whole = in_slices(COUNTING, [u64::MAX].into_iter());
    // Each iteration is counted: 1500 + 700 + 78 in each of five rounds, and what is around them.
    assert!(whole.0 > 5 * (1500 + 700 + 78 + 40 * 7), "{}", whole.0);
    let by_one = in_slices(COUNTING, std::iter::repeat(1));
    assert!(by_one == whole, "{} and {}", by_one.0, whole.0);
    for seed in 1..6_u64 {
        let mut x = seed;
        let slices = std::iter::repeat_with(|| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            x >> 33 & 1023
        });
        let sliced = in_slices(COUNTING, slices);
        assert!(sliced == whole, "{seed}: {} and {}", sliced.0, whole.0);
    }
    for options in [
        Options { no_chain: true, ..COUNTING },
        Options { no_specialise: true, ..COUNTING },
        Options { no_tlb: true, ..COUNTING },
    ] {
        let other = in_slices(options, [u64::MAX].into_iter());
        assert!(other == whole, "{options:?}: {} and {}", other.0, whole.0);
    }
    for (threshold, one_pass) in [(0, None), (3, None), (u32::MAX, Some(0)), (5, Some(1))] {
        let options = Options {
            jit: Some(Translate { threshold, at_once: true, one_pass, paths: one_pass.map(|n| n + 2) }),
            ..COUNTING
        };
        for slice in [u64::MAX, 4001, 997, 501, 466] {
            let other = in_slices(options, std::iter::repeat(slice));
            assert!(
                other == whole,
                "translated, {threshold}, {one_pass:?}, {slice}: {} and {}",
                other.0,
                whole.0
            );
        }
    }
}

#[test]
fn single_steps_and_counted_instructions_are_the_same() {
    const TF: u64 = 0x100;
    let counted = in_slices(COUNTING, [u64::MAX].into_iter()).0;
    // A handler of #DB that counts in RAM what it sees. It runs with TF clear; so does the one of #UD, whose two
    // instructions are stepped over.
    let mut machine = machine(Options { counting: false, ..COUNTING });
    let handler = KERNEL_CODE + 0x8_0000;
    machine.gate(1, handler, 0, 0, 0xe);
    let end = (KERNEL_CODE + program().len() as u64) as i32;
    machine.write(
        handler,
        &assemble(handler, |a| {
            let mut done = a.create_label();
            a.inc(dword_ptr(KERNEL_DATA))?;
            // The trap behind the HLT at the end wakes it.
            a.cmp(qword_ptr(rsp), end)?;
            a.je(done)?;
            a.iretq()?;
            a.set_label(&mut done)?;
            a.hlt()
        }),
    );
    let mut state = machine.cpu.state();
    state.rflags |= TF;
    machine.cpu.set_state(&state);
    machine.cpu.run();
    let steps = u64::from(machine.read_u64(KERNEL_DATA) as u32);
    assert_eq!(steps + 5 * 2, counted);
}

#[test]
fn a_shadow_outlasts_the_stop_behind_it() {
    let mut machine = Machine::new(COUNTING);
    machine.gate(0x40, HANDLERS + 16 * 0x40, 0, 3, 0xe);
    machine.program(&assemble(KERNEL_CODE, |a| {
        a.sti()?;
        a.inc(eax)?;
        a.inc(eax)?;
        a.hlt()
    }));
    assert_eq!(machine.cpu.run_for(1), Exit::Counted);
    machine.interrupt(0x40);
    assert_eq!(machine.cpu.run_for(0), Exit::Counted);
    assert_eq!(machine.cpu.state().rip, KERNEL_CODE + 1, "STI holds the interrupt back");
    assert_eq!(machine.cpu.run_for(1), Exit::Counted);
    assert_eq!(machine.cpu.state().rip, HANDLERS + 16 * 0x40, "it came behind one instruction");
    assert_eq!(machine.cpu.state().gpr[0], 1);
}

#[test]
fn run_past_stops_where_blocks_end() {
    // Each stop is one of those that blocks run whole would make: the second machine, which runs exactly so many, agrees.
    let (mut blocks, mut exact) = (machine(COUNTING), machine(COUNTING));
    let mut longest = 0;
    loop {
        let before = blocks.cpu.instructions();
        let exit = blocks.cpu.run_past(1);
        let ran = blocks.cpu.instructions() - before;
        assert_eq!(exact.cpu.run_for(ran), exit);
        assert_eq!(exact.cpu.instructions(), blocks.cpu.instructions());
        assert_eq!(exact.cpu.state(), blocks.cpu.state());
        longest = longest.max(ran);
        if exit == Exit::Halted {
            break;
        }
    }
    assert!((2..=64).contains(&longest), "{longest}");
}
