use super::*;
use crate::bare::{self, LOAD};
use crate::config::{Config, KernelSource, SerialTarget};
use crate::console::Console;
use crate::journal::{Journal, Recorder};
use crate::machine::Ends;
use crate::pc::Pc;
use softmetal_cpu::{Model, Whereabouts};
use vm_memory::{Bytes, GuestAddress};

/// A word that the guest reads, in a page that it never writes.
const CONSTANT: u32 = LOAD + 0x5000;
/// Turns of the loop before anything can differ.
const TURNS: u32 = 3000;

/// A loop that stores and pushes, an instruction, a loop, and the end through port 0xf4.
fn kernel(middle: &[u8]) -> &'static [u8] {
    let mut image = Vec::new();
    let turns = |image: &mut Vec<u8>| {
        image.push(0xb9); // mov ecx, TURNS
        image.extend(TURNS.to_le_bytes());
        image.extend([0x51, 0x58]); // push ecx; pop eax
        image.extend([0x89, 0x87, 0, 0, 0, 0]); // mov [edi], eax
        image.extend([0x49, 0x75, 0xf5]); // dec ecx; jnz to the push
    };
    image.extend([0xbc, 0, 0, 0x20, 0, 0xbf, 0, 0, 0x30, 0]); // mov esp, 0x200000; mov edi, 0x300000
    turns(&mut image);
    image.extend(middle);
    turns(&mut image);
    image.extend([0xb0, 0x15, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd]); // mov al, 0x15; out 0xf4, al; hlt, for ever
    let mut image = bare::kernel(&image);
    image.resize((CONSTANT - LOAD) as usize + 4, 0);
    image.leak()
}

/// How many instructions run before the one in the middle: two, and a loop of one and five.
const BEFORE: u64 = 2 + 1 + 5 * TURNS as u64;

/// The kernel on two engines with these options.
fn lockstep(image: &'static [u8], stretch: u64, second: impl FnOnce(&mut Options)) -> Lockstep {
    let mut config = Config::new(KernelSource::BuiltIn(image));
    config.memory = 8 << 20;
    config.serial = SerialTarget::None;
    config.debug_exit = true;
    let ends = Ends::new(&Console::new());
    let pc = Pc::build(&config, &ends, &Journal::None, &[]).unwrap();
    let (board, ram, panel, state) = pc.parts();
    let mut plan = Plan::new(Options { cpus: 1, counting: true, ..Options::default() }, stretch);
    second(&mut plan.second);
    let tape = Tape::in_memory();
    let bus = Arc::new(Recorder::new(board.clone(), tape.clone()));
    let mut first = Cpu::new(0, plan.first, ram.clone(), bus);
    first.set_state(&state.unwrap());
    let lockstep = Lockstep::new(plan, first, tape, &ram, &board, &panel.run, panel.timers).unwrap();
    lockstep.begin();
    lockstep
}

/// Runs to the end of the guest or of lockstep.
fn finish(mut lockstep: Lockstep) -> Result<u64, String> {
    while lockstep.run.goes_on(&Whereabouts::default()) {
        lockstep.run_for(u64::MAX);
    }
    match lockstep.finish() {
        None => Ok(lockstep.cpu().instructions()),
        Some(difference) => Err(difference),
    }
}

const CPUID: [u8; 2] = [0x0f, 0xa2];
/// mov edx, [CONSTANT]
const READ: [u8; 6] = [0x8b, 0x15, CONSTANT as u8, (CONSTANT >> 8) as u8, (CONSTANT >> 16) as u8, 0];

#[test]
fn engines_that_agree_run_to_the_end() {
    for stretch in [1, 17, 1000, STRETCH] {
        let ran = finish(lockstep(kernel(&CPUID), stretch, |_| {})).unwrap();
        assert!(ran >= 2 * BEFORE, "{ran}");
    }
}

#[test]
fn an_instruction_that_differs_is_named() {
    for stretch in [1, 100, 10_000, STRETCH] {
        // Leaf 1 says in ECX what the processor has. The loop behind it takes another value there; EDX keeps it.
        let middle = [&[0xb8, 1, 0, 0, 0][..], &CPUID, &[0x89, 0xca]].concat();
        let found =
            finish(lockstep(kernel(&middle), stretch, |second| second.model = Model::V2)).unwrap_err();
        let instruction = format!("instruction {} at", BEFORE + 1);
        assert!(found.contains("the engines differ in instruction"), "{stretch}: {found}");
        assert!(found.contains(&instruction) && found.contains(": cpuid  [0f a2]"), "{stretch}: {found}");
        assert!(found.contains("\nRCX; the first wrote it in instruction"), "{stretch}: {found}");
        // Nothing that is the same on both sides.
        assert!(!found.contains("\nRDI") && !found.contains("\nmemory"), "{stretch}: {found}");
        // The way there is that of the stretch.
        assert_eq!(found.contains("jne"), stretch > 1, "{stretch}: {found}");
        assert!(found.contains("RIP 0000000000100"), "{stretch}: {found}");
    }
}

#[test]
fn a_byte_of_memory_that_differs_is_found_where_it_is_read() {
    for stretch in [100, STRETCH] {
        let mut lockstep = lockstep(kernel(&READ), stretch, |_| {});
        assert_eq!(lockstep.run_for(1000), Exit::Counted);
        lockstep.memories.second.memory().write_obj(1_u8, GuestAddress((CONSTANT + 1).into())).unwrap();
        let found = finish(lockstep).unwrap_err();
        assert!(found.contains(&format!("instruction {BEFORE} at")), "{stretch}: {found}");
        assert!(
            found.contains("mov edx") && found.contains("second  0000000000000100"),
            "{stretch}: {found}"
        );
    }
}

#[test]
fn a_byte_of_memory_that_nobody_reads_is_found_at_the_end() {
    let mut lockstep = lockstep(kernel(&[]), STRETCH, |_| {});
    assert_eq!(lockstep.run_for(1000), Exit::Counted);
    lockstep.memories.first.memory().write_obj(0x77_u8, GuestAddress((CONSTANT + 9).into())).unwrap();
    let found = finish(lockstep).unwrap_err();
    assert!(found.contains("neither says it has written"), "{found}");
    assert!(
        found.contains(&format!("physical {:#x}", CONSTANT + 8)) && found.contains("first   00 77"),
        "{found}"
    );
}

#[test]
fn a_stretch_that_differs_once_is_told_as_it_was() {
    let mut lockstep = lockstep(kernel(&[]), 500, |_| {});
    assert_eq!(lockstep.run_for(1000), Exit::Counted);
    // A register that the engine itself has got wrong: it is right again when both go back.
    let mut state = lockstep.second.cpu.state();
    state.gpr[6] ^= 4;
    lockstep.second.set_state(&state);
    let found = finish(lockstep).unwrap_err();
    assert!(found.contains("between instructions 1000 and 1500") && found.contains("RSI\n"), "{found}");
}
