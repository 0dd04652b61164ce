//! What a difference looks like in words.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use softmetal_cpu::state::{Segment, efer, seg};
use softmetal_cpu::{CpuState, Options};

use super::memories::Unequal;
use super::search::Step;
use super::{Difference, Plan};

/// Where the engines part.
pub(super) struct Found {
    /// So many instructions had run when they were the same.
    pub(super) from: u64,
    /// And when they were not.
    pub(super) to: u64,
    pub(super) how: How,
    pub(super) difference: Difference,
}

/// What it takes to see the difference.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// The instruction alone.
    Alone,
    /// The second engine runs the block as a whole.
    Block,
    /// The second engine runs from the beginning of the stretch without a stop.
    Stretch,
    /// It did not show again.
    NotAgain,
}

/// An engine's name, and what of it is switched off.
pub(super) fn engine(options: &Options) -> String {
    let off = [
        (options.no_chain, "no-chain"),
        (options.no_fuse, "no-fuse"),
        (options.no_specialise, "no-specialise"),
        (options.no_tlb, "no-tlb"),
    ];
    let off: Vec<&str> = off.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
    let name = match options.jit {
        None => "the interpreter",
        Some(translate) if translate.at_once => "the translator, of all code",
        Some(translate) if translate.one_pass == Some(0) => "the translator, of all code in one pass",
        Some(_) => "the translator",
    };
    match off.is_empty() {
        true => name.into(),
        false => format!("{name} with {}", off.join(",")),
    }
}

fn engines(plan: &Plan) -> String {
    format!("  first:  {}\n  second: {}\n", engine(&plan.first), engine(&plan.second))
}

/// The linear address of the next instruction.
pub(super) fn linear(state: &CpuState) -> u64 {
    let Segment { base, attributes, .. } = state.segments[seg::CS];
    let long = state.efer & efer::LMA != 0 && attributes & Segment::LONG != 0;
    if long { state.rip } else { base.wrapping_add(state.rip) as u32 as u64 }
}

fn bitness(state: &CpuState) -> u32 {
    let attributes = state.segments[seg::CS].attributes;
    if state.efer & efer::LMA != 0 && attributes & Segment::LONG != 0 {
        64
    } else if attributes & Segment::BIG != 0 {
        32
    } else {
        16
    }
}

/// An instruction's bytes and text.
fn disassembly(step: &Step) -> (String, String) {
    let mut decoder =
        Decoder::with_ip(bitness(&step.state), &step.bytes, step.state.rip, DecoderOptions::NONE);
    let insn = decoder.decode();
    let mut text = String::new();
    IntelFormatter::new().format(&insn, &mut text);
    let bytes: Vec<String> = step.bytes[..insn.len()].iter().map(|byte| format!("{byte:02x}")).collect();
    (bytes.join(" "), text)
}

/// All of a state, by name.
fn fields(state: &CpuState) -> Vec<(String, String)> {
    const GPR: [&str; 16] = [
        "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13",
        "R14", "R15",
    ];
    const SEGMENTS: [&str; 6] = ["ES", "CS", "SS", "DS", "FS", "GS"];
    let mut fields: Vec<(String, String)> = Vec::new();
    let mut field = |name: &str, value: String| fields.push((name.into(), value));
    let hex = |value: u64| format!("{value:016x}");
    let segment =
        |s: &Segment| format!("{:04x} {:016x} {:08x} {:05x}", s.selector, s.base, s.limit, s.attributes);
    for (name, value) in GPR.iter().zip(&state.gpr) {
        field(name, hex(*value));
    }
    field("RIP", hex(state.rip));
    field("RFLAGS", hex(state.rflags));
    for (name, value) in SEGMENTS.iter().zip(&state.segments) {
        field(name, segment(value));
    }
    field("LDTR", segment(&state.ldtr));
    field("TR", segment(&state.tr));
    field("GDTR", format!("{:016x} {:04x}", state.gdtr.base, state.gdtr.limit));
    field("IDTR", format!("{:016x} {:04x}", state.idtr.base, state.idtr.limit));
    for (name, value) in [
        ("CR0", state.cr0),
        ("CR2", state.cr2),
        ("CR3", state.cr3),
        ("CR4", state.cr4),
        ("XCR0", state.xcr0),
        ("PKRU", state.pkru.into()),
        ("EFER", state.efer),
        ("TSC offset", state.tsc_offset),
        ("MXCSR", state.mxcsr.into()),
        ("pending debug", state.pending_debug),
    ] {
        field(name, hex(value));
    }
    for (number, value) in state.pdptrs.iter().enumerate() {
        field(&format!("PDPTE{number}"), hex(*value));
    }
    for (number, value) in state.dr.iter().enumerate() {
        field(&format!("DR{number}"), hex(*value));
    }
    for (number, (low, high)) in state.xmm.iter().zip(&state.ymm_high).enumerate() {
        field(&format!("YMM{number}"), format!("{high:032x} {low:032x}"));
    }
    let x87 = &state.x87;
    for (number, value) in x87.regs.iter().enumerate() {
        field(&format!("x87 R{number}"), format!("{:04x} {:016x}", value.sign_exponent, value.significand));
    }
    for (name, value) in [
        ("x87 control", u64::from(x87.control)),
        ("x87 status", x87.status.into()),
        ("x87 tags", x87.tags.into()),
        ("x87 opcode", x87.opcode.into()),
        ("x87 IP", x87.ip),
        ("x87 CS", x87.cs.into()),
        ("x87 DP", x87.dp),
        ("x87 DS", x87.ds.into()),
    ] {
        field(name, hex(value));
    }
    field("MSRs", format!("{:x?}", state.msrs));
    field("shadow", format!("{:?}", state.shadow));
    field("NMI blocked", state.nmi_blocked.to_string());
    field("activity", format!("{:?}", state.activity));
    field("injected", format!("{:x?}", state.injected));
    fields
}

/// The instruction of those shown that wrote a field last.
fn last_writer<'a>(name: usize, steps: &'a [Step], after: &CpuState) -> Option<&'a Step> {
    let value = |state: &CpuState| fields(state).swap_remove(name).1;
    let mut behind = value(after);
    steps.iter().rev().find(|step| {
        let before = value(&step.state);
        let wrote = before != behind;
        behind = before;
        wrote
    })
}

fn hex_bytes(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

fn memory(text: &mut String, unequal: &Unequal) {
    let Unequal { at, first, second } = unequal;
    let _ = writeln!(text, "memory at physical {at:#x}:");
    let _ = writeln!(text, "  first   {}\n  second  {}", hex_bytes(first), hex_bytes(second));
}

/// A difference that was traced back, with the first engine's last instructions before it.
pub(super) fn found(plan: &Plan, found: &Found, steps: &[Step]) -> String {
    let Found { from, to, how, difference } = found;
    let mut text = String::from("lockstep: the engines differ ");
    let _ = match how {
        How::Alone => writeln!(text, "in instruction {from}, whether it runs alone or not"),
        How::Block => writeln!(
            text,
            "in the block of instructions {from} to {}, only when the second runs it as a whole",
            to - 1
        ),
        How::Stretch => writeln!(
            text,
            "behind instruction {}, only when the second runs up to there without a stop; the cause may be earlier",
            to - 1
        ),
        How::NotAgain => writeln!(
            text,
            "between instructions {from} and {to}; when they ran these again they did not, so that it is something the engine keeps"
        ),
    };
    text.push_str(&engines(plan));
    if let Some(step) = steps.iter().rev().find(|step| *how == How::Alone && step.number == *from) {
        let (bytes, insn) = disassembly(step);
        let _ = writeln!(text, "instruction {} at {:#x}: {insn}  [{bytes}]", step.number, step.state.rip);
    }
    let upto = steps.iter().position(|step| step.number >= *to).unwrap_or(steps.len());
    let steps = &steps[..upto];
    match difference {
        Difference::Course(what) => {
            let _ = writeln!(text, "{what}");
        }
        Difference::Memory(unequal) => memory(&mut text, unequal),
        Difference::State(states) => {
            let [first, second] = states.as_ref();
            let block = steps.iter().position(|step| step.number >= *from).unwrap_or(0);
            for (k, ((name, a), (_, b))) in fields(first).into_iter().zip(fields(second)).enumerate() {
                if a == b {
                    continue;
                }
                let writer = last_writer(k, &steps[block..], first);
                let writer = writer.map_or(String::new(), |step| {
                    format!("; the first wrote it in instruction {}: {}", step.number, disassembly(step).1)
                });
                let _ = writeln!(text, "{name}{writer}\n  first   {a}\n  second  {b}");
            }
        }
    }
    text.push_str("the first engine's last instructions:\n");
    let mut next = None;
    for step in steps {
        let (bytes, insn) = disassembly(step);
        // A line between runs of code that follow one another in memory.
        if next.is_some_and(|next| next != step.linear) {
            text.push_str("  --\n");
        }
        next = Some(step.linear.wrapping_add(bytes.split(' ').count() as u64));
        let mark = if (*from..*to).contains(&step.number) { '>' } else { ' ' };
        let _ = writeln!(text, "{mark} {:>12} {:016x}  {bytes:<32} {insn}", step.number, step.linear);
    }
    if let Some(step) = steps.iter().find(|step| step.number >= *from) {
        let _ = writeln!(text, "before instruction {}:\n{}", step.number, step.state);
    }
    if let Difference::State(states) = difference {
        let _ = writeln!(text, "the first after it:\n{}", states[0]);
        let _ = writeln!(text, "the second after it:\n{}", states[1]);
    }
    text.truncate(text.trim_end().len());
    text
}

/// Memory differs somewhere, and no stretch has shown it.
pub(super) fn whole_memory(plan: &Plan, instructions: u64, unequal: &Unequal) -> String {
    let mut text = format!(
        "lockstep: behind {instructions} instructions the engines' memories differ in a page that neither says it has written\n"
    );
    text.push_str(&engines(plan));
    memory(&mut text, unequal);
    text.truncate(text.trim_end().len());
    text
}
