//! The high precision event timer: IA-PC HPET specification 1.0a. Three comparators on a 100 MHz counter, with legacy
//! replacement routing, without front-side-bus delivery.
//!
//! Nothing ticks: the counter is computed from the clock when someone asks.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::Device;
use crate::clock::{Alarm, Clock, Timed};
use crate::irq::{Hearing, IrqLine, IrqSink};

/// A tick of the main counter in nanoseconds.
const TICK_NS: u64 = 10;

/// Shorter periods are counted exactly, but their interrupts come no faster, lest a guest keeps the host busy.
const MIN_INTERRUPT_NS: u64 = 20_000;

const TIMERS: usize = 3;

/// The I/O APIC pins that each timer can drive, as on Intel's ICH9.
const INT_ROUTE_CAP: [u32; TIMERS] = [0x00f0_0000, 0x00f0_0000, 0x00f0_0800];

/// The registers, 64 bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reg {
    /// General capabilities and ID.
    GcapId,
    /// General configuration.
    GenConf,
    /// General interrupt status.
    GintrSta,
    MainCnt,
    TnConf(usize),
    TnComp(usize),
}

impl Reg {
    fn from_offset(offset: u64) -> Option<Reg> {
        const FIRST_TIMER: u64 = 0x100;
        const TIMER_SIZE: u64 = 0x20;
        Some(match offset {
            0x000 => Reg::GcapId,
            0x010 => Reg::GenConf,
            0x020 => Reg::GintrSta,
            0x0f0 => Reg::MainCnt,
            FIRST_TIMER.. => {
                let timer = usize::try_from((offset - FIRST_TIMER) / TIMER_SIZE).ok()?;
                if timer >= TIMERS {
                    return None;
                }
                match offset % TIMER_SIZE {
                    0x00 => Reg::TnConf(timer),
                    0x08 => Reg::TnComp(timer),
                    // FSB route: not offered.
                    _ => return None,
                }
            }
            _ => return None,
        })
    }
}

/// Period in femtoseconds, vendor 8086h, legacy replacement and a 64-bit counter, number of the last timer, revision 1.
const GCAP_ID: u64 =
    (TICK_NS * 1_000_000) << 32 | 0x8086 << 16 | 1 << 15 | 1 << 13 | (TIMERS as u64 - 1) << 8 | 0x01;

/// Bits of the general configuration.
mod gen_conf {
    pub(super) const ENABLE_CNF: u64 = 1 << 0;
    pub(super) const LEG_RT_CNF: u64 = 1 << 1;
    pub(super) const WRITABLE: u64 = ENABLE_CNF | LEG_RT_CNF;
}

/// Bits of a timer's configuration and capabilities.
mod tn_conf {
    pub(super) const INT_TYPE_LEVEL: u64 = 1 << 1;
    pub(super) const INT_ENB: u64 = 1 << 2;
    pub(super) const TYPE_PERIODIC: u64 = 1 << 3;
    pub(super) const PER_INT_CAP: u64 = 1 << 4;
    pub(super) const SIZE_CAP: u64 = 1 << 5;
    pub(super) const VAL_SET: u64 = 1 << 6;
    pub(super) const MODE_32: u64 = 1 << 8;
    pub(super) const INT_ROUTE_SHIFT: u32 = 9;
    pub(super) const INT_ROUTE: u64 = 0x1f << INT_ROUTE_SHIFT;
    pub(super) const INT_ROUTE_CAP_SHIFT: u32 = 32;
    pub(super) const WRITABLE: u64 = INT_TYPE_LEVEL | INT_ENB | TYPE_PERIODIC | MODE_32 | INT_ROUTE;
}

/// Where a timer's interrupt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Route {
    /// In place of the PIT's IRQ 0 (timer 0) and the RTC's IRQ 8 (timer 1).
    Legacy(usize),
    Gsi(u32),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Timer {
    /// The writable bits.
    config: u64,
    comparator: u64,
    /// What is added to the comparator after each match of a periodic timer.
    period: u64,
    /// The next write of the comparator sets the comparator of a periodic timer too.
    val_set: bool,
    /// The next match, in ticks since power-on; known while the counter runs.
    due: Option<u64>,
    /// No interrupt before this moment, for very short periods.
    not_before: u64,
    /// Where a level is asserted.
    asserted: Option<Route>,
}

impl Timer {
    fn new() -> Timer {
        Timer {
            config: 0,
            comparator: u64::MAX,
            period: 0,
            val_set: false,
            due: None,
            not_before: 0,
            asserted: None,
        }
    }

    fn has(&self, bit: u64) -> bool {
        self.config & bit != 0
    }

    /// The bits that a comparison looks at.
    fn mask(&self) -> u64 {
        if self.has(tn_conf::MODE_32) { u32::MAX.into() } else { u64::MAX }
    }

    /// Computes when the counter, now `counter` at `tick`, comes to the comparator.
    fn arm(&mut self, counter: u64, tick: u64) {
        self.due = tick.checked_add(self.comparator.wrapping_sub(counter) & self.mask());
    }

    /// Whether it matched up to `tick`; if so, goes on to the next match.
    fn matched(&mut self, tick: u64) -> bool {
        let Some(due) = self.due.filter(|due| *due <= tick) else { return false };
        let mask = self.mask();
        let between = if self.has(tn_conf::TYPE_PERIODIC) && self.period != 0 {
            Some(self.period)
        } else {
            // The counter comes by again when it wraps.
            mask.checked_add(1)
        };
        self.due = between.and_then(|between| {
            let advance = ((tick - due) / between + 1).checked_mul(between)?;
            if self.has(tn_conf::TYPE_PERIODIC) && self.period != 0 {
                self.comparator = self.comparator.wrapping_add(advance) & mask;
            }
            due.checked_add(advance)
        });
        true
    }

    fn write_config(&mut self, value: u64, route_cap: u32) {
        let route = (value & tn_conf::INT_ROUTE) >> tn_conf::INT_ROUTE_SHIFT;
        let mut writable = tn_conf::WRITABLE;
        if route_cap >> route & 1 == 0 {
            // A pin that it cannot drive does not stick: that is how software finds out.
            writable &= !tn_conf::INT_ROUTE;
        }
        self.config = self.config & !writable | value & writable;
        self.val_set = value & tn_conf::VAL_SET != 0;
        self.comparator &= self.mask();
        self.period &= self.mask();
    }

    fn write_comparator(&mut self, value: u64, written: u64) {
        let mask = self.mask();
        if self.has(tn_conf::TYPE_PERIODIC) {
            // One write after VAL_SET sets both: some software writes once, some writes the period again.
            self.period = merge(self.period, value, written) & mask;
        }
        if !self.has(tn_conf::TYPE_PERIODIC) || self.val_set {
            self.comparator = merge(self.comparator, value, written) & mask;
        }
        self.val_set = false;
    }
}

/// `old` with the bits of `written` taken from `new`.
fn merge(old: u64, new: u64, written: u64) -> u64 {
    old & !written | new & written
}

/// What a snapshot keeps of the timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HpetState {
    config: u64,
    /// General interrupt status.
    status: u64,
    /// Halted: the counter. Running: the counter minus ticks since power-on (wrapping).
    base: u64,
    timers: [Timer; TIMERS],
}

impl HpetState {
    fn new() -> HpetState {
        HpetState { config: 0, status: 0, base: 0, timers: std::array::from_fn(|_| Timer::new()) }
    }

    fn is_enabled(&self) -> bool {
        self.config & gen_conf::ENABLE_CNF != 0
    }

    fn counter(&self, tick: u64) -> u64 {
        if self.is_enabled() { self.base.wrapping_add(tick) } else { self.base }
    }

    fn set_counter(&mut self, counter: u64, tick: u64) {
        self.base = if self.is_enabled() { counter.wrapping_sub(tick) } else { counter };
    }

    fn arm(&mut self, timer: usize, tick: u64) {
        let counter = self.counter(tick);
        let enabled = self.is_enabled();
        let timer = &mut self.timers[timer];
        timer.due = None;
        if enabled {
            timer.arm(counter, tick);
        }
    }

    fn arm_all(&mut self, tick: u64) {
        (0..TIMERS).for_each(|timer| self.arm(timer, tick));
    }

    fn route(&self, timer: usize) -> Option<Route> {
        if self.config & gen_conf::LEG_RT_CNF != 0 && timer < LegacyRouting::TIMERS {
            return Some(Route::Legacy(timer));
        }
        let gsi = ((self.timers[timer].config & tn_conf::INT_ROUTE) >> tn_conf::INT_ROUTE_SHIFT) as u32;
        (INT_ROUTE_CAP[timer] >> gsi & 1 != 0).then_some(Route::Gsi(gsi))
    }

    /// Where a level of this timer is to be asserted now.
    fn level(&self, timer: usize) -> Option<Route> {
        let config = self.timers[timer].config;
        let active = self.is_enabled()
            && self.status >> timer & 1 != 0
            && config & (tn_conf::INT_ENB | tn_conf::INT_TYPE_LEVEL)
                == tn_conf::INT_ENB | tn_conf::INT_TYPE_LEVEL;
        if active { self.route(timer) } else { None }
    }
}

/// The high precision event timer: a register block of 1 KiB.
pub struct Hpet {
    clock: Arc<Clock>,
    sink: Arc<dyn IrqSink>,
    legacy: Arc<LegacyRouting>,
    alarm: Alarm,
    state: HpetState,
}

impl Hpet {
    /// The timer after power-on: halted. It drives global system interrupts of `sink` and, as `legacy` replacement,
    /// IRQs 0 and 8.
    pub fn new(clock: Arc<Clock>, sink: Arc<dyn IrqSink>, legacy: Arc<LegacyRouting>, alarm: Alarm) -> Hpet {
        Hpet { clock, sink, legacy, alarm, state: HpetState::new() }
    }

    /// RESET: as after power-on.
    pub fn reset(&mut self) {
        // Disabled, it lets go of every level.
        self.state.config = 0;
        self.drive_levels();
        self.state = HpetState::new();
        self.legacy.change(|state| {
            state.replaced = false;
            state.hpet = [false; LegacyRouting::TIMERS];
        });
    }

    /// What a snapshot keeps.
    pub fn save(&self) -> HpetState {
        self.state.clone()
    }

    /// Takes over a snapshot's state; the routing has its own.
    pub fn load(&mut self, state: HpetState) {
        self.state = state;
    }

    fn read_register(&mut self, reg: Reg) -> u64 {
        let now = self.clock.now();
        self.expire(now);
        match reg {
            Reg::GcapId => GCAP_ID,
            Reg::GenConf => self.state.config,
            Reg::GintrSta => self.state.status,
            Reg::MainCnt => self.state.counter(now / TICK_NS),
            Reg::TnConf(timer) => {
                self.state.timers[timer].config
                    | tn_conf::PER_INT_CAP
                    | tn_conf::SIZE_CAP
                    | u64::from(INT_ROUTE_CAP[timer]) << tn_conf::INT_ROUTE_CAP_SHIFT
            }
            Reg::TnComp(timer) => self.state.timers[timer].comparator,
        }
    }

    /// Writes the bits of `written`.
    fn write_register(&mut self, reg: Reg, value: u64, written: u64) {
        let before = self.deadline();
        // One look at the clock: what came between two would be lost.
        let now = self.clock.now();
        self.expire(now);
        let tick = now / TICK_NS;
        match reg {
            Reg::GcapId => {}
            Reg::GenConf => {
                let counter = self.state.counter(tick);
                self.state.config = merge(self.state.config, value, written) & gen_conf::WRITABLE;
                self.state.set_counter(counter, tick);
                self.state.arm_all(tick);
                self.drive_levels();
                self.legacy.set_replaced(self.state.config & gen_conf::LEG_RT_CNF != 0);
            }
            Reg::GintrSta => {
                // A one clears.
                self.state.status &= !(value & written);
                self.drive_levels();
            }
            Reg::MainCnt => {
                let counter = merge(self.state.counter(tick), value, written);
                self.state.set_counter(counter, tick);
                self.state.arm_all(tick);
            }
            Reg::TnConf(index) => {
                let timer = &mut self.state.timers[index];
                let width = timer.mask();
                timer.write_config(merge(timer.config, value, written), INT_ROUTE_CAP[index]);
                if !timer.has(tn_conf::INT_TYPE_LEVEL) {
                    self.state.status &= !(1 << index);
                }
                // Nothing else in the configuration changes when it matches.
                if self.state.timers[index].mask() != width {
                    self.state.arm(index, tick);
                }
                self.drive_levels();
            }
            Reg::TnComp(index) => {
                self.state.timers[index].write_comparator(value, written);
                self.state.timers[index].not_before = 0;
                self.state.arm(index, tick);
                self.expire(self.clock.now());
            }
        }
        self.alarm.ring_if_earlier(before, self.deadline());
    }

    /// A timer's comparator matched.
    fn fire(&mut self, index: usize, now: u64) {
        let timer = &mut self.state.timers[index];
        timer.not_before = now.saturating_add(MIN_INTERRUPT_NS);
        if timer.has(tn_conf::INT_TYPE_LEVEL) {
            self.state.status |= 1 << index;
            self.drive_levels();
        } else if timer.has(tn_conf::INT_ENB) {
            match self.state.route(index) {
                // The 8259 wants a request to stay.
                Some(Route::Legacy(input)) => {
                    self.legacy.set_timer(input, false);
                    self.legacy.set_timer(input, true);
                }
                Some(Route::Gsi(gsi)) => {
                    self.sink.set_line(gsi, true);
                    self.sink.set_line(gsi, false);
                }
                None => {}
            }
        }
    }

    fn drive_levels(&mut self) {
        for index in 0..TIMERS {
            let level = self.state.level(index);
            let asserted = std::mem::replace(&mut self.state.timers[index].asserted, level);
            if asserted != level {
                if let Some(route) = asserted {
                    self.drive(route, false);
                }
                if let Some(route) = level {
                    self.drive(route, true);
                }
            }
        }
    }

    fn drive(&self, route: Route, level: bool) {
        match route {
            Route::Legacy(timer) => self.legacy.set_timer(timer, level),
            Route::Gsi(gsi) => self.sink.set_line(gsi, level),
        }
    }
}

impl Device for Hpet {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = Reg::from_offset(offset & !7).map_or(0, |reg| self.read_register(reg));
        data.fill(0);
        for (byte, source) in data.iter_mut().zip(value.to_le_bytes().into_iter().skip((offset & 7) as usize))
        {
            *byte = source;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(reg) = Reg::from_offset(offset & !7) else { return };
        let (mut value, mut written) = ([0; 8], [0; 8]);
        for (index, byte) in ((offset & 7) as usize..8).zip(data) {
            value[index] = *byte;
            written[index] = 0xff;
        }
        self.write_register(reg, u64::from_le_bytes(value), u64::from_le_bytes(written));
    }
}

impl Timed for Hpet {
    fn deadline(&self) -> Option<u64> {
        let state = &self.state;
        let wanted = |index: usize, timer: &Timer| {
            // A level that is asserted already cannot be more so.
            timer.has(tn_conf::INT_ENB) && state.status >> index & 1 == 0
        };
        state
            .timers
            .iter()
            .enumerate()
            .filter(|(index, timer)| wanted(*index, timer))
            .filter_map(|(_, timer)| Some(timer.due?.saturating_mul(TICK_NS).max(timer.not_before)))
            .min()
    }

    fn expire(&mut self, now: u64) {
        for index in 0..TIMERS {
            if self.state.timers[index].matched(now / TICK_NS) {
                self.fire(index, now);
            }
        }
    }
}

/// The board's switch between PIT and RTC on one side and HPET timers 0 and 1 on the other, for IRQs 0 and 8. While
/// legacy replacement is on, PIT and RTC are cut off.
pub struct LegacyRouting {
    outputs: [IrqLine; LegacyRouting::TIMERS],
    state: Mutex<LegacyRoutingState>,
}

/// What a snapshot keeps of the switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyRoutingState {
    replaced: bool,
    /// Levels of PIT and RTC.
    legacy: [bool; LegacyRouting::TIMERS],
    /// Levels of HPET timers 0 and 1.
    hpet: [bool; LegacyRouting::TIMERS],
}

impl LegacyRouting {
    const TIMERS: usize = 2;
    const PIT: u32 = 0;
    const RTC: u32 = 1;

    /// A switch that drives these two lines.
    pub fn new(irq0: IrqLine, irq8: IrqLine) -> Arc<LegacyRouting> {
        Arc::new(LegacyRouting { outputs: [irq0, irq8], state: Mutex::default() })
    }

    /// The PIT's pin.
    pub fn pit_line(self: &Arc<Self>) -> IrqLine {
        IrqLine::new(self.clone(), LegacyRouting::PIT)
    }

    /// The RTC's pin.
    pub fn rtc_line(self: &Arc<Self>) -> IrqLine {
        IrqLine::new(self.clone(), LegacyRouting::RTC)
    }

    /// What a snapshot keeps.
    pub fn save(&self) -> LegacyRoutingState {
        *self.state.lock()
    }

    /// Takes over a snapshot's state. The far end loads its own, so it is not driven.
    pub fn load(&self, state: &LegacyRoutingState) {
        *self.state.lock() = *state;
    }

    fn set_replaced(&self, replaced: bool) {
        self.change(|state| state.replaced = replaced);
    }

    fn set_timer(&self, timer: usize, level: bool) {
        self.change(|state| {
            if let Some(input) = state.hpet.get_mut(timer) {
                *input = level;
            }
        });
    }

    /// Changes inputs or the switch, and drives the lines with the lock held, so that changes arrive in their order.
    fn change(&self, change: impl FnOnce(&mut LegacyRoutingState)) {
        let mut state = self.state.lock();
        let before = state.levels();
        change(&mut state);
        for ((output, before), level) in self.outputs.iter().zip(before).zip(state.levels()) {
            if level != before {
                output.set(level);
            }
        }
    }
}

impl LegacyRoutingState {
    fn levels(&self) -> [bool; LegacyRouting::TIMERS] {
        if self.replaced { self.hpet } else { self.legacy }
    }
}

impl IrqSink for LegacyRouting {
    fn set_line(&self, input: u32, level: bool) {
        self.change(|state| {
            if let Some(input) = state.legacy.get_mut(input as usize) {
                *input = level;
            }
        });
    }

    fn hearing(&self, input: u32) -> Hearing {
        match self.outputs.get(input as usize) {
            Some(output) if !self.state.lock().replaced => output.hearing(),
            _ => Hearing::Deaf,
        }
    }
}

#[cfg(test)]
mod tests;
