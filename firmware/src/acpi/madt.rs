//! The MADT: processors and interrupt controllers (ACPI "Multiple APIC Description Table").

use acpi_tables::sdt::Sdt;

use super::{Config, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::Layout;

const HEADER_LENGTH: u32 = 44;
const REVISION: u8 = 5;
const PCAT_COMPAT: u32 = 1;
const ENABLED: u32 = 1;
/// xAPIC IDs stop below the broadcast ID.
const XAPIC_IDS: u32 = 255;

/// Polarity and trigger mode of an interrupt, as MPS INTI flags.
mod inti {
    pub(super) const ACTIVE_HIGH: u16 = 0b01;
    pub(super) const EDGE: u16 = 0b01 << 2;
    pub(super) const LEVEL: u16 = 0b11 << 2;
}

/// Types of interrupt controller structures.
mod kind {
    pub(super) const LOCAL_APIC: u8 = 0;
    pub(super) const IO_APIC: u8 = 1;
    pub(super) const SOURCE_OVERRIDE: u8 = 2;
    pub(super) const LOCAL_APIC_NMI: u8 = 4;
    pub(super) const LOCAL_X2APIC: u8 = 9;
    pub(super) const LOCAL_X2APIC_NMI: u8 = 10;
}

pub(super) fn build(config: &Config, layout: &Layout) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", HEADER_LENGTH, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.write_u32(36, layout.lapic as u32);
    madt.write_u32(40, PCAT_COMPAT);

    for id in 0..config.cpus.min(XAPIC_IDS) {
        add(&mut madt, kind::LOCAL_APIC, &[&[id as u8, id as u8], &ENABLED.to_le_bytes()]);
    }
    for id in XAPIC_IDS..config.cpus {
        let id = id.to_le_bytes();
        add(&mut madt, kind::LOCAL_X2APIC, &[&[0, 0], &id, &ENABLED.to_le_bytes(), &id]);
    }
    let gsi_base = 0u32.to_le_bytes();
    add(
        &mut madt,
        kind::IO_APIC,
        &[&[layout.ioapic_id, 0], &(layout.ioapic as u32).to_le_bytes(), &gsi_base],
    );

    // The PIT's line sits at pin 2, where a PC's PIC cascade would be.
    source_override(&mut madt, 0, 2, inti::ACTIVE_HIGH | inti::EDGE);
    source_override(&mut madt, layout.sci, u32::from(layout.sci), inti::ACTIVE_HIGH | inti::LEVEL);

    const LINT1: u8 = 1;
    let conforms = 0u16.to_le_bytes();
    const ALL_XAPIC: u8 = 0xff;
    add(&mut madt, kind::LOCAL_APIC_NMI, &[&[ALL_XAPIC], &conforms, &[LINT1]]);
    if config.cpus > XAPIC_IDS {
        add(&mut madt, kind::LOCAL_X2APIC_NMI, &[&conforms, &u32::MAX.to_le_bytes(), &[LINT1, 0, 0, 0]]);
    }
    madt
}

fn source_override(madt: &mut Sdt, isa_irq: u8, gsi: u32, flags: u16) {
    const ISA_BUS: u8 = 0;
    add(madt, kind::SOURCE_OVERRIDE, &[&[ISA_BUS, isa_irq], &gsi.to_le_bytes(), &flags.to_le_bytes()]);
}

/// Appends one structure: type, length, fields.
fn add(madt: &mut Sdt, kind: u8, fields: &[&[u8]]) {
    let fields = fields.concat();
    let mut structure = vec![kind, fields.len() as u8 + 2];
    structure.extend(fields);
    madt.append_slice(&structure);
}
