//! The local APIC of one CPU, in xAPIC and x2APIC mode. SDM 3A "Advanced Programmable Interrupt Controller (APIC)".
//!
//! A pure chip: what it sends to others is returned as an [`Effect`], and the fabric in `interrupts` carries it out.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::apic_bus::{CpuEvent, DeliveryMode, Destination, Ipi, Message, Shorthand};
use crate::clock::{Clock, Timed};

mod registers;
mod timer;

use registers::{FIRST_LEGAL_VECTOR, Lvt, Reg, VERSION, esr, icr, svr};
pub use registers::{X2APIC_MSR_BASE, apic_base};
pub use timer::APIC_TIMER_HZ;
use timer::{Timer, TimerMode};

/// The guest did what the manual answers with a general-protection fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gp;

/// One of IRR, ISR and TMR: a bit for each vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Vectors([u32; 8]);

impl Vectors {
    fn set(&mut self, vector: u8, value: bool) {
        let (word, bit) = (usize::from(vector / 32), 1 << (vector % 32));
        if value {
            self.0[word] |= bit;
        } else {
            self.0[word] &= !bit;
        }
    }

    fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector / 32)] >> (vector % 32) & 1 != 0
    }

    fn highest(&self) -> Option<u8> {
        let (index, word) = self.0.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
        Some((index as u32 * 32 + word.ilog2()) as u8)
    }

    fn word(&self, index: usize) -> u32 {
        self.0.get(index).copied().unwrap_or(0)
    }
}

/// What others must do after an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Effect {
    None,
    /// Tell the I/O APIC that this vector's level-triggered interrupt has ended.
    Eoi(u8),
    /// Send this.
    Send(Ipi),
    /// It accepts interrupts from now on: send again what it did not.
    Enabled,
}

/// Where an acknowledged interrupt's vector comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledged {
    /// Ask the 8259 pair.
    ExtInt,
    Vector(u8),
}

/// Mode by EN and EXTD of IA32_APIC_BASE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Disabled,
    XApic,
    X2Apic,
}

impl Mode {
    fn of(base: u64) -> Option<Mode> {
        match (base & apic_base::EN != 0, base & apic_base::EXTD != 0) {
            (false, false) => Some(Mode::Disabled),
            (true, false) => Some(Mode::XApic),
            (true, true) => Some(Mode::X2Apic),
            (false, true) => None,
        }
    }
}

/// What a snapshot keeps of a local APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LapicState {
    apic_base: u64,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    /// As software reads it.
    esr: u32,
    /// What has happened since software last wrote the ESR.
    errors: u32,
    icr: u64,
    lvt: [u32; Lvt::COUNT],
    timer: Timer,
    /// Levels of the two interrupt pins.
    lint: [bool; 2],
    /// An ExtINT message has arrived and waits for its acknowledge.
    extint: bool,
}

impl LapicState {
    fn reset(apic_base: u64, lint: [bool; 2]) -> LapicState {
        LapicState {
            apic_base,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: svr::RESET,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [Lvt::MASKED; Lvt::COUNT],
            timer: Timer::new(),
            lint,
            extint: false,
        }
    }
}

/// A local APIC as software sees it, for those who keep it elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LapicPage {
    /// The registers at the places of the xAPIC page, 16 bytes each; in x2APIC mode the ID has 32 bits.
    pub registers: [u32; LapicPage::COUNT],
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// IA32_TSC_DEADLINE, in the clock's TSC; 0 is disarmed.
    pub tsc_deadline: u64,
}

impl LapicPage {
    /// Registers in the page.
    pub const COUNT: usize = 64;
}

/// The local APIC of one CPU.
pub(crate) struct Lapic {
    id: u32,
    clock: Arc<Clock>,
    state: LapicState,
    /// What happened to the CPU other than interrupts, until [`take_events`](Lapic::take_events).
    events: Vec<CpuEvent>,
}

impl Lapic {
    /// The local APIC with this ID after power-on; ID 0 is the bootstrap processor's.
    pub(crate) fn new(id: u32, clock: Arc<Clock>) -> Lapic {
        let base = apic_base::DEFAULT_ADDRESS | apic_base::EN | if id == 0 { apic_base::BSP } else { 0 };
        Lapic { id, clock, state: LapicState::reset(base, [false; 2]), events: Vec::new() }
    }

    /// RESET: everything as after power-on; the pins keep their levels.
    pub(crate) fn reset(&mut self) {
        let lint = self.state.lint;
        *self = Lapic::new(self.id, self.clock.clone());
        self.state.lint = lint;
    }

    /// INIT: as RESET, but IA32_APIC_BASE, and with it mode and ID, stay. SDM 3A "Local APIC State After It Receives
    /// an INIT Reset (Wait-for-SIPI State)".
    fn init(&mut self) {
        self.state = LapicState::reset(self.state.apic_base, self.state.lint);
    }

    pub(crate) fn save(&self) -> LapicState {
        self.state.clone()
    }

    pub(crate) fn load(&mut self, state: LapicState) {
        self.state = state;
    }

    /// All of it that software sees. What it has not yet told the ESR of, and an ExtINT message on its way, are not in it.
    pub(crate) fn page(&mut self) -> LapicPage {
        // What a timer that is due asks for belongs to the page; so all of it is of one moment.
        let now = self.clock.now();
        self.expire(now);
        let mode = self.timer_mode();
        let mut registers = [0; LapicPage::COUNT];
        for (number, value) in (0..).zip(&mut registers) {
            *value = match Reg::from_number(number) {
                Some(Reg::CurrentCount) => self.state.timer.current_count(mode, now),
                Some(reg) => self.read(reg),
                None => 0,
            };
        }
        let tsc_deadline = if mode == TimerMode::TscDeadline { self.state.timer.tsc_deadline() } else { 0 };
        LapicPage { registers, apic_base: self.state.apic_base, tsc_deadline }
    }

    /// Becomes what a page says; the pins keep their levels.
    pub(crate) fn set_page(&mut self, page: &LapicPage) {
        let now = self.clock.now();
        self.state = LapicState::reset(page.apic_base, self.state.lint);
        let state = &mut self.state;
        for (number, &value) in (0..).zip(&page.registers) {
            match Reg::from_number(number) {
                Some(Reg::Tpr) => state.tpr = value as u8,
                Some(Reg::Ldr) if Mode::of(page.apic_base) == Some(Mode::XApic) => state.ldr = value,
                Some(Reg::Dfr) => state.dfr = value | 0x0fff_ffff,
                Some(Reg::Svr) => state.svr = value & svr::WRITABLE,
                Some(Reg::Isr(index)) => state.isr.0[index] = value,
                Some(Reg::Tmr(index)) => state.tmr.0[index] = value,
                Some(Reg::Irr(index)) => state.irr.0[index] = value,
                Some(Reg::Esr) => state.esr = value,
                Some(Reg::IcrLow) => state.icr |= u64::from(value) & !icr::DELIVERY_STATUS,
                Some(Reg::IcrHigh) => state.icr |= u64::from(value) << 32,
                Some(Reg::Lvt(entry)) => {
                    state.lvt[entry as usize] = value & (entry.writable() | Lvt::REMOTE_IRR);
                }
                Some(Reg::DivideConfiguration) => state.timer.set_divide(value, now),
                _ => {}
            }
        }
        let mode = self.timer_mode();
        let register = |reg| (0..).zip(&page.registers).find(|(n, _)| Reg::from_number(*n) == Some(reg));
        let count = |reg| register(reg).map_or(0, |(_, &value)| value);
        let (initial, current) = (count(Reg::InitialCount), count(Reg::CurrentCount));
        self.state.timer.set_counts(initial, current, mode, now);
        self.set_tsc_deadline(page.tsc_deadline, 0);
    }

    /// It is elsewhere from now on: nothing waits here, and no timer runs.
    pub(crate) fn rest(&mut self) {
        self.state = LapicState::reset(self.state.apic_base, self.state.lint);
        // An enabled APIC does not pass its pin through.
        self.state.svr |= svr::ENABLE;
        self.events.clear();
    }

    pub(crate) fn take_events(&mut self) -> Vec<CpuEvent> {
        std::mem::take(&mut self.events)
    }

    // Mode.

    fn mode(&self) -> Mode {
        Mode::of(self.state.apic_base).unwrap_or(Mode::Disabled)
    }

    fn software_enabled(&self) -> bool {
        self.mode() != Mode::Disabled && self.state.svr & svr::ENABLE != 0
    }

    pub(crate) fn apic_base(&self) -> u64 {
        self.state.apic_base
    }

    /// SDM 3A "x2APIC State Transitions": from disabled only to xAPIC, from x2APIC only to disabled.
    pub(crate) fn set_apic_base(&mut self, value: u64) -> Result<(), Gp> {
        if value & !(apic_base::ADDRESS | apic_base::EN | apic_base::EXTD | apic_base::BSP) != 0 {
            return Err(Gp);
        }
        match (self.mode(), Mode::of(value).ok_or(Gp)?) {
            (Mode::Disabled, Mode::X2Apic) | (Mode::X2Apic, Mode::XApic) => return Err(Gp),
            // Enabled again, it is as after power-on.
            (Mode::XApic | Mode::X2Apic, Mode::Disabled) => self.init(),
            _ => {}
        }
        self.state.apic_base = value;
        Ok(())
    }

    /// What firmware leaves behind on the bootstrap processor for operating systems that know only the 8259 pair:
    /// the APIC enabled, LINT0 passing the pair's interrupt through, LINT1 the NMI. MultiProcessor Specification
    /// "Virtual Wire Mode".
    pub(crate) fn enter_virtual_wire_mode(&mut self) {
        const MODE_NMI: u32 = 0b100 << 8;
        const MODE_EXTINT: u32 = 0b111 << 8;
        self.state.svr = svr::RESET | svr::ENABLE;
        self.state.lvt[Lvt::Lint0 as usize] = MODE_EXTINT;
        self.state.lvt[Lvt::Lint1 as usize] = MODE_NMI;
    }

    // Priorities and the CPU's side.

    pub(crate) fn tpr(&self) -> u8 {
        self.state.tpr
    }

    pub(crate) fn set_tpr(&mut self, tpr: u8) {
        self.state.tpr = tpr;
    }

    /// SDM 3A "Processor Priority Register (PPR)".
    pub(crate) fn ppr(&self) -> u8 {
        let in_service = class(self.state.isr.highest());
        if class(Some(self.state.tpr)) >= in_service { self.state.tpr } else { in_service << 4 }
    }

    /// SDM 3A "Arbitration Priority Register (APR)".
    fn apr(&self) -> u8 {
        let (task, service, request) =
            (class(Some(self.state.tpr)), class(self.state.isr.highest()), class(self.state.irr.highest()));
        if task >= request && task > service { self.state.tpr } else { task.max(service).max(request) << 4 }
    }

    /// The vector that the CPU would get now.
    fn deliverable(&self) -> Option<u8> {
        if self.mode() == Mode::Disabled {
            return None;
        }
        self.state.irr.highest().filter(|vector| class(Some(*vector)) > class(Some(self.ppr())))
    }

    /// Whether the 8259 pair's interrupt reaches the CPU now: by LINT0, which is a plain wire while the APIC is
    /// disabled, or by a message from the I/O APIC.
    fn extint_pending(&self) -> bool {
        self.state.extint || (self.passes_lint0() && self.state.lint[0])
    }

    /// Whether LINT0 leads through to the CPU, for the 8259 pair.
    pub(crate) fn passes_lint0(&self) -> bool {
        let lvt = self.lvt(Lvt::Lint0);
        let mode = DeliveryMode::from_bits(lvt >> 8);
        !self.software_enabled() || (lvt & Lvt::MASKED == 0 && mode == Some(DeliveryMode::ExtInt))
    }

    /// Whether an interrupt waits for its acknowledge.
    pub(crate) fn is_requested(&self, vector: u8) -> bool {
        self.state.irr.contains(vector)
    }

    pub(crate) fn has_interrupt(&self) -> bool {
        self.extint_pending() || self.deliverable().is_some()
    }

    /// Interrupt acknowledge: the highest request is now in service.
    pub(crate) fn acknowledge(&mut self) -> Option<Acknowledged> {
        if self.extint_pending() {
            self.state.extint = false;
            return Some(Acknowledged::ExtInt);
        }
        let vector = self.deliverable()?;
        self.state.irr.set(vector, false);
        self.state.isr.set(vector, true);
        Some(Acknowledged::Vector(vector))
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.state.isr.highest() else { return Effect::None };
        self.state.isr.set(vector, false);
        if !self.state.tmr.contains(vector) {
            return Effect::None;
        }
        for (pin, entry) in [Lvt::Lint0, Lvt::Lint1].into_iter().enumerate() {
            if self.lvt(entry) as u8 == vector && self.lvt(entry) & Lvt::REMOTE_IRR != 0 {
                self.state.lvt[entry as usize] &= !Lvt::REMOTE_IRR;
                self.drive_lint_level(entry, self.state.lint[pin]);
            }
        }
        if self.state.svr & svr::SUPPRESS_EOI_BROADCAST != 0 { Effect::None } else { Effect::Eoi(vector) }
    }

    // Messages that arrive.

    /// Whether a message is for this APIC.
    pub(crate) fn matches(&self, destination: Destination) -> bool {
        let mode = self.mode();
        match destination {
            _ if mode == Mode::Disabled => false,
            Destination::Broadcast => true,
            Destination::Physical(id) => id == self.id,
            Destination::LogicalByte(address) if mode == Mode::XApic => self.matches_flat_or_cluster(address),
            Destination::LogicalByte(address) => self.matches_wide(address.into()),
            Destination::LogicalWide(address) if mode == Mode::X2Apic => self.matches_wide(address),
            Destination::LogicalWide(address) => {
                u8::try_from(address).is_ok_and(|address| self.matches_flat_or_cluster(address))
            }
        }
    }

    /// SDM 3A "Logical Destination Mode".
    fn matches_flat_or_cluster(&self, address: u8) -> bool {
        const FLAT: u32 = 0xf;
        const CLUSTER: u32 = 0x0;
        let logical_id = (self.state.ldr >> 24) as u8;
        match self.state.dfr >> 28 {
            FLAT => logical_id & address != 0,
            CLUSTER => {
                let cluster = address >> 4;
                (cluster == 0xf || cluster == logical_id >> 4) && logical_id & address & 0xf != 0
            }
            _ => false,
        }
    }

    fn matches_wide(&self, address: u32) -> bool {
        let logical_id = self.x2apic_logical_id();
        logical_id >> 16 == address >> 16 && logical_id & address & 0xffff != 0
    }

    fn x2apic_logical_id(&self) -> u32 {
        (self.id & !0xf) << 12 | 1 << (self.id & 0xf)
    }

    /// Whether it takes part in the choice of a lowest-priority message.
    pub(crate) fn arbitrates(&self) -> bool {
        self.software_enabled()
    }

    /// Takes a message that [`matches`](Lapic::matches); whether it was accepted.
    pub(crate) fn deliver(&mut self, mode: DeliveryMode, vector: u8, level: bool) -> bool {
        match mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => return self.accept(vector, level),
            DeliveryMode::ExtInt => self.state.extint = true,
            DeliveryMode::Smi => self.events.push(CpuEvent::Smi),
            DeliveryMode::Nmi => self.events.push(CpuEvent::Nmi),
            DeliveryMode::Startup => self.events.push(CpuEvent::Startup(vector)),
            DeliveryMode::Init => {
                self.init();
                self.events.push(CpuEvent::Init);
            }
        }
        true
    }

    fn accept(&mut self, vector: u8, level: bool) -> bool {
        if !self.software_enabled() {
            return false;
        }
        if vector < FIRST_LEGAL_VECTOR {
            self.error(esr::RECEIVED_ILLEGAL_VECTOR);
            return false;
        }
        self.state.irr.set(vector, true);
        self.state.tmr.set(vector, level);
        true
    }

    // Local interrupts.

    fn lvt(&self, entry: Lvt) -> u32 {
        self.state.lvt[entry as usize]
    }

    /// Drives one of the two interrupt pins.
    pub(crate) fn set_lint(&mut self, pin: LintPin, level: bool) {
        let (index, entry) = match pin {
            LintPin::Lint0 => (0, Lvt::Lint0),
            LintPin::Lint1 => (1, Lvt::Lint1),
        };
        let rose = level && !self.state.lint[index];
        self.state.lint[index] = level;
        if self.mode() == Mode::Disabled {
            // The pins are the CPU's INTR, which `extint_pending` sees, and NMI.
            if rose && entry == Lvt::Lint1 {
                self.events.push(CpuEvent::Nmi);
            }
        } else if self.is_level_triggered(entry) {
            self.drive_lint_level(entry, level);
        } else if rose {
            self.raise_local(entry, false);
        }
    }

    /// The trigger mode bit counts for fixed delivery only; NMI, SMI and INIT are edges, ExtINT is a level.
    fn is_level_triggered(&self, entry: Lvt) -> bool {
        let lvt = self.lvt(entry);
        lvt & Lvt::LEVEL != 0 && DeliveryMode::from_bits(lvt >> 8) == Some(DeliveryMode::Fixed)
    }

    fn drive_lint_level(&mut self, entry: Lvt, level: bool) {
        if level && self.lvt(entry) & Lvt::REMOTE_IRR == 0 && self.raise_local(entry, true) {
            self.state.lvt[entry as usize] |= Lvt::REMOTE_IRR;
        }
    }

    fn raise_local(&mut self, entry: Lvt, level: bool) -> bool {
        let lvt = self.lvt(entry);
        if lvt & Lvt::MASKED != 0 {
            return false;
        }
        match (entry, DeliveryMode::from_bits(lvt >> 8)) {
            (Lvt::Timer | Lvt::Error, _) => self.accept(lvt as u8, false),
            // As a level: `extint_pending` looks at the pin itself.
            (_, Some(DeliveryMode::ExtInt)) => true,
            (_, Some(DeliveryMode::Startup | DeliveryMode::LowestPriority) | None) => false,
            (_, Some(mode)) => self.deliver(mode, lvt as u8, level),
        }
    }

    /// Notes an error for the ESR; the first of its kind raises the error interrupt.
    fn error(&mut self, error: u32) {
        let new = self.state.errors & error == 0;
        self.state.errors |= error;
        // An illegal vector in the error entry itself must not lead back here.
        if new && self.lvt(Lvt::Error) as u8 >= FIRST_LEGAL_VECTOR {
            self.raise_local(Lvt::Error, false);
        }
    }

    fn timer_mode(&self) -> TimerMode {
        TimerMode::from_bits(self.lvt(Lvt::Timer) >> Lvt::TIMER_MODE_SHIFT)
    }

    /// IA32_TSC_DEADLINE: reads 0 outside TSC-deadline mode.
    pub(crate) fn tsc_deadline(&mut self) -> u64 {
        self.expire(self.clock.now());
        if self.timer_mode() == TimerMode::TscDeadline { self.state.timer.tsc_deadline() } else { 0 }
    }

    /// IA32_TSC_DEADLINE: writes are ignored outside TSC-deadline mode.
    pub(crate) fn set_tsc_deadline(&mut self, deadline: u64, tsc_offset: u64) {
        if self.timer_mode() == TimerMode::TscDeadline {
            self.state.timer.set_tsc_deadline(deadline, tsc_offset, &self.clock);
            self.expire(self.clock.now());
        }
    }

    /// The guest's TSC now has another offset from the clock's: an armed deadline moves with it.
    pub(crate) fn tsc_offset_changed(&mut self, tsc_offset: u64) {
        let deadline = self.state.timer.tsc_deadline();
        if deadline != 0 {
            self.set_tsc_deadline(deadline, tsc_offset);
        }
    }

    // Registers.

    /// Reads a register of the xAPIC page; offsets within its 16 bytes beyond the first 4 read zero.
    pub(crate) fn mmio_read(&mut self, offset: u64, data: &mut [u8]) {
        if self.mode() != Mode::XApic {
            data.fill(0xff);
            return;
        }
        data.fill(0);
        let value = match Reg::from_number((offset >> 4) as u32) {
            Some(reg) if reg != Reg::SelfIpi => self.read(reg),
            _ => {
                self.error(esr::ILLEGAL_REGISTER);
                return;
            }
        };
        let skip = (offset & 0xf) as usize;
        for (byte, source) in data.iter_mut().zip(value.to_le_bytes().into_iter().skip(skip)) {
            *byte = source;
        }
    }

    /// Writes a register of the xAPIC page. Only aligned accesses of at least 32 bits reach it.
    pub(crate) fn mmio_write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let Some(bytes) = data.first_chunk::<4>() else { return Effect::None };
        if self.mode() != Mode::XApic || offset & 0xf != 0 {
            return Effect::None;
        }
        let value = u32::from_le_bytes(*bytes);
        match Reg::from_number((offset >> 4) as u32) {
            Some(Reg::IcrHigh) => {
                let destination = u64::from(value >> 24) << icr::XAPIC_DESTINATION_SHIFT;
                self.state.icr = self.state.icr & 0xffff_ffff | destination;
                Effect::None
            }
            Some(Reg::IcrLow) => {
                self.state.icr = self.state.icr & !0xffff_ffff | u64::from(value) & icr::LOW_WRITABLE;
                self.send()
            }
            Some(Reg::Ldr) => {
                self.state.ldr = value & 0xff00_0000;
                Effect::None
            }
            Some(Reg::Dfr) => {
                self.state.dfr = value | 0x0fff_ffff;
                Effect::None
            }
            Some(reg) if reg != Reg::SelfIpi => self.write(reg, value),
            _ => {
                self.error(esr::ILLEGAL_REGISTER);
                Effect::None
            }
        }
    }

    /// RDMSR of 800h to 8FFh.
    pub(crate) fn x2apic_read(&mut self, msr: u32) -> Result<u64, Gp> {
        match self.x2apic_register(msr)? {
            Reg::Eoi | Reg::SelfIpi => Err(Gp),
            Reg::IcrLow => Ok(self.state.icr),
            reg => Ok(self.read(reg).into()),
        }
    }

    /// WRMSR of 800h to 8FFh.
    pub(crate) fn x2apic_write(&mut self, msr: u32, value: u64) -> Result<Effect, Gp> {
        let reg = self.x2apic_register(msr)?;
        if reg == Reg::IcrLow {
            if value & icr::X2APIC_RESERVED != 0 {
                return Err(Gp);
            }
            self.state.icr = value & !icr::DELIVERY_STATUS;
            return Ok(self.send());
        }
        let value = u32::try_from(value).map_err(|_| Gp)?;
        let allowed = match reg {
            Reg::Tpr | Reg::SelfIpi => 0xff,
            Reg::Eoi | Reg::Esr => 0,
            Reg::Svr => svr::WRITABLE,
            Reg::Lvt(entry) => entry.allowed(),
            Reg::InitialCount => u32::MAX,
            Reg::DivideConfiguration => 0b1011,
            _ => return Err(Gp),
        };
        if value & !allowed != 0 {
            return Err(Gp);
        }
        if reg == Reg::SelfIpi {
            self.send_self(value as u8);
            return Ok(Effect::None);
        }
        Ok(self.write(reg, value))
    }

    /// The register of an MSR, if x2APIC mode has it.
    fn x2apic_register(&self, msr: u32) -> Result<Reg, Gp> {
        if self.mode() != Mode::X2Apic {
            return Err(Gp);
        }
        match msr.checked_sub(X2APIC_MSR_BASE).and_then(Reg::from_number) {
            None | Some(Reg::Apr | Reg::RemoteRead | Reg::Dfr | Reg::IcrHigh) => Err(Gp),
            Some(reg) => Ok(reg),
        }
    }

    fn read(&mut self, reg: Reg) -> u32 {
        let x2apic = self.mode() == Mode::X2Apic;
        match reg {
            Reg::Id => {
                if x2apic {
                    self.id
                } else {
                    self.id << 24
                }
            }
            Reg::Version => VERSION,
            Reg::Tpr => self.state.tpr.into(),
            Reg::Apr => self.apr().into(),
            Reg::Ppr => self.ppr().into(),
            Reg::Eoi | Reg::RemoteRead | Reg::SelfIpi => 0,
            Reg::Ldr => {
                if x2apic {
                    self.x2apic_logical_id()
                } else {
                    self.state.ldr
                }
            }
            Reg::Dfr => self.state.dfr,
            Reg::Svr => self.state.svr,
            Reg::Isr(index) => self.state.isr.word(index),
            Reg::Tmr(index) => self.state.tmr.word(index),
            Reg::Irr(index) => self.state.irr.word(index),
            Reg::Esr => self.state.esr,
            Reg::IcrLow => self.state.icr as u32,
            Reg::IcrHigh => (self.state.icr >> 32) as u32,
            Reg::Lvt(entry) => self.lvt(entry),
            Reg::InitialCount => self.state.timer.initial_count(),
            Reg::CurrentCount => {
                // Lest software sees a count that has begun anew without its interrupt.
                let now = self.clock.now();
                self.expire(now);
                self.state.timer.current_count(self.timer_mode(), now)
            }
            Reg::DivideConfiguration => self.state.timer.divide(),
        }
    }

    fn write(&mut self, reg: Reg, value: u32) -> Effect {
        match reg {
            Reg::Tpr => self.state.tpr = value as u8,
            Reg::Eoi => return self.end_of_interrupt(),
            Reg::Svr => return self.set_svr(value),
            Reg::Esr => {
                self.state.esr = self.state.errors;
                self.state.errors = 0;
            }
            Reg::Lvt(entry) => self.set_lvt(entry, value),
            Reg::InitialCount => {
                self.state.timer.set_initial_count(value, self.timer_mode(), self.clock.now());
            }
            Reg::DivideConfiguration => {
                let now = self.clock.now();
                self.expire(now);
                self.state.timer.set_divide(value, now);
            }
            // Read-only, or written by the callers, whose two modes differ in them.
            _ => {}
        }
        Effect::None
    }

    fn set_svr(&mut self, value: u32) -> Effect {
        let was_enabled = self.software_enabled();
        self.state.svr = value & svr::WRITABLE;
        if !self.software_enabled() {
            // SDM 3A "Local APIC State After It Has Been Software Disabled".
            self.state.lvt.iter_mut().for_each(|lvt| *lvt |= Lvt::MASKED);
            return Effect::None;
        }
        if was_enabled { Effect::None } else { Effect::Enabled }
    }

    fn set_lvt(&mut self, entry: Lvt, value: u32) {
        let now = self.clock.now();
        if entry == Lvt::Timer {
            self.expire(now);
        }
        let timer_mode = self.timer_mode();
        let forced = if self.software_enabled() { 0 } else { Lvt::MASKED };
        let kept = self.lvt(entry) & Lvt::REMOTE_IRR;
        self.state.lvt[entry as usize] = value & entry.writable() | kept | forced;
        match entry {
            Lvt::Timer => self.state.timer.change_mode(timer_mode, self.timer_mode()),
            Lvt::Lint0 | Lvt::Lint1 if self.is_level_triggered(entry) => {
                let pin = usize::from(entry == Lvt::Lint1);
                self.drive_lint_level(entry, self.state.lint[pin]);
            }
            Lvt::Lint0 | Lvt::Lint1 => self.state.lvt[entry as usize] &= !Lvt::REMOTE_IRR,
            _ => {}
        }
    }

    /// Sends what the interrupt command register says.
    fn send(&mut self) -> Effect {
        let icr = self.state.icr;
        let Some(mode) = DeliveryMode::from_bits((icr >> 8) as u32) else { return Effect::None };
        let vector = icr as u8;
        match mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if vector < FIRST_LEGAL_VECTOR => {
                self.error(esr::SEND_ILLEGAL_VECTOR);
                return Effect::None;
            }
            // INIT level de-assert set arbitration IDs on processors of old; now it does nothing.
            DeliveryMode::Init if icr & (icr::ASSERT | icr::LEVEL_TRIGGERED) == icr::LEVEL_TRIGGERED => {
                return Effect::None;
            }
            DeliveryMode::ExtInt => return Effect::None,
            _ => {}
        }
        let logical = icr & icr::LOGICAL != 0;
        let destination = if self.mode() == Mode::X2Apic {
            Destination::from_wide((icr >> icr::X2APIC_DESTINATION_SHIFT) as u32, logical)
        } else {
            Destination::from_byte((icr >> icr::XAPIC_DESTINATION_SHIFT) as u8, logical)
        };
        let shorthand = Shorthand::from_bits((icr >> icr::SHORTHAND_SHIFT) as u32);
        // IPIs are edges whatever the trigger mode bit says.
        Effect::Send(Ipi { shorthand, message: Message { vector, mode, level: false, destination } })
    }

    fn send_self(&mut self, vector: u8) {
        if vector < FIRST_LEGAL_VECTOR {
            self.error(esr::SEND_ILLEGAL_VECTOR);
        } else {
            self.accept(vector, false);
        }
    }
}

impl Timed for Lapic {
    fn deadline(&self) -> Option<u64> {
        self.state.timer.deadline(self.timer_mode())
    }

    fn expire(&mut self, now: u64) {
        let mode = self.timer_mode();
        if self.state.timer.expire(mode, now) {
            self.raise_local(Lvt::Timer, false);
        }
    }
}

/// An interrupt pin of the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LintPin {
    /// The 8259 pair's interrupt.
    Lint0,
    /// The non-maskable interrupt.
    Lint1,
}

/// The priority class of a vector; 0 for none.
fn class(vector: Option<u8>) -> u8 {
    vector.unwrap_or(0) >> 4
}
