//! The host bridge: identity and registers of the q35's memory controller hub (82Q35, device 0 function 0) that guests
//! look at.

use std::ops::Range;

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

/// PAM0 to PAM6: what the addresses from C0000h to FFFFFh lead to.
const PAM: usize = 0x90;
const PAM_REGISTERS: usize = 7;
/// The two bits of a range that matter: 0 reads go to memory, 1 writes do. Otherwise they go to the bus.
const PAM_READ: u8 = 1 << 0;
const PAM_WRITE: u8 = 1 << 1;

/// A range of addresses between C0000h and FFFFFh, and which accesses to it reach memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// The addresses.
    pub range: Range<u64>,
    /// Reads do.
    pub read: bool,
    /// Writes do.
    pub write: bool,
}

/// Is told what the PAM registers say of a range that they have changed.
pub type ShadowSink = Box<dyn Fn(Shadow) + Send>;

/// The ranges of the PAM registers: register, lowest bit, addresses.
fn pam_ranges() -> impl Iterator<Item = (usize, u32, Range<u64>)> {
    const PIECE: u64 = 16 << 10;
    let pieces = (0..12).map(|k| {
        let start = 0xc_0000 + PIECE * k;
        (PAM + 1 + k as usize / 2, 4 * (k as u32 & 1), start..start + PIECE)
    });
    std::iter::once((PAM, 4, 0xf_0000..0x10_0000)).chain(pieces)
}

/// The host bridge.
pub struct HostBridge {
    config: ConfigSpace,
    shadow: ShadowSink,
}

impl HostBridge {
    /// A bridge that tells guests that the window for 256 buses is at `ecam_base`. The board has put it there, and it
    /// does not move. `shadow` is told when the guest changes what of the low memory is RAM; at first all of it is, as
    /// firmware leaves it.
    pub fn new(ecam_base: u64, shadow: ShadowSink) -> Self {
        let mut config = ConfigSpace::new(IDENTITY);
        config.define(PCIEXBAR, &(ecam_base | PCIEXBAR_ENABLE).to_le_bytes(), &[]);
        const ALL_RAM: [u8; PAM_REGISTERS] = [0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33];
        config.define(PAM, &ALL_RAM, &ALL_RAM);
        Self { config, shadow }
    }

    /// Changes registers, and says what that does to memory.
    fn change(&mut self, work: impl FnOnce(&mut ConfigSpace)) {
        let mut before = [0; PAM_REGISTERS];
        self.config.read(PAM, &mut before);
        work(&mut self.config);
        for (register, shift, range) in pam_ranges() {
            let now = self.config.read_u8(register) >> shift & (PAM_READ | PAM_WRITE);
            if now != before[register - PAM] >> shift & (PAM_READ | PAM_WRITE) {
                (self.shadow)(Shadow { range, read: now & PAM_READ != 0, write: now & PAM_WRITE != 0 });
            }
        }
    }

    /// The state, to be saved.
    pub fn save(&self) -> ConfigState {
        self.config.save()
    }

    /// Takes over a saved state.
    pub fn load(&mut self, state: &ConfigState) {
        self.change(|config| config.load(state));
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

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.change(|config| config.write(offset, data));
    }

    fn reset(&mut self) {
        self.change(ConfigSpace::reset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pam_registers_say_what_is_memory() {
        let (sender, told) = std::sync::mpsc::channel();
        let mut bridge = HostBridge::new(0, Box::new(move |shadow| sender.send(shadow).unwrap()));
        // The BIOS area read from the bus and written to memory; then read-only memory.
        bridge.write_config(0x90, &[0x20]);
        bridge.write_config(0x90, &[0x10, 0x33]);
        // Both halves of D0000h to D7FFFh, reserved bits not.
        bridge.write_config(0x93, &[0xcd]);
        let expected = [
            (0xf_0000..0x10_0000, false, true),
            (0xf_0000..0x10_0000, true, false),
            (0xd_0000..0xd_4000, true, false),
            (0xd_4000..0xd_8000, false, false),
        ];
        let shadow = |(range, read, write)| Shadow { range, read, write };
        assert_eq!(told.try_iter().collect::<Vec<_>>(), expected.map(shadow));
        assert_eq!(bridge.config().read_u32(0x90), 0x0133_3310);
        let saved = bridge.save();
        bridge.reset();
        assert_eq!(told.try_iter().count(), 3);
        bridge.load(&saved);
        assert_eq!(told.try_iter().collect::<Vec<_>>().len(), 3);
    }

    #[test]
    fn guests_find_a_host_bridge_without_ranges() {
        let mut bridge = HostBridge::new(0xb000_0000, Box::new(|_| ()));
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
