//! ELF files as kernels: the segments to load, the entry, the notes.

use object::LittleEndian;
use object::elf::{EM_386, EM_X86_64, FileHeader32, FileHeader64, PF_X, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::error::BootError;

/// A part of the file that goes to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Physical address.
    pub address: u64,
    /// Bytes of memory; beyond those of the file they are zero.
    pub memory_size: u64,
    /// The bytes of the file.
    pub bytes: &'a [u8],
}

/// An ELF file for x86 whose headers hold together.
#[derive(Clone, Debug)]
pub struct Elf<'a> {
    segments: Vec<Segment<'a>>,
    entry: u64,
    pvh_entry: Option<u64>,
}

/// Whether a file says that it is ELF.
pub(crate) fn is_elf(image: &[u8]) -> bool {
    image.starts_with(b"\x7fELF")
}

impl<'a> Elf<'a> {
    /// Reads a file of either class; `file` is its name for messages.
    pub fn parse(file: &str, image: &'a [u8]) -> Result<Self, BootError> {
        const CLASS: usize = 4;
        const CLASS_32: u8 = 1;
        match image.get(CLASS) {
            Some(&CLASS_32) => parse_class::<FileHeader32<LittleEndian>>(file, image),
            _ => parse_class::<FileHeader64<LittleEndian>>(file, image),
        }
    }

    /// What goes to memory, in the order of the file.
    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments
    }

    /// The physical address of the entry.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// The physical address of the 32-bit entry that a note of Xen's tells (XEN_ELFNOTE_PHYS32_ENTRY).
    pub fn pvh_entry(&self) -> Option<u64> {
        self.pvh_entry
    }
}

fn parse_class<'a, H>(file: &str, image: &'a [u8]) -> Result<Elf<'a>, BootError>
where
    H: FileHeader<Endian = LittleEndian>,
{
    let damaged = |what: String| BootError::DamagedElf { file: file.to_owned(), what };
    let header = H::parse(image).map_err(|_| damaged("it has no whole little-endian header".into()))?;
    let endian = header.endian().map_err(|_| damaged("it is not little-endian".into()))?;
    if ![EM_386, EM_X86_64].contains(&header.e_machine(endian)) {
        return Err(damaged("it is not for x86".into()));
    }
    let program_headers = header
        .program_headers(endian, image)
        .map_err(|_| damaged("its program headers lie outside of the file".into()))?;

    let mut elf = Elf { segments: Vec::new(), entry: header.e_entry(endian).into(), pvh_entry: None };
    let virtual_entry = elf.entry;
    for (index, segment) in program_headers.iter().enumerate() {
        let kind = segment.p_type(endian);
        if kind == PT_NOTE && elf.pvh_entry.is_none() {
            // A note that cannot be read is one that is not for us.
            elf.pvh_entry = pvh_note::<H>(segment, endian, image);
        }
        let memory_size: u64 = segment.p_memsz(endian).into();
        if kind != PT_LOAD || memory_size == 0 {
            continue;
        }
        let bytes = segment
            .data(endian, image)
            .map_err(|()| damaged(format!("segment {index} lies outside of the file")))?;
        if bytes.len() as u64 > memory_size {
            return Err(damaged(format!("segment {index} is larger in the file than in memory")));
        }
        let (address, from): (u64, u64) = (segment.p_paddr(endian).into(), segment.p_vaddr(endian).into());
        address
            .checked_add(memory_size)
            .ok_or_else(|| damaged(format!("segment {index} goes beyond the last address")))?;
        // Some kernels tell the entry as a virtual address. Code is where it counts, not data at the same numbers.
        let is_code = segment.p_flags(endian).contains(PF_X);
        if let Some(offset) = virtual_entry.checked_sub(from)
            && offset < memory_size
            && is_code
        {
            elf.entry = address + offset;
        }
        elf.segments.push(Segment { address, memory_size, bytes });
    }
    if elf.segments.is_empty() {
        return Err(damaged("it has nothing to load".into()));
    }
    Ok(elf)
}

/// The entry that a segment of notes tells.
fn pvh_note<H>(segment: &H::ProgramHeader, endian: LittleEndian, image: &[u8]) -> Option<u64>
where
    H: FileHeader<Endian = LittleEndian>,
{
    const PHYS32_ENTRY: u32 = 18;
    let mut notes = segment.notes(endian, image).ok()??;
    while let Ok(Some(note)) = notes.next() {
        if note.name() == b"Xen" && note.n_type(endian).0 == PHYS32_ENTRY {
            let desc = note.desc();
            let short = || Some(u64::from(u32::from_le_bytes(*desc.first_chunk()?)));
            return desc.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).or_else(short);
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Pieces of an ELF file made here.
    pub(crate) struct Program<'a> {
        pub(crate) kind: u32,
        pub(crate) flags: u32,
        pub(crate) virtual_address: u64,
        pub(crate) address: u64,
        pub(crate) memory_size: u64,
        pub(crate) bytes: &'a [u8],
    }

    pub(crate) const LOAD: u32 = 1;
    pub(crate) const NOTE: u32 = 4;

    /// An ELF64 file for x86-64 with these parts one after the other.
    pub(crate) fn elf64(entry: u64, programs: &[Program<'_>]) -> Vec<u8> {
        let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
        for value in [entry, 64, 0] {
            image.extend(value.to_le_bytes());
        }
        image.extend([0; 4]);
        for half in [64u16, 56, programs.len() as u16, 64, 0, 0] {
            image.extend(half.to_le_bytes());
        }
        let mut offset = 64 + 56 * programs.len() as u64;
        for program in programs {
            image.extend(program.kind.to_le_bytes());
            image.extend(program.flags.to_le_bytes());
            let size = program.bytes.len() as u64;
            for value in [offset, program.virtual_address, program.address, size, program.memory_size, 4] {
                image.extend(value.to_le_bytes());
            }
            offset += size;
        }
        programs.iter().for_each(|program| image.extend(program.bytes));
        image
    }

    /// An ELF32 file for 80386 with one segment at `address`.
    pub(crate) fn elf32(entry: u32, address: u32, memory_size: u32, bytes: &[u8]) -> Vec<u8> {
        let mut image = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0".to_vec();
        for word in [entry, 52, 0, 0] {
            image.extend(word.to_le_bytes());
        }
        for half in [52u16, 32, 1, 40, 0, 0] {
            image.extend(half.to_le_bytes());
        }
        for word in [LOAD, 84, address, address, bytes.len() as u32, memory_size, 7, 4] {
            image.extend(word.to_le_bytes());
        }
        image.extend(bytes);
        image
    }

    pub(crate) fn code(address: u64, memory_size: u64, bytes: &[u8]) -> Program<'_> {
        let virtual_address = address | 0xffff_ffff_8000_0000;
        Program { kind: LOAD, flags: 5, virtual_address, address, memory_size, bytes }
    }

    /// A note segment: another vendor's note first, then Xen's with an entry of this many bytes.
    pub(crate) fn pvh_notes(entry: &[u8]) -> Vec<u8> {
        let mut notes = Vec::new();
        for (name, kind, desc) in [(b"GNU\0", 18u32, &[9u8; 4][..]), (b"Xen\0", 18, entry)] {
            for word in [4, desc.len() as u32, kind] {
                notes.extend(word.to_le_bytes());
            }
            notes.extend(name);
            notes.extend(desc);
        }
        notes
    }

    pub(crate) fn note(bytes: &[u8]) -> Program<'_> {
        let memory_size = bytes.len() as u64;
        Program { kind: NOTE, flags: 4, virtual_address: 0, address: 0, memory_size, bytes }
    }

    #[test]
    fn segments_go_to_physical_addresses() {
        let image = elf64(0xffff_ffff_8010_0004, &[code(0x10_0000, 0x20, &[0x90; 16])]);
        let elf = Elf::parse("k", &image).unwrap();
        assert_eq!(elf.segments(), [Segment { address: 0x10_0000, memory_size: 0x20, bytes: &[0x90; 16] }]);
        assert_eq!((elf.entry(), elf.pvh_entry()), (0x10_0004, None));

        let image = elf32(0x10_0008, 0x10_0000, 16, &[0x90; 16]);
        let elf = Elf::parse("k", &image).unwrap();
        assert_eq!((elf.entry(), elf.segments().len()), (0x10_0008, 1));
    }

    #[test]
    fn the_note_tells_the_entry_in_either_width() {
        for entry in [&0x10_0008u32.to_le_bytes()[..], &0x10_0008u64.to_le_bytes()] {
            let notes = pvh_notes(entry);
            let image = elf64(0, &[code(0x10_0000, 16, &[0x90; 16]), note(&notes)]);
            assert_eq!(Elf::parse("k", &image).unwrap().pvh_entry(), Some(0x10_0008));
        }
        let notes = pvh_notes(&[1, 2]);
        let image = elf64(0, &[code(0x10_0000, 16, &[0x90; 16]), note(&notes)]);
        assert_eq!(Elf::parse("k", &image).unwrap().pvh_entry(), None);
    }

    #[test]
    fn damage_is_named() {
        let message = |image: &[u8]| Elf::parse("k", image).unwrap_err().to_string();
        let whole = elf64(0, &[code(0x10_0000, 16, &[0x90; 16])]);
        for length in 0..whole.len() {
            assert!(message(&whole[..length]).starts_with("kernel k is a damaged ELF file: "), "{length}");
        }
        assert!(message(&whole[..whole.len() - 1]).contains("segment 0 lies outside of the file"));
        assert!(message(&elf64(0, &[code(0, 8, &[0; 16])])).contains("larger in the file than in memory"));
        assert!(message(&elf64(0, &[code(u64::MAX - 8, 16, &[0; 16])])).contains("beyond the last address"));
        assert!(message(&elf64(0, &[])).contains("nothing to load"));
        let mut arm = whole;
        arm[18] = 183;
        assert!(message(&arm).contains("not for x86"));
    }
}
