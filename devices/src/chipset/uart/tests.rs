//! What the data sheet and the 8250 driver of Linux ask of a UART.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::bus::Device;
use crate::char::Capture;
use crate::irq::Recorder;

const RBR: u64 = 0;
const THR: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;
const NO_INTERRUPT: u8 = 0x01;
const EIGHT_BITS: u8 = 0x03;
const OUT2: u8 = 0x08;
const LOOPBACK: u8 = 0x10;

struct Bench {
    uart: Uart,
    irqs: Arc<Recorder>,
    clock: Arc<Clock>,
    output: Capture,
}

fn bench() -> Bench {
    let (irqs, clock, output) = (Recorder::new(), Clock::manual(1_000_000_000), Capture::default());
    let mut uart = Uart::new(irqs.line(COM1_IRQ), clock.clone(), Alarm::silent(), Box::new(output.clone()));
    uart.write_byte(LCR, EIGHT_BITS);
    uart.write_byte(MCR, OUT2);
    Bench { uart, irqs, clock, output }
}

impl Bench {
    fn line(&self) -> bool {
        self.irqs.level(COM1_IRQ)
    }

    /// Lets the time pass that the UART waits for.
    fn wait(&mut self) {
        let deadline = self.uart.deadline().expect("the receiver waits");
        self.uart.expire(deadline - 1);
        assert_eq!(self.uart.deadline(), Some(deadline), "not before its time");
        self.clock.advance_to(deadline);
        self.uart.expire(deadline);
        assert_eq!(self.uart.deadline(), None);
    }
}

#[test]
fn linux_finds_a_16550a() {
    // The steps of the 8250 driver's autoconfiguration.
    let Bench { mut uart, .. } = bench();
    uart.write_byte(IER, 0);
    assert_eq!(uart.read_byte(IER), 0);
    uart.write_byte(IER, 0xff);
    assert_eq!(uart.read_byte(IER), 0x0f, "the upper half is not there");
    uart.write_byte(IER, 0);
    uart.write_byte(MCR, 0x1a);
    assert_eq!(uart.read_byte(MSR) & 0xf0, 0x90, "loopback: RTS is CTS, OUT2 is DCD");
    uart.write_byte(MCR, 0);
    uart.write_byte(LCR, 0xbf);
    uart.write_byte(FCR, 0);
    uart.write_byte(LCR, 0);
    uart.write_byte(FCR, 1);
    assert_eq!(uart.read_byte(IIR) >> 6, 3);
    uart.write_byte(LCR, 0x80);
    assert_ne!(uart.read_byte(IIR), 0, "no EFR, so no 16650");
    uart.write_byte(FCR, 0x21);
    assert_eq!(uart.read_byte(IIR) >> 5, 6, "no 64-byte FIFO, so no 16750");
    uart.write_byte(FCR, 0);
    assert_eq!(uart.read_byte(IIR) >> 6, 0);
    uart.write_byte(SCR, 0x5a);
    assert_eq!(uart.read_byte(SCR), 0x5a);
    assert_eq!(uart.read_byte(8), 0xff);
}

#[test]
fn divisor_hides_data_and_interrupt_enable() {
    let Bench { mut uart, output, .. } = bench();
    uart.write_byte(IER, 0x05);
    uart.write_byte(LCR, 0x83);
    uart.write(0, &[0x34, 0x12]);
    assert_eq!((uart.read_byte(0), uart.read_byte(1)), (0x34, 0x12));
    uart.write_byte(LCR, EIGHT_BITS);
    assert_eq!(uart.read_byte(IER), 0x05);
    assert!(output.take().is_empty());
}

#[test]
fn bytes_go_out_at_once() {
    let Bench { mut uart, output, .. } = bench();
    for &byte in b"hello" {
        assert_eq!(uart.read_byte(LSR), 0x60);
        uart.write_byte(THR, byte);
    }
    assert_eq!(output.take(), b"hello");
}

#[test]
fn transmitter_empty_interrupt() {
    let mut b = bench();
    assert!(!b.line());
    b.uart.write_byte(IER, 0x02);
    assert!(b.line(), "enabling with an empty holding register raises");
    assert_eq!(b.uart.read_byte(IIR), 0x02);
    assert!(!b.line(), "reading IIR as the source clears");
    assert_eq!(b.uart.read_byte(IIR), NO_INTERRUPT);
    b.uart.write_byte(IER, 0x02);
    assert!(!b.line(), "enabled already");
    b.uart.write_byte(IER, 0);
    b.uart.write_byte(IER, 0x02);
    assert!(b.line(), "Linux checks that it comes again");
    b.irqs.take_changes();
    b.uart.write_byte(THR, b'x');
    assert_eq!(b.irqs.take_changes(), [(COM1_IRQ, false), (COM1_IRQ, true)], "a new edge");
}

#[test]
fn reading_iir_for_another_cause_keeps_transmitter_empty() {
    let mut b = bench();
    b.uart.write_byte(IER, 0x03);
    b.uart.receive(b"a");
    assert_eq!(b.uart.read_byte(IIR), 0x04);
    assert_eq!(b.uart.read_byte(RBR), b'a');
    assert_eq!(b.uart.read_byte(IIR), 0x02);
    assert_eq!(b.uart.read_byte(IIR), NO_INTERRUPT);
}

#[test]
fn out2_gates_the_interrupt_line() {
    let mut b = bench();
    b.uart.write_byte(MCR, 0);
    b.uart.write_byte(IER, 0x01);
    b.uart.receive(b"a");
    assert_eq!(b.uart.read_byte(IIR), 0x04, "pending all the same");
    assert!(!b.line());
    b.uart.write_byte(MCR, OUT2);
    assert!(b.line());
    b.uart.write_byte(MCR, OUT2 | LOOPBACK);
    assert!(!b.line(), "the outputs are inactive in loopback");
}

#[test]
fn trigger_level_and_character_timeout() {
    for (control, level) in [(0x01, 1), (0x41, 4), (0x81, 8), (0xc1, 14)] {
        let mut b = bench();
        b.uart.write_byte(FCR, control);
        b.uart.write_byte(IER, 0x01);
        assert_eq!(b.uart.receive(&vec![7; level]), level);
        assert_eq!(b.uart.read_byte(IIR), 0xc4);
        b.uart.read_byte(RBR);
        assert!(!b.line(), "below the trigger level");
        if level > 1 {
            b.wait();
            assert_eq!(b.uart.read_byte(IIR), 0xcc);
            assert!(b.line());
            b.uart.read_byte(RBR);
            assert!(!b.line(), "reading restarts the time-out");
        }
        while b.uart.read_byte(LSR) & 1 != 0 {
            b.uart.read_byte(RBR);
        }
        assert_eq!(b.uart.deadline(), None);
        assert_eq!(b.uart.read_byte(IIR), 0xc1);
    }
}

#[test]
fn timeout_is_four_characters() {
    let mut b = bench();
    b.uart.write_byte(LCR, 0x83);
    b.uart.write(0, &[12, 0]);
    b.uart.write_byte(LCR, EIGHT_BITS);
    b.uart.write_byte(FCR, 0xc1);
    b.uart.receive(b"ab");
    b.uart.read_byte(RBR);
    // 40 bits at 9600 baud.
    assert_eq!(b.uart.deadline(), Some(4_166_666));
}

#[test]
fn typed_character_interrupts_at_once() {
    let mut b = bench();
    b.uart.write_byte(FCR, 0x81);
    b.uart.write_byte(IER, 0x01);
    b.uart.receive(b"x");
    assert_eq!(b.uart.read_byte(IIR), 0xcc);
    assert!(b.line());
}

#[test]
fn what_does_not_fit_stays_with_the_host() {
    let mut b = bench();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    b.uart.on_input_wanted(Box::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    assert_eq!(b.uart.receive(b"ab"), 1, "no FIFO yet");
    b.uart.write_byte(FCR, 0x01);
    let text: Vec<u8> = (0..=255).cycle().take(1000).collect();
    let mut sent = 0;
    let mut got = Vec::new();
    b.uart.write_byte(IER, 0x01);
    while got.len() < text.len() {
        sent += b.uart.receive(&text[sent..]);
        let before = calls.load(Ordering::Relaxed);
        while b.uart.read_byte(LSR) & 1 != 0 {
            got.push(b.uart.read_byte(RBR));
        }
        if sent < text.len() {
            assert_eq!(calls.load(Ordering::Relaxed), before + 1, "told once that there is room");
        }
    }
    assert_eq!(got, text);
    assert_eq!(b.uart.read_byte(LSR) & 0x02, 0, "no overrun");
}

#[test]
fn input_waits_for_a_guest_that_listens() {
    let mut b = bench();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    b.uart.on_input_wanted(Box::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    assert!(!b.uart.wants_input());
    for _ in 0..100 {
        // A guest that prints looks at the line status too.
        b.uart.read_byte(LSR);
        b.uart.write_byte(THR, b'.');
    }
    assert!(!b.uart.wants_input());
    b.uart.write_byte(IER, 0x01);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert!(b.uart.wants_input());
    b.uart.write_byte(IER, 0x00);
    assert!(!b.uart.wants_input());
    for _ in 0..POLLS_THAT_ARE_LISTENING {
        b.uart.read_byte(LSR);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    assert!(b.uart.wants_input(), "polls");
    b.uart.receive(b"1");
    assert!(!b.uart.wants_input(), "full");
    b.uart.read_byte(RBR);
    assert!(b.uart.wants_input());
    for _ in 0..POLLS_THAT_ARE_LISTENING {
        b.uart.write_byte(THR, b'.');
    }
    assert!(!b.uart.wants_input(), "prints again");
}

#[test]
fn loopback_brings_back_what_is_sent() {
    let mut b = bench();
    b.uart.write_byte(MCR, LOOPBACK);
    b.uart.write_byte(FCR, 0xc1);
    for byte in 0..16 {
        b.uart.write_byte(THR, byte);
    }
    assert!(b.output.take().is_empty(), "nothing goes out");
    assert_eq!(b.uart.receive(b"x"), 0, "nothing comes in");
    assert_eq!(b.uart.read_byte(LSR), 0x61);
    b.uart.write_byte(THR, 99);
    assert_eq!(b.uart.read_byte(LSR), 0x63, "overrun");
    assert_eq!(b.uart.read_byte(LSR), 0x61, "reported once");
    for byte in 0..16 {
        assert_eq!(b.uart.read_byte(RBR), byte, "an overrun leaves the FIFO alone");
    }
    // Without FIFOs the last character wins; a 7-bit format carries 7 bits.
    b.uart.write_byte(FCR, 0);
    b.uart.write_byte(LCR, 0x02);
    b.uart.write_byte(THR, b'a');
    b.uart.write_byte(THR, b'b' | 0x80);
    assert_eq!(b.uart.read_byte(LSR), 0x63);
    assert_eq!(b.uart.read_byte(RBR), b'b');
}

#[test]
fn modem_lines_loop_back_crosswise() {
    let mut b = bench();
    b.uart.write_byte(MCR, LOOPBACK);
    b.uart.read_byte(MSR);
    for (control, status) in [(0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80)] {
        b.uart.write_byte(MCR, LOOPBACK | control);
        assert_eq!(b.uart.read_byte(MSR) & 0xf0, status);
    }
}

#[test]
fn modem_status_changes_interrupt_until_read() {
    let mut b = bench();
    b.uart.write_byte(IER, 0x08);
    assert_eq!(b.uart.read_byte(MSR), 0xb0);
    b.uart.set_modem_lines(ModemLines::DCD | ModemLines::RI);
    assert!(b.line());
    assert_eq!(b.uart.read_byte(IIR), 0x00);
    assert!(b.line(), "only reading MSR clears");
    assert_eq!(b.uart.read_byte(MSR), 0xc3, "CTS and DSR have gone; RI coming on is no event");
    assert!(!b.line());
    b.uart.set_modem_lines(ModemLines::empty());
    assert_eq!(b.uart.read_byte(MSR), 0x0c, "RI going off is one");
    b.uart.set_modem_lines(ModemLines::CTS);
    b.uart.set_modem_lines(ModemLines::empty());
    assert_eq!(b.uart.read_byte(MSR), 0x01, "there and back is a change");
}

#[test]
fn break_is_a_line_status_interrupt_and_goes_up_with_its_character() {
    let mut b = bench();
    b.uart.write_byte(FCR, 0x01);
    b.uart.write_byte(IER, 0x05);
    b.uart.receive(b"a");
    b.uart.receive_break();
    assert_eq!(b.uart.read_byte(LSR), 0xe1, "behind the first character");
    assert_eq!(b.uart.read_byte(RBR), b'a');
    assert_eq!(b.uart.read_byte(IIR), 0xc6);
    assert_eq!(b.uart.read_byte(LSR), 0xf1);
    assert_eq!(b.uart.read_byte(IIR), 0xc4);
    assert_eq!(b.uart.read_byte(LSR), 0x61);
    assert_eq!(b.uart.read_byte(RBR), 0);
    assert_eq!(b.uart.read_byte(LSR), 0x60);
    // The guest's own break, looped back.
    b.uart.write_byte(MCR, LOOPBACK);
    b.uart.write_byte(LCR, 0x43);
    assert_eq!(b.uart.read_byte(LSR), 0xf1);
}

#[test]
fn fifo_switch_and_reset_drop_what_was_received() {
    let mut b = bench();
    b.uart.receive(b"a");
    b.uart.write_byte(FCR, 0x01);
    assert_eq!(b.uart.read_byte(LSR), 0x60);
    b.uart.receive(b"abc");
    b.uart.write_byte(FCR, 0x03);
    assert_eq!(b.uart.read_byte(LSR), 0x60);
    b.uart.receive(b"abc");
    b.uart.write_byte(FCR, 0xc0);
    assert_eq!(b.uart.read_byte(LSR), 0x60);
    b.uart.write_byte(FCR, 0x01);
    assert_eq!(b.uart.state.trigger_level, 1, "not programmed without the enable bit");
}

#[test]
fn input_between_interrupt_and_fifo_switch_is_kept() {
    let mut b = bench();
    b.uart.write_byte(IER, 0x01);
    assert_eq!(b.uart.receive(b"ab"), 1);
    b.uart.write_byte(FCR, 0x01);
    assert!(b.line());
    assert_eq!(b.uart.receive(b"b"), 1);
    assert_eq!([b.uart.read_byte(RBR), b.uart.read_byte(RBR)], *b"ab");
}

#[test]
fn save_and_load_in_the_middle() {
    let mut b = bench();
    b.uart.write_byte(FCR, 0x81);
    b.uart.write_byte(IER, 0x0f);
    b.uart.read_byte(IIR);
    b.uart.receive(b"abcdefghij");
    b.uart.receive_break();
    b.uart.read_byte(RBR);
    b.uart.set_modem_lines(ModemLines::RI);
    let saved = rmp_serde::to_vec_named(&b.uart.save()).unwrap();

    let mut other = bench();
    other.uart.load(rmp_serde::from_slice(&saved).unwrap());
    assert!(other.line());
    assert_eq!(other.uart.deadline(), b.uart.deadline());
    for uart in [&mut b.uart, &mut other.uart] {
        let mut seen = Vec::new();
        for _ in 0..12 {
            seen.extend([IIR, LSR, MSR, RBR].map(|register| uart.read_byte(register)));
        }
        assert_eq!(seen[..4], [0xc4, 0xe1, 0x4b, b'b']);
        assert_eq!(seen[36..40], [0xc6, 0xf1, 0x40, 0], "the break comes last");
    }
    assert_eq!(b.uart.save(), other.uart.save());
}

#[test]
fn a_forged_state_stays_bounded() {
    let mut b = bench();
    let received = Received { byte: 1, errors: LineStatus::empty() };
    let state = UartState { receiver: vec![received; 1000].into(), divisor: 0, ..UartState::default() };
    b.uart.load(state);
    assert_eq!(b.uart.receive(b"x"), 0);
    for _ in 0..20 {
        b.uart.read_byte(RBR);
    }
    assert_eq!(b.uart.read_byte(LSR), 0x60);
}

#[test]
fn nothing_that_a_guest_does_panics() {
    let mut b = bench();
    let mut seed = 1u32;
    for _ in 0..100_000 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (offset, value) = (u64::from(seed >> 28), (seed >> 16) as u8);
        match seed >> 24 & 3 {
            0 => drop(b.uart.read_byte(offset)),
            1 => drop(b.uart.receive(&[value; 20])),
            _ => b.uart.write_byte(offset, value),
        }
        if let Some(deadline) = b.uart.deadline() {
            b.uart.expire(deadline);
        }
        assert!(b.uart.state.receiver.len() <= FIFO_DEPTH);
    }
}
