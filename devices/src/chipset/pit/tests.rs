//! The timer against its data sheet.

use super::*;
use crate::clock::NS_PER_SEC;
use crate::interrupts::{CpuEvent, Interrupts, PicBlock, Wake};
use crate::irq::{IrqSink, Recorder};

/// A moment in the middle of a tick, so that ticks can be counted on.
fn middle_of(tick: u64) -> u64 {
    ticks_to_ns(tick, PIT_HZ) + 400
}

struct Bench {
    clock: Arc<Clock>,
    lines: Arc<Recorder>,
    pit: Arc<Mutex<Pit>>,
    port61: Port61,
}

impl Bench {
    fn new() -> Bench {
        let clock = Clock::manual(1_000_000_000);
        let lines = Recorder::new();
        let pit = Arc::new(Mutex::new(Pit::new(clock.clone(), lines.line(0), Alarm::silent())));
        clock.advance_to(middle_of(100));
        Bench { clock, lines, port61: Pit::port61(&pit), pit }
    }

    fn write(&self, offset: u64, value: u8) {
        self.pit.lock().write(offset, &[value]);
    }

    fn read(&self, offset: u64) -> u8 {
        let mut data = [0];
        self.pit.lock().read(offset, &mut data);
        data[0]
    }

    fn word(&self, offset: u64) -> u16 {
        u16::from_le_bytes([self.read(offset), self.read(offset)])
    }

    /// Control word for low-then-high access, then the count.
    fn program(&self, channel: u64, mode: u8, count: u16) {
        self.write(3, (channel as u8) << 6 | 0x30 | mode << 1);
        for byte in count.to_le_bytes() {
            self.write(channel, byte);
        }
    }

    fn port61(&mut self) -> u8 {
        let mut data = [0];
        self.port61.read(0, &mut data);
        data[0]
    }

    fn gate(&mut self, gate: bool) {
        self.port61.write(0, &[gate.into()]);
    }

    fn out2(&mut self) -> bool {
        self.port61() & 1 << 5 != 0
    }

    /// Lets ticks pass, the event loop doing its work.
    fn ticks(&self, ticks: u64) {
        let end = middle_of(ns_to_ticks(self.clock.now(), PIT_HZ) + ticks);
        loop {
            let deadline = self.pit.lock().deadline().filter(|deadline| *deadline <= end);
            self.clock.advance_to(deadline.unwrap_or(end));
            self.pit.lock().expire(self.clock.now());
            if deadline.is_none() {
                return;
            }
        }
    }

    /// Levels of channel 2's OUT over the next ticks.
    fn wave(&mut self, ticks: usize) -> String {
        (0..ticks)
            .map(|_| {
                self.ticks(1);
                if self.out2() { 'H' } else { 'L' }
            })
            .collect()
    }
}

#[test]
fn mode_0_goes_high_at_terminal_count_and_counts_on() {
    let mut bench = Bench::new();
    bench.gate(true);
    bench.program(2, 0, 4);
    assert!(!bench.out2());
    assert_eq!(bench.wave(8), "LLLLHHHH");
    assert_eq!(bench.word(2), 4u16.wrapping_sub(7));
    bench.write(3, 0xb0);
    assert!(!bench.out2(), "a control word alone lowers OUT");
}

#[test]
fn mode_0_stands_while_the_gate_is_low() {
    let mut bench = Bench::new();
    bench.gate(true);
    bench.program(2, 0, 10);
    bench.ticks(4);
    assert_eq!(bench.word(2), 7);
    bench.gate(false);
    bench.ticks(50);
    assert_eq!((bench.word(2), bench.out2()), (7, false));
    bench.gate(true);
    bench.ticks(1);
    assert_eq!(bench.word(2), 7);
    bench.ticks(7);
    assert!(bench.out2());
}

#[test]
fn mode_0_loads_while_the_gate_is_low() {
    let mut bench = Bench::new();
    bench.program(2, 0, 3);
    bench.ticks(20);
    assert_eq!((bench.word(2), bench.out2()), (3, false));
    bench.gate(true);
    assert_eq!(bench.wave(5), "LLLHH");
}

#[test]
fn mode_0_first_byte_of_a_new_count_stops_it() {
    let mut bench = Bench::new();
    bench.gate(true);
    bench.program(2, 0, 2);
    bench.ticks(5);
    bench.write(2, 3);
    assert!(!bench.out2());
    bench.ticks(100);
    assert!(!bench.out2());
    bench.write(2, 0);
    assert_eq!(bench.wave(5), "LLLHH");
}

#[test]
fn mode_1_is_triggered_by_the_gate_again_and_again() {
    let mut bench = Bench::new();
    bench.program(2, 1, 3);
    assert_eq!(bench.wave(3), "HHH");
    bench.gate(true);
    assert_eq!(bench.wave(5), "LLLHH");
    bench.gate(false);
    bench.gate(true);
    bench.ticks(2);
    bench.gate(false);
    bench.gate(true);
    assert_eq!(bench.wave(5), "LLLHH", "retriggered in the middle");
    bench.write(2, 2);
    bench.write(2, 0);
    assert_eq!(bench.wave(3), "HHH", "a new count waits for the gate");
    bench.gate(false);
    bench.gate(true);
    assert_eq!(bench.wave(4), "LLHH");
}

#[test]
fn mode_2_is_low_for_the_last_tick_of_each_period() {
    let mut bench = Bench::new();
    bench.gate(true);
    bench.program(2, 2, 4);
    assert_eq!(bench.wave(10), "HHHLHHHLHH");
    assert_eq!(bench.word(2), 3);
    bench.gate(false);
    assert_eq!(bench.wave(6), "HHHHHH");
    bench.gate(true);
    assert_eq!(bench.wave(5), "HHHLH", "the gate starts it anew");
}

#[test]
fn mode_2_takes_a_new_count_at_the_end_of_the_period() {
    let mut bench = Bench::new();
    bench.gate(true);
    bench.program(2, 2, 5);
    bench.ticks(2);
    bench.write(2, 3);
    bench.write(2, 0);
    bench.write(3, 0xe8);
    assert_eq!(bench.read(2) >> 6 & 1, 1, "NULL COUNT until then");
    assert_eq!(bench.wave(9), "HHLHHLHHL");
}

#[test]
fn mode_3_is_a_square_wave() {
    let mut bench = Bench::new();
    bench.gate(true);
    bench.program(2, 3, 6);
    assert_eq!(bench.wave(12), "HHHLLLHHHLLL");
    bench.program(2, 3, 5);
    assert_eq!(bench.wave(10), "HHHLLHHHLL", "an odd count is high for longer");
    bench.program(2, 3, 8);
    let values: Vec<u16> = (0..8)
        .map(|_| {
            bench.ticks(1);
            bench.word(2)
        })
        .collect();
    assert_eq!(values, [8, 6, 4, 2, 8, 6, 4, 2], "it counts by two");
}

#[test]
fn mode_4_strobes_once() {
    let mut bench = Bench::new();
    bench.gate(true);
    bench.program(2, 4, 3);
    assert_eq!(bench.wave(7), "HHHLHHH");
    bench.write(2, 1);
    bench.write(2, 0);
    assert_eq!(bench.wave(4), "HLHH");
}

#[test]
fn mode_5_strobes_after_the_gate() {
    let mut bench = Bench::new();
    bench.program(2, 5, 2);
    assert_eq!(bench.wave(5), "HHHHH");
    bench.gate(true);
    assert_eq!(bench.wave(5), "HHLHH");
}

#[test]
fn bcd_counts_decimally() {
    let bench = Bench::new();
    bench.write(3, 0x35);
    bench.write(0, 0x00);
    bench.write(0, 0x10);
    bench.ticks(2);
    assert_eq!(bench.word(0), 0x0999);
    bench.write(3, 0x35);
    bench.write(0, 0);
    bench.write(0, 0);
    bench.ticks(2);
    assert_eq!(bench.word(0), 0x9999, "zero is 10,000");
    bench.write(3, 0x35);
    bench.write(0, 0xff);
    bench.write(0, 0xff);
    bench.ticks(50_000);
}

#[test]
fn latched_counts_stay_until_read() {
    let bench = Bench::new();
    bench.program(0, 2, 1_000);
    bench.ticks(101);
    bench.write(3, 0x00);
    bench.ticks(100);
    bench.write(3, 0x00);
    assert_eq!(bench.word(0), 900);
    assert_eq!(bench.word(0), 800);
}

#[test]
fn read_back_gives_status_then_count() {
    let bench = Bench::new();
    bench.write(3, 0x34);
    bench.write(3, 0xc2);
    assert_eq!(bench.read(0), 0b1111_0100, "OUT high, no count yet, both bytes, mode 2");
    bench.word(0);
    bench.program(0, 3, 0x1234);
    bench.ticks(1);
    bench.write(3, 0xc2);
    bench.ticks(2);
    assert_eq!(bench.read(0), 0b1011_0110);
    assert_eq!(bench.word(0), 0x1234);
    bench.write(3, 0x50);
    bench.write(3, 0xe4);
    assert_eq!(bench.read(1), 0b0101_0000, "channel 1: low byte only, mode 0");
    assert_eq!(bench.read(3), 0xff, "the control port cannot be read");
}

#[test]
fn single_byte_access() {
    let bench = Bench::new();
    bench.write(3, 0x14);
    bench.write(0, 0x80);
    bench.ticks(2);
    assert_eq!((bench.read(0), bench.read(0)), (0x7f, 0x7f));
    bench.write(3, 0x24);
    bench.write(0, 0x80);
    bench.ticks(2);
    assert_eq!((bench.read(0), bench.read(0)), (0x7f, 0x7f), "high byte of 7fffh");
}

#[test]
fn channel_0_interrupts_each_period() {
    let bench = Bench::new();
    bench.program(0, 2, 11_932);
    bench.lines.take_changes();
    bench.ticks(11_932 * 100 + 1);
    assert_eq!(bench.lines.take_rises(0), 100);
    assert!(bench.lines.level(0), "the 8259 wants it to stay");
    bench.program(0, 3, 11_932);
    bench.lines.take_changes();
    bench.ticks(11_932 * 10 + 1);
    assert_eq!(bench.lines.take_rises(0), 10);
    bench.program(0, 0, 0);
    assert!(!bench.lines.level(0));
    bench.ticks(200_000);
    assert_eq!(bench.lines.take_rises(0), 1, "mode 0 interrupts once");
    assert_eq!(bench.pit.lock().deadline(), None);
    bench.program(0, 4, 100);
    bench.lines.take_changes();
    bench.ticks(1_000);
    assert_eq!(bench.lines.take_rises(0), 1, "so does mode 4");
}

#[test]
fn the_alarm_rings_when_a_channel_is_started() {
    let clock = Clock::manual(1_000_000_000);
    let rung = Arc::new(Mutex::new(Vec::new()));
    let heard = rung.clone();
    let alarm = Alarm::new(move |deadline| heard.lock().push(deadline));
    let mut pit = Pit::new(clock, IrqLine::unconnected(), alarm);
    pit.write(3, &[0x34]);
    pit.write(0, &[0xff]);
    assert!(rung.lock().is_empty());
    pit.write(0, &[0xff]);
    assert_eq!(*rung.lock(), [ticks_to_ns(65_536, PIT_HZ)]);
}

/// The timer thread that the bell wakes may take the host's core from the CPU that has just started a count.
#[test]
fn a_count_that_runs_out_before_its_write_ends_is_not_lost() {
    let clock = Clock::manual(1_000_000_000);
    let held_up = clock.clone();
    let alarm = Alarm::new(move |_| held_up.advance_to(middle_of(10_000)));
    let lines = Recorder::new();
    let mut pit = Pit::new(clock.clone(), lines.line(0), alarm);
    pit.write(3, &[0x38]);
    pit.write(0, &[0xfc]);
    pit.write(0, &[0x0d]);
    lines.take_changes();
    assert!(pit.deadline().is_some_and(|deadline| deadline <= clock.now()));
    pit.expire(clock.now());
    assert_eq!(lines.take_rises(0), 1);
}

#[test]
fn absurdly_short_periods_do_not_storm() {
    let bench = Bench::new();
    bench.program(0, 2, 1);
    bench.lines.take_changes();
    bench.ticks(1_193);
    let rises = bench.lines.take_rises(0);
    assert!((40..=60).contains(&rises), "{rises}");
}

#[test]
fn linux_calibrates_the_tsc() {
    // As Linux does: channel 2, mode 0, a 10 ms count, polled through port 61h.
    let mut bench = Bench::new();
    bench.gate(true);
    bench.program(2, 0, (PIT_HZ / 100) as u16);
    let start = bench.clock.tsc();
    while !bench.out2() {
        bench.clock.advance(1_000);
    }
    let mhz = (bench.clock.tsc() - start) / 10_000;
    assert!((999..=1_001).contains(&mhz), "{mhz}");
}

#[test]
fn port_61_shows_refresh_and_keeps_its_lower_bits() {
    let mut bench = Bench::new();
    bench.port61.write(0, &[0xff]);
    assert_eq!(bench.port61() & 0xcf, 0x0f);
    let mut toggles = 0;
    let mut last = bench.port61();
    for _ in 0..180 {
        bench.ticks(1);
        let value = bench.port61();
        toggles += u32::from((value ^ last) & 1 << 4 != 0);
        last = value;
    }
    assert_eq!(toggles, 10);
}

#[test]
fn survives_a_round_trip_while_counting() {
    let bench = Bench::new();
    bench.program(0, 2, 10_000);
    bench.write(3, 0xb6);
    bench.write(2, 0x34);
    bench.ticks(4_001);
    bench.write(3, 0x00);
    bench.read(0);
    let bytes = rmp_serde::to_vec_named(&(bench.clock.save(), bench.pit.lock().save())).unwrap();

    let loaded = Bench::new();
    let (clock, pit) = rmp_serde::from_slice(&bytes).unwrap();
    loaded.clock.load(&clock);
    loaded.pit.lock().load(pit);
    assert_eq!(loaded.read(0), (6_000u16 >> 8) as u8, "the high byte of the latched count");
    loaded.ticks(5_999);
    assert_eq!(loaded.lines.take_rises(0), 0);
    loaded.ticks(1);
    assert_eq!(loaded.lines.take_rises(0), 1);
    loaded.write(2, 0x12);
    loaded.ticks(1);
    assert_eq!(loaded.word(2), 0x1234);
}

#[test]
fn ticks_are_owed_while_the_last_one_waits_up_to_a_bound() {
    let bench = Bench::new();
    bench.program(0, 2, 1_000);
    bench.lines.take_changes();
    bench.lines.set_hearing(0, Hearing::Waiting);
    bench.ticks(5_001);
    assert_eq!((bench.lines.take_rises(0), bench.pit.lock().state.owed), (0, 5));
    bench.lines.set_hearing(0, Hearing::Ready);
    bench.pit.lock().taken();
    assert_eq!((bench.lines.take_rises(0), bench.pit.lock().state.owed), (5, 0));
    bench.ticks(1_000);
    assert_eq!(bench.lines.take_rises(0), 1);

    // 3,333 ticks were due.
    bench.lines.set_hearing(0, Hearing::Waiting);
    bench.clock.advance(2_793_400_000);
    bench.pit.lock().expire(bench.clock.now());
    assert_eq!(bench.pit.lock().state.owed, OWED_MAX);
    // A tick of 50 ms: 20 in a second.
    bench.program(0, 2, 59_659);
    bench.clock.advance(60 * NS_PER_SEC);
    bench.pit.lock().expire(bench.clock.now());
    assert_eq!(bench.pit.lock().state.owed, 20);
}

#[test]
fn owed_ticks_are_counted_through_a_change_of_the_count() {
    let bench = Bench::new();
    bench.lines.set_hearing(0, Hearing::Waiting);
    bench.program(0, 2, 1_000);
    bench.ticks(2_501);
    assert_eq!(bench.pit.lock().state.owed, 2);
    // Written without a control word, the new count follows the old period, and the old ticks are not wanted any more.
    bench.write(0, 0x10);
    bench.write(0, 0x27);
    assert_eq!(bench.pit.lock().state.owed, 0);
    bench.clock.advance_to(middle_of(100 + 1 + 3_000 + 30_000 + 1));
    bench.pit.lock().expire(bench.clock.now());
    assert_eq!(bench.pit.lock().state.owed, 4, "one of 1,000 ticks, three of 10,000");
    bench.write(3, 0x00);
    assert_eq!(bench.pit.lock().state.owed, 4, "the counter latch command changes nothing");
    bench.write(3, 0x30);
    assert_eq!(bench.pit.lock().state.owed, 0, "another mode");
}

#[test]
fn nothing_is_owed_where_nobody_listens_nor_by_a_one_shot_nor_by_very_short_periods() {
    let bench = Bench::new();
    bench.program(0, 2, 1_000);
    bench.lines.set_hearing(0, Hearing::Deaf);
    bench.ticks(10_001);
    assert_eq!(bench.pit.lock().state.owed, 0);
    bench.lines.set_hearing(0, Hearing::Ready);
    bench.lines.take_changes();
    bench.pit.lock().taken();
    assert_eq!(bench.lines.take_rises(0), 0);

    bench.lines.set_hearing(0, Hearing::Waiting);
    bench.program(0, 0, 1_000);
    bench.ticks(200_000);
    assert_eq!((bench.lines.take_rises(0), bench.pit.lock().state.owed), (1, 0));
    bench.program(0, 2, 10);
    bench.ticks(200_000);
    assert_eq!(bench.pit.lock().state.owed, 0);
}

#[test]
fn owed_ticks_survive_a_snapshot() {
    let bench = Bench::new();
    bench.lines.set_hearing(0, Hearing::Waiting);
    bench.program(0, 3, 1_000);
    bench.ticks(3_001);
    let bytes = rmp_serde::to_vec_named(&(bench.clock.save(), bench.pit.lock().save())).unwrap();
    let loaded = Bench::new();
    let (clock, pit) = rmp_serde::from_slice(&bytes).unwrap();
    loaded.clock.load(&clock);
    loaded.pit.lock().load(pit);
    loaded.pit.lock().taken();
    assert_eq!(loaded.lines.take_rises(0), 3);
}

struct Asleep;

impl Wake for Asleep {
    fn wake(&self, _cpu: usize, _event: CpuEvent) {}
}

/// A timer on a real fabric, with a CPU that takes and ends interrupts.
struct Machine {
    clock: Arc<Clock>,
    irq: Arc<Interrupts>,
    pit: Arc<Mutex<Pit>>,
}

impl Machine {
    fn new() -> Machine {
        let clock = Clock::manual(1_000_000_000);
        let irq = Interrupts::new(2, clock.clone(), Arc::new(Asleep));
        let sink: Arc<dyn IrqSink> = irq.clone();
        let pit = Arc::new(Mutex::new(Pit::new(clock.clone(), IrqLine::new(sink, 0), Alarm::silent())));
        let owing = Arc::downgrade(&pit);
        irq.set_listener(move || {
            if let Some(pit) = owing.upgrade() {
                pit.lock().taken();
            }
        });
        clock.advance_to(middle_of(100));
        Machine { clock, irq, pit }
    }

    /// 1,000 Hz.
    fn start(&self) {
        let mut pit = self.pit.lock();
        pit.write(3, &[0x34]);
        pit.write(0, &[0xa9]);
        pit.write(0, &[0x04]);
    }

    /// Nobody runs for so many milliseconds, then the timer thread does.
    fn starve(&self, ms: u64) {
        self.clock.advance(ms * 1_000_000);
        self.pit.lock().expire(self.clock.now());
    }

    /// How many interrupts a CPU gets without time passing.
    fn take(&self, cpu: usize, vector: u8) -> usize {
        let mut count = 0;
        while self.irq.has_interrupt(cpu) {
            assert_eq!(self.irq.acknowledge(cpu), Some(vector));
            count += 1;
            assert!(count < 10_000, "they never end");
            self.irq.mmio_write(cpu, 0xb0, &[0; 4]);
            self.irq.pic_ports(PicBlock::Master).write(0, &[0x20]);
        }
        count
    }
}

#[test]
fn a_starved_cpu_gets_each_tick_through_the_io_apic() {
    let machine = Machine::new();
    machine.irq.mmio_write(1, 0xf0, &[0xff, 1, 0, 0]);
    let mut window = machine.irq.ioapic_window();
    for (index, value) in [(0x15u32, 1u32 << 24), (0x14, 0x41)] {
        window.write(0x00, &index.to_le_bytes());
        window.write(0x10, &value.to_le_bytes());
    }
    machine.irq.pic_ports(PicBlock::Master).write(1, &[0xff]);
    machine.start();
    assert_eq!(machine.take(1, 0x41), 1, "OUT rises with the control word");
    // The timer thread in time, the CPU late.
    for _ in 0..7 {
        machine.starve(1);
    }
    assert_eq!(machine.take(1, 0x41), 7);
    // Both late.
    machine.starve(9);
    assert_eq!(machine.take(1, 0x41), 9);
    machine.starve(1);
    assert_eq!(machine.take(1, 0x41), 1);
    // Masked, the ticks are lost.
    window.write(0x10, &0x1_0041u32.to_le_bytes());
    machine.starve(5);
    window.write(0x10, &0x41u32.to_le_bytes());
    assert_eq!(machine.take(1, 0x41), 0);
    machine.starve(1);
    assert_eq!(machine.take(1, 0x41), 1);
}

#[test]
fn a_starved_cpu_gets_each_tick_through_the_8259() {
    let machine = Machine::new();
    let mut pic = machine.irq.pic_ports(PicBlock::Master);
    pic.write(0, &[0x11]);
    for value in [0x30, 4, 1, 0xfe] {
        pic.write(1, &[value]);
    }
    machine.start();
    assert_eq!(machine.take(0, 0x30), 1, "OUT rises with the control word");
    machine.starve(4);
    assert_eq!(machine.take(0, 0x30), 4);
    for _ in 0..3 {
        machine.starve(2);
    }
    assert_eq!(machine.take(0, 0x30), 6);
    // One edge is kept while it is masked.
    pic.write(1, &[0xff]);
    machine.starve(8);
    pic.write(1, &[0xfe]);
    assert_eq!(machine.take(0, 0x30), 1);
}

#[test]
fn odd_accesses_do_no_harm() {
    let bench = Bench::new();
    let mut pit = bench.pit.lock();
    for offset in [0, 1, 2, 3, 4, u64::MAX - 1] {
        for value in 0..=255 {
            bench.clock.advance(12_345);
            pit.write(offset, &[value, value, value, value, value]);
            pit.read(offset, &mut [0; 5]);
            pit.write(offset, &[]);
            pit.expire(bench.clock.now());
        }
    }
}
