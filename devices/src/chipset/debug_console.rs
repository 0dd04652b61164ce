//! The debug console that Bochs introduced: bytes written to its port appear on the host, and reading it tells the guest
//! that it is there.

use crate::bus::ByteDevice;
use crate::char::CharBackend;

/// The port, and the value that it reads as.
pub const DEBUG_CONSOLE_PORT: u64 = 0xe9;
const PRESENT: u8 = 0xe9;

/// The debug console. It has no state.
pub struct DebugConsole {
    output: Box<dyn CharBackend>,
}

impl DebugConsole {
    /// A console that writes to `output`.
    pub fn new(output: Box<dyn CharBackend>) -> Self {
        Self { output }
    }
}

impl ByteDevice for DebugConsole {
    fn read_byte(&mut self, offset: u64) -> u8 {
        if offset == 0 { PRESENT } else { 0xff }
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        if offset == 0 {
            self.output.write(&[value]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Device;
    use crate::char::Capture;

    #[test]
    fn bytes_reach_the_host_and_the_port_names_itself() {
        let output = Capture::default();
        let mut console = DebugConsole::new(Box::new(output.clone()));
        console.write(0, b"o");
        console.write(0, b"kx");
        assert_eq!(output.take(), b"ok", "the neighbouring port is not the console");
        assert_eq!(console.read_byte(0), 0xe9);
    }
}
