//! The part of the CPU's state that decides what bytes of code mean. It is part of the key of each decoded block, so code
//! inside a block never asks for it.

use crate::{
    flags::bits,
    jumps::Way,
    mmu::Class,
    state::{Cpu, cr0, cr4, efer, seg},
    state::{Segment, Shadow},
    sys::xsave::component,
};

bitflags::bitflags! {
    /// See the module.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Mode: u16 {
        /// 64-bit code: CS.L in long mode.
        const LONG = 1;
        /// 32-bit code: CS.D.
        const CODE32 = 2;
        /// 32-bit stack: SS.B, which means nothing to 64-bit code and is not looked at there.
        const STACK32 = 4;
        /// CPL is 3.
        const USER = 8;
        /// Virtual-8086.
        const V86 = 0x10;
        /// CS, DS, ES and SS are flat: no base, no limit.
        const FLAT = 0x20;
        /// AVX instructions are undefined (CR4.OSXSAVE clear, or XCR0 without SSE and AVX state).
        const NO_AVX = 0x40;
        /// x87, MMX, SSE and AVX instructions raise #NM (CR0.TS).
        const TASK_SWITCHED = 0x80;
        /// SSE instructions are undefined (CR0.EM, CR4.OSFXSR clear).
        const NO_SSE = 0x100;
        /// One instruction per block: TF, a shadow with something waiting, breakpoints.
        const SINGLE = 0x200;
        /// RFLAGS.TF.
        const TRAP = 0x400;
        /// Alignment checks are on (CR0.AM, RFLAGS.AC, CPL 3).
        const ALIGN = 0x800;
        /// WAIT raises #NM (CR0.MP and TS).
        const WAIT_NM = 0x1000;
        /// Protected mode.
        const PROTECTED = 0x2000;
        /// x87 instructions raise #NM, MMX instructions are undefined (CR0.EM).
        const EMULATION = 0x4000;
        /// Instructions are counted exactly: see [`crate::Options::counting`].
        const COUNTING = 0x8000;
    }
}

impl Mode {
    /// 64-bit code.
    #[inline(always)]
    pub(crate) const fn is_64(self) -> bool {
        self.contains(Mode::LONG)
    }
    /// 64-bit code without alignment checks.
    #[inline(always)]
    pub(crate) const fn plain_64(self) -> bool {
        self.bits() & (Mode::LONG.bits() | Mode::ALIGN.bits()) == Mode::LONG.bits()
    }
    /// 16, 32 or 64.
    pub(crate) const fn bitness(self) -> u32 {
        if self.contains(Mode::LONG) {
            64
        } else if self.contains(Mode::CODE32) {
            32
        } else {
            16
        }
    }
    /// Which bits of the instruction pointer count.
    pub(crate) const fn ip_mask(self) -> u64 {
        if self.contains(Mode::LONG) { u64::MAX } else { 0xffff_ffff }
    }
}

impl Cpu {
    /// Whether IA32_EFER.LMA is set.
    pub(crate) fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// Recomputes everything that follows from control registers, segments and RFLAGS. Called at the end of whatever
    /// changed one of them, always at the end of a block.
    pub(crate) fn refresh_mode(&mut self) {
        let mut mode = Mode::default();
        let (cs, ss) = (&self.segments[seg::CS], &self.segments[seg::SS]);
        let v86 = self.eflags & bits::VM != 0;
        self.cpl = if self.cr0 & cr0::PE == 0 {
            0
        } else if v86 {
            3
        } else {
            self.cpl
        };
        let long = self.long_mode() && cs.attributes & Segment::LONG != 0;
        mode.set(Mode::LONG, long);
        mode.set(Mode::CODE32, !long && cs.attributes & Segment::BIG != 0);
        mode.set(Mode::STACK32, !long && ss.attributes & Segment::BIG != 0);
        mode.set(Mode::USER, self.cpl == 3);
        mode.set(Mode::V86, v86);
        mode.set(Mode::PROTECTED, self.cr0 & cr0::PE != 0 && !v86);
        let flat = long
            || cs.is_flat(true)
                && [seg::DS, seg::ES, seg::SS].iter().all(|&s| self.segments[s].is_flat(false));
        mode.set(Mode::FLAT, flat);
        mode.set(Mode::NO_AVX, self.cr4 & cr4::OSXSAVE == 0 || self.xcr0 & component::AVX == 0);
        mode.set(Mode::TASK_SWITCHED, self.cr0 & cr0::TS != 0);
        mode.set(Mode::NO_SSE, self.cr0 & cr0::EM != 0 || self.cr4 & cr4::OSFXSR == 0);
        mode.set(Mode::EMULATION, self.cr0 & cr0::EM != 0);
        mode.set(Mode::WAIT_NM, self.cr0 & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS);
        mode.set(Mode::TRAP, self.eflags & bits::TF != 0);
        mode.set(Mode::SINGLE, self.eflags & bits::TF != 0 || self.breakpoints.code);
        mode.set(Mode::ALIGN, self.cpl == 3 && self.cr0 & cr0::AM != 0 && self.eflags & bits::AC != 0);
        mode.set(Mode::COUNTING, self.options.counting);
        self.mode = mode;
        for s in [seg::ES, seg::CS, seg::SS, seg::DS] {
            self.seg_base[s] = if long { 0 } else { self.segments[s].base };
        }
        for s in [seg::FS, seg::GS] {
            self.seg_base[s] = self.segments[s].base;
        }
        if !long {
            self.refresh_reach();
        }
        self.refresh_tlb();
    }

    /// What translated code compares offsets with, as [`Cpu::segment_check`] does: segments that expand down are left to that.
    fn refresh_reach(&mut self) {
        let protected = self.mode.contains(Mode::PROTECTED);
        for (segment, reach) in self.segments.iter().zip(&mut self.reach) {
            let (kind, size) = (segment.kind(), u64::from(segment.limit) + 1);
            let code = kind & 8 != 0;
            let [readable, writable] = match protected {
                true if segment.attributes & Segment::UNUSABLE != 0 => [false; 2],
                true => [!code || kind & 2 != 0, !code && kind & 2 != 0],
                false => [true; 2],
            };
            let up = kind & 0xc != 4;
            *reach = [readable && up, writable && up].map(|allowed| if allowed { size } else { 0 });
        }
        let size = u64::from(self.segments[seg::CS].limit) + 1;
        self.code_reach = if self.mode.contains(Mode::CODE32) { size } else { size.min(0x1_0000) };
    }

    /// Whether offsets in a segment are linear addresses that need no check. CS cannot be written, and not always be read.
    #[inline]
    pub(crate) fn flat_segment(&self, segment: usize) -> bool {
        self.mode.contains(Mode::FLAT) && segment < seg::FS && segment != seg::CS
    }

    /// Selects the data TLB for CPL and AC.
    pub(crate) fn select_data_tlb(&mut self) {
        let class = self.data_class();
        self.tlb = self.mmu.table(class);
        self.near = self.mmu.near(class);
    }

    /// Selects the data TLB for CPL and AC, and the contexts of the jump cache.
    pub(crate) fn refresh_tlb(&mut self) {
        let restricted = if self.cr4 & cr4::SMAP == 0 { Class::SupervisorAc } else { Class::Supervisor };
        let supervisor = [restricted, Class::SupervisorAc];
        self.supervisor_tlbs = supervisor.map(|class| self.mmu.table(class));
        self.supervisor_nears = supervisor.map(|class| self.mmu.near(class));
        self.select_data_tlb();
        // A context that no entry of the jump cache has sends every jump to the dispatcher.
        let apart = self.mode.contains(Mode::SINGLE) || self.options.no_chain;
        if apart {
            self.ways.iter_mut().for_each(|way| way.context = u64::MAX);
            self.fetch_generations = [u64::MAX; 2];
            self.select_short_jumps();
            return;
        }
        self.fetch_generations = [false, true].map(|global| self.mmu.fetch_generation(global));
        let mode = u64::from(self.mode.bits());
        let jumps = &self.jumps;
        self.ways = self
            .mmu
            .jump_tables()
            .map(|(table, context)| Way { entries: jumps.entries(table), context: context << 16 | mode });
        if !self.mode.contains(Mode::FLAT) {
            // Whether a block fits the code segment was checked for one base and limit.
            let cs = &self.segments[seg::CS];
            let place = (cs.base << 32 | u64::from(cs.limit)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.ways.iter_mut().for_each(|way| way.context ^= place & !0xffff);
        }
        self.select_short_jumps();
    }

    fn select_short_jumps(&mut self) {
        let user = self.mode.contains(Mode::USER);
        self.short = self.jumps.short(self.mmu.slot(), user, &self.ways);
    }

    /// Begins the shadow of STI or MOV SS.
    pub(crate) fn cast_shadow(&mut self, shadow: Shadow) {
        self.shadow = shadow;
        self.shadow_from = Self::JUST_NOW;
    }

    /// A shadow that began with the instruction before.
    pub(crate) const JUST_NOW: u64 = u64::MAX;

    /// The shadow in which the next instruction would run.
    pub(crate) fn shadow(&self) -> Shadow {
        let over = self.shadow_from != Self::JUST_NOW && self.shadow_from != self.instructions();
        if over { Shadow::None } else { self.shadow }
    }
}
