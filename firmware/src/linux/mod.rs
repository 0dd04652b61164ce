//! Linux's x86 boot protocol: a bzImage entered in 64-bit mode, or in 32-bit protected mode where it has no 64-bit entry.
//!
//! [`BzImage::parse`] reads the user's file and touches nothing; [`load`] copies kernel, command line and initial RAM
//! disk into guest RAM and says in which state the first processor enters the kernel.
//! The protocol is described in the kernel's own documentation, "The Linux/x86 Boot Protocol".

mod bzimage;
mod identity_map;
mod initrd;

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemory};

pub use bzimage::BzImage;
pub use initrd::Initrd;

use crate::entry::{self, EntryState, FlatSegments, LongEntry, ProtectedEntry};
use crate::error::BootError;
use crate::memory_map::MemoryMap;

/// What a kernel boots with.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The kernel.
    pub kernel: &'a BzImage<'a>,
    /// The initial RAM disk.
    pub initrd: Option<&'a Initrd<'a>>,
    /// The command line.
    pub command_line: &'a str,
    /// What firmware tells of memory.
    pub memory_map: &'a MemoryMap,
    /// Address of the ACPI RSDP.
    pub rsdp: u64,
    /// Randomness for the kernel's generator, credited where the kernel trusts its boot loader.
    pub rng_seed: Option<[u8; 32]>,
}

/// Where the loader puts its own things. All of it is RAM that the kernel takes over once it is done with them.
mod place {
    use std::ops::Range;

    /// The protocols need no stack; this is one for kernels that use it nevertheless.
    pub(super) const STACK_TOP: u64 = 0x7000;
    pub(super) const ZERO_PAGE: u64 = 0x7000;
    pub(super) const GDT: u64 = 0x8000;
    pub(super) const SETUP_DATA: u64 = 0x9000;
    pub(super) const COMMAND_LINE: Range<u64> = 0x1_0000..0x3_0000;
    pub(super) const PAGE_TABLES: Range<u64> = 0x3_0000..0x9_0000;
}

/// Offsets in the zero page (`struct boot_params`), outside of the setup header.
mod zero_page {
    pub(super) const SIZE: usize = 4096;
    pub(super) const ACPI_RSDP_ADDR: usize = 0x070;
    pub(super) const EXT_RAMDISK_IMAGE: usize = 0x0c0;
    pub(super) const EXT_RAMDISK_SIZE: usize = 0x0c4;
    pub(super) const ALT_MEM_K: usize = 0x1e0;
    pub(super) const E820_ENTRIES: usize = 0x1e8;
    pub(super) const E820_TABLE: usize = 0x2d0;
    pub(super) const E820_MAX: usize = 128;
    pub(super) const E820_ENTRY_SIZE: usize = 20;
}

/// Puts a kernel and what it boots with into guest RAM.
pub fn load<M: GuestMemory + ?Sized>(boot: &Boot, ram: &M) -> Result<EntryState, BootError> {
    let plan = Plan::new(boot)?;

    ram.write_slice(boot.kernel.payload(), GuestAddress(plan.kernel.start))?;
    if let (Some(initrd), Some(range)) = (boot.initrd, &plan.initrd) {
        ram.write_slice(initrd.bytes(), GuestAddress(range.start))?;
    }
    let mut command_line = boot.command_line.as_bytes().to_vec();
    command_line.push(0);
    ram.write_slice(&command_line, GuestAddress(place::COMMAND_LINE.start))?;
    if let Some(seed) = boot.rng_seed {
        ram.write_slice(&rng_seed_data(&seed), GuestAddress(place::SETUP_DATA))?;
    }
    ram.write_slice(&plan.zero_page(boot), GuestAddress(place::ZERO_PAGE))?;

    let segments = FlatSegments::at(place::GDT);
    if !boot.kernel.is_64_bit() {
        ram.write_slice(&entry::gdt_32(), GuestAddress(place::GDT))?;
        return Ok(EntryState::Protected(ProtectedEntry {
            eip: plan.kernel.start as u32,
            eax: 0,
            ebx: 0,
            esi: place::ZERO_PAGE as u32,
            esp: place::STACK_TOP as u32,
            segments,
        }));
    }
    const FOUR_GIB: u64 = 1 << 32;
    let mut tables = identity_map::IdentityMap::new(place::PAGE_TABLES);
    tables.map(0..FOUR_GIB);
    if let Some(range) = &plan.initrd {
        tables.map(range.clone());
    }
    ram.write_slice(tables.bytes(), GuestAddress(place::PAGE_TABLES.start))?;
    ram.write_slice(&entry::gdt_64(), GuestAddress(place::GDT))?;

    const ENTRY_64: u64 = 0x200;
    Ok(EntryState::Long(LongEntry {
        rip: plan.kernel.start + ENTRY_64,
        rsi: place::ZERO_PAGE,
        rsp: place::STACK_TOP,
        cr3: place::PAGE_TABLES.start,
        segments,
    }))
}

/// Where everything goes.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// The kernel with all that it needs until it has its own memory management (`init_size`).
    kernel: Range<u64>,
    initrd: Option<Range<u64>>,
}

impl Plan {
    fn new(boot: &Boot) -> Result<Self, BootError> {
        let kernel = place_kernel(boot.kernel, boot.memory_map)?;
        let initrd = match boot.initrd {
            Some(initrd) => Some(place_initrd(initrd, boot.kernel, &kernel, boot.memory_map)?),
            None => None,
        };
        let room = (place::COMMAND_LINE.end - place::COMMAND_LINE.start) as usize - 1;
        let limit = room.min(boot.kernel.command_line_limit());
        if boot.command_line.len() > limit {
            let (file, actual) = (boot.kernel.file().to_owned(), boot.command_line.len());
            return Err(BootError::LongCommandLine { file, actual, limit });
        }
        Ok(Self { kernel, initrd })
    }

    /// The zero page: the setup header from the file, and what the loader fills in.
    fn zero_page(&self, boot: &Boot) -> [u8; zero_page::SIZE] {
        use bzimage::header;
        let mut page = [0; zero_page::SIZE];
        let setup_header = boot.kernel.setup_header();
        page[header::SETUP_SECTS..header::SETUP_SECTS + setup_header.len()].copy_from_slice(setup_header);

        const UNDEFINED_LOADER: u8 = 0xff;
        page[header::TYPE_OF_LOADER] = UNDEFINED_LOADER;
        put(&mut page, header::CODE32_START, &(self.kernel.start as u32).to_le_bytes());
        put(&mut page, header::CMD_LINE_PTR, &(place::COMMAND_LINE.start as u32).to_le_bytes());
        if let Some(initrd) = &self.initrd {
            let (address, size) = (initrd.start, initrd.end - initrd.start);
            put(&mut page, header::RAMDISK_IMAGE, &(address as u32).to_le_bytes());
            put(&mut page, header::RAMDISK_SIZE, &(size as u32).to_le_bytes());
            put(&mut page, zero_page::EXT_RAMDISK_IMAGE, &((address >> 32) as u32).to_le_bytes());
            put(&mut page, zero_page::EXT_RAMDISK_SIZE, &((size >> 32) as u32).to_le_bytes());
        }
        if boot.rng_seed.is_some() {
            put(&mut page, header::SETUP_DATA, &place::SETUP_DATA.to_le_bytes());
        }
        put(&mut page, zero_page::ACPI_RSDP_ADDR, &boot.rsdp.to_le_bytes());

        let entries = boot.memory_map.entries();
        for (slot, entry) in entries.iter().take(zero_page::E820_MAX).enumerate() {
            let at = zero_page::E820_TABLE + slot * zero_page::E820_ENTRY_SIZE;
            put(&mut page, at, &entry.range.start.to_le_bytes());
            put(&mut page, at + 8, &(entry.range.end - entry.range.start).to_le_bytes());
            put(&mut page, at + 16, &(entry.kind as u32).to_le_bytes());
        }
        page[zero_page::E820_ENTRIES] = entries.len().min(zero_page::E820_MAX) as u8;
        let extended = boot.memory_map.ram().find(|range| range.start == crate::low_memory::EXTENDED_BASE);
        let extended_kib = extended.map_or(0, |range| (range.end - range.start) >> 10);
        put(&mut page, zero_page::ALT_MEM_K, &u32::try_from(extended_kib).unwrap_or(u32::MAX).to_le_bytes());
        page
    }
}

fn put(page: &mut [u8; zero_page::SIZE], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A kernel goes where it prefers to be: it decompresses to that place anyway, so a lower one saves nothing. Kernels
/// without a usable preference go as low as they can.
fn place_kernel(kernel: &BzImage, memory_map: &MemoryMap) -> Result<Range<u64>, BootError> {
    let lowest = crate::low_memory::EXTENDED_BASE;
    let bad_address = || BootError::BadHeader {
        file: kernel.file().to_owned(),
        field: "pref_address",
        value: kernel.pref_address(),
    };
    let start = match kernel.pref_address() {
        preferred if preferred >= lowest => preferred,
        _ if kernel.relocatable() => lowest.next_multiple_of(kernel.alignment()),
        _ => return Err(bad_address()),
    };
    const FOUR_GIB: u64 = 1 << 32;
    let end =
        start.checked_add(kernel.memory_size()).filter(|end| *end <= FOUR_GIB).ok_or_else(bad_address)?;
    if !memory_map.is_ram(&(start..end)) {
        let needed_mib = end.div_ceil(1 << 20);
        return Err(BootError::TooLittleMemory { file: kernel.file().to_owned(), needed_mib });
    }
    Ok(start..end)
}

/// The initial RAM disk goes as high as the kernel reaches, away from where the kernel unpacks itself.
fn place_initrd(
    initrd: &Initrd,
    kernel: &BzImage,
    taken: &Range<u64>,
    memory_map: &MemoryMap,
) -> Result<Range<u64>, BootError> {
    const PAGE: u64 = 4096;
    let size = initrd.bytes().len() as u64;
    let limit = kernel.initrd_limit();
    for ram in memory_map.ram().collect::<Vec<_>>().into_iter().rev() {
        let (bottom, top) = (ram.start.max(crate::low_memory::EXTENDED_BASE), ram.end.min(limit));
        for free in [bottom.max(taken.end)..top, bottom..top.min(taken.start)] {
            let Some(start) = free.end.checked_sub(size).map(|start| start & !(PAGE - 1)) else { continue };
            if start >= free.start && free.start < free.end {
                return Ok(start..start + size);
            }
        }
    }
    Err(BootError::NoRoomForInitrd { file: initrd.file().to_owned(), size_mib: size.div_ceil(1 << 20) })
}

/// A `setup_data` node of type SETUP_RNG_SEED, the last of its list.
fn rng_seed_data(seed: &[u8; 32]) -> Vec<u8> {
    const SETUP_RNG_SEED: u32 = 9;
    const LAST: u64 = 0;
    [&LAST.to_le_bytes()[..], &SETUP_RNG_SEED.to_le_bytes(), &(seed.len() as u32).to_le_bytes(), seed]
        .concat()
}

#[cfg(test)]
pub(crate) mod tests;
