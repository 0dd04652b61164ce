//! The real-time clock and CMOS memory of a PC: Motorola MC146818 data sheet, with 128 bytes and a century byte.
//!
//! Nothing ticks: time is computed from the guest's clock when someone asks.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::civil::Civil;
use crate::bus::Device;
use crate::clock::{Alarm, Clock, NS_PER_SEC, Timed, ns_to_ticks, ticks_to_ns};
use crate::irq::IrqLine;

/// The two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Index,
    Data,
}

impl Port {
    fn from_offset(offset: u64) -> Option<Port> {
        match offset {
            0 => Some(Port::Index),
            1 => Some(Port::Data),
            _ => None,
        }
    }
}

/// What a byte of the CMOS memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reg {
    Time(TimeReg),
    Alarm(AlarmReg),
    A,
    B,
    C,
    D,
    Ram(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeReg {
    Seconds,
    Minutes,
    Hours,
    DayOfWeek,
    DayOfMonth,
    Month,
    Year,
    Century,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AlarmReg {
    Seconds,
    Minutes,
    Hours,
}

impl Reg {
    fn from_index(index: u8) -> Reg {
        match index {
            0x00 => Reg::Time(TimeReg::Seconds),
            0x01 => Reg::Alarm(AlarmReg::Seconds),
            0x02 => Reg::Time(TimeReg::Minutes),
            0x03 => Reg::Alarm(AlarmReg::Minutes),
            0x04 => Reg::Time(TimeReg::Hours),
            0x05 => Reg::Alarm(AlarmReg::Hours),
            0x06 => Reg::Time(TimeReg::DayOfWeek),
            0x07 => Reg::Time(TimeReg::DayOfMonth),
            0x08 => Reg::Time(TimeReg::Month),
            0x09 => Reg::Time(TimeReg::Year),
            0x0a => Reg::A,
            0x0b => Reg::B,
            0x0c => Reg::C,
            0x0d => Reg::D,
            CENTURY_INDEX => Reg::Time(TimeReg::Century),
            index => Reg::Ram(index & 0x7f),
        }
    }
}

/// Where the century is: the firmware's FADT says so too.
pub const CENTURY_INDEX: u8 = 0x32;

/// Register A.
mod reg_a {
    pub(super) const UIP: u8 = 1 << 7;
    /// Divider select; with both upper bits set, the divider is held in reset.
    pub(super) const DIVIDER_RESET: u8 = 0b110 << 4;
    pub(super) const RATE_SELECT: u8 = 0x0f;
    /// A 32,768 Hz time base, 1,024 Hz periodic rate.
    pub(super) const INITIAL: u8 = 0x26;
}

/// Register B. The three interrupt enables have the places of register C's flags.
mod reg_b {
    pub(super) const SET: u8 = 1 << 7;
    pub(super) const PIE: u8 = 1 << 6;
    pub(super) const AIE: u8 = 1 << 5;
    pub(super) const UIE: u8 = 1 << 4;
    pub(super) const SQWE: u8 = 1 << 3;
    pub(super) const BINARY: u8 = 1 << 2;
    pub(super) const HOURS_24: u8 = 1 << 1;
}

/// Register C.
mod reg_c {
    pub(super) const IRQF: u8 = 1 << 7;
    pub(super) const PF: u8 = 1 << 6;
    pub(super) const AF: u8 = 1 << 5;
    pub(super) const UF: u8 = 1 << 4;
}

/// Register D: the battery is good.
const VALID_RAM_AND_TIME: u8 = 1 << 7;

/// How long before an update UIP is seen.
const UIP_NS: u64 = 244_000;

/// After a reset of the divider the first update comes half a second later.
const FIRST_UPDATE_NS: u64 = NS_PER_SEC / 2;

const PM: u8 = 1 << 7;

/// An alarm byte with both upper bits set matches everything.
const DO_NOT_CARE: u8 = 0b11 << 6;

const SECONDS_PER_DAY: i64 = 86_400;

/// Bytes that other firmware puts into the CMOS memory for itself and for software of old.
mod cmos {
    pub(super) const BASE_MEMORY_KIB: u8 = 0x15;
    pub(super) const EXTENDED_MEMORY_KIB: u8 = 0x17;
    pub(super) const CHECKED: std::ops::RangeInclusive<u8> = 0x10..=0x2d;
    pub(super) const CHECKSUM: u8 = 0x2e;
    pub(super) const EXTENDED_MEMORY_KIB_2: u8 = 0x30;
    pub(super) const MEMORY_ABOVE_16M_64KIB: u8 = 0x34;
    pub(super) const MEMORY_ABOVE_4G_64KIB: u8 = 0x5b;
}

/// What a snapshot keeps of the clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcState {
    index: u8,
    nmi_masked: bool,
    a: u8,
    b: u8,
    /// Periodic, alarm and update-ended flags of register C.
    flags: u8,
    alarm: [u8; 3],
    ram: [[u8; 16]; 8],
    /// The divider's position is guest time plus this, modulo a second.
    phase: u64,
    /// Wall time in seconds since 1970 when guest time plus `phase` was 0.
    base: i64,
    /// What was written to the day of the week differs this much from the calendar.
    weekday_offset: u8,
    /// While time stands, by SET or a held divider: the time registers as software sees and writes them.
    stopped: Option<[u8; 8]>,
    /// The moment up to which flags are accounted for.
    settled: u64,
}

impl RtcState {
    fn divider_is_held(&self) -> bool {
        self.a & reg_a::DIVIDER_RESET == reg_a::DIVIDER_RESET
    }

    fn is_stopped(&self) -> bool {
        self.divider_is_held() || self.b & reg_b::SET != 0
    }

    /// Whole seconds of the divider.
    fn divider_seconds(&self, now: u64) -> u64 {
        now.saturating_add(self.phase) / NS_PER_SEC
    }

    /// Guest time when the divider comes to a whole second.
    fn at_divider_second(&self, second: u64) -> u64 {
        second.saturating_mul(NS_PER_SEC).saturating_sub(self.phase)
    }

    fn seconds(&self, now: u64) -> i64 {
        self.base.saturating_add_unsigned(self.divider_seconds(now))
    }

    fn set_seconds(&mut self, seconds: i64, now: u64) {
        self.base = seconds.saturating_sub_unsigned(self.divider_seconds(now));
    }

    /// The periodic interrupt's rate.
    fn periodic_hz(&self) -> Option<u64> {
        match self.a & reg_a::RATE_SELECT {
            _ if self.divider_is_held() => None,
            0 => None,
            // The two lowest selections are those of a slower chain's 8 and 9.
            rate @ (1 | 2) => Some(32_768 >> (rate + 6)),
            rate => Some(32_768 >> (rate - 1)),
        }
    }

    fn periodic_ticks(&self, now: u64, hz: u64) -> u64 {
        ns_to_ticks(now.saturating_add(self.phase), hz)
    }

    fn encode(&self, value: u32) -> u8 {
        let value = (value % 100) as u8;
        if self.b & reg_b::BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn decode(&self, byte: u8) -> u32 {
        let byte = u32::from(byte);
        if self.b & reg_b::BINARY != 0 { byte } else { (byte >> 4) * 10 + (byte & 0xf) }
    }

    fn encode_hours(&self, hours: u32) -> u8 {
        if self.b & reg_b::HOURS_24 != 0 {
            return self.encode(hours);
        }
        let on_the_dial = if hours.is_multiple_of(12) { 12 } else { hours % 12 };
        self.encode(on_the_dial) | if hours >= 12 { PM } else { 0 }
    }

    fn decode_hours(&self, byte: u8) -> u32 {
        if self.b & reg_b::HOURS_24 != 0 {
            return self.decode(byte);
        }
        self.decode(byte & !PM) % 12 + if byte & PM != 0 { 12 } else { 0 }
    }

    /// The time registers at wall time `seconds`.
    fn time_registers(&self, seconds: i64) -> [u8; 8] {
        let civil = Civil::from_unix(seconds);
        let weekday = (civil.weekday + u32::from(self.weekday_offset)) % 7 + 1;
        let mut registers = [0; 8];
        for (reg, byte) in [
            (TimeReg::Seconds, self.encode(civil.second)),
            (TimeReg::Minutes, self.encode(civil.minute)),
            (TimeReg::Hours, self.encode_hours(civil.hour)),
            (TimeReg::DayOfWeek, self.encode(weekday)),
            (TimeReg::DayOfMonth, self.encode(civil.day)),
            (TimeReg::Month, self.encode(civil.month)),
            (TimeReg::Year, self.encode(civil.year.rem_euclid(100) as u32)),
            (TimeReg::Century, self.encode(civil.year.div_euclid(100).rem_euclid(100) as u32)),
        ] {
            registers[reg as usize] = byte;
        }
        registers
    }

    /// The wall time that software's time registers say; dates that do not exist run over into the next month.
    fn adopt(&mut self, registers: [u8; 8], now: u64) {
        let field = |reg: TimeReg| self.decode(registers[reg as usize]);
        let civil = Civil {
            year: i64::from(field(TimeReg::Century)) * 100 + i64::from(field(TimeReg::Year)),
            month: field(TimeReg::Month),
            day: field(TimeReg::DayOfMonth),
            weekday: 0,
            hour: self.decode_hours(registers[TimeReg::Hours as usize]),
            minute: field(TimeReg::Minutes),
            second: field(TimeReg::Seconds),
        };
        let seconds = civil.to_unix();
        let calendar = Civil::from_unix(seconds).weekday;
        let weekday = field(TimeReg::DayOfWeek);
        self.weekday_offset = ((weekday + 6 + 7 - calendar) % 7) as u8;
        self.set_seconds(seconds, now);
    }

    /// The first second after `seconds` at which the alarm goes off.
    fn next_alarm(&self, seconds: i64) -> Option<i64> {
        let of_day = seconds.rem_euclid(SECONDS_PER_DAY);
        let midnight = seconds.checked_sub(of_day)?;
        let today = self.alarm_of_day(of_day + 1).map(|alarm| (alarm, midnight));
        let (alarm, midnight) =
            today.or_else(|| Some((self.alarm_of_day(0)?, midnight.checked_add(SECONDS_PER_DAY)?)))?;
        midnight.checked_add(alarm)
    }

    /// The first second of a day, not before `from`, that the alarm bytes match.
    fn alarm_of_day(&self, from: i64) -> Option<i64> {
        let matching = |byte: u8, decoded: u32, limit: u32| match decoded {
            _ if byte & DO_NOT_CARE == DO_NOT_CARE => Some(0..i64::from(limit)),
            value if value < limit => Some(i64::from(value)..i64::from(value) + 1),
            _ => None,
        };
        let [seconds, minutes, hours] = self.alarm;
        let seconds = matching(seconds, self.decode(seconds), 60)?;
        let minutes = matching(minutes, self.decode(minutes), 60)?;
        let hours = matching(hours, self.decode_hours(hours), 24)?;
        for hour in hours {
            for minute in minutes.clone() {
                let start = (hour * 60 + minute) * 60;
                let second = seconds.start.max(from - start);
                if second < seconds.end {
                    return Some(start + second);
                }
            }
        }
        None
    }

    /// Sets the flags of what happened up to `now`.
    fn settle(&mut self, now: u64) {
        let from = self.settled;
        if now <= from {
            return;
        }
        self.settled = now;
        if !self.is_stopped() {
            let (before, after) = (self.seconds(from), self.seconds(now));
            if after > before {
                self.flags |= reg_c::UF;
                if self.next_alarm(before).is_some_and(|alarm| alarm <= after) {
                    self.flags |= reg_c::AF;
                }
            }
        }
        if let Some(hz) = self.periodic_hz()
            && self.periodic_ticks(now, hz) > self.periodic_ticks(from, hz)
        {
            self.flags |= reg_c::PF;
        }
    }

    fn is_interrupting(&self) -> bool {
        self.flags & self.b & (reg_c::PF | reg_c::AF | reg_c::UF) != 0
    }

    fn update_in_progress(&self, now: u64) -> bool {
        !self.is_stopped() && now.saturating_add(self.phase) % NS_PER_SEC >= NS_PER_SEC - UIP_NS
    }

    /// Writes register A or B; time stops or goes on as they say.
    fn configure(&mut self, a: u8, b: u8, now: u64) {
        let was_stopped = self.is_stopped();
        let was_held = self.divider_is_held();
        // In the old data mode: setting SET does not change the bytes.
        let registers = self.stopped.unwrap_or_else(|| self.time_registers(self.seconds(now)));
        (self.a, self.b) = (a, b);
        if was_held && !self.divider_is_held() {
            let position = now % NS_PER_SEC;
            self.phase = (NS_PER_SEC + FIRST_UPDATE_NS - position) % NS_PER_SEC;
        }
        match (was_stopped, self.is_stopped()) {
            (_, true) => self.stopped = Some(registers),
            (true, false) => {
                self.stopped = None;
                self.adopt(registers, now);
            }
            (false, false) => {}
        }
    }

    fn ram(&mut self, index: u8) -> &mut u8 {
        &mut self.ram[usize::from(index >> 4) % 8][usize::from(index % 16)]
    }
}

/// The real-time clock: ports 70h and 71h.
pub struct Rtc {
    clock: Arc<Clock>,
    irq8: IrqLine,
    timer: Alarm,
    state: RtcState,
}

impl Rtc {
    /// A clock that shows this wall time, in seconds since 1970, at power-on; `timer` is told of nearer deadlines.
    pub fn new(clock: Arc<Clock>, unix_seconds: i64, irq8: IrqLine, timer: Alarm) -> Rtc {
        let state = RtcState {
            index: 0,
            nmi_masked: false,
            a: reg_a::INITIAL,
            b: reg_b::HOURS_24,
            flags: 0,
            alarm: [0; 3],
            ram: [[0; 16]; 8],
            phase: 0,
            base: unix_seconds,
            weekday_offset: 0,
            stopped: None,
            settled: clock.now(),
        };
        Rtc { clock, irq8, timer, state }
    }

    /// RESET: interrupts are off; time, alarm and memory are kept by the battery.
    pub fn reset(&mut self) {
        self.state.settle(self.clock.now());
        self.state.b &= !(reg_b::PIE | reg_b::AIE | reg_b::UIE | reg_b::SQWE);
        self.state.flags = 0;
        self.state.index = 0;
        self.state.nmi_masked = false;
        self.drive();
    }

    /// Whether software masked NMIs, by bit 7 of the index port.
    pub fn nmi_masked(&self) -> bool {
        self.state.nmi_masked
    }

    /// Sets a byte of the CMOS memory, for the board to describe itself; the checksum follows.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        if let Reg::Ram(index) = Reg::from_index(index & 0x7f) {
            *self.state.ram(index) = value;
            let sum = cmos::CHECKED.map(|index| u16::from(*self.state.ram(index))).sum::<u16>();
            let [low, high] = sum.to_le_bytes();
            *self.state.ram(cmos::CHECKSUM) = high;
            *self.state.ram(cmos::CHECKSUM + 1) = low;
        }
    }

    /// Describes RAM below and above 4 GiB, in bytes, as BIOSes look for it.
    pub fn describe_memory(&mut self, below_4g: u64, above_4g: u64) {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        let up_to = |value: u64, limit: u64| value.min(limit).to_le_bytes();
        let base = up_to(below_4g / KIB, 640);
        let extended = up_to(below_4g.saturating_sub(MIB) / KIB, 0xffff);
        let above_16m = up_to(below_4g.saturating_sub(16 * MIB) / (64 * KIB), 0xffff);
        let above_4g = up_to(above_4g / (64 * KIB), 0xff_ffff);
        for (index, bytes) in [
            (cmos::BASE_MEMORY_KIB, &base[..2]),
            (cmos::EXTENDED_MEMORY_KIB, &extended[..2]),
            (cmos::EXTENDED_MEMORY_KIB_2, &extended[..2]),
            (cmos::MEMORY_ABOVE_16M_64KIB, &above_16m[..2]),
            (cmos::MEMORY_ABOVE_4G_64KIB, &above_4g[..3]),
        ] {
            for (index, byte) in (index..).zip(bytes) {
                self.set_cmos(index, *byte);
            }
        }
    }

    /// What a snapshot keeps.
    pub fn save(&self) -> RtcState {
        self.state.clone()
    }

    /// Takes over a snapshot's state.
    pub fn load(&mut self, state: RtcState) {
        self.state = state;
    }

    fn drive(&self) {
        self.irq8.set(self.state.is_interrupting());
    }

    fn read_register(&mut self, reg: Reg) -> u8 {
        let now = self.clock.now();
        self.state.settle(now);
        let value = match reg {
            Reg::Time(time) => {
                let state = &self.state;
                let registers = state.stopped.unwrap_or_else(|| state.time_registers(state.seconds(now)));
                registers[time as usize]
            }
            Reg::Alarm(alarm) => self.state.alarm[alarm as usize],
            Reg::A => self.state.a | if self.state.update_in_progress(now) { reg_a::UIP } else { 0 },
            Reg::B => self.state.b,
            Reg::C => {
                let irqf = if self.state.is_interrupting() { reg_c::IRQF } else { 0 };
                std::mem::take(&mut self.state.flags) | irqf
            }
            Reg::D => VALID_RAM_AND_TIME,
            Reg::Ram(index) => *self.state.ram(index),
        };
        self.drive();
        value
    }

    fn write_register(&mut self, reg: Reg, value: u8) {
        let now = self.clock.now();
        self.state.settle(now);
        match reg {
            Reg::Time(time) => match &mut self.state.stopped {
                Some(registers) => registers[time as usize] = value,
                None => {
                    let mut registers = self.state.time_registers(self.state.seconds(now));
                    registers[time as usize] = value;
                    self.state.adopt(registers, now);
                }
            },
            Reg::Alarm(alarm) => self.state.alarm[alarm as usize] = value,
            Reg::A => self.state.configure(value & !reg_a::UIP, self.state.b, now),
            Reg::B => {
                // SET takes the update-ended interrupt's enable with it.
                let forced_off = if value & reg_b::SET != 0 { reg_b::UIE } else { 0 };
                self.state.configure(self.state.a, value & !forced_off, now);
            }
            Reg::C | Reg::D => {}
            Reg::Ram(index) => *self.state.ram(index) = value,
        }
        self.drive();
    }

    fn write_port(&mut self, port: Port, value: u8) {
        const NMI_MASK: u8 = 1 << 7;
        match port {
            Port::Index => {
                self.state.index = value & !NMI_MASK;
                self.state.nmi_masked = value & NMI_MASK != 0;
            }
            Port::Data => {
                let before = self.deadline();
                self.write_register(Reg::from_index(self.state.index), value);
                self.timer.ring_if_earlier(before, self.deadline());
            }
        }
    }

    fn read_port(&mut self, port: Port) -> u8 {
        match port {
            // Write-only.
            Port::Index => 0xff,
            Port::Data => {
                let before = self.deadline();
                let value = self.read_register(Reg::from_index(self.state.index));
                // Reading register C lets the next interrupt come.
                self.timer.ring_if_earlier(before, self.deadline());
                value
            }
        }
    }
}

impl Device for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (index, byte) in (0..).zip(data) {
            *byte = Port::from_offset(offset.wrapping_add(index)).map_or(0xff, |port| self.read_port(port));
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (index, byte) in (0..).zip(data) {
            if let Some(port) = Port::from_offset(offset.wrapping_add(index)) {
                self.write_port(port, *byte);
            }
        }
    }
}

impl Timed for Rtc {
    fn deadline(&self) -> Option<u64> {
        let state = &self.state;
        if state.is_interrupting() {
            // Until register C is read, more of it changes nothing.
            return None;
        }
        let settled = state.settled;
        let enabled = |bit: u8| state.b & bit != 0;
        let periodic = state.periodic_hz().filter(|_| enabled(reg_b::PIE)).map(|hz| {
            ticks_to_ns(state.periodic_ticks(settled, hz).saturating_add(1), hz).saturating_sub(state.phase)
        });
        let running = !state.is_stopped();
        let second = state.divider_seconds(settled);
        let update =
            (running && enabled(reg_b::UIE)).then(|| state.at_divider_second(second.saturating_add(1)));
        let alarm = if running && enabled(reg_b::AIE) {
            let seconds = state.seconds(settled);
            let ahead = state.next_alarm(seconds).map(|alarm| alarm.abs_diff(seconds));
            ahead.map(|ahead| state.at_divider_second(second.saturating_add(ahead)))
        } else {
            None
        };
        [periodic, update, alarm].into_iter().flatten().min()
    }

    fn expire(&mut self, now: u64) {
        self.state.settle(now);
        self.drive();
    }
}

#[cfg(test)]
mod tests;
