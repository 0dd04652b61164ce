//! A kernel, a RAM disk and a command line: each is refused, or all of it fits into the guest's memory.
//! Input: three bytes say how long the RAM disk and the command line at its end are, and how much memory there is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use softmetal_firmware::linux::{Boot, BootError, BzImage, Initrd, load};
use softmetal_firmware::memory_map::MemoryMap;
use vm_memory::{GuestAddress, GuestMemoryMmap};

fuzz_target!(|bytes: &[u8]| {
    let [initrd_length, command_line_length, memory, rest @ ..] = bytes else { return };
    let (rest, command_line) = rest.split_at(rest.len().saturating_sub((*command_line_length).into()));
    let (kernel, initrd) = rest.split_at(rest.len().saturating_sub((*initrd_length).into()));
    let Ok(kernel) = BzImage::parse("kernel", kernel) else { return };
    let Ok(initrd) = Initrd::parse("initrd", initrd) else { return };
    let memory = (2 + u64::from(*memory)) << 20;
    let ram: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), memory as usize)]).unwrap();
    let boot = Boot {
        kernel: &kernel,
        initrd: Some(&initrd),
        command_line: &String::from_utf8_lossy(command_line),
        memory_map: &MemoryMap::pc(memory, &softmetal::memory_map::layout()),
        rsdp: 0xe_0000,
        rng_seed: None,
    };
    if let Err(error) = load(&boot, &ram) {
        assert!(!matches!(error, BootError::Memory(_)), "a plan that does not fit into memory: {error}");
    }
});
