//! ACPI fixed hardware, as chapter 4.8 of the ACPI specification defines it and the ICH9 places it: PM1a events and
//! control, the PM timer, the GPE0 block, and the SMI command port through which a guest takes over.

use std::sync::Arc;

use bitflags::bitflags;
use log::debug;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::{ByteDevice, Device, addresses_from};
use crate::clock::{Alarm, Clock, Timed, ns_to_ticks, ticks_to_ns};
use crate::irq::IrqLine;
use crate::power::PowerSink;

/// First port of the power management block.
pub const PM_BASE: u64 = 0x600;
/// Ports that the block occupies.
pub const PM_PORTS: u64 = 0x80;
/// PM1a_EVT_BLK: status and enable, two bytes each.
pub const PM1A_EVENT_PORT: u64 = PM_BASE + Register::Pm1Event as u64;
/// PM1_EVT_LEN.
pub const PM1_EVENT_LEN: u8 = 4;
/// PM1a_CNT_BLK.
pub const PM1A_CONTROL_PORT: u64 = PM_BASE + Register::Pm1Control as u64;
/// PM1_CNT_LEN.
pub const PM1_CONTROL_LEN: u8 = 2;
/// PM_TMR_BLK.
pub const PM_TIMER_PORT: u64 = PM_BASE + Register::Timer as u64;
/// PM_TMR_LEN.
pub const PM_TIMER_LEN: u8 = 4;
/// GPE0_BLK: four bytes of status, four of enable.
pub const GPE0_PORT: u64 = PM_BASE + Register::Gpe0Status as u64;
/// GPE0_BLK_LEN.
pub const GPE0_LEN: u8 = 8;
/// General purpose events that exist.
pub const GPE_COUNT: u32 = 32;

/// First of the two ports of advanced power management; SMI_CMD of the FADT.
pub const SMI_COMMAND_PORT: u64 = 0xb2;
/// Command and status port.
pub const SMI_PORTS: u64 = 2;
/// Written to [`SMI_COMMAND_PORT`], hands the fixed hardware to the guest: ACPI_ENABLE of the FADT.
pub const ACPI_ENABLE: u8 = 0x02;
/// Takes it back: ACPI_DISABLE of the FADT.
pub const ACPI_DISABLE: u8 = 0x03;

/// The system control interrupt: an ISA IRQ and the global system interrupt of the same number, level-triggered,
/// active high (the MADT needs an override that says so).
pub const SCI_IRQ: u32 = 9;
/// SLP_TYP that switches the machine off: first element of the DSDT's `_S5` package.
pub const SLP_TYP_S5: u8 = 0;

/// Frequency of the power management timer in Hz.
pub const PM_TIMER_HZ: u64 = 3_579_545;

/// Registers of the block, by the offset of the double word that holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Register {
    /// PM1_STS in the lower half, PM1_EN in the upper.
    Pm1Event = 0x00,
    Pm1Control = 0x04,
    Timer = 0x08,
    Gpe0Status = 0x20,
    Gpe0Enable = 0x24,
}

impl Register {
    fn at(offset: u64) -> Option<Self> {
        [Self::Pm1Event, Self::Pm1Control, Self::Timer, Self::Gpe0Status, Self::Gpe0Enable]
            .into_iter()
            .find(|&register| register as u64 == offset)
    }
}

bitflags! {
    /// PM1 events: status bits, and the enable bits in the same places.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    struct Pm1Events: u16 {
        /// The timer's highest bit has changed.
        const TIMER = 1 << 0;
        const BUS_MASTER = 1 << 4;
        /// The firmware has released the global lock.
        const GLOBAL = 1 << 5;
        const POWER_BUTTON = 1 << 8;
        const SLEEP_BUTTON = 1 << 9;
        const RTC = 1 << 10;
        const WAKE = 1 << 15;
        const CAN_BE_ENABLED = 0x0721;
    }

    /// PM1_CNT.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    struct Pm1Control: u16 {
        /// Events interrupt the guest rather than the firmware.
        const SCI_EN = 1 << 0;
        const BUS_MASTER_RELOAD = 1 << 1;
        /// Write-only: the guest has released the global lock.
        const GLOBAL_RELEASE = 1 << 2;
        const SLEEP_TYPE = 7 << 10;
        /// Write-only: sleep now.
        const SLEEP_ENABLE = 1 << 13;
    }
}

/// How many bits of the timer count; the FADT's TMR_VAL_EXT tells 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PmTimerWidth {
    /// 24 bits: the highest changes every 2.3 seconds.
    Bits24,
    /// 32 bits: the highest changes every 10 minutes.
    Bits32,
}

impl PmTimerWidth {
    fn bits(self) -> u32 {
        match self {
            Self::Bits24 => 24,
            Self::Bits32 => 32,
        }
    }
}

/// What the fixed hardware remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiPmState {
    status: Pm1Events,
    enable: Pm1Events,
    control: Pm1Control,
    timer_width: PmTimerWidth,
    /// How often the timer's highest bit had changed when that was last put into the status.
    carries_seen: u64,
    gpe_status: u32,
    gpe_enable: u32,
    smi_command: u8,
    smi_status: u8,
}

/// The power management block.
pub struct AcpiPm {
    state: AcpiPmState,
    sci: IrqLine,
    clock: Arc<Clock>,
    alarm: Alarm,
    power: Arc<dyn PowerSink>,
}

impl AcpiPm {
    /// The block after power-on: in legacy mode, until the guest asks for ACPI.
    pub fn new(
        sci: IrqLine,
        clock: Arc<Clock>,
        alarm: Alarm,
        power: Arc<dyn PowerSink>,
        timer_width: PmTimerWidth,
    ) -> Self {
        let state = AcpiPmState {
            status: Pm1Events::empty(),
            enable: Pm1Events::empty(),
            control: Pm1Control::empty(),
            timer_width,
            carries_seen: 0,
            gpe_status: 0,
            gpe_enable: 0,
            smi_command: 0,
            smi_status: 0,
        };
        let mut pm = Self { state, sci, clock, alarm, power };
        pm.state.carries_seen = pm.carries(pm.clock.now());
        pm
    }

    /// Presses the power button. True when the guest gets an interrupt for it, false when it has not asked for one (and
    /// will not notice unless it polls).
    pub fn press_power_button(&mut self) -> bool {
        self.state.status |= Pm1Events::POWER_BUTTON;
        self.update_sci();
        self.state.control.contains(Pm1Control::SCI_EN) && self.state.enable.contains(Pm1Events::POWER_BUTTON)
    }

    /// Raises a general purpose event; numbers from [`GPE_COUNT`] on do not exist.
    pub fn raise_gpe(&mut self, number: u32) {
        self.state.gpe_status |= 1u32.checked_shl(number).unwrap_or(0);
        self.update_sci();
    }

    /// Puts the block back to its state after power-on. The timer goes on.
    pub fn reset(&mut self) {
        let timer_width = self.state.timer_width;
        let carries_seen = self.carries(self.clock.now());
        self.load(AcpiPmState {
            status: Pm1Events::empty(),
            enable: Pm1Events::empty(),
            control: Pm1Control::empty(),
            timer_width,
            carries_seen,
            gpe_status: 0,
            gpe_enable: 0,
            smi_command: 0,
            smi_status: 0,
        });
    }

    /// The state, to be saved.
    pub fn save(&self) -> AcpiPmState {
        self.state.clone()
    }

    /// Takes over a saved state and drives the interrupt line accordingly.
    pub fn load(&mut self, state: AcpiPmState) {
        self.state = state;
        self.update_sci();
    }

    /// Changes of the timer's highest bit since guest time began.
    fn carries(&self, now: u64) -> u64 {
        ns_to_ticks(now, PM_TIMER_HZ) >> (self.state.timer_width.bits() - 1)
    }

    fn timer(&self) -> u32 {
        let mask = u32::MAX >> (32 - self.state.timer_width.bits());
        ns_to_ticks(self.clock.now(), PM_TIMER_HZ) as u32 & mask
    }

    /// Puts changes of the timer's highest bit into the status.
    fn catch_up(&mut self, now: u64) {
        let carries = self.carries(now);
        if carries != self.state.carries_seen {
            self.state.carries_seen = carries;
            self.state.status |= Pm1Events::TIMER;
        }
    }

    fn update_sci(&mut self) {
        let fixed = self.state.status.intersects(self.state.enable);
        let general = self.state.gpe_status & self.state.gpe_enable != 0;
        self.sci.set(self.state.control.contains(Pm1Control::SCI_EN) && (fixed || general));
    }

    fn read_register(&mut self, register: Register) -> u32 {
        match register {
            Register::Pm1Event => {
                self.catch_up(self.clock.now());
                u32::from(self.state.status.bits()) | u32::from(self.state.enable.bits()) << 16
            }
            Register::Pm1Control => self.state.control.bits().into(),
            Register::Timer => self.timer(),
            Register::Gpe0Status => self.state.gpe_status,
            Register::Gpe0Enable => self.state.gpe_enable,
        }
    }

    /// Writes the bits of `value` that `mask` names: those of the bytes that the access covers.
    fn write_register(&mut self, register: Register, value: u32, mask: u32) {
        let merged = |old: u32| old & !mask | value & mask;
        match register {
            Register::Pm1Event => {
                self.catch_up(self.clock.now());
                let before = self.deadline();
                let cleared = Pm1Events::from_bits_truncate((value & mask) as u16);
                self.state.status.remove(cleared);
                let enable = (merged(u32::from(self.state.enable.bits()) << 16) >> 16) as u16;
                self.state.enable = Pm1Events::from_bits_truncate(enable) & Pm1Events::CAN_BE_ENABLED;
                self.alarm.ring_if_earlier(before, self.deadline());
            }
            Register::Pm1Control => {
                let value = merged(self.state.control.bits().into()) as u16;
                self.write_control(Pm1Control::from_bits_truncate(value));
            }
            Register::Timer => {}
            Register::Gpe0Status => self.state.gpe_status &= !(value & mask),
            Register::Gpe0Enable => self.state.gpe_enable = merged(self.state.gpe_enable),
        }
        self.update_sci();
    }

    fn write_control(&mut self, control: Pm1Control) {
        let write_only = Pm1Control::SLEEP_ENABLE | Pm1Control::GLOBAL_RELEASE;
        self.state.control = control - write_only;
        if control.contains(Pm1Control::SLEEP_ENABLE) {
            let shift = Pm1Control::SLEEP_TYPE.bits().trailing_zeros();
            let sleep_type = (control & Pm1Control::SLEEP_TYPE).bits() >> shift;
            if sleep_type == u16::from(SLP_TYP_S5) {
                self.power.power_off();
            } else {
                debug!("ACPI: the guest asks for SLP_TYP {sleep_type}, which is not offered");
            }
        }
    }

    fn smi_command(&mut self, command: u8) {
        self.state.smi_command = command;
        match command {
            ACPI_ENABLE => self.state.control |= Pm1Control::SCI_EN,
            ACPI_DISABLE => self.state.control -= Pm1Control::SCI_EN,
            _ => debug!("ACPI: unknown SMI command {command:#x}"),
        }
        self.update_sci();
    }
}

impl Device for AcpiPm {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut word = None;
        for (at, byte) in addresses_from(offset).zip(data) {
            // One look at each double word, so that the timer's bytes belong together.
            let (base, lane) = (at & !3, (at & 3) as usize);
            let value = match word {
                Some((known, value)) if known == base => value,
                _ => Register::at(base).map_or(0, |register| self.read_register(register)),
            };
            word = Some((base, value));
            *byte = value.to_le_bytes()[lane];
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let lane = (at & 3) as usize;
            let (part, after) = rest.split_at(rest.len().min(4 - lane));
            let (mut value, mut mask) = ([0; 4], [0; 4]);
            value[lane..lane + part.len()].copy_from_slice(part);
            mask[lane..lane + part.len()].fill(0xff);
            if let Some(register) = Register::at(at & !3) {
                self.write_register(register, u32::from_le_bytes(value), u32::from_le_bytes(mask));
            }
            at = at.wrapping_add(part.len() as u64);
            rest = after;
        }
    }
}

impl Timed for AcpiPm {
    /// The next change of the timer's highest bit, when the guest wants to hear of it.
    fn deadline(&self) -> Option<u64> {
        let wanted =
            self.state.enable.contains(Pm1Events::TIMER) && !self.state.status.contains(Pm1Events::TIMER);
        wanted.then(|| {
            let ticks = self.state.carries_seen.saturating_add(1) << (self.state.timer_width.bits() - 1);
            ticks_to_ns(ticks, PM_TIMER_HZ)
        })
    }

    fn expire(&mut self, now: u64) {
        self.catch_up(now);
        self.update_sci();
    }
}

/// The SMI command port and its scratch neighbour. The firmware that would run in system management mode is here: all it
/// does is to switch ACPI mode on and off.
pub struct SmiCommand {
    pm: Arc<Mutex<AcpiPm>>,
}

/// Offsets of the two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SmiRegister {
    Command,
    Status,
    None,
}

impl SmiRegister {
    fn at(offset: u64) -> Self {
        match offset {
            0 => Self::Command,
            1 => Self::Status,
            _ => Self::None,
        }
    }
}

impl SmiCommand {
    /// The ports that belong to `pm`, which also saves their state.
    pub fn new(pm: Arc<Mutex<AcpiPm>>) -> Self {
        Self { pm }
    }
}

impl ByteDevice for SmiCommand {
    fn read_byte(&mut self, offset: u64) -> u8 {
        match SmiRegister::at(offset) {
            SmiRegister::Command => self.pm.lock().state.smi_command,
            SmiRegister::Status => self.pm.lock().state.smi_status,
            SmiRegister::None => 0xff,
        }
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        match SmiRegister::at(offset) {
            SmiRegister::Command => self.pm.lock().smi_command(value),
            SmiRegister::Status => self.pm.lock().state.smi_status = value,
            SmiRegister::None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::value_of;
    use crate::irq::Recorder;
    use crate::power::recorder::{PowerRecorder, Wish};

    const STATUS: u64 = 0x00;
    const ENABLE: u64 = 0x02;
    const CONTROL: u64 = 0x04;
    const TIMER: u64 = 0x08;
    const GPE_STATUS: u64 = 0x20;
    const GPE_ENABLE: u64 = 0x24;

    struct Bench {
        pm: Arc<Mutex<AcpiPm>>,
        smi: SmiCommand,
        irqs: Arc<Recorder>,
        clock: Arc<Clock>,
        power: Arc<PowerRecorder>,
    }

    fn bench(width: PmTimerWidth) -> Bench {
        let (irqs, clock, power) = (Recorder::new(), Clock::manual(1_000_000_000), PowerRecorder::new());
        let pm = AcpiPm::new(irqs.line(SCI_IRQ), clock.clone(), Alarm::silent(), power.clone(), width);
        let pm = Arc::new(Mutex::new(pm));
        Bench { smi: SmiCommand::new(pm.clone()), pm, irqs, clock, power }
    }

    impl Bench {
        fn read(&self, offset: u64, width: usize) -> u32 {
            let mut data = [0; 4];
            self.pm.lock().read(offset, &mut data[..width]);
            value_of(&data) as u32
        }

        fn write16(&self, offset: u64, value: u16) {
            self.pm.lock().write(offset, &value.to_le_bytes());
        }

        fn sci(&self) -> bool {
            self.irqs.level(SCI_IRQ)
        }
    }

    #[test]
    fn the_smi_command_switches_acpi_mode() {
        let mut b = bench(PmTimerWidth::Bits32);
        assert_eq!(b.read(CONTROL, 2), 0);
        b.smi.write_byte(0, ACPI_ENABLE);
        assert_eq!(b.read(CONTROL, 2), 1);
        assert_eq!(b.smi.read_byte(0), ACPI_ENABLE);
        b.smi.write_byte(0, ACPI_DISABLE);
        assert_eq!(b.read(CONTROL, 2), 0);
        b.smi.write_byte(1, 0x5a);
        assert_eq!((b.smi.read_byte(1), b.smi.read_byte(2)), (0x5a, 0xff));
    }

    #[test]
    fn power_button_interrupts_until_its_status_is_cleared() {
        let mut b = bench(PmTimerWidth::Bits32);
        assert!(!b.pm.lock().press_power_button(), "nobody listens");
        assert_eq!(b.read(STATUS, 2), 0x0100, "but it shows");
        b.smi.write_byte(0, ACPI_ENABLE);
        b.write16(STATUS, 0xffff);
        b.write16(ENABLE, 0x0120);
        assert!(!b.sci());
        assert!(b.pm.lock().press_power_button());
        assert!(b.sci());
        b.write16(STATUS, 0x0020);
        assert!(b.sci(), "another bit");
        b.pm.lock().write(STATUS + 1, &[0x01]);
        assert!(!b.sci(), "byte accesses clear too");
        assert_eq!(b.read(STATUS, 4), 0x0120_0000);
    }

    #[test]
    fn only_existing_events_can_be_enabled() {
        let b = bench(PmTimerWidth::Bits32);
        b.write16(ENABLE, 0xffff);
        assert_eq!(b.read(ENABLE, 2), 0x0721);
        b.pm.lock().write(ENABLE, &[0]);
        assert_eq!(b.read(ENABLE, 2), 0x0700, "one byte of two");
    }

    #[test]
    fn s5_switches_off_and_other_sleeps_do_nothing() {
        let b = bench(PmTimerWidth::Bits32);
        b.write16(CONTROL, 0x2000 | 5 << 10);
        assert!(b.power.take().is_empty());
        assert_eq!(b.read(CONTROL, 2), 5 << 10, "SLP_EN reads as zero");
        b.write16(CONTROL, u16::from(SLP_TYP_S5) << 10);
        assert!(b.power.take().is_empty(), "the type alone does nothing");
        b.write16(CONTROL, 0x2000 | u16::from(SLP_TYP_S5) << 10);
        assert_eq!(b.power.take(), [Wish::PowerOff]);
        b.pm.lock().write(CONTROL + 1, &[0x20]);
        assert_eq!(b.power.take(), [Wish::PowerOff], "the upper byte alone");
    }

    #[test]
    fn timer_counts_at_its_frequency_and_wraps() {
        let b = bench(PmTimerWidth::Bits24);
        b.clock.advance(1_000_000_000);
        assert_eq!(b.read(TIMER, 4), 3_579_545);
        b.clock.advance(4_000_000_000);
        assert_eq!(b.read(TIMER, 4), (5 * 3_579_545) % (1 << 24));
        assert_eq!(b.read(TIMER + 1, 1), (5 * 3_579_545) >> 8 & 0xff);
        let b = bench(PmTimerWidth::Bits32);
        b.clock.advance(5_000_000_000);
        assert_eq!(b.read(TIMER, 4), 5 * 3_579_545);
        b.pm.lock().write(TIMER, &[0; 4]);
        assert_eq!(b.read(TIMER, 4), 5 * 3_579_545, "read-only");
    }

    #[test]
    fn a_change_of_the_highest_bit_interrupts() {
        let mut b = bench(PmTimerWidth::Bits24);
        b.smi.write_byte(0, ACPI_ENABLE);
        assert_eq!(b.pm.lock().deadline(), None);
        b.write16(ENABLE, 0x0001);
        for change in 1..4u64 {
            let deadline = b.pm.lock().deadline().unwrap();
            b.clock.advance_to(deadline - 1);
            b.pm.lock().expire(deadline - 1);
            assert!(!b.sci());
            b.clock.advance_to(deadline);
            b.pm.lock().expire(deadline);
            assert!(b.sci());
            assert_eq!(u64::from(b.read(TIMER, 4)), (change << 23) & 0xff_ffff);
            assert_eq!(b.pm.lock().deadline(), None, "until the guest has seen it");
            b.write16(STATUS, 0x0001);
            assert!(!b.sci());
        }
    }

    #[test]
    fn a_guest_that_polls_sees_the_carry() {
        let b = bench(PmTimerWidth::Bits24);
        b.clock.advance(3_000_000_000);
        assert_eq!(b.read(STATUS, 2), 1);
        b.write16(STATUS, 1);
        assert_eq!(b.read(STATUS, 2), 0);
    }

    #[test]
    fn general_purpose_events() {
        let mut b = bench(PmTimerWidth::Bits32);
        b.smi.write_byte(0, ACPI_ENABLE);
        b.pm.lock().raise_gpe(17);
        b.pm.lock().raise_gpe(32);
        assert_eq!(b.read(GPE_STATUS, 4), 1 << 17);
        assert!(!b.sci());
        b.pm.lock().write(GPE_ENABLE + 2, &[0x02]);
        assert!(b.sci());
        b.pm.lock().write(GPE_STATUS, &[0xff, 0xff, 0, 0]);
        assert!(b.sci());
        b.pm.lock().write(GPE_STATUS + 2, &[0x02]);
        assert!(!b.sci());
        assert_eq!((b.read(GPE_STATUS, 4), b.read(GPE_ENABLE, 4)), (0, 1 << 17));
    }

    #[test]
    fn gaps_read_as_zero_and_wide_accesses_reach_all_registers() {
        let b = bench(PmTimerWidth::Bits32);
        let mut data = [0xcc; 8];
        b.pm.lock().read(0x60, &mut data);
        assert_eq!(data, [0; 8]);
        // Enable and control in one unaligned double word.
        b.pm.lock().write(ENABLE, &[0x20, 0x01, 0x01, 0x04]);
        assert_eq!((b.read(ENABLE, 2), b.read(CONTROL, 2)), (0x0120, 0x0401));
    }

    #[test]
    fn save_and_load_in_the_middle() {
        let mut b = bench(PmTimerWidth::Bits24);
        b.smi.write_byte(0, ACPI_ENABLE);
        b.write16(ENABLE, 0x0101);
        b.clock.advance(1_000_000_000);
        b.pm.lock().press_power_button();
        let saved = rmp_serde::to_vec_named(&b.pm.lock().save()).unwrap();

        let other = bench(PmTimerWidth::Bits32);
        other.clock.advance(1_000_000_000);
        other.pm.lock().load(rmp_serde::from_slice(&saved).unwrap());
        assert!(other.sci());
        assert_eq!(other.pm.lock().deadline(), b.pm.lock().deadline());
        other.clock.advance(2_000_000_000);
        assert_eq!(other.read(STATUS, 4), 0x0101_0101);
        other.pm.lock().reset();
        assert!(!other.sci());
        assert_eq!((other.read(STATUS, 4), other.read(CONTROL, 2)), (0, 0));
    }
}
