//! Reading a bzImage.

use crate::error::BootError;
use crate::{low_memory, recognise};

/// Offsets of the setup header's fields in the file, and in the zero page.
pub(super) mod header {
    pub(crate) const SETUP_SECTS: usize = 0x1f1;
    pub(crate) const SYSSIZE: usize = 0x1f4;
    pub(crate) const BOOT_FLAG: usize = 0x1fe;
    pub(crate) const JUMP_LENGTH: usize = 0x201;
    pub(crate) const MAGIC: usize = 0x202;
    pub(crate) const VERSION: usize = 0x206;
    pub(crate) const TYPE_OF_LOADER: usize = 0x210;
    pub(crate) const LOADFLAGS: usize = 0x211;
    pub(crate) const CODE32_START: usize = 0x214;
    pub(crate) const RAMDISK_IMAGE: usize = 0x218;
    pub(crate) const RAMDISK_SIZE: usize = 0x21c;
    pub(crate) const CMD_LINE_PTR: usize = 0x228;
    pub(crate) const INITRD_ADDR_MAX: usize = 0x22c;
    pub(crate) const KERNEL_ALIGNMENT: usize = 0x230;
    pub(crate) const RELOCATABLE: usize = 0x234;
    pub(crate) const XLOADFLAGS: usize = 0x236;
    pub(crate) const CMDLINE_SIZE: usize = 0x238;
    pub(crate) const SETUP_DATA: usize = 0x250;
    pub(crate) const PREF_ADDRESS: usize = 0x258;
    pub(crate) const INIT_SIZE: usize = 0x260;
    /// The end of what protocol 2.06 has.
    pub(crate) const OLD_END: usize = 0x23c;
    /// The end of what protocol 2.10 has: with `pref_address` and `init_size`.
    pub(crate) const END: usize = 0x264;
    /// The zero page has no room for a longer header: the EDD buffer follows.
    pub(crate) const LIMIT: usize = 0x290;
}

const MAGIC: &[u8; 4] = b"HdrS";
/// Older kernels do not say how long their command line may be.
const OLDEST_PROTOCOL: u16 = 0x0206;
/// From here on kernels say how much memory they need, and where they like to be.
const WITH_INIT_SIZE: u16 = 0x020a;
/// From here on there is `xloadflags`.
const WITH_XLOADFLAGS: u16 = 0x020c;
/// Kernels without `init_size` get so many times the size of their file, for what is in it compressed.
const GUESSED_EXPANSION: u32 = 8;
const LOADED_HIGH: u8 = 1 << 0;
const XLF_KERNEL_64: u16 = 1 << 0;
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
const SECTOR: usize = 512;

/// A bzImage whose header holds together.
#[derive(Clone, Copy, Debug)]
pub struct BzImage<'a> {
    file: &'a str,
    setup_header: &'a [u8],
    payload: &'a [u8],
    xloadflags: u16,
    pref_address: u64,
    init_size: u32,
    initrd_addr_max: u32,
    alignment: u32,
    relocatable: bool,
    cmdline_size: u32,
}

impl<'a> BzImage<'a> {
    /// Reads an image; `file` is its name for messages.
    pub fn parse(file: &'a str, image: &'a [u8]) -> Result<Self, BootError> {
        let named = || file.to_owned();
        if image.is_empty() {
            return Err(BootError::EmptyKernel { file: named() });
        }
        let fields = Fields(image);
        if fields.bytes(header::MAGIC) != Some(*MAGIC) {
            return Err(recognise::instead_of_kernel(file, image));
        }
        let truncated = |expected: usize| BootError::Truncated {
            file: file.to_owned(),
            actual: image.len() as u64,
            expected: expected as u64,
        };
        let bad = |field, value: u64| BootError::BadHeader { file: file.to_owned(), field, value };

        let version = fields.word(header::VERSION).ok_or_else(|| truncated(header::END))?;
        if version < OLDEST_PROTOCOL {
            let [minor, major] = version.to_le_bytes();
            return Err(BootError::OldProtocol { file: named(), major, minor });
        }
        let least_end = if version >= WITH_INIT_SIZE { header::END } else { header::OLD_END };
        if image.len() < least_end {
            return Err(truncated(least_end));
        }
        // Past this point all of the header is there; the zeros below are never taken.
        let byte = |at| fields.bytes::<1>(at).map_or(0, |[byte]| byte);
        let word = |at| fields.word(at).unwrap_or(0);
        let dword = |at| fields.dword(at).unwrap_or(0);

        const BOOT_FLAG: u16 = 0xaa55;
        if word(header::BOOT_FLAG) != BOOT_FLAG {
            return Err(bad("boot_flag", word(header::BOOT_FLAG).into()));
        }
        let header_end = header::MAGIC + usize::from(byte(header::JUMP_LENGTH));
        if !(least_end..=header::LIMIT).contains(&header_end) {
            return Err(bad("header length", header_end as u64));
        }
        let xloadflags = if version >= WITH_XLOADFLAGS { word(header::XLOADFLAGS) } else { 0 };
        if byte(header::LOADFLAGS) & LOADED_HIGH == 0 {
            return Err(bad("loadflags", byte(header::LOADFLAGS).into()));
        }

        // The protocol: zero setup sectors mean four, for the sake of very old kernels.
        let setup_sectors = match byte(header::SETUP_SECTS) {
            0 => 4,
            count => usize::from(count),
        };
        let payload_start = (setup_sectors + 1) * SECTOR;
        let payload_length = dword(header::SYSSIZE) as usize * 16;
        if payload_length == 0 {
            return Err(bad("syssize", 0));
        }
        let expected = payload_start + payload_length;
        // The header counts in units of 16 bytes; the last of them need not be whole.
        let payload_end = expected.min(image.len());
        if expected - payload_end >= 16 {
            return Err(truncated(expected));
        }
        let payload = image.get(payload_start..payload_end).ok_or_else(|| truncated(expected))?;
        let setup_header = image.get(header::SETUP_SECTS..header_end).ok_or_else(|| truncated(expected))?;

        let (init_size, pref_address) = if version >= WITH_INIT_SIZE {
            (dword(header::INIT_SIZE), fields.bytes(header::PREF_ADDRESS).map_or(0, u64::from_le_bytes))
        } else {
            (dword(header::SYSSIZE).saturating_mul(16 * GUESSED_EXPANSION), low_memory::EXTENDED_BASE)
        };
        if (init_size as usize) < payload_length {
            return Err(bad("init_size", init_size.into()));
        }
        let alignment = dword(header::KERNEL_ALIGNMENT);
        if !alignment.is_power_of_two() {
            return Err(bad("kernel_alignment", alignment.into()));
        }
        Ok(Self {
            file,
            setup_header,
            payload,
            xloadflags,
            pref_address,
            init_size,
            initrd_addr_max: dword(header::INITRD_ADDR_MAX),
            alignment,
            relocatable: byte(header::RELOCATABLE) != 0,
            cmdline_size: dword(header::CMDLINE_SIZE),
        })
    }

    /// The file's name for messages.
    pub fn file(&self) -> &str {
        self.file
    }

    /// The part that goes into RAM.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Memory that the kernel needs from where it is loaded until it manages memory itself.
    pub fn memory_size(&self) -> u64 {
        self.init_size.into()
    }

    /// Where the kernel prefers to be loaded.
    pub fn pref_address(&self) -> u64 {
        self.pref_address
    }

    /// Whether the kernel has a 64-bit entry; it has a 32-bit one in any case.
    pub fn is_64_bit(&self) -> bool {
        self.xloadflags & XLF_KERNEL_64 != 0
    }

    pub(super) fn relocatable(&self) -> bool {
        self.relocatable
    }

    pub(super) fn alignment(&self) -> u64 {
        self.alignment.into()
    }

    pub(super) fn setup_header(&self) -> &'a [u8] {
        self.setup_header
    }

    /// Bytes of command line that the kernel reads, without the NUL.
    pub(super) fn command_line_limit(&self) -> usize {
        self.cmdline_size as usize
    }

    /// The first address beyond what the initial RAM disk may occupy.
    pub(super) fn initrd_limit(&self) -> u64 {
        if self.xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0 {
            return u64::MAX;
        }
        u64::from(self.initrd_addr_max) + 1
    }
}

/// Checked access to little-endian fields of a file.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    fn word(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn dword(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }
}
