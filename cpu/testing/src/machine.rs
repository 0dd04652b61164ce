//! A CPU with a few MiB of RAM, long mode set up, and an IDT whose handlers halt.

use crate::{
    bus::Recorder,
    layout::*,
    segments::{self, Segments},
};
use iced_x86::{Decoder, DecoderOptions};
use softmetal_cpu::{
    Cpu, CpuState, Exit, Fault, Options, Ram, Request,
    state::{Mxcsr, Segment, TableRegister, X87, cr0, cr4, efer},
    testing::User,
};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Bits of page-table entries.
#[allow(missing_docs, reason = "the names are the manual's")]
pub mod pte {
    pub const P: u64 = 1;
    pub const W: u64 = 2;
    pub const U: u64 = 4;
    pub const A: u64 = 0x20;
    pub const D: u64 = 0x40;
    pub const PS: u64 = 0x80;
    pub const G: u64 = 0x100;
    pub const NX: u64 = 1 << 63;
}

/// Bits of RFLAGS.
#[allow(missing_docs, reason = "the names are the manual's")]
pub mod flag {
    pub const CF: u64 = 1;
    pub const PF: u64 = 4;
    pub const AF: u64 = 0x10;
    pub const ZF: u64 = 0x40;
    pub const SF: u64 = 0x80;
    pub const TF: u64 = 0x100;
    pub const IF: u64 = 0x200;
    pub const DF: u64 = 0x400;
    pub const OF: u64 = 0x800;
    pub const NT: u64 = 0x4000;
    pub const RF: u64 = 0x1_0000;
    pub const AC: u64 = 0x4_0000;
    pub const ID: u64 = 0x20_0000;
    /// CF PF AF ZF SF OF.
    pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
}

/// Levels of paging structures, by what one entry of them maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 4 KiB.
    Small = 1,
    /// 2 MiB.
    Large = 2,
    /// 1 GiB.
    Huge = 3,
}

/// How a run ended: at the HLT of an exception or interrupt handler, at another HLT, or for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A handler of the IDT was entered.
    Vector(u8),
    /// A HLT of the test's own code; RIP behind it.
    Halt(u64),
    /// Triple fault.
    Shutdown,
}

/// What a delivered exception pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub struct Frame {
    pub error: Option<u64>,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// See the module.
pub struct Machine {
    /// The CPU.
    pub cpu: Box<Cpu>,
    /// Its board.
    pub bus: Arc<Recorder>,
    ram: Arc<Ram>,
    next_table: u64,
    next_frame: u64,
    /// Instructions run in blocks, with UD2 behind them, since only blocks are translated.
    translates: bool,
    /// Bytes of what [`Machine::load`] put in place.
    loaded: u64,
}

/// A segment as a descriptor of the test machine's GDT gives it.
fn segment(selector: u16, limit: u32, attributes: u32) -> Segment {
    Segment { selector, base: 0, limit, attributes }
}

/// The GDT: the entries that [`selector`] names.
const DESCRIPTORS: [u64; 10] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0x00cf_9b00_0000_ffff,
    0x0000_9b00_0000_ffff,
    0x0000_9300_0000_ffff,
    0x00cf_1300_0000_ffff,
];

/// Bytes of the TSS with its bitmap.
const TSS_SIZE: u64 = 104 + 8192 + 1;

impl Default for Machine {
    fn default() -> Self {
        Machine::new(Options { cpus: 1, ..Options::default() })
    }
}

impl Machine {
    /// At CPL 0 in 64-bit mode, RIP at [`KERNEL_CODE`], interrupts off.
    pub fn new(options: Options) -> Self {
        let regions = [(GuestAddress(0), RAM as usize)];
        let memory =
            GuestMemoryMmap::from_ranges(&regions).expect("8 MiB of host memory for the test machine");
        let ram = Arc::new(Ram::new(memory));
        let bus = Arc::new(Recorder::default());
        let cpu = Cpu::new(0, options, ram.clone(), bus.clone());
        let mut machine = Machine {
            cpu,
            bus,
            ram,
            next_table: TABLES,
            next_frame: FRAMES,
            translates: options.jit.is_some(),
            loaded: 0,
        };
        machine.build_tables();
        for at in (0..RAM).step_by(2 << 20) {
            machine.map(at, at, Level::Large, pte::P | pte::W);
        }
        machine.map(CODE, CODE_FRAME, Level::Small, pte::P | pte::U);
        for at in (0..SCRATCH_SIZE).step_by(0x1000) {
            let write = if SCRATCH + at == SCRATCH_READ_ONLY { 0 } else { pte::W };
            machine.map(SCRATCH + at, SCRATCH_FRAME + at, Level::Small, pte::P | pte::U | pte::NX | write);
        }
        machine.cpu.set_state(&Machine::supervisor_state());
        machine
    }

    /// A further CPU on the same RAM and bus, in the same state but for its stack: `id` is 1 to 7.
    pub fn another_cpu(&self, id: usize, options: Options) -> Box<Cpu> {
        let mut cpu = Cpu::new(id, options, self.ram.clone(), self.bus.clone());
        let mut state = Machine::supervisor_state();
        state.gpr[4] -= 0x200 * id as u64;
        cpu.set_state(&state);
        cpu
    }

    /// Whether its CPU has a translator: see [`Machine::step`].
    pub fn translates(&self) -> bool {
        self.translates
    }

    /// Physical memory as devices share it with the CPUs.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    fn build_tables(&mut self) {
        for (k, descriptor) in DESCRIPTORS.iter().enumerate() {
            self.write_u64(GDT + 8 * k as u64, *descriptor);
        }
        for (k, descriptor) in segments::GDT.iter().enumerate() {
            self.write_u64(LINUX_GDT + 8 * k as u64, *descriptor);
        }
        for (k, descriptor) in segments::LDT.iter().enumerate() {
            self.write_u64(LDT + 8 * k as u64, descriptor.encoded());
        }
        let limit = TSS_SIZE - 1;
        self.write_u64(GDT + 0x50, 0x8b00_0000_0000 | limit & 0xffff | (TSS & 0xff_ffff) << 16);
        self.write_u64(GDT + 0x58, 0);
        for v in 0..=255 {
            self.gate(v, HANDLERS + 16 * u64::from(v), 0, 3, 0xe);
            self.write(HANDLERS + 16 * u64::from(v), &[0xf4, 0xeb, 0xfd]);
        }
        self.write_u64(TSS + 4, STACK);
        self.write_u64(TSS + 36, IST1);
        self.write_u64(TSS + 44, IST2);
        self.write(TSS + 102, &104u16.to_le_bytes());
        self.write(TSS + 104, &[0xff; 8193]);
    }

    /// The state that a machine begins with.
    pub fn supervisor_state() -> CpuState {
        let data = segment(selector::DATA, u32::MAX, 0xc093);
        let mut segments = [data; 6];
        segments[1] = segment(selector::CODE64, u32::MAX, 0xa09b);
        CpuState {
            gpr: std::array::from_fn(|k| if k == 4 { STACK - 0x1000 } else { 0 }),
            rip: KERNEL_CODE,
            rflags: 2,
            segments,
            tr: Segment { selector: selector::TSS, base: TSS, limit: TSS_SIZE as u32 - 1, attributes: 0x8b },
            ldtr: Segment { attributes: Segment::UNUSABLE, ..Segment::default() },
            gdtr: TableRegister { base: GDT, limit: selector::LIMIT },
            idtr: TableRegister { base: IDT, limit: 0xfff },
            cr0: cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG,
            cr3: PML4,
            cr4: cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE,
            xcr0: 7,
            efer: efer::SCE | efer::LME | efer::LMA | efer::NXE,
            x87: X87::default(),
            mxcsr: Mxcsr::RESET,
            ..CpuState::reset()
        }
    }

    /// As [`Machine::supervisor_state`], at CPL 3 with RIP at [`INSN`], RSP at [`USER_STACK`] and interrupts on.
    pub fn user_state() -> CpuState {
        let mut state = Machine::supervisor_state();
        state.segments = [segment(selector::USER_DATA, u32::MAX, 0xc0f3); 6];
        state.segments[1] = segment(selector::USER_CODE64, u32::MAX, 0xa0fb);
        state.gpr[4] = USER_STACK;
        state.rip = INSN;
        state.rflags = 0x202;
        state
    }

    /// As [`Machine::user_state`], with the segments and the descriptor tables of a Linux process.
    pub fn user_state_in(segments: Segments) -> CpuState {
        let mut state = Machine::user_state();
        state.segments = segments.loaded();
        state.gdtr = TableRegister { base: LINUX_GDT, limit: 8 * segments::GDT.len() as u16 - 1 };
        let limit = 8 * segments::LDT.len() as u32 - 1;
        state.ldtr = Segment { selector: 0x50, base: LDT, limit, attributes: 0x82 };
        state.gpr[4] = USER_STACK - segments.base(segments.ss);
        state.rip = segments.ip();
        state
    }

    /// Makes the address space that of a process under Linux: the supervisor's memory in the upper half, and nothing but
    /// INT3 and INTO allowed.
    pub fn become_linux(&mut self) {
        for at in (0..RAM).step_by(2 << 20) {
            self.map(HIGH + at, at, Level::Large, pte::P | pte::W);
            let low = self.entry(at, Level::Large);
            self.write_u64(low, 0);
        }
        self.write_u64(TSS + 4, HIGH + STACK);
        for v in (0..=255).filter(|v| !matches!(v, 3 | 4)) {
            self.gate(v, HANDLERS + 16 * u64::from(v), 0, 0, 0xe);
        }
    }

    /// As [`Machine::user_state_in`], after [`Machine::become_linux`].
    pub fn process_state(segments: Segments) -> CpuState {
        let mut state = Machine::user_state_in(segments);
        for base in [&mut state.gdtr.base, &mut state.idtr.base, &mut state.ldtr.base, &mut state.tr.base] {
            *base += HIGH;
        }
        state.cr0 |= cr0::AM;
        state.cr4 |= cr4::FSGSBASE;
        state
    }

    /// Physical memory, one reader for all tests.
    pub fn read(&self, physical: u64, out: &mut [u8]) {
        assert!(self.ram.read(physical, out), "{physical:#x} is not RAM of the test machine");
    }

    /// Physical memory in a new vector.
    pub fn bytes(&self, physical: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.read(physical, &mut out);
        out
    }

    /// Eight bytes of physical memory.
    pub fn read_u64(&self, physical: u64) -> u64 {
        let mut out = [0; 8];
        self.read(physical, &mut out);
        u64::from_le_bytes(out)
    }

    /// Writes physical memory; decoded code goes.
    pub fn write(&mut self, physical: u64, bytes: &[u8]) {
        let written = self.ram.memory().write_slice(bytes, GuestAddress(physical));
        written.expect("tests write to RAM of the test machine");
        let mut at = physical;
        while at < physical + bytes.len() as u64 {
            let end = (physical + bytes.len() as u64).min((at | 0xfff) + 1);
            self.cpu.ram_written(at, end - at);
            at = end;
        }
    }

    /// Writes eight bytes of physical memory.
    pub fn write_u64(&mut self, physical: u64, v: u64) {
        self.write(physical, &v.to_le_bytes());
    }

    /// A gate of the IDT: kind 0xe clears IF, 0xf does not.
    pub fn gate(&mut self, vector: u8, handler: u64, ist: u64, dpl: u64, kind: u64) {
        let low = handler & 0xffff
            | u64::from(selector::CODE64) << 16
            | ist << 32
            | kind << 40
            | dpl << 45
            | 1 << 47
            | (handler & 0xffff_0000) << 32;
        self.write_u64(IDT + 16 * u64::from(vector), low);
        self.write_u64(IDT + 16 * u64::from(vector) + 8, handler >> 32);
    }

    /// A fresh page of RAM.
    pub fn frame(&mut self) -> u64 {
        self.next_frame += 0x1000;
        assert!(self.next_frame < RAM, "the test used up the machine's RAM");
        self.next_frame - 0x1000
    }

    /// Physical address of the entry of a level that maps `linear`; entries above it are made where they are missing, with
    /// all rights.
    pub fn entry(&mut self, linear: u64, level: Level) -> u64 {
        let mut table = PML4;
        for above in ((level as u64 + 1)..=4).rev() {
            let at = table + (linear >> (12 + 9 * (above - 1)) & 511) * 8;
            let mut e = self.read_u64(at);
            if e & pte::P == 0 {
                e = self.next_table | pte::P | pte::W | pte::U;
                self.next_table += 0x1000;
                assert!(e & !0xfff < CODE_FRAME, "the test used up the room for page tables");
                self.write_u64(at, e);
            }
            assert!(e & pte::PS == 0 || above == 4, "{linear:#x} lies in a large page");
            table = e & 0x000f_ffff_ffff_f000;
        }
        table + (linear >> (12 + 9 * (level as u64 - 1)) & 511) * 8
    }

    /// Maps a page. The TLB is the caller's business.
    pub fn map(&mut self, linear: u64, physical: u64, level: Level, flags: u64) {
        let at = self.entry(linear, level);
        let size = if level == Level::Small { 0 } else { pte::PS };
        self.write_u64(at, physical | flags | size);
    }

    /// Puts one instruction at [`INSN`], with UD2 behind it.
    pub fn load(&mut self, insn: &[u8]) {
        let mut bytes = insn.to_vec();
        bytes.extend([0x0f, 0x0b]);
        self.loaded = insn.len() as u64;
        self.write(CODE_FRAME + (INSN - CODE), &bytes);
    }

    /// Puts a program at [`KERNEL_CODE`].
    pub fn program(&mut self, code: &[u8]) {
        self.write(KERNEL_CODE, code);
    }

    /// Runs one instruction to its end, all iterations of a REP too. Of a CPU that translates, it is what [`Machine::load`] put
    /// in place, and runs as the block that it is together with the UD2 behind it.
    pub fn step(&mut self) -> Result<(), Fault> {
        let start = self.cpu.user().rip;
        self.piece(start)?;
        if self.cpu.user().rip != start || !self.repeats(start) {
            return Ok(());
        }
        for _ in 0..1 << 20 {
            self.piece(start)?;
            if self.cpu.user().rip != start {
                break;
            }
        }
        Ok(())
    }

    /// An instruction, or some iterations of it.
    fn piece(&mut self, start: u64) -> Result<(), Fault> {
        const UD: u8 = 6;
        // Behind other code there is no UD2.
        if !self.translates || self.code_at(start).1 != CODE_FRAME + (INSN - CODE) {
            return self.cpu.step();
        }
        match self.cpu.pass() {
            Err(fault) if fault.vector == UD && self.cpu.user().rip == start + self.loaded => Ok(()),
            result => result,
        }
    }

    /// How wide code is, and where in memory an offset in CS lies.
    fn code_at(&self, rip: u64) -> (u32, u64) {
        let cs = self.cpu.state().segments[1];
        let bitness = match cs.attributes & (Segment::LONG | Segment::BIG) {
            0 => 16,
            Segment::BIG => 32,
            _ => 64,
        };
        let linear = if bitness == 64 { rip } else { rip.wrapping_add(cs.base) };
        (bitness, if linear & !0xfff == CODE { CODE_FRAME + (linear - CODE) } else { linear })
    }

    /// Whether the instruction at an offset in CS has a REP prefix.
    fn repeats(&self, rip: u64) -> bool {
        let (bitness, physical) = self.code_at(rip);
        let mut bytes = [0; 15];
        if physical < RAM - 15 {
            self.read(physical, &mut bytes);
        }
        let insn = Decoder::new(bitness, &bytes, DecoderOptions::NONE).decode();
        insn.is_string_instruction() && (insn.has_rep_prefix() || insn.has_repne_prefix())
    }

    /// Runs one instruction from given user registers.
    pub fn run_user(&mut self, user: &mut User) -> Result<(), Fault> {
        self.cpu.load_user(user);
        let result = self.step();
        *user = self.cpu.user();
        result
    }

    /// The software interrupt whose handler the last instruction has entered. `user` becomes what it interrupted.
    pub fn taken(&mut self, user: &mut User) -> Option<Fault> {
        let place = user.rip.wrapping_sub(HANDLERS);
        if place >= 0x1000 || place & 15 != 0 || self.cpu.state().segments[1].selector != selector::CODE64 {
            return None;
        }
        let fault = Fault::new((place >> 4) as u8);
        let frame = self.pushed(fault.vector);
        (user.rip, user.rflags, user.gpr[4]) = (frame.rip, frame.rflags, frame.rsp);
        Some(fault)
    }

    /// Runs until something halts or shuts the CPU down.
    pub fn run(&mut self) -> End {
        match self.cpu.run() {
            Exit::TripleFault => End::Shutdown,
            Exit::Halted => {
                let rip = self.cpu.state().rip;
                let after = rip.wrapping_sub(HANDLERS);
                if after < 0x1000 && after & 15 == 1 {
                    End::Vector((after >> 4) as u8)
                } else {
                    End::Halt(rip)
                }
            }
            exit => panic!("the test machine stopped with {exit:?}"),
        }
    }

    /// Asks the CPU to look for interrupts, and queues one.
    pub fn interrupt(&mut self, vector: u8) {
        self.bus.interrupt(vector);
        self.cpu.attention().request(Request::INTERRUPT);
    }

    /// What the exception whose handler halted has pushed; the stack must lie in the identity-mapped RAM.
    pub fn pushed(&self, vector: u8) -> Frame {
        let with_code = matches!(vector, 8 | 10..=14 | 17 | 21);
        let stack = self.cpu.state().gpr[4];
        let mut at = if stack >= HIGH { stack - HIGH } else { stack };
        let error = with_code.then(|| self.read_u64(at));
        at += if with_code { 8 } else { 0 };
        let word = |k: u64| self.read_u64(at + 8 * k);
        Frame { error, rip: word(0), cs: word(1), rflags: word(2), rsp: word(3), ss: word(4) }
    }
}
