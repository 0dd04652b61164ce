//! Where everything sits in the PC's address map. Chips whose place is the same on every PC bring their own constants.

use std::ops::Range;

use softmetal_devices::chipset::acpi_pm;
use softmetal_devices::pci::isa_bridge::FIRMWARE_ROUTES;
use softmetal_firmware::Layout;

use crate::config;

/// Bits of a physical address.
pub const PHYSICAL_BITS: u32 = 46;

/// RAM below 4 GiB ends here at the latest.
pub const LOW_RAM_TOP: u64 = 0xc000_0000;
/// The rest of RAM starts here.
pub const HIGH_RAM_BASE: u64 = 1 << 32;

/// Window for 32-bit PCI BARs.
pub const PCI32: Range<u64> = LOW_RAM_TOP..0xe000_0000;
/// PCI Express configuration space, 256 buses.
pub const ECAM: Range<u64> = 0xe000_0000..0xf000_0000;
/// I/O APIC.
pub const IOAPIC: u64 = 0xfec0_0000;
/// High-precision event timer.
pub const HPET: u64 = 0xfed0_0000;
/// Local APICs.
pub const LAPIC: u64 = 0xfee0_0000;
/// Window for 64-bit PCI BARs, above all RAM that a machine can have.
pub const PCI64: Range<u64> = 0x100_0000_0000..0x180_0000_0000;

/// The GSIs of PCI's INTA to INTD.
pub const PCI_GSI_BASE: u8 = 16;

const _: () = assert!(HIGH_RAM_BASE + config::MAX_MEMORY - LOW_RAM_TOP <= PCI64.start);
const _: () = assert!(PCI64.end <= 1 << PHYSICAL_BITS);

/// The address map as firmware tells it.
pub fn layout() -> Layout {
    Layout {
        low_ram_top: LOW_RAM_TOP,
        high_ram_base: HIGH_RAM_BASE,
        pci32: PCI32,
        pci64: PCI64,
        ecam: ECAM,
        ioapic: IOAPIC,
        ioapic_id: 0,
        hpet: HPET,
        hpet_block_id: 0x8086_a201,
        lapic: LAPIC,
        pm_base: acpi_pm::PM_BASE as u16,
        gpe0_length: acpi_pm::GPE0_LEN,
        sci: acpi_pm::SCI_IRQ as u8,
        s5_sleep_type: acpi_pm::SLP_TYP_S5,
        pci_gsi_base: PCI_GSI_BASE,
        pci_irqs: FIRMWARE_ROUTES,
    }
}
