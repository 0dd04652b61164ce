//! The interrupt pins of PCI functions, and where they lead: pins of a slot are swizzled onto four PIRQ wires, which
//! reach the IOAPIC at fixed inputs and the PIC through the route registers of the ISA bridge.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Slot;
use super::config::{Command, ConfigSpace};
use crate::irq::{IrqLine, IrqSink};

/// Global system interrupt of PIRQA; the others follow.
pub const PIRQ_GSI_BASE: u32 = 16;
/// PIRQ wires that slots use.
pub const PIRQ_COUNT: usize = 4;
/// Interrupts of the PIC.
const PIC_IRQS: u8 = 16;
/// In a route register: the wire does not reach the PIC.
pub const PIRQ_NOT_ROUTED: u8 = 1 << 7;
/// In a route register: the PIC interrupt.
pub const PIRQ_ROUTE_IRQ: u8 = 0x0f;

/// An interrupt pin of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Pin {
    /// INTA#.
    A = 1,
    /// INTB#.
    B = 2,
    /// INTC#.
    C = 3,
    /// INTD#.
    D = 4,
}

impl Pin {
    /// As the interrupt pin register has it.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The pin of an interrupt pin register.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::A),
            2 => Some(Self::B),
            3 => Some(Self::C),
            4 => Some(Self::D),
            _ => None,
        }
    }

    /// From 0 for INTA#, as the `_PRT` of ACPI has it.
    pub const fn index(self) -> u8 {
        self as u8 - 1
    }
}

/// The PIRQ wire (0 for A) of a device's pin: what the DSDT's `_PRT` must say.
pub const fn pirq_of(device: u8, pin: Pin) -> usize {
    (device as usize + pin.index() as usize) % PIRQ_COUNT
}

/// The global system interrupt of a device's pin.
pub const fn gsi_of(device: u8, pin: Pin) -> u32 {
    PIRQ_GSI_BASE + pirq_of(device, pin) as u32
}

/// What the router remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntxState {
    /// Pins that are asserted, as [`input_number`] counts them.
    asserted: BTreeSet<u16>,
    /// The route registers.
    routes: [u8; PIRQ_COUNT],
}

/// The wires between the slots and the interrupt controllers.
pub struct IntxRouter {
    sink: Arc<dyn IrqSink>,
    state: Mutex<IntxState>,
}

/// Numbers the pins of a bus: device and function, then pin.
const fn input_number(slot: Slot, pin: Pin) -> u32 {
    (slot.devfn() as u32) << 2 | pin.index() as u32
}

fn pirq_of_input(input: u16) -> usize {
    let (devfn, pin_index) = (input >> 2, input & 3);
    (usize::from(devfn >> 3) + usize::from(pin_index)) % PIRQ_COUNT
}

impl IntxState {
    fn pirq_level(&self, pirq: usize) -> bool {
        self.asserted.iter().any(|&input| pirq_of_input(input) == pirq)
    }

    /// The PIC interrupt that a wire reaches. The timer, the keyboard, the cascade, the clock and the coprocessor have
    /// theirs to themselves: the data sheet reserves those values.
    fn pic_irq(&self, pirq: usize) -> Option<u8> {
        let route = self.routes[pirq];
        let irq = route & PIRQ_ROUTE_IRQ;
        let reserved = matches!(irq, 0 | 1 | 2 | 8 | 13);
        (route & PIRQ_NOT_ROUTED == 0 && !reserved).then_some(irq)
    }

    fn pic_level(&self, irq: u8) -> bool {
        (0..PIRQ_COUNT).any(|pirq| self.pic_irq(pirq) == Some(irq) && self.pirq_level(pirq))
    }
}

impl IntxRouter {
    /// Wires that lead to `sink`, none of them routed to the PIC yet.
    pub fn new(sink: Arc<dyn IrqSink>) -> Arc<Self> {
        let state = IntxState { asserted: BTreeSet::new(), routes: [PIRQ_NOT_ROUTED; PIRQ_COUNT] };
        Arc::new(Self { sink, state: Mutex::new(state) })
    }

    /// The wire for a function's pin.
    pub fn line(self: &Arc<Self>, slot: Slot, pin: Pin) -> IrqLine {
        IrqLine::new(self.clone(), input_number(slot, pin))
    }

    /// Takes over the route registers of the ISA bridge.
    pub fn set_routes(&self, routes: [u8; PIRQ_COUNT]) {
        // Held while driving the lines, so that changes arrive in the order in which they were made.
        let mut state = self.state.lock();
        let before: Vec<_> = (0..PIRQ_COUNT).filter_map(|pirq| state.pic_irq(pirq)).collect();
        state.routes = routes;
        for irq in 0..PIC_IRQS {
            let routed = (0..PIRQ_COUNT).any(|pirq| state.pic_irq(pirq) == Some(irq));
            if routed || before.contains(&irq) {
                self.sink.set_line(irq.into(), state.pic_level(irq));
            }
        }
    }

    /// The state, to be saved.
    pub fn save(&self) -> IntxState {
        self.state.lock().clone()
    }

    /// Takes over a saved state. The controllers load their own, so they are not driven.
    pub fn load(&self, mut state: IntxState) {
        state.asserted.retain(|&input| input < 1024);
        *self.state.lock() = state;
    }
}

impl IrqSink for IntxRouter {
    fn set_line(&self, input: u32, level: bool) {
        let Ok(input) = u16::try_from(input) else { return };
        let mut state = self.state.lock();
        let changed = if level { state.asserted.insert(input) } else { state.asserted.remove(&input) };
        if changed {
            let pirq = pirq_of_input(input);
            self.sink.set_line(PIRQ_GSI_BASE + pirq as u32, state.pirq_level(pirq));
            if let Some(irq) = state.pic_irq(pirq) {
                self.sink.set_line(irq.into(), state.pic_level(irq));
            }
        }
    }
}

/// A function's interrupt pin with the two bits of configuration space that belong to it.
#[derive(Debug)]
pub struct Intx {
    line: IrqLine,
    pending: bool,
}

impl Intx {
    /// A pin that drives `line`, released.
    pub fn new(line: IrqLine) -> Self {
        Self { line, pending: false }
    }

    /// The function wants an interrupt, or no longer does.
    pub fn set(&mut self, pending: bool, config: &mut ConfigSpace) {
        self.pending = pending;
        self.sync(config);
    }

    /// Looks at the command register again; to be called after each write of configuration space.
    pub fn sync(&self, config: &mut ConfigSpace) {
        config.set_interrupt_status(self.pending);
        self.line.set(self.pending && !config.command().contains(Command::INTX_DISABLE));
    }

    /// Whether the function wants an interrupt, to be saved.
    pub fn is_pending(&self) -> bool {
        self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::Recorder;
    use crate::pci::config::Identity;

    #[test]
    fn pins_are_swizzled_onto_the_wires() {
        assert_eq!(gsi_of(0, Pin::A), 16);
        assert_eq!(gsi_of(1, Pin::A), 17);
        assert_eq!(gsi_of(2, Pin::D), 17);
        assert_eq!(gsi_of(31, Pin::B), 16);
        for device in 0..32 {
            for pin in [Pin::A, Pin::B, Pin::C, Pin::D] {
                let input = input_number(Slot::new(device, 5), pin);
                assert_eq!(pirq_of_input(input as u16), pirq_of(device, pin));
            }
        }
    }

    #[test]
    fn a_wire_is_shared() {
        let sink = Recorder::new();
        let router = IntxRouter::new(sink.clone());
        let first = router.line(Slot::new(1, 0), Pin::A);
        let second = router.line(Slot::new(5, 0), Pin::A);
        first.raise();
        second.raise();
        first.lower();
        assert!(sink.level(17));
        second.lower();
        assert_eq!(sink.take_changes(), [(17, true), (17, false)]);
        router.set_line(70_000, true);
        assert!(sink.take_changes().is_empty());
    }

    #[test]
    fn routes_lead_to_the_pic_as_well() {
        let sink = Recorder::new();
        let router = IntxRouter::new(sink.clone());
        router.set_routes([10, 11, 10, PIRQ_NOT_ROUTED | 5]);
        let a = router.line(Slot::new(4, 0), Pin::A);
        let c = router.line(Slot::new(4, 0), Pin::C);
        let d = router.line(Slot::new(4, 0), Pin::D);
        a.raise();
        c.raise();
        d.raise();
        assert!(sink.level(10) && sink.level(16) && sink.level(18) && sink.level(19));
        assert!(!sink.level(5) && !sink.level(11));
        a.lower();
        assert!(sink.level(10), "C holds it");
        // Moving the routes moves the levels.
        router.set_routes([10, 11, 9, 5]);
        assert!(!sink.level(10) && sink.level(9) && sink.level(5));
        router.set_routes([PIRQ_NOT_ROUTED; 4]);
        assert!(!sink.level(9) && !sink.level(5) && sink.level(18));
        router.set_routes([0, 1, 2, 8]);
        assert!(!sink.level(2) && !sink.level(8), "reserved");
    }

    #[test]
    fn save_and_load_while_asserted() {
        let sink = Recorder::new();
        let router = IntxRouter::new(sink.clone());
        router.set_routes([5; 4]);
        router.line(Slot::new(2, 1), Pin::B).raise();
        let saved = rmp_serde::to_vec_named(&router.save()).unwrap();
        let other = IntxRouter::new(sink.clone());
        other.load(rmp_serde::from_slice(&saved).unwrap());
        assert_eq!(other.save(), router.save());
        sink.take_changes();
        other.line(Slot::new(2, 1), Pin::B).lower();
        assert_eq!(sink.take_changes(), [(19, false), (5, false)]);
    }

    #[test]
    fn the_command_register_silences_a_pin() {
        let sink = Recorder::new();
        let mut config = ConfigSpace::new(Identity {
            vendor: 1,
            device: 2,
            revision: 0,
            class: [0; 3],
            subsystem_vendor: 0,
            subsystem: 0,
        });
        let mut intx = Intx::new(sink.line(7));
        intx.set(true, &mut config);
        assert!(sink.level(7));
        assert_eq!(config.read_u8(0x06), 0x08);
        config.write(0x04, &[0, 4]);
        intx.sync(&mut config);
        assert!(!sink.level(7));
        assert_eq!(config.read_u8(0x06), 0x08, "still wants one");
        config.write(0x04, &[0, 0]);
        intx.sync(&mut config);
        assert!(sink.level(7) && intx.is_pending());
        intx.set(false, &mut config);
        assert!(!sink.level(7));
        assert_eq!(config.read_u8(0x06), 0);
    }
}
