//! Parsing and loading against images made here.

use vm_memory::GuestMemoryMmap;

use super::*;
use crate::{BootError, Layout};

const MIB: u64 = 1 << 20;

/// A bzImage with one setup sector and 4 KiB of payload, all 0x90.
pub(crate) fn image() -> Vec<u8> {
    use bzimage::header;
    let mut image = vec![0x90; 1024 + 4096];
    image[..1024].fill(0);
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(header::SETUP_SECTS, &[1]);
    put(header::SYSSIZE, &256u32.to_le_bytes());
    put(header::BOOT_FLAG, &[0x55, 0xaa]);
    put(header::JUMP_LENGTH, &[0x6a]);
    put(header::MAGIC, b"HdrS");
    put(header::VERSION, &[0x0f, 0x02]);
    put(header::LOADFLAGS, &[1]);
    put(header::INITRD_ADDR_MAX, &0x7fff_ffffu32.to_le_bytes());
    put(header::KERNEL_ALIGNMENT, &0x20_0000u32.to_le_bytes());
    put(header::RELOCATABLE, &[1]);
    put(header::XLOADFLAGS, &[1, 0]);
    put(header::CMDLINE_SIZE, &2047u32.to_le_bytes());
    put(header::PREF_ADDRESS, &(16 * MIB).to_le_bytes());
    put(header::INIT_SIZE, &(30 * MIB as u32).to_le_bytes());
    image
}

fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = image();
    image[at..at + bytes.len()].copy_from_slice(bytes);
    image
}

fn message(image: &[u8]) -> String {
    BzImage::parse("vmlinuz", image).unwrap_err().to_string()
}

#[test]
fn a_sound_image_is_taken() {
    let image = image();
    let kernel = BzImage::parse("vmlinuz", &image).unwrap();
    assert_eq!(kernel.payload(), [0x90; 4096]);
    assert_eq!((kernel.pref_address(), kernel.memory_size()), (16 * MIB, 30 * MIB));
}

#[test]
fn bytes_after_the_announced_end_are_no_part_of_the_kernel() {
    // Debian's kernels carry a signature there.
    let mut image = image();
    image.extend([1; 100]);
    assert_eq!(BzImage::parse("vmlinuz", &image).unwrap().payload(), [0x90; 4096]);
}

#[test]
fn every_truncation_is_an_error_with_the_name() {
    let image = image();
    for length in 0..image.len() - 15 {
        let message = message(&image[..length]);
        assert!(message.contains("kernel vmlinuz "), "{message}");
        if length > 0x208 {
            assert!(message.contains("truncated"), "{length}: {message}");
        }
    }
}

#[test]
fn wrong_headers_are_named() {
    use bzimage::header;
    assert!(message(&with(header::VERSION, &[4, 2])).contains("boot protocol 2.4"));
    assert!(message(&with(header::BOOT_FLAG, &[0, 0])).contains("boot_flag"));
    assert!(message(&with(header::JUMP_LENGTH, &[0x10])).contains("header length"));
    assert!(message(&with(header::JUMP_LENGTH, &[0xff])).contains("header length"));
    assert!(message(&with(header::INIT_SIZE, &[0; 4])).contains("init_size"));
    assert!(message(&with(header::KERNEL_ALIGNMENT, &[0; 4])).contains("kernel_alignment"));
    assert!(message(&with(header::SYSSIZE, &[0; 4])).contains("syssize"));
    assert!(message(&with(header::SYSSIZE, &[0xff; 4])).contains("truncated"));
}

#[test]
fn initial_ram_disks_are_checked_by_kind() {
    for good in [&b"070701rest"[..], b"\0\0\0\x00070701", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0"]
    {
        assert!(Initrd::parse("i", good).is_ok(), "{good:?}");
    }
    let message = |bytes: &[u8]| Initrd::parse("i", bytes).unwrap_err().to_string();
    assert!(message(b"").contains("RAM disk i is empty"));
    assert!(message(&[0; 64]).contains("nothing that Linux could unpack"));
    assert!(message(&image()).contains("is a Linux kernel"));
}

struct Machine {
    ram: GuestMemoryMmap<()>,
    map: MemoryMap,
}

impl Machine {
    fn new(ram_bytes: u64) -> Self {
        let layout = Layout::example();
        let ranges: Vec<_> = [layout.low_ram(ram_bytes), layout.high_ram(ram_bytes)]
            .into_iter()
            .filter(|range| !range.is_empty())
            .map(|range| (GuestAddress(range.start), (range.end - range.start) as usize))
            .collect();
        Self { ram: GuestMemoryMmap::from_ranges(&ranges).unwrap(), map: MemoryMap::pc(ram_bytes, &layout) }
    }

    fn load(&self, image: &[u8], initrd: Option<&[u8]>, command_line: &str) -> Result<EntryState, BootError> {
        let kernel = BzImage::parse("vmlinuz", image)?;
        let initrd = initrd.map(|bytes| Initrd::parse("initrd.img", bytes)).transpose()?;
        let boot = Boot {
            kernel: &kernel,
            initrd: initrd.as_ref(),
            command_line,
            memory_map: &self.map,
            rsdp: 0xe_0000,
            rng_seed: Some([7; 32]),
        };
        load(&boot, &self.ram)
    }

    fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn dword(&self, at: u64) -> u32 {
        self.ram.read_obj(GuestAddress(at)).unwrap()
    }
}

fn long(entry: Result<EntryState, BootError>) -> LongEntry {
    match entry.unwrap() {
        EntryState::Long(entry) => entry,
        other => panic!("{other:?}"),
    }
}

#[test]
fn kernels_without_a_64_bit_entry_are_entered_where_they_are_loaded() {
    let machine = Machine::new(64 * MIB);
    let entry = machine.load(&with(bzimage::header::XLOADFLAGS, &[0, 0]), None, "quiet").unwrap();
    let EntryState::Protected(entry) = entry else { panic!("{entry:?}") };
    assert_eq!((u64::from(entry.eip), entry.ebx), (16 * MIB, 0));
    assert_eq!(machine.bytes(u64::from(entry.esi) + 0x202, 4), b"HdrS");
    assert_eq!(machine.dword(u64::from(entry.esi) + 0x214), 16 << 20);
    let code = machine.bytes(entry.segments.gdt_base + 0x10, 8);
    assert_eq!(u64::from_le_bytes(code.try_into().unwrap()), 0x00cf_9b00_0000_ffff);
}

#[test]
fn kernels_of_protocol_2_6_go_to_one_mib() {
    let mut old = with(bzimage::header::VERSION, &[6, 2]);
    old[bzimage::header::JUMP_LENGTH] = 0x3a;
    old[bzimage::header::PREF_ADDRESS..][..8].fill(0xff);
    let kernel = BzImage::parse("vmlinuz", &old).unwrap();
    assert_eq!((kernel.pref_address(), kernel.memory_size()), (MIB, 8 * 4096));
    let entry = Machine::new(64 * MIB).load(&old, None, "").unwrap();
    assert!(matches!(entry, EntryState::Protected(ProtectedEntry { eip: 0x10_0000, .. })), "{entry:?}");
}

#[test]
fn the_last_16_bytes_need_not_be_whole() {
    let image = image();
    assert_eq!(BzImage::parse("k", &image[..image.len() - 15]).unwrap().payload().len(), 4096 - 15);
    assert!(message(&image[..image.len() - 16]).contains("truncated"));
}

#[test]
fn everything_lands_where_the_zero_page_says() {
    let machine = Machine::new(64 * MIB);
    let initrd = [&b"070701"[..], &[5; 10_000]].concat();
    let entry = long(machine.load(&image(), Some(&initrd), "console=ttyS0"));

    assert_eq!(entry.rip, 16 * MIB + 0x200);
    assert_eq!(machine.bytes(16 * MIB, 4096), [0x90; 4096]);
    let zero = entry.rsi;
    assert_eq!(machine.bytes(zero + 0x202, 4), b"HdrS");
    assert_eq!(machine.bytes(zero + 0x210, 1), [0xff]);
    let command_line = machine.dword(zero + 0x228);
    assert_eq!(machine.bytes(command_line.into(), 14), b"console=ttyS0\0");
    let (address, size) = (machine.dword(zero + 0x218), machine.dword(zero + 0x21c));
    assert_eq!((address % 4096, size as usize), (0, initrd.len()));
    assert_eq!(machine.bytes(address.into(), initrd.len()), initrd);
    assert!(u64::from(address) + u64::from(size) <= 64 * MIB && u64::from(address) > 46 * MIB);
    assert_eq!(machine.dword(zero + 0x70), 0xe_0000);

    let seed = u64::from(machine.dword(zero + 0x250));
    assert_eq!(machine.bytes(seed, 16), [0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32, 0, 0, 0]);
    assert_eq!(machine.bytes(seed + 16, 32), [7; 32]);

    assert_eq!(machine.bytes(zero + 0x1e8, 1), [5]);
    assert_eq!(
        machine.bytes(zero + 0x2d0, 20),
        [&[0; 8][..], &[0, 0xfc, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0]].concat()
    );
    assert_eq!(machine.dword(zero + 0x1e0), 63 * 1024);

    let segments = entry.segments;
    assert_eq!((segments.code_selector, segments.data_selector, segments.gdt_limit), (0x10, 0x18, 31));
    let code = machine.bytes(segments.gdt_base + 0x10, 8);
    assert_eq!(u64::from_le_bytes(code.try_into().unwrap()), 0x00af_9b00_0000_ffff);
    assert_eq!(machine.dword(entry.cr3) & 0xfff, 3);
}

#[test]
fn too_little_memory_says_how_much_is_needed() {
    let error = Machine::new(45 * MIB).load(&image(), None, "").unwrap_err();
    assert_eq!(
        error.to_string(),
        "too little memory for kernel vmlinuz: it needs 46 MiB, give it at least that with --memory"
    );
    assert!(Machine::new(46 * MIB).load(&image(), None, "").is_ok());
}

#[test]
fn an_initrd_needs_its_own_room() {
    let machine = Machine::new(47 * MIB);
    let initrd = [&b"070701"[..], &vec![0; (20 * MIB) as usize]].concat();
    let error = machine.load(&image(), Some(&initrd), "").unwrap_err();
    assert!(error.to_string().contains("initial RAM disk initrd.img: it has 21 MiB"), "{error}");
    // Between 1 MiB and the kernel there is room for a smaller one.
    let entry = long(machine.load(&image(), Some(&initrd[..10 << 20]), ""));
    assert_eq!(u64::from(machine.dword(entry.rsi + 0x218)), 6 * MIB);
}

#[test]
fn initrd_above_4_gib_only_for_kernels_that_reach_there() {
    let machine = Machine::new(4096 * MIB);
    let initrd = b"070701 and more";
    let entry = long(machine.load(&image(), Some(initrd), ""));
    assert_eq!(machine.dword(entry.rsi + 0x218), 0x7fff_f000);
    assert_eq!(machine.dword(entry.rsi + 0xc0), 0);
    let entry = long(machine.load(&with(bzimage::header::XLOADFLAGS, &[3, 0]), Some(initrd), ""));
    assert_eq!((machine.dword(entry.rsi + 0x218), machine.dword(entry.rsi + 0xc0)), (0x3fff_f000, 1));
    assert_eq!(machine.bytes(0x1_3fff_f000, initrd.len()), initrd);
}

#[test]
fn command_lines_have_a_limit() {
    let machine = Machine::new(64 * MIB);
    assert!(machine.load(&image(), None, &"x".repeat(2047)).is_ok());
    let error = machine.load(&image(), None, &"x".repeat(2048)).unwrap_err();
    assert!(error.to_string().contains("has 2048 bytes, kernel vmlinuz takes at most 2047"), "{error}");
}

#[test]
fn absurd_addresses_are_refused() {
    let machine = Machine::new(64 * MIB);
    for address in [u64::MAX, 1 << 40, 0xffff_f000] {
        let error =
            machine.load(&with(bzimage::header::PREF_ADDRESS, &address.to_le_bytes()), None, "").unwrap_err();
        assert!(matches!(error, BootError::BadHeader { field: "pref_address", .. }), "{error}");
    }
    // Without a preference, a relocatable kernel goes to the lowest aligned place.
    let entry = long(machine.load(&with(bzimage::header::PREF_ADDRESS, &[0; 8]), None, ""));
    assert_eq!(entry.rip, 2 * MIB + 0x200);
}
