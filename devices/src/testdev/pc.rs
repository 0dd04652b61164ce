//! `pc-testdev`: ports that echo, ports that drive interrupt lines, a buffer in memory.

use serde::{Deserialize, Serialize};

use crate::bus::{ByteDevice, Device, addresses_from};
use crate::irq::IrqLine;

/// First of the ports that echo what was written to them, at any width.
pub const ECHO_PORT: u64 = 0xe0;
/// Number of the echo ports.
pub const ECHO_PORTS: u64 = 4;
/// A double word written here asks the host to drop its mapping of a guest page.
pub const FLUSH_PORT: u64 = 0xe4;
/// Bytes of the flush port.
pub const FLUSH_PORTS: u64 = 4;
/// First of the ports that drive the global system interrupts of the same number.
pub const IRQ_PORT: u64 = 0x2000;
/// Number of the interrupt ports.
pub const IRQ_PORTS: u64 = 24;
/// Where the buffer in memory is.
pub const BUFFER_BASE: u64 = 0xff00_0000;
/// Bytes of the buffer.
pub const BUFFER_SIZE: u64 = 0x1_0000;

/// Four bytes that read as they were written. QEMU has them once more at port 0xe8; there the debug console is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    bytes: [u8; ECHO_PORTS as usize],
}

impl ByteDevice for Echo {
    fn read_byte(&mut self, offset: u64) -> u8 {
        self.bytes[(offset % ECHO_PORTS) as usize]
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        self.bytes[(offset % ECHO_PORTS) as usize] = value;
    }
}

/// The flush port. Guest memory here has no mapping that would have to be dropped, so it does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flush;

impl Device for Flush {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

/// Ports that drive interrupt lines: zero releases, everything else asserts.
pub struct IrqPorts {
    lines: Vec<IrqLine>,
}

impl IrqPorts {
    /// A port for each line, by number.
    pub fn new(lines: Vec<IrqLine>) -> Self {
        Self { lines }
    }
}

impl ByteDevice for IrqPorts {
    fn read_byte(&mut self, _offset: u64) -> u8 {
        0
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        let line = usize::try_from(offset).ok().and_then(|index| self.lines.get(index));
        if let Some(line) = line {
            line.set(value != 0);
        }
    }
}

/// Memory that is not RAM: instructions that work on it reach the device bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    bytes: Vec<u8>,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: vec![0; BUFFER_SIZE as usize] }
    }
}

impl Device for Buffer {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (at, byte) in addresses_from(offset).zip(data) {
            let index = usize::try_from(at).ok();
            *byte = index.and_then(|index| self.bytes.get(index)).copied().unwrap_or(0xff);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in addresses_from(offset).zip(data) {
            if let Some(place) = usize::try_from(at).ok().and_then(|index| self.bytes.get_mut(index)) {
                *place = *byte;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::Recorder;

    #[test]
    fn ports_echo_at_every_width() {
        let mut echo = Echo::default();
        echo.write(0, &[1, 2, 3, 4]);
        echo.write(1, &[0xaa, 0xbb]);
        let mut data = [0; 4];
        echo.read(0, &mut data);
        assert_eq!(data, [1, 0xaa, 0xbb, 4]);
        let saved = rmp_serde::to_vec_named(&echo).unwrap();
        let mut other: Echo = rmp_serde::from_slice(&saved).unwrap();
        other.read(3, &mut data[..1]);
        assert_eq!(data[0], 4);
        other.read(u64::MAX, &mut data);
        assert_eq!(data, [4, 1, 0xaa, 0xbb]);
    }

    #[test]
    fn each_port_drives_its_line() {
        let sink = Recorder::new();
        let mut ports = IrqPorts::new((0..24).map(|number| sink.line(number)).collect());
        ports.write(5, &[1]);
        ports.write(23, &[0x80]);
        ports.write(24, &[1]);
        ports.write(u64::MAX, &[1, 1]);
        assert!(sink.level(5) && sink.level(23) && sink.level(0));
        ports.write(5, &[0]);
        assert!(!sink.level(5));
        let mut data = [0xff; 2];
        ports.read(5, &mut data);
        assert_eq!(data, [0, 0]);
    }

    #[test]
    fn the_buffer_remembers_to_its_last_byte() {
        let mut buffer = Buffer::default();
        buffer.write(BUFFER_SIZE - 4, &[1, 2, 3, 4, 5, 6, 7, 8]);
        let saved = rmp_serde::to_vec_named(&buffer).unwrap();
        let mut buffer: Buffer = rmp_serde::from_slice(&saved).unwrap();
        let mut data = [0; 8];
        buffer.read(BUFFER_SIZE - 4, &mut data);
        assert_eq!(data, [1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff]);
        buffer.read(u64::MAX - 1, &mut data[..4]);
        assert_eq!(data[..4], [0xff, 0xff, 0, 0]);
    }

    #[test]
    fn the_flush_port_takes_everything() {
        Flush.write(0, &[1, 2, 3, 4]);
        let mut data = [1; 4];
        Flush.read(0, &mut data);
        assert_eq!(data, [0; 4]);
    }
}
