//! The DSDT: processors, the PCI host bridge and what cannot be discovered otherwise.

use acpi_tables::{
    Aml,
    aml::{self, AddressSpaceCacheable, Path},
    sdt::Sdt,
};

use super::{
    Config, OEM_ID, OEM_REVISION, OEM_TABLE_ID,
    aml::{IrqNoFlags, Raw, crs, hid, name, ports},
    fixed,
};
use crate::Layout;

pub(super) fn build(config: &Config, layout: &Layout) -> Sdt {
    const HEADER_LENGTH: u32 = 36;
    // From revision 2 on integers have 64 bits.
    const REVISION: u8 = 2;
    let mut aml = Vec::new();
    interrupt_model().to_aml_bytes(&mut aml);
    let system_bus = [
        processors(config.cpus),
        pci_host_bridge(config, layout),
        hpet(layout),
        motherboard_resources(layout),
    ];
    aml::Scope::new("\\_SB_".into(), system_bus.iter().map(|part| part as &dyn Aml).collect())
        .to_aml_bytes(&mut aml);
    soft_off(layout).to_aml_bytes(&mut aml);

    let mut dsdt = Sdt::new(*b"DSDT", HEADER_LENGTH, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&aml);
    dsdt
}

fn device(path: &str, children: Vec<&dyn Aml>) -> Raw {
    let mut bytes = Vec::new();
    aml::Device::new(path.into(), children).to_aml_bytes(&mut bytes);
    Raw(bytes)
}

/// Processor devices; their _UID is that of the MADT.
fn processors(count: u32) -> Raw {
    let processors: Vec<Raw> = (0..count)
        .map(|uid| device(&format!("C{uid:03X}"), vec![&name("_HID", &"ACPI0007"), &name("_UID", &uid)]))
        .collect();
    let id = name("_HID", &"ACPI0010");
    let mut children: Vec<&dyn Aml> = vec![&id];
    children.extend(processors.iter().map(|processor| processor as &dyn Aml));
    device("CPUS", children)
}

fn pci_host_bridge(config: &Config, layout: &Layout) -> Raw {
    let buses = (layout.ecam.end - layout.ecam.start) >> 20;
    let window32 = aml::AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout.pci32.start as u32,
        (layout.pci32.end - 1) as u32,
        None,
    );
    let window64 = aml::AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout.pci64.start,
        layout.pci64.end - 1,
        None,
    );
    const VGA_MEMORY: (u32, u32) = (0xa_0000, 0xb_ffff);
    let vga_memory = aml::AddressSpace::new_memory(
        AddressSpaceCacheable::Cacheable,
        true,
        VGA_MEMORY.0,
        VGA_MEMORY.1,
        None,
    );
    const CONFIG_ADDRESS: u16 = 0xcf8;
    let mut resources: Vec<&dyn Aml> = Vec::new();
    let bus_numbers = aml::AddressSpace::new_bus_number(0u16, (buses - 1) as u16);
    let config_ports = ports(CONFIG_ADDRESS, 8);
    let ports_below = aml::AddressSpace::new_io(0u16, CONFIG_ADDRESS - 1, None);
    let ports_above = aml::AddressSpace::new_io(CONFIG_ADDRESS + 8, 0xffff, None);
    resources.extend([&bus_numbers as &dyn Aml, &config_ports, &ports_below, &ports_above]);
    if config.vga {
        resources.push(&vga_memory);
    }
    resources.extend([&window32 as &dyn Aml, &window64]);

    device(
        "PCI0",
        vec![
            &hid("PNP0A08"),
            &name("_CID", &aml::EISAName::new("PNP0A03")),
            &name("_SEG", &aml::ZERO),
            &name("_BBN", &aml::ZERO),
            &name("_UID", &aml::ZERO),
            &crs(resources),
            &interrupt_routing(layout),
            &operating_system_capabilities(),
            &isa_bridge(config),
        ],
    )
}

/// What the operating system says of the interrupt controllers that it uses: 0 is the 8259 pair.
const APIC_MODE: &str = "\\APIC";

/// \_PIC, which systems call before they ask for the routing of interrupts.
fn interrupt_model() -> Raw {
    let mode = Path::new(APIC_MODE);
    let mut bytes = Vec::new();
    name(APIC_MODE, &aml::ZERO).to_aml_bytes(&mut bytes);
    aml::Method::new("\\_PIC".into(), 1, false, vec![&aml::Store::new(&mode, &aml::Arg(0))])
        .to_aml_bytes(&mut bytes);
    Raw(bytes)
}

/// _PRT: which interrupt each slot's INTA to INTD reach, without interrupt link devices.
fn interrupt_routing(layout: &Layout) -> Raw {
    let gsis = std::array::from_fn(|wire| layout.pci_gsi_base + wire as u8);
    let (ioapic_table, pic_table) = (Path::new("RTAP"), Path::new("RTPI"));
    let mut bytes = Vec::new();
    name("RTAP", &routing_table(gsis)).to_aml_bytes(&mut bytes);
    name("RTPI", &routing_table(layout.pci_irqs)).to_aml_bytes(&mut bytes);
    let mode = Path::new(APIC_MODE);
    let by_ioapic = aml::Return::new(&ioapic_table);
    let choice = aml::If::new(&mode, vec![&by_ioapic]);
    aml::Method::new("_PRT".into(), 0, false, vec![&choice, &aml::Return::new(&pic_table)])
        .to_aml_bytes(&mut bytes);
    Raw(bytes)
}

/// All slots, where their four wires lead to `interrupts`.
fn routing_table(interrupts: [u8; 4]) -> aml::PackageBuilder {
    let mut table = aml::PackageBuilder::new();
    for slot in 0..32u32 {
        for pin in 0..4u32 {
            const ANY_FUNCTION: u32 = 0xffff;
            // The swizzle spreads the first pins of neighbouring slots over the lines.
            let interrupt = interrupts[(slot + pin) as usize % 4];
            let address = slot << 16 | ANY_FUNCTION;
            table.add_element(&aml::Package::new(vec![&address, &pin, &aml::ZERO, &interrupt]));
        }
    }
    table
}

/// _OSC: PCI Firmware Specification, "_OSC Interface for PCI Host Bridge Devices".
fn operating_system_capabilities() -> Raw {
    const PCI_HOST_BRIDGE: &str = "33db4d5b-1ff7-401c-9657-7441c03dd766";
    const UNRECOGNIZED_UUID: u8 = 1 << 2;
    const UNRECOGNIZED_REVISION: u8 = 1 << 3;
    const CAPABILITIES_MASKED: u8 = 1 << 4;
    // Native hot-plug, PME, AER and the PCI Express capability structure; not the standard hot-plug controller.
    const GRANTED: u8 = 0x1d;

    let status = Path::new("CDW1");
    let control = Path::new("CDW3");
    let (uuid, revision, buffer) = (aml::Arg(0), aml::Arg(1), aml::Arg(3));
    let granted = aml::Local(0);
    let mut bytes = Vec::new();
    aml::Method::new(
        "_OSC".into(),
        4,
        // It creates named objects, so it must not run twice at a time.
        true,
        vec![
            &aml::CreateDWordField::new(&status, &buffer, &aml::ZERO),
            &aml::If::new(
                &aml::Equal::new(&uuid, &aml::Uuid::new(PCI_HOST_BRIDGE)),
                vec![
                    &aml::CreateDWordField::new(&control, &buffer, &8u8),
                    &aml::And::new(&granted, &control, &GRANTED),
                    &aml::If::new(
                        &aml::NotEqual::new(&revision, &aml::ONE),
                        vec![&aml::Or::new(&status, &status, &UNRECOGNIZED_REVISION)],
                    ),
                    &aml::If::new(
                        &aml::NotEqual::new(&control, &granted),
                        vec![&aml::Or::new(&status, &status, &CAPABILITIES_MASKED)],
                    ),
                    &aml::Store::new(&control, &granted),
                ],
            ),
            &aml::Else::new(vec![&aml::Or::new(&status, &status, &UNRECOGNIZED_UUID)]),
            &aml::Return::new(&buffer),
        ],
    )
    .to_aml_bytes(&mut bytes);
    Raw(bytes)
}

/// The LPC bridge and the fixed devices behind it.
fn isa_bridge(config: &Config) -> Raw {
    const LPC_FUNCTION: u32 = 0x1f << 16;
    let address = name("_ADR", &LPC_FUNCTION);
    let mut devices = vec![
        serial_port("COM1", 1, 0x3f8, 4),
        serial_port("COM2", 2, 0x2f8, 3),
        device("RTC_", vec![&hid("PNP0B00"), &crs(vec![&ports(0x70, 2), &IrqNoFlags(8)])]),
        device(
            "PIC_",
            vec![
                &hid("PNP0000"),
                &crs(vec![&ports(0x20, 2), &ports(0xa0, 2), &ports(0x4d0, 2), &IrqNoFlags(2)]),
            ],
        ),
        device("TIMR", vec![&hid("PNP0100"), &crs(vec![&ports(0x40, 4), &IrqNoFlags(0)])]),
    ];
    if config.i8042 {
        devices.push(device(
            "KBD_",
            vec![&hid("PNP0303"), &crs(vec![&ports(0x60, 1), &ports(0x64, 1), &IrqNoFlags(1)])],
        ));
        devices.push(device("MOU_", vec![&hid("PNP0F13"), &crs(vec![&IrqNoFlags(12)])]));
    }
    let mut children: Vec<&dyn Aml> = vec![&address];
    children.extend(devices.iter().map(|device| device as &dyn Aml));
    device("ISA_", children)
}

fn serial_port(path: &str, uid: u8, port: u16, irq: u8) -> Raw {
    device(path, vec![&hid("PNP0501"), &name("_UID", &uid), &crs(vec![&ports(port, 8), &IrqNoFlags(irq)])])
}

fn hpet(layout: &Layout) -> Raw {
    const LENGTH: u32 = 0x400;
    device(
        "HPET",
        vec![
            &hid("PNP0103"),
            &name("_UID", &aml::ZERO),
            &crs(vec![&aml::Memory32Fixed::new(true, layout.hpet as u32, LENGTH)]),
        ],
    )
}

/// Keeps the operating system from placing anything over the ECAM and the power management ports.
fn motherboard_resources(layout: &Layout) -> Raw {
    let ecam_length = (layout.ecam.end - layout.ecam.start) as u32;
    device(
        "MBRD",
        vec![
            &hid("PNP0C02"),
            &name("_UID", &aml::ZERO),
            &crs(vec![
                &ports(layout.pm_base, fixed::pm::BLOCK_LENGTH),
                &ports(fixed::SMI_CMD, 2),
                &aml::Memory32Fixed::new(true, layout.ecam.start as u32, ecam_length),
            ]),
        ],
    )
}

/// \_S5: the SLP_TYP values for PM1a and PM1b.
fn soft_off(layout: &Layout) -> aml::Name {
    let sleep_type = layout.s5_sleep_type;
    name("\\_S5_", &aml::Package::new(vec![&sleep_type, &sleep_type, &aml::ZERO, &aml::ZERO]))
}
