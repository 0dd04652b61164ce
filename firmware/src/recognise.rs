//! What a file is that is not what was asked for, so that the message can say what would be right.

use crate::error::BootError;

const GIVE_KERNEL: &str = "give a Linux bzImage (such as /boot/vmlinuz-*) or another kernel";
const GIVE_AMD64: &str = "give a kernel for x86 (on Debian linux-image-amd64)";
const UNPACK: &str = "unpack it first (a bzImage unpacks itself)";
const USE_INITRD: &str = "give it with --initrd, and a kernel with --kernel";
const NO_DISK_BOOT: &str = "booting disks needs firmware; give the kernel inside of it";

/// Compressed files by their first bytes. Linux takes each of these as initial RAM disk.
const COMPRESSED: [(&[u8], &str); 8] = [
    (&[0x1f, 0x8b], "a gzip file"),
    (&[0x1f, 0x9e], "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (&[0x5d, 0x00, 0x00], "an lzma file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (&[0x89, b'L', b'Z', b'O'], "an lzo file"),
    (&[0x02, 0x21, 0x4c, 0x18], "an lz4 file"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "a zstd file"),
];

/// cpio archives in the forms that Linux unpacks, with and without check sums.
const CPIO: [&[u8]; 2] = [b"070701", b"070702"];

fn has(file: &[u8], at: usize, magic: &[u8]) -> bool {
    file.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

fn compressed(file: &[u8]) -> Option<&'static str> {
    COMPRESSED.iter().find(|(magic, _)| has(file, 0, magic)).map(|(_, what)| *what)
}

fn is_cpio(file: &[u8]) -> bool {
    CPIO.iter().any(|magic| has(file, 0, magic))
}

/// Whether a file has the header of a bzImage.
pub(crate) fn is_x86_linux(file: &[u8]) -> bool {
    has(file, 0x202, b"HdrS")
}

/// Kernels for other machines and boot loaders: magic, where, what.
const OTHER_KERNELS: [(usize, &[u8], &str); 6] = [
    (0x38, b"ARM\x64", "an ARM64 kernel"),
    (0x38, b"RSC\x05", "a RISC-V kernel"),
    (0x24, &[0x18, 0x28, 0x6f, 0x01], "a 32-bit ARM kernel (zImage)"),
    (0, &[0x27, 0x05, 0x19, 0x56], "a U-Boot image"),
    (0, &[0xd0, 0x0d, 0xfe, 0xed], "a device tree or FIT image"),
    (4, b"zimg", "a compressed EFI kernel for another architecture"),
];

/// Disk images and similar: magic, where, what.
const DISKS: [(usize, &[u8], &str); 4] = [
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0x8001, b"CD001", "a CD-ROM image"),
    (0x438, &[0x53, 0xef], "an ext2/3/4 file system"),
    (0x1fe, &[0x55, 0xaa], "a boot sector or disk image"),
];

/// The name of an ELF file's machine, or None where it is x86's.
fn elf_machine(file: &[u8]) -> Option<String> {
    const BIG_ENDIAN: u8 = 2;
    let bytes = [file.get(18).copied()?, file.get(19).copied()?];
    let machine =
        if file.get(5) == Some(&BIG_ENDIAN) { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
    let name = match machine {
        3 | 62 => return None,
        8 => "MIPS",
        20 => "PowerPC",
        21 => "64-bit PowerPC",
        22 => "S/390",
        40 => "32-bit ARM",
        183 => "ARM64",
        243 => "RISC-V",
        258 => "LoongArch",
        other => return Some(format!("machine number {other}")),
    };
    Some(name.to_owned())
}

/// The error for an ELF file of another machine than x86.
pub(crate) fn foreign_elf(file: &str, image: &[u8]) -> Option<BootError> {
    let machine = elf_machine(image)?;
    Some(BootError::OtherKind {
        file: file.to_owned(),
        what: format!("an ELF file for {machine}"),
        right: GIVE_AMD64,
    })
}

/// The error for a file that was given as kernel and has none of the headers of one.
pub(crate) fn instead_of_kernel(file: &str, image: &[u8]) -> BootError {
    let other =
        |what: &str, right| BootError::OtherKind { file: file.to_owned(), what: what.to_owned(), right };
    if let Some((_, _, what)) = OTHER_KERNELS.iter().find(|(at, magic, _)| has(image, *at, magic)) {
        return other(what, GIVE_AMD64);
    }
    if let Some(what) = compressed(image) {
        return other(what, UNPACK);
    }
    if is_cpio(image) {
        return other("a cpio archive (an initial RAM disk)", USE_INITRD);
    }
    if let Some((_, _, what)) = DISKS.iter().find(|(at, magic, _)| has(image, *at, magic)) {
        return other(what, NO_DISK_BOOT);
    }
    if has(image, 0, b"MZ") {
        return other("an EFI or Windows program", GIVE_KERNEL);
    }
    if has(image, 0, b"#!") {
        return other("a script", GIVE_KERNEL);
    }
    BootError::NotAKernel { file: file.to_owned() }
}

/// What a file given as initial RAM disk is, where Linux could not use it.
pub(crate) fn instead_of_initrd(image: &[u8]) -> Option<String> {
    // Archives may follow one another with zeros between, so zeros may come first as well.
    let start = image.iter().position(|byte| *byte != 0).unwrap_or(0);
    let archive = image.get(start..).unwrap_or_default();
    if is_cpio(archive) || compressed(image).is_some() {
        return None;
    }
    // Old style: a file system that becomes /dev/ram0.
    const FILE_SYSTEMS: [(usize, &[u8]); 4] =
        [(0x438, &[0x53, 0xef]), (0, b"-rom1fs-"), (0, b"hsqs"), (0, &[0x45, 0x3d, 0xcd, 0x28])];
    if FILE_SYSTEMS.iter().any(|(at, magic)| has(image, *at, magic)) {
        return None;
    }
    let what = if is_x86_linux(image) {
        "a Linux kernel"
    } else if has(image, 0, b"\x7fELF") {
        "an ELF file"
    } else {
        "nothing that Linux could unpack"
    };
    Some(what.to_owned())
}
