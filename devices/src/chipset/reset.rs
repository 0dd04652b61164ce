//! The two ports by which a PC resets itself: the reset control register (0xCF9) of the ICH and system control port A
//! (0x92) of the PS/2.

use std::sync::Arc;

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::bus::ByteDevice;
use crate::power::PowerSink;

/// Port of the reset control register. It lies inside the PCI configuration address register, whose decoder hands its
/// byte accesses on.
pub const RESET_CONTROL_PORT: u64 = 0xcf9;
/// Value that resets the machine when written to [`RESET_CONTROL_PORT`]: what the FADT names as RESET_VALUE.
pub const RESET_CONTROL_FULL: u8 = 0x0f;
/// Port of system control port A.
pub const SYSTEM_CONTROL_A_PORT: u64 = 0x92;

bitflags! {
    /// RST_CNT.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    struct ResetControlBits: u8 {
        /// The reset is one of the whole system rather than of the processor.
        const SYS_RST = 1 << 1;
        /// Going from 0 to 1 resets.
        const RST_CPU = 1 << 2;
        /// The reset takes the power away for a moment.
        const FULL_RST = 1 << 3;
    }

    /// System control port A.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    struct SystemControlBits: u8 {
        /// INIT_NOW: going from 0 to 1 resets.
        const FAST_RESET = 1 << 0;
        /// Address line 20 is not masked.
        const A20 = 1 << 1;
    }
}

/// What the reset control register remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetControlState {
    bits: ResetControlBits,
}

/// The reset control register.
pub struct ResetControl {
    state: ResetControlState,
    power: Arc<dyn PowerSink>,
}

impl ResetControl {
    /// The register after power-on.
    pub fn new(power: Arc<dyn PowerSink>) -> Self {
        Self { state: ResetControlState::default(), power }
    }

    /// Puts the register back to its state after power-on.
    pub fn reset(&mut self) {
        self.state = ResetControlState::default();
    }

    /// The state, to be saved.
    pub fn save(&self) -> ResetControlState {
        self.state
    }

    /// Takes over a saved state.
    pub fn load(&mut self, state: ResetControlState) {
        self.state = state;
    }
}

impl ByteDevice for ResetControl {
    fn read_byte(&mut self, offset: u64) -> u8 {
        if offset == 0 { self.state.bits.bits() } else { 0xff }
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        if offset != 0 {
            return;
        }
        let new = ResetControlBits::from_bits_truncate(value);
        let goes = (new - self.state.bits).contains(ResetControlBits::RST_CPU);
        self.state.bits = new;
        if goes {
            self.power.reset();
        }
    }
}

/// What system control port A remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemControlAState {
    bits: SystemControlBits,
}

/// System control port A. Address line 20 is never masked here, as on processors since Haswell; its bit remembers what was
/// written, which is what guests look at.
pub struct SystemControlA {
    state: SystemControlAState,
    power: Arc<dyn PowerSink>,
}

impl SystemControlA {
    /// The port after power-on, A20 enabled.
    pub fn new(power: Arc<dyn PowerSink>) -> Self {
        Self { state: SystemControlAState { bits: SystemControlBits::A20 }, power }
    }

    /// Puts the port back to its state after power-on.
    pub fn reset(&mut self) {
        self.state.bits = SystemControlBits::A20;
    }

    /// The state, to be saved.
    pub fn save(&self) -> SystemControlAState {
        self.state
    }

    /// Takes over a saved state.
    pub fn load(&mut self, state: SystemControlAState) {
        self.state = state;
    }
}

impl ByteDevice for SystemControlA {
    fn read_byte(&mut self, offset: u64) -> u8 {
        if offset == 0 { self.state.bits.bits() } else { 0xff }
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        if offset != 0 {
            return;
        }
        let new = SystemControlBits::from_bits_truncate(value);
        let goes = (new - self.state.bits).contains(SystemControlBits::FAST_RESET);
        self.state.bits = new;
        if goes {
            self.power.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::recorder::{PowerRecorder, Wish};

    #[test]
    fn reset_control_acts_on_the_rising_bit() {
        let power = PowerRecorder::new();
        let mut control = ResetControl::new(power.clone());
        // What Linux does: the kind first, then the trigger.
        control.write_byte(0, 0x0a);
        assert_eq!(control.read_byte(0), 0x0a);
        assert!(power.take().is_empty());
        control.write_byte(0, 0x0e);
        assert_eq!(power.take(), [Wish::Reset]);
        let saved = rmp_serde::to_vec_named(&control.save()).unwrap();
        let mut other = ResetControl::new(power.clone());
        other.load(rmp_serde::from_slice(&saved).unwrap());
        other.write_byte(0, 0x06);
        assert!(power.take().is_empty(), "RST_CPU was 1 before");
        other.reset();
        other.write_byte(0, RESET_CONTROL_FULL);
        assert_eq!(power.take(), [Wish::Reset]);
        assert_eq!(other.read_byte(0), 0x0e, "bit 0 is reserved");
    }

    #[test]
    fn port_92_keeps_a20_and_resets_once() {
        let power = PowerRecorder::new();
        let mut port = SystemControlA::new(power.clone());
        assert_eq!(port.read_byte(0), 0x02);
        port.write_byte(0, 0xfc);
        assert_eq!(port.read_byte(0), 0x00);
        port.write_byte(0, 0x02);
        assert!(power.take().is_empty());
        port.write_byte(0, 0x03);
        let saved = rmp_serde::to_vec_named(&port.save()).unwrap();
        port.reset();
        assert_eq!(port.read_byte(0), 0x02);
        port.load(rmp_serde::from_slice(&saved).unwrap());
        port.write_byte(0, 0x01);
        assert_eq!(power.take(), [Wish::Reset], "the bit has risen once");
    }
}
