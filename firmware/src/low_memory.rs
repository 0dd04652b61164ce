//! Where firmware puts its things in the first MiB, as every PC's firmware does, and the BIOS data area.

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError};

/// End of the RAM below the EBDA: 639 KiB.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// The extended BIOS data area, 1 KiB.
pub const EBDA: Range<u64> = CONVENTIONAL_END..0xa_0000;
/// ACPI tables; operating systems search the RSDP from here on.
pub const ACPI_AREA: Range<u64> = 0xe_0000..0xf_0000;
/// SMBIOS tables; operating systems search the entry point from here on.
pub const SMBIOS_AREA: Range<u64> = 0xf_0000..0x10_0000;
/// Where RAM goes on beyond the hole for VGA and firmware.
pub const EXTENDED_BASE: u64 = 0x10_0000;

/// Writes the BIOS data area's words that operating systems look at: serial ports, EBDA, memory size.
pub fn write_bios_data<M: GuestMemory + ?Sized>(
    ram: &M,
    serial_ports: &[u16],
) -> Result<(), GuestMemoryError> {
    const SERIAL_PORTS: u64 = 0x400;
    const EBDA_SEGMENT: u64 = 0x40e;
    const MEMORY_SIZE_KIB: u64 = 0x413;
    for (index, port) in (0..4).zip(serial_ports) {
        ram.write_slice(&port.to_le_bytes(), GuestAddress(SERIAL_PORTS + 2 * index))?;
    }
    let segment = (EBDA.start >> 4) as u16;
    let conventional_kib = (CONVENTIONAL_END >> 10) as u16;
    ram.write_slice(&segment.to_le_bytes(), GuestAddress(EBDA_SEGMENT))?;
    ram.write_slice(&conventional_kib.to_le_bytes(), GuestAddress(MEMORY_SIZE_KIB))?;
    // The EBDA starts with its own size in KiB.
    ram.write_slice(&[((EBDA.end - EBDA.start) >> 10) as u8], GuestAddress(EBDA.start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryMmap;

    #[test]
    fn bios_data_names_ports_ebda_and_memory() {
        let ram = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0xa_0000)]).unwrap();
        write_bios_data(&ram, &[0x3f8, 0x2f8]).unwrap();
        let mut area = [0; 0x20];
        ram.read_slice(&mut area, GuestAddress(0x400)).unwrap();
        assert_eq!(area[..6], [0xf8, 3, 0xf8, 2, 0, 0]);
        assert_eq!(area[0x0e..0x10], [0xc0, 0x9f]);
        assert_eq!(area[0x13..0x15], [0x7f, 0x02]);
        assert_eq!(ram.read_obj::<u8>(GuestAddress(0x9_fc00)).unwrap(), 1);
    }
}
