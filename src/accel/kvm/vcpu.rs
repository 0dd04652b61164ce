//! A processor in KVM: run, its exits served, its state taken from a [`Cpu`] and given back.
#![allow(unsafe_code)]

mod breakpoints;
mod imitated;
mod rescue;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_EXIT_IO_IN, KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, Msrs,
    kvm_cpuid_entry2, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_vcpu_events, kvm_xcr, kvm_xcrs,
    kvm_xsave,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use softmetal_cpu::{Attention, Bus, Cpu, CpuState, Doing, Exit, Request};
use softmetal_devices::interrupts::LapicPage;
use vm_memory::{Bytes, GuestAddress};

use self::imitated::Next;
use self::rescue::Rescues;
use super::kick::{self, Kick, Waiting};
use super::registers::{self, OfApic};
use super::tsc::{self, Setting};
use super::{Error, Vm, extended};
use crate::accel::{Counts, Trouble};
use crate::board::Board;

const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// Registers of the local APIC's timer.
const LVT_TIMER: usize = 0x32;
const INITIAL_COUNT: usize = 0x38;
const CURRENT_COUNT: usize = 0x39;
/// Those that count its ticks.
const TIMER_COUNTS: [usize; 2] = [INITIAL_COUNT, CURRENT_COUNT];

/// What KVM_RUN has come back for.
enum Left {
    /// Served.
    Served,
    Ports,
    Interrupted,
    Window,
    Shutdown,
    /// An instruction that KVM cannot run.
    Unable(&'static str),
    /// A breakpoint, or a single step; DR6 says which.
    Debug(u64),
}

/// The timer of a local APIC.
struct LapicTimer {
    mode: u32,
    initial: u32,
    current: u32,
}

impl LapicTimer {
    const ONE_SHOT: u32 = 0;
    const PERIODIC: u32 = 1;

    fn of(page: &[u32; LapicPage::COUNT]) -> Self {
        let mode = page[LVT_TIMER] >> 17 & 3;
        Self { mode, initial: page[INITIAL_COUNT], current: page[CURRENT_COUNT] }
    }

    /// Whether it has surely not come to zero between this look and a `later` one.
    fn has_stayed(&self, later: &Self) -> bool {
        match self.mode {
            Self::ONE_SHOT => (self.current == 0) == (later.current == 0),
            Self::PERIODIC if self.initial != 0 => later.current != 0 && later.current <= self.current,
            _ => true,
        }
    }
}

/// A processor in KVM.
pub(crate) struct Vcpu {
    fd: VcpuFd,
    vm: Arc<Vm>,
    board: Arc<Board>,
    index: usize,
    kick: Arc<Kick>,
    /// The XSAVE area as last seen: what of it is not in [`CpuState`] goes back as it was.
    area: Box<[u8; extended::AREA]>,
    /// Room for another.
    spare: Box<[u8; extended::AREA]>,
    /// MSRs of [`CpuState`] that this KVM does not have.
    missing: BTreeSet<u32>,
    tsc: Setting,
    counts: Counts,
    rescues: Rescues,
    /// Breakpoints that KVM knows of: linear addresses.
    armed: Vec<u64>,
    /// KVM_RUN comes back behind each instruction.
    single: bool,
    /// What user code did last the interpreter does once more.
    redo: bool,
    /// As last read.
    apic: OfApic,
    /// What KVM has, if it has run nothing since.
    settled: Option<CpuState>,
    /// It waited when it was last looked at: for an interrupt, or to be started.
    waits: bool,
}

impl Vcpu {
    /// The processor `index` of a machine; it gets the state of `cpu` with [`Vcpu::enter`].
    pub(crate) fn new(vm: &Arc<Vm>, board: &Arc<Board>, index: usize, cpu: &Cpu) -> Result<Self, Error> {
        if index >= vm.host.processors {
            return Err(Error::Processors(vm.host.processors));
        }
        let fd = vm.fd.create_vcpu(index as u64);
        let fd = fd.map_err(|error| Error::refused("KVM_CREATE_VCPU", error))?;
        let ours = cpu.cpuid_table();
        let entries: Vec<_> = match &vm.offered {
            Some(offered) => offered.processor(&ours),
            None => ours.iter().map(cpuid_entry).collect(),
        };
        let cpuid = CpuId::from_entries(&entries).map_err(|_| Error::Lacks("room for CPUID's leaves"))?;
        fd.set_cpuid2(&cpuid).map_err(|error| Error::refused("KVM_SET_CPUID2", error))?;
        let kick = Arc::new(Kick::default());
        let theirs = Arc::clone(&kick);
        cpu.attention().on_request(move || theirs.kick());
        let tsc = Setting::of(&fd);
        Ok(Self {
            fd,
            vm: Arc::clone(vm),
            board: Arc::clone(board),
            index,
            kick,
            area: Box::new([0; extended::AREA]),
            spare: Box::new([0; extended::AREA]),
            missing: BTreeSet::new(),
            tsc,
            counts: Counts::default(),
            rescues: Rescues::default(),
            armed: Vec::new(),
            single: false,
            redo: false,
            apic: OfApic::default(),
            settled: None,
            waits: false,
        })
    }

    /// With more rescues than so many in a second it is stuck.
    pub(crate) fn set_allowance(&mut self, allowance: Option<u32>) {
        self.rescues.allowance = allowance;
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Runs until somebody asks with [`Request::EXIT`], or the guest crashes. What KVM cannot run, `cpu` does.
    pub(crate) fn run(&mut self, cpu: &mut Cpu) -> Result<Exit, Trouble> {
        let (attention, place) = (cpu.attention(), cpu.whereabouts());
        let kick = Arc::clone(&self.kick);
        // SAFETY: the byte is in the vCPU's shared page, which stays mapped as long as `self.fd` lives; `inside` ends before.
        let _inside = unsafe { kick.enter(&raw mut self.fd.get_kvm_run().immediate_exit) };
        self.arm(cpu)?;
        if cpu.is_passing() && !self.go_past(cpu)? {
            return Ok(Exit::Requested);
        }
        let mut leaving = false;
        // It may, and anything may have been set.
        (self.waits, self.settled) = (true, None);
        loop {
            self.fd.set_kvm_immediate_exit(leaving.into());
            if attention.is_requested() {
                leaving |= self.attend(&attention);
                self.fd.set_kvm_immediate_exit(leaving.into());
            }
            if !leaving {
                self.offer_8259()?;
                if self.vm.imitates {
                    match self.run_apart(cpu, &attention)? {
                        Next::Kvm => {}
                        Next::Again => continue,
                        Next::Leave => {
                            leaving = true;
                            self.fd.set_kvm_immediate_exit(1);
                        }
                        Next::Ended(exit) => return Ok(exit),
                    }
                }
            }
            // With an immediate exit it finishes the instruction whose access was served last, and no more.
            let left = place.during(Doing::Hardware, || self.step());
            if self.vm.imitates {
                kick::clear_alarm();
            }
            match left? {
                Left::Served | Left::Window => {}
                Left::Ports => place.during(Doing::Device, || self.port_access()),
                Left::Interrupted if leaving => return Ok(Exit::Requested),
                Left::Interrupted => {
                    self.counts.kicks += u64::from(attention.is_requested());
                    if log::log_enabled!(log::Level::Trace)
                        && let Ok(regs) = self.fd.get_regs()
                    {
                        log::trace!("kicked out of KVM at {:x}", regs.rip);
                    }
                }
                // What the guest does itself the interpreter has run.
                Left::Shutdown if self.single => return Err(self.take_back(cpu)?),
                Left::Shutdown => {
                    let state = self.read_state(cpu, tsc::tsc_base(&self.board.clock), true)?;
                    cpu.set_state(&state);
                    return Ok(Exit::TripleFault);
                }
                Left::Debug(_) if self.single && self.armed.is_empty() => {}
                Left::Debug(dr6) => {
                    let state = self.read_state(cpu, tsc::tsc_base(&self.board.clock), true)?;
                    cpu.set_state(&state);
                    if self.armed.binary_search(&cpu.next_linear()).is_ok() {
                        cpu.pass_stop();
                        return Ok(Exit::Breakpoint);
                    }
                    if !self.single {
                        self.debug_exception(&state, dr6)?;
                    }
                }
                Left::Unable(why) => match self.rescue(cpu, why)? {
                    exit @ (Exit::TripleFault | Exit::Breakpoint) => return Ok(exit),
                    Exit::Requested => leaving = true,
                    _ => {}
                },
            }
        }
    }

    /// Serves what others ask for; whether it is to come back.
    fn attend(&mut self, attention: &Attention) -> bool {
        let requests = attention.take();
        if requests.contains(Request::NMI)
            && let Err(error) = self.fd.nmi()
        {
            log::warn!("KVM does not take a non-maskable interrupt: {error}");
        }
        requests.contains(Request::EXIT)
    }

    /// Gives the guest an interrupt of the 8259 pair, or has KVM say when it can take one.
    fn offer_8259(&mut self) -> Result<(), Error> {
        if self.index != 0 {
            return Ok(());
        }
        let mut wanted = self.vm.intr.load(SeqCst);
        if wanted && self.fd.get_kvm_run().ready_for_interrupt_injection != 0 {
            let refused = |error| Error::refused("an interrupt", error);
            let mut events = self.fd.get_vcpu_events().map_err(refused)?;
            let busy = events.interrupt.injected | events.exception.injected | events.nmi.injected != 0;
            if !busy && let Some(vector) = self.board.interrupts.acknowledge_8259() {
                // Not by KVM_INTERRUPT: what waits there nobody could read when the machine leaves KVM.
                (events.interrupt.injected, events.interrupt.nr, events.interrupt.soft) = (1, vector, 0);
                self.fd.set_vcpu_events(&events).map_err(refused)?;
                if self.fd.get_mp_state().map_err(refused)?.mp_state == KVM_MP_STATE_HALTED {
                    let mp_state = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
                    self.fd.set_mp_state(mp_state).map_err(refused)?;
                }
                self.counts.injections += 1;
                self.fd.get_kvm_run().ready_for_interrupt_injection = 0;
                wanted = self.vm.intr.load(SeqCst);
            }
        }
        self.fd.get_kvm_run().request_interrupt_window = wanted.into();
        Ok(())
    }

    /// KVM_RUN once.
    fn step(&mut self) -> Result<Left, Trouble> {
        let Self { fd, vm, board, counts, index, .. } = self;
        let exit = match fd.run() {
            Ok(exit) => exit,
            Err(error) => {
                return match error.errno() {
                    libc::EINTR | libc::EAGAIN => Ok(Left::Interrupted),
                    // An access that KVM finds no memory for.
                    libc::EFAULT => Ok(Left::Unable("an access fails")),
                    _ => Err(Error::refused("KVM_RUN", error).into()),
                };
            }
        };
        Ok(match exit {
            VcpuExit::IoIn(..) | VcpuExit::IoOut(..) => Left::Ports,
            VcpuExit::MmioRead(at, data) => {
                counts.memory += 1;
                // KVM may not have a page that is RAM at the moment, because the map is changing.
                if !vm.ram.read(at, data) {
                    board.mmio_read(*index, at, data);
                }
                Left::Served
            }
            VcpuExit::MmioWrite(at, data) => {
                counts.memory += 1;
                if vm.ram.rights(at).is_some_and(|rights| rights.write) {
                    let _ = vm.ram.memory().write_slice(data, GuestAddress(at));
                    vm.dirty.note(at..at.saturating_add(data.len() as u64));
                } else {
                    board.mmio_write(*index, at, data);
                }
                Left::Served
            }
            VcpuExit::IrqWindowOpen => {
                counts.windows += 1;
                Left::Window
            }
            VcpuExit::IoapicEoi(vector) => {
                counts.ends += 1;
                board.interrupts.end_of_interrupt(vector);
                Left::Served
            }
            VcpuExit::Intr => Left::Interrupted,
            VcpuExit::Hlt => Left::Served,
            VcpuExit::Shutdown => Left::Shutdown,
            VcpuExit::InternalError => Left::Unable("an internal error"),
            VcpuExit::Debug(debug) => Left::Debug(debug.dr6),
            VcpuExit::MemoryFault { .. } => Left::Unable("a memory fault"),
            VcpuExit::FailEntry(reason, _) => {
                return Err(Trouble::Failed(format!(
                    "KVM cannot enter the guest: the processor refuses its state (reason {reason:#x})"
                )));
            }
            other => {
                return Err(Trouble::Failed(format!("KVM stops for a reason not known here: {other:?}")));
            }
        })
    }

    /// IN and OUT, of a string of bytes maybe.
    fn port_access(&mut self) {
        self.counts.ports += 1;
        let size = self.vm.fd.run_size();
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason says that this part of the union is the valid one.
        let io = unsafe { run.__bindgen_anon_1.io };
        let (width, length) = (usize::from(io.size), usize::from(io.size) * io.count as usize);
        let offset = io.data_offset as usize;
        if width == 0 || offset.checked_add(length).is_none_or(|end| end > size) {
            return;
        }
        let page = (&raw mut *run).cast::<u8>();
        // SAFETY: the bytes lie within the mapping of the vCPU's page, behind the structure, and nobody else uses them until
        // KVM_RUN.
        let data = unsafe { slice::from_raw_parts_mut(page.add(offset), length) };
        for item in data.chunks_exact_mut(width) {
            if u32::from(io.direction) == KVM_EXIT_IO_IN {
                self.board.port_read(self.index, io.port, item);
            } else {
                self.board.port_write(self.index, io.port, item);
            }
        }
    }

    // State.

    /// Takes over from `cpu`; `page`: its local APIC. The board's and the host's TSC are aligned.
    pub(crate) fn enter(&mut self, cpu: &Cpu, page: &LapicPage) -> Result<(), Error> {
        let state = cpu.state();
        let apic = OfApic { base: page.apic_base, cr8: u64::from(page.registers[8] >> 4 & 15) };
        self.set_xcr0(&state)?;
        let sregs = registers::special(&state, apic);
        self.fd.set_sregs(&sregs).map_err(|error| Error::refused("special registers", error))?;
        self.set_general(&state)?;
        self.set_extended(&state)?;
        self.set_debug(&state)?;
        self.set_msrs(registers::msrs(&state))?;
        let mut lapic = kvm_lapic_state::default();
        let timer = LapicTimer::of(&page.registers);
        // KVM would let a count that has come to its end begin anew, or end once more.
        let over = timer.mode == LapicTimer::ONE_SHOT && timer.current == 0;
        for (number, &value) in page.registers.iter().enumerate() {
            let value = match number {
                INITIAL_COUNT if over => 0,
                _ if TIMER_COUNTS.contains(&number) => value.saturating_mul(self.vm.timer_ratio),
                _ => value,
            };
            for (byte, at) in value.to_le_bytes().into_iter().zip(16 * number..) {
                lapic.regs[at] = byte as _;
            }
        }
        self.fd.set_lapic(&lapic).map_err(|error| Error::refused("a local APIC", error))?;
        self.set_tsc(state.tsc_offset)?;
        let deadline = match page.tsc_deadline {
            0 => 0,
            deadline => deadline.wrapping_add(state.tsc_offset).max(1),
        };
        let deadline = kvm_msr_entry { index: MSR_TSC_DEADLINE, data: deadline, ..Default::default() };
        self.set_msrs(vec![deadline])?;
        self.set_events(&state)?;
        if log::log_enabled!(log::Level::Trace) {
            let set = |first: usize| vectors(&page.registers[first..first + 8]);
            log::trace!(
                "into KVM at {:x}, in service {:x?}, requested {:x?}",
                state.rip,
                set(0x10),
                set(0x20)
            );
        }
        self.set_activity(&state)
    }

    /// Gives everything back to `cpu`; the local APIC is the answer.
    pub(crate) fn leave(&mut self, cpu: &mut Cpu) -> Result<LapicPage, Error> {
        self.set_single(false)?;
        let (registers, deadline) = self.settle()?;
        self.give_back(cpu, registers, deadline)
    }

    /// The state as it is, and these registers and deadline of the local APIC.
    pub(super) fn give_back(
        &mut self,
        cpu: &mut Cpu,
        registers: [u32; LapicPage::COUNT],
        deadline: Option<u64>,
    ) -> Result<LapicPage, Error> {
        let base = self.vm.tsc_base();
        let state = self.read_state(cpu, base, true)?;
        let sregs = self.fd.get_sregs().map_err(|error| Error::refused("special registers", error))?;
        let mut page = LapicPage { registers, apic_base: sregs.apic_base, tsc_deadline: 0 };
        if log::log_enabled!(log::Level::Trace) {
            let set = |first: usize| vectors(&page.registers[first..first + 8]);
            log::trace!(
                "out of KVM at {:x}, {:?}, injected {:?}, in service {:x?}, requested {:x?}",
                state.rip,
                state.activity,
                state.injected.map(|fault| fault.vector),
                set(0x10),
                set(0x20)
            );
        }
        page.tsc_deadline = match deadline {
            None | Some(0) => 0,
            Some(deadline) => {
                // What has passed by the guest's counter is the smallest that is armed.
                let now = self.board.clock.tsc();
                let guests = now.wrapping_add(state.tsc_offset);
                if deadline <= guests { 1 } else { now.saturating_add(deadline - guests) }
            }
        };
        cpu.set_state(&state);
        Ok(page)
    }

    /// The local APIC's registers, its timer's counts as ours has them.
    pub(super) fn lapic_registers(&self) -> Result<[u32; LapicPage::COUNT], Error> {
        let lapic = self.fd.get_lapic().map_err(|error| Error::refused("a local APIC", error))?;
        let register = |number: usize| {
            let value = u32::from_le_bytes(std::array::from_fn(|k| lapic.regs[16 * number + k] as u8));
            // A count that has not come to its end is not 0.
            if TIMER_COUNTS.contains(&number) { value.div_ceil(self.vm.timer_ratio) } else { value }
        };
        Ok(std::array::from_fn(register))
    }

    /// Brings into the registers, before they are read, what KVM keeps beside them until the guest's next instruction: the request
    /// of a timer that has run out, the end of an interrupt that nobody was told of, INIT and start-up. The local APIC's
    /// registers then, and the deadline.
    fn settle(&mut self) -> Result<([u32; LapicPage::COUNT], Option<u64>), Error> {
        /// After so many, of a timer that always gets in between, an interrupt may be lost.
        const TRIES: usize = 20;
        let mut tries = 0;
        loop {
            let before = LapicTimer::of(&self.lapic_registers()?);
            self.pass()?;
            // If it passes between the two, it is in both, and asks for its interrupt once.
            let deadline = self.msr(MSR_TSC_DEADLINE);
            let registers = self.lapic_registers()?;
            tries += 1;
            if tries == TRIES || before.has_stayed(&LapicTimer::of(&registers)) {
                return Ok((registers, deadline));
            }
        }
    }

    /// Up to the guest's next instruction.
    fn pass(&mut self) -> Result<(), Error> {
        let fd = self.fd.as_raw_fd();
        let _waiting = Waiting::new(fd).map_err(|error| Error::Refused("a signal mask", error))?;
        self.fd.set_kvm_immediate_exit(0);
        self.fd.get_kvm_run().request_interrupt_window = 0;
        loop {
            match self.step() {
                Ok(Left::Served | Left::Window) => {}
                Ok(Left::Ports) => self.port_access(),
                // What it cannot run, the next engine can.
                Ok(Left::Debug(_)) if self.single => {}
                Ok(Left::Interrupted | Left::Shutdown | Left::Unable(_) | Left::Debug(_)) => return Ok(()),
                Err(Trouble::Stuck(why) | Trouble::Failed(why)) => {
                    return Err(Error::Refused("to come to an instruction's end", io::Error::other(why)));
                }
            }
        }
    }

    /// `tsc_base`: the board's TSC minus the host's. Without `all_msrs` those that only WRMSR changes are as they were.
    fn read_state(&mut self, cpu: &Cpu, tsc_base: u64, all_msrs: bool) -> Result<CpuState, Error> {
        // What KVM does not have stays as it was.
        let mut state = cpu.state();
        let refused = |what| move |error| Error::refused(what, error);
        // First: to answer it, KVM takes INIT and start-up messages, which change the other registers.
        let mp_state = self.fd.get_mp_state().map_err(refused("to tell whether it runs"))?;
        registers::take_activity(&mut state, mp_state);
        self.read_for_user_code(&mut state)?;
        if self.vm.host.xsave {
            let xcrs = self.fd.get_xcrs().map_err(refused("to tell XCR0"))?;
            if let Some(xcr) = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize).find(|xcr| xcr.xcr == 0) {
                state.xcr0 = xcr.value;
            }
        }
        if self.vm.host.debug_registers {
            let debug = self.fd.get_debug_regs().map_err(refused("to tell debug registers"))?;
            registers::take_debug(&mut state, &debug);
        }
        let mut msrs = registers::msrs(&state);
        msrs.retain(|entry| all_msrs || registers::is_used_by_code(entry.index));
        for entry in self.get_msrs(msrs)? {
            registers::take_msr(&mut state, &entry);
        }
        state.tsc_offset = self.tsc_offset(state.tsc_offset, tsc_base);
        Ok(state)
    }

    /// Reads what user code can have changed; KVM's pending events besides.
    fn read_for_user_code(&mut self, state: &mut CpuState) -> Result<kvm_vcpu_events, Error> {
        let refused = |what| move |error| Error::refused(what, error);
        registers::take_general(state, &self.fd.get_regs().map_err(refused("to tell the registers"))?);
        let sregs = self.fd.get_sregs().map_err(refused("to tell special registers"))?;
        self.apic = registers::take_special(state, &sregs);
        if self.vm.host.xsave {
            let xsave = self.fd.get_xsave().map_err(refused("to tell the XSAVE state"))?;
            for (bytes, word) in self.area.chunks_exact_mut(4).zip(xsave.region) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            extended::read(state, &self.area, self.vm.layout);
        } else {
            let fpu = self.fd.get_fpu().map_err(refused("to tell the FPU's state"))?;
            extended::take_fpu(state, &fpu);
        }
        let events = self.fd.get_vcpu_events().map_err(refused("to tell pending events"))?;
        registers::take_events(state, &events);
        Ok(events)
    }

    /// Brings back what a stretch of interpretation has changed.
    fn write_changes(&mut self, before: &CpuState, after: &CpuState) -> Result<(), Error> {
        let special = |state| registers::special(state, OfApic::default());
        if special(before) != special(after) {
            self.set_special(after)?;
        }
        self.set_general(after)?;
        if before.xcr0 != after.xcr0 {
            self.set_xcr0(after)?;
        }
        let extended = |s: &CpuState| (s.x87, s.xmm, s.ymm_high, s.mxcsr, s.pkru);
        if extended(before) != extended(after) {
            self.set_extended(after)?;
        }
        if before.dr != after.dr {
            self.set_debug(after)?;
        }
        let (old, mut msrs) = (registers::msrs(before), registers::msrs(after));
        msrs.retain(|entry| !old.contains(entry));
        self.set_msrs(msrs)?;
        self.set_events(after)?;
        if before.activity != after.activity {
            self.set_activity(after)?;
        }
        Ok(())
    }

    /// What is the local APIC's is as it was read.
    fn set_special(&self, state: &CpuState) -> Result<(), Error> {
        let sregs = registers::special(state, self.apic);
        self.fd.set_sregs(&sregs).map_err(|error| Error::refused("special registers", error))
    }

    fn set_general(&self, state: &CpuState) -> Result<(), Error> {
        let general = registers::general(state);
        self.fd.set_regs(&general).map_err(|error| Error::refused("registers", error))
    }

    fn set_xcr0(&self, state: &CpuState) -> Result<(), Error> {
        if !self.vm.host.xsave {
            return Ok(());
        }
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
        xcrs.xcrs[0] = kvm_xcr { xcr: 0, reserved: 0, value: state.xcr0 };
        self.fd.set_xcrs(&xcrs).map_err(|error| Error::refused("XCR0", error))
    }

    fn set_extended(&mut self, state: &CpuState) -> Result<(), Error> {
        if !self.vm.host.xsave {
            let fpu = extended::fpu(state);
            return self.fd.set_fpu(&fpu).map_err(|error| Error::refused("FPU state", error));
        }
        extended::write(state, &mut self.area, self.vm.layout, u64::MAX);
        self.set_area()
    }

    /// For hosts with XSAVE.
    fn set_area(&self) -> Result<(), Error> {
        let mut xsave = kvm_xsave::default();
        for (word, bytes) in xsave.region.iter_mut().zip(self.area.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        // SAFETY: the structure has the 4096 bytes that KVM_SET_XSAVE reads, as long as no component beyond them is enabled,
        // for which the process would have to ask the kernel first.
        let set = unsafe { self.fd.set_xsave(&xsave) };
        set.map_err(|error| Error::refused("XSAVE state", error))
    }

    fn set_debug(&self, state: &CpuState) -> Result<(), Error> {
        if !self.vm.host.debug_registers {
            return Ok(());
        }
        let debug = registers::debug(state);
        self.fd.set_debug_regs(&debug).map_err(|error| Error::refused("debug registers", error))
    }

    fn set_events(&self, state: &CpuState) -> Result<(), Error> {
        let events = registers::events(state);
        self.fd.set_vcpu_events(&events).map_err(|error| Error::refused("pending events", error))
    }

    fn set_activity(&self, state: &CpuState) -> Result<(), Error> {
        let activity = registers::activity(state);
        self.fd.set_mp_state(activity).map_err(|error| Error::refused("a processor's activity", error))
    }

    /// Sets those MSRs that KVM has.
    fn set_msrs(&mut self, mut entries: Vec<kvm_msr_entry>) -> Result<(), Error> {
        self.each_msr(&mut entries, |fd, list| fd.set_msrs(list))
    }

    /// Reads those MSRs that KVM has.
    fn get_msrs(&mut self, mut entries: Vec<kvm_msr_entry>) -> Result<Vec<kvm_msr_entry>, Error> {
        self.each_msr(&mut entries, |fd, list| fd.get_msrs(list))?;
        Ok(entries)
    }

    /// KVM stops at the first MSR of a list that it does not have: from then on it is left out.
    fn each_msr(
        &mut self,
        entries: &mut Vec<kvm_msr_entry>,
        work: impl Fn(&VcpuFd, &mut Msrs) -> Result<usize, kvm_ioctls::Error>,
    ) -> Result<(), Error> {
        loop {
            entries.retain(|entry| !self.missing.contains(&entry.index));
            if entries.is_empty() {
                return Ok(());
            }
            let mut list = Msrs::from_entries(entries).map_err(|_| Error::Lacks("room for MSRs"))?;
            let done = work(&self.fd, &mut list).map_err(|error| Error::refused("MSRs", error))?;
            match entries.get(done) {
                Some(refused) => {
                    log::debug!("KVM has no MSR {:#x}", refused.index);
                    self.missing.insert(refused.index);
                }
                None => {
                    entries.copy_from_slice(list.as_slice());
                    return Ok(());
                }
            }
        }
    }

    /// Whether the guest's TSC is the host's, whatever is set.
    #[cfg(test)]
    pub(super) fn has_fixed_tsc(&self) -> bool {
        self.tsc == Setting::Fixed
    }

    /// Whether KVM does not have this MSR.
    #[cfg(test)]
    pub(super) fn is_missing(&self, index: u32) -> bool {
        self.missing.contains(&index)
    }

    fn msr(&mut self, index: u32) -> Option<u64> {
        let entry = kvm_msr_entry { index, ..kvm_msr_entry::default() };
        self.get_msrs(vec![entry]).ok()?.first().map(|entry| entry.data)
    }

    /// What the guest's TSC is ahead of the board's; `known` where it cannot be found out.
    fn tsc_offset(&mut self, known: u64, tsc_base: u64) -> u64 {
        match self.tsc {
            Setting::Fixed => 0_u64.wrapping_sub(tsc_base),
            Setting::Offset => tsc::offset(&self.fd).map_or(known, |offset| offset.wrapping_sub(tsc_base)),
            Setting::Written => {
                self.msr(tsc::MSR).map_or(known, |tsc| tsc.wrapping_sub(self.board.clock.tsc()))
            }
        }
    }

    fn set_tsc(&mut self, ahead: u64) -> Result<(), Error> {
        match self.tsc {
            Setting::Fixed => Ok(()),
            Setting::Offset => match tsc::set_offset(&self.fd, self.vm.tsc_base().wrapping_add(ahead)) {
                true => Ok(()),
                false => Err(Error::Lacks("the offset of a TSC that it had a moment ago")),
            },
            Setting::Written => {
                let data = self.board.clock.tsc().wrapping_add(ahead);
                self.set_msrs(vec![kvm_msr_entry { index: tsc::MSR, data, ..kvm_msr_entry::default() }])
            }
        }
    }
}

/// The vectors whose bits are set in one of the local APIC's sets.
fn vectors(words: &[u32]) -> Vec<u32> {
    (0..256).filter(|vector| words[*vector as usize / 32] >> (vector % 32) & 1 != 0).collect()
}

/// A leaf as KVM takes it.
pub(super) fn cpuid_entry(leaf: &softmetal_cpu::CpuidLeaf) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = leaf.values;
    kvm_cpuid_entry2 {
        function: leaf.leaf,
        index: leaf.subleaf,
        flags: if leaf.indexed { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
        eax,
        ebx,
        ecx,
        edx,
        padding: [0; 3],
    }
}
