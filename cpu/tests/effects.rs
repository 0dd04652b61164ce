//! What each instruction's semantics read and write, against iced's tables: what a translator's liveness will rely on.

use iced_x86::{
    Code, EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use softmetal_cpu::testing::{Effects, effects};
use softmetal_cpu_testing::{Random, flag, forms, undefined::rflags};
use std::collections::BTreeSet;

/// What iced says: each part as what surely happens, and what may.
#[derive(Default)]
struct Table {
    read: (u16, u16),
    written: (u16, u16),
    vectors_read: (u16, u16),
    vectors_written: (u16, u16),
    memory_read: (bool, bool),
    memory_written: (bool, bool),
}

fn reads(access: OpAccess) -> (bool, bool) {
    use OpAccess::{CondRead, CondWrite, Read, ReadCondWrite, ReadWrite};
    let sure = matches!(access, Read | ReadWrite | ReadCondWrite);
    // What is written on a condition is kept otherwise.
    (sure, sure || matches!(access, CondRead | CondWrite))
}

fn writes(access: OpAccess) -> (bool, bool) {
    use OpAccess::{CondWrite, ReadCondWrite, ReadWrite, Write};
    let sure = matches!(access, Write | ReadWrite);
    (sure, sure || matches!(access, CondWrite | ReadCondWrite))
}

fn table(insn: &Instruction) -> Table {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(insn);
    let mut t = Table::default();
    for used in info.used_registers() {
        let r = used.register();
        let bit = 1u16.checked_shl(r.full_register().number() as u32).unwrap_or(0);
        let (read, written) = match () {
            () if r.is_gpr() => (&mut t.read, &mut t.written),
            () if r.is_xmm() || r.is_ymm() || r.is_zmm() => (&mut t.vectors_read, &mut t.vectors_written),
            () => continue,
        };
        for (set, (sure, may)) in [(read, reads(used.access())), (written, writes(used.access()))] {
            set.0 |= if sure { bit } else { 0 };
            set.1 |= if may { bit } else { 0 };
        }
    }
    for used in info.used_memory() {
        for (set, (sure, may)) in
            [(&mut t.memory_read, reads(used.access())), (&mut t.memory_written, writes(used.access()))]
        {
            set.0 |= sure;
            set.1 |= may;
        }
    }
    t
}

/// What is wrong, in words.
fn compare(insn: &Instruction, e: &Effects) -> Vec<String> {
    let t = table(insn);
    let mut wrong = Vec::new();
    let mut sets = |name: &str, ours: u16, (sure, may): (u16, u16)| {
        if sure & !ours != 0 || ours & !may != 0 {
            wrong.push(format!("{name} {ours:04x}, by the table {sure:04x} to {may:04x}"));
        }
    };
    // A target that is merged with what it held is read by the semantics, and called written by the table.
    sets("reads", e.read & !t.written.1, (t.read.0 & !t.written.1, t.read.1));
    sets("writes", e.written, t.written);
    sets(
        "reads vectors",
        e.vectors_read & !t.vectors_written.1,
        (t.vectors_read.0 & !t.vectors_written.1, t.vectors_read.1),
    );
    sets("writes vectors", e.vectors_written, t.vectors_written);
    let bits = |(sure, may): (bool, bool)| (u16::from(sure), u16::from(may));
    sets("reads memory", e.memory_read.into(), bits(t.memory_read));
    sets("writes memory", e.memory_written.into(), bits(t.memory_written));
    let sure = rflags(insn.rflags_written() | insn.rflags_cleared() | insn.rflags_set()) & flag::STATUS;
    let may = rflags(insn.rflags_modified()) & flag::STATUS;
    // Flags that are written back as they were read are kept.
    // The table knows when an immediate count is 0; the semantics ask.
    let kept = e.flags_read & !may;
    let changed = e.flags_written & !kept;
    let perhaps = if by_immediate(insn) { 0 } else { e.flags_perhaps & !kept };
    if sure & !(changed | e.flags_perhaps) != 0 || (changed | perhaps) & !may != 0 {
        wrong.push(format!("writes flags {changed:x}, by the table {sure:x} to {may:x}"));
    }
    let read = rflags(insn.rflags_read()) & flag::STATUS;
    if read & !e.flags_read != 0 || e.flags_read & !(read | e.flags_written | e.flags_perhaps) != 0 {
        wrong.push(format!("reads flags {:x}, by the table {read:x}", e.flags_read));
    }
    wrong
}

/// Shifts and rotates by a number in the instruction.
fn by_immediate(insn: &Instruction) -> bool {
    use Mnemonic::{Rcl, Rcr, Rol, Ror, Sal, Sar, Shl, Shld, Shr, Shrd};
    matches!(insn.mnemonic(), Rcl | Rcr | Rol | Ror | Sal | Sar | Shl | Shld | Shr | Shrd)
        && insn.op_kind(insn.op_count() - 1) == OpKind::Immediate8
}

/// What does nothing on this processor: prefetches, and the shadow stack's instructions, which are NOPs without it.
fn hint(code: Code) -> bool {
    let name = format!("{:?}", code.mnemonic());
    name.starts_with("Prefetch")
        || matches!(code.mnemonic(), Mnemonic::Cldemote | Mnemonic::Rdsspd | Mnemonic::Rdsspq)
}

/// XOR of a register with itself and the like: iced knows that nothing is read.
fn idiom(insn: &Instruction) -> bool {
    let registers: Vec<Register> = (0..insn.op_count())
        .filter(|&k| insn.op_kind(k) == OpKind::Register)
        .map(|k| insn.op_register(k).full_register())
        .collect();
    let different: BTreeSet<_> = registers.iter().collect();
    different.len() != registers.len()
}

#[test]
fn every_mnemonic_reads_and_writes_what_the_tables_say() {
    let mut random = Random::new(3);
    let (mut compared, mut opaque, mut wrong) = (0, 0, Vec::new());
    let mut mnemonics = BTreeSet::new();
    for code in Code::values() {
        let info = code.op_code();
        if !info.is_instruction()
            || !info.mode64()
            || !matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
            || hint(code)
        {
            continue;
        }
        for _ in 0..16 {
            let Some(form) = forms::form(code, &mut random) else { continue };
            if form.insn.code() != code || idiom(&form.insn) {
                continue;
            }
            let Some(e) = effects(&form.bytes) else { continue };
            if e.opaque {
                opaque += 1;
                continue;
            }
            compared += 1;
            mnemonics.insert(format!("{:?}", code.mnemonic()));
            let different = compare(&form.insn, &e);
            if !different.is_empty() {
                wrong.push(format!("{code:?} {:02x?} {}: {}", form.bytes, form.insn, different.join("; ")));
                break;
            }
        }
    }
    println!("{compared} forms of {} mnemonics compared, {opaque} are plain Rust", mnemonics.len());
    assert!(wrong.is_empty(), "{} codes differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(mnemonics.len() > 500, "only {} mnemonics", mnemonics.len());
}
