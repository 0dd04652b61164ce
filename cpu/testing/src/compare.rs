//! One instruction on the test machine and on the host, from the same registers and memory; everything compared.

use crate::{
    forms_legacy,
    host::{Host, HostFault, runs_in, runs_on_host, writes_memory},
    layout::*,
    machine::{End, Machine, flag},
    segments::Segments,
    undefined::{Undefined, accessed_in_parts, is_wide_selector_push, undefined},
};
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Formatter, Instruction, InstructionInfoFactory, IntelFormatter,
    Mnemonic, OpKind, Register, UsedMemory,
};
use softmetal_cpu::{
    CpuState, Fault, Options,
    state::{Mxcsr, X87},
    testing::User,
};
use std::{collections::BTreeMap, fmt::Write};

/// An instruction as iced writes it.
pub fn text(insn: &Instruction) -> String {
    let mut out = String::new();
    IntelFormatter::new().format(insn, &mut out);
    out
}

/// User registers for a test: RSP in the scratch memory, everything else zero or as after reset.
pub fn blank() -> User {
    User {
        gpr: std::array::from_fn(|k| if k == 4 { USER_STACK } else { 0 }),
        rip: INSN,
        rflags: 0x202,
        xmm: [0; 16],
        ymm_high: [0; 16],
        mxcsr: Mxcsr::RESET,
        x87: X87::default(),
    }
}

/// The value of a general register, cut to its size.
pub fn register(user: &User, r: Register) -> Option<u64> {
    if r == Register::RIP || r == Register::EIP || r == Register::None || r.is_segment_register() {
        return Some(0);
    }
    if !r.is_gpr() {
        return None;
    }
    let v = user.gpr[r.full_register().number()];
    Some(match r.size() {
        1 if matches!(r, Register::AH | Register::CH | Register::DH | Register::BH) => v >> 8 & 0xff,
        1 => v & 0xff,
        2 => v & 0xffff,
        4 => v & 0xffff_ffff,
        _ => v,
    })
}

/// Both sides.
pub struct Pair {
    /// The emulated machine, at CPL 3.
    pub machine: Machine,
    /// The host.
    pub host: Host,
    insn: Instruction,
    segments: Segments,
    writes: bool,
    /// Compare undefined flags too.
    pub strict: bool,
    /// Status flags that differed so far, undefined ones included; see `census`.
    pub differing_flags: u64,
}

impl Pair {
    /// None where the host cannot serve.
    pub fn new() -> Option<Pair> {
        Pair::with_options(Options { cpus: 1, ..Options::default() })
    }

    /// With speed-ups of the emulated CPU switched off.
    pub fn with_options(options: Options) -> Option<Pair> {
        let host = Host::new()?;
        let mut machine = Machine::new(options);
        machine.cpu.set_state(&Machine::user_state());
        Some(Pair {
            machine,
            host,
            insn: Instruction::default(),
            segments: Segments::LONG,
            writes: false,
            strict: false,
            differing_flags: 0,
        })
    }

    /// Runs code in other segments from now on. False where the host has none of that kind.
    pub fn enter(&mut self, segments: Segments) -> bool {
        let entered = self.host.enter(segments);
        if entered {
            self.segments = segments;
            self.machine.cpu.set_state(&self.begin());
        }
        entered
    }

    /// The state of the emulated side.
    fn begin(&self) -> CpuState {
        match self.segments {
            Segments::LONG => Machine::user_state(),
            segments => Machine::user_state_in(segments),
        }
    }

    /// The segments that code runs in.
    pub fn segments(&self) -> Segments {
        self.segments
    }

    /// Puts one instruction in place on both sides.
    ///
    /// # Panics
    /// If it is one that must not run on the host.
    pub fn load(&mut self, bytes: &[u8]) {
        let (bitness, ip) = (self.segments.bitness(), self.segments.ip());
        self.insn = Decoder::with_ip(bitness, bytes, ip, DecoderOptions::NONE).decode();
        assert!(runs_in(self.segments, &self.insn), "{} must not run on the host", text(&self.insn));
        self.writes = writes_memory(&self.insn);
        self.machine.load(bytes);
        self.host.load(bytes);
    }

    /// The instruction in place.
    pub fn insn(&self) -> &Instruction {
        &self.insn
    }

    /// Sets all scratch memory of both sides.
    pub fn set_scratch(&mut self, bytes: &[u8]) {
        self.host.set_scratch(bytes);
        self.machine.write(SCRATCH_FRAME, bytes);
    }

    /// Writes to the scratch memory of both sides.
    pub fn poke(&mut self, linear: u64, bytes: &[u8]) {
        let at = (linear - SCRATCH) as usize;
        self.host.scratch()[at..at + bytes.len()].copy_from_slice(bytes);
        self.machine.write(SCRATCH_FRAME + at as u64, bytes);
    }

    /// Whether all memory that the instruction uses lies within the scratch memory or in the empty pages beside it.
    pub fn confined(&self, user: &User) -> bool {
        if is_wide_selector_push(&self.insn) && user.gpr[4].wrapping_sub(4) & 0xfff > 0xffc {
            // Makers find different faults where the upper half lies in another page, or behind the segment's end.
            return false;
        }
        let reach = if self.insn.has_rep_prefix() || self.insn.has_repne_prefix() {
            user.gpr[1].saturating_mul(8).min(1 << 40)
        } else {
            0
        };
        let mut bits = 0i64;
        if matches!(self.insn.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
            && self.insn.op0_kind() == OpKind::Memory
            && self.insn.op1_kind() == OpKind::Register
        {
            let size = self.insn.op1_register().size() as u32;
            let v = register(user, self.insn.op1_register()).unwrap_or(0);
            bits = ((v << (64 - 8 * size)) as i64 >> (64 - 8 * size)) >> 3;
        }
        let index = self.insn.memory_index();
        if index.is_xmm() || index.is_ymm() {
            // A gather: see `forms::aim_indices` for how far its elements lie apart.
            let base = register(user, self.insn.memory_base()).unwrap_or(0);
            let at = base.wrapping_add(self.insn.memory_displacement64());
            return (SCRATCH..SCRATCH + SCRATCH_SIZE).contains(&at);
        }
        let mut factory = InstructionInfoFactory::new();
        factory.info(&self.insn).used_memory().iter().all(|m| {
            if self.segments != Segments::LONG && forms_legacy::is_local(self.segments, m.segment()) {
                return true;
            }
            let Some(at) = self.linear(m, user) else { return false };
            let at = at.wrapping_add(bits as u64);
            let size = (m.memory_size().size() as u64).max(64) + reach;
            let room = SCRATCH - 0x1000 + size..SCRATCH + SCRATCH_SIZE + 0x1001u64.saturating_sub(size);
            room.contains(&at)
        })
    }

    /// The linear address of a memory operand.
    fn linear(&self, m: &UsedMemory, user: &User) -> Option<u64> {
        if self.segments == Segments::LONG {
            return m.virtual_address(0, |r, _, _| register(user, r));
        }
        // iced takes the stack to be as wide as the code.
        let stack = m.segment() == Register::SS && matches!(m.base(), Register::SP | Register::BP);
        if stack && self.insn.stack_pointer_increment() != 0 && !self.segments.narrow_stack() {
            let offset = user.gpr[m.base().number()].wrapping_add(m.displacement() as i16 as u64);
            return Some((offset & 0xffff_ffff).wrapping_add(self.segments.base(self.segments.ss)));
        }
        m.virtual_address(0, |r, _, _| self.value(user, r))
    }

    /// The source of BSF and BSR.
    fn source(&self, user: &User) -> u64 {
        if self.insn.op_count() < 2 {
            return 1;
        }
        match self.insn.op1_kind() {
            OpKind::Register => register(user, self.insn.op1_register()).unwrap_or(1),
            OpKind::Memory => {
                let at = self.insn.virtual_address(1, 0, |r, _, _| self.value(user, r)).unwrap_or(0);
                let size = self.insn.memory_size().size().min(8);
                let at = at.wrapping_sub(SCRATCH);
                if at > SCRATCH_SIZE - 8 {
                    return 1;
                }
                let mut bytes = [0; 8];
                self.machine.read(SCRATCH_FRAME + at, &mut bytes[..size]);
                u64::from_le_bytes(bytes)
            }
            _ => 1,
        }
    }

    /// The value of a register; of a segment register, its base.
    pub fn value(&self, user: &User, r: Register) -> Option<u64> {
        if self.segments != Segments::LONG && r.is_segment_register() {
            return Some(forms_legacy::base(self.segments, r));
        }
        register(user, r)
    }

    /// Runs the instruction on both sides from `before`; what differs, in words.
    pub fn check(&mut self, before: &User) -> Result<(), String> {
        let free = undefined(&self.insn, before, self.source(before));
        let (mut ours, mut theirs) = (*before, *before);
        let mut our_fault = self.machine.run_user(&mut ours);
        let their_fault = self.host.run(&mut theirs);
        let mut report = String::new();
        if self.insn.flow_control() == FlowControl::Interrupt
            && let Some(trap) = self.machine.taken(&mut ours)
        {
            our_fault = Err(trap);
            self.machine.cpu.set_state(&self.begin());
        }
        if self.segments != Segments::LONG {
            self.compare_segments(before, &mut ours, &mut report);
        }
        if let (Err(ours), Err(theirs)) = (our_fault, their_fault)
            && accessed_in_parts(&self.insn)
            && matches!((ours.vector, theirs.vector), (12 | 13, 14))
        {
            return Ok(());
        }
        let faulted = compare_faults(&mut report, our_fault, their_fault);
        let free = if faulted { Undefined::default() } else { free };
        self.differing_flags |= (ours.rflags ^ theirs.rflags) & flag::STATUS;
        let ignored = if self.strict { 0 } else { free.flags };
        // RF stands in the image that a fault pushes; the host's own flags hold IF.
        ours.rflags &= !flag::RF;
        compare_users(&mut report, &ours, &theirs, ignored, free.result && !self.strict, &self.insn);
        if self.writes {
            if !faulted && is_wide_selector_push(&self.insn) {
                self.settle_selector_push(&theirs);
            }
            let mut memory = String::new();
            self.compare_memory(&mut memory);
            let free = free.result && !self.strict && self.insn.op0_kind() == OpKind::Memory;
            report.push_str(if free { "" } else { &memory });
        }
        if report.is_empty() {
            return Ok(());
        }
        let mut message = format!("{} {}\n", bytes_text(&self.machine, self.insn.len()), text(&self.insn));
        if self.segments != Segments::LONG {
            let _ = writeln!(message, "  in {:x?}", self.segments);
        }
        describe(&mut message, before, &self.insn);
        message.push_str(&report);
        Err(message)
    }

    /// Runs straight code on both sides, as blocks and not instruction by instruction. AF is not compared: the code may
    /// leave it undefined. A fault must come at the same instruction.
    ///
    /// # Panics
    /// If an instruction must not run on the host.
    pub fn check_block(&mut self, code: &[u8], before: &User) -> Result<(), String> {
        let mut listing = String::new();
        for insn in &mut Decoder::with_ip(64, code, INSN, DecoderOptions::NONE) {
            assert!(runs_on_host(&insn), "{} must not run on the host", text(&insn));
            let _ = writeln!(listing, "  {}", text(&insn));
            self.insn = insn;
        }
        self.machine.load(code);
        self.host.load(code);
        let (mut ours, mut theirs) = (*before, *before);
        let mut state = Machine::user_state();
        (state.gpr, state.rflags, state.rip) = (before.gpr, before.rflags, before.rip);
        self.machine.cpu.set_state(&state);
        let our_end = self.machine.run();
        let theirs_end = self.host.run(&mut theirs);
        let mut report = String::new();
        match our_end {
            End::Vector(vector) => {
                let frame = self.machine.pushed(vector);
                ours = self.machine.cpu.user();
                (ours.gpr[4], ours.rip, ours.rflags) = (frame.rsp, frame.rip, frame.rflags & !flag::RF);
                // UD2 stands behind the code.
                let whole = vector == 6 && frame.rip == INSN + code.len() as u64;
                let their_vector = theirs_end.err().map(|fault| fault.vector);
                if their_vector != (!whole).then_some(vector) {
                    let _ =
                        writeln!(report, "  ended with {vector} at {:x}, host {theirs_end:x?}", frame.rip);
                }
            }
            end => {
                let _ = writeln!(report, "  ended with {end:?}");
            }
        }
        compare_users(&mut report, &ours, &theirs, flag::AF, false, &self.insn);
        self.compare_memory(&mut report);
        if report.is_empty() {
            return Ok(());
        }
        let mut message = listing;
        describe(&mut message, before, &self.insn);
        Err(message + &report)
    }

    /// Compares selectors, and cuts our registers to what such code has.
    fn compare_segments(&mut self, before: &User, ours: &mut User, report: &mut String) {
        narrow(before, ours);
        if !loads_segment(&self.insn) {
            return;
        }
        let [es, cs, ss, ds, ..] = self.machine.cpu.state().segments.map(|s| s.selector);
        let (ours, theirs) = (Segments { cs, ss, ds, es }, self.host.segments());
        if ours != theirs {
            let _ = writeln!(report, "  selectors: {ours:x?}, host {theirs:x?}");
        }
        self.machine.cpu.set_state(&self.begin());
    }

    /// Takes over what AMD alone writes above a pushed selector.
    fn settle_selector_push(&mut self, after: &User) {
        let sp = after.gpr[4] & if self.segments.narrow_stack() { 0xffff } else { 0xffff_ffff };
        let at = sp.wrapping_add(self.segments.base(self.segments.ss)).wrapping_sub(SCRATCH) as usize;
        if let Some([0, 0]) = self.host.scratch().get(at + 2..at + 4) {
            self.machine.write(SCRATCH_FRAME + at as u64 + 2, &[0, 0]);
        }
    }

    fn compare_memory(&mut self, report: &mut String) {
        let ours = self.machine.bytes(SCRATCH_FRAME, SCRATCH_SIZE as usize);
        let theirs = self.host.scratch();
        if ours[..] == theirs[..] {
            return;
        }
        let different: Vec<usize> = (0..ours.len()).filter(|&k| ours[k] != theirs[k]).collect();
        for &k in different.iter().take(16) {
            let at = SCRATCH + k as u64;
            let _ = writeln!(report, "  [{at:#x}]: {:02x}, host {:02x}", ours[k], theirs[k]);
        }
        let theirs = theirs.to_vec();
        self.machine.write(SCRATCH_FRAME, &theirs);
    }
}

/// Whether an instruction may write a segment register.
pub(crate) fn loads_segment(insn: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(insn.mnemonic(), M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs)
        || insn.op_count() > 0 && insn.op0_register().is_segment_register()
}

/// 16- and 32-bit code has eight registers of 32 bits; what the others hold afterwards is nobody's business.
pub(crate) fn narrow(before: &User, after: &mut User) {
    after.gpr[..8].iter_mut().for_each(|r| *r &= 0xffff_ffff);
    after.gpr[8..].copy_from_slice(&before.gpr[8..]);
}

/// The loaded instruction's bytes.
fn bytes_text(machine: &Machine, len: usize) -> String {
    let bytes = machine.bytes(CODE_FRAME + (INSN - CODE), len);
    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("[{}]", hex.join(" "))
}

/// True if both faulted alike.
pub(crate) fn compare_faults(
    report: &mut String,
    ours: Result<(), Fault>,
    theirs: Result<(), HostFault>,
) -> bool {
    let same = match (&ours, &theirs) {
        (Ok(()), Ok(())) => return false,
        (Err(a), Err(b)) => {
            a.vector == b.vector
                && a.error_code.unwrap_or(0) == b.error
                && (a.vector != 14 || a.address == b.cr2)
        }
        _ => false,
    };
    if !same {
        let _ = writeln!(report, "  ended: {ours:x?}, host {theirs:x?}");
    }
    same
}

/// Names of the status flags in the order of their bits.
pub const FLAG_NAMES: [(&str, u64); 7] = [
    ("cf", flag::CF),
    ("pf", flag::PF),
    ("af", flag::AF),
    ("zf", flag::ZF),
    ("sf", flag::SF),
    ("df", flag::DF),
    ("of", flag::OF),
];

/// Set flags by name.
pub fn flags_text(rflags: u64) -> String {
    let names: Vec<&str> = FLAG_NAMES.iter().filter(|(_, bit)| rflags & bit != 0).map(|&(n, _)| n).collect();
    names.join(" ")
}

/// Names of the general registers by number.
pub const GPR_NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

pub(crate) fn compare_users(
    report: &mut String,
    ours: &User,
    theirs: &User,
    ignored: u64,
    skip_result: bool,
    insn: &Instruction,
) {
    let result = insn.op0_register().full_register();
    for (k, name) in GPR_NAMES.iter().enumerate() {
        let skip = skip_result && result.is_gpr() && result.number() == k;
        if ours.gpr[k] != theirs.gpr[k] && !skip {
            let _ = writeln!(report, "  {name}: {:x}, host {:x}", ours.gpr[k], theirs.gpr[k]);
        }
    }
    if ours.rip != theirs.rip {
        let _ = writeln!(report, "  rip: {:x}, host {:x}", ours.rip, theirs.rip);
    }
    let flags = (ours.rflags ^ theirs.rflags) & (flag::STATUS | flag::DF) & !ignored;
    if flags != 0 {
        let (a, b) = (flags_text(ours.rflags), flags_text(theirs.rflags));
        let _ = writeln!(report, "  flags: {a}; host {b}; different: {}", flags_text(flags));
    }
    for k in 0..16 {
        if ours.xmm[k] != theirs.xmm[k] {
            let _ = writeln!(report, "  xmm{k}: {:032x}, host {:032x}", ours.xmm[k], theirs.xmm[k]);
        }
    }
    for k in 0..16 {
        if ours.ymm_high[k] != theirs.ymm_high[k] {
            let (ours, theirs) = (ours.ymm_high[k], theirs.ymm_high[k]);
            let _ = writeln!(report, "  ymm{k}, upper half: {ours:032x}, host {theirs:032x}");
        }
    }
    if ours.mxcsr != theirs.mxcsr {
        let _ = writeln!(report, "  mxcsr: {:x}, host {:x}", ours.mxcsr, theirs.mxcsr);
    }
    let (a, b) = (&ours.x87, &theirs.x87);
    for (name, x, y) in
        [("fcw", a.control, b.control), ("fsw", a.status, b.status), ("ftw", a.tags.into(), b.tags.into())]
    {
        if x != y {
            let _ = writeln!(report, "  {name}: {x:x}, host {y:x}");
        }
    }
    for k in 0..8 {
        let (x, y) = (a.regs[k], b.regs[k]);
        if x != y {
            let _ = writeln!(
                report,
                "  physical st{k}: {:04x}:{:016x}, host {:04x}:{:016x}",
                x.sign_exponent, x.significand, y.sign_exponent, y.significand
            );
        }
    }
}

/// The inputs that the instruction reads.
pub(crate) fn describe(out: &mut String, user: &User, insn: &Instruction) {
    let mut factory = InstructionInfoFactory::new();
    let mut names = Vec::new();
    for used in factory.info(insn).used_registers() {
        let r = used.register().full_register();
        if r.is_gpr() && !names.contains(&r.number()) {
            names.push(r.number());
            let _ = write!(out, "  {}={:x}", GPR_NAMES[r.number()], user.gpr[r.number()]);
        } else if (r.is_xmm() || r.is_ymm() || r.is_zmm()) && r.number() < 16 {
            let high = user.ymm_high[r.number()];
            let _ = write!(out, "  ymm{}={high:032x}{:032x}", r.number(), user.xmm[r.number()]);
        } else if r.is_mm() || r.is_st() {
            for (k, r) in user.x87.regs.iter().enumerate() {
                let _ = write!(out, "  st{k}={:04x}:{:016x}", r.sign_exponent, r.significand);
            }
        }
    }
    let _ = writeln!(out, "  flags: {}  mxcsr={:x}", flags_text(user.rflags), user.mxcsr);
}

/// Gathers differences, so that a test names the first few and says how many there were.
#[derive(Default)]
pub struct Differences {
    /// Reports, the first two of each code.
    pub first: Vec<String>,
    /// How many by code.
    pub by_code: BTreeMap<String, u64>,
    /// All of them.
    pub count: u64,
    /// Cases that ran.
    pub cases: u64,
}

impl Differences {
    /// Runs and counts one case.
    pub fn check(&mut self, pair: &mut Pair, user: &User) {
        let result = pair.check(user);
        self.note(format!("{:?}", pair.insn().code()), result);
    }

    /// Counts one case of something that has a name.
    pub fn note(&mut self, name: String, result: Result<(), String>) {
        self.cases += 1;
        if let Err(report) = result {
            self.count += 1;
            let seen = self.by_code.entry(name).or_default();
            *seen += 1;
            if *seen <= 2 && self.first.len() < 40 {
                self.first.push(report);
            }
        }
    }

    /// Fails if there was any difference, or no case at all.
    ///
    /// # Panics
    /// See there.
    pub fn assert_none(&self) {
        assert!(self.cases > 0, "no case ran");
        assert!(
            self.count == 0,
            "{} of {} cases differ from the host:\n{}\n{:?}",
            self.count,
            self.cases,
            self.first.join("\n"),
            self.by_code
        );
    }
}
