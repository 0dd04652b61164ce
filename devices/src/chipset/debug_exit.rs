//! The debug-exit port: a write of v ends the process with status `(v << 1) | 1`, which is how test guests report.

use std::sync::Arc;

use crate::bus::Device;
use crate::power::PowerSink;

/// First port, unless the user names another.
pub const DEBUG_EXIT_PORT: u64 = 0xf4;
/// Ports that the device occupies: test guests write bytes or double words.
pub const DEBUG_EXIT_PORTS: u64 = 4;

/// The debug-exit port. It has no state.
pub struct DebugExit {
    power: Arc<dyn PowerSink>,
}

impl DebugExit {
    /// A port whose writes go to `power`.
    pub fn new(power: Arc<dyn PowerSink>) -> Self {
        Self { power }
    }
}

impl Device for DebugExit {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // An exit status has eight bits, so only the lowest byte of a wide write counts.
        if let (0, Some(&value)) = (offset, data.first()) {
            self.power.debug_exit(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::recorder::{PowerRecorder, Wish};

    #[test]
    fn every_width_ends_with_its_low_byte() {
        let power = PowerRecorder::new();
        let mut port = DebugExit::new(power.clone());
        port.write(0, &[0x10]);
        port.write(0, &[0x11, 0]);
        port.write(0, &[0x12, 0, 0, 0]);
        port.write(1, &[0x13]);
        assert_eq!(power.take(), [Wish::DebugExit(0x10), Wish::DebugExit(0x11), Wish::DebugExit(0x12)]);
        let mut data = [0xcc; 2];
        port.read(0, &mut data);
        assert_eq!(data, [0, 0]);
    }
}
