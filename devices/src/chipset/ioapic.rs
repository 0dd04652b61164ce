//! The I/O APIC: 24 pins that become interrupt messages. Intel 82093AA data sheet, with version 20h's EOI register as
//! in Intel's ICH data sheets.

use serde::{Deserialize, Serialize};

use super::apic_bus::{DeliveryMode, Destination, Message};

/// Pins, and so redirection entries.
pub const IOAPIC_PINS: usize = 24;

/// The registers in memory, by offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Window {
    IoRegSel,
    IoWin,
    Eoi,
}

impl Window {
    fn from_offset(offset: u64) -> Option<Window> {
        Some(match offset {
            0x00 => Window::IoRegSel,
            0x10 => Window::IoWin,
            0x40 => Window::Eoi,
            _ => return None,
        })
    }
}

/// The registers behind the index, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reg {
    Id,
    Version,
    ArbitrationId,
    RedirectionLow(usize),
    RedirectionHigh(usize),
}

impl Reg {
    fn from_index(index: u8) -> Option<Reg> {
        const FIRST: u8 = 0x10;
        const LAST: u8 = FIRST + 2 * IOAPIC_PINS as u8 - 1;
        Some(match index {
            0x00 => Reg::Id,
            0x01 => Reg::Version,
            0x02 => Reg::ArbitrationId,
            FIRST..=LAST => {
                let pin = usize::from((index - FIRST) / 2);
                if index.is_multiple_of(2) { Reg::RedirectionLow(pin) } else { Reg::RedirectionHigh(pin) }
            }
            _ => return None,
        })
    }
}

const VERSION: u32 = 0x20 | (IOAPIC_PINS as u32 - 1) << 16;
const ID_SHIFT: u32 = 24;
const ID_MASK: u32 = 0xf;

/// A redirection table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry(u64);

impl Entry {
    const LOGICAL: u64 = 1 << 11;
    const REMOTE_IRR: u64 = 1 << 14;
    const LEVEL: u64 = 1 << 15;
    const MASKED: u64 = 1 << 16;
    const DESTINATION_SHIFT: u32 = 56;
    /// Vector, delivery mode, destination mode, polarity, trigger, mask, destination; not delivery status and remote
    /// IRR.
    const WRITABLE: u64 = 0xff00_0000_0001_afff;
    const RESET: Entry = Entry(Entry::MASKED);

    fn vector(self) -> u8 {
        self.0 as u8
    }

    fn is(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    /// The delivery modes that go with level triggering; the others are edges whatever the entry says.
    fn is_level(self) -> bool {
        let mode = DeliveryMode::from_bits((self.0 >> 8) as u32);
        self.is(Entry::LEVEL) && matches!(mode, Some(DeliveryMode::Fixed | DeliveryMode::LowestPriority))
    }

    /// `None` for the delivery modes that an I/O APIC does not have.
    fn message(self) -> Option<Message> {
        let mode = DeliveryMode::from_bits((self.0 >> 8) as u32)?;
        (mode != DeliveryMode::Startup).then(|| Message {
            vector: self.vector(),
            mode,
            level: self.is_level(),
            destination: Destination::from_byte(
                (self.0 >> Entry::DESTINATION_SHIFT) as u8,
                self.is(Entry::LOGICAL),
            ),
        })
    }

    fn write(&mut self, value: u64) {
        self.0 = self.0 & !Entry::WRITABLE | value & Entry::WRITABLE;
        if !self.is(Entry::LEVEL) {
            // Software for older I/O APICs, which have no EOI register, turns an entry to edge and back to clear it.
            self.0 &= !Entry::REMOTE_IRR;
        }
    }
}

/// The I/O APIC. Its messages go to a function `send` given with each call, which says whether someone accepted.
///
/// Pin levels are logical: a wire is asserted or not. The polarity bit is kept but has no effect, because software sets
/// it to what the firmware's tables say of the wire, and that is how the wire is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApic {
    id: u32,
    index: u8,
    /// A bit for each asserted pin.
    pins: u32,
    entries: [Entry; IOAPIC_PINS],
}

impl Default for IoApic {
    fn default() -> Self {
        IoApic::new()
    }
}

impl IoApic {
    /// The I/O APIC after power-on: everything masked.
    pub fn new() -> IoApic {
        IoApic { id: 0, index: 0, pins: 0, entries: [Entry::RESET; IOAPIC_PINS] }
    }

    /// RESET: as after power-on; the pins keep their levels.
    pub fn reset(&mut self) {
        *self = IoApic { pins: self.pins, ..IoApic::new() };
    }

    /// Drives a pin.
    pub fn set_pin(&mut self, pin: usize, level: bool, send: &mut dyn FnMut(Message) -> bool) {
        let Some(&entry) = self.entries.get(pin) else { return };
        let bit = 1 << pin;
        let rose = level && self.pins & bit == 0;
        if level {
            self.pins |= bit;
        } else {
            self.pins &= !bit;
        }
        if entry.is_level() {
            self.service_level(pin, send);
        } else if rose && !entry.is(Entry::MASKED) {
            // An edge on a masked pin is lost. 82093AA data sheet, "Interrupt Mask".
            if let Some(message) = entry.message() {
                send(message);
            }
        }
    }

    /// The message that a rising edge on a pin would send; `None` if it is masked or its entry is not for edges.
    pub fn edge_message(&self, pin: usize) -> Option<Message> {
        let entry = *self.entries.get(pin)?;
        let listens = !entry.is(Entry::MASKED) && !entry.is_level();
        entry.message().filter(|_| listens)
    }

    /// What the level-triggered pins send, masked or not.
    pub fn level_messages(&self) -> [Option<Message>; IOAPIC_PINS] {
        self.entries.map(|entry| entry.message().filter(|message| message.level))
    }

    /// A CPU ended this vector, and the message was level-triggered.
    pub fn end_of_interrupt(&mut self, vector: u8, send: &mut dyn FnMut(Message) -> bool) {
        for pin in 0..IOAPIC_PINS {
            let entry = &mut self.entries[pin];
            if entry.vector() == vector && entry.is(Entry::REMOTE_IRR) {
                entry.0 &= !Entry::REMOTE_IRR;
                self.service_level(pin, send);
            }
        }
    }

    /// A CPU accepts interrupts from now on: what was not accepted is sent again.
    pub fn send_again(&mut self, send: &mut dyn FnMut(Message) -> bool) {
        (0..IOAPIC_PINS).for_each(|pin| self.service_level(pin, send));
    }

    /// Reads the register window.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match Window::from_offset(offset) {
            Some(Window::IoRegSel) => self.index.into(),
            Some(Window::IoWin) => self.read_register(),
            Some(Window::Eoi) | None => 0,
        };
        data.fill(0);
        for (byte, source) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = source;
        }
    }

    /// Writes the register window. The data register takes 32 bits, index and EOI take their lowest byte.
    pub fn write(&mut self, offset: u64, data: &[u8], send: &mut dyn FnMut(Message) -> bool) {
        match (Window::from_offset(offset), data) {
            (Some(Window::IoRegSel), [index, ..]) => self.index = *index,
            (Some(Window::Eoi), [vector, ..]) => self.end_of_interrupt(*vector, send),
            (Some(Window::IoWin), data) => {
                if let Some(bytes) = data.first_chunk::<4>() {
                    self.write_register(u32::from_le_bytes(*bytes), send);
                }
            }
            _ => {}
        }
    }

    fn read_register(&self) -> u32 {
        match Reg::from_index(self.index) {
            Some(Reg::Id | Reg::ArbitrationId) => self.id << ID_SHIFT,
            Some(Reg::Version) => VERSION,
            Some(Reg::RedirectionLow(pin)) => self.entries[pin].0 as u32,
            Some(Reg::RedirectionHigh(pin)) => (self.entries[pin].0 >> 32) as u32,
            None => u32::MAX,
        }
    }

    fn write_register(&mut self, value: u32, send: &mut dyn FnMut(Message) -> bool) {
        match Reg::from_index(self.index) {
            Some(Reg::Id) => self.id = value >> ID_SHIFT & ID_MASK,
            Some(Reg::RedirectionLow(pin)) => {
                let high = self.entries[pin].0 & !0xffff_ffff;
                self.entries[pin].write(high | u64::from(value));
                self.service_level(pin, send);
            }
            Some(Reg::RedirectionHigh(pin)) => {
                let low = self.entries[pin].0 & 0xffff_ffff;
                self.entries[pin].write(u64::from(value) << 32 | low);
            }
            Some(Reg::Version | Reg::ArbitrationId) | None => {}
        }
    }

    /// Sends a level-triggered pin's interrupt if it is asserted, not masked, and the last one has ended.
    fn service_level(&mut self, pin: usize, send: &mut dyn FnMut(Message) -> bool) {
        let entry = self.entries[pin];
        let ready = entry.is_level() && !entry.is(Entry::MASKED) && !entry.is(Entry::REMOTE_IRR);
        if ready
            && self.pins >> pin & 1 != 0
            && let Some(message) = entry.message()
            && send(message)
        {
            self.entries[pin].0 |= Entry::REMOTE_IRR;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pin 5 and how its entry is written.
    const PIN: usize = 5;
    const EDGE_41: u32 = 0x41;
    const LEVEL_41: u32 = 0x41 | 1 << 15;
    const MASKED: u32 = 1 << 16;

    fn write(ioapic: &mut IoApic, index: u8, value: u32) -> Vec<Message> {
        let mut sent = Vec::new();
        ioapic.write(0x00, &[index], &mut |_| unreachable!());
        ioapic.write(0x10, &value.to_le_bytes(), &mut |message| {
            sent.push(message);
            true
        });
        sent
    }

    fn read(ioapic: &mut IoApic, index: u8) -> u32 {
        ioapic.write(0x00, &u32::from(index).to_le_bytes(), &mut |_| unreachable!());
        let mut data = [0; 4];
        ioapic.read(0x10, &mut data);
        u32::from_le_bytes(data)
    }

    fn set_pin(ioapic: &mut IoApic, level: bool) -> usize {
        let mut sent = 0;
        ioapic.set_pin(PIN, level, &mut |_| {
            sent += 1;
            true
        });
        sent
    }

    fn programmed(low: u32) -> IoApic {
        let mut ioapic = IoApic::new();
        write(&mut ioapic, 0x11 + 2 * PIN as u8, 0x0300_0000);
        write(&mut ioapic, 0x10 + 2 * PIN as u8, low);
        ioapic
    }

    #[test]
    fn identifies_itself() {
        let mut ioapic = IoApic::new();
        assert_eq!(read(&mut ioapic, 1), 0x0017_0020);
        write(&mut ioapic, 0, 0xff00_0000);
        assert_eq!((read(&mut ioapic, 0), read(&mut ioapic, 2)), (0x0f00_0000, 0x0f00_0000));
        assert_eq!((read(&mut ioapic, 0x10), read(&mut ioapic, 0x3e)), (MASKED, MASKED));
        assert_eq!((read(&mut ioapic, 0x40), read(&mut ioapic, 0xff)), (u32::MAX, u32::MAX));
    }

    #[test]
    fn an_edge_sends_one_message() {
        let mut ioapic = programmed(EDGE_41);
        let mut sent = Vec::new();
        ioapic.set_pin(PIN, true, &mut |message| {
            sent.push(message);
            true
        });
        let destination = Destination::Physical(3);
        assert_eq!(sent, [Message { vector: 0x41, mode: DeliveryMode::Fixed, level: false, destination }]);
        assert_eq!(set_pin(&mut ioapic, true), 0);
        set_pin(&mut ioapic, false);
        assert_eq!(set_pin(&mut ioapic, true), 1);
    }

    #[test]
    fn an_edge_on_a_masked_pin_is_lost_and_a_level_is_not() {
        let mut ioapic = programmed(EDGE_41 | MASKED);
        assert_eq!(set_pin(&mut ioapic, true), 0);
        assert!(write(&mut ioapic, 0x10 + 2 * PIN as u8, EDGE_41).is_empty());
        assert!(write(&mut ioapic, 0x10 + 2 * PIN as u8, LEVEL_41 | MASKED).is_empty());
        assert_eq!(write(&mut ioapic, 0x10 + 2 * PIN as u8, LEVEL_41).len(), 1);
    }

    #[test]
    fn a_level_waits_for_its_end_and_comes_again_while_asserted() {
        let mut ioapic = programmed(LEVEL_41);
        assert_eq!(set_pin(&mut ioapic, true), 1);
        assert_eq!(read(&mut ioapic, 0x10 + 2 * PIN as u8), LEVEL_41 | 1 << 14);
        assert_eq!(set_pin(&mut ioapic, false) + set_pin(&mut ioapic, true), 0, "remote IRR holds it back");
        let mut again = 0;
        ioapic.write(0x40, &0x42u32.to_le_bytes(), &mut |_| unreachable!());
        ioapic.write(0x40, &0x41u32.to_le_bytes(), &mut |_| {
            again += 1;
            true
        });
        assert_eq!(again, 1);
        set_pin(&mut ioapic, false);
        ioapic.end_of_interrupt(0x41, &mut |_| unreachable!());
        assert_eq!(read(&mut ioapic, 0x10 + 2 * PIN as u8), LEVEL_41);
    }

    #[test]
    fn a_message_that_nobody_accepts_leaves_no_remote_irr() {
        let mut ioapic = programmed(LEVEL_41);
        ioapic.set_pin(PIN, true, &mut |_| false);
        assert_eq!(read(&mut ioapic, 0x10 + 2 * PIN as u8), LEVEL_41);
        assert_eq!(write(&mut ioapic, 0x10 + 2 * PIN as u8, LEVEL_41).len(), 1);
    }

    #[test]
    fn turning_to_edge_and_back_clears_remote_irr() {
        let mut ioapic = programmed(LEVEL_41);
        set_pin(&mut ioapic, true);
        write(&mut ioapic, 0x10 + 2 * PIN as u8, EDGE_41 | MASKED);
        assert_eq!(write(&mut ioapic, 0x10 + 2 * PIN as u8, LEVEL_41).len(), 1);
    }

    #[test]
    fn nmi_and_extint_are_edges_whatever_the_trigger_bit_says() {
        for mode in [0b100, 0b111] {
            let mut ioapic = programmed(LEVEL_41 | mode << 8);
            assert_eq!(set_pin(&mut ioapic, true), 1);
            assert_eq!(read(&mut ioapic, 0x10 + 2 * PIN as u8) & 1 << 14, 0);
        }
        let mut ioapic = programmed(EDGE_41 | 0b110 << 8);
        assert_eq!(set_pin(&mut ioapic, true), 0, "it cannot start CPUs");
    }

    #[test]
    fn read_only_bits_and_odd_accesses_change_nothing() {
        let mut ioapic = programmed(EDGE_41);
        write(&mut ioapic, 0x10 + 2 * PIN as u8, u32::MAX);
        assert_eq!(read(&mut ioapic, 0x10 + 2 * PIN as u8), 0x0001_afff);
        write(&mut ioapic, 1, 0);
        assert_eq!(read(&mut ioapic, 1), 0x0017_0020);
        ioapic.write(0x10, &[1, 2], &mut |_| unreachable!());
        ioapic.write(0x00, &[], &mut |_| unreachable!());
        ioapic.set_pin(24, true, &mut |_| unreachable!());
        ioapic.set_pin(usize::MAX, true, &mut |_| unreachable!());
    }

    #[test]
    fn survives_a_round_trip_with_an_interrupt_under_way() {
        let mut ioapic = programmed(LEVEL_41);
        set_pin(&mut ioapic, true);
        let bytes = rmp_serde::to_vec_named(&ioapic).unwrap();
        let mut loaded: IoApic = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(loaded, ioapic);
        let mut again = 0;
        loaded.end_of_interrupt(0x41, &mut |_| {
            again += 1;
            true
        });
        assert_eq!(again, 1);
    }
}
