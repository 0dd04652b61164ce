//! SMBIOS 3 tables: what the machine is called, its processors and memory modules (DMTF DSP0134).

use crate::{Layout, low_memory};

/// What the tables tell the guest.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of processors, each a socket of its own.
    pub cpus: u32,
    /// Amount of RAM.
    pub ram_bytes: u64,
    /// The processors' brand string.
    pub cpu_name: String,
    /// CPUID leaf 1: EAX in the low half, EDX in the high half.
    pub cpu_id: u64,
    /// The machine's UUID in the order of its text form.
    pub uuid: [u8; 16],
    /// softmetal's version.
    pub version: String,
}

/// Tables ready to be copied into guest RAM.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Where [`Tables::bytes`] go, also the address of the entry point.
    pub base: u64,
    /// The entry point and the structures.
    pub bytes: Vec<u8>,
}

/// Structure types.
mod kind {
    pub(super) const BIOS: u8 = 0;
    pub(super) const SYSTEM: u8 = 1;
    pub(super) const CHASSIS: u8 = 3;
    pub(super) const PROCESSOR: u8 = 4;
    pub(super) const MEMORY_ARRAY: u8 = 16;
    pub(super) const MEMORY_DEVICE: u8 = 17;
    pub(super) const ARRAY_MAPPED_ADDRESS: u8 = 19;
    pub(super) const BOOT_INFORMATION: u8 = 32;
    pub(super) const END: u8 = 127;
}

const MANUFACTURER: &str = "softmetal";
/// In enumerations of SMBIOS 1 means "other".
const OTHER: u8 = 1;
const STATE_SAFE: u8 = 3;
const NONE: u8 = 3;
const NO_HANDLE: u16 = 0xffff;
const NO_ERROR_INFORMATION: u16 = 0xfffe;
const MEMORY_ARRAY_HANDLE: u16 = 0x1000;
const ENTRY_POINT_LENGTH: usize = 24;
/// Processors beyond this number are left out, so that the tables fit into their area.
const MAX_PROCESSORS: u32 = 255;

/// The tables of a PC.
pub fn build(config: &Config, layout: &Layout) -> Tables {
    let mut structures = Structures::default();
    bios(&mut structures, config);
    system(&mut structures, config);
    chassis(&mut structures);
    for socket in 0..config.cpus.min(MAX_PROCESSORS) {
        processor(&mut structures, config, socket);
    }
    memory(&mut structures, config, layout);
    structures.add(kind::BOOT_INFORMATION, |s| {
        const NO_ERRORS_DETECTED: u8 = 0;
        s.bytes(&[0; 6]).byte(NO_ERRORS_DETECTED)
    });
    structures.add(kind::END, |s| s);

    let area = low_memory::SMBIOS_AREA;
    let table = area.start + ENTRY_POINT_LENGTH.next_multiple_of(16) as u64;
    let mut bytes = entry_point(table, structures.bytes.len() as u32).to_vec();
    bytes.resize((table - area.start) as usize, 0);
    bytes.extend(structures.bytes);
    assert!(bytes.len() as u64 <= area.end - area.start, "MAX_PROCESSORS keeps the tables within their area");
    Tables { base: area.start, bytes }
}

/// The 64-bit (3.0) entry point.
fn entry_point(table: u64, table_length: u32) -> [u8; ENTRY_POINT_LENGTH] {
    let mut entry = [0; ENTRY_POINT_LENGTH];
    entry[..5].copy_from_slice(b"_SM3_");
    entry[6] = ENTRY_POINT_LENGTH as u8;
    const VERSION: [u8; 3] = [3, 2, 0];
    entry[7..10].copy_from_slice(&VERSION);
    const REVISION: u8 = 1;
    entry[10] = REVISION;
    entry[12..16].copy_from_slice(&table_length.to_le_bytes());
    entry[16..24].copy_from_slice(&table.to_le_bytes());
    entry[5] = entry.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    entry
}

fn bios(structures: &mut Structures, config: &Config) {
    const PCI_SUPPORTED: u64 = 1 << 7;
    const SELECTABLE_BOOT: u64 = 1 << 16;
    const ACPI_SUPPORTED: u8 = 1 << 0;
    const VIRTUAL_MACHINE: u8 = 1 << 4;
    const NOT_APPLICABLE: u8 = 0xff;
    structures.add(kind::BIOS, |s| {
        s.text(MANUFACTURER)
            .text(&config.version)
            .word((low_memory::ACPI_AREA.start >> 4) as u16)
            .text("01/01/2026")
            .byte(((low_memory::SMBIOS_AREA.end - low_memory::ACPI_AREA.start) / 0x1_0000 - 1) as u8)
            .qword(PCI_SUPPORTED | SELECTABLE_BOOT)
            .bytes(&[ACPI_SUPPORTED, VIRTUAL_MACHINE])
            .bytes(&[0, 0]) // release
            .bytes(&[NOT_APPLICABLE; 2]) // embedded controller release
            .word(0) // extended ROM size
    });
}

fn system(structures: &mut Structures, config: &Config) {
    const WAKE_UP_POWER_SWITCH: u8 = 6;
    // The first three fields of a UUID are little-endian here.
    let [a, b, c, d, e, f, g, h, rest @ ..] = config.uuid;
    structures.add(kind::SYSTEM, |s| {
        s.text(MANUFACTURER)
            .text("softmetal PC")
            .text(&config.version)
            .text("") // serial number
            .bytes(&[d, c, b, a, f, e, h, g])
            .bytes(&rest)
            .byte(WAKE_UP_POWER_SWITCH)
            .text("") // SKU
            .text("") // family
    });
}

fn chassis(structures: &mut Structures) {
    structures.add(kind::CHASSIS, |s| {
        s.text(MANUFACTURER)
            .byte(OTHER)
            .text("") // version
            .text("") // serial number
            .text("") // asset tag
            .bytes(&[STATE_SAFE; 3]) // boot-up, power supply, thermal
            .byte(NONE) // security
            .bytes(&[0; 4]) // OEM-defined
            .bytes(&[0; 2]) // height, power cords: unspecified
            .bytes(&[0; 2]) // contained elements
            .text("") // SKU
    });
}

fn processor(structures: &mut Structures, config: &Config, socket: u32) {
    const CENTRAL_PROCESSOR: u8 = 3;
    const POPULATED_ENABLED: u8 = 0x41;
    const CAPABLE_64_BIT: u16 = 1 << 2;
    structures.add(kind::PROCESSOR, |s| {
        s.text(&format!("CPU {socket}"))
            .byte(CENTRAL_PROCESSOR)
            .byte(OTHER) // family, see family 2
            .text(MANUFACTURER)
            .qword(config.cpu_id)
            .text(&config.cpu_name)
            .byte(0) // voltage
            .word(0) // external clock
            .word(0) // maximum speed: unknown
            .word(0) // current speed: unknown
            .byte(POPULATED_ENABLED)
            .byte(OTHER) // socket
            .word(NO_HANDLE) // L1 cache
            .word(NO_HANDLE) // L2 cache
            .word(NO_HANDLE) // L3 cache
            .text("") // serial number
            .text("") // asset tag
            .text("") // part number
            .bytes(&[1, 1, 1]) // cores, enabled cores, threads
            .word(CAPABLE_64_BIT)
            .word(u16::from(OTHER)) // family 2
            .bytes(&[1, 0, 1, 0, 1, 0]) // cores, enabled cores, threads as words
    });
}

fn memory(structures: &mut Structures, config: &Config, layout: &Layout) {
    const SYSTEM_BOARD: u8 = 3;
    const SYSTEM_MEMORY: u8 = 3;
    const EXTENDED_CAPACITY: u32 = 0x8000_0000;
    structures.add_as(MEMORY_ARRAY_HANDLE, kind::MEMORY_ARRAY, |s| {
        s.bytes(&[SYSTEM_BOARD, SYSTEM_MEMORY, NONE])
            .dword(EXTENDED_CAPACITY)
            .word(NO_ERROR_INFORMATION)
            .word(1) // memory devices
            .qword(config.ram_bytes)
    });
    structures.add(kind::MEMORY_DEVICE, |s| {
        const EXTENDED_SIZE: u16 = 0x7fff;
        const FORM_DIMM: u8 = 9;
        const TYPE_RAM: u8 = 7;
        const DETAIL_OTHER: u16 = 1 << 1;
        const TECHNOLOGY_DRAM: u8 = 3;
        const MODE_VOLATILE: u16 = 1 << 3;
        let mebibytes = config.ram_bytes >> 20;
        let size = u16::try_from(mebibytes).ok().filter(|size| *size < EXTENDED_SIZE);
        s.word(MEMORY_ARRAY_HANDLE)
            .word(NO_ERROR_INFORMATION)
            .bytes(&[0xff; 4]) // total and data width: unknown
            .word(size.unwrap_or(EXTENDED_SIZE))
            .byte(FORM_DIMM)
            .byte(0) // device set
            .text("DIMM 0")
            .text("") // bank
            .byte(TYPE_RAM)
            .word(DETAIL_OTHER)
            .word(0) // speed: unknown
            .text(MANUFACTURER)
            .text("") // serial number
            .text("") // asset tag
            .text("") // part number
            .byte(0) // rank: unknown
            .dword(if size.is_some() { 0 } else { mebibytes as u32 & 0x7fff_ffff })
            .word(0) // configured speed: unknown
            .bytes(&[0; 6]) // voltages: unknown
            .byte(TECHNOLOGY_DRAM)
            .word(MODE_VOLATILE)
            .text("") // firmware version
            .bytes(&[0; 8]) // manufacturer and product IDs
            .qword(0) // non-volatile size
            .qword(config.ram_bytes) // volatile size
            .qword(0) // cache size
            .qword(0) // logical size
    });
    for range in [layout.low_ram(config.ram_bytes), layout.high_ram(config.ram_bytes)] {
        if range.is_empty() {
            continue;
        }
        structures.add(kind::ARRAY_MAPPED_ADDRESS, |s| {
            const EXTENDED_ADDRESS: u32 = u32::MAX;
            let (first, last) = (range.start, range.end - 1);
            s.dword(EXTENDED_ADDRESS)
                .dword(EXTENDED_ADDRESS)
                .word(MEMORY_ARRAY_HANDLE)
                .byte(1) // partition width
                .qword(first)
                .qword(last)
        });
    }
}

/// The structure table while it grows.
#[derive(Default)]
struct Structures {
    bytes: Vec<u8>,
    count: u16,
}

impl Structures {
    fn add(&mut self, kind: u8, fill: impl FnOnce(Structure) -> Structure) {
        let handle = self.count;
        self.add_as(handle, kind, fill);
    }

    fn add_as(&mut self, handle: u16, kind: u8, fill: impl FnOnce(Structure) -> Structure) {
        const HEADER: usize = 4;
        let Structure { formatted, strings } = fill(Structure::default());
        self.bytes.extend([kind, (HEADER + formatted.len()) as u8]);
        self.bytes.extend(handle.to_le_bytes());
        self.bytes.extend(formatted);
        for string in &strings {
            self.bytes.extend(string.bytes().filter(|byte| *byte != 0));
            self.bytes.push(0);
        }
        if strings.is_empty() {
            self.bytes.push(0);
        }
        self.bytes.push(0);
        self.count += 1;
    }
}

/// One structure's formatted part and its strings.
#[derive(Default)]
struct Structure {
    formatted: Vec<u8>,
    strings: Vec<String>,
}

impl Structure {
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.formatted.extend(bytes);
        self
    }

    fn byte(self, value: u8) -> Self {
        self.bytes(&[value])
    }

    fn word(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn dword(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn qword(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// The number of a string; an empty one has no number.
    fn text(mut self, text: &str) -> Self {
        if text.is_empty() {
            return self.byte(0);
        }
        const LONGEST: usize = 64;
        self.strings.push(text.chars().take(LONGEST).collect());
        let number = self.strings.len() as u8;
        self.byte(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            cpus: 2,
            ram_bytes: 4 << 30,
            cpu_name: "softmetal v2".into(),
            cpu_id: 0x1234,
            uuid: *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff",
            version: "0.1.0".into(),
        }
    }

    /// Type, handle, formatted part and strings of each structure.
    fn walk(tables: &Tables) -> Vec<(u8, u16, Vec<u8>, Vec<String>)> {
        let length = u32::from_le_bytes(tables.bytes[12..16].try_into().unwrap()) as usize;
        let start = (u64::from_le_bytes(tables.bytes[16..24].try_into().unwrap()) - tables.base) as usize;
        let mut rest = &tables.bytes[start..start + length];
        let mut found = Vec::new();
        while let [kind, size, low, high, ..] = *rest {
            let (formatted, tail) = rest.split_at(usize::from(size));
            let end = tail.windows(2).position(|pair| pair == [0, 0]).unwrap();
            let strings = tail[..end].split(|byte| *byte == 0).filter(|s| !s.is_empty());
            let strings = strings.map(|s| String::from_utf8(s.to_vec()).unwrap()).collect();
            found.push((kind, u16::from_le_bytes([low, high]), formatted.to_vec(), strings));
            rest = &tail[end + 2..];
        }
        found
    }

    #[test]
    fn entry_point_sums_to_zero_and_structures_have_the_specified_lengths() {
        let tables = build(&config(), &Layout::example());
        assert_eq!(&tables.bytes[..5], b"_SM3_");
        assert_eq!(tables.bytes[..24].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        let lengths: Vec<_> =
            walk(&tables).iter().map(|(kind, _, formatted, _)| (*kind, formatted.len())).collect();
        let expected = [
            (0, 0x1a),
            (1, 0x1b),
            (3, 0x16),
            (4, 0x30),
            (4, 0x30),
            (16, 0x17),
            (17, 0x54),
            (19, 0x1f),
            (19, 0x1f),
            (32, 0x0b),
            (127, 4),
        ];
        assert_eq!(lengths, expected);
    }

    #[test]
    fn handles_are_unique() {
        let structures = walk(&build(&config(), &Layout::example()));
        let handles: std::collections::HashSet<_> = structures.iter().map(|structure| structure.1).collect();
        assert_eq!(handles.len(), structures.len());
    }

    #[test]
    fn names_uuid_and_memory_arrive() {
        let structures = walk(&build(&config(), &Layout::example()));
        let (_, _, system, strings) = &structures[1];
        assert_eq!(strings, &["softmetal", "softmetal PC", "0.1.0"]);
        assert_eq!(system[8..16], [0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66]);
        assert_eq!(structures[3].3, ["CPU 0", "softmetal", "softmetal v2"]);
        let (_, _, module, _) = &structures[6];
        assert_eq!(u16::from_le_bytes([module[0x0c], module[0x0d]]), 4096);
        let (_, _, mapped, _) = &structures[8];
        assert_eq!(u64::from_le_bytes(mapped[0x17..0x1f].try_into().unwrap()), 0x1_3fff_ffff);
    }

    #[test]
    fn large_memory_uses_the_extended_size() {
        let structures = walk(&build(&Config { ram_bytes: 64 << 30, ..config() }, &Layout::example()));
        let (_, _, module, _) = &structures[6];
        assert_eq!(u16::from_le_bytes([module[0x0c], module[0x0d]]), 0x7fff);
        assert_eq!(u32::from_le_bytes(module[0x1c..0x20].try_into().unwrap()), 65536);
    }
}
