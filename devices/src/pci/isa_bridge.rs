//! The ISA bridge: the LPC interface of the ICH9 (82801IB, device 31 function 0) with its interrupt route registers.

use std::sync::Arc;

use super::Slot;
use super::bus::PciDevice;
use super::config::{ConfigSpace, ConfigState, Identity};
use super::intx::{IntxRouter, PIRQ_COUNT, PIRQ_NOT_ROUTED, PIRQ_ROUTE_IRQ};
use crate::chipset::acpi_pm::PM_BASE;

/// Where the ISA bridge sits.
pub const ISA_BRIDGE_SLOT: Slot = Slot::new(31, 0);
/// PIRQA_ROUT; B to D follow.
pub const PIRQ_ROUTE_REGISTER: usize = 0x60;
/// PIRQE_ROUT; F to H follow. No slot uses these wires.
const PIRQ_ROUTE_REGISTER_EH: usize = 0x68;
/// PMBASE: where the ACPI registers are.
const PM_BASE_REGISTER: usize = 0x40;
const PM_BASE_IS_IO: u32 = 1 << 0;
/// ACPI_CNTL.
const ACPI_CONTROL: usize = 0x44;
const ACPI_ENABLE: u8 = 1 << 7;
/// SIRQ_CNTL: as the data sheet has it after reset.
const SERIAL_IRQ_CONTROL: usize = 0x64;
const SERIAL_IRQ_AFTER_RESET: u8 = 0x10;
/// What of a route register can be written.
const ROUTE_WRITABLE: u8 = PIRQ_NOT_ROUTED | PIRQ_ROUTE_IRQ;

const IDENTITY: Identity = Identity {
    vendor: 0x8086,
    device: 0x2918,
    revision: 2,
    // Bridge, ISA bridge.
    class: [0x06, 0x01, 0x00],
    subsystem_vendor: 0,
    subsystem: 0,
};

/// PIC interrupts that firmware routes PIRQA to PIRQD to. They are level-triggered: the PIC's ELCR must have their bits.
pub const FIRMWARE_ROUTES: [u8; PIRQ_COUNT] = [10, 11, 10, 11];

/// The ELCR value (port 0x4D0 in the lower byte, 0x4D1 in the upper) that goes with route registers: every interrupt that
/// a PIRQ reaches is level-triggered.
pub const fn elcr_for(routes: [u8; PIRQ_COUNT]) -> u16 {
    let mut elcr = 0;
    let mut pirq = 0;
    while pirq < PIRQ_COUNT {
        if routes[pirq] & PIRQ_NOT_ROUTED == 0 {
            elcr |= 1 << (routes[pirq] & PIRQ_ROUTE_IRQ);
        }
        pirq += 1;
    }
    elcr
}

/// The ISA bridge.
pub struct IsaBridge {
    config: ConfigSpace,
    router: Arc<IntxRouter>,
}

impl IsaBridge {
    /// A bridge whose route registers control `router`.
    pub fn new(router: Arc<IntxRouter>) -> Self {
        let mut config = ConfigSpace::new(IDENTITY);
        config.define(PM_BASE_REGISTER, &(PM_BASE as u32 | PM_BASE_IS_IO).to_le_bytes(), &[]);
        config.define(ACPI_CONTROL, &[ACPI_ENABLE], &[]);
        config.define(SERIAL_IRQ_CONTROL, &[SERIAL_IRQ_AFTER_RESET], &[0xff]);
        for register in [PIRQ_ROUTE_REGISTER, PIRQ_ROUTE_REGISTER_EH] {
            config.define(register, &[PIRQ_NOT_ROUTED; PIRQ_COUNT], &[ROUTE_WRITABLE; PIRQ_COUNT]);
        }
        let bridge = Self { config, router };
        bridge.router.set_routes(bridge.routes());
        bridge
    }

    /// The route registers of PIRQA to PIRQD.
    pub fn routes(&self) -> [u8; PIRQ_COUNT] {
        std::array::from_fn(|pirq| self.config.read_u8(PIRQ_ROUTE_REGISTER + pirq))
    }

    /// The state, to be saved.
    pub fn save(&self) -> ConfigState {
        self.config.save()
    }

    /// Takes over a saved state. The router, which has one of its own, is to be loaded after this.
    pub fn load(&mut self, state: &ConfigState) {
        self.config.load(state);
        self.router.set_routes(self.routes());
    }
}

impl PciDevice for IsaBridge {
    fn name(&self) -> &str {
        "ISA bridge"
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        let before = self.routes();
        self.config.write(offset, data);
        if self.routes() != before {
            self.router.set_routes(self.routes());
        }
    }

    fn reset(&mut self) {
        self.config.reset();
        self.router.set_routes(self.routes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::Recorder;
    use crate::pci::Pin;

    #[test]
    fn guests_find_the_bridge_and_its_acpi_ports() {
        let bridge = IsaBridge::new(IntxRouter::new(Recorder::new()));
        let config = bridge.config();
        assert_eq!((config.read_u32(0), config.read_u32(8)), (0x2918_8086, 0x0601_0002));
        assert_eq!((config.read_u32(0x40), config.read_u8(0x44)), (0x601, 0x80));
    }

    #[test]
    fn route_registers_move_a_wire_of_the_pic() {
        let sink = Recorder::new();
        let router = IntxRouter::new(sink.clone());
        let mut bridge = IsaBridge::new(router.clone());
        assert_eq!(bridge.routes(), [0x80; 4]);
        let line = router.line(Slot::new(4, 0), Pin::B);
        line.raise();
        assert!(sink.level(17) && !sink.level(11));
        bridge.write_config(0x60, &FIRMWARE_ROUTES);
        assert!(sink.level(11));
        bridge.write_config(0x61, &[0x75]);
        assert_eq!(bridge.routes(), [10, 0x05, 10, 11], "reserved bits are zero");
        assert!(sink.level(5) && !sink.level(11));

        let saved = rmp_serde::to_vec_named(&(bridge.save(), router.save())).unwrap();
        let sink = Recorder::new();
        let router = IntxRouter::new(sink.clone());
        let mut other = IsaBridge::new(router.clone());
        let (state, wires) = rmp_serde::from_slice(&saved).unwrap();
        other.load(&state);
        router.load(wires);
        assert_eq!(other.routes(), bridge.routes());
        router.line(Slot::new(3, 0), Pin::B).pulse();
        assert_eq!(sink.take_changes(), [(16, true), (10, true), (16, false), (10, false)]);

        bridge.reset();
        assert_eq!(bridge.routes(), [0x80; 4]);
    }

    #[test]
    fn elcr_has_the_routed_interrupts() {
        assert_eq!(elcr_for(FIRMWARE_ROUTES), 1 << 10 | 1 << 11);
        assert_eq!(elcr_for([0x80, 5, 0x8a, 9]), 1 << 5 | 1 << 9);
    }
}
