//! The PVH boot protocol: an ELF kernel that tells a 32-bit entry in a note of Xen's.
//!
//! Described in Xen's "x86/HVM direct boot ABI" and the public header `arch-x86/hvm/start_info.h`.

use vm_memory::{Bytes, GuestAddress, GuestMemory};

use crate::elf::Elf;
use crate::entry::{self, EntryState, FlatSegments, ProtectedEntry};
use crate::error::BootError;
use crate::kernel::{Boot, Module, place_segments};
use crate::recognise;

/// A kernel with a PVH entry.
#[derive(Clone, Debug)]
pub struct PvhKernel<'a> {
    file: &'a str,
    elf: Elf<'a>,
    entry: u32,
}

impl<'a> PvhKernel<'a> {
    /// Reads an ELF file; `file` is its name for messages.
    pub fn parse(file: &'a str, image: &'a [u8]) -> Result<Self, BootError> {
        if let Some(error) = recognise::foreign_elf(file, image) {
            return Err(error);
        }
        let elf = Elf::parse(file, image)?;
        let Some(entry) = elf.pvh_entry() else {
            return Err(BootError::NoEntryInElf { file: file.to_owned() });
        };
        let inside = |segment: &crate::elf::Segment<'_>| {
            entry.checked_sub(segment.address).is_some_and(|offset| offset < segment.memory_size)
        };
        match u32::try_from(entry).ok().filter(|_| elf.segments().iter().any(inside)) {
            Some(entry) => Ok(Self { file, elf, entry }),
            None => Err(BootError::EntryOutside { file: file.to_owned(), entry }),
        }
    }

    /// The physical address of the entry.
    pub fn entry(&self) -> u32 {
        self.entry
    }
}

/// `hvm_start_info` version 1 and what it points to.
mod start_info {
    pub(super) const MAGIC: u32 = 0x336e_c578;
    pub(super) const VERSION: u32 = 1;
    pub(super) const SIZE: usize = 56;
    pub(super) const MODULE_SIZE: usize = 32;
    pub(super) const MEMORY_MAP_ENTRY_SIZE: usize = 24;
}

/// Puts the kernel and what it boots with into guest RAM.
pub(crate) fn load<M>(kernel: &PvhKernel<'_>, boot: &Boot<'_>, ram: &M) -> Result<EntryState, BootError>
where
    M: GuestMemory + ?Sized,
{
    let mut places = place_segments(kernel.file, kernel.elf.segments(), boot.memory_map)?;
    const FOUR_GIB: u64 = 1 << 32;
    // Initial RAM disks go as high as 32-bit addresses reach, out of the kernel's way.
    let mut modules = Vec::new();
    for module in boot.modules {
        const PAGE: u64 = 4096;
        let size = module.bytes.len() as u64;
        let place = places.highest(size, PAGE, &(crate::low_memory::EXTENDED_BASE..FOUR_GIB));
        modules.push((place.ok_or_else(|| no_room(module))?.start, module));
    }
    let size = block_size(boot);
    const STACK_SIZE: u64 = 4096;
    let mut low = |size, align| {
        places.lowest(size, align, &(0..FOUR_GIB)).map(|range| range.start).ok_or_else(|| {
            BootError::TooLittleMemory { file: kernel.file.to_owned(), needed_mib: (size >> 20) + 2 }
        })
    };
    let (gdt, stack, block) = (low(entry::GDT_SIZE, 16)?, low(STACK_SIZE, 16)?, low(size, 16)?);

    for segment in kernel.elf.segments() {
        ram.write_slice(segment.bytes, GuestAddress(segment.address))?;
    }
    for (place, module) in &modules {
        ram.write_slice(module.bytes, GuestAddress(*place))?;
    }
    ram.write_slice(&start_info_block(block, boot, &modules), GuestAddress(block))?;
    ram.write_slice(&entry::gdt_32(), GuestAddress(gdt))?;
    Ok(EntryState::Protected(ProtectedEntry {
        eip: kernel.entry,
        eax: 0,
        ebx: block as u32,
        esi: 0,
        esp: (stack + STACK_SIZE) as u32,
        segments: FlatSegments::at(gdt),
    }))
}

fn no_room(module: &Module<'_>) -> BootError {
    BootError::NoRoomForInitrd {
        file: module.file.to_owned(),
        size_mib: (module.bytes.len() as u64).div_ceil(1 << 20),
    }
}

/// Bytes of [`start_info_block`].
fn block_size(boot: &Boot<'_>) -> u64 {
    let strings = boot.command_line.len() + 1;
    let strings = boot.modules.iter().fold(strings, |sum, module| sum + module.command_line.len() + 1);
    let tables = boot.modules.len() * start_info::MODULE_SIZE
        + boot.memory_map.entries().len() * start_info::MEMORY_MAP_ENTRY_SIZE;
    (start_info::SIZE + tables + strings) as u64
}

/// The structure for an address: start info, memory map, modules, strings.
fn start_info_block(base: u64, boot: &Boot<'_>, modules: &[(u64, &Module<'_>)]) -> Vec<u8> {
    let entries = boot.memory_map.entries();
    let memory_map = base + start_info::SIZE as u64;
    let module_list = memory_map + (entries.len() * start_info::MEMORY_MAP_ENTRY_SIZE) as u64;
    let command_line = module_list + (modules.len() * start_info::MODULE_SIZE) as u64;

    let mut block = Vec::new();
    let words = |block: &mut Vec<u8>, words: &[u32]| words.iter().for_each(|w| block.extend(w.to_le_bytes()));
    let longs = |block: &mut Vec<u8>, longs: &[u64]| longs.iter().for_each(|l| block.extend(l.to_le_bytes()));
    const FLAGS: u32 = 0;
    words(&mut block, &[start_info::MAGIC, start_info::VERSION, FLAGS, modules.len() as u32]);
    let list = if modules.is_empty() { 0 } else { module_list };
    longs(&mut block, &[list, command_line, boot.rsdp, memory_map]);
    words(&mut block, &[entries.len() as u32, 0]);
    for entry in entries {
        longs(&mut block, &[entry.range.start, entry.range.end - entry.range.start]);
        words(&mut block, &[entry.kind as u32, 0]);
    }
    let mut string = command_line + boot.command_line.len() as u64 + 1;
    for (place, module) in modules {
        longs(&mut block, &[*place, module.bytes.len() as u64, string, 0]);
        string += module.command_line.len() as u64 + 1;
    }
    for text in
        std::iter::once(boot.command_line).chain(modules.iter().map(|(_, module)| module.command_line))
    {
        block.extend(text.as_bytes());
        block.push(0);
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::{code, elf64, note, pvh_notes};
    use crate::kernel::tests::{Machine, module};

    fn vmlinux() -> Vec<u8> {
        let notes = pvh_notes(&0x100_0010u64.to_le_bytes());
        elf64(0x100_0000, &[code(0x100_0000, 0x20_0000, &[0x90; 0x1234]), note(&notes)])
    }

    #[test]
    fn start_info_names_everything() {
        let machine = Machine::new(64 << 20);
        let image = vmlinux();
        let initrd = vec![7; 5000];
        let modules = [module("initrd", "initrd a=1", &initrd)];
        let entry = machine.load("vmlinux", &image, &modules, "console=ttyS0").unwrap();
        let EntryState::Protected(entry) = entry else { panic!("{entry:?}") };
        assert_eq!((entry.eip, entry.eax, entry.esi), (0x100_0010, 0, 0));
        assert_eq!(machine.bytes(0x100_0000, 0x1235), [&[0x90; 0x1234][..], &[0]].concat());

        let info = u64::from(entry.ebx);
        assert_eq!([0, 4, 8, 12].map(|at| machine.dword(info + at)), [0x336e_c578, 1, 0, 1]);
        assert_eq!(machine.string(machine.qword(info + 24)), "console=ttyS0");
        assert_eq!(machine.qword(info + 32), 0xe_0000);
        let list = machine.qword(info + 16);
        let (place, size) = (machine.qword(list), machine.qword(list + 8));
        assert_eq!((place % 4096, size), (0, 5000));
        assert_eq!(machine.bytes(place, 5000), initrd);
        assert_eq!(machine.string(machine.qword(list + 16)), "initrd a=1");

        let (map, entries) = (machine.qword(info + 40), machine.dword(info + 48));
        assert_eq!(entries as usize, machine.map.entries().len());
        for (at, expected) in (0..).map(|n| map + 24 * n).zip(machine.map.entries()) {
            let range = &expected.range;
            assert_eq!((machine.qword(at), machine.qword(at + 8)), (range.start, range.end - range.start));
            assert_eq!(machine.dword(at + 16), expected.kind as u32);
        }
        let code = machine.qword(entry.segments.gdt_base + 0x10);
        assert_eq!(code, 0x00cf_9b00_0000_ffff);
    }

    #[test]
    fn what_cannot_be_entered_is_refused() {
        let message = |image: &[u8]| PvhKernel::parse("k", image).unwrap_err().to_string();
        let no_note = elf64(0, &[code(0x10_0000, 16, &[0; 16])]);
        assert!(message(&no_note).contains("neither a PVH entry"), "{}", message(&no_note));
        for entry in [0x2000u64, 1 << 40] {
            let notes = pvh_notes(&entry.to_le_bytes());
            let image = elf64(0, &[code(0x10_0000, 16, &[0; 16]), note(&notes)]);
            assert!(message(&image).contains("outside of what it loads"), "{}", message(&image));
        }
    }

    #[test]
    fn kernels_need_ram_where_they_want_to_be() {
        let image = vmlinux();
        let message = |memory| Machine::new(memory).load("k", &image, &[], "").unwrap_err().to_string();
        assert!(message(16 << 20).contains("it needs 18 MiB"), "{}", message(16 << 20));
        let notes = pvh_notes(&0xc_0000u64.to_le_bytes());
        let image = elf64(0, &[code(0xc_0000, 16, &[0; 16]), note(&notes)]);
        let error = Machine::new(16 << 20).load("k", &image, &[], "").unwrap_err().to_string();
        assert!(error.contains("0xc0000 to 0xc000f, where there is no RAM"), "{error}");
    }
}
