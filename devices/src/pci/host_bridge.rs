//! The host bridge: identity and registers of the q35's memory controller hub (82Q35, device 0 function 0) that guests
//! look at.

use super::Slot;
use super::bus::PciDevice;
use super::config::{ConfigSpace, ConfigState, Identity};

/// Where the host bridge sits.
pub const HOST_BRIDGE_SLOT: Slot = Slot::new(0, 0);

const IDENTITY: Identity = Identity {
    vendor: 0x8086,
    device: 0x29c0,
    revision: 0,
    // Bridge, host bridge.
    class: [0x06, 0x00, 0x00],
    subsystem_vendor: 0,
    subsystem: 0,
};

/// PCIEXBAR: where the memory-mapped configuration window is.
const PCIEXBAR: usize = 0x60;
const PCIEXBAR_ENABLE: u64 = 1 << 0;

/// The host bridge.
pub struct HostBridge {
    config: ConfigSpace,
}

impl HostBridge {
    /// A bridge that tells guests that the window for 256 buses is at `ecam_base`. The board has put it there, and it
    /// does not move.
    pub fn new(ecam_base: u64) -> Self {
        let mut config = ConfigSpace::new(IDENTITY);
        config.define(PCIEXBAR, &(ecam_base | PCIEXBAR_ENABLE).to_le_bytes(), &[]);
        Self { config }
    }

    /// The state, to be saved.
    pub fn save(&self) -> ConfigState {
        self.config.save()
    }

    /// Takes over a saved state.
    pub fn load(&mut self, state: &ConfigState) {
        self.config.load(state);
    }
}

impl PciDevice for HostBridge {
    fn name(&self) -> &str {
        "host bridge"
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_find_a_host_bridge_without_ranges() {
        let mut bridge = HostBridge::new(0xb000_0000);
        let config = bridge.config();
        assert_eq!((config.read_u32(0), config.read_u32(8)), (0x29c0_8086, 0x0600_0000));
        assert_eq!(config.read_u32(0x60), 0xb000_0001);
        assert_eq!(config.bars().count(), 0);
        bridge.write_config(0x04, &[0x06]);
        let saved = bridge.save();
        bridge.reset();
        assert_eq!(bridge.config().read_u16(4), 0);
        bridge.load(&saved);
        assert_eq!(bridge.config().read_u16(4), 6);
    }
}
