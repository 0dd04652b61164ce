//! Kernels of every kind that can be booted without firmware: which kind a file is, and the way into it.

use vm_memory::GuestMemory;

use crate::elf::{self, Segment};
use crate::entry::EntryState;
use crate::error::BootError;
use crate::linux::{self, BzImage, Initrd};
use crate::memory_map::MemoryMap;
use crate::multiboot::{self, MultibootKernel};
use crate::places::Places;
use crate::pvh::{self, PvhKernel};
use crate::recognise;

/// A kernel, recognised from its file.
#[derive(Clone, Debug)]
pub enum Kernel<'a> {
    /// A Linux bzImage.
    Linux(BzImage<'a>),
    /// An ELF file with a PVH entry.
    Pvh(PvhKernel<'a>),
    /// An ELF file or flat image with a multiboot header.
    Multiboot(MultibootKernel<'a>),
}

impl<'a> Kernel<'a> {
    /// Reads a kernel; `file` is its name for messages. A file with headers of several kinds is taken as the first of
    /// bzImage, multiboot, PVH.
    pub fn parse(file: &'a str, image: &'a [u8]) -> Result<Self, BootError> {
        if recognise::is_x86_linux(image) {
            BzImage::parse(file, image).map(Self::Linux)
        } else if multiboot::is_multiboot(image) {
            MultibootKernel::parse(file, image).map(Self::Multiboot)
        } else if elf::is_elf(image) {
            PvhKernel::parse(file, image).map(Self::Pvh)
        } else if image.is_empty() {
            Err(BootError::EmptyKernel { file: file.to_owned() })
        } else {
            Err(recognise::instead_of_kernel(file, image))
        }
    }

    /// Whether the kernel takes several modules with arguments, not one initial RAM disk.
    pub fn takes_modules(&self) -> bool {
        !matches!(self, Self::Linux(_))
    }
}

/// A file that a kernel finds in memory: an initial RAM disk, or what the kernel says it is.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    /// The file's name for messages.
    pub file: &'a str,
    /// The file's name and its arguments, as kernels with modules find them.
    pub command_line: &'a str,
    /// The file's bytes.
    pub bytes: &'a [u8],
}

/// What a kernel boots with.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The modules; for Linux the initial RAM disk.
    pub modules: &'a [Module<'a>],
    /// The command line.
    pub command_line: &'a str,
    /// What firmware tells of memory.
    pub memory_map: &'a MemoryMap,
    /// Address of the ACPI RSDP.
    pub rsdp: u64,
    /// Randomness for Linux's generator, credited where the kernel trusts its boot loader.
    pub rng_seed: Option<[u8; 32]>,
}

/// Puts a kernel and what it boots with into guest RAM, which is all zeros but for firmware's tables.
pub fn load<M>(kernel: &Kernel<'_>, boot: &Boot<'_>, ram: &M) -> Result<EntryState, BootError>
where
    M: GuestMemory + ?Sized,
{
    let strings = std::iter::once(boot.command_line).chain(boot.modules.iter().map(|m| m.command_line));
    if strings.into_iter().any(|text| text.contains('\0')) {
        return Err(BootError::NulInCommandLine);
    }
    match kernel {
        Kernel::Pvh(kernel) => pvh::load(kernel, boot, ram),
        Kernel::Multiboot(kernel) => multiboot::load(kernel, boot, ram),
        Kernel::Linux(kernel) => {
            let initrd = match boot.modules {
                [] => None,
                [module] => Some(Initrd::parse(module.file, module.bytes)?),
                _ => return Err(BootError::SeveralInitrds { file: kernel.file().to_owned() }),
            };
            let boot = linux::Boot {
                kernel,
                initrd: initrd.as_ref(),
                command_line: boot.command_line,
                memory_map: boot.memory_map,
                rsdp: boot.rsdp,
                rng_seed: boot.rng_seed,
            };
            linux::load(&boot, ram)
        }
    }
}

/// Sees that all segments of a kernel go to RAM. The answer is the RAM that is left.
pub(crate) fn place_segments(
    file: &str,
    segments: &[Segment<'_>],
    memory_map: &MemoryMap,
) -> Result<Places, BootError> {
    let mut places = Places::new(memory_map);
    let ram_end = memory_map.ram().last().map_or(0, |ram| ram.end);
    for segment in segments {
        let end = segment.address.saturating_add(segment.memory_size);
        let range = segment.address..end;
        // Above all RAM the user can help; elsewhere there is never any.
        const FOUR_GIB: u64 = 1 << 32;
        if end > ram_end && range.start >= crate::low_memory::EXTENDED_BASE && end <= FOUR_GIB {
            return Err(BootError::TooLittleMemory {
                file: file.to_owned(),
                needed_mib: end.div_ceil(1 << 20),
            });
        }
        if !memory_map.is_ram(&range) || range.start < crate::places::FIRST_FREE {
            return Err(BootError::NoRamThere { file: file.to_owned(), first: range.start, last: end - 1 });
        }
        places.take(&range);
    }
    Ok(places)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Layout;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    pub(crate) fn module<'a>(file: &'a str, command_line: &'a str, bytes: &'a [u8]) -> Module<'a> {
        Module { file, command_line, bytes }
    }

    /// RAM with the map of a PC.
    pub(crate) struct Machine {
        ram: GuestMemoryMmap<()>,
        pub(crate) map: MemoryMap,
    }

    impl Machine {
        pub(crate) fn new(ram_bytes: u64) -> Self {
            let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), ram_bytes as usize)]).unwrap();
            Self { ram, map: MemoryMap::pc(ram_bytes, &Layout::example()) }
        }

        pub(crate) fn load(
            &self,
            file: &str,
            image: &[u8],
            modules: &[Module<'_>],
            command_line: &str,
        ) -> Result<EntryState, BootError> {
            let kernel = Kernel::parse(file, image)?;
            let boot = Boot { modules, command_line, memory_map: &self.map, rsdp: 0xe_0000, rng_seed: None };
            load(&kernel, &boot, &self.ram)
        }

        pub(crate) fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
            let mut bytes = vec![0; length];
            self.ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            bytes
        }

        pub(crate) fn dword(&self, at: u64) -> u32 {
            self.ram.read_obj(GuestAddress(at)).unwrap()
        }

        pub(crate) fn qword(&self, at: u64) -> u64 {
            self.ram.read_obj(GuestAddress(at)).unwrap()
        }

        pub(crate) fn string(&self, at: u64) -> String {
            let bytes = (at..).map(|at| self.bytes(at, 1)[0]).take_while(|byte| *byte != 0);
            String::from_utf8(bytes.collect()).unwrap()
        }
    }

    #[test]
    fn other_files_are_recognised() {
        let file = |at: usize, magic: &[u8]| {
            let mut file = vec![0; 0x9000];
            file[at..at + magic.len()].copy_from_slice(magic);
            file
        };
        let elf = |machine: u8| {
            let mut elf = file(0, b"\x7fELF\x02\x01");
            elf[18] = machine;
            elf
        };
        for (image, what) in [
            (elf(183), "an ELF file for ARM64;"),
            (elf(62), "a damaged ELF file"),
            (file(0x38, b"ARM\x64"), "an ARM64 kernel;"),
            (file(0x38, b"RSC\x05"), "a RISC-V kernel;"),
            (file(0, &[0x1f, 0x8b, 8]), "a gzip file; unpack"),
            (file(0, b"070701"), "--initrd"),
            (file(0x8001, b"CD001"), "a CD-ROM image"),
            (file(0x1fe, &[0x55, 0xaa]), "a boot sector"),
            (file(0, b"MZ"), "an EFI or Windows program"),
            (b"hello".to_vec(), "no kernel that could be booted"),
            (vec![], "is empty"),
        ] {
            let message = Kernel::parse("vmlinuz", &image).unwrap_err().to_string();
            assert!(message.contains(what), "{what}: {message}");
        }
    }

    #[test]
    fn nul_bytes_and_second_ram_disks_are_refused() {
        let machine = Machine::new(64 << 20);
        let image = crate::linux::tests::image();
        let error = machine.load("k", &image, &[], "a\0b").unwrap_err();
        assert!(matches!(error, BootError::NulInCommandLine));
        let disk = module("i", "i", b"070701");
        assert!(machine.load("k", &image, &[disk], "").is_ok());
        let error = machine.load("k", &image, &[disk, disk], "").unwrap_err();
        assert!(error.to_string().contains("takes one initial RAM disk"), "{error}");
    }
}
