//! A PS/2 mouse (IBM PS/2 Hardware Interface Technical Reference, "Auxiliary Device") with the wheel and the five buttons that
//! Microsoft's IntelliMouse added.

use std::collections::VecDeque;

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
/// Replies and a packet that wait at once.
const QUEUE_LIMIT: usize = 8;
/// Movement that waits to be reported; what goes beyond is lost, as on a mouse that is read too seldom.
const MOVEMENT_LIMIT: i32 = 10_000;

const IDENTITY_STANDARD: u8 = 0;
const IDENTITY_WHEEL: u8 = 3;
const IDENTITY_FIVE_BUTTONS: u8 = 4;
/// Sample rates that, set one after the other, turn a standard mouse into one with a wheel.
const KNOCK_WHEEL: [u8; 3] = [200, 100, 80];
/// And one with a wheel into one with five buttons.
const KNOCK_FIVE_BUTTONS: [u8; 3] = [200, 200, 80];

const PACKET_ALWAYS_SET: u8 = 1 << 3;
const PACKET_X_NEGATIVE: u8 = 1 << 4;
const PACKET_Y_NEGATIVE: u8 = 1 << 5;

bitflags! {
    /// Buttons that are down.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Buttons: u8 {
        /// Left.
        const LEFT = 1 << 0;
        /// Right.
        const RIGHT = 1 << 1;
        /// Middle: the wheel.
        const MIDDLE = 1 << 2;
        /// The fourth.
        const SIDE = 1 << 3;
        /// The fifth.
        const EXTRA = 1 << 4;
    }

    /// First byte of the answer to a status request.
    struct Status: u8 {
        const RIGHT = 1 << 0;
        const MIDDLE = 1 << 1;
        const LEFT = 1 << 2;
        const DOUBLE_SCALING = 1 << 4;
        const REPORTING = 1 << 5;
        const REMOTE = 1 << 6;
    }
}

/// Commands that the host sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Command {
    ResetScaling,
    SetScaling,
    SetResolution,
    StatusRequest,
    SetStreamMode,
    ReadData,
    ResetWrapMode,
    SetWrapMode,
    SetRemoteMode,
    ReadType,
    SetSampleRate,
    Enable,
    Disable,
    SetDefault,
    Resend,
    Reset,
    Unknown,
}

impl Command {
    fn from(byte: u8) -> Self {
        match byte {
            0xe6 => Self::ResetScaling,
            0xe7 => Self::SetScaling,
            0xe8 => Self::SetResolution,
            0xe9 => Self::StatusRequest,
            0xea => Self::SetStreamMode,
            0xeb => Self::ReadData,
            0xec => Self::ResetWrapMode,
            0xee => Self::SetWrapMode,
            0xf0 => Self::SetRemoteMode,
            0xf2 => Self::ReadType,
            0xf3 => Self::SetSampleRate,
            0xf4 => Self::Enable,
            0xf5 => Self::Disable,
            0xf6 => Self::SetDefault,
            0xfe => Self::Resend,
            0xff => Self::Reset,
            _ => Self::Unknown,
        }
    }
}

/// A mouse, and all that it remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mouse {
    identity: u8,
    reporting: bool,
    remote: bool,
    wrap: bool,
    double_scaling: bool,
    resolution: u8,
    sample_rate: u8,
    recent_rates: [u8; 3],
    /// The command whose argument comes next.
    expects: Option<Command>,
    queue: VecDeque<u8>,
    last_sent: u8,
    movement: (i32, i32, i32),
    buttons: Buttons,
    buttons_reported: Buttons,
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            identity: IDENTITY_STANDARD,
            reporting: false,
            remote: false,
            wrap: false,
            double_scaling: false,
            resolution: 2,
            sample_rate: 100,
            recent_rates: [0; 3],
            expects: None,
            queue: VecDeque::new(),
            last_sent: 0,
            movement: (0, 0, 0),
            buttons: Buttons::empty(),
            buttons_reported: Buttons::empty(),
        }
    }
}

impl Mouse {
    /// The mouse moves: right and up are positive, and the wheel towards the user.
    pub(super) fn move_by(&mut self, right: i32, up: i32, wheel: i32) {
        let add = |sum: i32, step: i32| sum.saturating_add(step).clamp(-MOVEMENT_LIMIT, MOVEMENT_LIMIT);
        let (x, y, z) = self.movement;
        self.movement = (add(x, right), add(y, up), add(z, wheel));
    }

    /// These buttons are down.
    pub(super) fn set_buttons(&mut self, buttons: Buttons) {
        self.buttons = buttons;
    }

    /// The next byte for the controller: of a reply, or of a packet if there is something to report.
    pub(super) fn next(&mut self) -> Option<u8> {
        let idle = self.queue.is_empty() && self.expects.is_none();
        if idle && self.reporting && !self.remote && !self.wrap && self.has_news() {
            self.queue_packet();
        }
        let byte = self.queue.pop_front()?;
        if byte != RESEND {
            self.last_sent = byte;
        }
        Some(byte)
    }

    /// A byte from the controller.
    pub(super) fn write(&mut self, byte: u8) {
        // A new command ends whatever the mouse was about to say.
        self.queue.clear();
        let command = Command::from(byte);
        if self.wrap && !matches!(command, Command::ResetWrapMode | Command::Reset) {
            self.queue.push_back(byte);
            return;
        }
        match self.expects.take() {
            Some(expecting) => self.argument(expecting, byte),
            None => self.command(command),
        }
    }

    /// Bounds what a saved state may hold.
    pub(super) fn sanitise(&mut self) {
        self.queue.truncate(QUEUE_LIMIT);
        self.move_by(0, 0, 0);
    }

    fn has_news(&self) -> bool {
        let (x, y, z) = self.movement;
        let wheel = z != 0 && self.identity != IDENTITY_STANDARD;
        x != 0 || y != 0 || wheel || self.buttons != self.buttons_reported
    }

    fn command(&mut self, command: Command) {
        self.queue.push_back(ACKNOWLEDGE);
        match command {
            Command::ResetScaling => self.double_scaling = false,
            Command::SetScaling => self.double_scaling = true,
            Command::SetResolution | Command::SetSampleRate => self.expects = Some(command),
            Command::StatusRequest => {
                let status = self.status();
                self.queue.extend([status.bits(), self.resolution, self.sample_rate]);
            }
            Command::SetStreamMode => self.remote = false,
            Command::SetRemoteMode => self.remote = true,
            Command::ReadData => self.queue_packet(),
            Command::SetWrapMode => self.wrap = true,
            Command::ResetWrapMode => self.wrap = false,
            Command::ReadType => self.queue.push_back(self.identity),
            Command::Enable => {
                self.forget_movement();
                self.reporting = true;
            }
            Command::Disable => self.reporting = false,
            Command::SetDefault => self.set_default(),
            Command::Resend => {
                self.queue.clear();
                self.queue.push_back(self.last_sent);
            }
            Command::Reset => {
                let buttons = self.buttons;
                *self = Self { buttons, buttons_reported: buttons, ..Self::default() };
                self.queue.extend([ACKNOWLEDGE, SELF_TEST_PASSED, self.identity]);
            }
            Command::Unknown => {
                self.queue.clear();
                self.queue.push_back(RESEND);
            }
        }
    }

    fn argument(&mut self, command: Command, byte: u8) {
        match command {
            Command::SetResolution => self.resolution = byte & 3,
            Command::SetSampleRate => {
                self.sample_rate = byte;
                self.recent_rates = [self.recent_rates[1], self.recent_rates[2], byte];
                match self.recent_rates {
                    KNOCK_WHEEL if self.identity == IDENTITY_STANDARD => self.identity = IDENTITY_WHEEL,
                    KNOCK_FIVE_BUTTONS if self.identity == IDENTITY_WHEEL => {
                        self.identity = IDENTITY_FIVE_BUTTONS
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        self.queue.push_back(ACKNOWLEDGE);
    }

    fn set_default(&mut self) {
        self.reporting = false;
        self.remote = false;
        self.double_scaling = false;
        self.resolution = 2;
        self.sample_rate = 100;
        self.forget_movement();
    }

    fn forget_movement(&mut self) {
        self.movement = (0, 0, 0);
        self.buttons_reported = self.buttons;
    }

    fn status(&self) -> Status {
        let mut status = Status::empty();
        status.set(Status::LEFT, self.buttons.contains(Buttons::LEFT));
        status.set(Status::MIDDLE, self.buttons.contains(Buttons::MIDDLE));
        status.set(Status::RIGHT, self.buttons.contains(Buttons::RIGHT));
        status.set(Status::DOUBLE_SCALING, self.double_scaling);
        status.set(Status::REPORTING, self.reporting);
        status.set(Status::REMOTE, self.remote);
        status
    }

    /// Puts a packet into the queue: as much of the movement as it can carry. The rest waits for the next.
    fn queue_packet(&mut self) {
        let (x, y, z) = self.movement;
        let (now_x, now_y) = (x.clamp(-255, 255), y.clamp(-255, 255));
        let now_z = if self.identity == IDENTITY_STANDARD { z } else { z.clamp(-8, 7) };
        self.movement = (x - now_x, y - now_y, z - now_z);
        self.buttons_reported = self.buttons;
        let main = Buttons::LEFT | Buttons::RIGHT | Buttons::MIDDLE;
        let mut first = PACKET_ALWAYS_SET | (self.buttons & main).bits();
        if now_x < 0 {
            first |= PACKET_X_NEGATIVE;
        }
        if now_y < 0 {
            first |= PACKET_Y_NEGATIVE;
        }
        self.queue.extend([first, now_x as u8, now_y as u8]);
        match self.identity {
            IDENTITY_WHEEL => self.queue.push_back(now_z as u8),
            IDENTITY_FIVE_BUTTONS => {
                let more = (self.buttons - main).bits() << 1;
                self.queue.push_back(more | now_z as u8 & 0x0f);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(mouse: &mut Mouse) -> Vec<u8> {
        std::iter::from_fn(|| mouse.next()).collect()
    }

    fn say(mouse: &mut Mouse, bytes: &[u8]) -> Vec<u8> {
        let mut heard = Vec::new();
        for &byte in bytes {
            mouse.write(byte);
            heard.extend(hear(mouse));
        }
        heard
    }

    #[test]
    fn commands_are_answered() {
        let mut mouse = Mouse::default();
        assert_eq!(say(&mut mouse, &[0xff]), [0xfa, 0xaa, 0x00]);
        assert_eq!(say(&mut mouse, &[0xf2]), [0xfa, 0x00]);
        assert_eq!(say(&mut mouse, &[0xe8, 3, 0xf3, 60, 0xe7, 0xf4]), [0xfa; 6]);
        mouse.set_buttons(Buttons::LEFT);
        mouse.write(0xe9);
        assert_eq!([mouse.next(), mouse.next(), mouse.next(), mouse.next()], [0xfa, 0x34, 3, 60].map(Some));
        assert_eq!(say(&mut mouse, &[0xf6, 0xe9])[..5], [0xfa, 0xfa, 0x04, 2, 100]);
        assert_eq!(say(&mut mouse, &[0x12]), [0xfe]);
        assert_eq!(say(&mut mouse, &[0xee, 0x12, 0xf4, 0xec]), [0xfa, 0x12, 0xf4, 0xfa]);
        assert_eq!(say(&mut mouse, &[0xfe]), [0xfa]);
    }

    #[test]
    fn knocking_brings_wheel_and_buttons() {
        let mut mouse = Mouse::default();
        say(&mut mouse, &[0xf3, 200, 0xf3, 100, 0xf3, 80]);
        assert_eq!(say(&mut mouse, &[0xf2]), [0xfa, 0x03]);
        say(&mut mouse, &[0xf4]);
        mouse.move_by(0, 0, -1);
        assert_eq!(hear(&mut mouse), [0x08, 0, 0, 0xff]);
        say(&mut mouse, &[0xf3, 200, 0xf3, 200, 0xf3, 80]);
        assert_eq!(say(&mut mouse, &[0xf2]), [0xfa, 0x04]);
        mouse.set_buttons(Buttons::SIDE | Buttons::RIGHT);
        mouse.move_by(1, 0, -1);
        assert_eq!(hear(&mut mouse), [0x0a, 1, 0, 0x1f]);
    }

    #[test]
    fn large_movements_are_split_and_bounded() {
        let mut mouse = Mouse::default();
        mouse.move_by(5, 5, 0);
        assert_eq!(hear(&mut mouse), [], "not reporting");
        say(&mut mouse, &[0xf4]);
        assert_eq!(hear(&mut mouse), [], "old movement is forgotten");
        mouse.move_by(300, -256, 0);
        assert_eq!(hear(&mut mouse), [0x28, 255, 1, 0x28, 45, 0xff]);
        mouse.move_by(i32::MAX, i32::MIN, 0);
        mouse.move_by(i32::MAX, i32::MIN, 0);
        assert_eq!(hear(&mut mouse).len(), 3 * 40);
    }

    #[test]
    fn remote_mode_reports_when_asked() {
        let mut mouse = Mouse::default();
        say(&mut mouse, &[0xf0, 0xf4]);
        mouse.move_by(2, 1, 0);
        assert_eq!(hear(&mut mouse), []);
        assert_eq!(say(&mut mouse, &[0xeb]), [0xfa, 0x08, 2, 1]);
        assert_eq!(say(&mut mouse, &[0xeb]), [0xfa, 0x08, 0, 0]);
    }
}
