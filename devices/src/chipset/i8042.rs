//! The keyboard controller: an 8042 as the PS/2 and every PC since use it, with keyboard and mouse behind it. It also
//! resets the machine, and once moved address line 20.

use std::sync::Arc;

use bitflags::bitflags;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use super::keyboard::Key;
use super::keyboard::{Keyboard, RELEASE_SET_1, RELEASE_SET_2, translate};
pub use super::mouse::Buttons;
use super::mouse::Mouse;
use crate::bus::ByteDevice;
use crate::irq::IrqLine;
use crate::power::PowerSink;

/// Port of data.
pub const DATA_PORT: u64 = 0x60;
/// Port of status (read) and commands (write).
pub const COMMAND_PORT: u64 = 0x64;
/// ISA interrupt of the keyboard.
pub const KEYBOARD_IRQ: u32 = 1;
/// ISA interrupt of the mouse.
pub const MOUSE_IRQ: u32 = 12;

const RAM_SIZE: usize = 32;
const SELF_TEST_PASSED: u8 = 0x55;
const INTERFACE_TEST_PASSED: u8 = 0x00;
const NO_PASSWORD: u8 = 0xf1;
/// The input port: the keyboard is not locked.
const INPUT_PORT: u8 = 0x80;

bitflags! {
    /// The status register.
    struct Status: u8 {
        const OUTPUT_FULL = 1 << 0;
        const SYSTEM = 1 << 2;
        /// The last write was a command.
        const COMMAND = 1 << 3;
        /// The keyboard is not locked.
        const NOT_LOCKED = 1 << 4;
        /// What is in the output buffer comes from the mouse.
        const FROM_MOUSE = 1 << 5;
    }

    /// The command byte: byte 0 of the controller's RAM.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    struct CommandByte: u8 {
        const KEYBOARD_INTERRUPT = 1 << 0;
        const MOUSE_INTERRUPT = 1 << 1;
        /// Shows in the status register.
        const SYSTEM = 1 << 2;
        const KEYBOARD_DISABLED = 1 << 4;
        const MOUSE_DISABLED = 1 << 5;
        /// Codes of set 2 are translated to set 1.
        const TRANSLATE = 1 << 6;
        // The other bits are kept as they are written.
        const _ = !0;
    }

    /// The output port.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    struct OutputPort: u8 {
        /// 0 resets the machine.
        const NOT_RESET = 1 << 0;
        const A20 = 1 << 1;
        const KEYBOARD_INTERRUPT = 1 << 4;
        const MOUSE_INTERRUPT = 1 << 5;
        const _ = !0;
    }
}

/// Commands to the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    ReadRam(u8),
    WriteRam(u8),
    TestPassword,
    DisableMouse,
    EnableMouse,
    TestMouseInterface,
    SelfTest,
    TestKeyboardInterface,
    DisableKeyboard,
    EnableKeyboard,
    ReadInputPort,
    ReadOutputPort,
    WriteOutputPort,
    WriteKeyboardBuffer,
    WriteMouseBuffer,
    WriteMouse,
    DisableA20,
    EnableA20,
    ReadTestInputs,
    /// Pulls these bits of the output port low for a moment.
    Pulse(u8),
    Unknown,
}

impl Command {
    fn from(byte: u8) -> Self {
        match byte {
            0x20..=0x3f => Self::ReadRam(byte & 0x1f),
            0x60..=0x7f => Self::WriteRam(byte & 0x1f),
            0xa4 => Self::TestPassword,
            0xa7 => Self::DisableMouse,
            0xa8 => Self::EnableMouse,
            0xa9 => Self::TestMouseInterface,
            0xaa => Self::SelfTest,
            0xab => Self::TestKeyboardInterface,
            0xad => Self::DisableKeyboard,
            0xae => Self::EnableKeyboard,
            0xc0 => Self::ReadInputPort,
            0xd0 => Self::ReadOutputPort,
            0xd1 => Self::WriteOutputPort,
            0xd2 => Self::WriteKeyboardBuffer,
            0xd3 => Self::WriteMouseBuffer,
            0xd4 => Self::WriteMouse,
            0xdd => Self::DisableA20,
            0xdf => Self::EnableA20,
            0xe0 => Self::ReadTestInputs,
            0xf0..=0xff => Self::Pulse(!byte & 0x0f),
            _ => Self::Unknown,
        }
    }
}

/// Where the next byte at the data port goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum NextData {
    Keyboard,
    Mouse,
    Ram(u8),
    OutputPort,
    /// Back to the guest, as if the keyboard had sent it.
    KeyboardBuffer,
    /// Back to the guest, as if the mouse had sent it.
    MouseBuffer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Output {
    byte: u8,
    from_mouse: bool,
}

/// What the controller and the devices behind it remember.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042State {
    command_byte: CommandByte,
    ram: [u8; RAM_SIZE],
    output_port: OutputPort,
    /// The output buffer.
    output: Option<Output>,
    /// What reads give while the output buffer is empty.
    last_output: u8,
    /// A reply of the controller that waits for the output buffer.
    reply: Option<Output>,
    next_data: NextData,
    last_write_was_command: bool,
    /// The keyboard has announced that a key goes up, and the translator waits for its code.
    release_announced: bool,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl Default for I8042State {
    /// As the power-on self test of a PC leaves the controller: keyboard with translation and interrupt, mouse off.
    fn default() -> Self {
        Self {
            command_byte: CommandByte::KEYBOARD_INTERRUPT
                | CommandByte::SYSTEM
                | CommandByte::MOUSE_DISABLED
                | CommandByte::TRANSLATE,
            ram: [0; RAM_SIZE],
            output_port: OutputPort::from_bits_retain(0xcf),
            output: None,
            last_output: 0,
            reply: None,
            next_data: NextData::Keyboard,
            last_write_was_command: false,
            release_announced: false,
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
        }
    }
}

/// The keyboard controller with a keyboard and a mouse.
pub struct I8042 {
    state: I8042State,
    keyboard_irq: IrqLine,
    mouse_irq: IrqLine,
    power: Arc<dyn PowerSink>,
}

impl I8042 {
    /// A controller as after the power-on self test.
    pub fn new(keyboard_irq: IrqLine, mouse_irq: IrqLine, power: Arc<dyn PowerSink>) -> Self {
        Self { state: I8042State::default(), keyboard_irq, mouse_irq, power }
    }

    /// A key goes down or up. False when the keyboard's buffer has no room: try again when the guest has read.
    pub fn key(&mut self, key: Key, pressed: bool) -> bool {
        let taken = self.state.keyboard.key(key, pressed);
        self.refill();
        taken
    }

    /// Sends presses and releases in order. Returns how many the keyboard has taken.
    pub fn keys(&mut self, events: &[(Key, bool)]) -> usize {
        events.iter().take_while(|&&(key, pressed)| self.key(key, pressed)).count()
    }

    /// The keyboard's lights: caps lock, num lock, scroll lock in bits 2, 1, 0.
    pub fn indicators(&self) -> u8 {
        self.state.keyboard.indicators()
    }

    /// The mouse moves: right and up are positive, and the wheel towards the user.
    pub fn move_mouse(&mut self, right: i32, up: i32, wheel: i32) {
        self.state.mouse.move_by(right, up, wheel);
        self.refill();
    }

    /// These mouse buttons are down.
    pub fn set_mouse_buttons(&mut self, buttons: Buttons) {
        self.state.mouse.set_buttons(buttons);
        self.refill();
    }

    /// Puts controller, keyboard and mouse back to their state after power-on.
    pub fn reset(&mut self) {
        self.load(I8042State::default());
    }

    /// The state, to be saved.
    pub fn save(&self) -> I8042State {
        self.state.clone()
    }

    /// Takes over a saved state and drives the interrupt lines accordingly.
    pub fn load(&mut self, mut state: I8042State) {
        state.keyboard.sanitise();
        state.mouse.sanitise();
        self.state = state;
        self.update_interrupts();
    }

    fn update_interrupts(&mut self) {
        let state = &self.state;
        let from = |mouse: bool| state.output.is_some_and(|output| output.from_mouse == mouse);
        let enabled = |bit| state.command_byte.contains(bit);
        self.keyboard_irq.set(from(false) && enabled(CommandByte::KEYBOARD_INTERRUPT));
        self.mouse_irq.set(from(true) && enabled(CommandByte::MOUSE_INTERRUPT));
    }

    /// Brings the next byte into the output buffer when that is empty.
    fn refill(&mut self) {
        if self.state.output.is_none() {
            self.state.output = self.next_output();
        }
        self.update_interrupts();
    }

    fn next_output(&mut self) -> Option<Output> {
        let state = &mut self.state;
        if let Some(reply) = state.reply.take() {
            return Some(reply);
        }
        if !state.command_byte.contains(CommandByte::KEYBOARD_DISABLED) {
            while let Some(byte) = state.keyboard.next() {
                if let Some(byte) = state.translated(byte) {
                    return Some(Output { byte, from_mouse: false });
                }
            }
        }
        if !state.command_byte.contains(CommandByte::MOUSE_DISABLED) {
            return state.mouse.next().map(|byte| Output { byte, from_mouse: true });
        }
        None
    }

    fn reply(&mut self, byte: u8) {
        self.state.reply = Some(Output { byte, from_mouse: false });
    }

    fn write_output_port(&mut self, value: u8) {
        self.state.output_port = OutputPort::from_bits_retain(value);
        if !self.state.output_port.contains(OutputPort::NOT_RESET) {
            self.power.reset();
        }
    }

    /// The output port as it reads: two of its bits are the interrupt lines.
    fn read_output_port(&self) -> u8 {
        let mut port = self.state.output_port;
        let from = |mouse: bool| self.state.output.is_some_and(|output| output.from_mouse == mouse);
        port.set(OutputPort::KEYBOARD_INTERRUPT, from(false));
        port.set(OutputPort::MOUSE_INTERRUPT, from(true));
        port.bits()
    }

    fn read_data(&mut self) -> u8 {
        if let Some(output) = self.state.output.take() {
            self.state.last_output = output.byte;
        }
        let byte = self.state.last_output;
        // The line goes low before the next byte raises it, so that an edge-triggered controller sees each byte.
        self.update_interrupts();
        self.refill();
        byte
    }

    fn read_status(&self) -> u8 {
        let mut status = Status::NOT_LOCKED;
        status.set(Status::OUTPUT_FULL, self.state.output.is_some());
        status.set(Status::SYSTEM, self.state.command_byte.contains(CommandByte::SYSTEM));
        status.set(Status::COMMAND, self.state.last_write_was_command);
        status.set(Status::FROM_MOUSE, self.state.output.is_some_and(|output| output.from_mouse));
        status.bits()
    }

    fn write_data(&mut self, value: u8) {
        self.state.last_write_was_command = false;
        let state = &mut self.state;
        match std::mem::replace(&mut state.next_data, NextData::Keyboard) {
            NextData::Keyboard => {
                // Talking to a device lets it answer.
                state.command_byte -= CommandByte::KEYBOARD_DISABLED;
                state.release_announced = false;
                state.keyboard.write(value);
            }
            NextData::Mouse => {
                state.command_byte -= CommandByte::MOUSE_DISABLED;
                state.mouse.write(value);
            }
            NextData::Ram(0) => state.command_byte = CommandByte::from_bits_retain(value),
            NextData::Ram(address) => state.ram[usize::from(address) % RAM_SIZE] = value,
            NextData::OutputPort => self.write_output_port(value),
            NextData::KeyboardBuffer => state.reply = Some(Output { byte: value, from_mouse: false }),
            NextData::MouseBuffer => state.reply = Some(Output { byte: value, from_mouse: true }),
        }
        self.refill();
    }

    fn write_command(&mut self, value: u8) {
        let state = &mut self.state;
        state.last_write_was_command = true;
        state.next_data = NextData::Keyboard;
        match Command::from(value) {
            Command::ReadRam(0) => {
                let byte = state.command_byte.bits();
                self.reply(byte);
            }
            Command::ReadRam(address) => {
                let byte = state.ram[usize::from(address) % RAM_SIZE];
                self.reply(byte);
            }
            Command::WriteRam(address) => state.next_data = NextData::Ram(address),
            Command::TestPassword => self.reply(NO_PASSWORD),
            Command::DisableMouse => state.command_byte |= CommandByte::MOUSE_DISABLED,
            Command::EnableMouse => state.command_byte -= CommandByte::MOUSE_DISABLED,
            Command::TestMouseInterface | Command::TestKeyboardInterface => self.reply(INTERFACE_TEST_PASSED),
            Command::SelfTest => {
                state.command_byte |= CommandByte::SYSTEM;
                self.reply(SELF_TEST_PASSED);
            }
            Command::DisableKeyboard => state.command_byte |= CommandByte::KEYBOARD_DISABLED,
            Command::EnableKeyboard => state.command_byte -= CommandByte::KEYBOARD_DISABLED,
            Command::ReadInputPort => self.reply(INPUT_PORT),
            Command::ReadOutputPort => {
                let byte = self.read_output_port();
                self.reply(byte);
            }
            Command::WriteOutputPort => state.next_data = NextData::OutputPort,
            Command::WriteKeyboardBuffer => state.next_data = NextData::KeyboardBuffer,
            Command::WriteMouseBuffer => state.next_data = NextData::MouseBuffer,
            Command::WriteMouse => state.next_data = NextData::Mouse,
            Command::DisableA20 => state.output_port -= OutputPort::A20,
            Command::EnableA20 => state.output_port |= OutputPort::A20,
            Command::ReadTestInputs => self.reply(0),
            Command::Pulse(bits) => {
                if OutputPort::from_bits_retain(bits).contains(OutputPort::NOT_RESET) {
                    self.power.reset();
                }
            }
            Command::Unknown => {}
        }
        self.refill();
    }
}

impl I8042State {
    /// What the guest gets for a byte of the keyboard: nothing yet when it announces a release.
    fn translated(&mut self, byte: u8) -> Option<u8> {
        if !self.command_byte.contains(CommandByte::TRANSLATE) {
            return Some(byte);
        }
        if byte == RELEASE_SET_2 {
            self.release_announced = true;
            return None;
        }
        let release = if std::mem::take(&mut self.release_announced) { RELEASE_SET_1 } else { 0 };
        Some(translate(byte) | release)
    }
}

/// The data port, at [`DATA_PORT`].
pub struct DataPort(pub Arc<Mutex<I8042>>);

impl ByteDevice for DataPort {
    fn read_byte(&mut self, offset: u64) -> u8 {
        if offset == 0 { self.0.lock().read_data() } else { 0xff }
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        if offset == 0 {
            self.0.lock().write_data(value);
        }
    }
}

/// The status and command port, at [`COMMAND_PORT`].
pub struct CommandPort(pub Arc<Mutex<I8042>>);

impl ByteDevice for CommandPort {
    fn read_byte(&mut self, offset: u64) -> u8 {
        if offset == 0 { self.0.lock().read_status() } else { 0xff }
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        if offset == 0 {
            self.0.lock().write_command(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::Recorder;
    use crate::power::recorder::{PowerRecorder, Wish};

    struct Bench {
        chip: I8042,
        irqs: Arc<Recorder>,
        power: Arc<PowerRecorder>,
    }

    fn bench() -> Bench {
        let (irqs, power) = (Recorder::new(), PowerRecorder::new());
        Bench { chip: I8042::new(irqs.line(KEYBOARD_IRQ), irqs.line(MOUSE_IRQ), power.clone()), irqs, power }
    }

    impl Bench {
        fn command(&mut self, command: u8) {
            self.chip.write_command(command);
        }

        fn data(&mut self, value: u8) {
            self.chip.write_data(value);
        }

        /// All that waits, each byte with "comes from the mouse".
        fn read_all(&mut self) -> Vec<(u8, bool)> {
            let mut bytes = Vec::new();
            while self.chip.read_status() & 1 != 0 {
                let from_mouse = self.chip.read_status() & 0x20 != 0;
                bytes.push((self.chip.read_data(), from_mouse));
            }
            bytes
        }

        fn bytes(&mut self) -> Vec<u8> {
            self.read_all().into_iter().map(|(byte, _)| byte).collect()
        }

        fn command_byte(&mut self) -> u8 {
            self.command(0x20);
            self.bytes()[0]
        }

        fn set_command_byte(&mut self, value: u8) {
            self.command(0x60);
            self.data(value);
        }
    }

    #[test]
    fn linux_probes_without_a_warning() {
        // The steps of the i8042 driver.
        let mut b = bench();
        assert_eq!(b.chip.read_status() & 1, 0, "nothing to flush");
        b.command(0xaa);
        assert_eq!(b.bytes(), [0x55]);
        let initial = b.command_byte();
        assert_eq!(initial, 0x65);
        assert_eq!(b.command_byte(), initial);
        assert_ne!(b.chip.read_status() & 0x10, 0, "not locked");
        b.set_command_byte(0x74);
        assert_eq!(b.command_byte(), 0x74);
        b.command(0xd3);
        b.data(0x5a);
        assert_eq!(b.read_all(), [(0x5a, true)], "loop of the mouse port");
        b.command(0xa7);
        assert_eq!(b.command_byte() & 0x20, 0x20);
        b.command(0xa8);
        assert_eq!(b.command_byte() & 0x20, 0);
        // Whether the mouse port interrupts.
        b.set_command_byte(0x56);
        b.irqs.take_changes();
        b.command(0xd3);
        b.data(0xa5);
        assert!(b.irqs.level(MOUSE_IRQ));
        assert_eq!(b.read_all(), [(0xa5, true)]);
        assert_eq!(b.irqs.take_changes(), [(MOUSE_IRQ, true), (MOUSE_IRQ, false)]);
        // No multiplexer: every loop gives back what went in.
        for value in [0xf0, 0x56, 0xa4] {
            b.command(0xd3);
            b.data(value);
            assert_eq!(b.read_all(), [(value, true)]);
        }
        b.command(0xa9);
        b.command(0xab);
        assert_eq!(b.bytes(), [0x00, 0x00]);
    }

    #[test]
    fn keyboard_and_mouse_answer_with_their_interrupts() {
        let mut b = bench();
        b.set_command_byte(0x47);
        b.data(0xf2);
        assert!(b.irqs.level(KEYBOARD_IRQ));
        b.irqs.take_changes();
        assert_eq!(b.bytes(), [0xfa, 0xab, 0x41], "the identity is translated too");
        assert_eq!(b.irqs.take_rises(KEYBOARD_IRQ), 2, "an edge for each byte that follows");
        b.command(0xd4);
        b.data(0xff);
        assert!(b.irqs.level(MOUSE_IRQ) && !b.irqs.level(KEYBOARD_IRQ));
        assert_eq!(b.read_all(), [(0xfa, true), (0xaa, true), (0, true)]);
        b.data(0xee);
        assert_eq!(b.read_all(), [(0xee, false)], "only one byte went to the mouse");
    }

    #[test]
    fn keys_are_translated_or_not() {
        let mut b = bench();
        let events = [
            (Key::plain(0x1e), true),
            (Key::plain(0x1e), false),
            (Key::extended(0x48), true),
            (Key::extended(0x48), false),
        ];
        assert_eq!(b.chip.keys(&events), 4);
        assert_eq!(b.bytes(), [0x1e, 0x9e, 0xe0, 0x48, 0xe0, 0xc8]);
        b.set_command_byte(0x05);
        b.chip.keys(&events);
        assert_eq!(b.bytes(), [0x1c, 0xf0, 0x1c, 0xe0, 0x75, 0xe0, 0xf0, 0x75]);
        assert_eq!(b.chip.read_data(), 0x75, "an empty buffer gives the last byte again");
    }

    #[test]
    fn disabled_keyboard_keeps_its_keys() {
        let mut b = bench();
        b.command(0xad);
        b.chip.key(Key::plain(0x02), true);
        assert_eq!(b.bytes(), []);
        assert_eq!(b.command_byte() & 0x10, 0x10);
        b.command(0xae);
        assert_eq!(b.bytes(), [0x02]);
        b.command(0xad);
        b.data(0xed);
        b.data(0x02);
        assert_eq!(b.bytes(), [0xfa, 0xfa], "talking to it enables it");
        assert_eq!(b.chip.indicators(), 2);
    }

    #[test]
    fn mouse_reports_movement() {
        let mut b = bench();
        b.command(0xd4);
        b.data(0xf4);
        b.read_all();
        b.chip.move_mouse(3, -2, 0);
        b.chip.set_mouse_buttons(Buttons::LEFT);
        assert_eq!(b.read_all(), [(0x28, true), (3, true), (0xfe, true), (0x09, true), (0, true), (0, true)]);
    }

    #[test]
    fn three_ways_to_reset() {
        let mut b = bench();
        b.command(0xfe);
        assert_eq!(b.power.take(), [Wish::Reset]);
        b.command(0xf1);
        b.command(0xff);
        assert!(b.power.take().is_empty(), "bit 0 is not pulsed");
        b.command(0xd1);
        b.data(0xdf);
        assert!(b.power.take().is_empty());
        b.command(0xd1);
        b.data(0xde);
        assert_eq!(b.power.take(), [Wish::Reset]);
    }

    #[test]
    fn output_port_and_ram_read_back() {
        let mut b = bench();
        b.command(0xdd);
        b.command(0xd0);
        assert_eq!(b.bytes(), [0xcd]);
        b.command(0xdf);
        b.command(0xd0);
        assert_eq!(b.bytes(), [0xcf]);
        b.command(0x7f);
        b.data(0x77);
        b.command(0x3f);
        assert_eq!(b.bytes(), [0x77]);
        for (command, reply) in [(0xa4, 0xf1), (0xc0, 0x80), (0xe0, 0x00)] {
            b.command(command);
            assert_eq!(b.bytes(), [reply]);
        }
        assert_eq!(b.chip.read_status() & 0x08, 0x08);
        b.data(0xee);
        assert_eq!(b.chip.read_status() & 0x08, 0);
    }

    #[test]
    fn ports_are_where_they_are() {
        let chip = Arc::new(Mutex::new(bench().chip));
        let (mut data, mut command) = (DataPort(chip.clone()), CommandPort(chip));
        command.write_byte(0, 0xaa);
        assert_eq!(command.read_byte(0) & 1, 1);
        assert_eq!(data.read_byte(0), 0x55);
        data.write_byte(0, 0xee);
        assert_eq!(data.read_byte(0), 0xee);
        assert_eq!((data.read_byte(1), command.read_byte(1)), (0xff, 0xff));
    }

    #[test]
    fn save_and_load_in_the_middle() {
        let mut b = bench();
        b.set_command_byte(0x47);
        b.chip.key(Key::plain(0x1e), true);
        b.chip.key(Key::plain(0x1e), false);
        b.command(0xd4);
        b.data(0xe9);
        b.command(0xd4);
        let saved = rmp_serde::to_vec_named(&b.chip.save()).unwrap();
        let mut other = bench();
        other.chip.load(rmp_serde::from_slice(&saved).unwrap());
        assert!(other.irqs.level(KEYBOARD_IRQ));
        for bench in [&mut b, &mut other] {
            bench.data(0xf2);
            assert_eq!(bench.read_all(), [(0x1e, false), (0x9e, false), (0xfa, true), (0, true)]);
        }
        assert_eq!(b.chip.save(), other.chip.save());
        other.chip.reset();
        assert_eq!(other.chip.save(), I8042State::default());
    }

    #[test]
    fn nothing_that_a_guest_does_panics_or_grows() {
        let mut b = bench();
        let mut seed = 1u32;
        for _ in 0..200_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = (seed >> 16) as u8;
            match seed >> 28 {
                0..=4 => b.command(value),
                5..=9 => b.data(value),
                10..=12 => drop(b.chip.read_data()),
                13 => drop(b.chip.key(Key::extended(value), seed & 0x100 != 0)),
                14 => b.chip.move_mouse(i32::from(value), -i32::from(value), 1),
                _ => b.chip.set_mouse_buttons(Buttons::from_bits_truncate(value)),
            }
        }
        b.power.take();
        assert!(rmp_serde::to_vec_named(&b.chip.save()).unwrap().len() < 2000);
    }
}
