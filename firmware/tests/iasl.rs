//! Every ACPI table taken apart and put together again by iasl (Debian package acpica-tools); ignored where that is
//! not installed.

use std::{fs, path::Path, process::Command};

use libtest_mimic::{Arguments, Failed, Trial};
use softmetal_firmware::{Layout, acpi};

fn main() {
    let installed = Command::new("iasl").arg("-v").output().is_ok_and(|output| output.status.success());
    if !installed {
        eprintln!("iasl (Debian package acpica-tools) is not installed: its checks are ignored");
    }
    let trials = [(1, true, true), (4, true, false), (300, false, false)].map(|(cpus, i8042, vga)| {
        let config = acpi::Config { cpus, i8042, vga };
        Trial::test(format!("acpi_tables_for_{cpus}_processors"), move || round_trip(&config))
            .with_ignored_flag(!installed)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

fn layout() -> Layout {
    Layout {
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

fn round_trip(config: &acpi::Config) -> Result<(), Failed> {
    let folder = std::env::temp_dir().join(format!("softmetal-iasl-{}-{}", std::process::id(), config.cpus));
    fs::create_dir_all(&folder)?;
    let result = check_tables(&acpi::build(config, &layout()), &folder);
    fs::remove_dir_all(&folder)?;
    result
}

fn check_tables(tables: &acpi::Tables, folder: &Path) -> Result<(), Failed> {
    for (signature, range) in &tables.directory {
        let name = str::from_utf8(signature)?;
        let original = &tables.bytes[range.clone()];
        fs::write(folder.join(format!("{name}.dat")), original)?;
        iasl(folder, &["-d", &format!("{name}.dat")])?;
        // -oa: no optimisations, so that the bytes can be compared.
        let said = iasl(folder, &["-oa", "-tc", &format!("{name}.dsl")])?;
        if !said.contains("0 Errors, 0 Warnings, 0 Remarks") {
            return Err(format!("{name}: {said}").into());
        }
        let compiled = fs::read(folder.join(format!("{name}.aml")))?;
        // iasl puts its own name and version into the header, and so another checksum.
        let but_creator = |bytes: &[u8]| [&bytes[..9], &bytes[10..28], &bytes[36..]].concat();
        if but_creator(&compiled) != but_creator(original) {
            return Err(format!("{name} is no longer the same").into());
        }
    }
    Ok(())
}

fn iasl(folder: &Path, arguments: &[&str]) -> Result<String, Failed> {
    let output = Command::new("iasl").args(arguments).current_dir(folder).output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if !output.status.success() {
        return Err(format!("iasl {arguments:?}: {said}").into());
    }
    Ok(said)
}
