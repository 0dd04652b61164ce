//! One instruction, whatever its bytes, on the test machine and in a process on the host, from the same state; everything
//! compared.

use crate::{
    compare::{blank, compare_faults, compare_users, describe, narrow, register, text},
    forms_legacy::is_local,
    host::{Child, may_call_system},
    layout::*,
    machine::{Machine, flag},
    random::Random,
    segments::Segments,
    undefined::{Undefined, makers_disagree, undefined},
};
use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, EncodingKind, FlowControl, Instruction,
    InstructionInfoFactory, Mnemonic as M, OpKind, Register,
};
use softmetal_cpu::{Fault, Options, state::CpuState, testing::User};
use std::fmt::Write;

/// What became of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Both ran it to its end, and agree.
    Ran,
    /// Both raised the same exception.
    Faulted,
    /// It was not run, or is known not to be comparable.
    Skipped,
}

/// Both sides.
pub struct Process {
    machine: Machine,
    child: Child,
    segments: Segments,
    begin: CpuState,
    /// What the emulated CPU has; instructions of other features are not compared.
    features: Vec<CpuidFeature>,
}

impl Process {
    /// None where the host cannot serve.
    pub fn new(options: Options, features: &[CpuidFeature]) -> Option<Process> {
        let child = Child::new()?;
        let mut machine = Machine::new(options);
        machine.become_linux();
        let begin = Machine::process_state(Segments::LONG);
        let mut process =
            Process { machine, child, segments: Segments::LONG, begin, features: features.to_vec() };
        process.enter(Segments::LONG);
        Some(process)
    }

    /// Runs code in other segments from now on. False where the host has none of that kind.
    pub fn enter(&mut self, segments: Segments) -> bool {
        let entered = self.child.enter(segments);
        if entered {
            self.segments = segments;
            self.begin = Machine::process_state(segments);
            self.machine.cpu.set_state(&self.begin);
        }
        entered
    }

    /// Sets all scratch memory of both sides.
    pub fn set_scratch(&mut self, bytes: &[u8]) {
        self.child.scratch()[..bytes.len()].copy_from_slice(bytes);
        self.machine.write(SCRATCH_FRAME, bytes);
    }

    /// The instruction that some bytes are.
    pub fn decode(&self, bytes: &[u8]) -> Instruction {
        self.decode_with(bytes, DecoderOptions::NONE)
    }

    fn decode_with(&self, bytes: &[u8], options: u32) -> Instruction {
        Decoder::with_ip(self.segments.bitness(), bytes, self.segments.ip(), options).decode()
    }

    /// Whether an instruction may be compared. Bytes that are none may: both sides raise #UD.
    pub fn comparable(&self, insn: &Instruction, bytes: &[u8]) -> bool {
        let its_bytes = bytes.get(..insn.len()).unwrap_or(bytes);
        let encoding = insn.code().op_code().encoding();
        if insn.is_invalid() && !self.decode_with(bytes, DecoderOptions::AMD).is_invalid() {
            return false;
        }
        let known = insn.is_invalid()
            || matches!(encoding, EncodingKind::Legacy | EncodingKind::VEX)
                && insn.cpuid_features().iter().all(|f| self.features.contains(f));
        known
            && !may_call_system(bytes)
            && !varies(insn)
            && !makers_disagree(insn, its_bytes, self.segments.bitness())
    }

    /// Runs bytes on both sides from `before`; what differs, in words.
    pub fn check(&mut self, bytes: &[u8], before: &User) -> Result<Case, String> {
        let insn = self.decode(bytes);
        // With a count of 0, Intel's CPUs do not ask whether the port is allowed.
        let ports = matches!(insn.mnemonic(), M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd);
        if !self.comparable(&insn, bytes) || ports && before.gpr[1] & 0xffff == 0 {
            return Ok(Case::Skipped);
        }
        // The host runs the next instruction too where no trap comes in between.
        let bytes = if loads_ss(&insn) { &bytes[..insn.len()] } else { bytes };
        // A block goes on behind the instruction.
        let alone = self.machine.translates() && !insn.is_invalid();
        self.machine.load(if alone { &bytes[..insn.len()] } else { bytes });
        let (mut ours, mut theirs) = (*before, *before);
        ours.rip = self.segments.ip();
        let mut our_fault = self.machine.run_user(&mut ours);
        let their_fault = self.child.run(bytes, &mut theirs);
        if let Some(trap) = self.machine.taken(&mut ours) {
            our_fault = Err(trap);
        }
        let [es, cs, ss, ds, ..] = self.machine.cpu.state().segments.map(|s| s.selector);
        let our_segments = Segments { cs, ss, ds, es };
        self.machine.cpu.set_state(&self.begin);
        if self.segments != Segments::LONG {
            narrow(before, &mut ours);
        }
        let after = self.segments.ip() + insn.len() as u64;
        let their_fault = match their_fault {
            // No trap comes between MOV SS and the next instruction, which is UD2.
            Err(fault) if fault.vector == 6 && theirs.rip == after && loads_ss(&insn) => Ok(()),
            other => other,
        };
        let end = self.segments != Segments::LONG && self.reaches_4_gib(&insn, before);
        let vectors = (our_fault.map_err(|fault| fault.vector), their_fault.map_err(|fault| fault.vector));
        if let (Err(ours), Err(theirs)) = (&mut our_fault, &their_fault)
            && matches!(insn.mnemonic(), M::Iret | M::Iretd | M::Iretq)
            && ours.vector == 13
        {
            // Which of two bad selectors is found first.
            ours.error_code = Some(theirs.error);
        }
        let unknown = calls_far_away(&insn, vectors)
            || is_environment(&insn) && (our_fault.is_err() || their_fault.is_err())
            || end && vectors.0 != vectors.1
            || insn.is_invalid() && length_decides(vectors);
        if unknown || their_fault.is_ok() && branches_nowhere(&our_fault, &theirs) {
            self.settle_memory();
            return Ok(Case::Skipped);
        }
        if their_fault.is_ok() {
            self.hide_trap_flag(&insn, &theirs);
        }
        let mut report = String::new();
        let faulted = compare_faults(&mut report, shown_by_linux(our_fault), their_fault);
        if our_segments != self.child.segments_left() && our_fault.is_ok() {
            let _ =
                writeln!(report, "  selectors: {our_segments:x?}, host {:x?}", self.child.segments_left());
        }
        let free =
            if faulted { Undefined::default() } else { undefined(&insn, before, source(&insn, before)) };
        ours.rflags &= !flag::RF;
        compare_users(&mut report, &ours, &theirs, free.flags, free.result, &insn);
        let others = (ours.rflags ^ theirs.rflags) & (flag::TF | flag::NT | flag::AC | flag::ID);
        if others != 0 {
            let _ = writeln!(report, "  rflags: {:x}, host {:x}", ours.rflags, theirs.rflags);
        }
        let differing = self.settle_memory();
        if !(free.result && insn.op0_kind() == OpKind::Memory) {
            report.push_str(&differing);
        }
        if report.is_empty() {
            return Ok(if faulted { Case::Faulted } else { Case::Ran });
        }
        let hex: Vec<String> = bytes.iter().take(15).map(|b| format!("{b:02x}")).collect();
        let mut message = format!("[{}] {}\n  in {:x?}\n", hex.join(" "), text(&insn), self.segments);
        describe(&mut message, before, &insn);
        let _ = writeln!(message, "  rsp={:x} rflags={:x}", before.gpr[4], before.rflags);
        Err(message + &report)
    }

    /// SDM 3A "Limit Checking": whether accesses at the end of a segment of 4 GiB raise an exception or wrap is up to the
    /// implementation.
    fn reaches_4_gib(&self, insn: &Instruction, user: &User) -> bool {
        let mut factory = InstructionInfoFactory::new();
        factory.info(insn).used_memory().iter().any(|m| {
            let flat =
                !matches!(m.segment(), Register::FS | Register::GS) && !is_local(self.segments, m.segment());
            let at = m.virtual_address(
                0,
                |r, _, _| {
                    if r.is_segment_register() { Some(0) } else { register(user, r) }
                },
            );
            flat && at.is_none_or(|at| at & 0xffff_ffff > 0xffff_ff00)
        })
    }

    /// Compares memory; afterwards both have the host's.
    fn settle_memory(&mut self) -> String {
        let ours = self.machine.bytes(SCRATCH_FRAME, SCRATCH_SIZE as usize);
        let theirs = self.child.scratch();
        let mut report = String::new();
        if ours[..] != theirs[..] {
            for k in (0..ours.len()).filter(|&k| ours[k] != theirs[k]).take(16) {
                let at = SCRATCH + k as u64;
                let _ = writeln!(report, "  [{at:#x}]: {:02x}, host {:02x}", ours[k], theirs[k]);
            }
            let theirs = theirs.to_vec();
            self.machine.write(SCRATCH_FRAME, &theirs);
        }
        report
    }

    /// PUSHF under ptrace pushes the trap flag with which the kernel steps.
    fn hide_trap_flag(&mut self, insn: &Instruction, after: &User) {
        if !matches!(insn.mnemonic(), M::Pushf | M::Pushfd | M::Pushfq) {
            return;
        }
        let sp = match self.segments.bitness() {
            64 => after.gpr[4],
            _ if self.segments.narrow_stack() => after.gpr[4] & 0xffff,
            _ => after.gpr[4] & 0xffff_ffff,
        };
        let base = if self.segments == Segments::LONG { 0 } else { self.segments.base(self.segments.ss) };
        let at = sp.wrapping_add(base).wrapping_sub(SCRATCH) as usize;
        if let Some(byte) = self.child.scratch().get_mut(at.wrapping_add(1)) {
            *byte &= !1;
        }
    }

    /// Registers of which many lead to the scratch memory, and flags, AC among them at times.
    pub fn state(&self, insn: &Instruction, random: &mut Random) -> User {
        let mut user = blank();
        let long = self.segments == Segments::LONG;
        let base = if long { 0 } else { self.segments.base(self.segments.ds) };
        for (k, r) in user.gpr.iter_mut().enumerate() {
            *r = match random.below(3) {
                0 => random.operand(),
                _ => (DATA + random.below(0x3000)).wrapping_sub(base),
            };
            if k == 4 || k == 5 && random.once_in(2) {
                let base = if long { 0 } else { self.segments.base(self.segments.ss) };
                *r = USER_STACK - 2 * random.below(0x200) - base;
            }
            if !long {
                *r &= 0xffff_ffff;
            }
        }
        let uses_index = insn.memory_index() != Register::None && insn.memory_index().is_gpr();
        if uses_index && random.once_in(2) {
            let index = &mut user.gpr[insn.memory_index().full_register().number()];
            *index &= 0xff;
        }
        if insn.is_string_instruction() {
            user.gpr[1] = random.below(20);
        }
        user.rflags = 0x202 | random.next() & (flag::STATUS | flag::DF);
        for (bit, odds) in [(flag::AC, 8), (flag::ID, 8), (flag::NT, 8)] {
            user.rflags |= if random.once_in(odds) { bit } else { 0 };
        }
        for k in 0..16 {
            user.xmm[k] = u128::from(random.operand()) | u128::from(random.operand()) << 64;
            user.ymm_high[k] = u128::from(random.operand()) | u128::from(random.operand()) << 64;
        }
        let x = &mut user.x87;
        for r in &mut x.regs {
            r.significand = random.operand() | if random.once_in(8) { 0 } else { 1 << 63 };
            r.sign_exponent = random.next() as u16;
        }
        x.tags = if random.once_in(2) { 0x7f } else { random.next() as u8 };
        if random.once_in(4) {
            x.status = (random.below(8) as u16) << 11;
        }
        user
    }
}

/// Instructions whose results belong to the machine or the system and not to the instruction.
fn varies(insn: &Instruction) -> bool {
    matches!(
        insn.mnemonic(),
        M::Cpuid
            | M::Rdtsc
            | M::Rdtscp
            | M::Rdpmc
            | M::Rdrand
            | M::Rdseed
            | M::Rdpid
            | M::Xgetbv
            // The system emulates them where the CPU refuses (UMIP).
            | M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Str
            | M::Smsw
            // One entry of the GDT tells the number of the CPU.
            | M::Lsl
            // They reach bases that the process began with.
            | M::Rdfsbase
            | M::Rdgsbase
            // Which addresses are canonical depends on whether the CPU knows five levels of page tables.
            | M::Wrfsbase
            | M::Wrgsbase
            // The state components of the host.
            | M::Xsave
            | M::Xsave64
            | M::Xsavec
            | M::Xsavec64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xrstor
            | M::Xrstor64
            | M::Xsaves
            | M::Xsaves64
            | M::Xrstors
            | M::Xrstors64
            // Calls of a hypervisor.
            | M::Vmcall
            | M::Vmmcall
            | M::Syscall
            | M::Sysenter
            | M::Int1
            // Those who have no such thing may ignore it.
            | M::Monitor
            | M::Mwait
            | M::Wrpkru
            | M::Rdpkru
    )
}

fn loads_ss(insn: &Instruction) -> bool {
    insn.op_count() > 0 && insn.op0_register() == Register::SS && matches!(insn.mnemonic(), M::Mov | M::Pop)
}

/// Where such a long operand does not lie in one page, makers begin at different ends.
fn is_environment(insn: &Instruction) -> bool {
    matches!(insn.mnemonic(), M::Fnstenv | M::Fldenv | M::Fnsave | M::Frstor)
}

/// A near call to beyond the code segment's limit, with a stack that faults too: AMD's CPUs push first.
fn calls_far_away(insn: &Instruction, vectors: (Result<(), u8>, Result<(), u8>)) -> bool {
    matches!(insn.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
        && matches!(vectors, (Err(13), Err(12 | 14 | 17)))
}

/// How long an undefined opcode is, and so whether it is longer than fifteen bytes, is up to each maker.
fn length_decides(vectors: (Result<(), u8>, Result<(), u8>)) -> bool {
    matches!(vectors, (Err(6), Err(13)) | (Err(13), Err(6)))
}

/// AMD's CPUs branch to an address that is not canonical and fault there; Intel's fault at the branch.
fn branches_nowhere(ours: &Result<(), Fault>, theirs: &User) -> bool {
    let canonical = (theirs.rip << 16) as i64 >> 16 == theirs.rip as i64;
    ours.is_err_and(|fault| fault.vector == 13) && !canonical
}

/// Linux reports every page fault above a process's addresses as one of a page that is present.
fn shown_by_linux(fault: Result<(), Fault>) -> Result<(), Fault> {
    const PRESENT: u32 = 1;
    fault.map_err(|mut fault| {
        if fault.vector == 14 && fault.address >= 0x7fff_ffff_f000 {
            fault.error_code = fault.error_code.map(|code| code | PRESENT);
        }
        fault
    })
}

/// The source of BSF and BSR, where it is a register; with memory, their result is taken to be undefined.
fn source(insn: &Instruction, user: &User) -> u64 {
    if insn.op_count() > 1 && insn.op1_kind() == OpKind::Register {
        register(user, insn.op1_register()).unwrap_or(1)
    } else {
        0
    }
}

/// Whether bytes of an instruction leave the straight path.
pub fn is_branch(insn: &Instruction) -> bool {
    !matches!(insn.flow_control(), FlowControl::Next | FlowControl::Exception)
}

/// Random bytes: pure ones, opcodes of all maps, and instructions with bits turned over and prefixes in any order.
pub fn random_bytes(segments: Segments, codes: &[Code], random: &mut Random) -> Vec<u8> {
    const PREFIXES: [u8; 13] = [0x66, 0x66, 0x67, 0xf2, 0xf3, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65];
    let mut bytes = Vec::new();
    let count = match random.below(8) {
        0..4 => 0,
        4..6 => 1,
        6 => 2,
        _ => random.below(15),
    };
    for _ in 0..count {
        let rex = segments.bitness() == 64 && random.once_in(4);
        bytes.push(if rex { 0x40 | random.next() as u8 & 15 } else { random.pick(&PREFIXES) });
    }
    match random.below(8) {
        0 | 1 => {}
        2 => bytes.push(0x0f),
        3 => bytes.extend([0x0f, 0x38]),
        4 => bytes.extend([0x0f, 0x3a]),
        _ => {
            let form = crate::forms::form_in(segments, random.pick(codes), random);
            let mut form = form.map_or(Vec::new(), |form| form.bytes);
            if random.once_in(2) && !form.is_empty() {
                let k = random.below(form.len() as u64) as usize;
                form[k] ^= 1 << random.below(8);
            }
            bytes.extend(form);
        }
    }
    while bytes.len() < 15 {
        bytes.push(random.next() as u8);
    }
    bytes.truncate(15);
    bytes
}
