//! Interrupt wires and messages: what a device holds of the interrupt fabric.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The far end of interrupt wires. Levels are logical: `true` is asserted, whatever polarity the wire has.
pub trait IrqSink: Send + Sync {
    /// Drives the wire of a global system interrupt. Telling the same level twice changes nothing.
    fn set_line(&self, gsi: u32, level: bool);

    /// What a rising edge would meet now.
    fn hearing(&self, _gsi: u32) -> Hearing {
        Hearing::Deaf
    }
}

/// What a rising edge on a wire would meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// Nobody listens: it is masked, or the wire leads nowhere.
    Deaf,
    /// The interrupt of an earlier edge has not been taken by a CPU yet. This one would be lost in it.
    Waiting,
    /// It would become an interrupt of its own.
    Ready,
}

/// Where message-signalled interrupts go.
pub trait MsiSink: Send + Sync {
    /// The posted write of an MSI: `data` to `address`.
    fn send(&self, address: u64, data: u32);
}

/// A device's interrupt pin, soldered to a global system interrupt. It holds no state: the sink knows the level.
#[derive(Clone)]
pub struct IrqLine {
    sink: Arc<dyn IrqSink>,
    gsi: u32,
}

impl IrqLine {
    /// A pin that drives wire `gsi` of `sink`.
    pub fn new(sink: Arc<dyn IrqSink>, gsi: u32) -> IrqLine {
        IrqLine { sink, gsi }
    }

    /// A pin that is connected to nothing.
    pub fn unconnected() -> IrqLine {
        IrqLine::new(Arc::new(Unconnected), 0)
    }

    /// Asserts the pin.
    pub fn raise(&self) {
        self.set(true);
    }

    /// Releases the pin.
    pub fn lower(&self) {
        self.set(false);
    }

    /// Asserts or releases the pin.
    pub fn set(&self, level: bool) {
        self.sink.set_line(self.gsi, level);
    }

    /// What a rising edge would meet now.
    pub fn hearing(&self) -> Hearing {
        self.sink.hearing(self.gsi)
    }

    /// One rising edge, and back to released. The 8259 forgets a request that is released before it is acknowledged:
    /// this is for wires that end at the I/O APIC only.
    pub fn pulse(&self) {
        self.raise();
        self.lower();
    }

    /// The number of the wire.
    pub fn gsi(&self) -> u32 {
        self.gsi
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IrqLine({})", self.gsi)
    }
}

struct Unconnected;

impl IrqSink for Unconnected {
    fn set_line(&self, _gsi: u32, _level: bool) {}
}

/// A wire that several devices share, as PCI functions share INTA# to INTD#: asserted while any of them asserts it.
pub struct WiredOr {
    line: IrqLine,
    inputs: Mutex<WiredOrState>,
}

/// What a snapshot keeps of a shared wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WiredOrState {
    /// One bit for each input that is asserted.
    pub asserted: u64,
}

impl WiredOr {
    /// Inputs that one wire can have.
    pub const MAX_INPUTS: u32 = u64::BITS;

    /// A shared wire in front of `line`.
    pub fn new(line: IrqLine) -> Arc<WiredOr> {
        Arc::new(WiredOr { line, inputs: Mutex::new(WiredOrState::default()) })
    }

    /// Input number `index`, below [`MAX_INPUTS`](WiredOr::MAX_INPUTS), as a pin for one device.
    ///
    /// # Panics
    /// If there is no such input.
    pub fn input(self: &Arc<WiredOr>, index: u32) -> IrqLine {
        assert!(index < WiredOr::MAX_INPUTS, "a shared wire has {} inputs", WiredOr::MAX_INPUTS);
        IrqLine::new(self.clone(), index)
    }

    /// What a snapshot keeps.
    pub fn save(&self) -> WiredOrState {
        *self.inputs.lock()
    }

    /// Takes over a snapshot's state. The far end loads its own, so it is not driven.
    pub fn load(&self, state: &WiredOrState) {
        *self.inputs.lock() = *state;
    }
}

impl IrqSink for WiredOr {
    fn set_line(&self, input: u32, level: bool) {
        let Some(bit) = 1u64.checked_shl(input) else { return };
        // Held while driving the line, so that two devices' changes arrive in the order in which they were made.
        let mut inputs = self.inputs.lock();
        if level {
            inputs.asserted |= bit;
        } else {
            inputs.asserted &= !bit;
        }
        self.line.set(inputs.asserted != 0);
    }
}

/// A sink that writes down what arrives, for tests of devices.
#[derive(Default)]
pub struct Recorder(Mutex<Recorded>);

#[derive(Default)]
struct Recorded {
    asserted: Vec<u32>,
    changes: Vec<(u32, bool)>,
    messages: Vec<(u64, u32)>,
    /// What edges meet, by wire; otherwise they are heard.
    hearing: Vec<(u32, Hearing)>,
}

impl Recorder {
    /// A sink that has seen nothing yet.
    pub fn new() -> Arc<Recorder> {
        Arc::new(Recorder::default())
    }

    /// A pin that is connected to wire `gsi` of this sink.
    pub fn line(self: &Arc<Recorder>, gsi: u32) -> IrqLine {
        IrqLine::new(self.clone(), gsi)
    }

    /// The present level of a wire.
    pub fn level(&self, gsi: u32) -> bool {
        self.0.lock().asserted.contains(&gsi)
    }

    /// Changes of level since the last call, oldest first.
    pub fn take_changes(&self) -> Vec<(u32, bool)> {
        std::mem::take(&mut self.0.lock().changes)
    }

    /// How often a wire rose since the last call of this or of [`take_changes`](Recorder::take_changes).
    pub fn take_rises(&self, gsi: u32) -> usize {
        self.take_changes().into_iter().filter(|&change| change == (gsi, true)).count()
    }

    /// Says what edges on a wire meet from now on.
    pub fn set_hearing(&self, gsi: u32, hearing: Hearing) {
        let mut recorded = self.0.lock();
        recorded.hearing.retain(|&(wire, _)| wire != gsi);
        recorded.hearing.push((gsi, hearing));
    }

    /// Messages since the last call, oldest first.
    pub fn take_messages(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.0.lock().messages)
    }
}

impl IrqSink for Recorder {
    fn set_line(&self, gsi: u32, level: bool) {
        let mut recorded = self.0.lock();
        if recorded.asserted.contains(&gsi) != level {
            recorded.asserted.retain(|&line| line != gsi);
            if level {
                recorded.asserted.push(gsi);
            }
            recorded.changes.push((gsi, level));
        }
    }

    fn hearing(&self, gsi: u32) -> Hearing {
        let recorded = self.0.lock();
        let said = recorded.hearing.iter().find(|&&(wire, _)| wire == gsi);
        said.map_or(Hearing::Ready, |&(_, hearing)| hearing)
    }
}

impl MsiSink for Recorder {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().messages.push((address, data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_drives_its_wire_only() {
        let sink = Recorder::new();
        let (a, b) = (sink.line(3), sink.line(4));
        a.raise();
        a.raise();
        b.pulse();
        assert!(sink.level(3) && !sink.level(4));
        a.lower();
        assert_eq!(sink.take_changes(), [(3, true), (4, true), (4, false), (3, false)]);
        b.pulse();
        assert_eq!(sink.take_rises(4), 1);
    }

    #[test]
    fn a_shared_wire_stays_asserted_until_the_last_device_lets_go() {
        let sink = Recorder::new();
        let wire = WiredOr::new(sink.line(16));
        let (a, b) = (wire.input(0), wire.input(63));
        a.raise();
        b.raise();
        a.lower();
        assert!(sink.level(16));

        let bytes = rmp_serde::to_vec_named(&wire.save()).unwrap();
        let loaded = WiredOr::new(sink.line(16));
        loaded.load(&rmp_serde::from_slice(&bytes).unwrap());
        loaded.input(0).pulse();
        assert!(sink.level(16), "input 63 still holds it");
        loaded.input(63).lower();
        assert_eq!(sink.take_changes(), [(16, true), (16, false)]);
    }

    #[test]
    fn messages_are_recorded() {
        let sink = Recorder::new();
        sink.send(0xfee0_0000, 0x41);
        assert_eq!(sink.take_messages(), [(0xfee0_0000, 0x41)]);
        assert!(sink.take_messages().is_empty());
    }
}
