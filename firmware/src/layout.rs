//! What the firmware must know of the board's address map.

use std::ops::Range;

/// The board's addresses and numbers that tables and boot loaders tell the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// End of RAM below 4 GiB: RAM beyond it continues at [`Layout::high_ram_base`].
    pub low_ram_top: u64,
    /// Where RAM above the hole for PCI and interrupt chips starts.
    pub high_ram_base: u64,
    /// Window for 32-bit PCI BARs.
    pub pci32: Range<u64>,
    /// Window for 64-bit PCI BARs.
    pub pci64: Range<u64>,
    /// PCI Express configuration space, 1 MiB for each bus from 0.
    pub ecam: Range<u64>,
    /// I/O APIC registers.
    pub ioapic: u64,
    /// APIC ID of the I/O APIC.
    pub ioapic_id: u8,
    /// HPET registers.
    pub hpet: u64,
    /// Low 32 bits of the HPET's capability register.
    pub hpet_block_id: u32,
    /// Local APIC registers.
    pub lapic: u64,
    /// First port of the ACPI power management block, 128 ports laid out as in Intel's ICH9.
    pub pm_base: u16,
    /// Bytes of the block's GPE0 registers, half of them status, half enable.
    pub gpe0_length: u8,
    /// The GSI of ACPI's system control interrupt.
    pub sci: u8,
    /// SLP_TYP value that means S5 (soft off).
    pub s5_sleep_type: u8,
    /// The first of the four GSIs that PCI's INTA to INTD reach.
    pub pci_gsi_base: u8,
    /// The interrupts of the 8259 pair that they reach, as firmware sets the ISA bridge up.
    pub pci_irqs: [u8; 4],
}

impl Layout {
    /// The part of `ram_bytes` of RAM that lies below the hole, from address 0.
    pub fn low_ram(&self, ram_bytes: u64) -> Range<u64> {
        0..ram_bytes.min(self.low_ram_top)
    }

    /// The part of `ram_bytes` of RAM that lies above 4 GiB; may be empty.
    pub fn high_ram(&self, ram_bytes: u64) -> Range<u64> {
        let size = ram_bytes.saturating_sub(self.low_ram_top);
        self.high_ram_base..self.high_ram_base.saturating_add(size)
    }
}

#[cfg(test)]
impl Layout {
    /// softmetal's PC, for tests.
    pub(crate) fn example() -> Self {
        Self {
            low_ram_top: 0xc000_0000,
            high_ram_base: 1 << 32,
            pci32: 0xc000_0000..0xe000_0000,
            pci64: 0x80_0000_0000..0x100_0000_0000,
            ecam: 0xe000_0000..0xf000_0000,
            ioapic: 0xfec0_0000,
            ioapic_id: 0,
            hpet: 0xfed0_0000,
            hpet_block_id: 0x8086_a201,
            lapic: 0xfee0_0000,
            pm_base: 0x600,
            gpe0_length: 8,
            sci: 9,
            s5_sleep_type: 5,
            pci_gsi_base: 16,
            pci_irqs: [10, 11, 10, 11],
        }
    }
}
