//! Handlers of the interpreter call each other in tail position, and rely on the compiler to make jumps of these calls:
//! their machine code is read to be sure.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code)]

use iced_x86::{Decoder, DecoderOptions, FlowControl};
use softmetal_cpu::testing::{Handler, handlers};
use std::collections::BTreeSet;

/// What leaves a function.
#[derive(Default)]
struct Exits {
    indirect_jumps: u32,
    indirect_calls: u32,
}

/// Longest function that is followed.
const REACH: u64 = 16 << 10;

fn exits(handler: &Handler, starts: &BTreeSet<u64>) -> Exits {
    let start = handler.address as u64;
    // The next handler's start ends this one, if it is near.
    let end = starts.range(start + 1..).next().map_or(start + REACH, |&next| next.min(start + REACH));
    let mut exits = Exits::default();
    let (mut seen, mut todo) = (BTreeSet::new(), vec![start]);
    while let Some(at) = todo.pop() {
        if !(start..end).contains(&at) || !seen.insert(at) {
            continue;
        }
        // SAFETY: execution can reach `at`, so an instruction begins there; its bytes are readable, and so is what lies
        // behind them, since the text of this program does not end with a handler.
        let bytes = unsafe { std::slice::from_raw_parts(at as *const u8, 15) };
        let insn = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
        match insn.flow_control() {
            FlowControl::IndirectBranch => exits.indirect_jumps += 1,
            // Through a slot of the dynamic linker: a call of one function, never of the next handler.
            FlowControl::IndirectCall if insn.is_ip_rel_memory_operand() => {}
            FlowControl::IndirectCall => exits.indirect_calls += 1,
            _ => {}
        }
        if matches!(insn.flow_control(), FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch) {
            todo.push(insn.near_branch_target());
        }
        let ends = matches!(
            insn.flow_control(),
            FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Return
                | FlowControl::Exception
        );
        if !ends {
            todo.push(insn.next_ip());
        }
    }
    exits
}

#[test]
fn straight_handlers_jump_to_the_next() {
    let handlers = handlers();
    let starts: BTreeSet<u64> = handlers.iter().map(|h| h.address as u64).collect();
    let straight: Vec<&Handler> = handlers.iter().filter(|h| !h.ends_block).collect();
    assert!(straight.len() > 300, "there are hundreds of straight handlers");
    let no_jump: Vec<&str> =
        straight.iter().filter(|h| exits(h, &starts).indirect_jumps == 0).map(|h| h.name.as_str()).collect();
    assert!(no_jump.is_empty(), "these do not jump to the next handler: {no_jump:?}");
}

#[test]
fn integer_handlers_call_nothing_through_a_pointer() {
    const INTEGER: &[&str] = &[
        "Add", "Sub", "Adc", "Sbb", "Cmp", "And", "Or", "Xor", "Test", "Mov", "Shl", "Shr", "Sar", "Inc",
        "Dec", "Neg", "Not", "MovzxB", "MovzxW", "MovsxB", "MovsxW", "Movsxd", "Lea", "Imul", "Push", "Pop",
        "Setcc", "Cmovcc", "Bt", "Mul", "Div", "Rol", "Ror", "Xchg", "Cmpxchg", "Nop",
    ];
    let handlers = handlers();
    let starts: BTreeSet<u64> = handlers.iter().map(|h| h.address as u64).collect();
    for name in INTEGER {
        let mine: Vec<&Handler> =
            handlers.iter().filter(|h| h.name.split(' ').next() == Some(name)).collect();
        assert!(!mine.is_empty(), "{name} has handlers");
        for handler in mine {
            let exits = exits(handler, &starts);
            assert_eq!(exits.indirect_calls, 0, "{} calls through a pointer", handler.name);
            assert!(exits.indirect_jumps > 0, "{} does not jump to the next", handler.name);
        }
    }
}
