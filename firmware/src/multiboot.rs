//! The Multiboot Specification, version 0.6.96 ("multiboot 1"): ELF kernels and flat images that carry a header.

use vm_memory::{Bytes, GuestAddress, GuestMemory};

use crate::elf::{self, Elf, Segment};
use crate::entry::{self, EntryState, FlatSegments, ProtectedEntry};
use crate::error::BootError;
use crate::kernel::{Boot, place_segments};
use crate::low_memory::{CONVENTIONAL_END, EXTENDED_BASE};

/// The header lies in this much of the file.
const SEARCH_LENGTH: usize = 8192;
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// What the kernel finds in EAX.
const LOADER_MAGIC: u32 = 0x2bad_b002;
const FOUR_GIB: u64 = 1 << 32;

/// Flags of the header. Those of the lower half are demands.
mod wants {
    pub(super) const PAGE_ALIGNED_MODULES: u32 = 1 << 0;
    pub(super) const MEMORY: u32 = 1 << 1;
    pub(super) const VIDEO: u32 = 1 << 2;
    pub(super) const DEMANDS: u32 = 0xffff;
    pub(super) const ADDRESSES: u32 = 1 << 16;
}

/// The video mode that a header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoMode {
    /// Text instead of pixels.
    pub text: bool,
    /// Columns; 0 is any.
    pub width: u32,
    /// Rows; 0 is any.
    pub height: u32,
    /// Bits of a pixel; 0 is any.
    pub depth: u32,
}

/// A kernel with a multiboot header.
#[derive(Clone, Debug)]
pub struct MultibootKernel<'a> {
    file: &'a str,
    segments: Vec<Segment<'a>>,
    entry: u32,
    video: Option<VideoMode>,
}

/// The fields of a header, as they are.
#[derive(Clone, Copy)]
struct Header<'a> {
    /// Where in the file it is.
    offset: usize,
    image: &'a [u8],
}

impl<'a> Header<'a> {
    /// The first place that holds magic, flags, and a check sum that fits.
    fn find(image: &'a [u8]) -> Option<Self> {
        let searched = &image[..image.len().min(SEARCH_LENGTH)];
        let offsets = (0..searched.len()).step_by(4);
        offsets.map(|offset| Self { offset, image: searched }).find(|header| {
            const CHECKSUM: usize = 8;
            header.word(0) == Some(HEADER_MAGIC)
                && header.flags().zip(header.word(CHECKSUM)).is_some_and(|(flags, checksum)| {
                    HEADER_MAGIC.wrapping_add(flags).wrapping_add(checksum) == 0
                })
        })
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.image.get(self.offset + at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    }

    fn flags(&self) -> Option<u32> {
        self.word(4)
    }

    /// header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr.
    fn addresses(&self) -> Option<[u32; 5]> {
        let word = |index: usize| self.word(12 + 4 * index);
        Some([word(0)?, word(1)?, word(2)?, word(3)?, word(4)?])
    }

    fn video(&self) -> Option<VideoMode> {
        let word = |index: usize| self.word(32 + 4 * index);
        const TEXT: u32 = 1;
        Some(VideoMode { text: word(0)? == TEXT, width: word(1)?, height: word(2)?, depth: word(3)? })
    }
}

/// Whether a file has a multiboot header.
pub(crate) fn is_multiboot(image: &[u8]) -> bool {
    Header::find(image).is_some()
}

impl<'a> MultibootKernel<'a> {
    /// Reads an ELF file or a flat image with a header; `file` is its name for messages.
    pub fn parse(file: &'a str, image: &'a [u8]) -> Result<Self, BootError> {
        let damaged =
            |what: &str| BootError::DamagedMultiboot { file: file.to_owned(), what: what.to_owned() };
        let header = Header::find(image).ok_or_else(|| damaged("it has no multiboot header"))?;
        let flags = header.flags().unwrap_or_default();
        let known = wants::PAGE_ALIGNED_MODULES | wants::MEMORY | wants::VIDEO;
        let unknown = flags & wants::DEMANDS & !known;
        if unknown != 0 {
            return Err(BootError::MultibootDemands { file: file.to_owned(), flags: unknown });
        }
        let video = if flags & wants::VIDEO != 0 {
            Some(header.video().ok_or_else(|| damaged("its header ends before the video mode"))?)
        } else {
            None
        };
        let (segments, entry) = if flags & wants::ADDRESSES != 0 {
            let addresses =
                header.addresses().ok_or_else(|| damaged("its header ends before the addresses"))?;
            let segment = flat_segment(image, header.offset, addresses).map_err(&damaged)?;
            (vec![segment], u64::from(addresses[4]))
        } else if elf::is_elf(image) {
            let elf = Elf::parse(file, image)?;
            (elf.segments().to_vec(), elf.entry())
        } else {
            return Err(damaged("it is no ELF file, and its header tells no addresses"));
        };
        let inside = |segment: &Segment<'_>| {
            entry.checked_sub(segment.address).is_some_and(|offset| offset < segment.memory_size)
        };
        match u32::try_from(entry).ok().filter(|_| segments.iter().any(inside)) {
            Some(entry) => Ok(Self { file, segments, entry, video }),
            None => Err(BootError::EntryOutside { file: file.to_owned(), entry }),
        }
    }

    /// What goes to memory.
    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments
    }

    /// The physical address of the entry.
    pub fn entry(&self) -> u32 {
        self.entry
    }

    /// The video mode that the kernel asks for. It is a wish: without a display, the kernel is told of no mode.
    pub fn video(&self) -> Option<VideoMode> {
        self.video
    }
}

/// What the address fields of a header at `offset` say of a flat image.
fn flat_segment<'a>(
    image: &'a [u8],
    offset: usize,
    [header_addr, load_addr, load_end_addr, bss_end_addr, _]: [u32; 5],
) -> Result<Segment<'a>, &'static str> {
    let before_header =
        header_addr.checked_sub(load_addr).ok_or("its header lies before its load address")?;
    let start = offset.checked_sub(before_header as usize).ok_or("its load address lies before its start")?;
    let rest = image.get(start..).unwrap_or_default();
    // Zero means all of the file, and no memory beyond it.
    let bytes = match load_end_addr {
        0 => rest,
        end => {
            let length = end.checked_sub(load_addr).ok_or("its load end lies before its load address")?;
            rest.get(..length as usize).ok_or("it ends before its load end")?
        }
    };
    let file_end = u64::from(load_addr) + bytes.len() as u64;
    let end = match bss_end_addr {
        0 => file_end,
        end if u64::from(end) < file_end => return Err("its bss end lies before its load end"),
        end => end.into(),
    };
    Ok(Segment { address: load_addr.into(), memory_size: end - u64::from(load_addr), bytes })
}

/// Puts the kernel and what it boots with into guest RAM.
pub(crate) fn load<M>(kernel: &MultibootKernel<'_>, boot: &Boot<'_>, ram: &M) -> Result<EntryState, BootError>
where
    M: GuestMemory + ?Sized,
{
    const PAGE: u64 = 4096;
    let mut places = place_segments(kernel.file, &kernel.segments, boot.memory_map)?;
    // Right behind the kernel, as other boot loaders do it: small kernels map no more than the memory around them.
    let kernel_end = kernel.segments.iter().map(|segment| segment.address + segment.memory_size).max();
    let behind = kernel_end.unwrap_or(0).max(EXTENDED_BASE)..FOUR_GIB;
    let mut modules = Vec::new();
    for module in boot.modules {
        let size = module.bytes.len() as u64;
        let place = places.lowest(size, PAGE, &behind);
        let place = place.or_else(|| places.lowest(size, PAGE, &(EXTENDED_BASE..FOUR_GIB)));
        let place = place.ok_or_else(|| BootError::NoRoomForInitrd {
            file: module.file.to_owned(),
            size_mib: size.div_ceil(1 << 20),
        })?;
        modules.push((place, module));
    }
    // Kernels take the first word for their own name.
    let command_line = format!("{} {}", kernel.file, boot.command_line);
    let strings = [command_line.as_str(), "softmetal"];
    let strings: Vec<&str> =
        strings.into_iter().chain(boot.modules.iter().map(|module| module.command_line)).collect();
    let info =
        Info { boot, modules: &modules.iter().map(|(place, _)| place.clone()).collect::<Vec<_>>(), strings };

    const STACK_SIZE: u64 = 4096;
    let mut low = |size, align| {
        places.lowest(size, align, &(0..FOUR_GIB)).map(|range| range.start).ok_or_else(|| {
            BootError::TooLittleMemory { file: kernel.file.to_owned(), needed_mib: (size >> 20) + 2 }
        })
    };
    let (gdt, stack) = (low(entry::GDT_SIZE, 16)?, low(STACK_SIZE, 16)?);
    let block = low(info.bytes(0).len() as u64, 16)?;

    for segment in &kernel.segments {
        ram.write_slice(segment.bytes, GuestAddress(segment.address))?;
    }
    for (place, module) in &modules {
        ram.write_slice(module.bytes, GuestAddress(place.start))?;
    }
    ram.write_slice(&info.bytes(block as u32), GuestAddress(block))?;
    ram.write_slice(&entry::gdt_32(), GuestAddress(gdt))?;
    Ok(EntryState::Protected(ProtectedEntry {
        eip: kernel.entry,
        eax: LOADER_MAGIC,
        ebx: block as u32,
        esi: 0,
        esp: (stack + STACK_SIZE) as u32,
        segments: FlatSegments::at(gdt),
    }))
}

/// The multiboot information structure and what it points to, in one block.
struct Info<'a> {
    boot: &'a Boot<'a>,
    /// Where the modules are.
    modules: &'a [std::ops::Range<u64>],
    /// The command line, the boot loader's name, a string for each module.
    strings: Vec<&'a str>,
}

impl Info<'_> {
    /// The block for an address; its size is the same for all.
    fn bytes(&self, base: u32) -> Vec<u8> {
        const SIZE: u32 = 120;
        const MODULE_SIZE: u32 = 16;
        const MEMORY_MAP_ENTRY_SIZE: u32 = 24;
        const HAS_MEMORY: u32 = 1 << 0;
        const HAS_COMMAND_LINE: u32 = 1 << 2;
        const HAS_MODULES: u32 = 1 << 3;
        const HAS_MEMORY_MAP: u32 = 1 << 6;
        const HAS_LOADER_NAME: u32 = 1 << 9;

        let entries = self.boot.memory_map.entries();
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let memory_map_size = count(entries.len()).saturating_mul(MEMORY_MAP_ENTRY_SIZE);
        let module_list = base.saturating_add(SIZE);
        let memory_map = module_list.saturating_add(count(self.modules.len()).saturating_mul(MODULE_SIZE));
        let mut next_string = memory_map.saturating_add(memory_map_size);
        let strings: Vec<u32> = self
            .strings
            .iter()
            .map(|text| {
                let at = next_string;
                next_string = next_string.saturating_add(count(text.len() + 1));
                at
            })
            .collect();
        let string = |index: usize| strings.get(index).copied().unwrap_or_default();

        let kib = |bytes: u64| u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
        let upper = self.boot.memory_map.ram().find(|range| range.start == EXTENDED_BASE);
        let mut block = vec![0; SIZE as usize];
        let mut put = |at: usize, value: u32| block[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(0, HAS_MEMORY | HAS_COMMAND_LINE | HAS_MODULES | HAS_MEMORY_MAP | HAS_LOADER_NAME);
        put(4, kib(CONVENTIONAL_END));
        put(8, upper.map_or(0, |range| kib(range.end - range.start)));
        put(16, string(0));
        put(20, count(self.modules.len()));
        put(24, module_list);
        put(44, memory_map_size);
        put(48, memory_map);
        put(64, string(1));

        let words = |block: &mut Vec<u8>, words: &[u32]| {
            words.iter().for_each(|word| block.extend(word.to_le_bytes()));
        };
        for (index, place) in self.modules.iter().enumerate() {
            words(&mut block, &[place.start as u32, place.end as u32, string(2 + index), 0]);
        }
        for entry in entries {
            // The size does not count itself.
            words(&mut block, &[MEMORY_MAP_ENTRY_SIZE - 4]);
            block.extend(entry.range.start.to_le_bytes());
            block.extend((entry.range.end - entry.range.start).to_le_bytes());
            words(&mut block, &[entry.kind as u32]);
        }
        for text in &self.strings {
            block.extend(text.as_bytes());
            block.push(0);
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::elf32;
    use crate::kernel::tests::{Machine, module};

    fn header(flags: u32, rest: &[u32]) -> Vec<u8> {
        let checksum = 0u32.wrapping_sub(HEADER_MAGIC).wrapping_sub(flags);
        [HEADER_MAGIC, flags, checksum].iter().chain(rest).flat_map(|word| word.to_le_bytes()).collect()
    }

    /// A flat image: four bytes, the header, and 0x90 up to 64 bytes.
    fn flat(addresses: [u32; 5]) -> Vec<u8> {
        let mut image = [&[0xcc; 4][..], &header(wants::ADDRESSES | 3, &addresses)].concat();
        image.resize(64, 0x90);
        image
    }

    fn message(image: &[u8]) -> String {
        MultibootKernel::parse("k", image).unwrap_err().to_string()
    }

    #[test]
    fn flat_images_go_where_their_header_says() {
        let image = flat([0x10_0004, 0x10_0000, 0x10_0030, 0x10_1000, 0x10_0020]);
        let kernel = MultibootKernel::parse("k", &image).unwrap();
        let expected = Segment { address: 0x10_0000, memory_size: 0x1000, bytes: &image[..0x30] };
        assert_eq!((kernel.segments(), kernel.entry(), kernel.video()), (&[expected][..], 0x10_0020, None));
        // All of the file from the header on, no memory beyond it.
        let image = flat([0x10_0000, 0x10_0000, 0, 0, 0x10_0020]);
        let kernel = MultibootKernel::parse("k", &image).unwrap();
        assert_eq!(kernel.segments(), [Segment { address: 0x10_0000, memory_size: 60, bytes: &image[4..] }]);
    }

    #[test]
    fn flat_images_that_contradict_themselves_are_refused() {
        for (addresses, what) in [
            ([0x10_0000, 0x10_0004, 0, 0, 0x10_0010], "its header lies before its load address"),
            ([0x10_0008, 0x10_0000, 0, 0, 0x10_0010], "its load address lies before its start"),
            ([0x10_0004, 0x10_0000, 0xf_0000, 0, 0x10_0010], "its load end lies before"),
            ([0x10_0004, 0x10_0000, 0x10_1000, 0, 0x10_0010], "it ends before its load end"),
            ([0x10_0004, 0x10_0000, 0, 0x10_0010, 0x10_0010], "its bss end lies before"),
            ([0x10_0004, 0x10_0000, 0, 0, 0x20_0000], "the entry 0x200000 lies outside"),
        ] {
            let message = message(&flat(addresses));
            assert!(message.starts_with("kernel k ") && message.contains(what), "{what}: {message}");
        }
        assert!(message(&header(0x40, &[])).contains("0x40"));
        assert!(message(&header(0, &[])).contains("no ELF file"));
        assert!(message(&header(wants::ADDRESSES, &[0; 4])).contains("ends before the addresses"));
        assert!(message(&header(wants::VIDEO, &[0; 8])).contains("ends before the video mode"));
    }

    #[test]
    fn headers_are_found_where_the_specification_lets_them_be() {
        let at = |offset: usize| {
            let mut image = vec![0; offset];
            image.extend(header(3, &[]));
            image
        };
        assert!(is_multiboot(&at(0)) && is_multiboot(&at(8180)));
        assert!(!is_multiboot(&at(8184)) && !is_multiboot(&at(2)) && !is_multiboot(b""));
        let mut wrong = at(0);
        wrong[8] ^= 1;
        assert!(!is_multiboot(&wrong), "the check sum counts");
    }

    #[test]
    fn a_video_mode_is_read() {
        let image = header(
            wants::ADDRESSES | wants::VIDEO,
            &[0x10_0000, 0x10_0000, 0, 0, 0x10_0000, 0, 640, 480, 32],
        );
        let video = MultibootKernel::parse("k", &image).unwrap().video();
        assert_eq!(video, Some(VideoMode { text: false, width: 640, height: 480, depth: 32 }));
    }

    #[test]
    fn the_information_names_everything() {
        let machine = Machine::new(64 << 20);
        let image = elf32(0x10_0010, 0x10_0000, 0x5678, &[header(3, &[]), vec![0x90; 100]].concat());
        let (first, second) = (vec![1; 5000], vec![2; 10]);
        let modules = [module("a", "a x=1", &first), module("b", "b", &second)];
        let entry = machine.load("kernel.elf", &image, &modules, "com1=115200").unwrap();
        let EntryState::Protected(entry) = entry else { panic!("{entry:?}") };
        assert_eq!((entry.eip, entry.eax), (0x10_0010, 0x2bad_b002));

        let info = u64::from(entry.ebx);
        let word = |at| machine.dword(info + at);
        assert_eq!((word(0), word(4), word(8)), (0x24d, 639, 63 * 1024));
        assert_eq!(machine.string(word(16).into()), "kernel.elf com1=115200");
        assert_eq!(machine.string(word(64).into()), "softmetal");
        assert_eq!(word(20), 2);
        let list = u64::from(word(24));
        for (at, (bytes, text)) in [(list, (&first, "a x=1")), (list + 16, (&second, "b"))] {
            let (start, end) = (machine.dword(at), machine.dword(at + 4));
            assert_eq!((start % 4096, (end - start) as usize), (0, bytes.len()));
            assert_eq!(machine.bytes(start.into(), bytes.len()), *bytes);
            assert_eq!(machine.string(machine.dword(at + 8).into()), text);
        }
        assert_eq!(machine.dword(list), 0x10_6000, "right behind the kernel");
        let (size, map) = (word(44), u64::from(word(48)));
        let entries = machine.map.entries();
        assert_eq!(size as usize, 24 * entries.len());
        for (at, expected) in (0..).map(|n| map + 24 * n).zip(entries) {
            assert_eq!((machine.dword(at), machine.qword(at + 4)), (20, expected.range.start));
            assert_eq!(machine.qword(at + 12), expected.range.end - expected.range.start);
            assert_eq!(machine.dword(at + 20), expected.kind as u32);
        }
    }

    #[test]
    fn modules_need_room() {
        let machine = Machine::new(4 << 20);
        let image = flat([0x10_0004, 0x10_0000, 0, 0, 0x10_0020]);
        let large = vec![1; 3 << 20];
        let error = machine.load("k", &image, &[module("big", "big", &large)], "").unwrap_err();
        assert!(error.to_string().contains("big: it has 3 MiB"), "{error}");
    }
}
