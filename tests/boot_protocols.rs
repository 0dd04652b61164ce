//! Every way into a kernel, and virtio devices in it: small kernels made here, and Debian's.
//!
//! Debian's packages come by apt. Where that cannot work, the tests that need them are ignored and say so.

mod common;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{
    Emulator, Guest, Named, Options, Screen, check_interrupts, check_warnings, initramfs, kernel, lz4,
    package, run, trials,
};

use softmetal::cli::debian::{Flavour, Guests};

/// For a boot, on a busy host.
const BOOT: Duration = Duration::from_secs(300);
/// For a small command.
const SOON: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let made_here: &[Named] = &[
        ("multiboot_elf_finds_command_line_and_modules", multiboot_elf),
        ("multiboot_flat_finds_command_line_and_modules", multiboot_flat),
        ("pvh_finds_command_line_and_modules", pvh),
        ("linux_without_a_64_bit_entry_is_entered_in_32_bit_mode", linux_32),
        ("a_kernel_that_cannot_be_is_refused_before_anything_starts", refused),
    ];
    let debian: &[Named] = &[
        ("cloud_kernel_as_pvh_vmlinux", || cloud_kernel_by_pvh(1)),
        ("cloud_kernel_as_pvh_vmlinux_with_two_processors", || cloud_kernel_by_pvh(2)),
        ("cloud_kernel_as_pvh_vmlinux_with_four_processors", || cloud_kernel_by_pvh(4)),
        ("installer_kernel_for_32_bit_x86", installer_kernel),
        ("memtest86_with_one_processor", || memtest("memtest86+x64.bin", 1)),
        ("memtest86_with_two_processors", || memtest("memtest86+x64.bin", 2)),
        ("memtest86_for_32_bit_x86_with_two_processors", || memtest("memtest86+ia32.bin", 2)),
        ("xen_with_dom0_by_multiboot", xen),
        ("virtio_rng_with_msix", || virtio_rng("", "MSI")),
        ("virtio_rng_with_intx", || virtio_rng("pci=nomsi", "IO-APIC")),
        ("virtio_rng_with_intx_through_the_pic", || virtio_rng("pci=nomsi noapic acpi=off", "XT-PIC")),
        ("virtio_rng_with_intx_through_the_pic_by_acpi", || virtio_rng("pci=nomsi noapic", "XT-PIC")),
    ];
    let foreign =
        (Emulator::chosen() == Emulator::Qemu).then(|| "this is about softmetal's own command".to_owned());
    let hindrance = Guests::hindrance().map(|why| format!("Debian's packages cannot be fetched: {why}"));
    let mut all = trials(made_here, foreign.as_deref());
    all.extend(trials(debian, foreign.or(hindrance).as_deref()));
    run(all)
}

// Kernels made here: each prints strings that it finds by way of what it is told, and ends with a status.

/// 32-bit code that does this for every sequence in `loads`, which leaves the address of a string in ESI.
fn speaker(loads: &[&[u8]]) -> Vec<u8> {
    const CALL_SIZE: usize = 5;
    const END: [u8; 7] = [
        0xb0, 0x15, // mov al, 0x15
        0xe6, 0xf4, // out 0xf4, al
        0xf4, // hlt
        0xeb, 0xfd, // jmp to the hlt
    ];
    const PRINT: [u8; 16] = [
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xac, // lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz behind the loop
        0xee, // out dx, al
        0xeb, 0xf8, // jmp to the lodsb
        0xb0, b'\n', // mov al, '\n'
        0xee,  // out dx, al
        0xc3,  // ret
    ];
    let print_at = loads.iter().map(|load| load.len() + CALL_SIZE).sum::<usize>() + END.len();
    let mut code = Vec::new();
    for load in loads {
        code.extend_from_slice(load);
        let distance = print_at - (code.len() + CALL_SIZE);
        code.push(0xe8);
        code.extend((distance as u32).to_le_bytes());
    }
    code.extend(END);
    code.extend(PRINT);
    code
}

/// From the multiboot information: the command line, the first module's string, the first module.
const MULTIBOOT_STRINGS: [&[u8]; 3] = [
    &[0x8b, 0x73, 16],                // mov esi, [ebx + 16]
    &[0x8b, 0x4b, 24, 0x8b, 0x71, 8], // mov ecx, [ebx + 24]; mov esi, [ecx + 8]
    &[0x8b, 0x4b, 24, 0x8b, 0x31],    // mov ecx, [ebx + 24]; mov esi, [ecx]
];
/// From PVH's start info: the same.
const PVH_STRINGS: [&[u8]; 3] = [
    &[0x8b, 0x73, 24],                 // mov esi, [ebx + 24]
    &[0x8b, 0x4b, 16, 0x8b, 0x71, 16], // mov ecx, [ebx + 16]; mov esi, [ecx + 16]
    &[0x8b, 0x4b, 16, 0x8b, 0x31],     // mov ecx, [ebx + 16]; mov esi, [ecx]
];
/// From Linux's zero page, kept in EBX: the command line, the initial RAM disk.
const LINUX_STRINGS: [&[u8]; 2] = [
    &[0x89, 0xf3, 0x8b, 0xb3, 0x28, 0x02, 0, 0], // mov ebx, esi; mov esi, [ebx + 0x228]
    &[0x8b, 0xb3, 0x18, 0x02, 0, 0],             // mov esi, [ebx + 0x218]
];

const LOAD_ADDRESS: u32 = 0x10_0000;

fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    [MAGIC, flags, checksum].iter().chain(addresses).flat_map(|word| word.to_le_bytes()).collect()
}

/// A 32-bit ELF file: what is loaded, the entry in it, and notes.
fn elf32(content: &[u8], entry: u32, notes: &[u8]) -> Vec<u8> {
    const HEADERS: u32 = 52 + 2 * 32;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let halves = |halves: &[u16]| halves.iter().flat_map(|half| half.to_le_bytes()).collect::<Vec<u8>>();
    let (size, notes_size) = (content.len() as u32, notes.len() as u32);
    [
        b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        halves(&[2, 3]),
        words(&[1, LOAD_ADDRESS + entry, 52, 0, 0]),
        halves(&[52, 32, 2, 40, 0, 0]),
        words(&[1, HEADERS, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 7, 4]),
        words(&[4, HEADERS + size, 0, 0, notes_size, notes_size, 4, 4]),
        content.to_vec(),
        notes.to_vec(),
    ]
    .concat()
}

/// Boots a kernel with a file beside it, and checks what it prints.
fn listen(image: &[u8], module_arguments: &str, expected: impl Fn(&Path, &Path) -> String) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (kernel, module) = (folder.path().join("kernel"), folder.path().join("module"));
    fs::write(&kernel, image)?;
    fs::write(&module, "070701 the module\0")?;
    let initrd = format!("{}{module_arguments}", module.display());
    let options = Options {
        kernel: kernel.clone(),
        memory: "16M",
        append: "answer=42",
        debug_exit: true,
        arguments: vec!["--initrd".into(), initrd],
        ..Options::default()
    };
    let mut guest = Guest::start(&options)?;
    let (status, messages) = guest.finish(SOON)?;
    ensure!(status.code() == Some(0x15 << 1 | 1), "ends with {status}: {messages}; {}", guest.tail());
    let (console, expected) = (guest.tail(), expected(&kernel, &module));
    ensure!(console.contains(&expected), "expected {expected:?}; {console}");
    Ok(())
}

fn kernel_and_module(kernel: &Path, module: &Path) -> String {
    let (kernel, module) = (kernel.display(), module.display());
    format!("{kernel} console=ttyS0 answer=42\n{module} x=1,2\n070701 the module\n")
}

fn multiboot_elf() -> Result<()> {
    let header = multiboot_header(3, &[]);
    let image = [&header[..], &speaker(&MULTIBOOT_STRINGS)].concat();
    let image = elf32(&image, header.len() as u32, &[]);
    listen(&image, " x=1,,2", kernel_and_module)
}

fn multiboot_flat() -> Result<()> {
    let header_size = 32;
    let addresses = [LOAD_ADDRESS, LOAD_ADDRESS, 0, LOAD_ADDRESS + 0x1_0000, LOAD_ADDRESS + header_size];
    let image = [multiboot_header(0x1_0003, &addresses), speaker(&MULTIBOOT_STRINGS)].concat();
    listen(&image, " x=1,,2", kernel_and_module)
}

fn pvh() -> Result<()> {
    let note = [4u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), LOAD_ADDRESS];
    let notes: Vec<u8> = note.iter().flat_map(|word| word.to_le_bytes()).collect();
    let image = elf32(&speaker(&PVH_STRINGS), 0, &notes);
    listen(&image, " x=1,,2", |_, module| {
        format!("console=ttyS0 answer=42\n{} x=1,2\n070701 the module\n", module.display())
    })
}

fn linux_32() -> Result<()> {
    let code = speaker(&LINUX_STRINGS);
    let mut image = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &(code.len().div_ceil(16) as u32).to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &0x1000u32.to_le_bytes());
    put(0x238, &255u32.to_le_bytes());
    put(0x258, &u64::from(LOAD_ADDRESS).to_le_bytes());
    put(0x260, &0x1_0000u32.to_le_bytes());
    image.extend(code);
    listen(&image, "", |_, _| "console=ttyS0 answer=42\n070701 the module\n".into())
}

/// One sentence that names the file, and status 2.
fn refused() -> Result<()> {
    let header = multiboot_header(3, &[]);
    for (image, sentence) in [
        (elf32(&[0xf4], 0, &[]), "neither a PVH entry nor a multiboot header"),
        (elf32(&header, 0x1000, &[]), "cannot be entered: the entry 0x101000"),
        (multiboot_header(0x8003, &[]), "the unknown demands 0x8000"),
        (header, "no ELF file, and its header tells no addresses"),
    ] {
        let folder = tempfile::tempdir()?;
        let kernel = folder.path().join("kernel");
        fs::write(&kernel, image)?;
        let options = Options { kernel: kernel.clone(), memory: "16M", ..Options::default() };
        let mut guest = Guest::start(&options)?;
        let (status, messages) = guest.finish(SOON)?;
        ensure!(status.code() == Some(2), "{sentence}: ends with {status}: {messages}");
        let named = messages.contains(&format!("kernel {} ", kernel.display()));
        ensure!(named && messages.contains(sentence) && messages.lines().count() == 1, "{messages}");
    }
    Ok(())
}

// Debian's kernels.

/// The ELF file inside of Debian's cloud kernel.
fn vmlinux(image: &Path) -> Result<Vec<u8>> {
    let image = fs::read(image)?;
    let word = |at: usize| {
        let bytes = image.get(at..).and_then(|rest| rest.first_chunk()).context("the header is short")?;
        Ok::<_, anyhow::Error>(u32::from_le_bytes(*bytes) as usize)
    };
    let setup_size = (usize::from(*image.get(0x1f1).context("the header is short")?) + 1) * 512;
    let (offset, length) = (setup_size + word(0x248)?, word(0x24c)?);
    // The kernel's build puts the size of the unpacked file behind the packed one.
    let packed = image.get(offset..offset + length - 4).context("the payload is not in the file")?;
    let elf = lz4::unpack(packed)?;
    ensure!(elf.starts_with(b"\x7fELF"), "the payload is no ELF file");
    Ok(elf)
}

fn cloud_kernel_by_pvh(cpus: usize) -> Result<()> {
    let kernel = kernel(Flavour::Cloud)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("vmlinux");
    fs::write(&file, vmlinux(&kernel.image)?)?;
    let initrd = Some(initramfs(&kernel, folder.path(), None, false)?);
    let options = Options { kernel: file, initrd, memory: "256M", cpus, ..Options::default() };
    let mut guest = Guest::boot(&options, BOOT)?;
    // Linux gives a loader that comes by PVH a number of its own.
    let loader = guest.run("cat /proc/sys/kernel/bootloader_type", SOON)?;
    ensure!(loader.trim() == "176", "the boot loader's type is {loader}");
    let log = guest.run("dmesg", SOON)?;
    ensure!(log.contains("ACPI: RSDP"), "{log}");
    check_interrupts(&mut guest, cpus)?;
    check_warnings(&mut guest)?;
    guest.power_off()
}

/// The installer's kernel, for processors without PAE, with the installer's user space.
fn installer_kernel() -> Result<()> {
    let files = package("debian-installer-12-netboot-i386")?;
    let files = files.join("usr/lib/debian-installer/images/12/i386/text/debian-installer/i386");
    let options = Options {
        kernel: files.join("linux"),
        initrd: Some(files.join("initrd.gz")),
        memory: "512M",
        append: "rdinit=/bin/sh",
        cpus: 2,
        ..Options::default()
    };
    let mut guest = Guest::start(&options)?;
    guest.expect("built-in shell", BOOT)?;
    guest.expect("# ", SOON)?;
    guest.run("mount -t proc proc /proc", SOON)?;
    let uname = guest.run("uname -a", SOON)?;
    ensure!(uname.contains(" i686 "), "uname says {uname}");
    let files = guest.run("find / -xdev | wc -l", SOON)?;
    ensure!(files.trim().parse::<u32>().is_ok_and(|count| count > 1000), "the RAM disk has {files} files");
    check_interrupts(&mut guest, 2)?;
    check_warnings(&mut guest)?;
    guest.power_off()
}

/// Its first tests, on the serial port's screen, by all processors at a time.
fn memtest(image: &str, cpus: usize) -> Result<()> {
    let kernel = package("memtest86+")?.join("boot").join(image);
    let options = Options { kernel, memory: "24M", cpus, ..Options::default() };
    let mut guest = Guest::start(&options)?;
    let mut screen = Screen::new();
    // A test that has begun says that those before it are through.
    let begun = |text: &str| {
        let number = text.split_once("| Test #")?.1.split_whitespace().next()?;
        number.parse::<u32>().ok()
    };
    guest.watch(&mut screen, BOOT, |text| begun(text).is_some_and(|number| number >= 4))?;
    guest.watch(&mut screen, SOON, |text| text.contains("Status: Testing"))?;
    let text = screen.text();
    let found = format!("CPU: {cpus} Core");
    ensure!(text.contains("Memtest86+") && text.contains(&found), "{text}");
    ensure!(text.contains("Errors: 0 ") || text.contains("Errors: 0\n"), "{text}");
    ensure!(cpus == 1 || text.contains(&format!("SMP: {cpus}T (PAR)")), "{text}");
    Ok(())
}

fn xen() -> Result<()> {
    let packed = package("xen-hypervisor-4.17-amd64")?.join("boot/xen-4.17-amd64.gz");
    let folder = tempfile::tempdir()?;
    let xen = folder.path().join("xen");
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(fs::File::open(packed)?), &mut unpacked)?;
    fs::write(&xen, unpacked)?;
    let dom0 = kernel(Flavour::Generic)?;
    let initrd = initramfs(&dom0, folder.path(), None, true)?;
    let modules = format!("{} console=hvc0 earlyprintk=xen,{}", dom0.image.display(), initrd.display());
    let options = Options {
        kernel: xen,
        memory: "512M",
        append: "console=com1 com1=115200,8n1 dom0_mem=256M",
        arguments: vec!["--initrd".into(), modules],
        ..Options::default()
    };
    let mut guest = Guest::start(&options)?;
    guest.expect("Xen version 4.17", BOOT)?;
    guest.expect("Linux version", BOOT)?;
    guest.expect("Hypervisor detected: Xen PV", BOOT).map(drop)
}

/// The driver binds, its interrupts arrive in the way that the command line leaves it, and random numbers come.
fn virtio_rng(append: &'static str, interrupts: &str) -> Result<()> {
    let kernel = kernel(Flavour::Cloud)?;
    let folder = tempfile::tempdir()?;
    let initrd = Some(initramfs(&kernel, folder.path(), None, false)?);
    let options = Options { kernel: kernel.image, initrd, memory: "256M", append, ..Options::default() };
    let mut guest = Guest::boot(&options, BOOT)?;
    let current = guest.run("cat /sys/class/misc/hw_random/rng_current", SOON)?;
    ensure!(current.trim().starts_with("virtio_rng"), "the generator is {current}");
    let read = "dd if=/dev/hwrng bs=64 count=1 iflag=fullblock 2>/dev/null | md5sum";
    let (first, second) = (guest.run(read, SOON)?, guest.run(read, SOON)?);
    ensure!(first != second, "twice the same random bytes: {first}");
    let size = guest.run("dd if=/dev/hwrng bs=64 count=64 iflag=fullblock 2>/dev/null | wc -c", SOON)?;
    ensure!(size.trim() == "4096", "/dev/hwrng gives {size} bytes");
    let table = guest.run("cat /proc/interrupts", SOON)?;
    let lines: Vec<&str> = table.lines().filter(|line| line.contains("virtio0")).collect();
    let arrived = lines.iter().any(|line| {
        let count = line.split_whitespace().nth(1).and_then(|count| count.parse::<u64>().ok());
        line.contains(interrupts) && count.is_some_and(|count| count > 0)
    });
    ensure!(arrived, "no interrupt by {interrupts}: {table}");
    let status = guest.run("cat /sys/bus/virtio/devices/virtio0/status", SOON)?;
    ensure!(status.trim() == "0x0000000f", "the device's status is {status}");
    // Without ACPI a kernel cannot switch the machine off.
    if append.contains("acpi=off") { Ok(()) } else { guest.power_off() }
}
