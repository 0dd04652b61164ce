//! The tables of fixed shape: FADT, HPET, MCFG.

use acpi_tables::{
    fadt::{FADT, FADTBuilder, Flags, PmProfile},
    gas::{AccessSize, AddressSpace, GAS},
    mcfg::MCFG,
    sdt::{GenericAddress, Sdt},
};

use super::{Config, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::Layout;

/// The power management block's registers as offsets from its base, with Intel's ICH9 names and places.
pub(super) mod pm {
    pub(crate) const PM1_EVT: u16 = 0x00;
    pub(crate) const PM1_EVT_LENGTH: u8 = 4;
    pub(crate) const PM1_CNT: u16 = 0x04;
    pub(crate) const PM1_CNT_LENGTH: u8 = 2;
    pub(crate) const TIMER: u16 = 0x08;
    pub(crate) const TIMER_LENGTH: u8 = 4;
    pub(crate) const GPE0: u16 = 0x20;
    pub(crate) const BLOCK_LENGTH: u8 = 0x80;
}

/// The port of the ICH9's system management command (APM_CNT).
pub(super) const SMI_CMD: u16 = 0xb2;
const ACPI_ENABLE: u8 = 0x02;
const ACPI_DISABLE: u8 = 0x03;
const RESET_CONTROL: u16 = 0xcf9;
/// Full reset: FULL_RST, RST_CPU and SYS_RST.
const RESET_VALUE: u8 = 0x0f;
const RTC_CENTURY: u8 = 0x32;

/// IA-PC boot architecture flags.
mod boot_arch {
    pub(super) const LEGACY_DEVICES: u16 = 1 << 0;
    pub(super) const I8042: u16 = 1 << 1;
    pub(super) const VGA_NOT_PRESENT: u16 = 1 << 2;
}

pub(super) fn fadt(config: &Config, layout: &Layout, facs: u64, dsdt: u64) -> FADT {
    let base = layout.pm_base;
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::Desktop)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // Set means that there is no fixed sleep button; the power button is a fixed one.
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    // All lies below 4 GiB. X_FIRMWARE_CTRL stays 0, as ACPI asks where FIRMWARE_CTRL serves.
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();

    fadt.sci_int = u16::from(layout.sci).into();
    fadt.smi_cmd = u32::from(SMI_CMD).into();
    fadt.acpi_enable = ACPI_ENABLE;
    fadt.acpi_disable = ACPI_DISABLE;

    fadt.pm1a_evt_blk = u32::from(base + pm::PM1_EVT).into();
    fadt.pm1a_cnt_blk = u32::from(base + pm::PM1_CNT).into();
    fadt.pm_tmr_blk = u32::from(base + pm::TIMER).into();
    fadt.gpe0_blk = u32::from(base + pm::GPE0).into();
    fadt.pm1_evt_len = pm::PM1_EVT_LENGTH;
    fadt.pm1_cnt_len = pm::PM1_CNT_LENGTH;
    fadt.pm_tmr_len = pm::TIMER_LENGTH;
    fadt.gpe0_blk_len = layout.gpe0_length;
    fadt.x_pm1a_evt_blk = io(base + pm::PM1_EVT, pm::PM1_EVT_LENGTH, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = io(base + pm::PM1_CNT, pm::PM1_CNT_LENGTH, AccessSize::WordAccess);
    fadt.x_pm_tmr_blk = io(base + pm::TIMER, pm::TIMER_LENGTH, AccessSize::DwordAccess);
    fadt.x_gpe0_blk = io(base + pm::GPE0, layout.gpe0_length, AccessSize::ByteAccess);

    // Latencies beyond 100 and 1000 microseconds mean that there is neither C2 nor C3.
    fadt.p_lvl2_lat = 0xfff.into();
    fadt.p_lvl3_lat = 0xfff.into();
    fadt.century = RTC_CENTURY;
    fadt.reset_reg = io(RESET_CONTROL, 1, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;

    let mut boot_flags = boot_arch::LEGACY_DEVICES;
    if config.i8042 {
        boot_flags |= boot_arch::I8042;
    }
    if !config.vga {
        boot_flags |= boot_arch::VGA_NOT_PRESENT;
    }
    fadt.iapc_boot_arch = boot_flags.into();
    fadt.finalize()
}

fn io(port: u16, bytes: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bytes * 8, 0, access, u64::from(port))
}

/// IA-PC HPET specification, "The ACPI 2.0 HPET Description Table".
pub(super) fn hpet(layout: &Layout) -> Sdt {
    const LENGTH: u32 = 56;
    let mut hpet = Sdt::new(*b"HPET", LENGTH, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    hpet.write_u32(36, layout.hpet_block_id);
    hpet.write_bytes(40, &register_block(layout.hpet));
    const SEQUENCE_NUMBER: u8 = 0;
    hpet.write_u8(52, SEQUENCE_NUMBER);
    // The shortest period that loses no interrupt in periodic mode, in main counter ticks.
    const MINIMUM_TICK: u16 = 0x80;
    hpet.write_u16(53, MINIMUM_TICK);
    hpet
}

/// A generic address of 64-bit registers in memory.
fn register_block(address: u64) -> [u8; 12] {
    let gas = GenericAddress::mmio_address::<u64>(address);
    let mut bytes =
        [gas.address_space_id, gas.register_bit_width, gas.register_bit_offset, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes[4..].copy_from_slice(&gas.address.to_le_bytes());
    bytes
}

pub(super) fn mcfg(layout: &Layout) -> MCFG {
    const BYTES_PER_BUS: u64 = 1 << 20;
    let buses = (layout.ecam.end - layout.ecam.start) / BYTES_PER_BUS;
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout.ecam.start, 0, 0, (buses - 1) as u8);
    mcfg
}
