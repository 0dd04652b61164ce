//! The clock against its data sheet.

use super::*;
use crate::irq::Recorder;

/// Wednesday, 2024-02-28 23:59:58.
const START: i64 = 1_709_164_798;
const SECOND: u64 = NS_PER_SEC;
const MS: u64 = 1_000_000;

const A: u8 = 0x0a;
const B: u8 = 0x0b;
const C: u8 = 0x0c;
const D: u8 = 0x0d;

struct Bench {
    clock: Arc<Clock>,
    lines: Arc<Recorder>,
    rtc: Rtc,
}

impl Bench {
    fn new() -> Bench {
        let clock = Clock::manual(1_000_000_000);
        let lines = Recorder::new();
        let rtc = Rtc::new(clock.clone(), START, lines.line(8), Alarm::silent());
        Bench { clock, lines, rtc }
    }

    fn read(&mut self, index: u8) -> u8 {
        let mut data = [0];
        self.rtc.write(0, &[index]);
        self.rtc.read(1, &mut data);
        data[0]
    }

    /// Register C without the periodic flag, which is set a thousand times a second whether enabled or not.
    fn flags(&mut self) -> u8 {
        self.read(C) & !0x40
    }

    fn write(&mut self, index: u8, value: u8) {
        self.rtc.write(0, &[index]);
        self.rtc.write(1, &[value]);
    }

    /// Century, year, month, day, weekday, hours, minutes, seconds as software reads them.
    fn time(&mut self) -> [u8; 8] {
        [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| self.read(index))
    }

    fn set_time(&mut self, time: [u8; 8]) {
        for (index, value) in [0x32, 9, 8, 7, 6, 4, 2, 0].into_iter().zip(time) {
            self.write(index, value);
        }
    }

    /// Lets time pass, the event loop doing its work.
    fn advance(&mut self, ns: u64) {
        let end = self.clock.now() + ns;
        while let Some(deadline) = self.rtc.deadline().filter(|deadline| *deadline <= end) {
            self.clock.advance_to(deadline);
            self.rtc.expire(self.clock.now());
        }
        self.clock.advance_to(end);
    }
}

#[test]
fn shows_the_time_in_bcd_and_runs_over_into_the_leap_day() {
    let mut bench = Bench::new();
    assert_eq!(bench.time(), [0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x58]);
    bench.advance(2 * SECOND);
    assert_eq!(bench.time(), [0x20, 0x24, 0x02, 0x29, 5, 0x00, 0x00, 0x00]);
    bench.advance(86_400 * SECOND);
    assert_eq!(bench.time(), [0x20, 0x24, 0x03, 0x01, 6, 0x00, 0x00, 0x00]);
}

#[test]
fn binary_and_twelve_hour_forms() {
    let mut bench = Bench::new();
    bench.write(B, 0x06);
    assert_eq!(bench.time(), [20, 24, 2, 28, 4, 23, 59, 58]);
    bench.write(B, 0x04);
    assert_eq!(bench.read(4), 11 | 0x80);
    bench.advance(2 * SECOND);
    assert_eq!(bench.read(4), 12, "midnight");
    bench.write(B, 0x00);
    bench.advance(12 * 3600 * SECOND);
    assert_eq!(bench.read(4), 0x92, "noon");
    bench.write(4, 0x81);
    bench.write(B, 0x02);
    assert_eq!(bench.read(4), 0x13);
}

#[test]
fn linux_sets_the_time() {
    // As Linux does: SET, divider in reset, registers, then both back.
    let mut bench = Bench::new();
    bench.advance(123 * MS);
    let (control, select) = (bench.read(B), bench.read(A));
    bench.write(B, control | 0x80);
    bench.write(A, select | 0x70);
    bench.set_time([0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x59]);
    bench.advance(10 * SECOND);
    assert_eq!(bench.time(), [0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x59], "time stands");
    bench.write(B, control);
    bench.write(A, select);
    bench.advance(499 * MS);
    assert_eq!(bench.read(0), 0x59);
    bench.advance(MS);
    assert_eq!(bench.time(), [0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x00], "half a second later");
    bench.advance(SECOND);
    assert_eq!(bench.read(0), 1);
}

#[test]
fn set_alone_keeps_the_divider_running() {
    let mut bench = Bench::new();
    bench.advance(900 * MS);
    bench.write(B, 0x82);
    bench.write(0, 0x30);
    bench.advance(3 * SECOND + 50 * MS);
    bench.write(B, 0x02);
    assert_eq!(bench.read(0), 0x30);
    bench.advance(50 * MS);
    assert_eq!(bench.read(0), 0x31);
}

#[test]
fn registers_can_be_written_while_time_runs() {
    let mut bench = Bench::new();
    bench.write(2, 0x15);
    bench.write(6, 1);
    assert_eq!(bench.time(), [0x20, 0x24, 0x02, 0x28, 1, 0x23, 0x15, 0x58]);
    bench.advance(86_400 * SECOND);
    assert_eq!(bench.read(6), 2, "the day of the week goes on from what was set");
}

#[test]
fn update_in_progress_is_seen_before_the_update() {
    let mut bench = Bench::new();
    bench.advance(SECOND - 244_001);
    assert_eq!(bench.read(A), 0x26);
    bench.advance(1);
    assert_eq!(bench.read(A), 0xa6);
    bench.write(B, 0x82);
    assert_eq!(bench.read(A), 0x26, "no update with SET");
    bench.write(B, 0x02);
    bench.advance(244_000);
    assert_eq!(bench.read(A), 0x26);
    bench.write(A, 0xa6);
    assert_eq!(bench.read(A), 0x26, "UIP cannot be written");
}

#[test]
fn update_ended_interrupt() {
    let mut bench = Bench::new();
    assert_eq!(bench.rtc.deadline(), None);
    bench.advance(SECOND);
    assert_eq!(bench.flags(), 0x10, "the flag needs no enable");
    bench.write(B, 0x12);
    bench.advance(SECOND - 1);
    assert!(!bench.lines.level(8));
    bench.advance(1);
    assert!(bench.lines.level(8));
    assert_eq!(bench.rtc.deadline(), None, "nothing more until register C is read");
    bench.advance(5 * SECOND);
    assert_eq!((bench.flags() & 0x90, bench.lines.level(8)), (0x90, false));
    assert_eq!(bench.read(C), 0);
    bench.write(B, 0x92);
    assert_eq!(bench.read(B), 0x82, "SET takes UIE with it");
}

#[test]
fn periodic_interrupt_at_its_rates() {
    for (rate, hz) in [(3, 8_192), (6, 1_024), (13, 8), (15, 2), (1, 256), (2, 128)] {
        let mut bench = Bench::new();
        bench.write(A, 0x20 | rate);
        bench.write(B, 0x42);
        let mut interrupts = 0;
        while let Some(deadline) = bench.rtc.deadline().filter(|deadline| *deadline <= SECOND) {
            bench.advance(deadline - bench.clock.now());
            assert!(bench.lines.level(8));
            assert_eq!(bench.read(C) & 0xe0, 0xc0);
            interrupts += 1;
        }
        assert_eq!(interrupts, hz, "rate {rate}");
    }
    let mut bench = Bench::new();
    bench.write(A, 0x20);
    bench.write(B, 0x42);
    assert_eq!(bench.rtc.deadline(), None, "rate 0 is off");
    bench.write(A, 0x66);
    assert_eq!(bench.rtc.deadline(), None, "the divider is held");
}

#[test]
fn alarm_at_a_time_of_day() {
    let mut bench = Bench::new();
    for (index, value) in [(5, 0x06), (3, 0x30), (1, 0x00)] {
        bench.write(index, value);
    }
    bench.write(B, 0x22);
    assert_eq!((bench.read(5), bench.read(3), bench.read(1)), (0x06, 0x30, 0x00));
    let until = (6 * 3600 + 30 * 60 + 2) * SECOND;
    assert_eq!(bench.rtc.deadline(), Some(until));
    bench.advance(until - 1);
    assert!(!bench.lines.level(8));
    bench.advance(1);
    assert_eq!((bench.lines.level(8), bench.flags()), (true, 0xb0));
    bench.advance(86_400 * SECOND);
    assert_eq!(bench.flags(), 0xb0, "and each day");
}

#[test]
fn alarm_bytes_that_do_not_care() {
    let mut bench = Bench::new();
    for (index, value) in [(5, 0xff), (3, 0xc0), (1, 0x05)] {
        bench.write(index, value);
    }
    bench.write(B, 0x22);
    bench.advance(7 * SECOND);
    assert_eq!(bench.read(C) & 0xa0, 0xa0);
    bench.advance(59 * SECOND);
    assert_eq!(bench.read(C) & 0xa0, 0);
    bench.advance(SECOND);
    assert_eq!(bench.read(C) & 0xa0, 0xa0, "each minute");
    bench.write(1, 0x75);
    assert_eq!(bench.rtc.deadline(), None, "there is no second 75");
}

#[test]
fn alarm_in_the_twelve_hour_form() {
    let mut bench = Bench::new();
    bench.write(B, 0x20);
    for (index, value) in [(5, 0x92), (3, 0xff), (1, 0xff)] {
        bench.write(index, value);
    }
    assert_eq!(bench.rtc.deadline(), Some((12 * 3600 + 2) * SECOND));
}

#[test]
fn the_alarm_of_the_board_rings_after_register_c() {
    let rung = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let heard = rung.clone();
    let mut bench = Bench::new();
    bench.rtc.timer = Alarm::new(move |deadline| heard.lock().push(deadline));
    bench.write(B, 0x12);
    bench.advance(SECOND);
    bench.read(C);
    assert_eq!(*rung.lock(), [SECOND, 2 * SECOND]);
}

#[test]
fn memory_and_index_port() {
    let mut bench = Bench::new();
    bench.write(0x7f, 0xa5);
    bench.write(0x8e, 0x5a);
    assert!(bench.rtc.nmi_masked());
    assert_eq!((bench.read(0x7f), bench.read(0x0e), bench.read(D)), (0xa5, 0x5a, 0x80));
    assert!(!bench.rtc.nmi_masked());
    let mut data = [0];
    bench.rtc.read(0, &mut data);
    assert_eq!(data, [0xff], "the index cannot be read");
    bench.rtc.write(0, &[0x40, 0x77]);
    assert_eq!(bench.read(0x40), 0x77, "a 16-bit write is index and data");
}

#[test]
fn describes_the_memory_with_a_checksum() {
    let mut bench = Bench::new();
    bench.rtc.describe_memory(128 << 20, 3 << 30);
    assert_eq!([0x15, 0x16].map(|index| bench.read(index)), [0x80, 0x02]);
    assert_eq!([0x17, 0x18].map(|index| bench.read(index)), [0xff, 0xff]);
    assert_eq!([0x34, 0x35].map(|index| bench.read(index)), [0x00, 0x07]);
    assert_eq!([0x5b, 0x5c, 0x5d].map(|index| bench.read(index)), [0x00, 0xc0, 0x00]);
    let sum: u16 = (0x10..=0x2d).map(|index| u16::from(bench.read(index))).sum();
    assert_eq!([bench.read(0x2e), bench.read(0x2f)], sum.to_be_bytes());
    bench.rtc.set_cmos(0x04, 0x99);
    assert_eq!(bench.read(4), 0x23, "the board cannot set registers");
}

#[test]
fn reset_turns_interrupts_off_and_keeps_the_time() {
    let mut bench = Bench::new();
    bench.write(B, 0x72);
    bench.write(0x55, 9);
    bench.advance(SECOND);
    assert!(bench.lines.level(8));
    bench.rtc.reset();
    assert!(!bench.lines.level(8));
    assert_eq!((bench.read(B), bench.read(C), bench.read(0x55), bench.read(0)), (0x02, 0, 9, 0x59));
}

#[test]
fn survives_a_round_trip_with_time_standing_and_running() {
    let mut bench = Bench::new();
    bench.advance(300 * MS);
    bench.write(B, 0x82);
    bench.write(2, 0x11);
    let bytes = rmp_serde::to_vec_named(&(bench.clock.save(), bench.rtc.save())).unwrap();
    let mut loaded = Bench::new();
    let (clock, rtc) = rmp_serde::from_slice(&bytes).unwrap();
    loaded.clock.load(&clock);
    loaded.rtc.load(rtc);
    loaded.write(B, 0x12);
    loaded.advance(700 * MS);
    assert!(loaded.lines.level(8));
    assert_eq!((loaded.read(2), loaded.read(0)), (0x11, 0x59));

    let bytes = rmp_serde::to_vec_named(&loaded.rtc.save()).unwrap();
    let now = loaded.clock.save();
    let mut again = Bench::new();
    again.clock.load(&now);
    again.rtc.load(rmp_serde::from_slice(&bytes).unwrap());
    assert_eq!((again.time(), again.flags()), (loaded.time(), 0x90));
}

#[test]
fn odd_values_do_no_harm() {
    let mut bench = Bench::new();
    for value in 0..=255 {
        for index in 0..=255 {
            bench.clock.advance(17 * MS);
            bench.write(index, value);
            bench.read(index);
            let _ = bench.rtc.deadline();
        }
        bench.rtc.write(u64::MAX, &[value; 3]);
        bench.rtc.read(u64::MAX, &mut [0; 3]);
        bench.time();
    }
}
