//! Why a kernel cannot be booted.

use vm_memory::GuestMemoryError;

/// Why a kernel cannot be booted. Each sentence names the file and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel file has no bytes.
    #[error(
        "kernel {file} is empty; give a Linux bzImage (such as /boot/vmlinuz-*), an ELF file with a PVH entry, or a \
         multiboot kernel"
    )]
    EmptyKernel {
        /// The file's name.
        file: String,
    },
    /// The kernel file is something else, and known.
    #[error("kernel {file} is {what}; {right}")]
    OtherKind {
        /// The file's name.
        file: String,
        /// What it is.
        what: String,
        /// What the user can do.
        right: &'static str,
    },
    /// The kernel file is something unknown.
    #[error(
        "kernel {file} is no kernel that could be booted; give a Linux bzImage (such as /boot/vmlinuz-*), an ELF file \
         with a PVH entry, or a multiboot kernel"
    )]
    NotAKernel {
        /// The file's name.
        file: String,
    },
    /// The kernel is older than what this loader speaks.
    #[error(
        "kernel {file} speaks boot protocol {major}.{minor}, which is too old; give Linux 2.6.22 or later (protocol 2.6)"
    )]
    OldProtocol {
        /// The file's name.
        file: String,
        /// Version before the dot.
        major: u8,
        /// Version after the dot.
        minor: u8,
    },
    /// The file ends early.
    #[error(
        "kernel {file} is truncated: it has {actual} bytes, its header asks for {expected}; copy it again"
    )]
    Truncated {
        /// The file's name.
        file: String,
        /// Bytes that are there.
        actual: u64,
        /// Bytes that its header announces.
        expected: u64,
    },
    /// The header contradicts itself.
    #[error("kernel {file} is damaged: its header has {field} {value:#x}; copy it again")]
    BadHeader {
        /// The file's name.
        file: String,
        /// The field's name in the boot protocol.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The machine is too small.
    #[error(
        "too little memory for kernel {file}: it needs {needed_mib} MiB, give it at least that with --memory"
    )]
    TooLittleMemory {
        /// The file's name.
        file: String,
        /// What the kernel alone takes to start.
        needed_mib: u64,
    },
    /// The command line is longer than the kernel reads.
    #[error(
        "the kernel command line has {actual} bytes, kernel {file} takes at most {limit}; shorten --append"
    )]
    LongCommandLine {
        /// The kernel's name.
        file: String,
        /// Length of the command line.
        actual: usize,
        /// What the kernel takes.
        limit: usize,
    },
    /// The command line has a NUL inside.
    #[error("the kernel command line contains a NUL byte; remove it from --append")]
    NulInCommandLine,
    /// The initial RAM disk has no bytes.
    #[error("initial RAM disk {file} is empty; give a cpio archive, as it is or compressed")]
    EmptyInitrd {
        /// The file's name.
        file: String,
    },
    /// The file given as initial RAM disk cannot be one.
    #[error("initial RAM disk {file} is {what}; give a cpio archive, as it is or compressed")]
    NotAnInitrd {
        /// The file's name.
        file: String,
        /// What it is.
        what: String,
    },
    /// The initial RAM disk does not fit.
    #[error(
        "too little memory for initial RAM disk {file}: it has {size_mib} MiB and does not fit beside the kernel; \
         give more with --memory"
    )]
    NoRoomForInitrd {
        /// The file's name.
        file: String,
        /// Its size, rounded up.
        size_mib: u64,
    },
    /// An ELF file whose headers do not hold together.
    #[error("kernel {file} is a damaged ELF file: {what}; copy or build it again")]
    DamagedElf {
        /// The file's name.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// An ELF file that tells no way in.
    #[error(
        "kernel {file} is an ELF file with neither a PVH entry nor a multiboot header; give a kernel that has one (Linux \
         with CONFIG_PVH), or a bzImage"
    )]
    NoEntryInElf {
        /// The file's name.
        file: String,
    },
    /// A multiboot header that contradicts the file.
    #[error("kernel {file} is a damaged multiboot kernel: {what}; copy or build it again")]
    DamagedMultiboot {
        /// The file's name.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// A multiboot header with demands that nobody knows.
    #[error(
        "kernel {file} has a multiboot header with the unknown demands {flags:#x}; give one that follows multiboot 1"
    )]
    MultibootDemands {
        /// The file's name.
        file: String,
        /// The unknown bits of its flags.
        flags: u32,
    },
    /// The entry is not in what the file loads.
    #[error(
        "kernel {file} cannot be entered: the entry {entry:#x} lies outside of what it loads; build it again"
    )]
    EntryOutside {
        /// The file's name.
        file: String,
        /// The entry.
        entry: u64,
    },
    /// The kernel wants to be where a PC has no RAM.
    #[error(
        "kernel {file} wants to be at {first:#x} to {last:#x}, where there is no RAM; link it to an address from 1 MiB on"
    )]
    NoRamThere {
        /// The file's name.
        file: String,
        /// The first address.
        first: u64,
        /// The last address.
        last: u64,
    },
    /// More initial RAM disks than Linux takes.
    #[error("Linux kernel {file} takes one initial RAM disk; give --initrd once")]
    SeveralInitrds {
        /// The kernel's name.
        file: String,
    },
    /// Guest RAM does not have what the memory map says.
    #[error("cannot write the boot content into guest memory: {0}")]
    Memory(#[from] GuestMemoryError),
}
