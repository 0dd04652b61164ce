//! What firmware does before a kernel starts: tables and kernel into RAM, the boot processor into its entry state.

use anyhow::{Context, Result};
use softmetal_cpu::state::{Activity, CpuState, Segment, TableRegister, cr0, cr4, efer, reg, seg};
use softmetal_cpu::{BRAND, Cpu, PROCESSOR_ID};
use softmetal_devices::chipset::acpi_pm::SCI_IRQ;
use softmetal_devices::chipset::uart::{COM1, COM2};
use softmetal_devices::pci::access::CONFIG_PORT;
use softmetal_devices::pci::isa_bridge::{FIRMWARE_ROUTES, ISA_BRIDGE_SLOT, PIRQ_ROUTE_REGISTER, elcr_for};
use softmetal_firmware::memory_map::MemoryMap;
use softmetal_firmware::{
    Boot, BootError, EntryState, FlatSegments, Kernel, LongEntry, Module, ProtectedEntry,
};
use softmetal_firmware::{acpi, low_memory, smbios};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::board::Board;
use crate::config::{Config, KernelSource, UseError};
use crate::memory_map;

/// What tells one machine from another of the same kind.
pub(crate) struct Identity {
    /// For SMBIOS.
    pub(crate) uuid: [u8; 16],
    /// For the kernel's random numbers.
    pub(crate) rng_seed: [u8; 32],
}

/// Fills `ram` with firmware's tables and the kernel. Returns the state in which the kernel is entered.
pub(crate) fn load(config: &Config, ram: &GuestMemoryMmap, identity: &Identity) -> Result<EntryState> {
    let layout = memory_map::layout();
    let acpi = acpi::build(&acpi::Config { cpus: config.cpus, i8042: true, vga: false }, &layout);
    let smbios = smbios::build(
        &smbios::Config {
            cpus: config.cpus,
            ram_bytes: config.memory,
            cpu_name: BRAND.into(),
            cpu_id: PROCESSOR_ID,
            uuid: identity.uuid,
            version: env!("CARGO_PKG_VERSION").into(),
        },
        &layout,
    );
    low_memory::write_bios_data(ram, &[COM1 as u16, COM2 as u16])
        .and_then(|()| ram.write_slice(&acpi.bytes, GuestAddress(acpi.base)))
        .and_then(|()| ram.write_slice(&smbios.bytes, GuestAddress(smbios.base)))
        .context("cannot write firmware's tables into guest memory")?;

    let (name, image) = (kernel_name(config), config.read_kernel()?);
    let kernel = Kernel::parse(&name, &image).map_err(user_error)?;
    let files = config.read_modules(kernel.takes_modules())?;
    let modules: Vec<Module<'_>> = files
        .iter()
        .map(|file| Module { file: &file.file, command_line: &file.command_line, bytes: &file.bytes })
        .collect();
    let boot = Boot {
        modules: &modules,
        command_line: &config.append,
        memory_map: &MemoryMap::pc(config.memory, &layout),
        rsdp: acpi.rsdp(),
        rng_seed: Some(identity.rng_seed),
    };
    softmetal_firmware::load(&kernel, &boot, ram).map_err(user_error)
}

fn kernel_name(config: &Config) -> String {
    match &config.kernel {
        KernelSource::File(path) => path.display().to_string(),
        KernelSource::BuiltIn(_) | KernelSource::Recorded => "of the demo".into(),
    }
}

/// What is wrong with the user's files and options is the user's to mend; what is wrong with guest memory is ours.
fn user_error(error: BootError) -> anyhow::Error {
    match error {
        BootError::Memory(_) => error.into(),
        _ => UseError::new(error.to_string()).into(),
    }
}

/// The chips as firmware leaves them: PCI interrupts routed, level-triggered ones marked, the PIC's output open.
pub(crate) fn set_up_chips(board: &Board) {
    let routes = u32::from_le_bytes(FIRMWARE_ROUTES);
    const ENABLE: u32 = 1 << 31;
    let register = (PIRQ_ROUTE_REGISTER as u32) | u32::from(ISA_BRIDGE_SLOT.devfn()) << 8;
    board.ports.write(CONFIG_PORT, &(ENABLE | register).to_le_bytes());
    board.ports.write(CONFIG_PORT + 4, &routes.to_le_bytes());
    board.ports.write(CONFIG_PORT, &[0; 4]);
    const ELCR: u64 = 0x4d0;
    let level_triggered = elcr_for(FIRMWARE_ROUTES) | 1 << SCI_IRQ;
    board.ports.write(ELCR, &level_triggered.to_le_bytes());
    board.interrupts.enter_virtual_wire_mode();
}

/// The processors as firmware leaves them: the first about to enter the kernel, the others waiting to be started.
/// Their TSCs are so far ahead of the board's.
pub(crate) fn set_up_processors(cpus: &mut [Box<Cpu>], entry: &EntryState, tsc_offset: u64) {
    for (index, cpu) in cpus.iter_mut().enumerate() {
        let mut state = cpu.state();
        state.tsc_offset = tsc_offset;
        set_memory_types(&mut state);
        if index == 0 {
            enter(&mut state, entry);
        } else {
            state.activity = Activity::WaitForSipi;
        }
        cpu.set_state(&state);
    }
}

/// Memory types as firmware leaves them, the same on every processor: write-back, except for the windows of devices.
fn set_memory_types(state: &mut CpuState) {
    const ENABLED: u64 = 1 << 11;
    const FIXED_ENABLED: u64 = 1 << 10;
    const UNCACHEABLE: u64 = 0;
    const WRITE_PROTECTED: u64 = 5;
    const WRITE_BACK: u64 = 6;
    const VALID: u64 = 1 << 11;
    /// A fixed-range register holds a byte for each of eight ranges.
    const EIGHT_TIMES: u64 = 0x0101_0101_0101_0101;
    let mask = |size: u64| ((1 << memory_map::PHYSICAL_BITS) - 1) & !(size - 1) | VALID;

    state.msrs.mtrr_def_type = ENABLED | FIXED_ENABLED | WRITE_BACK;
    let windows = [memory_map::LOW_RAM_TOP..memory_map::HIGH_RAM_BASE, memory_map::PCI64];
    for (pair, window) in state.msrs.mtrr_variable.iter_mut().zip(windows) {
        *pair = (window.start | UNCACHEABLE, mask(window.end - window.start));
    }
    // RAM to 512 KiB, to 640 KiB, VGA, and eight registers for the firmware's area.
    const RAM: u64 = WRITE_BACK * EIGHT_TIMES;
    const ROM: u64 = WRITE_PROTECTED * EIGHT_TIMES;
    state.msrs.mtrr_fixed = [RAM, RAM, UNCACHEABLE, ROM, ROM, ROM, ROM, ROM, ROM, ROM, ROM];
}

/// Turns a processor's state after power-on into the one that the kernel's boot protocol prescribes.
fn enter(state: &mut CpuState, entry: &EntryState) {
    const ALWAYS_ONE: u64 = 1 << 1;
    state.rflags = ALWAYS_ONE;
    state.idtr = TableRegister::default();
    match entry {
        EntryState::Long(entry) => enter_long(state, entry),
        EntryState::Protected(entry) => enter_protected(state, entry),
    }
}

fn enter_long(state: &mut CpuState, entry: &LongEntry) {
    const CODE_64: u32 = 0xa09b;
    set_segments(state, &entry.segments, CODE_64);
    state.cr3 = entry.cr3;
    state.cr4 = cr4::PAE;
    state.efer = efer::LME | efer::LMA;
    state.cr0 = cr0::PE | cr0::ET | cr0::NE | cr0::PG;

    state.gpr = [0; 16];
    state.gpr[register(reg::RSI)] = entry.rsi;
    state.gpr[register(reg::RSP)] = entry.rsp;
    state.rip = entry.rip;
}

fn enter_protected(state: &mut CpuState, entry: &ProtectedEntry) {
    const CODE_32: u32 = 0xc09b;
    set_segments(state, &entry.segments, CODE_32);
    // PVH wants a busy 32-bit TSS, the smallest there is.
    const BUSY_TSS_32: u32 = 0x008b;
    state.tr = Segment { selector: 0, base: 0, limit: 0x67, attributes: BUSY_TSS_32 };
    state.cr0 = cr0::PE | cr0::ET;

    state.gpr = [0; 16];
    for (offset, value) in
        [(reg::RAX, entry.eax), (reg::RBX, entry.ebx), (reg::RSI, entry.esi), (reg::RSP, entry.esp)]
    {
        state.gpr[register(offset)] = value.into();
    }
    state.rip = entry.eip.into();
}

/// Loads flat segments, as the descriptors in the loader's table say: present, ring 0, accessed.
fn set_segments(state: &mut CpuState, segments: &FlatSegments, code: u32) {
    const DATA: u32 = 0xc093;
    let flat = |selector, attributes| Segment { selector, base: 0, limit: u32::MAX, attributes };
    state.segments = [flat(segments.data_selector, DATA); 6];
    state.segments[seg::CS] = flat(segments.code_selector, code);
    state.gdtr = TableRegister { base: segments.gdt_base, limit: segments.gdt_limit };
}

/// The number of a general register.
fn register(offset: u8) -> usize {
    usize::from(offset / 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryMmap;

    /// Memory type of an address below 1 MiB, and by the variable ranges, as a processor finds it.
    fn memory_type(state: &CpuState, address: u64) -> u8 {
        let msrs = &state.msrs;
        let fixed = match address {
            0..0x8_0000 => Some((0, address >> 16)),
            0x8_0000..0xc_0000 => Some((1 + ((address - 0x8_0000) >> 17) as usize, address >> 14)),
            0xc_0000..0x10_0000 => Some((3 + ((address - 0xc_0000) >> 15) as usize, address >> 12)),
            _ => None,
        };
        if let Some((register, piece)) = fixed {
            return msrs.mtrr_fixed[register].to_le_bytes()[(piece % 8) as usize];
        }
        let hit = msrs.mtrr_variable.iter().find(|(base, mask)| {
            let bits = mask & !0xfff;
            mask & 0x800 != 0 && address & bits == base & bits
        });
        hit.map_or(msrs.mtrr_def_type as u8, |(base, _)| *base as u8)
    }

    #[test]
    fn ram_is_write_back_and_device_windows_are_not_cached() {
        let mut state = CpuState::reset();
        set_memory_types(&mut state);
        for (address, kind) in [
            (0x1000, 6),
            (0x9_f000, 6),
            (0xb_8000, 0),
            (0xe_0000, 5),
            (0x10_0000, 6),
            (0xbfff_f000, 6),
            (0xc000_0000, 0),
            (0xfee0_0000, 0),
            (0x1_0000_0000, 6),
            (memory_map::PCI64.start, 0),
            (memory_map::PCI64.end, 6),
        ] {
            assert_eq!(memory_type(&state, address), kind, "{address:#x}");
        }
    }

    #[test]
    fn a_bad_kernel_is_a_use_error() {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        let config = Config::new(KernelSource::BuiltIn(b"#!/bin/sh"));
        let error = load(&config, &ram, &Identity { uuid: [0; 16], rng_seed: [0; 32] }).unwrap_err();
        assert!(error.is::<UseError>(), "{error:?}");
        assert!(error.to_string().contains("is a script"), "{error}");
    }
}
