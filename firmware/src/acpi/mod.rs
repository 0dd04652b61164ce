//! The ACPI tables of the PC: not hardware-reduced, fixed hardware laid out as in Intel's ICH9.

mod aml;
mod dsdt;
mod fixed;
mod madt;

use acpi_tables::{Aml, facs::FACS, rsdp::Rsdp, xsdt::XSDT};

use crate::{Layout, low_memory};

const OEM_ID: [u8; 6] = *b"SOFTML";
const OEM_TABLE_ID: [u8; 8] = *b"SOFTPC  ";
const OEM_REVISION: u32 = 1;

/// More processors than this do not fit into the area for the tables.
pub const MAX_CPUS: u32 = 1024;

/// What the tables say beyond the layout of the board.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of processors; their APIC IDs count from 0.
    pub cpus: u32,
    /// There is a PS/2 keyboard controller with keyboard and mouse.
    pub i8042: bool,
    /// There is a VGA adapter.
    pub vga: bool,
}

/// Tables ready to be copied into guest RAM.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Where [`Tables::bytes`] go.
    pub base: u64,
    /// All tables, the RSDP first.
    pub bytes: Vec<u8>,
    /// Each table's signature and the range of `bytes` that holds it.
    pub directory: Vec<([u8; 4], std::ops::Range<usize>)>,
}

impl Tables {
    /// Address of the RSDP.
    pub fn rsdp(&self) -> u64 {
        self.base
    }

    /// The bytes of the table with this signature.
    pub fn table(&self, signature: &[u8; 4]) -> Option<&[u8]> {
        let (_, range) = self.directory.iter().find(|(name, _)| name == signature)?;
        self.bytes.get(range.clone())
    }

    fn new(base: u64) -> Self {
        // The RSDP is written last, when the address of the XSDT is known.
        Self { base, bytes: vec![0; Rsdp::len()], directory: Vec::new() }
    }

    /// Appends a table and returns its address. 64-byte alignment is what the FACS needs.
    fn add(&mut self, signature: [u8; 4], table: &dyn Aml) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let start = self.bytes.len();
        table.to_aml_bytes(&mut self.bytes);
        self.directory.push((signature, start..self.bytes.len()));
        self.base + start as u64
    }
}

/// The tables of a PC.
pub fn build(config: &Config, layout: &Layout) -> Tables {
    assert!(
        (1..=MAX_CPUS).contains(&config.cpus),
        "the number of processors is validated with the configuration"
    );
    let area = low_memory::ACPI_AREA;
    let mut tables = Tables::new(area.start);

    let facs = tables.add(*b"FACS", &FACS::new());
    let dsdt = tables.add(*b"DSDT", &dsdt::build(config, layout));
    let described = [
        tables.add(*b"FACP", &fixed::fadt(config, layout, facs, dsdt)),
        tables.add(*b"APIC", &madt::build(config, layout)),
        tables.add(*b"HPET", &fixed::hpet(layout)),
        tables.add(*b"MCFG", &fixed::mcfg(layout)),
    ];
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for table in described {
        xsdt.add_entry(table);
    }
    let xsdt = tables.add(*b"XSDT", &xsdt);

    let mut rsdp = Vec::with_capacity(Rsdp::len());
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    tables.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    assert!(
        tables.bytes.len() as u64 <= area.end - area.start,
        "MAX_CPUS keeps the tables within their area"
    );
    tables
}

#[cfg(test)]
mod tests;
