//! A PS/2 keyboard with 101 keys or more (IBM PS/2 Hardware Interface Technical Reference, "Keyboards"): scan code sets 1
//! and 2, and the commands of set 3 accepted without effect.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bytes of key presses that wait in a keyboard.
const BUFFER_SIZE: usize = 16;
/// The longest reply to a command.
const LONGEST_REPLY: usize = 4;

const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
const ECHO: u8 = 0xee;
const IDENTITY: [u8; 2] = [0xab, 0x83];
/// Before the second byte of an extended key's code.
const EXTENDED: u8 = 0xe0;
/// Before the code of a key that goes up, in set 2.
pub(super) const RELEASE_SET_2: u8 = 0xf0;
/// Added to the code of a key that goes up, in set 1.
pub(super) const RELEASE_SET_1: u8 = 0x80;
/// Pause sends press and release at once when it goes down, and nothing when it goes up.
const PAUSE_SET_1: &[u8] = &[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5];
const PAUSE_SET_2: &[u8] = &[0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77];

/// What the controller makes of codes of set 2 when it translates to set 1. Codes from 0x80 on stay as they are, but for F7
/// and SysRq.
const SET_2_TO_SET_1: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29,
    0x59, // 00
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03,
    0x5b, // 10
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06,
    0x5d, // 20
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09,
    0x5f, // 30
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c,
    0x61, // 40
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63,
    0x76, // 50
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f,
    0x6f, // 60
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46,
    0x54, // 70
];
const F7_SET_2: u8 = 0x83;
const F7_SET_1: u8 = 0x41;
const SYSRQ_SET_2: u8 = 0x84;
const SYSRQ_SET_1: u8 = 0x54;

/// Translates a byte of set 2 as the controller does.
pub(super) fn translate(code: u8) -> u8 {
    match code {
        F7_SET_2 => F7_SET_1,
        SYSRQ_SET_2 => SYSRQ_SET_1,
        _ => SET_2_TO_SET_1.get(usize::from(code)).copied().unwrap_or(code),
    }
}

/// The code of set 2 for a code of set 1.
fn set_2_code(set_1: u8) -> Option<u8> {
    match set_1 {
        F7_SET_1 => Some(F7_SET_2),
        SYSRQ_SET_1 => Some(SYSRQ_SET_2),
        _ => SET_2_TO_SET_1.iter().position(|&code| code == set_1).map(|code| code as u8),
    }
}

/// A key, by the code that it sends in scan code set 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    code: u8,
    prefix: Option<u8>,
}

impl Key {
    /// The Pause key.
    pub const PAUSE: Self = Self { code: 0x45, prefix: Some(0xe1) };

    /// The key whose code has one byte, 0x01 to 0x7f.
    pub const fn plain(code: u8) -> Self {
        Self { code: code & 0x7f, prefix: None }
    }

    /// The key whose code is 0xE0 and then this byte, 0x01 to 0x7f.
    pub const fn extended(code: u8) -> Self {
        Self { code: code & 0x7f, prefix: Some(EXTENDED) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum ScanCodeSet {
    Set1,
    Set2,
    /// Chosen by few; keys are sent as in set 2.
    Set3,
}

impl ScanCodeSet {
    fn number(self) -> u8 {
        match self {
            Self::Set1 => 1,
            Self::Set2 => 2,
            Self::Set3 => 3,
        }
    }
}

/// Commands that the host sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Command {
    SetIndicators,
    Echo,
    ScanCodeSet,
    Identify,
    SetTypematic,
    Enable,
    DefaultDisable,
    SetDefault,
    /// For set 3: all keys repeat, or not, or send releases, or not.
    SetAllKeys,
    /// For set 3, and followed by keys until the next command.
    SetKeys,
    Resend,
    Reset,
    Unknown,
}

impl Command {
    fn from(byte: u8) -> Self {
        match byte {
            0xed => Self::SetIndicators,
            0xee => Self::Echo,
            0xf0 => Self::ScanCodeSet,
            0xf2 => Self::Identify,
            0xf3 => Self::SetTypematic,
            0xf4 => Self::Enable,
            0xf5 => Self::DefaultDisable,
            0xf6 => Self::SetDefault,
            0xf7..=0xfa => Self::SetAllKeys,
            0xfb..=0xfd => Self::SetKeys,
            0xfe => Self::Resend,
            0xff => Self::Reset,
            _ => Self::Unknown,
        }
    }
}

/// A keyboard, and all that it remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keyboard {
    scanning: bool,
    set: ScanCodeSet,
    indicators: u8,
    typematic: u8,
    /// The command whose argument comes next.
    expects: Option<Command>,
    replies: VecDeque<u8>,
    codes: VecDeque<u8>,
    last_sent: u8,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self {
            scanning: true,
            set: ScanCodeSet::Set2,
            indicators: 0,
            typematic: 0x2b,
            expects: None,
            replies: VecDeque::new(),
            codes: VecDeque::new(),
            last_sent: 0,
        }
    }
}

impl Keyboard {
    /// A key goes down or up. False when the buffer has no room for it: nothing has happened then.
    pub(super) fn key(&mut self, key: Key, pressed: bool) -> bool {
        if !self.scanning {
            return true;
        }
        let codes = self.codes_of(key, pressed);
        let fits = self.codes.len() + codes.len() <= BUFFER_SIZE;
        if fits {
            self.codes.extend(codes);
        }
        fits
    }

    /// Caps lock, num lock and scroll lock lights: bits 2, 1 and 0.
    pub(super) fn indicators(&self) -> u8 {
        self.indicators
    }

    /// The next byte for the controller. Replies go before keys, and keys wait while an argument is due.
    pub(super) fn next(&mut self) -> Option<u8> {
        let byte = match self.replies.pop_front() {
            Some(reply) => Some(reply),
            None if self.expects.is_none() => self.codes.pop_front(),
            None => None,
        }?;
        if byte != RESEND {
            self.last_sent = byte;
        }
        Some(byte)
    }

    /// A byte from the controller.
    pub(super) fn write(&mut self, byte: u8) {
        // A new command ends whatever the keyboard was about to say.
        self.replies.clear();
        match self.expects.take() {
            // Arguments of these are below 0x80; what looks like a command is one.
            Some(command) if byte < 0x80 => self.argument(command, byte),
            _ => self.command(Command::from(byte)),
        }
    }

    /// Bounds what a saved state may hold.
    pub(super) fn sanitise(&mut self) {
        self.replies.truncate(LONGEST_REPLY);
        self.codes.truncate(BUFFER_SIZE);
    }

    fn codes_of(&self, key: Key, pressed: bool) -> Vec<u8> {
        let set_1 = self.set == ScanCodeSet::Set1;
        if key == Key::PAUSE {
            let codes = if set_1 { PAUSE_SET_1 } else { PAUSE_SET_2 };
            return if pressed { codes.to_vec() } else { Vec::new() };
        }
        let mut codes: Vec<u8> = key.prefix.into_iter().collect();
        if set_1 {
            codes.push(if pressed { key.code } else { key.code | RELEASE_SET_1 });
        } else {
            let Some(code) = set_2_code(key.code) else { return Vec::new() };
            if !pressed {
                codes.push(RELEASE_SET_2);
            }
            codes.push(code);
        }
        codes
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Echo => self.replies.push_back(ECHO),
            Command::Resend => self.replies.push_back(self.last_sent),
            Command::Unknown => self.replies.push_back(RESEND),
            Command::SetIndicators | Command::ScanCodeSet | Command::SetTypematic | Command::SetKeys => {
                self.expects = Some(command);
                self.replies.push_back(ACKNOWLEDGE);
            }
            Command::SetAllKeys => self.replies.push_back(ACKNOWLEDGE),
            Command::Identify => {
                self.replies.push_back(ACKNOWLEDGE);
                self.replies.extend(IDENTITY);
            }
            Command::Enable => {
                self.codes.clear();
                self.scanning = true;
                self.replies.push_back(ACKNOWLEDGE);
            }
            Command::DefaultDisable | Command::SetDefault => {
                self.set_default();
                self.scanning = command == Command::SetDefault;
                self.replies.push_back(ACKNOWLEDGE);
            }
            Command::Reset => {
                *self = Self::default();
                self.replies.extend([ACKNOWLEDGE, SELF_TEST_PASSED]);
            }
        }
    }

    fn argument(&mut self, command: Command, byte: u8) {
        match command {
            Command::SetIndicators => self.indicators = byte & 7,
            Command::SetTypematic => self.typematic = byte,
            Command::ScanCodeSet => {
                let set = match byte {
                    0 => {
                        self.replies.extend([ACKNOWLEDGE, self.set.number()]);
                        return;
                    }
                    1 => ScanCodeSet::Set1,
                    2 => ScanCodeSet::Set2,
                    3 => ScanCodeSet::Set3,
                    _ => {
                        self.replies.push_back(RESEND);
                        return;
                    }
                };
                self.codes.clear();
                self.set = set;
            }
            // More keys may follow.
            Command::SetKeys => self.expects = Some(Command::SetKeys),
            _ => {}
        }
        self.replies.push_back(ACKNOWLEDGE);
    }

    fn set_default(&mut self) {
        self.codes.clear();
        self.typematic = Self::default().typematic;
        self.set = ScanCodeSet::Set2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(keyboard: &mut Keyboard, byte: u8) -> Vec<u8> {
        keyboard.write(byte);
        hear(keyboard)
    }

    fn hear(keyboard: &mut Keyboard) -> Vec<u8> {
        std::iter::from_fn(|| keyboard.next()).collect()
    }

    #[test]
    fn commands_are_answered() {
        let mut keyboard = Keyboard::default();
        for (byte, reply) in [
            (0xff, vec![0xfa, 0xaa]),
            (0xf2, vec![0xfa, 0xab, 0x83]),
            (0xee, vec![0xee]),
            (0xf5, vec![0xfa]),
            (0xed, vec![0xfa]),
            (0x02, vec![0xfa]),
            (0xf3, vec![0xfa]),
            (0x00, vec![0xfa]),
            (0xf0, vec![0xfa]),
            (0x00, vec![0xfa, 0x02]),
            (0xf0, vec![0xfa]),
            (0x07, vec![0xfe]),
            (0xfd, vec![0xfa]),
            (0x11, vec![0xfa]),
            (0x12, vec![0xfa]),
            (0xf4, vec![0xfa]),
            (0xf8, vec![0xfa]),
            (0x01, vec![0xfe]),
            (0xfe, vec![0xfa]),
        ] {
            assert_eq!(say(&mut keyboard, byte), reply, "{byte:#x}");
        }
        assert_eq!(keyboard.indicators(), 2);
    }

    #[test]
    fn keys_in_both_sets() {
        let mut keyboard = Keyboard::default();
        let keys = [Key::plain(0x1e), Key::extended(0x1c), Key::plain(0x41), Key::PAUSE];
        let press_all = |keyboard: &mut Keyboard| {
            let mut heard = Vec::new();
            for key in keys {
                assert!(keyboard.key(key, true) && keyboard.key(key, false));
                heard.extend(hear(keyboard));
            }
            heard
        };
        let set_2 = [
            &[0x1c, 0xf0, 0x1c, 0xe0, 0x5a, 0xe0, 0xf0, 0x5a, 0x83, 0xf0, 0x83][..],
            &[0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77],
        ];
        assert_eq!(press_all(&mut keyboard), set_2.concat());
        say(&mut keyboard, 0xf0);
        say(&mut keyboard, 0x01);
        let set_1 =
            [&[0x1e, 0x9e, 0xe0, 0x1c, 0xe0, 0x9c, 0x41, 0xc1][..], &[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]];
        assert_eq!(press_all(&mut keyboard), set_1.concat());
    }

    #[test]
    fn every_key_of_set_1_survives_translation() {
        for code in 1..0x59 {
            let set_2 = set_2_code(code).unwrap();
            assert_eq!(translate(set_2), code);
        }
        assert_eq!(translate(0xfa), 0xfa);
        assert_eq!(translate(0xaa), 0xaa);
    }

    #[test]
    fn a_full_buffer_refuses_keys_whole() {
        let mut keyboard = Keyboard::default();
        let accepted = (0..10).filter(|_| keyboard.key(Key::extended(0x48), false)).count();
        assert_eq!(accepted, 5);
        assert_eq!(hear(&mut keyboard).len(), 15);
        say(&mut keyboard, 0xf5);
        assert!(keyboard.key(Key::plain(1), true), "not scanning: it is taken, and lost");
        assert_eq!(hear(&mut keyboard), []);
    }

    #[test]
    fn keys_wait_for_the_end_of_a_command() {
        let mut keyboard = Keyboard::default();
        keyboard.write(0xed);
        keyboard.key(Key::plain(0x1e), true);
        assert_eq!(hear(&mut keyboard), [0xfa]);
        assert_eq!(say(&mut keyboard, 0x07), [0xfa, 0x1c]);
    }
}
