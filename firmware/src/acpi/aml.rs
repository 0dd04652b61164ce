//! AML that `acpi_tables` lacks.

use acpi_tables::{Aml, AmlSink, aml};

/// A resource descriptor "IRQ without flags": edge triggered, active high, exclusive, as ISA interrupts are.
pub(super) struct IrqNoFlags(pub(super) u8);

impl Aml for IrqNoFlags {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        const SMALL_IRQ_TWO_BYTES: u8 = 0x22;
        sink.byte(SMALL_IRQ_TWO_BYTES);
        sink.word(1 << self.0);
    }
}

/// Bytes of AML that are ready.
pub(super) struct Raw(pub(super) Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// `Name (path, value)`.
pub(super) fn name(path: &str, value: &dyn Aml) -> aml::Name {
    aml::Name::new(path.into(), value)
}

/// `Name (_HID, EISAID (id))`.
pub(super) fn hid(id: &str) -> aml::Name {
    name("_HID", &aml::EISAName::new(id))
}

/// `Name (_CRS, ResourceTemplate () { .. })`.
pub(super) fn crs(resources: Vec<&dyn Aml>) -> aml::Name {
    name("_CRS", &aml::ResourceTemplate::new(resources))
}

/// Ports `first` to `first + length - 1`, decoded at that place only.
pub(super) fn ports(first: u16, length: u8) -> aml::IO {
    aml::IO::new(first, first, 1, length)
}
