//! A CPU from the outside: made, run, asked why it stopped.

use crate::{
    attention::{Attention, Request},
    blocks::{BLOCK, BlockStore},
    bus::{Bus, Event},
    fault::{Done, Fault, Stop, vector},
    flags::{Flags, bits},
    interp,
    jit::{INSTRUCTIONS, Jit, Translate},
    jumps::{JumpCache, Way},
    mmu::{Class, Mmu},
    mode::Mode,
    ram::Ram,
    state::{
        Activity, Cpu, CpuState, Msrs, Mxcsr, Options, Segment, Shadow, TableRegister, TrapRule, Why, X87,
        cr0, seg,
    },
    statistics::{Doing, Profile, Statistics, Whereabouts},
    sys::{cpuid::SIGNATURE, deliver::Source, msr::MISC_ENABLE_RESET},
};
use std::sync::Arc;

/// Why [`Cpu::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// HLT, and nothing to wake it: call again when [`Attention::wait`] returns.
    Halted,
    /// Somebody asked with [`Request::EXIT`].
    Requested,
    /// A triple fault: the CPU has shut down.
    TripleFault,
    /// It waits for a start-up IPI.
    WaitForSipi,
    /// As many instructions have run as [`Cpu::run_for`] was told.
    Counted,
    /// The next instruction is not for [`Cpu::run_confined`].
    Outside,
    /// The next instruction is one of [`Cpu::set_stops`].
    Breakpoint,
}

/// What [`Cpu::run_apart`] is to know of the engine in whose place it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apart {
    /// It ends before user code of 64 bits, with [`Exit::Outside`].
    pub system_only: bool,
    /// An interrupt waits, which the CPU could not take.
    pub interrupt: bool,
    /// Guest-physical address of the page that is the local APIC, which is not reached.
    pub local_apic: u64,
}

#[allow(unsafe_code, reason = "the pointers of a CPU lead into itself")]
// SAFETY: every raw pointer in a CPU leads to memory that the CPU owns (its tables, blocks and attention word), so the
// CPU may move to another thread as a whole; nothing in it is shared but what is `Sync`.
unsafe impl Send for Cpu {}

impl Drop for Cpu {
    fn drop(&mut self) {
        self.seat.leave();
    }
}

/// Vectors from here on are never exceptions.
const FIRST_EXTERNAL: u8 = 32;

/// How many instructions a CPU may run before it looks up without being asked.
const BUDGET: u64 = 1 << 28;

impl CpuState {
    /// As after power-up or RESET: SDM 3A "Processor State After Reset".
    pub fn reset() -> Self {
        let data = |s| Segment { attributes: 0x93, ..Segment::real(s) };
        let mut segments = [data(0); 6];
        segments[seg::CS] = Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, attributes: 0x9b };
        let mut gpr = [0; 16];
        gpr[2] = SIGNATURE.into();
        CpuState {
            gpr,
            rip: 0xfff0,
            rflags: bits::FIXED,
            segments,
            ldtr: Segment { limit: 0xffff, attributes: 0x82, ..Segment::default() },
            tr: Segment { limit: 0xffff, attributes: 0x8b, ..Segment::default() },
            gdtr: TableRegister { base: 0, limit: 0xffff },
            idtr: TableRegister { base: 0, limit: 0xffff },
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            pdptrs: [0; 4],
            xcr0: 1,
            pkru: 0,
            efer: 0,
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            msrs: Msrs { pat: 0x0007_0406_0007_0406, misc_enable: MISC_ENABLE_RESET, ..Msrs::default() },
            tsc_offset: 0,
            xmm: [0; 16],
            ymm_high: [0; 16],
            mxcsr: Mxcsr::RESET,
            x87: X87 { control: 0x40, ..X87::default() },
            shadow: Shadow::None,
            nmi_blocked: false,
            nmi_pending: false,
            activity: Activity::Active,
            injected: None,
            pending_debug: 0,
        }
    }
}

impl Cpu {
    /// A CPU in its reset state. `id` is its index on the bus and its APIC id.
    pub fn new(id: usize, options: Options, ram: Arc<Ram>, bus: Arc<dyn Bus>) -> Box<Cpu> {
        let attention = Arc::new(Attention::default());
        let seat = ram.group().join(Arc::clone(&attention));
        let mut mmu = Mmu::new();
        let (tlb, near) = (mmu.table(Class::Supervisor), mmu.near(Class::Supervisor));
        let mut jumps = JumpCache::new();
        let ways = [Way { entries: jumps.entries(0), context: u64::MAX }; 2];
        let short = jumps.short(0, false, &ways);
        let translator = options.jit.and_then(|wanted| Some((wanted, ram.translator()?)));
        let jit = translator.and_then(|(wanted, service)| Jit::new(wanted, service, &attention));
        let mut cpu = Box::new(Cpu {
            gpr: [0; 18],
            flags: Flags::default(),
            tlb,
            near,
            supervisor_tlbs: [tlb; 2],
            supervisor_nears: [near; 2],
            attention: Arc::as_ptr(&attention),
            seg_base: [0; 8],
            reach: [[0; 2]; 8],
            code_reach: 0,
            ways,
            short,
            fetch_generations: [u64::MAX; 2],
            rip: 0,
            jumps,
            xmm: [0; 32],
            translated: jit.as_ref().map(|jit| jit.passage()).unwrap_or_default(),
            mxcsr: 0,
            cpl: 0,
            why: Why::Continue,
            trap_rule: TrapRule::Began,
            mode: Mode::default(),
            fault: Fault::default(),
            eflags: 0,
            segments: [Segment::default(); 6],
            ldtr: Segment::default(),
            tr: Segment::default(),
            gdtr: TableRegister::default(),
            idtr: TableRegister::default(),
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            pdptrs: [0; 4],
            xcr0: 0,
            pkru: 0,
            efer: 0,
            dr: [0; 8],
            msrs: Msrs::default(),
            tsc_offset: 0,
            x87: X87::default(),
            shadow: Shadow::None,
            shadow_from: Self::JUST_NOW,
            nmi_blocked: false,
            nmi_pending: false,
            interrupt_pending: false,
            breakpoints: Default::default(),
            watchpoints: Default::default(),
            stops: Default::default(),
            activity: Activity::Active,
            injected: None,
            mmu,
            blocks: BlockStore::default(),
            beside: crate::beside::Beside::default(),
            jit,
            untranslated: false,
            id,
            options,
            statistics: Statistics::default(),
            whereabouts: Arc::new(Whereabouts::new(Arc::clone(&attention))),
            profile: Profile::default(),
            left: None,
            spaces: Default::default(),
            goal: u64::MAX,
            last_ones: false,
            overruns: false,
            confined: false,
            apart: None,
            #[cfg(feature = "planted")]
            planted: None,
            pauses: 0,
            ram,
            bus,
            attention_owner: attention,
            seat,
        });
        cpu.set_state(&CpuState::reset());
        cpu
    }

    /// Runs until the machine is wanted elsewhere.
    pub fn run(&mut self) -> Exit {
        self.run_until(u64::MAX)
    }

    /// Runs until the machine is wanted elsewhere, or exactly so many instructions have run. What waits for an instruction
    /// boundary is delivered before it returns. See [`Options::counting`] for what counts.
    pub fn run_for(&mut self, instructions: u64) -> Exit {
        self.run_until(self.instructions().saturating_add(instructions))
    }

    /// As [`Cpu::run_for`], and on to the end of the block in which that is: no instruction runs alone that would not have.
    pub fn run_past(&mut self, instructions: u64) -> Exit {
        self.overruns = true;
        let exit = self.run_for(instructions);
        self.overruns = false;
        exit
    }

    /// From here on hot code is translated as `wanted` says, or everything interpreted. False where the host has no translator.
    /// A translator that the CPU has already keeps the thresholds that it has. Between runs, when another engine may have run.
    pub fn set_translate(&mut self, wanted: Option<Translate>) -> bool {
        self.forget_code();
        self.untranslated = wanted.is_none();
        if let (Some(wanted), None) = (wanted, &self.jit) {
            let attention = Arc::clone(&self.attention_owner);
            self.jit = self.ram.translator().and_then(|service| Jit::new(wanted, service, &attention));
            self.translated = self.jit.as_ref().map(|jit| jit.passage()).unwrap_or_default();
        }
        wanted.is_none() || self.jit.is_some()
    }

    /// How many instructions have run since the CPU was made. Within a block, how many had at its beginning.
    pub fn instructions(&self) -> u64 {
        self.attention_ref().instructions()
    }

    /// Runs up to so many instructions in the place of another engine, which has the local APIC: no interrupt is delivered, and
    /// it ends with [`Exit::Outside`] before an instruction that halts, or touches a device, the local APIC, a port or an MSR.
    /// Memory may have been written behind this CPU's back.
    pub fn run_confined(&mut self, instructions: u64) -> Exit {
        self.forget_code();
        self.confined = true;
        let exit = self.run_for(instructions);
        self.confined = false;
        self.why = Why::Continue;
        exit
    }

    /// As [`Cpu::run_confined`], in the place of an engine that has nothing but the local APIC and the TSC: devices, ports and other
    /// MSRs are reached. A HLT is run, after which the CPU waits ([`Exit::Halted`]) until [`Cpu::set_state`] says otherwise. It ends with
    /// [`Exit::Counted`] before its time where it would take an interrupt, if one waits or is asked for by [`Request::INTERRUPT`].
    pub fn run_apart(&mut self, instructions: u64, apart: Apart) -> Exit {
        self.apart = Some(apart);
        self.interrupt_pending = apart.interrupt;
        let exit = self.run_confined(instructions);
        self.apart = None;
        // There may be one; who takes it looks.
        self.interrupt_pending = true;
        exit
    }

    /// Ends the instruction that is not for [`Cpu::run_confined`], before it has changed anything.
    #[cold]
    fn leave_confinement(&mut self) -> Stop {
        self.why = Why::Outside;
        Stop
    }

    /// In [`Cpu::run_confined`], an instruction that reaches beyond registers and RAM ends here.
    #[inline]
    pub(crate) fn reach_outside(&mut self) -> Done {
        if self.confined { Err(self.leave_confinement()) } else { Ok(()) }
    }

    /// As [`Cpu::reach_outside`], but [`Cpu::run_apart`] may.
    #[inline]
    pub(crate) fn reach_system(&mut self) -> Done {
        if self.apart.is_some() { Ok(()) } else { self.reach_outside() }
    }

    fn run_until(&mut self, goal: u64) -> Exit {
        if self.has_stopped()
            && goal > self.instructions()
            && let Some(exit) = self.go_past()
        {
            return exit;
        }
        self.goal = goal;
        self.count_instructions();
        self.enter_guest();
        #[cfg(feature = "planted")]
        let before = self.infect();
        let exit = self.run_inner();
        #[cfg(feature = "planted")]
        crate::planted::cure(before);
        self.leave_guest();
        exit
    }

    /// Notes what has run and gives out the next budget. Blocks run whole as long as none can go beyond the goal; the last
    /// instructions before it run one by one.
    fn count_instructions(&mut self) {
        let done = self.instructions();
        let left = self.goal.saturating_sub(done);
        self.last_ones = left <= BLOCK as u64 && !self.overruns;
        // Between two looks translated code runs more than a block.
        let longest = (INSTRUCTIONS + BLOCK) as u64;
        self.translated.off = left <= longest && !self.overruns || self.confined;
        let budget = match () {
            () if self.last_ones || self.overruns => left.saturating_sub(1),
            () if self.translated.off => left - BLOCK as u64,
            () => left - longest,
        };
        self.attention_ref().grant(budget.min(BUDGET) as i32);
    }

    fn run_inner(&mut self) -> Exit {
        loop {
            if self.attention_ref().due(0)
                && let Some(exit) = self.attend()
            {
                return exit;
            }
            match self.activity {
                Activity::Active => {}
                Activity::Halted => {
                    if self.confined || !self.wakes() {
                        return Exit::Halted;
                    }
                    self.activity = Activity::Active;
                }
                Activity::WaitForSipi => return Exit::WaitForSipi,
                Activity::Shutdown => return Exit::TripleFault,
            }
            if self.breakpoints.pending != 0 {
                self.trap_behind(false);
                if self.why == Why::Fault {
                    self.deliver_fault();
                    continue;
                }
            }
            let (shadow, injected) = (self.shadow(), self.injected.is_some());
            let single = self.between_instructions() | self.last_ones;
            if self.activity != Activity::Active {
                // A triple fault of the delivery.
                continue;
            }
            if self.confined && self.injected.is_some() {
                // Its delivery reaches outside.
                return Exit::Outside;
            }
            let shadowed = !injected && shadow != Shadow::None;
            let mut single = single;
            if let Some(apart) = self.apart {
                if apart.system_only && self.mode.contains(Mode::USER) && self.mode.is_64() {
                    if !injected {
                        self.cast_shadow(shadow);
                    }
                    return Exit::Outside;
                }
                if self.interrupt_pending && self.eflags & bits::IF != 0 {
                    if !shadowed {
                        return Exit::Counted;
                    }
                    single = true;
                }
            }
            if (self.last_ones || self.overruns) && self.instructions() >= self.goal {
                if !injected {
                    // It is for the next instruction, which has not run yet.
                    self.cast_shadow(shadow);
                }
                return Exit::Counted;
            }
            if self.stops.any() && self.stops_here() {
                if !injected {
                    self.cast_shadow(shadow);
                }
                return Exit::Breakpoint;
            }
            if self.break_before(shadow) {
                self.deliver_fault();
                continue;
            }
            self.bury();
            self.cross_privilege();
            self.step_blocks(single);
            self.cross_privilege();
            match self.why {
                Why::Continue => {}
                Why::Fault => self.deliver_fault(),
                Why::Halt => self.activity = Activity::Halted,
                Why::TripleFault => {}
                Why::Outside => {
                    if !injected {
                        self.cast_shadow(shadow);
                    }
                    return Exit::Outside;
                }
            }
        }
    }

    /// Runs from `rip` until a block is left. `single`: one instruction, because something waits for its end.
    pub(crate) fn step_blocks(&mut self, single: bool) {
        let trap = self.mode.contains(Mode::TRAP);
        let rip = self.rip;
        if self.watchpoints.any() {
            // What the delivery of an event has touched.
            self.tell_watched(None);
        }
        let resume = self.eflags & bits::RF;
        // RF protects one instruction; one that faults sets it in the image that it pushes.
        self.eflags &= !bits::RF;
        let before = if resume == 0 { 0 } else { self.instructions() };
        let single = single | std::mem::take(&mut self.breakpoints.again) | (self.breakpoints.pending != 0);
        self.breakpoints.alone = single || self.mode.contains(Mode::SINGLE);
        if single && !trap {
            self.mode.insert(Mode::SINGLE);
            self.refresh_tlb();
        }
        // An error is a fault of the fetch, or a request to come back.
        if let Ok(first) = self.enter() {
            self.whereabouts.set(Doing::Interpreter);
            interp::execute(self, first);
            self.whereabouts.set(Doing::Dispatch);
        }
        if single && !trap {
            // The instruction may have changed the mode: SINGLE goes unless it set TF.
            self.refresh_mode();
        }
        if self.why == Why::Outside {
            // It has not run.
            self.trap_rule = TrapRule::Began;
            self.eflags |= resume;
            return;
        }
        if resume != 0 && self.why == Why::Continue && self.instructions() == before {
            // Translated code has looked up before it ran anything: the instruction is still to come.
            self.eflags |= resume;
        }
        let trap = match std::mem::take(&mut self.trap_rule) {
            TrapRule::Began => trap,
            TrapRule::Ended => self.eflags & bits::TF != 0,
            TrapRule::Never => false,
        };
        if self.watchpoints.any() {
            self.tell_watched(Some(rip));
        }
        self.trap_behind(trap);
        // What event delivery and other accesses outside of blocks hit is noted.
        self.breakpoints.alone = true;
    }

    /// Serves the attention word.
    fn attend(&mut self) -> Option<Exit> {
        self.count_instructions();
        let requests = self.attention_ref().take();
        if requests.contains(Request::SAMPLE) {
            self.take_sample();
        }
        self.left = None;
        if requests.contains(Request::STOP) {
            self.within(Doing::Others, |c| {
                c.leave_guest();
                c.enter_guest();
            });
        }
        if requests.contains(Request::PROTECT) {
            self.within(Doing::Mmu, |c| c.seat.serve(|pages| c.mmu.protect(pages)));
        }
        if requests.contains(Request::CODE) {
            self.within(Doing::Code, |c| {
                c.drop_written();
                c.forget_beside();
            });
        }
        if requests.contains(Request::TRANSLATED) {
            self.within(Doing::Translating, Cpu::install_translations);
        }
        if requests.contains(Request::NMI) {
            self.nmi_pending = true;
        }
        if requests.contains(Request::INTERRUPT) {
            self.interrupt_pending = true;
        }
        if requests.contains(Request::INIT) {
            self.bus.event(self, Event::Init);
            self.init();
        }
        if requests.contains(Request::STARTUP) && self.activity == Activity::WaitForSipi {
            let vector = self.attention_ref().startup_vector();
            self.start(vector);
        }
        requests.contains(Request::EXIT).then_some(Exit::Requested)
    }

    /// Whether something ends a HLT.
    fn wakes(&mut self) -> bool {
        if self.nmi_pending && !self.nmi_blocked {
            return true;
        }
        self.interrupt_pending = self.interrupt_pending && self.bus.has_interrupt(self.id);
        self.interrupt_pending && self.eflags & bits::IF != 0
    }

    /// Whether nothing between two instructions wants the dispatcher, so that translated code may go on by itself behind an
    /// instruction that might have changed that. `written`: how many blocks had been dropped before it.
    #[inline]
    pub(crate) fn undisturbed(&self, written: u64) -> bool {
        self.why == Why::Continue
            && self.activity == Activity::Active
            && self.statistics.invalidations == written
            && !self.mode.intersects(Mode::SINGLE.union(Mode::TRAP))
            && self.eflags & bits::RF == 0
            && !self.breakpoints.any()
            && !self.watchpoints.any()
            && self.injected.is_none()
            && self.shadow != Shadow::MovSs
            && (!self.nmi_pending || self.nmi_blocked)
            && !(self.interrupt_pending && self.eflags & bits::IF != 0)
            && !self.virtual_interrupt_pending()
    }

    /// Delivers what waits for an instruction boundary. True if the next instruction runs in a shadow, and something
    /// waits for its end.
    pub(crate) fn between_instructions(&mut self) -> bool {
        let shadow = self.shadow();
        self.shadow = Shadow::None;
        if let Some(event) = self.injected.take() {
            self.fault = event;
            if event.vector >= FIRST_EXTERNAL {
                self.deliver_interrupt(event.vector, Source::External);
            } else {
                self.deliver_fault();
            }
            return false;
        }
        if self.confined && self.apart.is_none() || self.stops.alone {
            return false;
        }
        let nmi = self.nmi_pending && !self.nmi_blocked;
        // Apart, the other engine has them.
        let interrupt = self.apart.is_none() && self.interrupt_pending && self.eflags & bits::IF != 0;
        if !nmi && !interrupt {
            if self.virtual_interrupt_pending() {
                self.raise(Fault::gp(0));
                self.deliver_fault();
            }
            return false;
        }
        if shadow != Shadow::None {
            return true;
        }
        if nmi {
            self.nmi_pending = false;
            self.nmi_blocked = true;
            self.bus.event(self, Event::Nmi);
            self.deliver_interrupt(vector::NMI, Source::Exception);
            return false;
        }
        match self.bus.acknowledge(self.id) {
            Some(vector) => {
                self.bus.event(self, Event::Interrupt(vector));
                self.interrupt_pending = self.bus.has_interrupt(self.id);
                self.deliver_interrupt(vector, Source::External);
            }
            None => self.interrupt_pending = false,
        }
        false
    }

    /// INIT: SDM 3A "Processor State After Reset", column INIT. FPU, SSE and most MSRs stay.
    fn init(&mut self) {
        let old = self.state();
        let mut new = CpuState::reset();
        new.cr0 |= old.cr0 & (cr0::CD | cr0::NW);
        if old.cr0 & cr0::CD == 0 {
            new.cr0 &= !(cr0::CD | cr0::NW);
        }
        new.msrs = old.msrs;
        new.tsc_offset = old.tsc_offset;
        new.xmm = old.xmm;
        new.mxcsr = old.mxcsr;
        new.x87 = old.x87;
        new.xcr0 = old.xcr0;
        new.pkru = old.pkru;
        if self.id != 0 {
            new.activity = Activity::WaitForSipi;
        }
        self.set_state(&new);
    }

    /// A start-up IPI: real mode at vector * 4 KiB.
    fn start(&mut self, vector: u8) {
        let selector = u16::from(vector) << 8;
        self.segments[seg::CS] = Segment { attributes: 0x9b, ..Segment::real(selector) };
        self.activity = Activity::Active;
        self.refresh_mode();
        self.set_ip(0);
    }
}
