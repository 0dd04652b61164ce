//! Where things lie in the test machine.

/// Bytes of RAM.
pub const RAM: u64 = 8 << 20;
/// The PML4.
pub const PML4: u64 = 0x1000;
/// The GDT.
pub const GDT: u64 = 0x4000;
/// The GDT of [`crate::segments`].
pub const LINUX_GDT: u64 = 0x4400;
/// The LDT of [`crate::segments`].
pub const LDT: u64 = 0x4800;
/// The IDT: every vector leads to its own HLT.
pub const IDT: u64 = 0x5000;
/// The HLT of vector v is at `HANDLERS + 16 * v`.
pub const HANDLERS: u64 = 0x6000;
/// The 64-bit TSS, with an I/O permission bitmap that allows nothing.
pub const TSS: u64 = 0x7000;
/// RSP0 of the TSS.
pub const STACK: u64 = 0xc000;
/// IST1 of the TSS.
pub const IST1: u64 = 0xd000;
/// IST2 of the TSS.
pub const IST2: u64 = 0xe000;
/// Page tables are made from here on.
pub const TABLES: u64 = 0x1_0000;
/// Supervisor code of tests; memory below [`RAM`] is mapped where it lies, by 2 MiB pages, for the supervisor.
pub const KERNEL_CODE: u64 = 0x20_0000;
/// Supervisor data of tests.
pub const KERNEL_DATA: u64 = 0x30_0000;
/// Frames for tests to map.
pub const FRAMES: u64 = 0x40_0000;

/// One page of user code, which may be read and executed. On the host it is at the same address.
pub const CODE: u64 = 0x1ff0_0000;
/// Where a single instruction is put.
pub const INSN: u64 = CODE + 0x800;
/// Guest-physical address of [`CODE`].
pub const CODE_FRAME: u64 = 0x10_0000;

/// Six pages of user data, the fifth of them read-only; nothing before and behind them. On the host they are at the same
/// address.
pub const SCRATCH: u64 = 0x2000_0000;
/// The read-only page of [`SCRATCH`].
pub const SCRATCH_READ_ONLY: u64 = SCRATCH + 0x4000;
/// Bytes of [`SCRATCH`].
pub const SCRATCH_SIZE: u64 = 0x6000;
/// Guest-physical address of [`SCRATCH`].
pub const SCRATCH_FRAME: u64 = 0x11_0000;
/// A good place for operands, with room on both sides.
pub const DATA: u64 = SCRATCH + 0x1000;
/// A good place for RSP.
pub const USER_STACK: u64 = SCRATCH + 0x3800;

/// Where the supervisor's memory lies for [`crate::process`]: out of reach of user addresses.
pub const HIGH: u64 = 0xffff_8000_0000_0000;

/// Selectors of the GDT.
#[allow(missing_docs, reason = "the names say it")]
pub mod selector {
    pub const CODE64: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const USER_CODE32: u16 = 0x1b;
    pub const USER_DATA: u16 = 0x23;
    pub const USER_CODE64: u16 = 0x2b;
    pub const CODE32: u16 = 0x30;
    pub const CODE16: u16 = 0x38;
    pub const DATA16: u16 = 0x40;
    pub const NOT_PRESENT: u16 = 0x48;
    pub const TSS: u16 = 0x50;
    /// The last byte of the GDT.
    pub const LIMIT: u16 = 0x6f;
}
