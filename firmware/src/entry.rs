//! The states in which kernels are entered, and the descriptor table that goes with them.

/// Selector of the code segment that Linux's boot protocol prescribes.
pub(crate) const BOOT_CS: u16 = 0x10;
/// Selector of the data segment that it prescribes.
pub(crate) const BOOT_DS: u16 = 0x18;

/// Read/write, accessed, ring 0, 4 GiB.
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// Execute/read, accessed, ring 0, 64-bit.
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
/// Execute/read, accessed, ring 0, 32-bit, 4 GiB.
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;

/// Bytes of a descriptor table.
pub(crate) const GDT_SIZE: u64 = 32;
const GDT_LIMIT: u16 = GDT_SIZE as u16 - 1;

/// A descriptor table: null, unused, code, data.
fn gdt(code: u64) -> [u8; GDT_SIZE as usize] {
    let mut bytes = [0; GDT_SIZE as usize];
    for (place, descriptor) in bytes.chunks_exact_mut(8).zip([0, 0, code, DATA]) {
        place.copy_from_slice(&descriptor.to_le_bytes());
    }
    bytes
}

/// The table for a kernel that is entered in 64-bit mode.
pub(crate) fn gdt_64() -> [u8; GDT_SIZE as usize] {
    gdt(CODE_64)
}

/// The table for a kernel that is entered in 32-bit protected mode.
pub(crate) fn gdt_32() -> [u8; GDT_SIZE as usize] {
    gdt(CODE_32)
}

/// How the first processor enters a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// In 64-bit mode.
    Long(LongEntry),
    /// In 32-bit protected mode.
    Protected(ProtectedEntry),
}

/// A descriptor table and the selectors of its flat segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlatSegments {
    /// Where the GDT is.
    pub gdt_base: u64,
    /// Its limit.
    pub gdt_limit: u16,
    /// CS.
    pub code_selector: u16,
    /// DS, ES, FS, GS, SS.
    pub data_selector: u16,
}

impl FlatSegments {
    /// The segments of a table of ours at `gdt_base`.
    pub(crate) fn at(gdt_base: u64) -> Self {
        Self { gdt_base, gdt_limit: GDT_LIMIT, code_selector: BOOT_CS, data_selector: BOOT_DS }
    }
}

/// Long mode with paging on, interrupts off, flat segments; registers that are not named here are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongEntry {
    /// The kernel's entry.
    pub rip: u64,
    /// The zero page.
    pub rsi: u64,
    /// A small stack, which the protocol does not ask for.
    pub rsp: u64,
    /// Root of the page tables: 4 levels, at least the first 4 GiB mapped to themselves.
    pub cr3: u64,
    /// The segments, CS a 64-bit one.
    pub segments: FlatSegments,
}

/// Protected mode with paging off, interrupts off, flat 32-bit segments; registers that are not named here are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtectedEntry {
    /// The kernel's entry.
    pub eip: u32,
    /// Multiboot: the boot loader's magic number.
    pub eax: u32,
    /// PVH and multiboot: what the kernel is told.
    pub ebx: u32,
    /// Linux: the zero page.
    pub esi: u32,
    /// A small stack, which no protocol asks for.
    pub esp: u32,
    /// The segments, CS a 32-bit one.
    pub segments: FlatSegments,
}
