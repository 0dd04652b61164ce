//! The serial port: a 16550A (National Semiconductor PC16550D data sheet) on a line of unlimited speed.
//!
//! A byte that the guest sends has left when the write returns, so the transmitter is always empty. Input that arrives
//! pauses at once, so the receiver time-out is immediate for new bytes; for what a guest leaves in the FIFO it comes four
//! character times later, as the data sheet has it.

use std::collections::VecDeque;
use std::sync::Arc;

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::bus::ByteDevice;
use crate::char::CharBackend;
use crate::clock::{Alarm, Clock, NS_PER_SEC, Timed};
use crate::irq::IrqLine;

/// Ports that a UART occupies.
pub const UART_PORTS: u64 = 8;
/// First port of COM1; its interrupt is ISA IRQ 4.
pub const COM1: u64 = 0x3f8;
/// First port of COM2; its interrupt is ISA IRQ 3.
pub const COM2: u64 = 0x2f8;
/// ISA interrupt of COM1.
pub const COM1_IRQ: u32 = 4;
/// ISA interrupt of COM2.
pub const COM2_IRQ: u32 = 3;

const FIFO_DEPTH: usize = 16;
/// The baud rate generator divides 115,200 Hz.
const BASE_BAUD: u64 = 115_200;
/// A guest that reads the line status this much more often than sending would need is polling for input.
const POLLS_THAT_ARE_LISTENING: u8 = 32;
/// Looks at the line status that a byte sent accounts for: one, or a few around it.
const POLLS_PER_BYTE_SENT: u8 = 2;

/// What is at an offset, given the divisor latch access bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Register {
    /// Receiver buffer (read), transmitter holding (write).
    Data,
    DivisorLow,
    InterruptEnable,
    DivisorHigh,
    /// Interrupt identification (read), FIFO control (write).
    IdentificationOrFifoControl,
    LineControl,
    ModemControl,
    LineStatus,
    ModemStatus,
    Scratch,
    None,
}

impl Register {
    fn at(offset: u64, divisor_latch: bool) -> Self {
        match (offset, divisor_latch) {
            (0, false) => Self::Data,
            (0, true) => Self::DivisorLow,
            (1, false) => Self::InterruptEnable,
            (1, true) => Self::DivisorHigh,
            (2, _) => Self::IdentificationOrFifoControl,
            (3, _) => Self::LineControl,
            (4, _) => Self::ModemControl,
            (5, _) => Self::LineStatus,
            (6, _) => Self::ModemStatus,
            (7, _) => Self::Scratch,
            _ => Self::None,
        }
    }
}

bitflags! {
    /// IER: which causes may interrupt.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    struct InterruptEnable: u8 {
        const RECEIVED_DATA = 1 << 0;
        const TRANSMITTER_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }

    /// LCR: the format of a character, and two switches.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    struct LineControl: u8 {
        /// Bits in a character, less five.
        const WORD_LENGTH = 3;
        const TWO_STOP_BITS = 1 << 2;
        const PARITY = 1 << 3;
        const EVEN_PARITY = 1 << 4;
        const STICK_PARITY = 1 << 5;
        const BREAK = 1 << 6;
        const DIVISOR_LATCH = 1 << 7;
    }

    /// MCR: the outgoing modem lines and loopback.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    struct ModemControl: u8 {
        const DTR = 1 << 0;
        const RTS = 1 << 1;
        const OUT1 = 1 << 2;
        /// On a PC this output connects the interrupt.
        const OUT2 = 1 << 3;
        const LOOPBACK = 1 << 4;
    }

    /// LSR.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    struct LineStatus: u8 {
        const DATA_READY = 1 << 0;
        const OVERRUN = 1 << 1;
        const PARITY_ERROR = 1 << 2;
        const FRAMING_ERROR = 1 << 3;
        const BREAK = 1 << 4;
        const HOLDING_EMPTY = 1 << 5;
        const TRANSMITTER_EMPTY = 1 << 6;
        const ERROR_IN_FIFO = 1 << 7;
        /// What the receiver line status interrupt reports.
        const ERRORS = 0x1e;
    }

    /// The incoming modem lines, where the modem status register shows them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    pub struct ModemLines: u8 {
        /// Clear to send.
        const CTS = 1 << 4;
        /// Data set ready.
        const DSR = 1 << 5;
        /// Ring indicator.
        const RI = 1 << 6;
        /// Data carrier detect.
        const DCD = 1 << 7;
    }

    /// The lower half of MSR: which lines have changed since it was read.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    struct ModemDeltas: u8 {
        const CTS = 1 << 0;
        const DSR = 1 << 1;
        /// The ring indicator has gone off.
        const RI_TRAILING_EDGE = 1 << 2;
        const DCD = 1 << 3;
    }

    /// FCR.
    #[derive(Debug, Clone, Copy)]
    struct FifoControl: u8 {
        const ENABLE = 1 << 0;
        const RESET_RECEIVER = 1 << 1;
        const RESET_TRANSMITTER = 1 << 2;
        const DMA_MODE = 1 << 3;
        const TRIGGER = 3 << 6;
    }
}

impl LineControl {
    fn word_mask(self) -> u8 {
        0xff >> (3 - (self & Self::WORD_LENGTH).bits())
    }

    /// Start, data, parity and stop bits of a character.
    fn bits_per_character(self) -> u64 {
        let data = 5 + u64::from((self & Self::WORD_LENGTH).bits());
        1 + data + u64::from(self.contains(Self::PARITY)) + 1 + u64::from(self.contains(Self::TWO_STOP_BITS))
    }
}

/// The causes of an interrupt, as IIR names them; the first that is pending wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Cause {
    LineStatus = 0x06,
    ReceivedData = 0x04,
    CharacterTimeout = 0x0c,
    TransmitterEmpty = 0x02,
    ModemStatus = 0x00,
}

const IIR_NONE_PENDING: u8 = 0x01;
const IIR_FIFOS_ENABLED: u8 = 0xc0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Received {
    byte: u8,
    errors: LineStatus,
}

/// What a UART remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UartState {
    interrupt_enable: InterruptEnable,
    line_control: LineControl,
    modem_control: ModemControl,
    scratch: u8,
    divisor: u16,
    fifos_enabled: bool,
    /// Bytes at which the received-data interrupt comes: 1, 4, 8 or 14.
    trigger_level: u8,
    receiver: VecDeque<Received>,
    /// Errors that the guest has not read yet.
    errors: LineStatus,
    transmitter_empty_pending: bool,
    character_timeout: bool,
    /// When what has been left in the FIFO times out, in guest nanoseconds.
    timeout_at: Option<u64>,
    /// The lines as the outside drives them.
    outside_lines: ModemLines,
    /// The lines as the modem status register last saw them: the outside's, or those looped back.
    seen_lines: ModemLines,
    deltas: ModemDeltas,
    /// Looks at the line status that found no data and that sending does not explain.
    polls: u8,
}

impl Default for UartState {
    /// A port after reset, with a terminal connected to it.
    fn default() -> Self {
        let connected = ModemLines::CTS | ModemLines::DSR | ModemLines::DCD;
        Self {
            interrupt_enable: InterruptEnable::empty(),
            line_control: LineControl::empty(),
            modem_control: ModemControl::empty(),
            scratch: 0,
            divisor: 1,
            fifos_enabled: false,
            trigger_level: 1,
            receiver: VecDeque::new(),
            errors: LineStatus::empty(),
            transmitter_empty_pending: false,
            character_timeout: false,
            timeout_at: None,
            outside_lines: connected,
            seen_lines: connected,
            deltas: ModemDeltas::empty(),
            polls: 0,
        }
    }
}

/// A 16550A.
pub struct Uart {
    state: UartState,
    irq: IrqLine,
    clock: Arc<Clock>,
    alarm: Alarm,
    output: Box<dyn CharBackend>,
    input_wanted: Option<Box<dyn Fn() + Send>>,
    /// The level of the interrupt line, once it has been driven: most accesses do not change it.
    driven: Option<bool>,
    /// The host holds input back and waits for `input_wanted`.
    host_waits: bool,
}

impl Uart {
    /// A port after reset whose output goes to `output`.
    pub fn new(irq: IrqLine, clock: Arc<Clock>, alarm: Alarm, output: Box<dyn CharBackend>) -> Self {
        Self {
            state: UartState::default(),
            irq,
            clock,
            alarm,
            output,
            input_wanted: None,
            driven: None,
            host_waits: false,
        }
    }

    /// Names the function that tells the host side that held-back input is wanted again. It is called with the UART
    /// locked, so it may only leave a note (an event, a channel) for the thread that then calls [`Uart::receive`].
    pub fn on_input_wanted(&mut self, notify: Box<dyn Fn() + Send>) {
        self.input_wanted = Some(notify);
    }

    /// True when the guest listens (has enabled the interrupt, or polls) and there is room. A host side that waits for
    /// this loses no type-ahead to a driver that resets the FIFO when it starts; it is told through
    /// [`Uart::on_input_wanted`].
    pub fn wants_input(&mut self) -> bool {
        let wanted = self.listens() && self.room() > 0;
        self.host_waits |= !wanted;
        wanted
    }

    /// Input arrives. Returns how many of `bytes` fitted; the host side keeps the others.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = self.room().min(bytes.len());
        for &byte in &bytes[..taken] {
            self.push(byte, LineStatus::empty());
        }
        if taken > 0 {
            self.state.character_timeout = true;
            self.state.timeout_at = None;
            self.update_interrupt();
        }
        self.host_waits |= taken < bytes.len();
        taken
    }

    /// The other side sends a break.
    pub fn receive_break(&mut self) {
        if !self.loops_back() {
            self.push(0, LineStatus::BREAK);
            self.update_interrupt();
        }
    }

    /// The other side drives its modem lines.
    pub fn set_modem_lines(&mut self, lines: ModemLines) {
        self.state.outside_lines = lines;
        self.update_modem_lines();
        self.update_interrupt();
    }

    /// Data terminal ready and request to send, as the guest drives them.
    pub fn ready_lines(&self) -> (bool, bool) {
        let control = self.state.modem_control;
        let connected = !self.loops_back();
        (connected && control.contains(ModemControl::DTR), connected && control.contains(ModemControl::RTS))
    }

    /// Puts the chip back to its state after power-on; the lines outside stay as they are.
    pub fn reset(&mut self) {
        let outside_lines = self.state.outside_lines;
        self.load(UartState { outside_lines, seen_lines: outside_lines, ..UartState::default() });
    }

    /// The state, to be saved.
    pub fn save(&self) -> UartState {
        self.state.clone()
    }

    /// Takes over a saved state and drives the interrupt line accordingly.
    pub fn load(&mut self, mut state: UartState) {
        state.receiver.truncate(FIFO_DEPTH);
        self.state = state;
        self.driven = None;
        self.update_interrupt();
        self.notify_if_wanted();
    }

    fn loops_back(&self) -> bool {
        self.state.modem_control.contains(ModemControl::LOOPBACK)
    }

    fn capacity(&self) -> usize {
        if self.state.fifos_enabled { FIFO_DEPTH } else { 1 }
    }

    /// How many bytes from outside fit. In loopback the input is disconnected.
    fn room(&self) -> usize {
        if self.loops_back() { 0 } else { self.capacity().saturating_sub(self.state.receiver.len()) }
    }

    fn listens(&self) -> bool {
        self.state.interrupt_enable.contains(InterruptEnable::RECEIVED_DATA)
            || self.state.polls >= POLLS_THAT_ARE_LISTENING
    }

    /// Wakes the host side once the guest has emptied the receiver: one wake-up per FIFO, not per byte.
    fn notify_if_wanted(&mut self) {
        if self.host_waits && self.state.receiver.is_empty() && self.room() > 0 && self.listens() {
            self.host_waits = false;
            if let Some(notify) = &self.input_wanted {
                notify();
            }
        }
    }

    /// A character has come in, from outside or looped back.
    fn push(&mut self, byte: u8, errors: LineStatus) {
        let capacity = self.capacity();
        let state = &mut self.state;
        if state.receiver.len() >= capacity {
            state.errors |= LineStatus::OVERRUN;
            // Without FIFOs the new character destroys the old one; with them the old ones stay.
            if state.fifos_enabled {
                return;
            }
            state.receiver.clear();
        }
        state.receiver.push_back(Received { byte, errors });
        if state.receiver.len() == 1 {
            state.errors |= errors;
        }
    }

    fn pop(&mut self) -> u8 {
        let state = &mut self.state;
        state.character_timeout = false;
        state.timeout_at = None;
        let byte = state.receiver.pop_front().map_or(0, |received| received.byte);
        if let Some(next) = state.receiver.front() {
            // An error shows when its character gets to the top of the FIFO.
            state.errors |= next.errors;
            let characters = 4 * state.line_control.bits_per_character();
            let divisor = u64::from(state.divisor.max(1));
            let wait = characters * divisor * NS_PER_SEC / BASE_BAUD;
            let at = self.clock.now().saturating_add(wait);
            state.timeout_at = Some(at);
            self.alarm.ring(at);
        }
        byte
    }

    fn transmit(&mut self, byte: u8) {
        // The interrupt goes when the holding register is filled and comes back when it is empty again, which is at
        // once; the line goes low in between, so that an edge-triggered controller sees it.
        self.state.transmitter_empty_pending = false;
        self.update_interrupt();
        if self.loops_back() {
            self.push(byte & self.state.line_control.word_mask(), LineStatus::empty());
            self.state.character_timeout = true;
        } else {
            self.output.write(&[byte]);
        }
        self.state.transmitter_empty_pending = true;
        self.state.polls = self.state.polls.saturating_sub(POLLS_PER_BYTE_SENT);
    }

    fn clear_receiver(&mut self) {
        self.state.receiver.clear();
        self.state.character_timeout = false;
        self.state.timeout_at = None;
    }

    fn cause(&self) -> Option<Cause> {
        let state = &self.state;
        let enabled = state.interrupt_enable;
        let received = state.receiver.len();
        if enabled.contains(InterruptEnable::LINE_STATUS) && state.errors.intersects(LineStatus::ERRORS) {
            return Some(Cause::LineStatus);
        }
        if enabled.contains(InterruptEnable::RECEIVED_DATA) && received > 0 {
            if !state.fifos_enabled || received >= usize::from(state.trigger_level) {
                return Some(Cause::ReceivedData);
            }
            if state.character_timeout {
                return Some(Cause::CharacterTimeout);
            }
        }
        if enabled.contains(InterruptEnable::TRANSMITTER_EMPTY) && state.transmitter_empty_pending {
            return Some(Cause::TransmitterEmpty);
        }
        if enabled.contains(InterruptEnable::MODEM_STATUS) && !state.deltas.is_empty() {
            return Some(Cause::ModemStatus);
        }
        None
    }

    fn update_interrupt(&mut self) {
        // In loopback all outputs are inactive, OUT2 among them.
        let connected = self.state.modem_control.contains(ModemControl::OUT2) && !self.loops_back();
        let level = connected && self.cause().is_some();
        if self.driven != Some(level) {
            self.driven = Some(level);
            self.irq.set(level);
        }
    }

    fn update_modem_lines(&mut self) {
        let control = self.state.modem_control;
        let lines = if self.loops_back() {
            let mut lines = ModemLines::empty();
            lines.set(ModemLines::CTS, control.contains(ModemControl::RTS));
            lines.set(ModemLines::DSR, control.contains(ModemControl::DTR));
            lines.set(ModemLines::RI, control.contains(ModemControl::OUT1));
            lines.set(ModemLines::DCD, control.contains(ModemControl::OUT2));
            lines
        } else {
            self.state.outside_lines
        };
        let before = std::mem::replace(&mut self.state.seen_lines, lines);
        let changed = before ^ lines;
        let deltas = &mut self.state.deltas;
        deltas.set(ModemDeltas::CTS, deltas.contains(ModemDeltas::CTS) || changed.contains(ModemLines::CTS));
        deltas.set(ModemDeltas::DSR, deltas.contains(ModemDeltas::DSR) || changed.contains(ModemLines::DSR));
        deltas.set(ModemDeltas::DCD, deltas.contains(ModemDeltas::DCD) || changed.contains(ModemLines::DCD));
        if (before - lines).contains(ModemLines::RI) {
            deltas.insert(ModemDeltas::RI_TRAILING_EDGE);
        }
    }

    fn read_identification(&mut self) -> u8 {
        let cause = self.cause();
        if cause == Some(Cause::TransmitterEmpty) {
            self.state.transmitter_empty_pending = false;
        }
        let fifos = if self.state.fifos_enabled { IIR_FIFOS_ENABLED } else { 0 };
        fifos | cause.map_or(IIR_NONE_PENDING, |cause| cause as u8)
    }

    fn read_line_status(&mut self) -> u8 {
        let state = &mut self.state;
        let mut status = state.errors | LineStatus::HOLDING_EMPTY | LineStatus::TRANSMITTER_EMPTY;
        if state.receiver.is_empty() {
            state.polls = state.polls.saturating_add(1);
        } else {
            status |= LineStatus::DATA_READY;
        }
        if state.fifos_enabled && state.receiver.iter().any(|received| !received.errors.is_empty()) {
            status |= LineStatus::ERROR_IN_FIFO;
        }
        state.errors = LineStatus::empty();
        if let Some(top) = state.receiver.front_mut() {
            top.errors = LineStatus::empty();
        }
        status.bits()
    }

    fn read_modem_status(&mut self) -> u8 {
        let deltas = std::mem::take(&mut self.state.deltas);
        self.state.seen_lines.bits() | deltas.bits()
    }

    fn write_interrupt_enable(&mut self, value: u8) {
        let new = InterruptEnable::from_bits_truncate(value);
        let added = new - self.state.interrupt_enable;
        if added.contains(InterruptEnable::TRANSMITTER_EMPTY) {
            // The holding register is empty, and enabling its interrupt says so even when IIR had been read before.
            self.state.transmitter_empty_pending = true;
        }
        self.state.interrupt_enable = new;
    }

    fn write_fifo_control(&mut self, value: u8) {
        let control = FifoControl::from_bits_truncate(value);
        let enable = control.contains(FifoControl::ENABLE);
        if enable != self.state.fifos_enabled {
            self.state.fifos_enabled = enable;
            // Linux enables the interrupt first and the FIFOs right after. Input that was held back until then comes in
            // between; it counts as just after the switch, or what was typed ahead would lose its first character.
            let interrupts = self.state.interrupt_enable.contains(InterruptEnable::RECEIVED_DATA);
            if !(enable && interrupts) {
                self.clear_receiver();
            }
        }
        // The other bits are programmed only together with the enable bit.
        if enable {
            if control.contains(FifoControl::RESET_RECEIVER) {
                self.clear_receiver();
            }
            let level =
                (control & FifoControl::TRIGGER).bits() >> FifoControl::TRIGGER.bits().trailing_zeros();
            self.state.trigger_level = [1, 4, 8, 14][usize::from(level)];
        }
    }

    fn write_line_control(&mut self, value: u8) {
        let new = LineControl::from_bits_truncate(value);
        let break_starts = (new - self.state.line_control).contains(LineControl::BREAK);
        self.state.line_control = new;
        if break_starts && self.loops_back() {
            self.push(0, LineStatus::BREAK);
        }
    }
}

impl ByteDevice for Uart {
    fn read_byte(&mut self, offset: u64) -> u8 {
        let divisor_latch = self.state.line_control.contains(LineControl::DIVISOR_LATCH);
        let [divisor_low, divisor_high] = self.state.divisor.to_le_bytes();
        let value = match Register::at(offset, divisor_latch) {
            Register::Data => self.pop(),
            Register::DivisorLow => divisor_low,
            Register::InterruptEnable => self.state.interrupt_enable.bits(),
            Register::DivisorHigh => divisor_high,
            Register::IdentificationOrFifoControl => self.read_identification(),
            Register::LineControl => self.state.line_control.bits(),
            Register::ModemControl => self.state.modem_control.bits(),
            Register::LineStatus => self.read_line_status(),
            Register::ModemStatus => self.read_modem_status(),
            Register::Scratch => self.state.scratch,
            Register::None => 0xff,
        };
        self.update_interrupt();
        self.notify_if_wanted();
        value
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        let divisor_latch = self.state.line_control.contains(LineControl::DIVISOR_LATCH);
        let [divisor_low, divisor_high] = self.state.divisor.to_le_bytes();
        match Register::at(offset, divisor_latch) {
            Register::Data => self.transmit(value),
            Register::DivisorLow => self.state.divisor = u16::from_le_bytes([value, divisor_high]),
            Register::InterruptEnable => self.write_interrupt_enable(value),
            Register::DivisorHigh => self.state.divisor = u16::from_le_bytes([divisor_low, value]),
            Register::IdentificationOrFifoControl => self.write_fifo_control(value),
            Register::LineControl => self.write_line_control(value),
            Register::ModemControl => {
                self.state.modem_control = ModemControl::from_bits_truncate(value);
                self.update_modem_lines();
            }
            Register::Scratch => self.state.scratch = value,
            // Writing them is for factory tests of the real chip.
            Register::LineStatus | Register::ModemStatus | Register::None => {}
        }
        self.update_interrupt();
        self.notify_if_wanted();
    }
}

impl Timed for Uart {
    fn deadline(&self) -> Option<u64> {
        self.state.timeout_at
    }

    fn expire(&mut self, now: u64) {
        if self.state.timeout_at.is_some_and(|at| at <= now) {
            self.state.timeout_at = None;
            self.state.character_timeout = true;
            self.update_interrupt();
        }
    }
}

#[cfg(test)]
mod tests;
