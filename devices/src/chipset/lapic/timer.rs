//! The timer of a local APIC: one-shot and periodic counting, and the TSC deadline. SDM 3A "APIC Timer".

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, NS_PER_SEC};

/// The frequency at which the timer counts before its divider: the crystal clock that CPUID leaf 15h reports.
pub const APIC_TIMER_HZ: u64 = 25_000_000;

const TICK_NS: u64 = NS_PER_SEC / APIC_TIMER_HZ;
const _: () = assert!(TICK_NS * APIC_TIMER_HZ == NS_PER_SEC, "a tick is a whole number of nanoseconds");

/// Periods shorter than this are counted exactly, but interrupts come no faster: a guest that asks for one each tick
/// must not keep the host busy with nothing else.
const MIN_INTERRUPT_NS: u64 = 20_000;

/// Timer mode: bits 18:17 of the LVT timer entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    /// Counts nothing.
    Reserved,
}

impl TimerMode {
    pub(super) fn from_bits(bits: u32) -> TimerMode {
        match bits & 0b11 {
            0b00 => TimerMode::OneShot,
            0b01 => TimerMode::Periodic,
            0b10 => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        }
    }

    fn counts(self) -> bool {
        matches!(self, TimerMode::OneShot | TimerMode::Periodic)
    }
}

/// Counts are not ticked but computed: the state holds when the count reaches zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timer {
    initial: u32,
    /// The divide configuration register as written.
    divide: u32,
    /// When the running count reaches zero, in guest nanoseconds; `None` while it stands.
    zero_at: Option<u64>,
    /// No interrupt before this moment, for very short periods.
    not_before: u64,
    /// IA32_TSC_DEADLINE in the guest's own TSC; 0 is disarmed.
    tsc_deadline: u64,
    /// The same moment in guest nanoseconds.
    tsc_due: u64,
}

impl Timer {
    const DIVIDE_BITS: u32 = 0b1011;

    pub(super) fn new() -> Timer {
        Timer { initial: 0, divide: 0, zero_at: None, not_before: 0, tsc_deadline: 0, tsc_due: 0 }
    }

    pub(super) fn initial_count(&self) -> u32 {
        self.initial
    }

    pub(super) fn set_initial_count(&mut self, count: u32, mode: TimerMode, now: u64) {
        if !mode.counts() {
            return;
        }
        self.initial = count;
        self.not_before = 0;
        self.zero_at = (count != 0).then(|| now.saturating_add(self.ticks_ns(count)));
    }

    /// Both counts as they were elsewhere: the current one goes on.
    pub(super) fn set_counts(&mut self, initial: u32, current: u32, mode: TimerMode, now: u64) {
        self.set_initial_count(initial, mode, now);
        if mode.counts() {
            self.zero_at = (current != 0).then(|| now.saturating_add(self.ticks_ns(current)));
        }
    }

    pub(super) fn current_count(&self, mode: TimerMode, now: u64) -> u32 {
        match self.zero_at {
            Some(zero_at) if mode.counts() => self.count_before(zero_at, now),
            _ => 0,
        }
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    /// A running count goes on from where it is, at the new speed.
    pub(super) fn set_divide(&mut self, value: u32, now: u64) {
        let count = self.zero_at.map(|zero_at| self.count_before(zero_at, now));
        self.divide = value & Timer::DIVIDE_BITS;
        self.zero_at = count.map(|count| now.saturating_add(self.ticks_ns(count)));
    }

    /// SDM 3A "TSC-Deadline Mode": changing to or from this mode disarms the timer.
    pub(super) fn change_mode(&mut self, from: TimerMode, to: TimerMode) {
        if from.counts() != to.counts() {
            self.zero_at = None;
            self.tsc_deadline = 0;
        }
    }

    pub(super) fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Arms at a value of the guest's TSC, which is the clock's plus `offset`; 0 disarms.
    pub(super) fn set_tsc_deadline(&mut self, deadline: u64, offset: u64, clock: &Clock) {
        self.tsc_deadline = deadline;
        let tsc = clock.tsc();
        let ahead = deadline.saturating_sub(tsc.wrapping_add(offset));
        self.tsc_due = clock.tsc_to_ns(tsc.saturating_add(ahead));
    }

    pub(super) fn deadline(&self, mode: TimerMode) -> Option<u64> {
        match mode {
            TimerMode::OneShot => self.zero_at,
            TimerMode::Periodic => self.zero_at.map(|zero_at| zero_at.max(self.not_before)),
            TimerMode::TscDeadline => (self.tsc_deadline != 0).then_some(self.tsc_due),
            TimerMode::Reserved => None,
        }
    }

    /// Whether the timer's interrupt is due at `now`; if so, goes on to what comes after it. Periods that nobody
    /// looked at in time are one interrupt.
    pub(super) fn expire(&mut self, mode: TimerMode, now: u64) -> bool {
        if self.deadline(mode).is_none_or(|deadline| now < deadline) {
            return false;
        }
        match mode {
            TimerMode::Periodic => {
                let period = self.ticks_ns(self.initial);
                self.zero_at = self.zero_at.and_then(|zero_at| {
                    let periods = now.saturating_sub(zero_at).checked_div(period)? + 1;
                    Some(zero_at.saturating_add(periods.saturating_mul(period)))
                });
                self.not_before = now.saturating_add(MIN_INTERRUPT_NS);
            }
            _ => {
                self.zero_at = None;
                self.tsc_deadline = 0;
            }
        }
        true
    }

    /// The count now, if it reaches zero at `zero_at`. A periodic count whose end is behind us, but whose interrupt
    /// is not yet due, has begun anew.
    fn count_before(&self, zero_at: u64, now: u64) -> u32 {
        let tick = self.tick_ns();
        if zero_at > now {
            return (zero_at - now).div_ceil(tick).min(u32::MAX.into()) as u32;
        }
        let elapsed = (now - zero_at) / tick;
        match u64::from(self.initial) {
            0 => 0,
            initial => (initial - elapsed % initial) as u32,
        }
    }

    fn tick_ns(&self) -> u64 {
        // Bits 3, 1 and 0: 000 divides by 2, 110 by 128, 111 by 1.
        let code = (self.divide & 0b11) | (self.divide >> 1 & 0b100);
        TICK_NS << ((code + 1) % 8)
    }

    fn ticks_ns(&self, ticks: u32) -> u64 {
        u64::from(ticks) * self.tick_ns()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_shot_counts_down_and_fires_once() {
        let mut timer = Timer::new();
        timer.set_divide(0b1011, 0);
        timer.set_initial_count(100, TimerMode::OneShot, 1_000);
        assert_eq!(timer.deadline(TimerMode::OneShot), Some(1_000 + 100 * 40));
        assert_eq!(timer.current_count(TimerMode::OneShot, 1_000), 100);
        assert_eq!(timer.current_count(TimerMode::OneShot, 1_040), 99);
        assert!(!timer.expire(TimerMode::OneShot, 4_999));
        assert!(timer.expire(TimerMode::OneShot, 5_000));
        assert!(!timer.expire(TimerMode::OneShot, 9_000));
        assert_eq!((timer.current_count(TimerMode::OneShot, 9_000), timer.initial_count()), (0, 100));
    }

    #[test]
    fn the_divider_has_all_its_values() {
        let codes = [0b0000, 0b0001, 0b0010, 0b0011, 0b1000, 0b1001, 0b1010, 0b1011];
        for (code, divisor) in codes.into_iter().zip([2, 4, 8, 16, 32, 64, 128, 1]) {
            let mut timer = Timer::new();
            timer.set_divide(code, 0);
            timer.set_initial_count(10, TimerMode::OneShot, 0);
            assert_eq!(timer.deadline(TimerMode::OneShot), Some(10 * 40 * divisor), "{code:04b}");
        }
    }

    #[test]
    fn a_new_divider_keeps_the_count() {
        let mut timer = Timer::new();
        timer.set_divide(0b1011, 0);
        timer.set_initial_count(1_000, TimerMode::OneShot, 0);
        timer.set_divide(0b0000, 400 * 40);
        assert_eq!(timer.current_count(TimerMode::OneShot, 400 * 40), 600);
        assert_eq!(timer.deadline(TimerMode::OneShot), Some(400 * 40 + 600 * 80));
    }

    #[test]
    fn periodic_keeps_its_phase_when_looked_at_late() {
        let mut timer = Timer::new();
        timer.set_divide(0b1011, 0);
        timer.set_initial_count(25_000, TimerMode::Periodic, 0); // 1 ms
        assert!(timer.expire(TimerMode::Periodic, 3_400_000));
        assert!(!timer.expire(TimerMode::Periodic, 3_400_000), "missed periods are one interrupt");
        assert_eq!(timer.deadline(TimerMode::Periodic), Some(4_000_000));
        assert_eq!(timer.current_count(TimerMode::Periodic, 3_400_000), 15_000);
    }

    #[test]
    fn absurdly_short_periods_do_not_storm() {
        let mut timer = Timer::new();
        timer.set_divide(0b1011, 0);
        timer.set_initial_count(1, TimerMode::Periodic, 0);
        let (mut now, mut interrupts) = (0, 0);
        while now < 1_000_000 {
            now = timer.deadline(TimerMode::Periodic).unwrap();
            interrupts += u32::from(timer.expire(TimerMode::Periodic, now));
        }
        assert!((40..=60).contains(&interrupts), "{interrupts}");
    }

    #[test]
    fn tsc_deadline_obeys_the_offset_and_fires_when_passed() {
        let clock = Clock::manual(2_000_000_000);
        clock.advance(1_000);
        let mut timer = Timer::new();
        timer.set_tsc_deadline(5_000_000 + 2_400, 5_000_000, &clock);
        assert_eq!(timer.deadline(TimerMode::TscDeadline), Some(1_200));
        assert!(!timer.expire(TimerMode::TscDeadline, 1_199));
        assert!(timer.expire(TimerMode::TscDeadline, 1_200));
        assert_eq!((timer.tsc_deadline(), timer.deadline(TimerMode::TscDeadline)), (0, None));

        timer.set_tsc_deadline(1, 0, &clock);
        assert!(timer.expire(TimerMode::TscDeadline, clock.now()), "a deadline in the past is due");
        timer.set_tsc_deadline(u64::MAX, 0, &clock);
        assert!(!timer.expire(TimerMode::TscDeadline, 1 << 60));
    }

    #[test]
    fn changing_to_or_from_tsc_deadline_mode_disarms() {
        let clock = Clock::manual(1_000_000_000);
        let mut timer = Timer::new();
        timer.set_initial_count(50, TimerMode::OneShot, 0);
        timer.change_mode(TimerMode::OneShot, TimerMode::Periodic);
        assert!(timer.deadline(TimerMode::Periodic).is_some());
        timer.change_mode(TimerMode::Periodic, TimerMode::TscDeadline);
        assert_eq!(timer.deadline(TimerMode::TscDeadline), None);
        timer.set_initial_count(50, TimerMode::TscDeadline, 0);
        timer.set_tsc_deadline(9, 0, &clock);
        timer.change_mode(TimerMode::TscDeadline, TimerMode::OneShot);
        assert_eq!((timer.deadline(TimerMode::OneShot), timer.tsc_deadline()), (None, 0));
    }
}
