//! The interrupt fabric: 8259 pair, I/O APIC and one local APIC per CPU, wired as on a PC.
//!
//! Shared by devices, which drive wires and send messages, and by vCPUs, which acknowledge. **Lock order:** a device's
//! own lock, then the 8259 pair, then the I/O APIC, then one local APIC, never two. [`Wake::wake`] and the [`Alarm`] are
//! called without a local APIC's lock, but maybe with the others held.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::bus::Device;
pub use crate::chipset::apic_bus::{CpuEvent, Wake};
use crate::chipset::apic_bus::{DeliveryMode, Destination, Ipi, Message, Shorthand};
pub use crate::chipset::ioapic::IOAPIC_PINS;
use crate::chipset::ioapic::IoApic;
pub use crate::chipset::lapic::LapicPage;
pub use crate::chipset::lapic::{APIC_TIMER_HZ, Gp};
use crate::chipset::lapic::{Acknowledged, Effect, Lapic, LapicState, LintPin};
pub use crate::chipset::pic::PicBlock;
use crate::chipset::pic::PicPair;
use crate::clock::{Alarm, Clock, Timed};
use crate::irq::{Hearing, IrqSink, MsiSink};

/// ISA interrupts, which reach the 8259 pair too.
const ISA_IRQS: u32 = 16;
/// The ISA interrupt that is the 8259 pair's own cascade.
const ISA_CASCADE: u32 = 2;
/// The I/O APIC pin on which ISA interrupt 0 sits: the firmware's MADT has an override for it.
const IOAPIC_PIN_OF_IRQ0: usize = 2;
/// The I/O APIC pin that carries the 8259 pair's INTR.
const IOAPIC_PIN_OF_INTR: usize = 0;
/// The CPU whose LINT0 carries the 8259 pair's INTR.
const INTR_CPU: usize = 0;

/// No timer is armed.
const NEVER: u64 = u64::MAX;

/// The interrupt fabric.
pub struct Interrupts {
    pic: Mutex<PicWiring>,
    ioapic: Mutex<IoApic>,
    cpus: Box<[Cpu]>,
    wake: Arc<dyn Wake>,
    alarm: OnceLock<Alarm>,
    /// Whom to tell when a CPU has taken an interrupt for which somebody waits.
    listener: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// An edge found the interrupt of an earlier one waiting, and the listener wants to know when one is taken.
    awaited: AtomicBool,
    /// Where the next choice among equals of a lowest-priority message begins.
    turn: AtomicUsize,
    /// Who has the local APICs, if they are not here.
    away: RwLock<Option<Arc<dyn LocalApics>>>,
    /// Whether there is somebody, for who asks often. Written while the machine is paused.
    is_away: AtomicBool,
}

/// Local APICs that are elsewhere: with hardware virtualization the host's kernel has them. Called with chip locks held: it must
/// not call back into the interrupt fabric.
pub trait LocalApics: Send + Sync {
    /// Takes an interrupt message in the form of an MSI; whether anyone accepted it.
    fn send(&self, address: u64, data: u32) -> bool;

    /// The messages of the I/O APIC's level-triggered pins have changed: of these [`Interrupts::end_of_interrupt`] is to be told.
    fn tell_ends(&self, pins: &[Option<(u64, u32)>; IOAPIC_PINS]);

    /// The 8259 pair's output, which is LINT0 of the first CPU.
    fn set_intr(&self, level: bool);
}

/// A CPU's local APIC, and what of it is asked so often that it must not take the lock. Each has its own cache lines.
#[repr(align(128))]
struct Cpu {
    lapic: Mutex<Lapic>,
    /// An interrupt can be acknowledged. Written under the lock.
    pending: AtomicBool,
    /// When the timer is due. Written under the lock.
    deadline: AtomicU64,
    /// IA32_APIC_BASE: each access to memory that is not RAM asks where the register page is. Written under the lock.
    apic_base: AtomicU64,
}

struct PicWiring {
    pair: PicPair,
    /// The level at which INTR was last driven.
    intr: bool,
}

/// What a snapshot keeps of the interrupt fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptsState {
    pic: PicPair,
    ioapic: IoApic,
    lapics: Vec<LapicState>,
}

/// Why a saved state does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Another number of CPUs.
    #[error("the saved interrupt controllers belong to a machine with {saved} CPUs, this one has {here}")]
    CpuCount {
        /// CPUs of the saved machine.
        saved: usize,
        /// CPUs of this one.
        here: usize,
    },
}

impl Interrupts {
    /// The fabric of a machine with this many CPUs, as after power-on. A CPU's APIC ID is its number.
    ///
    /// # Panics
    /// If there is no CPU, or more than 32-bit IDs can name.
    pub fn new(cpus: usize, clock: Arc<Clock>, wake: Arc<dyn Wake>) -> Arc<Interrupts> {
        assert!(cpus > 0, "a machine has a CPU");
        let cpu = |id| {
            let lapic = Lapic::new(id, clock.clone());
            Cpu {
                pending: AtomicBool::new(false),
                deadline: AtomicU64::new(NEVER),
                apic_base: AtomicU64::new(lapic.apic_base()),
                lapic: Mutex::new(lapic),
            }
        };
        let count = u32::try_from(cpus).expect("an APIC ID has 32 bits");
        Arc::new(Interrupts {
            pic: Mutex::new(PicWiring { pair: PicPair::new(), intr: false }),
            ioapic: Mutex::new(IoApic::new()),
            cpus: (0..count).map(cpu).collect(),
            wake,
            alarm: OnceLock::new(),
            listener: OnceLock::new(),
            awaited: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            away: RwLock::new(None),
            is_away: AtomicBool::new(false),
        })
    }

    /// Whom to tell when a local timer's deadline moves nearer. May be set once.
    pub fn set_alarm(&self, alarm: Alarm) {
        let already = self.alarm.set(alarm).is_err();
        assert!(!already, "the interrupt fabric has one alarm");
    }

    /// Whom to tell that a CPU has taken an interrupt, after [`hearing`](IrqSink::hearing) has said that one was waiting.
    /// It is called without locks, by the CPU's thread. May be set once.
    pub fn set_listener(&self, listener: impl Fn() + Send + Sync + 'static) {
        let already = self.listener.set(Box::new(listener)).is_err();
        assert!(!already, "the interrupt fabric has one listener");
    }

    /// The number of CPUs.
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }

    /// RESET of the whole board: every chip as after power-on; wires keep their levels.
    pub fn reset(&self) {
        let mut pic = self.pic.lock();
        pic.pair.reset();
        self.drive_intr(&mut pic);
        self.ioapic.lock().reset();
        for cpu in 0..self.cpus() {
            self.with_lapic(cpu, Lapic::reset);
        }
    }

    /// Leaves the bootstrap processor as firmware does: the 8259 pair through LINT0, the NMI on LINT1.
    pub fn enter_virtual_wire_mode(&self) {
        self.with_lapic(INTR_CPU, Lapic::enter_virtual_wire_mode);
    }

    // A vCPU's side.

    /// Whether the CPU has an interrupt to take, were its interrupt flag set. One load: ask as often as you like.
    #[inline]
    pub fn has_interrupt(&self, cpu: usize) -> bool {
        self.cpus[cpu].pending.load(Ordering::Acquire)
    }

    /// Interrupt acknowledge: the vector to deliver. `None` if the request has gone away, which only the CPU's own
    /// accesses bring about; when an 8259's has, the vector is the spurious one.
    pub fn acknowledge(&self, cpu: usize) -> Option<u8> {
        let vector = match self.with_lapic(cpu, Lapic::acknowledge)? {
            Acknowledged::Vector(vector) => vector,
            Acknowledged::ExtInt => self.acknowledge_pic(&mut self.pic.lock()),
        };
        self.tell_listener();
        Some(vector)
    }

    /// An interrupt was taken, for which somebody may wait.
    fn tell_listener(&self) {
        // The chips' locks order this against `hearing`, which asks for it before it looks.
        if self.awaited.load(Ordering::Relaxed)
            && self.awaited.swap(false, Ordering::AcqRel)
            && let Some(listener) = self.listener.get()
        {
            listener();
        }
    }

    /// CR8: the upper half of the task priority.
    pub fn cr8(&self, cpu: usize) -> u8 {
        self.cpus[cpu].lapic.lock().tpr() >> 4
    }

    /// Writes CR8; the CPU has refused values above 15.
    pub fn set_cr8(&self, cpu: usize, value: u8) {
        self.with_lapic(cpu, |lapic| lapic.set_tpr(value << 4));
    }

    /// IA32_APIC_BASE. One load.
    #[inline]
    pub fn apic_base(&self, cpu: usize) -> u64 {
        self.cpus[cpu].apic_base.load(Ordering::Acquire)
    }

    /// Writes IA32_APIC_BASE; illegal changes of mode and reserved bits are refused. The CPU checks that the address is
    /// within its physical address width.
    pub fn set_apic_base(&self, cpu: usize, value: u64) -> Result<(), Gp> {
        self.with_lapic(cpu, |lapic| lapic.set_apic_base(value))
    }

    /// RDMSR of 800h to 8FFh.
    pub fn x2apic_read(&self, cpu: usize, msr: u32) -> Result<u64, Gp> {
        self.with_lapic(cpu, |lapic| lapic.x2apic_read(msr))
    }

    /// WRMSR of 800h to 8FFh.
    pub fn x2apic_write(&self, cpu: usize, msr: u32, value: u64) -> Result<(), Gp> {
        let effect = self.with_lapic(cpu, |lapic| lapic.x2apic_write(msr, value))?;
        self.carry_out(cpu, effect);
        Ok(())
    }

    /// IA32_TSC_DEADLINE, in the guest's own TSC.
    pub fn tsc_deadline(&self, cpu: usize) -> u64 {
        self.with_lapic(cpu, Lapic::tsc_deadline)
    }

    /// Writes IA32_TSC_DEADLINE. The guest's TSC is the clock's plus `tsc_offset`, wrapping.
    pub fn set_tsc_deadline(&self, cpu: usize, deadline: u64, tsc_offset: u64) {
        self.with_lapic(cpu, |lapic| lapic.set_tsc_deadline(deadline, tsc_offset));
    }

    /// The guest wrote its TSC: an armed deadline means another moment now.
    pub fn tsc_offset_changed(&self, cpu: usize, tsc_offset: u64) {
        self.with_lapic(cpu, |lapic| lapic.tsc_offset_changed(tsc_offset));
    }

    /// Reads the CPU's own register page, at `offset` from the address in IA32_APIC_BASE. All ones unless the APIC is
    /// in xAPIC mode.
    pub fn mmio_read(&self, cpu: usize, offset: u64, data: &mut [u8]) {
        self.with_lapic(cpu, |lapic| lapic.mmio_read(offset, data));
    }

    /// Writes the CPU's own register page.
    pub fn mmio_write(&self, cpu: usize, offset: u64, data: &[u8]) {
        let effect = self.with_lapic(cpu, |lapic| lapic.mmio_write(offset, data));
        self.carry_out(cpu, effect);
    }

    /// Drives the NMI wire, LINT1 of every CPU.
    pub fn set_nmi_line(&self, level: bool) {
        for cpu in 0..self.cpus() {
            self.with_lapic(cpu, |lapic| lapic.set_lint(LintPin::Lint1, level));
        }
    }

    // Local APICs elsewhere.

    /// Interrupt messages go elsewhere from here on, and the local APICs' state follows by [`Interrupts::take_lapic_page`]. The
    /// machine is paused.
    pub fn give_away(&self, to: Arc<dyn LocalApics>) {
        let pic = self.pic.lock();
        to.set_intr(pic.intr);
        let ioapic = self.ioapic.lock();
        to.tell_ends(&ioapic.level_messages().map(|message| message.map(Message::to_msi)));
        *self.away.write() = Some(to);
        self.is_away.store(true, Ordering::Release);
        drop(ioapic);
        drop(pic);
        // From here on nobody says when an interrupt is taken.
        self.tell_listener();
    }

    /// Interrupt messages come here again. The local APICs have their state by [`Interrupts::set_lapic_page`]; the machine is
    /// paused.
    pub fn take_back(&self) {
        let pic = self.pic.lock();
        *self.away.write() = None;
        self.is_away.store(false, Ordering::Release);
        // It may have moved since the local APIC has its state.
        self.with_lapic(INTR_CPU, |lapic| lapic.set_lint(LintPin::Lint0, pic.intr));
    }

    /// A local APIC's registers, as its page shows them. It rests from here on: its timer and interrupts are another's.
    pub fn take_lapic_page(&self, cpu: usize) -> LapicPage {
        self.with_lapic(cpu, |lapic| {
            let page = lapic.page();
            lapic.rest();
            page
        })
    }

    /// Sets a local APIC as its page was elsewhere; the CPU is told if it has an interrupt to take.
    pub fn set_lapic_page(&self, cpu: usize, page: &LapicPage) {
        self.cpus[cpu].pending.store(false, Ordering::Relaxed);
        let intr = self.pic.lock().intr;
        self.with_lapic(cpu, |lapic| {
            lapic.set_page(page);
            if cpu == INTR_CPU {
                lapic.set_lint(LintPin::Lint0, intr);
            }
        });
    }

    /// A CPU has ended a level-triggered interrupt, where the local APICs are elsewhere.
    pub fn end_of_interrupt(&self, vector: u8) {
        self.ioapic.lock().end_of_interrupt(vector, &mut |message| self.deliver(message));
    }

    /// Interrupt acknowledge of the 8259 pair, for local APICs elsewhere; `None` if it wants nothing.
    pub fn acknowledge_8259(&self) -> Option<u8> {
        let mut pic = self.pic.lock();
        pic.intr.then(|| self.acknowledge_pic(&mut pic))
    }

    fn acknowledge_pic(&self, pic: &mut PicWiring) -> u8 {
        let vector = pic.pair.acknowledge();
        // INTR falls with the acknowledge, and rises again for the next request.
        self.drive_intr_to(pic, false);
        self.drive_intr(pic);
        vector
    }

    // Timers.

    /// When the CPU's timer is due, in guest nanoseconds.
    pub fn deadline_of(&self, cpu: usize) -> Option<u64> {
        Some(self.cpus[cpu].deadline.load(Ordering::Acquire)).filter(|deadline| *deadline != NEVER)
    }

    /// When the first of all CPUs' timers is due, in guest nanoseconds.
    pub fn deadline(&self) -> Option<u64> {
        (0..self.cpus()).filter_map(|cpu| self.deadline_of(cpu)).min()
    }

    /// Lets the CPU's timer act if it is due.
    pub fn expire_of(&self, cpu: usize, now: u64) {
        if self.deadline_of(cpu).is_some_and(|deadline| deadline <= now) {
            self.with_lapic(cpu, |lapic| lapic.expire(now));
        }
    }

    /// Lets every CPU's timer act that is due.
    pub fn expire(&self, now: u64) {
        for cpu in 0..self.cpus() {
            self.expire_of(cpu, now);
        }
    }

    // Messages.

    /// Works on a CPU's local APIC, then brings what is known of it without the lock up to date and tells those whom
    /// it concerns.
    fn with_lapic<R>(&self, index: usize, work: impl FnOnce(&mut Lapic) -> R) -> R {
        let cpu = &self.cpus[index];
        let mut lapic = cpu.lapic.lock();
        let result = work(&mut lapic);
        let events = lapic.take_events();
        let pending = lapic.has_interrupt();
        let interrupt = pending && !cpu.pending.load(Ordering::Relaxed);
        cpu.pending.store(pending, Ordering::Release);
        let deadline = lapic.deadline().unwrap_or(NEVER);
        let earlier = deadline < cpu.deadline.load(Ordering::Relaxed);
        cpu.deadline.store(deadline, Ordering::Release);
        cpu.apic_base.store(lapic.apic_base(), Ordering::Release);
        drop(lapic);

        if interrupt {
            self.wake.wake(index, CpuEvent::Interrupt);
        }
        for event in events {
            self.wake.wake(index, event);
        }
        if earlier && let Some(alarm) = self.alarm.get() {
            alarm.ring(deadline);
        }
        result
    }

    fn carry_out(&self, sender: usize, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Eoi(vector) => {
                self.ioapic.lock().end_of_interrupt(vector, &mut |message| self.deliver(message));
            }
            Effect::Send(ipi) => self.send_ipi(sender, ipi),
            Effect::Enabled => self.ioapic.lock().send_again(&mut |message| self.deliver(message)),
        }
    }

    fn send_ipi(&self, sender: usize, ipi: Ipi) {
        let Ipi { shorthand, message } = ipi;
        let resets = matches!(message.mode, DeliveryMode::Init | DeliveryMode::Startup);
        match shorthand {
            Shorthand::None => {
                self.deliver(message);
            }
            // INIT and start-up cannot be sent to oneself in these ways.
            Shorthand::Myself if resets => {}
            Shorthand::Myself => {
                self.deliver_to(sender, message);
            }
            Shorthand::All | Shorthand::Others => {
                let all = shorthand == Shorthand::All && !resets;
                self.deliver_among(Message { destination: Destination::Broadcast, ..message }, |cpu| {
                    all || cpu != sender
                });
            }
        }
    }

    /// Delivers a message to those whom it addresses; whether anyone accepted it.
    fn deliver(&self, message: Message) -> bool {
        // Held until it is delivered: local APICs that go away go with it.
        let away = self.away.read();
        if let Some(away) = &*away {
            let (address, data) = message.to_msi();
            return away.send(address, data);
        }
        match message.destination {
            // The common case: an APIC ID is its CPU's number.
            Destination::Physical(id) => usize::try_from(id).is_ok_and(|cpu| {
                cpu < self.cpus()
                    && self.is_addressed(cpu, message.destination)
                    && self.deliver_to(cpu, message)
            }),
            _ => self.deliver_among(message, |_| true),
        }
    }

    fn deliver_among(&self, message: Message, eligible: impl Fn(usize) -> bool) -> bool {
        let addressed =
            (0..self.cpus()).filter(|cpu| eligible(*cpu) && self.is_addressed(*cpu, message.destination));
        if message.mode == DeliveryMode::LowestPriority {
            return self.lowest_priority(addressed).is_some_and(|cpu| self.deliver_to(cpu, message));
        }
        // Not `any`: everyone addressed gets it.
        addressed.filter(|cpu| self.deliver_to(*cpu, message)).count() > 0
    }

    fn is_addressed(&self, cpu: usize, destination: Destination) -> bool {
        self.cpus[cpu].lapic.lock().matches(destination)
    }

    fn deliver_to(&self, cpu: usize, message: Message) -> bool {
        self.with_lapic(cpu, |lapic| lapic.deliver(message.mode, message.vector, message.level))
    }

    /// The CPU of lowest processor priority; among equals they take turns.
    fn lowest_priority(&self, addressed: impl Iterator<Item = usize>) -> Option<usize> {
        let turn = self.turn.load(Ordering::Relaxed);
        let distance = |cpu: usize| (cpu + self.cpus() - turn % self.cpus()) % self.cpus();
        let chosen = addressed
            .filter_map(|cpu| {
                let lapic = self.cpus[cpu].lapic.lock();
                lapic.arbitrates().then(|| (lapic.ppr() >> 4, distance(cpu), cpu))
            })
            .min()?;
        self.turn.store(chosen.2 + 1, Ordering::Relaxed);
        Some(chosen.2)
    }

    // The 8259 pair.

    fn drive_intr(&self, pic: &mut PicWiring) {
        let level = pic.pair.intr();
        self.drive_intr_to(pic, level);
    }

    fn drive_intr_to(&self, pic: &mut PicWiring, level: bool) {
        if pic.intr != level {
            pic.intr = level;
            self.set_ioapic_pin(IOAPIC_PIN_OF_INTR, level);
            if let Some(away) = &*self.away.read() {
                away.set_intr(level);
                return;
            }
            self.with_lapic(INTR_CPU, |lapic| lapic.set_lint(LintPin::Lint0, level));
        }
    }

    /// Whether the request of an ISA interrupt waits in the 8259 pair; `None` if it would not come through.
    fn hearing_by_pic(&self, gsi: u32) -> Option<bool> {
        let irq = u8::try_from(gsi).ok().filter(|_| gsi < ISA_IRQS)?;
        let requested = self.pic.lock().pair.is_requested(irq)?;
        self.cpus[INTR_CPU].lapic.lock().passes_lint0().then_some(requested)
    }

    /// Whether the interrupt of an I/O APIC pin waits in a local APIC; `None` if it would not come through.
    fn hearing_by_ioapic(&self, pin: usize) -> Option<bool> {
        let message = self.ioapic.lock().edge_message(pin)?;
        if !matches!(message.mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority) {
            return None;
        }
        let waits = |cpu: &Cpu| {
            let lapic = cpu.lapic.lock();
            lapic.matches(message.destination) && lapic.is_requested(message.vector)
        };
        Some(self.cpus.iter().any(waits))
    }

    fn set_ioapic_pin(&self, pin: usize, level: bool) {
        self.ioapic.lock().set_pin(pin, level, &mut |message| self.deliver(message));
    }

    /// One of the 8259 pair's register blocks, two ports wide, for the bus.
    pub fn pic_ports(self: &Arc<Self>, block: PicBlock) -> PicPorts {
        PicPorts { interrupts: self.clone(), block }
    }

    /// The I/O APIC's register window, for the bus.
    pub fn ioapic_window(self: &Arc<Self>) -> IoApicWindow {
        IoApicWindow(self.clone())
    }

    /// A store to the I/O APIC's registers while the local APICs are elsewhere: there it is known which ends to tell of.
    #[cold]
    fn write_ioapic_from_afar(&self, offset: u64, data: &[u8]) {
        let mut ioapic = self.ioapic.lock();
        let away = self.away.read().clone();
        let before = ioapic.level_messages();
        ioapic.write(offset, data, &mut |message| self.deliver(message));
        let after = ioapic.level_messages();
        if let Some(away) = away.filter(|_| before != after) {
            away.tell_ends(&after.map(|message| message.map(Message::to_msi)));
        }
    }

    // State.

    /// What a snapshot keeps. The machine is paused.
    pub fn save(&self) -> InterruptsState {
        InterruptsState {
            pic: self.pic.lock().pair.clone(),
            ioapic: self.ioapic.lock().clone(),
            lapics: self.cpus.iter().map(|cpu| cpu.lapic.lock().save()).collect(),
        }
    }

    /// Takes over a snapshot's state; CPUs that have an interrupt to take are told. The clock has been loaded before.
    pub fn load(&self, state: InterruptsState) -> Result<(), LoadError> {
        let (saved, here) = (state.lapics.len(), self.cpus());
        if saved != here {
            return Err(LoadError::CpuCount { saved, here });
        }
        let mut pic = self.pic.lock();
        pic.intr = state.pic.intr();
        pic.pair = state.pic;
        *self.ioapic.lock() = state.ioapic;
        for (index, lapic) in state.lapics.into_iter().enumerate() {
            // Lest a request that was pending before hides that there is one now.
            self.cpus[index].pending.store(false, Ordering::Relaxed);
            self.with_lapic(index, |here| here.load(lapic));
        }
        Ok(())
    }
}

impl IrqSink for Interrupts {
    /// Global system interrupt n is pin n of the I/O APIC; the first 16 are the ISA interrupts and reach the 8259 pair
    /// too. ISA interrupt 0 sits on pin 2; ISA interrupt 2 does not exist.
    fn set_line(&self, gsi: u32, level: bool) {
        if gsi < ISA_IRQS {
            if gsi == ISA_CASCADE {
                return;
            }
            let mut pic = self.pic.lock();
            pic.pair.set_line(gsi as u8, level);
            self.drive_intr(&mut pic);
        }
        let pin = if gsi == 0 { IOAPIC_PIN_OF_IRQ0 } else { gsi as usize };
        if pin < IOAPIC_PINS {
            self.set_ioapic_pin(pin, level);
        }
    }

    fn hearing(&self, gsi: u32) -> Hearing {
        if self.away.read().is_some() {
            // Nobody says when an interrupt is taken there.
            return Hearing::Ready;
        }
        self.awaited.store(true, Ordering::Release);
        let by_pic = self.hearing_by_pic(gsi);
        let by_ioapic = self.hearing_by_ioapic(if gsi == 0 { IOAPIC_PIN_OF_IRQ0 } else { gsi as usize });
        if by_pic == Some(true) || by_ioapic == Some(true) {
            return Hearing::Waiting;
        }
        self.awaited.store(false, Ordering::Relaxed);
        if by_pic.or(by_ioapic).is_none() { Hearing::Deaf } else { Hearing::Ready }
    }
}

impl MsiSink for Interrupts {
    fn send(&self, address: u64, data: u32) {
        match Message::from_msi(address, data) {
            Some(message) => {
                self.deliver(message);
            }
            None => log::trace!("MSI of {data:#x} to {address:#x} is no interrupt message"),
        }
    }
}

/// Two ports of the 8259 pair.
pub struct PicPorts {
    interrupts: Arc<Interrupts>,
    block: PicBlock,
}

impl Device for PicPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut pic = self.interrupts.pic.lock();
        for (index, byte) in (0..).zip(data) {
            let address = offset.wrapping_add(index);
            *byte = if address < 2 { pic.pair.read(self.block, address as u8) } else { 0xff };
        }
        // A poll acknowledges.
        self.interrupts.drive_intr(&mut pic);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut pic = self.interrupts.pic.lock();
        for (address, byte) in (offset..2).zip(data) {
            pic.pair.write(self.block, address as u8, *byte);
        }
        self.interrupts.drive_intr(&mut pic);
    }
}

/// The I/O APIC's registers in memory.
pub struct IoApicWindow(Arc<Interrupts>);

impl Device for IoApicWindow {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.0.ioapic.lock().read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if self.0.is_away.load(Ordering::Acquire) {
            return self.0.write_ioapic_from_afar(offset, data);
        }
        self.0.ioapic.lock().write(offset, data, &mut |message| self.0.deliver(message));
    }
}

#[cfg(test)]
mod tests;
