//! Runs the lines of a file on the test machine, and on the host where it can.

use super::parse::{EXCEPTIONS, Expected, FLAGS, File, Item, Line, Mode, Place, parse};
use crate::{
    compare::{blank, register, text},
    host::{Host, judges, runs_in, runs_on_host},
    layout::*,
    machine::{Machine, flag},
    program::{translated, translated_alone},
    segments::Segments,
    undefined::undefined,
};
use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpKind};
use softmetal_cpu::{
    CpuState, Fault,
    float::F80,
    state::{Segment, efer},
    testing::User,
};
use std::path::Path;

/// What became of a file.
#[derive(Debug, Default)]
pub struct Report {
    /// Lines that ran on the test machine.
    pub lines: usize,
    /// Lines that ran on the host too.
    pub on_host: usize,
    /// What was wrong, a piece of text for each line.
    pub wrong: Vec<String>,
}

/// State and scratch memory after an instruction.
struct Outcome {
    state: CpuState,
    scratch: Vec<u8>,
    fault: Option<Expected>,
}

/// Checks a file; with BLESS=1 in the environment, writes what it found instead.
pub fn check_file(path: &Path) -> Result<Report, String> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| format!("{name}: {e}"))?;
    let mut file = parse(&name, &text)?;
    let bless = std::env::var_os("BLESS").is_some_and(|v| v == "1");
    let report = check(&name, &mut file, bless);
    if bless {
        let lines: Vec<String> = file
            .lines
            .iter()
            .map(|line| match line {
                Ok(line) => line.to_string(),
                Err(text) => text.clone(),
            })
            .collect();
        std::fs::write(path, lines.join("\n") + "\n").map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(report)
}

fn check(name: &str, file: &mut File, bless: bool) -> Report {
    let mut report = Report::default();
    let mut machine = Machine::default();
    let mut translators = [
        ("translated", Machine::new(translated(0))),
        ("translated in one pass", Machine::new(translated_alone(u32::MAX))),
    ];
    let mut host = if judges() { Host::new() } else { None };
    for line in file.lines.iter_mut().flatten() {
        report.lines += 1;
        let insn =
            Decoder::with_ip(line.mode.bitness(), &line.bytes, line.mode.ip(), DecoderOptions::NONE).decode();
        let wrong =
            |report: &mut Report, why: String| report.wrong.push(format!("{name}:{}: {why}", line.number));
        let disassembly = text(&insn);
        if line.text != disassembly {
            if bless {
                line.text = disassembly;
            } else {
                wrong(&mut report, format!("the bytes mean \"{disassembly}\", not \"{}\"", line.text));
            }
        }
        let before = match begin(&mut machine, line) {
            Ok(before) => before,
            Err(why) => {
                wrong(&mut report, why);
                continue;
            }
        };
        let ours = run_machine(&mut machine, &before);
        for (how, translator) in &mut translators {
            if begin(translator, line).is_err() {
                continue;
            }
            let theirs = run_machine(translator, &before);
            let (ours, theirs) = (describe(&before, &ours, 0), describe(&before, &theirs, 0));
            if ours != theirs {
                let (a, b) = (written(&ours), written(&theirs));
                wrong(&mut report, format!("{}: gives {a}; {how} {b}", line.text));
            }
        }
        let user = user_of(&before.0);
        let free = undefined(&insn, &user, source(&insn, &user));
        if let Some(host) = &mut host
            && suits_host(line, &insn, &before.0, ours.fault.is_some())
            && fault_has_no_place(&ours, line.mode)
            && host.enter(segments(line.mode))
        {
            report.on_host += 1;
            match run_host(host, line, &before) {
                Ok(theirs) => {
                    let silicon = describe(&before, &theirs, free.flags);
                    let emulated = describe(&before, &ours, free.flags);
                    if silicon != emulated && !free.result {
                        let (a, b) = (written(&emulated), written(&silicon));
                        wrong(&mut report, format!("{}: gives {a}; the host {b}", line.text));
                    }
                }
                Err(fault)
                    if ours.fault.map(|f| (f.vector, f.error.unwrap_or(0)))
                        == Some((fault.vector, fault.error)) => {}
                Err(fault) => wrong(&mut report, format!("{}: the host raises {fault:?}", line.text)),
            }
        }
        // Undefined flags are compared only where the line names them.
        let named = line.outputs.iter().filter_map(|item| match item.place {
            Place::Flag(mask) => Some(mask),
            Place::Flags => Some(u64::MAX),
            _ => None,
        });
        let ignored = free.flags & !named.fold(0, |all, mask| all | mask);
        if bless {
            let mut truth = describe(&before, &ours, free.flags);
            let usual = if ours.fault.is_some() { 0 } else { line.bytes.len() as u128 };
            truth.1.retain(|item| item.place != Place::Rip || item.value != usual);
            (line.fault, line.outputs) = truth;
            continue;
        }
        if let Some(why) = difference(line, &before, &ours, ignored) {
            wrong(&mut report, format!("{}: {why}", line.text));
        }
    }
    report
}

/// The source of BSF and BSR in a register.
fn source(insn: &Instruction, user: &User) -> u64 {
    if insn.op_count() > 1 && insn.op1_kind() == OpKind::Register {
        register(user, insn.op1_register()).unwrap_or(1)
    } else {
        1
    }
}

/// The state and scratch memory that a line begins with.
fn begin(machine: &mut Machine, line: &Line) -> Result<(CpuState, Vec<u8>), String> {
    let mut state = match line.mode {
        Mode::User => Machine::user_state(),
        _ => Machine::supervisor_state(),
    };
    state.rip = INSN;
    state.rflags = 2;
    state.gpr = blank().gpr;
    if matches!(line.mode, Mode::Protected32 | Mode::Protected16) {
        let wide = line.mode == Mode::Protected32;
        state.efer &= !(efer::LME | efer::LMA);
        state.cr0 &= !(1 << 31);
        // Without paging everything lies where its page frames are: 32-bit code is flat; 16-bit segments begin there.
        let (code, data) = if wide { (0, 0) } else { (CODE_FRAME, SCRATCH_FRAME) };
        state.rip = CODE_FRAME + (INSN - CODE) - code;
        state.gpr[4] = SCRATCH_FRAME + (USER_STACK - SCRATCH) - data;
        let (size, limit) = if wide { (Segment::BIG, u32::MAX) } else { (0, 0xffff) };
        for (k, segment) in state.segments.iter_mut().enumerate() {
            let (selector, base, rights) = match (k, wide) {
                (1, true) => (selector::CODE32, code, 0x809b),
                (1, false) => (selector::CODE16, code, 0x9b),
                (_, true) => (selector::DATA, data, 0x8093),
                (_, false) => (selector::DATA16, data, 0x93),
            };
            *segment = Segment { selector, base, limit, attributes: rights | size };
        }
    }
    let mut scratch = vec![0; SCRATCH_SIZE as usize];
    for item in &line.inputs {
        set(&mut state, &mut scratch, item)?;
    }
    machine.load(&line.bytes);
    machine.write(SCRATCH_FRAME, &scratch);
    Ok((state, scratch))
}

fn set(state: &mut CpuState, scratch: &mut [u8], item: &Item) -> Result<(), String> {
    let v = item.value as u64;
    match item.place {
        Place::Gpr(k) => state.gpr[k] = v,
        Place::Flags => state.rflags = v | 2,
        Place::Flag(mask) => {
            state.rflags = state.rflags & !mask | v << mask.trailing_zeros() & mask;
        }
        Place::Xmm(k) => state.xmm[k] = item.value,
        Place::YmmHigh(k) => state.ymm_high[k] = item.value,
        Place::Mxcsr => state.mxcsr = v as u32,
        Place::St(k) => {
            state.x87.regs[k] = F80 { significand: v, sign_exponent: (item.value >> 64) as u16 };
        }
        Place::Mm(k) => state.x87.regs[k] = F80 { significand: v, sign_exponent: 0xffff },
        Place::Fcw => state.x87.control = v as u16,
        Place::Fsw => state.x87.status = v as u16,
        Place::Ftw => state.x87.tags = v as u8,
        Place::Cr(0) => state.cr0 = v,
        Place::Cr(2) => state.cr2 = v,
        Place::Cr(3) => state.cr3 = v,
        Place::Cr(_) => state.cr4 = v,
        Place::Efer => state.efer = v,
        Place::Xcr0 => state.xcr0 = v,
        Place::Base(s) => state.segments[s].base = v,
        Place::Rip | Place::Selector(_) => return Err("rip and selectors are no inputs".into()),
        Place::Memory(at) => {
            let offset = at.wrapping_sub(SCRATCH) as usize;
            let end = offset.checked_add(item.bytes.len()).filter(|&end| end <= scratch.len());
            let end = end.ok_or_else(|| format!("{at:x} is not in the scratch memory at {SCRATCH:x}"))?;
            scratch[offset..end].copy_from_slice(&item.bytes);
        }
    }
    Ok(())
}

fn user_of(state: &CpuState) -> User {
    User {
        gpr: state.gpr,
        rip: state.rip,
        rflags: state.rflags,
        xmm: state.xmm,
        ymm_high: state.ymm_high,
        mxcsr: state.mxcsr,
        x87: state.x87,
    }
}

fn run_machine(machine: &mut Machine, before: &(CpuState, Vec<u8>)) -> Outcome {
    machine.cpu.set_state(&before.0);
    let result = machine.step();
    let mut state = machine.cpu.state();
    let fault = result.err().map(|f: Fault| {
        if f.vector == 14 {
            state.cr2 = f.address;
        }
        Expected { vector: f.vector, error: f.error_code }
    });
    Outcome { state, scratch: machine.bytes(SCRATCH_FRAME, SCRATCH_SIZE as usize), fault }
}

/// The segments in which the host runs lines of a mode: those of 16- and 32-bit code begin where the page frames do that the
/// test machine finds there without paging.
fn segments(mode: Mode) -> Segments {
    match mode {
        Mode::Long | Mode::User => Segments::LONG,
        Mode::Protected32 => Segments::FRAMES32,
        Mode::Protected16 => Segments::SMALL16,
    }
}

/// Whether the host can say something about how a line ends: without a fault, or with one that has nothing to do with where
/// memory lies there, or with limits, which 16-bit code has on both sides.
fn fault_has_no_place(ours: &Outcome, mode: Mode) -> bool {
    const DE: u8 = 0;
    const BR: u8 = 5;
    const SS: u8 = 12;
    const GP: u8 = 13;
    match ours.fault {
        None => true,
        Some(Expected { vector: DE | BR, .. }) => true,
        Some(Expected { vector: SS | GP, error: Some(0) }) => mode == Mode::Protected16,
        Some(_) => false,
    }
}

/// Whether the host may run a line: plain code, with the control registers that a process has, and memory operands that its
/// own registers lead into the scratch memory. Selectors are others there.
fn suits_host(line: &Line, insn: &Instruction, state: &CpuState, faulted: bool) -> bool {
    let plain = line.inputs.iter().all(|item| {
        !matches!(item.place, Place::Cr(_) | Place::Efer | Place::Xcr0 | Place::Base(_) | Place::Selector(_))
            && !matches!(item.place, Place::Flag(mask) if mask & !(flag::STATUS | flag::DF | flag::ID) != 0)
    });
    let user = user_of(state);
    let confined = (0..insn.op_count()).all(|k| match insn.op_kind(k) {
        OpKind::Memory => insn
            .virtual_address(k, 0, |r, _, _| register(&user, r))
            .is_some_and(|at| (SCRATCH..SCRATCH + SCRATCH_SIZE).contains(&at)),
        OpKind::MemorySegRSI => (SCRATCH..SCRATCH + SCRATCH_SIZE).contains(&user.gpr[6]),
        OpKind::MemoryESRDI | OpKind::MemorySegRDI => {
            (SCRATCH..SCRATCH + SCRATCH_SIZE).contains(&user.gpr[7])
        }
        OpKind::Register | OpKind::NearBranch64 => true,
        k => !matches!(
            k,
            OpKind::MemorySegESI
                | OpKind::MemorySegSI
                | OpKind::MemoryESEDI
                | OpKind::MemoryESDI
                | OpKind::MemorySegEDI
        ),
    });
    let segments = segments(line.mode);
    if segments == Segments::LONG {
        return plain && confined && runs_on_host(insn);
    }
    let reads_selectors = matches!(insn.mnemonic(), Mnemonic::Lds | Mnemonic::Les)
        || (0..insn.op_count()).any(|k| insn.op_register(k).is_segment_register());
    let mut factory = InstructionInfoFactory::new();
    let confined = factory.info(insn).used_memory().iter().all(|m| {
        let at = m.virtual_address(0, |r, _, _| match r {
            _ if r.is_segment_register() => Some(segments.base(segments.ds)),
            _ => register(&user, r),
        });
        // Beyond the scratch memory are limits alone.
        let beyond = SCRATCH + 0xfff0..SCRATCH + 0x1_0000;
        at.is_some_and(|at| {
            (SCRATCH..SCRATCH + SCRATCH_SIZE).contains(&at) || faulted && beyond.contains(&at)
        })
    });
    plain && confined && !reads_selectors && runs_on_host(insn) && runs_in(segments, insn)
}

fn run_host(host: &mut Host, line: &Line, before: &(CpuState, Vec<u8>)) -> Result<Outcome, crate::HostFault> {
    host.load(&line.bytes);
    host.set_scratch(&before.1);
    let mut user = user_of(&before.0);
    host.run(&mut user)?;
    let mut state = before.0.clone();
    state.gpr = user.gpr;
    state.rip = user.rip;
    state.rflags = user.rflags;
    state.xmm = user.xmm;
    state.ymm_high = user.ymm_high;
    state.mxcsr = user.mxcsr;
    state.x87 = user.x87;
    Ok(Outcome { state, scratch: host.scratch().to_vec(), fault: None })
}

/// What has changed, as a line names it.
type Changes = (Option<Expected>, Vec<Item>);

fn item(place: Place, value: impl Into<u128>) -> Item {
    Item { place, value: value.into(), bytes: Vec::new() }
}

/// All that differs from the beginning, flags in `ignored` left out.
fn describe(before: &(CpuState, Vec<u8>), after: &Outcome, ignored: u64) -> Changes {
    let (old, new) = (&before.0, &after.state);
    let mut changes = Vec::new();
    for k in 0..16 {
        if old.gpr[k] != new.gpr[k] {
            changes.push(item(Place::Gpr(k), new.gpr[k]));
        }
    }
    let flags = (old.rflags ^ new.rflags) & !ignored;
    for (_, mask) in FLAGS {
        if flags & mask != 0 {
            changes.push(item(Place::Flag(mask), (new.rflags & mask) >> mask.trailing_zeros()));
        }
    }
    for k in 0..16 {
        if old.xmm[k] != new.xmm[k] {
            changes.push(item(Place::Xmm(k), new.xmm[k]));
        }
        if old.ymm_high[k] != new.ymm_high[k] {
            changes.push(item(Place::YmmHigh(k), new.ymm_high[k]));
        }
    }
    if old.mxcsr != new.mxcsr {
        changes.push(item(Place::Mxcsr, new.mxcsr));
    }
    let (a, b) = (&old.x87, &new.x87);
    for k in 0..8 {
        if a.regs[k] != b.regs[k] {
            let v = u128::from(b.regs[k].sign_exponent) << 64 | u128::from(b.regs[k].significand);
            changes.push(item(Place::St(k), v));
        }
    }
    let words = [
        (Place::Fcw, a.control, b.control),
        (Place::Fsw, a.status, b.status),
        (Place::Ftw, a.tags.into(), b.tags.into()),
    ];
    changes.extend(words.iter().filter(|(_, x, y)| x != y).map(|(place, _, y)| item(*place, *y)));
    for (place, x, y) in [
        (Place::Cr(0), old.cr0, new.cr0),
        (Place::Cr(2), old.cr2, new.cr2),
        (Place::Cr(3), old.cr3, new.cr3),
        (Place::Cr(4), old.cr4, new.cr4),
        (Place::Efer, old.efer, new.efer),
        (Place::Xcr0, old.xcr0, new.xcr0),
        (Place::Base(4), old.segments[4].base, new.segments[4].base),
        (Place::Base(5), old.segments[5].base, new.segments[5].base),
    ] {
        if x != y {
            changes.push(item(place, y));
        }
    }
    for s in 0..6 {
        if old.segments[s].selector != new.segments[s].selector {
            changes.push(item(Place::Selector(s), new.segments[s].selector));
        }
    }
    changes.extend(memory_changes(&before.1, &after.scratch));
    // Where the instruction's end is not said, it is the next instruction, or the same after a fault.
    let distance = new.rip.wrapping_sub(old.rip);
    changes.push(item(Place::Rip, i128::from(distance as i64) as u128));
    (after.fault, changes)
}

/// Runs of changed bytes; runs less than four bytes apart are one.
fn memory_changes(old: &[u8], new: &[u8]) -> Vec<Item> {
    let changed: Vec<usize> = (0..old.len()).filter(|&k| old[k] != new[k]).collect();
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for k in changed {
        match runs.last_mut() {
            Some((_, end)) if k < *end + 4 => *end = k + 1,
            _ => runs.push((k, k + 1)),
        }
    }
    runs.into_iter()
        .map(|(a, b)| Item { place: Place::Memory(SCRATCH + a as u64), value: 0, bytes: new[a..b].to_vec() })
        .collect()
}

fn written((fault, items): &Changes) -> String {
    let fault = fault.map(|f| {
        let name = EXCEPTIONS.iter().find(|(_, v)| *v == f.vector).map_or("??", |(n, _)| n);
        format!("#{name}{} ", f.error.map_or(String::new(), |e| format!("({e:x})")))
    });
    let items: Vec<String> = items.iter().map(Item::to_string).collect();
    fault.unwrap_or_default() + &items.join(" ")
}

/// How a line's outputs and what happened differ: everything named must be so, everything else unchanged.
fn difference(line: &Line, before: &(CpuState, Vec<u8>), after: &Outcome, ignored: u64) -> Option<String> {
    let mut want = (before.0.clone(), before.1.clone());
    let length = if line.fault.is_some() { 0 } else { line.bytes.len() as u64 };
    want.0.rip = before.0.rip.wrapping_add(length);
    for item in &line.outputs {
        match item.place {
            Place::Rip => want.0.rip = before.0.rip.wrapping_add(item.value as u64),
            Place::Selector(s) => want.0.segments[s].selector = item.value as u16,
            _ => {
                if let Err(why) = set(&mut want.0, &mut want.1, item) {
                    return Some(why);
                }
            }
        }
    }
    let wanted = Outcome { state: want.0, scratch: want.1, fault: line.fault };
    let mut wanted = describe(before, &wanted, ignored);
    let mut got = describe(before, after, ignored);
    if wanted == got {
        return None;
    }
    let common: Vec<Item> = wanted.1.iter().filter(|i| got.1.contains(i)).cloned().collect();
    wanted.1.retain(|i| !common.contains(i));
    got.1.retain(|i| !common.contains(i));
    Some(format!("gives {}; the line says {}", written(&got), written(&wanted)))
}
