//! The 8254 programmable interval timer of a PC, with the part of port 61h that belongs to it. Intel 8254 data sheet.
//!
//! Nothing ticks: counts and outputs are computed from the clock when someone asks.
//!
//! **Ticks that merge are made up for.** A host that is busy may let several periods pass before it runs the timer
//! or the CPU. On the wire their edges would become one, and a guest that counts ticks would lose time that its other
//! clocks have seen. So periodic ticks are counted as owed, and each is signalled when the one before has been taken.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::Device;
use crate::clock::{Alarm, Clock, Timed, ns_to_ticks, ticks_to_ns};
use crate::irq::{Hearing, IrqLine};

/// The frequency of the counters' CLK input.
pub const PIT_HZ: u64 = 1_193_182;

/// Shorter periods are counted exactly, but their interrupts come no faster, lest a guest keeps the host busy.
const MIN_INTERRUPT_NS: u64 = 20_000;

/// Ticks are owed up to this many nanoseconds' worth, and up to this many.
const OWED_NS: u64 = 1_000_000_000;
const OWED_MAX: u64 = 1_000;

/// The memory refresh that port 61h shows: one request each 18 ticks.
const REFRESH_TICKS: u64 = 18;

const CHANNELS: usize = 3;
/// The channel that drives IRQ 0.
const TIMER: usize = 0;
/// The channel that drives the loudspeaker, and whose gate port 61h controls.
const SPEAKER: usize = 2;

/// The four ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Counter(usize),
    Control,
}

impl Port {
    fn from_offset(offset: u64) -> Option<Port> {
        match offset {
            0..=2 => Some(Port::Counter(offset as usize)),
            3 => Some(Port::Control),
            _ => None,
        }
    }
}

/// Bits of port 61h.
mod port61 {
    pub(super) const TIMER2_GATE: u8 = 1 << 0;
    pub(super) const REFRESH_TOGGLE: u8 = 1 << 4;
    pub(super) const TIMER2_OUT: u8 = 1 << 5;
    /// Gate, speaker data, and the two enables of memory and bus errors.
    pub(super) const WRITABLE: u8 = 0x0f;
}

/// Counter mode: bits 3:1 of the control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    InterruptOnTerminalCount,
    HardwareOneShot,
    RateGenerator,
    SquareWave,
    SoftwareStrobe,
    HardwareStrobe,
}

impl Mode {
    fn from_bits(bits: u8) -> Mode {
        match bits & 0b111 {
            0 => Mode::InterruptOnTerminalCount,
            1 => Mode::HardwareOneShot,
            2 | 6 => Mode::RateGenerator,
            3 | 7 => Mode::SquareWave,
            4 => Mode::SoftwareStrobe,
            _ => Mode::HardwareStrobe,
        }
    }

    fn bits(self) -> u8 {
        self as u8
    }

    fn is_periodic(self) -> bool {
        matches!(self, Mode::RateGenerator | Mode::SquareWave)
    }

    /// Waits for the gate to rise after a count is written.
    fn waits_for_gate(self) -> bool {
        matches!(self, Mode::HardwareOneShot | Mode::HardwareStrobe)
    }
}

/// Which bytes of the count are read and written: bits 5:4 of the control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Access {
    Low,
    High,
    LowThenHigh,
}

impl Access {
    /// `None` is the counter latch command.
    fn from_bits(bits: u8) -> Option<Access> {
        match bits & 0b11 {
            0b01 => Some(Access::Low),
            0b10 => Some(Access::High),
            0b11 => Some(Access::LowThenHigh),
            _ => None,
        }
    }

    fn bits(self) -> u8 {
        self as u8 + 1
    }
}

/// What the counting element does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Counting {
    /// A control word came, but no count, or no trigger, yet; the element shows this value.
    Waiting { shows: u16 },
    /// The count was loaded at this tick.
    Since(u64),
    /// The gate is low: it stands, this many ticks after loading.
    Held { elapsed: u64 },
}

/// A new count for a periodic counter, which takes over at the end of the period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    count: u16,
    at: u64,
}

/// Bytes of a count held for reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Latched {
    Both(u16),
    /// The low byte has been read.
    High(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Channel {
    mode: Mode,
    access: Access,
    bcd: bool,
    gate: bool,
    /// The count register as written; 0 is the largest count.
    count: u16,
    counting: Counting,
    pending: Option<Pending>,
    /// The low byte of a count whose high byte is yet to come.
    written_low: Option<u8>,
    /// An unlatched read gives the high byte next.
    read_high: bool,
    latched_count: Option<Latched>,
    latched_status: Option<u8>,
}

impl Channel {
    fn new(gate: bool) -> Channel {
        Channel {
            mode: Mode::InterruptOnTerminalCount,
            access: Access::LowThenHigh,
            bcd: false,
            gate,
            count: 0,
            counting: Counting::Waiting { shows: 0 },
            pending: None,
            written_low: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// Counts before the element wraps.
    fn modulus(&self) -> u64 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// The count as a number of ticks.
    fn ticks(&self) -> u64 {
        let count = if self.bcd { from_bcd(self.count) } else { self.count.into() };
        let ticks = if count == 0 { self.modulus() } else { count };
        // A period of one tick has no room for OUT's two levels; the data sheet forbids it.
        if self.mode.is_periodic() { ticks.max(2) } else { ticks }
    }

    /// Ticks since the count was loaded. A count that loads with the next tick has not begun.
    fn elapsed(&self, tick: u64) -> Option<u64> {
        match self.counting {
            Counting::Waiting { .. } => None,
            Counting::Since(start) => Some(tick.saturating_sub(start)),
            Counting::Held { elapsed } => Some(elapsed),
        }
    }

    /// Lets a new count of a periodic counter take over when its time has come.
    fn settle(&mut self, tick: u64) {
        if let Some(Pending { count, at }) = self.pending
            && tick >= at
        {
            self.pending = None;
            self.count = count;
            self.counting = Counting::Since(at);
        }
    }

    fn out(&self, tick: u64) -> bool {
        let Some(elapsed) = self.elapsed(tick) else {
            return self.mode != Mode::InterruptOnTerminalCount;
        };
        let ticks = self.ticks();
        match self.mode {
            Mode::InterruptOnTerminalCount | Mode::HardwareOneShot => elapsed >= ticks,
            Mode::RateGenerator => !self.gate || elapsed % ticks != ticks - 1,
            Mode::SquareWave => !self.gate || elapsed % ticks < ticks.div_ceil(2),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != ticks,
        }
    }

    /// The first tick after `tick` at which OUT rises.
    fn next_rise(&self, tick: u64) -> Option<u64> {
        let Counting::Since(start) = self.counting else { return None };
        let ticks = self.ticks();
        let rise = match self.mode {
            Mode::RateGenerator | Mode::SquareWave => {
                start.saturating_add((tick.saturating_sub(start) / ticks + 1).saturating_mul(ticks))
            }
            Mode::InterruptOnTerminalCount | Mode::HardwareOneShot => start.saturating_add(ticks),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => start.saturating_add(ticks + 1),
        };
        (rise > tick).then_some(rise)
    }

    /// How often OUT rises after the tick `from`, up to `to`, while the count stays. For the periodic modes.
    fn rises(&self, from: u64, to: u64) -> u64 {
        let Counting::Since(start) = self.counting else { return 0 };
        let periods = |tick: u64| tick.saturating_sub(start) / self.ticks();
        periods(to).saturating_sub(periods(from))
    }

    /// What the counting element shows.
    fn value(&self, tick: u64) -> u16 {
        let Some(elapsed) = self.elapsed(tick) else {
            let Counting::Waiting { shows } = self.counting else { return 0 };
            return shows;
        };
        let ticks = self.ticks();
        let modulus = self.modulus();
        let count = match self.mode {
            Mode::RateGenerator => ticks - elapsed % ticks,
            Mode::SquareWave => {
                // By two, once through in each half; an odd count is one tick longer high than low.
                let position = elapsed % ticks;
                let high = ticks.div_ceil(2);
                let step = if position < high { position } else { position - high };
                (ticks & !1).saturating_sub(2 * step)
            }
            _ => (ticks % modulus + modulus - elapsed % modulus) % modulus,
        };
        if self.bcd { to_bcd(count % modulus) } else { count as u16 }
    }

    /// NULL COUNT: the count register's value has not reached the counting element.
    fn is_null(&self, tick: u64) -> bool {
        match self.counting {
            Counting::Waiting { .. } => true,
            Counting::Since(start) => self.pending.is_some() || tick < start,
            Counting::Held { .. } => self.pending.is_some(),
        }
    }

    fn status(&self, tick: u64) -> u8 {
        u8::from(self.out(tick)) << 7
            | u8::from(self.is_null(tick)) << 6
            | self.access.bits() << 4
            | self.mode.bits() << 1
            | u8::from(self.bcd)
    }

    fn latch_count(&mut self, tick: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(Latched::Both(self.value(tick)));
        }
    }

    fn latch_status(&mut self, tick: u64) {
        if self.latched_status.is_none() {
            self.latched_status = Some(self.status(tick));
        }
    }

    fn control(&mut self, access: Access, value: u8, tick: u64) {
        let shows = self.value(tick);
        *self = Channel {
            mode: Mode::from_bits(value >> 1),
            access,
            bcd: value & 1 != 0,
            count: self.count,
            counting: Counting::Waiting { shows },
            ..Channel::new(self.gate)
        };
    }

    fn write(&mut self, value: u8, tick: u64) {
        match (self.access, self.written_low) {
            (Access::Low, _) => self.load(value.into(), tick),
            (Access::High, _) => self.load(u16::from(value) << 8, tick),
            (Access::LowThenHigh, None) => {
                self.written_low = Some(value);
                if self.mode == Mode::InterruptOnTerminalCount {
                    // The first byte stops the count, and OUT goes low at once.
                    self.counting = Counting::Waiting { shows: self.value(tick) };
                }
            }
            (Access::LowThenHigh, Some(low)) => {
                self.written_low = None;
                self.load(u16::from_le_bytes([low, value]), tick);
            }
        }
    }

    /// A whole count was written. It reaches the counting element with the next tick, or when the mode says so.
    fn load(&mut self, count: u16, tick: u64) {
        match self.counting {
            Counting::Since(_) if self.mode.is_periodic() => {
                let at = self.next_rise(tick).unwrap_or(tick);
                self.pending = Some(Pending { count, at });
            }
            _ if self.mode.waits_for_gate() => {
                // What runs, runs on with its own count: the new one waits for the gate.
                if let Counting::Waiting { .. } = self.counting {
                    self.count = count;
                } else {
                    self.pending = Some(Pending { count, at: u64::MAX });
                }
            }
            _ => {
                self.count = count;
                self.counting =
                    if self.gate { Counting::Since(tick + 1) } else { Counting::Held { elapsed: 0 } };
            }
        }
    }

    fn set_gate(&mut self, gate: bool, tick: u64) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        match (self.mode, self.counting) {
            (Mode::HardwareOneShot | Mode::HardwareStrobe, _) if gate => {
                self.take_pending();
                self.counting = Counting::Since(tick + 1);
            }
            (Mode::HardwareOneShot | Mode::HardwareStrobe, _) => {}
            (_, Counting::Since(start)) if !gate => {
                self.counting = Counting::Held { elapsed: tick.saturating_sub(start) };
            }
            (Mode::RateGenerator | Mode::SquareWave, Counting::Held { .. }) if gate => {
                self.take_pending();
                self.counting = Counting::Since(tick + 1);
            }
            (_, Counting::Held { elapsed }) if gate => {
                self.counting = Counting::Since((tick + 1).saturating_sub(elapsed));
            }
            _ => {}
        }
    }

    fn take_pending(&mut self) {
        if let Some(Pending { count, .. }) = self.pending.take() {
            self.count = count;
        }
    }

    fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        match self.latched_count.take() {
            Some(Latched::High(high)) => high,
            Some(Latched::Both(value)) => {
                let [low, high] = value.to_le_bytes();
                match self.access {
                    Access::Low => low,
                    Access::High => high,
                    Access::LowThenHigh => {
                        self.latched_count = Some(Latched::High(high));
                        low
                    }
                }
            }
            None => {
                let [low, high] = self.value(tick).to_le_bytes();
                let take_high = match self.access {
                    Access::Low => false,
                    Access::High => true,
                    Access::LowThenHigh => {
                        self.read_high = !self.read_high;
                        !self.read_high
                    }
                };
                if take_high { high } else { low }
            }
        }
    }
}

fn from_bcd(value: u16) -> u64 {
    [12, 8, 4, 0].into_iter().fold(0, |number, shift| number * 10 + u64::from(value >> shift & 0xf)) % 10_000
}

fn to_bcd(mut number: u64) -> u16 {
    let mut value = 0;
    for shift in [0, 4, 8, 12] {
        value |= ((number % 10) as u16) << shift;
        number /= 10;
    }
    value
}

/// What a snapshot keeps of the timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitState {
    channels: [Channel; CHANNELS],
    port61: u8,
    /// The tick up to which channel 0's rising edges have been signalled.
    signalled: u64,
    /// No interrupt before this moment, for very short periods.
    not_before: u64,
    /// Periodic ticks that are over and have not been signalled.
    owed: u64,
}

impl PitState {
    fn new() -> PitState {
        PitState {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            port61: 0,
            signalled: 0,
            not_before: 0,
            owed: 0,
        }
    }
}

/// The interval timer: ports 40h to 43h.
pub struct Pit {
    clock: Arc<Clock>,
    irq0: IrqLine,
    alarm: Alarm,
    state: PitState,
}

impl Pit {
    /// The timer after power-on: no channel counts.
    pub fn new(clock: Arc<Clock>, irq0: IrqLine, alarm: Alarm) -> Pit {
        Pit { clock, irq0, alarm, state: PitState::new() }
    }

    /// Port 61h of a timer, for the bus.
    pub fn port61(pit: &Arc<Mutex<Pit>>) -> Port61 {
        Port61(pit.clone())
    }

    /// RESET: as after power-on.
    pub fn reset(&mut self) {
        self.state = PitState::new();
        self.irq0.lower();
    }

    /// What a snapshot keeps.
    pub fn save(&self) -> PitState {
        self.state.clone()
    }

    /// Takes over a snapshot's state.
    pub fn load(&mut self, state: PitState) {
        self.state = state;
    }

    /// Brings interrupt and counts up to date, does something at the present tick, and tells of what changed.
    fn at_present<R>(&mut self, action: impl FnOnce(&mut PitState, u64) -> R) -> R {
        let before = self.deadline();
        // One look at the clock: what came between two would be lost.
        let now = self.clock.now();
        self.expire(now);
        let tick = ns_to_ticks(now, PIT_HZ);
        self.state.channels.iter_mut().for_each(|channel| channel.settle(tick));
        let result = action(&mut self.state, tick);
        self.alarm.ring_if_earlier(before, self.deadline());
        result
    }

    fn write_port(&mut self, port: Port, value: u8) {
        let programs_timer = match port {
            Port::Counter(index) => index == TIMER,
            // Not the counter latch command.
            Port::Control => usize::from(value >> 6) == TIMER && Access::from_bits(value >> 4).is_some(),
        };
        let out = self.at_present(|state, tick| {
            match port {
                Port::Counter(index) => state.channels[index].write(value, tick),
                Port::Control => control(&mut state.channels, value, tick),
            }
            if programs_timer {
                // By the tick of the write: when this thread is held up, the new count may run out before it goes on.
                state.signalled = tick;
                // What software waits for from here on is not the old ticks.
                state.owed = 0;
            }
            state.channels[TIMER].out(tick)
        });
        if programs_timer {
            self.irq0.set(out);
        }
    }

    /// Counts the ticks of a periodic mode up to `tick` that have not been signalled; lets a new count take over.
    fn count_owed(&mut self, tick: u64) {
        let PitState { channels, signalled, owed, .. } = &mut self.state;
        let timer = &mut channels[TIMER];
        let mut due = 0;
        if timer.mode.is_periodic() {
            // A period ends where a new count takes over.
            let change = timer.pending.map_or(tick, |pending| pending.at.clamp(*signalled, tick));
            due = timer.rises(*signalled, change);
            timer.settle(tick);
            due += timer.rises(change, tick);
        } else {
            timer.settle(tick);
        }
        let period = ticks_to_ns(timer.ticks(), PIT_HZ).max(1);
        // Ticks faster than interrupts may come are not made up for.
        let most = if period < MIN_INTERRUPT_NS { 0 } else { (OWED_NS / period).clamp(1, OWED_MAX) };
        *owed = owed.saturating_add(due).min(most);
    }

    /// Signals owed ticks, as many as are heard one by one.
    fn signal_owed(&mut self) {
        while self.state.owed > 0 {
            match self.irq0.hearing() {
                // `taken` goes on.
                Hearing::Waiting => return,
                Hearing::Ready => self.state.owed -= 1,
                // Nobody counts.
                Hearing::Deaf => self.state.owed = 0,
            }
            self.signal();
        }
    }

    /// A CPU has taken an interrupt, maybe that of a tick while others are owed.
    pub fn taken(&mut self) {
        self.signal_owed();
    }

    /// One rising edge. OUT is left high, although it may be low again by now: the 8259 wants a request to stay.
    fn signal(&self) {
        self.irq0.lower();
        self.irq0.raise();
    }

    fn read_port61(&mut self) -> u8 {
        self.at_present(|state, tick| {
            let refresh = if (tick / REFRESH_TICKS) & 1 != 0 { port61::REFRESH_TOGGLE } else { 0 };
            let out = if state.channels[SPEAKER].out(tick) { port61::TIMER2_OUT } else { 0 };
            state.port61 | refresh | out
        })
    }

    fn write_port61(&mut self, value: u8) {
        self.at_present(|state, tick| {
            state.port61 = value & port61::WRITABLE;
            state.channels[SPEAKER].set_gate(value & port61::TIMER2_GATE != 0, tick);
        });
    }
}

/// A control word.
fn control(channels: &mut [Channel; CHANNELS], value: u8, tick: u64) {
    const READ_BACK: usize = 3;
    const NOT_COUNT: u8 = 1 << 5;
    const NOT_STATUS: u8 = 1 << 4;
    match usize::from(value >> 6) {
        READ_BACK => {
            for (index, channel) in channels.iter_mut().enumerate() {
                if value >> (index + 1) & 1 == 0 {
                    continue;
                }
                if value & NOT_COUNT == 0 {
                    channel.latch_count(tick);
                }
                if value & NOT_STATUS == 0 {
                    channel.latch_status(tick);
                }
            }
        }
        index => match Access::from_bits(value >> 4) {
            None => channels[index].latch_count(tick),
            Some(access) => channels[index].control(access, value, tick),
        },
    }
}

impl Device for Pit {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (index, byte) in (0..).zip(data) {
            *byte = match Port::from_offset(offset.wrapping_add(index)) {
                Some(Port::Counter(index)) => self.at_present(|state, tick| state.channels[index].read(tick)),
                Some(Port::Control) | None => 0xff,
            };
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

impl Timed for Pit {
    fn deadline(&self) -> Option<u64> {
        let rise = self.state.channels[TIMER].next_rise(self.state.signalled)?;
        Some(ticks_to_ns(rise, PIT_HZ).max(self.state.not_before))
    }

    fn expire(&mut self, now: u64) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            let tick = ns_to_ticks(now, PIT_HZ);
            self.count_owed(tick);
            self.state.signalled = tick;
            self.state.not_before = now.saturating_add(MIN_INTERRUPT_NS);
            if self.state.owed == 0 {
                self.signal();
            } else {
                self.signal_owed();
            }
        }
    }
}

/// Port 61h: the gate of channel 2, its output, and the refresh toggle.
pub struct Port61(Arc<Mutex<Pit>>);

impl Device for Port61 {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        let value = self.0.lock().read_port61();
        data.fill(0xff);
        if let Some(first) = data.first_mut() {
            *first = value;
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let Some(value) = data.first() {
            self.0.lock().write_port61(*value);
        }
    }
}

#[cfg(test)]
mod tests;
