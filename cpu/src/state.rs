//! The state of one virtual CPU: what the manual describes, plus the caches that make it fast.

use crate::{
    attention::Attention,
    blocks::BlockStore,
    bus::Bus,
    fault::Fault,
    flags::{Flags, bits},
    group::Seat,
    jumps::{JumpCache, ShortTable, Way},
    mmu::{Mmu, Table, near::Near},
    mode::Mode,
    model::{Lacking, Model},
    ram::Ram,
    statistics::{Flush, Profile, Statistics, Whereabouts},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Byte offsets of general registers in [`Cpu::gpr`], as instructions carry them; AH is 1.
#[allow(missing_docs, reason = "the names are the manual's")]
pub mod reg {
    pub const RAX: u8 = 0;
    pub const AH: u8 = 1;
    pub const RCX: u8 = 8;
    pub const RDX: u8 = 16;
    pub const RBX: u8 = 24;
    pub const RSP: u8 = 32;
    pub const RBP: u8 = 40;
    pub const RSI: u8 = 48;
    pub const RDI: u8 = 56;
    pub const R11: u8 = 88;
    /// Always reads zero: the base or index of an address that has none.
    pub const ZERO: u8 = 16;
    /// Register number that holds the linear address of the page of the current instruction.
    pub const PAGE: u8 = 17;
}

/// Segment register numbers, as in instruction encodings.
#[allow(missing_docs, reason = "the names are the manual's")]
pub mod seg {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
    /// No segment: base 0.
    pub const NONE: usize = 6;
}

/// CR0 bits.
#[allow(missing_docs, reason = "the names are the manual's")]
pub mod cr0 {
    pub const PE: u64 = 1;
    pub const MP: u64 = 2;
    pub const EM: u64 = 4;
    pub const TS: u64 = 8;
    pub const ET: u64 = 0x10;
    pub const NE: u64 = 0x20;
    pub const WP: u64 = 0x1_0000;
    pub const AM: u64 = 0x4_0000;
    pub const NW: u64 = 0x2000_0000;
    pub const CD: u64 = 0x4000_0000;
    pub const PG: u64 = 0x8000_0000;
}

/// CR4 bits.
#[allow(missing_docs, reason = "the names are the manual's")]
pub mod cr4 {
    pub const VME: u64 = 1;
    pub const PVI: u64 = 2;
    pub const TSD: u64 = 4;
    pub const DE: u64 = 8;
    pub const PSE: u64 = 0x10;
    pub const PAE: u64 = 0x20;
    pub const MCE: u64 = 0x40;
    pub const PGE: u64 = 0x80;
    pub const PCE: u64 = 0x100;
    pub const OSFXSR: u64 = 0x200;
    pub const OSXMMEXCPT: u64 = 0x400;
    pub const UMIP: u64 = 0x800;
    pub const LA57: u64 = 0x1000;
    pub const FSGSBASE: u64 = 0x1_0000;
    pub const PCIDE: u64 = 0x2_0000;
    pub const OSXSAVE: u64 = 0x4_0000;
    pub const SMEP: u64 = 0x10_0000;
    pub const SMAP: u64 = 0x20_0000;
    pub const PKE: u64 = 0x40_0000;
    pub const LAM_SUP: u64 = 0x1000_0000;
    /// Those that every model has.
    pub(crate) const ALWAYS: u64 = VME | PVI | TSD | DE | PSE | PAE | MCE | PGE | PCE | OSFXSR | OSXMMEXCPT;
}

/// CR3 bits that are neither address nor PCID.
#[allow(missing_docs, reason = "the names are the manual's")]
pub mod cr3 {
    pub const LAM_U57: u64 = 1 << 61;
    pub const LAM_U48: u64 = 1 << 62;
}

/// IA32_EFER bits.
#[allow(missing_docs, reason = "the names are the manual's")]
pub mod efer {
    pub const SCE: u64 = 1;
    pub const LME: u64 = 0x100;
    pub const LMA: u64 = 0x400;
    pub const NXE: u64 = 0x800;
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Linear address of the segment's first byte.
    pub base: u64,
    /// Offset of the segment's last byte, granularity applied.
    pub limit: u32,
    /// Access rights as in a VMCS (SDM 3C "Guest Register State"): bits 3:0 type, 4 S, 6:5 DPL, 7 P, 12 AVL, 13 L,
    /// 14 D/B, 15 G, 16 unusable.
    pub attributes: u32,
}

impl Segment {
    /// "Unusable": a null selector was loaded.
    pub const UNUSABLE: u32 = 1 << 16;
    /// D/B.
    pub const BIG: u32 = 1 << 14;
    /// L.
    pub const LONG: u32 = 1 << 13;

    /// Type field with the S bit above it.
    pub fn kind(&self) -> u32 {
        self.attributes & 31
    }
    /// Descriptor privilege level.
    pub fn dpl(&self) -> u8 {
        (self.attributes >> 5 & 3) as u8
    }
    /// A segment as real mode leaves it.
    pub fn real(selector: u16) -> Self {
        Segment { selector, base: u64::from(selector) << 4, limit: 0xffff, attributes: 0x93 }
    }
    /// Base 0, limit 4 GiB, present, and writable data that expands upwards (`code` false) or code: what needs no check
    /// but that of accesses through CS.
    pub fn is_flat(&self, code: bool) -> bool {
        let (mask, wanted) = if code { (0x98, 0x98) } else { (0x9e, 0x92) };
        self.base == 0 && self.limit == u32::MAX && self.attributes & (Self::UNUSABLE | mask) == wanted
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRegister {
    /// Linear address of the table.
    pub base: u64,
    /// Offset of its last byte.
    pub limit: u16,
}

/// An x87 register: 64 bits of significand, sign and exponent.
pub use crate::float::F80;

/// The x87 FPU. Registers are held by their physical number; ST(i) is `regs[(top + i) & 7]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[repr(C)]
pub struct X87 {
    /// Physical registers.
    pub regs: [F80; 8],
    /// Control word.
    pub control: u16,
    /// Status word, with TOP in bits 13:11.
    pub status: u16,
    /// Last instruction's opcode, 11 bits.
    pub opcode: u16,
    /// Its code segment selector: translated code stores both at once.
    pub cs: u16,
    /// Last data pointer's segment selector.
    pub ds: u16,
    /// A bit for each physical register: 1 is in use (the abridged tag word of FXSAVE).
    pub tags: u8,
    /// Last instruction pointer.
    pub ip: u64,
    /// Last data pointer.
    pub dp: u64,
}

impl Default for X87 {
    /// As FNINIT leaves it.
    fn default() -> Self {
        X87 {
            regs: [F80 { significand: 0, sign_exponent: 0 }; 8],
            control: 0x37f,
            status: 0,
            tags: 0,
            opcode: 0,
            ip: 0,
            cs: 0,
            dp: 0,
            ds: 0,
        }
    }
}

impl X87 {
    /// The bits of TOP in the status word.
    pub const TOP: u16 = 7 << 11;

    /// TOP.
    #[inline(always)]
    pub fn top(&self) -> u8 {
        (self.status >> 11 & 7) as u8
    }
    /// The physical register of ST(k).
    #[inline(always)]
    pub fn physical(&self, k: usize) -> usize {
        (usize::from(self.top()) + k) & 7
    }
    /// Sets ES and B from the exception flags and masks.
    pub fn refresh_summary(&mut self) {
        let pending = self.status & !self.control & 0x3f != 0;
        self.status = self.status & !0x8080 | if pending { 0x8080 } else { 0 };
    }
}

/// MXCSR values.
pub struct Mxcsr;
impl Mxcsr {
    /// All exceptions masked.
    pub(crate) const MASKS: u32 = 0x1f80;
    /// The exceptions that have been met.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const FLAGS: u32 = 0x3f;
    /// Bits that may be set, MXCSR_MASK.
    pub const MASK: u32 = 0xffff;
    /// After reset: all exceptions masked.
    pub const RESET: u32 = 0x1f80;
}

/// Model-specific registers that are plain storage or read through [`Cpu`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub tsc_aux: u32,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub spec_ctrl: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_variable: [(u64, u64); 8],
    pub bios_sign_id: u64,
    pub tsc_adjust: u64,
    pub xss: u64,
}

/// Which instructions hold back interrupts until the next one has run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Shadow {
    /// None.
    #[default]
    None,
    /// STI that set IF: external interrupts wait for one instruction.
    Sti,
    /// MOV SS or POP SS: interrupts and debug exceptions wait for one instruction.
    MovSs,
}

/// What a CPU does when it does not run instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// It runs.
    #[default]
    Active,
    /// After HLT.
    Halted,
    /// After INIT on an application processor.
    WaitForSipi,
    /// After a triple fault.
    Shutdown,
}

/// The whole architectural state, neutral between engines: what snapshots hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// Instruction pointer (an offset into CS).
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// Local descriptor table register.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table register.
    pub gdtr: TableRegister,
    /// Interrupt descriptor table register.
    pub idtr: TableRegister,
    /// Control registers.
    pub cr0: u64,
    /// Page-fault linear address.
    pub cr2: u64,
    /// Page-directory base.
    pub cr3: u64,
    /// Extensions.
    pub cr4: u64,
    /// PDPTE registers of PAE paging.
    pub pdptrs: [u64; 4],
    /// Extended control register 0.
    pub xcr0: u64,
    /// Rights of the protection keys of user pages.
    pub pkru: u32,
    /// IA32_EFER.
    pub efer: u64,
    /// DR0 to DR3, DR6 and DR7 at their numbers.
    pub dr: [u64; 8],
    /// Other MSRs.
    pub msrs: Msrs,
    /// Added to the board's TSC.
    pub tsc_offset: u64,
    /// XMM0 to XMM15: the lower halves of YMM0 to YMM15.
    pub xmm: [u128; 16],
    /// Their upper halves.
    pub ymm_high: [u128; 16],
    /// SSE control and status.
    pub mxcsr: u32,
    /// x87.
    pub x87: X87,
    /// Interrupt shadow.
    pub shadow: Shadow,
    /// NMIs wait for IRET.
    pub nmi_blocked: bool,
    /// An NMI waits.
    pub nmi_pending: bool,
    /// Run, halt, wait-for-SIPI.
    pub activity: Activity,
    /// An event whose delivery was interrupted, to be delivered first: an exception, or with a vector from 32 on an external
    /// interrupt that was acknowledged.
    pub injected: Option<Fault>,
    /// DR6 bits of debug traps that wait behind MOV SS or for the end of a delivery.
    pub pending_debug: u64,
}

/// Why a handler returned without a next instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Why {
    /// Go on at `rip`.
    #[default]
    Continue,
    /// Deliver `fault`; `rip` is that of the instruction.
    Fault,
    /// HLT was executed; `rip` is past it.
    Halt,
    /// The CPU has shut down.
    TripleFault,
    /// The instruction is not for [`Cpu::run_confined`]; `rip` is that of the instruction.
    Outside,
}

/// Which TF decides about the single-step trap behind an instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TrapRule {
    /// That at its beginning.
    #[default]
    Began,
    /// That at its end: SYSCALL and SYSRET.
    Ended,
    /// None: an interrupt instruction's handler is not stepped into.
    Never,
}

/// One virtual CPU.
#[repr(C, align(64))]
pub struct Cpu {
    /// The general registers; 16 is always zero, 17 the linear address of the current page.
    pub(crate) gpr: [u64; 18],
    /// The status flags.
    pub(crate) flags: Flags,
    /// Data accesses of the current privilege look here first.
    pub(crate) tlb: *mut Table,
    pub(crate) attention: *const Attention,
    /// Bases added to addresses, by segment number: 0 where the mode ignores the base.
    pub(crate) seg_base: [u64; 8],
    /// How many bytes from its base a segment may be read, and written: 0 where each access is to be looked at. Not in 64-bit mode.
    pub(crate) reach: [[u64; 2]; 8],
    /// How many bytes from the base of CS instructions may stand at, and branches of the mode's operand size lead to. Not in
    /// 64-bit mode.
    pub(crate) code_reach: u64,
    /// What Cranelift's code looks at before the TLB.
    pub(crate) near: *mut Near,
    /// What `tlb` and `near` are below CPL 3, with RFLAGS.AC clear and set.
    pub(crate) supervisor_tlbs: [*mut Table; 2],
    pub(crate) supervisor_nears: [*mut Near; 2],
    /// The jump cache for the lower and the upper half of linear addresses.
    pub(crate) ways: [Way; 2],
    /// What translated code looks in first.
    pub(crate) short: ShortTable,
    /// What entries of the fetch TLB must match: the address space, or global pages.
    pub(crate) fetch_generations: [u64; 2],
    /// Linear address of the next instruction, valid outside of blocks.
    pub(crate) rip: u64,
    pub(crate) jumps: JumpCache,
    /// XMM0 to XMM15, then the upper halves of YMM0 to YMM15.
    pub(crate) xmm: [u128; 32],
    /// What translated code and its surroundings hand each other.
    pub(crate) translated: crate::jit::Passage,
    pub(crate) mxcsr: u32,
    pub(crate) cpl: u8,
    pub(crate) why: Why,
    pub(crate) trap_rule: TrapRule,
    pub(crate) mode: Mode,
    pub(crate) fault: Fault,
    /// RFLAGS without the status flags.
    pub(crate) eflags: u64,
    pub(crate) segments: [Segment; 6],
    pub(crate) ldtr: Segment,
    pub(crate) tr: Segment,
    pub(crate) gdtr: TableRegister,
    pub(crate) idtr: TableRegister,
    pub(crate) cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) pdptrs: [u64; 4],
    pub(crate) xcr0: u64,
    pub(crate) pkru: u32,
    pub(crate) efer: u64,
    pub(crate) dr: [u64; 8],
    pub(crate) msrs: Msrs,
    pub(crate) tsc_offset: u64,
    pub(crate) x87: X87,
    /// See [`Cpu::shadow`].
    pub(crate) shadow: Shadow,
    /// How many instructions had run when it began, where translated code went on: it is over when one more has.
    /// Else [`Cpu::JUST_NOW`].
    pub(crate) shadow_from: u64,
    pub(crate) nmi_blocked: bool,
    pub(crate) nmi_pending: bool,
    pub(crate) interrupt_pending: bool,
    pub(crate) breakpoints: crate::sys::debug::Breakpoints,
    pub(crate) watchpoints: crate::sys::watch::Watchpoints,
    pub(crate) stops: crate::sys::stops::Stops,
    pub(crate) activity: Activity,
    pub(crate) injected: Option<Fault>,
    pub(crate) mmu: Mmu,
    pub(crate) blocks: BlockStore,
    pub(crate) beside: crate::beside::Beside,
    pub(crate) jit: Option<Box<crate::jit::Jit>>,
    /// Nothing is translated although there is a translator: [`Cpu::set_translate`].
    pub(crate) untranslated: bool,
    pub(crate) id: usize,
    pub(crate) options: Options,
    pub(crate) statistics: Statistics,
    pub(crate) whereabouts: Arc<Whereabouts>,
    pub(crate) profile: Profile,
    /// In the block that was left because of the attention word: its last instruction.
    pub(crate) left: Option<u64>,
    pub(crate) spaces: crate::spaces::Spaces,
    /// How many instructions may have run in all when [`Cpu::run_for`] returns.
    pub(crate) goal: u64,
    /// So few are left that they run one by one.
    pub(crate) last_ones: bool,
    /// The block that reaches the goal runs to its end: [`Cpu::run_past`].
    pub(crate) overruns: bool,
    /// [`Cpu::run_confined`] runs.
    pub(crate) confined: bool,
    /// It is less confined: [`Cpu::run_apart`] runs.
    pub(crate) apart: Option<crate::cpu::Apart>,
    /// A fault on purpose that is this CPU's own.
    #[cfg(feature = "planted")]
    pub(crate) planted: Option<crate::planted::Bug>,
    /// PAUSEs executed.
    pub(crate) pauses: u32,
    pub(crate) ram: Arc<Ram>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) attention_owner: Arc<Attention>,
    /// This CPU among all that share `ram`.
    pub(crate) seat: Arc<Seat<Arc<Attention>>>,
}

/// What can be switched off to find a bug, and how the CPU presents itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `--debug no-chain`: blocks are looked up, never linked.
    pub no_chain: bool,
    /// `--debug no-specialise`: only the general form of each handler.
    pub no_specialise: bool,
    /// `--debug no-fuse`: a handler for each instruction, never one for two.
    pub no_fuse: bool,
    /// `--debug no-tlb`: every access takes the slow path and walks the page tables.
    pub no_tlb: bool,
    /// Hot code is translated; else everything is interpreted.
    pub jit: Option<crate::jit::Translate>,
    /// Which processor it is.
    pub model: Model,
    /// What it has not of its model.
    pub lacking: Lacking,
    /// How many CPUs the machine has, for CPUID's topology leaves.
    pub cpus: usize,
    /// The count of instructions is the same whatever else goes on: each iteration of a repeated string instruction counts
    /// as one instruction (and one with a count of zero as one too), as many as single-step traps would follow; and what
    /// reads the time-stamp counter ends its block, so that the time of a clock that counts instructions goes on.
    pub counting: bool,
}

const _: () = assert!(std::mem::offset_of!(Cpu, gpr) == 0);

impl Cpu {
    /// RFLAGS with the status flags in place.
    pub(crate) fn rflags(&self) -> u64 {
        self.eflags & !bits::STATUS | bits::FIXED | self.flags.to_bits()
    }
    /// Sets all of RFLAGS; the caller has decided which bits may change, and refreshes the mode.
    pub(crate) fn set_rflags(&mut self, v: u64) {
        self.flags = Flags::from_bits(v);
        self.eflags = v & !bits::STATUS | bits::FIXED;
    }
    /// The offset of the next instruction in CS, valid outside of blocks.
    pub(crate) fn ip(&self) -> u64 {
        self.rip.wrapping_sub(self.seg_base[seg::CS]) & self.mode.ip_mask()
    }
    /// Continues at an offset into CS.
    pub(crate) fn set_ip(&mut self, ip: u64) {
        let linear = self.seg_base[seg::CS].wrapping_add(ip & self.mode.ip_mask());
        self.rip = if self.mode.is_64() { linear } else { linear as u32 as u64 };
    }
    /// What other threads use to get this CPU's attention.
    pub fn attention(&self) -> Arc<Attention> {
        self.attention_owner.clone()
    }
    /// Guest TSC.
    pub(crate) fn tsc(&self) -> u64 {
        self.bus.tsc().wrapping_add(self.tsc_offset)
    }
    /// The architectural state.
    pub fn state(&self) -> CpuState {
        CpuState {
            gpr: std::array::from_fn(|k| self.gpr[k]),
            rip: self.ip(),
            rflags: self.rflags(),
            segments: self.segments,
            ldtr: self.ldtr,
            tr: self.tr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            pdptrs: self.pdptrs,
            xcr0: self.xcr0,
            pkru: self.pkru,
            efer: self.efer,
            dr: self.dr,
            msrs: self.msrs,
            tsc_offset: self.tsc_offset,
            xmm: std::array::from_fn(|k| self.xmm[k]),
            ymm_high: std::array::from_fn(|k| self.xmm[16 + k]),
            mxcsr: self.mxcsr,
            x87: self.x87,
            shadow: self.shadow(),
            nmi_blocked: self.nmi_blocked,
            nmi_pending: self.nmi_pending,
            activity: self.activity,
            injected: self.injected,
            pending_debug: self.breakpoints.pending,
        }
    }

    /// A number that two CPUs with the same registers share: for logs, to be compared.
    pub fn digest(&self) -> u64 {
        let words = [self.ip(), self.rflags(), self.cr0, self.cr2, self.cr3, self.cr4, self.mxcsr.into()];
        let x87 = self.x87.regs.iter().map(|r| r.significand ^ u64::from(r.sign_exponent) << 48);
        let xmm = self.xmm.iter().flat_map(|x| [*x as u64, (*x >> 64) as u64]);
        let segments = self.segments.iter().map(|s| s.base ^ u64::from(s.selector) << 48);
        let all = self.gpr[..16].iter().copied().chain(words).chain(segments).chain(xmm).chain(x87);
        all.fold(0, |h: u64, word| (h.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Replaces the architectural state. Translations of addresses are dropped.
    pub fn set_state(&mut self, state: &CpuState) {
        self.gpr[..16].copy_from_slice(&state.gpr);
        self.segments = state.segments;
        self.ldtr = state.ldtr;
        self.tr = state.tr;
        self.gdtr = state.gdtr;
        self.idtr = state.idtr;
        self.cr0 = state.cr0;
        self.cr2 = state.cr2;
        self.cr3 = state.cr3;
        self.cr4 = state.cr4;
        self.pdptrs = state.pdptrs;
        self.xcr0 = state.xcr0;
        self.pkru = state.pkru;
        self.efer = state.efer;
        self.dr = state.dr;
        self.msrs = state.msrs;
        self.tsc_offset = state.tsc_offset;
        self.xmm[..16].copy_from_slice(&state.xmm);
        self.xmm[16..].copy_from_slice(&state.ymm_high);
        self.mxcsr = state.mxcsr;
        self.x87 = state.x87;
        self.cast_shadow(state.shadow);
        self.nmi_blocked = state.nmi_blocked;
        self.nmi_pending = state.nmi_pending;
        self.activity = state.activity;
        self.injected = state.injected;
        self.set_rflags(state.rflags);
        self.interrupt_pending = self.bus.has_interrupt(self.id);
        // SDM 3C "Guest Register State": the DPL of SS is always the CPL.
        self.cpl = state.segments[crate::state::seg::SS].dpl();
        self.flush_all(Flush::Other);
        self.breakpoints = crate::sys::debug::Breakpoints {
            alone: true,
            pending: state.pending_debug & 0xe00f,
            ..Default::default()
        };
        self.refresh_breakpoints();
        self.refresh_mode();
        self.set_ip(state.rip);
    }
}
