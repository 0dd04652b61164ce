//! The tables against the specification's rules. tests/iasl.rs asks Intel's own compiler.

use super::*;

fn tables(cpus: u32) -> Tables {
    build(&Config { cpus, i8042: true, vga: false }, &Layout::example())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[test]
fn every_table_is_reached_from_the_rsdp_and_sums_to_zero() {
    let tables = tables(4);
    let rsdp = &tables.bytes[..36];
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(rsdp), rsdp[15]), (0, 0, 2));
    let at = |address: u64| {
        let start = (address - tables.base) as usize;
        &tables.bytes[start..start + u32_at(&tables.bytes, start + 4) as usize]
    };
    let xsdt = at(u64_at(rsdp, 24));
    assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
    let mut found = Vec::new();
    for entry in xsdt[36..].chunks(8) {
        let table = at(u64_at(entry, 0));
        assert_eq!(sum(table), 0, "{:?}", str::from_utf8(&table[..4]));
        found.push(<[u8; 4]>::try_from(&table[..4]).unwrap());
    }
    assert_eq!(found, [*b"FACP", *b"APIC", *b"HPET", *b"MCFG"]);

    let fadt = tables.table(b"FACP").unwrap();
    let (facs, dsdt) = (u64::from(u32_at(fadt, 36)), u64::from(u32_at(fadt, 40)));
    assert_eq!(facs % 64, 0);
    assert_eq!(&at(facs)[..4], b"FACS");
    assert_eq!((&at(dsdt)[..4], sum(at(dsdt))), (&b"DSDT"[..], 0));
    assert_eq!(u64_at(fadt, 140), dsdt);
}

#[test]
fn fadt_names_the_power_management_ports() {
    let tables = tables(1);
    let fadt = tables.table(b"FACP").unwrap();
    assert_eq!(fadt.len(), 276);
    assert_eq!((fadt[8], fadt[131]), (6, 5));
    assert_eq!(u32_at(fadt, 56), 0x600);
    assert_eq!(u32_at(fadt, 64), 0x604);
    assert_eq!(u32_at(fadt, 76), 0x608);
    assert_eq!(u32_at(fadt, 80), 0x620);
    // The extended fields say the same: system I/O, width in bits, port.
    for (at, bits, port) in [(148, 32, 0x600), (172, 16, 0x604), (208, 32, 0x608), (220, 64, 0x620)] {
        assert_eq!((fadt[at], fadt[at + 1], u64_at(fadt, at + 4)), (1, bits, port));
    }
    assert_eq!((fadt[116], u64_at(fadt, 120), fadt[128]), (1, 0xcf9, 0x0f));
    let boot_flags = u16::from_le_bytes([fadt[109], fadt[110]]);
    assert_eq!(boot_flags, 0b111);
    assert_eq!(u32_at(fadt, 112), 1 | 1 << 2 | 1 << 5 | 1 << 8 | 1 << 10);
}

#[test]
fn madt_lists_processors_by_both_kinds_of_apic_id() {
    let tables = tables(257);
    let mut rest = &tables.table(b"APIC").unwrap()[44..];
    let mut count = [0; 16];
    let mut overrides = Vec::new();
    while let [kind, length, ..] = *rest {
        let (structure, tail) = rest.split_at(usize::from(length));
        count[usize::from(kind)] += 1;
        if kind == 2 {
            overrides.push((structure[3], u32_at(structure, 4), structure[8]));
        }
        rest = tail;
    }
    assert_eq!(count[..11], [255, 1, 2, 0, 1, 0, 0, 0, 0, 2, 1]);
    assert_eq!(overrides, [(0, 2, 0b0101), (9, 9, 0b1101)]);
}

#[test]
fn the_largest_machine_fits() {
    let tables = tables(MAX_CPUS);
    assert!(tables.base + tables.bytes.len() as u64 <= low_memory::ACPI_AREA.end);
}
