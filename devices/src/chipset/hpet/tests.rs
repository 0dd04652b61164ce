//! The timer against its specification.

use super::*;
use crate::irq::Recorder;

const GCAP: u64 = 0x000;
const CONF: u64 = 0x010;
const STATUS: u64 = 0x020;
const COUNTER: u64 = 0x0f0;
const T0: u64 = 0x100;
const T1: u64 = 0x120;
const T2: u64 = 0x140;
const COMP: u64 = 8;

const ENABLE: u64 = 1;
const LEGACY: u64 = 2;
const LEVEL: u64 = 1 << 1;
const INT: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const VAL_SET: u64 = 1 << 6;
const MODE_32: u64 = 1 << 8;
const ROUTE_20: u64 = 20 << 9;

struct Bench {
    clock: Arc<Clock>,
    lines: Arc<Recorder>,
    legacy: Arc<LegacyRouting>,
    hpet: Hpet,
}

impl Bench {
    fn new() -> Bench {
        let clock = Clock::manual(1_000_000_000);
        let lines = Recorder::new();
        let legacy = LegacyRouting::new(lines.line(0), lines.line(8));
        let hpet = Hpet::new(clock.clone(), lines.clone(), legacy.clone(), Alarm::silent());
        Bench { clock, lines, legacy, hpet }
    }

    fn read(&mut self, offset: u64) -> u64 {
        let mut data = [0; 8];
        self.hpet.read(offset, &mut data);
        u64::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, value: u64) {
        self.hpet.write(offset, &value.to_le_bytes());
    }

    fn write32(&mut self, offset: u64, value: u32) {
        self.hpet.write(offset, &value.to_le_bytes());
    }

    /// Lets ticks pass, the event loop doing its work.
    fn ticks(&mut self, ticks: u64) {
        let end = self.clock.now() + ticks * TICK_NS;
        while let Some(deadline) = self.hpet.deadline().filter(|deadline| *deadline <= end) {
            self.clock.advance_to(deadline);
            self.hpet.expire(self.clock.now());
        }
        self.clock.advance_to(end);
    }
}

#[test]
fn says_what_it_is() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(GCAP), 0x0098_9680_8086_a201);
    assert_eq!(bench.read(T0), 0x00f0_0000_0000_0030);
    assert_eq!(bench.read(T2), 0x00f0_0800_0000_0030);
    assert_eq!(bench.read(T0 + COMP), u64::MAX);
    let mut data = [0; 4];
    bench.hpet.read(GCAP + 4, &mut data);
    assert_eq!(u32::from_le_bytes(data), 10_000_000);
    assert_eq!((bench.read(0x160), bench.read(0x110), bench.read(0x3f8)), (0, 0, 0));
}

#[test]
fn the_counter_runs_when_enabled_and_keeps_its_value_when_halted() {
    let mut bench = Bench::new();
    bench.ticks(50);
    assert_eq!(bench.read(COUNTER), 0);
    bench.write(COUNTER, 0x1_0000_0000 - 10);
    bench.write(CONF, ENABLE);
    bench.ticks(30);
    assert_eq!(bench.read(COUNTER), 0x1_0000_0014);
    let mut high = [0; 4];
    bench.hpet.read(COUNTER + 4, &mut high);
    assert_eq!(u32::from_le_bytes(high), 1);
    bench.write(CONF, 0);
    bench.ticks(30);
    assert_eq!(bench.read(COUNTER), 0x1_0000_0014);
    bench.write32(COUNTER, 7);
    assert_eq!(bench.read(COUNTER), 0x1_0000_0007);
}

#[test]
fn one_shot_interrupts_once() {
    let mut bench = Bench::new();
    bench.write(T0, INT | ROUTE_20);
    bench.write(T0 + COMP, 100_000);
    assert_eq!(bench.hpet.deadline(), None, "halted");
    bench.write(CONF, ENABLE);
    assert_eq!(bench.hpet.deadline(), Some(1_000_000));
    bench.ticks(99_999);
    assert!(bench.lines.take_changes().is_empty());
    bench.ticks(1);
    assert_eq!(bench.lines.take_changes(), [(20, true), (20, false)]);
    bench.ticks(1_000_000);
    assert!(bench.lines.take_changes().is_empty());
}

#[test]
fn a_32_bit_comparator_matches_again_when_the_counter_wraps() {
    let mut bench = Bench::new();
    bench.write(COUNTER, 0xffff_ff00);
    bench.write(CONF, ENABLE);
    bench.write(T0, INT | ROUTE_20 | MODE_32);
    bench.write(T0 + COMP, 0xffff_ffff_0000_1000);
    assert_eq!(bench.read(T0 + COMP), 0x1000);
    bench.ticks(0x1100);
    assert_eq!(bench.lines.take_rises(20), 1);
    bench.ticks(1 << 32);
    assert_eq!(bench.lines.take_rises(20), 1);
}

#[test]
fn linux_programs_a_periodic_timer_by_two_writes() {
    let mut bench = Bench::new();
    bench.write(CONF, ENABLE | LEGACY);
    bench.ticks(12_345);
    bench.write32(T0, (INT | PERIODIC | VAL_SET | MODE_32) as u32);
    bench.write32(T0 + COMP, 12_345 + 100_000);
    bench.write32(T0 + COMP, 100_000);
    bench.ticks(99_999);
    assert_eq!(bench.lines.take_rises(0), 0);
    bench.ticks(1);
    assert_eq!(bench.lines.take_rises(0), 1);
    assert_eq!(bench.read(T0 + COMP), 12_345 + 200_000, "the comparator moves on");
    bench.ticks(1_000_000);
    assert_eq!(bench.lines.take_rises(0), 10);
}

#[test]
fn the_specification_programs_a_periodic_timer_by_one_write() {
    let mut bench = Bench::new();
    bench.write(T1, INT | PERIODIC | VAL_SET | ROUTE_20);
    bench.write(T1 + COMP, 50_000);
    bench.write(CONF, ENABLE);
    bench.ticks(500_000);
    assert_eq!(bench.lines.take_rises(20), 10);
}

#[test]
fn periods_that_nobody_served_are_one_interrupt() {
    let mut bench = Bench::new();
    bench.write(T0, INT | PERIODIC | VAL_SET | ROUTE_20);
    bench.write(T0 + COMP, 10_000);
    bench.write(CONF, ENABLE);
    bench.clock.advance(1_050_000);
    bench.hpet.expire(bench.clock.now());
    assert_eq!(bench.lines.take_rises(20), 1);
    assert_eq!(bench.hpet.deadline(), Some(1_100_000));
}

#[test]
fn a_level_stays_until_its_status_is_cleared() {
    let mut bench = Bench::new();
    bench.write(T2, INT | LEVEL | ROUTE_20 | PERIODIC | VAL_SET);
    bench.write(T2 + COMP, 10_000);
    bench.write(CONF, ENABLE);
    bench.ticks(10_000);
    assert!(bench.lines.level(20));
    assert_eq!((bench.read(STATUS), bench.hpet.deadline()), (0b100, None));
    bench.write(STATUS, 0b011);
    assert!(bench.lines.level(20));
    bench.write(STATUS, 0b100);
    assert!(!bench.lines.level(20));
    bench.ticks(10_000);
    assert!(bench.lines.level(20));
    bench.write(T2, LEVEL | ROUTE_20 | PERIODIC);
    assert!(!bench.lines.level(20), "disabled");
    bench.write(T2, INT | LEVEL | 21 << 9 | PERIODIC);
    assert!(bench.lines.level(21), "moved to another pin");
    bench.write(CONF, 0);
    assert!(!bench.lines.level(21), "disabled as a whole");
}

#[test]
fn legacy_replacement_cuts_off_pit_and_rtc() {
    let mut bench = Bench::new();
    let (pit, rtc) = (bench.legacy.pit_line(), bench.legacy.rtc_line());
    pit.raise();
    rtc.pulse();
    assert_eq!(bench.lines.take_changes(), [(0, true), (8, true), (8, false)]);
    bench.write(CONF, ENABLE | LEGACY);
    assert!(!bench.lines.level(0));
    pit.pulse();
    rtc.raise();
    bench.lines.take_changes();
    bench.write(T1, INT);
    bench.write(T1 + COMP, 10_000);
    bench.ticks(20_000);
    assert_eq!(bench.lines.take_changes(), [(8, true)]);
    bench.write(CONF, ENABLE);
    assert_eq!((bench.lines.level(0), bench.lines.level(8)), (false, true));
}

#[test]
fn unsupported_routes_do_not_stick() {
    let mut bench = Bench::new();
    bench.write(T0, ROUTE_20);
    bench.write(T0, 11 << 9);
    assert_eq!(bench.read(T0) & 0x1f << 9, ROUTE_20);
    bench.write(T2, 11 << 9);
    assert_eq!(bench.read(T2) & 0x1f << 9, 11 << 9);
    bench.write(T0, 1 << 14);
    assert_eq!(bench.read(T0) & 1 << 14, 0, "no front-side-bus delivery");
}

#[test]
fn a_comparator_just_missed_does_not_match() {
    let mut bench = Bench::new();
    bench.write(CONF, ENABLE);
    bench.write(T0, INT | ROUTE_20 | MODE_32);
    bench.ticks(1_000);
    bench.write(T0 + COMP, 999);
    bench.ticks(1_000_000);
    assert_eq!(bench.lines.take_rises(20), 0);
    bench.write(T0 + COMP, 1_001_000);
    assert_eq!(bench.lines.take_rises(20), 1, "just now");
}

#[test]
fn absurdly_short_periods_do_not_storm() {
    let mut bench = Bench::new();
    bench.write(T0, INT | ROUTE_20 | PERIODIC | VAL_SET);
    bench.write(T0 + COMP, 1);
    bench.write(CONF, ENABLE);
    bench.ticks(100_000);
    let rises = bench.lines.take_rises(20);
    assert!((40..=60).contains(&rises), "{rises}");
    bench.write(T0, INT | ROUTE_20 | PERIODIC | VAL_SET);
    bench.write(T0 + COMP, 0);
    bench.ticks(100_000);
}

#[test]
fn the_alarm_rings_when_a_deadline_moves_nearer() {
    let rung = Arc::new(Mutex::new(Vec::new()));
    let heard = rung.clone();
    let mut bench = Bench::new();
    bench.hpet.alarm = Alarm::new(move |deadline| heard.lock().push(deadline));
    bench.write(T0, INT | ROUTE_20);
    bench.write(CONF, ENABLE);
    bench.write(T0 + COMP, 5_000);
    bench.write(T0 + COMP, 9_000);
    bench.write(T0 + COMP, 7_000);
    assert!(rung.lock().ends_with(&[50_000, 70_000]));
}

#[test]
fn reset_halts_and_lets_go() {
    let mut bench = Bench::new();
    bench.write(T0, INT | LEVEL | ROUTE_20);
    bench.write(T0 + COMP, 10);
    bench.write(CONF, ENABLE | LEGACY);
    bench.ticks(10);
    assert!(bench.lines.level(0));
    bench.hpet.reset();
    assert!(!bench.lines.level(0));
    assert_eq!((bench.read(CONF), bench.read(STATUS), bench.read(COUNTER)), (0, 0, 0));
    bench.legacy.pit_line().raise();
    assert!(bench.lines.level(0));
}

#[test]
fn survives_a_round_trip_while_running() {
    let mut bench = Bench::new();
    bench.write(CONF, ENABLE | LEGACY);
    bench.write(T0, INT | PERIODIC | VAL_SET);
    bench.write(T0 + COMP, 100_000);
    bench.write(T2, INT | LEVEL | ROUTE_20);
    bench.write(T2 + COMP, 30_000);
    bench.ticks(140_000);
    let state = (bench.clock.save(), bench.hpet.save(), bench.legacy.save());
    let bytes = rmp_serde::to_vec_named(&state).unwrap();

    let mut loaded = Bench::new();
    let (clock, hpet, legacy) = rmp_serde::from_slice(&bytes).unwrap();
    loaded.clock.load(&clock);
    loaded.hpet.load(hpet);
    loaded.legacy.load(&legacy);
    assert_eq!((loaded.read(COUNTER), loaded.read(STATUS)), (140_000, 0b100));
    loaded.ticks(59_999);
    assert_eq!(loaded.lines.take_rises(0), 0);
    loaded.ticks(1);
    loaded.legacy.pit_line().raise();
    assert!(loaded.lines.level(0));
    loaded.lines.line(20).raise();
    loaded.write(STATUS, 0b100);
    assert!(!loaded.lines.level(20), "it knows what it asserted");
}

#[test]
fn odd_accesses_do_no_harm() {
    let mut bench = Bench::new();
    for offset in (0..0x400).chain([u64::MAX - 9, u64::MAX]) {
        for size in [0, 1, 2, 4, 8, 16] {
            bench.clock.advance(1_234);
            bench.hpet.write(offset, &vec![0xff; size]);
            bench.hpet.read(offset, &mut vec![0; size]);
            bench.hpet.expire(bench.clock.now());
            let _ = bench.hpet.deadline();
        }
    }
    assert_eq!(bench.read(GCAP), GCAP_ID);
}
